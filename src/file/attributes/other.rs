//! Systems without modes and owners.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    if path.metadata()?.permissions().readonly() { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

pub(crate) fn check_replaceable(_: &Metadata, _: &Metadata) -> io::Result<()> {
    Ok(())
}

pub(crate) fn copy_attributes(_: &Path, _: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}

pub(crate) fn temporary_files() -> tempfile::Builder<'static, 'static> {
    tempfile::Builder::new()
}

pub(crate) fn open_own_file(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).open(path).ok()
}
