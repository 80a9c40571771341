//! Checks before connecting, so that a destination that would fail does not use up a waiting server: names, rights,
//! attributes and mounts that would make the last step fail after the whole transfer, and a size that does not fit.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Result, bail};
use rustix::fs::{Access, AtFlags, FallocateFlags, StatxAttributes, StatxFlags};
use rustix::fs::{accessat, fallocate, fstatfs, fstatvfs, statx};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, geteuid, getrlimit};

use super::attributes::may_override_owners;
use super::directory::Directory;
use crate::text;

const STICKY: u32 = 0o1000;
const WRITABLE_BY_ALL: u32 = 0o002;

/// tmpfs and btrfs (statfs(2)): reserving room takes time on the first and prevents compression on the second, and both
/// report free space correctly.
const NOT_RESERVED: [i128; 2] = [0x0102_1994, 0x9123_683e];

/// Checks that the path ends in a name that a file can have, and not in a separator, `.` or `..`.
pub(crate) fn check_names_a_file(path: &Path) -> Result<()> {
    let whole = path.as_os_str().as_encoded_bytes();
    if path.file_name().is_some_and(|name| whole.ends_with(name.as_encoded_bytes())) {
        return Ok(());
    }
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("directory does not exist"),
        found => found?,
    };
    bail!("is a directory")
}

/// Opens the directory that the last name of the path is in.
pub(crate) fn open_directory(path: &Path) -> Result<Directory> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match Directory::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("directory {} does not exist", text::name(parent))
        }
        opened => Ok(opened?),
    }
}

/// Checks that no other user has planted it for this program: a link, a FIFO or a file of another user in a directory
/// like `/tmp`. The kernel has the same rule for links, and for FIFOs and files that are opened with `O_CREAT`
/// (`proc_sys_fs(5)`: `protected_symlinks`, `protected_fifos`, `protected_regular`).
pub(crate) fn check_not_planted(found: &Metadata, directory: &Directory) -> io::Result<()> {
    let directory = directory.metadata()?;
    let is_shared = directory.mode() & STICKY != 0 && directory.mode() & WRITABLE_BY_ALL != 0;
    let is_trusted = [directory.uid(), geteuid().as_raw()].contains(&found.uid());
    if is_trusted || !is_shared { Ok(()) } else { Err(Errno::ACCESS.into()) }
}

/// Checks that the directory takes a new file, in place of an old one if it `replaces`.
pub(crate) fn check_directory(directory: &Directory, replaces: bool) -> Result<()> {
    let name = text::name(directory.path());
    let metadata = directory.metadata()?;
    if metadata.nlink() == 0 {
        let deleted = if name == "." { "the current directory".to_owned() } else { format!("directory {name}") };
        bail!("{deleted} was deleted");
    }
    let attributes = attributes_of(directory, OsStr::new("."));
    if attributes.contains(StatxAttributes::IMMUTABLE) {
        bail!("directory {name} is immutable (see chattr(1))");
    }
    if attributes.contains(StatxAttributes::APPEND) && replaces {
        bail!("directory {name} is append-only (see chattr(1)): nothing in it can be replaced");
    }
    // A new regular file in `/dev` would take the place of a missing device.
    let file_system = |path: &str| Path::new(path).metadata().ok().map(|found| found.dev());
    let is_among_devices = file_system("/dev") == Some(metadata.dev()) && file_system("/") != Some(metadata.dev());
    if is_among_devices && !replaces {
        return Err(io::Error::from(Errno::NODEV).into());
    }
    Ok(())
}

/// Whether names can be added to the directory but not removed, so that none can be temporary.
pub(crate) fn keeps_names(directory: &Directory) -> bool {
    attributes_of(directory, OsStr::new(".")).contains(StatxAttributes::APPEND)
}

/// Checks that the regular file may be written to, and that another one may take its place.
pub(crate) fn check_replaceable(directory: &Directory, name: &OsStr, file: &Metadata) -> Result<()> {
    let attributes = attributes_of(directory, name);
    if attributes.contains(StatxAttributes::IMMUTABLE) {
        bail!("it is immutable (see chattr(1))");
    }
    if attributes.contains(StatxAttributes::APPEND) {
        bail!("it is append-only (see chattr(1)) and cannot be replaced");
    }
    if attributes.contains(StatxAttributes::MOUNT_ROOT) {
        bail!("it is a mount point and cannot be replaced; to write into it, use '--output -' and redirect it there");
    }
    // Any other error, such as that of an old sandbox, proves nothing (access(2)).
    if let Err(error @ (Errno::ACCESS | Errno::ROFS)) = accessat(directory, name, Access::WRITE_OK, AtFlags::EACCESS) {
        return Err(io::Error::from(error).into());
    }
    // In a sticky directory only certain users may (unlink(2)).
    let directory = directory.metadata()?;
    let is_owner = [file.uid(), directory.uid()].contains(&geteuid().as_raw());
    let may_replace = directory.mode() & STICKY == 0 || is_owner || may_override_owners();
    if may_replace { Ok(()) } else { Err(io::Error::from(Errno::PERM).into()) }
}

/// An attribute that the file system does not support counts as unset (statx(2)).
fn attributes_of(directory: &Directory, name: &OsStr) -> StatxAttributes {
    let found = statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.map_or(StatxAttributes::empty(), |found| found.stx_attributes & found.stx_attributes_mask)
}

/// Reserves room for that many bytes in the file. Succeeds where nothing can be reserved, although there may be no
/// room.
///
/// # Errors
/// Returns an error if there is no room.
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    let occupied = file.metadata()?.blocks() * 512;
    // fallocate(2) checks neither this limit nor the largest possible size.
    let limit = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX).min(i64::MAX as u64);
    if limit < size {
        return Err(Errno::FBIG.into());
    }
    let magic = fstatfs(file).map(|found| i128::from(found.f_type) & i128::from(u32::MAX));
    if magic.is_ok_and(|magic| NOT_RESERVED.contains(&magic)) {
        let Ok(found) = fstatvfs(file) else { return Ok(()) };
        // A tmpfs without a limit reports no blocks.
        let has_room = found.f_blocks == 0 || found.f_bavail.saturating_mul(found.f_frsize) + occupied >= size;
        return if has_room { Ok(()) } else { Err(Errno::NOSPC.into()) };
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Checks that this many bytes fit onto a block device, before the first one overwrites it.
///
/// # Errors
/// Returns an error if they do not.
pub(crate) fn check_capacity(mut device: &File, size: u64) -> io::Result<()> {
    if !device.metadata()?.file_type().is_block_device() {
        return Ok(());
    }
    let capacity = device.seek(SeekFrom::End(0))?;
    device.rewind()?;
    if size > capacity { Err(Errno::NOSPC.into()) } else { Ok(()) }
}
