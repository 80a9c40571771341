//! `--encrypt`, `--key`, `--key-file` and the environment's key: who gets the file, what can be done to it on the way, and
//! what each side says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::files::{open_for_writing, overwrite_first_byte};
use common::fixture::{Dials, EITHER_DIALS, KEY, OTHER_KEY};
use common::messages::{assert_confirmations, no_progress, received, too_short};
use common::network::{Listener, connect, reset};
use common::processes::{Pid, small_pipe, with_open_files};
use common::proxy::{Direction, Effect, Fault, Proxy};
use common::random::Random;
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Outcome, Running, Server, Signal, directory, file_server, installed, names_in,
    program, run,
};
use half_close::protocol::Key;

const MEGABYTE: usize = 1_000_000;

/// More than the kernels of both sides buffer while the client reads little.
const NOT_QUEUED: usize = 20 * MEGABYTE;

const ANOTHER_KEY: &str = "could not receive destination.txt: the server has another key";
const CUT: &str = "the connection was cut before the end of the file";
const CHANGED: &str = "what arrived was changed on the way";

/// Runs both programs to their ends with the fault between them.
fn transfer_through(fixture: &Fixture, direction: Direction, at: u64, effect: Effect) -> Outcome {
    let fault = Fault { direction, at, effect };
    fixture.start(fault, &["--timeout=10s"], &["--timeout=10s"]).finish_or_use_up()
}

/// Bytes that go to the client and to the server in a transfer.
fn bytes_on_the_wire(fixture: &Fixture) -> [u64; 2] {
    recorded(fixture).map(|bytes| bytes.len() as u64)
}

/// What goes to the client and to the server in a transfer.
fn recorded(fixture: &Fixture) -> [Vec<u8>; 2] {
    let server = fixture.server(&[]);
    let proxy = Proxy::recorder(server.port);
    let elsewhere = directory();
    let mut client = program(FILE_CLIENT, elsewhere.path(), &["127.0.0.1", &proxy.port.to_string()]);
    assert_eq!(run(client.env("HALF_CLOSE_KEY", KEY)).status, 0);
    server.finish();
    proxy.recording()
}

/// The bits of a recording that have no meaning, as (byte, bit): the second byte of a record's version (RFC 8446
/// section 5.1), and in the type of an encrypted record the two bits that make it one of a handshake or of an alert. The
/// type that counts is encrypted (section 5.2).
fn ignored_bits(recording: &[u8]) -> Vec<(u64, u8)> {
    const ENCRYPTED: u8 = 23;
    let mut header = 0;
    let mut ignored = Vec::new();
    while let Some(&[kind, _, _, high, low]) = recording.get(header..header + 5) {
        let at = header as u64;
        ignored.extend((0..8).map(|bit| (at + 2, bit)));
        if kind == ENCRYPTED {
            ignored.extend([(at, 0), (at, 1)]);
        }
        header += 5 + usize::from(u16::from_be_bytes([high, low]));
    }
    ignored
}

#[test]
fn a_new_key_is_printed_and_the_printed_command_asks_for_it() {
    for quiet in [&[][..], &["--quiet"]] {
        let fixture = Fixture::of_size(1000);
        let arguments = [&["--encrypt"], quiet].concat();
        let mut server = Server::start(&mut file_server(fixture.source_directory(), 0, &arguments));
        let key = server.running.wait_for_line("key: ");
        assert_eq!(key.parse::<Key>().unwrap().text(), key);
        let mut client = fixture.client_command(server.port, &[]);
        if quiet.is_empty() {
            let heading = "to fetch the file, type on this machine, and then the key:";
            assert_eq!(server.running.wait_for_line(heading), "");
            let command = server.running.wait_for_line("  file-client ");
            assert_eq!(command, format!("--key-file - 127.0.0.1 {} --size 1000", server.port));
            let words: Vec<_> = command.split(' ').collect();
            client = program(FILE_CLIENT, fixture.destination_directory(), &words);
        }
        let client = with_input(&mut client, if quiet.is_empty() { &key } else { "" }, &key);
        let outcome = Outcome { client, server: server.finish() };
        outcome.assert_stored();
        assert!(!outcome.server.stderr().contains("nc "), "{outcome:?}");
        fixture.assert_replaced();
    }
}

/// Runs the client with a line on standard input, or else the key in its environment.
fn with_input(client: &mut Command, line: &str, key: &str) -> common::Finished {
    if line.is_empty() {
        return run(client.env("HALF_CLOSE_KEY", key));
    }
    let input = directory();
    let file = input.path().join("line");
    fs::write(&file, format!("{line}\n")).unwrap();
    run(client.stdin(fs::File::open(file).unwrap()))
}

