//! A bad network between the two programs: forwards one connection, data as data, FIN as FIN and RST as RST, until a
//! fault at a chosen byte of a chosen direction.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::network::reset_on_close;
use super::wait::DEADLINE;

/// More than TLS takes over at once.
const FORGED_RECORDS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The file.
    ToClient,
    /// The reply.
    ToServer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Both sides get a RST.
    Reset,
    /// Nothing is forwarded, not even FIN, until [`Proxy::release`].
    Stall,
    /// From here on one byte at a time is forwarded.
    Trickle,
    /// Everything that follows is lost, FIN too.
    Drop,
    /// A FIN, too early; what follows is lost.
    Fin,
    /// The next byte has this bit flipped.
    Flip(u8),
    /// From here on a RST is forwarded as FIN.
    ResetToFin,
    /// TLS records that the sender has not sent, and then a RST to both sides.
    Forge,
}

/// What happens after `at` bytes in this direction.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub direction: Direction,
    pub at: u64,
    pub effect: Effect,
}

impl Fault {
    /// The same for a proxy that the server dials: it takes what accepts for the server.
    pub fn seen_from_a_listening_client(self) -> Self {
        let direction = match self.direction {
            Direction::ToClient => Direction::ToServer,
            Direction::ToServer => Direction::ToClient,
        };
        Self { direction, ..self }
    }
}

/// Forwards one connection; resets it when dropped, if it is still open.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_recorder: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    reached: bool,
    released: bool,
    broken: bool,
    /// What was forwarded to the client and to the server.
    forwarded: [Vec<u8>; 2],
    ends: Option<Arc<[TcpStream; 2]>>,
}

impl Proxy {
    pub fn start(server: u16, fault: Option<Fault>) -> Self {
        Self::start_with(server, fault, false)
    }

    /// Without a fault, and keeps all bytes.
    pub fn recorder(server: u16) -> Self {
        Self::start_with(server, None, true)
    }

    fn start_with(server: u16, fault: Option<Fault>, is_recorder: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { is_recorder, ..Shared::default() });
        let network = Arc::clone(&shared);
        thread::spawn(move || {
            let client = listener.accept().unwrap().0;
            drop(listener);
            match TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                Ok(server) => network.join(client, server, fault),
                Err(_) => network.give_up(&client),
            }
        });
        Self { port, shared }
    }

    /// Waits until the fault has happened, or the connection has ended without it.
    pub fn wait_until_reached(&self) {
        let state = self.shared.state.lock().unwrap();
        let wait = self.shared.changed.wait_timeout_while(state, DEADLINE, |state| !state.reached);
        assert!(wait.unwrap().0.reached, "the fault was never reached");
    }

    /// Whether that has happened.
    pub fn is_reached(&self) -> bool {
        self.shared.state.lock().unwrap().reached
    }

    /// What was forwarded to the client and to the server, once the connection has ended.
    pub fn recording(&self) -> [Vec<u8>; 2] {
        self.wait_until_reached();
        std::mem::take(&mut self.shared.state.lock().unwrap().forwarded)
    }

    /// Ends a stall.
    pub fn release(&self) {
        self.shared.change(|state| state.released = true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.break_both();
    }
}

impl Shared {
    fn join(self: Arc<Self>, client: TcpStream, server: TcpStream, fault: Option<Fault>) {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ends = Arc::new([client, server]);
        self.change(|state| state.ends = Some(Arc::clone(&ends)));
        let forward = |direction| {
            let (shared, ends) = (Arc::clone(&self), Arc::clone(&ends));
            let fault = fault.filter(|fault| fault.direction == direction);
            thread::spawn(move || {
                let [client, server] = &*ends;
                let (from, to) = if direction == Direction::ToClient { (server, client) } else { (client, server) };
                if shared.forward(from, to, fault).is_err() {
                    shared.break_both();
                }
            })
        };
        let directions = [forward(Direction::ToClient), forward(Direction::ToServer)];
        for direction in directions {
            let _ = direction.join();
        }
        self.change(|state| (state.ends, state.reached) = (None, true));
    }

    fn give_up(&self, client: &TcpStream) {
        reset_on_close(client);
        self.change(|state| state.reached = true);
    }

    fn forward(&self, from: &TcpStream, to: &TcpStream, fault: Option<Fault>) -> io::Result<()> {
        if self.copy(from, to, fault.map(|fault| fault.at))? {
            return to.shutdown(Shutdown::Write);
        }
        self.change(|state| state.reached = true);
        match fault.map(|fault| fault.effect) {
            None | Some(Effect::Reset) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(Effect::Stall) => {
                self.wait_for_release();
                self.copy(from, to, None)?;
            }
            Some(Effect::Trickle) => while !self.copy(from, to, Some(1))? {},
            Some(Effect::Drop) => {
                while self.read(from, &mut [0; 4096])? > 0 {}
                self.wait_for_release();
            }
            Some(Effect::Fin) => {}
            Some(Effect::Flip(bit)) => {
                let mut byte = [0];
                if self.read(from, &mut byte)? == 1 {
                    byte[0] ^= 1 << bit;
                    let mut to = to;
                    to.write_all(&byte)?;
                }
                self.copy(from, to, None)?;
            }
            Some(Effect::Forge) => {
                let record = [&[23, 3, 3, 4, 0][..], &[0; 1024]].concat();
                let mut to = to;
                to.write_all(&record.repeat(FORGED_RECORDS))?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Effect::ResetToFin) => match self.copy(from, to, None) {
                Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
                _ => {}
            },
        }
        to.shutdown(Shutdown::Write)
    }

    /// Returns true at the end of the stream, false if `limit` bytes came before it.
    fn copy(&self, from: &TcpStream, mut to: &TcpStream, limit: Option<u64>) -> io::Result<bool> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut buffer = vec![0; usize::try_from(left).unwrap().min(64 * 1024)];
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap());
            let arrived = self.read(from, &mut buffer[..wanted])?;
            if arrived == 0 {
                return Ok(true);
            }
            to.write_all(&buffer[..arrived])?;
            if self.is_recorder {
                self.record(from, &buffer[..arrived]);
            }
            left -= arrived as u64;
        }
        Ok(false)
    }

    fn record(&self, from: &TcpStream, bytes: &[u8]) {
        self.change(|state| {
            let client = state.ends.as_ref().map(|ends| ends[0].as_raw_fd());
            let is_client = client == Some(from.as_raw_fd());
            state.forwarded[usize::from(is_client)].extend_from_slice(bytes);
        });
    }

    /// Returns an error, and not the end of the stream, for a connection that was broken here.
    fn read(&self, mut from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let arrived = from.read(buffer)?;
        let broken = self.state.lock().unwrap().broken;
        if broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(arrived) }
    }

    fn wait_for_release(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.released).unwrap());
    }

    /// Wakes both threads; the sockets are reset when the last one drops them.
    fn break_both(&self) {
        self.change(|state| {
            (state.broken, state.released) = (true, true);
            for end in state.ends.iter().flat_map(|ends| ends.iter()) {
                reset_on_close(end);
                // Wakes a read; sends nothing to the peer.
                let _ = end.shutdown(Shutdown::Read);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }
}
