//! From accepted connections to those that may take part. A connection is pending until it has shown what this side asks
//! for: nothing, a byte, or in the handshake that it has the key. One that does not is reported and never counts, and
//! whatever ends it resets it: FIN would tell a plain receiver that it has a whole, empty file.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::SockRef;

use crate::endpoint::Listening;
use crate::net::connection::Connection;
use crate::net::listen;
use crate::net::tls::Identity;
use crate::text;
use crate::ui::console::Console;
use imp::Waker;

/// Clients at once, if this process may open as many files; more wait until the kernel's queue is full.
const CLIENTS: usize = 2000;

/// Connections that are pending at once.
const PENDING: usize = 512;

/// While as many are pending as can be, the oldest is ended for the next one, but on average not faster than this. A peer
/// that can take part has some time to show it, however many others come: at best half a second.
const ENDED_EVERY: Duration = Duration::from_millis(1);

/// How far that average may lag behind on a busy machine.
const ENDED_LATE: Duration = Duration::from_millis(20);

/// The longest handshake, whatever the timeout.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long to leave waiting connections alone when accept(2) fails, or when there is no thread for a handshake.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of address space for the stack of one connection's thread; its buffers are not on it.
pub(crate) const STACK_SIZE: usize = 256 * 1024;

/// Bytes of address space that must be left for more threads than there were before, where it is limited. For the small
/// allocations of a new thread glibc maps 128 MiB at once (the arenas of malloc(3)), and where one of them finds nothing
/// Rust aborts.
#[cfg(target_os = "linux")]
const ROOM: u64 = 192 * 1024 * 1024;

/// Which connections may take part.
pub(crate) struct Policy {
    pub(crate) allow: Listening,
    /// Of the connections; bounds also how long one is pending. `None` waits forever, but for handshakes.
    pub(crate) timeout: Option<Duration>,
    pub(crate) proof: Proof,
}

/// What a connection has to show before it counts.
pub(crate) enum Proof {
    /// Nothing: whoever is allowed is a client.
    None,
    /// A byte.
    FirstByte,
    /// That it has the key.
    Handshake(Identity),
}

/// A connection that may take part.
pub(crate) struct Client {
    /// It may have failed already.
    pub(crate) connection: Result<Connection>,
    pub(crate) peer: SocketAddr,
    /// To be dropped after the connection.
    _slot: Slot,
}

/// A place among the clients that are there at once.
struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

/// Ends an admission from another thread.
#[derive(Clone)]
pub(crate) struct Stopper(Arc<Shared>);

impl Stopper {
    /// Ends a [`Admission::next`] that waits, and every later one.
    pub(crate) fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

struct Shared {
    waker: Waker,
    is_stopped: AtomicBool,
    clients: AtomicUsize,
}

/// Admits clients until it is dropped; the port is free again then. All of it happens inside [`Self::next`], but for the
/// handshakes, each of which has a thread.
pub(crate) struct Admission {
    listener: TcpListener,
    policy: Policy,
    log: Log,
    shared: Arc<Shared>,
    max_clients: usize,
    max_pending: usize,
    /// In the order in which they came.
    pending: Vec<Pending>,
    next_id: u64,
    handshakes: (Sender<Handshake>, Receiver<Handshake>),
    /// Until then waiting connections are left alone.
    paused_until: Instant,
    /// The most threads that there were at once, of clients and handshakes.
    most_threads: usize,
}

/// A connection that has not shown yet that it may take part.
struct Pending {
    id: u64,
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    since: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has arrived.
    Silent,
    /// A thread does the handshake.
    InHandshake,
    /// The thread has been told to give up.
    Ended,
}

/// What came of the handshake of the pending connection with this id.
struct Handshake {
    id: u64,
    result: Result<Connection>,
}

impl Admission {
    /// # Errors
    /// Returns an error if there are no descriptors for it.
    pub(crate) fn start(listener: TcpListener, policy: Policy, console: &Console) -> Result<Self> {
        // A part of them is left for everything else.
        let connections = listen::raise_open_files_limit() / 4 * 3;
        let max_pending = if matches!(policy.proof, Proof::None) { 0 } else { PENDING.min(connections / 2) };
        let waker = Waker::new().context("could not accept connections")?;
        Ok(Self {
            listener,
            policy,
            log: Log { console: console.clone(), lines: 0, unsaid: 0, since: Instant::now() },
            shared: Arc::new(Shared { waker, is_stopped: AtomicBool::default(), clients: AtomicUsize::default() }),
            max_clients: CLIENTS.min(connections - max_pending).max(1),
            max_pending,
            pending: Vec::new(),
            next_id: 0,
            handshakes: mpsc::channel(),
            paused_until: Instant::now(),
            most_threads: 1,
        })
    }

