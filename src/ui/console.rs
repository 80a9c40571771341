//! What a program prints: results on standard output, everything else on standard error, progress only on a terminal.
//! Nothing here waits for output, and a line that cannot be written changes no exit status: that tells about the file.

use std::sync::Arc;
use std::time::Instant;

use super::output::{Output, Stream};
use super::progress::{self, Transfer};
use crate::text;

/// Where the lines of one program go.
#[derive(Clone)]
pub(crate) struct Console {
    program: &'static str,
    quiet: bool,
    output: Arc<Output>,
}

impl Console {
    /// `quiet` leaves results and errors only.
    #[must_use]
    pub(crate) fn new(program: &'static str, quiet: bool) -> Self {
        Self { program, quiet, output: Output::new(program, quiet) }
    }

    /// Whether only results and errors are printed.
    #[must_use]
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A result, on standard output.
    pub(crate) fn result(&self, line: &str) {
        self.output.print(Stream::Stdout, line);
    }

    /// What is going on, on standard error.
    pub(crate) fn info(&self, line: &str) {
        if !self.quiet {
            self.always(line);
        }
    }

    /// What is printed even with `--quiet`, on standard error. Several lines stay together.
    pub(crate) fn always(&self, lines: &str) {
        self.output.print(Stream::Stderr, lines);
    }

    /// A problem that the user should know of, though nothing failed.
    pub(crate) fn warn(&self, line: &str) {
        self.info(&format!("{}: warning: {line}", self.program));
    }

    /// What failed, in one line.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.always(&format!("{}: {}", self.program, text::one_line(error)));
    }

    /// Shows no progress from now on.
    pub(crate) fn hide_progress(&self) {
        self.output.hide_bars();
    }

    /// Shows no progress from now on, and removes the `^C` that the terminal printed when the user typed it.
    pub(crate) fn clear_interrupt(&self) {
        self.output.clear_interrupt();
    }

    /// Waits until everything is printed, for a few seconds at most. The last call before the program ends.
    pub(crate) fn close(&self) {
        self.output.close();
    }

    /// Starts the clock of one transfer. Without a total there is no bar and no time left.
    #[must_use]
    pub(crate) fn meter(&self, label: String, total: Option<u64>) -> Meter<'_> {
        let transfer = Arc::new(Transfer::new(label, total, Instant::now()));
        self.output.show(&transfer);
        Meter { console: self, transfer }
    }
}

/// The bytes of one transfer, on the screen until it is dropped. No call blocks, whatever the state of the screen.
pub(crate) struct Meter<'a> {
    console: &'a Console,
    transfer: Arc<Transfer>,
}

impl Meter<'_> {
    /// Counts `bytes` more as moved.
    pub(crate) fn add(&self, bytes: u64) {
        self.transfer.add(bytes);
    }

    /// Returns the number of bytes moved so far.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.transfer.bytes()
    }

    /// What happens now that no more bytes move.
    pub(crate) fn phase(&self, doing: &'static str) {
        self.transfer.set_phase(doing);
    }

    /// Returns bytes, time and rate in words.
    #[must_use]
    pub(crate) fn summary(&self) -> String {
        progress::summary(self.bytes(), self.transfer.elapsed())
    }

    /// Prints a line with bytes, time and rate in place of the progress, where progress is shown.
    pub(crate) fn finish(self) {
        let Self { console, transfer } = self;
        if console.output.shows_bars() {
            let line = format!("{}: {}", transfer.label(), progress::summary(transfer.bytes(), transfer.elapsed()));
            drop(transfer);
            console.info(&line);
        }
    }
}
