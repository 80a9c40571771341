//! Which signals end the program and how: what is half done is removed, the user is told, and the exit status is the one
//! that shells expect. Where there are no such signals the system's own way of ending a program stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg_attr(unix, path = "signals/unix.rs")]
#[cfg_attr(not(unix), path = "signals/other.rs")]
mod imp;

pub(crate) use imp::{on_continue, on_exit, survive_size_limit};

/// What a signal has to know before it ends the program, which it does with this locked.
static ON_EXIT: Mutex<OnExit> = Mutex::new(OnExit { remove: None, is_complete: false });

struct OnExit {
    remove: Option<PathBuf>,
    is_complete: bool,
}

impl OnExit {
    #[cfg_attr(not(unix), expect(dead_code, reason = "no signal ends a program there"))]
    fn cleanup(&mut self) {
        if let Some(path) = self.remove.take() {
            let _ = fs::remove_file(path);
        }
    }
}

fn on_exit_state() -> MutexGuard<'static, OnExit> {
    ON_EXIT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, a signal that would end the program waits.
#[must_use]
pub(crate) struct Deferred(MutexGuard<'static, OnExit>);

/// Makes signals wait until the returned value is dropped. A signal that came before is not waited for: this call does
/// not return then, because the program ends.
pub(crate) fn defer() -> Deferred {
    Deferred(on_exit_state())
}

impl Deferred {
    /// Removes the file when a signal ends the program, in place of the one that was named before.
    pub(crate) fn remove_on_exit(&mut self, path: &Path) {
        self.0.remove = Some(path.to_owned());
    }

    /// The program has done all that it was started for: a signal from now on comes too late to interrupt it.
    pub(crate) fn complete(mut self) {
        self.0.is_complete = true;
    }
}
