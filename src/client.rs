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
use crate::file::destination::{Destination, Settings};
use crate::key::{Key, Role};
use crate::net::connection::Connection;
use crate::net::dial::{self, Delay};
use crate::net::tls::Identity;
use crate::protocol::THANK_YOU;
use crate::signals;
use crate::text;
use crate::transfer::receive::{self, Expected};
use crate::ui::console::Console;

/// What to fetch, and where to store it.
#[derive(Clone, Debug)]
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
    let console = Console::new("file-client", options.quiet);
    let status = match install_signal_handlers(&console).and_then(|()| try_fetch(options, &console)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.error(&error);
            ExitCode::FAILURE
        }
    };
    console.close();
    status
}

fn install_signal_handlers(console: &Console) -> Result<()> {
    let screen = console.clone();
    let report_interrupt = move || {
        screen.clear_interrupt();
        screen.error(&Error::msg("interrupted before the file was stored"));
        screen.close();
    };
    let installed = signals::on_exit(report_interrupt).and_then(|()| signals::survive_size_limit());
    installed.context("could not install signal handlers")
}

fn try_fetch(options: &Options, console: &Console) -> Result<()> {
    // Before connecting, so that a destination that cannot be written does not use up the waiting server.
    let Output::File(output) = &options.output else { bail!("not yet") };
    let report = |line: &str| console.info(line);
    let settings = Settings {
        keep_existing: options.no_clobber,
        durable: !options.no_sync,
        size: options.size,
        timeout: options.timeout,
    };
    let mut destination = Destination::open(output, settings, report)?;
    if destination.is_terminal() {
        console.hide_progress();
    }
    let mut connection = connect(options, console, &destination)?;

    let meter = console.meter(destination.name().to_owned(), options.size);
    let expected = Expected { size: options.size, sha256: options.sha256 };
    let bytes = receive::receive(&mut connection, &mut destination, expected, |bytes| meter.add(bytes))
        .map_err(|error| if meter.bytes() == 0 { explain_silence(error, options) } else { error })?;
    if bytes == 0 && !expected.is_known() && options.key().is_none() {
        ensure_nothing_is_lost(&destination)?;
    }
    meter.phase("waiting for the disk");
    destination.sync()?;

    // From here on only this process can know whether the file is stored. A kill in between ends in FIN without thanks,
    // "sent, not confirmed", and a signal waits.
    let deferred = signals::defer();
    connection.finish_on_drop()?;
    if let Err(error) = destination.publish() {
        let _ = connection.reset_on_drop();
        return Err(error);
    }
    let thanked = send_thanks(&mut connection);
    deferred.complete();

    meter.finish();
    if let Err(error) = thanked {
        let reason = text::reason(&error);
        console.warn(&format!("{} is stored, but the server could not be told: {reason}", destination.name()));
    }
    report_received(console, &destination, bytes);
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

/// An empty file may come from a relay or a published port whose server is not there.
fn ensure_nothing_is_lost(destination: &Destination) -> Result<()> {
    if destination.would_discard_bytes() {
        bail!(
            "could not store {}: nothing arrived, so the server may be waiting for --key; to replace it with an empty \
             file, give --size 0",
            destination.name()
        );
    }
    Ok(())
}

fn send_thanks(connection: &mut Connection) -> io::Result<()> {
    connection.write_last(THANK_YOU)?;
    // A server that closed the connection after the file answers with RST, which may have come already.
    connection.check()
}

fn report_received(console: &Console, destination: &Destination, bytes: u64) {
    let line = format!("Received file data: {bytes} bytes in {}", destination.name());
    if destination.is_standard_output() {
        console.info(&line);
    } else {
        console.result(&line);
    }
}
