//! Processes whose processor time and peak memory are known when they have ended; killed when dropped.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wait4::Wait4 as _;

use crate::common::DEADLINE;

/// A command line with the files that a shell would redirect.
#[derive(Clone)]
pub struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
    stdin: Option<PathBuf>,
    stdout: Option<PathBuf>,
}

impl Invocation {
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self { program: program.as_ref().to_owned(), arguments: Vec::new(), stdin: None, stdout: None }
    }

    pub fn with<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn reading(self, path: &Path) -> Self {
        Self { stdin: Some(path.to_owned()), ..self }
    }

    pub fn writing(self, path: &Path) -> Self {
        Self { stdout: Some(path.to_owned()), ..self }
    }

    /// The same with its system calls counted, in a table in the file.
    pub fn traced(self, strace: &Path, counts: &Path) -> Self {
        let mut arguments: Vec<OsString> = ["-f", "-c", "-o"].map(OsString::from).into();
        arguments.extend([counts.into(), self.program.into()]);
        arguments.extend(self.arguments);
        Self { program: strace.to_owned(), arguments, ..self }
    }

    pub fn start(&self) -> Result<Process> {
        let could_not = || format!("could not start {}", self.program.display());
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(path) = &self.stdin {
            command.stdin(File::open(path).with_context(could_not)?);
        }
        if let Some(path) = &self.stdout {
            command.stdout(File::create(path).with_context(could_not)?);
        }
        let mut child = command.spawn().with_context(could_not)?;
        let stderr = BufReader::new(child.stderr.take().with_context(could_not)?);
        Ok(Process { child, name: self.program.display().to_string(), stderr, ended: false })
    }

    pub fn run(&self) -> Result<Usage> {
        self.start()?.finish()
    }
}

/// What a process cost.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// In user mode and in the kernel.
    pub processor: Duration,
    /// The most memory that it had at any time, in bytes.
    pub peak: u64,
}

pub struct Process {
    child: Child,
    name: String,
    stderr: BufReader<ChildStderr>,
    ended: bool,
}

impl Process {
    /// The port in the line `listening on ADDRESS:PORT`.
    pub fn announced_port(&mut self) -> Result<u16> {
        let mut line = String::new();
        while self.stderr.read_line(&mut line)? > 0 {
            if let Some(address) = line.strip_prefix("listening on ") {
                let port = address.trim_end().rsplit(':').next().unwrap_or_default();
                return port.parse().with_context(|| format!("no port in {line:?}"));
            }
            line.clear();
        }
        bail!("{} did not listen", self.name)
    }

    /// True once somebody listens on the port; false if the process has ended instead.
    pub fn listens_on(&mut self, port: u16) -> Result<bool> {
        const LOOK_EVERY: Duration = Duration::from_micros(200);
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            if self.child.try_wait()?.is_some() {
                self.ended = true;
                return Ok(false);
            }
            if is_listened_on(port) {
                return Ok(true);
            }
            thread::sleep(LOOK_EVERY);
        }
        bail!("{} does not listen on port {port}", self.name)
    }

    /// Waits for the end, which must be a success.
    pub fn finish(mut self) -> Result<Usage> {
        let mut said = Vec::new();
        self.stderr.read_to_end(&mut said)?;
        let resources = self.child.wait4()?;
        self.ended = true;
        if !resources.status.success() {
            bail!("{}: {}: {}", self.name, resources.status, String::from_utf8_lossy(&said).trim_end());
        }
        let usage = resources.rusage;
        Ok(Usage { processor: usage.utime + usage.stime, peak: usage.maxrss })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts a process that is told its port. Another one may take the port meanwhile, so there are several attempts.
pub fn start_on_free_port(invocation: impl Fn(u16) -> Invocation) -> Result<(Process, u16)> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut process = invocation(port).start()?;
        if process.listens_on(port)? {
            return Ok((process, port));
        }
    }
    bail!("none of {ATTEMPTS} free ports could be listened on")
}

/// As the kernel's tables of connections say (`/proc/net/tcp`, proc(5)).
fn is_listened_on(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local_end = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|local| local.ends_with(&local_end)) && state == Some(LISTEN)
    })
}
