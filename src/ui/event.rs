//! All that a program prints, as text for people and as JSON for programs, in one enum.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Error;
use bytesize::ByteSize;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::progress::{Moved, summary};
use crate::tally::{Tally, Verdict};
use crate::text::{self, shell};

/// Bytes that can be sent before it is known that a client left at once, such as a port probe.
const AT_ONCE: u64 = 64 * 1024;

/// The most bytes that this side's kernel takes, on most machines, before the other side has read any (`tcp_wmem`,
/// tcp(7)).
const QUEUED: u64 = 4 * 1024 * 1024;

/// What happened. With `--json` each event is one object, whose `event` is the name of the variant.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event {
    Listening(Listening),
    Client(Client),
    Stored(Stored),
    Note { message: String },
    Warning { message: String },
    Error { message: String },
    End(End),
}

/// The program listens, and this is what to type on the other machine.
#[derive(Debug, Serialize)]
pub(crate) struct Listening {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Bytes of what is offered, or of what is expected.
    pub(crate) size: Option<u64>,
    /// In hexadecimal digits.
    pub(crate) sha256: Option<String>,
    /// The key if it was made just now.
    pub(crate) key: Option<String>,
    /// The command for the other side: its name and its arguments.
    pub(crate) command: Vec<String>,
    /// Whether the port is printed even with `--quiet`, because the system picked it.
    #[serde(skip)]
    pub(crate) is_port_news: bool,
    /// What the command is for, `to fetch the file, type on the other machine:`.
    #[serde(skip)]
    pub(crate) purpose: String,
    /// Other addresses that can be used in the command.
    #[serde(skip)]
    pub(crate) other_addresses: Vec<String>,
    /// What to type where this program is not installed, after a line about its purpose.
    #[serde(skip)]
    pub(crate) without: Option<(&'static str, String)>,
}

/// One transfer at the sender, when it is over.
#[derive(Debug, Serialize)]
pub(crate) struct Client {
    peer: SocketAddr,
    outcome: Verdict,
    bytes: u64,
    #[serde(rename = "seconds", serialize_with = "in_seconds")]
    took: Duration,
    /// What the receiver said, escaped.
    reply: Option<String>,
    /// Why the file is not known to be stored.
    message: Option<String>,
    /// How many of them were sent in this transfer.
    #[serde(skip)]
    moved: u64,
    #[serde(skip)]
    name: String,
    #[serde(skip)]
    is_one_of_several: bool,
}

/// What is known of a transfer at the sender, whatever its outcome.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    pub(crate) peer: SocketAddr,
    /// The name of what is sent.
    pub(crate) name: &'a str,
    /// In bytes.
    pub(crate) total: Option<u64>,
    pub(crate) sent: Moved,
    /// Whether the lines have to say which client they are about.
    pub(crate) is_one_of_several: bool,
    /// Whether this side dialled.
    pub(crate) has_dialled: bool,
    /// Whether the receiver has shown that it has the key, and takes part.
    pub(crate) has_key: bool,
}

