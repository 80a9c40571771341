//! The main job: a server in one terminal, a client in another, any content, any size, any options that suit.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::network::HeldPort;
use common::{
    FILE_CLIENT, FILE_SERVER, Running, Server, assert_same, content, file_client, file_server, folder, has_ipv6,
    names_in, run,
};
use hex::encode as hex;
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

const TEN_MEGABYTES: usize = 10_000_000;

/// One transfer from one folder to another; everything that a user would notice is as it should be.
fn transfers(bytes: &[u8], server_arguments: &[&str], client_arguments: &[&str]) {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), bytes).unwrap();
    let server = Server::start(there.path(), server_arguments);
    let client = run(&mut file_client(here.path(), server.port, client_arguments));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!(client.stdout(), format!("Received file data: {} bytes in destination.txt\n", bytes.len()));
    assert_eq!(client.stderr(), "");
    assert_eq!(server.stdout(), "Message from client: Thank you\n");
    assert_stored(here.path(), bytes);
}

fn assert_stored(here: &Path, bytes: &[u8]) {
    assert_same(&fs::read(here.join("destination.txt")).unwrap(), bytes, "destination.txt");
    assert_eq!(names_in(here), ["destination.txt"]);
}

/// Programs whose host, port or address is not the usual one.
fn program(path: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).current_dir(folder).args(arguments);
    command
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

#[test]
fn every_size_around_a_chunk_arrives() {
    for size in [0, 1, 29, 30, 31, 59, 60, 61] {
        transfers(&content(size, 1), &[], &[]);
    }
}

#[test]
fn every_size_around_a_chunk_arrives_with_zero_copy() {
    for size in [0, 1, 29, 30, 31, 59, 60, 61] {
        transfers(&content(size, 2), &["--zero-copy"], &[]);
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
                transfers(&content(size, 3), &[], &["--no-sync"]);
            }
        }
        for size in [buffer - 1, buffer, buffer + 1] {
            let bytes = content(size, 3);
            transfers(&bytes, &["--zero-copy"], &["--no-sync"]);
            transfers(&bytes, &[], &["--no-sync", "--sha256", &sha256(&bytes)]);
        }
    }
}

#[test]
fn ten_megabytes_arrive_in_chunks_of_every_size() {
    let bytes = content(TEN_MEGABYTES, 4);
    for chunk_size in ["1", "7", "30", "64KiB", "1MiB"] {
        transfers(&bytes, &["--chunk-size", chunk_size], &[]);
    }
}

#[test]
fn ten_megabytes_arrive_with_zero_copy() {
    transfers(&content(TEN_MEGABYTES, 5), &["--zero-copy"], &[]);
}

#[test]
fn chunks_larger_than_the_file_or_as_large_as_allowed_will_do() {
    transfers(&content(1000, 6), &["--chunk-size", "16MiB"], &[]);
}

#[test]
fn without_waiting_for_the_disk_the_same_file_arrives() {
    transfers(&content(100_000, 7), &[], &["--no-sync"]);
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
        (zero_copy, told, no_sync) in any::<(bool, bool, bool)>(),
    ) {
        let (chunk_size, size, digest) = (chunk_size.to_string(), bytes.len().to_string(), sha256(&bytes));
        let mut server_arguments = vec!["--chunk-size", &chunk_size];
        server_arguments.extend(zero_copy.then_some("--zero-copy"));
        let mut client_arguments = Vec::new();
        client_arguments.extend(no_sync.then_some("--no-sync"));
        if told {
            client_arguments.extend(["--size", &size, "--sha256", &digest]);
        }
        transfers(&bytes, &server_arguments, &client_arguments);
    }
}

#[test]
fn the_server_prints_where_it_listens_and_what_to_type() {
    let (there, here) = (folder(), folder());
    let bytes = content(1000, 8);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let mut server = Server::start(there.path(), &["--sha256"]);
    let command = server.running.wait_for_line("  file-client ");
    let client = run(program(FILE_CLIENT, here.path(), &[]).args(command.split(' ')));
    assert_eq!(client.status, 0, "{client:?}");
    assert_stored(here.path(), &bytes);
    let (port, server) = (server.port, server.finish());
    let expected = format!(
        "listening on 127.0.0.1:{port}\n\
         to fetch the file, type on the other machine:\n  file-client 127.0.0.1 {port} --size 1000 --sha256 {}\n\
         or, if there is no file-client, without confirmation:\n  nc 127.0.0.1 {port} < /dev/null > destination.txt\n",
        sha256(&bytes)
    );
    assert_eq!(server.stderr(), expected);
}

