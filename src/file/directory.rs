//! A directory that is opened once, before connecting. Everything later happens in that directory, even if it has been
//! renamed or its path leads elsewhere by then.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, PROC_SUPER_MAGIC, RenameFlags, Stat};
use rustix::fs::{fstatfs, linkat, openat, readlinkat, renameat, renameat_with, statat, syncfs, unlinkat};
use rustix::io::{Errno, retry_on_intr};

/// An object that has a name in a directory.
pub(crate) struct Entry {
    pub(crate) metadata: Metadata,
    /// The file itself, even if another one has its name later.
    pub(crate) descriptor: File,
}

/// An open directory. Names are relative to it.
pub(crate) struct Directory {
    path: PathBuf,
    descriptor: File,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let open = |mode| open_at(CWD, path, mode | OFlags::DIRECTORY, 0);
        let descriptor = match open(OFlags::RDONLY) {
            // Files may be created in it, but it may not be read.
            Err(Errno::ACCESS) => open(OFlags::PATH)?,
            opened => opened?,
        };
        Ok(Self { path: path.to_owned(), descriptor })
    }

    /// The path that it was opened by, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.descriptor.metadata()
    }

    /// The status of the entry with this name, if there is one; a symbolic link is not followed. Nothing is opened, so
    /// a device is not affected, and no free descriptor is needed (fstatat(2)).
    pub(crate) fn status_of(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match statat(self, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    /// The entry with this name, if there is one; a symbolic link is not followed.
    pub(crate) fn find(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        let descriptor = match self.open_file(name, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let metadata = descriptor.metadata()?;
        // For its access list, even without /proc.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let readable = if metadata.is_file() { self.open_file(name, flags).ok() } else { None };
        Ok(Some(Entry { metadata, descriptor: readable.unwrap_or(descriptor) }))
    }

    /// Opens the entry with this name for writing.
    pub(crate) fn open_to_write(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        self.open_file(name, OFlags::WRONLY | OFlags::NOCTTY | flags)
    }

    /// Opens the entry with this name for reading and writing; does not follow a symbolic link or wait for a FIFO.
    pub(crate) fn open_part(&self, name: &OsStr) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    fn open_file(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        Ok(open_at(self.as_fd(), name, flags, 0)?)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// Returns an error if it cannot be read, or if a mount option or a security module forbids following it
    /// (mount(8), `nosymfollow`).
    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        if let Err(error) = self.open_file(name, OFlags::PATH)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let target = readlinkat(self, name, Vec::new())?;
        Ok(self.path.join(OsStr::from_bytes(target.to_bytes())))
    }

    /// Whether the kernel makes its links (proc(5)).
    pub(crate) fn has_kernel_links(&self) -> bool {
        fstatfs(self).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC)
    }

    /// The metadata of what a link made by the kernel leads to.
    ///
    /// # Errors
    /// Returns an error if it is a descriptor that is not open for writing, as its mode shows (`proc_pid_fd(5)`).
    pub(crate) fn behind_link(&self, name: &OsStr, link: &Entry) -> io::Result<Metadata> {
        const WRITABLE: u32 = 0o200;
        if link.metadata.mode() & WRITABLE == 0 {
            return Err(Errno::BADF.into());
        }
        self.path.join(name).metadata()
    }

    /// Creates a regular file with at most these rights.
    pub(crate) fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        Ok(open_at(self.as_fd(), name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, mode)?)
    }

    /// Creates a file without a name (open(2), `O_TMPFILE`), which disappears however the program ends. `None` where
    /// that is not possible.
    pub(crate) fn create_unnamed(&self, mode: u32) -> io::Result<Option<File>> {
        match open_at(self.as_fd(), ".", OFlags::TMPFILE | OFlags::RDWR, mode) {
            // Without /proc it could never be given a name.
            Ok(file) => Ok(path_of(&file).exists().then_some(file)),
            // Errors of file systems without unnamed files, and of kernels that predate them.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a name to a file without one. Nothing is replaced.
    pub(crate) fn link(&self, unnamed: &File, name: &OsStr) -> io::Result<()> {
        Ok(linkat(CWD, path_of(unnamed), self, name, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Renames, and replaces any file that has the new name (rename(2)).
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(self, from, self, to)?)
    }

    /// Renames unless the new name is taken. Where the file system has no call for that, another program can take the name
    /// between the look at it and the renaming.
    pub(crate) fn rename_to_free_name(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match renameat_with(self, from, self, to, RenameFlags::NOREPLACE) {
            // NFS, and FUSE in part.
            Err(Errno::INVAL | Errno::NOSYS) => match linkat(self, from, self, to, AtFlags::empty()) {
                // Folders that a virtual machine shares with its host, and FUSE in part.
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => match self.status_of(to)? {
                    None => self.rename(from, to),
                    Some(_) => Err(Errno::EXIST.into()),
                },
                linked => {
                    linked?;
                    // The file has its new name, even if the old one stays.
                    let _ = self.remove(from);
                    Ok(())
                }
            },
            renamed => Ok(renamed?),
        }
    }

    /// Removes a name of a file (unlink(2)).
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(self, name, AtFlags::empty())?)
    }

    /// Syncs the directory's names to disk, including that of the file (fsync(2)).
    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        match self.descriptor.sync_all() {
            Err(error) if cannot_sync(&error) => Ok(syncfs(file)?),
            synced => synced,
        }
    }

    /// The names in it; none if it may not be read.
    pub(crate) fn names(&self) -> impl Iterator<Item = OsString> {
        let entries = Dir::read_from(self).into_iter().flatten().flatten();
        entries.map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()))
    }
}

fn open_at<P: AsRef<OsStr> + ?Sized>(
    directory: BorrowedFd,
    path: &P,
    flags: OFlags,
    mode: u32,
) -> rustix::io::Result<File> {
    let (flags, mode) = (flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode));
    retry_on_intr(|| openat(directory, path.as_ref(), flags, mode)).map(File::from)
}

/// Whether it may not be read, or is on a file system that does not sync directories.
fn cannot_sync(error: &io::Error) -> bool {
    let errors = [Errno::BADF, Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// The file's path for calls that take no descriptor, where /proc is mounted (`proc_pid_fd(5)`).
pub(super) fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
