//! The server: accept, a thread a client, the tally. One client that is bad, slow or gone never disturbs another.

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use crate::announce::{self, Offer};
use crate::cli::ServerArguments;
use crate::console::{Console, Meter};
use crate::send::{self, Delivery};
use crate::source::{Snapshot, Source};
use crate::{interrupt, platform, socket};

/// Refused clients that nobody has been told of yet.
const MAX_UNTOLD: usize = 1000;

/// How often to try again to accept a client for whom the whole system has no room.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// How the clients fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Clients that have stored the file.
    pub confirmed: u64,
    /// Clients that were sent all of it and did not say so.
    pub unconfirmed: u64,
    /// Clients that did not get all of it, or could not store it.
    pub failed: u64,
}

impl Tally {
    /// 0 if all confirmed; 1 if any failed; else 3.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self { failed: 1.., .. } => 1,
            Self { unconfirmed: 1.., .. } => 3,
            _ => 0,
        }
    }
}

/// Offers the file until all clients have been served; tells on the console how each of them fared.
///
/// # Errors
/// The file can't be read, the port can't be listened on, or no more clients can be accepted.
pub fn serve(arguments: ServerArguments, console: Console) -> Result<Tally> {
    let mut source = Source::open(&arguments.file)?;
    if !source.is_repeatable() && (arguments.clients() != Some(1) || arguments.sha256) {
        bail!("{} is no regular file, so it can be read only once", source.name());
    }
    let service = Arc::new(OnceLock::<Arc<Service>>::new());
    let (interrupted, screen) = (Arc::clone(&service), console.clone());
    let last_word = move || interrupted.get().map_or_else(|| screen.clear(), |service| service.break_off());
    interrupt::on_interrupt(|| false, last_word).context("could not catch signals")?;

    let sha256 = if arguments.sha256 { Some(take_digest(&mut source, &console)?) } else { None };
    let listener = socket::listen(arguments.bind, arguments.port)?;
    let bound = listener.local_addr().context("could not listen")?;
    let service = service.get_or_init(|| Service::new(arguments, console, source));
    let Service { console, source, arguments, .. } = &**service;
    let offer = Offer { file: &arguments.file, size: source.snapshot()?.known_size(), sha256 };
    announce::announce(console, bound, arguments.port, &offer);
    let accepted = service.accept_all(listener);
    let tally = service.wait_for_all();
    service.console.clear();
    service.last_word(&service.state());
    accepted.map(|()| tally)
}

fn take_digest(source: &mut Source, console: &Console) -> Result<[u8; 32]> {
    let size = source.snapshot()?.known_size();
    let meter = console.meter(format!("SHA-256 of {}", source.name()), size);
    source.pin_sha256(|bytes| meter.add(bytes))
}

/// What all threads share.
struct Service {
    arguments: ServerArguments,
    console: Console,
    source: Source,
    state: Mutex<State>,
    one_left: Condvar,
}

#[derive(Default)]
struct State {
    active: u64,
    begun: u64,
    left: u64,
    tally: Tally,
}

impl State {
    /// Clients of whom nobody knows yet how they fare.
    fn interrupted(&self) -> u64 {
        self.begun - self.tally.confirmed - self.tally.unconfirmed - self.tally.failed
    }
}

impl Service {
    fn new(arguments: ServerArguments, console: Console, source: Source) -> Arc<Self> {
        Arc::new(Self { arguments, console, source, state: Mutex::default(), one_left: Condvar::new() })
    }

    /// Accepts as many clients as there are to be, then no more: the listener is gone when this returns.
    fn accept_all(self: &Arc<Self>, listener: TcpListener) -> Result<()> {
        if self.several() {
            platform::raise_open_files_limit();
        }
        let (refused, refusals) = mpsc::sync_channel(MAX_UNTOLD);
        let teller = (!self.arguments.allow.is_empty()).then(|| self.tell_of_refusals(refusals));
        let teller = teller.transpose().context("could not start a thread")?;
        let mut accepted = 0;
        while self.arguments.clients().is_none_or(|clients| accepted < clients) {
            let (stream, peer) = self.accept(&listener).context("could not accept a client")?;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            if self.may_fetch(peer) {
                accepted += 1;
                self.start(&Arc::new(stream), peer)?;
            } else {
                // Dropping it resets it, as the listener says.
                drop(stream);
                // Whoever comes faster than people read is not told of.
                let _ = refused.try_send(peer);
            }
        }
        drop((listener, refused));
        let _ = teller.map(JoinHandle::join);
        Ok(())
    }

    /// In a thread of its own, so that strangers keep nobody waiting when standard error is not read.
    fn tell_of_refusals(&self, refusals: Receiver<SocketAddr>) -> io::Result<JoinHandle<()>> {
        let console = self.console.clone();
        let tell = move || refusals.iter().for_each(|peer| console.note(&format!("{peer}: refused, not in --allow")));
        thread::Builder::new().name("refusals".to_owned()).spawn(tell)
    }

    fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let left = self.state().left;
            match listener.accept() {
                // The client was gone before it was accepted.
                Err(error) if platform::is_peer_s_fault(&error) => {}
                Err(error) if platform::is_exhausted(&error) && self.wait_for_one_more_than(left) => {}
                // Others have it, and will give it back.
                Err(error) if platform::is_system_exhausted(&error) => thread::sleep(RETRY_EVERY),
                accepted => return accepted,
            }
        }
    }

    fn may_fetch(&self, peer: SocketAddr) -> bool {
        let allow = &self.arguments.allow;
        allow.is_empty() || allow.iter().any(|network| network.contains(&peer.ip()))
    }

    /// Serves the client in a thread of its own, as soon as there can be one more.
    fn start(self: &Arc<Self>, stream: &Arc<TcpStream>, peer: SocketAddr) -> Result<()> {
        loop {
            let left = self.state().left;
            let (stream, visit) = (Arc::clone(stream), Visit::begin(self));
            match thread::Builder::new().name(peer.to_string()).spawn(move || visit.serve(stream, peer)) {
                Ok(_) => return Ok(()),
                Err(_) if self.wait_for_one_more_than(left) => {}
                Err(error) => return Err(error).context("could not start a thread"),
            }
        }
    }

    fn several(&self) -> bool {
        self.arguments.clients() != Some(1)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more clients than that have left; false if there is nobody who could leave.
    fn wait_for_one_more_than(&self, left: u64) -> bool {
        let wait = self.one_left.wait_while(self.state(), |state| state.left == left && state.active > 0);
        wait.unwrap_or_else(PoisonError::into_inner).left > left
    }

    fn wait_for_all(&self) -> Tally {
        let wait = self.one_left.wait_while(self.state(), |state| state.active > 0);
        wait.unwrap_or_else(PoisonError::into_inner).tally
    }

    /// How the clients fared, when there were several.
    fn last_word(&self, state: &State) {
        let State { begun, tally: Tally { confirmed, unconfirmed, failed }, .. } = state;
        let interrupted = match state.interrupted() {
            0 => String::new(),
            interrupted => format!(", {interrupted} interrupted"),
        };
        if self.several() {
            self.console.note(&format!(
                "clients: {begun}, {confirmed} confirmed, {unconfirmed} not confirmed, {failed} failed{interrupted}"
            ));
        }
    }

    /// The last word before a signal ends the program. Nobody confirms from then on, so that it stays true.
    fn break_off(&self) {
        self.console.clear();
        let state = self.state();
        self.last_word(&state);
        let before = match (self.several(), state.begun, state.interrupted()) {
            (false, 0, _) => Some("a client came"),
            (false, _, 1..) => Some("the client confirmed"),
            _ => None,
        };
        if let Some(before) = before {
            self.console.error(&Error::msg(format!("interrupted before {before}")));
        }
        mem::forget(state);
    }
}

/// One client, who counts as active, and as failed unless it was counted as anything else.
struct Visit {
    service: Arc<Service>,
    stage: Stage,
}

enum Stage {
    NotStarted,
    Begun,
    Counted,
}

impl Visit {
    fn begin(service: &Arc<Service>) -> Self {
        service.state().active += 1;
        Self { service: Arc::clone(service), stage: Stage::NotStarted }
    }

    /// The connection is closed before the client counts as gone, so that whoever waits for that can have another.
    fn serve(mut self, stream: Arc<TcpStream>, peer: SocketAddr) {
        self.stage = Stage::Begun;
        let service = Arc::clone(&self.service);
        service.state().begun += 1;
        let label = if service.several() { peer.to_string() } else { service.source.name().to_owned() };
        let snapshot = service.source.snapshot();
        let size = snapshot.as_ref().ok().and_then(Snapshot::known_size);
        let meter = service.console.meter(label, size);
        let delivery = snapshot.and_then(|snapshot| send::send(&snapshot, &stream, service.arguments.method(), &meter));
        self.tell(peer, meter, delivery);
        drop(stream);
    }

    fn tell(&mut self, peer: SocketAddr, meter: Meter, delivery: Result<Delivery>) {
        let service = Arc::clone(&self.service);
        let Service { console, source, .. } = &*service;
        let bytes = meter.bytes();
        let sent = format!("{peer}: sent {bytes} bytes of {}", source.name());
        match delivery {
            Ok(Delivery::Confirmed(reply)) => {
                self.count(|tally| tally.confirmed += 1);
                let summary = meter.summary();
                if service.several() {
                    drop(meter);
                    console.note(&format!("{sent}, confirmed: {summary}"));
                } else {
                    meter.finish();
                }
                console.result(&format!("Message from client: {reply}"));
            }
            Ok(Delivery::Unconfirmed { reply, why }) => {
                self.count(|tally| tally.unconfirmed += 1);
                drop(meter);
                if let Some(reply) = reply {
                    console.result(&format!("Message from client: {reply}"));
                }
                console.error(&Error::msg(format!("{sent}, not confirmed: {why}")));
            }
            Err(error) => {
                self.count(|tally| tally.failed += 1);
                drop(meter);
                console.error(&error.context(format!("{peer}: stopped after {bytes} bytes of {}", source.name())));
            }
        }
    }

    /// Before anything is said of the client, so that the tally never knows less than a person.
    fn count(&mut self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.service.state().tally);
        self.stage = Stage::Counted;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Stage::Begun = self.stage {
            self.count(|tally| tally.failed += 1);
        }
        let mut state = self.service.state();
        state.active -= 1;
        state.left += u64::from(!matches!(self.stage, Stage::NotStarted));
        drop(state);
        self.service.one_left.notify_all();
    }
}
