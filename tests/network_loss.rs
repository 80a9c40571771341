//! A network cable that is pulled: two network namespaces and a link between them, which goes down during a transfer.
//! Neither side gets a RST then. Needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use common::files::make_fifo;
use common::fixture::KEY;
use common::network::connections_of;
use common::processes::in_network;
use common::{Fixture, Outcome, Running, Server, Signal, installed, is_root, wait_until};
use procfs::net::TcpState;

/// Two machines and the cable between them; removed when dropped.
struct Cable {
    machines: [String; 2],
}

#[derive(Clone, Copy, Debug)]
enum End {
    Server,
    Client,
}

impl Cable {
    /// `None` where networks cannot be created.
    fn new() -> Option<Self> {
        static CABLES: AtomicU32 = AtomicU32::new(0);
        if !is_root() || installed("ip").is_none() {
            return None;
        }
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
        Some(cable)
    }

    fn machine(&self, end: End) -> &str {
        &self.machines[end as usize]
    }

    /// Takes the link down at this end.
    fn pull(&self, end: End) {
        ip(&["-netns", self.machine(end), "link", "set", "cable", "down"]);
    }

    /// Takes the link up again.
    fn mend(&self, end: End) {
        ip(&["-netns", self.machine(end), "link", "set", "cable", "up"]);
    }

    /// The same command on the machine at this end, with addresses of this network.
    fn command(&self, end: End, on_loopback: &Command) -> Command {
        in_network(self.machine(end), "10.0.0.1", on_loopback)
    }

    fn server(&self, fixture: &Fixture, arguments: &[&str]) -> Server {
        Server::start(&mut self.command(End::Server, &fixture.server_command(arguments)))
    }

    fn client(&self, fixture: &Fixture, port: u16, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(End::Client, &fixture.client_command(port, arguments)))
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

/// Waits until a connection of the server is in this state, with that many bytes unacknowledged.
fn wait_until_connection(server: &Server, is_so: impl Fn(&TcpState, u32) -> bool) {
    wait_until("a state of the connection", || {
        connections_of(server).iter().any(|connection| is_so(&connection.state, connection.tx_queue))
    });
}

/// Checks both at the same time, because they mostly wait.
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

#[test]
fn cable_pulled_while_the_file_is_sent_fails_both_sides() {
    at_each_end(|end| {
        let Some(cable) = Cable::new() else { return };
        let fixture = Fixture::sparse(64 * 1024 * 1024 * 1024).with_old();
        let server = cable.server(&fixture, &["--timeout=10s"]);
        let client = cable.client(&fixture, server.port, &["--timeout=10s"]);
        wait_until_connection(&server, |state, _| matches!(state, TcpState::Established));
        client.signal(Signal::STOP);
        wait_until_connection(&server, |_, queued| queued > 0);
        cable.pull(end);
        client.signal(Signal::CONT);
        let outcome = Outcome { client: client.finish(), server: server.finish() };
        assert!(!fixture.assert_truthful(&outcome));
        assert_eq!(outcome.statuses(), (1, 1), "{end:?}: {outcome:?}");
    });
}

/// The server waits for standard input, which is silent.
#[test]
fn cable_pulled_while_a_stream_is_silent_fails_both_sides() {
    at_each_end(|end| {
        let Some(cable) = Cable::new() else { return };
        let fixture = Fixture::of_size(1000).with_old();
        let (input, mut producer) = io::pipe().unwrap();
        let mut command = cable.command(End::Server, &fixture.server_command(&["--timeout=3s", "--file=-"]));
        let server = Server::start(command.stdin(input));
        drop(command);
        let client = cable.client(&fixture, server.port, &["--timeout=10s"]);
        wait_until_connection(&server, |state, _| matches!(state, TcpState::Established));
        cable.pull(end);
        producer.write_all(&[0; 1000]).unwrap();
        let outcome = Outcome { client: client.finish(), server: server.finish() };
        assert!(!fixture.assert_truthful(&outcome));
        assert_eq!(outcome.statuses(), (1, 1), "{end:?}: {outcome:?}");
        assert!(outcome.server.stderr().ends_with(": no progress for 3s\n"), "{outcome:?}");
    });
}

/// The client stores into a FIFO, where it waits for the reader; meanwhile the cable is pulled.
#[test]
fn cable_pulled_before_the_reply_leaves_the_server_without_confirmation() {
    // More than a FIFO holds, and little enough for the rest to fit into any client's receive buffer.
    const BYTES: usize = 100_000;
    at_each_end(|end| {
        let Some(cable) = Cable::new() else { return };
        let fixture = Fixture::of_size(BYTES);
        let fifo = fixture.source_directory().join("fifo");
        make_fifo(&fifo);
        let server = cable.server(&fixture, &["--timeout=10s"]);
        let client = cable.client(&fixture, server.port, &["--output", fifo.to_str().unwrap()]);
        let mut reader = File::open(&fifo).unwrap();
        wait_until_connection(&server, |state, _| matches!(state, TcpState::FinWait2));
        cable.pull(end);
        assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), BYTES as u64);
        let outcome = Outcome { client: client.finish(), server: server.finish() };
        fs::remove_file(fifo).unwrap();
        assert_eq!(outcome.statuses(), (0, 3), "{end:?}: {outcome:?}");
    });
}

