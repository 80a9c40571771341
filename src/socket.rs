//! Listening, connecting, and every socket option, each with its why. The two states of a connection are named here:
//! one whose end says "failed" (RST), and one whose end says "whole" (FIN).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::report;

/// Connections that the kernel completes and keeps for us until they are accepted; it caps this at
/// `net.core.somaxconn` (listen(2)).
const BACKLOG: i32 = 4096;

/// Bytes that may be queued for a client on this machine; the kernel doubles them for its own needs, and allows
/// everyone so many (`net.core.wmem_max`, socket(7)).
const LOCAL_QUEUE: usize = 208 * 1024;

/// How often a client that waits for its server tries again.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Listens on one address, or on every one: IPv6 and IPv4 through one socket where the system has IPv6, else IPv4.
///
/// # Errors
/// Names the address and the reason, such as a port in use.
pub fn listen(bind: Option<IpAddr>, port: u16) -> Result<TcpListener> {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let address = bind.map_or(everywhere, |ip| SocketAddr::from((ip, port)));
    let listener = match listen_on(address) {
        Err(error) if bind.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            listen_on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        listener => listener,
    };
    listener.with_context(|| match bind {
        Some(_) => format!("could not listen on {address}"),
        None => format!("could not listen on port {port}"),
    })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A port is free again at once after the server that had it (on Windows the option would mean sharing it).
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit this, so that not even a kill between accept and the next line ends in FIN.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// From now on a close that was not asked for (SIGKILL, `?`, a panic) sends RST, which tells the peer that the
/// transfer failed. `SO_LINGER` of zero, socket(7).
///
/// # Errors
/// The socket refuses the option.
pub fn reset_on_close(connection: &TcpStream) -> io::Result<()> {
    SockRef::from(connection).set_linger(Some(Duration::ZERO))
}

/// From now on a close sends what is queued and then FIN, which tells the peer that all went well.
///
/// # Errors
/// The socket refuses the option.
pub fn finish_on_close(connection: &TcpStream) -> io::Result<()> {
    SockRef::from(connection).set_linger(None)
}

/// Makes the kernel notice a peer that is gone without a word: keepalive while nothing is under way (RFC 1122
/// section 4.2.3.6), `TCP_USER_TIMEOUT` while something is (RFC 5482). `None` leaves both as the system has them.
///
/// # Errors
/// The socket refuses an option.
pub fn notice_silence(connection: &TcpStream, limit: Option<Duration>) -> io::Result<()> {
    const PROBES: u32 = 3;
    const SECONDS: (u64, u64) = (1, 32_767);
    let Some(limit) = limit else { return Ok(()) };
    let socket = SockRef::from(connection);
    let every = Duration::from_secs((limit.as_secs() / u64::from(PROBES + 1)).clamp(SECONDS.0, SECONDS.1));
    let keepalive = TcpKeepalive::new().with_time(every).with_interval(every);
    #[cfg(not(windows))]
    let keepalive = keepalive.with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limit.clamp(Duration::from_millis(1), Duration::from_secs(SECONDS.1))))?;
    Ok(())
}

/// Sends every piece at once: what waits for more (RFC 896) would only delay a sender that reads from a slow pipe.
///
/// # Errors
/// The socket refuses the option.
pub fn send_at_once(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)
}

/// Bounds what is queued for a client on this machine, so that it finds the bytes in the processor's cache: that makes
/// a whole transfer as fast as a local copy. On a network the kernel fits the queue to the path (`tcp_wmem`, tcp(7)),
/// and a bound would only slow it down.
///
/// # Errors
/// The socket refuses the option.
pub fn keep_local_queue_short(connection: &TcpStream) -> io::Result<()> {
    let (local, peer) = (connection.local_addr()?.ip(), connection.peer_addr()?.ip());
    if local == peer || peer.to_canonical().is_loopback() {
        SockRef::from(connection).set_send_buffer_size(LOCAL_QUEUE)?;
    }
    Ok(())
}

