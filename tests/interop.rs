//! The programs of others as either side: the textbook pair in C, nc, ncat, socat and curl.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use common::files::assert_file;
use common::messages::{CONFIRMED, NO_REPLY, received};
use common::network::{Listener, ReservedPort, half_close};
use common::{
    Finished, Fixture, Outcome, Running, Server, Signal, assert_same, c_program, content, directory, file_client,
    installed, program, run, wait_until,
};
use half_close::protocol::THANK_YOU;

const SIZE: usize = 1_000_000;
const SIZES_AROUND_A_CHUNK: [usize; 7] = [0, 1, 29, 30, 31, 60, 100_000];

/// A peer that is installed here. The arguments are separated by spaces; PORT stands for the port.
fn peer(name: &str, arguments: &str, directory: &Path, port: u16) -> Option<Command> {
    let path = installed(name)?;
    let arguments = arguments.replace("PORT", &port.to_string());
    Some(program(path.to_str().unwrap(), directory, &arguments.split(' ').collect::<Vec<_>>()))
}

#[test]
fn textbook_client_gets_the_file_and_confirms() {
    let Some(textbook_client) = c_program("textbook-client.c") else { return };
    for size in SIZES_AROUND_A_CHUNK {
        let fixture = Fixture::of_size(size);
        let stored = fixture.destination();
        let outcome = fixture.transfer_with(&[], |port| {
            let mut client = Command::new(&textbook_client);
            client.args(["127.0.0.1", &port.to_string()]).arg(&stored);
            client
        });
        outcome.assert_statuses(0, 0);
        assert_eq!(outcome.client.stdout(), "Received file data\n");
        assert_eq!(outcome.server.stdout(), CONFIRMED);
        fixture.assert_replaced();
    }
}

#[test]
fn textbook_server_gets_the_reply_and_prints_it() {
    let Some(textbook_server) = c_program("textbook-server.c") else { return };
    for size in SIZES_AROUND_A_CHUNK {
        let fixture = Fixture::of_size(size);
        let mut server = program(textbook_server.to_str().unwrap(), fixture.source_directory(), &["0", "des.txt"]);
        let server = Server::start(&mut server);
        let client = fixture.client(server.port, &[]).finish();
        let outcome = Outcome { client, server: server.finish() };
        outcome.assert_statuses(0, 0);
        assert_eq!(outcome.client.stderr(), "");
        assert_eq!(outcome.server.stdout(), "Message from client: Thank you \n");
        fixture.assert_replaced();
    }
}

#[test]
fn textbook_client_and_file_client_reply_with_the_same_bytes() {
    let Some(textbook_client) = c_program("textbook-client.c") else { return };
    let (here, listener) = (directory(), Listener::new());
    let port = listener.port();
    let mut textbook_client = Command::new(textbook_client);
    textbook_client.args(["127.0.0.1", &port.to_string()]).arg(here.path().join("received"));
    for client in [&mut textbook_client, &mut file_client(here.path(), port, &[])] {
        let client = Running::start(client);
        assert_eq!(half_close(&listener.accept()), THANK_YOU);
        assert_eq!(client.finish().status, 0);
    }
}

/// Fetches the file from a peer that serves its standard input. Checks that the file is stored whole, whatever the peer
/// does with the reply.
fn fetch_from(name: &str, arguments: &str) -> Option<Outcome> {
    let (fixture, port) = (Fixture::of_size(SIZE), ReservedPort::new());
    let mut peer = peer(name, arguments, fixture.source_directory(), port.number)?;
    let peer = Running::start(peer.stdin(File::open(fixture.source()).unwrap()));
    let client = fixture.client(port.number, &["--wait", "1m"]).finish();
    let outcome = Outcome { client, server: peer.finish() };
    assert_eq!(outcome.client.status, 0, "{name} {arguments}: {outcome:?}");
    assert_eq!(outcome.client.stdout(), received(SIZE, "destination.txt"));
    fixture.assert_replaced();
    Some(outcome)
}

#[test]
fn file_client_fetches_from_peers_and_they_get_the_reply() {
    let servers = [
        ("nc.openbsd", "-N -l 127.0.0.1 PORT"),
        ("nc.traditional", "-q 60 -l -s 127.0.0.1 -p PORT"),
        ("ncat", "-l 127.0.0.1 PORT"),
        ("socat", "-t60 TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr STDIO"),
    ];
    for (name, arguments) in servers {
        let Some(Outcome { client, server: peer }) = fetch_from(name, arguments) else { continue };
        assert_eq!(peer.stdout, THANK_YOU, "{name} prints the reply");
        assert_eq!((peer.status, client.errors()), (0, vec![]), "{name}: {peer:?}");
    }
}

#[test]
fn file_client_fetches_from_peers_that_close_after_the_file() {
    let servers =
        [("socat", "-u STDIN TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr"), ("ncat", "--send-only -l 127.0.0.1 PORT")];
    for (name, arguments) in servers {
        let Some(outcome) = fetch_from(name, arguments) else { continue };
        let warning = "file-client: warning: destination.txt is stored, but the server could not be told: ";
        let errors = outcome.client.errors();
        assert!(errors.len() <= 1 && errors.iter().all(|line| line.starts_with(warning)), "{name}: {errors:?}");
    }
}

/// Serves the file to a peer that writes it to its standard output. Checks that it arrives whole, whatever the peer
/// replies.
fn serve_to(name: &str, arguments: &str) -> Option<Finished> {
    let fixture = Fixture::of_size(SIZE);
    let server = fixture.server(&[]);
    let peer = run(&mut peer(name, arguments, fixture.source_directory(), server.port)?);
    let server = server.finish();
    assert_same(&peer.stdout, fixture.bytes(), name);
    assert_eq!(peer.status, 0, "{name}: {peer:?}");
    Some(server)
}

