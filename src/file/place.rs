//! What the path of a destination stands for: a name in a directory, an open descriptor, or a value that the kernel
//! shows as a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

#[cfg_attr(target_os = "linux", path = "place/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "place/other.rs")]
mod imp;

/// How many symbolic links are followed in a row, as by the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Where the bytes go.
pub(crate) enum Place {
    /// Standard output of this process.
    StandardOutput,
    /// Another descriptor that is open already.
    Descriptor(File),
    /// A file of `/proc`, `/sys` or their like, or a name that may come to be one.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "other systems show none"))]
    Kernel(PathBuf),
    /// A name in a directory. It is no symbolic link.
    Name(PathBuf),
}

impl Place {
    /// Follows the symbolic links at the end of the path, whether or not there is a file behind them. The links in
    /// `/proc/self/fd` and their like are not followed: what they show is no path (`proc_pid_fd(5)`).
    ///
    /// # Errors
    /// Returns an error if there are too many links, or if the descriptor is not open for writing.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        // `/dev/stdout` is known without `/proc`, too.
        if ["-", "/dev/stdout"].iter().any(|name| path.as_os_str() == *name) {
            return Ok(Self::StandardOutput);
        }
        let mut path = path.to_owned();
        for _ in 0..=MAX_LINKS {
            if let Some(place) = imp::special_place(&path)? {
                return Ok(place);
            }
            match fs::read_link(&path) {
                Ok(next) => path = directory_of(&path).join(next),
                Err(_) => return Ok(Self::Name(path)),
            }
        }
        bail!("too many levels of symbolic links")
    }
}

/// Standard output as a file without a buffer.
///
/// # Errors
/// Returns an error if it is not open for writing.
pub(crate) fn standard_output() -> io::Result<File> {
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

/// The directory that the last name of the path is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}
