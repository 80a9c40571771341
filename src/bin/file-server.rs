//! Offers one file on a TCP port: arguments, service, exit status.

use std::process::ExitCode;

use half_close::{cli, server};

fn main() -> ExitCode {
    cli::server_options().map_or_else(ExitCode::from, |options| server::serve(&options))
}
