//! The programs as processes: started, watched, signalled, and killed when a test ends.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

pub use rustix::process::{Pid, Signal};
use rustix::process::{Resource, Rlimit};

use super::wait::{DEADLINE, wait_for};

pub const FILE_SERVER: &str = env!("CARGO_BIN_EXE_file-server");
pub const FILE_CLIENT: &str = env!("CARGO_BIN_EXE_file-client");

/// What a client says after three seconds without a byte.
pub const SILENT: &str = "nothing has arrived yet; a server with a key waits for --key-file";

/// A program run in `directory`, without standard input.
pub fn program(path: &str, directory: &Path, arguments: &[&str]) -> Command {
    stop_ignoring_signals();
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).current_dir(directory).args(arguments);
    command
}

/// `file-server --bind 127.0.0.1 PORT`; the kernel picks port 0.
pub fn file_server(directory: &Path, port: u16, arguments: &[&str]) -> Command {
    let mut command = program(FILE_SERVER, directory, &["--bind", "127.0.0.1", &port.to_string()]);
    command.args(arguments);
    command
}

/// `file-client 127.0.0.1 PORT`
pub fn file_client(directory: &Path, port: u16, arguments: &[&str]) -> Command {
    let mut command = program(FILE_CLIENT, directory, &["127.0.0.1", &port.to_string()]);
    command.args(arguments);
    command
}

/// The command as the last arguments of another program, which executes it in the same directory and environment.
pub fn through(program: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program[0]);
    outer.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    outer.stdin(Stdio::null()).current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    outer.envs(environment(command));
    outer
}

/// The command in a network namespace, with an address there in place of that of loopback.
pub fn in_network(namespace: &str, address: &str, on_loopback: &Command) -> Command {
    let mut there = Command::new(on_loopback.get_program());
    for argument in on_loopback.get_args() {
        there.arg(if argument == "127.0.0.1" { address.as_ref() } else { argument });
    }
    there.current_dir(on_loopback.get_current_dir().unwrap()).envs(environment(on_loopback));
    through(&["ip", "netns", "exec", namespace], &there)
}

/// The variables that are set for it.
fn environment(command: &Command) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    command.get_envs().map(|(name, value)| (name, value.unwrap()))
}

/// A shell's script in which `"$@"` is the command.
pub fn in_shell(script: &str, command: &Command) -> Command {
    through(&["sh", "-c", script, "sh"], command)
}

/// The command executed by a shell after a script; the process stays the same.
pub fn after(script: &str, command: &Command) -> Command {
    in_shell(&format!("{script} && exec \"$@\""), command)
}

/// What a process has started and still runs (proc(5)).
#[cfg(target_os = "linux")]
pub fn children_of(parent: Pid) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let list = lists.collect::<String>();
    list.split_whitespace().map(|number| Pid::from_raw(number.parse().unwrap()).unwrap()).collect()
}

/// Whether the process has a thread of this name and its main thread sleeps.
#[cfg(target_os = "linux")]
pub fn sleeps_with_thread(pid: Pid, name: &str) -> bool {
    let names = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names = names.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    names.any(|found| found.trim_end() == name) && status.contains("State:\tS")
}

/// The command with room for so many open files, standard input and output included. What the tests themselves were started
/// with takes none of them.
pub fn with_open_files(limit: u32, command: &Command) -> Command {
    // A descriptor of two digits cannot be closed in every shell.
    let close = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";
    after(&format!("{close} && ulimit -n {limit}"), command)
}

/// Copies an executable. Another process does it: a file that this process has open for writing may also be open in a
/// program that another test starts at the moment, and could not be executed (ETXTBSY, execve(2)).
pub fn copy_program(path: &str, to: &Path) {
    assert!(Command::new("cp").arg(path).arg(to).status().unwrap().success());
}

/// The exit status, or 128 plus the signal's number, as a shell shows it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
}

/// Sets signals that are ignored in this process, as under `nohup` or in the background of a script, to be caught here.
/// The programs that the tests start would inherit the ignoring, but not the catching (execve(2)).
fn stop_ignoring_signals() {
    const SIGNALS: [Signal; 11] = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::TERM,
        Signal::XCPU,
        Signal::VTALARM,
        Signal::PROF,
        Signal::TSTP,
    ];
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let ignored = ignored_signals();
        for signal in SIGNALS.map(Signal::as_raw).into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 1) {
            signal_hook::flag::register(signal, Arc::default()).unwrap();
        }
    });
}

/// A bit for each, from that of signal 1 up (`SigIgn`, proc(5)); none where that cannot be known.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap())
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

    /// Without the note about three seconds of silence, which depends on how busy the machine is.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).replace(&format!("{SILENT}\n"), "")
    }

    /// The lines of standard error that begin like an error of the program: exactly one if it failed.
    pub fn errors(&self) -> Vec<String> {
        let is_error = |line: &&str| line.starts_with("file-server: ") || line.starts_with("file-client: ");
        self.stderr().lines().filter(is_error).map(str::to_owned).collect()
    }

    pub fn last_line(&self) -> String {
        self.stderr().lines().last().unwrap_or_default().to_owned()
    }
}

