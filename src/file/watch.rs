//! Hears of what other processes do to a file while it is open, where the system tells.

#[cfg_attr(target_os = "linux", path = "watch/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "watch/other.rs")]
mod imp;

pub(crate) use imp::Watch;

/// What happened to a file since it is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    /// Events that came from writes, or from changes of the size.
    pub(crate) writes: u64,
    /// Renames.
    pub(crate) moves: u64,
    /// Events that came from changes of its links, rights, owners, times or extended attributes.
    pub(crate) others: u64,
}
