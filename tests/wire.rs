//! The wire, to the byte: peers made of nothing but a socket, which read and write as slowly, as early, as much and as
//! oddly as a peer can.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use common::{Finished, Running, Server, assert_same, content, file_client, folder, names_in, run};

const SIZE: usize = 1000;

/// Longer than any server reads.
const TEN_MEGABYTES: usize = 10_000_000;

fn connect(server: &Server) -> TcpStream {
    let connection = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    connection.set_nodelay(true).unwrap();
    connection
}

/// Reads the whole file, then replies and leaves. What the server makes of it.
fn reply_with(reply: &[u8]) -> Served {
    let there = folder();
    let bytes = content(SIZE, 1);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let server = Server::start(there.path(), &[]);
    let mut connection = connect(&server);
    let client = connection.local_addr().unwrap().to_string();
    let mut received = Vec::new();
    connection.read_to_end(&mut received).unwrap();
    assert_same(&received, &bytes, "what crossed the wire");
    // Who sends without end is hung up on.
    let _ = connection.write_all(reply);
    drop(connection);
    Served { client, server: server.finish() }
}

struct Served {
    client: String,
    server: Finished,
}

impl Served {
    #[track_caller]
    fn is_confirmed(&self) {
        assert_eq!((self.server.status, &*self.server.stdout()), (0, "Message from client: Thank you\n"));
        assert_eq!(self.server.errors(), [""; 0]);
    }

    #[track_caller]
    fn is_not_confirmed(&self, printed: &str, why: &str) {
        assert_eq!((self.server.status, &*self.server.stdout()), (3, printed));
        let sent = format!("file-server: {}: sent {SIZE} bytes of des.txt", self.client);
        assert_eq!(self.server.errors(), [format!("{sent}, not confirmed: {why}")]);
    }
}

#[test]
fn thank_you_confirms_whether_nul_newline_or_the_end_follows() {
    for reply in ["Thank you\0", "Thank you\n", "Thank you", "Thank you\0 and more", "Thank you\nand more"] {
        reply_with(reply.as_bytes()).is_confirmed();
    }
}

#[test]
fn anything_else_is_printed_and_does_not_confirm() {
    let thirty = "x".repeat(30);
    let replies = [
        (&b"Thank yo"[..], "Thank yo"),
        (b"Thank you!\0", "Thank you!"),
        (b"thank you\0", "thank you"),
        (b"Thank you\r\n", r"Thank you\r"),
        (b" Thank you\n", " Thank you"),
        (b"No\0Thank you\0", "No"),
        (b"No\nThank you\n", "No"),
        (thirty.as_bytes(), &thirty),
        (b"Thank you for all these many bytes\0", "Thank you for all these many b"),
        ("Merci, ça va\n".as_bytes(), "Merci, ça va"),
    ];
    for (reply, printed) in replies {
        let printed = format!("Message from client: {printed}\n");
        reply_with(reply).is_not_confirmed(&printed, "the client replied something other than \"Thank you\"");
    }
}

#[test]
fn no_reply_is_not_printed_and_does_not_confirm() {
    for reply in [&b""[..], b"\0", b"\n", b"\0Thank you\0"] {
        reply_with(reply).is_not_confirmed("", "the client left without a reply");
    }
}

#[test]
fn control_characters_and_broken_text_are_escaped() {
    let replies = [
        (&b"\x1b[31mred\x1b[2J\x07\x08\0"[..], r"\u{1b}[31mred\u{1b}[2J\u{7}\u{8}"),
        (b"\rThank you\0", r"\rThank you"),
        (b"\x9b31m\xff\0", r"\x9b31m\xff"),
        ("\u{9b}31m\u{202e}\u{2028}\0".as_bytes(), r"\u{9b}31m\u{202e}\u{2028}"),
        (br"\u{1b}[31m", r"\\u{1b}[31m"),
    ];
    for (reply, printed) in replies {
        let printed = format!("Message from client: {printed}\n");
        reply_with(reply).is_not_confirmed(&printed, "the client replied something other than \"Thank you\"");
    }
}

