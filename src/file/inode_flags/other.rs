//! Other systems report it when the file is replaced.

use std::path::Path;

pub(crate) struct InodeFlags;

impl InodeFlags {
    pub(crate) fn of(_: &Path) -> Self {
        Self
    }

    pub(crate) fn is_immutable(&self) -> bool {
        false
    }

    pub(crate) fn is_append_only(&self) -> bool {
        false
    }

    pub(crate) fn is_mount_point(&self) -> bool {
        false
    }
}

#[cfg(unix)]
pub(crate) fn may_override_owners() -> bool {
    rustix::process::geteuid().is_root()
}
