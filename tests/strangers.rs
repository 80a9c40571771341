//! Clients that are slow, silent or talkative, and shortages of memory and descriptors: each costs its own transfer at
//! most, and little of anything.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use common::fixture::KEY;
use common::messages::OTHER_REPLY;
use common::network::{
    connect, connect_with_receive_buffer, connections_of, fetch, read_all, read_some, thank, wait_for_first_byte,
    wait_for_half_close,
};
use common::processes::{after, file_client, in_shell, run, through, with_open_files};
use common::requirements::raise_open_files_limit;
use common::stranger::HALF_A_HELLO;
use common::{Fixture, Server, Signal, assert_same, directory, installed, is_root, names_in, strace, wait_until};
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

/// Tests with hundreds of connections run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn hundreds_of_clients_that_read_nothing_cost_little_and_delay_no_other() {
    // What the kernel queues for them is 3.5 MB each, of which a small machine has little.
    const CLIENTS: usize = 150;
    const MEASURED: Duration = Duration::from_secs(4);
    const READINGS: u32 = 100;
    let _alone = alone();
    if !raise_open_files_limit(2 * CLIENTS) {
        return;
    }
    let fixture = Fixture::of_size(8 * MEGABYTE);
    let server = fixture.server(&["--keep-open"]);
    let stalled: Vec<_> = (0..CLIENTS).map(|_| connect_with_receive_buffer(server.port, 4096)).collect();
    for connection in &stalled {
        wait_for_first_byte(connection);
    }
    wait_until("every connection is about full", || {
        connections_of(&server).iter().filter(|connection| connection.tx_queue > 100_000).count() == CLIENTS
    });
    let before = processor_time(&server);
    assert_same(&fetch(server.port), fixture.bytes(), "what a client beside them got");
    thread::sleep(MEASURED);
    let used = processor_time(&server).saturating_sub(before);
    // It is read twice a second for all clients; once for each client would be 300 times a second.
    let bound = time_to_read_table() * READINGS;
    assert!(used < bound, "{used:?} of the processor in {MEASURED:?}, and not less than {bound:?}");
    let peak = memory(&server, "VmHWM:");
    assert!(peak < 36 * 1024, "{peak} KiB");
    assert_eq!(server.interrupt(Signal::TERM).status, 143);
}

#[test]
fn slow_client_whose_window_closes_again_and_again_does_not_time_out() {
    // The smaller file is all queued, so that only its acknowledgements show progress.
    thread::scope(|scope| {
        for size in [2 * MEGABYTE, QUEUED] {
            scope.spawn(move || read_slowly(size, |command| command));
        }
        // As in a service with ProcSubset=pid: what is not about processes is hidden.
        let hide = "mount -t proc -o subset=pid proc /proc && exec \"$@\"";
        let hidden = |command: Command| through(&["unshare", "--mount"], &in_shell(hide, &command));
        is_root().then(|| scope.spawn(move || read_slowly(QUEUED, hidden)));
    });
}

fn read_slowly(size: usize, within: impl Fn(Command) -> Command) {
    let fixture = Fixture::of_size(size);
    let server = Server::start(&mut within(fixture.server_command(&["--timeout=3s"])));
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(16 * 1024).unwrap();
    // Segments as on a network: a window that opens has room for some of what waits.
    client.set_tcp_mss(1448).unwrap();
    client.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, server.port)).into()).unwrap();
    let client = TcpStream::from(client);
    let (started, mut received) = (Instant::now(), Vec::new());
    // Several times the timeout: with TCP_USER_TIMEOUT the kernel counts from the first time that the window was closed.
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
    let _alone = alone();
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
    let Some(strace) = strace() else { return };
    for error in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "ECONNABORTED"] {
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
fn connections_that_cannot_be_accepted_do_not_take_a_whole_processor() {
    let Some(strace) = strace() else { return };
    let fixture = Fixture::of_size(1000);
    let trace = fixture.source_directory().join("trace");
    let strace = [strace.to_str().unwrap(), "-f", "-qq", "-o", trace.to_str().unwrap(), "-e", "trace=accept4"];
    let inject = ["-e", "inject=accept4:error=EPERM:when=1..21"];
    let command = through(&[&strace[..], &inject].concat(), &fixture.server_command(&[]));
    let server = Server::start(&mut { command });
    let started = Instant::now();
    assert_eq!(fetch(server.port), fixture.bytes());
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?} for 21 tries");
    assert_eq!(server.finish().status, 0);
}

