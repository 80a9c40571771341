//! A TCP connection whose end tells the truth: it resets unless it was finished, and a call on it gives up once the peer
//! makes no progress.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{SockRef, TcpKeepalive};

use super::unacked;

/// Parts of the timeout after which a blocked call is looked at. Counted rather than timed, so that suspending this
/// machine costs one part and not the whole timeout.
const SLICES: u32 = 4;

/// Bytes that may be queued for a client on this machine; the kernel doubles them for its own needs, and allows every
/// process this many (`net.core.wmem_max`, socket(7)).
const LOOPBACK_SEND_BUFFER: usize = 208 * 1024;

/// A connection that ends in RST, which tells the peer that the transfer failed, unless it was finished: then it ends in
/// FIN, which tells the peer that all went well. That holds however the process ends, SIGKILL included.
pub(crate) struct Connection {
    stream: TcpStream,
    timeout: Option<Duration>,
}

impl Connection {
    /// Takes over a stream that was connected or accepted. Calls on it fail with [`io::ErrorKind::TimedOut`] after
    /// `timeout` without progress; `None` waits forever.
    ///
    /// # Errors
    /// Returns an error if a socket option is refused.
    pub(crate) fn new(stream: TcpStream, timeout: Option<Duration>) -> Result<Self> {
        let connection = Self { stream, timeout };
        connection.reset_on_drop()?;
        connection.detect_dead_peer().context("could not set keepalive and TCP_USER_TIMEOUT")?;
        let slice = timeout.map(|timeout| (timeout / SLICES).max(Duration::from_millis(1)));
        connection.stream.set_read_timeout(slice).context("could not set SO_RCVTIMEO")?;
        connection.stream.set_write_timeout(slice).context("could not set SO_SNDTIMEO")?;
        Ok(connection)
    }