    /// What ends this one from another thread.
    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Waits for the next client, until the deadline if there is one. `None` if none came in time, or if this was stopped.
    ///
    /// # Errors
    /// Returns an error if the listener itself fails.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Client>> {
        loop {
            if self.shared.is_stopped.load(Ordering::SeqCst) {
                return Ok(None);
            }
            if let Some(client) = self.take_admitted() {
                return Ok(Some(client));
            }
            self.end_overdue();
            self.log.count_each_minute();
            let ready = self.wait(deadline).context("could not wait for a client")?;
            for id in ready.pending {
                if let Some(client) = self.hear(id) {
                    return Ok(Some(client));
                }
                if self.is_paused() {
                    break;
                }
            }
            if ready.listener
                && let Some(client) = self.accept().context("could not accept a client")?
            {
                return Ok(Some(client));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// Waits until there is something to do, and returns what.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Ready> {
        let now = Instant::now();
        let is_paused = self.is_paused();
        let accepts = !is_paused && self.clients() < self.max_clients && (self.max_pending > 0 || self.has_thread());
        let silent = || self.pending.iter().filter(|pending| pending.state == State::Silent);

        let next_overdue = silent().next().and_then(|oldest| oldest.since.checked_add(self.limit()?));
        let next_count = self.log.next_count();
        let until = [deadline, next_overdue, next_count, is_paused.then_some(self.paused_until)];
        let time = until.into_iter().flatten().min().map(|until| until.saturating_duration_since(now));

        let listener = accepts.then(|| SockRef::from(&self.listener));
        let watched = silent().filter(|_| !is_paused);
        // A peer that waits for this side is silent.
        let waits_for_us = matches!(&self.policy.proof, Proof::Handshake(identity) if identity.speaks_first());
        let time = if waits_for_us && watched.clone().next().is_some() { Some(Duration::ZERO) } else { time };
        let sockets: Vec<_> =
            listener.into_iter().chain(watched.clone().map(|it| SockRef::from(&*it.stream))).collect();
        let mut ready = self.shared.waker.wait(&sockets, time)?.into_iter();
        let listener = accepts && ready.next().unwrap_or(false);
        let to_hear = watched.zip(ready).filter(|(_, ready)| *ready || waits_for_us);
        let pending = to_hear.map(|(pending, _)| pending.id).collect();
        Ok(Ready { listener, pending })
    }

    /// Accepts a connection from an address that is served.
    fn accept(&mut self) -> io::Result<Option<Client>> {
        let is_full = |admission: &Self| admission.max_pending > 0 && admission.pending.len() >= admission.max_pending;
        if is_full(self) {
            self.end_oldest();
            if is_full(self) {
                return Ok(None);
            }
        }
        let (stream, peer) = match listen::accept(&self.listener) {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return Ok(None),
            Err(error) if listen::is_temporary(&error) => {
                if !(listen::is_shortage(&error) && self.end_oldest()) {
                    self.paused_until = Instant::now() + PAUSE;
                }
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !self.policy.allow.is_allowed(peer.ip()) {
            // Resets it, as the listener says.
            drop(stream);
            self.log.print(&format!("{peer}: refused, {} is not in --allow", peer.ip()));
            return Ok(None);
        }
        if matches!(self.policy.proof, Proof::None) {
            return Ok(Some(self.client(Connection::new(stream, self.policy.timeout), peer)));
        }
        stream.set_nonblocking(true)?;
        let (stream, since) = (Arc::new(stream), Instant::now());
        self.pending.push(Pending { id: self.next_id, stream, peer, since, state: State::Silent });
        self.next_id += 1;
        Ok(None)
    }

    fn client(&self, connection: Result<Connection>, peer: SocketAddr) -> Client {
        self.shared.clients.fetch_add(1, Ordering::SeqCst);
        Client { connection, peer, _slot: Slot(Arc::clone(&self.shared)) }
    }

    /// Goes on with a connection that was silent: looks at what has arrived, or begins the handshake.
    fn hear(&mut self, id: u64) -> Option<Client> {
        let index = self.pending.iter().position(|pending| pending.id == id)?;
        let has_spoken = match self.pending[index].stream.peek(&mut [0]) {
            Ok(1..) => true,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => false,
            Ok(0) | Err(_) => {
                let reason = format!("it closed the connection without a {}", self.policy.proof.name());
                self.refuse(id, &reason);
                return None;
            }
        };
        match &self.policy.proof {
            Proof::Handshake(identity) if has_spoken || identity.speaks_first() => {
                let identity = identity.clone();
                if !self.has_thread() || self.start_handshake(index, identity).is_err() {
                    let started = self.pending.iter_mut().find(|pending| pending.state == State::InHandshake);
                    started.map(Pending::end);
                    self.paused_until = Instant::now() + PAUSE;
                }
                None
            }
            Proof::None | Proof::FirstByte if has_spoken => {
                let Pending { stream, peer, .. } = self.pending.remove(index);
                let connection = stream.set_nonblocking(false).map_err(anyhow::Error::from);
                Some(self.client(connection.and_then(|()| Connection::new(stream, self.policy.timeout)), peer))
            }
            _ => None,
        }
    }

    fn start_handshake(&mut self, index: usize, identity: Identity) -> io::Result<()> {
        let (id, timeout) = (self.pending[index].id, self.policy.timeout);
        let (handshakes, shared) = (self.handshakes.0.clone(), Arc::clone(&self.shared));
        let (sender, receiver) = mpsc::sync_channel::<Arc<TcpStream>>(0);
        let shake_hands = move |stream: Arc<TcpStream>| {
            stream.set_nonblocking(false)?;
            let mut connection = Connection::new(stream, timeout)?;
            connection.encrypt(&identity)?;
            Ok(connection)
        };
        let in_thread = move || {
            let Ok(stream) = receiver.recv() else { return };
            let result = panic::catch_unwind(AssertUnwindSafe(|| shake_hands(stream)));
            let result = result.unwrap_or_else(|_| bail!("internal error"));
            // Where all clients are there meanwhile it is reset.
            let _ = handshakes.send(Handshake { id, result });
            shared.waker.wake();
        };
        let name = self.pending[index].peer.to_string();
        thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(in_thread)?;
        self.pending[index].state = State::InHandshake;
        // Waits until it runs, so that the next one knows how much address space is left.
        let _ = sender.send(Arc::clone(&self.pending[index].stream));
        Ok(())
    }

    /// Takes a client whose handshake is complete, and reports those that failed.
    fn take_admitted(&mut self) -> Option<Client> {
        while let Ok(Handshake { id, result }) = self.handshakes.1.try_recv() {
            match result {
                Ok(connection) => {
                    let pending = self.take_pending(id)?;
                    if pending.state == State::InHandshake {
                        return Some(self.client(Ok(connection), pending.peer));
                    }
                    self.report_ended(&pending);
                }
                Err(error) => self.refuse(id, &text::one_line(&error)),
            }
        }
        None
    }

    fn take_pending(&mut self, id: u64) -> Option<Pending> {
        let index = self.pending.iter().position(|pending| pending.id == id)?;
        Some(self.pending.remove(index))
    }

    fn refuse(&mut self, id: u64, reason: &str) {
        let Some(pending) = self.take_pending(id) else { return };
        if pending.state == State::Ended {
            self.report_ended(&pending);
        } else {
            self.log.print(&format!("{}: refused: {reason}", pending.peer));
        }
    }

    fn report_ended(&mut self, pending: &Pending) {
        let what = self.policy.proof.name();
        self.log.print(&format!("{}: refused: no {what} while connections were short", pending.peer));
    }

    /// Makes room for another connection, if any is pending: of those that are silent the oldest is ended, otherwise of
    /// all.
    fn end_oldest(&mut self) -> bool {
        if let Some(index) = self.pending.iter().position(|pending| pending.state == State::Silent) {
            let pending = self.pending.remove(index);
            self.report_ended(&pending);
        } else if let Some(oldest) = self.pending.iter_mut().find(|pending| pending.state == State::InHandshake) {
            oldest.end();
        } else if self.pending.is_empty() {
            return false;
        }
        let earliest = Instant::now().checked_sub(ENDED_LATE);
        self.paused_until =
            earliest.map_or(self.paused_until, |earliest| self.paused_until.max(earliest)) + ENDED_EVERY;
        true
    }

    /// Ends those that have been silent for too long.
    fn end_overdue(&mut self) {
        let Some(limit) = self.limit() else { return };
        let is_overdue = |pending: &Pending| pending.state == State::Silent && pending.since.elapsed() >= limit;
        let overdue: Vec<_> = self.pending.extract_if(.., |pending| is_overdue(pending)).collect();
        for Pending { peer, .. } in overdue {
            let (what, limit) = (self.policy.proof.name(), humantime::format_duration(limit));
            self.log.print(&format!("{peer}: refused: no {what} within {limit}"));
        }
    }

    fn clients(&self) -> usize {
        self.shared.clients.load(Ordering::SeqCst)
    }

    /// Whether one more thread can be started, as far as address space goes.
    fn has_thread(&mut self) -> bool {
        let handshakes = self.pending.iter().filter(|pending| pending.state != State::Silent).count();
        let threads = self.clients() + handshakes + 1;
        if threads > self.most_threads && has_room() {
            self.most_threads = threads;
        }
        threads <= self.most_threads
    }

    fn is_paused(&self) -> bool {
        Instant::now() < self.paused_until
    }

    /// How long a connection may be silent.
    fn limit(&self) -> Option<Duration> {
        match self.policy.proof {
            Proof::Handshake(_) => {
                Some(self.policy.timeout.map_or(HANDSHAKE_LIMIT, |timeout| timeout.min(HANDSHAKE_LIMIT)))
            }
            Proof::None | Proof::FirstByte => self.policy.timeout,
        }
    }
}

impl Proof {
    /// What is missing where it is not shown.
    fn name(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::None | Self::FirstByte => "byte",
        }
    }
}

impl Pending {
    /// Ends the handshake. Its thread reads EOF, but nothing is sent (shutdown(2)): when the thread drops the connection,
    /// that resets it.
    fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Read);
        self.state = State::Ended;
    }
}

/// What can be done without waiting.
struct Ready {
    /// A connection waits to be accepted.
    listener: bool,
    /// Something has arrived on these.
    pending: Vec<u64>,
}

/// Whether there is address space for one more thread (`RLIMIT_AS`, setrlimit(2)).
#[cfg(target_os = "linux")]
fn has_room() -> bool {
    use rustix::process::{Resource, getrlimit};
    let Some(limit) = getrlimit(Resource::As).current else { return true };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse().ok());
    used.is_none_or(|used: u64| limit.saturating_sub(used * 1024) >= ROOM)
}