impl Served<'_> {
    /// The receiver has stored the file.
    pub(crate) fn confirmed(&self, reply: String) -> Event {
        self.ended(Verdict::Confirmed, Some(reply), None)
    }

    /// All was sent, but `reason`.
    pub(crate) fn unconfirmed(&self, reply: Option<String>, reason: &str) -> Event {
        let message = format!("sent {} bytes of {}, not confirmed: {reason}", self.sent.bytes, self.name);
        self.ended(Verdict::Unconfirmed, reply, Some(message))
    }

    /// The receiver has not stored the file: it gave up, or something failed here.
    pub(crate) fn failed(&self, error: &Error) -> Event {
        let Moved { bytes, is_all, .. } = self.sent;
        let may_be_refused = self.has_dialled && !self.has_key && bytes <= QUEUED;
        let hint = if may_be_refused { "; it may wait for --key, or not serve this address" } else { "" };
        let left = if self.has_dialled { "ended the connection" } else { "connected and left without taking the file" };
        // A source that pauses may have been taken up to there.
        let is_untaken = bytes == 0 || self.total.is_some();
        let message = match (is_gone(error), bytes) {
            (_, 0..=QUEUED) if is_untaken && has_left(error) => format!("{left}{hint}"),
            // Or the network reset it, right when the receiver had stored them.
            (true, _) if is_all => {
                format!("the client gave up after all {}; it has not said that they are stored{hint}", ByteSize(bytes))
            }
            (true, 0..=AT_ONCE) if is_untaken && !self.has_key => format!("{left}{hint}"),
            (true, _) => {
                format!("the client gave up after {}; the file was not stored there{hint}", how_much(bytes, self.total))
            }
            (false, _) => {
                let reason = text::one_line(error);
                format!("stopped after {} (the file was not stored there): {reason}", how_much(bytes, self.total))
            }
        };
        self.ended(Verdict::Failed, None, Some(message))
    }

    /// The receiver has lost its connection, and keeps what has arrived.
    pub(crate) fn broken(&self) -> Event {
        let sent = how_much(self.sent.bytes, self.total);
        Event::note(format!("{}: broke off after {sent}; it may come back", self.peer))
    }

    fn ended(&self, outcome: Verdict, reply: Option<String>, message: Option<String>) -> Event {
        let Self { peer, name, sent: Moved { bytes, skipped, took, .. }, is_one_of_several, .. } = *self;
        let (moved, name) = (bytes - skipped, name.to_owned());
        Event::Client(Client { peer, outcome, bytes, took, reply, message, moved, name, is_one_of_several })
    }
}

/// The receiver has stored all of it.
#[derive(Debug, Serialize)]
pub(crate) struct Stored {
    /// Its name in messages.
    #[serde(skip)]
    pub(crate) name: String,
    /// `-` is standard output, `None` a command.
    #[serde(flatten, serialize_with = "path_fields")]
    pub(crate) path: Option<PathBuf>,
    pub(crate) bytes: u64,
    /// How many of them arrived in this transfer.
    #[serde(skip)]
    pub(crate) moved: u64,
    #[serde(rename = "seconds", serialize_with = "in_seconds")]
    pub(crate) took: Duration,
    /// Whether it survives the loss of power from now on.
    pub(crate) durable: bool,
    /// Whether the sender was told of it.
    pub(crate) told: bool,
    /// Whether a file was there before.
    pub(crate) replaced: bool,
}

/// The last line.
#[derive(Debug, Serialize)]
pub(crate) struct End {
    /// The exit status; that of a signal is 128 plus its number.
    pub(crate) status: u8,
    /// `file-server` only.
    #[serde(flatten)]
    pub(crate) tally: Option<Tally>,
    /// Whether the clients are summed up in text too.
    #[serde(skip)]
    pub(crate) had_several_clients: bool,
}

/// One line of text, or several that stay together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// On standard output.
    Result(String),
    /// On standard error, unless only results and errors are wanted.
    Info(String),
    /// On standard error.
    Always(String),
}

impl Event {
    /// Something that the user may want to know.
    pub(crate) fn note(message: impl Into<String>) -> Self {
        Self::Note { message: message.into() }
    }

    /// A problem that the user should know of, although nothing failed.
    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self::Warning { message: message.into() }
    }

    /// What failed.
    pub(crate) fn error(error: &Error) -> Self {
        Self::Error { message: text::one_line(error) }
    }

    /// Its lines of text. If progress was shown, they include its total.
    pub(super) fn lines(&self, program: &str, showed_progress: bool) -> Vec<Line> {
        match self {
            Self::Listening(listening) => listening.lines(),
            Self::Client(client) => client.lines(program, showed_progress),
            Self::Stored(stored) => stored.lines(showed_progress),
            Self::Note { message } => vec![Line::Info(message.clone())],
            Self::Warning { message } => vec![Line::Info(format!("{program}: warning: {message}"))],
            Self::Error { message } => vec![Line::Always(format!("{program}: {message}"))],
            Self::End(end) => end.lines(),
        }
    }

    /// Its JSON, without a line end.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether `--quiet` leaves it out.
    pub(super) fn is_info(&self) -> bool {
        match self {
            Self::Note { .. } | Self::Warning { .. } => true,
            Self::Listening(listening) => !listening.is_port_news && listening.key.is_none(),
            _ => false,
        }
    }
}

