//! The TCP socket of a connection: how its end looks to the peer, and calls on it that give up once the peer makes no
//! progress.

#[cfg(unix)]
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{SockRef, TcpKeepalive};

use super::connection::Unread;
use super::stall::{self, Acknowledged, Intervals, is_end_of_interval, retry_until_stalled};
use crate::blocking;

/// Bytes that a peer may send besides its reply once it has acknowledged everything.
const DRAIN_LIMIT: usize = 1024 * 1024;

/// A connected TCP socket. It ends in RST when it is dropped, unless that is changed.
pub(crate) struct Socket {
    /// Shared with those who may end it meanwhile.
    stream: Arc<TcpStream>,
    timeout: Option<Duration>,
    intervals: Intervals,
    /// Whether the peer was seen to have ended what it sends: all of it has arrived.
    #[cfg(unix)]
    has_all: Cell<bool>,
}

impl Socket {
    /// Takes over a stream that was connected or accepted. Calls on it fail with [`io::ErrorKind::TimedOut`] after
    /// `timeout` without progress; `None` waits forever.
    ///
    /// # Errors
    /// Returns an error if a socket option is refused.
    pub(super) fn new(stream: impl Into<Arc<TcpStream>>, timeout: Option<Duration>) -> Result<Self> {
        let stream = stream.into();
        let socket = Self {
            stream,
            timeout,
            intervals: Intervals::of(timeout),
            #[cfg(unix)]
            has_all: Cell::new(false),
        };
        socket.reset_on_drop()?;
        // Waiting for more (RFC 896) would only delay a sender that reads from a slow pipe.
        socket.stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
        socket.detect_dead_peer().context("could not set keepalive")?;
        socket.stream.set_read_timeout(socket.intervals.length).context("could not set SO_RCVTIMEO")?;
        socket.stream.set_write_timeout(socket.intervals.length).context("could not set SO_SNDTIMEO")?;
        Ok(socket)
    }

    /// The stream itself, for calls that `std` does not have; wrap them in [`Self::retry_until_stalled`].
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// Returns an error if the connection has failed.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        let peer = self.stream.peer_addr()?;
        Ok(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }

