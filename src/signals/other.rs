//! Systems without Unix signals.

use std::io;

pub(crate) fn on_exit(_: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Ok(())
}

pub(crate) fn survive_size_limit() -> io::Result<()> {
    Ok(())
}
