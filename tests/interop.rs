//! The programs that people have already: the textbook pair in C, nc, ncat and socat, each as either side.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Shutdown, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use common::network::HeldPort;
use common::{Finished, Running, Server, assert_same, c_program, content, file_client, folder, installed, run};

const SIZE: usize = 1_000_000;

/// A peer that is installed here, run in the folder; the arguments are separated by spaces and know the port as PORT.
fn peer(name: &str, arguments: &str, folder: &Path, port: u16) -> Option<Command> {
    let mut command = Command::new(installed(name)?);
    let arguments = arguments.replace("PORT", &port.to_string());
    command.stdin(Stdio::null()).current_dir(folder).args(arguments.split(' '));
    Some(command)
}

fn folder_with_a_file(size: usize) -> (tempfile::TempDir, Vec<u8>) {
    let (folder, bytes) = (folder(), content(size, 1));
    fs::write(folder.path().join("des.txt"), &bytes).unwrap();
    (folder, bytes)
}

#[test]
fn the_textbook_client_gets_the_file_and_confirms() {
    let Some(textbook_client) = c_program("textbook-client.c") else { return };
    for size in [0, 1, 29, 30, 31, 60, 100_000] {
        let (there, bytes) = folder_with_a_file(size);
        let server = Server::start(there.path(), &[]);
        let received = there.path().join("received");
        let arguments = ["127.0.0.1", &server.port.to_string()];
        let client = run(Command::new(&textbook_client).args(arguments).arg(&received));
        let server = server.finish();
        assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
        assert_eq!(client.stdout(), "Received file data\n");
        assert_eq!(server.stdout(), "Message from client: Thank you\n");
        assert_same(&fs::read(received).unwrap(), &bytes, "what the textbook client stored");
    }
}

#[test]
fn the_textbook_server_gets_its_ten_bytes_and_prints_them_as_it_always_did() {
    let Some(textbook_server) = c_program("textbook-server.c") else { return };
    for size in [0, 1, 29, 30, 31, 60, 100_000] {
        let ((there, bytes), here) = (folder_with_a_file(size), folder());
        let server = Server::spawn(Command::new(&textbook_server).args(["0", "des.txt"]).current_dir(there.path()));
        let client = run(&mut file_client(here.path(), server.port, &[]));
        let server = server.finish();
        assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
        assert_eq!(client.stderr(), "");
        assert_eq!(server.stdout(), "Message from client: Thank you \n");
        assert_same(&fs::read(here.path().join("destination.txt")).unwrap(), &bytes, "destination.txt");
    }
}

