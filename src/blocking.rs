//! Descriptors that may be non-blocking, such as a terminal or a pipe that is shared with another program: waiting
//! until one is ready, writing all bytes anyway, and standard streams without a buffer. On other systems nothing here
//! waits: the calls themselves block.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
#[cfg(unix)]
use std::os::fd::AsFd as Descriptor;
#[cfg(windows)]
use std::os::windows::io::AsHandle as Descriptor;
use std::time::Duration;

pub(crate) use imp::{has_failed_within, is_readable_within, is_writable_within};

/// Writes all bytes, and waits as long as it takes.
///
/// # Errors
/// Returns an error if they cannot be written.
pub(crate) fn write_all(mut to: impl Write + Descriptor, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) => wait_if_full(&to, error)?,
        }
    }
    while let Err(error) = to.flush() {
        wait_if_full(&to, error)?;
    }
    Ok(())
}

/// Writes as many of the bytes as can be written without waiting, where the kernel can tell (pwritev2(2), `RWF_NOWAIT`):
/// a pipe since Linux 6.4, a socket, `/dev/null`. Returns their number: none for a terminal, or if it failed.
#[cfg(target_os = "linux")]
pub(crate) fn write_at_once(to: &impl Descriptor, bytes: &[u8]) -> usize {
    use rustix::io::{ReadWriteFlags, pwritev2};
    // Wherever the descriptor is.
    const OFFSET: u64 = u64::MAX;
    pwritev2(to, &[io::IoSlice::new(bytes)], OFFSET, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

/// Other systems cannot tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn write_at_once(_: &impl Descriptor, _: &[u8]) -> usize {
    0
}

/// Writes the bytes for which there is room now: after poll(2) a write of `PIPE_BUF` bytes, which is at least 512, does
/// not block (pipe(7)).
pub(crate) fn write_without_waiting(mut to: impl Write + Descriptor, bytes: &[u8]) {
    const AT_ONCE: usize = 512;
    for piece in bytes.chunks(AT_ONCE) {
        let has_room = is_writable_within(Some(Duration::ZERO), &to).unwrap_or(false);
        if !has_room || imp::write_unbuffered(&mut to, piece).ok() != Some(piece.len()) {
            return;
        }
    }
}

/// Waits until writing may be tried again.
///
/// # Errors
/// Returns the error if it is of another kind.
fn wait_if_full(to: &impl Descriptor, error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::WouldBlock => is_writable_within(None, to).map(|_| ()),
        _ => Err(error),
    }
}

/// A standard stream as a file, without the buffer of `std`.
///
/// # Errors
/// Returns an error if there is no descriptor for it.
pub(crate) fn unbuffered(stream: impl Descriptor) -> io::Result<File> {
    #[cfg(unix)]
    let owned = stream.as_fd().try_clone_to_owned()?;
    #[cfg(windows)]
    let owned = stream.as_handle().try_clone_to_owned()?;
    Ok(owned.into())
}

#[cfg(unix)]
mod imp {
    use std::io::{self, Write};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;

    /// The buffer of a standard stream would be written at the end of the program, whether there is room or not.
    pub(super) fn write_unbuffered(to: &mut (impl Write + AsFd), bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(to, bytes)?)
    }

    /// Waits until there is something to read, at most this long, and returns whether there is (poll(2)).
    ///
    /// # Errors
    /// Returns an error if that cannot be known.
    pub(crate) fn is_readable_within(time: Option<Duration>, from: &impl AsFd) -> io::Result<bool> {
        is_ready_within(time, from, PollFlags::IN)
    }

    /// Waits until there is room for something to write, at most this long, and returns whether there is (poll(2)).
    ///
    /// # Errors
    /// Returns an error if that cannot be known.
    pub(crate) fn is_writable_within(time: Option<Duration>, to: &impl AsFd) -> io::Result<bool> {
        is_ready_within(time, to, PollFlags::OUT)
    }

    /// Waits until the connection has failed or has ended in both directions, at most this long, and returns whether it has
    /// (poll(2)).
    ///
    /// # Errors
    /// Returns an error if that cannot be known.
    pub(crate) fn has_failed_within(time: Option<Duration>, connection: &impl AsFd) -> io::Result<bool> {
        is_ready_within(time, connection, PollFlags::empty())
    }

    fn is_ready_within(time: Option<Duration>, descriptor: &impl AsFd, for_what: PollFlags) -> io::Result<bool> {
        let started = Instant::now();
        loop {
            let left = time.map(|time| time.saturating_sub(started.elapsed()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(descriptor, for_what)], left.as_ref()) {
                Err(Errno::INTR) => {}
                polled => return Ok(polled? > 0),
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io::{self, Write};
    use std::time::Duration;

    pub(super) fn write_unbuffered(to: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        let written = to.write(bytes)?;
        to.flush()?;
        Ok(written)
    }

    pub(crate) fn is_readable_within<T>(_: Option<Duration>, _: &T) -> io::Result<bool> {
        Ok(true)
    }

    pub(crate) fn is_writable_within<T>(_: Option<Duration>, _: &T) -> io::Result<bool> {
        Ok(true)
    }

    pub(crate) fn has_failed_within<T>(_: Option<Duration>, _: &T) -> io::Result<bool> {
        Ok(false)
    }
}
