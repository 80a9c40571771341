//! Lines about refused connections: the first ones in full, then only their number once a minute, so that strangers
//! cannot fill a disk.

use std::time::{Duration, Instant};

use crate::ui::console::Console;

/// Lines before they are only counted.
const LINES: u32 = 20;

/// How often the count is printed. After an interval without any, the next lines are printed in full again.
const INTERVAL: Duration = Duration::from_secs(60);

/// Prints the last count when it is dropped.
pub(super) struct Refusals {
    console: Console,
    lines: u32,
    unsaid: u64,
    since: Instant,
}

impl Refusals {
    pub(super) fn new(console: &Console) -> Self {
        Self { console: console.clone(), lines: 0, unsaid: 0, since: Instant::now() }
    }

    /// Prints the line, or counts it.
    pub(super) fn report(&mut self, line: &str) {
        self.count_if_due();
        if self.lines < LINES {
            self.lines += 1;
            self.console.note(line);
        } else {
            self.unsaid += 1;
        }
    }

    /// When to call [`Self::count_if_due`]; `None` if there is nothing to print.
    pub(super) fn next_count(&self) -> Option<Instant> {
        (self.unsaid > 0).then(|| self.since + INTERVAL)
    }

    /// Prints once per interval how many were only counted.
    pub(super) fn count_if_due(&mut self) {
        if self.since.elapsed() >= INTERVAL {
            if self.unsaid == 0 {
                self.lines = 0;
            }
            self.count();
            self.since = Instant::now();
        }
    }

    fn count(&mut self) {
        if self.unsaid > 0 {
            self.console.note(&format!("{} more connections were refused", self.unsaid));
            self.unsaid = 0;
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.count();
    }
}
