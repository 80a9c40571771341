//! The protocol, byte by byte: plain peers that read and write slowly, early, too much, or something else.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use common::fixture::OLD;
use common::messages::{self, CONFIRMED, NO_REPLY, OTHER_REPLY, received};
use common::network::{
    Listener, connect, half_close, read_all, read_byte_by_byte, read_some, thank, write_byte_by_byte,
};
use common::{Finished, Fixture, Running, assert_same};
use half_close::protocol::THANK_YOU;

const SIZE: usize = 1000;

/// Longer than any server reads.
const TEN_MEGABYTES: usize = 10_000_000;

#[test]
fn reply_is_these_ten_bytes() {
    assert_eq!(THANK_YOU, b"Thank you\0");
}

/// Reads the whole file, replies and closes.
fn reply_with(reply: &[u8]) -> Served {
    let fixture = Fixture::of_size(SIZE);
    let server = fixture.server(&[]);
    let mut connection = connect(server.port);
    let client = connection.local_addr().unwrap().to_string();
    assert_same(&read_all(&connection), fixture.bytes(), "what was sent");
    // The server closes before it has read a reply without end.
    let _ = connection.write_all(reply);
    drop(connection);
    Served { client, server: server.finish() }
}

/// How the server ended, and the client's address as it prints it.
struct Served {
    client: String,
    server: Finished,
}

impl Served {
    #[track_caller]
    fn assert_confirmed(&self) {
        assert_eq!((self.server.status, &*self.server.stdout()), (0, CONFIRMED));
        assert_eq!(self.server.errors(), [""; 0]);
    }

    #[track_caller]
    fn assert_not_confirmed(&self, printed: &str, reason: &str) {
        assert_eq!((self.server.status, &*self.server.stdout()), (3, printed));
        let sent = format!("file-server: {}: sent {SIZE} bytes of des.txt", self.client);
        assert_eq!(self.server.errors(), [format!("{sent}, {reason}")]);
    }
}

#[test]
fn thank_you_confirms_whether_nul_newline_or_eof_follows() {
    for reply in ["Thank you\0", "Thank you\n", "Thank you", "Thank you\0 and more", "Thank you\nand more"] {
        reply_with(reply.as_bytes()).assert_confirmed();
    }
}

#[test]
fn any_other_reply_is_printed_and_does_not_confirm() {
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
        reply_with(reply).assert_not_confirmed(&messages::reply(printed), OTHER_REPLY);
    }
}

#[test]
fn empty_reply_is_not_printed_and_does_not_confirm() {
    for reply in [&b""[..], b"\0", b"\n", b"\0Thank you\0"] {
        reply_with(reply).assert_not_confirmed("", NO_REPLY);
    }
}

#[test]
fn control_characters_and_invalid_utf8_in_a_reply_are_escaped() {
    let replies = [
        (&b"\x1b[31mred\x1b[2J\x07\x08\0"[..], r"\u{1b}[31mred\u{1b}[2J\u{7}\u{8}"),
        (b"\rThank you\0", r"\rThank you"),
        (b"\x9b31m\xff\0", r"\x9b31m\xff"),
        ("\u{9b}31m\u{202e}\u{2028}\0".as_bytes(), r"\u{9b}31m\u{202e}\u{2028}"),
        (br"\u{1b}[31m", r"\\u{1b}[31m"),
    ];
    for (reply, printed) in replies {
        reply_with(reply).assert_not_confirmed(&messages::reply(printed), OTHER_REPLY);
    }
}

#[test]
fn only_thirty_bytes_of_a_long_reply_are_printed() {
    let printed = messages::reply(&"x".repeat(30));
    reply_with(&vec![b'x'; TEN_MEGABYTES]).assert_not_confirmed(&printed, OTHER_REPLY);
}

#[test]
fn thank_you_followed_by_ten_megabytes_confirms() {
    let mut reply = THANK_YOU.to_vec();
    reply.resize(TEN_MEGABYTES, b'x');
    reply_with(&reply).assert_confirmed();
}

#[test]
fn client_may_stay_connected_after_its_reply() {
    let fixture = Fixture::new("stay");
    let server = fixture.server(&[]);
    let connection = connect(server.port);
    read_all(&connection);
    thank(&connection);
    let server = server.finish();
    assert_eq!((server.status, &*server.stdout()), (0, CONFIRMED));
}

#[test]
fn client_may_read_and_write_one_byte_at_a_time() {
    let fixture = Fixture::of_size(SIZE);
    let server = fixture.server(&[]);
    let connection = connect(server.port);
    assert_same(&read_byte_by_byte(&connection), fixture.bytes(), "what was sent");
    write_byte_by_byte(&connection, THANK_YOU);
    let server = server.finish();
    assert_eq!((server.status, &*server.stdout()), (0, CONFIRMED));
}

/// `file-client`, connected to a plain server.
fn connect_client(fixture: &Fixture, arguments: &[&str]) -> (Running, TcpStream) {
    let listener = Listener::new();
    let client = fixture.client(listener.port(), arguments);
    (client, listener.accept())
}

