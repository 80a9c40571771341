//! The file that is sent, and the file that is received: all of it or none.

pub(crate) mod destination;
pub(crate) mod source;

mod attributes;
mod background_sync;
mod directory;
mod fingerprint;
mod place;
mod preflight;
mod replacement;
mod watch;