#[test]
fn file_server_serves_peers_that_do_not_reply_and_reports_no_confirmation() {
    let clients = [
        ("nc.openbsd", "127.0.0.1 PORT"),
        ("nc.openbsd", "-N 127.0.0.1 PORT"),
        ("nc.openbsd", "-d 127.0.0.1 PORT"),
        ("nc.traditional", "127.0.0.1 PORT"),
        ("ncat", "127.0.0.1 PORT"),
        ("ncat", "--recv-only 127.0.0.1 PORT"),
        ("socat", "-t60 TCP:127.0.0.1:PORT STDIO"),
        ("socat", "-u TCP:127.0.0.1:PORT STDOUT"),
    ];
    for (name, arguments) in clients {
        let Some(server) = serve_to(name, arguments) else { continue };
        assert_eq!((server.status, &*server.stdout()), (3, ""), "{name} {arguments}: {server:?}");
        let error = format!(": sent {SIZE} bytes of des.txt, {NO_REPLY}");
        let errors = server.errors();
        assert!(matches!(&errors[..], [line] if line.ends_with(&error)), "{name} {arguments}: {errors:?}");
    }
}

#[test]
fn file_server_serves_peers_that_run_a_script_which_confirms() {
    let script = "cat > received; echo Thank you";
    for (name, arguments) in
        [("nc.traditional", "-c SCRIPT 127.0.0.1 PORT"), ("socat", "-t60 TCP:127.0.0.1:PORT SYSTEM:SCRIPT")]
    {
        let Some(path) = installed(name) else { continue };
        let fixture = Fixture::of_size(SIZE);
        let outcome = fixture.transfer_with(&[], |port| {
            let arguments = arguments.replace("PORT", &port.to_string());
            let arguments = arguments.split(' ').map(|argument| argument.replace("SCRIPT", script));
            let mut peer = Command::new(path);
            peer.args(arguments).current_dir(fixture.destination_directory());
            peer
        });
        assert_eq!(outcome.statuses(), (0, 0), "{name}: {outcome:?}");
        assert_eq!(outcome.server.stdout(), CONFIRMED);
        assert_file(&fixture.destination_directory().join("received"), fixture.bytes());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn reply_may_be_typed_into_a_peer_after_eof() {
    use std::io::{self, Write as _};

    use common::network::wait_for_half_close;

    let clients =
        [("nc.openbsd", "127.0.0.1 PORT"), ("ncat", "127.0.0.1 PORT"), ("socat", "-t60 TCP:127.0.0.1:PORT STDIO")];
    for (name, arguments) in clients {
        let fixture = Fixture::of_size(SIZE);
        let server = fixture.server(&[]);
        let Some(mut peer) = peer(name, arguments, fixture.source_directory(), server.port) else { continue };
        let (input, mut keyboard) = io::pipe().unwrap();
        let running = Running::start(peer.stdin(input));
        drop(peer);
        wait_for_half_close(&server);
        keyboard.write_all(b"Thank you\n").unwrap();
        drop(keyboard);
        let (peer, server) = (running.finish(), server.finish());
        assert_eq!((server.status, &*server.stdout()), (0, CONFIRMED), "{name}: {server:?}");
        assert_same(&peer.stdout, fixture.bytes(), name);
    }
}

/// `curl` as a client that stores what it receives in `destination.txt`.
fn curl(fixture: &Fixture, port: u16) -> Option<Command> {
    // Without the user's settings, the first of all options, and without a proxy of the environment.
    let arguments =
        "-q --noproxy * --http0.9 --no-progress-meter --no-buffer -o destination.txt http://127.0.0.1:PORT/";
    peer("curl", arguments, fixture.destination_directory(), port)
}

#[test]
fn curl_fetches_the_file_and_its_request_does_not_confirm() {
    // From an empty file curl takes no answer, and of one that looks like HTTP it cuts off the head.
    for (bytes, status, stored) in [
        (content(SIZE, 1), 0, Some(content(SIZE, 1))),
        (Vec::new(), 52, None),
        (b"HTTP/1.0 200 OK\r\n\r\nbody".to_vec(), 0, Some(b"body".to_vec())),
    ] {
        let fixture = Fixture::new(bytes);
        let server = fixture.server(&[]);
        let Some(mut curl) = curl(&fixture, server.port) else { return };
        let outcome = Outcome { client: run(&mut curl), server: server.finish() };
        outcome.assert_statuses(status, 3);
        let errors = outcome.server.errors();
        let reason = ", not confirmed: the client replied with an HTTP request, as a browser does";
        assert!(matches!(&errors[..], [error] if error.contains(reason)), "{errors:?}");
        match stored {
            Some(bytes) => assert_file(&fixture.destination(), &bytes),
            None => assert!(!fixture.destination().exists()),
        }
    }
}

#[test]
fn curl_notices_a_killed_server() {
    let fixture = Fixture::new("");
    let (input, mut pipe) = std::io::pipe().unwrap();
    let mut command = fixture.server_command(&["--file", "-"]);
    let server = Server::start(command.stdin(input));
    drop(command);
    let Some(mut curl) = curl(&fixture, server.port) else { return };
    let curl = Running::start(&mut curl);
    std::io::Write::write_all(&mut pipe, &content(30_000, 1)).unwrap();
    let has_started = || fixture.destination().metadata().is_ok_and(|metadata| metadata.len() > 0);
    wait_until("that curl receives", has_started);
    let server = server.interrupt(Signal::KILL);
    let curl = curl.finish();
    assert_eq!((curl.status, server.status), (56, 137), "{curl:?}");
}
