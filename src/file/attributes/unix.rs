//! Modes, owners and the sticky bit.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::file::access_list::{self, AccessList};
use crate::file::inode_flags::may_override_owners;

/// Read, write and execute for owner, group and others (inode(7)).
const RIGHTS: u32 = 0o777;
const OWNER_RIGHTS: u32 = 0o700;
const GROUP_RIGHTS: u32 = 0o070;
/// Those, and set-user-ID and its like.
const ALL_MODE_BITS: u32 = 0o7777;

/// Checks that this process may write to the file (access(2)).
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    Ok(accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?)
}

/// Checks that this process may put another file in the place of this one: in a sticky directory only their owners and
/// root may (unlink(2)).
pub(crate) fn check_replaceable(file: &Metadata, directory: &Metadata) -> io::Result<()> {
    const STICKY: u32 = 0o1000;
    let is_owner = [file.uid(), directory.uid()].contains(&geteuid().as_raw());
    if directory.mode() & STICKY == 0 || is_owner || may_override_owners() { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// Opens a regular file of this user in a way that can be locked; `None` if it is none or cannot be opened. Never waits,
/// as for the other end of a FIFO (open(2)).
pub(crate) fn open_own_file(path: &Path) -> Option<File> {
    let own = |file: &Metadata| file.is_file() && file.uid() == geteuid().as_raw();
    // Opening alone can act on what is no file, such as a tape.
    path.symlink_metadata().ok().filter(own)?;
    let open =
        |mode| rustix::fs::open(path, mode | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    // NFS locks only what is open for writing; a read-only file cannot be.
    let file = File::from(open(OFlags::WRONLY).or_else(|_| open(OFlags::RDONLY)).ok()?);
    file.metadata().is_ok_and(|opened| own(&opened)).then_some(file)
}

/// Gives the new file the rights of the old one at the path, less set-user-ID and its like, and as far as this process
/// may its owner and its group. No one gets more rights than before; where they cannot be the same they are fewer. Nothing
/// is called for what is right already, because some file systems refuse every change.
pub(crate) fn copy_attributes(path: &Path, old: &Metadata, new: &File) -> io::Result<()> {
    let fresh = new.metadata()?;
    if (fresh.uid(), fresh.gid()) != (old.uid(), old.gid()) {
        // Only the owner may set the mode, or a process that may do so for others.
        let owner = may_override_owners().then_some(old.uid());
        let group = Some(old.gid());
        let _ = fchown(new, owner, group).or_else(|_| fchown(new, None, group));
    }
    let has_group = new.metadata()?.gid() == old.gid();
    let mut mode = old.mode() & RIGHTS;
    if let Some(list) = AccessList::of(path)? {
        let list = if has_group { list } else { list.for_another_group() };
        if list.give_to(new).is_ok() {
            return Ok(());
        }
        mode &= list.narrower_mode();
    } else if !has_group {
        mode = mode_for_another_group(mode);
    }
    // Beside a list that stays, the group's part of the mode would be its mask.
    if access_list::remove(new).is_err() {
        mode &= !GROUP_RIGHTS;
    }
    set_mode(new, mode)
}

/// The members of the new group had the rights of others, and those of the former group are others now.
fn mode_for_another_group(mode: u32) -> u32 {
    let shared = mode >> 3 & mode & 0o007;
    mode & !GROUP_RIGHTS & !0o007 | shared << 3 | shared
}

/// A file system that refuses is left alone if no one but the owner has more rights than the mode would give.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let actual = file.metadata()?.mode() & ALL_MODE_BITS;
    if actual == mode {
        return Ok(());
    }
    let changed = file.set_permissions(Permissions::from_mode(mode));
    let gives_others_more = actual & !mode & !OWNER_RIGHTS != 0;
    if gives_others_more { changed } else { Ok(()) }
}

/// Temporary files with the rights of any other new file: what the umask allows.
pub(crate) fn temporary_files() -> tempfile::Builder<'static, 'static> {
    let mut files = tempfile::Builder::new();
    files.permissions(Permissions::from_mode(0o666));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_group_gets_no_more_than_others_had_nor_others_more_than_the_group() {
        for (before, after) in [(0o660, 0o600), (0o664, 0o644), (0o604, 0o600), (0o751, 0o711), (0o777, 0o777)] {
            assert_eq!(mode_for_another_group(before), after, "{before:o}");
        }
    }
}
