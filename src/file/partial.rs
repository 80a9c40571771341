//! The part of a file that `--resume` keeps, beside the destination and under its own name from the start. It is only
//! used if no other user can have put it there and no other process works on it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Advice, FileType, Mode, OFlags, Stat, fadvise, fchmod, fchown, fcntl_setfl, fstat};
use rustix::process::{getegid, geteuid};

use super::directory::Directory;
use crate::signals::{self, AtExit};
use crate::text;

/// The rights of a part: the owner's alone.
const MODE: u32 = 0o600;

const SUFFIX: &str = ".half-close-part";

/// How often another process may put another part in its place while this one opens it.
const MAX_TRIES: usize = 100;

/// The name of the part of the file with that name.
pub(super) fn part_name(name: &OsStr) -> OsString {
    let mut name = name.to_owned();
    name.push(SUFFIX);
    name
}

/// A part, locked as long as this lives. It stays when this is dropped, and when a signal ends the program, unless it is
/// empty.
pub(super) struct Part {
    entry: Arc<Entry>,
    _at_exit: AtExit,
}

struct Entry {
    directory: Arc<Directory>,
    name: OsString,
    file: File,
}

impl Part {
    /// Opens the part of the file with that name, or creates an empty one; `None` if another process has locked it.
    ///
    /// # Errors
    /// Returns an error if it cannot be opened or locked, or is not this user's alone.
    pub(super) fn open(directory: &Arc<Directory>, name: &OsStr) -> Result<Option<Self>> {
        let name = part_name(name);
        let open = || {
            for _ in 0..MAX_TRIES {
                // A signal finds no part, or one that it removes if it is empty.
                let _deferred = signals::defer();
                let entry =
                    Entry { directory: Arc::clone(directory), name: name.clone(), file: open(directory, &name)? };
                match entry.file.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) => {
                        entry.remove_if(|size| size == 0);
                        return Err(error).context("it cannot be locked");
                    }
                }
                // Before this lock another process may have given the part its final name, or removed it.
                if entry.is_in_place()? {
                    // Not every file system has modes.
                    let _ = fchmod(&entry.file, Mode::from_raw_mode(MODE));
                    // What another process cuts off is then missing at the end, and not zeros in the middle.
                    fcntl_setfl(&entry.file, OFlags::APPEND)?;
                    return Ok(Some(Self::new(entry)));
                }
            }
            bail!("it is another one each time");
        };
        open().with_context(|| format!("could not use {}", text::name(name.as_ref())))
    }

    fn new(entry: Entry) -> Self {
        // Only what the disk has counts: cached pages of a failed write look as if it had succeeded (fsync(2)).
        let _ = fadvise(&entry.file, 0, None, Advice::DontNeed);
        let entry = Arc::new(entry);
        let at_exit = {
            let entry = Arc::clone(&entry);
            signals::at_exit(move || entry.remove_if(|size| size == 0))
        };
        Self { entry, _at_exit: at_exit }
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.entry.name
    }

    pub(super) fn file(&self) -> &File {
        &self.entry.file
    }

    /// Removes it, if it still has this name.
    pub(super) fn remove(&self) {
        self.entry.remove_if(|_| true);
    }

    /// Whether it still has this name.
    ///
    /// # Errors
    /// Returns an error if that cannot be known.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        self.entry.is_in_place()
    }

    /// Makes it this user's alone again, after it was given to those who get the file.
    pub(super) fn take_back(&self) {
        let _ = fchown(&self.entry.file, Some(geteuid()), Some(getegid()));
        let _ = fchmod(&self.entry.file, Mode::from_raw_mode(MODE));
    }

    /// Bytes in it, unless it was removed or has another name.
    pub(super) fn size(&self) -> Option<u64> {
        self.entry.file.metadata().ok().filter(|_| self.is_in_place().unwrap_or(true)).map(|metadata| metadata.len())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.entry.remove_if(|size| size == 0);
    }
}

impl Entry {
    fn is_in_place(&self) -> io::Result<bool> {
        let id = |found: Stat| (found.st_dev, found.st_ino);
        let there = self.directory.status_of(&self.name)?;
        Ok(there.map(id) == Some(id(fstat(&self.file)?)))
    }

    fn remove_if(&self, is_to_go: impl Fn(u64) -> bool) {
        if self.is_in_place().unwrap_or(false) && self.file.metadata().is_ok_and(|metadata| is_to_go(metadata.len())) {
            let _ = self.directory.remove(&self.name);
        }
    }
}

fn open(directory: &Directory, name: &OsStr) -> Result<File> {
    for _ in 0..MAX_TRIES {
        // Merely opening a device could change its state, or block.
        match directory.status_of(name)? {
            None => match directory.create(name, MODE) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => return Ok(created?),
            },
            Some(found) => {
                check(&found)?;
                let file = match directory.open_part(name) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    opened => opened?,
                };
                check(&fstat(&file)?)?;
                return Ok(file);
            }
        }
    }
    bail!("it comes and goes");
}

fn check(part: &Stat) -> Result<()> {
    if !FileType::from_raw_mode(part.st_mode).is_file() {
        bail!("it is not a regular file");
    }
    if part.st_uid != geteuid().as_raw() {
        bail!("it belongs to another user");
    }
    if part.st_nlink > 1 {
        bail!("it has other names, too");
    }
    Ok(())
}