/// Tells other threads when it is dropped, by a panic too.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A stranger that comes back whenever it is sent away, which must be by RST: FIN is the end of a file.
fn come_back(port: u16, says: &[u8], is_over: &AtomicBool) {
    while !is_over.load(Ordering::SeqCst) {
        let Ok(mut connection) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
        let end = connection.write_all(says).and_then(|()| read_some(&connection, &mut [0]));
        let kind = end.as_ref().map_err(io::Error::kind);
        assert!(matches!(kind, Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{end:?}");
    }
}

#[test]
fn client_with_the_key_gets_in_among_many_that_come_back_and_are_told_no_end() {
    const STRANGERS: usize = 80;
    let _alone = alone();
    for says in [&[][..], HALF_A_HELLO] {
        let fixture = Fixture::of_size(1000).encrypted();
        let command = fixture.server_command(&["--keep-open", "--timeout=0s", "--key", KEY]);
        let server = Server::start(&mut with_open_files(64, &command));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..STRANGERS {
                let (port, is_over) = (server.port, &is_over);
                scope.spawn(move || come_back(port, says, is_over));
            }
            let until_here = Ended(&is_over);
            for _ in 0..3 {
                // On a busy machine it may take too long over its handshake.
                wait_until("a client with the key to get in", || fixture.client(server.port, &[]).finish().status == 0);
                fixture.assert_replaced();
                fs::remove_file(fixture.destination()).unwrap();
            }
            // A client without the key is one of them.
            let elsewhere = directory();
            let client = run(&mut file_client(elsewhere.path(), server.port, &[]));
            assert_eq!((client.status, names_in(elsewhere.path()).len()), (1, 0), "{client:?}");
            drop(until_here);
            let server = server.interrupt(Signal::TERM);
            assert_eq!(server.status, 143);
            let told = server.stderr().lines().filter(|line| line.contains(": refused: no handshake")).count();
            assert!((1..=20).contains(&told), "{told} lines");
        });
    }
}

#[test]
fn strangers_are_told_of_one_by_one_at_first_and_then_counted() {
    let fixture = Fixture::of_size(1000);
    let server = fixture.server(&["--allow=127.0.0.1"]);
    for _ in 0..50 {
        let refused = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        refused.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        // The server may have reset it already.
        let _ = refused.connect(&SocketAddr::from(([127, 0, 0, 1], server.port)).into());
    }
    assert_eq!(fetch(server.port), fixture.bytes());
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    let printed = server.stderr();
    assert_eq!(printed.lines().filter(|line| line.ends_with(": refused, 127.0.0.2 is not in --allow")).count(), 20);
    assert!(printed.contains("\n30 more connections were refused\n"), "{printed}");
}

#[test]
fn connections_beyond_a_limit_wait_until_others_have_gone_and_take_little_memory() {
    const LIMIT: usize = 2000;
    const CLIENTS: usize = LIMIT + 500;
    /// KiB.
    const MEMORY: u64 = 300 * 1024;
    let _alone = alone();
    if !raise_open_files_limit(2 * CLIENTS) {
        return;
    }
    // It fits into any send buffer: what a thread has left to send would count as memory.
    let fixture = Fixture::of_size(10_000);
    let server = fixture.server(&["--keep-open", "--timeout=0s"]);
    let mut idle: Vec<_> = (0..CLIENTS).map(|_| connect_with_receive_buffer(server.port, 4096)).collect();
    for connection in &idle[..LIMIT] {
        wait_for_first_byte(connection);
    }
    assert!(!idle[LIMIT..].iter().any(has_bytes));
    assert!(memory(&server, "Threads:") < 2010);
    assert!(memory(&server, "VmHWM:") < MEMORY, "{} KiB", memory(&server, "VmHWM:"));
    idle.drain(..=CLIENTS - LIMIT);
    assert_eq!(fetch(server.port), fixture.bytes());
    assert_eq!(server.interrupt(Signal::TERM).status, 143);
}

#[test]
fn idle_connections_do_not_abort_a_server_whose_address_space_is_limited() {
    const CLIENTS: usize = 400;
    let _alone = alone();
    for is_encrypted in [false, true] {
        let fixture = Fixture::of_size(MEGABYTE).in_mode(is_encrypted);
        let key: &[_] = if is_encrypted { &["--key", KEY] } else { &[] };
        let command = fixture.server_command(&[&["--keep-open", "--timeout=0s"], key].concat());
        let server = Server::start(&mut after("ulimit -v 600000", &command));
        let idle: Vec<_> = (0..CLIENTS).map(|_| connect(server.port)).collect();
        for mut connection in &idle {
            let _ = connection.write_all(HALF_A_HELLO);
        }
        // The first ones are served, or do their handshakes.
        wait_until("threads", || memory(&server, "Threads:") > 5);
        assert!(memory(&server, "VmHWM:") < 300 * 1024);
        drop(idle);
        let client = fixture.client(server.port, &[]).finish();
        assert_eq!(client.status, 0, "{client:?}");
        assert_eq!(server.interrupt(Signal::TERM).status, 143);
    }
}

#[test]
fn dead_peer_is_found_out_without_a_timeout_too() {
    let Some(ss) = installed("ss") else { return };
    let fixture = Fixture::of_size(MEGABYTE);
    let server = fixture.server(&["--timeout=0s"]);
    let client = connect(server.port);
    assert_same(&read_all(&client), fixture.bytes(), "what the client received");
    let port = format!("sport = :{}", server.port);
    // Until everything is acknowledged another timer is shown.
    wait_until("keepalive within two minutes", || {
        let shown = Command::new(&ss).args(["-Htno", &port]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("timer:(keepalive,1min")
    });
    thank(&client);
    assert_eq!(server.finish().status, 0);
}

#[test]
fn client_is_served_once_others_have_given_their_descriptors_back() {
    let fixture = Fixture::of_size(1000);
    let server = fixture.server_command(&["--keep-open", "--timeout=0s"]);
    let server = Server::start(&mut with_open_files(16, &server));
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
