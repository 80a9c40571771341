//! Other systems: what is typed is shown.

use std::io::{self, Write as _};

/// Asks for a line on standard error and reads it from standard input.
pub(crate) fn secret(question: &str) -> io::Result<Vec<u8>> {
    write!(io::stderr(), "{question}")?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end().into())
}
