//! rustls between two buffers: what has arrived is decrypted in place, and what goes out is encrypted into the buffer
//! that is sent. Nothing in here reads or writes a socket.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error};

/// Bytes of input before the peer has shown that it has the key; no message of this handshake is that long.
const HANDSHAKE_INPUT: usize = 4 * 1024;

/// Bytes of input in a transfer: with fewer the two sides wait for each other more often, with more hardly less.
const TRANSFER_INPUT: usize = 128 * 1024;

pub(super) enum Tls {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

pub(super) struct Engine {
    tls: Tls,
    input: Input,
    output: Output,
    has_ended: bool,
}

/// Bytes to encrypt.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether `close_notify` follows them.
    pub(super) is_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Something was done, and there may be more to do.
    Progress,
    /// The piece is encrypted if there was one, and nothing else can be done before more has arrived.
    Idle,
}

impl Engine {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls, input: Input::default(), output: Output::default(), has_ended: false }
    }

    /// What is known of the session.
    pub(super) fn common(&self) -> &CommonState {
        match &self.tls {
            Tls::Client(tls) => tls,
            Tls::Server(tls) => tls,
        }
    }

    /// Whether the peer has said that it has sent everything. Anything after that, which anyone may have added, is
    /// ignored (RFC 8446 section 6.1).
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Room for more from the peer; empty if what has arrived is the start of a message that is longer than any valid
    /// one.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let limit = if self.common().is_handshaking() { HANDSHAKE_INPUT } else { TRANSFER_INPUT };
        self.input.room(limit)
    }

    /// Takes over the first bytes of the room.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.input.end += bytes;
    }

    /// Returns what is to be sent, and forgets it.
    pub(super) fn take_output(&mut self) -> &[u8] {
        let end = std::mem::take(&mut self.output.end);
        &self.output.buffer[..end]
    }

    /// Does the next thing: takes over a message that has arrived, and passes its bytes on if they are the peer's; or puts
    /// a message of the handshake into the output; or else encrypts the piece.
    ///
    /// # Errors
    /// Returns an error if what has arrived is not what the peer has sent, or if the peer has said that it failed. An alert
    /// for the peer is then in the output.
    pub(super) fn step(&mut self, piece: Option<Piece<'_>>, on_bytes: impl FnOnce(&[u8])) -> Result<Event, Error> {
        let stepped = self.try_step(piece, on_bytes);
        if stepped.is_err() {
            // rustls takes no input before its own output is written. Then this stops: the same message would fail
            // again.
            while self.common().wants_write() && self.try_step(None, |_| ()).is_ok() {}
        }
        stepped
    }

    fn try_step(&mut self, piece: Option<Piece<'_>>, on_bytes: impl FnOnce(&[u8])) -> Result<Event, Error> {
        let Self { tls, input, output, has_ended } = self;
        // All unread input each time: rustls may keep positions in it.
        let unread = &mut input.buffer[input.start..input.end];
        let (discard, event) = match tls {
            Tls::Client(tls) => handle(tls.process_tls_records(unread), output, has_ended, piece, on_bytes),
            Tls::Server(tls) => handle(tls.process_tls_records(unread), output, has_ended, piece, on_bytes),
        };
        input.start += discard;
        event
    }
}

/// Also returns the number of bytes of input that are consumed.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Output,
    has_ended: &mut bool,
    piece: Option<Piece<'_>>,
    on_bytes: impl FnOnce(&[u8]),
) -> (usize, Result<Event, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let event = match (state, piece) {
        (Err(error), _) => Err(error),
        (Ok(ConnectionState::ReadTraffic(mut traffic)), _) => match traffic.next_record() {
            Some(Ok(record)) => {
                on_bytes(record.payload);
                discard += record.discard;
                Ok(Event::Progress)
            }
            Some(Err(error)) => Err(error),
            None => Ok(Event::Progress),
        },
        (Ok(ConnectionState::EncodeTlsData(mut message)), _) => {
            let encoded = output.append(|room| {
                message.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(size) => Some(size.required_size),
                    EncodeError::AlreadyEncoded => None,
                })
            });
            encoded.map(|()| Event::Progress)
        }
        // It waits in the output.
        (Ok(ConnectionState::TransmitTlsData(transmit)), _) => {
            transmit.done();
            Ok(Event::Progress)
        }
        // Reported once; rustls accepts nothing after it.
        (Ok(ConnectionState::PeerClosed), _) => {
            *has_ended = true;
            Ok(Event::Progress)
        }
        (Ok(ConnectionState::WriteTraffic(mut traffic)), Some(Piece { bytes, is_last })) => {
            let missing = |error| match error {
                EncryptError::InsufficientSize(size) => Some(size.required_size),
                EncryptError::EncryptExhausted => None,
            };
            let mut encrypted = output.append(|room| traffic.encrypt(bytes, room).map_err(missing));
            if is_last && encrypted.is_ok() {
                encrypted = output.append(|room| traffic.queue_close_notify(room).map_err(missing));
            }
            encrypted.map(|()| Event::Idle)
        }
        (Ok(_), Some(_)) => Err(Error::EncryptError),
        (Ok(_), None) => Ok(Event::Idle),
    };
    (discard, event)
}

