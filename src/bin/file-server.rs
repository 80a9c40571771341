//! Offers one file on a TCP port: arguments, service, exit status.

use std::env;
use std::process::ExitCode;

use half_close::cli::{self, ServerArguments};
use half_close::console::Console;
use half_close::server;

fn main() -> ExitCode {
    let arguments: ServerArguments = match cli::parse(env::args_os()) {
        Ok(arguments) => arguments,
        Err(status) => return status.into(),
    };
    let console = Console::new("file-server", arguments.quiet);
    match server::serve(arguments, console.clone()) {
        Ok(tally) => tally.exit_status().into(),
        Err(error) => {
            console.error(&error);
            ExitCode::FAILURE
        }
    }
}
