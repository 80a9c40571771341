//! What a program prints: results on standard output, everything else on standard error, progress only on a terminal;
//! or with `--json` one object per line. Nothing here waits for output, and a line that cannot be written does not
//! change the exit status, which is about the file.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Error;

use super::event::{End, Event, Line};
use super::output::{Output, Stream};
use super::progress::Meter;
use crate::tally::Tally;

/// How a program prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Its name.
    pub(crate) program: &'static str,
    /// Results and errors only.
    pub(crate) quiet: bool,
    /// Each line is an object.
    pub(crate) json: bool,
    /// Whether standard output carries the file, or belongs to a command: then nothing is printed there.
    pub(crate) stdout_is_taken: bool,
}

impl Style {
    /// Returns the lines for an event, those that stay together in one text, and where they go.
    pub(super) fn render(self, event: &Event, showed_progress: bool) -> Vec<(Stream, String)> {
        let results = if self.stdout_is_taken { Stream::Stderr } else { Stream::Stdout };
        if self.json {
            let is_wanted = !(self.quiet && event.is_info());
            return is_wanted.then(|| (results, event.json())).into_iter().collect();
        }
        let mut texts: Vec<(Stream, String)> = Vec::new();
        for line in event.lines(self.program, showed_progress) {
            let (to, line) = match line {
                Line::Always(line) => (Stream::Stderr, line),
                Line::Result(line) if !self.stdout_is_taken => (Stream::Stdout, line),
                Line::Info(line) | Line::Result(line) if !self.quiet => (Stream::Stderr, line),
                Line::Info(_) | Line::Result(_) => continue,
            };
            match texts.last_mut() {
                Some((last, text)) if *last == to => text.extend(["\n", &line]),
                _ => texts.push((to, line)),
            }
        }
        texts
    }
}

/// Where the lines of one program go.
#[derive(Clone)]
pub(crate) struct Console {
    style: Style,
    output: Arc<Output>,
}

impl Console {
    pub(crate) fn new(style: Style) -> Self {
        Self { style, output: Output::new(style) }
    }

    /// Prints what happened.
    pub(crate) fn emit(&self, event: &Event) {
        for (to, lines) in self.style.render(event, self.output.shows_bars()) {
            self.output.print(to, &lines, matches!(event, Event::End(_)));
        }
    }

    /// Something that the user may want to know.
    pub(crate) fn note(&self, message: &str) {
        self.emit(&Event::note(message));
    }

    /// A problem that the user should know of, although nothing failed.
    pub(crate) fn warn(&self, message: &str) {
        self.emit(&Event::warning(message));
    }

    /// What failed, in one line.
    pub(crate) fn error(&self, error: &Error) {
        self.emit(&Event::error(error));
    }

    /// Prints the last line and waits until everything is printed, for a few seconds at most. Only the first call does
    /// anything; nothing is printed after it.
    pub(crate) fn end(&self, end: End) {
        self.emit(&Event::End(end));
        self.output.close();
    }

    /// Shows no progress from now on, and removes the `^C` that the terminal printed when the user typed it.
    pub(crate) fn clear_interrupt(&self) {
        self.output.clear_interrupt();
    }

    /// Starts the clock of one transfer. Without a total there is no bar and no time left.
    pub(crate) fn meter(&self, label: String, total: Option<u64>) -> Meter {
        let meter = Meter::new(label, total, Instant::now());
        self.output.show(&meter);
        meter
    }
}

/// Prints an error, such as bad arguments, before there are any options, and the last line. Returns the exit status.
pub(crate) fn refuse(style: Style, message: &str, status: u8) -> u8 {
    let console = Console::new(style);
    console.emit(&Event::Error { message: message.to_owned() });
    let tally = (style.program == "file-server").then(Tally::default);
    console.end(End { status, tally, had_several_clients: false });
    status
}

/// Prints a problem that the user should know of, before there are any options.
pub(crate) fn warn(style: Style, message: &str) {
    let console = Console::new(style);
    console.warn(message);
    console.output.close();
}
