//! Everything that can go wrong between the two programs, injected for real: kills, changes, stalls, resets, a pulled
//! cable. After each, four things must be true: both exit statuses, the destination's bytes, its folder's listing, and
//! at most one error line a side.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::proxy::{Direction, Fault, Proxy, Trouble, reset_on_close};
use common::scene::{
    DEADLY, Dice, Scene, assert_calm, end_waiting, is_deadly, overwrite_a_byte, wait_for_a_tick, wait_until,
};
use common::{
    DEADLINE, FILE_SERVER, Finished, Running, Server, Signal, content, file_client, file_server, folder, installed, run,
};
use procfs::net::TcpState;
use socket2::{Domain, SockRef, Socket, Type};

const MEGABYTE: usize = 1_000_000;

/// Bytes that the server's kernel takes though the client reads nothing.
const QUEUED: usize = 300_000;

/// More than the kernels of both sides hold between them.
const ENDLESS: u64 = 256 * 1024 * 1024;

const fn fault(direction: Direction, at: u64, trouble: Trouble) -> Fault {
    Fault { direction, at, trouble }
}

/// Both sides with the fault between them, run to their ends; the proxy stays until both have ended.
fn transfer(scene: &Scene, fault: Fault, server: &[&str], client: &[&str]) -> (Finished, Finished) {
    let server = scene.server(server);
    let proxy = Proxy::start(server.port, Some(fault));
    let client = scene.client(proxy.port, client).finish();
    (client, server.finish())
}

#[derive(Clone, Copy)]
enum Victim {
    Server,
    Client,
}

/// Hundreds of kills at random moments, several at a time: one that comes after the end is none, and there are to be
/// many before the file is stored, however fast this machine is.
fn kill_hundreds(victim: Victim) {
    const KILLS: usize = 200;
    const AT_ONCE: usize = 4;
    let mut dice = Dice::seeded();
    let ends = Mutex::new(Vec::<bool>::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let mut dice = dice.fork();
            let ends = &ends;
            scope.spawn(move || {
                let not_enough = || {
                    let ends = ends.lock().unwrap();
                    ends.len() < KILLS || ends.iter().filter(|&&stored| !stored).count() < KILLS / 4
                };
                let mut attempts = 0;
                while not_enough() {
                    attempts += 1;
                    assert!(attempts < 10 * KILLS, "nearly all came too late");
                    let end = kill_one(victim, &mut dice);
                    ends.lock().unwrap().extend(end);
                }
            });
        }
    });
    let ends = ends.into_inner().unwrap();
    let count = |wanted: bool| ends.iter().filter(|&&stored| stored == wanted).count();
    println!("killed: {}, of them stored: {}, not stored: {}", ends.len(), count(true), count(false));
}

/// True if the file was stored all the same; nothing if the victim had ended by itself.
fn kill_one(victim: Victim, dice: &mut Dice) -> Option<bool> {
    let scene = Scene::random(dice);
    let method: &[&str] = dice.one_of(&[&[], &["--zero-copy"], &["--chunk-size=1MiB"]]);
    let server = scene.server(method);
    let port = server.port;
    let client = scene.client(port, dice.one_of(&[&[], &["--no-sync"]]));
    // Not a wait for anything: this is the random moment, every other time an early one.
    let longest = dice.one_of(&[1_000, 8_000]);
    thread::sleep(Duration::from_micros(dice.below(longest)));
    match victim {
        Victim::Server => server.running.signal(dice.one_of(&DEADLY)),
        Victim::Client => client.signal(dice.one_of(&DEADLY)),
    }
    let client = client.finish();
    end_waiting(port);
    let server = server.finish();
    let stored = scene.assert_no_lie(&client, &server);
    let status = if let Victim::Server = victim { server.status } else { client.status };
    is_deadly(status).then_some(stored)
}

