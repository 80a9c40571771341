//! The main job: a server, a client, any content, any size, and every option that suits.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{self, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use common::messages::{self, CONFIRMED, received};
use common::network::ReservedPort;
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Outcome, Running, Server, content, directory, file_client, has_ipv6, names_in,
    program, run, sha256,
};
use proptest::collection::vec;
use proptest::prelude::*;

const TEN_MEGABYTES: usize = 10_000_000;

/// Transfers the bytes, and checks everything that a user would notice.
fn assert_transfers(bytes: &[u8], server_arguments: &[&str], client_arguments: &[&str]) {
    let fixture = Fixture::new(bytes);
    let outcome = fixture.transfer(server_arguments, client_arguments);
    outcome.assert_stored();
    assert_eq!(outcome.client.stdout(), received(bytes.len(), "destination.txt"));
    assert_eq!(outcome.client.stderr(), "");
    fixture.assert_replaced();
}

/// Runs the client with a host of its own to the server's port.
fn transfer_from(host: &str, fixture: &Fixture, server: Server) -> Outcome {
    let arguments = [host, &server.port.to_string()];
    let client = run(&mut program(FILE_CLIENT, fixture.destination_directory(), &arguments));
    Outcome { client, server: server.finish() }
}

#[test]
fn every_size_around_a_chunk_arrives() {
    for size in [0, 1, 29, 30, 31, 59, 60, 61] {
        assert_transfers(&content(size, 1), &[], &[]);
    }
}

#[test]
fn every_size_around_a_buffer_arrives() {
    const KIB: usize = 1024;
    // 30 chunks of 4,096 bytes fill 120 KiB, which is what is read and written at once.
    for buffer in [64 * KIB, 120 * KIB, 128 * KIB, 240 * KIB, 256 * KIB, KIB * KIB] {
        let whole_chunks = buffer - buffer % 30;
        for edge in [buffer, whole_chunks, whole_chunks + 30] {
            for size in [edge - 1, edge, edge + 1] {
                assert_transfers(&content(size, 3), &[], &["--no-sync"]);
            }
        }
        for size in [buffer - 1, buffer, buffer + 1] {
            let bytes = content(size, 3);
            assert_transfers(&bytes, &[], &["--no-sync", "--sha256", &sha256(&bytes)]);
        }
    }
}

#[test]
fn ten_megabytes_arrive_with_every_chunk_size() {
    let bytes = content(TEN_MEGABYTES, 4);
    for chunk_size in ["1", "7", "30", "64KiB", "1MiB"] {
        assert_transfers(&bytes, &["--chunk-size", chunk_size], &[]);
    }
}

#[test]
fn chunk_may_be_larger_than_the_file_and_as_large_as_allowed() {
    assert_transfers(&content(1000, 6), &["--chunk-size", "16MiB"], &[]);
}

