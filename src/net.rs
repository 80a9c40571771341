//! TCP: listening, dialling, and a connection that resets unless it was finished.

pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod listen;
mod socket;
mod stall;
pub(crate) mod tls;
pub(crate) mod wait;
