//! Modes, owners and the sticky bit.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

/// Checks that this process may write to the file (access(2)).
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    Ok(accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?)
}

/// Checks that this process may put another file in the place of this one: in a sticky directory only their owners and
/// root may (unlink(2)).
pub(crate) fn check_replaceable(file: &Metadata, directory: &Metadata) -> io::Result<()> {
    const STICKY: u32 = 0o1000;
    let us = rustix::process::geteuid();
    let is_owner = [file.uid(), directory.uid()].contains(&us.as_raw());
    if directory.mode() & STICKY == 0 || is_owner || us.is_root() { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// Gives the new file the permissions of the old one, less set-user-ID and its like, and as far as this process may its
/// owner and its group.
pub(crate) fn copy_attributes(old: &Metadata, new: &File) -> io::Result<()> {
    let fresh = new.metadata()?;
    if (fresh.uid(), fresh.gid()) != (old.uid(), old.gid()) {
        let group = Some(old.gid());
        let _ = fchown(new, Some(old.uid()), group).or_else(|_| fchown(new, None, group));
    }
    let (mode, others) = (old.mode() & 0o777, old.mode() & 0o007);
    let has_group = new.metadata()?.gid() == old.gid();
    // Members of another group had the rights of others.
    let mode = if has_group { mode } else { mode & (0o707 | others << 3) };
    new.set_permissions(Permissions::from_mode(mode))
}

/// Temporary files with the rights of any other new file: what the umask allows.
pub(crate) fn temporary_files() -> tempfile::Builder<'static, 'static> {
    let mut files = tempfile::Builder::new();
    files.permissions(Permissions::from_mode(0o666));
    files
}
