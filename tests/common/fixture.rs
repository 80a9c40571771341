//! One transfer: a source directory with `des.txt`, a destination directory, the two programs between them, and what
//! they leave behind.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use super::files::{assert_file, content, directory, has_unnamed_files_in, make_old, names_in};
use super::messages::CONFIRMED;
use super::network::{ReservedPort, use_up};
use super::processes::{
    FILE_CLIENT, FILE_SERVER, Finished, Running, Server, Signal, file_client, file_server, program, run,
};
use super::proxy::{Fault, Proxy};
use super::random::Random;
use super::wait::wait_until;

/// The signals that a transfer is ended with.
pub const ENDING_SIGNALS: [Signal; 3] = [Signal::KILL, Signal::TERM, Signal::INT];

/// A key as `file-server --encrypt` prints it, and another one.
pub const KEY: &str = "j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg";
pub const OTHER_KEY: &str = "000g-40r4-0m30-e209-185g-r38e-1yz0";

/// Which program connects to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dials {
    Client,
    /// `file-server --connect`, to `file-client --listen`.
    Server,
}

pub const EITHER_DIALS: [Dials; 2] = [Dials::Client, Dials::Server];

/// Each of these, and who dials.
pub fn in_both_directions<T: Copy, const N: usize>(cases: [T; N]) -> Vec<(T, Dials)> {
    EITHER_DIALS.map(|dials| cases.map(|case| (case, dials))).concat()
}

/// A source directory and a destination directory.
pub struct Fixture {
    source: TempDir,
    destination: TempDir,
    new: Vec<u8>,
    old: Option<Vec<u8>>,
    /// Whether both programs have [`KEY`].
    is_encrypted: bool,
    dials: Dials,
    /// Reserved, so that no other test's server gets the port of a server that was killed.
    port: ReservedPort,
}

