//! Threads that write lines and bars, from bounded queues: a terminal that is stopped or a pipe that is not read blocks
//! its own thread and nothing else. A thread is started by the first line that may have to wait, or by the first
//! transfer on a terminal.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;

use super::console::Style;
use super::event::Event;
use super::progress::{Bars, Meter, Transfer};
use crate::text;
use crate::{blocking, signals};

/// Lines that wait to be written; those beyond are only counted.
const CAPACITY: usize = 1000;

/// Time between two paintings of the bars.
const FRAME: Duration = Duration::from_millis(100);

/// How long the last lines may take when the program ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// What a thread does next.
#[derive(Debug)]
enum Task {
    /// Lines with their line ends.
    Print(Stream, Vec<u8>),
    /// To show a transfer for as long as it lasts.
    Show(Weak<Transfer>),
    /// To erase the `^C` that the terminal printed.
    EraseCtrlC,
    /// To say how many lines found no room.
    ReportDropped(u64),
}

/// The output of one program.
pub(super) struct Output {
    style: Style,
    /// Whether standard output and standard error are the same.
    is_one_file: bool,
    /// Whether bars can be seen and are wanted. Never true again once it is false.
    shows_bars: AtomicBool,
    /// Held for moments only, never while something is written that may have to wait.
    writers: Mutex<Writers>,
}

/// The threads.
#[derive(Default)]
struct Writers {
    /// For standard error, and for standard output if that is the same file: then the order of all lines is kept.
    stderr: Outlet,
    /// For standard output if it is another file: a blocked standard error does not delay a result.
    stdout: Outlet,
    is_closed: bool,
}

#[derive(Default)]
struct Outlet {
    writer: Option<Writer>,
    /// Whether a line can be written without a thread, as far as that does not block: the first one, to a pipe, a socket
    /// or a device. The lock of a regular file's offset may be held by another program, and that of a pipe by a reader
    /// that splices (splice(2)) what is in it already.
    takes_line_at_once: bool,
}

impl Outlet {
    /// Writes what can be written of the task without a thread, and returns whether that was all.
    fn write_at_once(&mut self, task: &mut Task) -> bool {
        let Task::Print(to, lines) = task else { return false };
        if mem::take(&mut self.takes_line_at_once) {
            lines.drain(..write_at_once(*to, lines));
        }
        lines.is_empty()
    }
}

/// The handle that other threads have on a thread that writes.
struct Writer {
    queue: Queue,
    /// Disconnected when the thread has ended.
    end: Receiver<()>,
}

/// The sending end of a bounded queue of tasks.
struct Queue {
    tasks: Sender<Task>,
    counts: Arc<Counts>,
}

/// The receiving end of that queue.
struct Tasks {
    tasks: Receiver<Task>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

fn queue() -> (Queue, Tasks) {
    let (sender, receiver) = mpsc::channel();
    let counts = Arc::default();
    (Queue { tasks: sender, counts: Arc::clone(&counts) }, Tasks { tasks: receiver, counts })
}

impl Queue {
    /// Never waits. A line that finds no room is counted, and the count is reported where the line would be. For the last
    /// one there is always room.
    fn push(&self, task: Task, is_last: bool) {
        let Counts { waiting, dropped } = &*self.counts;
        if waiting.load(Ordering::Relaxed) >= CAPACITY && !is_last {
            dropped.fetch_add(u64::from(matches!(task, Task::Print(..))), Ordering::Relaxed);
            return;
        }
        let report = Some(dropped.swap(0, Ordering::Relaxed)).filter(|&dropped| dropped > 0).map(Task::ReportDropped);
        for task in report.into_iter().chain([task]) {
            waiting.fetch_add(1, Ordering::Relaxed);
            let _ = self.tasks.send(task);
        }
    }
}

impl Tasks {
    /// Waits for the next task, at most for a while if one is given.
    fn next(&self, at_most: Option<Duration>) -> Result<Task, RecvTimeoutError> {
        let Counts { waiting, dropped } = &*self.counts;
        let task = match self.tasks.try_recv() {
            Ok(task) => task,
            Err(_) => match (dropped.swap(0, Ordering::Relaxed), at_most) {
                (0, Some(at_most)) => self.tasks.recv_timeout(at_most)?,
                (0, None) => self.tasks.recv().map_err(|_| RecvTimeoutError::Disconnected)?,
                (dropped, _) => return Ok(Task::ReportDropped(dropped)),
            },
        };
        waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(task)
    }
}

impl Output {
    pub(super) fn new(style: Style) -> Arc<Self> {
        let shows_bars = !style.quiet && !style.json && Term::stderr().is_term() && !console::is_dumb();
        let outlet = |takes_line_at_once| Outlet { writer: None, takes_line_at_once };
        let (is_one_file, [stdout, stderr]) = standard_streams();
        let writers = Writers { stderr: outlet(stderr), stdout: outlet(stdout), is_closed: false };
        Arc::new(Self { style, is_one_file, shows_bars: shows_bars.into(), writers: writers.into() })
    }

