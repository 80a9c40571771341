//! `O_TMPFILE` in open(2), and linkat(2) through `/proc/self/fd`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Creates a file in the directory with the rights that the umask allows; `None` if it cannot be created without a name.
///
/// # Errors
/// Returns an error if no file at all can be created there.
pub(crate) fn create_in(directory: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => {
            let file = File::from(file);
            // Without /proc it could never be given a name.
            Ok(path_of(&file).exists().then_some(file))
        }
        // Errors of a file system without unnamed files, and of a kernel from before them.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives the file a name.
///
/// # Errors
/// Returns an error if the name is taken, or cannot be created.
pub(crate) fn link(file: &File, path: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(CWD, path_of(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
