//! fallocate(2) reserves the room, which makes writing to ext4 and xfs no slower. On tmpfs it costs time and on btrfs
//! compression: there, and where it is not supported, statvfs(3) reports what is free.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;

use rustix::fs::{FallocateFlags, fallocate, fstatfs, fstatvfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, geteuid, getrlimit};

/// tmpfs and btrfs (statfs(2)).
const NOT_RESERVED: [i128; 2] = [0x0102_1994, 0x9123_683e];

/// Reserves room for so many bytes in the empty file, or at least checks that as much is free.
///
/// # Errors
/// Returns an error if they cannot fit; what cannot be determined is no error.
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    // fallocate(2) does not see this limit.
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < size) {
        return Err(Errno::FBIG.into());
    }
    let magic = fstatfs(file).map(|found| i128::from(found.f_type) & i128::from(u32::MAX));
    if size == 0 || magic.is_ok_and(|magic| NOT_RESERVED.contains(&magic)) {
        return compare_with_free(file, size);
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)) {
        Ok(()) => Ok(()),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
        Err(_) => compare_with_free(file, size),
    }
}

/// Compares with the free blocks. A file system that reports no blocks at all does not count them.
fn compare_with_free(file: &File, size: u64) -> io::Result<()> {
    let Ok(found) = fstatvfs(file) else { return Ok(()) };
    let free = if geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    let in_bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let has_room = in_bytes(found.f_blocks) == 0 || in_bytes(free) >= size;
    if has_room { Ok(()) } else { Err(Errno::NOSPC.into()) }
}

/// Checks that so many bytes fit onto a block device, before the first of them overwrites it.
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
