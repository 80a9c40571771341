//! Push: the client listens and the server dials. The bytes are the same, and so is every guarantee: tests/faults.rs and
//! tests/key.rs try them in both directions.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;

use common::files::overwrite_first_byte;
use common::fixture::{Fixture, KEY, OTHER_KEY};
use common::messages::{CONFIRMED, SOURCE_CHANGED, received};
use common::network::{Listener, assert_reset_without_reply, connect, half_close, read_all, reset};
use common::processes::{Running, Server, Signal, program, run};
use common::{FILE_CLIENT, FILE_SERVER, directory, has_ipv6, installed, names_in, sha256};
use half_close::protocol::THANK_YOU;
use socket2::SockRef;

fn listening_client(fixture: &Fixture, arguments: &[&str]) -> Server {
    Server::start(&mut fixture.listening_client_command(arguments))
}

#[test]
fn a_listening_client_stores_what_a_dialling_server_sends() {
    for size in [1, 30, 2116, 3_000_000] {
        let fixture = Fixture::of_size(size).with_old();
        let client = listening_client(&fixture, &[]);
        let server = run(&mut fixture.dialling_server_command(client.port, &[]));
        let client = client.finish();
        assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
        assert_eq!(server.stdout(), CONFIRMED);
        assert_eq!(client.stdout(), received(fixture.bytes().len(), "destination.txt"));
        fixture.assert_replaced();
    }
}

#[test]
fn an_empty_file_is_pushed_with_a_key() {
    let fixture = Fixture::new("");
    let client = listening_client(&fixture, &["--key", KEY]);
    let server = run(&mut fixture.dialling_server_command(client.port, &["--key", KEY]));
    let client = client.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert!(fixture.is_stored());
}

#[test]
fn the_roles_of_the_key_are_those_of_the_transfer() {
    let fixture = Fixture::of_size(3_000_000);
    let client = listening_client(&fixture, &["--key", KEY]);
    let wrong = run(&mut fixture.dialling_server_command(client.port, &["--key", OTHER_KEY]));
    assert_eq!(wrong.status, 1, "{wrong:?}");
    assert!(wrong.stderr().contains("another key"), "{wrong:?}");
    // It was a stranger.
    let server = run(&mut fixture.dialling_server_command(client.port, &["--key", KEY]));
    let client = client.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    fixture.assert_replaced();
}

#[test]
fn a_listening_client_that_makes_a_key_prints_the_command_for_the_server() {
    let fixture = Fixture::of_size(1000);
    let mut client =
        program(FILE_CLIENT, fixture.destination_directory(), &["--listen", "0", "--bind", "127.0.0.1", "--encrypt"]);
    let mut client = Running::start(&mut client);
    let address = client.wait_for_line("listening on ");
    let key = client.wait_for_line("key: ");
    let command = client.wait_for_line("  file-server ");
    let port = address.rsplit(':').next().unwrap();
    assert_eq!(command, format!("--key-file - --connect 127.0.0.1 {port}"));
    let server = run(&mut fixture.dialling_server_command(port.parse().unwrap(), &["--key", &key]));
    assert_eq!((client.finish().status, server.status), (0, 0), "{server:?}");
    fixture.assert_replaced();
}

#[test]
fn either_side_may_wait_for_the_other() {
    let fixture = Fixture::of_size(2116);
    // Nothing listens yet.
    let server = Running::start(&mut fixture.dialling_server_command(fixture.port(), &["--wait", "60s"]));
    let port = fixture.port().to_string();
    let client = program(FILE_CLIENT, fixture.destination_directory(), &["--listen", &port, "--bind", "127.0.0.1"])
        .args(["--wait", "60s"])
        .output()
        .unwrap();
    let server = server.finish();
    assert!(client.status.success());
    assert_eq!(server.status, 0, "{server:?}");
    fixture.assert_replaced();
}

