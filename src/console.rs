//! What a person sees: results on standard output, everything else on standard error, progress only on a terminal. A
//! line that can't be written is nothing to fail over: the exit status speaks of the file.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;

use crate::progress::{self, Progress};
use crate::report;

/// Where the lines of one program go.
#[derive(Clone)]
pub struct Console {
    program: &'static str,
    quiet: bool,
    progress: Arc<Progress>,
}

impl Console {
    /// `quiet` leaves results and errors only.
    #[must_use]
    pub fn new(program: &'static str, quiet: bool) -> Self {
        Self { program, quiet, progress: Arc::new(Progress::new(quiet)) }
    }

    /// Whether only results and errors are printed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A result, on standard output.
    pub fn result(&self, line: &str) {
        let written = self.progress.above(|| writeln!(io::stdout(), "{line}"));
        if let Err(error) = written {
            self.warn(&format!("could not write to standard output: {}", report::reason(&error)));
        }
    }

    /// What is going on, on standard error.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.say(line);
        }
    }

    /// What nobody can do without, on standard error. Several lines stay together.
    pub fn say(&self, lines: &str) {
        let lines = format!("{lines}\n");
        let _ = self.progress.above(|| io::stderr().write_all(lines.as_bytes()));
    }

    /// Something that a person should know though nothing failed.
    pub fn warn(&self, line: &str) {
        self.note(&format!("{}: warning: {line}", self.program));
    }

    /// What failed, in one line.
    pub fn error(&self, error: &anyhow::Error) {
        self.say(&format!("{}: {}", self.program, report::one_line(error)));
    }

    /// Takes all progress off the screen, before the program ends.
    pub fn clear(&self) {
        self.progress.clear();
    }

    /// Starts the clock of one transfer; without a total there is no bar and no time left.
    #[must_use]
    pub fn meter(&self, label: String, total: Option<u64>) -> Meter<'_> {
        let bar = self.progress.begin(&label, total);
        Meter { console: self, bar, label, started: Instant::now() }
    }
}

/// The bytes of one transfer, on the screen until it is dropped.
pub struct Meter<'a> {
    console: &'a Console,
    bar: ProgressBar,
    label: String,
    started: Instant,
}

impl Meter<'_> {
    /// So many more bytes have moved.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Bytes that have moved so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bar.position()
    }

    /// What happens now that no more bytes move.
    pub fn phase(&self, doing: &'static str) {
        self.console.progress.set_phase(&self.bar, doing);
    }

    /// Bytes, time and rate in words.
    #[must_use]
    pub fn summary(&self) -> String {
        progress::summary(self.bytes(), self.started.elapsed())
    }

    /// Leaves a line with bytes, time and rate where there was progress to see.
    pub fn finish(self) {
        if !self.console.progress.is_hidden() {
            let line = format!("{}: {}", self.label, self.summary());
            let console = self.console;
            drop(self);
            console.note(&line);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.console.progress.end(&self.bar);
    }
}
