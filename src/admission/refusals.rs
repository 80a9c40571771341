//! The lines about connections that are refused: the first ones, then how many there were, once a minute, so that
//! strangers cannot fill a disk.

use std::time::{Duration, Instant};

use crate::ui::console::Console;

/// Lines before they are only counted.
const LINES: u32 = 20;

/// How often they are counted. After as long without any the next ones are the first again.
const INTERVAL: Duration = Duration::from_secs(60);

/// Prints what is left to say when it is dropped.
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

    /// When to call [`Self::count_if_due`]; `None` if there is nothing to say.
    pub(super) fn next_count(&self) -> Option<Instant> {
        (self.unsaid > 0).then(|| self.since + INTERVAL)
    }

    /// Says once an interval how many there were.
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