impl Listening {
    fn lines(&self) -> Vec<Line> {
        let listening = format!("listening on {}", SocketAddr::new(self.address, self.port));
        let mut lines = vec![if self.is_port_news { Line::Always(listening) } else { Line::Info(listening) }];
        lines.extend(self.key.iter().map(|key| Line::Always(format!("key: {key}"))));
        let words = self.command.iter().filter_map(|word| shell::word(word.as_ref()));
        let mut how = vec![self.purpose.clone(), format!("  {}", words.collect::<Vec<_>>().join(" "))];
        if !self.other_addresses.is_empty() {
            how.push(format!("other addresses of this machine: {}", self.other_addresses.join(", ")));
        }
        if let Some((purpose, command)) = &self.without {
            how.extend([(*purpose).to_owned(), format!("  {command}")]);
        }
        lines.extend(how.into_iter().map(Line::Info));
        lines
    }
}

impl Client {
    fn lines(&self, program: &str, showed_progress: bool) -> Vec<Line> {
        let Self { peer, bytes, name, .. } = self;
        let mut lines = Vec::new();
        let summary = || summary(self.moved, self.took);
        match self.outcome {
            Verdict::Confirmed if self.is_one_of_several => {
                lines.push(Line::Info(format!("{peer}: sent {bytes} bytes of {name}, confirmed: {}", summary())));
            }
            Verdict::Confirmed if showed_progress => lines.push(Line::Info(format!("{name}: {}", summary()))),
            _ => {}
        }
        if let Some(reply) = &self.reply {
            let which = if self.is_one_of_several { format!(" {peer}") } else { String::new() };
            lines.push(Line::Result(format!("Message from client{which}: {reply}")));
        }
        lines.extend(self.message.iter().map(|message| Line::Always(format!("{program}: {peer}: {message}"))));
        lines
    }
}

impl Stored {
    fn lines(&self, showed_progress: bool) -> Vec<Line> {
        let Self { name, bytes, .. } = self;
        let mut lines = Vec::new();
        if showed_progress {
            lines.push(Line::Info(format!("{name}: {}", summary(self.moved, self.took))));
        }
        if self.replaced {
            lines.push(Line::Info(format!("{name}: replaced the file that was there before")));
        }
        lines.push(Line::Result(format!("Received file data: {bytes} bytes in {name}")));
        lines
    }
}

impl End {
    fn lines(&self) -> Vec<Line> {
        let Some(Tally { active, confirmed, unconfirmed, failed, .. }) =
            self.tally.filter(|_| self.had_several_clients)
        else {
            return Vec::new();
        };
        let total = active + confirmed + unconfirmed + failed;
        let interrupted = if active > 0 { format!(", {active} interrupted") } else { String::new() };
        vec![Line::Info(format!(
            "clients: {total}, {confirmed} confirmed, {unconfirmed} not confirmed, {failed} failed{interrupted}"
        ))]
    }
}

/// `371.0 MiB of 1.9 GiB`, as the progress has it.
pub(crate) fn how_much(bytes: u64, total: Option<u64>) -> String {
    let moved = ByteSize(bytes);
    total.map_or_else(|| moved.to_string(), |total| format!("{moved} of {}", ByteSize(total)))
}