#[test]
fn a_listener_gives_up_after_wait_with_one_line() {
    let here = directory();
    let client =
        run(&mut program(FILE_CLIENT, here.path(), &["--listen", "0", "--bind", "127.0.0.1", "--wait", "300ms", "-q"]));
    assert_eq!(
        (client.status, client.errors()),
        (1, vec!["file-client: no server connected within 300ms".to_owned()]),
        "{client:?}"
    );
    let fixture = Fixture::new("x");
    let server = run(&mut fixture.server_command(&["--wait", "300ms", "-q"]));
    assert_eq!(
        (server.status, server.errors()),
        (1, vec!["file-server: no client connected within 300ms".to_owned()]),
        "{server:?}"
    );
}

#[test]
fn a_connection_without_a_byte_stores_nothing_and_does_not_count() {
    let fixture = Fixture::of_size(2116).with_old();
    let client = listening_client(&fixture, &[]);
    let silent = connect(client.port);
    let half_closed = connect(client.port);
    half_closed.shutdown(Shutdown::Write).unwrap();
    reset(connect(client.port));
    let server = run(&mut fixture.dialling_server_command(client.port, &[]));
    let client = client.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    fixture.assert_replaced();
    // What was pending is reset: it could be a client that takes FIN for the end of an empty file.
    for stranger in [silent, half_closed] {
        assert_reset_without_reply(&stranger);
    }
}

#[test]
fn the_first_real_transfer_counts_well_or_badly() {
    let fixture = Fixture::of_size(2116).with_old();
    let client = listening_client(&fixture, &[]);
    let mut broken = connect(client.port);
    broken.write_all(b"half of it").unwrap();
    common::wait_until("the client to be reading", || {
        // It has accepted: a second one is refused or ignored once the first counts.
        broken.write_all(b".").is_ok()
    });
    reset(broken);
    let client = client.finish();
    assert_eq!(client.status, 1, "{client:?}");
    assert!(!fixture.is_stored());
}

#[test]
fn a_client_with_the_key_that_gives_up_is_not_one_that_serves_others_only() {
    let fixture = Fixture::of_size(50_000);
    let client = listening_client(&fixture, &["--key", KEY, "--size", "10"]);
    let server = run(&mut fixture.dialling_server_command(client.port, &["--key", KEY]));
    assert_eq!((server.status, client.finish().status), (1, 1));
    let error = &server.errors()[0];
    assert!(error.contains(": the client gave up after ") && !error.contains("perhaps"), "{error}");
}

