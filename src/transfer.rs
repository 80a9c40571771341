//! Bytes between file and connection: from the file in chunks, into the file by splice or through a buffer.

pub(crate) mod receive;
pub(crate) mod send;
mod splice;
