//! Connections that have not yet shown that they may take part. The silent ones cost a descriptor each, and those in a
//! handshake a thread too. However one is ended, it is reset: FIN would tell a plain receiver that it has a whole,
//! empty file.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::refusals::Refusals;
use super::{Proof, Shared};
use crate::net::connection::Connection;
use crate::net::tls::{HANDSHAKE_LIMIT, Identity};
use crate::signals::STACK_SIZE;
use crate::text;
use crate::ui::console::Console;

/// After this long a handshake gives way to a connection that is still silent, which may be that of a client.
pub(super) const SLOW_AFTER: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });

/// The pending connections, in order of arrival.
pub(super) struct Pending {
    pub(super) refusals: Refusals,
    proof: Proof,
    timeout: Option<Duration>,
    shared: Arc<Shared>,
    peers: Vec<Peer>,
    next_id: u64,
    handshakes: (Sender<Handshake>, Receiver<Handshake>),
}

struct Peer {
    id: u64,
    stream: Arc<TcpStream>,
    address: SocketAddr,
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

/// The result of the handshake of the peer with this id.
struct Handshake {
    id: u64,
    result: Result<Connection>,
}

/// The result of looking at a silent peer.
pub(super) enum Heard {
    /// It is still silent, has left, or its handshake has begun.
    Nothing,
    /// It has shown what it had to show.
    Enough(Result<Connection>, SocketAddr),
    /// There is no thread for its handshake.
    NoThread,
}

impl Pending {
    pub(super) fn new(proof: Proof, timeout: Option<Duration>, shared: &Arc<Shared>, console: &Console) -> Self {
        Self {
            refusals: Refusals::new(console),
            proof,
            timeout,
            shared: Arc::clone(shared),
            peers: Vec::new(),
            next_id: 0,
            handshakes: mpsc::channel(),
        }
    }

    /// Without those that were told to give up, whose places are free in a moment.
    pub(super) fn len(&self) -> usize {
        self.peers.iter().filter(|peer| peer.state != State::Ended).count()
    }

    /// Threads that do handshakes.
    pub(super) fn threads(&self) -> usize {
        self.peers.len() - self.silent().count()
    }

    fn silent(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.state == State::Silent)
    }

    /// The silent peers, to be heard once something has arrived.
    pub(super) fn to_watch(&self) -> impl Iterator<Item = (u64, &TcpStream)> {
        self.silent().map(|peer| (peer.id, &*peer.stream))
    }

    /// Whether silent peers wait for this side to speak.
    pub(super) fn wait_for_us(&self) -> bool {
        matches!(&self.proof, Proof::Handshake(identity) if identity.speaks_first()) && self.silent().next().is_some()
    }

    /// Adds a connection, or returns it at once if it has nothing to show.
    pub(super) fn add(&mut self, stream: TcpStream, address: SocketAddr) -> Heard {
        if matches!(self.proof, Proof::None) {
            return Heard::Enough(Connection::new(stream, self.timeout), address);
        }
        if let Err(error) = stream.set_nonblocking(true) {
            return Heard::Enough(Err(error.into()), address);
        }
        let (stream, since) = (Arc::new(stream), Instant::now());
        self.peers.push(Peer { id: self.next_id, stream, address, since, state: State::Silent });
        self.next_id += 1;
        Heard::Nothing
    }

    /// Looks at what has arrived from a silent peer, or begins its handshake.
    pub(super) fn hear(&mut self, id: u64, has_thread: bool) -> Heard {
        let Some(index) = self.peers.iter().position(|peer| peer.id == id) else { return Heard::Nothing };
        let has_spoken = match self.peers[index].stream.peek(&mut [0]) {
            Ok(1..) => true,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => false,
            Ok(0) | Err(_) => {
                self.refuse(id, &format!("it closed the connection without a {}", self.proof.name()));
                return Heard::Nothing;
            }
        };
        match &self.proof {
            Proof::Handshake(identity) if has_spoken || identity.speaks_first() => {
                let identity = identity.clone();
                if has_thread && self.start_handshake(index, identity).is_ok() {
                    return Heard::Nothing;
                }
                if let Some(oldest) = self.peers.iter_mut().find(|peer| peer.state == State::InHandshake) {
                    oldest.end();
                }
                Heard::NoThread
            }
            Proof::None | Proof::FirstByte if has_spoken => {
                let Peer { stream, address, .. } = self.peers.remove(index);
                let blocking = stream.set_nonblocking(false).map_err(anyhow::Error::from);
                Heard::Enough(blocking.and_then(|()| Connection::new(stream, self.timeout)), address)
            }
            _ => Heard::Nothing,
        }
    }

