//! Brings a growing file to the disk while it still grows, so that the last sync has little left to do while the
//! server waits for its reply. A thread syncs one window while the next one is written; whoever writes faster than the
//! disk waits for it at the end of each window.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

/// Bytes that are written between two syncs; at most twice as many are not on the disk at any time.
const WINDOW: usize = 64 * 1024 * 1024;

/// The thread that syncs, once there is enough to do for one.
#[derive(Default)]
pub(crate) struct WriteBack {
    unsynced: usize,
    syncer: Option<Syncer>,
}

struct Syncer {
    /// Taken by the thread when it is done with the window before.
    windows: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl WriteBack {
    /// So many more bytes were written to the file, which is the same one each time.
    pub(crate) fn wrote(&mut self, bytes: usize, file: &File) -> io::Result<()> {
        self.unsynced += bytes;
        if self.unsynced < WINDOW {
            return Ok(());
        }
        self.unsynced = 0;
        let syncer = match &mut self.syncer {
            Some(syncer) => syncer,
            none => match file.try_clone().and_then(Syncer::start) {
                Ok(syncer) => none.insert(syncer),
                // Without a thread to be had it is only slower.
                Err(_) => return file.sync_data(),
            },
        };
        match syncer.windows.send(()) {
            Ok(()) => Ok(()),
            Err(_) => self.finish(),
        }
    }

    /// Waits for the last window. An error that a sync has met is told here, for the kernel tells it only once
    /// (fsync(2)).
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some(Syncer { windows, thread }) = self.syncer.take() else { return Ok(()) };
        drop(windows);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs died")))
    }
}

impl Syncer {
    fn start(file: File) -> io::Result<Self> {
        let (windows, to_sync) = mpsc::sync_channel(0);
        let sync_each = move || to_sync.iter().try_for_each(|()| file.sync_data());
        let thread = thread::Builder::new().name("write-back".to_owned()).spawn(sync_each)?;
        Ok(Self { windows, thread })
    }
}
