//! `--resume`: what has arrived is kept and not sent again, the result is the source as it is now, and the part is
//! this client's alone. Bytes are counted on the wire.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection, SignatureScheme, StreamOwned};
use sha2::{Digest as _, Sha256};

use common::disk::{Mounted, succeed};
use common::files::{assert_file, make_fifo};
use common::fixture::KEY;
use common::network::reset_on_close;
use common::processes::{after, with_open_files};
use common::proxy::{Direction, Effect, Fault, Proxy};
use common::requirements::{has_loop_device, installed};
use common::trace::{Injection, traced};
use common::{
    Fixture, Outcome, Running, Server, Signal, content, directory, is_root, names_in, run, sha256, wait_until,
};

const MIB: u64 = 1024 * 1024;
const BLOCK: u64 = 64 * MIB;

/// For a relay: the first connection is reset in the middle of the file, and others before its first byte.
const ALWAYS_BREAKS: [u64; 1000] = {
    let mut breaks = [0; 1000];
    breaks[0] = MIB;
    breaks
};

/// More than the handshakes, the digests and the records of TLS around the bytes.
const OVERHEAD: u64 = MIB;

/// Forwards connections to a server, counts what goes to the clients, and resets each connection after as many bytes as
/// are planned for it; those that nothing is planned for stay whole.
struct Relay {
    port: u16,
    server: Arc<Mutex<u16>>,
    counts: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
    breaks: Arc<Mutex<VecDeque<u64>>>,
}

impl Relay {
    fn start(server: u16, breaks: &[u64]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            server: Arc::new(Mutex::new(server)),
            counts: Arc::default(),
            breaks: Arc::new(Mutex::new(breaks.iter().copied().collect())),
        };
        let (server, counts) = (Arc::clone(&relay.server), Arc::clone(&relay.counts));
        let breaks = Arc::clone(&relay.breaks);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                reset_on_close(&client);
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, *server.lock().unwrap())) else { continue };
                reset_on_close(&server);
                let count = Arc::<AtomicU64>::default();
                counts.lock().unwrap().push(Arc::clone(&count));
                let limit = breaks.lock().unwrap().pop_front().unwrap_or(u64::MAX);
                let ends = Arc::new(Ends { client, server, is_broken: AtomicBool::new(false) });
                let up = Arc::clone(&ends);
                thread::spawn(move || up.copy(&up.client, &up.server, &AtomicU64::new(0), u64::MAX));
                thread::spawn(move || ends.copy(&ends.server, &ends.client, &count, limit));
            }
        });
        relay
    }

    /// What each connection brought to the client.
    fn counts(&self) -> Vec<u64> {
        self.counts.lock().unwrap().iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }
}

/// Of one connection, which is reset unless both have said that they have sent everything.
struct Ends {
    client: TcpStream,
    server: TcpStream,
    is_broken: AtomicBool,
}

impl Ends {
    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream, count: &AtomicU64, limit: u64) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(arrived) = from.read(&mut buffer) {
            if self.is_broken.load(Ordering::SeqCst) {
                return;
            }
            if arrived == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&buffer[..arrived]).is_err() {
                break;
            }
            if count.fetch_add(arrived as u64, Ordering::SeqCst) + arrived as u64 >= limit {
                break;
            }
        }
        // Wakes the other direction, and sends nothing.
        self.is_broken.store(true, Ordering::SeqCst);
        let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Read));
    }
}

fn part(fixture: &Fixture) -> PathBuf {
    fixture.destination_directory().join("destination.txt.half-close-part")
}

/// As another run has left it.
fn keep(fixture: &Fixture, bytes: &[u8]) {
    fs::write(part(fixture), bytes).unwrap();
}

fn large(size: u64) -> Fixture {
    Fixture::of_size(usize::try_from(size).unwrap()).encrypted()
}

/// Fetches over what is kept; returns how many bytes went over the wire.
#[track_caller]
fn resume(fixture: &Fixture, arguments: &[&str]) -> u64 {
    let server = fixture.server(&[]);
    let relay = Relay::start(server.port, &[]);
    let client = run(&mut fixture.client_command(relay.port, &[&["--resume"], arguments].concat()));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?}\n{server:?}");
    fixture.assert_replaced();
    relay.counts()[0]
}

