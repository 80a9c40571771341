//! Syncs a growing file to disk while it still grows, so that the last sync has little left to do while the server waits
//! for its reply. A thread syncs one window while the next one is written; a writer that is faster than the disk waits for
//! it at the end of each window.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

/// Bytes that are written between two syncs; at most twice as many are not on disk at any time.
const WINDOW: usize = 64 * 1024 * 1024;

/// The syncing thread, started once there is a whole window to sync.
#[derive(Default)]
pub(crate) struct BackgroundSync {
    unsynced: usize,
    thread: Option<SyncThread>,
}

struct SyncThread {
    /// Received by the thread when it has synced the window before.
    windows: SyncSender<()>,
    handle: JoinHandle<io::Result<()>>,
}

impl BackgroundSync {
    /// Counts bytes that were written to the file, which is the same one each time.
    ///
    /// # Errors
    /// Returns an error if earlier bytes could not be synced.
    pub(crate) fn record_written(&mut self, bytes: usize, file: &File) -> io::Result<()> {
        self.unsynced += bytes;
        if self.unsynced < WINDOW {
            return Ok(());
        }
        self.unsynced = 0;
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => match file.try_clone().and_then(SyncThread::start) {
                Ok(thread) => none.insert(thread),
                // No thread can be started: it is only slower.
                Err(_) => return file.sync_data(),
            },
        };
        match thread.windows.send(()) {
            Ok(()) => Ok(()),
            Err(_) => self.finish(),
        }
    }

    /// Waits for the last window. An error that a sync met is returned here, for the kernel reports it only once
    /// (fsync(2)).
    ///
    /// # Errors
    /// Returns an error if earlier bytes could not be synced.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some(SyncThread { windows, handle }) = self.thread.take() else { return Ok(()) };
        drop(windows);
        handle.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))
    }
}

impl SyncThread {
    fn start(file: File) -> io::Result<Self> {
        let (windows, to_sync) = mpsc::sync_channel(0);
        let sync_each = move || to_sync.iter().try_for_each(|()| file.sync_data());
        let handle = thread::Builder::new().name("background-sync".to_owned()).spawn(sync_each)?;
        Ok(Self { windows, handle })
    }
}
