//! From the listening socket to clients. With a key a connection is a stranger until it has completed the handshake; one
//! that does not is reported in one line and never counts. All of that runs in threads that end with the process at the
//! latest, which resets what is still a stranger then.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::endpoint::Listening;
use crate::net::connection::Connection;
use crate::net::listen::{self, RETRY_INTERVAL};
use crate::net::tls::Identity;
use crate::text;
use crate::ui::console::Console;

const STACK_SIZE: usize = 256 * 1024;

/// How long a handshake may take, whatever the timeout, while descriptors or threads are short: many times what a client
/// needs, so that strangers who do none keep no client waiting for long.
const TIME_IN_A_SHORTAGE: Duration = Duration::from_secs(3);

/// Which connections may take part.
pub(crate) struct Policy {
    pub(crate) allow: Listening,
    pub(crate) timeout: Option<Duration>,
    pub(crate) proof: Proof,
}

/// What a connection has to show.
pub(crate) enum Proof {
    /// Nothing.
    None,
    /// A byte.
    FirstByte,
    /// That it has the key.
    Handshake(Identity),
}

/// A connection that may take part, and may have failed already.
pub(crate) struct Client {
    pub(crate) connection: Result<Connection>,
    pub(crate) peer: SocketAddr,
}

/// Admits clients until it is dropped; the port is free again then.
pub(crate) enum Admission {
    /// Every connection is a client.
    Open { listener: Arc<TcpListener>, allow: Listening, timeout: Option<Duration>, console: Console },
    /// A client is one that has completed the handshake.
    Keyed(Handshakes),
}

impl Admission {
    /// # Errors
    /// Returns an error if there is no thread to accept connections in.
    pub(crate) fn start(listener: TcpListener, policy: Policy, console: &Console) -> Result<Self> {
        let Policy { allow, timeout, proof } = policy;
        match proof {
            Proof::Handshake(identity) => {
                Handshakes::start(listener, identity, allow, timeout, console).map(Self::Keyed)
            }
            _ => Ok(Self::Open { listener: Arc::new(listener), allow, timeout, console: console.clone() }),
        }
    }

    /// Waits for the next client.
    ///
    /// # Errors
    /// Returns an error if the listener itself fails.
    pub(crate) fn next(&self, _: Option<Instant>) -> Result<Option<Client>> {
        match self {
            Self::Open { listener, allow, timeout, console } => {
                let accepted = accept(listener, allow, console, || ());
                accepted.map(|(stream, peer)| Client { connection: Connection::new(stream, *timeout), peer })
            }
            Self::Keyed(handshakes) => handshakes.clients.recv().map_err(io::Error::other).flatten(),
        }
        .map(Some)
        .context("could not accept a client")
    }

    /// What ends [`Self::next`] from another thread.
    pub(crate) fn stopper(&self) -> Stopper {
        match self {
            Self::Open { listener, .. } => {
                let listener = Arc::clone(listener);
                Stopper(Arc::new(move || listen::stop(&listener)))
            }
            Self::Keyed(handshakes) => {
                let shared = Arc::clone(&handshakes.shared);
                Stopper(Arc::new(move || listen::stop(&shared.listener)))
            }
        }
    }
}

/// Ends an admission.
#[derive(Clone)]
pub(crate) struct Stopper(Arc<dyn Fn() + Send + Sync>);

impl Stopper {
    pub(crate) fn stop(&self) {
        (self.0)();
    }
}

/// Accepts the next connection from an address that is served.
fn accept(
    listener: &TcpListener,
    allow: &Listening,
    console: &Console,
    on_shortage: impl Fn(),
) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let (stream, peer) = listen::accept(listener, &on_shortage)?;
        if allow.is_allowed(peer.ip()) {
            return Ok((stream, peer));
        }
        // Resets it, as the listener says.
        drop(stream);
        console.note(&format!("{peer}: refused, not in --allow"));
    }
}

/// The threads in which connections are accepted and do their handshakes.
pub(crate) struct Handshakes {
    shared: Arc<Shared>,
    clients: Receiver<io::Result<Client>>,
}

