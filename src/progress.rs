//! Progress on a terminal, silence elsewhere. A transfer only counts its bytes; one thread looks at all counts ten
//! times a second and paints. So counting costs next to nothing, a thousand clients paint no more than a screenful, and
//! one that stalls is seen to stall.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use console::Term;

/// Between two looks at the counts.
const FRAME: Duration = Duration::from_millis(100);

/// The rate is that of the last moments, so that it follows what happens now.
const RATE_SPAN: Duration = Duration::from_secs(5);

/// Transfers that have a line of their own; the others are a number.
const MAX_LINES: usize = 8;

/// Columns that a label may take beside other things.
const LABEL_COLUMNS: usize = 40;

/// The narrowest bar worth its place, and the widest worth looking at.
const BAR_COLUMNS: (usize, usize) = (10, 60);

/// All transfers that are under way, and the screen that shows them; no screen where nobody would see it.
pub(crate) struct Progress {
    screen: Option<Screen>,
    board: Mutex<Board>,
    one_came: Condvar,
    painter: OnceLock<()>,
}

#[derive(Default)]
struct Board {
    transfers: Vec<Transfer>,
    /// What the screen shows of them.
    rows: Vec<String>,
    /// Nothing more is to be shown.
    over: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let screen = if quiet { None } else { Screen::new() };
        Self { screen, board: Mutex::default(), one_came: Condvar::new(), painter: OnceLock::new() }
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.screen.is_none()
    }

    /// Starts to watch a transfer.
    pub(crate) fn begin(self: &Arc<Self>, label: &str, total: Option<u64>) -> Arc<Count> {
        let count = Arc::<Count>::default();
        if self.is_hidden() {
            return count;
        }
        self.painter.get_or_init(|| self.start_painter());
        let mut board = self.board();
        if !board.over {
            board.transfers.push(Transfer::new(label.to_owned(), total, Arc::clone(&count)));
            self.one_came.notify_one();
        }
        count
    }

    /// Watches it no longer; the last one takes everything off the screen.
    pub(crate) fn end(&self, count: &Arc<Count>) {
        self.keep(|transfer| !Arc::ptr_eq(&transfer.count, count));
    }

    /// Takes everything off the screen, before the program ends.
    pub(crate) fn clear(&self) {
        self.board().over = true;
        self.keep(|_| false);
    }

    /// Prints what stays, above the progress.
    pub(crate) fn above<T>(&self, print: impl FnOnce() -> T) -> T {
        if self.is_hidden() {
            return print();
        }
        let mut board = self.board();
        let rows = board.rows.clone();
        self.show(&mut board, Vec::new());
        let printed = print();
        self.show(&mut board, rows);
        printed
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, wanted: impl Fn(&Transfer) -> bool) {
        let mut board = self.board();
        board.transfers.retain(wanted);
        if board.transfers.is_empty() {
            self.show(&mut board, Vec::new());
        }
    }

    fn show(&self, board: &mut Board, rows: Vec<String>) {
        let untouched = board.rows.is_empty() && rows.is_empty();
        if let Some(screen) = self.screen.as_ref().filter(|_| !untouched) {
            screen.show(&rows);
            board.rows = rows;
        }
    }

    /// Without that thread there is no progress to see, which is nothing to fail over.
    fn start_painter(self: &Arc<Self>) {
        let progress = Arc::clone(self);
        let paint = move || {
            loop {
                progress.wait_for_one();
                // What is over by then is not worth a flicker.
                thread::sleep(FRAME);
                progress.paint();
            }
        };
        let _ = thread::Builder::new().name("progress".to_owned()).spawn(paint);
    }

    fn wait_for_one(&self) {
        drop(self.one_came.wait_while(self.board(), |board| board.transfers.is_empty()));
    }

    fn paint(&self) {
        let mut board = self.board();
        let (lines, columns) = self.screen.as_ref().map(Screen::size).unwrap_or_default();
        let rows = rows(&mut board.transfers, Instant::now(), lines, columns);
        self.show(&mut board, rows);
    }
}

