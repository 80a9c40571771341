//! The terminal that progress is painted on, less a margin at its right.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use console::Term;
use indicatif::TermLike;

/// Columns for the `^C` that a terminal shows when somebody types it: where there is no room left it begins a new
/// line, and the progress above it would stay.
const MARGIN: u16 = 2;

/// Up to so many columns there is no room for a margin.
const NARROW: u16 = 20;

/// Standard error as a terminal, until it is dark. One that can't be written to any more, because somebody has closed
/// its window, is dark from then on: nobody may fail over that, and whoever paints panics at an error.
#[derive(Debug)]
pub(crate) struct Terminal {
    term: Term,
    /// Columns that are written in this line.
    column: AtomicUsize,
    is_dark: Arc<AtomicBool>,
}

impl Terminal {
    /// `None` if standard error is no terminal, or one on which no cursor moves.
    pub(crate) fn stderr() -> Option<Self> {
        let term = Term::buffered_stderr();
        let is_dark = Arc::new(AtomicBool::new(false));
        (term.is_term() && !console::is_dumb()).then_some(Self { term, column: AtomicUsize::new(0), is_dark })
    }

    /// Set when it is dark; whoever sets it makes it so.
    pub(crate) fn is_dark(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_dark)
    }

    fn paint(&self, on: impl FnOnce(&Term) -> io::Result<()>) -> io::Result<()> {
        if self.is_dark.load(Ordering::Relaxed) {
            return Ok(());
        }
        on(&self.term).or_else(|_| {
            self.is_dark.store(true, Ordering::Relaxed);
            Ok(())
        })
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
        self.paint(|term| term.move_cursor_up(lines))
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.paint(|term| term.move_cursor_down(lines))
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.paint(|term| term.move_cursor_right(columns))
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.paint(|term| term.move_cursor_left(columns))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.begin_line();
        self.paint(|term| term.write_line(text))
    }

    /// Lines come one after the other, each filled up with blanks, and count on the end of the terminal's line to part
    /// them. Here the margin does.
    fn write_str(&self, text: &str) -> io::Result<()> {
        if text == "\r" {
            self.begin_line();
        } else if !text.is_empty() {
            if self.column.load(Ordering::Relaxed) >= usize::from(self.width()) {
                self.write_line("")?;
            }
            self.column.fetch_add(console::measure_text_width(text), Ordering::Relaxed);
        }
        self.paint(|term| term.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.begin_line();
        self.paint(Term::clear_line)
    }

    fn flush(&self) -> io::Result<()> {
        self.paint(Term::flush)
    }
}