    fn start_handshake(&mut self, index: usize, identity: Identity) -> io::Result<()> {
        let peer = &mut self.peers[index];
        let (id, timeout) = (peer.id, self.timeout);
        let (handshakes, shared) = (self.handshakes.0.clone(), Arc::clone(&self.shared));
        let (sender, receiver) = super::handover::<Arc<TcpStream>>();
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
            // If all clients have come meanwhile, this fails and the connection is reset.
            let _ = handshakes.send(Handshake { id, result });
            shared.waker.wake();
        };
        thread::Builder::new().name(peer.address.to_string()).stack_size(STACK_SIZE).spawn(in_thread)?;
        peer.state = State::InHandshake;
        let _ = sender.send(Arc::clone(&peer.stream));
        Ok(())
    }

    /// Takes a peer whose handshake is complete, and reports those that failed.
    pub(super) fn take_admitted(&mut self) -> Option<(Connection, SocketAddr)> {
        while let Ok(Handshake { id, result }) = self.handshakes.1.try_recv() {
            match result {
                Err(error) => self.refuse(id, &text::one_line(&error)),
                Ok(connection) => match self.take(id) {
                    Some(Peer { address, state: State::InHandshake, .. }) => return Some((connection, address)),
                    ended => ended.into_iter().for_each(|peer| self.report_ended(peer.address)),
                },
            }
        }
        None
    }

    fn take(&mut self, id: u64) -> Option<Peer> {
        let index = self.peers.iter().position(|peer| peer.id == id)?;
        Some(self.peers.remove(index))
    }

    /// Reported only after the connection has ended.
    fn refuse(&mut self, id: u64, reason: &str) {
        match self.take(id).map(|peer| (peer.address, peer.state)) {
            Some((address, State::Ended)) => self.report_ended(address),
            Some((address, _)) => self.refusals.report(&format!("{address}: refused: {reason}")),
            None => {}
        }
    }

    fn report_ended(&mut self, address: SocketAddr) {
        let what = self.proof.name();
        self.refusals.report(&format!("{address}: refused: no {what} while connections were short"));
    }

    /// Makes room for another connection by ending the oldest handshake that is slow, or else the oldest silent one, or
    /// else the oldest handshake. Returns false if none is pending.
    pub(super) fn end_oldest(&mut self) -> bool {
        let is_in_handshake = |peer: &Peer| peer.state == State::InHandshake;
        let mut peers = self.peers.iter();
        let slow = peers.position(|peer| is_in_handshake(peer) && peer.since.elapsed() >= SLOW_AFTER);
        let silent = || self.peers.iter().position(|peer| peer.state == State::Silent);
        match slow.or_else(silent).or_else(|| self.peers.iter().position(is_in_handshake)) {
            Some(index) if self.peers[index].state == State::Silent => {
                let address = self.peers.remove(index).address;
                self.report_ended(address);
            }
            Some(index) => self.peers[index].end(),
            None => return !self.peers.is_empty(),
        }
        true
    }

    /// When to call [`Self::end_overdue`].
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.silent().next()?.since.checked_add(self.limit()?)
    }

    /// Ends those that have been silent for too long.
    pub(super) fn end_overdue(&mut self) {
        let Some(limit) = self.limit() else { return };
        let is_overdue = |peer: &mut Peer| peer.state == State::Silent && peer.since.elapsed() >= limit;
        let overdue: Vec<_> = self.peers.extract_if(.., is_overdue).map(|peer| peer.address).collect();
        for address in overdue {
            let (what, limit) = (self.proof.name(), humantime::format_duration(limit));
            // A program that asks the user for the key connects before it asks, and then again.
            let hint = if matches!(self.proof, Proof::Handshake(_)) { "; it may still ask for its key" } else { "" };
            self.refusals.report(&format!("{address}: refused: no {what} within {limit}{hint}"));
        }
    }

    /// How long a peer may be silent.
    fn limit(&self) -> Option<Duration> {
        let is_handshake = matches!(self.proof, Proof::Handshake(_));
        self.timeout.into_iter().chain(is_handshake.then_some(HANDSHAKE_LIMIT)).min()
    }
}

impl Peer {
    /// Ends the handshake. Its thread reads EOF, but nothing is sent (shutdown(2)): when the thread drops the connection,
    /// that resets it.
    fn end(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Read);
        self.state = State::Ended;
    }
}

impl Proof {
    /// What a refused connection has not shown.
    fn name(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::None | Self::FirstByte => "byte",
        }
    }
}
