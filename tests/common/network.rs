//! Connections of the test itself: plain peers of either program, and connections as the kernel sees them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use std::{io, thread};

use half_close::protocol::THANK_YOU;
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, SockRef, Socket, Type};

use super::wait::{DEADLINE, wait_for};

/// A port without a listener, which the kernel assigns to no other socket while this exists. A program that asks for it
/// by number with `SO_REUSEADDR`, as ours and all peers do, can listen on it (socket(7)).
pub struct ReservedPort {
    pub number: u16,
    _socket: Socket,
}

impl ReservedPort {
    pub fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    pub fn at(address: IpAddr) -> Self {
        let address = SocketAddr::new(address, 0);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        let number = socket.local_addr().unwrap().as_socket().unwrap().port();
        Self { number, _socket: socket }
    }
}

/// Keeps every program from listening on the port at this address. Returns an error if one does, or may.
pub fn block_port(address: IpAddr, port: u16) -> io::Result<impl Sized> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into()).map(|()| socket)
}

/// A port at 127.0.0.1 that drops every SYN: its queue has room for one connection, which is kept here.
pub struct SilentPort {
    pub number: u16,
    listener: Socket,
    _only: TcpStream,
}

impl SilentPort {
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let only = TcpStream::connect(address).unwrap();
        // Until the kernel has handled the last segment of the handshake there is room for another one.
        rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], None).unwrap();
        Self { number: address.port(), listener, _only: only }
    }

    /// Leaves the port to another program.
    pub fn close(self) {
        // A program that another test starts at the moment may have inherited it, and would keep it open.
        self.listener.shutdown(Shutdown::Both).unwrap();
    }
}

/// A plain client.
pub fn connect(port: u16) -> TcpStream {
    try_connect(port).unwrap()
}

/// The same, where a reset may come before connect(2) has returned.
pub fn try_connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(prepared)
}

/// A plain client whose kernel takes about that many bytes before the test reads; the rest waits at the server.
pub fn connect_with_receive_buffer(port: u16, bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    prepared(socket.into())
}

/// Sends each write at once, and fails reads at the deadline.
fn prepared(connection: TcpStream) -> TcpStream {
    connection.set_nodelay(true).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    connection
}

/// A plain server for one client at a time.
pub struct Listener(TcpListener);

impl Listener {
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Waits for a client.
    pub fn accept(&self) -> TcpStream {
        let connection = wait_for("a connection of the client", || self.0.accept().ok()).0;
        connection.set_nonblocking(false).unwrap();
        prepared(connection)
    }

    /// Fails if a client has connected.
    pub fn assert_unused(&self) {
        assert_eq!(
            self.0.accept().map_err(|error| error.kind()).err(),
            Some(ErrorKind::WouldBlock),
            "it has connected"
        );
    }
}

/// Reads to the end.
pub fn read_all(mut connection: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Reads into the buffer once. With a timeout a call that a stop interrupts is not repeated by the kernel (signal(7)).
pub fn read_some(mut connection: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    repeat_interrupted(|| connection.read(buffer))
}

/// Waits for the first byte, and leaves it there.
pub fn wait_for_first_byte(connection: &TcpStream) {
    assert_eq!(repeat_interrupted(|| connection.peek(&mut [0])).unwrap(), 1);
}

fn repeat_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Reads to the end, in calls of one byte each.
pub fn read_byte_by_byte(connection: &TcpStream) -> Vec<u8> {
    let (mut received, mut byte) = (Vec::new(), [0]);
    while read_some(connection, &mut byte).unwrap() == 1 {
        received.push(byte[0]);
    }
    received
}

/// Writes in calls of one byte each.
pub fn write_byte_by_byte(mut connection: &TcpStream, bytes: &[u8]) {
    for byte in bytes {
        connection.write_all(&[*byte]).unwrap();
    }
}

/// Confirms as `file-client` does.
pub fn thank(mut connection: &TcpStream) {
    connection.write_all(THANK_YOU).unwrap();
}

/// What a plain server does at the end of the file; returns the reply.
pub fn half_close(connection: &TcpStream) -> Vec<u8> {
    connection.shutdown(Shutdown::Write).unwrap();
    read_all(connection)
}

/// Reads the whole file and confirms it.
pub fn fetch(port: u16) -> Vec<u8> {
    fetch_from("127.0.0.1", port).unwrap()
}

/// Reads the whole file from another address and confirms it. Returns an error if the connection is refused or reset.
pub fn fetch_from(address: &str, port: u16) -> io::Result<Vec<u8>> {
    let mut connection = prepared(TcpStream::connect((address, port))?);
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes)?;
    connection.write_all(THANK_YOU)?;
    Ok(bytes)
}

