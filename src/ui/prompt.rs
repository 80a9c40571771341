//! Asking for a secret on the terminal, which does not show what is typed.

#[cfg_attr(unix, path = "prompt/unix.rs")]
#[cfg_attr(not(unix), path = "prompt/other.rs")]
mod imp;

pub(crate) use imp::secret;
