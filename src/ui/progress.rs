//! Progress on a terminal: a line for each of the first transfers, and a number for the others. Transfers only count;
//! bars read the counts, work out what to show, and return it as text.

use std::iter;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use console::measure_text_width;

use crate::text;

/// Transfers that have a line of their own.
const MAX_LINES: usize = 8;

/// A transfer is not shown before it has lasted this long.
const SHOWN_AFTER: Duration = Duration::from_millis(300);

/// A transfer is shown as stalled after this long without a byte, also before the first and after the last one: then the
/// network may be gone too, and the other side may show it only so.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// A shorter transfer has no rate: it would be that of the start-up.
const SHORTEST_MEASURED: Duration = Duration::from_millis(100);

/// Columns of the longest label.
const LABEL_COLUMNS: usize = 32;

/// Columns that stay free for the `^C` that a terminal prints when it is typed. At the end of a row the `^C` would
/// begin a new row, and the bars above would stay.
const MARGIN: usize = 2;

/// Up to this many columns there is no margin.
const NARROW: usize = 20;

/// What a transfer has moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    /// How many of them were there before.
    pub(crate) skipped: u64,
    pub(crate) took: Duration,
    /// Whether no more bytes were to come.
    pub(crate) is_all: bool,
}

/// What is known of one transfer while it lasts.
pub(super) struct Transfer {
    label: String,
    total: Option<u64>,
    started: Instant,
    bytes: AtomicU64,
    /// How many of them were there before.
    skipped: AtomicU64,
    phase: OnceLock<&'static str>,
}

impl Transfer {
    fn moved(&self) -> Moved {
        Moved {
            bytes: self.bytes.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            took: self.started.elapsed(),
            is_all: self.phase.get().is_some(),
        }
    }
}

/// The bytes of one transfer, on the screen until it is dropped. No call blocks, whatever the state of the screen.
pub(crate) struct Meter(Arc<Transfer>);

impl Meter {
    /// Without a total there is no bar and no time left.
    pub(super) fn new(label: String, total: Option<u64>, started: Instant) -> Self {
        let (bytes, skipped) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Transfer { label, total, started, bytes, skipped, phase: OnceLock::new() }))
    }

    /// The handle that the screen has on it.
    pub(super) fn transfer(&self) -> Weak<Transfer> {
        Arc::downgrade(&self.0)
    }

    /// Counts `bytes` more as moved.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were there before, and that do not affect the rate.
    pub(crate) fn skip(&self, bytes: u64) {
        self.0.skipped.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
    }

    /// Sets what happens now that no more bytes move. Only the first call has an effect.
    pub(crate) fn phase(&self, doing: &'static str) {
        let _ = self.0.phase.set(doing);
    }

    /// Removes it from the screen.
    pub(crate) fn finish(self) -> Moved {
        self.0.moved()
    }
}

/// The bars at the bottom of the terminal. The cursor is at the end of the last one.
#[derive(Default)]
pub(super) struct Bars {
    /// One for each transfer that lasts, in the order in which they started.
    transfers: Vec<Bar>,
    /// Rows that are painted.
    rows: usize,
    was_stopped: Arc<AtomicBool>,
}

impl Bars {
    /// Whether there is nothing to paint and nothing painted.
    pub(super) fn is_empty(&self) -> bool {
        self.transfers.is_empty() && self.rows == 0
    }

    pub(super) fn extend(&mut self, transfers: impl IntoIterator<Item = Weak<Transfer>>) {
        let bar = |transfer: Weak<Transfer>| Some(Bar { rate: Rate::new(transfer.upgrade()?.started), transfer });
        self.transfers.extend(transfers.into_iter().filter_map(bar));
    }