#[test]
fn a_key_may_be_given_in_each_way_on_either_side() {
    let typed = KEY.to_uppercase().replace('-', " ");
    let keys = directory();
    let file = keys.path().join("key");
    fs::write(&file, format!("{typed}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let file = file.to_str().unwrap();
    let give = |command: &mut Command, way| {
        match way {
            0 => command.args(["--key", KEY]),
            1 => command.args(["--key-file", file]),
            2 => command.args(["--key-file", "-"]).stdin(fs::File::open(file).unwrap()),
            _ => command.env("HALF_CLOSE_KEY", &typed),
        };
    };
    for way in 0..4 {
        let fixture = Fixture::of_size(1000);
        let mut server = fixture.server_command(&[]);
        give(&mut server, way);
        let server = Server::start(&mut server);
        let mut client = fixture.client_command(server.port, &[]);
        give(&mut client, 3 - way);
        Outcome { client: run(&mut client), server: server.finish() }.assert_stored();
        fixture.assert_replaced();
    }
}

#[test]
fn a_key_that_is_wrong_or_given_twice_is_exit_2_before_anything_and_stands_in_no_error() {
    let listener = Listener::new();
    let port = listener.port().to_string();
    let typo = KEY.replace("jdvz", "jdvx");
    let here = directory();
    fs::write(here.path().join("typo"), &typo).unwrap();
    fs::write(here.path().join("empty"), "").unwrap();
    for (arguments, variable) in [
        (&["--key", &typo][..], None),
        (&["--key", "secret"], None),
        (&["--key", ""], None),
        (&["--key", KEY, "--key-file", "typo"], None),
        (&["--key-file", "typo"], None),
        (&["--key-file", "empty"], None),
        (&["--key-file", "missing"], None),
        (&["--key-file", "."], None),
        (&["--key-file", "-"], None),
        (&[], Some(typo.as_str())),
        (&[], Some("")),
        (&["--encrypt", KEY], None),
        (&[KEY], None),
        (&["--kye", KEY], None),
    ] {
        for (path, place) in [(FILE_CLIENT, &["127.0.0.1", &port][..]), (FILE_SERVER, &["0"])] {
            let mut command = program(path, here.path(), &[place, arguments].concat());
            variable.map(|variable| command.env("HALF_CLOSE_KEY", variable));
            let finished = run(&mut command);
            assert_eq!(finished.status, 2, "{arguments:?}: {finished:?}");
            assert_eq!(finished.errors().len(), 1, "{finished:?}");
            let printed = finished.stderr().to_lowercase();
            assert!(!printed.contains("jdv") && !printed.contains("secret"), "{printed}");
        }
    }
    for other in [&["--key", KEY][..], &["--key-file", "typo"]] {
        let arguments = [&["0", "--encrypt"], other].concat();
        assert_eq!(run(&mut program(FILE_SERVER, here.path(), &arguments)).status, 2);
    }
    assert_eq!(names_in(here.path()), ["empty", "typo"]);
    listener.assert_unused();
    for path in [FILE_CLIENT, FILE_SERVER] {
        let help = run(program(path, here.path(), &["--help"]).env("HALF_CLOSE_KEY", KEY)).stdout();
        assert!(help.contains("HALF_CLOSE_KEY") && !help.contains(KEY), "{help}");
    }
}

#[test]
fn strangers_do_not_count_and_each_is_told_of_in_one_line() {
    let fixture = Fixture::of_size(1000).with_old();
    let mut server = fixture.server(&["--key", KEY]);
    let port = server.port;
    let mut expect = |stranger: &str, reason: &str| {
        let line = server.running.wait_for_line(&format!("{stranger}: refused: "));
        assert_eq!(line, reason);
    };
    let name = |connection: &TcpStream| connection.local_addr().unwrap().to_string();

    let idle = connect(port);
    let (scanner, rude, talker, half) = (connect(port), connect(port), connect(port), connect(port));
    let (scanner_name, rude_name, half_name) = (name(&scanner), name(&rude), name(&half));
    drop(scanner);
    expect(&scanner_name, "it closed the connection without a handshake");
    reset(rude);
    expect(&rude_name, "it closed the connection without a handshake");
    (&talker).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    expect(&name(&talker), "the client does not encrypt");
    assert_not_a_byte(&talker);
    half.shutdown(Shutdown::Write).unwrap();
    expect(&half_name, "it closed the connection without a handshake");

    let wrong = run(&mut fixture.client_command(port, &["--key", OTHER_KEY]));
    assert_eq!((wrong.status, wrong.stderr()), (1, format!("file-client: {ANOTHER_KEY}\n")));
    let line = server.running.wait_for_line("127.0.0.1:");
    assert!(line.ends_with(": refused: the client has another key"), "{line}");
    assert!(!fixture.is_stored());

    let client = fixture.client(port, &["--key", KEY]).finish();
    Outcome { client, server: server.finish() }.assert_stored();
    fixture.assert_replaced();
    assert_not_a_byte(&idle);
}

/// Fails if more than an alert of TLS arrives before the end.
fn assert_not_a_byte(mut connection: &TcpStream) {
    let mut arrived = Vec::new();
    let _ = connection.read_to_end(&mut arrived);
    assert!(arrived.len() <= 7 && arrived.first().is_none_or(|&kind| kind == 21), "{arrived:?}");
}

#[test]
fn a_byte_from_time_to_time_does_not_prolong_a_handshake() {
    let fixture = Fixture::of_size(1000);
    let mut server = fixture.server(&["--key", KEY, "--timeout=8s"]);
    let mut slow = connect(server.port);
    // The start of a record of 512 bytes with a ClientHello of 508.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[0; 501]].concat();
    let sent = hello.iter().take_while(|&&byte| {
        thread::sleep(Duration::from_millis(100));
        slow.write_all(&[byte]).is_ok()
    });
    let sent = sent.count();
    assert!(sent < hello.len(), "it was still waited for");
    let line = server.running.wait_for_line("127.0.0.1:");
    assert!(line.contains(": refused: no handshake within 8s"), "{line}");
    let client = fixture.client(server.port, &["--key", KEY]).finish();
    Outcome { client, server: server.finish() }.assert_stored();
}

#[test]
fn a_handshake_has_ten_seconds_whatever_the_timeout() {
    let mut server = Fixture::of_size(1000).server(&["--key", KEY, "--timeout=0s"]);
    let stranger = connect(server.port);
    let line = server.running.wait_for_line(&format!("{}: refused: ", stranger.local_addr().unwrap()));
    assert_eq!(line, "no handshake within 10s; it may still ask for its key");
}

#[test]
fn idle_strangers_keep_nothing_from_the_client() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let fixture = Fixture::of_size(1000);
    let server = fixture.server(&["--key", KEY]);
    let strangers: Vec<_> = (0..300).map(|_| connect(server.port)).collect();
    let client = fixture.client(server.port, &["--key", KEY]).finish();
    Outcome { client, server: server.finish() }.assert_stored();
    drop(strangers);
}

/// None of them is ever given up on for its silence.
#[test]
fn more_idle_strangers_than_descriptors_keep_nothing_from_the_client() {
    let fixture = Fixture::of_size(1000);
    let server = fixture.server_command(&["--key", KEY, "--timeout=0s"]);
    let mut server = Server::start(&mut with_open_files(32, &server));
    let strangers: Vec<_> = (0..30).map(|_| connect(server.port)).collect();
    let client = fixture.client(server.port, &["--key", KEY]).finish();
    let line = server.running.wait_for_line("127.0.0.1:");
    assert!(line.ends_with(": refused: no handshake while connections were short"), "{line}");
    Outcome { client, server: server.finish() }.assert_stored();
    drop(strangers);
}

#[test]
fn allow_comes_before_the_handshake() {
    let fixture = Fixture::of_size(1000).encrypted();
    let mut server = fixture.server(&["--allow=192.0.2.1"]);
    let client = fixture.client(server.port, &[]).finish();
    assert_eq!(client.status, 1, "{client:?}");
    let line = server.running.wait_for_line("127.0.0.1:");
    assert!(line.ends_with(": refused, 127.0.0.1 is not in --allow"), "{line}");
    assert!(!fixture.is_stored());
}

#[test]
fn several_clients_are_served_and_counted_without_the_strangers() {
    let fixture = Fixture::of_size(MEGABYTE).encrypted();
    let server = fixture.server(&["--clients=3"]);
    drop(connect(server.port));
    let clients: Vec<_> =
        (0..3).map(|number| fixture.client(server.port, &[&format!("--output={number}"), "--timeout=60s"])).collect();
    for client in clients {
        let client = client.finish();
        assert_eq!(client.status, 0, "{client:?}");
    }
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert_eq!(server.last_line(), "clients: 3, 3 confirmed, 0 not confirmed, 0 failed");
}

#[test]
fn a_key_at_one_side_only_stores_nothing_and_is_named() {
    let fixture = Fixture::of_size(1000).with_old();
    let server = fixture.server(&["--key", KEY]);
    let plain = fixture.client(server.port, &["--timeout=1s"]).finish();
    let reason = format!("{}; the server may be waiting for --key", no_progress(1));
    assert_eq!(plain.stderr(), format!("file-client: could not receive all of destination.txt: {reason}\n"));
    assert_eq!(plain.status, 1);
    assert!(!fixture.is_stored());
    server.interrupt(Signal::TERM);
    // The server is the first to give up.
    let server = fixture.server(&["--key", KEY, "--timeout=1s"]);
    let plain = fixture.client(server.port, &[]).finish();
    let reason = "the server gave up; it may be waiting for --key, or not serve this address";
    assert_eq!(plain.stderr(), format!("file-client: could not receive all of destination.txt: {reason}\n"));
    assert!(!fixture.is_stored());
    server.interrupt(Signal::TERM);

    let server = fixture.server(&[]);
    let client = fixture.client(server.port, &["--key", KEY]).finish();
    let reason = "the server does not encrypt";
    assert_eq!(client.stderr(), format!("file-client: could not receive destination.txt: {reason}\n"));
    assert!(!fixture.is_stored());
    assert_ne!(server.finish().status, 0);

    let server = fixture.server(&[]);
    let mut encrypting = connect(server.port);
    encrypting.write_all(b"\x16\x03\x01\x00\xc8").unwrap();
    assert_eq!(encrypting.read_to_end(&mut Vec::new()).unwrap(), 1000);
    drop(encrypting);
    let server = server.finish();
    let line = "sent 1000 bytes of des.txt, not confirmed: the client encrypts, but this server was given no key\n";
    assert!(server.stderr().ends_with(line), "{server:?}");
    assert_eq!((server.status, server.stdout()), (3, String::new()));

    let silent = Listener::new();
    let client = fixture.client(silent.port(), &["--key", KEY, "--timeout=1s"]).finish();
    let reason = "no handshake within 1s; the server may not encrypt, still ask for its key, or serve another client";
    assert_eq!(client.stderr(), format!("file-client: could not receive destination.txt: {reason}\n"));
    let client = fixture.client(silent.port(), &["--key", KEY]);
    drop(silent.accept());
    silent.accept().shutdown(Shutdown::Write).unwrap();
    let client = client.finish();
    let reason = "the server ended the connection before the handshake; it may not encrypt, or not serve this address";
    assert_eq!(client.stderr(), format!("file-client: could not receive destination.txt: {reason}\n"));
}

#[test]
fn a_wrong_key_of_any_kind_gets_and_stores_nothing() {
    let fixture = Fixture::of_size(1000).with_old();
    let mut random = Random::seeded();
    let server = fixture.server(&["--key", KEY]);
    for _ in 0..20 {
        // Each differs in a single bit of the 128, or in all of them.
        let key = if random.below(2) == 0 { Key::random().unwrap() } else { near(KEY, &mut random) };
        let client = fixture.client(server.port, &["--key", &key.text()]).finish();
        assert_eq!((client.status, client.stderr()), (1, format!("file-client: {ANOTHER_KEY}\n")));
        assert!(!fixture.is_stored());
    }
    let client = fixture.client(server.port, &["--key", KEY]).finish();
    Outcome { client, server: server.finish() }.assert_stored();
}

/// A key of which the text differs in one character, and in the last ones, by which that is found.
fn near(key: &str, random: &mut Random) -> Key {
    const ALPHABET: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let (prefix, _) = key.split_at(key.len() - 4);
    let position = usize::try_from(random.below(4)).unwrap();
    let mut changed = prefix.to_owned();
    changed.replace_range(position..=position, if &prefix[position..=position] == "7" { "8" } else { "7" });
    let ends = |end: usize| -> String {
        [end >> 15 & 31, end >> 10 & 31, end >> 5 & 31, end & 31]
            .map(|index| char::from(ALPHABET[index]))
            .iter()
            .collect()
    };
    (0..1 << 20).find_map(|end| format!("{changed}{}", ends(end)).parse().ok()).unwrap()
}

#[test]
fn one_flipped_bit_anywhere_is_found() {
    const ROUNDS: usize = 60;
    const AT_ONCE: usize = 4;
    let rounds = std::env::var("HALF_CLOSE_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let size = 40_000;
    let recorded = recorded(&Fixture::of_size(size).encrypted().settled());
    let ignored = &ignored_bits(&recorded[0]);
    let [to_client, to_server] = recorded.map(|bytes| bytes.len() as u64);
    let mut random = Random::seeded();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (mut random, next) = (random.fork(), &next);
            scope.spawn(move || {
                let fixture = Fixture::of_size(size).with_old().encrypted().settled();
                while next.fetch_add(1, Ordering::Relaxed) < rounds {
                    fixture.restore_old();
                    let bit = u8::try_from(random.below(8)).unwrap();
                    // Every other one in the handshake, which is shorter.
                    let limit = random.one_of(&[to_client, 700.min(to_client)]);
                    let at = random.below(limit);
                    let outcome = transfer_through(&fixture, Direction::ToClient, at, Effect::Flip(bit));
                    let is_stored = fixture.assert_truthful(&outcome);
                    assert_eq!(is_stored, ignored.contains(&(at, bit)), "bit {bit} at {at}: {outcome:?}");
                    assert_plain_words(&outcome);
                    // A bit without a meaning has stored the file.
                    fixture.restore_old();
                    let at = random.below(to_server);
                    let outcome = transfer_through(&fixture, Direction::ToServer, at, Effect::Flip(bit));
                    fixture.assert_truthful(&outcome);
                    assert_plain_words(&outcome);
                }
            });
        }
    });
}