/// Records that were not sent yet.
#[derive(Default)]
struct Output {
    buffer: Vec<u8>,
    end: usize,
}

impl Output {
    /// Appends what `encode` puts there. It fails with the room that it needs, or with nothing if it cannot go on.
    fn append(&mut self, mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) -> Result<(), Error> {
        loop {
            match encode(&mut self.buffer[self.end..]) {
                Ok(written) => {
                    self.end += written;
                    return Ok(());
                }
                Err(Some(needed)) => self.buffer.resize(self.end + needed, 0),
                Err(None) => return Err(Error::EncryptError),
            }
        }
    }
}

/// Bytes from the peer that rustls has not taken over yet: those from `start` to `end`.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// The room behind them. It grows, up to the limit, whenever it has been filled.
    fn room(&mut self, limit: usize) -> &mut [u8] {
        if self.end == self.buffer.len() && self.end < limit {
            self.buffer.resize((2 * self.end).clamp(HANDSHAKE_INPUT, limit), 0);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buffer[self.end..]
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};
    use rustls::crypto::{CryptoProvider, ring};
    use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

    use super::super::PIECE_SIZE;
    use super::super::identity::{Identity, PROTOCOL, provider};
    use super::*;
    use crate::key::{Key, Role};

    /// More steps than any of these sessions needs.
    const STEP_LIMIT: usize = 100_000;

    /// Bytes of a record beside its plaintext: the header, the type, the tag (RFC 8446 section 5.2); and those of a record
    /// with a `key_update`, of which the plaintext has five (section 4.6.3).
    const OVERHEAD: usize = 5 + 1 + 16;
    const KEY_UPDATE: usize = OVERHEAD + 5;

    /// One end of a session without a network.
    struct End {
        engine: Engine,
        received: Vec<u8>,
        steps: usize,
    }

    impl End {
        fn new(identity: &Identity) -> Result<Self> {
            Ok(Self { engine: identity.start()?, received: Vec::new(), steps: 0 })
        }

        /// Does all that can be done, and encrypts the piece.
        fn advance(&mut self, piece: Option<Piece>) -> Result<()> {
            loop {
                self.steps += 1;
                assert!(self.steps < STEP_LIMIT, "it never ends");
                if self.engine.step(piece, |bytes| self.received.extend_from_slice(bytes))? == Event::Idle {
                    return Ok(());
                }
            }
        }

        fn send(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
            self.advance(Some(Piece { bytes, is_last: false }))?;
            Ok(self.engine.take_output().to_vec())
        }

        fn send_last(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
            self.advance(Some(Piece { bytes, is_last: true }))?;
            Ok(self.engine.take_output().to_vec())
        }

        /// Takes over what arrives, in reads as large as there is room for.
        fn receive(&mut self, mut wire: &[u8]) -> Result<()> {
            while !wire.is_empty() {
                let room = self.engine.room();
                ensure!(!room.is_empty(), "too long a message");
                let (read, rest) = wire.split_at(room.len().min(wire.len()));
                room[..read.len()].copy_from_slice(read);
                self.engine.arrived(read.len());
                self.advance(None)?;
                wire = rest;
            }
            Ok(())
        }

        /// Fails unless these bytes, and no others, were received since the last time.
        fn assert_received(&mut self, bytes: &[u8]) {
            assert!(std::mem::take(&mut self.received) == bytes);
        }
    }

    fn identities(provider: impl Fn() -> CryptoProvider) -> Result<[Identity; 2]> {
        let key = Key::random()?;
        let identity = |role| Identity::with(provider(), &key, role, &[PROTOCOL]);
        Ok([identity(Role::Receiver)?, identity(Role::Sender)?])
    }

    /// A client and a server that have done their handshake.
    fn pair(provider: impl Fn() -> CryptoProvider) -> Result<[End; 2]> {
        let [client, server] = &identities(provider)?;
        let mut ends = [End::new(client)?, End::new(server)?];
        while ends.iter().any(|end| end.engine.common().is_handshaking()) {
            let [client, server] = &mut ends;
            client.advance(None)?;
            server.receive(client.engine.take_output())?;
            client.receive(server.engine.take_output())?;
        }
        Ok(ends)
    }

    fn content(size: usize) -> Vec<u8> {
        let mut content = (0..=250).collect::<Vec<u8>>().repeat(size.div_ceil(251));
        content.truncate(size);
        content
    }

    #[test]
    fn a_peer_that_has_not_shown_the_key_costs_little_memory() -> Result<()> {
        let [_, identity] = identities(provider)?;
        let mut server = End::new(&identity)?;
        // The start of a hello of 16 KiB.
        let hello = [&[22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb][..], &[0; 16_000]].concat();
        assert_eq!(server.receive(&hello).map_err(|error| error.to_string()), Err("too long a message".to_owned()));
        let size = |end: &End| end.engine.input.buffer.capacity() + end.engine.output.buffer.capacity();
        assert!(size(&server) <= 4_096);
        assert!(pair(provider)?.iter().all(|end| size(end) <= 8_192));
        Ok(())
    }

    #[test]
    fn every_size_of_record_arrives_however_far_the_reader_lags() -> Result<()> {
        const BACKLOG: usize = 1_000_000;
        let [mut client, mut server] = pair(provider)?;
        let content = content(BACKLOG + 17_000);
        let (mut wire, mut sent) = (Vec::new(), 0);
        for size in 1..=17_000 {
            wire.extend(server.send(&content[sent..][..size])?);
            sent += size;
            if sent >= BACKLOG || size == 17_000 {
                client.receive(&wire)?;
                client.assert_received(&content[..sent]);
                (wire, sent) = (Vec::new(), 0);
            }
        }
        assert!(!client.engine.has_ended());
        client.receive(&server.send_last(b"the end")?)?;
        client.assert_received(b"the end");
        assert!(client.engine.has_ended());
        Ok(())
    }

    /// AES-128-GCM that may encrypt five records with one key.
    fn short_lived() -> CryptoProvider {
        let SupportedCipherSuite::Tls13(suite) = ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let common = CipherSuiteCommon { confidentiality_limit: 5, ..suite.common };
        let suite = Box::leak(Box::new(Tls13CipherSuite { common, ..*suite }));
        CryptoProvider { cipher_suites: vec![SupportedCipherSuite::Tls13(suite)], ..provider() }
    }

    #[test]
    fn keys_are_renewed_before_they_have_encrypted_too_much() -> Result<()> {
        const PIECES: usize = 60;
        let ends = pair(short_lived)?;
        let [mut client, mut server] = ends;
        let content = content(PIECE_SIZE);
        let renewals =
            |wire: &[u8]| (wire.len() - content.len() - content.len().div_ceil(16 * 1024) * OVERHEAD) / KEY_UPDATE;
        // In one direction only, as in a transfer: the receiver sends nothing in which it could answer.
        let mut renewed = 0;
        for _ in 0..PIECES {
            let wire = server.send(&content)?;
            renewed += renewals(&wire);
            client.receive(&wire)?;
            client.assert_received(&content);
        }
        assert_eq!(renewed, PIECES - 1);
        // In both.
        for size in (0..PIECES).map(|index| 1 + index * 1_000) {
            let wire = client.send(&content[..size])?;
            server.receive(&wire)?;
            server.assert_received(&content[..size]);
            let wire = server.send(&content[size..])?;
            client.receive(&wire)?;
            client.assert_received(&content[size..]);
        }
        // And in the other one.
        let mut renewed = 0;
        for _ in 0..PIECES {
            let wire = client.send(&content)?;
            renewed += renewals(&wire);
            server.receive(&wire)?;
            server.assert_received(&content);
        }
        assert!(renewed >= PIECES - 1);
        client.receive(&server.send_last(&content)?)?;
        client.assert_received(&content);
        server.receive(&client.send_last(b"Thank you\0")?)?;
        server.assert_received(b"Thank you\0");
        assert!(client.engine.has_ended() && server.engine.has_ended());
        Ok(())
    }

    /// The pieces of the file in the sessions below, and the reply.
    const FILE: [usize; 4] = [1, 300, 40, 1_000];
    const REPLY: &[u8] = b"Thank you\0";

    /// Runs a session up to its end or the first error, with `tamper` between the two ends, which gets the number of bytes
    /// that were sent to this side before, and those that are sent now; `at_once` of them arrive together. Fails if a side
    /// ever has something else than what the other one has sent, or takes a part for the whole. Returns the number of bytes
    /// that were sent to the receiver and to the sender, and whether both have ended well.
    fn run(
        [client, server]: &[Identity; 2],
        at_once: usize,
        mut tamper: impl FnMut(Role, usize, &mut Vec<u8>),
    ) -> Result<([usize; 2], bool)> {
        let (mut client, mut server) = (End::new(client)?, End::new(server)?);
        let file = content(FILE.iter().sum());
        let mut sent = [0, 0];
        let mut pass = |from: &mut End, to: &mut End, role: Role| {
            let whole = if role == Role::Receiver { &file } else { REPLY };
            let mut wire = from.engine.take_output().to_vec();
            let before = sent[role as usize];
            sent[role as usize] += wire.len();
            tamper(role, before, &mut wire);
            wire.chunks(at_once).try_for_each(|bytes| {
                let received = to.receive(bytes);
                assert!(whole.starts_with(&to.received));
                assert!(!to.engine.has_ended() || to.received == whole);
                received
            })
        };
        let mut talk = || {
            client.advance(None)?;
            pass(&mut client, &mut server, Role::Sender)?;
            pass(&mut server, &mut client, Role::Receiver)?;
            pass(&mut client, &mut server, Role::Sender)?;
            let mut rest = &file[..];
            for size in FILE {
                let (bytes, behind) = rest.split_at(size);
                server.advance(Some(Piece { bytes, is_last: behind.is_empty() }))?;
                pass(&mut server, &mut client, Role::Receiver)?;
                rest = behind;
            }
            client.advance(Some(Piece { bytes: REPLY, is_last: true }))?;
            pass(&mut client, &mut server, Role::Sender)
        };
        if talk().is_err() {
            // The alert.
            let _ = pass(&mut client, &mut server, Role::Sender);
            let _ = pass(&mut server, &mut client, Role::Receiver);
        }
        Ok((sent, client.engine.has_ended() && server.engine.has_ended()))
    }

    #[test]
    fn a_session_that_is_cut_behind_any_byte_is_not_taken_for_a_whole_one() -> Result<()> {
        assert!(run(&identities(provider)?, 1, |_, _, _| ())?.1);
        Ok(())
    }

    #[test]
    fn ten_thousand_alterations_end_in_an_error_and_never_in_a_loop_or_in_other_bytes() -> Result<()> {
        let identities = identities(provider)?;
        let (sent, _) = run(&identities, usize::MAX, |_, _, _| ())?;
        let mut state = 1_u64;
        let mut below = |limit: usize| {
            // SplitMix64
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            usize::try_from((mixed >> 33) % limit as u64).unwrap_or_default()
        };
        let mut whole = 0;
        for _ in 0..10_000 {
            let side = if below(2) == 0 { Role::Receiver } else { Role::Sender };
            // Every other one in the handshake.
            let limit = if below(2) == 0 { sent[side as usize] } else { 1_000.min(sent[side as usize]) };
            let at = below(limit);
            let (kind, byte, length) = (below(7), u8::try_from(below(255))?, 1 + below(100));
            let (_, has_ended) = run(&identities, usize::MAX, |to, before, wire| {
                if to != side || !(before..before + wire.len()).contains(&at) {
                    return;
                }
                let at = at - before;
                let end = wire.len().min(at + length);
                match kind {
                    0 | 1 => wire[at] ^= 1 << (byte % 8),
                    2 => wire[at] = byte,
                    3 => wire.insert(at, byte),
                    4 => drop(wire.drain(at..end)),
                    5 => wire.extend_from_within(at..end),
                    _ => wire[at..end].reverse(),
                }
            })?;
            whole += usize::from(has_ended);
        }
        // Those that changed nothing, or only a version, which is ignored (RFC 8446 section 5.1).
        assert!(whole < 500, "{whole}");
        Ok(())
    }
}
