//! How long to wait for a peer that makes no progress. The kernel's socket timeouts wake a blocked call four times
//! within the limit; the peer has stalled when nothing moved in any of them, neither bytes through our hands nor
//! acknowledgements of bytes that are still queued. A slow peer that still moves is no stall.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::queue;

/// Parts of the limit after which a blocked call is looked at. They are counted, not timed: a machine that stood still
/// has lost one of them, whoever is at the other end.
const SLICES: u32 = 4;

/// A connection whose calls wait for as long as the peer moves.
pub struct PatientStream<'a> {
    stream: &'a TcpStream,
    limit: Option<Duration>,
}

impl<'a> PatientStream<'a> {
    /// Sets `SO_RCVTIMEO` and `SO_SNDTIMEO` (socket(7)); without a limit it waits for ever.
    ///
    /// # Errors
    /// The socket refuses the option.
    pub fn new(stream: &'a TcpStream, limit: Option<Duration>) -> io::Result<Self> {
        let slice = limit.map(|limit| (limit / SLICES).max(Duration::from_millis(1)));
        stream.set_read_timeout(slice)?;
        stream.set_write_timeout(slice)?;
        Ok(Self { stream, limit })
    }

    /// The connection itself.
    #[must_use]
    pub fn stream(&self) -> &'a TcpStream {
        self.stream
    }

    /// The longest time without progress.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Repeats a call on the connection until it moves something, fails, or the peer has stalled. A call that a
    /// signal interrupted is repeated too.
    ///
    /// # Errors
    /// What the call fails with; [`io::ErrorKind::TimedOut`] for a stall, found here or by the kernel
    /// (`TCP_USER_TIMEOUT` and keepalive, tcp(7)).
    pub fn persist<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut idle_slices = 0;
        let mut last_queued = None;
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if slice_ended(&error) => {
                    let queued = queue::unacknowledged(self.stream);
                    let moved = queued.zip(last_queued).is_some_and(|(now, before)| now < before);
                    idle_slices = if moved { 0 } else { idle_slices + 1 };
                    last_queued = queued;
                    if idle_slices == SLICES {
                        return Err(self.stalled());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(self.stalled()),
                moved_or_failed => return moved_or_failed,
            }
        }
    }

    fn stalled(&self) -> io::Error {
        let text = match self.limit {
            Some(limit) => format!("no progress for {}", humantime::format_duration(limit)),
            None => "connection timed out".to_owned(),
        };
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

impl Read for &PatientStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        self.persist(|| stream.read(buffer))
    }
}

impl Write for &PatientStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        self.persist(|| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Windows reports the end of a socket timeout as `WSAETIMEDOUT`, everyone else as `EAGAIN`.
fn slice_ended(error: &io::Error) -> bool {
    error.kind() == if cfg!(windows) { io::ErrorKind::TimedOut } else { io::ErrorKind::WouldBlock }
}
