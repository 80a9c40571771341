//! One transfer by whole processes, from the start of the first to the end of the last.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use procfs::net::TcpState;
use wait4::Wait4 as _;

use crate::common::{DEADLINE, FILE_CLIENT, FILE_SERVER, c_program, installed, static_program};

/// What placeholders stand for; `None` if it is not there.
pub type Values = [(&'static str, Option<String>)];

/// Commands that move a file. If there are several, the first one listens, the others run one after the other, and then
/// the first one must end, too.
pub struct Way(Vec<CommandLine>);

/// What one transfer cost.
pub struct Cost {
    pub time: Duration,
    /// The most memory that each process used, in bytes.
    pub peaks: Vec<u64>,
}

impl Way {
    /// Returns `None` if a program is not installed, or a value is not there.
    pub fn parse(commands: &[&str], values: &Values) -> Result<Option<Self>> {
        let parse = |command: &&str| CommandLine::parse(command, values);
        let commands: Result<Option<Vec<_>>> = commands.iter().map(parse).collect();
        Ok(commands?.map(Self))
    }

    /// Moves a file. Returns an error unless every process succeeds.
    pub fn transfer(&self, from: &Path, to: &Path) -> Result<Cost> {
        let (listener, others) = match &self.0[..] {
            [listener, others @ ..] if !others.is_empty() => (Some(listener), others),
            only => (None, only),
        };
        let started = Instant::now();
        let server = listener.map(|listener| listener.listen(from, to)).transpose()?;
        let port = server.as_ref().map_or(0, |(_, port)| *port);
        let mut peaks = Vec::new();
        for command in others {
            peaks.push(command.start(from, to, port)?.finish()?);
        }
        if let Some((server, _)) = server {
            peaks.insert(0, server.finish()?);
        }
        Ok(Cost { time: started.elapsed(), peaks })
    }
}

/// A command as one would type it in a shell, with `<`, `>` and the placeholders `{from}`, `{to}` and `{port}`.
pub struct CommandLine {
    program: PathBuf,
    arguments: Vec<String>,
}

impl CommandLine {
    /// Returns `None` if the program is not installed, or a value is not there.
    pub fn parse(line: &str, values: &Values) -> Result<Option<Self>> {
        let mut line = line.to_owned();
        for (placeholder, value) in values {
            if line.contains(placeholder) {
                let Some(value) = value else { return Ok(None) };
                line = line.replace(placeholder, value);
            }
        }
        let mut words = shlex::split(&line).with_context(|| format!("a quote is missing in {line}"))?.into_iter();
        let name = words.next().context("the command is empty")?;
        Ok(program(&name).map(|program| Self { program, arguments: words.collect() }))
    }

    /// Starts a process and returns the port on which it listens.
    pub fn listen(&self, from: &Path, to: &Path) -> Result<(Process, u16)> {
        // Another process may take the port meanwhile.
        const ATTEMPTS: usize = 5;
        if !self.arguments.iter().any(|argument| argument.contains("{port}")) {
            let mut process = self.start(from, to, 0)?;
            let port = process.announced_port()?;
            return Ok((process, port));
        }
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let mut process = self.start(from, to, port)?;
            if process.listens_on(port)? {
                return Ok((process, port));
            }
        }
        bail!("{} could not listen", self.program.display())
    }

    fn start(&self, from: &Path, to: &Path, port: u16) -> Result<Process> {
        let name = self.program.display().to_string();
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut words = self.arguments.iter().map(|word| fill_in(word, from, to, port));
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("<") => command.stdin(File::open(words.next().unwrap_or_default())?),
                Some(">") => command.stdout(File::create(words.next().unwrap_or_default())?),
                _ => command.arg(word),
            };
        }
        let mut child = command.spawn().with_context(|| format!("could not start {name}"))?;
        let stderr = BufReader::new(child.stderr.take().context("standard error is a pipe")?);
        Ok(Process { child: Some(child), name, stderr })
    }
}

/// Where a program is: built by cargo, by `packaging/static`, built here, or installed.
fn program(name: &str) -> Option<PathBuf> {
    match name {
        "file-server" => Some(FILE_SERVER.into()),
        "file-client" => Some(FILE_CLIENT.into()),
        "static/file-server" | "static/file-client" => static_program(name.trim_start_matches("static/")),
        "textbook-server" | "textbook-client" => c_program(&format!("{name}.c")),
        _ => installed(name),
    }
}

fn fill_in(word: &str, from: &Path, to: &Path, port: u16) -> OsString {
    let word = word.replace("{port}", &port.to_string());
    word.replace("{from}", &from.to_string_lossy()).replace("{to}", &to.to_string_lossy()).into()
}

/// A process, killed when dropped.
pub struct Process {
    child: Option<Child>,
    name: String,
    stderr: BufReader<ChildStderr>,
}

impl Process {
    /// Returns the port of the line `listening on ADDRESS:PORT`.
    fn announced_port(&mut self) -> Result<u16> {
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

    /// Waits until a process listens on the port. Returns `false` if this one has ended instead.
    fn listens_on(&mut self, port: u16) -> Result<bool> {
        const LOOK_EVERY: Duration = Duration::from_micros(200);
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            if self.child.as_mut().context("it has not been waited for")?.try_wait()?.is_some() {
                return Ok(false);
            }
            let mut sockets = procfs::net::tcp()?.into_iter();
            if sockets.any(|socket| socket.local_address.port() == port && socket.state == TcpState::Listen) {
                return Ok(true);
            }
            thread::sleep(LOOK_EVERY);
        }
        bail!("{} does not listen on port {port}", self.name)
    }

    /// Waits for the end. Returns the most memory that the process used, in bytes, or an error unless it succeeded.
    pub fn finish(mut self) -> Result<u64> {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr)?;
        let mut child = self.child.take().context("it has not been waited for")?;
        let resources = child.wait4()?;
        ensure!(resources.status.success(), "{}: {}: {}", self.name, resources.status, stderr.trim_end());
        Ok(resources.rusage.maxrss)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