    /// From now on dropping the connection sends RST and discards what is queued (`SO_LINGER` of zero, socket(7)).
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(crate) fn reset_on_drop(&self) -> Result<()> {
        SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).context("could not set SO_LINGER")
    }

    /// From now on dropping the connection sends what is queued and then FIN.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(crate) fn finish_on_drop(&self) -> Result<()> {
        SockRef::from(&*self.stream).set_linger(None).context("could not clear SO_LINGER")
    }

    /// Sends FIN behind what is queued (shutdown(2)). The peer can still send.
    ///
    /// # Errors
    /// Returns an error if the connection has failed: [`io::ErrorKind::ConnectionReset`] if the peer has reset it, which
    /// shutdown(2) itself calls "not connected".
    pub(super) fn half_close(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| match error.kind() {
            io::ErrorKind::NotConnected => io::ErrorKind::ConnectionReset.into(),
            _ => error,
        })
    }

    /// The longest time without progress.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// What has arrived that was not read yet.
    ///
    /// # Errors
    /// Returns an error if the connection has failed.
    pub(super) fn unread(&self) -> io::Result<Unread> {
        match self.without_waiting(|stream| stream.peek(&mut [0])) {
            Ok(0) => Ok(Unread::End),
            Ok(_) => Ok(Unread::Bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Unread::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Reads what has arrived, and fails with [`io::ErrorKind::WouldBlock`] if that is nothing.
    ///
    /// # Errors
    /// Returns that error, or one if the connection has failed.
    pub(super) fn read_available(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.without_waiting(|mut stream| stream.read(buffer))
    }

    fn without_waiting<T>(&self, call: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        self.stream.set_nonblocking(true)?;
        let result = call(&self.stream);
        self.stream.set_nonblocking(false)?;
        result
    }

    /// Reads as soon as anything has arrived, before the deadline; `None` waits forever. Call
    /// [`Self::restore_read_timeout`] after the last use.
    ///
    /// # Errors
    /// Returns [`io::ErrorKind::TimedOut`] after the deadline, or an error if the connection has failed.
    pub(super) fn read_before(&self, deadline: Option<Instant>, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(left)?;
            match (&*self.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_end_of_interval(&error) => {}
                result => return result,
            }
        }
    }

    /// Makes reads wait for an interval of the timeout again.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused.
    pub(super) fn restore_read_timeout(&self) -> io::Result<()> {
        self.stream.set_read_timeout(self.intervals.length)
    }

    /// Checks whether the connection has failed; this clears the error that the socket keeps (`SO_ERROR`, socket(7)).
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
    /// (keepalive and `tcp_retries2`, tcp(7)).
    pub(crate) fn retry_until_stalled<T>(&self, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut acknowledged = Acknowledged::default();
        let progressed = || acknowledged.more(self.unacknowledged_bytes());
        retry_until_stalled(self.intervals.count, attempt, progressed).map_err(|error| self.named(error))
    }

    /// Names a stall in the text of its error.
    fn named(&self, error: io::Error) -> io::Error {
        match (error.kind(), self.timeout) {
            (io::ErrorKind::TimedOut, Some(timeout)) => {
                let text = format!("no progress for {}", humantime::format_duration(timeout));
                io::Error::new(io::ErrorKind::TimedOut, text)
            }
            (io::ErrorKind::TimedOut, None) => io::Error::new(error.kind(), "connection timed out"),
            _ => error,
        }
    }

    /// Waits until `input` has something to read, or its end. No call on the connection shows meanwhile that the peer is
    /// gone, so it is watched as well: a reset is an error, and so is a peer that does not acknowledge what is queued; a
    /// half-close is not one (poll(2)).
    ///
    /// # Errors
    /// Returns an error if the connection has failed, or [`io::ErrorKind::TimedOut`] for a stall.
    #[cfg(unix)]
    pub(crate) fn wait_for_input(&self, input: &File) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let interval = self.intervals.length.and_then(|length| Timespec::try_from(length).ok());
        let attempt = || {
            let mut watched = [PollFd::new(input, PollFlags::IN), PollFd::new(&self.stream, PollFlags::empty())];
            match poll(&mut watched, interval.as_ref())? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ if !watched[0].revents().is_empty() => Ok(()),
                _ => Err(self.failure()?),
            }
        };
        let mut acknowledged = Acknowledged::default();
        let progressed = || match self.unacknowledged_bytes() {
            None | Some(0) => true,
            unacknowledged => acknowledged.more(unacknowledged),
        };
        retry_until_stalled(self.intervals.count, attempt, progressed).map_err(|error| self.named(error))
    }

    #[cfg(not(unix))]
    pub(crate) fn wait_for_input(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    /// Waits as long as it takes until writing to `output` may be tried again, or until the connection has failed
    /// before the peer has ended what it sends: a reset after that loses nothing (poll(2)), and comes by itself from a
    /// peer that has closed the connection, once its kernel has forgotten it (tcp(7), `tcp_fin_timeout`).
    ///
    /// # Errors
    /// Returns an error if the connection has failed.
    #[cfg(unix)]
    pub(crate) fn wait_for_output(&self, output: &File) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        #[cfg(target_os = "linux")]
        let end = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let end = PollFlags::empty();
        let mut watched = [PollFd::new(output, PollFlags::OUT), PollFd::new(&self.stream, end)];
        rustix::io::retry_on_intr(|| poll(&mut watched, None))?;
        match watched.each_ref().map(PollFd::revents) {
            [_, socket] if !self.has_all.get() && socket.intersects(PollFlags::ERR | PollFlags::HUP) => {
                Err(self.failure()?)
            }
            [ready, socket] => {
                self.has_all.set(self.has_all.get() || socket.intersects(end));
                if ready.is_empty() { blocking::is_writable_within(None, output).map(|_| ()) } else { Ok(()) }
            }
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn wait_for_output(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    /// Why the connection has failed.
    fn failure(&self) -> io::Result<io::Error> {
        Ok(self.stream.take_error()?.unwrap_or(io::ErrorKind::ConnectionReset.into()))
    }

    /// Waits until at least a third of the send buffer is free (poll(2), tcp(7)).
    ///
    /// # Errors
    /// Returns an error if the connection has failed, or [`io::ErrorKind::TimedOut`] for a stall.
    pub(super) fn wait_for_room(&self) -> io::Result<()> {
        self.retry_until_stalled(|| {
            let has_room = blocking::is_writable_within(self.intervals.length, &self.stream)?;
            if has_room { self.check() } else { Err(io::ErrorKind::WouldBlock.into()) }
        })
    }

    /// Waits until the peer has acknowledged all that was sent, where that can be known and there is a timeout.
    ///
    /// # Errors
    /// Returns an error if the connection has failed, or [`io::ErrorKind::TimedOut`] for a stall.
    pub(crate) fn wait_until_acknowledged(&self) -> io::Result<()> {
        let Some(interval) = self.intervals.length else { return Ok(()) };
        // Most peers have acknowledged everything by then.
        let mut pause = interval.min(Duration::from_millis(10));
        let started = Instant::now();
        self.retry_until_stalled(|| {
            if blocking::has_failed_within(Some(pause), &self.stream)? {
                return Err(self.failure()?);
            }
            pause = interval;
            // A count from before this call proves nothing.
            let age = started.elapsed().min(interval / 2);
            if matches!(stall::unacknowledged_bytes(&self.stream, age), Some(1..)) {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        })
    }

    /// Whether the peer has ended what it sends, or the connection has failed; there can be unread bytes before that
    /// (poll(2)).
    #[cfg(target_os = "linux")]
    pub(crate) fn has_ended(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.stream, PollFlags::RDHUP)], Some(&no_time)) != Ok(0)
    }

    /// Unread bytes can hide the end here.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.unread(), Ok(Unread::Nothing))
    }

    /// Whether the connection has failed, also after its error was reported (poll(2)).
    pub(crate) fn has_failed(&self) -> bool {
        blocking::has_failed_within(Some(Duration::ZERO), &self.stream).unwrap_or(true)
    }

    /// Waits for the first byte or the end, and returns whether neither has come after this long. What has come, an error
    /// too, is left for the next read (poll(2)).
    pub(crate) fn is_silent_for(&self, time: Duration) -> bool {
        blocking::is_readable_within(Some(time), &self.stream).is_ok_and(|has_spoken| !has_spoken)
    }

    /// Reads to EOF and discards what arrives: closing a connection with unread data would reset it, and discard what
    /// the peer has not acknowledged yet (RFC 2525 section 2.17). A peer that goes on sending is abandoned once it has
    /// acknowledged everything and has sent enough or gone on for the timeout, or once it acknowledges nothing for the
    /// whole timeout.
    pub(crate) fn drain(&self) {
        let started = Instant::now();
        let interval = self.intervals.look_every();
        let mut acknowledged = Acknowledged::default();
        let (mut drained, mut idle, mut last_look) = (0, 0, started);
        let mut buffer = [0; 16 * 1024];
        loop {
            match (&mut &*self).read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(arrived) => drained += arrived,
            }
            if last_look.elapsed() < interval {
                continue;
            }
            last_look = Instant::now();
            let is_over = match self.unacknowledged_bytes() {
                None | Some(0) => {
                    drained >= DRAIN_LIMIT || self.timeout.is_some_and(|limit| started.elapsed() >= limit)
                }
                unacknowledged => {
                    idle = if acknowledged.more(unacknowledged) { 0 } else { idle + 1 };
                    self.timeout.is_some() && idle >= self.intervals.count
                }
            };
            if is_over {
                return;
            }
        }
    }

    /// Whether the peer has acknowledged all that was sent; false where that cannot be known, or no longer.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.unacknowledged_bytes() == Some(0)
    }

    /// Bytes that the peer had not acknowledged, half an interval ago at the earliest; `None` if that cannot be known.
    fn unacknowledged_bytes(&self) -> Option<u32> {
        stall::unacknowledged_bytes(&self.stream, self.intervals.look_every() / 2)
    }

    /// Lets the kernel detect a peer whose machine or network is gone while there is nothing to send and nothing is read
    /// (keepalive, RFC 1122 section 4.2.3.6). It gives up after more than twice the timeout, so that an outage within the
    /// timeout ends nothing; without a timeout after 18 minutes, about as late as on bytes that are not acknowledged
    /// (`tcp_retries2`, tcp(7)).
    ///
    /// `TCP_USER_TIMEOUT` (RFC 5482) is not set: where a peer's window is smaller than what is queued, Linux counts it
    /// from the first probe of a closed window and not from the last progress, so that any value ends a slow peer.
    fn detect_dead_peer(&self) -> io::Result<()> {
        #[cfg(not(windows))]
        const PROBES: u32 = 8;
        const WITHOUT_TIMEOUT: Duration = Duration::from_secs(120);
        const SECONDS: (u64, u64) = (1, 32_767);
        let quarter = |timeout: Duration| Duration::from_secs((timeout.as_secs() / 4).clamp(SECONDS.0, SECONDS.1));
        let interval = self.timeout.map_or(WITHOUT_TIMEOUT, quarter);
        let keepalive = TcpKeepalive::new().with_time(interval).with_interval(interval);
        #[cfg(not(windows))]
        let keepalive = keepalive.with_retries(PROBES);
        SockRef::from(&*self.stream).set_tcp_keepalive(&keepalive)
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry_until_stalled(|| (&*self.stream).read(buffer))
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry_until_stalled(|| (&*self.stream).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
