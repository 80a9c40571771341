//! Other systems: it cannot be known, and only bytes count as progress.

use std::net::TcpStream;
use std::time::Duration;

pub(crate) fn prepare() {}

pub(crate) fn unacknowledged_bytes(_: &TcpStream, _: Duration) -> Option<u32> {
    None
}
