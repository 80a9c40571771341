//! Selects the accepted connections that may take part: `--allow`, limits on how many there are at once, and what a
//! connection has to show. One that does not show it is reported and never counts.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result};
use socket2::SockRef;

use crate::endpoint::Listening;
use crate::net::connection::Connection;
use crate::net::listen;
use crate::net::tls::Identity;
use crate::net::wait::Waker;
use crate::ui::console::Console;
use pending::{Heard, Pending};

mod pending;
mod refusals;

/// The most clients at a time, if this process may open that many files. Others wait in the kernel's queue until it is
/// full.
const CLIENTS: usize = 2000;

/// Connections that are pending at once.
const PENDING: usize = 512;

/// While the maximum number is pending, the oldest is ended for each new connection, but on average no more often than
/// this. So a peer that can take part has time to show it, however many others come: a second at best.
const ENDED_EVERY: Duration = Duration::from_millis(2);

/// How far that average may lag behind on a busy machine.
const ENDED_LATE: Duration = Duration::from_millis(20);

/// How long to leave waiting connections alone when accept(2) fails, or when there is no thread for a handshake.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of address space that must be left before more threads run than ever before, if address space is limited. For
/// the small allocations of a new thread glibc maps 128 MiB at once (the arenas of malloc(3)), and Rust aborts if one
/// of them fails.
const ROOM: u64 = 192 * 1024 * 1024;

/// Which connections may take part.
pub(crate) struct Policy {
    pub(crate) allow: Listening,
    /// Timeout of the connections; also bounds how long one is pending. `None` waits forever, except for handshakes.
    pub(crate) timeout: Option<Duration>,
    pub(crate) proof: Proof,
    /// How many a client needs, that of its connection included.
    pub(crate) descriptors: usize,
}

/// What a connection has to show before it counts.
pub(crate) enum Proof {
    /// Nothing: every connection that is allowed is a client.
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

/// One of the places for simultaneous clients.
struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

struct Shared {
    waker: Waker,
    is_stopped: AtomicBool,
    clients: AtomicUsize,
}

/// Admits clients until it is dropped, which frees the port. All work is done inside [`Self::next`], except for the
/// handshakes, each of which has a thread.
pub(crate) struct Admission {
    listener: TcpListener,
    allow: Listening,
    shared: Arc<Shared>,
    pending: Pending,
    max_clients: usize,
    max_pending: usize,
    /// Before this time waiting connections are left alone.
    paused_until: Instant,
    /// The largest number of threads so far, of clients and handshakes together.
    most_threads: usize,
}

/// What can be done without waiting.
struct Ready {
    /// A connection waits to be accepted.
    listener: bool,
    /// Something has arrived on these.
    pending: Vec<u64>,
}

impl Admission {
    /// # Errors
    /// Returns an error if there are no descriptors for it.
    pub(crate) fn start(listener: TcpListener, policy: Policy, console: &Console) -> Result<Self> {
        let Policy { allow, timeout, proof, descriptors } = policy;
        // A quarter of the descriptors is left for everything else.
        let connections = listen::raise_open_files_limit() / 4 * 3;
        let max_pending = if matches!(proof, Proof::None) { 0 } else { PENDING.min(connections / 2) };
        let waker = Waker::new().context("could not accept connections")?;
        let shared = Arc::new(Shared { waker, is_stopped: AtomicBool::default(), clients: AtomicUsize::default() });
        Ok(Self {
            listener,
            allow,
            pending: Pending::new(proof, timeout, &shared, console),
            shared,
            max_clients: CLIENTS.min((connections - max_pending) / descriptors).max(1),
            max_pending,
            paused_until: Instant::now(),
            most_threads: 1,
        })
    }