#[test]
fn ten_megabytes_of_reply_are_thirty_bytes_on_the_terminal() {
    let printed = format!("Message from client: {}\n", "x".repeat(30));
    let why = "the client replied something other than \"Thank you\"";
    reply_with(&vec![b'x'; TEN_MEGABYTES]).is_not_confirmed(&printed, why);
}

#[test]
fn thank_you_with_ten_megabytes_behind_it_confirms() {
    let mut reply = b"Thank you\0".to_vec();
    reply.resize(TEN_MEGABYTES, b'x');
    reply_with(&reply).is_confirmed();
}

#[test]
fn a_client_that_has_thanked_need_not_hang_up() {
    let there = folder();
    fs::write(there.path().join("des.txt"), "stay").unwrap();
    let server = Server::start(there.path(), &[]);
    let mut connection = connect(&server);
    let mut received = Vec::new();
    connection.read_to_end(&mut received).unwrap();
    connection.write_all(b"Thank you\0").unwrap();
    let server = server.finish();
    assert_eq!((server.status, &*server.stdout()), (0, "Message from client: Thank you\n"));
}

#[test]
fn a_client_may_read_and_write_a_byte_at_a_time() {
    let there = folder();
    let bytes = content(SIZE, 2);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let server = Server::start(there.path(), &[]);
    let mut connection = connect(&server);
    assert_same(&byte_by_byte(&mut connection), &bytes, "what crossed the wire");
    for byte in b"Thank you\0" {
        connection.write_all(&[*byte]).unwrap();
    }
    let server = server.finish();
    assert_eq!((server.status, &*server.stdout()), (0, "Message from client: Thank you\n"));
}

fn byte_by_byte(connection: &mut TcpStream) -> Vec<u8> {
    let (mut received, mut byte) = (Vec::new(), [0]);
    while connection.read(&mut byte).unwrap() == 1 {
        received.push(byte[0]);
    }
    received
}

/// The server is a socket of the test's own; the client has connected to it.
fn client_of_ours(here: &Path, arguments: &[&str]) -> (Running, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Running::start(&mut file_client(here, listener.local_addr().unwrap().port(), arguments));
    let (connection, _) = listener.accept().unwrap();
    connection.set_nodelay(true).unwrap();
    (client, connection)
}

#[test]
fn a_server_may_write_and_read_a_byte_at_a_time() {
    let here = folder();
    let bytes = content(SIZE, 3);
    let (client, mut connection) = client_of_ours(here.path(), &[]);
    for byte in &bytes {
        connection.write_all(&[*byte]).unwrap();
    }
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(byte_by_byte(&mut connection), b"Thank you\0");
    assert_eq!(client.finish().status, 0);
    assert_same(&fs::read(here.path().join("destination.txt")).unwrap(), &bytes, "destination.txt");
}

#[test]
fn a_file_that_appears_meanwhile_is_kept_with_no_clobber() {
    let here = folder();
    let (client, mut connection) = client_of_ours(here.path(), &["--no-clobber"]);
    connection.write_all(b"new").unwrap();
    fs::write(here.path().join("destination.txt"), "of somebody else").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let client = client.finish();
    assert_eq!((client.status, &*client.stderr()), (1, "file-client: could not write destination.txt: file exists\n"));
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"of somebody else");
    assert_eq!(names_in(here.path()), ["destination.txt"]);
}

#[test]
fn a_file_of_no_bytes_is_only_its_end() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "").unwrap();
    let server = Server::start(there.path(), &[]);
    let mut connection = connect(&server);
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    connection.write_all(b"Thank you\0").unwrap();
    assert_eq!(server.finish().status, 0);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        byte_by_byte(&mut connection)
    });
    let client = run(&mut file_client(here.path(), port, &[]));
    assert_eq!((client.status, &*client.stdout()), (0, "Received file data: 0 bytes in destination.txt\n"));
    assert_eq!(server.join().unwrap(), b"Thank you\0");
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"");
}