#[test]
fn hundreds_of_killed_servers_leave_the_old_file_or_the_whole_new_one() {
    kill_hundreds(Victim::Server);
}

#[test]
fn hundreds_of_killed_clients_leave_the_old_file_or_the_whole_new_one_and_no_litter() {
    kill_hundreds(Victim::Client);
}

/// The file's middle is held back until it has changed.
fn change_while_it_is_sent(change: fn(&File), server: &[&str], has_old: bool) {
    let scene = Scene::new(6 * MEGABYTE, has_old);
    let server = scene.server(server);
    let proxy = Proxy::start(server.port, Some(fault(Direction::ToClient, 100_000, Trouble::Stall)));
    let client = scene.client(proxy.port, &[]);
    proxy.wait_until_reached();
    wait_for_a_tick(&scene.source());
    change(&OpenOptions::new().write(true).open(scene.source()).unwrap());
    proxy.release();
    let (client, server) = (client.finish(), server.finish());
    assert_eq!((client.status, server.status), (1, 1), "{client:?} {server:?}");
    assert!(client.stderr().ends_with(": connection reset by peer\n"), "{client:?}");
    assert!(server.stderr().contains("des.txt changed") || server.stderr().contains("became shorter"), "{server:?}");
    assert!(!scene.assert_no_lie(&client, &server));
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_not_stored() {
    let shrink: fn(&File) = |file| file.set_len(1_000_000).unwrap();
    let vanish: fn(&File) = |file| file.set_len(0).unwrap();
    let grow: fn(&File) = |file| file.set_len(6_000_001).unwrap();
    let rewrite: fn(&File) = |file| file.write_all_at(b"?", 0).unwrap();
    let rewrite_with_the_old_time: fn(&File) = |file| {
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"?", 5_999_999).unwrap();
        file.set_modified(time).unwrap();
    };
    for change in [shrink, vanish, grow, rewrite, rewrite_with_the_old_time] {
        change_while_it_is_sent(change, &[], true);
        change_while_it_is_sent(change, &["--zero-copy"], false);
    }
}

#[test]
fn a_file_that_changes_while_the_kernel_still_has_it_to_send_is_not_confirmed() {
    let there = folder();
    fs::write(there.path().join("des.txt"), content(QUEUED, 1)).unwrap();
    let server = Server::start(there.path(), &["--zero-copy"]);
    let mut peer = narrow_connection(server.port);
    wait_until_half_closed(&server);
    overwrite_a_byte(&there.path().join("des.txt"));
    io::copy(&mut peer, &mut io::sink()).unwrap();
    peer.write_all(b"Thank you\0").unwrap();
    drop(peer);
    assert_ends(server, 3, "not confirmed: the file changed before the client had all of it");
}