#[test]
fn the_textbook_client_and_ours_reply_with_the_same_bytes() {
    let Some(textbook_client) = c_program("textbook-client.c") else { return };
    let (here, listener) = (folder(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut textbook_client = Command::new(textbook_client);
    textbook_client.args(["127.0.0.1", &port.to_string()]).arg(here.path().join("received"));
    for client in [&mut textbook_client, &mut file_client(here.path(), port, &[])] {
        let client = Running::start(client);
        let (mut connection, _) = listener.accept().unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        connection.read_to_end(&mut reply).unwrap();
        assert_eq!(reply, b"Thank you\0");
        assert_eq!(client.finish().status, 0);
    }
}

/// Fetches the file from a peer that serves it out of its standard input. The file is there and whole, whatever the
/// peer thinks of the reply.
fn fetch_from(name: &str, arguments: &str) -> Option<(Finished, Finished)> {
    let ((there, bytes), here, port) = (folder_with_a_file(SIZE), folder(), HeldPort::new());
    let mut peer = peer(name, arguments, there.path(), port.number)?;
    let peer = Running::start(peer.stdin(File::open(there.path().join("des.txt")).unwrap()));
    let client = run(&mut file_client(here.path(), port.number, &["--wait", "1m"]));
    let peer = peer.finish();
    assert_eq!(client.status, 0, "{name} {arguments}: {client:?} {peer:?}");
    assert_eq!(client.stdout(), format!("Received file data: {SIZE} bytes in destination.txt\n"));
    assert_same(&fs::read(here.path().join("destination.txt")).unwrap(), &bytes, name);
    Some((client, peer))
}

#[test]
fn file_client_fetches_from_peers_and_thanks_them() {
    let servers = [
        ("nc.openbsd", "-N -l 127.0.0.1 PORT"),
        ("nc.traditional", "-q 60 -l -s 127.0.0.1 -p PORT"),
        ("ncat", "-l 127.0.0.1 PORT"),
        ("socat", "-t60 TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr STDIO"),
    ];
    for (name, arguments) in servers {
        let Some((client, peer)) = fetch_from(name, arguments) else { continue };
        assert_eq!(peer.stdout, b"Thank you\0", "{name} prints the reply");
        assert_eq!((peer.status, client.errors()), (0, vec![]), "{name}: {peer:?}");
    }
}

#[test]
fn file_client_fetches_from_peers_that_hang_up_after_the_file() {
    let servers =
        [("socat", "-u STDIN TCP-LISTEN:PORT,bind=127.0.0.1,reuseaddr"), ("ncat", "--send-only -l 127.0.0.1 PORT")];
    for (name, arguments) in servers {
        let Some((client, _)) = fetch_from(name, arguments) else { continue };
        let warning = "file-client: warning: destination.txt is stored, but the server could not be told: ";
        let errors = client.errors();
        assert!(errors.len() <= 1 && errors.iter().all(|line| line.starts_with(warning)), "{name}: {errors:?}");
    }
}

/// Serves the file to a peer that writes it to its standard output. It arrives there whole, whatever the peer replies.
fn serve_to(name: &str, arguments: &str) -> Option<Finished> {
    let (there, bytes) = folder_with_a_file(SIZE);
    let server = Server::start(there.path(), &[]);
    let peer = run(&mut peer(name, arguments, there.path(), server.port)?);
    let server = server.finish();
    assert_same(&peer.stdout, &bytes, name);
    assert_eq!(peer.status, 0, "{name}: {peer:?}");
    Some(server)
}

#[test]
fn file_server_serves_peers_that_do_not_reply_and_knows_it() {
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
        let why = format!(": sent {SIZE} bytes of des.txt, not confirmed: the client left without a reply");
        let errors = server.errors();
        assert!(matches!(&errors[..], [error] if error.ends_with(&why)), "{name} {arguments}: {errors:?}");
    }
}

#[test]
fn file_server_serves_peers_that_run_a_script_which_thanks() {
    let script = "cat > received; echo Thank you";
    for (name, arguments) in
        [("nc.traditional", "-c SCRIPT 127.0.0.1 PORT"), ("socat", "-t60 TCP:127.0.0.1:PORT SYSTEM:SCRIPT")]
    {
        let (there, bytes) = folder_with_a_file(SIZE);
        let server = Server::start(there.path(), &[]);
        let Some(program) = installed(name) else { continue };
        let mut peer = Command::new(program);
        let arguments = arguments.replace("PORT", &server.port.to_string());
        peer.args(arguments.split(' ').map(|argument| argument.replace("SCRIPT", script)));
        let peer = run(peer.current_dir(there.path()));
        let server = server.finish();
        assert_eq!((peer.status, server.status), (0, 0), "{name}: {peer:?} {server:?}");
        assert_eq!(server.stdout(), "Message from client: Thank you\n");
        assert_same(&fs::read(there.path().join("received")).unwrap(), &bytes, name);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_person_at_a_peer_may_type_the_thanks_after_the_end() {
    use std::io::{self, Write as _};

    use common::network::wait_for_connection;

    let clients =
        [("nc.openbsd", "127.0.0.1 PORT"), ("ncat", "127.0.0.1 PORT"), ("socat", "-t60 TCP:127.0.0.1:PORT STDIO")];
    for (name, arguments) in clients {
        let (there, bytes) = folder_with_a_file(SIZE);
        let server = Server::start(there.path(), &[]);
        let Some(mut peer) = peer(name, arguments, there.path(), server.port) else { continue };
        let (input, mut keyboard) = io::pipe().unwrap();
        let peer_runs = Running::start(peer.stdin(input));
        drop(peer);
        wait_for_connection("that the server has half-closed", |it| {
            it.remote_address.port() == server.port && it.state == procfs::net::TcpState::CloseWait
        });
        keyboard.write_all(b"Thank you\n").unwrap();
        drop(keyboard);
        let (peer, server) = (peer_runs.finish(), server.finish());
        assert_eq!((server.status, &*server.stdout()), (0, "Message from client: Thank you\n"), "{name}: {server:?}");
        assert_same(&peer.stdout, &bytes, name);
    }
}
