//! Linux: how many bytes the peer's TCP has not acknowledged yet. The ioctl for it (`SIOCOUTQ`, tcp(7)) has no safe
//! wrapper, and the question is asked only when a call has been blocked for seconds, so the kernel's table of
//! connections answers it (`/proc/net/tcp`, proc(5)). Elsewhere nobody knows, and only bytes count as progress.

use std::net::TcpStream;

/// Bytes that were written to this connection and that its peer has not acknowledged; `None` if nobody can tell.
#[cfg(target_os = "linux")]
pub(crate) fn unacknowledged(connection: &TcpStream) -> Option<u32> {
    let (local, peer) = (connection.local_addr().ok()?, connection.peer_addr().ok()?);
    let table = if local.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
    let ours =
        |entry: &procfs::net::TcpNetEntry| same_end(entry.local_address, local) && same_end(entry.remote_address, peer);
    table.ok()?.into_iter().find(ours).map(|entry| entry.tx_queue)
}

/// The table knows neither scope nor flow of an IPv6 address.
#[cfg(target_os = "linux")]
fn same_end(a: std::net::SocketAddr, b: std::net::SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged(_: &TcpStream) -> Option<u32> {
    None
}
