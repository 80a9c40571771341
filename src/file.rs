//! The file that is sent, and the file that is received: all of it or none.

pub(crate) mod destination;
pub(crate) mod source;

mod atomic;
mod attributes;
mod background_sync;
mod fingerprint;
mod unnamed;
mod watch;
