//! Fetches one file from a TCP port: arguments, transfer, exit status.

use std::env;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use half_close::cli::{self, ClientArguments};
use half_close::console::Console;
use half_close::{destination, interrupt, receive};

fn main() -> ExitCode {
    let arguments: ClientArguments = match cli::parse(env::args_os()) {
        Ok(arguments) => arguments,
        Err(status) => return status.into(),
    };
    let console = Console::new("file-client", arguments.quiet);
    match run(&arguments, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &ClientArguments, console: &Console) -> Result<()> {
    let screen = console.clone();
    let clean_up = move || {
        destination::discard();
        screen.clear();
    };
    interrupt::on_interrupt(clean_up).context("could not catch signals")?;
    interrupt::survive_size_limit().context("could not catch signals")?;
    receive::fetch(arguments, console)
}