#[test]
fn a_flipped_bit_that_has_no_meaning_changes_nothing() {
    let size = 40_000;
    let fixture = Fixture::of_size(size).with_old().encrypted().settled();
    let [to_client, _] = recorded(&fixture);
    let ignored = ignored_bits(&to_client);
    assert!(ignored.contains(&(2, 0)) && ignored.contains(&(to_client.len() as u64 - 24, 1)), "{ignored:?}");
    for (at, bit) in ignored {
        fixture.restore_old();
        transfer_through(&fixture, Direction::ToClient, at, Effect::Flip(bit)).assert_stored();
        fixture.assert_replaced();
    }
}

/// Fails if a text of the library reaches a user.
fn assert_plain_words(outcome: &Outcome) {
    let printed = [outcome.client.stderr(), outcome.server.stderr()].concat();
    for word in ["rustls", "http", "Alert", "Invalid", "certificate", "handshakefailure", "TLS"] {
        assert!(!printed.contains(word), "{printed}");
    }
}

#[test]
fn a_cut_with_fin_or_rst_at_any_byte_is_found() {
    const CUTS: u64 = 30;
    let size = 40_000;
    let [to_client, _] = bytes_on_the_wire(&Fixture::of_size(size).encrypted().settled());
    let at_once = |effect: Effect, seed: &mut Random| {
        let fixture = Fixture::of_size(size).with_old().encrypted().settled();
        for _ in 0..CUTS {
            fixture.restore_old();
            let limit = seed.one_of(&[to_client, 700.min(to_client)]);
            // The last bytes are those that count: the close_notify.
            let at = if seed.below(4) == 0 { to_client - 1 - seed.below(30) } else { seed.below(limit) };
            let outcome = transfer_through(&fixture, Direction::ToClient, at, effect);
            assert_eq!(outcome.client.status, 1, "{effect:?} at {at}: {outcome:?}");
            assert!(!fixture.assert_truthful(&outcome), "{effect:?} at {at}: {outcome:?}");
            assert_plain_words(&outcome);
        }
    };
    let mut random = Random::seeded();
    let (mut one, mut other) = (random.fork(), random.fork());
    thread::scope(|scope| {
        scope.spawn(|| at_once(Effect::Fin, &mut one));
        scope.spawn(|| at_once(Effect::Reset, &mut other));
    });
}

