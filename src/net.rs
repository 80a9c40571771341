//! TCP: listening, connecting, and a connection that resets unless it was finished.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod listener;
mod socket;
mod stall;
pub(crate) mod tls;
pub(crate) mod unacked;
