//! The ioctl for it (`SIOCOUTQ`, tcp(7)) has no safe wrapper, and the question is asked only when a call has been blocked
//! for a while, so the kernel's table of connections answers it (`/proc/net/tcp`, proc(5)).

use std::net::{SocketAddr, TcpStream};

use procfs::net::TcpNetEntry;

/// Bytes that were written to this connection and that its peer has not acknowledged; `None` if that cannot be known.
pub(crate) fn unacknowledged_bytes(connection: &TcpStream) -> Option<u32> {
    let (local, peer) = (connection.local_addr().ok()?, connection.peer_addr().ok()?);
    let table = if local.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
    let is_ours = |entry: &TcpNetEntry| same(entry.local_address, local) && same(entry.remote_address, peer);
    table.ok()?.into_iter().find(is_ours).map(|entry| entry.tx_queue)
}

/// The table has neither the scope nor the flow of an IPv6 address.
fn same(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}
