//! Writing to what another program may have made non-blocking, such as a terminal or a pipe that is shared with it, and
//! waiting for what becomes readable.

use std::io::{self, ErrorKind, Write};
#[cfg(unix)]
use std::os::fd::AsFd as Pollable;
#[cfg(windows)]
use std::os::windows::io::AsHandle as Pollable;
use std::time::Duration;

/// Writes all bytes, and waits as long as it takes.
///
/// # Errors
/// Returns an error if they cannot be written.
pub(crate) fn write_all(mut to: impl Write + Pollable, mut bytes: &[u8]) -> io::Result<()> {
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

/// Waits until there is something to read (poll(2)).
///
/// # Errors
/// Returns an error if that cannot be known.
pub(crate) fn wait_until_readable(file: &std::fs::File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, poll};
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(file, PollFlags::IN)], None))?;
    }
    let _ = file;
    Ok(())
}

/// Waits until there is something to read, at most this long, and returns whether there is (poll(2)).
///
/// # Errors
/// Returns an error if that cannot be known.
pub(crate) fn is_readable_within(time: Duration, file: &std::fs::File) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let time = Timespec::try_from(time).ok();
        let ready = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(file, PollFlags::IN)], time.as_ref()))?;
        Ok(ready > 0)
    }
    #[cfg(not(unix))]
    {
        let _ = (time, file);
        Ok(true)
    }
}

/// Waits until writing may be tried again (poll(2)).
///
/// # Errors
/// Returns the error if it is of another kind.
fn wait_if_full(to: &impl Pollable, error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::Interrupted => Ok(()),
        #[cfg(unix)]
        ErrorKind::WouldBlock => {
            use rustix::event::{PollFd, PollFlags, poll};
            rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(to, PollFlags::OUT)], None))?;
            Ok(())
        }
        _ => {
            let _ = to;
            Err(error)
        }
    }
}
