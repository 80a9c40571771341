//! What is sent, and what is received: all of it or none.

pub(crate) mod destination;
pub(crate) mod replacement;
pub(crate) mod snapshot;
pub(crate) mod source;

#[cfg(target_os = "linux")]
mod attributes;
mod background_sync;
#[cfg(target_os = "linux")]
mod directory;
#[cfg(target_os = "linux")]
mod partial;
#[cfg(target_os = "linux")]
mod preflight;
