//! Who dials: where this program connects to, or where it listens and whom it serves there. Either program can do
//! either, no matter which one sends.

use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use ipnet::IpNet;

use crate::admission::{Admission, Policy, Proof};
use crate::command;
use crate::invitation::{self, Invitation, Offer};
use crate::key::{Key, Role};
use crate::net::connection::Connection;
use crate::net::dial::{self, Delay};
use crate::net::listen;
use crate::net::tls::Identity;
use crate::ui::console::Console;
use crate::ui::prompt;

/// How this end of the connection is to be made.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// This program dials.
    Connect(Target),
    /// The other program dials.
    Listen(Listening),
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name, IPv4 or IPv6 address of the other machine; an address may stand in brackets and have a zone, as in
    /// `fe80::1%eth0`.
    pub host: String,
    /// Its port; not 0.
    pub port: u16,
}

/// Where to listen, and for whom.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Address to listen on; the port in it is ignored. `None` is every address, IPv6 and IPv4.
    pub bind: Option<SocketAddr>,
    /// Port to listen on; 0 picks a free one.
    pub port: u16,
    /// The only addresses that may connect; empty for all.
    pub allow: Vec<IpNet>,
}

impl Listening {
    pub(crate) fn is_allowed(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&address))
    }
}

/// Whether the transfer is encrypted, and with which key.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// It is not.
    Off,
    /// With a key that is made and printed; only where this program listens.
    NewKey,
    /// With a key that both sides have.
    Key(Key),
    /// With a key that is asked for at the terminal, once the rest is known to work.
    Ask,
}

/// How two programs meet.
pub(crate) struct Meeting<'a> {
    /// What this side does in the transfer.
    pub(crate) role: Role,
    /// Dialling: how long to keep trying. Listening: how long to wait for the other side, zero for ever.
    pub(crate) wait: Duration,
    /// Longest time without progress; `None` waits forever.
    pub(crate) timeout: Option<Duration>,
    pub(crate) encryption: &'a Encryption,
    /// The key, once it was made or asked for.
    pub(crate) key: OnceLock<Option<Key>>,
    /// Whether this side is a receiver that keeps what has arrived.
    pub(crate) resume: bool,
    /// The beginning of an error, `could not receive destination.txt`.
    pub(crate) could_not: String,
    pub(crate) console: &'a Console,
}

impl Meeting<'_> {
    /// Dials, and does the handshake if there is a key. A key is asked for only once the other side is there.
    ///
    /// # Errors
    /// Returns an error if there is no connection, or the other side has another key.
    pub(crate) fn dial(&self, target: &Target) -> Result<Connection> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
        let mut connection = self.connect(target)?;
        let Some(key) = self.key()? else { return Ok(connection) };
        let identity = self.identity(&key)?;
        if matches!(self.encryption, Encryption::Ask) && connection.socket().has_ended() {
            // The other side did not wait for the key.
            connection = self.connect(target)?;
        }
        let encrypted = connection.encrypt(&identity).map_err(|error| match (error.kind(), self.role) {
            (ConnectionReset | BrokenPipe | UnexpectedEof, Role::Sender) => {
                Error::msg(format!("{error}; it may not encrypt, or not serve this address"))
            }
            (TimedOut, Role::Sender) => {
                Error::msg(format!("{error}; the client may not encrypt, or be busy with another connection"))
            }
            _ => error.into(),
        });
        encrypted.with_context(|| self.could_not.clone())?;
        Ok(connection)
    }

    /// The key, which is made or asked for now where there is none yet.
    fn key(&self) -> Result<Option<Key>> {
        if let Some(key) = self.key.get() {
            return Ok(key.clone());
        }
        let key = match self.encryption {
            Encryption::Off => None,
            Encryption::NewKey => Some(Key::random()?),
            Encryption::Key(key) => Some(key.clone()),
            Encryption::Ask => Some(prompt::key()?),
        };
        Ok(self.key.get_or_init(|| key).clone())
    }

    fn identity(&self, key: &Key) -> io::Result<Identity> {
        if self.resume { Identity::resuming(key) } else { Identity::new(key, self.role) }
    }

    fn connect(&self, target: &Target) -> Result<Connection> {
        let stream = dial::connect(target, self.wait, self.timeout, |delay| match delay {
            // Only on a terminal: a script would take it for an error.
            Delay::Slow if io::stderr().is_terminal() => {
                self.console.note(&format!("connecting to {} ...", target.name()));
            }
            Delay::Slow => {}
            Delay::Retrying(reason) => self.console.note(&format!("waiting for {}: {reason}", target.name())),
        })?;
        Connection::new(stream, self.timeout)
    }

    /// Listens, and says what to type on the other machine. A key is asked for only once the port is bound. Without a
    /// key a connection has to show `proof`.
    ///
    /// # Errors
    /// Returns an error if the port cannot be listened on.
    pub(crate) fn listen(&self, listening: &Listening, proof: Proof, mut invitation: Invitation) -> Result<Admission> {
        let listener = listen::listen(listening.bind, listening.port)?;
        let bound = listener.local_addr().context("could not listen")?;
        let key = self.key()?;
        let proof = match &key {
            Some(key) => Proof::Handshake(self.identity(key)?),
            None => proof,
        };
        invitation.is_encrypted = key.is_some();
        invitation.new_key = key.filter(|_| matches!(self.encryption, Encryption::NewKey));
        invitation::announce(self.console, bound, listening, &invitation);
        let descriptors = if let Offer::Output = invitation.offer { 1 + command::DESCRIPTORS } else { 1 };
        let policy = Policy { allow: listening.clone(), timeout: self.timeout, proof, descriptors };
        Admission::start(listener, policy, self.console)
    }

    /// The deadline for the other side.
    pub(crate) fn deadline(&self, since: Instant) -> Option<Instant> {
        Some(self.wait).filter(|wait| !wait.is_zero()).and_then(|wait| since.checked_add(wait))
    }
}
