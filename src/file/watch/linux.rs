//! inotify(7). It reports the system calls of this machine, and neither writes through a mapping nor those of another
//! machine on a network file system.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::Events;

/// One file that is watched.
pub(crate) struct Watch {
    inotify: OwnedFd,
    events: Mutex<Events>,
}

impl Watch {
    /// Watches the file, under whatever name; `None` if that is not possible, such as when the user has too many watches.
    pub(crate) fn on(file: &File) -> Option<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        let wanted = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF;
        inotify::add_watch(&inotify, format!("/proc/self/fd/{}", file.as_raw_fd()), wanted).ok()?;
        Some(Self { inotify, events: Mutex::default() })
    }

    /// What happened until now.
    pub(crate) fn events(&self) -> Events {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let what = event.events();
            // After too many events at once any may be missing.
            if what.intersects(ReadFlags::MODIFY | ReadFlags::QUEUE_OVERFLOW) {
                events.writes += 1;
            } else if what.contains(ReadFlags::MOVE_SELF) {
                events.moves += 1;
            } else if what.contains(ReadFlags::ATTRIB) {
                events.attributes += 1;
            }
        }
        *events
    }
}