    /// Returns a function that ends a [`Self::next`] waiting in another thread, and every later one.
    pub(crate) fn stopper(&self) -> impl Fn() + Clone + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            shared.is_stopped.store(true, Ordering::SeqCst);
            shared.waker.wake();
        }
    }

    /// Waits for the next client, until the deadline if there is one. Returns `None` if no client came in time, or once
    /// this was stopped.
    ///
    /// # Errors
    /// Returns an error if the listener itself fails.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Client>> {
        while !self.shared.is_stopped.load(Ordering::SeqCst) {
            if let Some((connection, peer)) = self.pending.take_admitted() {
                return Ok(Some(self.client(Ok(connection), peer)));
            }
            self.pending.end_overdue();
            self.pending.refusals.count_if_due();
            let ready = self.wait(deadline).context("could not wait for a client")?;
            for id in ready.pending {
                let has_thread = self.has_thread();
                match self.pending.hear(id, has_thread) {
                    Heard::Enough(connection, peer) => return Ok(Some(self.client(connection, peer))),
                    Heard::Nothing => {}
                    Heard::NoThread => {
                        self.paused_until = Instant::now() + PAUSE;
                        break;
                    }
                }
            }
            if ready.listener
                && let Heard::Enough(connection, peer) = self.accept().context("could not accept a client")?
            {
                return Ok(Some(self.client(connection, peer)));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        Ok(None)
    }

    fn client(&self, connection: Result<Connection>, peer: SocketAddr) -> Client {
        self.shared.clients.fetch_add(1, Ordering::SeqCst);
        Client { connection, peer, _slot: Slot(Arc::clone(&self.shared)) }
    }

    /// Waits until there is something to do, and returns what.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Ready> {
        let now = Instant::now();
        let paused_until = Some(self.paused_until).filter(|&until| now < until);
        let is_paused = paused_until.is_some();
        let accepts = !is_paused && self.clients() < self.max_clients && (self.max_pending > 0 || self.has_thread());
        let at_once = (!is_paused && self.pending.wait_for_us()).then_some(now);
        let until = [deadline, paused_until, at_once, self.pending.next_overdue(), self.pending.refusals.next_count()];
        let time = until.into_iter().flatten().min().map(|until| until.saturating_duration_since(now));

        let listener = accepts.then(|| SockRef::from(&self.listener));
        let (ids, streams): (Vec<_>, Vec<_>) = self.pending.to_watch().filter(|_| !is_paused).unzip();
        let sockets: Vec<_> = listener.into_iter().chain(streams.into_iter().map(SockRef::from)).collect();
        let mut ready = self.shared.waker.wait(&sockets, time)?.into_iter();
        let listener = accepts && ready.next().unwrap_or(false);
        let heard = ids.into_iter().zip(ready).filter(|(_, ready)| *ready || at_once.is_some());
        Ok(Ready { listener, pending: heard.map(|(id, _)| id).collect() })
    }

    /// Accepts a connection from an address that is served.
    fn accept(&mut self) -> io::Result<Heard> {
        let is_full = |admission: &Self| admission.max_pending > 0 && admission.pending.len() >= admission.max_pending;
        if is_full(self) {
            self.make_room();
            if is_full(self) {
                return Ok(Heard::Nothing);
            }
        }
        match listen::accept(&self.listener) {
            Ok(Some((stream, peer))) if self.allow.is_allowed(peer.ip()) => return Ok(self.pending.add(stream, peer)),
            // The connection is reset when it is dropped: it has inherited the listener's `SO_LINGER`.
            Ok(Some((_, peer))) => {
                self.pending.refusals.report(&format!("{peer}: refused, {} is not in --allow", peer.ip()));
            }
            Ok(None) => {}
            Err(error) if listen::is_shortage(&error) && self.make_room() => {}
            Err(error) if listen::is_temporary(&error) => self.paused_until = Instant::now() + PAUSE,
            Err(error) => return Err(error),
        }
        Ok(Heard::Nothing)
    }

    /// Ends the oldest pending connection, if there is one.
    fn make_room(&mut self) -> bool {
        let has_ended = self.pending.end_oldest();
        if has_ended {
            let now = Instant::now();
            self.paused_until = self.paused_until.max(now.checked_sub(ENDED_LATE).unwrap_or(now)) + ENDED_EVERY;
        }
        has_ended
    }

    fn clients(&self) -> usize {
        self.shared.clients.load(Ordering::SeqCst)
    }

    /// Whether address space allows one more thread.
    fn has_thread(&mut self) -> bool {
        let threads = self.clients() + self.pending.threads() + 1;
        if threads > self.most_threads && has_room() {
            self.most_threads = threads;
        }
        threads <= self.most_threads
    }
}

/// Returns a channel that hands a connection to its thread once the thread runs: a thread that cannot be started drops
/// what it was given. Where address space is limited, the sender waits until the thread runs, so that the next check
/// sees how much is left.
pub(crate) fn handover<T>() -> (SyncSender<T>, Receiver<T>) {
    mpsc::sync_channel(usize::from(address_space().is_none()))
}

/// Whether there is address space for one more thread.
fn has_room() -> bool {
    let Some(limit) = address_space() else { return true };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse().ok());
    used.is_none_or(|used: u64| limit.saturating_sub(used * 1024) >= ROOM)
}

/// The limit of this process's address space in bytes, if there is one (`RLIMIT_AS`, setrlimit(2)).
#[cfg(target_os = "linux")]
fn address_space() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::As).current
}