/// The terminal, written to from the row where its cursor stands. Between two paintings the cursor is back there, so
/// that each begins by erasing all of the one before, however a smaller window has wrapped it, and with it the `^C`
/// that the terminal itself shows.
struct Screen(Term);

impl Screen {
    fn new() -> Option<Self> {
        let term = Term::buffered_stderr();
        (term.features().is_attended() && !console::is_dumb()).then_some(Self(term))
    }

    /// Lines and columns that can be painted without scrolling or wrapping.
    fn size(&self) -> (usize, usize) {
        let (height, width) = self.0.size();
        (usize::from(height).saturating_sub(1), usize::from(width).saturating_sub(1))
    }

    fn show(&self, rows: &[String]) {
        let _ = self.try_show(rows);
    }

    fn try_show(&self, rows: &[String]) -> io::Result<()> {
        self.0.clear_to_end_of_screen()?;
        self.0.write_str(&rows.join("\n"))?;
        self.0.move_cursor_up(rows.len().saturating_sub(1))?;
        self.0.write_str("\r")?;
        self.0.flush()
    }
}

/// What a transfer tells about itself.
#[derive(Default)]
pub(crate) struct Count {
    moved: AtomicU64,
    phase: OnceLock<&'static str>,
}

impl Count {
    pub(crate) fn add(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// What happens once no more bytes move.
    pub(crate) fn set_phase(&self, doing: &'static str) {
        let _ = self.phase.set(doing);
    }
}

/// A transfer as the painter sees it.
struct Transfer {
    label: String,
    total: Option<u64>,
    count: Arc<Count>,
    /// When how many bytes had moved, the latest last.
    seen: VecDeque<(Instant, u64)>,
}

impl Transfer {
    fn new(label: String, total: Option<u64>, count: Arc<Count>) -> Self {
        Self { label, total, count, seen: [(Instant::now(), 0)].into() }
    }

    /// Bytes that have moved, and bytes a second.
    fn look(&mut self, now: Instant) -> (u64, u64) {
        let moved = self.count.moved();
        self.seen.push_back((now, moved));
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|&(then, _)| now - then >= RATE_SPAN) {
            self.seen.pop_front();
        }
        let rate = self.seen.front().map_or(0, |&(then, before)| rate(moved - before, now - then));
        (moved, rate)
    }

    fn line(&mut self, now: Instant, columns: usize) -> String {
        let (moved, rate) = self.look(now);
        let label = console::truncate_str(&self.label, LABEL_COLUMNS, "...").into_owned();
        if let Some(&phase) = self.count.phase.get() {
            let sent = ByteSize(moved);
            let forms = [format!("{label}  {sent}, {phase}"), format!("{label}, {phase}"), phase.to_owned()];
            return widest(&forms, columns);
        }
        let speed = match (moved, rate) {
            (0, _) => "waiting for the first byte".to_owned(),
            (_, 0) => "stalled".to_owned(),
            _ => format!("{}/s", ByteSize(rate)),
        };
        if let Some(total) = self.total {
            return with_bar(&label, (moved, total), &speed, time_left(moved, total, rate), columns);
        }
        let moved = ByteSize(moved).to_string();
        widest(&[format!("{label}  {moved:>10}  {speed}"), format!("{moved}  {speed}"), moved], columns)
    }
}

fn rows(transfers: &mut [Transfer], now: Instant, lines: usize, columns: usize) -> Vec<String> {
    let lines = lines.clamp(2, MAX_LINES);
    let shown = if transfers.len() > lines { lines - 1 } else { transfers.len() };
    let (with_line, others) = transfers.split_at_mut(shown);
    let mut rows: Vec<_> = with_line.iter_mut().map(|transfer| transfer.line(now, columns)).collect();
    for transfer in &mut *others {
        // Its rate will be that of the last moments when it moves up.
        transfer.look(now);
    }
    if !others.is_empty() {
        rows.push(widest(&[format!("... and {} more", others.len())], columns));
    }
    rows
}