#[test]
fn what_went_wrong_on_the_way_is_said_in_plain_words() {
    let fixture = Fixture::of_size(4 * MEGABYTE).with_old().encrypted();
    for (effect, reason) in [(Effect::Fin, CUT), (Effect::Flip(3), CHANGED)] {
        let outcome = transfer_through(&fixture, Direction::ToClient, MEGABYTE as u64, effect);
        let expected = format!("file-client: could not receive all of destination.txt: {reason}\n");
        assert_eq!(outcome.client.stderr(), expected);
        assert_eq!((outcome.client.status, outcome.server.status), (1, 1), "{outcome:?}");
        assert!(!fixture.is_stored());
    }
    // More than is on the way at once.
    let fixture = Fixture::sparse(64 << 20).encrypted();
    let outcome = transfer_through(&fixture, Direction::ToClient, MEGABYTE as u64, Effect::Flip(0));
    // The alert that says so may be lost to the reset behind it.
    let reasons = [
        " of 64.0 MiB (the file was not stored there): what the client received was changed on the way",
        "; the file was not stored there",
        "; it has not said that they are stored",
    ];
    assert!(reasons.iter().any(|reason| outcome.server.errors()[0].ends_with(reason)), "{outcome:?}");
}

#[test]
fn a_lost_or_changed_reply_is_not_confirmed() {
    let [_, to_server] = bytes_on_the_wire(&Fixture::of_size(1000).encrypted());
    for (effect, reason) in [
        (Effect::Flip(0), "not confirmed: what arrived was changed on the way"),
        (Effect::Fin, "not confirmed: the connection was cut before the reply"),
        (Effect::Drop, "not confirmed: no progress for 10s"),
    ] {
        let fixture = Fixture::of_size(1000).with_old().encrypted();
        // Before the close_notify of 24 bytes, in the 32 of the reply.
        let outcome = transfer_through(&fixture, Direction::ToServer, to_server - 40, effect);
        outcome.assert_statuses(0, 3);
        assert!(outcome.server.errors()[0].ends_with(reason), "{outcome:?}");
        fixture.assert_replaced();
    }
}

