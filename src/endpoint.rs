//! Who dials: where this program connects to, or where it listens and whom it serves there. Which of the two programs
//! does that is another question than which one sends.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::key::Key;

/// One end of the connection, as the user wants it to come about.
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
    /// The only addresses that are let in; empty for all.
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
}
