//! What `file-client` does: prepares the destination, meets the server, receives one file, and reports the outcome.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use bytesize::ByteSize;

use crate::admission::{Admission, Proof};
use crate::endpoint::{Encryption, Endpoint, Meeting};
use crate::file::destination::{self, Destination, Settings};
use crate::file::replacement::Replacement;
use crate::invitation::{Invitation, Offer};
use crate::key::Role;
use crate::net::connection::Connection;
use crate::receiver;
use crate::resume::Kept;
use crate::signals;
use crate::text;
use crate::transfer::receive::{Expected, NotAll};
use crate::ui::console::{Console, Style};
use crate::ui::event::{End, Event, Stored, how_much, is_break, is_refusal};

/// After this long without a byte the user is told what the reason may be.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// How long to pause before another attempt after a break: twice as long each time, until something arrives again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What to fetch, and where to store it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Options {
    /// Where the bytes go.
    pub output: Output,
    /// Who dials, and where.
    pub endpoint: Endpoint,
    /// Dialling: how long to keep trying, zero for one attempt. Listening: the longest time without the other side, zero
    /// for ever.
    pub wait: Duration,
    /// Longest time without progress; `None` waits forever.
    pub timeout: Option<Duration>,
    /// Whether the file is taken only from a server with a key.
    pub encryption: Encryption,
    /// Expected size in bytes.
    pub size: Option<u64>,
    /// Expected SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// Fail rather than replace an existing file.
    pub no_clobber: bool,
    /// Reply before the file is synced to disk.
    pub no_sync: bool,
    /// Keep what has arrived when the connection breaks, and go on from there; only with a key.
    pub resume: bool,
    /// Print every line as a JSON object.
    pub json: bool,
    /// Print results and errors only.
    pub quiet: bool,
}

/// Where the bytes go.
#[derive(Clone, Debug)]
pub enum Output {
    /// A file; `-` is standard output.
    File(PathBuf),
    /// The standard input of a program: its name and its arguments.
    Command(Vec<OsString>),
}

impl Options {
    /// Whether a server that waits for a handshake would hear nothing from this client.
    fn is_plain_dialler(&self) -> bool {
        matches!((&self.encryption, &self.endpoint), (Encryption::Off, Endpoint::Connect(_)))
    }

    /// Whether standard output carries the file, or belongs to the command.
    fn takes_stdout(&self) -> bool {
        match &self.output {
            Output::File(path) => destination::is_standard_output(path),
            Output::Command(_) => true,
        }
    }
}

/// Fetches one file from a server and stores it. Prints the result, or one line about what failed. Returns the exit
/// status: 0 if the file is stored; if not, 1, and an existing file is unchanged, unless only its directory could not
/// be synced.
#[must_use]
pub fn fetch(options: &Options) -> ExitCode {
    let Options { quiet, json, .. } = *options;
    let console = Console::new(Style { program: "file-client", quiet, json, stdout_is_taken: options.takes_stdout() });
    let status = match try_fetch(options, &console) {
        Ok(()) => 0,
        Err(error) => {
            // A signal that came first ends the program here: the failure is its consequence.
            signals::wait_for_group();
            signals::defer().complete();
            console.error(&error);
            1
        }
    };
    console.end(end(status));
    status.into()
}

fn end(status: u8) -> End {
    End { status, tally: None, had_several_clients: false }
}

fn try_fetch(options: &Options, console: &Console) -> Result<()> {
    let part = Arc::default();
    install_signal_handlers(console, &part)?;
    // Before connecting, so that a destination that cannot be written does not use up the waiting server.
    let destination = open_destination(options, console)?;
    if let Some(note) = destination.replacement().and_then(Replacement::note) {
        console.note(note);
    }
    let kept = match destination.replacement().and_then(Replacement::part) {
        Some(file) => {
            let _ = part.set(file.try_clone()?);
            Some(Kept::default())
        }
        None => None,
    };
    let meeting = Meeting {
        role: Role::Receiver,
        wait: options.wait,
        timeout: options.timeout,
        encryption: &options.encryption,
        could_not: format!("could not receive {}", destination.name()),
        key: OnceLock::new(),
        resume: kept.is_some(),
        console,
    };
    Client { options, console, meeting, admission: None, destination, kept, meetings: 0 }.fetch()
}

