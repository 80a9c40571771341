//! Room for a file whose size is known in advance.

#[cfg_attr(target_os = "linux", path = "room/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "room/other.rs")]
mod imp;

pub(crate) use imp::{check_capacity, reserve};
