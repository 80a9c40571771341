//! statx(2) reports them; what the file system does not support counts as unset.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::thread::{CapabilitySet, capabilities};

/// The attributes of one file or directory.
pub(crate) struct InodeFlags(StatxAttributes);

impl InodeFlags {
    /// Those of what the path leads to.
    pub(crate) fn of(path: &Path) -> Self {
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty());
        Self(found.map_or(StatxAttributes::empty(), |found| found.stx_attributes & found.stx_attributes_mask))
    }

    /// Nothing about it may change.
    pub(crate) fn is_immutable(&self) -> bool {
        self.0.contains(StatxAttributes::IMMUTABLE)
    }

    /// It may only grow: a directory gets new names and loses none.
    pub(crate) fn is_append_only(&self) -> bool {
        self.0.contains(StatxAttributes::APPEND)
    }

    /// Something is mounted there.
    pub(crate) fn is_mount_point(&self) -> bool {
        self.0.contains(StatxAttributes::MOUNT_ROOT)
    }
}

/// Whether this process may treat the files of others as its own (capabilities(7)).
pub(crate) fn may_override_owners() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::FOWNER))
}
