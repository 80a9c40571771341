//! Connections that a server refuses: from an address that is not in `--allow`, or without its key.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::files::{content, directory, names_in};
use super::fixture::OTHER_KEY;
use super::network::reset;
use super::processes::{file_client, run};
use super::random::Random;
use super::wait::DEADLINE;

/// The start of a record of 512 bytes with a `ClientHello` of 508 (RFC 8446).
pub const HALF_A_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];

/// An alert, the only thing that a stranger is sent (RFC 8446 section 6).
const ALERT: usize = 7;

#[derive(Clone, Copy, Debug)]
pub struct Stranger {
    address: [u8; 4],
    /// When it connects, after the server has started.
    after: Duration,
    does: Act,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Nothing,
    Close,
    HalfClose,
    Reset,
    SendGarbage(u64),
    SendHalfAHello,
    FetchWithOtherKey,
}

impl Stranger {
    /// One that is not allowed (`--allow=127.0.0.1`), or has not got the key where it needs one.
    pub fn random(needs_key: bool, random: &mut Random) -> Self {
        let acts = [
            Act::Nothing,
            Act::Close,
            Act::HalfClose,
            Act::Reset,
            Act::SendGarbage(random.below(u64::MAX)),
            Act::SendHalfAHello,
            Act::FetchWithOtherKey,
        ];
        let does = random.one_of(&acts[..acts.len() - usize::from(!needs_key)]);
        let is_allowed = needs_key && random.below(2) == 0;
        let address = [127, 0, 0, if is_allowed { 1 } else { 2 }];
        Self { address, after: Duration::from_micros(random.below(20_000)), does }
    }

    /// Connects, and waits for the end of the connection. Fails if it is sent a byte of the file.
    pub fn visit(self, port: u16) {
        thread::sleep(self.after);
        if let Act::FetchWithOtherKey = self.does {
            return fetch_with_other_key(port);
        }
        let Some(mut connection) = self.connect(port) else { return };
        // The server may have reset it already.
        let _ = match self.does {
            Act::Close => return,
            Act::Reset => return reset(connection),
            Act::HalfClose => connection.shutdown(Shutdown::Write),
            Act::SendGarbage(seed) => connection.write_all(&content(1000, seed)),
            Act::SendHalfAHello => connection.write_all(HALF_A_HELLO),
            Act::Nothing | Act::FetchWithOtherKey => Ok(()),
        };
        let mut arrived = Vec::new();
        let _ = connection.read_to_end(&mut arrived);
        assert!(arrived.len() <= ALERT && arrived.first().is_none_or(|&kind| kind == 21), "{self:?}: {arrived:?}");
    }

    /// `None` if the server has ended.
    fn connect(self, port: u16) -> Option<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((self.address, 0)).into()).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).ok()?;
        let connection = TcpStream::from(socket);
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        Some(connection)
    }
}

fn fetch_with_other_key(port: u16) {
    let elsewhere = directory();
    let client = run(file_client(elsewhere.path(), port, &["--timeout=30s"]).env("HALF_CLOSE_KEY", OTHER_KEY));
    assert_eq!((client.status, names_in(elsewhere.path()).len()), (1, 0), "{client:?}");
}
