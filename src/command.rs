//! A program as source or destination: it is started for one transfer, its exit status is part of the outcome, and it
//! is ended with all that it has started when the transfer fails.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::signals::{self, AtExit};
use crate::text;

/// Descriptors that a program takes here while it is started; two of them are closed afterwards.
pub(crate) const DESCRIPTORS: usize = 4;

/// A program that exists, and its arguments.
pub(crate) struct Command {
    name: String,
    words: Vec<OsString>,
}

impl Command {
    /// Looks for the program as execvp(3) does. `words` are its name and its arguments.
    ///
    /// # Errors
    /// Returns an error if there is no such program.
    pub(crate) fn find(words: &[OsString]) -> Result<Self> {
        let program = words.first().map(OsString::as_os_str).unwrap_or_default();
        let name = text::name(Path::new(program));
        find(program).with_context(|| format!("could not run {name}"))?;
        Ok(Self { name, words: words.to_vec() })
    }

    /// The name of the program in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it with an empty standard input. Returns what it writes to its standard output.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub(crate) fn start_reading(&self) -> Result<(Run, File)> {
        let run = self.start(Stdio::null(), Stdio::piped())?;
        let output = lock(&run.child).stdout.take().map(into_file).context("no pipe")?;
        Ok((run, output))
    }

    /// Starts it. Returns its standard input.
    ///
    /// # Errors
    /// Returns an error if it cannot be started.
    pub(crate) fn start_writing(&self) -> Result<(Run, File)> {
        let run = self.start(Stdio::piped(), Stdio::inherit())?;
        let input = lock(&run.child).stdin.take().map(into_file).context("no pipe")?;
        // A program that reads nothing must not hide that the connection has failed. The program's own end of the pipe
        // still blocks.
        #[cfg(unix)]
        let _ = rustix::io::ioctl_fionbio(&input, true);
        Ok((run, input))
    }

    fn start(&self, input: Stdio, output: Stdio) -> Result<Run> {
        let (program, arguments) = self.words.split_first().context("no program")?;
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(input).stdout(output);
        // A signal finds the program either not started or in the list of clean-ups.
        let _deferred = signals::defer();
        let could_not_run = || format!("could not run {}", self.name);
        let mut child = command.spawn().with_context(could_not_run)?;
        // Opened now, so that it cannot be missing at the end.
        let exit = imp::exit(&child).inspect_err(|_| imp::end(&mut child)).with_context(could_not_run)?;
        let child = Arc::new(Mutex::new(child));
        let ended_by_signal = Arc::clone(&child);
        let at_exit = signals::at_exit(move || imp::end(&mut lock(&ended_by_signal)));
        Ok(Run { name: self.name.clone(), child, exit, _at_exit: at_exit })
    }
}

/// Where programs are looked for without a `PATH` (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A name without a slash is looked for in the directories of `PATH`. On Windows the system looks for it when the
/// program is started.
fn find(program: &OsStr) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    if program.as_encoded_bytes().contains(&b'/') {
        return check_executable(Path::new(program));
    }
    let directories = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut found = Err(io::ErrorKind::NotFound.into());
    for directory in env::split_paths(&directories) {
        match check_executable(&directory.join(program)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Ok(()) => return Ok(()),
            refused => found = refused,
        }
    }
    found.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("there is no such program"),
        _ => error,
    })
}

fn check_executable(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK)?;
    if path.metadata()?.is_file() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

#[cfg(unix)]
fn into_file(pipe: impl Into<std::os::fd::OwnedFd>) -> File {
    pipe.into().into()
}

#[cfg(windows)]
fn into_file(pipe: impl Into<std::os::windows::io::OwnedHandle>) -> File {
    pipe.into().into()
}

/// A running program. If this is dropped before the program has ended, the program and all that it has started are
/// ended (SIGTERM, then SIGKILL after two seconds) and waited for, unless that is not permitted.
pub(crate) struct Run {
    name: String,
    child: Arc<Mutex<Child>>,
    /// Readable once it has ended; `None` where there are no pidfds.
    exit: Option<File>,
    _at_exit: AtExit,
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it has ended. `wait_for_input` waits until a file can be read, and may give up.
    ///
    /// # Errors
    /// Returns an error if waiting was given up, or if the program has failed: it was ended by a signal, or its exit
    /// status is not 0.
    pub(crate) fn wait_for_success(&self, wait_for_input: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        // Not locked during this wait: a signal must be able to end the program.
        self.exit.as_ref().map_or(Ok(()), wait_for_input)?;
        let status = lock(&self.child).wait().with_context(|| format!("could not wait for {}", self.name))?;
        if status.success() { Ok(()) } else { bail!("{} {}", self.name, how_it_ended(status)) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        imp::end(&mut lock(&self.child));
        reap_with(Arc::clone(&self.child));
    }
}

/// Programs that may still run although they should have ended, looked at whenever another one should. Each stays in
/// the system's table of processes until its exit status was read (wait(2)).
static LEFT: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());

