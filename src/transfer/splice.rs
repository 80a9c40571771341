//! Moving bytes from a connection to a file inside the kernel, where the system can.

use std::io;

#[cfg_attr(target_os = "linux", path = "splice/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "splice/other.rs")]
mod imp;

pub(crate) use imp::Pipe;

/// Whether the first call's error says that this kernel or this kind of file cannot splice at all; the same error from a
/// later call is a real one.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    // EINVAL; ENOSYS, EOPNOTSUPP; EPERM from a sandbox that does not know the call.
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied)
}
