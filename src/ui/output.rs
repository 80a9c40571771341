//! One thread writes lines and bars, from a bounded queue: a terminal that is stopped or a pipe that is not read holds
//! up this thread and no other. It is started by the first line that cannot be written without waiting, or by the first
//! transfer on a terminal.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;

use super::progress::{Bars, Transfer};
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

/// The output of one program.
pub(super) struct Output {
    program: &'static str,
    quiet: bool,
    /// Whether bars can be seen and are wanted. Never true again once it is false.
    shows_bars: AtomicBool,
    /// Held for moments only, never while something is written.
    queue: Mutex<Queue>,
    /// Notified of each change of the queue.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// With their line ends.
    lines: VecDeque<(Stream, Vec<u8>)>,
    /// Lines that found no room and were not reported yet.
    dropped: u64,
    /// Transfers that the thread does not know yet.
    started: Vec<Weak<Transfer>>,
    /// The `^C` that the terminal printed is to be erased.
    has_echo: bool,
    /// The thread ends when all is written.
    is_closing: bool,
    has_thread: bool,
}

impl Queue {
    fn push(&mut self, to: Stream, lines: Vec<u8>) {
        if self.lines.len() >= CAPACITY {
            self.dropped += 1;
            return;
        }
        self.report_dropped();
        self.lines.push_back((to, lines));
    }

    fn pop(&mut self) -> Option<(Stream, Vec<u8>)> {
        if self.lines.is_empty() {
            self.report_dropped();
        }
        self.lines.pop_front()
    }

    fn report_dropped(&mut self) {
        let report = match mem::take(&mut self.dropped) {
            0 => return,
            1 => "... 1 line was not printed\n".to_owned(),
            lines => format!("... {lines} lines were not printed\n"),
        };
        self.lines.push_back((Stream::Stderr, report.into_bytes()));
    }
}

impl Output {
    pub(super) fn new(program: &'static str, quiet: bool) -> Arc<Self> {
        let shows_bars = AtomicBool::new(!quiet && Term::stderr().is_term() && !console::is_dumb());
        Arc::new(Self { program, quiet, shows_bars, queue: Mutex::default(), changed: Condvar::new() })
    }

    pub(super) fn shows_bars(&self) -> bool {
        self.shows_bars.load(Ordering::Relaxed)
    }

    /// Prints the lines as soon as those before them are printed.
    pub(super) fn print(self: &Arc<Self>, to: Stream, lines: &str) {
        let mut lines = format!("{lines}\n").into_bytes();
        let mut queue = self.queue();
        if !queue.has_thread && queue.lines.is_empty() && !self.shows_bars() {
            lines.drain(..write_without_waiting(to, &lines));
        }
        if !lines.is_empty() {
            queue.push(to, lines);
            self.wake(queue);
        }
    }

    /// Shows the transfer for as long as the caller keeps it.
    pub(super) fn show(self: &Arc<Self>, transfer: &Arc<Transfer>) {
        if self.shows_bars() {
            let mut queue = self.queue();
            // The thread may be held up for long.
            queue.started.retain(|transfer| transfer.strong_count() > 0);
            queue.started.push(Arc::downgrade(transfer));
            self.wake(queue);
        }
    }

    pub(super) fn hide_bars(&self) {
        self.shows_bars.store(false, Ordering::Relaxed);
    }

    pub(super) fn clear_interrupt(&self) {
        if self.shows_bars() {
            self.hide_bars();
            self.queue().has_echo = true;
        }
    }

    /// Waits until everything is written, at most for [`CLOSE_TIMEOUT`].
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closing = true;
        self.changed.notify_all();
        if queue.has_thread {
            let has_thread = |queue: &mut Queue| queue.has_thread;
            drop(self.changed.wait_timeout_while(queue, CLOSE_TIMEOUT, has_thread));
        } else if !queue.lines.is_empty() || queue.has_echo {
            // No thread could be started.
            queue.has_thread = true;
            drop(queue);
            self.run();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if queue.has_thread {
            self.changed.notify_all();
            return;
        }
        let output = Arc::clone(self);
        // If it cannot be started just now, the next line tries again.
        queue.has_thread = thread::Builder::new().name("output".to_owned()).spawn(move || output.run()).is_ok();
    }

