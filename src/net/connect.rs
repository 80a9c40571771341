//! Connecting: resolve the host, try its addresses, and try again for as long as `--wait` says.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ui::text;

/// How often a client that waits for its server tries again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Connects to the first of the host's addresses that answers. While none does, tries all of them again for as long as
/// `wait` says, and calls `on_wait` once; every round is bounded by `timeout`, which its addresses share.
///
/// # Errors
/// Returns an error if the host cannot be resolved, or with the reason why each address did not answer in the last
/// round.
pub(crate) fn connect(
    host: &str,
    port: u16,
    wait: Duration,
    timeout: Option<Duration>,
    on_wait: impl FnOnce(&str),
) -> Result<TcpStream> {
    let started = Instant::now();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let place = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
    let place = text::printable(place.as_bytes());
    let mut on_wait = Some(on_wait);
    loop {
        let (failed, refusal) = match resolve(bare, port) {
            Ok(addresses) => match connect_to_any(&addresses, timeout) {
                Ok(connection) => return Ok(connection),
                Err(refusal) => (format!("could not connect to {place}"), refusal),
            },
            Err(refusal) => (format!("could not resolve host {}", text::printable(bare.as_bytes())), refusal),
        };
        if started.elapsed() >= wait || refusal.is_final {
            bail!("{failed}: {}", refusal.reason);
        }
        if let Some(on_wait) = on_wait.take() {
            on_wait(&format!("waiting for {place}: {}", refusal.reason));
        }
        thread::sleep(RETRY_INTERVAL.min(wait.saturating_sub(started.elapsed())));
    }
}

/// Why there is no connection.
struct Refusal {
    reason: String,
    /// The server accepted and then reset the connection; don't retry.
    is_final: bool,
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    let refusal = |reason| Refusal { reason, is_final: false };
    let addresses: Vec<_> = (host, port).to_socket_addrs().map_err(|error| refusal(text::reason(&error)))?.collect();
    if addresses.is_empty() { Err(refusal("it has no address".to_owned())) } else { Ok(addresses) }
}

/// Returns the first connection, or what each address answered, in one line; what all answered alike is said once.
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
                // A reset, unlike a refusal, comes from a server that had accepted the connection.
                is_final |= error.kind() == io::ErrorKind::ConnectionReset;
                refusals.push((address, text::reason(&error)));
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
    // Bytes that the peer marks as urgent are bytes of the file like all others; else they would be left out (tcp(7)).
    socket.set_out_of_band_inline(true)?;
    match timeout {
        Some(timeout) => socket.connect_timeout(&address.into(), timeout.max(Duration::from_millis(1)))?,
        None => socket.connect(&address.into())?,
    }
    let connection = TcpStream::from(socket);
    // There is no peer any more if its reset came right after the handshake (getpeername(2)).
    let peer = connection.peer_addr().map_err(|_| io::ErrorKind::ConnectionReset)?;
    if connection.local_addr()? == peer {
        // Trying a free local port for long enough ends in a connection to itself (RFC 9293 section 3.5).
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::net::listener;

    #[test]
    fn an_address_that_answers_is_found_behind_one_that_does_not() -> Result<()> {
        let listener = listener::listen(Some(Ipv4Addr::LOCALHOST.into()), 0)?;
        let closed = SocketAddr::from((Ipv6Addr::LOCALHOST, listener.local_addr()?.port()));
        let addresses = [closed, listener.local_addr()?];
        let connection = connect_to_any(&addresses, Some(Duration::from_secs(10)))
            .map_err(|refusal| anyhow::Error::msg(refusal.reason))?;
        assert_eq!(connection.peer_addr()?, listener.local_addr()?);
        Ok(())
    }
}
