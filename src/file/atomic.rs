//! A regular file that appears under its name all at once: written without a name, or with a temporary one where the
//! file system has no unnamed files, and renamed when it is complete.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, TryLockError};
use std::path::{Path, PathBuf};
use std::{env, io};

use anyhow::{Result, bail};
use tempfile::TempPath;

use super::inode_flags::InodeFlags;
use super::place::directory_of;
use super::{attributes, room, unnamed};
use crate::signals::{self, AtExit};
use crate::text;

/// Every temporary name is made of these, so that a later run recognizes what a killed one has left.
const TEMPORARY_PREFIX: &str = ".half-close-";
const TEMPORARY_RANDOM: usize = 6;
const TEMPORARY_SUFFIX: &str = ".part";

/// How many temporary files are tried in a row when other processes lock them at once.
const MAX_LOCKED: usize = 16;

/// A regular file that is not visible under its name yet.
pub(crate) struct Replacement {
    path: PathBuf,
    keep_existing: bool,
    file: File,
    /// Its name until then, where the file system has no unnamed files.
    temporary: Option<Temporary>,
}

/// A temporary name, which is removed when this is dropped and when a signal ends the program.
struct Temporary {
    path: TempPath,
    _at_exit: AtExit,
}

impl Replacement {
    /// Creates an empty file that will replace the one at the path, whose metadata is `existing` if there is one. The path
    /// is no symbolic link. Reserves room for `size` bytes if so many are expected. Removes the temporary files of killed
    /// processes from the directory.
    ///
    /// # Errors
    /// Returns an error if the file cannot be replaced or created, or has no room.
    pub(crate) fn create(
        path: PathBuf,
        existing: Option<&Metadata>,
        keep_existing: bool,
        size: Option<u64>,
    ) -> Result<Self> {
        if names_a_directory(&path) {
            bail!("directory does not exist");
        }
        let directory = directory_of(&path);
        let Some(directory_metadata) = metadata_if_exists(directory)? else {
            bail!("directory {} does not exist", text::name(directory));
        };
        if directory == Path::new(".") && env::current_dir().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            bail!("the current directory was deleted");
        }
        if let Some(existing) = existing {
            check_flags(&path)?;
            attributes::check_writable(&path)?;
            attributes::check_replaceable(existing, &directory_metadata)?;
        }
        let keeps_names = check_directory_flags(directory, existing.is_some())?;
        sweep(directory);
        let (file, temporary) = create_in(directory, existing.is_some(), keeps_names)?;
        if let Some(size) = size {
            room::reserve(&file, size)?;
        }
        Ok(Self { path, keep_existing, file, temporary })
    }

    /// Whether the file that will be replaced has bytes now.
    pub(crate) fn would_discard_bytes(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|existing| existing.is_file() && existing.len() > 0)
    }

    /// The new file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Takes over the attributes of the file that will be replaced, and syncs everything to disk if it shall be durable.
    ///
    /// # Errors
    /// Returns an error if either cannot be done.
    pub(crate) fn complete(&self, durable: bool) -> io::Result<()> {
        self.copy_attributes()?;
        if durable { self.file.sync_all() } else { Ok(()) }
    }

    fn copy_attributes(&self) -> io::Result<()> {
        match metadata_if_exists(&self.path)? {
            Some(old) if old.is_file() => attributes::copy_attributes(&self.path, &old, &self.file),
            _ => Ok(()),
        }
    }

    /// Gives the file its name, and syncs the directory if that shall be durable.
    ///
    /// # Errors
    /// Returns an error if it has not got its name, or the directory could not be synced.
    pub(crate) fn publish(&mut self, durable: bool) -> io::Result<()> {
        // The rights may have been taken away while the file was synced.
        self.copy_attributes()?;
        // Before: for want of a descriptor nothing must be replaced.
        let directory = if durable { open_directory(directory_of(&self.path))? } else { None };
        self.rename()?;
        if durable { sync_directory(directory, &self.file) } else { Ok(()) }
    }

    fn rename(&mut self) -> io::Result<()> {
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary.path,
            None => match unnamed::link(&self.file, &self.path) {
                // linkat(2) does not replace, rename(2) does; it needs a name to start from.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !self.keep_existing => {
                    let link = |path: &Path| unnamed::link(&self.file, path);
                    let linked = temporary_names(true).make_in(directory_of(&self.path), link)?;
                    linked.into_temp_path()
                }
                linked_or_failed => return linked_or_failed,
            },
        };
        if self.keep_existing {
            temporary.persist_noclobber(&self.path).map_err(|failed| failed.error)
        } else {
            temporary.persist(&self.path).map_err(|failed| failed.error)
        }
    }
}

