//! Waiting for sockets and for other threads at once.

pub(crate) use imp::Waker;

#[cfg(unix)]
mod imp {
    use std::io::{self, Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use socket2::SockRef;

    /// A thread waits here for sockets, and others can wake it.
    pub(crate) struct Waker {
        here: UnixStream,
        there: UnixStream,
    }

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            let (here, there) = UnixStream::pair()?;
            here.set_nonblocking(true)?;
            there.set_nonblocking(true)?;
            Ok(Self { here, there })
        }

        /// Ends a [`Self::wait`], or the next one.
        pub(crate) fn wake(&self) {
            // If there is no room for this byte, earlier ones wake the thread.
            let _ = (&self.there).write(&[0]);
        }

        /// Waits until one of the sockets has something to read or has failed, at most this long (poll(2)). Returns which;
        /// none of them after a signal or [`Self::wake`].
        pub(crate) fn wait(&self, sockets: &[SockRef], time: Option<Duration>) -> io::Result<Vec<bool>> {
            let watch = |socket| PollFd::from_borrowed_fd(socket, PollFlags::IN);
            let sockets = sockets.iter().map(|socket| watch(std::os::fd::AsFd::as_fd(&**socket)));
            let mut watched: Vec<_> = sockets.chain([PollFd::new(&self.here, PollFlags::IN)]).collect();
            let time = time.and_then(|time| Timespec::try_from(time).ok());
            match poll(&mut watched, time.as_ref()) {
                Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
                polled => polled?,
            };
            let mut ready: Vec<_> = watched.iter().map(|socket| !socket.revents().is_empty()).collect();
            if ready.pop().unwrap_or(false) {
                while (&self.here).read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
            }
            Ok(ready)
        }
    }
}

/// Other systems: after a short pause every socket counts as ready.
#[cfg(not(unix))]
mod imp {
    use std::io;
    use std::thread;
    use std::time::Duration;

    use socket2::SockRef;

    const LOOK_EVERY: Duration = Duration::from_millis(20);

    pub(crate) struct Waker;

    impl Waker {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) fn wake(&self) {}

        pub(crate) fn wait(&self, sockets: &[SockRef], time: Option<Duration>) -> io::Result<Vec<bool>> {
            thread::sleep(time.unwrap_or(LOOK_EVERY).min(LOOK_EVERY));
            Ok(vec![true; sockets.len()])
        }
    }
}