#[cfg(not(target_os = "linux"))]
fn has_room() -> bool {
    true
}

/// The lines about those that are refused: the first ones, then how many there were, once a minute, so that strangers
/// cannot fill a disk. After a minute without any the next ones are the first again.
struct Log {
    console: Console,
    lines: u32,
    unsaid: u64,
    since: Instant,
}

impl Log {
    const LINES: u32 = 20;
    const MINUTE: Duration = Duration::from_secs(60);

    fn print(&mut self, line: &str) {
        self.count_each_minute();
        if self.lines < Self::LINES {
            self.lines += 1;
            self.console.note(line);
        } else {
            self.unsaid += 1;
        }
    }

    /// When to say how many there were.
    fn next_count(&self) -> Option<Instant> {
        (self.unsaid > 0).then(|| self.since + Self::MINUTE)
    }

    fn count_each_minute(&mut self) {
        if self.since.elapsed() >= Self::MINUTE {
            if self.unsaid == 0 {
                self.lines = 0;
            }
            self.say_count();
            self.since = Instant::now();
        }
    }

    fn say_count(&mut self) {
        if self.unsaid > 0 {
            self.console.note(&format!("{} more connections were refused", self.unsaid));
            self.unsaid = 0;
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.say_count();
    }
}

#[cfg(unix)]
mod imp {
    use std::io::{self, Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use socket2::SockRef;

    /// Waits for sockets and for other threads.
    pub(super) struct Waker {
        here: UnixStream,
        there: UnixStream,
    }

    impl Waker {
        pub(super) fn new() -> io::Result<Self> {
            let (here, there) = UnixStream::pair()?;
            here.set_nonblocking(true)?;
            there.set_nonblocking(true)?;
            Ok(Self { here, there })
        }

        /// Ends a [`Self::wait`], or the next one.
        pub(super) fn wake(&self) {
            // Where there is no room for it another one does it.
            let _ = (&self.there).write(&[0]);
        }

        /// Waits until one of the sockets has something to read or has failed, at most this long (poll(2)). Returns which;
        /// none of them after a signal or [`Self::wake`].
        pub(super) fn wait(&self, sockets: &[SockRef], time: Option<Duration>) -> io::Result<Vec<bool>> {
            let watch = |socket| PollFd::from_borrowed_fd(socket, PollFlags::IN);
            let sockets = sockets.iter().map(|socket| watch(std::os::fd::AsFd::as_fd(&**socket)));
            let mut watched: Vec<_> = sockets.chain([PollFd::new(&self.here, PollFlags::IN)]).collect();
            let time = time.and_then(|time| Timespec::try_from(time).ok());
            match poll(&mut watched, time.as_ref()) {
                Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
                polled => polled?,
            };
            let mut ready: Vec<_> = watched.iter().map(|socket| !socket.revents().is_empty()).collect();
            if ready.pop().unwrap_or(false) {
                while (&self.here).read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
            }
            Ok(ready)
        }
    }
}

/// Other systems: sockets are looked at again and again.
#[cfg(not(unix))]
mod imp {
    use std::io;
    use std::thread;
    use std::time::Duration;

    use socket2::SockRef;

    const LOOK_EVERY: Duration = Duration::from_millis(20);

    pub(super) struct Waker;

    impl Waker {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) fn wake(&self) {}

        pub(super) fn wait(&self, sockets: &[SockRef], time: Option<Duration>) -> io::Result<Vec<bool>> {
            thread::sleep(time.unwrap_or(LOOK_EVERY).min(LOOK_EVERY));
            Ok(vec![true; sockets.len()])
        }
    }
}
