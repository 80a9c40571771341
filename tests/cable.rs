//! A cable that is pulled: two network namespaces and a link between them, which goes down in the middle. Nothing
//! comes back then, not even a RST. Needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use common::scene::{Scene, wait_until};
use common::{Finished, Running, Server, Signal, file_client, file_server, installed, is_root};
use procfs::net::TcpState;

/// Two machines and the cable between them; gone when dropped.
struct Cable {
    machines: [String; 2],
}

#[derive(Clone, Copy, Debug)]
enum End {
    Server,
    Client,
}

impl Cable {
    fn new() -> Self {
        static CABLES: AtomicU32 = AtomicU32::new(0);
        let number = CABLES.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let cable = Self { machines: [1, 2].map(|end| format!("half-close-{process}-{number}-{end}")) };
        let [server, client] = &cable.machines;
        for machine in &cable.machines {
            ip(&["netns", "add", machine]);
        }
        ip(&["link", "add", "cable", "netns", server, "type", "veth", "peer", "name", "cable", "netns", client]);
        for (machine, address) in cable.machines.iter().zip(["10.0.0.1/24", "10.0.0.2/24"]) {
            ip(&["-netns", machine, "address", "add", address, "dev", "cable"]);
            ip(&["-netns", machine, "link", "set", "cable", "up"]);
        }
        cable
    }

    fn machine(&self, end: End) -> &str {
        &self.machines[end as usize]
    }

    /// The connector at this end is out of its socket.
    fn pull(&self, end: End) {
        ip(&["-netns", self.machine(end), "link", "set", "cable", "down"]);
    }

    /// The same command on the machine at this end, with addresses of this network.
    fn command(&self, end: End, on_loopback: &Command) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.machine(end)]).arg(on_loopback.get_program());
        for argument in on_loopback.get_args() {
            command.arg(if argument == "127.0.0.1" { "10.0.0.1".as_ref() } else { argument });
        }
        command.current_dir(on_loopback.get_current_dir().unwrap());
        command
    }

    fn server(&self, folder: &Path, arguments: &[&str]) -> Server {
        Server::spawn(&mut self.command(End::Server, &file_server(folder, arguments)))
    }

    fn client(&self, folder: &Path, port: u16, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(End::Client, &file_client(folder, port, arguments)))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for machine in &self.machines {
            let _ = Command::new("ip").args(["netns", "delete", machine]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A connection of the server is in this state, with so many bytes on their way.
fn wait_until_connection(server: &Server, is_so: impl Fn(&TcpState, u32) -> bool) {
    let process = procfs::process::Process::new(server.running.pid().as_raw_nonzero().get()).unwrap();
    wait_until("a state of the connection", || {
        let connections = process.tcp().unwrap_or_else(|error| panic!("the server has ended: {error}"));
        let mut ours = connections.iter().filter(|connection| connection.local_address.port() == server.port);
        ours.any(|connection| is_so(&connection.state, connection.tx_queue))
    });
}

/// Side by side, for they mostly wait.
fn at_each_end(check: impl Fn(End) + Sync) {
    thread::scope(|scope| {
        for end in [End::Server, End::Client] {
            scope.spawn({
                let check = &check;
                move || check(end)
            });
        }
    });
}

fn pull_in_the_middle(end: End) -> (Finished, Finished) {
    let scene = Scene::new(1000, true);
    File::create(scene.source()).unwrap().set_len(64 * 1024 * 1024 * 1024).unwrap();
    let cable = Cable::new();
    let folder = scene.source();
    let server = cable.server(folder.parent().unwrap(), &["--timeout=3s"]);
    let client = cable.client(scene.here(), server.port, &["--timeout=3s"]);
    wait_until_connection(&server, |state, _| matches!(state, TcpState::Established));
    client.signal(Signal::STOP);
    wait_until_connection(&server, |_, queued| queued > 0);
    cable.pull(end);
    client.signal(Signal::CONT);
    let (client, server) = (client.finish(), server.finish());
    assert!(!scene.assert_no_lie(&client, &server));
    (client, server)
}

#[test]
fn a_cable_pulled_in_the_middle_is_noticed_by_both() {
    if !is_root() || installed("ip").is_none() {
        return;
    }
    at_each_end(|end| {
        let (client, server) = pull_in_the_middle(end);
        assert_eq!((client.status, server.status), (1, 1), "{end:?}: {client:?} {server:?}");
    });
}

/// The client is told to store into a FIFO, where it waits for the reader; meanwhile the cable is pulled.
fn pull_before_the_reply(end: End) -> (Finished, Finished) {
    // More than a FIFO holds, and little enough for the rest to fit into any client's receive buffer.
    const BYTES: usize = 100_000;
    let scene = Scene::new(BYTES, true);
    let cable = Cable::new();
    let source = scene.source();
    let fifo = source.with_file_name("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let server = cable.server(source.parent().unwrap(), &["--timeout=3s"]);
    let client = cable.client(scene.here(), server.port, &["--output", fifo.to_str().unwrap()]);
    let mut reader = File::open(&fifo).unwrap();
    wait_until_connection(&server, |state, _| matches!(state, TcpState::FinWait2));
    cable.pull(end);
    assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), BYTES as u64);
    let (client, server) = (client.finish(), server.finish());
    fs::remove_file(fifo).unwrap();
    (client, server)
}

#[test]
fn a_cable_pulled_before_the_reply_leaves_the_server_unsure() {
    if !is_root() || installed("ip").is_none() {
        return;
    }
    at_each_end(|end| {
        let (client, server) = pull_before_the_reply(end);
        assert_eq!((client.status, server.status), (0, 3), "{end:?}: {client:?} {server:?}");
    });
}

#[test]
fn a_kernel_that_gives_up_on_the_last_bytes_leaves_the_server_unsure() {
    if !is_root() || installed("ip").is_none() {
        return;
    }
    let scene = Scene::new(1000, true);
    let cable = Cable::new();
    let (from_us, mut to_server) = io::pipe().unwrap();
    let folder = scene.source();
    let on_loopback = file_server(folder.parent().unwrap(), &["--timeout=6s", "--file=-"]);
    let mut command = cable.command(End::Server, &on_loopback);
    let server = Server::spawn(command.stdin(from_us));
    drop(command);
    let client = cable.client(scene.here(), server.port, &["--timeout=3s"]);
    wait_until_connection(&server, |state, _| matches!(state, TcpState::Established));
    cable.pull(End::Client);
    to_server.write_all(&[0; 1000]).unwrap();
    wait_until_connection(&server, |_, queued| queued > 0);
    cable.pull(End::Server);
    // A slow program writes to standard input, so that the kernel's patience ends before the server's own.
    thread::sleep(Duration::from_secs(2));
    drop(to_server);
    let (client, server) = (client.finish(), server.finish());
    assert_eq!((client.status, server.status), (1, 3), "{client:?} {server:?}");
    assert!(!scene.assert_no_lie(&client, &server));
}
