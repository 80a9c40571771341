//! The terminal that progress is painted on, less a margin at its right.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use console::Term;
use indicatif::TermLike;

/// Columns for the `^C` that a terminal shows when somebody types it: where there is no room left it begins a new
/// line, and the progress above it would stay.
const MARGIN: u16 = 2;

/// Up to so many columns there is no room for a margin.
const NARROW: u16 = 20;

/// Standard error as a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    term: Term,
    /// Columns that are written in this line.
    column: AtomicUsize,
}

impl Terminal {
    /// `None` if standard error is no terminal, or one on which no cursor moves.
    pub(crate) fn stderr() -> Option<Self> {
        let term = Term::buffered_stderr();
        (term.is_term() && !console::is_dumb()).then_some(Self { term, column: AtomicUsize::new(0) })
    }

    fn begin_line(&self) {
        self.column.store(0, Ordering::Relaxed);
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        match self.term.size().1 {
            narrow @ ..=NARROW => narrow,
            columns => columns - MARGIN,
        }
    }

    fn height(&self) -> u16 {
        self.term.size().0
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.term.move_cursor_up(lines)
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.term.move_cursor_down(lines)
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.term.move_cursor_right(columns)
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.term.move_cursor_left(columns)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.begin_line();
        self.term.write_line(text)
    }

    /// Lines come one after the other, each filled up with blanks, and count on the end of the terminal's line to part
    /// them. Here the margin does.
    fn write_str(&self, text: &str) -> io::Result<()> {
        if text == "\r" {
            self.begin_line();
            return self.term.write_str(text);
        }
        if !text.is_empty() && self.column.load(Ordering::Relaxed) >= usize::from(self.width()) {
            self.write_line("")?;
        }
        self.column.fetch_add(console::measure_text_width(text), Ordering::Relaxed);
        self.term.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.begin_line();
        self.term.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.term.flush()
    }
}