fn install_signal_handlers(console: &Console, part: &Arc<OnceLock<File>>) -> Result<()> {
    let (screen, part) = (console.clone(), Arc::clone(part));
    let report_interrupt = move |status| {
        screen.clear_interrupt();
        let kept = part.get().and_then(|part| part.metadata().ok()).map_or(0, |metadata| metadata.len());
        screen.error(&and_kept(Error::msg("interrupted before the file was stored"), kept));
        screen.end(end(status));
    };
    signals::install(report_interrupt)
}

/// Adds to the error how much of the file the next attempt finds.
fn and_kept(error: Error, kept: u64) -> Error {
    if kept == 0 {
        return error;
    }
    let (error, kept) = (text::one_line(&error), ByteSize(kept));
    Error::msg(format!("{error}; {kept} are kept for --resume"))
}

fn open_destination(options: &Options, console: &Console) -> Result<Destination> {
    let output = match &options.output {
        Output::File(output) => output,
        Output::Command(words) => return Destination::command(words),
    };
    let report = |line: &str| console.note(line);
    let settings = Settings {
        keep_existing: options.no_clobber,
        durable: !options.no_sync,
        size: options.size,
        resume: options.resume,
        timeout: options.timeout,
    };
    Destination::open(output, settings, report)
}

/// One run of the program: an attempt, or several where the part that arrived is kept.
struct Client<'a> {
    options: &'a Options,
    console: &'a Console,
    meeting: Meeting<'a>,
    /// The listener, kept for a server that comes back.
    admission: Option<Admission>,
    destination: Destination,
    /// What is known of the part, if one is kept.
    kept: Option<Kept>,
    /// How many connections to a server that may send there have been.
    meetings: u64,
}

