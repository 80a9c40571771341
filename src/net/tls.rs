//! The TLS 1.3 session inside a connection with a key (RFC 8446). Both sides show a raw public key (RFC 7250) that is
//! derived from the shared one; there are no certificates, names, tickets or resumption. What goes wrong is told in the
//! words of this program, the same on both sides.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::AlertDescription as Alert;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};

use super::connection::Unread;
use super::socket::Socket;
use crate::key::{Key, Role};
use records::{Fault, Records};
use verifier::PeerKey;

mod records;
mod verifier;

/// What this protocol is called in the handshake (ALPN, RFC 7301): no other service is mistaken for it.
const PROTOCOL: &[u8] = b"half-close/1";

/// Bytes of TLS that are read from the socket at once; rustls itself would ask for 4 KiB.
const INPUT_SIZE: usize = 128 * 1024;

/// Bytes that may wait in rustls to be sent; more than one piece of a transfer.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// The start of an Ed25519 private key in PKCS #8, before its 32 bytes (RFC 8410 section 7).
const PKCS8_ED25519: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// What one side needs for its sessions, made once from the key.
#[derive(Clone)]
pub(crate) struct Identity(Config);

#[derive(Clone)]
enum Config {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl Identity {
    /// # Errors
    /// Returns an error if rustls refuses the configuration.
    pub(crate) fn new(key: &Key, role: Role) -> io::Result<Self> {
        let config = match role {
            Role::Receiver => client_config(key).map(Config::Client),
            Role::Sender => server_config(key).map(Config::Server),
        };
        config.map(Self).map_err(|_| io::Error::other("could not set up TLS"))
    }

    /// Whether this side begins the handshake.
    pub(crate) fn speaks_first(&self) -> bool {
        matches!(self.0, Config::Client(_))
    }

    fn peer(&self) -> Role {
        match self.0 {
            Config::Client(_) => Role::Sender,
            Config::Server(_) => Role::Receiver,
        }
    }

    fn start(&self) -> Result<rustls::Connection, Error> {
        match &self.0 {
            Config::Client(config) => {
                // The name is not sent; rustls wants one.
                let name = ServerName::try_from("half-close").map_err(|_| Error::General(String::new()))?;
                Ok(ClientConnection::new(Arc::clone(config), name)?.into())
            }
            Config::Server(config) => Ok(ServerConnection::new(Arc::clone(config))?.into()),
        }
    }
}

fn client_config(key: &Key) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let (own, _) = raw_key(&provider, key, Role::Receiver)?;
    let (_, server) = raw_key(&provider, key, Role::Sender)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerKey::new(server, provider)))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

fn server_config(key: &Key) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let (own, _) = raw_key(&provider, key, Role::Sender)?;
    let (_, client) = raw_key(&provider, key, Role::Receiver)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(PeerKey::new(client, provider)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

/// One side's private key, and its public key as it is shown in the handshake.
fn raw_key(provider: &CryptoProvider, key: &Key, role: Role) -> Result<(Arc<CertifiedKey>, Vec<u8>), Error> {
    let private = [&PKCS8_ED25519[..], &key.seed(role)].concat();
    let private = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(private).into())?;
    let public = private.public_key().ok_or(Error::General(String::new()))?.to_vec();
    Ok((Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.clone())], private)), public))
}

/// A session with a peer that has proved that it has the same key. It works on the connection's socket, which is passed
/// to every call.
pub(crate) struct Session {
    tls: rustls::Connection,
    input: Input,
    /// Which program the other side is.
    peer: Role,
}

impl Session {
    /// Does the handshake, all of it within the socket's timeout: a peer that sends a byte from time to time does not
    /// prolong it.
    ///
    /// # Errors
    /// Returns an error that says in which way the other side is no peer with the same key, or how the connection failed.
    pub(crate) fn handshake(identity: &Identity, socket: &Socket) -> io::Result<Self> {
        let mut tls = identity.start().map_err(|_| io::Error::other("could not start TLS"))?;
        tls.set_buffer_limit(Some(OUTPUT_LIMIT));
        let peer = identity.peer();
        let mut session = Self { tls, input: Input::new(peer), peer };
        let deadline = socket.timeout().and_then(|timeout| Instant::now().checked_add(timeout));
        let completed = session.complete_handshake(socket, deadline);
        socket.restore_read_timeout()?;
        completed.map(|()| session)
    }

