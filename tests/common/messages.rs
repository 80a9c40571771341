//! Texts of the programs that more than one test expects.

use std::fmt::Display;
use std::net::SocketAddr;

/// What the server prints for a client that confirms.
pub const CONFIRMED: &str = "Message from client: Thank you\n";

/// What the server prints for one of several clients that confirms.
pub fn confirmed_by(client: impl Display) -> String {
    format!("Message from client {client}: Thank you\n")
}

/// Whether this is the line of one of several clients that confirmed, whichever it is.
pub fn is_confirmation(line: &str) -> bool {
    let client = line.strip_prefix("Message from client ").and_then(|rest| rest.strip_suffix(": Thank you"));
    client.is_some_and(|client| client.parse::<SocketAddr>().is_ok())
}

/// Fails unless these are the results of so many clients that confirmed, and nothing else.
#[track_caller]
pub fn assert_confirmations(printed: &str, clients: usize) {
    assert_eq!(printed.lines().filter(|line| is_confirmation(line)).count(), clients, "{printed}");
    assert_eq!(printed.lines().count(), clients, "{printed}");
}

/// Why a client did not confirm.
pub const NO_REPLY: &str = "not confirmed: the client closed the connection without a reply";
pub const OTHER_REPLY: &str = "not confirmed: the client replied something other than \"Thank you\"";
pub const EARLY_REPLY: &str = "not confirmed: the client replied before the end of the file";

pub const CLIENT_INTERRUPTED: &str = "file-client: interrupted before the file was stored";
pub const SOURCE_CHANGED: &str = "changed while it was read";
pub const NO_DIRECTORY: &str = "directory does not exist";
pub const EXISTS_NO_CLOBBER: &str = "file exists, and --no-clobber keeps it";

/// What the client prints for a file that it has stored.
pub fn received(bytes: usize, name: &str) -> String {
    format!("Received file data: {bytes} bytes in {name}\n")
}

/// What the server prints on standard output for any reply.
pub fn reply(text: &str) -> String {
    format!("Message from client: {text}\n")
}

pub fn no_directory(name: &str) -> String {
    format!("directory {name} does not exist")
}

pub fn no_progress(seconds: u64) -> String {
    format!("no progress for {seconds}s")
}

pub fn too_short(arrived: usize, expected: usize) -> String {
    format!("could not store destination.txt: {arrived} bytes arrived, {expected} were expected")
}

pub fn too_long(expected: usize) -> String {
    format!("could not store destination.txt: more than the expected {expected} bytes arrived")
}

pub fn wrong_digest(actual: &str) -> String {
    format!("could not store destination.txt: the SHA-256 of what arrived is {actual}, not the expected one")
}

/// The last line of a server for several clients.
pub fn tally(confirmed: usize, not_confirmed: usize, failed: usize) -> String {
    let clients = confirmed + not_confirmed + failed;
    format!("clients: {clients}, {confirmed} confirmed, {not_confirmed} not confirmed, {failed} failed")
}
