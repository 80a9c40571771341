//! `--encrypt`, `--key` and `--key-file`, and the environment's key. No error contains the text that was given as a
//! key: it may be almost the right one.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::hints;
use super::program::{BAD_ARGUMENTS, Program};
use crate::blocking;
use crate::endpoint::Encryption;
use crate::file::source::is_standard_input;
use crate::key::{self, Key, KeyError};
use crate::text::{self, shell};

/// The environment variable with the meaning of `--key`, used if no key option is given.
pub(super) const VARIABLE: &str = "HALF_CLOSE_KEY";

/// For the manual page.
pub(super) const ENVIRONMENT: &str = "HALF_CLOSE_KEY  the key, unless --encrypt, --key or --key-file is given";

/// The most bytes that are read for a key.
const MAX_BYTES: usize = 4096;

#[derive(Args, Debug)]
#[allow(clippy::doc_markdown, reason = "it is printed as it stands")]
pub(super) struct KeyArguments {
    /// Encrypt with a new key, which is printed; only where this program listens
    #[arg(long, conflicts_with_all = ["key", "key_file"])]
    pub(super) encrypt: bool,

    /// Encrypt with the key of the other side. Other users of this machine can see it here, but not in the environment's
    /// HALF_CLOSE_KEY, nor with --key-file
    // As text: clap would print a key that it refuses.
    #[arg(long, value_name = "KEY", value_hint = ValueHint::Other, conflicts_with = "key_file")]
    key: Option<String>,

    /// Read the key from a file; "-" asks for it at a terminal, or reads standard input
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    key_file: Option<PathBuf>,
}

impl KeyArguments {
    /// Whether there is a key, however it is given.
    pub(super) fn is_given(&self) -> bool {
        self.encrypt || self.key.is_some() || self.key_file.is_some() || env::var_os(VARIABLE).is_some()
    }

    /// Whether the key comes from standard input or the terminal.
    pub(super) fn reads_standard_input(&self) -> bool {
        self.key_file.as_deref().is_some_and(is_standard_input)
    }

    /// The key, or where it comes from later.
    ///
    /// # Errors
    /// Returns the exit status after one line about the error, which does not contain the key.
    pub(super) fn resolve(self, program: &Program, is_quiet: bool) -> Result<Encryption, u8> {
        if self.encrypt {
            return Ok(Encryption::NewKey);
        }
        let key = match (self.key, self.key_file, env::var_os(VARIABLE)) {
            (Some(text), ..) => {
                text.parse().map_err(|error: KeyError| format!("invalid value for '--key <KEY>': {error}"))
            }
            (None, Some(path), _) if is_standard_input(&path) && io::stdin().is_terminal() => {
                return Ok(Encryption::Ask);
            }
            (None, Some(path), _) => read(&path, program, is_quiet),
            (None, None, Some(value)) => {
                parse(value.as_encoded_bytes()).map_err(|error| format!("invalid value in {VARIABLE}: {error}"))
            }
            (None, None, None) => return Ok(Encryption::Off),
        };
        key.map(Encryption::Key).map_err(|problem| program.fail(BAD_ARGUMENTS, &problem))
    }
}

/// Bytes that are not UTF-8 are not part of a key.
fn parse(bytes: &[u8]) -> Result<Key, KeyError> {
    String::from_utf8_lossy(bytes).parse()
}

fn read(path: &Path, program: &Program, is_quiet: bool) -> Result<Key, String> {
    // A pipe may be waited for.
    program.report_interrupt()?;
    let (name, opened) = if is_standard_input(path) {
        ("standard input".to_owned(), blocking::unbuffered(io::stdin()))
    } else {
        (text::name(path), File::open(path))
    };
    let is_open_to_others = opened.as_ref().is_ok_and(|file| !is_standard_input(path) && is_readable_by_others(file));
    let bytes = opened.and_then(read_key).map_err(|error| {
        let is_key = path.to_str().is_some_and(is_key);
        let failed = || format!("could not read the key from {name}: {}", text::reason(&error));
        if is_key { hints::KEY_IN_PLACE_OF_A_FILE.to_owned() } else { failed() }
    })?;
    let key = parse(&bytes).map_err(|error| format!("could not read the key from {name}: {error}"))?;
    if is_open_to_others && !is_quiet {
        let file = shell::path_or_placeholder(path.as_os_str());
        program.warn(&format!("other users can read the key in {name}; to prevent that, type: chmod 600 {file}"));
    }
    Ok(key)
}

/// Reads up to the end of the line that completes the key, byte by byte: anything after it belongs to the program that
/// reads standard input next.
fn read_key(mut from: File) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_BYTES {
        match from.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                blocking::is_readable_within(None, &from)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if byte == *b"\n" && key::count(&String::from_utf8_lossy(&line)) >= key::LENGTH {
            break;
        }
    }
    Ok(line)
}

#[cfg(unix)]
fn is_readable_by_others(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    const GROUP_AND_OTHERS: u32 = 0o044;
    file.metadata().is_ok_and(|found| found.is_file() && found.mode() & GROUP_AND_OTHERS != 0)
}

#[cfg(not(unix))]
fn is_readable_by_others(_: &File) -> bool {
    false
}

/// Whether this is a key, or a mistyped one that its groups still show to be a key.
fn is_key(text: &str) -> bool {
    match text.parse::<Key>() {
        Ok(_) => true,
        Err(KeyError::Mistyped) => text.split(['-', ' ']).all(|group| group.len() == 4),
        Err(_) => false,
    }
}

/// Whether an error would repeat an argument that looks like a key.
pub(super) fn is_repeated_in(line: &str) -> bool {
    let repeats = |part: &str| is_key(part) && line.contains(&text::printable(part.as_bytes()));
    let mut arguments = env::args_os().filter_map(|argument| argument.into_string().ok());
    arguments.any(|argument| argument.split('=').any(repeats))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    const KEY: &str = "j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg";

    /// The key that is read from a file with these bytes, and the bytes that are left.
    fn read_from(bytes: &[u8]) -> io::Result<(Result<Key, KeyError>, Vec<u8>)> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.rewind()?;
        let key = parse(&read_key(file.try_clone()?)?);
        let mut rest = Vec::new();
        file.read_to_end(&mut rest)?;
        Ok((key, rest))
    }

    #[test]
    fn a_key_is_read_as_other_programs_store_it() -> io::Result<()> {
        let utf16 = |text: &str, swap: bool| -> Vec<u8> {
            let units = text.encode_utf16();
            units.flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let text = format!("\u{feff}key: {}\r\n", KEY.replacen('-', "\u{2013}", 2).replace("5-", "5\u{a0}"));
        for stored in [
            KEY.into(),
            format!("\n\n{KEY}\n").into(),
            format!("{}\r\n{}", &KEY[..15], &KEY[15..]).into(),
            text.clone().into(),
            utf16(&text, false),
            utf16(&text, true),
            utf16(&format!("{KEY}\n"), false),
        ] {
            assert_eq!(read_from(&stored)?.0, KEY.parse(), "{}", stored.escape_ascii());
        }
        Ok(())
    }

    #[test]
    fn nothing_behind_the_line_of_the_key_is_read() -> io::Result<()> {
        let (key, rest) = read_from(format!("\n{KEY}\nsecond\nthird").as_bytes())?;
        assert_eq!((key, &rest[..]), (KEY.parse(), &b"second\nthird"[..]));
        let (key, rest) = read_from(&[0; 10_000])?;
        assert_eq!((key, rest.len()), (Err(KeyError::Malformed), 10_000 - MAX_BYTES));
        Ok(())
    }
}
