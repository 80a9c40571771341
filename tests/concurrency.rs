//! Many clients at once, misbehaving clients, clients that are not allowed, and a file that changes between them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use common::messages::{assert_confirmations, confirmed_by, no_progress, tally};
use common::network::{
    ReservedPort, assert_reset, block_port, connect, fetch, fetch_from, read_all, reset, thank, try_connect,
    wait_for_first_byte,
};
use common::processes::{after, copy_program, port_of, shell_status, through, with_open_files};
use common::requirements::raise_open_files_limit;
use common::wait::wait_for;
use common::{
    FILE_SERVER, Fixture, Server, Signal, assert_same, content, directory, has_ipv6, installed, is_root, program,
};

/// More than the kernel buffers between two programs, so that a client that does not read blocks the server.
const LARGE: usize = 32 * 1024 * 1024;

fn lines_with<'a>(printed: &'a str, part: &str) -> Vec<&'a str> {
    printed.lines().filter(|line| line.contains(part)).collect()
}

#[test]
fn each_client_has_a_line_and_is_counted() {
    let fixture = Fixture::of_size(1000);
    let server = fixture.server(&["--clients", "3"]);
    let port = server.port;
    let connections: Vec<_> = (0..3).map(|_| connect(port)).collect();
    let names: Vec<_> = connections.iter().map(|connection| connection.local_addr().unwrap().to_string()).collect();
    for connection in &connections {
        assert_eq!(read_all(connection), fixture.bytes());
        thank(connection);
    }
    let finished = server.finish();
    assert_eq!(finished.status, 0, "{finished:?}");
    assert_confirmations(&finished.stdout(), 3);
    for name in names {
        assert!(finished.stdout().contains(&confirmed_by(&name)), "{finished:?}");
        let line = lines_with(&finished.stderr(), &name).concat();
        assert!(line.starts_with(&format!("{name}: sent 1000 bytes of des.txt, confirmed: 1000 B in ")), "{line}");
    }
    assert_eq!(finished.last_line(), tally(3, 0, 0));
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn exit_status_is_that_of_the_worst_client() {
    let fixture = Fixture::new(vec![b'x'; LARGE]);
    let leave_without_reply = |connection: TcpStream| drop(read_all(&connection));
    for (misbehaviours, status, tally) in
        [(&[leave_without_reply as fn(_)][..], 3, tally(1, 1, 0)), (&[leave_without_reply, reset], 1, tally(1, 1, 1))]
    {
        let clients = (misbehaviours.len() + 1).to_string();
        let mut server = fixture.server(&["--clients", &clients]);
        for misbehave in misbehaviours {
            misbehave(connect(server.port));
            server.wait_for_failed_client();
        }
        assert_eq!(fetch(server.port).len(), LARGE);
        let finished = server.finish();
        assert_eq!(finished.status, status, "{}", finished.stderr());
        assert_eq!(finished.last_line(), tally);
        assert_eq!(finished.errors().len(), misbehaviours.len());
    }
}

#[test]
fn a_server_waits_from_when_the_last_client_was_served() {
    const WAIT: Duration = Duration::from_secs(3);
    let fixture = Fixture::new("short");
    let server = fixture.server(&["--clients", "2", "--wait", "3s"]);
    let client = connect(server.port);
    read_all(&client);
    thread::sleep(WAIT / 6);
    let before = Instant::now();
    thank(&client);
    let server = server.finish();
    assert!(before.elapsed() >= WAIT);
    assert_eq!(server.errors(), ["file-server: no other client connected within 3s"]);
}

#[test]
fn keep_open_serves_until_interrupted() {
    let fixture = Fixture::new("short");
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut server = fixture.server(&["--keep-open"]);
        for _ in 0..3 {
            assert_eq!(fetch(server.port), fixture.bytes());
            server.wait_for_confirmed_client();
        }
        let finished = server.interrupt(signal);
        assert_eq!(finished.status, status);
        assert_eq!(finished.last_line(), tally(3, 0, 0));
    }
}