/// The metadata of the file, symbolic links followed; `None` if there is none.
pub(crate) fn metadata_if_exists(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found_or_failed => found_or_failed.map(Some),
    }
}

/// Whether the path ends in something other than a file name: a separator, `.` or `..`, or nothing at all.
fn names_a_directory(path: &Path) -> bool {
    let whole = path.as_os_str().as_encoded_bytes();
    path.file_name().is_none_or(|name| !whole.ends_with(name.as_encoded_bytes()))
}

/// Checks that the file may be replaced at all: only the last step would fail, after the whole transfer.
fn check_flags(path: &Path) -> Result<()> {
    let flags = InodeFlags::of(path);
    if flags.is_immutable() {
        bail!("it is immutable (see chattr(1))");
    }
    if flags.is_append_only() {
        bail!("it is append-only (see chattr(1)) and cannot be replaced");
    }
    if flags.is_mount_point() {
        bail!("it is a mount point and cannot be replaced; to write into it, use '--output -' and redirect it there");
    }
    Ok(())
}

/// Checks that the directory takes a new name. Returns whether it keeps every name that it has, so that none in it can be
/// temporary.
fn check_directory_flags(directory: &Path, replaces: bool) -> Result<bool> {
    let flags = InodeFlags::of(directory);
    if flags.is_immutable() {
        bail!("directory {} is immutable (see chattr(1))", text::name(directory));
    }
    if flags.is_append_only() && replaces {
        bail!("directory {} is append-only (see chattr(1)): nothing in it can be replaced", text::name(directory));
    }
    Ok(flags.is_append_only())
}

/// Removes the temporary files of killed processes: those of this user that no process holds a lock on. A file system
/// without locks is not swept.
fn sweep(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.filter(|entry| is_temporary(&entry.file_name())).map(|entry| entry.path()) {
        let Some(file) = attributes::open_own_file(&path) else { continue };
        // Locked until it is removed: a client that has just created it finds out and creates another.
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file has the form of a temporary name, which no user would choose.
fn is_temporary(name: &OsStr) -> bool {
    let inner = name.as_encoded_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes());
    let random = inner.and_then(|inner| inner.strip_suffix(TEMPORARY_SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == TEMPORARY_RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

/// Creates a file without a name, or with a temporary one where the file system has no unnamed files. Its lock keeps
/// other clients from removing it. One that will replace a file is private until it has the rights of that one.
fn create_in(directory: &Path, replaces: bool, keeps_names: bool) -> Result<(File, Option<Temporary>)> {
    if let Some(file) = unnamed::create_in(directory)? {
        let _ = file.try_lock();
        return Ok((file, None));
    }
    if keeps_names {
        bail!("directory {} is append-only (see chattr(1)): no temporary file can be removed", text::name(directory));
    }
    let _deferred = signals::defer();
    for _ in 0..MAX_LOCKED {
        let (file, temporary) = temporary_names(replaces).tempfile_in(directory)?.into_parts();
        // Another client that sweeps holds the lock, or has held it. Never waited for: anyone who can open the file can
        // lock it.
        let is_locked = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        let was_swept = is_locked || !temporary.exists();
        if !was_swept {
            let path = temporary.to_path_buf();
            let at_exit = signals::at_exit(move || drop(fs::remove_file(path)));
            return Ok((file, Some(Temporary { path: temporary, _at_exit: at_exit })));
        }
    }
    bail!("another process locks every temporary file in directory {}", text::name(directory));
}

fn temporary_names(private: bool) -> tempfile::Builder<'static, 'static> {
    let mut names = if private { tempfile::Builder::new() } else { attributes::temporary_files() };
    names.prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX).rand_bytes(TEMPORARY_RANDOM);
    names
}

/// Opens a directory to sync its names; `None` for a drop box: files may be created there, but it may not be read.
#[cfg(unix)]
fn open_directory(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(Some),
    }
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as elsewhere")]
fn open_directory(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Syncs the names in the directory to disk (fsync(2)), one of which is that of the file.
#[cfg(unix)]
fn sync_directory(directory: Option<File>, file: &File) -> io::Result<()> {
    match directory.map(|directory| directory.sync_all()) {
        None => sync_file_system(file),
        // Some file systems cannot sync a directory.
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Some(synced) => synced,
    }
}

#[cfg(not(unix))]
fn sync_directory(_: Option<File>, _: &File) -> io::Result<()> {
    Ok(())
}

/// Syncs the whole file system that the file is on (syncfs(2)).
#[cfg(target_os = "linux")]
fn sync_file_system(file: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn sync_file_system(_: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}
