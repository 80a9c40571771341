//! The file that is received: all of it or none. A regular file is built unnamed in the folder where it will stand and
//! takes its name in one step; what is no regular file (a device, a FIFO, standard output) is written straight.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use tempfile::TempPath;

use crate::write_back::WriteBack;
use crate::{platform, report, unnamed};

/// How many symbolic links are followed in a row, as by the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Every temporary name is made of these, so that a later run knows what a kill has left behind.
const TEMPORARY_PREFIX: &str = ".half-close-";
const TEMPORARY_RANDOM: usize = 6;
const TEMPORARY_SUFFIX: &str = ".part";

/// A file on its way to its name.
pub struct Destination {
    name: String,
    kind: Kind,
    durable: bool,
    write_back: WriteBack,
}

enum Kind {
    StandardOutput(File),
    /// A device or a FIFO.
    Special(File),
    Replacement(Replacement),
}

/// A regular file that others can't see yet.
struct Replacement {
    target: PathBuf,
    keep_existing: bool,
    file: File,
    /// The name it has meanwhile, where the file system has no unnamed files.
    temporary: Option<TempPath>,
}

impl Destination {
    /// Prepares to write to the path; `-` is standard output, and so is `/dev/stdout`. A symbolic link is followed.
    /// Nothing that was there changes yet. `durable` brings the bytes to the disk before they count as stored.
    ///
    /// # Errors
    /// The path is a folder, can't be written, or is a file already and `keep_existing` forbids to replace it.
    pub fn open(path: &Path, keep_existing: bool, durable: bool) -> Result<Self> {
        let (name, kind) = if ["-", "/dev/stdout"].iter().any(|name| path.as_os_str() == *name) {
            let file = platform::standard_output().context("could not write to standard output")?;
            ("standard output".to_owned(), Kind::StandardOutput(file))
        } else {
            let name = report::name(path);
            let kind = Kind::open(path, keep_existing).with_context(|| format!("could not write {name}"))?;
            (name, kind)
        };
        Ok(Self { name, kind, durable, write_back: WriteBack::default() })
    }

    /// What to call it in front of a person.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where to write the bytes.
    #[must_use]
    pub fn file(&self) -> &File {
        match &self.kind {
            Kind::StandardOutput(file) | Kind::Special(file) | Kind::Replacement(Replacement { file, .. }) => file,
        }
    }

    /// Whether it is a regular file of our own, into which the kernel can move bytes.
    #[must_use]
    pub fn is_replacement(&self) -> bool {
        matches!(self.kind, Kind::Replacement(_))
    }

    /// Whether the bytes go where results would go.
    #[must_use]
    pub fn is_standard_output(&self) -> bool {
        matches!(self.kind, Kind::StandardOutput(_))
    }

    /// Whether a person reads the bytes as they come, and wants no progress in between.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.file().is_terminal()
    }

    /// So many more bytes were written. Waits while too many of them are not on the disk yet.
    ///
    /// # Errors
    /// Bytes from before could not be brought to the disk.
    pub fn wrote(&mut self, bytes: usize) -> Result<()> {
        match &self.kind {
            Kind::Replacement(replacement) if self.durable => {
                self.write_back.wrote(bytes, &replacement.file).with_context(|| self.could_not_write())
            }
            _ => Ok(()),
        }
    }

    /// Brings all bytes to the disk, unless it need not be durable.
    ///
    /// # Errors
    /// They are not all there.
    pub fn sync(&mut self) -> Result<()> {
        self.try_sync().with_context(|| self.could_not_write())
    }

    fn try_sync(&mut self) -> io::Result<()> {
        self.write_back.finish()?;
        if let Kind::Replacement(replacement) = &self.kind {
            replacement.take_over_attributes()?;
        }
        match (self.durable, &self.kind) {
            (false, _) => Ok(()),
            (true, Kind::Replacement(replacement)) => replacement.file.sync_all(),
            (true, Kind::StandardOutput(file) | Kind::Special(file)) => platform::sync_if_stored(file),
        }
    }

    /// Gives the file its name in one step, so that the old one was there until now and the new one is from now on,
    /// on the disk as well. Meanwhile the program must be [`uninterrupted`].
    ///
    /// # Errors
    /// The old file is still there, as it was; or it is replaced but the folder can't be brought to the disk.
    pub fn publish(&mut self) -> Result<()> {
        if let Kind::Replacement(replacement) = &mut self.kind {
            let durable = self.durable;
            let published = replacement.publish().and_then(|()| replacement.sync_folder(durable));
            published.with_context(|| self.could_not_write())?;
        }
        Ok(())
    }

    /// The beginning of every error about this file.
    #[must_use]
    pub fn could_not_write(&self) -> String {
        format!("could not write {}", self.name)
    }
}

impl Kind {
    fn open(path: &Path, keep_existing: bool) -> Result<Self> {
        let found = existing(path)?;
        match &found {
            Some(found) if found.is_dir() => bail!("is a directory"),
            // By the path as it was given: what is behind /dev/stdout may have no other name.
            Some(found) if !found.is_file() => {
                return Ok(Self::Special(OpenOptions::new().write(true).open(path)?));
            }
            Some(_) if keep_existing => bail!("file exists, and --no-clobber keeps it"),
            Some(_) => platform::check_writable(path)?,
            None => {}
        }
        let target = follow_links(path)?;
        if names_a_folder(&target) {
            bail!("there is no such folder");
        }
        let folder = folder_of(&target);
        let Some(folder_found) = existing(folder)? else {
            bail!("there is no folder {}", report::name(folder));
        };
        if let Some(found) = &found {
            platform::check_replaceable(found, &folder_found)?;
        }
        sweep(folder);
        let (file, temporary) = create_in(folder, found.is_some())?;
        Ok(Self::Replacement(Replacement { target, keep_existing, file, temporary }))
    }
}