#[test]
fn a_name_is_as_good_as_an_address() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "by name").unwrap();
    let server = Server::start(there.path(), &[]);
    let client = run(&mut program(FILE_CLIENT, here.path(), &["localhost", &server.port.to_string()]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_stored(here.path(), b"by name");
}

#[test]
fn ipv6_works_with_and_without_brackets() {
    if !has_ipv6() {
        return;
    }
    let there = folder();
    fs::write(there.path().join("des.txt"), "over IPv6").unwrap();
    for host in ["::1", "[::1]"] {
        let here = folder();
        let mut server = program(FILE_SERVER, there.path(), &["--bind", "::1", "0"]);
        let server = Server::spawn(&mut server);
        let client = run(&mut program(FILE_CLIENT, here.path(), &[host, &server.port.to_string()]));
        let server = server.finish();
        assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
        assert!(server.stderr().starts_with("listening on [::1]:"), "{server:?}");
        assert_stored(here.path(), b"over IPv6");
    }
}

#[test]
fn without_bind_the_server_answers_over_ipv6_and_ipv4() {
    if !has_ipv6() {
        return;
    }
    let there = folder();
    fs::write(there.path().join("des.txt"), "over both").unwrap();
    let server = Server::spawn(&mut program(FILE_SERVER, there.path(), &["--clients", "2", "0"]));
    for host in ["127.0.0.1", "::1"] {
        let here = folder();
        let client = run(&mut program(FILE_CLIENT, here.path(), &[host, &server.port.to_string()]));
        assert_eq!(client.status, 0, "{host}: {client:?}");
        assert_stored(here.path(), b"over both");
    }
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert!(server.stderr().starts_with("listening on [::]:"), "{server:?}");
    // IPv4 addresses look like IPv4 addresses, though they come through an IPv6 socket.
    assert!(server.stderr().contains("\n127.0.0.1:"), "{server:?}");
}

#[test]
fn the_client_may_come_first_and_says_that_it_waits() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "late").unwrap();
    let port = HeldPort::new();
    let mut client = Running::start(&mut file_client(here.path(), port.number, &["--wait", "1m"]));
    let waiting = client.wait_for_line("waiting for ");
    assert_eq!(waiting, format!("127.0.0.1:{}: connection refused", port.number));
    let server = Server::spawn(&mut server_on(&port, there.path()));
    let (client, server) = (client.finish(), server.finish());
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!(client.stderr(), format!("waiting for {waiting}\n"), "once, however often it tries");
    assert_stored(here.path(), b"late");
}

#[test]
fn the_client_waits_no_longer_than_it_was_told() {
    let (here, port) = (folder(), HeldPort::new());
    let started = Instant::now();
    let client = run(&mut file_client(here.path(), port.number, &["--wait", "2s"]));
    assert!(started.elapsed() >= Duration::from_secs(2));
    let refused = format!("127.0.0.1:{}: connection refused\n", port.number);
    assert_eq!(client.stderr(), format!("waiting for {refused}file-client: could not connect to {refused}"));
    assert_eq!((client.status, names_in(here.path()).len()), (1, 0));
}

fn server_on(port: &HeldPort, there: &Path) -> Command {
    program(FILE_SERVER, there, &["--bind", "127.0.0.1", &port.number.to_string()])
}

#[test]
fn quiet_leaves_the_results_and_nothing_else() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "hush").unwrap();
    let port = HeldPort::new();
    let server = Running::start(server_on(&port, there.path()).arg("--quiet"));
    let client = run(&mut file_client(here.path(), port.number, &["--quiet", "--wait", "1m"]));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!((client.stderr(), server.stderr()), (String::new(), String::new()));
    assert_eq!(client.stdout(), "Received file data: 4 bytes in destination.txt\n");
    assert_eq!(server.stdout(), "Message from client: Thank you\n");
}

#[test]
fn quiet_does_not_hide_errors() {
    let (here, port) = (folder(), HeldPort::new());
    let client = run(&mut file_client(here.path(), port.number, &["-q"]));
    assert_eq!(
        client.stderr(),
        format!("file-client: could not connect to 127.0.0.1:{}: connection refused\n", port.number)
    );
}

