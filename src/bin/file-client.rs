//! Fetches one file from a TCP port: arguments, transfer, exit status.

use std::env;
use std::process::ExitCode;

use anyhow::{Context as _, Error, Result};
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
    let last_word = move || {
        screen.clear();
        screen.error(&Error::msg("interrupted before the file was stored"));
    };
    interrupt::on_interrupt(destination::discard, last_word).context("could not catch signals")?;
    interrupt::survive_size_limit().context("could not catch signals")?;
    receive::fetch(arguments, console)
}