    /// To be set when the process continues after a stop, during which the shell printed below the bars.
    pub(super) fn was_stopped(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.was_stopped)
    }

    /// From now on leaves alone what is painted, because it is no longer at the cursor.
    pub(super) fn forget(&mut self) {
        self.rows = 0;
        self.transfers.retain(|bar| bar.transfer.strong_count() > 0);
    }

    /// Returns what erases the bars, and with `erase_ctrl_c` at least the line of the cursor.
    pub(super) fn erase(&mut self, erase_ctrl_c: bool) -> String {
        match self.take_painted_rows() {
            None if !erase_ctrl_c => String::new(),
            start => format!("{}\r\x1b[J", start.unwrap_or_default()),
        }
    }

    /// Returns what paints the bars of all transfers that last, over those that are painted.
    pub(super) fn paint(&mut self, rows: usize, columns: usize, now: Instant) -> String {
        let lines = self.refresh(rows, columns, now);
        if lines.is_empty() {
            return self.erase(false);
        }
        let mut text = self.take_painted_rows().unwrap_or_default();
        // Each row is erased before it is written: after a letter in the last column, that letter would be erased too.
        for (row, line) in (1..).zip(&lines) {
            let (erase, end) = if row == lines.len() { ("\x1b[J", "") } else { ("\x1b[K", "\r\n") };
            text.extend(["\r", erase, line, end]);
        }
        self.rows = lines.len();
        text
    }

    /// Returns what moves the cursor to the first painted row; `None` if there is none. The caller erases or paints over
    /// what follows.
    fn take_painted_rows(&mut self) -> Option<String> {
        if self.was_stopped.swap(false, Ordering::Relaxed) {
            self.forget();
        }
        match std::mem::take(&mut self.rows) {
            0 => None,
            1 => Some(String::new()),
            rows => Some(format!("\x1b[{}A", rows - 1)),
        }
    }

    /// Returns the lines to be shown.
    fn refresh(&mut self, rows: usize, columns: usize, now: Instant) -> Vec<String> {
        let columns = if columns > NARROW { columns - MARGIN } else { columns };
        self.transfers.retain_mut(|bar| bar.update(now));
        let mut lines: Vec<_> = self.transfers.iter().filter_map(|bar| bar.line(columns, now)).collect();
        let room = rows.saturating_sub(1).max(1);
        let with_line = if lines.len() <= room.min(MAX_LINES) { lines.len() } else { MAX_LINES.min(room - 1) };
        let overflow = lines.len() - with_line;
        lines.truncate(with_line);
        if overflow > 0 {
            lines.push(format!("... and {overflow} more"));
        }
        lines.iter().map(|line| text::start_of(line, columns).trim_end().to_owned()).collect()
    }
}

struct Bar {
    transfer: Weak<Transfer>,
    rate: Rate,
}

impl Bar {
    /// Returns false if the transfer has ended.
    fn update(&mut self, now: Instant) -> bool {
        self.transfer.upgrade().is_some_and(|transfer| {
            let Moved { bytes, skipped, .. } = transfer.moved();
            self.rate.update(bytes.saturating_sub(skipped), now);
            true
        })
    }

    /// `des.txt  [=========>          ]  45%   460.8 MiB of 1.0 GiB   512.0 MiB/s  2s left`, or less if it does not fit.
    fn line(&self, columns: usize, now: Instant) -> Option<String> {
        const WITH_ALL: usize = 60;
        const WITH_BAR: usize = 50;
        const WITH_LABEL: usize = 26;
        const WITH_SPEED: usize = 18;
        let transfer = self.transfer.upgrade().filter(|it| now.duration_since(it.started) >= SHOWN_AFTER)?;
        let label = text::end_of(&transfer.label, LABEL_COLUMNS, text::ellipsis());
        let bytes = transfer.moved().bytes;
        let moved = ByteSize(bytes);
        if let Some(doing) = transfer.phase.get() {
            let stalled = if self.rate.is_stalled(now) { "  stalled" } else { "" };
            return Some(format!("{label}  {moved}, {doing}{stalled}"));
        }
        let speed = self.rate.speed(now);
        let room = columns.saturating_sub(measure_text_width(&label));
        let Some(total) = transfer.total else {
            return Some(if room >= WITH_LABEL { format!("{label}  {moved:>10}  {speed}") } else { moved.to_string() });
        };
        let percent = percent(bytes, total);
        let left = self.rate.time_left(total.saturating_sub(bytes), now);
        let with_bar = |numbers: String| {
            let bar = bar(percent, room.saturating_sub("  [] ".len() + numbers.len()));
            format!("{label}  [{bar}] {numbers}")
        };
        Some(match room {
            WITH_ALL.. => {
                let all = ByteSize(total);
                with_bar(format!("{percent:>3}%  {moved:>10} of {all}  {speed:>10}  {left:8}"))
            }
            WITH_BAR.. => with_bar(format!("{percent:>3}%  {moved:>10}  {speed:>10}  {left:8}")),
            WITH_LABEL.. => format!("{label}  {percent}%  {speed}  {left}"),
            _ if columns >= WITH_SPEED => format!("{percent}% {speed}"),
            _ => format!("{percent}%"),
        })
    }
}

