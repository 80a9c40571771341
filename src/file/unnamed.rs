//! A file without a name, of which nothing is left however the program ends, until it is given its name in one step.

#[cfg_attr(target_os = "linux", path = "unnamed/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "unnamed/other.rs")]
mod imp;

pub(crate) use imp::{create_in, link};
