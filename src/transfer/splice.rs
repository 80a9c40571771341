//! Moving bytes from a connection to a file inside the kernel, where the system can: splice(2) through a pipe.

use std::io;

pub(crate) use imp::Pipe;

/// Whether the first call's error says that this kernel or this kind of file cannot splice at all; the same error from a
/// later call is a real one.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    // EINVAL; ENOSYS, EOPNOTSUPP; EPERM from a sandbox that does not know the call.
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied)
}

#[cfg(target_os = "linux")]
mod imp {
    use std::fs::File;
    use std::io::{self, PipeReader, PipeWriter};
    use std::net::TcpStream;
    use std::os::fd::AsFd;

    use rustix::pipe::SpliceFlags;

    /// The largest pipe that an unprivileged process may have, unless the system says otherwise (pipe(7)).
    const PIPE_SIZE: usize = 1024 * 1024;

    /// What splice(2) needs between a connection and a file.
    pub(crate) struct Pipe {
        reader: PipeReader,
        writer: PipeWriter,
        capacity: usize,
    }

    impl Pipe {
        pub(crate) fn new() -> io::Result<Self> {
            let (reader, writer) = io::pipe()?;
            let capacity = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_SIZE)
                .or_else(|_| rustix::pipe::fcntl_getpipe_size(&writer))?;
            Ok(Self { reader, writer, capacity })
        }

        /// Moves what has arrived on the connection into the empty pipe, up to its capacity. Returns 0 at EOF.
        pub(crate) fn fill(&self, from: &TcpStream) -> io::Result<usize> {
            splice(from, &self.writer, self.capacity)
        }

        /// Moves up to `count` of the bytes in the pipe to the file's current position.
        pub(crate) fn drain(&self, to: &File, count: usize) -> io::Result<usize> {
            splice(&self.reader, to, count)
        }

        /// Reads bytes back out of the pipe, for a file that cannot take them from there.
        pub(crate) fn reader(&self) -> impl io::Read {
            &self.reader
        }
    }

    fn splice(from: impl AsFd, to: impl AsFd, count: usize) -> io::Result<usize> {
        Ok(rustix::pipe::splice(from, None, to, None, count, SpliceFlags::MOVE | SpliceFlags::MORE)?)
    }
}

/// Other systems have no splice(2).
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::fs::File;
    use std::io;
    use std::net::TcpStream;

    pub(crate) enum Pipe {}

    impl Pipe {
        pub(crate) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn fill(&self, _: &TcpStream) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn drain(&self, _: &File, _: usize) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn reader(&self) -> io::Empty {
            match *self {}
        }
    }
}