#[test]
fn the_wire_of_a_push_is_that_of_a_fetch() {
    let fixture = Fixture::of_size(2116);
    // What listens is a plain socket: all bytes, then EOF, then the reply.
    let listener = Listener::new();
    let server = Running::start(&mut fixture.dialling_server_command(listener.port(), &[]));
    let mut connection = listener.accept();
    assert_eq!(read_all(&connection), fixture.bytes());
    connection.write_all(THANK_YOU).unwrap();
    drop(connection);
    let server = server.finish();
    assert_eq!((server.status, server.stdout()), (0, CONFIRMED.to_owned()), "{server:?}");

    // What dials is a plain socket.
    let client = listening_client(&fixture, &[]);
    let mut connection = connect(client.port);
    connection.write_all(fixture.bytes()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&connection), THANK_YOU);
    assert_eq!(client.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn urgent_data_is_part_of_a_file_that_is_pushed() {
    let fixture = Fixture::of_size(2000);
    let client = listening_client(&fixture, &[]);
    let mut server = connect(client.port);
    let (before, rest) = fixture.bytes().split_at(1000);
    server.write_all(before).unwrap();
    SockRef::from(&server).send_out_of_band(&rest[..1]).unwrap();
    server.write_all(&rest[1..]).unwrap();
    assert_eq!(half_close(&server), THANK_YOU);
    assert_eq!(client.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn nc_may_be_on_either_side() {
    let Some(nc) = installed("nc.openbsd") else { return };
    let fixture = Fixture::of_size(100_000);
    let client = listening_client(&fixture, &[]);
    let script = format!("{} -N 127.0.0.1 {} < des.txt", nc.display(), client.port);
    let sent = run(&mut program("sh", fixture.source_directory(), &["-c", &script]));
    assert_eq!((sent.status, sent.stdout.as_slice()), (0, THANK_YOU));
    assert_eq!(client.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn a_source_that_changes_is_noticed_in_a_push() {
    let fixture = Fixture::of_size(12_000_000);
    let listener = Listener::new();
    let server = Running::start(&mut fixture.dialling_server_command(listener.port(), &[]));
    let mut connection = listener.accept();
    let mut first = [0; 1000];
    connection.read_exact(&mut first).unwrap();
    overwrite_first_byte(&fixture.source());
    let mut rest = Vec::new();
    let end = connection.read_to_end(&mut rest).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    let server = server.finish();
    assert_eq!(server.status, 1, "{server:?}");
    assert!(server.errors().concat().contains(SOURCE_CHANGED), "{server:?}");
}

#[test]
fn connect_is_one_transfer_and_listen_takes_no_host() {
    let here = directory();
    for (program_path, arguments) in [
        (FILE_SERVER, &["--connect", "h", "1", "-n", "2"][..]),
        (FILE_SERVER, &["--connect", "h", "1", "-k"]),
        (FILE_SERVER, &["--connect", "h", "1", "-u"]),
        (FILE_SERVER, &["--connect", "h", "1", "--bind", "127.0.0.1"]),
        (FILE_SERVER, &["--connect", "h", "1", "--allow", "127.0.0.1"]),
        (FILE_SERVER, &["--connect", "h", "0"]),
        (FILE_CLIENT, &["--listen", "9190", "host"]),
        (FILE_CLIENT, &["--listen", "9190", "host", "9190"]),
        (FILE_CLIENT, &["--bind", "127.0.0.1", "host", "9190"]),
        (FILE_CLIENT, &["--allow", "127.0.0.1", "host", "9190"]),
        (FILE_CLIENT, &["--encrypt", "host", "9190"]),
    ] {
        let refused = run(&mut program(program_path, here.path(), arguments));
        assert_eq!((refused.status, refused.errors().len()), (2, 1), "{arguments:?}: {refused:?}");
    }
}

#[test]
fn a_server_that_dials_hears_that_the_client_may_have_no_key_or_want_one() {
    let fixture = Fixture::of_size(20_000_000);
    let silent = listening_client(&fixture, &["--allow", "127.0.0.1"]);
    let mut dialling = fixture.dialling_server_command(silent.port, &["--key", KEY, "--timeout=1s"]);
    let server = run(&mut dialling);
    let error = "file-server: could not send des.txt: no handshake within 1s; the client may not encrypt, or be busy with \
                 another connection";
    assert_eq!((server.status, server.errors()), (1, vec![error.to_owned()]));
    silent.interrupt(Signal::TERM);

    let encrypted = listening_client(&fixture, &["--key", KEY]);
    let server = run(&mut fixture.dialling_server_command(encrypted.port, &["--sha256"]));
    let hint = "; it may wait for --key, or not serve this address";
    assert_eq!(server.status, 1, "{server:?}");
    assert!(server.errors()[0].ends_with(hint), "{server:?}");
    let digest = format!("the SHA-256 of des.txt is {}\n", sha256(fixture.bytes()));
    assert!(server.stderr().starts_with(&digest), "{server:?}");
    encrypted.interrupt(Signal::TERM);
}

#[test]
fn a_listener_that_is_open_to_everyone_is_refused() {
    let here = directory();
    let refused = run(&mut program(FILE_CLIENT, here.path(), &["--listen", "0"]));
    assert_eq!(refused.status, 2, "{refused:?}");
    for option in ["--encrypt", "--allow"] {
        assert!(refused.stderr().contains(option), "{refused:?}");
    }
    assert!(names_in(here.path()).is_empty());
    let mut ways = vec![&["--encrypt"][..], &["--key", KEY], &["--allow", "127.0.0.1"], &["--bind", "127.0.0.1"]];
    ways.extend(has_ipv6().then_some(&["--bind", "::1"][..]));
    for allowed in ways {
        let mut client = program(FILE_CLIENT, here.path(), &["--listen", "0"]);
        let mut client = Running::start(client.args(allowed));
        client.wait_for_line("listening on ");
        assert_eq!(client.interrupt(Signal::TERM).status, 143);
    }
}
