//! Linux: a file without a name, of which nothing is left however the program ends, until it is given its name in one
//! step (`O_TMPFILE` in open(2), and linkat(2) through `/proc/self/fd`). Elsewhere there is none, and the caller takes
//! a file with a temporary name.

use std::fs::File;
use std::io;
use std::path::Path;

/// A new file in the folder, readable and writable by whom the umask lets; `None` if it can't be without a name.
#[cfg(target_os = "linux")]
pub(crate) fn create_in(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => {
            let file = File::from(file);
            // Without /proc it could never be given a name.
            Ok(path_of(&file).exists().then_some(file))
        }
        // What a file system says that lacks them, and a kernel from before them.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives the file a name; one that is taken is an error.
#[cfg(target_os = "linux")]
pub(crate) fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};
    Ok(rustix::fs::linkat(CWD, path_of(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(target_os = "linux")]
fn path_of(file: &File) -> std::path::PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn create_in(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
