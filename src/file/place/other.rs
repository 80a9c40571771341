//! Other Unix systems duplicate the descriptor when its name in `/dev/fd` is opened.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::Place;

/// What the path stands for if that is no name in an ordinary directory.
///
/// # Errors
/// Returns an error if it is a descriptor that is not open for writing.
pub(super) fn special_place(path: &Path) -> io::Result<Option<Place>> {
    if path == Path::new("/dev/fd/1") {
        return Ok(Some(Place::StandardOutput));
    }
    if !path.starts_with("/dev/fd") && path != Path::new("/dev/stderr") {
        return Ok(None);
    }
    Ok(Some(Place::Descriptor(OpenOptions::new().write(true).open(path)?)))
}