#[test]
fn server_may_write_and_read_one_byte_at_a_time() {
    let fixture = Fixture::of_size(SIZE);
    let (client, connection) = connect_client(&fixture, &[]);
    write_byte_by_byte(&connection, fixture.bytes());
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_byte_by_byte(&connection), THANK_YOU);
    assert_eq!(client.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn no_clobber_keeps_a_file_that_appears_during_the_transfer_and_resets() {
    let fixture = Fixture::new("");
    let (client, mut connection) = connect_client(&fixture, &["--no-clobber"]);
    connection.write_all(b"new").unwrap();
    fs::write(fixture.destination(), OLD).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    common::network::assert_reset_without_reply(&connection);
    let client = client.finish();
    assert_eq!((client.status, &*client.stderr()), (1, "file-client: could not write destination.txt: file exists\n"));
    common::fixture::assert_untouched(fixture.destination_directory());
}

#[test]
fn empty_file_is_sent_and_received_as_eof_only() {
    let fixture = Fixture::new("");
    let server = fixture.server(&[]);
    let connection = connect(server.port);
    assert_eq!(read_some(&connection, &mut [0]).unwrap(), 0);
    thank(&connection);
    assert_eq!(server.finish().status, 0);

    let (client, connection) = connect_client(&fixture, &[]);
    assert_eq!(half_close(&connection), THANK_YOU);
    drop(connection);
    let client = client.finish();
    assert_eq!((client.status, client.stdout()), (0, received(0, "destination.txt")));
    fixture.assert_replaced();
}

/// What happens before EOF. Only the kernel's table of connections tells when that has happened.
#[cfg(target_os = "linux")]
mod before_eof {
    use std::io::{self, ErrorKind};
    use std::net::SocketAddr;
    use std::thread;

    use procfs::net::{TcpNetEntry, TcpState};

    use super::*;
    use common::Server;
    use common::messages::EARLY_REPLY;
    use common::network::{connect_with_receive_buffer, wait_for_connection};

    #[test]
    fn client_neither_replies_nor_shows_the_file() {
        let fixture = Fixture::new("the whole file");
        let (client, mut connection) = connect_client(&fixture, &[]);
        connection.write_all(fixture.bytes()).unwrap();
        let server = connection.local_addr().unwrap();
        wait_for_connection("that has delivered all", |it| {
            it.local_address == server && it.state == TcpState::Established && it.tx_queue == 0
        });
        wait_for_connection("whose client has read all", |it| it.remote_address == server && it.rx_queue == 0);
        connection.set_nonblocking(true).unwrap();
        assert_eq!(connection.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(!fixture.destination().exists());

        connection.set_nonblocking(false).unwrap();
        assert_eq!(half_close(&connection), THANK_YOU);
        // The client may still be running, but the file must be stored before the reply.
        fixture.assert_replaced();
        assert_eq!(client.finish().status, 0);
    }

    /// Another server may have a connection from the same address and port.
    fn is_between(connection: &TcpNetEntry, server: u16, client: SocketAddr) -> bool {
        (connection.local_address.port(), connection.remote_address) == (server, client)
    }

    /// Replies before the server has the whole file to send, and again after it.
    fn reply_early(early: &[u8], late: &[u8]) -> Served {
        let fixture = Fixture::new(common::content(SIZE, 4));
        let (input, mut file) = io::pipe().unwrap();
        let server = Server::start(fixture.server_command(&["--file", "-"]).stdin(input));
        let mut connection = connect(server.port);
        let client = connection.local_addr().unwrap();
        let (mut writer, early) = (connection.try_clone().unwrap(), early.to_vec());
        // In a thread, because it may be more than the server ever reads.
        let writing = thread::spawn(move || writer.write_all(&early));
        wait_for_connection("with a reply", |it| is_between(it, server.port, client) && it.rx_queue > 0);
        file.write_all(fixture.bytes()).unwrap();
        drop(file);
        // The server may have closed already, and then the rest of the file may be lost.
        let _ = connection.read_to_end(&mut Vec::new());
        let _ = connection.write_all(late);
        let _ = writing.join().unwrap();
        drop(connection);
        Served { client: client.to_string(), server: server.finish() }
    }

    #[test]
    fn reply_does_not_confirm() {
        for (early, late) in [(THANK_YOU, &b""[..]), (b"Thank you\n", b"Thank you\n"), (b"Tha", b"nk you\0")] {
            let served = reply_early(early, late);
            assert_eq!((served.server.status, &*served.server.stdout()), (3, CONFIRMED));
            let sent = format!("file-server: {}: sent {SIZE} bytes of standard input", served.client);
            assert_eq!(served.server.errors(), [format!("{sent}, {EARLY_REPLY}")]);
        }
    }

    #[test]
    fn reply_of_ten_megabytes_neither_blocks_the_server_nor_confirms() {
        let served = reply_early(&vec![b'x'; TEN_MEGABYTES], b"");
        assert_eq!((served.server.status, served.server.stdout()), (3, messages::reply(&"x".repeat(30))));
        assert_eq!(served.server.errors().len(), 1, "{:?}", served.server);
    }

    #[test]
    fn client_that_writes_early_and_reads_late_gets_the_whole_file() {
        let fixture = Fixture::of_size(12 * SIZE);
        let server = fixture.server(&[]);
        // Most of the file waits at the server.
        let mut connection = connect_with_receive_buffer(server.port, SIZE);
        connection.write_all(&[b'x'; 10 * SIZE]).unwrap();
        let client = connection.local_addr().unwrap();
        wait_for_connection("that the server has half-closed", |it| {
            is_between(it, server.port, client)
                && matches!(it.state, TcpState::FinWait1 | TcpState::FinWait2)
                && it.rx_queue == 0
        });
        // A server that has closed by now has discarded what was still queued.
        assert_same(&read_all(&connection), fixture.bytes(), "what was sent");
        drop(connection);
        assert_eq!(server.finish().status, 3);
    }
}