/// Fails unless the connection ends with RST, after any number of bytes.
pub fn assert_reset(mut connection: &TcpStream) {
    let end = io::copy(&mut connection, &mut io::sink());
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

/// Fails unless the next thing from a client is RST: no reply comes before it.
pub fn assert_reset_without_reply(connection: &TcpStream) {
    let end = read_some(connection, &mut [0]);
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

/// Closes with RST.
pub fn reset(connection: TcpStream) {
    reset_on_close(&connection);
    drop(connection);
}

/// Sends RST when the connection is closed.
pub fn reset_on_close(connection: &TcpStream) {
    let _ = SockRef::from(connection).set_linger(Some(Duration::ZERO));
}

/// Ends a server that still waits for its only client: connects and fails at once. Does nothing to a server that has
/// had its client. Returns whether it listened.
pub fn use_up(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(reset).is_ok()
}

/// A file that is sent byte by byte, with a pause before each.
pub fn write_slowly(mut connection: &TcpStream, bytes: &[u8], pause: Duration) {
    for byte in bytes {
        thread::sleep(pause);
        connection.write_all(&[*byte]).unwrap();
    }
}

#[cfg(target_os = "linux")]
pub use tables::{connections_of, has_listener, wait_for_connection, wait_for_half_close, wait_for_listener};

/// The kernel's tables of connections (`/proc/net/tcp`, proc(5)).
#[cfg(target_os = "linux")]
mod tables {
    use procfs::net::{TcpNetEntry, TcpState};

    use crate::common::processes::Server;
    use crate::common::wait::wait_until;

    /// Waits until an IPv4 connection is as described.
    pub fn wait_for_connection(what: &str, is_it: impl Fn(&TcpNetEntry) -> bool) {
        wait_until(&format!("a connection {what}"), || procfs::net::tcp().unwrap().iter().any(&is_it));
    }

    /// Waits until a program listens on the port.
    pub fn wait_for_listener(port: u16) {
        wait_until("a listener", || has_listener(port));
    }

    /// Whether a program listens on the port.
    pub fn has_listener(port: u16) -> bool {
        let listens = |it: &TcpNetEntry| it.state == TcpState::Listen && it.local_address.port() == port;
        procfs::net::tcp().unwrap().iter().any(listens)
    }

    /// The connections of the server, in the network in which it runs.
    pub fn connections_of(server: &Server) -> Vec<TcpNetEntry> {
        let process = procfs::process::Process::new(server.running.pid().as_raw_nonzero().get()).unwrap();
        let connections = process.tcp().unwrap_or_else(|error| panic!("the server has ended: {error}"));
        connections.into_iter().filter(|connection| connection.local_address.port() == server.port).collect()
    }

    /// Waits until the server has half-closed a connection that it still has open: one of an earlier process with the same
    /// port may be in the same state for a minute, but has no inode any more.
    pub fn wait_for_half_close(server: &Server) {
        let half_closed =
            |it: &TcpNetEntry| it.inode != 0 && matches!(it.state, TcpState::FinWait1 | TcpState::FinWait2);
        wait_until("the half-close", || connections_of(server).iter().any(half_closed));
    }
}
