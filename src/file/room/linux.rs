//! fallocate(2) reserves the room, which makes writing no slower and on tmpfs, ext4 and xfs faster. On btrfs it would
//! switch compression off: there, and where it is not supported, statvfs(3) tells what is free.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate, fstatfs, fstatvfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Resource, geteuid, getrlimit};

const BTRFS: i128 = 0x9123_683e;

/// Reserves room for so many bytes in the empty file, or at least sees whether there is as much.
///
/// # Errors
/// Returns an error if they cannot fit; what cannot be known is none.
pub(crate) fn reserve(file: &File, size: u64) -> io::Result<()> {
    // fallocate(2) does not see this limit.
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < size) {
        return Err(Errno::FBIG.into());
    }
    let is_btrfs = fstatfs(file).is_ok_and(|found| i128::from(found.f_type) & i128::from(u32::MAX) == BTRFS);
    if size == 0 || is_btrfs {
        return compare_with_free(file, size);
    }
    match retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)) {
        Ok(()) => Ok(()),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
        Err(_) => compare_with_free(file, size),
    }
}

/// Compares with the free blocks. A file system that says that it has no blocks at all does not count them.
fn compare_with_free(file: &File, size: u64) -> io::Result<()> {
    let Ok(found) = fstatvfs(file) else { return Ok(()) };
    let free = if geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    let in_bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    let has_room = in_bytes(found.f_blocks) == 0 || in_bytes(free) >= size;
    if has_room { Ok(()) } else { Err(Errno::NOSPC.into()) }
}
