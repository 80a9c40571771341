//! The client's side of one transfer, in order. Until the file may be stored, every way out of here ends the connection
//! with RST, which tells the server that it is not.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use crate::endpoint::{Encryption, Endpoint, Target};
use crate::file::destination::Destination;
use crate::key::{Key, Role};
use crate::net::connection::Connection;
use crate::net::dial::{self, Delay};
use crate::net::tls::Identity;
use crate::receiver::{self, Stored};
use crate::signals;
use crate::text;
use crate::transfer::receive::Expected;
use crate::ui::console::{Console, Style};
use crate::ui::event::{self, End, Event};

/// What to fetch, and where to store it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Options {
    /// Where the bytes go.
    pub output: Output,
    /// Who dials, and where.
    pub endpoint: Endpoint,
    /// Dialling: how long to keep trying, zero for one attempt. Listening: the longest time without the other side, zero
    /// for ever.
    pub wait: Duration,
    /// Longest time without progress; `None` waits forever.
    pub timeout: Option<Duration>,
    /// Whether the file is taken only from a server with a key.
    pub encryption: Encryption,
    /// Expected size in bytes.
    pub size: Option<u64>,
    /// Expected SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// Fail rather than replace an existing file.
    pub no_clobber: bool,
    /// Reply before the file is synced to disk.
    pub no_sync: bool,
    /// Keep what has arrived when the connection breaks, and go on from there; only with a key.
    pub resume: bool,
    /// Print every line as a JSON object.
    pub json: bool,
    /// Print results and errors only.
    pub quiet: bool,
}

/// Where the bytes go.
#[derive(Clone, Debug)]
pub enum Output {
    /// A file; `-` is standard output.
    File(PathBuf),
    /// The standard input of a program: its name and its arguments.
    Command(Vec<OsString>),
}

impl Options {
    fn key(&self) -> Option<&Key> {
        if let Encryption::Key(key) = &self.encryption { Some(key) } else { None }
    }

    fn target(&self) -> Result<&Target> {
        match &self.endpoint {
            Endpoint::Connect(target) => Ok(target),
            Endpoint::Listen(_) => bail!("not yet"),
        }
    }
}

/// Fetches one file from a server and stores it. Prints the result, or one line about what failed. Returns the exit
/// status: 0 if the file is stored; if not, 1, and an existing file is unchanged.
#[must_use]
pub fn fetch(options: &Options) -> ExitCode {
    let Options { quiet, json, .. } = *options;
    let stdout_is_taken = match &options.output {
        Output::File(path) => path.as_os_str() == "-",
        Output::Command(_) => true,
    };
    let console = Console::new(Style { program: "file-client", quiet, json, stdout_is_taken });
    let status = match install_signal_handlers(&console).and_then(|()| try_fetch(options, &console)) {
        Ok(()) => 0,
        Err(error) => {
            // A signal that came first ends the program here: what failed is its consequence.
            signals::defer().complete();
            console.error(&error);
            1
        }
    };
    console.end(End { status, tally: None, had_several_clients: false });
    status.into()
}

fn install_signal_handlers(console: &Console) -> Result<()> {
    let screen = console.clone();
    let report_interrupt = move |status| {
        screen.clear_interrupt();
        screen.error(&Error::msg("interrupted before the file was stored"));
        screen.end(End { status, tally: None, had_several_clients: false });
    };
    let installed = signals::install(report_interrupt).and_then(|()| signals::survive_size_limit());
    installed.context("could not install signal handlers")
}

fn try_fetch(options: &Options, console: &Console) -> Result<()> {
    // Before connecting, so that a destination that cannot be written does not use up the waiting server.
    let Output::File(output) = &options.output else { bail!("not yet") };
    let report = |line: &str| console.info(line);
    let mut destination = Destination::open(output, options.no_clobber, !options.no_sync, options.size, report)?;
    if destination.is_terminal() {
        console.hide_progress();
    }
    let connection = connect(options, console, &destination)?;

    let meter = console.meter(destination.name().to_owned(), options.size);
    let expected = Expected { size: options.size, sha256: options.sha256 };
    let Stored { bytes, told } = receiver::run(connection, &mut destination, expected, &meter)
        .map_err(|error| if meter.bytes() == 0 { explain_silence(error, options) } else { error })?;
    let (_, took) = meter.finish();
    if let Err(error) = &told {
        let reason = text::reason(error);
        console.warn(&format!("{} is stored, but the server could not be told: {reason}", destination.name()));
    }
    console.emit(&Event::Stored(event::Stored {
        name: destination.name().to_owned(),
        path: Some(output.clone()),
        bytes,
        took,
        durable: !options.no_sync,
        told: told.is_ok(),
        replaced: false,
    }));
    Ok(())
}

/// Connects, and does the handshake if there is a key.
fn connect(options: &Options, console: &Console, destination: &Destination) -> Result<Connection> {
    let identity = options.key().map(|key| Identity::new(key, Role::Receiver)).transpose()?;
    let mut connection = Connection::new(connect_to_server(options, console)?, options.timeout)?;
    if let Some(identity) = identity {
        connection.encrypt(&identity).with_context(|| format!("could not receive {}", destination.name()))?;
    }
    Ok(connection)
}

fn connect_to_server(options: &Options, console: &Console) -> Result<TcpStream> {
    let target = options.target()?;
    dial::connect(target, options.wait, options.timeout, |delay| match delay {
        // On a terminal, for a script would take it for a complaint.
        Delay::Slow if io::stderr().is_terminal() => console.info(&format!("connecting to {} ...", target.name())),
        Delay::Slow => {}
        Delay::Retrying(reason) => console.info(&format!("waiting for {}: {reason}", target.name())),
    })
}

/// What may be the reason that not a byte arrived: a server that waits for a handshake is silent and then resets, and one
/// that does not serve this address resets at once.
fn explain_silence(error: Error, options: &Options) -> Error {
    let kind = error.chain().find_map(|cause| cause.downcast_ref()).map(io::Error::kind);
    let hint = match kind {
        Some(io::ErrorKind::TimedOut) if options.key().is_none() => "the server may be waiting for --key",
        Some(io::ErrorKind::ConnectionReset) if options.key().is_none() => {
            "the server may be waiting for --key, or not serve this address"
        }
        _ => return error,
    };
    Error::msg(format!("{}; {hint}", text::one_line(&error)))
}