    pub(super) fn shows_bars(&self) -> bool {
        self.shows_bars.load(Ordering::Relaxed)
    }

    /// Prints the lines as soon as those before them are printed.
    pub(super) fn print(self: &Arc<Self>, to: Stream, lines: &str, is_last: bool) {
        self.push(to, Task::Print(to, format!("{lines}\n").into_bytes()), is_last);
    }

    /// Shows the transfer for as long as the caller keeps its meter.
    pub(super) fn show(self: &Arc<Self>, meter: &Meter) {
        if self.shows_bars() {
            self.push(Stream::Stderr, Task::Show(meter.transfer()), false);
        }
    }

    pub(super) fn hide_bars(&self) {
        self.shows_bars.store(false, Ordering::Relaxed);
    }

    pub(super) fn clear_interrupt(self: &Arc<Self>) {
        if self.shows_bars() {
            self.hide_bars();
            self.push(Stream::Stderr, Task::EraseCtrlC, false);
        }
    }

    /// Waits until everything is written, at most for [`CLOSE_TIMEOUT`]. Nothing is printed after that.
    pub(super) fn close(&self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        let closed = Writers { is_closed: true, ..Writers::default() };
        let Writers { stderr, stdout, .. } = mem::replace(&mut *self.writers(), closed);
        // Without its queue a thread ends when all is written.
        let ends = [stderr, stdout].map(|outlet| outlet.writer.map(|writer| writer.end));
        for end in ends.into_iter().flatten() {
            let _ = end.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, to: Stream, mut task: Task, is_last: bool) {
        let mut writers = self.writers();
        if writers.is_closed {
            return;
        }
        let has_own = to == Stream::Stdout && !self.is_one_file;
        let outlet = if has_own { &mut writers.stdout } else { &mut writers.stderr };
        if outlet.writer.is_none() {
            if outlet.write_at_once(&mut task) {
                writers.is_closed = is_last;
                return;
            }
            outlet.writer = self.start();
        }
        match (&outlet.writer, task) {
            (Some(writer), task) => writer.queue.push(task, is_last),
            // Without a thread, prints only what needs no waiting; the next line tries to start one again.
            (None, Task::Print(to, lines)) => write_without_waiting(to, &lines),
            (None, _) => {}
        }
        writers.is_closed = is_last;
    }

    fn start(self: &Arc<Self>) -> Option<Writer> {
        let (queue, tasks) = queue();
        let (on_end, end) = mpsc::channel();
        let output = Arc::clone(self);
        let thread = thread::Builder::new().name("output".to_owned());
        let run = move || {
            output.run(&tasks);
            drop(on_end);
        };
        thread.spawn(run).ok().map(|_| Writer { queue, end })
    }

    /// The body of a thread: it returns once nothing is left to write and nothing more can come.
    fn run(&self, tasks: &Tasks) {
        let mut bars = Bars::default();
        if self.shows_bars() {
            // Without it the bars may be painted over the shell's lines after Ctrl-Z.
            let _ = signals::on_continue(bars.was_stopped());
        }
        loop {
            let is_moving = !bars.is_empty() && self.shows_bars();
            match tasks.next(is_moving.then_some(FRAME)) {
                Ok(Task::Print(to, lines)) => self.print_above_bars(&mut bars, to, &lines),
                Ok(Task::Show(transfer)) => bars.extend([transfer]),
                Ok(Task::EraseCtrlC) => self.write_to_screen(erase(&mut bars, true)),
                Ok(Task::ReportDropped(lines)) => {
                    let what = if lines == 1 { "line was" } else { "lines were" };
                    for (to, line) in self.render(&Event::note(format!("... {lines} {what} not printed"))) {
                        self.print_above_bars(&mut bars, to, line.as_bytes());
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.write_to_screen(self.paint(&mut bars)),
                Err(RecvTimeoutError::Disconnected) => return self.write_to_screen(erase(&mut bars, false)),
            }
        }
    }

    fn print_above_bars(&self, bars: &mut Bars, to: Stream, lines: &[u8]) {
        let mut text = erase(bars, false).into_bytes();
        match to {
            Stream::Stderr => text.extend_from_slice(lines),
            Stream::Stdout => {
                self.write_to_screen(mem::take(&mut text));
                if let Err(error) = write_all(to, lines)
                    && !self.style.quiet
                {
                    let reason = text::reason(&error);
                    let warning = Event::warning(format!("could not write to standard output: {reason}"));
                    for (_, line) in self.render(&warning) {
                        self.write_to_screen(erase(bars, false) + &line + &self.paint(bars));
                    }
                }
            }
        }
        text.extend(self.paint(bars).into_bytes());
        self.write_to_screen(text);
    }

    /// The output's own lines, which are printed even with `--quiet`.
    fn render(&self, event: &Event) -> impl Iterator<Item = (Stream, String)> {
        let style = Style { quiet: false, ..self.style };
        style.render(event, false).into_iter().map(|(to, lines)| (to, lines + "\n"))
    }

    /// Returns what paints the bars. In the background that is nothing, because the terminal belongs to another
    /// program.
    fn paint(&self, bars: &mut Bars) -> String {
        if !is_in_foreground() {
            bars.forget();
        } else if self.shows_bars() {
            let (rows, columns) = Term::stderr().size();
            return bars.paint(usize::from(rows), usize::from(columns), Instant::now());
        }
        String::new()
    }

    /// A terminal that cannot be written to, because its window was closed, no longer shows bars.
    fn write_to_screen(&self, text: impl AsRef<[u8]>) {
        // Even an empty write would wait for one in another thread.
        let text = text.as_ref();
        if !text.is_empty() && write_all(Stream::Stderr, text).is_err() {
            self.hide_bars();
        }
    }
}

/// Returns what erases the bars, and with `erase_ctrl_c` at least the line of the cursor.
fn erase(bars: &mut Bars, erase_ctrl_c: bool) -> String {
    if is_in_foreground() {
        return bars.erase(erase_ctrl_c);
    }
    bars.forget();
    String::new()
}

/// Whether this process is in the foreground process group of its controlling terminal (tcgetpgrp(3)), or standard error
/// is something else.
#[cfg(unix)]
fn is_in_foreground() -> bool {
    use rustix::{process::getpgrp, termios::tcgetpgrp};
    !tcgetpgrp(io::stderr()).is_ok_and(|foreground| foreground != getpgrp())
}

#[cfg(not(unix))]
fn is_in_foreground() -> bool {
    true
}

/// Whether standard output and standard error are one file, pipe or terminal, and whether each of them is a pipe, a socket
/// or a character device (fstat(2)).
#[cfg(unix)]
fn standard_streams() -> (bool, [bool; 2]) {
    use rustix::fs::{FileType, Stat, fstat};
    let [stdout, stderr] = [fstat(io::stdout()), fstat(io::stderr())];
    let id = |stat: Stat| (stat.st_dev, stat.st_ino);
    let is_stream = |stat: Stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharacterDevice)
    };
    (stdout.map(id) == stderr.map(id), [stdout, stderr].map(|stat| stat.is_ok_and(is_stream)))
}

#[cfg(not(unix))]
fn standard_streams() -> (bool, [bool; 2]) {
    (true, [false; 2])
}

fn write_at_once(to: Stream, bytes: &[u8]) -> usize {
    match to {
        Stream::Stdout => blocking::write_at_once(&io::stdout(), bytes),
        Stream::Stderr => blocking::write_at_once(&io::stderr(), bytes),
    }
}

fn write_without_waiting(to: Stream, bytes: &[u8]) {
    match to {
        Stream::Stdout => blocking::write_without_waiting(io::stdout(), bytes),
        Stream::Stderr => blocking::write_without_waiting(io::stderr(), bytes),
    }
}

fn write_all(to: Stream, bytes: &[u8]) -> io::Result<()> {
    match to {
        Stream::Stdout => blocking::write_all(io::stdout(), bytes),
        Stream::Stderr => blocking::write_all(io::stderr(), bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Task {
        Task::Print(Stream::Stderr, text.as_bytes().to_vec())
    }

    /// What would be printed without waiting.
    fn printed(tasks: &Tasks) -> Vec<String> {
        let text = |task| match task {
            Task::Print(_, line) => String::from_utf8_lossy(&line).into_owned(),
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| tasks.next(Some(Duration::ZERO)).ok()).map(text).collect()
    }

    #[test]
    fn lines_beyond_the_capacity_are_counted_and_reported_after_those_before_them() {
        let (queue, tasks) = queue();
        (0..CAPACITY + 3).for_each(|number| queue.push(line(&number.to_string()), false));
        assert!(matches!(tasks.next(None), Ok(Task::Print(..))) && matches!(tasks.next(None), Ok(Task::Print(..))));
        queue.push(line("later"), false);
        let lines = printed(&tasks);
        assert_eq!(lines[0], "2");
        assert_eq!(lines[CAPACITY - 3..], ["999", "ReportDropped(3)", "later"]);
    }

    #[test]
    fn dropped_lines_are_reported_though_no_line_follows() {
        let (queue, tasks) = queue();
        (0..=CAPACITY).for_each(|_| queue.push(line("x"), false));
        drop(queue);
        assert_eq!(printed(&tasks)[CAPACITY..], ["ReportDropped(1)"]);
        assert!(printed(&tasks).is_empty());
    }

    #[test]
    fn the_last_line_finds_room_behind_the_count_of_those_that_did_not() {
        let (queue, tasks) = queue();
        (0..CAPACITY + 5).for_each(|_| queue.push(line("x"), false));
        queue.push(line("end"), true);
        assert_eq!(printed(&tasks)[CAPACITY..], ["ReportDropped(5)", "end"]);
    }
}
