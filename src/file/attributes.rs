//! What a new file takes over from the one that it replaces: owner, group, mode and access list. One policy: nobody gets
//! more rights than the old file gave, and where the same rights cannot be given, they are fewer.

use std::fs::File;
use std::io;

use super::directory::Entry;

/// The file that will be replaced, from the start on.
pub(crate) struct OldFile {
    descriptor: Option<File>,
    attributes: imp::Attributes,
}

impl OldFile {
    pub(crate) fn new(entry: Entry) -> Self {
        let attributes = imp::Attributes::of(&entry.metadata, entry.descriptor.as_ref());
        Self { descriptor: entry.descriptor, attributes }
    }

    /// Gives its attributes to the new file. What somebody takes away from the old file meanwhile is not given.
    ///
    /// # Errors
    /// Returns an error if somebody would have more rights.
    pub(crate) fn give_attributes_to(&mut self, new: &File) -> io::Result<()> {
        if let Some(old) = &self.descriptor
            && let Ok(metadata) = old.metadata()
        {
            self.attributes.update(imp::Attributes::of(&metadata, Some(old)));
        }
        self.attributes.give_to(new)
    }
}

#[cfg(unix)]
mod imp {
    use std::fs::{File, Metadata, Permissions};
    use std::io;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};

    use super::{access_list, may_override_owners};

    /// Read, write and execute for owner, group and others (inode(7)).
    const RIGHTS: u32 = 0o777;
    const OWNER_RIGHTS: u32 = 0o700;
    const GROUP_RIGHTS: u32 = 0o070;
    const OTHERS_RIGHTS: u32 = 0o007;
    /// Those, set-user-ID, set-group-ID and the sticky bit.
    const ALL_MODE_BITS: u32 = 0o7777;

    pub(super) struct Attributes {
        owner: u32,
        group: u32,
        mode: u32,
        /// The access list (acl(5)), empty if the file has none; `None` if that cannot be known.
        list: Option<Vec<u8>>,
    }

    impl Attributes {
        pub(super) fn of(file: &Metadata, descriptor: Option<&File>) -> Self {
            let list = descriptor.and_then(|file| access_list::of(file).ok());
            Self { owner: file.uid(), group: file.gid(), mode: file.mode() & RIGHTS, list }
        }

        pub(super) fn update(&mut self, mut now: Self) {
            now.list = now.list.or_else(|| self.list.take());
            *self = now;
        }

        /// Nothing is called for what is right already, because some file systems refuse every change.
        pub(super) fn give_to(&self, new: &File) -> io::Result<()> {
            let fresh = new.metadata()?;
            if (fresh.uid(), fresh.gid()) != (self.owner, self.group) {
                // Only the owner may set the mode, or a process that may do so for others.
                let owner = may_override_owners().then_some(self.owner);
                let group = Some(self.group);
                let _ = fchown(new, owner, group).or_else(|_| fchown(new, None, group));
            }
            let keeps_group = new.metadata()?.gid() == self.group;
            let mut mode = match &self.list {
                Some(list) if list.is_empty() && keeps_group => self.mode,
                Some(list) if list.is_empty() => mode_for_another_group(self.mode),
                Some(list) if keeps_group && access_list::give(list, new).is_ok() => return Ok(()),
                _ => self.mode & OWNER_RIGHTS,
            };
            // The file may have a list from its directory. If that stays, the group's part of the mode is its mask.
            if access_list::remove(new).is_err() {
                mode &= !GROUP_RIGHTS;
            }
            set_mode(new, mode)
        }
    }

    pub(crate) fn owner(file: &Metadata) -> u32 {
        file.uid()
    }

    /// The members of the new group had the rights of others, and those of the former group are others now.
    fn mode_for_another_group(mode: u32) -> u32 {
        let shared = mode >> 3 & mode & OTHERS_RIGHTS;
        mode & OWNER_RIGHTS | shared << 3 | shared
    }

    /// A file system that refuses is left alone if only the owner has more rights than the mode would give.
    fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        let actual = file.metadata()?.mode() & ALL_MODE_BITS;
        if actual == mode {
            return Ok(());
        }
        let changed = file.set_permissions(Permissions::from_mode(mode));
        let gives_others_more = actual & !mode & !OWNER_RIGHTS != 0;
        if gives_others_more { changed } else { Ok(()) }
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
}

/// Systems without modes and owners.
#[cfg(not(unix))]
mod imp {
    use std::fs::{File, Metadata};
    use std::io;

    pub(super) struct Attributes;

    impl Attributes {
        pub(super) fn of(_: &Metadata, _: Option<&File>) -> Self {
            Self
        }

        pub(super) fn update(&mut self, _: Self) {}

        pub(super) fn give_to(&self, _: &File) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn owner(_: &Metadata) -> u32 {
        0
    }
}

pub(crate) use imp::owner;

/// Linux keeps the list in an extended attribute (xattr(7)).
#[cfg(target_os = "linux")]
mod access_list {
    use std::fs::File;
    use std::io;

    use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
    use rustix::io::Errno;

    const NAME: &str = "system.posix_acl_access";

    /// The largest value of an extended attribute (xattr(7)).
    const MAX_SIZE: usize = 64 * 1024;

    pub(super) fn of(file: &File) -> io::Result<Vec<u8>> {
        let mut list = vec![0; MAX_SIZE];
        let size = match fgetxattr(file, NAME, &mut list) {
            // No list; a file system without lists; a kernel without them.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => 0,
            found => found?,
        };
        list.truncate(size);
        Ok(list)
    }

    /// The mode that the list stands for is set in the same step.
    pub(super) fn give(list: &[u8], file: &File) -> io::Result<()> {
        if of(file).is_ok_and(|has| has == list) {
            Ok(())
        } else {
            Ok(fsetxattr(file, NAME, list, XattrFlags::empty())?)
        }
    }

    /// The mode stays.
    pub(super) fn remove(file: &File) -> io::Result<()> {
        match fremovexattr(file, NAME) {
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

/// Other systems keep access lists elsewhere; they stay with the file that is replaced.
#[cfg(all(unix, not(target_os = "linux")))]
mod access_list {
    use std::fs::File;
    use std::io;

    pub(super) fn of(_: &File) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    pub(super) fn give(_: &[u8], _: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn remove(_: &File) -> io::Result<()> {
        Ok(())
    }
}

/// Whether this process may treat the files of others as its own (capabilities(7)).
#[cfg(target_os = "linux")]
pub(crate) fn may_override_owners() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::FOWNER))
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn may_override_owners() -> bool {
    rustix::process::geteuid().is_root()
}