#[test]
fn server_whose_kernel_gives_up_on_the_last_bytes_reports_no_confirmation() {
    let Some(cable) = Cable::new() else { return };
    let fixture = Fixture::of_size(1000).with_old();
    let (input, mut producer) = io::pipe().unwrap();
    // The kernel sends the last bytes again for about twelve seconds.
    ip(&["netns", "exec", cable.machine(End::Server), "sh", "-c", "echo 5 > /proc/sys/net/ipv4/tcp_retries2"]);
    let mut command = cable.command(End::Server, &fixture.server_command(&["--timeout=60s", "--file=-"]));
    let server = Server::start(command.stdin(input));
    drop(command);
    let client = cable.client(&fixture, server.port, &["--timeout=10s"]);
    wait_until_connection(&server, |state, _| matches!(state, TcpState::Established));
    cable.pull(End::Client);
    producer.write_all(&[0; 1000]).unwrap();
    drop(producer);
    wait_until_connection(&server, |_, queued| queued > 0);
    cable.pull(End::Server);
    let outcome = Outcome { client: client.finish(), server: server.finish() };
    outcome.assert_statuses(1, 3);
    assert!(!fixture.assert_truthful(&outcome));
}

/// The last bytes are in the kernel of the server, which has no more to do, and the cable is mended later.
#[test]
fn client_that_resumes_finds_its_server_though_the_cable_was_pulled_after_the_last_byte_was_sent() {
    let Some(cable) = Cable::new() else { return };
    let fixture = Fixture::of_size(1000);
    let fifo = fixture.source_directory().join("fifo");
    make_fifo(&fifo);
    let begin = || File::options().write(true).open(&fifo).unwrap();
    let command = ["--timeout=8s", "--key", KEY, "--", "sh", "-c", "cat fifo des.txt"];
    let mut server = cable.server(&fixture, &command);
    let arguments = ["--timeout=8s", "--key", KEY, "--resume", "--wait=1h"];
    let client = cable.client(&fixture, server.port, &arguments);
    let mut source = begin();
    source.write_all(b"x").unwrap();
    let part = fixture.destination_directory().join("destination.txt.half-close-part");
    wait_until("a byte in the part", || part.metadata().is_ok_and(|part| part.len() == 1));
    cable.pull(End::Client);
    drop(source);
    let line = server.running.wait_for_line("10.0.0.2:");
    assert!(line.ends_with("; it may come back"), "{line}");
    cable.mend(End::Client);
    begin().write_all(b"y").unwrap();
    let (client, server) = (client.finish(), server.finish());
    assert_eq!((client.status, server.status), (0, 0), "{client:?}\n{server:?}");
    assert_eq!(fs::read(fixture.destination()).unwrap(), [b"y", fixture.bytes()].concat());
}