#[test]
fn after_a_break_only_what_is_missing_is_sent() {
    let fixture = large(2 * BLOCK + MIB);
    let server = fixture.server(&[]);
    let relay = Relay::start(server.port, &[BLOCK + BLOCK / 2]);
    let digest = sha256(fixture.bytes());
    let arguments = ["--resume", "--sha256", &digest];
    let client = run(&mut fixture.client_command(relay.port, &arguments));
    assert_eq!(client.status, 1, "{client:?}");
    let kept = fs::metadata(part(&fixture)).unwrap();
    assert!(kept.len() > BLOCK, "{}", kept.len());
    assert_eq!(kept.permissions().mode() & 0o7777, 0o600);
    let line = client.last_line();
    assert!(line.starts_with("file-client: could not receive all of destination.txt: "), "{line}");
    assert!(line.ends_with(" MiB are kept for --resume"), "{line}");
    assert_eq!(names_in(fixture.destination_directory()), ["destination.txt.half-close-part"]);

    // The server has not counted it.
    let client = run(&mut fixture.client_command(relay.port, &arguments));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?}\n{server:?}");
    assert!(server.stderr().contains("; it may come back"), "{server:?}");
    assert!(server.stderr().contains(": broke off after "), "{server:?}");
    fixture.assert_replaced();
    let sent = relay.counts()[1];
    assert!(sent < fixture.size() - kept.len() + OVERHEAD, "{sent} bytes for {} kept", kept.len());
    let mode = fs::metadata(fixture.destination()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o666 & !umask());
}

/// Of this process and of those that it starts.
fn umask() -> u32 {
    let file = common::directory();
    let file = file.path().join("new");
    fs::write(&file, "").unwrap();
    !fs::metadata(file).unwrap().permissions().mode() & 0o666
}

#[test]
fn what_differs_costs_its_blocks_and_never_ends_in_a_mixture() {
    let fixture = large(BLOCK + 2 * MIB);
    let bytes = fixture.bytes();
    let block = usize::try_from(BLOCK).unwrap();
    let changed_at = |at: usize| {
        let mut part = bytes.to_vec();
        part[at] ^= 1;
        part
    };
    let torn = [&bytes[..block + 1000], &[0; 4096]].concat();
    let grown = [bytes, b"more"].concat();
    for (what, part, at_most) in [
        ("complete", bytes, 0),
        ("grown", &grown, 2 * MIB),
        ("a tail of zeros", &torn, 2 * MIB),
        ("a late byte", &changed_at(block + 5), 2 * MIB),
        ("an early byte", &changed_at(5), fixture.size()),
        ("another file of the same size", &content(bytes.len(), 9), fixture.size()),
        ("empty", &[], fixture.size()),
    ] {
        keep(&fixture, part);
        let sent = resume(&fixture, &["--no-sync"]);
        assert!(sent < at_most + OVERHEAD, "{what}: {sent} bytes");
        fs::remove_file(fixture.destination()).unwrap();
    }
}

#[test]
fn a_source_that_became_shorter_or_another_one_is_stored_as_it_is_now() {
    let mut fixture = large(3000);
    keep(&fixture, fixture.bytes());
    fixture.offer(content(2000, 1));
    resume(&fixture, &[]);
    keep(&fixture, &content(1000, 1));
    fixture.offer("");
    resume(&fixture, &[]);
    keep(&fixture, b"the beginn");
    fixture.offer("the beginning");
    assert!(resume(&fixture, &["--size", "13", "--sha256", &sha256(b"the beginning")]) < OVERHEAD);
}

