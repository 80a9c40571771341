//! Other systems have none.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) fn create_in(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

pub(crate) fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