impl Fixture {
    /// `des.txt` has these bytes; there is no `destination.txt`.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let fixture = Self {
            source: directory(),
            destination: directory(),
            new: bytes.as_ref().to_vec(),
            old: None,
            is_encrypted: false,
            dials: Dials::Client,
            port: ReservedPort::new(),
        };
        fs::write(fixture.source(), &fixture.new).unwrap();
        fixture
    }

    pub fn of_size(size: usize) -> Self {
        Self::new(content(size, 1))
    }

    /// A sparse `des.txt`, of zeros that take no room.
    pub fn sparse(size: u64) -> Self {
        let fixture = Self::new("");
        File::create(fixture.source()).unwrap().set_len(size).unwrap();
        fixture
    }

    /// Of up to a few megabytes, mostly small, with or without an old file.
    pub fn random(random: &mut Random) -> Self {
        let size = random.one_of(&[0, 1, 30, 1000, 100_000, 1_000_000, 4_000_000]) + random.below(30);
        let fixture = Self::of_size(usize::try_from(size).unwrap());
        if random.below(2) == 0 { fixture.with_old() } else { fixture }
    }

    /// The destination is a new directory in this one.
    pub fn stored_in(mut self, directory: &Path) -> Self {
        self.destination = tempfile::tempdir_in(directory).unwrap();
        if self.old.is_some() {
            self.restore_old();
        }
        self
    }

    /// There is an older `destination.txt`, of half the size.
    pub fn with_old(mut self) -> Self {
        let old = content(self.new.len() / 2 + 1, 2);
        fs::write(self.destination(), &old).unwrap();
        self.old = Some(old);
        self
    }

    /// Both programs get the same key, through the environment.
    pub fn encrypted(mut self) -> Self {
        self.is_encrypted = true;
        self
    }

    /// The same transfer with or without a key.
    pub fn in_mode(self, is_encrypted: bool) -> Self {
        if is_encrypted { self.encrypted() } else { self }
    }

    pub fn dialled_by(mut self, dials: Dials) -> Self {
        self.dials = dials;
        self
    }

    /// Waits until `des.txt` is old enough to be sent in the same pieces each time.
    pub fn settled(self) -> Self {
        let source = fs::metadata(self.source()).unwrap();
        let nanoseconds = source.ctime_nsec().try_into().unwrap();
        let changed = UNIX_EPOCH + Duration::new(source.ctime().try_into().unwrap(), nanoseconds);
        wait_until("an old source", || changed.elapsed().is_ok_and(|age| age > Duration::from_millis(2100)));
        self
    }

    /// Puts the older `destination.txt` back.
    pub fn restore_old(&self) {
        fs::write(self.destination(), self.old().unwrap()).unwrap();
    }

    /// Changes what `des.txt` holds.
    pub fn offer(&mut self, bytes: impl AsRef<[u8]>) {
        self.new = bytes.as_ref().to_vec();
        fs::write(self.source(), &self.new).unwrap();
    }

    /// The bytes of `des.txt`.
    pub fn bytes(&self) -> &[u8] {
        &self.new
    }

    /// The bytes of `destination.txt` before the transfer.
    pub fn old(&self) -> Option<&[u8]> {
        self.old.as_deref()
    }

    pub fn size(&self) -> u64 {
        self.new.len() as u64
    }

    /// `des.txt`
    pub fn source(&self) -> PathBuf {
        self.source_directory().join("des.txt")
    }

    pub fn source_directory(&self) -> &Path {
        self.source.path()
    }

    /// `destination.txt`
    pub fn destination(&self) -> PathBuf {
        self.destination_directory().join("destination.txt")
    }

    pub fn destination_directory(&self) -> &Path {
        self.destination.path()
    }

    /// The port of the server.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub fn server_command(&self, arguments: &[&str]) -> Command {
        self.with_key(file_server(self.source_directory(), self.port.number, arguments))
    }

    /// `file-client --listen PORT`
    pub fn listening_client_command(&self, arguments: &[&str]) -> Command {
        let listen = ["--bind", "127.0.0.1", "--listen", &self.port.number.to_string()];
        let mut command = program(FILE_CLIENT, self.destination_directory(), &listen);
        command.args(arguments);
        self.with_key(command)
    }

    /// `file-server --connect 127.0.0.1 PORT`
    pub fn dialling_server_command(&self, port: u16, arguments: &[&str]) -> Command {
        let connect = ["--connect", "127.0.0.1", &port.to_string()];
        let mut command = program(FILE_SERVER, self.source_directory(), &connect);
        command.args(arguments);
        self.with_key(command)
    }

    fn with_key(&self, mut command: Command) -> Command {
        if self.is_encrypted {
            command.env("HALF_CLOSE_KEY", KEY);
        }
        command
    }

    /// Ends a server that still waits for its only client; does nothing to one that has had it. With a key that takes a
    /// client that has it, too, and that fails. Returns whether it listened.
    pub fn use_up(&self, port: u16) -> bool {
        if self.is_encrypted {
            let elsewhere = directory();
            // More than it could grow to.
            let size = format!("--size={}", self.size() + 1_000_000);
            let client = file_client(elsewhere.path(), port, &["--output=/dev/null", "--timeout=5s", &size]);
            was_heard(self.with_key(client))
        } else {
            use_up(port)
        }
    }

    pub fn server(&self, arguments: &[&str]) -> Server {
        Server::start(&mut self.server_command(arguments))
    }

    pub fn client_command(&self, port: u16, arguments: &[&str]) -> Command {
        self.with_key(file_client(self.destination_directory(), port, arguments))
    }

    pub fn client(&self, port: u16, arguments: &[&str]) -> Running {
        Running::start(&mut self.client_command(port, arguments))
    }

    /// Ends a client that still waits for its only server; does nothing to one that has had it.
    pub fn use_up_client(&self, port: u16) -> bool {
        // Its source fails.
        was_heard(self.dialling_server_command(port, &["--timeout=5s", "--", "sh", "-c", "echo; false"]))
    }

    /// Starts the program that listens and then the one that dials, with the fault between them.
    pub fn start(&self, fault: impl Into<Option<Fault>>, server: &[&str], client: &[&str]) -> Transfer<'_> {
        self.start_with(fault, server, client, |server| server)
    }

    /// The same with another command that runs the server.
    pub fn start_with(
        &self,
        fault: impl Into<Option<Fault>>,
        server: &[&str],
        client: &[&str],
        run_server: impl Fn(Command) -> Command,
    ) -> Transfer<'_> {
        let fault = fault.into();
        let through = |port, fault: Option<Fault>| {
            let proxy = fault.map(|fault| Proxy::start(port, Some(fault)));
            (proxy.as_ref().map_or(port, |proxy| proxy.port), proxy)
        };
        if self.dials == Dials::Client {
            let server = Server::start(&mut run_server(self.server_command(server)));
            let (port, proxy) = through(server.port, fault);
            Transfer { fixture: self, server: server.running, client: self.client(port, client), proxy }
        } else {
            let client = Server::start(&mut self.listening_client_command(client));
            let (port, proxy) = through(client.port, fault.map(Fault::seen_from_a_listening_client));
            let server = Running::start(&mut run_server(self.dialling_server_command(port, server)));
            Transfer { fixture: self, server, client: client.running, proxy }
        }
    }

    /// Runs both programs to their ends.
    pub fn transfer(&self, server_arguments: &[&str], client_arguments: &[&str]) -> Outcome {
        self.transfer_with(server_arguments, |port| self.client_command(port, client_arguments))
    }

    /// Runs the server and the client that is made for its port to their ends.
    pub fn transfer_with(&self, server_arguments: &[&str], client: impl FnOnce(u16) -> Command) -> Outcome {
        let server = self.server(server_arguments);
        let client = run(&mut client(server.port));
        Outcome { client, server: server.finish() }
    }

    /// Whether `destination.txt` is the whole new file. Panics if it is neither that nor as before, or not alone.
    pub fn is_stored(&self) -> bool {
        self.inspect().unwrap()
    }

    fn inspect(&self) -> Result<bool, String> {
        let found = fs::read(self.destination()).ok();
        let names = names_in(self.destination_directory());
        if names.len() != usize::from(found.is_some()) {
            return Err(format!("leftover files: {names:?}"));
        }
        let size = found.as_ref().map(Vec::len);
        match found {
            found if found.as_ref() == Some(&self.new) => Ok(true),
            found if found == self.old => Ok(false),
            _ => Err(format!("neither the new file nor as before: {size:?} bytes of {}", self.new.len())),
        }
    }

    /// Fails unless `destination.txt` is the whole new file, and alone.
    #[track_caller]
    pub fn assert_replaced(&self) {
        assert_replaced(self.destination_directory(), &self.new);
    }

    /// Returns whether the file is stored, after checking that each side's exit status is true and that each has
    /// printed at most one error.
    pub fn assert_truthful(&self, outcome: &Outcome) -> bool {
        let stored = self.assert_true_statuses(outcome);
        assert_at_most_one_error(&outcome.client);
        assert_at_most_one_error(&outcome.server);
        stored
    }

    /// Returns whether the file is stored, after checking that each side's exit status is true, whatever was printed.
    pub fn assert_true_statuses(&self, Outcome { client, server }: &Outcome) -> bool {
        if client.status == 128 + Signal::KILL.as_raw() {
            self.expect_leftover_of_replacement();
        }
        let outcome = format!("client: {client:?}\nserver: {server:?}");
        let stored = self.inspect().unwrap_or_else(|wrong| panic!("{wrong}\n{outcome}"));
        let is_true = match client.status {
            0 => stored,
            1 => !stored,
            status => is_ending_signal(status),
        };
        assert!(is_true, "the client's status is wrong, stored: {stored}\n{outcome}");
        let is_true = match server.status {
            0 => stored,
            1 => !stored,
            3 => true,
            status => is_ending_signal(status),
        };
        assert!(is_true, "the server's status is wrong, stored: {stored}\n{outcome}");
        stored
    }

    /// The file has a temporary name for a moment before it gets its own. A client killed in that moment leaves it behind,
    /// with the whole file, and a client a day later removes it. Where there are no files without a name it has that name
    /// from the start, and holds what has arrived.
    fn expect_leftover_of_replacement(&self) {
        let names = names_in(self.destination_directory());
        let leftover: Vec<_> = names.iter().filter(|name| name.contains(".half-close-")).collect();
        let Some(name) = leftover.first() else { return };
        assert!(leftover.len() == 1, "{names:?}");
        let leftover = self.destination_directory().join(name);
        if has_unnamed_files_in(self.destination_directory()) {
            assert_file(&leftover, &self.new);
        } else {
            assert!(self.new.starts_with(&fs::read(&leftover).unwrap()), "{names:?}");
        }
        make_old(&leftover);
        assert_eq!(run(&mut self.client_command(1, &[])).status, 1);
    }
}