#[test]
fn a_file_that_is_there_is_replaced() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "new").unwrap();
    fs::write(here.path().join("destination.txt"), "old, and longer than the new one").unwrap();
    let server = Server::start(there.path(), &[]);
    let client = run(&mut file_client(here.path(), server.port, &[]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_stored(here.path(), b"new");
}

#[test]
fn no_clobber_keeps_a_file_that_is_there_and_does_not_use_up_the_server() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "new").unwrap();
    fs::write(here.path().join("destination.txt"), "old").unwrap();
    let server = Server::start(there.path(), &[]);
    let client = run(&mut file_client(here.path(), server.port, &["--no-clobber"]));
    let error = "file-client: could not write destination.txt: file exists, and --no-clobber keeps it\n";
    assert_eq!((client.status, client.stderr()), (1, error.to_owned()));
    assert_stored(here.path(), b"old");

    fs::remove_file(here.path().join("destination.txt")).unwrap();
    let client = run(&mut file_client(here.path(), server.port, &["--no-clobber"]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_stored(here.path(), b"new");
}

/// What the client says when it was told this about a file of 61 bytes, after the four things that hold in any case:
/// both know that it failed, the old file is untouched, and nothing lies beside it.
fn refuses(client_arguments: &[&str]) -> String {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), content(61, 9)).unwrap();
    fs::write(here.path().join("destination.txt"), "old").unwrap();
    let server = Server::start(there.path(), &[]);
    let client = run(&mut file_client(here.path(), server.port, client_arguments));
    let server = server.finish();
    assert_eq!((client.status, server.status), (1, 1), "{client:?} {server:?}");
    assert_eq!((client.stdout(), server.stdout()), (String::new(), String::new()));
    assert_eq!((client.stderr().lines().count(), server.errors().len()), (1, 1), "{client:?} {server:?}");
    assert_stored(here.path(), b"old");
    client.stderr()
}

#[test]
fn the_expected_size_and_digest_are_accepted_in_any_spelling() {
    let bytes = content(64 * 1024, 10);
    let digest = sha256(&bytes);
    transfers(&bytes, &[], &["--size", "65536", "--sha256", &digest.to_uppercase()]);
    transfers(&bytes, &["--sha256"], &["--size", "64KiB"]);
    transfers(&[], &[], &["--size", "0", "--sha256", &sha256(&[])]);
}

#[test]
fn a_file_that_is_longer_than_expected_is_not_stored() {
    let error = "file-client: could not store destination.txt: more than the expected 60 bytes arrived\n";
    assert_eq!(refuses(&["--size", "60"]), error);
}

#[test]
fn a_file_that_is_shorter_than_expected_is_not_stored() {
    let error = "file-client: could not store destination.txt: 61 bytes arrived, 62 were expected\n";
    assert_eq!(refuses(&["--size", "62"]), error);
}

#[test]
fn a_file_with_another_digest_is_not_stored() {
    let actual = sha256(&content(61, 9));
    let error = "file-client: could not store destination.txt: the SHA-256 of what arrived is";
    let error = format!("{error} {actual}, not the expected one\n");
    assert_eq!(refuses(&["--sha256", &sha256(b"another file")]), error);
    assert_eq!(refuses(&["--size", "61", "--sha256", &sha256(b"another file")]), error);
}

#[test]
fn a_name_with_control_characters_is_one_plain_line() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("a\n\x1b[31mb"), "content").unwrap();
    let server = Server::start(there.path(), &["--file", "a\n\x1b[31mb"]);
    let client = run(&mut file_client(here.path(), server.port, &["--output", "c\n\x1b[31md"]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_eq!(client.stdout(), "Received file data: 7 bytes in c\\n\\u{1b}[31md\n");
    assert_eq!(names_in(here.path()), ["c\n\x1b[31md"]);
}

#[test]
fn standard_input_is_sent_to_its_end_however_it_comes() {
    let (there, here) = (folder(), folder());
    let (reader, mut writer) = io::pipe().unwrap();
    let server = Server::spawn(file_server(there.path(), &["--file", "-"]).stdin(reader));
    let client = Running::start(&mut file_client(here.path(), server.port, &[]));
    let bytes = content(300_001, 11);
    for piece in bytes.chunks(1009) {
        writer.write_all(piece).unwrap();
    }
    drop(writer);
    let (client, server) = (client.finish(), server.finish());
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_stored(here.path(), &bytes);
}