    fn complete_handshake(&mut self, socket: &Socket, deadline: Option<Instant>) -> io::Result<()> {
        let broken_off = |session: &Self, error| session.broken_off(error, socket.timeout());
        loop {
            self.flush(socket).map_err(|error| broken_off(self, error))?;
            if !self.tls.is_handshaking() {
                return Ok(());
            }
            if self.input.is_empty() {
                let arrived = self.input.fill(|buffer| match socket.read_before(deadline, buffer) {
                    Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    arrived => arrived,
                });
                arrived.map_err(|error| broken_off(self, error))?;
            }
            self.decrypt(socket)?;
        }
    }

    /// Why there was no handshake, as far as this side can know: an alert that says it may be lost to a reset.
    fn broken_off(&self, error: io::Error, timeout: Option<Duration>) -> io::Error {
        use io::ErrorKind::{ConnectionAborted, InvalidData, PermissionDenied, TimedOut, Unsupported};
        let was_heard = self.tls.protocol_version().is_some();
        let text = match (error.kind(), self.peer) {
            // It is explained already.
            (ConnectionAborted | InvalidData | PermissionDenied | Unsupported, _) => return error,
            (TimedOut, peer) => {
                let within = humantime::format_duration(timeout.unwrap_or_default());
                let hint = if peer == Role::Sender { "; the server may not encrypt" } else { "" };
                format!("no handshake within {within}{hint}")
            }
            (_, peer) if was_heard => format!("the {peer} broke off the handshake; it may have another key"),
            // A server that does not serve this address looks the same.
            (_, Role::Sender) => {
                "the server ended the connection before the handshake; it may not encrypt, or not serve this address"
                    .to_owned()
            }
            (_, Role::Receiver) => "it closed the connection without a handshake".to_owned(),
        };
        io::Error::new(error.kind(), text)
    }

    /// Reads what the peer has sent, as much as has arrived and fits; 0 bytes once the peer has said that this was all.
    ///
    /// # Errors
    /// Returns an error if the connection failed, was cut before the peer said so, or if what arrived is not what the peer
    /// has sent.
    pub(crate) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            match self.tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(self.cut()),
                Err(error) => return Err(error),
            }
            if self.input.is_empty() && filled > 0 {
                return Ok(filled);
            }
            self.receive(socket)?;
        }
    }

    fn cut(&self) -> io::Error {
        let text = match self.peer {
            Role::Sender => "the connection was cut before the end of the file",
            Role::Receiver => "the connection was cut before the reply",
        };
        io::Error::new(io::ErrorKind::UnexpectedEof, text)
    }

    /// Encrypts and sends these bytes, as many as there is room for at once. Returns their number.
    ///
    /// # Errors
    /// Returns an error if the connection failed or stalled.
    pub(crate) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        let taken = io::Write::write(&mut self.tls.writer(), bytes)?;
        self.flush(socket)?;
        Ok(taken)
    }

    /// Sends these bytes and, in the same segment if there is room, that they were the last (`close_notify`, RFC 8446
    /// section 6.1). The peer can still send.
    ///
    /// # Errors
    /// Returns an error if the connection failed or stalled.
    pub(crate) fn write_last(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut self.tls.writer(), bytes)?;
        self.tls.send_close_notify();
        self.flush(socket)
    }

    /// Whether the peer has sent something that was not read yet.
    ///
    /// # Errors
    /// Returns an error if the connection failed, or if the peer has said that it failed.
    pub(crate) fn has_unread_data(&mut self, socket: &Socket) -> io::Result<bool> {
        loop {
            let state = self.tls.process_new_packets().map_err(|error| self.explain(&error))?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(true);
            }
            // Behind the peer's end rustls takes nothing any more.
            if state.peer_has_closed() || (self.input.is_empty() && socket.unread()? != Unread::Bytes) {
                return Ok(false);
            }
            self.receive(socket)?;
        }
    }

    /// Waits for more from the peer unless there is some, and decrypts it.
    fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        if self.input.is_empty() {
            let mut socket = socket;
            self.input.fill(|buffer| socket.read(buffer))?;
        }
        self.decrypt(socket)
    }

    /// Passes some of the input on to rustls, and returns the number of bytes. It takes none once the peer has said that it
    /// has sent everything: what is behind that, which anyone may have put there, is dropped (RFC 8446 section 6.1).
    fn feed(&mut self) -> io::Result<usize> {
        let taken = self.tls.read_tls(&mut self.input.unread())?;
        let used = if taken > 0 { taken } else { self.input.unread().len() };
        self.input.consume(used);
        Ok(taken)
    }

    /// Takes over some of the input, or the end of the connection if there is none.
    fn decrypt(&mut self, socket: &Socket) -> io::Result<()> {
        // Fails for a message that is longer than any.
        self.feed().map_err(|_| changed())?;
        if let Err(error) = self.tls.process_new_packets() {
            // The alert for the peer. If it cannot be sent any more, the reset says at least that this failed.
            while self.tls.wants_write() && self.tls.write_tls(&mut &*socket).is_ok_and(|written| written > 0) {}
            return Err(self.explain(&error));
        }
        Ok(())
    }

    fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.tls.wants_write() {
            if let Err(error) = self.tls.write_tls(&mut &*socket) {
                return Err(self.alert(socket).unwrap_or(error));
            }
        }
        Ok(())
    }

    /// What the peer said before it reset the connection, if that has arrived.
    fn alert(&mut self, socket: &Socket) -> Option<io::Error> {
        loop {
            if self.input.is_empty() && self.input.fill(|buffer| socket.read_available(buffer)).ok()? == 0 {
                return None;
            }
            if self.feed().ok()? == 0 {
                return None;
            }
            if let Err(error) = self.tls.process_new_packets() {
                return Some(self.explain(&error));
            }
        }
    }

    /// rustls's error in words of this program.
    fn explain(&self, error: &Error) -> io::Error {
        let peer = self.peer;
        let another_key = || (io::ErrorKind::PermissionDenied, format!("the {peer} has another key"));
        let incompatible =
            || (io::ErrorKind::Unsupported, format!("the {peer} encrypts in another way than this program"));
        let (kind, text) = match error {
            Error::InvalidCertificate(_) => another_key(),
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => incompatible(),
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
                | Alert::UnsupportedExtension => incompatible(),
                Alert::InternalError | Alert::UserCanceled => {
                    (io::ErrorKind::ConnectionAborted, format!("the {peer} gave up"))
                }
                _ => (io::ErrorKind::ConnectionAborted, format!("what the {peer} received was changed on the way")),
            },
            _ => return changed(),
        };
        io::Error::new(kind, text)
    }
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what arrived was changed on the way")
}

