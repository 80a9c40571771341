//! What `file-server` does: opens the source, meets the clients, serves each in a thread of its own, and counts the
//! outcomes. A client that is bad, slow or gone never disturbs another.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow, bail};

use crate::admission::{self, Admission, Client, Proof};
use crate::endpoint::{Encryption, Endpoint, Listening, Meeting, Target};
use crate::file::snapshot::Snapshot;
use crate::file::source::{self, Source};
use crate::invitation::{Invitation, Offer};
use crate::key::Role;
use crate::net::connection::Connection;
use crate::protocol::DEFAULT_FILE;
use crate::sender::{self, Outcome};
use crate::signals::{self, STACK_SIZE};
use crate::tally::{Tally, Verdict};
use crate::ui::console::{Console, Style};
use crate::ui::event::{self, End, Served};

/// How long to wait before trying again when there is no thread.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// What to offer, where, and to whom.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
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
    /// Print the file's SHA-256; where it listens, in the command for the other side.
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
    /// Whether exactly one client is served, whatever its outcome.
    fn has_one_client(&self) -> bool {
        self.clients == Some(NonZeroU64::MIN) && !self.until_stored
    }
}

/// Offers the file until all clients have been served. Prints the outcome of each, and one line about what failed.
/// Returns the exit status: 0 if all clients confirmed; 1 if the file cannot be read, the port cannot be bound, or any
/// client failed; otherwise 3.
#[must_use]
pub fn serve(options: &Options) -> ExitCode {
    let Options { quiet, json, until_stored, .. } = *options;
    let console = Console::new(Style { program: "file-server", quiet, json, stdout_is_taken: false });
    let tally = Arc::default();
    let served = try_serve(options, &console, &tally);
    // A signal that came first ends the program here: the failure is its consequence.
    signals::defer().complete();
    let tally = *lock(&tally);
    let status = match served {
        Ok(()) if until_stored => 0,
        Ok(()) => tally.exit_status(),
        Err(error) => {
            console.error(&error);
            1
        }
    };
    let had_several_clients = !options.has_one_client() && tally != Tally::default();
    console.end(End { status, tally: Some(tally), had_several_clients });
    status.into()
}

fn try_serve(options: &Options, console: &Console, tally: &Arc<Mutex<Tally>>) -> Result<()> {
    install_signal_handlers(options, console, tally)?;
    let mut source = open_source(options)?;
    if !source.is_repeatable() && (!options.has_one_client() || options.sha256) {
        bail!("{} is not a regular file, so it can be read only once", source.name());
    }
    if source::standard_input_is_a_file()
        && matches!(&options.offered, Offered::File(file) if file.as_os_str() == DEFAULT_FILE)
    {
        console.note("standard input is not sent without --file -");
    }
    let sha256 = if options.sha256 { Some(compute_sha256(&mut source, console)?) } else { None };
    let meeting = Meeting {
        role: Role::Sender,
        wait: options.wait,
        timeout: options.timeout,
        encryption: &options.encryption,
        could_not: format!("could not send {}", source.name()),
        key: OnceLock::new(),
        resume: false,
        console,
    };
    let (counted, idle_since) = (Condvar::new(), Instant::now().into());
    let server = Server { options, console, source: &source, tally, counted, idle_since, meeting: &meeting };
    match &options.endpoint {
        Endpoint::Connect(target) => {
            if let Some(sha256) = sha256 {
                console.note(&format!("the SHA-256 of {} is {}", source.name(), hex::encode(sha256)));
            }
            let connection = meeting.dial(target)?;
            // Unknown once the client has reset the connection (getpeername(2)).
            let peer = connection.socket().peer().map_err(|_| not_served(target))?;
            lock(tally).active += 1;
            server.serve_client(Ok(connection), peer);
            Ok(())
        }
        Endpoint::Listen(listening) => server.listen(listening, sha256),
    }
}

fn not_served(target: &Target) -> Error {
    let name = target.name();
    anyhow!("{name} accepted the connection and ended it; perhaps it does not serve this address")
}

fn open_source(options: &Options) -> Result<Source> {
    match &options.offered {
        Offered::File(file) => Source::open(file),
        Offered::Command(words) => Source::command(words),
    }
}

fn compute_sha256(source: &mut Source, console: &Console) -> Result<[u8; 32]> {
    let size = source.known_size()?;
    let meter = console.meter(format!("SHA-256 of {}", source.name()), size);
    source.compute_sha256(|bytes| meter.add(bytes))
}

