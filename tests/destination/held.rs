//! A transfer that stands still in the middle: a server inside the test has sent some bytes, and the client has
//! written them. What happens next is up to the test.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::common::{DEADLINE, Finished, Running, Signal};

pub struct Held {
    pub client: Running,
    pub connection: TcpStream,
}

impl Held {
    /// The client has connected, and nothing has been sent.
    pub fn connect(client: impl FnOnce(u16) -> Command) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = Running::start(&mut client(listener.local_addr().unwrap().port()));
        listener.set_nonblocking(true).unwrap();
        let connection = until("the client has connected", || listener.accept().ok()).0;
        connection.set_nonblocking(false).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { client, connection }
    }

    /// The client has these bytes in its file.
    pub fn start(bytes: &[u8], client: impl FnOnce(u16) -> Command) -> Self {
        let mut held = Self::connect(client);
        held.connection.write_all(bytes).unwrap();
        until("the client has written them", || held.has_open_file_of(bytes.len()).then_some(()));
        held
    }

    /// Files without a name are seen here only.
    fn has_open_file_of(&self, size: usize) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.client.pid())).into_iter().flatten();
        let mut open = open.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
        open.any(|file| file.is_file() && file.len() == size as u64)
    }

    /// The rest and a true end; gives what the client replied, and how it ended.
    pub fn end(mut self, rest: &[u8]) -> (Vec<u8>, Finished) {
        self.connection.write_all(rest).unwrap();
        let mut reply = Vec::new();
        // A client that fails resets the connection, at once if it does not need the end for that.
        let _ = self.connection.shutdown(Shutdown::Write);
        let _ = self.connection.read_to_end(&mut reply);
        (reply, self.client.finish())
    }

    /// The client gets the signal; it ends, and its server learns that the file was not stored.
    pub fn kill(mut self, signal: Signal) -> Finished {
        self.client.signal(signal);
        let ended = self.connection.read(&mut [0]);
        assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset), "after {signal:?}");
        self.client.finish()
    }
}

/// Looks again and again until there is something to see.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < DEADLINE, "never came true: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
