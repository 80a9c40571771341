//! What to type instead: one line for arguments that other programs take and these do not, with the user's own values in
//! it. Without arguments to make sense of there is none.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::place;
use super::typed::{Foreign, Typed};
use super::values;
use crate::protocol::DEFAULT_FILE;
use crate::text::{self, shell};

/// As curl, ssh and `file-server` have them.
pub(super) const CLIENT_FOREIGN: &[Foreign] = &[
    Foreign { short: Some('f'), long: "file", takes_value: true },
    Foreign { short: Some('p'), long: "port", takes_value: true },
    Foreign { short: None, long: ENCRYPT, takes_value: false },
];

/// As curl and nc have them.
pub(super) const SERVER_FOREIGN: &[Foreign] = &[
    Foreign { short: Some('o'), long: "output", takes_value: true },
    Foreign { short: Some('p'), long: "port", takes_value: true },
    Foreign { short: Some('l'), long: "listen", takes_value: false },
];

const ENCRYPT: &str = "encrypt";

/// The most names that are repeated in one line.
const MAX_NAMES: usize = 8;

/// For `file-client`: a URL, `user@host`, `host:/path`, words in another order, a file as the third word,
/// `-f`, `-p`, `--encrypt`.
pub(super) fn client(typed: &Typed) -> Option<String> {
    let meant = Fetch::meant_by(typed)?;
    let port = meant.port.filter(|port| values::client_port(port).is_ok());
    let reason = match (meant.host, meant.output) {
        (_, Some(output)) => format!("to store the file as {}", printable(output)),
        (None, None) if port.is_none() => "the host and the port are missing".to_owned(),
        (None, None) => "the host is missing".to_owned(),
        (Some(_), None) if port.is_some() && typed.has(ENCRYPT) => "to encrypt with the server's key".to_owned(),
        (Some(host), None) if port.is_some() => format!("to fetch from {host}"),
        (Some(_), None) => match meant.port {
            Some(other) => format!("'{}' is not a port from 1 to 65535", text::printable(other.as_bytes())),
            None => "the port is missing".to_owned(),
        },
    };
    let options = typed.options_except(meant.output.and(Some("output")))?;
    let key = if typed.has(ENCRYPT) && !typed.has("key") && !typed.has("key_file") { " --key-file -" } else { "" };
    let output = meant.output.map(|output| format!(" --output {}", path(output))).unwrap_or_default();
    let host = meant.host.map_or(Some("HOST".to_owned()), |host| shell::word(host.as_ref()))?;
    Some(format!("{reason}, type: file-client{options}{key}{output} {host} {}", port.unwrap_or("PORT")))
}

/// What someone wants of `file-client`.
struct Fetch<'a> {
    host: Option<&'a str>,
    /// As it was typed: it may be none.
    port: Option<&'a str>,
    output: Option<&'a OsStr>,
}

impl<'a> Fetch<'a> {
    fn meant_by(typed: &'a Typed) -> Option<Self> {
        let is_port = |word: &&str| values::client_port(word).is_ok();
        let (ports, others): (Vec<_>, Vec<_>) = typed.words()?.into_iter().partition(is_port);
        let place = others.first().map(|word| place::find_host(word));
        let (host, own_port) = match place {
            Some(place) => place.map(|(host, port)| (Some(host), port))?,
            None => (None, None),
        };
        // After a colon, digits are a port and anything else is a path.
        let own_port = own_port.filter(|port| is_number(port));
        let option = typed.value("port").map(|port| port.to_str().unwrap_or_default());
        let port = option.or(own_port).or(ports.first().copied());
        // Of two words without a port, the second one was to be it; a number that is none was to be one.
        let is_file = |word: &&str| port.is_some() && !is_number(word);
        let output = match (typed.value("file"), &others[..], ports.len()) {
            (file, [] | [_], 0 | 1) => file,
            (None, [_, file], 0 | 1) if is_file(file) => Some(OsStr::new(*file)),
            _ => return None,
        };
        Some(Self { host, port, output })
    }
}

/// For `file-server`: files as words, a port or an address to listen on elsewhere than it belongs, `-o`, `-p`, `-l`.
pub(super) fn server(typed: &Typed) -> Option<String> {
    let named = typed.value("file");
    let meant = Offer::meant_by(typed)?;
    let port = meant.port.unwrap_or("PORT");
    let mut files: Vec<_> = named.into_iter().chain(meant.files.iter().map(OsStr::new)).collect();
    if let Some(output) = typed.value("output") {
        if !files.is_empty() {
            let output = path(output);
            return Some(format!("the client names the file it stores: file-client --output {output} HOST {port}"));
        }
        files.push(output);
    }
    let bind = meant.bind.map(|bind| format!(" --bind {bind}")).unwrap_or_default();
    let options = typed.options_except(Some("file"))? + &bind;
    let is_new = files.len() > usize::from(named.is_some());
    if is_new && (files.len() > 1 || Path::new(files[0]).is_dir()) {
        return Some(archive(typed, &files, &options, port));
    }
    let reason = match (files.first(), meant.bind, meant.port) {
        (Some(file), ..) if is_new => format!("to send {}", printable(file)),
        (_, Some(bind), _) => format!("to listen on {bind}"),
        (_, None, Some(port)) => format!("to listen on port {port}"),
        (_, None, None) => "the port is missing".to_owned(),
    };
    let file = files.first().map(|file| format!(" --file {}", path(file))).unwrap_or_default();
    Some(format!("{reason}, type: file-server{options}{file} {port}"))
}

