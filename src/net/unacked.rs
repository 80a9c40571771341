//! How many bytes the peer's TCP has not acknowledged yet, where the system can tell.

#[cfg_attr(target_os = "linux", path = "unacked/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "unacked/other.rs")]
mod imp;

pub(crate) use imp::{prepare, unacknowledged_bytes};