#[test]
fn what_is_forged_behind_the_end_is_ignored_and_holds_up_neither_side() {
    let size = 40_000;
    let fixture = Fixture::of_size(size).with_old().encrypted().settled();
    let [to_client, to_server] = bytes_on_the_wire(&fixture);
    for (direction, at) in [(Direction::ToClient, to_client), (Direction::ToServer, to_server)].repeat(5) {
        fixture.restore_old();
        let outcome = transfer_through(&fixture, direction, at, Effect::Forge);
        assert_eq!(outcome.client.status, 0, "{direction:?}: {outcome:?}");
        fixture.assert_replaced();
        assert_plain_words(&outcome);
    }
}

#[test]
fn a_relay_that_turns_rst_into_fin_makes_nothing_look_whole() {
    let fixture = Fixture::of_size(4 * MEGABYTE).with_old().encrypted();
    let server = fixture.server(&[]);
    let at = MEGABYTE as u64;
    let stalled = Proxy::start(server.port, Some(Fault { direction: Direction::ToClient, at, effect: Effect::Stall }));
    let effect = Effect::ResetToFin;
    let relay = Proxy::start(stalled.port, Some(Fault { direction: Direction::ToClient, at: 0, effect }));
    let client = fixture.client(relay.port, &[]);
    stalled.wait_until_reached();
    server.running.signal(Signal::KILL);
    let server = server.finish();
    // Resets the relay.
    drop(stalled);
    let client = client.finish();
    assert_eq!(client.errors(), [format!("file-client: could not receive all of destination.txt: {CUT}")]);
    assert!(!fixture.assert_truthful(&Outcome { client, server }));
}

