//! SIGINT, SIGTERM, SIGHUP and their like end a program with 128 plus their number, after a cleanup and a report.

use std::os::raw::c_int;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::{fs, io, process, thread};

use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};

use super::on_exit_state;

/// Signals that come from outside and would end the program on the spot (signal(7)). Batch systems send the last ones.
const TERMINATING: [c_int; 8] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU];

/// Installs handlers for the signals that end the program. The first one waits while signals are deferred, cleans up,
/// calls `report_interrupt`, and exits with 128 plus its number; that resets every connection that is not finished. A
/// program that is complete already ends with 0 by itself, and soon: only its last lines are left to print. A signal that
/// was ignored when the program was started, as by `nohup`, stays ignored (signal(7)).
///
/// # Errors
/// Returns an error if a handler cannot be installed or the thread for it cannot be started.
pub(crate) fn on_exit(report_interrupt: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let ignored = ignored_signals();
    let is_ignored = |signal: &c_int| ignored >> (signal - 1) & 1 == 1;
    let heeded: Vec<_> = TERMINATING.into_iter().filter(|signal| !is_ignored(signal)).collect();
    let mut signals = signal_hook::iterator::Signals::new(heeded)?;
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        let mut state = on_exit_state();
        if state.is_complete {
            return;
        }
        state.cleanup();
        report_interrupt();
        // Still locked: what waits in `defer` never comes to be done.
        process::exit(128 + signal);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

/// The signals that were ignored when the program was started, a bit each, signal 1 in the lowest: `SigIgn` in
/// `/proc/self/status` (proc(5)); none where that cannot be read. `std` ignores SIGPIPE by itself.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Makes a write past the file-size limit fail with EFBIG, which can be reported, rather than with a signal that ends
/// the program (SIGXFSZ, setrlimit(2)).
///
/// # Errors
/// Returns an error if the handler cannot be installed.
pub(crate) fn survive_size_limit() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    Ok(())
}

/// Sets `continued` each time that the process continues after it was stopped (SIGCONT).
///
/// # Errors
/// Returns an error if the handler cannot be installed.
pub(crate) fn on_continue(continued: Arc<AtomicBool>) -> io::Result<()> {
    signal_hook::flag::register(SIGCONT, continued)?;
    Ok(())
}
