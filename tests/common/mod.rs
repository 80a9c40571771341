//! What every test needs: the two programs as processes that are killed when a test ends, ports that the kernel
//! picks, folders that vanish, and deadlines in place of sleeps.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

pub mod network;

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fmt, fs, thread};

pub mod proxy;
pub mod scene;

pub use rustix::process::{Pid, Signal};
use rustix::process::{Resource, Rlimit};

pub mod terminal;

/// Longer than anything here takes on a busy machine; what is not done by then never will be.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A new folder, gone when dropped.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub const FILE_SERVER: &str = env!("CARGO_BIN_EXE_file-server");
pub const FILE_CLIENT: &str = env!("CARGO_BIN_EXE_file-client");

/// `file-server` with `--bind 127.0.0.1` and a port that the kernel picks, run in `folder`.
pub fn file_server(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(FILE_SERVER);
    command.stdin(Stdio::null()).current_dir(folder).args(["--bind", "127.0.0.1", "0"]).args(arguments);
    command
}

/// `file-client 127.0.0.1 PORT`, run in `folder`.
pub fn file_client(folder: &Path, port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(FILE_CLIENT);
    command.stdin(Stdio::null()).current_dir(folder).args(["127.0.0.1", &port.to_string()]).args(arguments);
    command
}

/// The exit status, or 128 and the signal's number, as a shell shows it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
}

/// How a process ended, and all that it printed.
pub struct Finished {
    /// As a shell shows it.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl fmt::Debug for Finished {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { status, .. } = self;
        write!(formatter, "[exit status {status}\nstdout: {}\nstderr: {}]", self.stdout(), self.stderr())
    }
}

impl Finished {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The lines of standard error that begin like an error of the program: exactly one if it failed.
    pub fn errors(&self) -> Vec<String> {
        let is_error = |line: &&str| line.starts_with("file-server: ") || line.starts_with("file-client: ");
        self.stderr().lines().filter(is_error).map(str::to_owned).collect()
    }
}

/// A process with its standard output and standard error on the way to us; killed when dropped.
pub struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    stderr_so_far: Vec<u8>,
}

impl Running {
    /// Standard output and standard error are collected; the rest is as the command says.
    pub fn start(command: &mut Command) -> Self {
        leave_no_core();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr, stderr_so_far: Vec::new() }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The process may be gone already.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(self.pid(), signal);
    }

    /// The rest of the first line on standard error that begins so.
    pub fn wait_for_line(&mut self, beginning: &str) -> String {
        let started = Instant::now();
        loop {
            let line = self.stderr.recv_timeout(DEADLINE.saturating_sub(started.elapsed())).unwrap_or_else(|error| {
                panic!("{error}: no {beginning:?} in {:?}", self.stderr_so_far.escape_ascii().to_string())
            });
            self.stderr_so_far.extend_from_slice(&line);
            if let Some(rest) = String::from_utf8_lossy(&line).strip_prefix(beginning) {
                return rest.trim_end().to_owned();
            }
        }
    }

    /// Waits until the process has ended by itself.
    pub fn finish(mut self) -> Finished {
        let started = Instant::now();
        let gather = |pieces: &Receiver<Vec<u8>>, mut all: Vec<u8>| loop {
            match pieces.recv_timeout(DEADLINE.saturating_sub(started.elapsed())) {
                Ok(piece) => all.extend(piece),
                Err(mpsc::RecvTimeoutError::Disconnected) => return all,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running after {DEADLINE:?}: {:?}", self.child),
            }
        };
        let stdout = gather(&self.stdout, Vec::new());
        let stderr = gather(&self.stderr, std::mem::take(&mut self.stderr_so_far));
        let status = shell_status(self.child.wait().unwrap());
        Finished { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that a signal ends leaves nothing, wherever the tests run.
fn leave_no_core() {
    let maximum = rustix::process::getrlimit(Resource::Core).maximum;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum }).unwrap();
}

/// Signals that whoever started the tests ignores, as `nohup` does, are ignored by the programs that they start, too;
/// those that the tests catch are not (execve(2)).
pub fn heed(signals: &[Signal]) {
    for signal in signals {
        signal_hook::flag::register(signal.as_raw(), Arc::default()).unwrap();
    }
}

/// Reads in a thread, so that no pipe fills up; lines arrive as they are printed.
fn collect(from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) && sender.send(line.split_off(0)).is_ok() {
        }
    });
    receiver
}

/// Waits until something holds that only looking can tell; false if it never does.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > DEADLINE {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Finished {
    Running::start(command).finish()
}

/// A server that listens.
pub struct Server {
    pub running: Running,
    pub port: u16,
}

impl Server {
    /// Offers the file `des.txt` of the folder.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::spawn(&mut file_server(folder, arguments))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut running = Running::start(command);
        let address = running.wait_for_line("listening on ");
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Self { running, port }
    }

    pub fn finish(self) -> Finished {
        self.running.finish()
    }
}

/// Bytes without a pattern that a buffer's size could hide behind, the same for the same seed.
pub fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; size.next_multiple_of(8)];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Every name in the folder, hidden ones too.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Compares without printing megabytes.
pub fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: the length differs");
    if actual != expected {
        let differs = actual.iter().zip(expected).position(|(a, b)| a != b);
        panic!("{what}: differs from this byte on: {differs:?}");
    }
}

/// The program if this machine has it; in CI it must, elsewhere the test says that it skips.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip_unless_in_ci(&format!("{program} is not installed"));
    }
    found
}

/// For tests that mount file systems or make networks, which root may not in every container.
pub fn is_root() -> bool {
    static IS_ROOT: OnceLock<bool> = OnceLock::new();
    let mounts_and_networks = || {
        let probe = Command::new("unshare").args(["--mount", "--net", "true"]).stderr(Stdio::null()).status();
        rustix::process::geteuid().is_root() && probe.is_ok_and(|status| status.success())
    };
    let root = *IS_ROOT.get_or_init(mounts_and_networks);
    if !root {
        skip_unless_in_ci("this test needs root that may mount and make networks");
    }
    root
}

/// For tests of both families of addresses.
pub fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        say_skipped("this machine has no IPv6");
    }
    has
}

fn skip_unless_in_ci(why: &str) {
    assert!(env::var_os("CI").is_none(), "{why}, which it must be in CI");
    say_skipped(why);
}

/// Past the test harness, which keeps quiet about tests that pass.
pub fn say_skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// A program of our own in C, built once for all tests of one file.
pub fn c_program(source: &str) -> Option<PathBuf> {
    let compiler = installed("cc")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(source);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.file_stem().unwrap_or(OsStr::new("peer")));
    let fresh = program.with_extension(format!("{}-{:?}", std::process::id(), thread::current().id()));
    let status = Command::new(compiler)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result", "-o"])
        .arg(&fresh)
        .arg(source)
        .status();
    assert!(status.unwrap().success());
    fs::rename(fresh, &program).unwrap();
    Some(program)
}
