//! What is sent, and what is received: all of it or none.

pub(crate) mod destination;
pub(crate) mod snapshot;
pub(crate) mod source;

mod attributes;
mod background_sync;
mod directory;
mod preflight;
mod replacement;