#[test]
fn a_stream_is_sent_from_its_start() {
    let fixture = large(3000);
    keep(&fixture, &fixture.bytes()[..2000]);
    let server = fixture.server(&["--", "cat", "des.txt"]);
    let client = run(&mut fixture.client_command(server.port, &["--resume"]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

/// The 128 bits of the key that both sides have.
fn bits_of_key() -> [u8; 16] {
    let symbols: Vec<u128> = KEY
        .bytes()
        .filter_map(|c| b"0123456789abcdefghjkmnpqrstvwxyz".iter().position(|&symbol| symbol == c))
        .map(|symbol| symbol as u128)
        .collect();
    let high = symbols[..25].iter().fold(0, |bits, symbol| bits << 5 | symbol);
    (high << 3 | symbols[25] >> 2).to_be_bytes()
}

/// Takes every client for the one that is meant.
#[derive(Debug)]
struct AnyReceiver;

impl ClientCertVerifier for AnyReceiver {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer,
        _: &[CertificateDer],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::HandshakeNotComplete)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A server that speaks `half-close/1` only, as docs/design.md describes it: what rustls needs for that, and nothing of
/// this program.
fn first_version() -> Arc<ServerConfig> {
    let seed = Sha256::new().chain_update(b"half-close/1 server").chain_update(bits_of_key()).finalize();
    // RFC 8410 section 7
    let private = [&b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"[..], &seed].concat();
    let provider = ring::default_provider();
    let private = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(private).into()).unwrap();
    let public = CertificateDer::from(private.public_key().unwrap().to_vec());
    let key = AlwaysResolvesServerRawPublicKeys::new(Arc::new(CertifiedKey::new(vec![public], private)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyReceiver))
        .with_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![b"half-close/1".to_vec()];
    Arc::new(config)
}

#[test]
fn a_server_of_half_close_1_sends_the_whole_file() {
    let fixture = large(3000).with_old();
    keep(&fixture, &fixture.bytes()[..2000]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = fixture.client(listener.local_addr().unwrap().port(), &["--resume"]);
    let mut server = StreamOwned::new(ServerConnection::new(first_version()).unwrap(), listener.accept().unwrap().0);
    server.write_all(fixture.bytes()).unwrap();
    server.conn.send_close_notify();
    server.flush().unwrap();
    server.sock.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).unwrap();
    let client = client.finish();
    assert_eq!((client.status, &reply[..]), (0, &b"Thank you\0"[..]), "{client:?}");
    let notes = client.stderr();
    assert!(notes.starts_with("the server cannot resume, so it sends the whole file\n"), "{notes}");
    fixture.assert_replaced();
    assert_eq!(names_in(fixture.destination_directory()), ["destination.txt"]);
}

#[test]
fn a_digest_or_size_that_is_wrong_in_the_end_deletes_the_part() {
    let fixture = large(3000).with_old();
    for wrong in [&["--sha256", &sha256(b"another file")][..], &["--size", "3001"], &["--size", "2999"]] {
        keep(&fixture, &fixture.bytes()[..2000]);
        let server = fixture.server(&[]);
        let client = run(&mut fixture.client_command(server.port, &[&["--resume", "--wait=1h"], wrong].concat()));
        assert_eq!(client.status, 1, "{client:?}");
        assert!(!client.stderr().contains("kept"), "{client:?}");
        assert!(!fixture.is_stored());
    }
}

#[test]
fn an_interrupt_keeps_the_part_and_a_part_without_bytes_goes() {
    let fixture = large(3 * MIB);
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let kept = &fixture.bytes()[..1000];
        keep(&fixture, kept);
        let mut client = fixture.client(fixture.port(), &["--resume", "--wait=1h"]);
        client.wait_for_line("waiting for");
        let client = client.interrupt(signal);
        assert_eq!(client.status, 128 + signal.as_raw());
        assert_file(&part(&fixture), kept);
        if signal != Signal::KILL {
            let line = "file-client: interrupted before the file was stored; 1000 B are kept for --resume";
            assert_eq!(client.last_line(), line);
        }
    }
    fs::remove_file(part(&fixture)).unwrap();
    let client = run(&mut fixture.client_command(fixture.port(), &["--resume"]));
    assert_eq!(client.status, 1);
    let mut waiting = fixture.client(fixture.port(), &["--resume", "--wait=1h"]);
    waiting.wait_for_line("waiting for");
    assert_eq!(names_in(fixture.destination_directory()), ["destination.txt.half-close-part"]);
    waiting.interrupt(Signal::INT);
    assert_eq!(names_in(fixture.destination_directory()), [""; 0]);
}

#[test]
fn an_interrupt_right_after_the_part_was_created_leaves_none() {
    let fixture = large(1000);
    let log = fixture.source_directory().join("log");
    let client = fixture.client_command(fixture.port(), &["--resume", "--wait=1h"]);
    // Locking is what follows. The signal has all the time to end the program before that goes on.
    let effect = "signal=TERM:delay_exit=1000000".to_owned();
    let interrupt = Injection { call: "flock".to_owned(), number: 1, effect };
    let Some(mut client) = traced(&client, &log, Some(&interrupt)) else { return };
    let client = run(&mut client);
    assert_eq!(client.status, 128 + Signal::TERM.as_raw(), "{client:?}");
    assert_eq!(names_in(fixture.destination_directory()), [""; 0]);
}

#[test]
fn what_somebody_may_have_put_in_the_place_of_the_part_is_not_touched() {
    let fixture = large(1000);
    let elsewhere = common::directory();
    let target = elsewhere.path().join("target");
    fs::write(&target, "precious").unwrap();
    let refuse = |reason: &str| {
        // No server listens: that is not even noticed.
        let client = run(&mut fixture.client_command(fixture.port(), &["--resume"]));
        let line = format!(
            "file-client: could not write destination.txt: could not use destination.txt.half-close-part: {reason}"
        );
        assert_eq!((client.status, client.last_line()), (1, line));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        fs::remove_file(part(&fixture)).or_else(|_| fs::remove_dir(part(&fixture))).unwrap();
        assert_eq!(names_in(fixture.destination_directory()), [""; 0]);
    };
    symlink(&target, part(&fixture)).unwrap();
    refuse("it is not a regular file");
    symlink("nothing", part(&fixture)).unwrap();
    refuse("it is not a regular file");
    make_fifo(&part(&fixture));
    refuse("it is not a regular file");
    fs::create_dir(part(&fixture)).unwrap();
    refuse("it is not a regular file");
    fs::write(elsewhere.path().join("other"), "").unwrap();
    if fs::hard_link(&target, part(&fixture)).is_ok() {
        refuse("it has other names, too");
    }
    if is_root() {
        keep(&fixture, b"bytes");
        std::os::unix::fs::chown(part(&fixture), Some(12345), None).unwrap();
        refuse("it belongs to another user");
    }
}

#[test]
fn a_second_client_of_the_same_file_goes_on_without_resume() {
    let fixture = large(1000);
    let mut first = fixture.client(fixture.port(), &["--resume", "--wait=1h"]);
    first.wait_for_line("waiting for");
    let server = fixture.server(&["--clients=2"]);
    let second = run(&mut fixture.client_command(server.port, &["--resume"]));
    assert_eq!(second.status, 0, "{second:?}");
    let note = "destination.txt: another client receives it with --resume; this one keeps no part\n";
    // The first one may have been faster.
    let first = first.finish();
    assert!(second.stderr().contains(note) || first.status == 0, "{second:?}");
    assert_eq!((first.status, server.finish().status), (0, 0), "{first:?}");
    fixture.assert_replaced();
}

#[test]
fn without_resume_a_part_is_left_alone_and_mentioned() {
    let fixture = large(1000);
    keep(&fixture, b"kept");
    let outcome = fixture.transfer(&[], &[]);
    outcome.assert_statuses(0, 0);
    let note = "destination.txt.half-close-part stays as it is; with --resume a client goes on from there\n";
    assert!(outcome.client.stderr().contains(note), "{outcome:?}");
    assert_file(&part(&fixture), b"kept");
}

#[test]
fn a_descriptor_of_a_file_has_no_part() {
    let fixture = large(1000);
    let client = fixture.client_command(fixture.port(), &["--resume", "--output", "/dev/fd/3"]);
    let client = run(&mut after("exec 3> opened", &client));
    let error = "file-client: --resume is for regular files, and /dev/fd/3 is written directly";
    assert_eq!((client.status, client.errors()), (1, vec![error.to_owned()]));
}

#[test]
fn the_file_gets_the_rights_of_the_one_that_it_replaces() {
    let fixture = large(1000).with_old();
    fs::set_permissions(fixture.destination(), fs::Permissions::from_mode(0o640)).unwrap();
    keep(&fixture, &fixture.bytes()[..500]);
    let part = fs::metadata(part(&fixture)).unwrap().ino();
    resume(&fixture, &[]);
    let stored = fs::metadata(fixture.destination()).unwrap();
    assert_eq!((stored.permissions().mode() & 0o7777, stored.ino()), (0o640, part));
    let client = run(&mut fixture.client_command(fixture.port(), &["--resume", "--no-clobber"]));
    assert_eq!(
        client.last_line(),
        "file-client: could not write destination.txt: file exists, and --no-clobber keeps it"
    );
}

#[test]
fn with_wait_a_client_comes_back_by_itself() {
    let fixture = large(3 * MIB);
    let server = fixture.server(&[]);
    let relay = Relay::start(server.port, &[MIB, MIB, 3000, 0, MIB / 2]);
    let client = run(&mut fixture.client_command(relay.port, &["--resume", "--wait=1h"]));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?}\n{server:?}");
    fixture.assert_replaced();
    assert!(client.stderr().contains("; trying again\n"), "{client:?}");
    assert_eq!(client.errors(), [""; 0]);
    assert_eq!(server.errors(), [""; 0]);
    assert_eq!(relay.counts().len(), 6);
}

/// Takes all that the server sends in one connection, forwards as many bytes of it, and ends both halves with FIN, as a
/// tunnel whose other end is gone may do.
fn swallow(server: u16, limit: usize) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let (mut buffer, mut left) = (vec![0; 64 * 1024], limit);
        while let Ok(arrived @ 1..) = server.read(&mut buffer) {
            let forwarded = arrived.min(left);
            client.write_all(&buffer[..forwarded]).unwrap();
            left -= forwarded;
        }
        let _ = server.shutdown(Shutdown::Write);
        let _ = client.shutdown(Shutdown::Write);
    });
    port
}

