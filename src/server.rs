//! The server: listen, accept, serve each client in a thread of its own, and count the outcomes. A client that is bad,
//! slow or gone never disturbs another.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, Scope};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use crate::admission::Admission;
use crate::endpoint::{Encryption, Endpoint, Listening};
use crate::file::snapshot::Snapshot;
use crate::file::source::{self, Source};
use crate::invitation::{self, Offer};
use crate::key::{Key, Role};
use crate::net::connection::Connection;
use crate::net::listen::{self, RETRY_INTERVAL};
use crate::net::tls::Identity;
use crate::net::unacked;
use crate::protocol::DEFAULT_FILE;
use crate::sender::{self, Outcome};
use crate::signals;
use crate::tally::Tally;
use crate::ui::console::{Console, Meter};

/// Bytes of address space for the stack of one client's thread; its buffer is not on it.
pub(crate) const STACK_SIZE: usize = 256 * 1024;

/// What to offer, where, and to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to send.
    pub offered: Offered,
    /// Who dials, and where.
    pub endpoint: Endpoint,
    /// Dialling: how long to keep trying, zero for one attempt. Listening: the longest time without the other side, zero
    /// for ever.
    pub wait: Duration,
    /// Clients to serve; `None` serves until interrupted.
    pub clients: Option<NonZeroU64>,
    /// Count only the clients that have stored the file.
    pub until_stored: bool,
    /// Bytes to read and send as one piece; not 0.
    pub chunk_size: usize,
    /// Longest time without progress; `None` waits forever.
    pub timeout: Option<Duration>,
    /// Whether only clients with a key are served.
    pub encryption: Encryption,
    /// Print the file's SHA-256 in the command for the other side.
    pub sha256: bool,
    /// Print every line as a JSON object.
    pub json: bool,
    /// Print results and errors only.
    pub quiet: bool,
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Offered {
    /// A file; `-` is standard input.
    File(PathBuf),
    /// What a program writes, run once for each client: its name and its arguments.
    Command(Vec<OsString>),
}

impl Options {
    fn has_one_client(&self) -> bool {
        self.clients == Some(NonZeroU64::MIN)
    }

    pub(crate) fn listening(&self) -> Result<&Listening> {
        match &self.endpoint {
            Endpoint::Listen(listening) => Ok(listening),
            Endpoint::Connect(_) => bail!("not yet"),
        }
    }
}

/// Offers the file until all clients have been served. Prints the outcome of each, and one line about what failed.
/// Returns the exit status: 0 if all clients confirmed; 1 if the file cannot be read, the port cannot be bound, or any
/// client failed; otherwise 3.
#[must_use]
pub fn serve(options: &Options) -> ExitCode {
    let console = Console::new("file-server", options.quiet);
    let status = match try_serve(options, &console) {
        Ok(tally) => tally.exit_status().into(),
        Err(error) => {
            console.error(&error);
            ExitCode::FAILURE
        }
    };
    console.close();
    status
}

fn try_serve(options: &Options, console: &Console) -> Result<Tally> {
    let Offered::File(file) = &options.offered else { bail!("not yet") };
    let listening = options.listening()?;
    let mut source = Source::open(file)?;
    if !source.is_repeatable() && (!options.has_one_client() || options.sha256) {
        bail!("{} is not a regular file, so it can be read only once", source.name());
    }
    let tally = Arc::new(Mutex::new(Tally::default()));
    install_signal_handlers(options, console, &tally)?;

    let sha256 = if options.sha256 { Some(compute_sha256(&mut source, console)?) } else { None };
    let new_key = if matches!(options.encryption, Encryption::NewKey) { Some(Key::random()?) } else { None };
    let given_key = if let Encryption::Key(key) = &options.encryption { Some(key) } else { None };
    let key = new_key.as_ref().or(given_key);
    let identity = key.map(|key| Identity::new(key, Role::Sender)).transpose()?;
    let listener = listen::listen(listening.bind, listening.port)?;
    let bound = listener.local_addr().context("could not listen")?;
    let name = source.suggested_name().filter(|_| file.as_os_str() != DEFAULT_FILE);
    let offer = Offer { name, size: source.snapshot()?.known_size(), sha256, is_encrypted: key.is_some(), new_key };
    if file.as_os_str() != "-" && source.is_fifo_without_writer() {
        console.info(&format!("{}: waiting for a program that writes to this FIFO", source.name()));
    }
    if file.as_os_str() == DEFAULT_FILE && source::standard_input_is_a_file() {
        console.info("standard input is not sent without --file -");
    }
    invitation::announce(console, bound, listening.port, &offer);

    if !options.has_one_client() || identity.is_some() {
        listen::raise_open_files_limit();
        unacked::prepare();
    }
    let admission = Admission::start(listener, identity, options, console)?;
    let server = Server { options, console, source: &source, tally: &tally };
    let accepted = thread::scope(|clients| server.accept_all(admission, clients));
    // All clients have been served: a signal comes too late from now on.
    signals::defer().complete();
    let tally = *lock(&tally);
    if !options.has_one_client() {
        console.info(&tally.summary());
    }
    accepted.map(|()| tally)
}

