//! Other systems: one address after the other, each with its share of the time.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Clock, Refusal, into_stream, new_socket};

/// Connects to the first address that answers; each gets the time of `attempt`, or an equal share of what the clock
/// leaves.
///
/// # Errors
/// Returns what each address has answered.
pub(super) fn first_to_answer(
    addresses: &[SocketAddr],
    attempt: Option<Duration>,
    clock: &mut Clock,
) -> Result<TcpStream, Vec<Refusal>> {
    let mut refusals = Vec::new();
    for (tried, &address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = clock.until_limit().map(|left| left / untried);
        match connect_to(address, attempt.or(share).map(|time| time.min(share.unwrap_or(time)))) {
            Ok(stream) => return Ok(stream),
            Err(error) => refusals.push((address, error)),
        }
    }
    Err(refusals)
}

fn connect_to(address: SocketAddr, timeout: Option<Duration>) -> io::Result<TcpStream> {
    let socket = new_socket(address)?;
    match timeout {
        Some(timeout) => socket.connect_timeout(&address.into(), timeout.max(Duration::from_millis(1)))?,
        None => socket.connect(&address.into())?,
    }
    into_stream(socket)
}
