//! What a person sees: results on standard output, everything else on standard error, bars only on a terminal. A line
//! that can't be written is nothing to fail over: the exit status speaks of the file.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report;

/// Where the lines of one program go.
#[derive(Clone)]
pub struct Console {
    program: &'static str,
    quiet: bool,
    bars: MultiProgress,
}

impl Console {
    /// `quiet` leaves results and errors only.
    #[must_use]
    pub fn new(program: &'static str, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { program, quiet, bars: MultiProgress::with_draw_target(target) }
    }

    /// Whether only results and errors are printed.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A result, on standard output.
    pub fn result(&self, line: &str) {
        let written = self.bars.suspend(|| writeln!(io::stdout(), "{line}"));
        if let Err(error) = written {
            self.warn(&format!("could not write to standard output: {}", report::reason(&error)));
        }
    }

    /// What is going on, on standard error.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            self.to_standard_error(line);
        }
    }

    /// Something that a person should know though nothing failed.
    pub fn warn(&self, line: &str) {
        self.note(&format!("{}: warning: {line}", self.program));
    }

    /// What failed, in one line.
    pub fn error(&self, error: &anyhow::Error) {
        self.to_standard_error(&format!("{}: {}", self.program, report::one_line(error)));
    }

    /// Takes all bars away.
    pub fn clear(&self) {
        let _ = self.bars.clear();
    }

    /// Starts the clock of one transfer; without a total there is no bar and no time left.
    #[must_use]
    pub fn meter(&self, label: String, total: Option<u64>) -> Meter<'_> {
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(
                "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left {msg}",
            )),
            None => ProgressBar::no_length().with_style(style("{prefix} {binary_bytes} {binary_bytes_per_sec} {msg}")),
        };
        Meter { console: self, bar: self.bars.add(bar.with_prefix(label.clone())), label, started: Instant::now() }
    }

    fn to_standard_error(&self, line: &str) {
        let _ = self.bars.suspend(|| writeln!(io::stderr(), "{line}"));
    }
}

/// A template that the library does not know shows its own default.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The bytes of one transfer.
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
        if !self.bar.is_hidden() {
            self.bar.set_style(style("{prefix} {binary_bytes}, {msg}"));
            self.bar.set_message(doing);
        }
    }

    /// Takes the bar away and leaves a line with bytes, time and rate, if there was a bar.
    pub fn finish(&self) {
        if !self.bar.is_hidden() {
            let line = format!("{}: {}", self.label, summary(self.bytes(), self.started.elapsed()));
            self.bar.finish_and_clear();
            self.console.note(&line);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.console.bars.remove(&self.bar);
    }
}

/// `1.0 GiB in 0.52 s, 1.9 GiB/s`
fn summary(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (bytes as f64 / seconds.max(1e-9)) as u64;
    format!("{} in {seconds:.2} s, {}/s", ByteSize(bytes), ByteSize(rate))
}
