//! What a side shows and expects in the handshake: a raw public key (RFC 7250) that is derived from the shared key. There
//! are no certificates, names, tickets or resumption of sessions.

use std::io;
use std::sync::Arc;

use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use super::engine::{Engine, Tls};
use super::verifier::PeerKey;
use crate::key::{Key, Role};

/// The name of this protocol in the handshake (ALPN, RFC 7301), so that no other service is mistaken for it.
pub(super) const PROTOCOL: &[u8] = b"half-close/1";

/// The same, for a receiver that begins by saying what it already has.
pub(super) const RESUME_PROTOCOL: &[u8] = b"half-close/2";

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
        match role {
            Role::Receiver => Self::with(provider(), key, role, &[PROTOCOL]),
            Role::Sender => Self::with(provider(), key, role, &[RESUME_PROTOCOL, PROTOCOL]),
        }
    }

    /// The identity of a receiver that offers to resume. A sender that can resume accepts.
    ///
    /// # Errors
    /// Returns an error if rustls refuses the configuration.
    pub(crate) fn resuming(key: &Key) -> io::Result<Self> {
        Self::with(provider(), key, Role::Receiver, &[RESUME_PROTOCOL, PROTOCOL])
    }

    pub(super) fn with(provider: CryptoProvider, key: &Key, role: Role, protocols: &[&[u8]]) -> io::Result<Self> {
        let (provider, protocols) = (Arc::new(provider), protocols.iter().map(|name| name.to_vec()).collect());
        let config = match role {
            Role::Receiver => client_config(provider, key, protocols).map(Config::Client),
            Role::Sender => server_config(provider, key, protocols).map(Config::Server),
        };
        config.map(Self).map_err(|_| io::Error::other("could not set up TLS"))
    }

    /// Whether this side begins the handshake.
    pub(crate) fn speaks_first(&self) -> bool {
        matches!(self.0, Config::Client(_))
    }

    /// The role of the other side.
    pub(super) fn peer(&self) -> Role {
        match self.0 {
            Config::Client(_) => Role::Sender,
            Config::Server(_) => Role::Receiver,
        }
    }

    /// # Errors
    /// Returns an error if there are no random numbers.
    pub(super) fn start(&self) -> Result<Engine, Error> {
        let tls = match &self.0 {
            Config::Client(config) => {
                // rustls requires a name; it is not sent.
                let name = ServerName::try_from("half-close").map_err(|_| Error::General(String::new()))?;
                Tls::Client(UnbufferedClientConnection::new(Arc::clone(config), name)?)
            }
            Config::Server(config) => Tls::Server(UnbufferedServerConnection::new(Arc::clone(config))?),
        };
        Ok(Engine::new(tls))
    }
}

fn client_config(
    provider: Arc<CryptoProvider>,
    key: &Key,
    protocols: Vec<Vec<u8>>,
) -> Result<Arc<ClientConfig>, Error> {
    let (own, _) = raw_key(&provider, key, Role::Receiver)?;
    let (_, server) = raw_key(&provider, key, Role::Sender)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerKey::new(server, provider)))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own)));
    config.alpn_protocols = protocols;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

fn server_config(
    provider: Arc<CryptoProvider>,
    key: &Key,
    protocols: Vec<Vec<u8>>,
) -> Result<Arc<ServerConfig>, Error> {
    let (own, _) = raw_key(&provider, key, Role::Sender)?;
    let (_, client) = raw_key(&provider, key, Role::Receiver)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(PeerKey::new(client, provider)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
    config.alpn_protocols = protocols;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    }
}

/// One side's private key, and its public key as it is shown in the handshake.
fn raw_key(provider: &CryptoProvider, key: &Key, role: Role) -> Result<(Arc<CertifiedKey>, Vec<u8>), Error> {
    let private = [&PKCS8_ED25519[..], &key.seed(role)].concat();
    let private = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(private).into())?;
    let public = private.public_key().ok_or(Error::General(String::new()))?.to_vec();
    Ok((Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.clone())], private)), public))
}
