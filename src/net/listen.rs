//! Listening on one address or on all of them, and the errors of accept(2) after which it goes on.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Error, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::text;

/// Connections that the kernel completes and keeps until they are accepted; it caps this at `net.core.somaxconn`
/// (listen(2)).
const BACKLOG: i32 = 4096;

/// Listens on a port of one address (the port in it is ignored), or of all addresses: IPv6 and IPv4 through one
/// dual-stack socket where the system has IPv6, otherwise IPv4. Accepting from it does not block.
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
    // The port is free again as soon as a server that had it has ended (on Windows the option would share it).
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit both. Not even a kill between accept and the first line after it ends in FIN; and bytes that
    // the peer marks as urgent are bytes of the file like all others.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_out_of_band_inline(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts a connection; an IPv4-mapped IPv6 address is returned as the IPv4 address that it stands for. `None` if none is
/// waiting.
///
/// # Errors
/// Returns an error for which accept(2) may succeed later (see [`is_temporary`]), or one of the listener itself.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    match listener.accept() {
        Ok((stream, peer)) => {
            // On some systems it inherits this from the listener.
            stream.set_nonblocking(false)?;
            Ok(Some((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()))))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether accept(2) failed because of one connection, because a firewall forbids it (EPERM), or because descriptors or
/// memory are exhausted, here or in the whole system.
#[cfg(target_os = "linux")]
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const OF_ONE_CONNECTION: [Errno; 11] = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NONET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    let errno = Errno::from_io_error(error);
    is_shortage(error) || errno.is_some_and(|errno| OF_ONE_CONNECTION.contains(&errno))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_temporary(error: &io::Error) -> bool {
    // On macOS a connection that was reset before it is accepted has no address, which std calls an invalid one.
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, PermissionDenied};
    is_shortage(error) || matches!(error.kind(), ConnectionAborted | ConnectionReset | InvalidInput | PermissionDenied)
}

/// Whether descriptors or memory are exhausted, here or in the whole system.
#[cfg(unix)]
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const SHORTAGES: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| SHORTAGES.contains(&errno))
}

#[cfg(not(unix))]
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

/// Raises the limit of open files as far as this process may, and returns it (setrlimit(2)).
pub(crate) fn raise_open_files_limit() -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let current = getrlimit(Resource::Nofile).current;
        current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
    }
    #[cfg(not(unix))]
    usize::MAX
}