    /// The thread.
    fn run(&self) {
        let mut bars = Bars::default();
        if self.shows_bars() {
            // Without it the bars may be painted over the shell's lines after Ctrl-Z.
            let _ = signals::on_continue(bars.was_stopped());
        }
        loop {
            let mut queue = self.queue();
            bars.extend(queue.started.drain(..));
            if let Some((to, lines)) = queue.pop() {
                drop(queue);
                self.print_above_bars(&mut bars, to, &lines);
            } else if queue.is_closing {
                drop(queue);
                let text = self.erase(&mut bars);
                self.write_to_screen(text.as_bytes());
                if self.end_thread() {
                    return;
                }
            } else if bars.is_empty() || !self.shows_bars() {
                drop(self.changed.wait(queue));
            } else if self.changed.wait_timeout(queue, FRAME).is_ok_and(|(_, waited)| waited.timed_out()) {
                let text = self.paint(&mut bars);
                self.write_to_screen(text.as_bytes());
            }
        }
    }

    /// Returns false if there is something to write again.
    fn end_thread(&self) -> bool {
        let mut queue = self.queue();
        queue.has_thread = !queue.lines.is_empty() || queue.has_echo;
        self.changed.notify_all();
        !queue.has_thread
    }

    fn print_above_bars(&self, bars: &mut Bars, to: Stream, lines: &[u8]) {
        let mut text = self.erase(bars).into_bytes();
        match to {
            Stream::Stderr => text.extend_from_slice(lines),
            Stream::Stdout => {
                self.write_to_screen(&mem::take(&mut text));
                if let Err(error) = write_all(to, lines) {
                    self.warn_of_stdout(&error);
                }
            }
        }
        text.extend(self.paint(bars).into_bytes());
        self.write_to_screen(&text);
    }

    fn warn_of_stdout(&self, error: &io::Error) {
        if !self.quiet {
            let reason = text::reason(error);
            let warning = format!("{}: warning: could not write to standard output: {reason}\n", self.program);
            self.write_to_screen(warning.as_bytes());
        }
    }

    /// Returns what paints the bars. In the background that is nothing: there the terminal is another program's.
    fn paint(&self, bars: &mut Bars) -> String {
        if !is_in_foreground() {
            bars.forget();
        } else if self.shows_bars() {
            let (rows, columns) = Term::stderr().size();
            return bars.paint(usize::from(rows), usize::from(columns), Instant::now());
        }
        String::new()
    }

    /// Returns what erases the bars and the echo of an interrupt.
    fn erase(&self, bars: &mut Bars) -> String {
        let has_echo = mem::take(&mut self.queue().has_echo);
        if is_in_foreground() {
            return bars.erase(has_echo);
        }
        bars.forget();
        String::new()
    }

    /// A terminal that cannot be written to, because its window was closed, shows no bars any more.
    fn write_to_screen(&self, text: &[u8]) {
        if write_all(Stream::Stderr, text).is_err() {
            self.hide_bars();
        }
    }
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

/// Writes as many of the bytes as the stream takes at once, and returns their number: 0 if that is not known in advance,
/// as of a terminal, or if there is an error (`RWF_NOWAIT`, pwritev2(2)).
#[cfg(target_os = "linux")]
fn write_without_waiting(to: Stream, bytes: &[u8]) -> usize {
    use rustix::io::{ReadWriteFlags, pwritev2};
    const CURRENT_POSITION: u64 = u64::MAX;
    let bytes = [io::IoSlice::new(bytes)];
    let written = match to {
        Stream::Stdout => pwritev2(io::stdout(), &bytes, CURRENT_POSITION, ReadWriteFlags::NOWAIT),
        Stream::Stderr => pwritev2(io::stderr(), &bytes, CURRENT_POSITION, ReadWriteFlags::NOWAIT),
    };
    written.unwrap_or(0)
}

#[cfg(not(target_os = "linux"))]
fn write_without_waiting(_: Stream, _: &[u8]) -> usize {
    0
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

    fn printed(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|(_, lines)| String::from_utf8_lossy(&lines).trim_end().to_owned())
            .collect()
    }

    #[test]
    fn lines_beyond_the_capacity_are_counted_and_reported_after_those_before_them() {
        let mut queue = Queue::default();
        for line in 0..CAPACITY + 3 {
            queue.push(Stream::Stderr, line.to_string().into_bytes());
        }
        assert_eq!(queue.pop(), Some((Stream::Stderr, b"0".to_vec())));
        queue.push(Stream::Stdout, b"later".to_vec());
        let lines = printed(&mut queue);
        assert_eq!(lines[CAPACITY - 2..], ["999", "... 3 lines were not printed", "later"]);
    }

    #[test]
    fn dropped_lines_are_reported_though_no_line_follows() {
        let mut queue = Queue { dropped: 1, ..Queue::default() };
        assert_eq!(printed(&mut queue), ["... 1 line was not printed"]);
        assert!(printed(&mut queue).is_empty());
    }
}