impl Client<'_> {
    /// Tries until the file is stored, or until nothing has arrived for as long as `--wait` says. Reading the part does not
    /// count.
    fn fetch(mut self) -> Result<()> {
        let (mut since, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let checking = Instant::now();
            self.check_part()?;
            since += checking.elapsed();
            let meetings = self.meetings;
            let Err(error) = self.attempt() else { return Ok(()) };
            let (Some(kept), Some(size)) =
                (&self.kept, self.destination.replacement().and_then(Replacement::kept_size))
            else {
                return Err(error);
            };
            // What came before the first connection was not a wait for the server to come back.
            if size > kept.length() || (meetings == 0 && self.meetings > 0) {
                (since, pause) = (Instant::now(), FIRST_PAUSE);
            }
            let left = self.options.wait.saturating_sub(since.elapsed());
            let may_pass = match self.meetings - meetings {
                0 => !is_refusal(&error) && (meetings > 0 || is_break(&error)),
                _ => is_break(&error),
            };
            if left.is_zero() || !may_pass {
                return Err(and_kept(error, size));
            }
            self.console.note(&format!("{}; trying again", text::one_line(&error)));
            thread::sleep(pause.min(left));
            // Zero would be no limit where this side listens.
            self.meeting.wait = left.saturating_sub(pause).max(Duration::from_millis(1));
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn attempt(&mut self) -> Result<()> {
        let connection = self.meet()?;
        self.meetings += 1;
        if self.kept.is_some() && !connection.can_resume() {
            self.console.note("the server cannot resume, so it sends the whole file");
        }
        let Self { options, console, destination, .. } = self;
        let meter = console.meter(destination.name().to_owned(), options.size);
        // With a shorter timeout the error says the same.
        let is_patient = options.timeout.is_none_or(|timeout| timeout > SILENT_AFTER);
        if options.is_plain_dialler() && is_patient && connection.socket().is_silent_for(SILENT_AFTER) {
            console.note("nothing has arrived yet; a server with a key waits for --key-file");
        }
        let expected = Expected { size: options.size, sha256: options.sha256 };
        let received = receiver::run(connection, destination, expected, self.kept.as_mut(), &meter);
        let moved = meter.finish();
        let stored = received.map_err(|error| explain(error, moved.bytes, options, destination))?;
        if let Err(error) = &stored.told {
            let reason = text::reason(error);
            console.warn(&format!("{} is stored, but the server could not be told: {reason}", destination.name()));
        }
        console.emit(&Event::Stored(Stored {
            name: destination.name().to_owned(),
            path: if let Output::File(path) = &options.output { Some(path.clone()) } else { None },
            bytes: stored.bytes,
            moved: stored.bytes - moved.skipped,
            took: moved.took,
            durable: destination.is_durable(),
            told: stored.told.is_ok(),
            replaced: stored.replaced,
        }));
        Ok(())
    }

    /// Reads what is kept, before a server waits for it.
    fn check_part(&mut self) -> Result<()> {
        let (Some(kept), Some(part)) = (&mut self.kept, self.destination.replacement().map(Replacement::file)) else {
            return Ok(());
        };
        let length = part.metadata()?.len();
        if length < kept.whole_blocks() {
            // Another program has made it shorter.
            kept.cut(0);
        }
        let meter = self.console.meter("checking what is there".to_owned(), Some(length));
        meter.skip(kept.whole_blocks());
        let read = kept.read(part, self.options.sha256.is_some(), |bytes| meter.add(bytes));
        read.with_context(|| format!("could not read what is kept of {}", self.destination.name()))
    }

    /// Returns a connection to a server that may send.
    fn meet(&mut self) -> Result<Connection> {
        let Self { options, meeting, .. } = self;
        match &options.endpoint {
            Endpoint::Connect(target) => meeting.dial(target),
            Endpoint::Listen(listening) => {
                let Options { size, sha256, .. } = **options;
                let invitation = Invitation { offer: Offer::Nothing, size, sha256, is_encrypted: false, new_key: None };
                let mut admission = match self.admission.take() {
                    Some(admission) => admission,
                    None => meeting.listen(listening, Proof::FirstByte, invitation)?,
                };
                let Some(client) = admission.next(meeting.deadline(Instant::now()))? else {
                    bail!("no server connected within {}", humantime::format_duration(options.wait));
                };
                // The port stays for a server that comes back.
                self.admission = Some(admission).filter(|_| self.kept.is_some());
                client.connection
            }
        }
    }
}

/// Rewords the error for the user: which side gave up and after how much, what is on the disk now, and a possible
/// reason if not a byte arrived. A server that waits for a handshake is silent and then resets, and one that does not
/// serve this address resets at once.
fn explain(error: Error, bytes: u64, options: &Options, destination: &Destination) -> Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, TimedOut};
    let Some(cause) = error.downcast_ref::<NotAll>().and(error.downcast_ref::<io::Error>()) else { return error };
    let gave_up = matches!(cause.kind(), ConnectionReset | ConnectionAborted);
    if !gave_up && cause.kind() != TimedOut {
        return error;
    }
    let reason = if gave_up { "the server gave up".to_owned() } else { text::reason(cause) };
    if bytes == 0 && options.is_plain_dialler() {
        let hint = if gave_up {
            "it may be waiting for --key, or not serve this address"
        } else {
            "the server may be waiting for --key"
        };
        return Error::msg(format!("{error}: {reason}; {hint}"));
    }
    let on_disk = match destination.replacement() {
        // `and_kept` adds what is kept.
        Some(replacement) if replacement.kept_size().is_some_and(|size| size > 0) => String::new(),
        Some(replacement) if matches!(replacement.existing_size(), Ok(Some(_))) => {
            format!("; {} is as it was", destination.name())
        }
        Some(_) => "; nothing was stored".to_owned(),
        None => String::new(),
    };
    let text = format!("{error}: {reason} after {}{on_disk}", how_much(bytes, options.size));
    io::Error::new(cause.kind(), text).into()
}
