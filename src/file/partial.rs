//! What `--resume` keeps: a part of the file, beside the destination under a name of its own from the start. It is only
//! used if no other user can have put it there, and no other process works on it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustix::process::geteuid;

use super::directory::Directory;
use crate::signals::{self, AtExit};
use crate::text;

const SUFFIX: &str = ".half-close-part";

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
        // A signal finds no part, or one that it removes if it is empty.
        let _deferred = signals::defer();
        loop {
            let file =
                open(directory, &name).with_context(|| format!("could not use {}", text::name(name.as_ref())))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("could not lock {}", text::name(name.as_ref())));
                }
            }
            let entry = Arc::new(Entry { directory: Arc::clone(directory), name: name.clone(), file });
            // Before it was locked another process may have given it its last name, or removed it.
            if entry.is_in_place() {
                let at_exit = {
                    let entry = Arc::clone(&entry);
                    signals::at_exit(move || entry.remove_if(|size| size == 0))
                };
                return Ok(Some(Self { entry, _at_exit: at_exit }));
            }
        }
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

    /// Bytes in it, unless it was removed or has another name.
    pub(super) fn size(&self) -> Option<u64> {
        self.entry.file.metadata().ok().filter(|_| self.entry.is_in_place()).map(|metadata| metadata.len())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.entry.remove_if(|size| size == 0);
    }
}

impl Entry {
    fn is_in_place(&self) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let there = self.directory.metadata_of(&self.name).map(id);
        there.is_ok_and(|there| self.file.metadata().is_ok_and(|metadata| id(metadata) == there))
    }

    fn remove_if(&self, is_to_go: impl Fn(u64) -> bool) {
        if self.is_in_place() && self.file.metadata().is_ok_and(|metadata| is_to_go(metadata.len())) {
            let _ = self.directory.remove(&self.name);
        }
    }
}

fn open(directory: &Directory, name: &OsStr) -> Result<File> {
    loop {
        // Opening alone could do something to a device, or wait.
        match directory.metadata_of(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => match directory.create(name, 0o600) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => return Ok(created?),
            },
            found => {
                check(&found?)?;
                let file = match directory.open_part(name) {
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    opened => opened?,
                };
                check(&file.metadata()?)?;
                return Ok(file);
            }
        }
    }
}

fn check(part: &Metadata) -> Result<()> {
    if !part.is_file() {
        bail!("it is not a regular file");
    }
    if part.uid() != geteuid().as_raw() {
        bail!("it belongs to another user");
    }
    if part.nlink() > 1 {
        bail!("it has other names, too");
    }
    Ok(())
}
