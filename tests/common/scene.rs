//! One transfer in which something goes wrong, what it leaves behind, and whether anybody has lied about it.
#![allow(clippy::print_stdout, reason = "the seed, by which a failure can be repeated")]

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::network::HeldPort;
use super::proxy::reset_on_close;
use super::{
    DEADLINE, FILE_SERVER, Finished, Running, Server, Signal, assert_same, content, file_client, folder, names_in, run,
};

/// Choices that can be repeated.
pub struct Dice(u64);

impl Dice {
    /// Starts from `HALF_CLOSE_SEED`, or else from the time; prints which.
    pub fn seeded() -> Self {
        let given = std::env::var("HALF_CLOSE_SEED").ok().map(|seed| seed.parse().unwrap());
        let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let seed = given.unwrap_or_else(|| now().into());
        println!("to repeat these choices: HALF_CLOSE_SEED={seed}");
        Self(seed)
    }

    /// Dice for a thread of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }

    /// `SplitMix64`
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

pub const DEADLY: [Signal; 3] = [Signal::KILL, Signal::TERM, Signal::INT];

/// A file on its way from one folder to another, which may have an older one.
pub struct Scene {
    there: tempfile::TempDir,
    here: tempfile::TempDir,
    new: Vec<u8>,
    old: Option<Vec<u8>>,
    /// Held, so that after a killed server no other test's server is found there.
    port: HeldPort,
}

impl Scene {
    pub fn new(size: usize, has_old: bool) -> Self {
        let (there, here) = (folder(), folder());
        let (new, old) = (content(size, 1), has_old.then(|| content(size / 2 + 1, 2)));
        fs::write(there.path().join("des.txt"), &new).unwrap();
        if let Some(old) = &old {
            fs::write(here.path().join("destination.txt"), old).unwrap();
        }
        Self { there, here, new, old, port: HeldPort::new() }
    }

    /// Of a size from nothing to a few megabytes, mostly small.
    pub fn random(dice: &mut Dice) -> Self {
        let size = dice.one_of(&[0, 1, 30, 1000, 100_000, 1_000_000, 4_000_000]) + dice.below(30);
        Self::new(usize::try_from(size).unwrap(), dice.below(2) == 0)
    }

    pub fn size(&self) -> u64 {
        self.new.len() as u64
    }

    pub fn source(&self) -> PathBuf {
        self.there.path().join("des.txt")
    }

    pub fn here(&self) -> &Path {
        self.here.path()
    }

    pub fn server(&self, arguments: &[&str]) -> Server {
        let mut command = Command::new(FILE_SERVER);
        command.stdin(Stdio::null()).current_dir(self.there.path());
        Server::spawn(command.args(["--bind", "127.0.0.1", &self.port.number.to_string()]).args(arguments))
    }

    pub fn client(&self, port: u16, arguments: &[&str]) -> Running {
        Running::start(&mut file_client(self.here.path(), port, arguments))
    }

    /// Whether the destination is the whole new file; it must else be what it was before, and alone.
    pub fn is_stored(&self) -> bool {
        self.look().unwrap()
    }

    fn look(&self) -> Result<bool, String> {
        let found = fs::read(self.here.path().join("destination.txt")).ok();
        let names = names_in(self.here.path());
        if names.len() != usize::from(found.is_some()) {
            return Err(format!("litter: {names:?}"));
        }
        let size = found.as_ref().map(Vec::len);
        match found {
            found if found.as_ref() == Some(&self.new) => Ok(true),
            found if found == self.old => Ok(false),
            _ => Err(format!("neither the new file nor as before: {size:?} bytes of {}", self.new.len())),
        }
    }

    /// Whether the file is stored, once it is sure that each side's exit status says the truth about that and that
    /// each has said at most one thing about what went wrong.
    pub fn assert_no_lie(&self, client: &Finished, server: &Finished) -> bool {
        if client.status == 128 + Signal::KILL.as_raw() {
            self.expect_litter_of_the_last_moment();
        }
        let told = format!("client: {client:?}\nserver: {server:?}");
        let stored = self.look().unwrap_or_else(|wrong| panic!("{wrong}\n{told}"));
        let truth = match client.status {
            0 => stored,
            1 => !stored,
            status => is_deadly(status),
        };
        assert!(truth, "the client lies, stored: {stored}\n{told}");
        let truth = match server.status {
            0 => stored,
            1 => !stored,
            3 => true,
            status => is_deadly(status),
        };
        assert!(truth, "the server lies, stored: {stored}\n{told}");
        for finished in [client, server] {
            assert_calm(finished);
        }
        stored
    }

    /// Replacing a file takes a second name for a moment. A client killed in it leaves that name behind, with the
    /// whole file, and the next client removes it.
    fn expect_litter_of_the_last_moment(&self) {
        let names = names_in(self.here.path());
        let litter: Vec<_> = names.iter().filter(|name| name.starts_with(".half-close-")).collect();
        let Some(name) = litter.first() else { return };
        assert!(self.old.is_some() && litter.len() == 1, "{names:?}");
        assert_same(&fs::read(self.here.path().join(name)).unwrap(), &self.new, name);
        assert_eq!(run(&mut file_client(self.here.path(), 1, &[])).status, 1);
    }
}

/// One error line if it failed, and no panic.
pub fn assert_calm(finished: &Finished) {
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

/// Whether a program was ended by one of the deadly signals.
pub fn is_deadly(status: i32) -> bool {
    DEADLY.iter().any(|signal| status == 128 + signal.as_raw())
}

/// A server that still waits for its only client gets one that fails at once; one that has had its client does not
/// notice.
pub fn end_waiting(port: u16) {
    if let Ok(connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        reset_on_close(&connection);
    }
}

/// Looks again and again until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a change gets a later time than the file's last one: before Linux 6.13 their clock ticks every 10 ms at
/// the latest.
pub fn wait_for_a_tick(file: &Path) {
    let changed = |metadata: fs::Metadata| (metadata.ctime(), metadata.ctime_nsec());
    let last = changed(fs::metadata(file).unwrap());
    let newest = || tempfile::tempfile_in(file.parent().unwrap()).unwrap().metadata().unwrap();
    wait_until("the clock of the file system ticks", || changed(newest()) > last);
}

/// Changes the source where it is, at one byte, without changing its size.
pub fn overwrite_a_byte(file: &Path) {
    wait_for_a_tick(file);
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all(b"?").unwrap();
}