/// Whether anything listened for a program that fails.
fn was_heard(mut dialler: Command) -> bool {
    let finished = run(&mut dialler);
    assert_ne!(finished.status, 0, "{finished:?}");
    !finished.stderr().contains("connection refused")
}

/// Two programs that run.
pub struct Transfer<'a> {
    fixture: &'a Fixture,
    pub server: Running,
    pub client: Running,
    /// It must exist until both have ended.
    proxy: Option<Proxy>,
}

impl Transfer<'_> {
    pub fn wait_for_fault(&self) {
        self.proxy.as_ref().unwrap().wait_until_reached();
    }

    /// Ends a stall.
    pub fn release(&self) {
        self.proxy.as_ref().unwrap().release();
    }

    /// Waits until both have ended by themselves.
    pub fn finish(self) -> Outcome {
        Outcome { client: self.client.finish(), server: self.server.finish() }
    }

    /// The same if the one that dials may not get as far as to count at the other.
    pub fn finish_or_use_up(self) -> Outcome {
        let port = self.fixture.port();
        if self.fixture.dials == Dials::Client {
            let client = self.client.finish();
            wait_until("the end of the server", || !self.fixture.use_up(port));
            Outcome { client, server: self.server.finish() }
        } else {
            let server = self.server.finish();
            wait_until("the end of the client", || !self.fixture.use_up_client(port));
            Outcome { client: self.client.finish(), server }
        }
    }
}

