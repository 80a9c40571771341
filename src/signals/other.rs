//! Systems without Unix signals.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) fn on_exit(_: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Ok(())
}

pub(crate) fn survive_size_limit() -> io::Result<()> {
    Ok(())
}

pub(crate) fn on_continue(_: Arc<AtomicBool>) -> io::Result<()> {
    Ok(())
}