fn install_signal_handlers(options: &Options, console: &Console, tally: &Arc<Mutex<Tally>>) -> Result<()> {
    let (console, tally, has_one_client) = (console.clone(), Arc::clone(tally), options.has_one_client());
    let unmet = match options.endpoint {
        Endpoint::Connect(_) => "interrupted before the client was reached",
        Endpoint::Listen(_) => "interrupted before a client connected",
    };
    let report_interrupt = move |status| report_interrupt(&console, *lock(&tally), has_one_client, unmet, status);
    signals::install(report_interrupt)
}

/// Runs while a signal ends the program, with signals deferred: no further client is counted.
fn report_interrupt(console: &Console, tally: Tally, has_one_client: bool, unmet: &'static str, status: u8) {
    console.clear_interrupt();
    if has_one_client && tally.active > 0 {
        console.error(&Error::msg("interrupted before the client confirmed"));
    } else if has_one_client && tally == Tally::default() {
        console.error(&Error::msg(unmet));
    } else if has_one_client && tally.counted() == 0 {
        console.error(&Error::msg("interrupted before the client came back"));
    }
    console.end(End { status, tally: Some(tally), had_several_clients: !has_one_client });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the client threads share.
struct Server<'a> {
    options: &'a Options,
    console: &'a Console,
    source: &'a Source,
    tally: &'a Mutex<Tally>,
    /// Notified when a client has been served.
    counted: Condvar,
    /// When a client was served last.
    idle_since: Mutex<Instant>,
    meeting: &'a Meeting<'a>,
}