/// 100 for an empty file.
fn percent(bytes: u64, total: u64) -> usize {
    let percent = (u128::from(bytes) * 100).checked_div(u128::from(total)).unwrap_or(100);
    usize::try_from(percent).map_or(100, |percent| percent.min(100))
}

fn bar(percent: usize, columns: usize) -> String {
    let filled = columns * percent / 100;
    let head = iter::once('>').take(columns - filled);
    iter::repeat_n('=', filled).chain(head).chain(iter::repeat(' ')).take(columns).collect()
}

/// How fast a transfer is at the moment.
struct Rate {
    bytes: u64,
    updated: Instant,
    /// When bytes last moved.
    moved: Instant,
    /// Sums over the time so far, in which older values count less and less.
    recent_bytes: f64,
    recent_seconds: f64,
}

impl Rate {
    /// After this long, in seconds, the past counts less by the factor e.
    const MEMORY: f64 = 4.0;

    fn new(now: Instant) -> Self {
        Self { bytes: 0, updated: now, moved: now, recent_bytes: 0.0, recent_seconds: 0.0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "it is rounded for people")]
    fn update(&mut self, bytes: u64, now: Instant) {
        let seconds = now.duration_since(self.updated).as_secs_f64();
        let kept = (-seconds / Self::MEMORY).exp();
        self.recent_bytes = self.recent_bytes * kept + bytes.saturating_sub(self.bytes) as f64;
        self.recent_seconds = self.recent_seconds * kept + seconds;
        if bytes != self.bytes {
            self.moved = now;
        }
        (self.bytes, self.updated) = (bytes, now);
    }

    fn per_second(&self) -> f64 {
        self.recent_bytes / self.recent_seconds.max(1e-9)
    }

    fn is_stalled(&self, now: Instant) -> bool {
        now.duration_since(self.moved) >= STALLED_AFTER
    }

    fn speed(&self, now: Instant) -> String {
        match self.bytes {
            _ if self.is_stalled(now) => "stalled".to_owned(),
            0 => "waiting".to_owned(),
            _ => format!("{}/s", rounded(self.per_second())),
        }
    }

    /// `12s left`; nothing if that cannot be told.
    fn time_left(&self, bytes: u64, now: Instant) -> String {
        if self.bytes == 0 || self.is_stalled(now) {
            return String::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "it is rounded for people")]
        let seconds = rounded(bytes as f64 / self.per_second().max(1e-9)).as_u64();
        match seconds {
            0..120 => format!("{seconds}s left"),
            120..7200 => format!("{}m left", seconds / 60),
            7200..172_800 => format!("{}h left", seconds / 3600),
            _ => format!("{}d left", seconds / 86_400),
        }
    }
}