/// `des.txt  [=========>          ]  45%   460.8 MiB of 1.0 GiB  512.0 MiB/s  2s left`, or less of it.
fn with_bar(label: &str, (moved, total): (u64, u64), speed: &str, left: Option<String>, columns: usize) -> String {
    let percent = format!("{:>3}%", percent(moved, total));
    let moved_of = format!("{:>10} of {}", ByteSize(moved).to_string(), ByteSize(total));
    let moved_only = format!("{:>10}", ByteSize(moved).to_string());
    let left = left.map(|left| format!("  {left} left")).unwrap_or_default();
    for bytes in [&moved_of, &moved_only] {
        // Room for a rate and a time of the usual lengths, so that the bar does not jump with each.
        let figures = format!("{percent}  {bytes}  {:<23}", format!("{speed:>11}{left}"));
        let taken = console::measure_text_width(label) + console::measure_text_width(&figures) + "  [] ".len();
        let bar = columns.saturating_sub(taken).min(BAR_COLUMNS.1);
        if bar >= BAR_COLUMNS.0 {
            return format!("{label}  [{}] {figures}", arrow(moved, total, bar)).trim_end().to_owned();
        }
    }
    let percent = percent.trim_start();
    let short_bar = columns.saturating_sub(percent.len() + speed.len() + left.len() + "[]    ".len());
    let arrow = arrow(moved, total, short_bar.clamp(BAR_COLUMNS.0, BAR_COLUMNS.1));
    let forms = [
        format!("{label}  {percent}  {}  {speed}{left}", moved_of.trim_start()),
        format!("{label}  {percent}  {speed}{left}"),
        format!("{label}  {percent}  {speed}"),
        format!("[{arrow}]  {percent}  {speed}{left}"),
        format!("{percent}  {speed}{left}"),
        format!("{percent}  {speed}"),
        percent.to_owned(),
    ];
    widest(&forms, columns)
}

/// The first form that fits, else what fits of the last one.
fn widest<const N: usize>(forms: &[String; N], columns: usize) -> String {
    let fits = forms.iter().find(|form| console::measure_text_width(form) <= columns);
    let last = || console::truncate_str(&forms[N - 1], columns, "").into_owned();
    fits.cloned().unwrap_or_else(last)
}

/// `====>     `
fn arrow(moved: u64, total: u64, columns: usize) -> String {
    let done = portion(moved, total, columns as u64);
    let done = usize::try_from(done).unwrap_or(columns);
    let head = if done < columns { ">" } else { "" };
    format!("{:<columns$}", "=".repeat(done) + head)
}

fn percent(moved: u64, total: u64) -> u64 {
    portion(moved, total, 100)
}

/// How many of so many parts are done; a file may turn out longer than was said.
fn portion(moved: u64, total: u64, parts: u64) -> u64 {
    let done = u128::from(moved.min(total)) * u128::from(parts) / u128::from(total.max(1));
    u64::try_from(done).unwrap_or(parts)
}

fn time_left(moved: u64, total: u64, rate: u64) -> Option<String> {
    const WORTH_TELLING: u64 = 99 * 60 * 60;
    let seconds = total.saturating_sub(moved).checked_div(rate)?;
    (seconds <= WORTH_TELLING).then(|| clock(seconds))
}

