//! The TLS 1.3 session inside a connection with a key (RFC 8446). Errors are in the words of this program, the same on
//! both sides.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use rustls::AlertDescription as Alert;
use rustls::{Error, InvalidMessage};

use super::connection::Unread;
use super::socket::Socket;
use crate::key::Role;
use engine::{Engine, Event, Piece};
use identity::RESUME_PROTOCOL;

pub(crate) use identity::Identity;

mod engine;
mod identity;
mod verifier;

/// Bytes that are encrypted and sent at once: as many as a transfer reads, whose records fit into one segment over loopback.
const PIECE_SIZE: usize = 60 * 1024;

/// The longest handshake: many times what one takes, but short enough that strangers do not keep a client waiting for
/// long.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A session with a peer that has proved that it has the same key. It works on the connection's socket, which is passed
/// to every call.
pub(crate) struct Session {
    engine: Engine,
    /// Bytes of the peer that are decrypted and were not read yet.
    unread: Vec<u8>,
    /// Which program the other side is.
    peer: Role,
}

impl Session {
    /// Does the handshake, all of it within the socket's timeout and within 10 seconds: a peer that sends a byte from time
    /// to time does not prolong it.
    ///
    /// # Errors
    /// Returns an error that says in which way the other side is not a peer with the same key, or how the connection
    /// failed.
    pub(crate) fn handshake(identity: &Identity, socket: &Socket) -> io::Result<Self> {
        let engine = identity.start().map_err(|_| io::Error::other("could not start TLS"))?;
        let mut session = Self { engine, unread: Vec::new(), peer: identity.peer() };
        let limit = socket.timeout().map_or(HANDSHAKE_LIMIT, |timeout| timeout.min(HANDSHAKE_LIMIT));
        let completed = session.complete_handshake(socket, Instant::now() + limit);
        socket.restore_read_timeout()?;
        completed.map_err(|error| session.broken_off(error, limit)).map(|()| session)
    }

