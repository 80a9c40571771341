//! What a new file takes over from the one that it replaces: owner, group, mode and access list. One policy: no user gets
//! more rights than the old file gave, and where the same rights cannot be given, they are fewer.

use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

use rustix::fs::{Stat, XattrFlags, fgetxattr, fremovexattr, fsetxattr, getxattr};
use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

use super::directory::{Directory, Entry, path_of};

/// Read, write and execute for owner, group and others (inode(7)).
const RIGHTS: u32 = 0o777;
const OWNER_RIGHTS: u32 = 0o700;
const GROUP_RIGHTS: u32 = 0o070;
const OTHERS_RIGHTS: u32 = 0o007;
/// The rights above, set-user-ID, set-group-ID and the sticky bit.
const ALL_MODE_BITS: u32 = 0o7777;

/// Where Linux keeps an access list (acl(5)).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// The largest value of an extended attribute (xattr(7)).
const MAX_LIST: usize = 64 * 1024;

/// The file that will be replaced, open from the start.
pub(crate) struct OldFile {
    descriptor: File,
    metadata: Metadata,
    /// The access list, empty if the file has none; `None` if that cannot be known.
    list: Option<Vec<u8>>,
}

impl OldFile {
    pub(crate) fn new(Entry { metadata, descriptor }: Entry) -> Self {
        let list = list_of(&descriptor).ok();
        Self { descriptor, metadata, list }
    }

    pub(crate) fn owner(&self) -> u32 {
        self.metadata.uid()
    }

    /// Whether it is the file that was found.
    pub(crate) fn is(&self, found: &Stat) -> bool {
        (self.metadata.dev(), self.metadata.ino()) == (found.st_dev, found.st_ino)
    }

    /// Gives its attributes to the new file, except those that were taken away from the old one meanwhile. An attribute
    /// that is already right is not set, because some file systems refuse every change.
    ///
    /// # Errors
    /// Returns an error if another user would have more rights than before.
    pub(crate) fn give_attributes_to(&mut self, new: &File) -> io::Result<()> {
        // If they cannot be read again, those from the start are used.
        self.metadata = self.descriptor.metadata().unwrap_or_else(|_| self.metadata.clone());
        self.list = list_of(&self.descriptor).ok().or_else(|| self.list.take());

        let (owner, group) = (self.metadata.uid(), self.metadata.gid());
        let fresh = new.metadata()?;
        if (fresh.uid(), fresh.gid()) != (owner, group) {
            // Only the owner may set the mode, or a process that may do so for others.
            let owner = may_override_owners().then_some(owner);
            let _ = fchown(new, owner, Some(group)).or_else(|_| fchown(new, None, Some(group)));
        }
        let keeps_group = new.metadata()?.gid() == group;
        let mut mode = self.metadata.mode() & RIGHTS;
        match &self.list {
            Some(list) if list.is_empty() && keeps_group => {}
            Some(list) if list.is_empty() => mode = mode_for_another_group(mode),
            Some(list) if keeps_group && give_list(list, new).is_ok() => return Ok(()),
            _ => mode &= OWNER_RIGHTS,
        }
        // The file may have a list from its directory. If that stays, the group's part of the mode is its mask.
        if remove_list(new).is_err() {
            mode &= !GROUP_RIGHTS;
        }
        set_mode(new, mode)
    }
}

/// Takes away from the new file the rights that the file that has its name by now does not give. Where they cannot be
/// compared, only the owner keeps rights.
///
/// # Errors
/// Returns an error if another user would have more rights than that file gives.
pub(crate) fn narrow(new: &File, directory: &Directory, name: &OsStr) -> io::Result<()> {
    let Some(Entry { metadata, descriptor }) = directory.find(name)? else { return Ok(()) };
    let (fresh, user) = (new.metadata()?, geteuid().as_raw());
    if ![metadata.uid(), user].contains(&fresh.uid()) {
        // A process that may not do this has not given the file away either.
        let _ = fchown(new, Some(user), None);
    }
    let is_same_group = fresh.gid() == metadata.gid();
    let rights = match (list_of(&descriptor), list_of(new)) {
        (Ok(theirs), Ok(ours)) if theirs == ours && is_same_group => metadata.mode(),
        (Ok(theirs), Ok(ours)) if theirs.is_empty() && ours.is_empty() => mode_for_another_group(metadata.mode()),
        _ => 0,
    };
    set_mode(new, fresh.mode() & (rights & RIGHTS | OWNER_RIGHTS))
}

/// The members of the new group had the rights of others, and those of the former group are others now.
fn mode_for_another_group(mode: u32) -> u32 {
    let shared = mode >> 3 & mode & OTHERS_RIGHTS;
    mode & OWNER_RIGHTS | shared << 3 | shared
}

/// A refusal by the file system is accepted if only the owner has more rights than the mode would give.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let actual = file.metadata()?.mode() & ALL_MODE_BITS;
    if actual == mode {
        return Ok(());
    }
    let changed = file.set_permissions(Permissions::from_mode(mode));
    let gives_others_more = actual & !mode & !OWNER_RIGHTS != 0;
    if gives_others_more { changed } else { Ok(()) }
}

fn list_of(file: &File) -> io::Result<Vec<u8>> {
    let mut list = vec![0; MAX_LIST];
    let found = match fgetxattr(file, ACCESS_LIST, &mut list) {
        // It is not open for reading (open(2), `O_PATH`).
        Err(Errno::BADF) => getxattr(path_of(file), ACCESS_LIST, &mut list),
        found => found,
    };
    let size = match found {
        // No list; a file system without lists; a kernel without them.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => 0,
        found => found?,
    };
    list.truncate(size);
    Ok(list)
}

/// The mode that the list stands for is set in the same step.
fn give_list(list: &[u8], file: &File) -> io::Result<()> {
    let has_it = list_of(file).is_ok_and(|found| found == list);
    if has_it { Ok(()) } else { Ok(fsetxattr(file, ACCESS_LIST, list, XattrFlags::empty())?) }
}

/// The mode stays.
fn remove_list(file: &File) -> io::Result<()> {
    match fremovexattr(file, ACCESS_LIST) {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Whether this process may treat the files of others as its own (capabilities(7)).
pub(crate) fn may_override_owners() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::FOWNER))
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
