//! What to type instead, for people who know other programs: one fixed line each, printed after the error. `argument`
//! is a word as it was typed, or the name of an argument with a wrong value, such as `<PORT>`; `value` is that value.

use std::ffi::OsString;
use std::path::Path;

use crate::text::{self, shell};

/// The name of `file-client`'s argument for the host.
pub(super) const HOST: &str = "[HOST]";

/// For a missing `des.txt` when no other file was named.
pub(super) const NO_DEFAULT_FILE: &str = "-f PATH sends another file";

pub(super) const DIRECTORY_TO_SEND: &str = "to send a directory, type: file-server PORT -- tar c DIRECTORY";

pub(super) const LISTENING_CLIENT: &str = "everyone who can reach the port could store a file here; \
    add --encrypt, --allow ADDRESS, --sha256 HEX or --bind 127.0.0.1";

pub(super) const KEY_OF_THE_OTHER_SIDE: &str =
    "--encrypt makes a key where the program listens; where it connects, type: --key-file -";

pub(super) const RESUME_NEEDS_KEY: &str =
    "--resume needs a key: add --encrypt to file-server, and --key-file - to file-client";

pub(super) const LISTENING_RESUME_NEEDS_KEY: &str =
    "--resume needs a key: add --encrypt here, and --key-file - to file-server --connect";

pub(super) const KEY_BESIDE_STANDARD_INPUT: &str = "the key and the file cannot both come from standard input; \
    put the key into a file, and type: --key-file PATH";

pub(super) const KEY_IN_PLACE_OF_A_FILE: &str = "--key-file names a file; for the key itself, type: --key KEY";

/// For an argument that looks like a key; the error does not repeat it.
pub(super) const KEY_IN_ANOTHER_PLACE: &str = "a key stands where it does not belong; type: --key KEY";

const DASHED_NAME: &str = "for a name that begins with a dash, type: ./-NAME";

const FILE_OR_ADDRESS: &str =
    "for a file, type: --file PATH; for a command: -- COMMAND; for an address to listen on: --bind ADDRESS";

/// For `file-client`: curl takes a URL, scp `user@host:/path`, ssh `-p`.
pub(super) fn client(argument: &str, value: Option<&str>) -> Option<&'static str> {
    Some(match (argument, value) {
        ("-p" | "--port", None) => "the port has no option, type: file-client HOST PORT",
        (word, None) if !word.starts_with('-') => "for the name of the file that is stored, type: --output PATH",
        (HOST, Some(place)) if place.contains("://") => "without a URL, type: file-client HOST PORT",
        (HOST, Some(place)) if place.contains('@') => "without a user, type: file-client HOST PORT",
        (HOST, Some(place)) if place.contains('/') => "without a path, type: file-client HOST PORT",
        _ => return None,
    })
}

/// For `file-server`: most programs take a file as an argument, and nc takes `-l` and `-p`.
pub(super) fn server(argument: &str, value: Option<&str>) -> Option<&'static str> {
    let is_number = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    Some(match (argument, value) {
        ("-p" | "--port" | "-l", None) => "the port has no option, type: file-server PORT",
        (word, None) if !word.starts_with('-') => FILE_OR_ADDRESS,
        ("<PORT>", Some(word)) if !is_number(word) => FILE_OR_ADDRESS,
        ("--connect <HOST>", Some(place)) if place.contains(':') => {
            "the port is a word of its own: --connect HOST PORT"
        }
        _ => return None,
    })
}

/// For a value of an option that looks like an option itself.
pub(super) fn dashed_name(arguments: &[OsString]) -> Option<&'static str> {
    let takes_path =
        |option: &OsString| ["-f", "--file", "-o", "--output", "--key-file"].iter().any(|known| option == known);
    let is_dashed = |name: &OsString| name.len() > 1 && name.as_encoded_bytes().starts_with(b"-");
    arguments.windows(2).any(|pair| takes_path(&pair[0]) && is_dashed(&pair[1])).then_some(DASHED_NAME)
}

/// For a directory in place of the file to store.
pub(super) fn directory_to_store(output: &Path) -> String {
    let file = shell::path_or_placeholder(output.join("NAME").as_os_str());
    format!("{} is a directory; name the file: -o {file}", text::name(output))
}