/// Whether the other side ended the connection, on purpose or by its own end.
pub(crate) fn is_gone(error: &Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    has_left(error) || matches!(kind_of(error), Some(ConnectionReset | ConnectionAborted | BrokenPipe))
}

/// Whether the connection is lost or stalled, so that another one may succeed.
pub(crate) fn is_break(error: &Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut, UnexpectedEof};
    const KINDS: [io::ErrorKind; 6] =
        [ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut, UnexpectedEof];
    is_gone(error) || kind_of(error).is_some_and(|kind| KINDS.contains(&kind))
}

/// Whether the other side ended the connection before it took anything.
fn has_left(error: &Error) -> bool {
    kind_of(error) == Some(io::ErrorKind::NotConnected)
}

/// Whether the other side is another program, or has another key.
pub(crate) fn is_refusal(error: &Error) -> bool {
    use io::ErrorKind::{InvalidData, PermissionDenied, Unsupported};
    matches!(kind_of(error), Some(InvalidData | PermissionDenied | Unsupported))
}

fn kind_of(error: &Error) -> Option<io::ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref()).map(io::Error::kind)
}

/// To the millisecond.
#[expect(clippy::cast_precision_loss, reason = "exact up to three hundred thousand years")]
fn in_seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_millis() as f64 / 1000.0)
}

