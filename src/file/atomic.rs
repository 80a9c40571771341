//! A regular file that appears under its name all at once: written without a name, or with a temporary one where the
//! file system has no unnamed files, and renamed when it is complete.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use tempfile::TempPath;

use super::{attributes, unnamed};
use crate::signals;
use crate::ui::text;

/// How many symbolic links are followed in a row, as by the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Every temporary name is made of these, so that a later run recognizes what a killed one has left.
const TEMPORARY_PREFIX: &str = ".half-close-";
const TEMPORARY_RANDOM: usize = 6;
const TEMPORARY_SUFFIX: &str = ".part";

/// A regular file that is not visible under its name yet.
pub(crate) struct Replacement {
    path: PathBuf,
    keep_existing: bool,
    file: File,
    /// Its name until then, where the file system has no unnamed files.
    temporary: Option<TempPath>,
}

impl Replacement {
    /// Creates an empty file that will replace the one at the path, whose metadata is `existing` if there is one. Removes
    /// the temporary files of killed processes from the directory.
    ///
    /// # Errors
    /// Returns an error if the file cannot be replaced or created.
    pub(crate) fn create(path: &Path, existing: Option<&Metadata>, keep_existing: bool) -> Result<Self> {
        if existing.is_some() {
            attributes::check_writable(path)?;
        }
        let path = follow_links(path)?;
        if names_a_directory(&path) {
            bail!("directory does not exist");
        }
        let directory = directory_of(&path);
        let Some(directory_metadata) = metadata_if_exists(directory)? else {
            bail!("directory {} does not exist", text::name(directory));
        };
        if let Some(existing) = existing {
            attributes::check_replaceable(existing, &directory_metadata)?;
        }
        sweep(directory);
        let (file, temporary) = create_in(directory, existing.is_some())?;
        Ok(Self { path, keep_existing, file, temporary })
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
        match metadata_if_exists(&self.path)? {
            Some(old) if old.is_file() => attributes::copy_attributes(&old, &self.file)?,
            _ => {}
        }
        if durable { self.file.sync_all() } else { Ok(()) }
    }

    /// Gives the file its name, and syncs the directory if that shall be durable.
    ///
    /// # Errors
    /// Returns an error if it has not got its name, or the directory could not be synced.
    pub(crate) fn publish(&mut self, durable: bool) -> io::Result<()> {
        self.rename()?;
        if durable { sync_directory(directory_of(&self.path), &self.file) } else { Ok(()) }
    }

    fn rename(&mut self) -> io::Result<()> {
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
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

/// The path behind symbolic links, whether or not there is a file at the end of them.
fn follow_links(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        match fs::read_link(&path) {
            Ok(next) => path = directory_of(&path).join(next),
            Err(_) => return Ok(path),
        }
    }
    bail!("too many levels of symbolic links")
}

/// Whether the path ends in something other than a file name: a separator, `.` or `..`, or nothing at all.
fn names_a_directory(path: &Path) -> bool {
    let whole = path.as_os_str().as_encoded_bytes();
    path.file_name().is_none_or(|name| !whole.ends_with(name.as_encoded_bytes()))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Removes the temporary files of killed processes: those that no process holds a lock on. A file system without locks
/// is not swept.
fn sweep(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|file_type| file_type.is_file());
    for entry in entries.filter(|entry| is_temporary(&entry.file_name()) && is_file(entry)) {
        let path = entry.path();
        // NFS locks only what is open for writing; a read-only file cannot be.
        let opened = OpenOptions::new().write(true).open(&path).or_else(|_| File::open(&path));
        let Ok(file) = opened else { continue };
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
fn create_in(directory: &Path, replaces: bool) -> io::Result<(File, Option<TempPath>)> {
    if let Some(file) = unnamed::create_in(directory)? {
        let _ = file.lock();
        return Ok((file, None));
    }
    let mut deferred = signals::defer();
    loop {
        let (file, temporary) = temporary_names(replaces).tempfile_in(directory)?.into_parts();
        let _ = file.lock();
        let was_swept = !temporary.exists();
        if !was_swept {
            deferred.remove_on_exit(&temporary);
            return Ok((file, Some(temporary)));
        }
    }
}

fn temporary_names(private: bool) -> tempfile::Builder<'static, 'static> {
    let mut names = if private { tempfile::Builder::new() } else { attributes::temporary_files() };
    names.prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX).rand_bytes(TEMPORARY_RANDOM);
    names
}

/// Syncs the names in a directory to disk (fsync(2)), one of which is that of the file.
#[cfg(unix)]
fn sync_directory(directory: &Path, file: &File) -> io::Result<()> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        // Some file systems cannot sync a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        // A drop box: files may be created there, but the directory may not be read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => sync_file_system(file),
        synced => synced,
    }
}

#[cfg(not(unix))]
fn sync_directory(_: &Path, _: &File) -> io::Result<()> {
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
