//! When a call on a connection is given up on: once the peer has made no progress for the whole timeout.

use std::io;
use std::time::Duration;

/// Parts of the timeout, at least, after which a blocked call is looked at. Counted rather than timed, so that suspending
/// this machine costs one part and not the whole timeout.
const MIN_SLICES: u32 = 4;

/// The longest part, so that a byte that is acknowledged at any time within the timeout is seen.
const MAX_SLICE: Duration = Duration::from_secs(1);

/// A timeout in parts of equal length.
pub(super) struct Slices {
    /// After this long a blocked call returns; `None` if it never does.
    pub(super) length: Option<Duration>,
    /// How many of them without progress are a stall.
    pub(super) count: u32,
}

impl Slices {
    /// `None` is no timeout.
    pub(super) fn of(timeout: Option<Duration>) -> Self {
        let count = timeout.map_or(MIN_SLICES, slices_of);
        Self { length: timeout.map(|timeout| (timeout / count).max(Duration::from_millis(1))), count }
    }

    /// How often to look for progress.
    pub(super) fn interval(&self) -> Duration {
        self.length.unwrap_or(MAX_SLICE)
    }
}

/// Parts of the timeout, none longer than [`MAX_SLICE`].
fn slices_of(timeout: Duration) -> u32 {
    // A timeout leaves a socket of Windows in an undefined state: nothing may be tried after it (`SO_RCVTIMEO` of Winsock).
    if cfg!(windows) {
        return 1;
    }
    let slices = timeout.as_nanos().div_ceil(MAX_SLICE.as_nanos());
    u32::try_from(slices).unwrap_or(u32::MAX).max(MIN_SLICES)
}

/// What the peer has acknowledged since the last look.
#[derive(Default)]
pub(super) struct Acknowledged {
    last_unacknowledged: Option<u32>,
}

impl Acknowledged {
    /// Whether the peer has acknowledged more since the last call; also at the first one, which has nothing to compare
    /// with. `None` is no answer, and no progress.
    pub(super) fn more(&mut self, unacknowledged: Option<u32>) -> bool {
        let Some(now) = unacknowledged else { return false };
        self.last_unacknowledged.replace(now).is_none_or(|before| now < before)
    }
}

/// Repeats a call until it moves something or fails, or `slices` of it in a row have ended without progress. A call that a
/// signal interrupted is repeated too.
///
/// # Errors
/// Returns the call's error, or [`io::ErrorKind::TimedOut`] for a stall.
pub(super) fn retry_until_stalled<T>(
    slices: u32,
    mut attempt: impl FnMut() -> io::Result<T>,
    mut progressed: impl FnMut() -> bool,
) -> io::Result<T> {
    let mut idle_slices = 0;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_end_of_slice(&error) => {
                idle_slices = if progressed() { 0 } else { idle_slices + 1 };
                if idle_slices == slices {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            moved_or_failed => return moved_or_failed,
        }
    }
}

/// Windows reports the end of a socket timeout as `WSAETIMEDOUT`, other systems as `EAGAIN`.
pub(super) fn is_end_of_slice(error: &io::Error) -> bool {
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
        let mut acknowledged = Acknowledged::default();
        let result = retry_until_stalled(4, attempt, || acknowledged.more(answers.next().flatten()));
        assert_eq!(result.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        calls
    }

    #[test]
    fn a_peer_is_given_up_on_after_all_slices_without_progress() {
        assert_eq!(calls_until_stalled(&[]), 4);
        // The first number is what later ones are compared with.
        assert_eq!(calls_until_stalled(&[Some(9); 9]), 5);
        assert_eq!(calls_until_stalled(&[Some(9), Some(10), Some(11), Some(12), Some(12)]), 5);
        assert_eq!(calls_until_stalled(&[Some(9), None, Some(9), None, Some(9)]), 5);
    }

    #[test]
    fn acknowledged_bytes_restart_the_count() {
        assert_eq!(calls_until_stalled(&[Some(9), Some(8), Some(8), Some(8), Some(8), Some(8)]), 6);
        assert_eq!(
            calls_until_stalled(&[Some(9), Some(9), Some(9), Some(9), Some(8), Some(8), None, Some(8), Some(8)]),
            9
        );
    }

    #[cfg(not(windows))]
    #[test]
    fn a_slice_is_a_second_or_a_quarter_of_the_timeout() {
        for (timeout, slices) in [(1, 4), (4_000, 4), (5_000, 5), (60_000, 60), (60_001, 61)] {
            assert_eq!(slices_of(Duration::from_millis(timeout)), slices, "{timeout} ms");
        }
        assert_eq!(slices_of(Duration::MAX), u32::MAX);
    }

    #[test]
    fn interrupted_calls_are_repeated_and_other_errors_returned() {
        let mut results = [Err(io::ErrorKind::Interrupted.into()), slice_ended(), Ok(7)].into_iter();
        let moved = retry_until_stalled(4, || results.next().unwrap_or(Ok(0)), || false);
        assert_eq!(moved.map_err(|error| error.kind()), Ok(7));
        let failed = retry_until_stalled(4, || Err::<(), _>(io::ErrorKind::ConnectionReset.into()), || false);
        assert_eq!(failed.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    }
}