fn reap_with(child: Arc<Mutex<Child>>) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.push(child);
    left.retain(|child| matches!(lock(child).try_wait(), Ok(None)));
}

fn how_it_ended(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = signal_hook::low_level::signal_name(signal);
        return name.map_or(format!("was killed by signal {signal}"), |name| format!("was killed by {name}"));
    }
    status.code().map_or_else(|| status.to_string(), |code| format!("exited with status {code}"))
}

#[cfg(target_os = "linux")]
mod imp {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::io::{Errno, retry_on_intr};
    use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

    use super::{Child, File, io};
    use crate::blocking;
    use crate::signals::STACK_SIZE;

    /// How long programs may take to end after SIGTERM, and again after SIGKILL.
    const LIMIT: Duration = Duration::from_secs(2);

    /// A descriptor that is readable once the program has ended (`pidfd_open(2)`). Where it is not available, it is the end
    /// of a pipe that a thread closes then.
    pub(super) fn exit(child: &Child) -> io::Result<Option<File>> {
        let number = Pid::from_child(child);
        match pidfd_open(number, PidfdFlags::empty()) {
            Err(Errno::NOSYS | Errno::PERM) => {
                let (exit, until_then) = io::pipe()?;
                let wait = move || {
                    // It is waited for once more where its exit status is wanted.
                    let _ =
                        retry_on_intr(|| waitid(WaitId::Pid(number), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
                    drop(until_then);
                };
                thread::Builder::new().name("command".to_owned()).stack_size(STACK_SIZE).spawn(wait)?;
                Ok(Some(OwnedFd::from(exit).into()))
            }
            opened => Ok(Some(opened?.into())),
        }
    }

    /// Ends the program and all that it has started, if it still runs. A program that has become another user, as
    /// `sudo` does, may not be signalled (kill(2)) and is left running: it may be waiting for something that is closed
    /// after this.
    pub(super) fn end(child: &mut Child) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        let mut running: Vec<_> = Process::find(Pid::from_child(child)).into_iter().collect();
        for signal in [Signal::TERM, Signal::KILL] {
            // The program itself comes first, so that it takes no further step when a process that it waits for ends.
            add_descendants(&mut running);
            for process in &running {
                let _ = process.send(signal);
            }
            wait_for(&running);
        }
        // Where there are no pidfds.
        if running.is_empty() && child.kill().is_ok() {
            let _ = child.wait();
        }
        let _ = child.try_wait();
    }

    struct Process {
        number: Pid,
        handle: OwnedFd,
    }

    impl Process {
        fn find(number: Pid) -> Option<Self> {
            let handle = pidfd_open(number, PidfdFlags::empty()).ok()?;
            Some(Self { number, handle })
        }

        fn send(&self, signal: Signal) -> rustix::io::Result<()> {
            pidfd_send_signal(&self.handle, signal)
        }

        fn has_ended(&self) -> bool {
            blocking::is_readable_within(Some(Duration::ZERO), &self.handle).unwrap_or(false)
        }
    }

    /// Adds the children of the processes that still run, each behind its parent, the last one first: in a pipeline the
    /// last child reads what the others write, and must not take their end for the end of its input.
    fn add_descendants(running: &mut Vec<Process>) {
        let mut next = 0;
        while let Some(process) = running.get(next) {
            next += 1;
            if process.has_ended() {
                continue;
            }
            let mut started = children(process.number);
            started.retain(|number| running.iter().all(|known| known.number != *number));
            let found: Vec<_> = started.into_iter().rev().filter_map(Process::find).collect();
            // Otherwise the number may be that of another process by now.
            if !process.has_ended() {
                running.splice(next..next, found);
            }
        }
    }

    /// Waits until they have ended.
    fn wait_for(running: &[Process]) {
        let started = Instant::now();
        for process in running {
            let left = LIMIT.saturating_sub(started.elapsed());
            let _ = blocking::is_readable_within(Some(left), &process.handle);
        }
    }

    /// The children of a process (`/proc/PID/task/TID/children`, proc(5)).
    fn children(number: Pid) -> Vec<Pid> {
        let threads = fs::read_dir(format!("/proc/{}/task", number.as_raw_nonzero())).into_iter().flatten().flatten();
        let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let numbers = lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>());
        numbers.filter_map(Pid::from_raw).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::{Child, File, io};

    /// Other systems have no such descriptor.
    pub(super) fn exit(_: &Child) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// Ends the program if it still runs.
    pub(super) fn end(child: &mut Child) {
        let _ = child.kill();
        let _ = child.wait();
    }
}