#[test]
fn a_break_after_the_server_has_sent_everything_is_one_too() {
    let fixture = large(3 * MIB);
    let server = fixture.server(&[]);
    let tunnel = swallow(server.port, 1024 * 1024);
    let client = run(&mut fixture.client_command(tunnel, &["--resume"]));
    assert_eq!(client.status, 1, "{client:?}");
    let client = run(&mut fixture.client_command(server.port, &["--resume"]));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?}\n{server:?}");
    assert!(server.stderr().contains(": broke off after 3.0 MiB of 3.0 MiB; it may come back\n"), "{server:?}");
    fixture.assert_replaced();
}

#[test]
fn with_wait_a_client_outlives_its_server() {
    let fixture = large(3 * MIB);
    let server = fixture.server(&[]);
    let relay = Relay::start(server.port, &ALWAYS_BREAKS);
    let mut client = fixture.client(relay.port, &["--resume", "--wait=1h"]);
    client.wait_for_line("could not receive all of destination.txt");
    server.interrupt(Signal::KILL);
    let server = fixture.server(&[]);
    *relay.server.lock().unwrap() = server.port;
    relay.breaks.lock().unwrap().clear();
    let client = client.finish();
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

#[test]
fn the_time_before_the_first_break_is_not_that_for_the_server_to_come_back() {
    let fixture = large(3 * MIB);
    let server = fixture.server(&[]);
    // Behind the handshake, in the first record of the file.
    let fault = Fault { direction: Direction::ToClient, at: 3_000, effect: Effect::Stall };
    let stalled = Proxy::start(server.port, Some(fault));
    let client = fixture.client(stalled.port, &["--resume", "--wait=1s"]);
    stalled.wait_until_reached();
    thread::sleep(Duration::from_millis(1100));
    // Resets it.
    drop(stalled);
    let client = client.finish();
    assert!(client.status == 1 && client.stderr().contains("; trying again\n"), "{client:?}");
}

#[test]
fn a_client_gives_up_when_nothing_has_arrived_for_as_long_as_it_waits() {
    let fixture = large(3 * MIB);
    let server = fixture.server(&[]);
    let relay = Relay::start(server.port, &ALWAYS_BREAKS);
    let mut client = fixture.client(relay.port, &["--resume", "--wait=1s"]);
    client.wait_for_line("could not receive all of destination.txt");
    server.interrupt(Signal::KILL);
    let client = client.finish();
    assert_eq!(client.status, 1);
    assert!(client.last_line().ends_with(" are kept for --resume"), "{client:?}");
}

#[test]
fn each_place_of_a_server_is_for_one_client_however_often_it_breaks_off() {
    let fixture = large(3 * MIB);
    let server = fixture.server(&["--clients=2"]);
    let relay = Relay::start(server.port, &[MIB, MIB, MIB]);
    let elsewhere = large(0);
    let clients = [&fixture, &elsewhere].map(|at| at.client(relay.port, &["--resume", "--wait=1h"]));
    for client in clients.map(Running::finish) {
        assert_eq!(client.status, 0, "{client:?}");
    }
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert!(server.stderr().contains("clients: 2, 2 confirmed, 0 not confirmed, 0 failed\n"), "{server:?}");
    fixture.assert_replaced();
    assert_file(&elsewhere.destination(), fixture.bytes());
}

#[test]
fn a_source_that_fails_counts_as_ever() {
    let fixture = large(1000);
    let server = fixture.server(&["--", "sh", "-c", "echo half; exit 1"]);
    let client = run(&mut fixture.client_command(server.port, &["--resume"]));
    assert_eq!((client.status, server.finish().status), (1, 1), "{client:?}");
}

/// How both end if the first connection breaks, and the server waits for another client at the end.
fn after_a_break(server: &[&str], client: &[&str]) -> Outcome {
    let fixture = large(3 * MIB);
    let server = fixture.server(server);
    let relay = Relay::start(server.port, &[MIB]);
    let client = run(&mut fixture.client_command(relay.port, &[&["--resume"], client].concat()));
    Outcome { client, server: server.finish() }
}

#[test]
fn a_server_that_waits_for_one_more_client_does_not_wait_for_one_that_came_back() {
    let outcome = after_a_break(&["--clients=2", "--wait=10s"], &["--wait=1h"]);
    outcome.assert_statuses(0, 1);
    assert_eq!(outcome.server.errors(), ["file-server: no other client connected within 10s"]);
}

#[test]
fn a_part_holds_no_more_room_than_its_bytes() {
    let fixture = large(1000);
    keep(&fixture, b"kept");
    let occupied = |part: PathBuf| fs::metadata(part).unwrap().blocks() * 512;
    let size = (20 * MIB).to_string();
    let client = run(&mut fixture.client_command(fixture.port(), &["--resume", "--size", &size]));
    assert_eq!(client.status, 1, "{client:?}");
    assert!(occupied(part(&fixture)) < MIB, "{}", occupied(part(&fixture)));

    // This file system takes all that it has before it refuses.
    let Some(disk) = is_root().then(|| Mounted::image("ext4", 64)).flatten() else { return };
    let fixture = large(1000).stored_in(disk.path());
    keep(&fixture, b"kept");
    let size = (100 * MIB).to_string();
    let client = run(&mut fixture.client_command(fixture.port(), &["--resume", "--size", &size]));
    let error = "file-client: could not write destination.txt: no space left on device";
    assert_eq!((client.status, client.errors()), (1, vec![error.to_owned()]));
    assert!(occupied(part(&fixture)) < MIB, "{}", occupied(part(&fixture)));
}

#[test]
fn a_part_that_does_not_get_its_name_is_this_users_alone_again() {
    if !is_root() {
        return;
    }
    let fixture = large(3 * MIB).with_old();
    chown(fixture.destination(), Some(1), Some(1)).unwrap();
    fs::set_permissions(fixture.destination(), fs::Permissions::from_mode(0o666)).unwrap();
    let fault = Fault { direction: Direction::ToClient, at: MIB, effect: Effect::Stall };
    let transfer = fixture.start(fault, &["--until-stored"], &["--resume"]);
    transfer.wait_for_fault();
    fs::remove_file(fixture.destination()).unwrap();
    fs::create_dir(fixture.destination()).unwrap();
    transfer.release();
    let client = transfer.client.finish();
    assert_eq!(client.status, 1, "{client:?}");
    let found = fs::metadata(part(&fixture)).unwrap();
    assert_eq!((found.uid(), found.permissions().mode() & 0o7777), (0, 0o600));
    fs::remove_dir(fixture.destination()).unwrap();
    transfer.server.interrupt(Signal::TERM);
    let server = fixture.server(&[]);
    let client = run(&mut fixture.client_command(server.port, &["--resume"]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_file(&fixture.destination(), fixture.bytes());
}

#[test]
fn a_client_waits_for_a_server_behind_a_port_that_is_open_before_it() {
    let fixture = large(MIB);
    let relay = Relay::start(0, &[]);
    let mut client = fixture.client(relay.port, &["--resume", "--wait=1h"]);
    // The reset comes while it connects, or later.
    let first = client.wait_for_line("");
    assert!(first.ends_with("; trying again"), "{first}");
    let server = fixture.server(&[]);
    *relay.server.lock().unwrap() = server.port;
    let client = client.finish();
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

/// A network file system may fail in the words of a connection.
#[test]
fn a_source_that_times_out_is_not_a_client_that_may_come_back() {
    let fixture = large(3 * MIB);
    let log = fixture.source_directory().join("log");
    let injection = Injection { call: "pread64".to_owned(), number: 20, effect: "error=ETIMEDOUT".to_owned() };
    let Some(mut server) = traced(&fixture.server_command(&[]), &log, Some(&injection)) else { return };
    let server = Server::start(&mut server);
    let client = run(&mut fixture.client_command(server.port, &["--resume"]));
    let server = server.finish();
    assert_eq!((client.status, server.status), (1, 1), "{client:?}\n{server:?}");
    assert!(server.errors()[0].contains("could not read des.txt: "), "{server:?}");
}

#[test]
fn a_stream_that_broke_off_is_not_offered_again_from_its_middle() {
    let fixture = large(3 * MIB);
    let (input, mut producer) = std::io::pipe().unwrap();
    let mut command = fixture.server_command(&["--file=-"]);
    let server = common::Server::start(command.stdin(input));
    drop(command);
    let bytes = fixture.bytes().to_vec();
    // Fails when the server ends.
    thread::spawn(move || producer.write_all(&bytes));
    let relay = Relay::start(server.port, &[MIB]);
    let client = run(&mut fixture.client_command(relay.port, &["--resume"]));
    let server = server.finish();
    assert_eq!((client.status, server.status), (1, 1), "{client:?}\n{server:?}");
    assert!(!server.stderr().contains("may come back"), "{server:?}");
}

#[test]
fn a_part_that_was_removed_meanwhile_is_not_published_nor_what_has_its_name() {
    let fixture = large(3 * MIB);
    let fault = Fault { direction: Direction::ToClient, at: MIB, effect: Effect::Stall };
    for other in [None, Some("of another client")] {
        let transfer = fixture.start(fault, &["--until-stored"], &["--resume"]);
        transfer.wait_for_fault();
        wait_until("a part", || part(&fixture).exists());
        fs::remove_file(part(&fixture)).unwrap();
        if let Some(other) = other {
            fs::write(part(&fixture), other).unwrap();
        }
        transfer.release();
        let client = transfer.client.finish();
        assert_eq!(client.status, 1, "{client:?}");
        assert!(client.errors()[0].ends_with("its part was removed or replaced"), "{client:?}");
        assert!(!fixture.destination().exists());
        let names = names_in(fixture.destination_directory());
        assert_eq!(names.len(), usize::from(other.is_some()), "{names:?}");
        transfer.server.interrupt(Signal::TERM);
    }
}

/// What another program leaves of a part never becomes a file with zeros in it, or with bytes that the server has not sent.
#[test]
fn a_part_that_another_program_changes_meanwhile_is_not_published() {
    let fixture = large(3 * MIB);
    for (size, at) in [(0, 0), (0, MIB), (fixture.size() + 1, MIB)] {
        keep(&fixture, &fixture.bytes()[..1_000_000]);
        let fault = Fault { direction: Direction::ToClient, at, effect: Effect::Stall };
        let transfer = fixture.start(fault, &["--until-stored"], &["--resume"]);
        transfer.wait_for_fault();
        if at > 0 {
            let has_grown = || part(&fixture).metadata().is_ok_and(|part| part.len() > 1_000_000);
            wait_until("bytes behind those that were kept", has_grown);
        }
        File::options().write(true).open(part(&fixture)).unwrap().set_len(size).unwrap();
        transfer.release();
        let client = transfer.client.finish();
        assert_eq!(client.status, 1, "{size} {at}: {client:?}");
        let error = "file-client: could not write destination.txt: another program has changed what had arrived";
        assert!(client.errors()[0].starts_with(error), "{client:?}");
        assert!(!fixture.destination().exists());
        transfer.server.interrupt(Signal::TERM);
        let _ = fs::remove_file(part(&fixture));
    }
}

#[test]
fn a_part_that_became_shorter_between_two_attempts_is_read_again() {
    let fixture = large(BLOCK + 17 * MIB);
    let server = fixture.server(&[]);
    let mut breaks = ALWAYS_BREAKS;
    breaks[0] = BLOCK + 16 * MIB;
    let relay = Relay::start(server.port, &breaks);
    let mut client = fixture.client(relay.port, &["--resume", "--wait=1h"]);
    // By the third time the first block is known.
    for _ in 0..3 {
        client.wait_for_line("could not receive");
    }
    let part = File::options().write(true).open(part(&fixture)).unwrap();
    assert!(part.metadata().unwrap().len() > BLOCK);
    part.set_len(MIB).unwrap();
    // The first of them may have begun before.
    let attempts = relay.counts().len();
    wait_until("two more attempts", || relay.counts().len() >= attempts + 2);
    relay.breaks.lock().unwrap().clear();
    let client = client.finish();
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

#[test]
fn a_part_that_others_can_read_is_this_users_alone_before_anything_arrives() {
    let fixture = large(3 * MIB);
    keep(&fixture, b"");
    fs::set_permissions(part(&fixture), fs::Permissions::from_mode(0o666)).unwrap();
    let fault = Fault { direction: Direction::ToClient, at: MIB, effect: Effect::Stall };
    let transfer = fixture.start(fault, &["--until-stored"], &["--resume"]);
    transfer.wait_for_fault();
    assert_eq!(part(&fixture).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    transfer.client.interrupt(Signal::TERM);
    transfer.server.interrupt(Signal::TERM);
}

#[test]
fn a_server_says_that_no_client_came_back() {
    // It also waits that long for the first client.
    let outcome = after_a_break(&["--until-stored", "--wait=20s"], &[]);
    outcome.assert_statuses(1, 1);
    assert_eq!(outcome.server.errors(), ["file-server: no client came back within 20s"]);
}

/// Whatever call on the part fails.
#[test]
fn no_descriptor_that_is_missing_makes_a_mixture_of_a_part_and_the_file() {
    let fixture = large(1000);
    for number in 1.. {
        keep(&fixture, &content(3000, 5));
        let server = fixture.server(&["--until-stored"]);
        let log = fixture.source_directory().join("log");
        let injection = Injection { call: "openat".to_owned(), number, effect: "error=EMFILE".to_owned() };
        let client = fixture.client_command(server.port, &["--resume", "--size=1000"]);
        let Some(client) = traced(&client, &log, Some(&injection)) else { return };
        let client = run(&mut { client });
        server.interrupt(Signal::TERM);
        let is_injected = fs::read_to_string(log).unwrap().contains("(INJECTED)");
        assert!(is_injected || client.status == 0, "{client:?}");
        if client.status == 0 {
            assert_file(&fixture.destination(), fixture.bytes());
            fs::remove_file(fixture.destination()).unwrap();
        }
        assert!(!fixture.destination().exists(), "{number}: {client:?}");
        if !is_injected {
            assert!(number > 10);
            break;
        }
    }
}

/// The disk has refused bytes, in the words of a connection: to go on would be to believe what is in memory.
#[test]
fn a_disk_that_times_out_is_not_a_break() {
    let fixture = large(3 * MIB);
    let log = fixture.source_directory().join("log");
    let injection = Injection { call: "fdatasync".to_owned(), number: 1, effect: "error=ETIMEDOUT".to_owned() };
    let server = fixture.server(&["--until-stored"]);
    let client = fixture.client_command(server.port, &["--resume", "--wait=60s"]);
    let Some(mut client) = traced(&client, &log, Some(&injection)) else { return };
    let client = run(&mut client);
    assert_eq!(client.status, 1, "{client:?}");
    assert!(client.errors()[0].contains("could not write destination.txt: "), "{client:?}");
    assert!(!fixture.destination().exists());
    server.interrupt(Signal::TERM);
}

#[test]
fn a_part_that_is_longer_than_what_is_expected_is_an_error_and_stays() {
    let fixture = large(3000);
    keep(&fixture, fixture.bytes());
    let server = fixture.server(&["--until-stored"]);
    let client = run(&mut fixture.client_command(server.port, &["--resume", "--size=2000"]));
    let error = "file-client: could not store destination.txt: it is larger than the expected 2000 bytes; 2.9 KiB are \
                 kept for --resume";
    assert_eq!((client.status, client.errors()), (1, vec![error.to_owned()]));
    assert_file(&part(&fixture), fixture.bytes());
    server.interrupt(Signal::TERM);
}

#[test]
fn a_descriptor_that_is_missing_never_keeps_a_client_from_ending() {
    for limit in 4..=16 {
        let fixture = large(1000);
        let client = fixture.client_command(1, &["--resume", "--wait=0s"]);
        // There is no server, and with few descriptors the shell or the loader may have none.
        let client = run(&mut with_open_files(limit, &client));
        assert_ne!(client.status, 0, "{limit}: {client:?}");
        assert!(names_in(fixture.destination_directory()).is_empty(), "{limit}: {client:?}");
    }
}

/// What is in memory is not evidence of what is on the disk: pages that it did not take look as if it had.
#[test]
fn what_a_disk_has_not_taken_is_sent_again() {
    let (Some(make), true) = (installed("mkfs.ext4"), is_root() && has_loop_device()) else { return };
    let below = Mounted::new("tmpfs", "size=8m");
    let image = below.path().join("image");
    fs::File::create(&image).unwrap().set_len(64 * MIB).unwrap();
    succeed(Command::new(make).args(["-q", "-N", "16", "-O", "^has_journal"]).arg(&image));
    let disk = Mounted::with("mount", &["-o", "loop", image.to_str().unwrap()], directory());
    let fixture = large(30 * MIB).stored_in(disk.path());
    let server = fixture.server(&["--until-stored"]);
    let client = run(&mut fixture.client_command(server.port, &["--resume"]));
    assert_eq!(client.status, 1, "{client:?}");
    // Before Linux 6.15 every error of a loop device is EIO.
    let refusals =
        ["no space left on device", "input/output error"].map(|it| format!("could not write destination.txt: {it}"));
    assert!(refusals.iter().any(|refusal| client.errors()[0].contains(refusal)), "{client:?}");

    succeed(Command::new("mount").args(["-o", "remount,size=100m"]).arg(below.path()));
    // What was written behind the first error may be reported to the next one that opens the file (fsync(2)).
    let is_stored = || run(&mut fixture.client_command(server.port, &["--resume"])).status == 0;
    assert!((0..5).any(|_| is_stored()));
    assert_eq!(server.finish().status, 0);
    let stored = fs::File::open(fixture.destination()).unwrap();
    fadvise(&stored, 0, None, Advice::DontNeed).unwrap();
    fixture.assert_replaced();
}

#[test]
fn a_stall_anywhere_in_the_handshake_or_the_agreement_ends_in_time_and_keeps_the_part() {
    let check = |direction, at| {
        let fixture = large(2000);
        keep(&fixture, &fixture.bytes()[..1000]);
        let fault = Fault { direction, at, effect: Effect::Stall };
        let transfer = fixture.start(fault, &["--timeout=3s"], &["--resume", "--timeout=3s"]);
        let client = transfer.client.finish();
        if client.status == 0 {
            assert_file(&fixture.destination(), fixture.bytes());
        } else {
            assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
            let kept = fs::read(part(&fixture)).unwrap();
            assert!(kept.len() >= 1000 && fixture.bytes().starts_with(&kept), "{direction:?} at {at}: {client:?}");
            assert!(!fixture.destination().exists());
        }
        transfer.server.interrupt(Signal::TERM);
    };
    thread::scope(|scope| {
        for at in (100..1500).step_by(100) {
            scope.spawn(move || check(Direction::ToServer, at));
            scope.spawn(move || check(Direction::ToClient, at));
        }
    });
}
