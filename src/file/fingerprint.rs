//! What tells whether a file was written to: its size and its times; and what explains that they moved without a write.

use std::fs::{File, Metadata};
use std::io;
use std::time::SystemTime;

/// A file at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Bytes in the file.
    pub(crate) size: u64,
    /// The time of the last write, which can be set to any other (inode(7)).
    modified: Option<SystemTime>,
    /// The time of the last change of any kind, which cannot be set.
    changed: (i64, i64),
    names: Names,
}

/// What else moves the time of the last change: the number of names, the rights, the owners, and where the file is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Names {
    links: u64,
    mode: u32,
    owners: (u32, u32),
    path: u64,
}

/// What happened to a file since a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// Nothing.
    Nothing,
    /// Its names, rights or owners changed, which leaves its bytes alone.
    Renamed,
    /// Something that may be a write whose times were set back.
    Unknown,
    /// A write.
    Written,
}

impl Fingerprint {
    /// `None` if the file is not a regular one: nothing tells of writes to a device or a pipe.
    ///
    /// # Errors
    /// Returns an error if the file cannot be examined.
    pub(crate) fn of(file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        Ok(metadata.is_file().then(|| Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            changed: change_time(&metadata),
            names: Names::of(file, &metadata),
        }))
    }

    /// What happened between that fingerprint and this one.
    pub(crate) fn since(&self, before: &Self) -> Since {
        if (self.size, self.modified) != (before.size, before.modified) {
            Since::Written
        } else if self.changed == before.changed {
            Since::Nothing
        } else if self.names != before.names {
            Since::Renamed
        } else {
            Since::Unknown
        }
    }
}

impl Names {
    #[cfg(unix)]
    fn of(file: &File, metadata: &Metadata) -> Self {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        use std::os::fd::AsRawFd as _;
        use std::os::unix::fs::MetadataExt as _;
        let mut path = DefaultHasher::new();
        // Where the open file is now (proc(5)); elsewhere there is no such link, and a rename stays unexplained.
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok().hash(&mut path);
        let owners = (metadata.uid(), metadata.gid());
        Self { links: metadata.nlink(), mode: metadata.mode(), owners, path: path.finish() }
    }

    #[cfg(not(unix))]
    fn of(_: &File, _: &Metadata) -> Self {
        Self::default()
    }
}

#[cfg(unix)]
fn change_time(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn change_time(_: &Metadata) -> (i64, i64) {
    (0, 0)
}