#[test]
fn socat_relays_a_transfer_and_no_failure_as_a_success() {
    let Some(socat) = installed("socat") else { return };
    let relay = |port: u16| {
        let listen = "TCP-LISTEN:0,bind=127.0.0.1";
        let mut relay = Command::new(&socat);
        let mut relay = Running::start(relay.args(["-t60", "-d", "-d", listen, &format!("TCP:127.0.0.1:{port}")]));
        loop {
            let line = relay.wait_for_line("");
            if let Some(port) = line.rsplit_once("127.0.0.1:").filter(|_| line.contains("listening on")) {
                break (relay, port.1.parse::<u16>().unwrap());
            }
        }
    };
    let fixture = Fixture::of_size(MEGABYTE).with_old().encrypted();
    let server = fixture.server(&[]);
    let (_relay, port) = relay(server.port);
    let client = fixture.client(port, &[]).finish();
    Outcome { client, server: server.finish() }.assert_stored();

    let fixture = Fixture::of_size(4 * MEGABYTE).with_old().encrypted();
    let server = fixture.server(&[]);
    let stalled =
        Proxy::start(server.port, Some(Fault { direction: Direction::ToClient, at: 999_999, effect: Effect::Stall }));
    let (_relay, port) = relay(stalled.port);
    let client = fixture.client(port, &[]);
    stalled.wait_until_reached();
    server.running.signal(Signal::KILL);
    drop(stalled);
    let outcome = Outcome { client: client.finish(), server: server.finish() };
    assert_eq!(outcome.client.status, 1, "{outcome:?}");
    assert!(!fixture.assert_truthful(&outcome));
}