/// `1.0 GiB in 0.52 s (1.9 GiB/s)`; without the rate if the time is too short to tell one.
pub(super) fn summary(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let sum = format!("{} in {seconds:.2} s", ByteSize(bytes));
    if took < SHORTEST_MEASURED {
        return sum;
    }
    #[expect(clippy::cast_precision_loss, reason = "it is rounded for people")]
    let rate = rounded(bytes as f64 / seconds);
    format!("{sum} ({rate}/s)")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is rounded for people")]
fn rounded(bytes: f64) -> ByteSize {
    ByteSize(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Bars of transfers that began a while ago, and the transfers.
    fn bars(labels: &[&str], total: Option<u64>) -> (Bars, Vec<Meter>, Instant) {
        let started = Instant::now();
        let transfers: Vec<_> = labels.iter().map(|label| Meter::new((*label).to_owned(), total, started)).collect();
        let mut bars = Bars::default();
        bars.extend(transfers.iter().map(Meter::transfer));
        (bars, transfers, started + SHOWN_AFTER)
    }

    #[test]
    fn a_line_shows_what_fits_and_is_never_wider_than_the_terminal() {
        let (mut bars, transfers, now) = bars(&["des.txt"], Some(4 * MIB));
        transfers[0].add(2 * MIB);
        let later = now + Duration::from_secs(1);
        let line = bars.refresh(24, 100, later).concat();
        assert!(line.starts_with("des.txt  [=====") && line.contains(">  "), "{line}");
        assert!(line.contains("]  50%     2.0 MiB of 4.0 MiB   "), "{line}");
        assert!(line.ends_with("MiB/s  1s left"), "{line}");
        for columns in 0..120 {
            let lines = bars.refresh(24, columns, later);
            assert!(lines.iter().all(|line| measure_text_width(line) <= columns), "{columns}: {lines:?}");
        }
        assert_eq!(bars.refresh(24, 4, later), ["50%"]);
        assert_eq!(bars.refresh(24, 40, later + STALLED_AFTER), ["des.txt  50%  stalled"]);
    }

    #[test]
    fn nothing_is_painted_at_first_and_what_was_not_painted_is_not_erased() {
        let (mut bars, transfers, shown) = bars(&["des.txt"], None);
        assert_eq!(bars.paint(24, 80, transfers[0].0.started), "");
        assert_eq!(bars.erase(false), "");
        assert_eq!(bars.paint(24, 80, shown), "\r\x1b[Jdes.txt         0 B  waiting");
        assert_eq!(bars.erase(false), "\r\x1b[J");
        assert_eq!(bars.erase(false), "");
        drop(transfers);
        assert_eq!(bars.paint(24, 80, shown), "");
        assert!(bars.is_empty());
    }

    #[test]
    fn lines_are_painted_over_those_before_and_a_longer_painting_is_erased() {
        let (mut bars, mut transfers, now) = bars(&["a", "b"], None);
        assert_eq!(bars.paint(24, 80, now), "\r\x1b[Ka         0 B  waiting\r\n\r\x1b[Jb         0 B  waiting");
        transfers.remove(0).phase("gone");
        assert_eq!(bars.paint(24, 80, now), "\x1b[1A\r\x1b[Jb         0 B  waiting");
        transfers[0].phase("waiting for the disk");
        assert_eq!(bars.paint(24, 80, now), "\r\x1b[Jb  0 B, waiting for the disk");
        transfers.clear();
        assert_eq!(bars.paint(24, 80, now), "\r\x1b[J");
    }

    #[test]
    fn a_transfer_stalls_before_its_first_byte_and_after_its_last_one_too() {
        let (mut bars, transfers, now) = bars(&["a"], None);
        let mut line = |after| bars.refresh(24, 80, now + after).concat();
        assert_eq!(line(Duration::ZERO), "a         0 B  waiting");
        assert_eq!(line(STALLED_AFTER), "a         0 B  stalled");
        transfers[0].add(MIB);
        assert!(line(STALLED_AFTER).ends_with("/s"));
        transfers[0].phase("waiting for the client to confirm");
        assert_eq!(line(STALLED_AFTER), "a  1.0 MiB, waiting for the client to confirm");
        assert_eq!(line(STALLED_AFTER * 2), "a  1.0 MiB, waiting for the client to confirm  stalled");
    }

    #[test]
    fn transfers_without_a_line_are_counted() {
        let (mut bars, _transfers, now) = bars(&["x"; 12], None);
        let mut lines = |rows| {
            let lines = bars.refresh(rows, 80, now);
            (lines.len(), lines.last().unwrap_or(&String::new()).clone())
        };
        assert_eq!(lines(24), (9, "... and 4 more".to_owned()));
        assert_eq!(lines(9), (8, "... and 5 more".to_owned()));
        assert_eq!(lines(5), (4, "... and 9 more".to_owned()));
        assert_eq!(lines(1), (1, "... and 12 more".to_owned()));
    }

    #[test]
    fn after_a_stop_the_old_painting_is_left_alone() {
        let (mut bars, _transfers, now) = bars(&["a", "b"], None);
        assert!(bars.paint(24, 80, now).starts_with("\r\x1b[K"));
        bars.was_stopped().store(true, Ordering::Relaxed);
        assert!(bars.paint(24, 80, now).starts_with("\r\x1b[K"));
        bars.forget();
        assert_eq!(bars.erase(false), "");
        assert_eq!(bars.erase(true), "\r\x1b[J");
    }

    #[test]
    fn a_bar_is_full_at_the_end() {
        assert_eq!(bar(0, 4), ">   ");
        assert_eq!(bar(50, 4), "==> ");
        assert_eq!(bar(100, 4), "====");
        assert_eq!(bar(50, 0), "");
        assert_eq!((percent(0, 0), percent(1, 3), percent(9, 3)), (100, 33, 100));
    }

    #[test]
    fn a_summary_is_short() {
        assert_eq!(summary(1 << 30, Duration::from_millis(520)), "1.0 GiB in 0.52 s (1.9 GiB/s)");
        assert_eq!(summary(2116, Duration::from_millis(99)), "2.1 KiB in 0.10 s");
        assert_eq!(summary(0, Duration::ZERO), "0 B in 0.00 s");
    }
}
