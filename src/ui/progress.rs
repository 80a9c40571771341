//! Progress on a terminal, silence elsewhere: a line for each of the first transfers, and a number for the others.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use console::Term;
use indicatif::style::ProgressTracker;
use indicatif::{
    HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike as _,
};

use super::terminal::Terminal;

/// Transfers that have a line of their own.
const MAX_LINES: usize = 8;

/// Between two paintings of a line, by which a stall is seen too.
const FRAME: Duration = Duration::from_millis(100);

/// Without a byte for so long a transfer is shown as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// All transfers that are under way, and the terminal that shows them.
pub(crate) struct Progress {
    screen: MultiProgress,
    /// Known without asking the screen, which whoever prints may hold for as long as nobody reads.
    hidden: Arc<AtomicBool>,
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    transfers: Vec<ProgressBar>,
    /// The line about those without one.
    others: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = Terminal::stderr().filter(|_| !quiet);
        let hidden = terminal.as_ref().map_or_else(|| Arc::new(AtomicBool::new(true)), Terminal::is_dark);
        let target = terminal.map_or_else(ProgressDrawTarget::hidden, |it| ProgressDrawTarget::term_like(Box::new(it)));
        Self { screen: MultiProgress::with_draw_target(target), hidden, board: Mutex::default() }
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.hidden.load(Ordering::Relaxed)
    }

    /// Starts to show a transfer; without a total there is no bar and no time left.
    pub(crate) fn begin(&self, label: &str, total: Option<u64>) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        if self.is_hidden() {
            return bar;
        }
        let label = end_of(label);
        bar.set_style(line(&label, total.is_some()));
        bar.set_prefix(label);
        let mut board = self.board();
        board.transfers.push(bar.clone());
        self.arrange(&mut board);
        bar
    }

    /// Says what happens once no more bytes move.
    pub(crate) fn set_phase(&self, bar: &ProgressBar, doing: &'static str) {
        if !self.is_hidden() {
            bar.set_style(style("{prefix}  {moved}, {wide_msg}"));
            bar.set_message(doing);
        }
    }

    /// Takes a transfer off the screen, which makes room for another.
    pub(crate) fn end(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        if self.is_hidden() {
            return;
        }
        self.screen.remove(bar);
        let mut board = self.board();
        board.transfers.retain(|bar| !bar.is_finished());
        self.arrange(&mut board);
    }

    /// Takes everything off the screen for good, before the program ends.
    pub(crate) fn clear(&self) {
        if self.is_hidden() {
            return;
        }
        // As long as this lasts nobody else paints.
        self.screen.suspend(|| {
            // The `^C` that a person has typed.
            let _ = Term::stderr().clear_line();
            self.hidden.store(true, Ordering::Relaxed);
        });
    }

    /// Prints what stays, above the progress.
    pub(crate) fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        if self.is_hidden() { print() } else { self.screen.suspend(print) }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrange(&self, board: &mut Board) {
        if let Some(others) = board.others.take() {
            others.finish_and_clear();
            self.screen.remove(&others);
        }
        for bar in board.transfers.iter().take(MAX_LINES).filter(|bar| bar.is_hidden()) {
            self.screen.add(bar.clone()).enable_steady_tick(FRAME);
        }
        let others = board.transfers.len().saturating_sub(MAX_LINES);
        if others > 0 {
            let line = self.screen.add(ProgressBar::no_length().with_style(style("{wide_msg}")));
            line.set_message(format!("... and {others} more"));
            board.others = Some(line);
        }
    }
}

