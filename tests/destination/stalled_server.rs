//! A transfer that is stopped in the middle: a server in the test has sent some bytes, and the client has written them.
//! The test decides how it continues.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use crate::common::network::{Listener, assert_reset_without_reply};
use crate::common::{Finished, Running, Signal, wait_until};

pub struct StalledServer {
    pub client: Running,
    pub connection: TcpStream,
}

impl StalledServer {
    /// The client has connected, and nothing has been sent.
    pub fn connect(client: impl FnOnce(u16) -> Command) -> Self {
        let listener = Listener::new();
        let client = Running::start(&mut client(listener.port()));
        Self { client, connection: listener.accept() }
    }

    /// The client has written these bytes to its file.
    pub fn start(bytes: &[u8], client: impl FnOnce(u16) -> Command) -> Self {
        let mut server = Self::connect(client);
        server.connection.write_all(bytes).unwrap();
        wait_until("the client has written the bytes", || server.client_has_open_file_of(bytes.len()));
        server
    }

    /// Files without a name are found only here.
    fn client_has_open_file_of(&self, size: usize) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.client.pid())).into_iter().flatten();
        let mut open = open.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
        open.any(|file| file.is_file() && file.len() == size as u64)
    }

    /// Sends the rest and half-closes. Returns the reply, and how the client ended.
    pub fn half_close(mut self, rest: &[u8]) -> (Vec<u8>, Finished) {
        self.connection.write_all(rest).unwrap();
        let mut reply = Vec::new();
        // A client that fails resets the connection, possibly before the half-close.
        let _ = self.connection.shutdown(Shutdown::Write);
        let _ = self.connection.read_to_end(&mut reply);
        (reply, self.client.finish())
    }

    /// Sends the client a signal that ends it. Checks that it resets the connection without a reply.
    pub fn kill_client(self, signal: Signal) -> Finished {
        self.client.signal(signal);
        assert_reset_without_reply(&self.connection);
        self.client.finish()
    }
}