/// How the two programs ended.
#[derive(Debug)]
pub struct Outcome {
    pub client: Finished,
    pub server: Finished,
}

impl Outcome {
    /// Of the client and of the server.
    pub fn statuses(&self) -> (i32, i32) {
        (self.client.status, self.server.status)
    }

    #[track_caller]
    pub fn assert_statuses(&self, client: i32, server: i32) {
        assert_eq!(self.statuses(), (client, server), "{self:?}");
    }

    /// Fails unless both sides report success.
    #[track_caller]
    pub fn assert_stored(&self) {
        self.assert_statuses(0, 0);
        assert_eq!(self.client.errors(), [""; 0], "{self:?}");
        assert_eq!(self.server.stdout(), CONFIRMED);
    }

    /// Fails unless both sides report failure, and the client this reason.
    #[track_caller]
    pub fn assert_failed(&self, reason: &str) {
        self.assert_statuses(1, 1);
        assert_eq!(self.client.stderr(), format!("file-client: {reason}\n"));
        assert_eq!((self.client.stdout(), self.server.stdout()), (String::new(), String::new()));
    }
}

/// One error line if it failed, and no panic.
pub fn assert_at_most_one_error(finished: &Finished) {
    let errors = finished.errors();
    match finished.status {
        0 => assert!(errors.iter().all(|line| line.contains(": warning: ")) && errors.len() <= 1, "{finished:?}"),
        1 | 3 => assert_eq!(errors.len(), 1, "{finished:?}"),
        _ => assert!(errors.len() <= 1, "{finished:?}"),
    }
    for panic in ["panicked", "RUST_BACKTRACE"] {
        assert!(!finished.stderr().contains(panic) && !finished.stdout().contains(panic), "{finished:?}");
    }
}

/// Whether a program was ended by one of [`ENDING_SIGNALS`].
pub fn is_ending_signal(status: i32) -> bool {
    ENDING_SIGNALS.iter().any(|signal| status == 128 + signal.as_raw())
}

/// What `destination.txt` holds in a [`directory_with_old`].
pub const OLD: &[u8] = b"the old file\n";

/// A destination directory of its own, with an old `destination.txt`.
pub fn directory_with_old() -> TempDir {
    let directory = directory();
    fs::write(directory.path().join("destination.txt"), OLD).unwrap();
    directory
}

/// Fails unless `destination.txt` is the old file, and alone.
#[track_caller]
pub fn assert_untouched(directory: &Path) {
    assert_replaced(directory, OLD);
}

/// Fails unless `destination.txt` has these bytes, and is alone.
#[track_caller]
pub fn assert_replaced(directory: &Path, bytes: &[u8]) {
    assert_eq!(names_in(directory), ["destination.txt"]);
    assert_file(&directory.join("destination.txt"), bytes);
}

/// Offers the bytes to the client that is made for a port, wherever that stores them.
pub fn transfer(bytes: &[u8], client: impl FnOnce(u16) -> Command) -> Outcome {
    Fixture::new(bytes).transfer_with(&[], client)
}