/// Whether the peer has sent something that nobody has read yet.
///
/// # Errors
/// The connection failed.
pub fn has_unread(connection: &TcpStream) -> io::Result<bool> {
    connection.set_nonblocking(true)?;
    let peeked = connection.peek(&mut [0]);
    connection.set_nonblocking(false)?;
    match peeked {
        Ok(bytes) => Ok(bytes > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Connects to the first of the host's addresses that answers. While nobody does, tries all of them again for as
/// long as `wait` says, and tells `on_wait` once; every round is bounded by `timeout`, which its addresses share.
///
/// # Errors
/// The host is unknown, or the reason why each address did not answer in the last round.
pub fn connect(
    host: &str,
    port: u16,
    wait: Duration,
    timeout: Option<Duration>,
    on_wait: impl FnOnce(&str),
) -> Result<TcpStream> {
    let started = Instant::now();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let place = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
    let place = report::printable(place.as_bytes());
    let mut on_wait = Some(on_wait);
    loop {
        let (failed, refusal) = match resolve(bare, port) {
            Ok(addresses) => match connect_to_any(&addresses, timeout) {
                Ok(connection) => return Ok(connection),
                Err(refusal) => (format!("could not connect to {place}"), refusal),
            },
            Err(refusal) => (format!("could not find host {}", report::printable(bare.as_bytes())), refusal),
        };
        if started.elapsed() >= wait || refusal.is_final {
            bail!("{failed}: {}", refusal.reason);
        }
        if let Some(on_wait) = on_wait.take() {
            on_wait(&format!("waiting for {place}: {}", refusal.reason));
        }
        thread::sleep(RETRY_EVERY.min(wait.saturating_sub(started.elapsed())));
    }
}

/// Why there is no connection.
struct Refusal {
    reason: String,
    /// Somebody was there, and did not want us.
    is_final: bool,
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    let refusal = |reason| Refusal { reason, is_final: false };
    let addresses: Vec<_> = (host, port).to_socket_addrs().map_err(|error| refusal(report::reason(&error)))?.collect();
    if addresses.is_empty() { Err(refusal("it has no address".to_owned())) } else { Ok(addresses) }
}

/// The first connection, or what each address answered, in one line; what all answered alike is said once.
fn connect_to_any(addresses: &[SocketAddr], timeout: Option<Duration>) -> Result<TcpStream, Refusal> {
    let started = Instant::now();
    let mut refusals = Vec::new();
    let mut is_final = false;
    for (tried, &address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()) / untried);
        match connect_to(address, share) {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                // A reset, unlike a refusal, comes from a server that had us already.
                is_final |= error.kind() == io::ErrorKind::ConnectionReset;
                refusals.push((address, report::reason(&error)));
            }
        }
    }
    let alike = refusals.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let reason = match refusals.first() {
        Some((_, reason)) if alike => reason.clone(),
        _ => refusals.iter().map(|(address, reason)| format!("{reason} ({address})")).collect::<Vec<_>>().join(", "),
    };
    Err(Refusal { reason, is_final })
}

fn connect_to(address: SocketAddr, timeout: Option<Duration>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Bytes that the peer calls urgent are bytes of the file like all others; else they would be left out (tcp(7)).
    socket.set_out_of_band_inline(true)?;
    match timeout {
        Some(timeout) => socket.connect_timeout(&address.into(), timeout.max(Duration::from_millis(1)))?,
        None => socket.connect(&address.into())?,
    }
    let connection = TcpStream::from(socket);
    // There is no peer any more when its reset came right after the handshake (getpeername(2)).
    let peer = connection.peer_addr().map_err(|_| io::ErrorKind::ConnectionReset)?;
    if connection.local_addr()? == peer {
        // Trying a free local port for long enough ends in a connection with oneself (RFC 9293 section 3.5).
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_answers_is_found_behind_one_that_does_not() -> Result<()> {
        let listener = listen(Some(Ipv4Addr::LOCALHOST.into()), 0)?;
        let nobody = SocketAddr::from((Ipv6Addr::LOCALHOST, listener.local_addr()?.port()));
        let addresses = [nobody, listener.local_addr()?];
        let connection = connect_to_any(&addresses, Some(Duration::from_secs(10)))
            .map_err(|refusal| anyhow::Error::msg(refusal.reason))?;
        assert_eq!(connection.peer_addr()?, listener.local_addr()?);
        Ok(())
    }
}
