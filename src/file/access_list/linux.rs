//! Linux keeps the list in an extended attribute (xattr(7)).

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, getxattr};
use rustix::io::Errno;

const NAME: &str = "system.posix_acl_access";

/// The largest value of an extended attribute (xattr(7)).
const MAX_SIZE: usize = 64 * 1024;

pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX_SIZE];
    match getxattr(path, NAME, &mut value) {
        Ok(size) => {
            value.truncate(size);
            Ok(Some(value))
        }
        // No list; a file system without lists; a kernel without them.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn write(file: &File, list: &[u8]) -> io::Result<()> {
    Ok(fsetxattr(file, NAME, list, XattrFlags::empty())?)
}

/// Takes a list away that the file has from its directory (acl(5)); the mode stays.
///
/// # Errors
/// Returns an error if the file may still have one.
pub(crate) fn remove(file: &File) -> io::Result<()> {
    match fremovexattr(file, NAME) {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        removed => Ok(removed?),
    }
}