#[test]
fn misbehaving_clients_do_not_affect_others() {
    let fixture = Fixture::new(vec![b'x'; LARGE]);
    let mut server = fixture.server(&["--keep-open", "--timeout=0s"]);
    let never_reads = connect(server.port);
    let reads_a_little = connect(server.port);
    (&reads_a_little).read_exact(&mut [0; 100]).unwrap();
    let never_replies = connect(server.port);
    assert_eq!(read_all(&never_replies).len(), LARGE);
    reset(connect(server.port));
    drop(connect(server.port));
    for _ in 0..2 {
        server.wait_for_failed_client();
    }
    let half_closes_early = connect(server.port);
    half_closes_early.shutdown(Shutdown::Write).unwrap();
    for begun in [&never_reads, &half_closes_early] {
        wait_for_first_byte(begun);
    }

    let directories: Vec<_> = (0..3).map(|_| directory()).collect();
    let start = |directory: &tempfile::TempDir| {
        common::Running::start(&mut common::file_client(directory.path(), server.port, &["--no-sync"]))
    };
    let well_behaved: Vec<_> = directories.iter().map(start).collect();
    for (client, directory) in well_behaved.into_iter().zip(&directories) {
        assert_eq!(client.finish().status, 0);
        common::fixture::assert_replaced(directory.path(), fixture.bytes());
        server.wait_for_confirmed_client();
    }
    let finished = server.interrupt(Signal::INT);
    assert_eq!(finished.status, 130);
    let tally = finished.last_line();
    assert!(tally.starts_with("clients: 9, 3 confirmed, 0 not confirmed, 2 failed, 4 interrupted"), "{tally}");
    // Clients that are still connected must learn that they did not get all of it.
    assert_reset(&reads_a_little);
}

/// A server whose standard error has room for a few lines, and is not read any more once the port is known.
fn server_with_unread_stderr(fixture: &Fixture, arguments: &[&str]) -> (Child, u16, impl Sized) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let server = fixture.server_command(arguments).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let mut unread = BufReader::new(reader);
    let mut listening = String::new();
    unread.read_line(&mut listening).unwrap();
    (server, port_of(&listening), unread)
}

