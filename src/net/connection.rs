//! A connection that ends in RST unless it was finished. With a key it is a TLS session inside the same socket.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::socket::Socket;
use super::tls::{Identity, Session};

/// A connection that ends in RST, which tells the peer that the transfer failed, unless it was finished: then it ends in
/// FIN, which tells the peer that all went well. That holds however the process ends, SIGKILL included.
pub(crate) struct Connection {
    socket: Socket,
    /// With a key, what is between the file's bytes and the socket.
    session: Option<Box<Session>>,
}

/// What the peer has sent before it was expected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Nothing.
    Nothing,
    /// Bytes.
    Bytes,
    /// The end of what it sends.
    End,
}

impl Connection {
    /// Takes over a stream that was connected or accepted. Calls on it fail with [`io::ErrorKind::TimedOut`] after
    /// `timeout` without progress; `None` waits forever.
    ///
    /// # Errors
    /// Returns an error if a socket option is refused.
    pub(crate) fn new(stream: impl Into<Arc<TcpStream>>, timeout: Option<Duration>) -> Result<Self> {
        Ok(Self { socket: Socket::new(stream, timeout)?, session: None })
    }

    /// From now on only a peer with the same key can read what is written, and what is read comes from it.
    ///
    /// # Errors
    /// Returns an error if the other side is not such a peer, or does not prove it within the timeout.
    pub(crate) fn encrypt(&mut self, identity: &Identity) -> io::Result<()> {
        let session = Session::handshake(identity, &self.socket).inspect_err(|error| {
            // A reset could overtake the alert that says so; and a peer that speaks TLS does not take FIN for the end of a
            // file.
            if error.kind() == io::ErrorKind::PermissionDenied {
                let _ = self.socket.finish_on_drop();
            }
        });
        self.session = Some(Box::new(session?));
        Ok(())
    }

    /// Whether both sides first agree on the offset at which the file continues.
    pub(crate) fn can_resume(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.can_resume())
    }

    /// The socket, for calls that are the same with and without a key.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, if the bytes on it are those of the file.
    pub(crate) fn plain_socket(&self) -> Option<&Socket> {
        if self.session.is_none() { Some(&self.socket) } else { None }
    }

    /// What has arrived that was not read yet.
    ///
    /// # Errors
    /// Returns an error if the connection has failed.
    pub(crate) fn unread(&mut self) -> Result<Unread> {
        let unread = match &mut self.session {
            Some(session) => session
                .has_unread_data(&self.socket)
                .map(|has_data| if has_data { Unread::Bytes } else { Unread::Nothing }),
            None => self.socket.unread(),
        };
        unread.context("the connection failed")
    }

    /// Waits until the few bytes of a half-close can be written without waiting.
    ///
    /// # Errors
    /// Returns an error if the connection has failed or stalled.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        if self.session.is_some() { self.socket.wait_for_room().context("the connection failed") } else { Ok(()) }
    }

    /// Tells the peer that this was the last byte; the peer can still send. Stops resetting on drop first: with the
    /// option left on, a process that is killed after the half-close would discard what is still queued.
    ///
    /// # Errors
    /// Returns an error if the socket option is refused or the connection has failed; then it resets on drop.
    pub(crate) fn half_close(&mut self) -> Result<()> {
        self.socket.finish_on_drop()?;
        let said = match &mut self.session {
            Some(session) => session.write_last(&self.socket, &[]),
            None => Ok(()),
        };
        let half_closed = said.and_then(|()| self.socket.half_close());
        if half_closed.is_err() {
            let _ = self.socket.reset_on_drop();
        }
        half_closed.context("could not half-close the connection")
    }

    /// Writes the last bytes of this side, and with a key also a message that they were the last. Fails also if the
    /// peer has closed the connection meanwhile and said so by RST.
    ///
    /// # Errors
    /// Returns an error if the connection failed or stalled.
    pub(crate) fn write_last(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.session {
            Some(session) => session.write_last(&self.socket, bytes),
            None => (&self.socket).write_all(bytes),
        }?;
        self.socket.check()
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.read(&self.socket, buffer),
            None => (&self.socket).read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.write(&self.socket, bytes),
            None => (&self.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