#[test]
fn same_file_arrives_with_no_sync() {
    assert_transfers(&content(100_000, 7), &[], &["--no-sync"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_content_arrives(
        bytes in prop_oneof![
            vec(any::<u8>(), 0..3000),
            (0..400_000_usize, any::<u64>()).prop_map(|(size, seed)| content(size, seed)),
            (0..400_000_usize, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
        ],
        chunk_size in prop_oneof![1..100_usize, 1..500_000_usize],
        (expects_size_and_digest, no_sync) in any::<(bool, bool)>(),
    ) {
        let (chunk_size, size, digest) = (chunk_size.to_string(), bytes.len().to_string(), sha256(&bytes));
        let mut client_arguments = Vec::new();
        client_arguments.extend(no_sync.then_some("--no-sync"));
        if expects_size_and_digest {
            client_arguments.extend(["--size", &size, "--sha256", &digest]);
        }
        assert_transfers(&bytes, &["--chunk-size", &chunk_size], &client_arguments);
    }
}

#[test]
fn server_prints_its_address_and_the_commands_for_the_other_machine() {
    let fixture = Fixture::of_size(1000);
    let mut server = fixture.server(&["--sha256"]);
    let command = server.running.wait_for_line("  file-client ");
    let client = run(program(FILE_CLIENT, fixture.destination_directory(), &[]).args(command.split(' ')));
    assert_eq!(client.status, 0, "{client:?}");
    fixture.assert_replaced();
    let (port, server) = (server.port, server.finish());
    let expected = format!(
        "listening on 127.0.0.1:{port}\n\
         to fetch the file, type on this machine:\n  file-client 127.0.0.1 {port} --size 1000 --sha256 {}\n\
         or, if there is no file-client, without confirmation:\n  nc 127.0.0.1 {port} < /dev/null > destination.txt\n",
        sha256(fixture.bytes())
    );
    assert_eq!(server.stderr(), expected);
}

#[test]
fn host_may_be_a_name() {
    let fixture = Fixture::new("by name");
    transfer_from("localhost", &fixture, fixture.server(&[])).assert_statuses(0, 0);
    fixture.assert_replaced();
}

#[test]
fn ipv6_works_with_and_without_brackets() {
    if !has_ipv6() {
        return;
    }
    for host in ["::1", "[::1]"] {
        let fixture = Fixture::new("over IPv6");
        let mut server = program(FILE_SERVER, fixture.source_directory(), &["--bind", "::1", "0"]);
        let outcome = transfer_from(host, &fixture, Server::start(&mut server));
        outcome.assert_statuses(0, 0);
        assert!(outcome.server.stderr().starts_with("listening on [::1]:"), "{outcome:?}");
        fixture.assert_replaced();
    }
}

#[test]
fn host_and_port_may_be_one_argument() {
    for (address, bind) in [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
        if bind == "::1" && !has_ipv6() {
            return;
        }
        let fixture = Fixture::new("one argument");
        let server = Server::start(&mut program(FILE_SERVER, fixture.source_directory(), &["--bind", bind, "0"]));
        let place = format!("{address}:{}", server.port);
        let client =
            run(&mut program(FILE_CLIENT, fixture.destination_directory(), &["-t", "9s", &place, "--size=12"]));
        Outcome { client, server: server.finish() }.assert_statuses(0, 0);
        fixture.assert_replaced();
    }
}

#[test]
fn server_without_bind_accepts_ipv6_and_ipv4() {
    if !has_ipv6() {
        return;
    }
    let fixture = Fixture::new("over both");
    let server = Server::start(&mut program(FILE_SERVER, fixture.source_directory(), &["--clients", "2", "0"]));
    for host in ["127.0.0.1", "::1"] {
        let here = directory();
        let client = run(&mut program(FILE_CLIENT, here.path(), &[host, &server.port.to_string()]));
        assert_eq!(client.status, 0, "{host}: {client:?}");
        common::fixture::assert_replaced(here.path(), fixture.bytes());
    }
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert!(server.stderr().starts_with("listening on [::]:"), "{server:?}");
    // IPv4 addresses are printed as such, not as IPv4-mapped IPv6 addresses.
    assert!(server.stderr().contains("\n127.0.0.1:"), "{server:?}");
}

/// A server on a port that was reserved for it.
fn server_on(port: &ReservedPort, fixture: &Fixture) -> Command {
    common::file_server(fixture.source_directory(), port.number, &[])
}

#[test]
fn client_with_wait_may_start_before_the_server_and_says_once_that_it_waits() {
    let (fixture, port) = (Fixture::new("late"), ReservedPort::new());
    let mut client = fixture.client(port.number, &["--wait", "1m"]);
    let waiting = client.wait_for_line("waiting for ");
    assert_eq!(waiting, format!("127.0.0.1:{}: connection refused", port.number));
    let server = Server::start(&mut server_on(&port, &fixture));
    let outcome = Outcome { client: client.finish(), server: server.finish() };
    outcome.assert_statuses(0, 0);
    assert_eq!(outcome.client.stderr(), format!("waiting for {waiting}\n"), "once, however often it tries");
    fixture.assert_replaced();
}

#[test]
fn client_waits_as_long_as_wait_says_and_then_fails() {
    let (here, port) = (directory(), ReservedPort::new());
    let started = Instant::now();
    let client = run(&mut file_client(here.path(), port.number, &["--wait", "2s"]));
    assert!(started.elapsed() >= Duration::from_secs(2));
    let refused = format!("127.0.0.1:{}: connection refused\n", port.number);
    // After a note, if the first attempt did not take all of the time.
    assert!(client.stderr().ends_with(&format!("file-client: could not connect to {refused}")), "{client:?}");
    assert_eq!((client.status, names_in(here.path()).len()), (1, 0));
}

#[test]
fn quiet_prints_results_and_nothing_else() {
    let (fixture, port) = (Fixture::new("hush"), ReservedPort::new());
    let server = Running::start(server_on(&port, &fixture).arg("--quiet"));
    let client = fixture.client(port.number, &["--quiet", "--wait", "1m"]).finish();
    let outcome = Outcome { client, server: server.finish() };
    outcome.assert_statuses(0, 0);
    let Outcome { client, server } = outcome;
    assert_eq!((client.stderr(), server.stderr()), (String::new(), String::new()));
    assert_eq!(client.stdout(), received(4, "destination.txt"));
    assert_eq!(server.stdout(), CONFIRMED);
}

#[test]
fn quiet_does_not_hide_errors() {
    let (here, port) = (directory(), ReservedPort::new());
    let client = run(&mut file_client(here.path(), port.number, &["-q"]));
    assert_eq!(
        client.stderr(),
        format!("file-client: could not connect to 127.0.0.1:{}: connection refused\n", port.number)
    );
}

#[test]
fn existing_file_is_replaced() {
    let fixture = Fixture::new("new");
    fs::write(fixture.destination(), "old, and longer than the new one").unwrap();
    fixture.transfer(&[], &[]).assert_statuses(0, 0);
    fixture.assert_replaced();
}

#[test]
fn no_clobber_keeps_an_existing_file_and_does_not_use_up_the_server() {
    let fixture = Fixture::new("new").with_old();
    let server = fixture.server(&[]);
    let client = fixture.client(server.port, &["--no-clobber"]).finish();
    let error = format!("file-client: could not write destination.txt: {}\n", messages::EXISTS_NO_CLOBBER);
    assert_eq!((client.status, client.stderr()), (1, error));
    assert!(!fixture.is_stored());

    fs::remove_file(fixture.destination()).unwrap();
    let client = fixture.client(server.port, &["--no-clobber"]).finish();
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

/// Offers 61 bytes to a client that expects something else. Checks that both programs fail with one error each and that
/// the old file is unchanged and alone; returns what the client printed.
fn refuse_61_bytes(client_arguments: &[&str]) -> String {
    let fixture = Fixture::new(content(61, 9)).with_old();
    let outcome = fixture.transfer(&[], client_arguments);
    outcome.assert_statuses(1, 1);
    let Outcome { client, server } = outcome;
    assert_eq!((client.stdout(), server.stdout()), (String::new(), String::new()));
    assert_eq!((client.stderr().lines().count(), server.errors().len()), (1, 1), "{client:?} {server:?}");
    assert!(!fixture.is_stored());
    client.stderr()
}

#[test]
fn size_and_digest_are_accepted_in_any_spelling() {
    let bytes = content(64 * 1024, 10);
    let digest = sha256(&bytes);
    assert_transfers(&bytes, &[], &["--size", "65536", "--sha256", &digest.to_uppercase()]);
    assert_transfers(&bytes, &["--sha256"], &["--size", "64KiB"]);
    assert_transfers(&[], &[], &["--size", "0", "--sha256", &sha256(&[])]);
}

#[test]
fn file_longer_than_size_is_not_stored() {
    assert_eq!(refuse_61_bytes(&["--size", "60"]), format!("file-client: {}\n", messages::too_long(60)));
}

#[test]
fn file_shorter_than_size_is_not_stored() {
    assert_eq!(refuse_61_bytes(&["--size", "62"]), format!("file-client: {}\n", messages::too_short(61, 62)));
}

#[test]
fn file_with_another_digest_is_not_stored() {
    let error = format!("file-client: {}\n", messages::wrong_digest(&sha256(&content(61, 9))));
    assert_eq!(refuse_61_bytes(&["--sha256", &sha256(b"another file")]), error);
    assert_eq!(refuse_61_bytes(&["--size", "61", "--sha256", &sha256(b"another file")]), error);
}

#[test]
fn file_name_with_control_characters_is_printed_escaped_on_one_line() {
    let fixture = Fixture::new("");
    fs::write(fixture.source_directory().join("a\n\x1b[31mb"), "content").unwrap();
    let outcome = fixture.transfer(&["--file", "a\n\x1b[31mb"], &["--output", "c\n\x1b[31md"]);
    outcome.assert_statuses(0, 0);
    assert_eq!(outcome.client.stdout(), received(7, "c\\n\\u{1b}[31md"));
    assert_eq!(names_in(fixture.destination_directory()), ["c\n\x1b[31md"]);
}

#[test]
fn standard_input_is_sent_to_its_end_whatever_the_sizes_of_its_pieces() {
    let fixture = Fixture::new(content(300_001, 11));
    let (reader, mut writer) = io::pipe().unwrap();
    let server = Server::start(fixture.server_command(&["--file", "-"]).stdin(reader));
    let client = fixture.client(server.port, &[]);
    for piece in fixture.bytes().chunks(1009) {
        writer.write_all(piece).unwrap();
    }
    drop(writer);
    Outcome { client: client.finish(), server: server.finish() }.assert_statuses(0, 0);
    fixture.assert_replaced();
}
