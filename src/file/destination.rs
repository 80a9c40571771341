//! The file that is received: all of it or none. A regular file is replaced in one step; what is no regular file (a
//! device, a FIFO, standard output, an open descriptor) is written directly.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::atomic::{self, Replacement};
use super::background_sync::BackgroundSync;
use super::place::{self, Place};
use super::room;
use crate::blocking;
use crate::text;

/// A file that is being received.
pub(crate) struct Destination {
    name: String,
    target: Target,
    durable: bool,
    background_sync: BackgroundSync,
}

enum Target {
    StandardOutput(File),
    /// A device, a FIFO or another open descriptor.
    Special(File),
    /// A value of the kernel, which takes it in one write: it is collected until it is complete.
    Kernel(File, Vec<u8>),
    Replacement(Replacement),
}

/// The largest value that is collected; those of the kernel fit into a page of memory.
const MAX_KERNEL_VALUE: usize = 1024 * 1024;

impl Destination {
    /// Prepares to write to the path; `-` is standard output, and so is `/dev/stdout`. A symbolic link is followed.
    /// Nothing that was there changes yet. `durable` syncs the bytes to disk before they count as stored. `size` is how
    /// many bytes will come, if that is known. `report` is called with what is waited for, if that may take long.
    ///
    /// # Errors
    /// Returns an error if the path is a directory or cannot be written, if it is a file and `keep_existing` forbids
    /// replacing it, or if there is no room for so many bytes.
    pub(crate) fn open(
        path: &Path,
        keep_existing: bool,
        durable: bool,
        size: Option<u64>,
        report: impl FnOnce(&str),
    ) -> Result<Self> {
        let place = Place::of(path).with_context(|| could_not_write(&text::name(path)))?;
        let is_standard_output = matches!(place, Place::StandardOutput);
        let name = if is_standard_output { "standard output".to_owned() } else { text::name(path) };
        let report = || report(&format!("{name}: waiting for a program that reads from this FIFO"));
        let target = Target::open(place, keep_existing, size, report).with_context(|| could_not_write(&name))?;
        Ok(Self { name, target, durable, background_sync: BackgroundSync::default() })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where to write the bytes.
    pub(crate) fn file(&self) -> &File {
        match &self.target {
            Target::StandardOutput(file) | Target::Special(file) | Target::Kernel(file, _) => file,
            Target::Replacement(replacement) => replacement.file(),
        }
    }

    /// Writes all of the bytes. Waits as long as it takes where another program has made the destination non-blocking.
    ///
    /// # Errors
    /// Returns an error if they cannot be written.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match &mut self.target {
            Target::Kernel(_, value) if value.len() + bytes.len() > MAX_KERNEL_VALUE => {
                Err(io::ErrorKind::FileTooLarge.into())
            }
            Target::Kernel(_, value) => {
                value.extend_from_slice(bytes);
                Ok(())
            }
            _ => blocking::write_all(self.file(), bytes),
        };
        written.with_context(|| self.could_not_write())
    }

    /// Whether it is a new regular file, into which the kernel can move bytes.
    pub(crate) fn is_replacement(&self) -> bool {
        matches!(self.target, Target::Replacement(_))
    }

    /// Whether a file with bytes will be replaced.
    pub(crate) fn would_discard_bytes(&self) -> bool {
        matches!(&self.target, Target::Replacement(replacement) if replacement.would_discard_bytes())
    }

    /// Whether what is stored survives the loss of power.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable
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
            Target::Kernel(file, value) => blocking::write_all(file, value),
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
        could_not_write(&self.name)
    }
}

fn could_not_write(name: &str) -> String {
    format!("could not write {name}")
}

impl Target {
    fn open(place: Place, keep_existing: bool, size: Option<u64>, report: impl FnOnce()) -> Result<Self> {
        let (path, is_kernel) = match place {
            Place::StandardOutput => return Ok(Self::StandardOutput(place::standard_output()?)),
            Place::Descriptor(file) => return Ok(Self::Special(file)),
            Place::Kernel(path) => (path, true),
            Place::Name(path) => (path, false),
        };
        let to_write = || OpenOptions::new().write(true).open(&path);
        match atomic::metadata_if_exists(&path)? {
            Some(found) if found.is_dir() => bail!("is a directory"),
            Some(found) if !found.is_file() => {
                let file = open_special(&path, &found, report)?;
                if let Some(size) = size {
                    room::check_capacity(&file, size)?;
                }
                Ok(Self::Special(file))
            }
            Some(_) if keep_existing => bail!("file exists, and --no-clobber keeps it"),
            _ if is_kernel => Ok(Self::Kernel(to_write()?, Vec::new())),
            found => Ok(Self::Replacement(Replacement::create(path, found.as_ref(), keep_existing, size)?)),
        }
    }
}

/// Opens what is no regular file. Calls `report` before it waits for a FIFO to be read from (fifo(7)).
fn open_special(path: &Path, found: &Metadata, report: impl FnOnce()) -> io::Result<File> {
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type()) {
        use rustix::fs::{Mode, OFlags};
        use rustix::io::Errno;
        match rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NXIO) => report(),
            opened => return Ok(opened?.into()),
        }
    }
    #[cfg(not(unix))]
    let _ = (found, report);
    OpenOptions::new().write(true).open(path)
}

/// Syncs the bytes to disk where they are on one: a pipe and a terminal have none (fsync(2)).
fn sync_if_stored(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    let is_stored = {
        let file_type = file.metadata()?.file_type();
        file_type.is_file() || std::os::unix::fs::FileTypeExt::is_block_device(&file_type)
    };
    // Windows cannot even examine a pipe.
    #[cfg(not(unix))]
    let is_stored = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_stored { file.sync_all() } else { Ok(()) }
}
