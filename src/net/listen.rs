//! Listening on one address or on all of them, and accepting clients whatever is short for a moment.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::text;

/// Connections that the kernel completes and keeps until they are accepted; it caps this at `net.core.somaxconn`
/// (listen(2)).
const BACKLOG: i32 = 4096;

/// How long to wait before trying again when threads, descriptors or memory are exhausted.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Listens on the port of one address, whose own port does not count, or of all addresses: IPv6 and IPv4 through one
/// dual-stack socket where the system has IPv6, otherwise IPv4.
///
/// # Errors
/// Returns an error that names the address and the reason, such as a port in use.
pub(crate) fn listen(bind: Option<SocketAddr>, port: u16) -> Result<TcpListener> {
    let mut address = bind.unwrap_or((Ipv6Addr::UNSPECIFIED, port).into());
    address.set_port(port);
    let listener = match listen_on(address) {
        Err(error) if bind.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            listen_on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        listener => listener,
    };
    listener.map_err(|error| {
        let place = if bind.is_some() { address.to_string() } else { format!("port {port}") };
        Error::msg(format!("could not listen on {place}: {}", reason(&error, port)))
    })
}

/// Why the port cannot be bound, and which one can.
fn reason(error: &io::Error, port: u16) -> String {
    let reason = text::reason(error);
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{reason}; port 0 picks a free one"),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        // ip(7), `ip_unprivileged_port_start`.
        io::ErrorKind::PermissionDenied if port < 1024 => format!("{reason}; take a port from 1024 up"),
        _ => reason,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The port is free again at once after the server that had it (on Windows the option would mean sharing it).
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit this, so that not even a kill between accept and the first line after it ends in FIN.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts the next client; an IPv4-mapped IPv6 address is returned as the IPv4 address that it stands for. Errors of a
/// single connection are skipped. While descriptors or memory are exhausted it calls `on_shortage` and tries again.
///
/// # Errors
/// Returns an error if the listener itself fails.
pub(crate) fn accept(listener: &TcpListener, on_shortage: impl Fn()) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => return Ok((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_per_connection_error(&error) => {}
            Err(error) if is_resource_exhausted(&error) => {
                on_shortage();
                thread::sleep(RETRY_INTERVAL);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ends an [`accept`] that is blocked in another thread, and every later one: with an error on Linux, elsewhere with one
/// more connection, from here.
pub(crate) fn stop(listener: &TcpListener) {
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
    #[cfg(not(target_os = "linux"))]
    if let Ok(address) = listener.local_addr() {
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv6Addr::LOCALHOST.into(),
        };
        let _ = TcpStream::connect((ip, address.port()));
    }
}

/// Whether accept(2) failed for what was wrong with that one connection, or for a firewall that forbids it.
#[cfg(target_os = "linux")]
fn is_per_connection_error(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_one_of(error, &[Errno::CONNABORTED, Errno::CONNRESET, Errno::PROTO, Errno::NOPROTOOPT, Errno::PERM])
        || is_one_of(error, &[Errno::NETDOWN, Errno::NETUNREACH, Errno::NONET, Errno::HOSTDOWN, Errno::HOSTUNREACH])
}

#[cfg(not(target_os = "linux"))]
fn is_per_connection_error(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Whether accept(2) failed because descriptors or memory are exhausted, here or in the whole system.
#[cfg(unix)]
fn is_resource_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_one_of(error, &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN])
}

#[cfg(not(unix))]
fn is_resource_exhausted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(unix)]
fn is_one_of(error: &io::Error, errnos: &[rustix::io::Errno]) -> bool {
    rustix::io::Errno::from_io_error(error).is_some_and(|errno| errnos.contains(&errno))
}

/// Raises the limit of open files as far as this process may (setrlimit(2)).
pub(crate) fn raise_open_files_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
