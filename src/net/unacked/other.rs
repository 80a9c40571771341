//! Other systems: it cannot be known, and only bytes count as progress.

use std::net::TcpStream;

pub(crate) fn unacknowledged_bytes(_: &TcpStream) -> Option<u32> {
    None
}