/// Bytes from the socket that rustls has not taken yet.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    records: Records,
    peer: Role,
}

impl Input {
    fn new(peer: Role) -> Self {
        Self { buffer: vec![0; INPUT_SIZE], start: 0, end: 0, records: Records::from(peer), peer }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Replaces what was consumed by what one read gives.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.end = read(&mut self.buffer)?;
        match self.records.check(&self.buffer[..self.end]) {
            Ok(()) => Ok(self.end),
            Err(Fault::NotTls) => {
                let text = format!("the {} does not encrypt", self.peer);
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
            Err(Fault::Changed) => Err(changed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread;

    use anyhow::Result;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn session(key: &Key, role: Role, stream: TcpStream) -> Result<(Socket, Session)> {
        let socket = Socket::new(stream, Some(MINUTE))?;
        let session = Session::handshake(&Identity::new(key, role)?, &socket)?;
        Ok((socket, session))
    }

    #[test]
    fn what_a_client_sends_behind_its_end_is_not_looked_at() -> Result<()> {
        let records = [&[23, 3, 3, 16, 0][..], &[0; 4096]].concat().repeat(4);
        let mut arrived = vec![0; records.len()];
        let key = Key::random()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (client_key, stream) = (key.clone(), TcpStream::connect(listener.local_addr()?)?);
        let client = thread::spawn(move || {
            let (socket, mut session) = session(&client_key, Role::Receiver, stream)?;
            session.write_last(&socket, &[])?;
            (&socket).write_all(&records)?;
            Ok::<_, anyhow::Error>(socket)
        });
        let (socket, mut session) = session(&key, Role::Sender, listener.accept()?.0)?;
        while socket.stream().peek(&mut arrived)? < arrived.len() {
            thread::yield_now();
        }
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(session.has_unread_data(&socket)));
        assert!(matches!(receiver.recv_timeout(MINUTE), Ok(Ok(false))));
        assert!(client.join().is_ok_and(|socket| socket.is_ok()));
        Ok(())
    }
}
