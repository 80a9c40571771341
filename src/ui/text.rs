//! Words for people: an error becomes one line in lower case, and bytes from a peer become text that cannot
//! recolour or flood a terminal.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// The whole chain of an error in one line, outermost first, `could not open des.txt: permission denied`.
#[must_use]
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let causes = error.chain().map(|cause| match cause.downcast_ref() {
        Some(error) => reason(error),
        None => cause.to_string(),
    });
    causes.collect::<Vec<_>>().join(": ")
}

/// What the system says of an error, in lower case and without its number.
#[must_use]
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let text = text.trim_start_matches("failed to lookup address information: ");
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// Text as it stands, everything else escaped: control characters, what turns the writing direction, bytes that
/// are no UTF-8, and the backslash that marks an escape.
#[must_use]
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for letter in part.valid().chars() {
            match letter {
                '\'' | '"' => text.push(letter),
                _ => text.extend(letter.escape_debug()),
            }
        }
        for byte in part.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A path as one printable line.
#[must_use]
pub(crate) fn name(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_is_one_line_in_lower_case_without_numbers() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(2)).context("could not open des.txt");
        let line = error.map_err(|error| one_line(&error));
        assert_eq!(line, Err("could not open des.txt: no such file or directory".to_owned()));
    }

    #[test]
    fn printable_keeps_text_and_escapes_the_rest() {
        assert_eq!(printable("Merci, \"ça\" va".as_bytes()), "Merci, \"ça\" va");
        assert_eq!(printable(b"\x1b[31mred\r\n\x07"), r"\u{1b}[31mred\r\n\u{7}");
        assert_eq!(printable("\u{202e}abc".as_bytes()), r"\u{202e}abc");
        assert_eq!(printable(b"\xff\\x"), r"\xff\\x");
    }
}