    /// The stream itself, for calls that `std` does not have; wrap them in [`Self::retry_until_stalled`].
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The longest time without progress.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// From now on dropping the connection sends RST and discards what is queued (`SO_LINGER` of zero, socket(7)).
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(crate) fn reset_on_drop(&self) -> Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).context("could not set SO_LINGER")
    }

    /// From now on dropping the connection sends what is queued and then FIN.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(crate) fn finish_on_drop(&self) -> Result<()> {
        SockRef::from(&self.stream).set_linger(None).context("could not clear SO_LINGER")
    }

    /// Tells the peer that this was the last byte (shutdown(2)); it can still send. Stops resetting on drop first: with
    /// the option left on, a process that is killed after the half-close would discard what is still queued.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused or the connection has failed.
    pub(crate) fn half_close(&self) -> Result<()> {
        self.finish_on_drop()?;
        self.stream.shutdown(Shutdown::Write).context("could not half-close the connection")
    }

    /// Whether the peer has sent something that was not read yet.
    ///
    /// # Errors
    /// Returns an error if the connection has failed.
    pub(crate) fn has_unread_data(&self) -> Result<bool> {
        self.peek_without_waiting().context("the connection failed")
    }

    fn peek_without_waiting(&self) -> io::Result<bool> {
        self.stream.set_nonblocking(true)?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match peeked {
            Ok(bytes) => Ok(bytes > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends every piece at once: waiting for more (RFC 896) would only delay a sender that reads from a slow pipe.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(crate) fn disable_nagle(&self) -> Result<()> {
        self.stream.set_nodelay(true).context("could not set TCP_NODELAY")
    }

    /// Bounds what is queued for a client on this machine, so that it finds the bytes in the processor's cache; that
    /// makes a transfer as fast as a local copy. Over a network the kernel sizes the queue to the path (`tcp_wmem`,
    /// tcp(7)), and a bound would only slow it down.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(crate) fn limit_loopback_send_buffer(&self) -> Result<()> {
        let (Ok(local), Ok(peer)) = (self.stream.local_addr(), self.stream.peer_addr()) else { return Ok(()) };
        if local.ip() == peer.ip() || peer.ip().to_canonical().is_loopback() {
            let socket = SockRef::from(&self.stream);
            socket.set_send_buffer_size(LOOPBACK_SEND_BUFFER).context("could not set SO_SNDBUF")?;
        }
        Ok(())
    }

    /// The error that a failed connection has kept, which reading it clears (`SO_ERROR`, socket(7)).
    ///
    /// # Errors
    /// Returns that error.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// Repeats a call on the connection until it moves something or fails, or the peer has made no progress for the
    /// whole timeout: neither bytes that this process read or wrote, nor acknowledgements of bytes that are still
    /// queued. A call that a signal interrupted is repeated too.
    ///
    /// # Errors
    /// Returns the call's error, or [`io::ErrorKind::TimedOut`] for a stall, whether it was found here or by the kernel
    /// (`TCP_USER_TIMEOUT` and keepalive, tcp(7)).
    pub(crate) fn retry_until_stalled<T>(&self, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        retry_until_stalled(attempt, || unacked::unacknowledged_bytes(&self.stream)).map_err(|error| {
            match (error.kind(), self.timeout) {
                (io::ErrorKind::TimedOut, Some(timeout)) => {
                    let text = format!("no progress for {}", humantime::format_duration(timeout));
                    io::Error::new(io::ErrorKind::TimedOut, text)
                }
                (io::ErrorKind::TimedOut, None) => io::Error::new(error.kind(), "connection timed out"),
                _ => error,
            }
        })
    }

    /// Lets the kernel detect a peer whose machine or network is gone: keepalive while nothing is under way (RFC 1122
    /// section 4.2.3.6), `TCP_USER_TIMEOUT` while something is (RFC 5482). Without a timeout both stay as the system
    /// has them.
    fn detect_dead_peer(&self) -> io::Result<()> {
        const PROBES: u32 = 3;
        const SECONDS: (u64, u64) = (1, 32_767);
        let Some(timeout) = self.timeout else { return Ok(()) };
        let socket = SockRef::from(&self.stream);
        let interval = Duration::from_secs((timeout.as_secs() / u64::from(PROBES + 1)).clamp(SECONDS.0, SECONDS.1));
        let keepalive = TcpKeepalive::new().with_time(interval).with_interval(interval);
        #[cfg(not(windows))]
        let keepalive = keepalive.with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(timeout.clamp(Duration::from_millis(1), Duration::from_secs(SECONDS.1))))?;
        Ok(())
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry_until_stalled(|| (&self.stream).read(buffer))
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry_until_stalled(|| (&self.stream).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn retry_until_stalled<T>(
    mut attempt: impl FnMut() -> io::Result<T>,
    mut unacknowledged: impl FnMut() -> Option<u32>,
) -> io::Result<T> {
    let mut idle_slices = 0;
    let mut last_unacknowledged = None;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_end_of_slice(&error) => {
                let now = unacknowledged();
                let progressed = now.zip(last_unacknowledged).is_some_and(|(now, before)| now < before);
                idle_slices = if progressed { 0 } else { idle_slices + 1 };
                last_unacknowledged = now;
                if idle_slices == SLICES {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            moved_or_failed => return moved_or_failed,
        }
    }
}

/// Windows reports the end of a socket timeout as `WSAETIMEDOUT`, other systems as `EAGAIN`.
fn is_end_of_slice(error: &io::Error) -> bool {
    error.kind() == if cfg!(windows) { io::ErrorKind::TimedOut } else { io::ErrorKind::WouldBlock }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice_ended() -> io::Result<usize> {
        Err(if cfg!(windows) { io::ErrorKind::TimedOut } else { io::ErrorKind::WouldBlock }.into())
    }

    /// Runs a call that ends a slice without progress each time, with what is unacknowledged at the end of each slice;
    /// returns the number of calls until it was given up on.
    fn calls_until_stalled(unacknowledged: &[Option<u32>]) -> usize {
        let mut calls = 0;
        let mut answers = unacknowledged.iter().copied();
        let attempt = || {
            calls += 1;
            slice_ended()
        };
        let result = retry_until_stalled(attempt, || answers.next().flatten());
        assert_eq!(result.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        calls
    }

    #[test]
    fn a_peer_is_given_up_on_after_all_slices_without_progress() {
        assert_eq!(calls_until_stalled(&[]), 4);
        assert_eq!(calls_until_stalled(&[Some(9); 4]), 4);
        assert_eq!(calls_until_stalled(&[Some(9), Some(10), Some(11), Some(12)]), 4);
    }

    #[test]
    fn acknowledged_bytes_restart_the_count() {
        assert_eq!(calls_until_stalled(&[Some(9), Some(8), Some(8), Some(8), Some(8), Some(8)]), 6);
        assert_eq!(calls_until_stalled(&[Some(9), Some(9), Some(9), Some(1), Some(1), Some(1), Some(1), Some(1)]), 8);
    }

    #[test]
    fn interrupted_calls_are_repeated_and_other_errors_returned() {
        let mut results = [Err(io::ErrorKind::Interrupted.into()), slice_ended(), Ok(7)].into_iter();
        let moved = retry_until_stalled(|| results.next().unwrap_or(Ok(0)), || None);
        assert_eq!(moved.map_err(|error| error.kind()), Ok(7));
        let failed = retry_until_stalled(|| Err::<(), _>(io::ErrorKind::ConnectionReset.into()), || None);
        assert_eq!(failed.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    }
}