#[test]
fn a_recording_holds_neither_the_file_nor_its_name() {
    const NAME: &str = "a-name-that-is-not-for-everyone";
    let text = "not for everyone; ".repeat(5000);
    let fixture = Fixture::new(&text);
    fs::rename(fixture.source(), fixture.source().with_file_name(NAME)).unwrap();
    let server = fixture.server(&["--key", KEY, "--file", NAME]);
    let proxy = Proxy::recorder(server.port);
    let client = fixture.client(proxy.port, &["--key", KEY, "--output", NAME]).finish();
    Outcome { client, server: server.finish() }.assert_statuses(0, 0);
    let [to_client, to_server] = proxy.recording();
    assert!(to_client.len() > text.len() && to_server.len() > 100);
    for recording in [to_client, to_server] {
        for secret in ["not for ev", NAME, "Thank you", KEY, "des.txt", "file-client", "file-server"] {
            assert!(!recording.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
        let mut counts = [0_usize; 256];
        for &byte in &recording {
            counts[usize::from(byte)] += 1;
        }
        let common = counts.iter().max().unwrap();
        assert!(recording.len() < 10_000 || *common < recording.len() / 100, "a byte is too common: {common}");
    }
}

#[test]
fn hundreds_of_small_transfers_are_all_confirmed() {
    const TRANSFERS: usize = 200;
    let fixture = Fixture::of_size(100).encrypted();
    let server = fixture.server(&["--clients", &TRANSFERS.to_string()]);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < TRANSFERS {
                    let here = directory();
                    let mut client = program(FILE_CLIENT, here.path(), &["127.0.0.1", &server.port.to_string()]);
                    let client = run(client.args(["--no-sync"]).env("HALF_CLOSE_KEY", KEY));
                    assert_eq!(client.status, 0, "{client:?}");
                    assert_eq!((client.stdout(), client.stderr()), (received(100, "destination.txt"), String::new()));
                }
            });
        }
    });
    let server = server.finish();
    assert_eq!(server.status, 0, "{}", server.stderr());
    assert_confirmations(&server.stdout(), TRANSFERS);
}

/// Each write is a record of its own, or several, and they wait while the client cannot pass them on.
#[test]
fn a_client_that_lags_gets_the_whole_of_a_stream_of_mixed_writes() {
    let fixture = Fixture::of_size(8 * MEGABYTE).encrypted();
    let mut random = Random::seeded();
    let (input, mut producer) = std::io::pipe().unwrap();
    let unread = input.try_clone().unwrap();
    let server = Server::start(fixture.server_command(&["--file=-"]).stdin(input));
    let (mut output, to_output) = small_pipe();
    let mut command = fixture.client_command(server.port, &["--output=-"]);
    let mut client = command.stdout(to_output).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let client_id = Pid::from_child(&client);
    let (mut received, is_over) = (Vec::new(), &AtomicBool::new(false));
    thread::scope(|scope| {
        let (mut random_sizes, bytes) = (random.fork(), fixture.bytes());
        scope.spawn(move || {
            let mut rest = bytes;
            while !rest.is_empty() {
                let size = if random_sizes.below(20) == 0 { 65_536 } else { 600 + random_sizes.below(3_500) };
                let piece = rest.split_off(..rest.len().min(usize::try_from(size).unwrap())).unwrap();
                producer.write_all(piece).unwrap();
                while rustix::io::ioctl_fionread(&unread).unwrap() > 0 {
                    thread::yield_now();
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        });
        let mut buffer = [0; 4096];
        loop {
            let stops = random.below(300) == 0;
            if stops {
                rustix::process::kill_process(client_id, Signal::STOP).unwrap();
            }
            thread::sleep(Duration::from_micros(random.below(if stops { 50_000 } else { 200 })));
            rustix::process::kill_process(client_id, Signal::CONT).unwrap();
            let arrived = output.read(&mut buffer).unwrap();
            if arrived == 0 {
                is_over.store(true, Ordering::Relaxed);
                break;
            }
            received.extend_from_slice(&buffer[..arrived]);
        }
    });
    let mut printed = String::new();
    client.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(printed, common::messages::received(fixture.bytes().len(), "standard output"));
    assert_eq!((client.wait().unwrap().code(), server.finish().status), (Some(0), 0), "{printed}");
    common::assert_same(&received, fixture.bytes(), "standard output");
}

#[test]
fn openssl_without_the_key_gets_nothing() {
    let Some(openssl) = installed("openssl") else { return };
    let fixture = Fixture::new("not for everyone ".repeat(1000));
    let mut server = fixture.server(&["--key", KEY]);
    let mut attempts = vec![vec![], vec!["-tls1_3"], vec!["-tls1_3", "-alpn", "half-close/1"], vec!["-tls1_2"]];
    let raw_keys = Command::new(&openssl).args(["s_client", "-help"]).output().unwrap();
    if String::from_utf8_lossy(&raw_keys.stderr).contains("enable_server_rpk") {
        attempts.push(vec!["-tls1_3", "-alpn", "half-close/1", "-enable_server_rpk", "-enable_client_rpk"]);
    }
    for attempt in attempts {
        let mut client = Command::new(&openssl);
        client.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", server.port)]).args(&attempt);
        let client = run(client.stdin(Stdio::null()));
        assert!(!client.stdout().contains("not for everyone"), "{attempt:?}: {client:?}");
        let line = server.running.wait_for_line("127.0.0.1:");
        assert!(line.contains(": refused: the client "), "{attempt:?}: {line}");
    }
    let client = fixture.client(server.port, &["--key", KEY]).finish();
    Outcome { client, server: server.finish() }.assert_stored();
}

#[test]
fn openssl_that_poses_as_the_server_is_found_out() {
    let Some(openssl) = installed("openssl") else { return };
    let fixture = Fixture::of_size(1000).with_old().encrypted();
    let keys = directory();
    let made = Command::new(&openssl)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ed25519",
            "-keyout",
            "key",
            "-out",
            "certificate",
            "-nodes",
            "-subj",
            "/CN=x",
        ])
        .current_dir(keys.path())
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let port = common::network::ReservedPort::new();
    let mut server = Command::new(&openssl);
    server.args(["s_server", "-accept", &format!("127.0.0.1:{}", port.number), "-naccept", "1", "-tls1_3"]);
    server.args(["-key", "key", "-cert", "certificate", "-alpn", "half-close/1", "-quiet"]).current_dir(keys.path());
    let server = Running::start(server.stdin(Stdio::piped()));
    let client = fixture.client(port.number, &["--wait=60s"]).finish();
    assert_eq!(client.status, 1, "{client:?}");
    let errors = client.errors();
    assert_eq!(errors.len(), 1, "{client:?}");
    assert!(errors[0].contains("the server encrypts in another way than this program"), "{client:?}");
    assert!(!fixture.is_stored());
    drop(server);
}