fn compute_sha256(source: &mut Source, console: &Console) -> Result<[u8; 32]> {
    let size = source.snapshot()?.known_size();
    let meter = console.meter(format!("SHA-256 of {}", source.name()), size);
    source.compute_sha256(|bytes| meter.add(bytes))
}

fn install_signal_handlers(options: &Options, console: &Console, tally: &Arc<Mutex<Tally>>) -> Result<()> {
    let (console, tally, has_one_client) = (console.clone(), Arc::clone(tally), options.has_one_client());
    let report_interrupt = move || report_interrupt(&console, *lock(&tally), has_one_client);
    let installed = signals::on_exit(report_interrupt).and_then(|()| signals::survive_size_limit());
    installed.context("could not install signal handlers")
}

/// Runs while a signal ends the program, with signals deferred: no client is counted any more.
fn report_interrupt(console: &Console, tally: Tally, has_one_client: bool) {
    console.clear_interrupt();
    if !has_one_client {
        console.info(&tally.summary());
    } else if tally.active > 0 {
        console.error(&Error::msg("interrupted before the client confirmed"));
    } else if tally == Tally::default() {
        console.error(&Error::msg("interrupted before a client connected"));
    }
    console.close();
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the client threads share.
struct Server<'a> {
    options: &'a Options,
    console: &'a Console,
    source: &'a Source,
    tally: &'a Mutex<Tally>,
}

impl Server<'_> {
    /// Admits all clients, and serves each in a thread of its own; the last one, after which the port is free again, in
    /// this one.
    fn accept_all<'scope>(&'scope self, admission: Admission<'_>, clients: &'scope Scope<'scope, '_>) -> Result<()> {
        let mut admitted = 0;
        loop {
            let (connection, peer) = admission.next()?;
            admitted += 1;
            lock(self.tally).active += 1;
            if self.options.clients == NonZeroU64::new(admitted) {
                drop(admission);
                self.serve_client(connection, peer);
                return Ok(());
            }
            self.start(connection, peer, clients);
        }
    }

    /// Serves the client in a thread of its own, as soon as one can be started.
    fn start<'scope>(
        &'scope self,
        connection: Result<Connection>,
        peer: SocketAddr,
        clients: &'scope Scope<'scope, '_>,
    ) {
        loop {
            // A thread that cannot be started drops what it was given, so it receives the connection once it runs.
            let (sender, receiver) = mpsc::sync_channel(1);
            let serve = move || {
                if let Ok(connection) = receiver.recv() {
                    // The scope would end the server over a panic in one of its threads.
                    let _ = panic::catch_unwind(AssertUnwindSafe(|| self.serve_client(connection, peer)));
                }
            };
            let thread = thread::Builder::new().name(peer.to_string()).stack_size(STACK_SIZE);
            if thread.spawn_scoped(clients, serve).is_ok() {
                let _ = sender.send(connection);
                return;
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }

    fn serve_client(&self, connection: Result<Connection>, peer: SocketAddr) {
        let label = if self.options.has_one_client() { self.source.name().to_owned() } else { peer.to_string() };
        let snapshot = self.source.snapshot();
        let size = snapshot.as_ref().ok().and_then(Snapshot::known_size);
        let meter = self.console.meter(label, size);
        let outcome = caught(|| sender::run(snapshot?, connection?, self.options.chunk_size, &meter));
        self.count(&outcome);
        self.report(peer, meter, outcome);
    }

    /// Before anything is reported, so that the tally never lags behind what was printed.
    fn count(&self, outcome: &Result<Outcome>) {
        let _deferred = signals::defer();
        lock(self.tally).count(outcome);
    }

    fn report(&self, peer: SocketAddr, meter: Meter, outcome: Result<Outcome>) {
        let Self { console, source, .. } = self;
        let bytes = meter.bytes();
        let sent = format!("{peer}: sent {bytes} bytes of {}", source.name());
        match outcome {
            Ok(Outcome::Confirmed(reply)) => {
                let summary = meter.summary();
                if self.options.has_one_client() {
                    meter.finish();
                } else {
                    drop(meter);
                    console.info(&format!("{sent}, confirmed: {summary}"));
                }
                console.result(&format!("Message from client: {reply}"));
            }
            Ok(Outcome::Unconfirmed { reply, reason }) => {
                drop(meter);
                if let Some(reply) = reply {
                    console.result(&format!("Message from client: {reply}"));
                }
                console.error(&Error::msg(format!("{sent}, not confirmed: {reason}")));
            }
            Err(error) => {
                drop(meter);
                console.error(&error.context(format!("{peer}: stopped after {bytes} bytes of {}", source.name())));
            }
        }
    }
}

/// A panic in one client's thread fails that client only.
fn caught<T>(serve: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(serve)).unwrap_or_else(|_| bail!("internal error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_one_client() {
        let nothing: [u8; 0] = [];
        let outcome = caught(|| Ok(nothing[nothing.len()..][..1][0]));
        assert!(outcome.is_err_and(|error| error.to_string() == "internal error"));
    }
}
