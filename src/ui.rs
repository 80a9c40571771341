//! What the user sees: lines, progress bars, and how text is made safe to print.

pub(crate) mod console;
pub(crate) mod progress;
pub(crate) mod shell;
mod terminal;
pub(crate) mod text;
