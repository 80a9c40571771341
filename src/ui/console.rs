//! What a person sees: results on standard output, everything else on standard error, progress only on a terminal. A
//! line that can't be written is nothing to fail over: the exit status speaks of the file.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;

use super::progress::{self, Progress};
use super::text;

/// Where the lines of one program go.
#[derive(Clone)]
pub(crate) struct Console {
    program: &'static str,
    quiet: bool,
    progress: Arc<Progress>,
}

impl Console {
    /// `quiet` leaves results and errors only.
    #[must_use]
    pub(crate) fn new(program: &'static str, quiet: bool) -> Self {
        Self { program, quiet, progress: Arc::new(Progress::new(quiet)) }
    }

    /// Whether only results and errors are printed.
    #[must_use]
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A result, on standard output.
    pub(crate) fn result(&self, line: &str) {
        let written = self.progress.above(|| writeln!(io::stdout(), "{line}"));
        if let Err(error) = written {
            self.warn(&format!("could not write to standard output: {}", text::reason(&error)));
        }
    }

    /// What is going on, on standard error.
    pub(crate) fn info(&self, line: &str) {
        if !self.quiet {
            self.always(line);
        }
    }

    /// What nobody can do without, on standard error. Several lines stay together.
    pub(crate) fn always(&self, lines: &str) {
        let lines = format!("{lines}\n");
        let _ = self.progress.above(|| io::stderr().write_all(lines.as_bytes()));
    }

    /// Something that a person should know though nothing failed.
    pub(crate) fn warn(&self, line: &str) {
        self.info(&format!("{}: warning: {line}", self.program));
    }

    /// What failed, in one line.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.always(&format!("{}: {}", self.program, text::one_line(error)));
    }

    /// Takes all progress off the screen, before the program ends.
    pub(crate) fn clear(&self) {
        self.progress.clear();
    }

    /// Starts the clock of one transfer; without a total there is no bar and no time left.
    #[must_use]
    pub(crate) fn meter(&self, label: String, total: Option<u64>) -> Meter<'_> {
        let bar = self.progress.begin(&label, total);
        Meter { console: self, bar, label, started: Instant::now() }
    }
}

/// The bytes of one transfer, on the screen until it is dropped.
pub(crate) struct Meter<'a> {
    console: &'a Console,
    bar: ProgressBar,
    label: String,
    started: Instant,
}

impl Meter<'_> {
    /// So many more bytes have moved.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Bytes that have moved so far.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.bar.position()
    }

    /// What happens now that no more bytes move.
    pub(crate) fn phase(&self, doing: &'static str) {
        self.console.progress.set_phase(&self.bar, doing);
    }

    /// Bytes, time and rate in words.
    #[must_use]
    pub(crate) fn summary(&self) -> String {
        progress::summary(self.bytes(), self.started.elapsed())
    }

    /// Leaves a line with bytes, time and rate where there was progress to see.
    pub(crate) fn finish(self) {
        if !self.console.progress.is_hidden() {
            let line = format!("{}: {}", self.label, self.summary());
            let console = self.console;
            drop(self);
            console.info(&line);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.console.progress.end(&self.bar);
    }
}