impl Server<'_> {
    fn listen(&self, listening: &Listening, sha256: Option<[u8; 32]>) -> Result<()> {
        let offer = match &self.options.offered {
            Offered::File(file) => Offer::File(file),
            Offered::Command(_) => Offer::Output,
        };
        let size = self.source.known_size()?;
        let invitation = Invitation { offer, size, sha256, is_encrypted: false, new_key: None };
        if self.source.is_fifo_without_writer() {
            self.console.note(&format!("{}: waiting for a program that writes to this FIFO", self.source.name()));
        }
        let admission = self.meeting.listen(listening, Proof::None, invitation)?;
        thread::scope(|clients| self.serve_all(admission, clients))
    }

    /// Admits the clients, and serves each in a thread of its own; the last one in the calling thread. The port is free
    /// as soon as no further client can come or come back.
    fn serve_all<'scope>(&'scope self, mut admission: Admission, clients: &'scope Scope<'scope, '_>) -> Result<()> {
        // The key may have been typed meanwhile.
        *lock(&self.idle_since) = Instant::now();
        let stop = admission.stopper();
        let mut may_come_back = false;
        while self.wait_for_place() {
            let Some(client) = admission.next(self.deadline())? else {
                if self.is_done() {
                    return Ok(());
                }
                if self.deadline().is_some_and(|deadline| deadline > Instant::now()) {
                    continue;
                }
                let no_client = match *lock(self.tally) {
                    tally if tally == Tally::default() => "no client connected",
                    tally if tally.counted() == 0 => "no client came back",
                    _ => "no other client connected",
                };
                bail!("{no_client} within {}", humantime::format_duration(self.options.wait));
            };
            may_come_back |= self.may_come_back(&client.connection);
            lock(self.tally).active += 1;
            if !self.has_place() && !may_come_back {
                drop(admission);
                self.serve_client(client.connection, client.peer);
                return Ok(());
            }
            if self.options.has_one_client() {
                self.serve_client(client.connection, client.peer);
                continue;
            }
            let stop = stop.clone();
            self.start(client, clients, move || {
                if self.is_done() {
                    stop();
                }
            });
        }
        Ok(())
    }

    /// The deadline for the next client, counted from when the last one was served.
    fn deadline(&self) -> Option<Instant> {
        let is_idle = lock(self.tally).active == 0;
        self.meeting.deadline(if is_idle { *lock(&self.idle_since) } else { Instant::now() })
    }

    /// How many clients are served, whatever their outcome.
    fn limit(&self) -> u64 {
        let Options { clients, until_stored, .. } = self.options;
        clients.filter(|_| !until_stored).map_or(u64::MAX, NonZeroU64::get)
    }

    /// Whether there is a place for another client.
    fn has_place(&self) -> bool {
        let tally = lock(self.tally);
        tally.active + tally.counted() < self.limit()
    }

    /// Waits while the clients that are there may be the last ones: one that breaks off is not counted. Returns false once
    /// all are counted.
    fn wait_for_place(&self) -> bool {
        let limit = self.limit();
        let is_full = |tally: &mut Tally| tally.counted() < limit && tally.active + tally.counted() >= limit;
        let tally = self.counted.wait_while(lock(self.tally), is_full).unwrap_or_else(PoisonError::into_inner);
        tally.counted() < limit
    }

    /// Whether as many clients as wanted have stored the file, where only those count.
    fn is_done(&self) -> bool {
        let Options { clients, until_stored, .. } = self.options;
        *until_stored && clients.is_some_and(|clients| lock(self.tally).confirmed >= clients.get())
    }

    /// Whether this client may break off and go on later. A source that can be read only once cannot be sent from the
    /// start again.
    fn may_come_back(&self, connection: &Result<Connection>) -> bool {
        let listens = matches!(self.options.endpoint, Endpoint::Listen(_));
        listens && self.source.is_repeatable() && connection.as_ref().is_ok_and(Connection::can_resume)
    }

    /// Serves the client in a thread of its own, as soon as one can be started.
    fn start<'scope>(
        &'scope self,
        client: Client,
        clients: &'scope Scope<'scope, '_>,
        when_served: impl Fn() + Clone + Send + 'scope,
    ) {
        loop {
            let (sender, receiver) = admission::handover::<Client>();
            let when_served = when_served.clone();
            let serve = move || {
                if let Ok(client) = receiver.recv() {
                    let Client { connection, peer, .. } = client;
                    // The scope would end the server over a panic in one of its threads.
                    let _ = panic::catch_unwind(AssertUnwindSafe(|| self.serve_client(connection, peer)));
                    when_served();
                }
            };
            let thread = thread::Builder::new().name(client.peer.to_string()).stack_size(STACK_SIZE);
            if thread.spawn_scoped(clients, serve).is_ok() {
                let _ = sender.send(client);
                return;
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }

    fn serve_client(&self, connection: Result<Connection>, peer: SocketAddr) {
        let is_one_of_several = !self.options.has_one_client();
        let label = if is_one_of_several { peer.to_string() } else { self.source.name().to_owned() };
        let snapshot = self.source.snapshot();
        let total = snapshot.as_ref().ok().and_then(Snapshot::known_size);
        let meter = self.console.meter(label.clone(), total);
        let Options { chunk_size, timeout, ref endpoint, ref encryption, .. } = *self.options;
        let has_dialled = matches!(endpoint, Endpoint::Connect(_));
        let has_key = !matches!(encryption, Encryption::Off);
        let may_come_back = self.may_come_back(&connection);
        let checking = |bytes| self.console.meter(format!("{label}: checking what is there"), Some(bytes));
        let outcome = caught(|| sender::run(snapshot?, connection?, chunk_size, timeout, &meter, checking));
        let verdict = match &outcome {
            Ok(Outcome::Unconfirmed { is_break: true, .. }) if may_come_back => None,
            Err(error) if may_come_back && event::is_break(error) => None,
            Ok(Outcome::Confirmed(_)) => Some(Verdict::Confirmed),
            Ok(Outcome::Unconfirmed { .. }) => Some(Verdict::Unconfirmed),
            Err(_) => Some(Verdict::Failed),
        };
        // An interrupt finds the client either counted and reported, or neither.
        let _deferred = signals::defer();
        self.count(verdict);
        let (name, sent) = (self.source.name(), meter.finish());
        let served = Served { peer, name, total, sent, is_one_of_several, has_dialled, has_key };
        self.console.emit(&match outcome {
            _ if verdict.is_none() => served.broken(),
            Ok(Outcome::Confirmed(reply)) => served.confirmed(reply.to_string()),
            Ok(Outcome::Unconfirmed { reply, reason, .. }) => {
                served.unconfirmed(reply.map(|reply| reply.to_string()), &reason)
            }
            Err(error) => served.failed(&error),
        });
    }

    /// Called before anything is reported, so that the tally never lags behind what was printed.
    fn count(&self, verdict: Option<Verdict>) {
        *lock(&self.idle_since) = Instant::now();
        lock(self.tally).count(verdict);
        self.counted.notify_all();
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
