//! Fetches one file from a TCP port: arguments, transfer, exit status.

use std::process::ExitCode;

use half_close::{cli, client};

fn main() -> ExitCode {
    cli::client_options().map_or_else(ExitCode::from, |options| client::fetch(&options))
}