/// One call to write may already be under way when a client comes, and its times are those of its beginning.
#[test]
fn a_file_that_is_rewritten_over_and_over_is_never_torn() {
    const SIZE: usize = 32 * MEGABYTE;
    let (there, here) = (folder(), folder());
    let changing = there.path().join("des.txt");
    fs::write(&changing, vec![b'a'; SIZE]).unwrap();
    let server = Server::start(there.path(), &["--keep-open", "--chunk-size=1MiB"]);
    thread::scope(|scope| {
        let (_until_here, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            let source = OpenOptions::new().write(true).open(changing).unwrap();
            for contents in [vec![b'b'; SIZE], vec![b'a'; SIZE]].iter().cycle() {
                source.write_all_at(contents, 0).unwrap();
                if ended.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            let client = run(&mut file_client(here.path(), server.port, &["--no-sync"]));
            let received = fs::read(here.path().join("destination.txt")).unwrap_or_default();
            assert!(received.is_empty() || received[1..] == received[..received.len() - 1], "torn: {client:?}");
            assert!(matches!(client.status, 0 | 1), "{client:?}");
        }
    });
}

#[test]
fn a_plain_peer_is_reset_when_the_file_changes() {
    let there = endless_file();
    let server = Server::start(there.path(), &[]);
    let mut peer = narrow_connection(server.port);
    peer.read_exact(&mut [0; 1000]).unwrap();
    overwrite_a_byte(&there.path().join("des.txt"));
    assert_eq!(io::copy(&mut peer, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_ends(server, 1, "des.txt changed while it was read");
}

/// The server can't read its file and says why; nothing is stored.
fn assert_unreadable(scene: &Scene, server: Server, why: &str) {
    let client = scene.client(server.port, &[]).finish();
    let server = server.finish();
    assert_eq!((client.status, server.status), (1, 1), "{client:?} {server:?}");
    assert!(server.stderr().ends_with(why), "{server:?}");
    assert!(!scene.assert_no_lie(&client, &server));
}

#[test]
fn a_file_that_can_not_be_read_is_not_stored_empty() {
    let scene = Scene::new(1000, true);
    let server = scene.server(&["--file=/proc/self/mem"]);
    assert_unreadable(&scene, server, "could not read /proc/self/mem: input/output error\n");
}

#[test]
fn a_file_on_standard_input_that_becomes_shorter_is_not_stored() {
    let there = endless_file();
    let source = there.path().join("des.txt");
    let input = File::open(&source).unwrap();
    let server = Server::spawn(file_server(there.path(), &["--file=-"]).stdin(input));
    let mut peer = narrow_connection(server.port);
    peer.read_exact(&mut [0; 1000]).unwrap();
    OpenOptions::new().write(true).open(&source).unwrap().set_len(1000).unwrap();
    assert_eq!(io::copy(&mut peer, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_ends(server, 1, "standard input changed while it was read");
}

#[test]
fn standard_input_that_can_not_be_read_is_not_stored_empty() {
    let scene = Scene::new(1000, true);
    let only_for_writing = OpenOptions::new().write(true).open(scene.source()).unwrap();
    let folder = scene.source();
    let mut command = file_server(folder.parent().unwrap(), &["--file=-"]);
    let server = Server::spawn(command.stdin(only_for_writing));
    assert_unreadable(&scene, server, "could not read standard input: bad file descriptor\n");
}

#[test]
fn a_client_that_goes_while_standard_input_is_silent_is_not_waited_for() {
    let there = folder();
    let (input, mut producer) = io::pipe().unwrap();
    let server = Server::spawn(file_server(there.path(), &["--file=-", "--timeout=0s"]).stdin(input));
    let mut peer = narrow_connection(server.port);
    // Its half may end early, as that of `nc host port < /dev/null`.
    peer.shutdown(Shutdown::Write).unwrap();
    let half_closed = |state: &TcpState| matches!(state, TcpState::CloseWait);
    wait_until("the client's half-close", || states_of(&server.running, server.port).iter().any(half_closed));
    producer.write_all(&[0; 30]).unwrap();
    peer.read_exact(&mut [0; 30]).unwrap();
    reset_on_close(&peer);
    drop(peer);
    assert_ends(server, 1, "stopped after 30 bytes of standard input: the client went away: broken pipe");
}

/// A server whose kernel does what strace is told to make of its calls; the connection is reset whatever ends it.
fn server_with(inject: &str, scene: &Scene, arguments: &[&str]) -> Option<Server> {
    let mut command = Command::new(installed("strace")?);
    command.args(["--follow-forks", "-qq", "-o", "/dev/null", "-e", "trace=accept4,pread64,sendfile,sendto"]);
    command.args(["-e", &format!("inject={inject}"), FILE_SERVER, "--bind", "127.0.0.1", "0"]).args(arguments);
    Some(Server::spawn(command.stdin(Stdio::null()).current_dir(scene.source().parent().unwrap())))
}

#[test]
fn a_file_that_can_not_be_read_to_its_end_is_not_stored() {
    let scene = Scene::new(6 * MEGABYTE, true);
    for (inject, arguments) in [("pread64:error=EIO:when=9", &[][..]), ("sendfile:error=EIO:when=3", &["--zero-copy"])]
    {
        let Some(server) = server_with(inject, &scene, arguments) else { return };
        assert_unreadable(&scene, server, ": input/output error\n");
    }
}

#[test]
fn calls_of_the_server_that_are_interrupted_or_fail_in_passing_are_repeated() {
    let errors = ["EINTR", "ECONNABORTED", "EPROTO", "EHOSTDOWN", "EPERM", "ENFILE", "ENOMEM", "ENOBUFS"];
    let accepts = errors.map(|error| (format!("accept4:error={error}:when=1"), &[][..]));
    // The first calls of the one are those of the program's start.
    let chunks =
        ["pread64:error=EINTR:when=5+2", "sendto:error=EINTR:when=1+2"].map(|inject| (inject.to_owned(), &[][..]));
    let by_kernel = ("sendfile:error=EINTR:when=1+2".to_owned(), &["--zero-copy"][..]);
    for (inject, arguments) in accepts.into_iter().chain(chunks).chain([by_kernel]) {
        let scene = Scene::new(MEGABYTE, true);
        let Some(server) = server_with(&inject, &scene, arguments) else { return };
        let client = scene.client(server.port, &[]).finish();
        let server = server.finish();
        assert_eq!((client.status, server.status), (0, 0), "{inject}: {client:?} {server:?}");
        assert!(scene.assert_no_lie(&client, &server));
    }
}

#[test]
fn no_signal_that_ends_the_server_makes_a_half_a_whole() {
    let there = endless_file();
    common::heed(&[Signal::HUP, Signal::QUIT]);
    for signal in [Signal::HUP, Signal::QUIT, Signal::ABORT, Signal::ALARM, Signal::USR1, Signal::XCPU, Signal::SYS] {
        let server = Server::start(there.path(), &[]);
        let mut peer = narrow_connection(server.port);
        peer.read_exact(&mut [0; 1000]).unwrap();
        server.running.signal(signal);
        assert_eq!(io::copy(&mut peer, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(server.finish().status, 128 + signal.as_raw());
    }
}

#[test]
fn a_host_that_does_not_answer_is_not_waited_for_for_ever() {
    let scene = Scene::new(1000, true);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // The one connection that its queue has room for; others are not even refused.
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    first.connect(&address).unwrap();
    let port = address.as_socket().unwrap().port();
    let client = scene.client(port, &["--timeout=1s"]).finish();
    let line = format!("file-client: could not connect to 127.0.0.1:{port}: timed out\n");
    assert_eq!((client.status, client.stderr()), (1, line));
    assert!(!scene.is_stored());
}

#[test]
fn a_reset_by_the_network_before_the_end_leaves_the_old_file_at_any_byte() {
    for at in [0, 1, 29, 30, 500_000, 999_999, 1_000_000] {
        let scene = Scene::new(MEGABYTE, at % 2 == 0);
        let (client, server) = transfer(&scene, fault(Direction::ToClient, at, Trouble::Reset), &[], &[]);
        assert_eq!((client.status, server.status), (1, 1), "at {at}: {client:?} {server:?}");
        assert!(!scene.assert_no_lie(&client, &server));
    }
}

/// The client has stored the file, and the network cuts its reply off with a reset: nothing tells the server that it
/// is not the client who failed. The README says so.
#[test]
fn a_reset_by_the_network_in_the_reply_is_taken_for_a_failure() {
    for at in [1, 5, 9] {
        let scene = Scene::new(1000, true);
        let (client, server) = transfer(&scene, fault(Direction::ToServer, at, Trouble::Reset), &[], &[]);
        assert_eq!((client.status, server.status), (0, 1), "at {at}: {client:?} {server:?}");
        assert!(scene.is_stored());
        assert!(server.stderr().contains("the client failed after everything was sent"), "{server:?}");
    }
}

#[test]
fn an_end_that_comes_too_early_is_found_by_the_size_or_the_digest() {
    let digest = format!("--sha256={}", "00".repeat(32));
    for at in [0, 1, 999_999] {
        for check in ["--size=1000000", &digest] {
            let scene = Scene::new(MEGABYTE, true);
            let (client, server) = transfer(&scene, fault(Direction::ToClient, at, Trouble::Finish), &[], &[check]);
            assert_eq!((client.status, server.status), (1, 1), "at {at}: {client:?} {server:?}");
            assert!(!scene.assert_no_lie(&client, &server));
        }
    }
}

#[test]
fn a_byte_at_a_time_in_both_directions_is_still_the_whole_file() {
    for direction in [Direction::ToClient, Direction::ToServer] {
        let scene = Scene::new(20_000, true);
        let (client, server) = transfer(&scene, fault(direction, 0, Trouble::Trickle), &[], &[]);
        assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
        assert!(scene.assert_no_lie(&client, &server));
    }
}

#[test]
fn a_reply_that_is_lost_on_the_way_is_no_confirmation_and_no_failed_download() {
    for at in [0, 1, 8] {
        let scene = Scene::new(1000, true);
        let (client, server) = transfer(&scene, fault(Direction::ToServer, at, Trouble::Finish), &[], &[]);
        assert_eq!((client.status, server.status), (0, 3), "at {at}: {client:?} {server:?}");
        assert!(scene.assert_no_lie(&client, &server));
    }
}

#[test]
fn a_server_killed_after_its_half_close_has_sent_everything() {
    let scene = Scene::new(QUEUED, true);
    let server = scene.server(&[]);
    let proxy = Proxy::start(server.port, Some(fault(Direction::ToClient, 1000, Trouble::Stall)));
    let client = scene.client(proxy.port, &[]);
    wait_until_half_closed(&server);
    server.running.signal(Signal::KILL);
    let server = server.finish();
    proxy.release();
    let client = client.finish();
    assert_eq!((client.status, server.status), (0, 137), "{client:?} {server:?}");
    assert!(scene.assert_no_lie(&client, &server));
}

#[test]
fn what_a_killed_server_has_queued_still_reaches_a_plain_peer() {
    let there = folder();
    let bytes = content(QUEUED, 1);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let server = Server::start(there.path(), &[]);
    let mut peer = narrow_connection(server.port);
    wait_until_half_closed(&server);
    server.running.signal(Signal::KILL);
    assert_eq!(server.finish().status, 137);
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    common::assert_same(&received, &bytes, "what the peer received");
}

#[test]
fn a_client_too_many_takes_nothing_for_a_file() {
    let scene = Scene::new(1000, true);
    let server = scene.server(&[]);
    // Both are in the queue when the server wakes up.
    server.running.signal(Signal::STOP);
    let mut first = narrow_connection(server.port);
    let client = scene.client(server.port, &[]);
    let queued = |state: &&TcpState| matches!(state, TcpState::Established);
    wait_until("two connections", || states_of(&server.running, server.port).iter().filter(queued).count() == 2);
    server.running.signal(Signal::CONT);
    io::copy(&mut first, &mut io::sink()).unwrap();
    drop(first);
    let (client, server) = (client.finish(), server.finish());
    assert_eq!((client.status, server.status), (1, 3), "{client:?} {server:?}");
    assert!(!scene.assert_no_lie(&client, &server));
}

#[test]
fn urgent_bytes_are_bytes_of_the_file_and_not_its_end() {
    for size in [1, 1000] {
        let scene = Scene::new(2 * size, true);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = scene.client(listener.local_addr().unwrap().port(), &[]);
        let mut peer = listener.accept().unwrap().0;
        let bytes = fs::read(scene.source()).unwrap();
        peer.write_all(&bytes[..size - 1]).unwrap();
        SockRef::from(&peer).send_out_of_band(&bytes[size - 1..size]).unwrap();
        peer.write_all(&bytes[size..]).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        peer.read_to_end(&mut reply).unwrap();
        let client = client.finish();
        assert!(scene.is_stored(), "{client:?}");
        assert_eq!((client.status, &reply[..]), (0, &b"Thank you\0"[..]));
    }
}

/// What a peer does after it has read everything.
fn assert_answered(timeout: &str, answer: impl FnOnce(TcpStream), status: i32, why: &str) {
    let there = folder();
    fs::write(there.path().join("des.txt"), content(MEGABYTE, 1)).unwrap();
    let server = Server::start(there.path(), &[timeout]);
    let mut peer = narrow_connection(server.port);
    assert_eq!(io::copy(&mut peer, &mut io::sink()).unwrap(), MEGABYTE as u64);
    answer(peer);
    assert_ends(server, status, why);
}

#[test]
fn only_thanks_confirm_and_only_a_reset_says_that_it_failed() {
    let never = "--timeout=0s";
    assert_answered(never, |peer| reset_on_close(&peer), 1, "after everything was sent: connection reset by peer");
    assert_answered(never, drop, 3, "not confirmed: the client left without a reply");
    for other in ["Thanks", "Thank", "thank you\0", "Thank you!\n"] {
        let answer = |mut peer: TcpStream| peer.write_all(other.as_bytes()).unwrap();
        assert_answered(never, answer, 3, "not confirmed: the client replied something other");
    }
}

#[test]
fn a_client_that_takes_everything_and_says_nothing_is_not_waited_for_for_ever() {
    let kept = Mutex::new(None);
    assert_answered("--timeout=2s", |peer| *kept.lock().unwrap() = Some(peer), 3, "not confirmed: no progress for 2s");
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for_for_ever() {
    for method in ["--chunk-size=30", "--zero-copy"] {
        let there = endless_file();
        let server = Server::start(there.path(), &["--timeout=1s", method]);
        let mut peer = narrow_connection(server.port);
        assert_ends(server, 1, "of des.txt: no progress for 1s");
        let end = io::copy(&mut peer, &mut io::sink());
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_server_gone_silent_is_not_waited_for_for_ever() {
    let vanish = |at, trouble| {
        let scene = Scene::new(MEGABYTE, at > 0);
        let (client, server) = transfer(&scene, fault(Direction::ToClient, at, trouble), &[], &["--timeout=1s"]);
        assert_eq!((client.status, server.status), (1, 1), "{trouble:?} at {at}: {client:?} {server:?}");
        assert_eq!(client.errors(), ["file-client: could not receive all of destination.txt: no progress for 1s"]);
        assert!(!scene.assert_no_lie(&client, &server));
    };
    thread::scope(|scope| {
        for at in [0, 500_000, MEGABYTE as u64] {
            scope.spawn(move || vanish(at, Trouble::Stall));
            scope.spawn(move || vanish(at, Trouble::Drop));
        }
    });
}

#[test]
fn a_reply_that_does_not_arrive_is_not_waited_for_for_ever() {
    let vanish = |at, trouble| {
        let scene = Scene::new(1000, true);
        let (client, server) = transfer(&scene, fault(Direction::ToServer, at, trouble), &["--timeout=1s"], &[]);
        assert_eq!((client.status, server.status), (0, 3), "{trouble:?} at {at}: {client:?} {server:?}");
        assert!(scene.assert_no_lie(&client, &server));
    };
    thread::scope(|scope| {
        for at in [0, 5] {
            scope.spawn(move || vanish(at, Trouble::Stall));
            scope.spawn(move || vanish(at, Trouble::Drop));
        }
    });
}

#[test]
fn a_slow_server_that_still_moves_is_no_stall() {
    let scene = Scene::new(25, true);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = scene.client(listener.local_addr().unwrap().port(), &["--timeout=2s"]);
    let mut peer = listener.accept().unwrap().0;
    for byte in fs::read(scene.source()).unwrap() {
        thread::sleep(Duration::from_millis(120));
        peer.write_all(&[byte]).unwrap();
    }
    peer.shutdown(Shutdown::Write).unwrap();
    let client = client.finish();
    assert_eq!(client.status, 0, "{client:?}");
    assert!(scene.is_stored());
}

/// A peer that takes three seconds for the file, and thanks.
fn assert_slow_peer_is_served(size: usize, method: &str) {
    let there = folder();
    let bytes = content(size, 1);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let server = Server::start(there.path(), &["--timeout=2s", method]);
    let mut peer = narrow_connection(server.port);
    let mut received = Vec::new();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(150));
        (&peer).take(size as u64 / 20).read_to_end(&mut received).unwrap();
    }
    peer.read_to_end(&mut received).unwrap();
    peer.write_all(b"Thank you\0").unwrap();
    drop(peer);
    common::assert_same(&received, &bytes, "what the peer received");
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert_calm(&server);
}

#[test]
fn a_slow_client_that_still_moves_is_no_stall() {
    thread::scope(|scope| {
        // All of it is queued long before the peer has it; and most of it is not.
        for size in [2 * MEGABYTE, 20 * MEGABYTE] {
            scope.spawn(move || assert_slow_peer_is_served(size, "--chunk-size=30"));
            scope.spawn(move || assert_slow_peer_is_served(size, "--zero-copy"));
        }
    });
}

#[test]
fn hundreds_of_stops_in_the_middle_of_every_call_change_nothing() {
    let points = [
        fault(Direction::ToClient, 0, Trouble::Stall),
        fault(Direction::ToClient, 5_000_000, Trouble::Stall),
        fault(Direction::ToServer, 0, Trouble::Stall),
    ];
    for (point, method) in points.into_iter().zip(["--zero-copy", "--chunk-size=30", "--zero-copy"]) {
        let scene = Scene::new(20 * MEGABYTE, true);
        let server = scene.server(&[method]);
        let proxy = Proxy::start(server.port, Some(point));
        let client = scene.client(proxy.port, &[]);
        proxy.wait_until_reached();
        for round in 0..200 {
            if round == 100 {
                proxy.release();
            }
            for signal in [Signal::STOP, Signal::CONT] {
                server.running.signal(signal);
                client.signal(signal);
                thread::yield_now();
            }
        }
        let (client, server) = (client.finish(), server.finish());
        assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
        assert!(scene.assert_no_lie(&client, &server));
    }
}

/// A sparse file that no buffers can take in.
fn endless_file() -> tempfile::TempDir {
    let there = folder();
    File::create(there.path().join("des.txt")).unwrap().set_len(ENDLESS).unwrap();
    there
}

/// A connection whose kernel takes little before the program reads, so that the rest waits at the server.
fn narrow_connection(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.into()
}

fn wait_until_half_closed(server: &Server) {
    let is_it = |state: &TcpState| matches!(state, TcpState::FinWait1 | TcpState::FinWait2);
    wait_until("the half-close", || states_of(&server.running, server.port).iter().any(is_it));
}

/// The state of each connection of the server, in its own network.
fn states_of(server: &Running, port: u16) -> Vec<TcpState> {
    let process = procfs::process::Process::new(server.pid().as_raw_nonzero().get()).unwrap();
    let connections = process.tcp().unwrap();
    let ours = connections.into_iter().filter(|connection| connection.local_address.port() == port);
    ours.map(|connection| connection.state).collect()
}

fn assert_ends(server: Server, status: i32, why: &str) {
    let server = server.finish();
    assert_eq!(server.status, status, "{server:?}");
    assert!(server.errors().iter().any(|line| line.contains(why)), "{why}: {server:?}");
    assert_calm(&server);
}
