//! The file that is received: all of it or none. A regular file is replaced in one step; what is no regular file (a
//! device, a FIFO, standard output) is written directly.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::atomic::{self, Replacement};
use super::background_sync::BackgroundSync;
use crate::ui::text;

/// A file that is being received.
pub(crate) struct Destination {
    name: String,
    target: Target,
    durable: bool,
    background_sync: BackgroundSync,
}

enum Target {
    StandardOutput(File),
    /// A device or a FIFO.
    Special(File),
    Replacement(Replacement),
}

impl Destination {
    /// Prepares to write to the path; `-` is standard output, and so is `/dev/stdout`. A symbolic link is followed.
    /// Nothing that was there changes yet. `durable` syncs the bytes to disk before they count as stored.
    ///
    /// # Errors
    /// Returns an error if the path is a directory or cannot be written, or if it is a file and `keep_existing` forbids
    /// replacing it.
    pub(crate) fn open(path: &Path, keep_existing: bool, durable: bool) -> Result<Self> {
        let (name, target) = if ["-", "/dev/stdout"].iter().any(|name| path.as_os_str() == *name) {
            let file = standard_output().context("could not write to standard output")?;
            ("standard output".to_owned(), Target::StandardOutput(file))
        } else {
            let name = text::name(path);
            let target = Target::open(path, keep_existing).with_context(|| format!("could not write {name}"))?;
            (name, target)
        };
        Ok(Self { name, target, durable, background_sync: BackgroundSync::default() })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where to write the bytes.
    pub(crate) fn file(&self) -> &File {
        match &self.target {
            Target::StandardOutput(file) | Target::Special(file) => file,
            Target::Replacement(replacement) => replacement.file(),
        }
    }

    /// Whether it is a new regular file, into which the kernel can move bytes.
    pub(crate) fn is_replacement(&self) -> bool {
        matches!(self.target, Target::Replacement(_))
    }

    /// Whether the bytes go where results would go.
    pub(crate) fn is_standard_output(&self) -> bool {
        matches!(self.target, Target::StandardOutput(_))
    }

    /// Whether the bytes appear on a terminal, where progress would only disturb them.
    pub(crate) fn is_terminal(&self) -> bool {
        self.file().is_terminal()
    }

    /// Counts bytes that were written. Waits while too many of them are not on disk yet.
    ///
    /// # Errors
    /// Returns an error if earlier bytes could not be synced.
    pub(crate) fn record_written(&mut self, bytes: usize) -> Result<()> {
        match &self.target {
            Target::Replacement(replacement) if self.durable => {
                let recorded = self.background_sync.record_written(bytes, replacement.file());
                recorded.with_context(|| self.could_not_write())
            }
            _ => Ok(()),
        }
    }

    /// Syncs all bytes to disk, unless they need not be durable.
    ///
    /// # Errors
    /// Returns an error if they are not all there.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.try_sync().with_context(|| self.could_not_write())
    }

    fn try_sync(&mut self) -> io::Result<()> {
        self.background_sync.finish()?;
        match &self.target {
            Target::Replacement(replacement) => replacement.complete(self.durable),
            Target::StandardOutput(file) | Target::Special(file) if self.durable => sync_if_stored(file),
            _ => Ok(()),
        }
    }

    /// Gives the file its name in one step: the old file was there until now, the new one is from now on, on disk too.
    /// Signals must be deferred meanwhile.
    ///
    /// # Errors
    /// Returns an error if the old file is still there as it was, or if it is replaced but the directory could not be
    /// synced.
    pub(crate) fn publish(&mut self) -> Result<()> {
        if let Target::Replacement(replacement) = &mut self.target {
            let durable = self.durable;
            replacement.publish(durable).with_context(|| self.could_not_write())?;
        }
        Ok(())
    }

    /// The beginning of every error about this file.
    pub(crate) fn could_not_write(&self) -> String {
        format!("could not write {}", self.name)
    }
}

impl Target {
    fn open(path: &Path, keep_existing: bool) -> Result<Self> {
        match atomic::metadata_if_exists(path)? {
            Some(found) if found.is_dir() => bail!("is a directory"),
            // By the path as it was given: the file behind /dev/stdout may have no other name.
            Some(found) if !found.is_file() => Ok(Self::Special(OpenOptions::new().write(true).open(path)?)),
            Some(_) if keep_existing => bail!("file exists, and --no-clobber keeps it"),
            found => Ok(Self::Replacement(Replacement::create(path, found.as_ref(), keep_existing)?)),
        }
    }
}

/// Standard output as a file without a buffer. One that is open for reading only is an error at once.
fn standard_output() -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{OFlags, fcntl_getfl};
        use std::os::fd::AsFd as _;
        if fcntl_getfl(io::stdout())? & OFlags::ACCMODE == OFlags::RDONLY {
            return Err(rustix::io::Errno::BADF.into());
        }
        Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
    }
    #[cfg(windows)]
    {
        use std::os::windows::io::AsHandle as _;
        Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
    }
}

/// Syncs the bytes to disk where they are on one: a pipe and a terminal have none (fsync(2)).
fn sync_if_stored(file: &File) -> io::Result<()> {
    let file_type = file.metadata()?.file_type();
    #[cfg(unix)]
    let is_stored = file_type.is_file() || std::os::unix::fs::FileTypeExt::is_block_device(&file_type);
    #[cfg(not(unix))]
    let is_stored = file_type.is_file();
    if is_stored { file.sync_all() } else { Ok(()) }
}
