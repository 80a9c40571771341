//! Permissions and owners: checks before connecting, and what a new file takes over from the one that it replaces.

#[cfg_attr(unix, path = "attributes/unix.rs")]
#[cfg_attr(not(unix), path = "attributes/other.rs")]
mod imp;

pub(crate) use imp::{check_replaceable, check_writable, copy_attributes, open_own_file, temporary_files};