#[cfg(not(target_os = "linux"))]
fn address_space() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};
    use std::thread;

    use super::*;
    use crate::key::{Key, Role};
    use crate::ui::console::Style;

    fn admission(proof: Proof) -> Result<(Admission, SocketAddr)> {
        let listener = listen::listen(Some(SocketAddr::from(([127, 0, 0, 1], 0))), 0)?;
        let address = listener.local_addr()?;
        let policy = Policy {
            allow: Listening { bind: None, port: 0, allow: Vec::new() },
            timeout: None,
            proof,
            descriptors: 1,
        };
        let style = Style { program: "test", quiet: true, json: false, stdout_is_taken: false };
        Ok((Admission::start(listener, policy, &Console::new(style))?, address))
    }

    #[test]
    fn no_client_is_waited_for_after_the_deadline_or_once_it_is_stopped() -> Result<()> {
        for proof in [Proof::None, Proof::FirstByte] {
            let (mut admission, address) = admission(proof)?;
            let soon = Instant::now() + Duration::from_millis(10);
            assert!(admission.next(Some(soon))?.is_none());
            assert!(Instant::now() >= soon);

            let stop = thread::spawn(admission.stopper());
            assert!(admission.next(None)?.is_none());
            assert!(stop.join().is_ok());
            let _client = TcpStream::connect(address)?;
            assert!(admission.next(None)?.is_none());
        }
        Ok(())
    }

    #[test]
    fn a_client_that_waits_already_is_admitted_whatever_the_deadline() -> Result<()> {
        let (mut admission, address) = admission(Proof::None)?;
        let client = TcpStream::connect(address)?;
        // The kernel may queue it a moment after `connect` returns.
        let waker = Waker::new()?;
        while waker.wait(&[SockRef::from(&admission.listener)], None)? != [true] {}
        let admitted = admission.next(Some(Instant::now()))?;
        assert_eq!(admitted.map(|client| client.peer), Some(client.local_addr()?));
        Ok(())
    }

    #[test]
    fn clients_beyond_the_limit_wait_for_a_place() -> Result<()> {
        let (mut admission, address) = admission(Proof::None)?;
        admission.max_clients = 1;
        let (_first, _second) = (TcpStream::connect(address)?, TcpStream::connect(address)?);
        let admitted = admission.next(None)?;
        assert!(admitted.is_some() && admission.next(Some(Instant::now()))?.is_none());
        let leave = thread::spawn(move || drop(admitted));
        assert!(admission.next(None)?.is_some());
        assert!(leave.join().is_ok());
        Ok(())
    }

    #[test]
    fn a_slow_handshake_gives_way_before_a_silent_connection() -> Result<()> {
        let (mut admission, address) = admission(Proof::Handshake(Identity::new(&Key::random()?, Role::Sender)?))?;
        admission.max_pending = 2;
        let mut work_until = |is_done: &dyn Fn(&Pending) -> bool| -> Result<()> {
            while !is_done(&admission.pending) {
                assert!(admission.next(Some(Instant::now() + Duration::from_millis(1)))?.is_none());
            }
            Ok(())
        };
        let mut slow = TcpStream::connect(address)?;
        // The start of a hello.
        slow.write_all(&[22, 3, 1, 1, 0])?;
        work_until(&|pending| pending.threads() == 1)?;
        let silent = TcpStream::connect(address)?;
        work_until(&|pending| pending.len() == 2)?;
        thread::sleep(pending::SLOW_AFTER);
        let _next = TcpStream::connect(address)?;
        let end_of = |mut stream: &TcpStream| stream.read(&mut [0]).map_err(|error| error.kind());
        for stream in [&slow, &silent] {
            stream.set_nonblocking(true)?;
        }
        work_until(&|_| end_of(&slow) != Err(io::ErrorKind::WouldBlock))?;
        assert_eq!(end_of(&silent), Err(io::ErrorKind::WouldBlock));
        Ok(())
    }

    #[test]
    fn of_too_many_that_are_silent_the_oldest_is_reset_and_one_that_left_is_not_a_client() -> Result<()> {
        let (mut admission, address) = admission(Proof::FirstByte)?;
        admission.max_pending = 2;
        let (mut oldest, leaves, mut speaks) =
            (TcpStream::connect(address)?, TcpStream::connect(address)?, TcpStream::connect(address)?);
        let admit = thread::spawn(move || admission.next(None));
        // FIN would be the end of a file.
        assert_eq!(oldest.read(&mut [0]).map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
        leaves.shutdown(Shutdown::Write)?;
        speaks.write_all(b"x")?;
        let admitted = admit.join().ok().transpose()?.flatten();
        assert_eq!(admitted.map(|client| client.peer), Some(speaks.local_addr()?));
        Ok(())
    }
}
