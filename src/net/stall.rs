//! When a call on a connection is given up on: once the peer has made no progress for the whole timeout. What its kernel
//! has acknowledged counts as progress, where the system can tell.

use std::io;
use std::time::Duration;

pub(super) use imp::unacknowledged_bytes;

/// The least number of intervals in a timeout; a blocked call returns after each. They are counted rather than timed,
/// so that suspending this machine costs one interval and not the whole timeout.
const MIN_COUNT: u32 = 4;

/// The longest interval, so that a byte that is acknowledged at any time within the timeout is seen.
const LONGEST: Duration = Duration::from_secs(1);

/// A timeout as intervals of equal length.
pub(super) struct Intervals {
    /// After this long a blocked call returns; `None` if it never does.
    pub(super) length: Option<Duration>,
    /// How many of them without progress are a stall.
    pub(super) count: u32,
}

impl Intervals {
    /// `None` is no timeout.
    pub(super) fn of(timeout: Option<Duration>) -> Self {
        let count = timeout.map_or(MIN_COUNT, count);
        Self { length: timeout.map(|timeout| (timeout / count).max(Duration::from_millis(1))), count }
    }

    /// How often to look for progress.
    pub(super) fn look_every(&self) -> Duration {
        self.length.unwrap_or(LONGEST)
    }
}

