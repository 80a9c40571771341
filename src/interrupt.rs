//! SIGINT and SIGTERM end a program with 130 and 143, as shells expect, after a last word. Where there are no such
//! signals the system's own way of ending a program stands.

use std::io;
#[cfg(unix)]
use std::{process, sync::mpsc, thread, time::Duration};

/// How long a last word may take, and a success to be told: a terminal that nobody reads keeps no program from its end.
#[cfg(unix)]
const LAST_WORD: Duration = Duration::from_secs(3);

/// At the first SIGINT or SIGTERM brings what is under way to an end with `settle`, however long that takes. If it
/// says that there was nothing left to interrupt, the program has a moment to tell so and ends with 0. Else it runs
/// `last_word` and exits with 128 plus the signal's number, which closes every connection that is not finished with
/// RST.
///
/// # Errors
/// The signals can't be caught.
#[cfg(unix)]
pub fn on_interrupt(
    settle: impl FnOnce() -> bool + Send + 'static,
    last_word: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        if settle() {
            thread::sleep(LAST_WORD);
            process::exit(0);
        }
        for_a_moment(last_word);
        process::exit(128 + signal);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

#[cfg(unix)]
fn for_a_moment(work: impl FnOnce() + Send + 'static) {
    let (working, done) = mpsc::channel::<()>();
    let work = move || {
        work();
        drop(working);
    };
    // Without a thread to be had there is no last word.
    let _ = thread::Builder::new().spawn(work);
    let _ = done.recv_timeout(LAST_WORD);
}

/// A write past the file-size limit fails with EFBIG, which can be told, rather than with a signal that kills
/// (SIGXFSZ, setrlimit(2)).
///
/// # Errors
/// The signal can't be caught.
#[cfg(unix)]
pub fn survive_size_limit() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default())?;
    Ok(())
}

/// Nothing to do here.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn on_interrupt(_: impl FnOnce() -> bool + Send + 'static, _: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Ok(())
}

/// Nothing to do here.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn survive_size_limit() -> io::Result<()> {
    Ok(())
}
