//! Syncs a growing file to disk while it still grows, a window at a time, so that the last sync has little left to do
//! while the server waits for its reply. The size of a window depends on how long the last sync took: neither side may
//! take a slow disk for a stall.

use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that are written between two syncs, at first, at least and at most. While one window is synced the next one is
/// written; the writer waits at the end of it.
const FIRST_WINDOW: usize = 1024 * 1024;
const MIN_WINDOW: usize = 64 * 1024;
const MAX_WINDOW: usize = 64 * 1024 * 1024;

/// The longest time that a sync should take: the other side may have the default timeout, of which it is an eighth.
const LONGEST: Duration = Duration::from_millis(7500);

pub(crate) struct BackgroundSync {
    target: Duration,
    window: usize,
    unsynced: usize,
    /// The sync that is under way, and of how many bytes.
    running: Option<(JoinHandle<io::Result<Duration>>, usize)>,
}

impl BackgroundSync {
    /// The connection waits for a sync, for at most a quarter of the timeout. The target is an eighth, because a disk
    /// may be half as fast as it was a moment ago.
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        let target = timeout.map_or(LONGEST, |timeout| LONGEST.min(timeout / 8));
        Self { target, window: FIRST_WINDOW, unsynced: 0, running: None }
    }

    /// Counts bytes that were written to the file, which must be the same each time.
    ///
    /// # Errors
    /// Returns an error if earlier bytes could not be synced.
    pub(crate) fn record_written(&mut self, bytes: usize, file: &File) -> io::Result<()> {
        self.unsynced += bytes;
        if self.unsynced < self.window {
            return Ok(());
        }
        self.finish()?;
        match file.try_clone().and_then(start) {
            Ok(thread) => self.running = Some((thread, self.unsynced)),
            // Without a descriptor or a thread it is only slower.
            Err(_) => file.sync_data()?,
        }
        self.unsynced = 0;
        Ok(())
    }

    /// Waits for the sync that is under way. An error that a sync met is returned here, because the kernel reports it
    /// only once (fsync(2)).
    ///
    /// # Errors
    /// Returns an error if earlier bytes could not be synced.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some((thread, bytes)) = self.running.take() else { return Ok(()) };
        let took = thread.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))?;
        self.window = next_window(bytes, took, self.target);
        Ok(())
    }
}

fn start(file: File) -> io::Result<JoinHandle<io::Result<Duration>>> {
    thread::Builder::new().name("background-sync".to_owned()).spawn(move || {
        let started = Instant::now();
        file.sync_data()?;
        Ok(started.elapsed())
    })
}

/// The bytes that are synced in the target time at the speed of the last sync, but at most twice as many as then.
fn next_window(bytes: usize, took: Duration, target: Duration) -> usize {
    let at_that_speed = bytes as u128 * target.as_nanos() / took.as_nanos().max(1);
    usize::try_from(at_that_speed).unwrap_or(usize::MAX).min(bytes.saturating_mul(2)).clamp(MIN_WINDOW, MAX_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_the_speed_of_the_disk() {
        const MIB: usize = 1024 * 1024;
        let millis = Duration::from_millis;
        for (bytes, took, window) in [
            (MIB, millis(1), 2 * MIB),
            (MIB, Duration::ZERO, 2 * MIB),
            (6 * MIB, millis(500), 6 * MIB),
            (16 * MIB, millis(2000), 4 * MIB),
            (MIB, millis(100_000), MIN_WINDOW),
            (MAX_WINDOW, millis(1), MAX_WINDOW),
        ] {
            assert_eq!(next_window(bytes, took, millis(500)), window, "{bytes} bytes took {took:?}");
        }
        assert_eq!(next_window(MIB, millis(1), Duration::ZERO), MIN_WINDOW);
    }
}