#[test]
fn clients_are_served_and_signals_obeyed_while_stderr_is_blocked() {
    let fixture = Fixture::new("a file");
    let (mut server, port, _unread) = server_with_unread_stderr(&fixture, &["--keep-open"]);
    let fetched: Vec<_> = (0..200).map(|_| fetch(port)).collect();
    assert!(fetched.iter().all(|bytes| bytes == fixture.bytes()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(shell_status(server.wait().unwrap()), 143);
}

#[test]
fn refused_clients_do_not_block_accept_while_stderr_is_blocked() {
    let fixture = Fixture::new("allowed");
    let (mut server, port, _unread) = server_with_unread_stderr(&fixture, &["--keep-open", "--allow", "127.0.0.1"]);
    for _ in 0..500 {
        let refused = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        refused.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        // The server may have reset it already.
        let _ = refused.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into());
    }
    assert_eq!(fetch(port), fixture.bytes());
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn stalled_client_times_out_alone_and_beside_others() {
    let check = |size: usize, status, reason: String| {
        let fixture = Fixture::new(vec![b'x'; size]);
        let server = fixture.server(&["--timeout", "3s"]);
        let _stalled = connect(server.port);
        let finished = server.finish();
        assert_eq!((finished.status, finished.errors().len()), (status, 1), "{finished:?}");
        assert!(finished.errors()[0].ends_with(&reason), "{finished:?}");

        let mut server = fixture.server(&["--timeout", "3s", "--keep-open"]);
        let _stalled = connect(server.port);
        assert_eq!(fetch(server.port).len(), size);
        server.wait_for_failed_client();
        assert_eq!(fetch(server.port).len(), size);
    };
    thread::scope(|scope| {
        scope.spawn(|| check(10, 3, format!("sent 10 bytes of des.txt, not confirmed: {}", no_progress(3))));
        scope.spawn(|| check(LARGE, 1, format!(" of 32.0 MiB (the file was not stored there): {}", no_progress(3))));
    });
}

#[test]
fn thousand_clients_at_once_are_served_in_little_memory() {
    const CLIENTS: usize = 1000;
    const SIZE: usize = 1024 * 1024;
    /// KiB.
    const MEMORY: u64 = 160 * 1024;
    if !raise_open_files_limit(2 * CLIENTS) {
        return;
    }
    let fixture = Fixture::new(content(SIZE, 5));
    let server = fixture.server_command(&["--clients", &CLIENTS.to_string(), "--timeout=0s"]);
    // The program has to raise its own limit. The C library has eight arenas for each processor, and each keeps what was
    // freed in it (mallopt(3)).
    let server = Server::start(&mut after("ulimit -Sn 100 && export MALLOC_ARENA_MAX=16", &server));
    let (port, pid) = (server.port, server.running.pid().as_raw_nonzero().get());

    let connections: Vec<_> = (0..CLIENTS).map(|_| connect(port)).collect();
    thread::scope(|scope| {
        for share in connections.chunks(CLIENTS / 2) {
            let bytes = fixture.bytes();
            scope.spawn(move || share.iter().for_each(|connection| assert!(read_all(connection) == bytes)));
        }
    });
    let peak = peak_memory(pid);
    assert!(peak < MEMORY, "{peak} KiB");
    connections.iter().for_each(thank);
    let finished = server.finish();
    assert_eq!(finished.status, 0, "{:?}", finished.errors());
    assert_eq!(finished.last_line(), tally(CLIENTS, 0, 0));
    assert_eq!(finished.stdout().lines().count(), CLIENTS);
}

/// The peak resident memory of a process in KiB (`VmHWM`, proc(5)).
fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Starts a server that has a limit below what all clients need at once.
fn assert_all_served_within_limit(limited: &mut Command, clients: usize) {
    let fixture = Fixture::new(content(100_000, 6));
    let standard_input = File::open(fixture.source()).unwrap();
    limited.args(["--bind", "127.0.0.1", "0", "--file", "/proc/self/fd/0", "--clients", &clients.to_string()]);
    let server = Server::start(limited.stdin(standard_input));
    let connections: Vec<_> = (0..clients).map(|_| connect(server.port)).collect();
    for connection in connections {
        assert_same(&read_all(&connection), fixture.bytes(), "what a client got");
        thank(&connection);
    }
    let finished = server.finish();
    assert_eq!(finished.status, 0, "{finished:?}");
    assert_eq!(finished.errors(), [""; 0]);
}

#[test]
fn all_clients_are_served_with_few_open_files() {
    let server = Command::new(FILE_SERVER);
    assert_all_served_within_limit(&mut with_open_files(20, &server), 60);
}

#[test]
fn all_clients_are_served_with_few_threads() {
    if !is_root() || installed("setpriv").is_none() {
        return;
    }
    // A user that no other process has, so that no other threads count, and a copy that this user can execute. Containers
    // may have 65,536 users only.
    let public = directory();
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = public.path().join("file-server");
    copy_program(FILE_SERVER, &copy);
    let user = (20_000 + std::process::id() % 30_000).to_string();
    let limited = after("{ ulimit -u 8 2> /dev/null || ulimit -p 8; }", &Command::new(copy));
    let setpriv = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
    assert_all_served_within_limit(&mut through(&setpriv, &limited), 40);
}

/// `file-server` without the usual `--bind 127.0.0.1`.
fn server_bound_to(bind: &[&str], port: u16, fixture: &Fixture, arguments: &[&str]) -> Server {
    Server::start(program(FILE_SERVER, fixture.source_directory(), &[&port.to_string()]).args(bind).args(arguments))
}

#[test]
fn only_allowed_addresses_get_the_file() {
    let fixture = Fixture::new("allowed");
    let everywhere: &[&str] = &[];
    for (bind, allow, allowed, refused) in [
        (everywhere, &["127.0.0.1"][..], "127.0.0.1", "::1"),
        (everywhere, &["::1"], "::1", "127.0.0.1"),
        (everywhere, &["127.0.0.0/8"], "127.0.0.1", "::1"),
        (everywhere, &["::ffff:127.0.0.1"], "127.0.0.1", "::1"),
        (everywhere, &["192.0.2.1", "2001:db8::/32", "::/64"], "::1", "127.0.0.1"),
        (&["--bind", "0.0.0.0"], &["127.0.0.1/32", "10.0.0.0/8"], "127.0.0.1", ""),
        (&["--bind", "::1"], &["::/0"], "::1", ""),
    ] {
        if [allowed, refused, bind.last().unwrap_or(&"")].contains(&"::1") && !has_ipv6() {
            continue;
        }
        let arguments: Vec<_> = allow.iter().flat_map(|network| ["--allow", network]).collect();
        let server = server_bound_to(bind, 0, &fixture, &arguments);
        if !refused.is_empty() {
            let error = fetch_from(refused, server.port).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{refused} with {allow:?}");
        }
        assert_eq!(fetch_from(allowed, server.port).unwrap(), fixture.bytes(), "{allowed} with {allow:?}");
        let finished = server.finish();
        assert_eq!(finished.status, 0, "{finished:?}");
        let printed = finished.stderr();
        let refusals = lines_with(&printed, &format!("refused, {refused} is not in --allow"));
        assert_eq!(refusals.len(), usize::from(!refused.is_empty()), "{finished:?}");
        let address = if refused.contains(':') { format!("[{refused}]:") } else { format!("{refused}:") };
        assert!(refusals.iter().all(|line| line.starts_with(&address)), "{refusals:?}");
    }
}

#[test]
fn refused_client_stores_nothing() {
    let fixture = Fixture::new("allowed").with_old();
    let server = fixture.server(&["--allow", "192.0.2.1"]);
    let client = fixture.client(server.port, &[]).finish();
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    assert!(!fixture.is_stored());
}

#[test]
fn server_listens_only_on_the_bound_address() {
    let fixture = Fixture::new("here");
    for (bind, other) in [("127.0.0.1", "::1"), ("127.0.0.2", "127.0.0.1"), ("::1", "127.0.0.1")] {
        if [bind, other].contains(&"::1") && !has_ipv6() {
            continue;
        }
        let (port, _blocked) = wait_for("a port that no program has at the other address", || {
            let port = ReservedPort::at(bind.parse().unwrap());
            let blocked = block_port(other.parse().unwrap(), port.number).ok()?;
            Some((port, blocked))
        });
        let server = server_bound_to(&["--bind", bind], port.number, &fixture, &[]);
        assert_eq!(fetch_from(other, server.port).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(fetch_from(bind, server.port).unwrap(), fixture.bytes());
        let finished = server.finish();
        let address = SocketAddr::new(bind.parse().unwrap(), 0).to_string();
        let beginning = format!("listening on {}", address.trim_end_matches('0'));
        assert!(finished.stderr().starts_with(&beginning), "{finished:?}");
    }
}

/// Whether a change of a file that was looked at gets a later time, as on some file systems since Linux 6.13.
fn every_change_has_its_time(directory: &Path) -> bool {
    let mut file = tempfile::tempfile_in(directory).unwrap();
    let mut time_of_change = || {
        file.write_all(b"changed").unwrap();
        let found = file.metadata().unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    let mut last = time_of_change();
    // Many more than ticks of a clock in that time.
    (0..1000).all(|_| {
        let time = time_of_change();
        time > std::mem::replace(&mut last, time)
    })
}

#[test]
fn each_client_of_a_changing_file_gets_one_version_or_a_reset() {
    let versions: Vec<_> = (0..2).map(|version| vec![b'a' + version; LARGE]).collect();
    let mut fixture = Fixture::new(&versions[0]);
    let mut server = fixture.server(&["--keep-open"]);

    // A client that is in the middle of the file when it changes.
    let mut connection = connect(server.port);
    connection.read_exact(&mut [0; 1000]).unwrap();
    fixture.offer(&versions[1]);
    assert_reset(&connection);
    server.wait_for_failed_client();
    assert!(fetch(server.port) == versions[1]);

    // Clients while it changes again and again.
    let changing = fixture.source();
    // Where two changes within one tick of the clock, at most 10 ms, have the same time, they are told apart by their sizes
    // only.
    let pause = Duration::from_millis(if every_change_has_its_time(fixture.source_directory()) { 0 } else { 20 });
    let (stop, stopped) = mpsc::channel::<()>();
    let changer = thread::spawn(move || {
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            for version in &versions {
                fs::write(&changing, &version[..1_000_000]).unwrap();
                thread::sleep(pause);
            }
        }
    });
    for _ in 0..300 {
        let mut bytes = Vec::new();
        if try_connect(server.port).and_then(|mut connection| connection.read_to_end(&mut bytes)).is_ok() {
            // Each version is empty for a moment: the file is truncated first.
            assert!([0, 1_000_000].contains(&bytes.len()), "a part of a version: {} bytes", bytes.len());
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two versions in one");
        }
    }
    drop(stop);
    changer.join().unwrap();
}