/// Intervals of the timeout, none longer than [`LONGEST`].
fn count(timeout: Duration) -> u32 {
    // A timeout leaves a socket of Windows in an undefined state: nothing may be tried after it (`SO_RCVTIMEO` of Winsock).
    if cfg!(windows) {
        return 1;
    }
    let intervals = timeout.as_nanos().div_ceil(LONGEST.as_nanos());
    u32::try_from(intervals).unwrap_or(u32::MAX).max(MIN_COUNT)
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

/// Repeats a call until it moves something or fails, or this many intervals in a row have ended without progress. A call
/// that a signal interrupted is repeated too.
///
/// # Errors
/// Returns the call's error, or [`io::ErrorKind::TimedOut`] for a stall.
pub(super) fn retry_until_stalled<T>(
    intervals: u32,
    mut attempt: impl FnMut() -> io::Result<T>,
    mut progressed: impl FnMut() -> bool,
) -> io::Result<T> {
    let mut idle = 0;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_end_of_interval(&error) => {
                idle = if progressed() { 0 } else { idle + 1 };
                if idle == intervals {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            moved_or_failed => return moved_or_failed,
        }
    }
}

/// Windows reports the end of a socket timeout as `WSAETIMEDOUT`, other systems as `EAGAIN`.
pub(super) fn is_end_of_interval(error: &io::Error) -> bool {
    error.kind() == if cfg!(windows) { io::ErrorKind::TimedOut } else { io::ErrorKind::WouldBlock }
}

/// The ioctl for the bytes not acknowledged (`SIOCOUTQ`, tcp(7)) has no safe wrapper, and they matter only when a call
/// has been blocked for a while, so they come from the kernel's tables of connections (`/proc/self/net/tcp`, proc(5);
/// `/proc/net` may be hidden). One reading of a table answers for all connections, so that many blocked ones cost
/// little more than one.
#[cfg(target_os = "linux")]
mod imp {
    use std::collections::HashMap;
    use std::fs::File;
    use std::io::{self, Read as _, Seek as _};
    use std::net::{IpAddr, SocketAddr, TcpStream};
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    static IPV4: Mutex<Table> = Mutex::new(Table::new("/proc/self/net/tcp"));
    static IPV6: Mutex<Table> = Mutex::new(Table::new("/proc/self/net/tcp6"));

    struct Table {
        path: &'static str,
        /// Kept open, so that it can be read even if descriptors are exhausted.
        file: Option<File>,
        read_at: Option<Instant>,
        /// By the addresses of both ends as the table has them.
        unacknowledged: Option<HashMap<String, u32>>,
    }

    impl Table {
        const fn new(path: &'static str) -> Self {
            Self { path, file: None, read_at: None, unacknowledged: None }
        }

        fn read(&mut self) -> io::Result<String> {
            let file = match &mut self.file {
                Some(file) => file,
                unopened => unopened.insert(File::open(self.path)?),
            };
            file.rewind()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        }
    }

    /// Returns the number of bytes that were written to this connection and that its peer had not acknowledged, at a time
    /// not longer ago than `max_age`; `None` if that cannot be known.
    pub(in crate::net) fn unacknowledged_bytes(connection: &TcpStream, max_age: Duration) -> Option<u32> {
        let (local, peer) = (connection.local_addr().ok()?, connection.peer_addr().ok()?);
        let table = if local.is_ipv4() { &IPV4 } else { &IPV6 };
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.read_at.is_none_or(|read_at| read_at.elapsed() >= max_age) {
            table.unacknowledged = table.read().ok().map(|text| text.lines().filter_map(row).collect());
            table.read_at = Some(Instant::now());
        }
        table.unacknowledged.as_ref()?.get(&format!("{} {}", column(local), column(peer))).copied()
    }

    /// Both addresses in a line, and the length of its send queue: `0: 0100007F:23E6 0100007F:C2A4 01 0000084F:00000000 ...`
    fn row(line: &str) -> Option<(String, u32)> {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let addresses = format!("{} {}", columns.next()?, columns.next()?);
        let (unacknowledged, _unread) = columns.nth(1)?.split_once(':')?;
        Some((addresses, u32::from_str_radix(unacknowledged, 16).ok()?))
    }

    /// An address as a line has it: words of four bytes in the order of this processor, then the port.
    fn column(address: SocketAddr) -> String {
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let words = match address.ip() {
            IpAddr::V4(ip) => word(ip.octets()),
            IpAddr::V6(ip) => ip.octets().as_chunks().0.iter().copied().map(word).collect(),
        };
        format!("{words}:{:04X}", address.port())
    }
}

/// Other systems: it cannot be known, and only bytes count as progress.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::net::TcpStream;
    use std::time::Duration;

    pub(in crate::net) fn unacknowledged_bytes(_: &TcpStream, _: Duration) -> Option<u32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval_ended() -> io::Result<usize> {
        Err(if cfg!(windows) { io::ErrorKind::TimedOut } else { io::ErrorKind::WouldBlock }.into())
    }

    /// Runs a call that ends an interval without progress each time, with what is unacknowledged at the end of each;
    /// returns the number of calls until it was given up on.
    fn calls_until_stalled(unacknowledged: &[Option<u32>]) -> usize {
        let mut calls = 0;
        let mut answers = unacknowledged.iter().copied();
        let attempt = || {
            calls += 1;
            interval_ended()
        };
        let mut acknowledged = Acknowledged::default();
        let result = retry_until_stalled(4, attempt, || acknowledged.more(answers.next().flatten()));
        assert_eq!(result.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        calls
    }

    #[test]
    fn a_peer_is_given_up_on_after_all_intervals_without_progress() {
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
    fn an_interval_is_a_second_or_a_quarter_of_the_timeout() {
        for (timeout, intervals) in [(1, 4), (4_000, 4), (5_000, 5), (60_000, 60), (60_001, 61)] {
            assert_eq!(count(Duration::from_millis(timeout)), intervals, "{timeout} ms");
        }
        assert_eq!(count(Duration::MAX), u32::MAX);
    }

    #[test]
    fn interrupted_calls_are_repeated_and_other_errors_returned() {
        let mut results = [Err(io::ErrorKind::Interrupted.into()), interval_ended(), Ok(7)].into_iter();
        let moved = retry_until_stalled(4, || results.next().unwrap_or(Ok(0)), || false);
        assert_eq!(moved.map_err(|error| error.kind()), Ok(7));
        let failed = retry_until_stalled(4, || Err::<(), _>(io::ErrorKind::ConnectionReset.into()), || false);
        assert_eq!(failed.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    }

    #[cfg(target_os = "linux")]
    fn bytes_are_unacknowledged_until_the_peer_reads_them(address: std::net::IpAddr) -> io::Result<()> {
        use std::io::{Read as _, Write as _};
        use std::net::{TcpListener, TcpStream};
        use std::thread;

        let listener = TcpListener::bind((address, 0))?;
        let mut ours = TcpStream::connect(listener.local_addr()?)?;
        let mut peer = listener.accept()?.0;
        ours.set_nonblocking(true)?;
        let mut written = 0;
        while let Ok(bytes) = ours.write(&[0; 4096]) {
            written += bytes;
        }
        let settles = |is_it: fn(u32) -> bool| {
            (0..1000).any(|_| {
                thread::sleep(Duration::from_millis(10));
                unacknowledged_bytes(&ours, Duration::ZERO).is_some_and(is_it)
            })
        };
        assert!(settles(|bytes| bytes > 0));
        peer.read_exact(&mut vec![0; written])?;
        assert!(settles(|bytes| bytes == 0));
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_peer_has_not_read_is_unacknowledged_until_it_has() -> io::Result<()> {
        use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

        bytes_are_unacknowledged_until_the_peer_reads_them(Ipv4Addr::LOCALHOST.into())?;
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            bytes_are_unacknowledged_until_the_peer_reads_them(Ipv6Addr::LOCALHOST.into())?;
        }
        Ok(())
    }
}
