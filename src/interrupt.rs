//! SIGINT and SIGTERM end a program with 130 and 143, as shells expect, after a last word. Where there are no such
//! signals the system's own way of ending a program stands.

use std::io;

/// Runs `last_word` at the first SIGINT or SIGTERM, then exits with 128 plus the signal's number. The exit closes
/// every connection that is not finished with RST.
///
/// # Errors
/// The signals can't be caught.
#[cfg(unix)]
pub fn on_interrupt(last_word: impl FnOnce() + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            last_word();
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
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
pub fn on_interrupt(_: impl FnOnce() + Send + 'static) -> io::Result<()> {
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