/// A process whose standard output and standard error are collected; killed when dropped.
pub struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    stderr_so_far: Vec<u8>,
    stdout_so_far: Vec<u8>,
    /// Standard output and standard error, until they are read.
    unread: Option<[PipeReader; 2]>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        disable_core_dumps();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr, stderr_so_far: Vec::new(), stdout_so_far: Vec::new(), unread: None }
    }

    /// Starts it with this as standard output.
    pub fn start_with_stdout(command: &mut Command, stdout: impl Into<Stdio>) -> Self {
        disable_core_dumps();
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        // No other process may have it open.
        command.stdout(Stdio::null());
        let stderr = collect(child.stderr.take().unwrap());
        let nothing = mpsc::channel().1;
        Self { child, stdout: nothing, stderr, stderr_so_far: Vec::new(), stdout_so_far: Vec::new(), unread: None }
    }

    /// Starts it with pipes that have no room for a byte of its output, until [`Self::read_output`] or its end.
    #[cfg(target_os = "linux")]
    pub fn start_unread(command: &mut Command) -> Self {
        disable_core_dumps();
        let ((stdout, to_stdout), (stderr, to_stderr)) = (full_pipe(), full_pipe());
        let child = command.stdout(to_stdout).stderr(to_stderr).spawn().unwrap();
        // The last writers outside the program.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let nothing = || mpsc::channel().1;
        let unread = Some([stdout, stderr]);
        Self {
            child,
            stdout: nothing(),
            stderr: nothing(),
            stderr_so_far: Vec::new(),
            stdout_so_far: Vec::new(),
            unread,
        }
    }

    /// Begins to read what was not read so far.
    pub fn read_output(&mut self) {
        if let Some([stdout, stderr]) = self.unread.take() {
            (self.stdout, self.stderr) = (collect(stdout), collect(stderr));
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Does nothing if the process has ended.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(self.pid(), signal);
    }

    /// The program does nothing while this happens.
    #[cfg(target_os = "linux")]
    pub fn while_stopped<T>(&self, act: impl FnOnce() -> T) -> T {
        let process = procfs::process::Process::new(self.pid().as_raw_nonzero().get()).unwrap();
        self.signal(Signal::STOP);
        wait_for("the program to stop", || (process.stat().unwrap().state == 'T').then_some(()));
        let done = act();
        self.signal(Signal::CONT);
        done
    }

    /// Waits for a line on standard error with this beginning, and returns the rest of it.
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

    /// Waits for a line on standard output with this beginning.
    pub fn wait_for_result(&mut self, beginning: &str) {
        let mut is_there = false;
        while !is_there {
            let line = self.stdout.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{error}: no {beginning:?}"));
            is_there = line.starts_with(beginning.as_bytes());
            self.stdout_so_far.extend_from_slice(&line);
        }
    }

    /// Waits until the process has ended by itself.
    pub fn finish(mut self) -> Finished {
        if self.unread.is_some() {
            wait_for("the end of the program", || self.child.try_wait().unwrap());
            self.read_output();
        }
        let started = Instant::now();
        let gather = |pieces: &Receiver<Vec<u8>>, mut all: Vec<u8>| loop {
            match pieces.recv_timeout(DEADLINE.saturating_sub(started.elapsed())) {
                Ok(piece) => all.extend(piece),
                Err(mpsc::RecvTimeoutError::Disconnected) => return all,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running after {DEADLINE:?}: {:?}", self.child),
            }
        };
        let stdout = gather(&self.stdout, std::mem::take(&mut self.stdout_so_far));
        let stderr = gather(&self.stderr, std::mem::take(&mut self.stderr_so_far));
        let status = shell_status(self.child.wait().unwrap());
        Finished { status, stdout, stderr }
    }

    /// Sends the signal, and waits until the process has ended.
    pub fn interrupt(self, signal: Signal) -> Finished {
        self.signal(signal);
        self.finish()
    }

    /// Whether the process ends by itself within this time.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if started.elapsed() >= time {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that a signal ends must not leave a core dump in the directory that a test looks at.
fn disable_core_dumps() {
    let maximum = rustix::process::getrlimit(Resource::Core).maximum;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum }).unwrap();
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

/// The smallest pipe: with room for a page of memory, mostly 4096 bytes.
#[cfg(target_os = "linux")]
pub fn small_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 1).unwrap();
    (reader, writer)
}

/// A pipe without room.
#[cfg(target_os = "linux")]
pub fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = small_pipe();
    let room = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
    writer.write_all(&vec![b'\n'; room]).unwrap();
    (reader, writer)
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
    /// Waits until the program has printed its address.
    pub fn start(command: &mut Command) -> Self {
        let mut running = Running::start(command);
        let address = running.wait_for_line("listening on ");
        Self { running, port: port_of(&address) }
    }

    pub fn finish(self) -> Finished {
        self.running.finish()
    }

    /// Sends the signal, and waits until the server has ended.
    pub fn interrupt(self, signal: Signal) -> Finished {
        self.running.interrupt(signal)
    }

    /// Waits until the server has reported a client that did not confirm.
    pub fn wait_for_failed_client(&mut self) {
        self.running.wait_for_line("file-server: 127.0.0.1:");
    }

    /// Waits until the server has reported a client that confirmed.
    pub fn wait_for_confirmed_client(&mut self) {
        self.running.wait_for_line("127.0.0.1:");
    }
}

/// The port at the end of an address or of a line that ends in one.
pub fn port_of(address: &str) -> u16 {
    address.trim_end().rsplit(':').next().unwrap().parse().unwrap()
}
