//! `--encrypt`, `--key` and `--key-file`, and the environment's key. What was given for a key stands in no error: it may be
//! nearly one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::{env, str};

use clap::{Args, ValueHint};

use crate::key::{Key, KeyError};
use crate::text;
use crate::ui::prompt;

/// The environment variable that has the same meaning as `--key`, for where nothing else is given.
pub(crate) const VARIABLE: &str = "HALF_CLOSE_KEY";

/// The option of which no value is repeated.
pub(super) const KEY: &str = "key";

/// More bytes than a key takes, however it is written.
const MAX_LINE: usize = 256;

/// Groups in a key as it is printed, and characters in each.
const GROUPS: usize = 7;
const GROUP: usize = 4;

/// What clap makes of a key: it would print a value that is refused.
type Given = Result<Key, KeyError>;

#[derive(Args, Debug)]
#[allow(clippy::doc_markdown, reason = "it is printed as it stands")]
pub(super) struct KeyArguments {
    /// Encrypt, and accept only a peer with the same key, as 'file-server --encrypt' prints it. Other users of this machine
    /// can see it; --key-file and the environment's HALF_CLOSE_KEY mean the same
    #[arg(long, value_name = "KEY", value_parser = given, value_hint = ValueHint::Other, conflicts_with = "key_file")]
    key: Option<Given>,

    /// Read the key from a file; "-" asks on the terminal, or reads a line of standard input where there is none
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    key_file: Option<PathBuf>,
}

/// What `file-server` takes besides.
#[derive(Args, Debug)]
pub(super) struct ServerKeyArguments {
    /// Encrypt with a new key, which is printed; only a client that is given it gets the file
    #[arg(long, conflicts_with_all = ["key", "key_file"])]
    pub(super) encrypt: bool,

    #[command(flatten)]
    pub(super) given: KeyArguments,
}

#[allow(clippy::unnecessary_wraps, reason = "a parser of clap")]
fn given(text: &str) -> Result<Given, KeyError> {
    Ok(text.parse())
}

impl KeyArguments {
    /// The key, if there is one.
    ///
    /// # Errors
    /// Returns what is wrong with it, in one line without the key.
    pub(super) fn resolve(self) -> Result<Option<Key>, String> {
        match (self.key, self.key_file, env::var_os(VARIABLE)) {
            (Some(given), ..) => given.map_err(|error| format!("invalid value for '--key <KEY>': {error}")),
            (None, Some(path), _) => read(&path),
            (None, None, Some(value)) => parse(&value).map_err(|error| format!("invalid value in {VARIABLE}: {error}")),
            (None, None, None) => return Ok(None),
        }
        .map(Some)
    }
}

fn parse(value: &OsString) -> Given {
    value.to_str().ok_or(KeyError::Malformed)?.parse()
}

fn read(path: &Path) -> Result<Key, String> {
    let (name, line) = match path.as_os_str().to_str() {
        Some("-") if io::stdin().is_terminal() => ("the terminal".to_owned(), prompt::secret("key: ")),
        Some("-") => ("standard input".to_owned(), standard_input().and_then(first_line)),
        _ => (text::name(path), File::open(path).and_then(first_line)),
    };
    let line = line.map_err(|error| format!("could not read the key from {name}: {}", text::reason(&error)))?;
    let key = str::from_utf8(&line).map_err(|_| KeyError::Malformed).and_then(str::parse);
    key.map_err(|error| format!("could not read the key from {name}: {error}"))
}

/// Byte by byte: what is behind the line may be the file to send.
fn first_line(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_LINE {
        match from.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

/// Standard input without a buffer.
#[cfg(unix)]
fn standard_input() -> io::Result<impl Read> {
    use std::os::fd::AsFd as _;
    io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as elsewhere")]
fn standard_input() -> io::Result<impl Read> {
    Ok(io::stdin())
}

/// The text with all that looks like a key, or nearly like one, left out, for an error that repeats arguments.
pub(super) fn without_keys(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while !rest.is_empty() {
        let word = word_at_start(rest);
        let key = groups_at_start(rest).unwrap_or(if is_nearly_a_key(word) { word } else { "" });
        clean.push_str(if key.is_empty() { word } else { "<KEY>" });
        let behind = &rest[key.len().max(word.len())..];
        let next = behind.find(is_of_word).unwrap_or(behind.len());
        clean.push_str(&behind[..next]);
        rest = &behind[next..];
    }
    clean
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-'
}

fn word_at_start(text: &str) -> &str {
    &text[..text.find(|character| !is_of_word(character)).unwrap_or(text.len())]
}

/// A key whose groups are set apart by spaces. If it has a typo, the words around it that may be groups of it too.
fn groups_at_start(text: &str) -> Option<&str> {
    let spaced = &text[..text.find(|character| !is_of_word(character) && character != ' ').unwrap_or(text.len())];
    let groups: Vec<_> = spaced.split(' ').take_while(|word| word.len() == GROUP).collect();
    let keys: Vec<_> = groups.windows(GROUPS).map(|groups| groups.join(" ").parse::<Key>()).collect();
    let length = match keys.iter().position(Result::is_ok) {
        Some(0) => GROUPS,
        None if keys.contains(&Err(KeyError::Mistyped)) => groups.len(),
        _ => return None,
    };
    text.get(..length * (GROUP + 1) - 1)
}

/// Whether a word is a key, with or without a typo, or looks like one that has lost a character or got one.
fn is_nearly_a_key(word: &str) -> bool {
    let has_its_form = || {
        let length = word.len() - word.matches('-').count();
        word.matches('-').count() + 1 == GROUPS && length.abs_diff(GROUPS * GROUP) <= 2
    };
    word.parse::<Key>() != Err(KeyError::Malformed) || has_its_form()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg";

    #[test]
    fn a_key_that_an_error_would_repeat_is_left_out_of_it() {
        for (text, clean) in [
            (format!("invalid value '{KEY}' for '<PORT>'"), "invalid value '<KEY>' for '<PORT>'"),
            (
                format!("unexpected argument '--kye={}' found", KEY.replace('-', "")),
                "unexpected argument '--kye=<KEY>' found",
            ),
            (format!("{} é", KEY.replace('j', "k")), "<KEY> é"),
            (format!("to send {0}, type: --file '{0}'", KEY.replace('-', " ")), "to send <KEY>, type: --file '<KEY>'"),
            (format!("to send {}, type", KEY.replace('-', " ").replace('j', "k")), "to <KEY>, type"),
            (format!("no {}, {KEY}x, {}", &KEY[1..], &KEY[..KEY.len() - 1]), "no <KEY>, <KEY>, <KEY>"),
            ("to keep what port 9190 does".to_owned(), "to keep what port 9190 does"),
            ("for more information, try '--help'".to_owned(), "for more information, try '--help'"),
            (String::new(), ""),
        ] {
            assert_eq!(without_keys(&text), clean);
        }
    }

    #[test]
    fn only_the_first_line_is_read() -> io::Result<()> {
        let mut input = &b"first\nsecond"[..];
        assert_eq!(first_line(&mut input)?, b"first");
        assert_eq!(input, b"second");
        assert_eq!(first_line(&mut input)?, b"second");
        assert_eq!(first_line(&[b'x'; 1000][..])?.len(), MAX_LINE);
        Ok(())
    }
}
