//! Asking for the key at the terminal, which does not show what is typed.

use std::io;

use anyhow::{Context as _, Error, Result};

use crate::key::{self, Key};
use imp::Terminal;

const ATTEMPTS: usize = 3;

/// Asks for a key at the controlling terminal, whatever the standard streams are, and again if it is wrong, three times
/// in all. To be called once, after the handlers for signals are installed.
///
/// # Errors
/// Returns an error if there is no terminal, if it cannot be read, or if the last key is wrong too.
pub(crate) fn key() -> Result<Key> {
    const FAILED: &str = "could not read the key from the terminal";
    let terminal = Terminal::open().context(FAILED)?;
    let mut attempt = 1;
    loop {
        match read_key(&terminal).context(FAILED)?.parse::<Key>() {
            Ok(key) => return Ok(key),
            Err(error) if attempt == ATTEMPTS => return Err(Error::new(error).context(FAILED)),
            Err(error) => terminal.write(&format!("{error}; try again\n")).context(FAILED)?,
        }
        terminal.discard_input();
        attempt += 1;
    }
}

/// Reads lines until the key is complete, because a pasted one may be split, or until a line is empty.
fn read_key(terminal: &Terminal) -> io::Result<String> {
    let mut typed = String::new();
    loop {
        let count = key::count(&typed);
        let line = terminal.ask(&match count {
            0 => "key: ".to_owned(),
            _ => format!("{count} of {} characters; the rest: ", key::LENGTH),
        })?;
        typed.push_str(&line);
        if key::count(&typed) >= key::LENGTH || (count > 0 && line.trim().is_empty()) {
            return Ok(typed);
        }
    }
}

/// A terminal without echo, still in line mode, so that its keys for signals and for editing a line work as usual.
/// However the program ends or stops, the terminal is as it was before.
#[cfg(unix)]
mod imp {
    use std::fs::File;
    use std::io::{self, Write as _};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::thread;

    use rustix::io::{read, retry_on_intr};
    use rustix::process::getpgrp;
    use rustix::termios::{
        InputModes, LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetpgrp, tcsetattr,
    };
    use signal_hook::consts::{SIGCONT, SIGTSTP, SIGTTIN};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level;

    use crate::signals::{self, AtExit};

    pub(super) struct Terminal {
        shared: Arc<Shared>,
        _restore_at_exit: AtExit,
    }

    struct Shared {
        device: File,
        before: Termios,
        /// `None` when nothing is asked any more.
        question: Mutex<Option<String>>,
    }

    impl Terminal {
        pub(super) fn open() -> io::Result<Self> {
            let device = File::options().read(true).write(true).open("/dev/tty")?;
            let before = tcgetattr(&device)?;
            let shared = Arc::new(Shared { device, before, question: Mutex::new(Some(String::new())) });
            let (at_exit, watched) = (Arc::clone(&shared), Arc::clone(&shared));
            // A signal finds the terminal either as it was or in the list of clean-ups.
            let _deferred = signals::defer();
            let terminal = Self { shared, _restore_at_exit: signals::at_exit(move || at_exit.restore()) };
            watch_job_control(watched)?;
            terminal.shared.hide();
            Ok(terminal)
        }

        pub(super) fn write(&self, text: &str) -> io::Result<()> {
            (&self.shared.device).write_all(text.as_bytes())
        }

        /// Returns the line that is typed, with its end.
        pub(super) fn ask(&self, question: &str) -> io::Result<String> {
            *self.shared.question() = Some(question.to_owned());
            self.write(question)?;
            // More than a terminal gives at once (termios(3), canonical mode).
            let mut line = [0; 4096];
            let length = retry_on_intr(|| read(&self.shared.device, &mut line))?;
            self.write("\n")?;
            if length == 0 {
                return Err(io::Error::other("nothing was typed"));
            }
            Ok(String::from_utf8_lossy(&line[..length]).into_owned())
        }

        /// Discards what was typed or pasted after the key.
        pub(super) fn discard_input(&self) {
            let _ = tcflush(&self.shared.device, QueueSelector::IFlush);
        }
    }

    impl Drop for Terminal {
        fn drop(&mut self) {
            self.shared.restore();
        }
    }

    impl Shared {
        fn question(&self) -> MutexGuard<'_, Option<String>> {
            self.question.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Returns the question, unless the terminal was restored.
        fn hide(&self) -> Option<String> {
            let question = self.question();
            if question.is_some() {
                self.set_echo(false);
            }
            question.clone()
        }

        fn restore(&self) {
            let mut question = self.question();
            *question = None;
            self.set_echo(true);
        }

        /// Turns echo on or off; what was typed before a change is discarded. Does not wait for output, which may be
        /// stopped. Does nothing in the background, where the terminal has the modes of the shell, and where changing
        /// them would stop the program (SIGTTOU, termios(3)).
        fn set_echo(&self, has_echo: bool) {
            if tcgetpgrp(&self.device).ok() != Some(getpgrp()) {
                return;
            }
            let mut modes = self.before.clone();
            if !has_echo {
                modes.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
                modes.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG);
                modes.input_modes.insert(InputModes::ICRNL);
            }
            let has_them = |now: Termios| (now.local_modes, now.input_modes) == (modes.local_modes, modes.input_modes);
            if tcgetattr(&self.device).is_ok_and(has_them) {
                return;
            }
            let _ = tcflush(&self.device, QueueSelector::IFlush);
            let _ = tcsetattr(&self.device, OptionalActions::Now, &modes);
        }
    }

    /// Gives the terminal back while the program is stopped (Ctrl-Z), and asks again when it goes on (`fg`). Handlers
    /// cannot be removed, so this thread handles stops until the program ends.
    fn watch_job_control(terminal: Arc<Shared>) -> io::Result<()> {
        let mut signals = Signals::new([SIGTSTP, SIGCONT])?;
        let watch = move || {
            for signal in &mut signals {
                if signal == SIGTSTP {
                    if terminal.question().is_some() {
                        terminal.set_echo(true);
                        let _ = (&terminal.device).write_all(b"\n");
                    }
                    // SIGTTIN has no handler, and stops the program where SIGTSTP would: not in a process group without
                    // a shell to continue it (setpgid(2)).
                    let _ = low_level::raise(SIGTTIN);
                }
                // Not locked while it is written: the screen may be stopped.
                let question = terminal.hide();
                if signal == SIGTSTP {
                    let _ = (&terminal.device).write_all(question.unwrap_or_default().as_bytes());
                }
            }
        };
        thread::Builder::new().name("job control".to_owned()).spawn(watch)?;
        Ok(())
    }
}

/// Other systems have no signals to handle.
#[cfg(not(unix))]
mod imp {
    use std::io;

    use console::Term;

    pub(super) struct Terminal(Term);

    impl Terminal {
        #[expect(clippy::unnecessary_wraps, reason = "as elsewhere")]
        pub(super) fn open() -> io::Result<Self> {
            Ok(Self(Term::stderr()))
        }

        pub(super) fn write(&self, text: &str) -> io::Result<()> {
            self.0.write_str(text)
        }

        pub(super) fn ask(&self, question: &str) -> io::Result<String> {
            self.write(question)?;
            self.0.read_secure_line()
        }

        pub(super) fn discard_input(&self) {}
    }
}
