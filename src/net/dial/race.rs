//! Happy Eyeballs (RFC 8305): the next address is tried while the one before it has not answered yet, and the first to
//! answer wins. Connections that are not blocking make it, and one call to poll(2) waits for all of them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::{Clock, Refusal, into_stream, new_socket};

/// How long an address has to answer before the next one is tried as well (RFC 8305 section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// The longest time for one call to poll(2), which is repeated.
const LONGEST_POLL: Duration = Duration::from_secs(3600);

/// Connects to the first address that answers. Gives up when the clock says so, or once the last attempt has had no
/// answer for the time of `attempt`.
///
/// # Errors
/// Returns what each address that was tried has answered.
pub(super) fn first_to_answer(
    addresses: &[SocketAddr],
    attempt: Option<Duration>,
    clock: &mut Clock,
) -> Result<TcpStream, Vec<Refusal>> {
    let mut untried = addresses.iter();
    let mut pending = Vec::new();
    let mut refusals = Vec::new();
    let mut last_start = Instant::now();
    let mut start_next = true;
    loop {
        if start_next || pending.is_empty() || last_start.elapsed() >= NEXT_AFTER {
            match untried.next() {
                Some(&address) => {
                    last_start = Instant::now();
                    match start(address) {
                        Ok(socket) => pending.push((address, socket)),
                        Err(error) => {
                            refusals.push((address, error));
                            start_next = true;
                            continue;
                        }
                    }
                }
                None if pending.is_empty() => return Err(refusals),
                None => {}
            }
        }
        let longest = if untried.len() > 0 { Some(NEXT_AFTER) } else { attempt };
        let longest = longest.map_or(Duration::MAX, |longest| longest.saturating_sub(last_start.elapsed()));
        let is_over = longest.is_zero() && untried.len() == 0;
        let Some(left) = clock.time_left().filter(|_| !is_over) else {
            refusals.extend(pending.into_iter().map(|(address, _)| (address, io::ErrorKind::TimedOut.into())));
            return Err(refusals);
        };
        let refused_before = refusals.len();
        if let Some(stream) = wait(&mut pending, left.min(longest), &mut refusals) {
            return Ok(stream);
        }
        start_next = refusals.len() > refused_before;
    }
}

/// A connection that is under way.
fn start(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Waits until one of them has an answer: returns the first that is connected, and moves those that failed.
fn wait(pending: &mut Vec<(SocketAddr, Socket)>, time: Duration, refusals: &mut Vec<Refusal>) -> Option<TcpStream> {
    let mut watched: Vec<_> = pending.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::OUT)).collect();
    let time = Timespec::try_from(time.min(LONGEST_POLL)).ok();
    // A signal or a failure is no answer.
    let _ = poll(&mut watched, time.as_ref());
    let answered: Vec<_> = watched.iter().map(|socket| !socket.revents().is_empty()).collect();
    let mut connected = None;
    let mut still_pending = Vec::new();
    for ((address, socket), answered) in pending.drain(..).zip(answered) {
        if !answered {
            still_pending.push((address, socket));
        } else if connected.is_none() {
            match finish(socket) {
                Ok(stream) => connected = Some(stream),
                Err(error) => refusals.push((address, error)),
            }
        }
    }
    *pending = still_pending;
    connected
}

/// What the attempt came to (connect(2), `EINPROGRESS`).
fn finish(socket: Socket) -> io::Result<TcpStream> {
    socket.take_error()?.map_or(Ok(()), Err)?;
    socket.set_nonblocking(false)?;
    into_stream(socket)
}