/// What someone wants of `file-server`.
struct Offer<'a> {
    bind: Option<IpAddr>,
    port: Option<&'a str>,
    files: Vec<&'a str>,
}

impl<'a> Offer<'a> {
    fn meant_by(typed: &'a Typed) -> Option<Self> {
        let is_port = |word: &str| values::server_port(word).is_ok();
        let mut port = match typed.value("port") {
            Some(option) => Some(option.to_str().filter(|port| is_port(port))?),
            None => None,
        };
        let mut bind = None;
        let mut files = Vec::new();
        for word in typed.words()? {
            match listening_place(word) {
                Some((address, port_there)) if bind.is_none() && !typed.has("bind") => {
                    bind = Some(address);
                    port = port.or(port_there);
                }
                _ => files.push(word.strip_prefix(':').filter(|port| is_port(port)).unwrap_or(word)),
            }
        }
        if let Some(last) = files.iter().rposition(|word| is_port(word)).filter(|_| port.is_none()) {
            port = Some(files.remove(last));
        }
        let is_alone = files.len() == 1;
        let could_be_file =
            |word: &&str| *word == "-" || Path::new(word).exists() || (is_alone && port.is_some() && !is_number(word));
        files.iter().all(could_be_file).then_some(Self { bind, port, files })
    }
}

/// For a file that is a directory.
pub(super) fn directory_to_send(directory: &Path, typed: &Typed) -> Option<String> {
    let options = typed.options_except(Some("file"))?;
    let archive = archive(typed, &[directory.as_os_str()], &options, typed.words()?.pop()?);
    Some(format!("could not open {}: is a directory; {archive}", text::name(directory)))
}

/// For the default file when it is not there.
pub(super) fn no_default_file(error: &io::Error, typed: &Typed) -> Option<String> {
    let (options, port) = (typed.options_except(Some("file"))?, typed.words()?.pop()?);
    let reason = text::reason(error);
    let line = format!("file-server{options} --file PATH {port}");
    Some(format!("could not open {DEFAULT_FILE}: {reason}; to send another file, type: {line}"))
}

/// For a directory in place of the file to store.
pub(super) fn directory_to_store(output: &Path) -> String {
    let mut file = output.as_os_str().to_owned();
    if !file.as_encoded_bytes().ends_with(b"/") {
        file.push("/");
    }
    file.push("NAME");
    format!("{} is a directory; name the file: -o {}", text::name(output), path(&file))
}

/// How to send directories and several files: as one stream, or as one file where it must be read more than once.
fn archive(typed: &Typed, files: &[&OsStr], options: &str, port: &str) -> String {
    let names: Option<Vec<_>> = files.iter().map(|file| shell::path(file)).collect();
    let names =
        names.filter(|names| names.len() <= MAX_NAMES).map_or_else(|| "FILE...".to_owned(), |names| names.join(" "));
    let what = match files {
        [file] => printable(file),
        _ => format!("{} files", files.len()),
    };
    if ["keep_open", "clients", "sha256"].iter().any(|option| typed.has(option)) {
        // Never over a file of the user.
        let archive = if Path::new("files.tar").exists() { "ARCHIVE" } else { "files.tar" };
        format!("to send {what}, type: tar cf {archive} {names} && file-server{options} --file {archive} {port}")
    } else {
        format!("to send {what}, type: tar c {names} | file-server{options} --file - {port}")
    }
}

/// The address in `192.168.1.20:9190`, `[::1]:9190` or `localhost`, and the port.
fn listening_place(word: &str) -> Option<(IpAddr, Option<&str>)> {
    if let Ok(address) = word.parse() {
        return Some((address, None));
    }
    if word == "localhost" {
        return Some((Ipv4Addr::LOCALHOST.into(), None));
    }
    let (_, port) = word.rsplit_once(':')?;
    let word = word.replacen("localhost:", "127.0.0.1:", 1);
    word.parse::<SocketAddr>().ok().map(|place| (place.ip(), Some(port)))
}

fn is_number(word: &str) -> bool {
    let digits = word.trim_start_matches(['+', '-']);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn printable(value: &OsStr) -> String {
    match value.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => text::printable(value.as_encoded_bytes()),
    }
}

/// A path to type; a placeholder for one that cannot be printed.
fn path(path: &OsStr) -> String {
    shell::path(path).unwrap_or_else(|| "PATH".to_owned())
}