/// `path`, and with it `path_hex` where it is not UTF-8.
#[expect(clippy::ref_option, reason = "serde passes the field")]
fn path_fields<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut fields = serializer.serialize_map(None)?;
    fields.serialize_entry("path", &path.as_deref().map(Path::to_string_lossy))?;
    if let Some(path) = path.as_deref().filter(|path| path.to_str().is_none()) {
        fields.serialize_entry("path_hex", &hex::encode(path.as_os_str().as_encoded_bytes()))?;
    }
    fields.end()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// The lines of text, each after the stream on which it is, and the JSON.
    fn both(event: &Event) -> (Vec<String>, String) {
        let lines = event.lines("file-server", true).into_iter().map(|line| match line {
            Line::Result(line) => format!("1 {line}"),
            Line::Info(line) => format!("2 {line}"),
            Line::Always(line) => format!("2! {line}"),
        });
        (lines.collect(), event.json())
    }

    fn check(event: &Event, lines: &[&str], json: &str) {
        let (actual_lines, actual_json) = both(event);
        assert_eq!(actual_lines, lines);
        assert_eq!(actual_json, json);
    }

    const MIB: u64 = 1 << 20;

    fn served(bytes: u64, total: Option<u64>, is_one_of_several: bool) -> Served<'static> {
        let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 7), 50514));
        let sent = Moved { bytes, skipped: 0, took: Duration::from_millis(250), is_all: total == Some(bytes) };
        Served { peer, name: "des.txt", total, sent, is_one_of_several, has_dialled: false, has_key: false }
    }

    fn reset() -> Error {
        Error::from(io::Error::from(io::ErrorKind::ConnectionReset)).context("could not send")
    }

    #[test]
    fn a_receiver_with_the_key_serves_this_address() {
        for (bytes, message) in [
            (30, "the client gave up after 30 B of 1.0 MiB; the file was not stored there"),
            (MIB, "the client gave up after all 1.0 MiB; it has not said that they are stored"),
        ] {
            let served = Served { has_dialled: true, has_key: true, ..served(bytes, Some(MIB), false) };
            assert_eq!(both(&served.failed(&reset())).0, [format!("2! file-server: 192.0.2.7:50514: {message}")]);
        }
    }

    #[test]
    fn a_listener_tells_what_to_type() {
        let command = ["file-client", "192.0.2.1", "9190", "--size", "5", "--output", "two words"];
        let mut listening = Listening {
            address: Ipv6Addr::UNSPECIFIED.into(),
            port: 9190,
            size: Some(5),
            sha256: None,
            key: None,
            command: command.map(str::to_owned).to_vec(),
            is_port_news: false,
            purpose: "to fetch the file, type on the other machine:".to_owned(),
            other_addresses: vec!["fd00::1".to_owned(), "10.0.0.1".to_owned()],
            without: Some(("or with nc:", "nc 192.0.2.1 9190".to_owned())),
        };
        let json = listening_json("null");
        let lines = [
            "2 listening on [::]:9190",
            "2 to fetch the file, type on the other machine:",
            "2   file-client 192.0.2.1 9190 --size 5 --output 'two words'",
            "2 other addresses of this machine: fd00::1, 10.0.0.1",
            "2 or with nc:",
            "2   nc 192.0.2.1 9190",
        ];
        let event = Event::Listening(listening);
        check(&event, &lines, &json);
        assert!(event.is_info());

        let Event::Listening(same) = event else { return };
        listening = Listening { key: Some("k".to_owned()), is_port_news: true, without: None, ..same };
        listening.other_addresses.clear();
        let event = Event::Listening(listening);
        let lines = ["2! listening on [::]:9190", "2! key: k", lines[1], lines[2]];
        check(&event, &lines, &listening_json("\"k\""));
        assert!(!event.is_info());
    }

    fn listening_json(key: &str) -> String {
        let command = r#"["file-client","192.0.2.1","9190","--size","5","--output","two words"]"#;
        format!(
            r#"{{"event":"listening","address":"::","port":9190,"size":5,"sha256":null,"key":{key},"command":{command}}}"#
        )
    }

    #[test]
    fn a_client_that_confirmed_is_a_message_and_one_of_several_has_an_address() {
        let json = r#"{"event":"client","peer":"192.0.2.7:50514","outcome":"confirmed","bytes":1048576,"seconds":0.25,"reply":"Thank you","message":null}"#;
        let alone = served(MIB, Some(MIB), false).confirmed("Thank you".to_owned());
        let lines = ["2 des.txt: 1.0 MiB in 0.25 s (4.0 MiB/s)", "1 Message from client: Thank you"];
        check(&alone, &lines, json);
        assert_eq!(alone.lines("file-server", false), [Line::Result("Message from client: Thank you".to_owned())]);
        let sent = "2 192.0.2.7:50514: sent 1048576 bytes of des.txt, confirmed: 1.0 MiB in 0.25 s (4.0 MiB/s)";
        let lines = [sent, "1 Message from client 192.0.2.7:50514: Thank you"];
        check(&served(MIB, Some(MIB), true).confirmed("Thank you".to_owned()), &lines, json);
    }

    #[test]
    fn a_client_that_did_not_confirm_is_an_error_after_what_it_said() {
        let event = served(30, None, false).unconfirmed(Some("no".to_owned()), "it said something else");
        let message = "sent 30 bytes of des.txt, not confirmed: it said something else";
        let error = format!("2! file-server: 192.0.2.7:50514: {message}");
        let json = r#"{"event":"client","peer":"192.0.2.7:50514","outcome":"unconfirmed","bytes":30,"seconds":0.25,"reply":"no","message":""#;
        check(&event, &["1 Message from client: no", &error], &format!("{json}{message}\"}}"));
        let (lines, json) = both(&served(30, None, false).unconfirmed(None, "it said nothing"));
        assert_eq!(
            lines,
            ["2! file-server: 192.0.2.7:50514: sent 30 bytes of des.txt, not confirmed: it said nothing"]
        );
        assert!(json.contains(r#""reply":null"#), "{json}");
    }

    #[test]
    fn a_failed_transfer_says_who_gave_up_after_how_much_and_what_is_stored() {
        let changed = || Error::msg("des.txt changed while it was read");
        let left = || Error::from(io::Error::from(io::ErrorKind::NotConnected));
        for (bytes, total, error, message) in [
            (0, Some(MIB), reset(), "connected and left without taking the file"),
            (2116, Some(MIB), reset(), "connected and left without taking the file"),
            (2116, Some(MIB), left(), "connected and left without taking the file"),
            (
                50 * MIB,
                Some(60 * MIB),
                left(),
                "the client gave up after 50.0 MiB of 60.0 MiB; the file was not stored there",
            ),
            (0, Some(0), reset(), "the client gave up after all 0 B; it has not said that they are stored"),
            (MIB, Some(4 * MIB), reset(), "the client gave up after 1.0 MiB of 4.0 MiB; the file was not stored there"),
            (MIB, Some(MIB), reset(), "the client gave up after all 1.0 MiB; it has not said that they are stored"),
            (MIB, None, reset(), "the client gave up after 1.0 MiB; the file was not stored there"),
            (
                MIB,
                Some(4 * MIB),
                changed(),
                "stopped after 1.0 MiB of 4.0 MiB (the file was not stored there): des.txt changed while it was read",
            ),
        ] {
            let (lines, json) = both(&served(bytes, total, true).failed(&error));
            assert_eq!(lines, [format!("2! file-server: 192.0.2.7:50514: {message}")]);
            assert!(json.contains(r#""outcome":"failed","#), "{json}");
            assert!(json.ends_with(&format!(r#""reply":null,"message":"{message}"}}"#)), "{json}");
        }
    }

    #[test]
    fn a_file_that_is_stored_has_a_path_in_hexadecimal_where_it_has_to() {
        let stored = |path: Option<PathBuf>, replaced| {
            let took = Duration::from_micros(4499);
            let name = "destination.txt".to_owned();
            Event::Stored(Stored { name, path, bytes: 2116, moved: 2116, took, durable: true, told: true, replaced })
        };
        let rest = r#""bytes":2116,"seconds":0.004,"durable":true,"told":true,"replaced":"#;
        let summary = "2 destination.txt: 2.1 KiB in 0.00 s";
        let result = "1 Received file data: 2116 bytes in destination.txt";
        let json = |fields: &str, replaced: bool| format!(r#"{{"event":"stored",{fields},{rest}{replaced}}}"#);
        let event = stored(Some("destination.txt".into()), false);
        check(&event, &[summary, result], &json(r#""path":"destination.txt""#, false));
        let replaced = "2 destination.txt: replaced the file that was there before";
        check(&stored(None, true), &[summary, replaced, result], &json(r#""path":null"#, true));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt as _;
            let path = PathBuf::from(std::ffi::OsString::from_vec(b"caf\xe9".to_vec()));
            assert_eq!(stored(Some(path), false).json(), json(r#""path":"caf�","path_hex":"636166e9""#, false));
        }
    }

    #[test]
    fn messages_are_one_line_and_say_how_bad_it_is() {
        let error = Error::msg("permission \"denied\"").context("could not open a");
        let line = "2! file-server: could not open a: permission \"denied\"";
        check(
            &Event::error(&error),
            &[line],
            r#"{"event":"error","message":"could not open a: permission \"denied\""}"#,
        );
        check(&Event::note("so"), &["2 so"], r#"{"event":"note","message":"so"}"#);
        let warning = r#"{"event":"warning","message":"so"}"#;
        check(&Event::warning("so"), &["2 file-server: warning: so"], warning);
    }

    #[test]
    fn the_end_has_the_clients_of_a_server_and_no_text_for_one() {
        let tally = Some(Tally { active: 3, confirmed: 1, unconfirmed: 2, failed: 1, broken: 0 });
        let end = |tally, had_several_clients| Event::End(End { status: 1, tally, had_several_clients });
        let json = r#"{"event":"end","status":1,"confirmed":1,"unconfirmed":2,"failed":1,"interrupted":3}"#;
        let line = "2 clients: 7, 1 confirmed, 2 not confirmed, 1 failed, 3 interrupted";
        check(&end(tally, true), &[line], json);
        check(&end(tally, false), &[], json);
        check(&end(None, false), &[], r#"{"event":"end","status":1}"#);
    }
}
