//! Which signals end the program and how: unfinished work is cleaned up, the user is told, and the program ends by the
//! signal itself, so that the program that started it knows (a shell shows 128 plus its number). Where there are no
//! such signals, the system ends the program in its own way.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

pub(crate) use imp::{install, on_continue, wait_for_group};

/// Bytes of address space for the stack of a thread of which there may be many; large buffers are not on it.
pub(crate) const STACK_SIZE: usize = 256 * 1024;

/// Held by those who defer, and for ever by a signal that ends the program.
static DEFERRED: RwLock<()> = RwLock::new(());

/// Set by the handler itself: the thread that ends the program may not run for a while.
static ARRIVED: AtomicBool = AtomicBool::new(false);

/// The program has done all that it was started for.
static COMPLETE: AtomicBool = AtomicBool::new(false);

static CLEANUPS: Mutex<Cleanups> = Mutex::new(Cleanups { next: 0, pending: Vec::new() });

struct Cleanups {
    next: u64,
    pending: Vec<(u64, Box<dyn FnOnce() + Send>)>,
}

fn cleanups() -> MutexGuard<'static, Cleanups> {
    CLEANUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, a signal that would end the program waits.
#[must_use]
pub(crate) struct Deferred(RwLockReadGuard<'static, ()>);

/// Makes signals wait until the returned value is dropped. If a signal came before, this call does not return, because
/// the program ends.
pub(crate) fn defer() -> Deferred {
    let deferred = DEFERRED.read().unwrap_or_else(PoisonError::into_inner);
    if ARRIVED.load(Ordering::SeqCst) && !COMPLETE.load(Ordering::SeqCst) {
        drop(deferred);
        loop {
            thread::park();
        }
    }
    Deferred(deferred)
}

impl Deferred {
    /// The program has done all that it was started for: a signal from now on comes too late to interrupt it.
    pub(crate) fn complete(self) {
        COMPLETE.store(true, Ordering::SeqCst);
        drop(self.0);
    }
}

/// Calls this when a signal ends the program, unless the returned value was dropped before.
pub(crate) fn at_exit(cleanup: impl FnOnce() + Send + 'static) -> AtExit {
    let mut cleanups = cleanups();
    let id = cleanups.next;
    cleanups.next += 1;
    cleanups.pending.push((id, Box::new(cleanup)));
    AtExit(id)
}

/// A clean-up that is pending.
#[must_use]
pub(crate) struct AtExit(u64);

impl Drop for AtExit {
    fn drop(&mut self) {
        cleanups().pending.retain(|(id, _)| *id != self.0);
    }
}

#[cfg(unix)]
mod imp {
    use std::os::raw::c_int;
    use std::sync::Arc;
    use std::{fs, mem, process};

    use anyhow::{Context as _, Result};
    use rustix::process::{getpgrp, setpgid};
    use signal_hook::consts::{
        SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
        SIGXFSZ,
    };
    use signal_hook::{flag, iterator::Signals, low_level};

    use super::{
        ARRIVED, AtomicBool, COMPLETE, DEFERRED, Mutex, Ordering, PoisonError, STACK_SIZE, cleanups, io, thread,
    };

    type Report = Box<dyn FnOnce(u8) + Send>;

    /// What is called when a signal ends the program.
    static REPORT: Mutex<Option<Report>> = Mutex::new(None);

    /// Signals that come from outside and would end the program at once (signal(7)). Batch systems send SIGUSR1, SIGUSR2
    /// and SIGXCPU; a timer that was set before execve(2) goes on (setitimer(2)).
    const TERMINATING: [c_int; 10] =
        [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXCPU, SIGALRM, SIGVTALRM, SIGPROF];

    /// Installs handlers for the signals that end the program. The first one waits while signals are deferred, cleans up,
    /// calls `report` with the status that a shell will show, and ends the program; that resets every connection that is not
    /// finished. A program that is complete already ends by itself, and soon: only its last lines are left to print. A
    /// signal that was ignored when the program was started, as by `nohup`, stays ignored (signal(7)). A later call only
    /// replaces `report`.
    ///
    /// A write past the file-size limit fails with EFBIG from now on, which can be reported, rather than with a signal
    /// that ends the program (SIGXFSZ, setrlimit(2)). SIGCHLD is no longer ignored, because commands would have no exit
    /// status then (wait(2)).
    ///
    /// # Errors
    /// Returns an error if a handler cannot be installed or the thread for it cannot be started.
    pub(crate) fn install(report: impl FnOnce(u8) + Send + 'static) -> Result<()> {
        let is_installed = REPORT.lock().unwrap_or_else(PoisonError::into_inner).replace(Box::new(report)).is_some();
        if is_installed { Ok(()) } else { install_handlers().context("could not install signal handlers") }
    }

    fn install_handlers() -> io::Result<()> {
        let ignored = ignored_signals();
        let is_ignored = |signal: &c_int| ignored >> (signal - 1) & 1 == 1;
        let heeded: Vec<_> = TERMINATING.into_iter().filter(|signal| !is_ignored(signal)).collect();
        // First: a signal that only set the flag would end nothing.
        let mut signals = Signals::new(&heeded)?;
        for signal in heeded {
            flag::register(signal, &ARRIVED)?;
        }
        let wait = move || {
            if let Some(signal) = signals.forever().next() {
                end_by(signal);
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
        flag::register(SIGXFSZ, Arc::<AtomicBool>::default())?;
        if is_ignored(&SIGCHLD) {
            flag::register(SIGCHLD, Arc::<AtomicBool>::default())?;
        }
        Ok(())
    }

    fn end_by(signal: c_int) {
        let _never_released = DEFERRED.write().unwrap_or_else(PoisonError::into_inner);
        if COMPLETE.load(Ordering::SeqCst) {
            return;
        }
        clean_up();
        let status = 128 + signal;
        let report = REPORT.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(report) = report {
            report(u8::try_from(status).unwrap_or(u8::MAX));
        }
        // An unhandled signal does not end the first process of a container (`pid_namespaces(7)`).
        if process::id() != 1 {
            let _ = low_level::emulate_default_handler(signal);
        }
        process::exit(status);
    }

    /// Runs all pending clean-ups, at the same time as far as there are threads: a command may take seconds to end.
    fn clean_up() {
        let others = cleanups().pending.len().saturating_sub(1);
        let pending = Mutex::new(mem::take(&mut cleanups().pending));
        let next = || pending.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            while let Some((_, cleanup)) = next() {
                cleanup();
            }
        };
        thread::scope(|scope| {
            for _ in 0..others {
                let _ = thread::Builder::new().stack_size(STACK_SIZE).spawn_scoped(scope, work);
            }
            work();
        });
    }

    /// The signals that were ignored when the program was started, a bit each, signal 1 in the lowest: `SigIgn` in
    /// `/proc/self/status` (proc(5)); none where that cannot be read. `std` ignores SIGPIPE by itself.
    fn ignored_signals() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
    }

    /// If a signal to all programs of the group (Ctrl-C in a pipeline) has reached one of them, waits until it has
    /// reached this one. The kernel sends it to one after the other under a lock that setpgid(2) takes too; the group
    /// does not change.
    pub(crate) fn wait_for_group() {
        let _ = setpgid(None, Some(getpgrp()));
    }

    /// Sets `continued` each time that the process continues after it was stopped (SIGCONT).
    ///
    /// # Errors
    /// Returns an error if the handler cannot be installed.
    pub(crate) fn on_continue(continued: Arc<AtomicBool>) -> io::Result<()> {
        flag::register(SIGCONT, continued)?;
        Ok(())
    }
}

#[cfg(not(unix))]
mod imp {
    use std::sync::Arc;

    use anyhow::Result;

    use super::{AtomicBool, io};

    pub(crate) fn install(_: impl FnOnce(u8) + Send + 'static) -> Result<()> {
        Ok(())
    }

    pub(crate) fn wait_for_group() {}

    pub(crate) fn on_continue(_: Arc<AtomicBool>) -> io::Result<()> {
        Ok(())
    }
}
