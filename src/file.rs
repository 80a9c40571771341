//! The file that is sent, and the file that is received: all of it or none.

pub(crate) mod destination;
pub(crate) mod snapshot;
pub(crate) mod source;

#[cfg(unix)]
mod access_list;
mod atomic;
mod attributes;
mod background_sync;
mod inode_flags;
mod place;
mod room;
mod unnamed;