impl Replacement {
    /// The mode and, as far as that is allowed, the owner of the file that will be replaced.
    fn take_over_attributes(&self) -> io::Result<()> {
        match existing(&self.target)? {
            Some(old) if old.is_file() => platform::take_over_attributes(&old, &self.file),
            _ => Ok(()),
        }
    }

    fn publish(&mut self) -> io::Result<()> {
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => match unnamed::link(&self.file, &self.target) {
                // linkat(2) does not replace, rename(2) does; it needs a name to start from.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !self.keep_existing => {
                    let link = |path: &Path| unnamed::link(&self.file, path);
                    let linked = temporary_names(true).make_in(folder_of(&self.target), link)?;
                    linked.into_temp_path()
                }
                published_or_failed => return published_or_failed,
            },
        };
        if self.keep_existing {
            temporary.persist_noclobber(&self.target).map_err(|failed| failed.error)
        } else {
            temporary.persist(&self.target).map_err(|failed| failed.error)
        }
    }

    fn sync_folder(&self, durable: bool) -> io::Result<()> {
        if durable { platform::sync_folder(folder_of(&self.target), &self.file) } else { Ok(()) }
    }
}

/// The path behind symbolic links, whether or not there is a file at the end of them.
fn follow_links(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        match fs::read_link(&path) {
            Ok(next) => path = folder_of(&path).join(next),
            Err(_) => return Ok(path),
        }
    }
    bail!("too many levels of symbolic links")
}

fn existing(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found_or_failed => found_or_failed.map(Some),
    }
}

/// Whether the path ends in something other than a name: a separator, `.` or `..`, or nothing at all.
fn names_a_folder(path: &Path) -> bool {
    let whole = path.as_os_str().as_encoded_bytes();
    path.file_name().is_none_or(|name| !whole.ends_with(name.as_encoded_bytes()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Removes temporary files that a killed program has left behind: those that nobody holds a lock on. A file system
/// without locks is not swept.
fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_file = |entry: &DirEntry| entry.file_type().is_ok_and(|kind| kind.is_file());
    for entry in entries.filter(|entry| is_temporary(&entry.file_name()) && is_file(entry)) {
        let path = entry.path();
        // NFS locks only what is open for writing; what is read-only can't be.
        let opened = OpenOptions::new().write(true).open(&path).or_else(|_| File::open(&path));
        let Ok(file) = opened else { continue };
        // Locked until it is removed: a client that has just created it finds out and takes another.
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file has one of our temporary names, which nobody would choose for his own.
fn is_temporary(name: &OsStr) -> bool {
    let inner = name.as_encoded_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes());
    let random = inner.and_then(|inner| inner.strip_suffix(TEMPORARY_SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == TEMPORARY_RANDOM && random.iter().all(u8::is_ascii_alphanumeric))
}

/// A new file without a name, or with a temporary one where the file system has no files without. Its lock keeps
/// others from sweeping it away. What will replace another file is nobody else's business until it has that one's mode.
fn create_in(folder: &Path, replaces: bool) -> io::Result<(File, Option<TempPath>)> {
    if let Some(file) = unnamed::create_in(folder)? {
        let _ = file.lock();
        return Ok((file, None));
    }
    let mut under_way = under_way();
    loop {
        let (file, temporary) = temporary_names(replaces).tempfile_in(folder)?.into_parts();
        let _ = file.lock();
        let swept_meanwhile = !temporary.exists();
        if !swept_meanwhile {
            under_way.temporary = Some(temporary.to_path_buf());
            return Ok((file, Some(temporary)));
        }
    }
}

fn temporary_names(private: bool) -> tempfile::Builder<'static, 'static> {
    let mut names = if private { tempfile::Builder::new() } else { platform::temporary_files() };
    names.prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX).rand_bytes(TEMPORARY_RANDOM);
    names
}

/// What a signal has to know before it may end the program. Whoever holds the lock is not interrupted.
static UNDER_WAY: Mutex<UnderWay> = Mutex::new(UnderWay { temporary: None, stored: false });

struct UnderWay {
    /// The temporary name that must be gone first.
    temporary: Option<PathBuf>,
    stored: bool,
}

fn under_way() -> MutexGuard<'static, UnderWay> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as this lives [`discard`] waits, so that no signal ends the program half-way.
#[must_use]
pub struct Uninterrupted(MutexGuard<'static, UnderWay>);

/// From now on nothing interrupts.
pub fn uninterrupted() -> Uninterrupted {
    Uninterrupted(under_way())
}

impl Uninterrupted {
    /// The file is stored, and the server knows: an interrupt comes too late.
    pub fn stored(mut self) {
        self.0.stored = true;
    }
}

/// Removes the temporary name before a signal ends the program; nothing is created or published from then on. True if
/// the file is stored already.
#[must_use]
pub fn discard() -> bool {
    let mut under_way = under_way();
    if under_way.stored {
        return true;
    }
    if let Some(path) = under_way.temporary.take() {
        let _ = fs::remove_file(path);
    }
    mem::forget(under_way);
    false
}
