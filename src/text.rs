//! Text for people: an error becomes one line in lower case, and bytes from a peer or a file name become text that
//! cannot control a terminal.

use std::env;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use console::measure_text_width;
use unicode_segmentation::UnicodeSegmentation as _;

pub(crate) mod shell;

/// Returns the whole chain of an error in one line, outermost first, `could not open des.txt: permission denied`.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let causes = error.chain().map(|cause| match cause.downcast_ref() {
        Some(error) => reason(error),
        None => cause.to_string(),
    });
    causes.collect::<Vec<_>>().join(": ")
}

/// Returns the system's text for an error, in lower case and without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let text = text.trim_start_matches("failed to lookup address information: ");
    let mut rest = text.chars();
    match rest.next() {
        Some(first) => first.to_lowercase().chain(rest).collect(),
        None => String::new(),
    }
}

/// Returns text unchanged and everything else escaped: control characters, characters that change the writing
/// direction, invisible characters, bytes that are not UTF-8, and the backslash that marks an escape. Combining marks,
/// joiners and variation selectors are unchanged after a visible letter.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        let mut follows_letter = false;
        for c in part.valid().chars() {
            let stands = if modifies_letter(c) { follows_letter } else { is_visible(c) };
            if stands {
                text.push(c);
            } else {
                text.extend(c.escape_debug());
            }
            follows_letter = stands && c != ' ';
        }
        for byte in part.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `escape_debug` escapes the quotation marks too.
fn is_visible(c: char) -> bool {
    matches!(c, '\'' | '"') || c.escape_debug().len() == 1
}

/// Whether it is a combining mark, a variation selector or a joiner. For `str` the standard library escapes marks at the
/// start only (`Grapheme_Extend`, Unicode Standard Annex 44).
fn modifies_letter(c: char) -> bool {
    const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
    const ZERO_WIDTH_JOINER: char = '\u{200d}';
    let is_mark = || !is_visible(c) && ['x', c].iter().collect::<String>().escape_debug().count() == 2;
    matches!(c, ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER) || is_mark()
}

/// Returns a path as one printable line.
pub(crate) fn name(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

/// The sign for text that was cut off: `...` if the locale does not use UTF-8 (locale(7)).
pub(crate) fn ellipsis() -> &'static str {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
    if cfg!(windows) || locale.contains("utf-8") || locale.contains("utf8") { "…" } else { "..." }
}

/// Returns the end of printable text if it is wider than `columns`: the end of a long name tells more than its start.
pub(crate) fn end_of(text: &str, columns: usize, ellipsis: &str) -> String {
    if measure_text_width(text) <= columns {
        return text.to_owned();
    }
    let mut room = columns.saturating_sub(measure_text_width(ellipsis));
    let fits = |unit: &&str| take_room(&mut room, unit);
    let mut end: Vec<_> = units(text).collect::<Vec<_>>().into_iter().rev().take_while(fits).collect();
    end.push(ellipsis);
    end.into_iter().rev().collect()
}

/// Returns as much of the start of printable text as fits into `columns`.
pub(crate) fn start_of(text: &str, mut columns: usize) -> &str {
    let length = units(text).take_while(|unit| take_room(&mut columns, unit)).map(str::len).sum();
    &text[..length]
}

fn take_room(columns: &mut usize, unit: &str) -> bool {
    columns.checked_sub(measure_text_width(unit)).map(|left| *columns = left).is_some()
}

/// Splits printable text where it can be cut: between graphemes (Unicode Standard Annex 29), and not in an escape.
fn units(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let grapheme = text.graphemes(true).next()?;
        let length = if grapheme == "\\" { escape_length(text) } else { grapheme.len() };
        let (unit, rest) = text.split_at_checked(length).unwrap_or((text, ""));
        text = rest;
        Some(unit)
    })
}

/// The length of `\u{202e}`, `\xff` or `\n` at the start of the text.
fn escape_length(text: &str) -> usize {
    match text.as_bytes().get(1) {
        Some(b'u') => text.find('}').map_or(text.len(), |end| end + 1),
        Some(b'x') => 4,
        _ => 2,
    }
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

    #[test]
    fn names_in_all_scripts_are_printed_as_they_are_written() {
        for name in [
            "हिन्दी क्षेत्र.txt",
            "தமிழ் மொழி",
            "ภาษาไทย ที่นี่",
            "שָׁלוֹם",
            "می\u{200c}خواهم",
            "re\u{301}sume\u{301}",
            "Tie\u{302}\u{301}ng Vie\u{323}\u{302}t",
            "👨\u{200d}👩\u{200d}👧.png",
            "❤\u{fe0f} 1\u{fe0f}\u{20e3}",
            "葛\u{e0100}",
            "👋🏽",
        ] {
            assert_eq!(printable(name.as_bytes()), name);
        }
    }

    #[test]
    fn a_mark_without_a_letter_and_invisible_characters_are_escaped() {
        assert_eq!(printable("\u{301}a".as_bytes()), r"\u{301}a");
        assert_eq!(printable("a \u{301}b".as_bytes()), r"a \u{301}b");
        assert_eq!(printable("a\n\u{301}".as_bytes()), r"a\n\u{301}");
        assert_eq!(printable("\u{200d}\u{200c}\u{fe0f}".as_bytes()), r"\u{200d}\u{200c}\u{fe0f}");
        assert_eq!(printable(b"a\xff\xcc\x81"), r"a\xff\u{301}");
        for invisible in ["\u{202e}", "\u{2066}", "\u{2069}", "\u{200e}", "\u{200b}", "\u{ad}", "\u{feff}", "\u{e0041}"]
        {
            let escaped: String = invisible.escape_debug().collect();
            assert_eq!(printable(format!("a{invisible}\u{301}").as_bytes()), format!(r"a{escaped}\u{{301}}"));
        }
    }

    #[test]
    fn long_text_is_cut_between_graphemes_and_not_in_an_escape() {
        let end_of = |text, columns| end_of(text, columns, "…");
        assert_eq!(end_of("des.txt", 7), "des.txt");
        assert_eq!(end_of("dir/des.txt", 8), "…des.txt");
        assert_eq!(end_of(r"a\u{202e}b", 9), "…b");
        assert_eq!(end_of(r"a\u{202e}b", 10), r"a\u{202e}b");
        assert_eq!(end_of(r"aaa\\b", 3), "…b");
        assert_eq!(end_of("e\u{301}e\u{301}e\u{301}", 2), "…e\u{301}");
        assert_eq!(end_of("xx👨\u{200d}👩\u{200d}👧", 3), "…👨\u{200d}👩\u{200d}👧");
        assert_eq!(end_of("xx👨\u{200d}👩\u{200d}👧", 2), "…");
        assert_eq!(super::end_of("dir/des.txt", 8, "..."), "...s.txt");
        assert_eq!(start_of(r"a\xffb", 4), "a");
        assert_eq!(start_of(r"a\xffb", 5), r"a\xff");
        assert_eq!(start_of("e\u{301}e\u{301}", 1), "e\u{301}");
        assert_eq!(start_of("क्षेत्र", 0), "");
    }
}
