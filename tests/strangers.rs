//! Clients that are slow, silent or talkative, and shortages of memory and descriptors: each costs its own transfer at
//! most, and little of anything.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::messages::OTHER_REPLY;
use common::network::{
    connect, connect_with_receive_buffer, connections_of, fetch, read_all, thank, wait_for_half_close,
};
use common::processes::{after, through};
use common::{Fixture, Server, Signal, assert_same, installed, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

const MEGABYTE: usize = 1_000_000;

/// Bytes that the server's kernel takes although the client reads nothing.
const QUEUED: usize = 300_000;

/// The figure of a line in `/proc/PID/status`, in KiB (proc(5)).
fn memory(server: &Server, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.running.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the server has used of the processor, however busy that is.
fn processor_time(server: &Server) -> Duration {
    let process = procfs::process::Process::new(server.running.pid().as_raw_nonzero().get()).unwrap();
    let stat = process.stat().unwrap();
    Duration::from_millis((stat.utime + stat.stime) * 1000 / procfs::ticks_per_second())
}

/// What it takes to read the kernel's table of connections once, on this machine and with all its connections.
fn time_to_read_table() -> Duration {
    let time = |_| {
        let started = Instant::now();
        procfs::net::tcp().unwrap();
        started.elapsed()
    };
    // The shortest of several tries: the others were interrupted.
    (0..20).map(time).min().unwrap()
}

fn raise_open_files_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn hundreds_of_clients_that_read_nothing_cost_little_and_delay_no_other() {
    const CLIENTS: usize = 500;
    const MEASURED: Duration = Duration::from_secs(4);
    const READINGS: u32 = 100;
    raise_open_files_limit();
    let fixture = Fixture::of_size(8 * MEGABYTE);
    let server = fixture.server(&["--keep-open"]);
    let stalled: Vec<_> = (0..CLIENTS).map(|_| connect_with_receive_buffer(server.port, 4096)).collect();
    for connection in &stalled {
        assert_eq!(connection.peek(&mut [0]).unwrap(), 1);
    }
    wait_until("every connection is about full", || {
        connections_of(&server).iter().filter(|connection| connection.tx_queue > 100_000).count() == CLIENTS
    });
    let before = processor_time(&server);
    assert_same(&fetch(server.port), fixture.bytes(), "what a client beside them got");
    thread::sleep(MEASURED);
    let used = processor_time(&server).saturating_sub(before);
    // It is read twice a second for all clients; once for each client would be hundreds of times.
    let bound = time_to_read_table() * READINGS;
    assert!(used < bound, "{used:?} of the processor in {MEASURED:?}, and not less than {bound:?}");
    let peak = memory(&server, "VmHWM:");
    assert!(peak < 80 * 1024, "{peak} KiB");
    assert_eq!(server.interrupt(Signal::TERM).status, 143);
}

#[test]
fn slow_client_whose_window_closes_again_and_again_does_not_time_out() {
    let fixture = Fixture::of_size(2 * MEGABYTE);
    let server = fixture.server(&["--timeout=3s"]);
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(16 * 1024).unwrap();
    // Segments as on a network: a window that opens has room for some of what waits.
    client.set_tcp_mss(1448).unwrap();
    client.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, server.port)).into()).unwrap();
    let client = TcpStream::from(client);
    let (started, mut received) = (Instant::now(), Vec::new());
    // Three times the timeout: with TCP_USER_TIMEOUT the kernel counts from the first time that the window was closed.
    while started.elapsed() < Duration::from_secs(9) {
        (&client).take(4000).read_to_end(&mut received).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    (&client).read_to_end(&mut received).unwrap();
    thank(&client);
    assert_same(&received, fixture.bytes(), "what the client received");
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
}

#[test]
fn client_that_sends_megabytes_of_its_own_gets_the_end_of_the_file() {
    let fixture = Fixture::of_size(QUEUED);
    let server = fixture.server(&[]);
    let mut client = connect_with_receive_buffer(server.port, 64 * 1024);
    wait_for_half_close(&server);
    client.write_all(&vec![b'x'; 4 * MEGABYTE]).unwrap();
    assert_same(&read_all(&client), fixture.bytes(), "what the client received");
    drop(client);
    let server = server.finish();
    assert_eq!(server.status, 3, "{server:?}");
    assert!(server.stderr().trim_end().ends_with(OTHER_REPLY), "{server:?}");
}

#[test]
fn client_that_sends_without_end_and_reads_nothing_times_out() {
    let fixture = Fixture::of_size(QUEUED);
    let server = fixture.server(&["--timeout=1s"]);
    let mut client = connect_with_receive_buffer(server.port, 64 * 1024);
    let endless = thread::spawn(move || while client.write_all(&[b'x'; 4096]).is_ok() {});
    let server = server.finish();
    assert_eq!(server.status, 3, "{server:?}");
    endless.join().unwrap();
}

#[test]
fn large_chunks_take_no_more_than_a_mebibyte_of_memory_for_each_client() {
    const CLIENTS: usize = 40;
    const SIZE: u64 = 64 * 1024 * 1024;
    let fixture = Fixture::sparse(SIZE);
    let server = fixture.server_command(&["--keep-open", "--chunk-size=16MiB"]);
    // With more arenas glibc takes 64 MiB of the address space for the small allocations of each thread.
    let server = Server::start(&mut after("ulimit -v 500000 && export MALLOC_ARENA_MAX=1", &server));
    let mut stalled: Vec<_> = (0..CLIENTS).map(|_| connect(server.port)).collect();
    for client in &mut stalled {
        client.read_exact(&mut [0; 1000]).unwrap();
    }
    assert_eq!(fetch(server.port).len() as u64, SIZE);
    assert_eq!(server.interrupt(Signal::TERM).status, 143);
}

#[test]
fn descriptors_and_memory_that_are_short_while_no_client_is_connected_are_waited_for() {
    let Some(strace) = installed("strace") else { return };
    for error in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"] {
        let fixture = Fixture::of_size(1000);
        let strace = [strace.to_str().unwrap(), "-f", "-qq", "-o", "/dev/null", "-e", "trace=accept4", "-e"];
        // Every other time, the first included.
        let inject = format!("inject=accept4:error={error}:when=1+2");
        let command = through(&[&strace[..], &[&inject]].concat(), &fixture.server_command(&["--clients=3"]));
        let server = Server::start(&mut { command });
        for _ in 0..3 {
            assert_eq!(fetch(server.port), fixture.bytes(), "{error}");
        }
        let server = server.finish();
        assert_eq!((server.status, server.errors().len()), (0, 0), "{error}: {server:?}");
    }
}

#[test]
fn client_is_served_once_others_have_given_their_descriptors_back() {
    let fixture = Fixture::of_size(1000);
    let server = fixture.server_command(&["--keep-open", "--timeout=0s"]);
    let server = Server::start(&mut after("ulimit -n 16; ulimit -Hn 16", &server));
    let mut strangers: Vec<TcpStream> = (0..20).map(|_| connect(server.port)).collect();
    wait_until("as many strangers as descriptors", || {
        strangers.iter().filter(|stranger| has_bytes(stranger)).count() > 1
    });
    strangers.clear();
    assert_eq!(fetch(server.port), fixture.bytes());
    assert_eq!(server.interrupt(Signal::TERM).status, 143);
}

fn has_bytes(connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    connection.peek(&mut [0]).is_ok()
}
