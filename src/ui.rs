//! What the user sees: lines, progress bars, and how text is made safe to print.

pub(crate) mod console;
pub(crate) mod event;
mod output;
pub(crate) mod progress;
pub(crate) mod prompt;