    fn complete_handshake(&mut self, socket: &Socket, deadline: Instant) -> io::Result<()> {
        loop {
            while self.step(socket, None)? != Event::Idle {}
            self.flush(socket)?;
            if !self.engine.common().is_handshaking() {
                return Ok(());
            }
            if self.fill(|room| socket.read_before(Some(deadline), room))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Why there was no handshake, as far as this side can know: an alert that gives the reason may be lost to a reset.
    fn broken_off(&self, error: io::Error, limit: Duration) -> io::Error {
        use io::ErrorKind::{ConnectionAborted, InvalidData, Other, PermissionDenied, TimedOut, Unsupported};
        let text = match (error.kind(), self.peer) {
            // Already explained.
            (ConnectionAborted | InvalidData | Other | PermissionDenied | Unsupported, _) => return error,
            (TimedOut, peer) => {
                let within = humantime::format_duration(limit);
                let hint = match peer {
                    Role::Sender => "; the server may not encrypt, still ask for its key, or serve another client",
                    Role::Receiver => "",
                };
                format!("no handshake within {within}{hint}")
            }
            // Explained by that: it encrypts, and serves this address.
            (_, peer) if self.was_heard() => {
                let text = format!("the {peer} broke off the handshake; it may have another key");
                return io::Error::new(ConnectionAborted, text);
            }
            // A server that does not serve this address looks the same.
            (_, Role::Sender) => {
                "the server ended the connection before the handshake; it may not encrypt, or not serve this address"
                    .to_owned()
            }
            (_, Role::Receiver) => "it closed the connection without a handshake".to_owned(),
        };
        io::Error::new(error.kind(), text)
    }

    /// Whether the peer has answered in this protocol.
    fn was_heard(&self) -> bool {
        self.engine.common().protocol_version().is_some()
    }

    /// Whether the receiver begins by saying what it already has.
    pub(crate) fn can_resume(&self) -> bool {
        self.engine.common().alpn_protocol() == Some(RESUME_PROTOCOL)
    }

    /// Waits for bytes of the peer, and reads all that have arrived and fit, however many records they are in. Returns 0 once
    /// the peer has said that there are no more.
    ///
    /// # Errors
    /// Returns an error if the connection failed, was cut before the peer said so, or if what arrived is not what the peer
    /// has sent.
    pub(crate) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.unread.len().min(buffer.len());
        buffer[..filled].copy_from_slice(&self.unread[..filled]);
        let mut unread = self.unread.split_off(filled);
        while filled < buffer.len() && !self.engine.has_ended() {
            let on_bytes = |bytes: &[u8]| {
                let fit = bytes.len().min(buffer.len() - filled);
                buffer[filled..filled + fit].copy_from_slice(&bytes[..fit]);
                filled += fit;
                unread.extend_from_slice(&bytes[fit..]);
            };
            match self.step_with(socket, None, on_bytes)? {
                Event::Progress => {}
                Event::Idle if filled > 0 => break,
                Event::Idle => self.receive(socket)?,
            }
        }
        self.unread = unread;
        Ok(filled)
    }

    /// Encrypts and sends as many of these bytes as are sent at once. Returns their number.
    ///
    /// # Errors
    /// Returns an error if the connection failed or stalled.
    pub(crate) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE_SIZE)];
        self.send(socket, Piece { bytes, is_last: false })?;
        Ok(bytes.len())
    }

    /// Sends these bytes and, in the same segment if there is room, that they were the last (`close_notify`, RFC 8446
    /// section 6.1). The peer can still send.
    ///
    /// # Errors
    /// Returns an error if the connection failed or stalled.
    pub(crate) fn write_last(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<()> {
        self.send(socket, Piece { bytes, is_last: true })
    }

    fn send(&mut self, socket: &Socket, piece: Piece) -> io::Result<()> {
        // What has arrived comes first.
        while self.step(socket, Some(piece))? != Event::Idle {}
        self.flush(socket)
    }

    /// Whether the peer has sent something that was not read yet.
    ///
    /// # Errors
    /// Returns an error if the connection failed, or if the peer has said that it failed.
    pub(crate) fn has_unread_data(&mut self, socket: &Socket) -> io::Result<bool> {
        while self.unread.is_empty() && !self.engine.has_ended() {
            if self.step(socket, None)? == Event::Idle {
                if socket.unread()? != Unread::Bytes {
                    return Ok(false);
                }
                self.receive(socket)?;
            }
        }
        Ok(!self.unread.is_empty())
    }

    /// Waits for more from the peer.
    fn receive(&mut self, mut socket: &Socket) -> io::Result<()> {
        if self.fill(|room| socket.read(room))? > 0 {
            return Ok(());
        }
        let text = match self.peer {
            Role::Sender => "the connection was cut before the end of the file",
            Role::Receiver => "the connection was cut before the reply",
        };
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
    }

    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let room = self.engine.room();
        if room.is_empty() {
            return Err(self.incompatible());
        }
        let arrived = read(room)?;
        self.engine.arrived(arrived);
        Ok(arrived)
    }

    /// Does the next thing. Bytes of the peer are kept for the next read.
    fn step(&mut self, socket: &Socket, piece: Option<Piece>) -> io::Result<Event> {
        let mut unread = std::mem::take(&mut self.unread);
        let stepped = self.step_with(socket, piece, |bytes| unread.extend_from_slice(bytes));
        self.unread = unread;
        stepped
    }

    fn step_with(
        &mut self,
        mut socket: &Socket,
        piece: Option<Piece>,
        on_bytes: impl FnOnce(&[u8]),
    ) -> io::Result<Event> {
        self.engine.step(piece, on_bytes).map_err(|error| {
            // If the alert can no longer be sent, at least the reset says that this failed.
            let _ = socket.write_all(self.engine.take_output());
            self.explain(&error)
        })
    }

    fn flush(&mut self, mut socket: &Socket) -> io::Result<()> {
        let sent = socket.write_all(self.engine.take_output());
        sent.map_err(|error| self.alert(socket).unwrap_or(error))
    }

    /// What the peer said before it reset the connection, if that has arrived.
    fn alert(&mut self, socket: &Socket) -> Option<io::Error> {
        while !self.engine.has_ended() {
            match self.engine.step(None, |_| ()) {
                Err(error) => return Some(self.explain(&error)),
                Ok(Event::Idle) if self.fill(|room| socket.read_available(room)).ok()? == 0 => return None,
                Ok(_) => {}
            }
        }
        None
    }

    /// rustls's error in words of this program.
    fn explain(&self, error: &Error) -> io::Error {
        let peer = self.peer;
        let another_key = || io::Error::new(io::ErrorKind::PermissionDenied, format!("the {peer} has another key"));
        match error {
            Error::InvalidCertificate(_) => another_key(),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => self.incompatible(),
            Error::AlertReceived(alert) => match alert {
                Alert::AccessDenied
                | Alert::BadCertificate
                | Alert::CertificateRequired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate => another_key(),
                Alert::HandshakeFailure
                | Alert::InsufficientSecurity
                | Alert::MissingExtension
                | Alert::NoApplicationProtocol
                | Alert::ProtocolVersion
                | Alert::UnsupportedExtension => self.incompatible(),
                Alert::InternalError | Alert::UserCanceled => {
                    io::Error::new(io::ErrorKind::ConnectionAborted, format!("the {peer} gave up"))
                }
                _ => io::Error::other(format!("what the {peer} received was changed on the way")),
            },
            // The first bytes are not the header of a record.
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)
                if !self.was_heard() =>
            {
                io::Error::new(io::ErrorKind::Unsupported, format!("the {peer} does not encrypt"))
            }
            Error::DecryptError
            | Error::InappropriateHandshakeMessage { .. }
            | Error::InappropriateMessage { .. }
            | Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord => {
                io::Error::new(io::ErrorKind::InvalidData, "what arrived was changed on the way")
            }
            _ => io::Error::new(io::ErrorKind::InvalidData, "the encryption failed on this side"),
        }
    }

    fn incompatible(&self) -> io::Error {
        let text = format!("the {} encrypts in another way than this program", self.peer);
        io::Error::new(io::ErrorKind::Unsupported, text)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread;

    use anyhow::Result;

    use super::identity::{PROTOCOL, provider};
    use super::*;
    use crate::key::Key;

    const MINUTE: Duration = Duration::from_secs(60);

    /// One end of a connection with a session.
    type End = (Socket, Session);

    /// Does the handshake between the receiver and the sender.
    fn connect(receiver: &Identity, sender: &Identity) -> Result<[End; 2]> {
        let end = |identity: &Identity, stream: TcpStream| -> Result<End> {
            let socket = Socket::new(stream, Some(MINUTE))?;
            let session = Session::handshake(identity, &socket)?;
            Ok((socket, session))
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let streams = (TcpStream::connect(listener.local_addr()?)?, listener.accept()?.0);
        thread::scope(|scope| {
            let receiver = scope.spawn(|| end(receiver, streams.0));
            let sender = end(sender, streams.1)?;
            Ok([receiver.join().map_err(|_| io::Error::other("a panic"))??, sender])
        })
    }

    /// One end, and the other: the receiver and the sender, and then the other way round.
    fn both_ways() -> Result<Vec<[End; 2]>> {
        let key = Key::random()?;
        let (receiver, sender) = (Identity::new(&key, Role::Receiver)?, Identity::new(&key, Role::Sender)?);
        let there = connect(&receiver, &sender)?;
        let [one, other] = connect(&receiver, &sender)?;
        Ok(vec![there, [other, one]])
    }

    /// What the call returns, within a minute.
    fn in_time<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(call()));
        Ok(receiver.recv_timeout(MINUTE)??)
    }

    /// Records that no one has encrypted.
    fn forged() -> Vec<u8> {
        [&[23, 3, 3, 16, 0][..], &[0; 4096]].concat().repeat(4)
    }

    #[test]
    fn what_a_side_sends_behind_its_end_is_not_looked_at() -> Result<()> {
        for [(socket, mut session), (other_socket, mut other)] in both_ways()? {
            other.write_last(&other_socket, &[])?;
            (&other_socket).write_all(&forged())?;
            let mut arrived = vec![0; forged().len()];
            while socket.stream().peek(&mut arrived)? < arrived.len() {
                thread::yield_now();
            }
            let unread = in_time(move || {
                let unread = session.has_unread_data(&socket)?;
                session.write_last(&socket, b"still open")?;
                Ok((unread, session.read(&socket, &mut [0])?))
            })?;
            assert_eq!(unread, (false, 0));
            let mut reply = [0; 20];
            assert_eq!(other.read(&other_socket, &mut reply)?, 10);
            assert_eq!(other.read(&other_socket, &mut reply)?, 0);
        }
        Ok(())
    }

    #[test]
    fn pieces_of_any_size_are_read_whole_however_they_are_read() -> Result<()> {
        for [(socket, mut session), (other_socket, mut other)] in both_ways()? {
            let sizes =
                (600..4_000).step_by(17).flat_map(|size| if size % 10 == 0 { [size, 65_536] } else { [size, 1] });
            let total = sizes.clone().sum();
            let content: Vec<u8> = (0..=250).collect::<Vec<_>>().repeat(total / 251 + 1);
            let expected = content[..total].to_vec();
            let writer = thread::spawn(move || {
                let mut rest = &content[..total];
                for size in sizes {
                    let mut piece = rest.split_off(..size).unwrap_or_default();
                    while !piece.is_empty() {
                        let written = other.write(&other_socket, piece)?;
                        piece = &piece[written..];
                    }
                }
                other.write_last(&other_socket, &[]).map(|()| other_socket)
            });
            let mut read = Vec::new();
            for size in [1, 30, 5_000, 100_000].into_iter().cycle() {
                let mut buffer = vec![0; size];
                let arrived = session.read(&socket, &mut buffer)?;
                read.extend_from_slice(&buffer[..arrived]);
                if arrived == 0 {
                    break;
                }
            }
            assert!(read == expected);
            assert!(writer.join().is_ok_and(|written| written.is_ok()));
        }
        Ok(())
    }

    #[test]
    fn an_alert_that_comes_with_a_reset_is_heard() -> Result<()> {
        for [(socket, mut session), (other_socket, mut other)] in both_ways()? {
            (&socket).write_all(&forged())?;
            let failed = other.read(&other_socket, &mut [0]).map_err(|error| error.to_string());
            assert_eq!(failed, Err("what arrived was changed on the way".to_owned()));
            // With what it has not read.
            drop(other_socket);
            let error = in_time(move || {
                loop {
                    if let Err(error) = session.write(&socket, b"more") {
                        return Ok(error);
                    }
                }
            })?;
            // A peer that has said why it fails has not just gone.
            assert_eq!(error.kind(), io::ErrorKind::Other);
            assert!(error.to_string().ends_with(" received was changed on the way"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn both_sides_know_whether_they_can_resume() -> Result<()> {
        let key = Key::random()?;
        let sender = Identity::new(&key, Role::Sender)?;
        let resuming = Identity::resuming(&key)?;
        let old_sender = Identity::with(provider(), &key, Role::Sender, &[PROTOCOL])?;
        for (receiver, sender, can_resume) in [
            (&Identity::new(&key, Role::Receiver)?, &sender, false),
            (&resuming, &sender, true),
            (&resuming, &old_sender, false),
        ] {
            let ends = connect(receiver, sender)?;
            assert!(ends.iter().all(|(_, session)| session.can_resume() == can_resume));
        }
        Ok(())
    }

    #[test]
    fn a_receiver_that_does_not_resume_does_not_say_that_it_could() -> Result<()> {
        let mut engine = Identity::new(&Key::random()?, Role::Receiver)?.start()?;
        while engine.step(None, |_| ())? != Event::Idle {}
        let hello = engine.take_output();
        let has = |name: &[u8]| hello.windows(name.len()).any(|window| window == name);
        assert!(has(PROTOCOL) && !has(RESUME_PROTOCOL));
        Ok(())
    }
}