#[test]
fn the_table_of_outcomes_holds_with_a_key() {
    for dials in EITHER_DIALS {
        assert_table_of_outcomes(dials);
    }
}

fn assert_table_of_outcomes(dials: Dials) {
    let encrypted = |size| Fixture::of_size(size).encrypted().dialled_by(dials);
    let small = encrypted(1000).with_old();
    let outcome = small.start(None, &[], &["--size=1001"]).finish();
    outcome.assert_statuses(1, 1);
    assert_eq!(outcome.client.errors(), [format!("file-client: {}", too_short(1000, 1001))]);
    assert!(!small.is_stored());
    let sha256 = common::sha256(small.bytes());
    small.start(None, &["--sha256"], &["--sha256", &sha256]).finish().assert_stored();

    let empty = encrypted(0).with_old();
    empty.start(None, &[], &[]).finish().assert_stored();
    empty.assert_replaced();

    for change in [overwrite_first_byte as fn(&std::path::Path), |path| open_for_writing(path).set_len(100).unwrap()] {
        let fixture = encrypted(NOT_QUEUED).with_old();
        // In the first piece of the file.
        let fault = Fault { direction: Direction::ToClient, at: 10_000, effect: Effect::Stall };
        let running = fixture.start(fault, &[], &[]);
        running.wait_for_fault();
        change(&fixture.source());
        running.release();
        let outcome = running.finish();
        outcome.assert_statuses(1, 1);
        assert!(!fixture.assert_truthful(&outcome));
    }

    let fixture = encrypted(NOT_QUEUED).with_old();
    let outcome = transfer_through(&fixture, Direction::ToClient, 100_000, Effect::Stall);
    outcome.assert_statuses(1, 1);
    assert!(outcome.client.errors()[0].contains(&no_progress(10)), "{outcome:?}");
    assert!(!fixture.assert_truthful(&outcome));
    let fixture = encrypted(30_000);
    let trickled = transfer_through(&fixture, Direction::ToClient, 20_000, Effect::Trickle);
    trickled.assert_stored();
}

#[test]
fn a_client_that_fails_after_everything_was_sent_is_a_failure() {
    let fixture = Fixture::of_size(1000).with_old().encrypted();
    let server = fixture.server(&[]);
    fixture.use_up(server.port);
    let server = server.finish();
    assert_eq!(server.status, 1, "{server:?}");
}