struct Shared {
    listener: TcpListener,
    identity: Identity,
    allow: Listening,
    timeout: Option<Duration>,
    console: Console,
    is_over: AtomicBool,
    /// Those that are doing their handshakes, in the order in which they came.
    strangers: Mutex<VecDeque<Stranger>>,
}

/// A connection without a handshake.
struct Stranger {
    stream: Arc<TcpStream>,
    since: Instant,
}

impl Handshakes {
    fn start(
        listener: TcpListener,
        identity: Identity,
        allow: Listening,
        timeout: Option<Duration>,
        console: &Console,
    ) -> Result<Self> {
        let (console, is_over) = (console.clone(), AtomicBool::new(false));
        let strangers = Mutex::default();
        let shared = Arc::new(Shared { listener, identity, allow, timeout, console, is_over, strangers });
        let (sender, clients) = mpsc::channel();
        let accept = {
            let shared = Arc::clone(&shared);
            move || shared.accept_all(&sender)
        };
        thread::Builder::new().name("accept".to_owned()).spawn(accept).context("could not start a thread")?;
        Ok(Self { shared, clients })
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        listen::stop(&self.shared.listener);
    }
}

impl Shared {
    fn accept_all(self: Arc<Self>, clients: &Sender<io::Result<Client>>) {
        while !self.is_over() {
            match accept(&self.listener, &self.allow, &self.console, || self.give_up_on_slow_strangers()) {
                Ok((stream, peer)) => Arc::clone(&self).start(stream, peer, clients),
                Err(error) => {
                    let _ = clients.send(Err(error));
                    return;
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Does the handshake in a thread of its own, as soon as one can be started.
    fn start(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, clients: &Sender<io::Result<Client>>) {
        while !self.is_over() {
            // A thread that cannot be started drops what it was given, so it receives the stream once it runs.
            let (sender, receiver) = mpsc::sync_channel(1);
            let (shared, clients) = (Arc::clone(&self), clients.clone());
            let admit = move || receiver.iter().for_each(|stream| shared.admit(stream, peer, &clients));
            if thread::Builder::new().name(peer.to_string()).stack_size(STACK_SIZE).spawn(admit).is_ok() {
                let _ = sender.send(stream);
                return;
            }
            self.give_up_on_slow_strangers();
            thread::sleep(RETRY_INTERVAL);
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, clients: &Sender<io::Result<Client>>) {
        let stream = Arc::new(stream);
        self.greet(&stream);
        let result = self.shake_hands(Arc::clone(&stream));
        match result {
            _ if !self.is_still_wanted(&stream) => {
                self.console.note(&format!("{peer}: refused: no handshake while connections were short"));
            }
            Ok(connection) => {
                // All clients may be there meanwhile: then it is reset.
                let _ = clients.send(Ok(Client { connection: Ok(connection), peer }));
            }
            Err(error) => self.console.note(&format!("{peer}: refused: {}", text::one_line(&error))),
        }
    }

    fn greet(&self, stream: &Arc<TcpStream>) {
        let mut strangers = self.strangers();
        strangers.push_back(Stranger { stream: Arc::clone(stream), since: Instant::now() });
    }

    /// Makes room when descriptors or threads are short: ends the handshakes that have had their time.
    fn give_up_on_slow_strangers(&self) {
        let mut strangers = self.strangers();
        let slow = strangers.partition_point(|stranger| stranger.since.elapsed() >= TIME_IN_A_SHORTAGE);
        for stranger in strangers.drain(..slow) {
            // Wakes the thread.
            let _ = stranger.stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes it from the strangers. Returns false if it was given up on.
    fn is_still_wanted(&self, stream: &Arc<TcpStream>) -> bool {
        let mut strangers = self.strangers();
        let position = strangers.iter().position(|stranger| Arc::ptr_eq(&stranger.stream, stream));
        position.and_then(|position| strangers.remove(position)).is_some()
    }

    fn strangers(&self) -> MutexGuard<'_, VecDeque<Stranger>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shake_hands(&self, stream: Arc<TcpStream>) -> Result<Connection> {
        let mut connection = Connection::new(stream, self.timeout)?;
        connection.encrypt(&self.identity)?;
        Ok(connection)
    }
}
