//! What keeps even root from replacing a file: attributes of the file or of its directory (chattr(1)), and mounts.

#[cfg_attr(target_os = "linux", path = "inode_flags/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "inode_flags/other.rs")]
mod imp;

pub(crate) use imp::InodeFlags;
#[cfg(unix)]
pub(crate) use imp::may_override_owners;