/// What only the kernel's table of connections can time: what happens while the file is still on its way.
#[cfg(target_os = "linux")]
mod before_the_end {
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr};

    use procfs::net::TcpState;
    use socket2::{Domain, Socket, Type};

    use super::*;
    use common::file_server;
    use common::network::wait_for_connection;

    #[test]
    fn the_client_says_and_shows_nothing_and_then_ten_bytes() {
        let here = folder();
        let (client, mut connection) = client_of_ours(here.path(), &[]);
        connection.write_all(b"the whole file").unwrap();
        let server = connection.local_addr().unwrap();
        wait_for_connection("that has delivered all", |it| {
            it.local_address == server && it.state == TcpState::Established && it.tx_queue == 0
        });
        wait_for_connection("whose client has read all", |it| it.remote_address == server && it.rx_queue == 0);
        connection.set_nonblocking(true).unwrap();
        assert_eq!(connection.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(!here.path().join("destination.txt").exists());

        connection.set_nonblocking(false).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        connection.read_to_end(&mut reply).unwrap();
        assert_eq!(reply, b"Thank you\0");
        // Stored before it was said.
        assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"the whole file");
        assert_eq!(client.finish().status, 0);
    }

    /// Replies before the server has the whole file to send. What the server makes of it.
    fn reply_early(early: &[u8], late: &[u8]) -> Served {
        let there = folder();
        let (input, mut file) = io::pipe().unwrap();
        let server = Server::spawn(file_server(there.path(), &["--file", "-"]).stdin(input));
        let mut connection = connect(&server);
        let client = connection.local_addr().unwrap();
        let (mut talker, early) = (connection.try_clone().unwrap(), early.to_vec());
        // In a thread, for it may be more than the server ever reads.
        let talking = thread::spawn(move || talker.write_all(&early));
        wait_for_connection("with a reply", |it| it.remote_address == client && it.rx_queue > 0);
        file.write_all(&content(SIZE, 4)).unwrap();
        drop(file);
        // Who is hung up on may lose the rest of the file.
        let _ = connection.read_to_end(&mut Vec::new());
        let _ = connection.write_all(late);
        let _ = talking.join().unwrap();
        drop(connection);
        Served { client: client.to_string(), server: server.finish() }
    }

    #[test]
    fn a_reply_does_not_confirm() {
        for (early, late) in [(&b"Thank you\0"[..], &b""[..]), (b"Thank you\n", b"Thank you\n"), (b"Tha", b"nk you\0")]
        {
            let served = reply_early(early, late);
            assert_eq!((served.server.status, &*served.server.stdout()), (3, "Message from client: Thank you\n"));
            let sent = format!("file-server: {}: sent {SIZE} bytes of standard input", served.client);
            let why = "the client replied before the end of the file";
            assert_eq!(served.server.errors(), [format!("{sent}, not confirmed: {why}")]);
        }
    }

    #[test]
    fn ten_megabytes_of_reply_stop_nothing_and_do_not_confirm() {
        let served = reply_early(&vec![b'x'; TEN_MEGABYTES], b"");
        let printed = format!("Message from client: {}\n", "x".repeat(30));
        assert_eq!((served.server.status, served.server.stdout()), (3, printed));
        assert_eq!(served.server.errors().len(), 1, "{:?}", served.server);
    }

    #[test]
    fn a_client_that_talks_and_listens_late_still_gets_the_whole_file() {
        let (there, bytes) = (folder(), content(12 * SIZE, 5));
        fs::write(there.path().join("des.txt"), &bytes).unwrap();
        let server = Server::start(there.path(), &[]);
        let mut connection = connect_with_a_small_window(&server);
        connection.write_all(&[b'x'; 10 * SIZE]).unwrap();
        let client = connection.local_addr().unwrap();
        wait_for_connection("that the server has half-closed", |it| {
            it.remote_address == client
                && matches!(it.state, TcpState::FinWait1 | TcpState::FinWait2)
                && it.rx_queue == 0
        });
        // Only now, when a hasty close would have thrown the rest away.
        let mut received = Vec::new();
        connection.read_to_end(&mut received).unwrap();
        assert_same(&received, &bytes, "what crossed the wire");
        drop(connection);
        assert_eq!(server.finish().status, 3);
    }

    /// Most of the file has to wait at the server.
    fn connect_with_a_small_window(server: &Server) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(SIZE).unwrap();
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, server.port)).into()).unwrap();
        socket.into()
    }
}
