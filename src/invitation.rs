//! What to type on the other machine, printed by whichever program listens.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;

use crate::endpoint;
use crate::key::Key;
use crate::protocol::{DEFAULT_FILE, DEFAULT_OUTPUT};
use crate::text::shell;
use crate::ui::console::Console;
use crate::ui::event::{Event, Listening};
use addresses::Addresses;

mod addresses;

/// Which program listens, and for what.
pub(crate) enum Offer<'a> {
    /// `file-server`, to send this file; `-` is standard input.
    File(&'a Path),
    /// `file-server`, to send what a command writes.
    Output,
    /// `file-client`, to receive.
    Nothing,
}

/// What the other side has to know.
pub(crate) struct Invitation<'a> {
    pub(crate) offer: Offer<'a>,
    /// In bytes.
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) is_encrypted: bool,
    /// The key if it was made just now.
    pub(crate) new_key: Option<Key>,
}

/// Prints where the program listens and what to type on the other machine, in one piece: an interrupt comes before or
/// after it. A port that the system has chosen and a new key are printed even with `--quiet`.
pub(crate) fn announce(console: &Console, bound: SocketAddr, listening: &endpoint::Listening, invitation: &Invitation) {
    let addresses = Addresses::of(bound, &listening.allow);
    let machine = if addresses.is_loopback { "this" } else { "the other" };
    let then = if invitation.is_encrypted { ", and then the key" } else { "" };
    let (purpose, choice) = invitation.purpose();
    let place = [addresses.first.clone(), bound.port().to_string()];
    console.emit(&Event::Listening(Listening {
        address: bound.ip(),
        port: bound.port(),
        size: invitation.size,
        sha256: invitation.sha256.map(hex::encode),
        key: invitation.new_key.as_ref().map(Key::text),
        command: invitation.command(&place),
        is_port_news: listening.port == 0,
        purpose: format!("{purpose}, type on {machine} machine{then}{choice}:"),
        other_addresses: addresses.others,
        without: if invitation.is_encrypted { None } else { Some(invitation.with_nc(&place)) },
    }));
}

impl Invitation<'_> {
    /// What the command is for, and what can be added to it.
    fn purpose(&self) -> (&'static str, &'static str) {
        match self.offer {
            Offer::File(path) if name_of(path).is_some() => ("to fetch the file", ""),
            Offer::File(_) | Offer::Output => ("to fetch it", " (-o PATH names the file, -- COMMAND reads it)"),
            Offer::Nothing => ("to send a file", " (-f PATH names it)"),
        }
    }

    /// The command for the other side, which works as it stands.
    fn command(&self, [host, port]: &[String; 2]) -> Vec<String> {
        let mut command = Vec::new();
        let mut add = |words: &[&str]| command.extend(words.iter().map(|&word| word.to_owned()));
        let is_sender = matches!(self.offer, Offer::Nothing);
        add(&[if is_sender { "file-server" } else { "file-client" }]);
        if self.is_encrypted {
            // The key itself would be seen in the list of processes.
            add(&["--key-file", "-"]);
        }
        if is_sender {
            add(&["--connect", host, port]);
            return command;
        }
        add(&[host, port]);
        if let Some(size) = self.size {
            add(&["--size", &size.to_string()]);
        }
        if let Some(sha256) = self.sha256 {
            add(&["--sha256", &hex::encode(sha256)]);
        }
        if let Some(output) = self.output() {
            // The receiver may have another file of that name.
            add(&["--output", &output, "--no-clobber"]);
        }
        command
    }

    /// The same with `nc`, where the program is not installed, after a line about its limits.
    fn with_nc(&self, [host, port]: &[String; 2]) -> (&'static str, String) {
        if let Offer::Nothing = self.offer {
            let purpose = "or, if there is no file-server, with nc, which prints the reply:";
            return (purpose, format!("nc -N {host} {port} < {DEFAULT_FILE}"));
        }
        let output = self.output().and_then(|output| shell::word(output.as_ref()));
        let output = output.as_deref().unwrap_or(DEFAULT_OUTPUT);
        let purpose = "or, if there is no file-client, without confirmation:";
        (purpose, format!("nc {host} {port} < /dev/null > {output}"))
    }

    /// The name to store it under at the client; `None` if the default will do, or the name cannot be printed.
    fn output(&self) -> Option<String> {
        let Offer::File(path) = self.offer else { return None };
        if path.as_os_str() == DEFAULT_FILE { None } else { shell::file_name(&name_of(path)?) }
    }
}

/// The name of the file; `None` for a stream. The path of a descriptor (`/dev/fd/63`, as in a shell's `<(command)`) is
/// not a name, but the name of the file behind it is, if there is one.
fn name_of(path: &Path) -> Option<OsString> {
    let may_be_descriptor = ["/dev", "/proc"].iter().any(|directory| path.starts_with(directory));
    let path = if may_be_descriptor { path.canonicalize().ok()? } else { path.to_owned() };
    path.file_name().filter(|_| path.as_os_str() != "-").map(OsStr::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation(offer: Offer, size: Option<u64>, is_encrypted: bool) -> Invitation {
        Invitation { offer, size, sha256: None, is_encrypted, new_key: None }
    }

    fn command(invitation: &Invitation) -> String {
        invitation.command(&["host".to_owned(), "9190".to_owned()]).join(" ")
    }

    #[test]
    fn the_other_program_gets_a_command_that_works_as_it_stands() {
        let des = || Offer::File(Path::new("des.txt"));
        let stored = "file-client host 9190 --size 5 --output photo.jpg --no-clobber";
        for (invitation, expected) in [
            (invitation(des(), Some(2116), false), "file-client host 9190 --size 2116"),
            (invitation(des(), None, true), "file-client --key-file - host 9190"),
            (invitation(Offer::File(Path::new("dir/photo.jpg")), Some(5), false), stored),
            (invitation(Offer::File(Path::new("-")), None, false), "file-client host 9190"),
            (invitation(Offer::Output, None, false), "file-client host 9190"),
            (invitation(Offer::Nothing, Some(5), false), "file-server --connect host 9190"),
            (invitation(Offer::Nothing, None, true), "file-server --key-file - --connect host 9190"),
        ] {
            assert_eq!(command(&invitation), expected);
        }
    }

    #[test]
    fn the_output_has_the_name_of_the_file_where_it_has_one() {
        let output = |path: &str| invitation(Offer::File(Path::new(path)), None, false).output();
        assert_eq!(output("../isos/image.iso").as_deref(), Some("image.iso"));
        assert_eq!(output("two words").as_deref(), Some("two words"));
        assert_eq!(output("-rf").as_deref(), Some("./-rf"));
        assert_eq!(output("dir/-rf").as_deref(), Some("./-rf"));
        assert_eq!(output("./-").as_deref(), Some("./-"));
        assert_eq!(output("63").as_deref(), Some("63"));
        assert_eq!(output("/dev/null").as_deref(), Some("null"));
        for path in ["des.txt", "a\nb", "a\u{202e}b", "/", "-", "/dev/fd/1234", "/proc/self/fd/1234"] {
            assert_eq!(output(path), None, "{path}");
        }
    }
}