/// `4s`, `2m 03s`, `1h 02m`
fn clock(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

/// Bytes a second.
fn rate(bytes: u64, took: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / took.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// `1.0 GiB in 0.52 s (1.9 GiB/s)`
pub(crate) fn summary(bytes: u64, took: Duration) -> String {
    let time = match took.as_secs() {
        0..60 => format!("{:.2} s", took.as_secs_f64()),
        seconds => clock(seconds),
    };
    format!("{} in {time} ({}/s)", ByteSize(bytes), ByteSize(rate(bytes, took)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of a transfer of which `moved` bytes took two seconds.
    fn line(label: &str, moved: u64, total: Option<u64>, columns: usize) -> String {
        let count = Arc::<Count>::default();
        let mut transfer = Transfer::new(label.to_owned(), total, Arc::clone(&count));
        let now = transfer.seen[0].0 + Duration::from_secs(2);
        count.add(moved);
        transfer.line(now, columns)
    }

    #[test]
    fn a_line_says_as_much_as_fits() {
        let at = |columns| line("des.txt", 300 << 20, Some(1 << 30), columns);
        let all = "des.txt  [=====>              ]  29%   300.0 MiB of 1.0 GiB  150.0 MiB/s  4s left";
        assert_eq!(at(84), all);
        assert_eq!(at(79), "des.txt  [====>          ]  29%   300.0 MiB of 1.0 GiB  150.0 MiB/s  4s left");
        assert_eq!(at(60), "des.txt  29%  300.0 MiB of 1.0 GiB  150.0 MiB/s  4s left");
        assert_eq!(at(40), "des.txt  29%  150.0 MiB/s  4s left");
        assert_eq!(at(19), "29%  150.0 MiB/s");
        assert_eq!(at(3), "29%");
        assert_eq!(line("des.txt", 300 << 20, None, 60), "des.txt   300.0 MiB  150.0 MiB/s");
        assert_eq!(line("des.txt", 0, None, 60), "des.txt         0 B  waiting for the first byte");
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        for columns in 0..200 {
            for label in ["des.txt", "[2001:db8::1234:5678]:43210", &"納品書".repeat(30)] {
                for (moved, total) in [(0, None), (5, Some(5)), (9, Some(0)), (u64::MAX, Some(u64::MAX)), (7, None)] {
                    let line = line(label, moved, total, columns);
                    assert!(console::measure_text_width(&line) <= columns, "{columns}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_stalled_transfer_shows_no_rate_after_a_while() {
        let count = Arc::<Count>::default();
        let mut transfer = Transfer::new("des.txt".to_owned(), None, Arc::clone(&count));
        let start = transfer.seen[0].0;
        count.add(1 << 20);
        let later = |tenths: u32| start + FRAME * tenths;
        assert!((1..=10).all(|tenths| transfer.line(later(tenths), 80).ends_with("B/s")));
        assert!(
            (11..80)
                .map(|tenths| transfer.line(later(tenths), 80))
                .last()
                .is_some_and(|line| line.ends_with("stalled"))
        );
        assert!(transfer.seen.len() < 60);
    }

    #[test]
    fn many_transfers_are_a_few_lines_and_a_number() {
        let many = |transfers: usize, lines| {
            let transfer = |_| Transfer::new("peer".to_owned(), None, Arc::default());
            let mut transfers: Vec<_> = (0..transfers).map(transfer).collect();
            rows(&mut transfers, Instant::now(), lines, 80)
        };
        assert_eq!(many(8, 50).len(), MAX_LINES);
        assert_eq!(many(1000, 50).len(), MAX_LINES);
        assert_eq!(many(1000, 50)[MAX_LINES - 1], "... and 993 more");
        assert_eq!(many(1000, 3).len(), 3);
        assert!(many(0, 50).is_empty());
    }

    #[test]
    fn times_and_rates_are_short() {
        assert_eq!(summary(1 << 30, Duration::from_millis(520)), "1.0 GiB in 0.52 s (1.9 GiB/s)");
        assert_eq!(summary(1 << 30, Duration::from_secs(123)), "1.0 GiB in 2m 03s (8.3 MiB/s)");
        assert_eq!(summary(0, Duration::ZERO), "0 B in 0.00 s (0 B/s)");
        assert_eq!(time_left(0, 3720, 1).as_deref(), Some("1h 02m"));
        assert_eq!(time_left(0, u64::MAX, 1), None);
        assert_eq!(time_left(0, 1, 0), None);
    }
}