/// `des.txt  [=========>          ]  45%   460.8 MiB of 1.0 GiB   512.0 MiB/s  2s left`, or less where that has no room.
fn line(label: &str, has_total: bool) -> ProgressStyle {
    const WITH_ALL: usize = 60;
    const WITH_BAR: usize = 50;
    const WITH_LABEL: usize = 26;
    const WITH_SPEED: usize = 18;
    let columns = Terminal::stderr().map_or(0, |terminal| usize::from(terminal.width()));
    style(match (has_total, columns.saturating_sub(console::measure_text_width(label))) {
        (true, WITH_ALL..) => "{prefix}  [{wide_bar}] {percent:>3}%  {moved:>10} of {all}  {speed:>10}  {left:7}",
        (true, WITH_BAR..) => "{prefix}  [{wide_bar}] {percent:>3}%  {moved:>10}  {speed:>10}  {left:7}",
        (true, WITH_LABEL..) => "{prefix}  {percent}%  {speed}  {left}",
        (false, WITH_LABEL..) => "{prefix}  {moved:>10}  {speed}",
        (true, _) if columns >= WITH_SPEED => "{percent}% {speed}",
        (true, _) => "{percent}%",
        (false, _) => "{moved}",
    })
}

/// The end of a long name tells more than its beginning.
fn end_of(label: &str) -> String {
    const COLUMNS: usize = 32;
    let mut end = label.chars();
    while console::measure_text_width(end.as_str()) > COLUMNS {
        end.next();
    }
    let shortened = if end.as_str().len() < label.len() { "…" } else { "" };
    format!("{shortened}{}", end.as_str())
}

fn style(template: &str) -> ProgressStyle {
    // A template that the library does not understand shows as its own default.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style
        .progress_chars("=> ")
        .with_key("moved", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}", ByteSize(state.pos()));
        })
        .with_key("all", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}", ByteSize(state.len().unwrap_or_default()));
        })
        .with_key(
            "speed",
            Live::new(
                |state, out| match state.pos() {
                    0 => write!(out, "waiting"),
                    _ => write!(out, "{}/s", rounded(state.per_sec())),
                },
                "stalled",
            ),
        )
        .with_key(
            "left",
            Live::new(
                |state, out| match state.pos() {
                    0 => Ok(()),
                    _ => write!(out, "{:#} left", HumanDuration(state.eta())),
                },
                "",
            ),
        )
}

/// What is said of a transfer as long as its bytes move, and what once they don't.
#[derive(Clone)]
struct Live {
    moving: fn(&ProgressState, &mut dyn fmt::Write) -> fmt::Result,
    stalled: &'static str,
    moved: u64,
    /// When the last of them moved.
    since: Instant,
}

impl Live {
    fn new(moving: fn(&ProgressState, &mut dyn fmt::Write) -> fmt::Result, stalled: &'static str) -> Self {
        Self { moving, stalled, moved: 0, since: Instant::now() }
    }
}

impl ProgressTracker for Live {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, state: &ProgressState, now: Instant) {
        if state.pos() != self.moved {
            (self.moved, self.since) = (state.pos(), now);
        }
    }

    fn reset(&mut self, _: &ProgressState, now: Instant) {
        (self.moved, self.since) = (0, now);
    }

    fn write(&self, state: &ProgressState, out: &mut dyn fmt::Write) {
        let stalled = self.moved > 0 && self.since.elapsed() >= STALLED_AFTER;
        let _ = if stalled { out.write_str(self.stalled) } else { (self.moving)(state, out) };
    }
}

/// `1.0 GiB in 0.52 s (1.9 GiB/s)`
pub(crate) fn summary(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "it is rounded for people")]
    let rate = rounded(bytes as f64 / seconds.max(1e-9));
    format!("{} in {seconds:.2} s ({rate}/s)", ByteSize(bytes))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is rounded for people")]
fn rounded(bytes: f64) -> ByteSize {
    ByteSize(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_label_is_kept() {
        assert_eq!(end_of("des.txt"), "des.txt");
        assert_eq!(end_of(&format!("/{}/des.txt", "folder/".repeat(9))), "…er/folder/folder/folder//des.txt");
    }

    #[test]
    fn a_summary_is_short() {
        assert_eq!(summary(1 << 30, Duration::from_millis(520)), "1.0 GiB in 0.52 s (1.9 GiB/s)");
        assert_eq!(summary(0, Duration::ZERO), "0 B in 0.00 s (0 B/s)");
    }
}
