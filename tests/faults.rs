//! Everything that can go wrong between the two programs, injected for real: kills, changes, stalls, resets, lost
//! packets. Checked after each: both exit statuses, the destination's bytes, its directory's listing, and at most one
//! error line a side.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::files::{open_for_writing, overwrite_first_byte, wait_for_clock_tick};
use common::fixture::{
    Dials, EITHER_DIALS, ENDING_SIGNALS, KEY, assert_at_most_one_error, in_both_directions, is_ending_signal,
};
use common::messages::{NO_REPLY, OTHER_REPLY, SOURCE_CHANGED, no_progress};
use common::network::{
    Listener, SilentPort, assert_reset, connect_with_receive_buffer, connections_of, half_close, read_all, reset,
    thank, wait_for_half_close, write_slowly,
};
use common::processes::{through, with_open_files};
use common::proxy::{Direction, Effect, Fault, Proxy};
use common::random::Random;
use common::{Fixture, Outcome, Server, Signal, assert_same, run, strace, wait_until};
use half_close::protocol::THANK_YOU;
use procfs::net::TcpState;
use socket2::SockRef;

const MEGABYTE: usize = 1_000_000;

/// Bytes that the server's kernel queues though the client reads nothing.
const QUEUED: usize = 300_000;

/// More than the kernels of both sides buffer while the client reads little.
const NOT_QUEUED: usize = 20 * MEGABYTE;

/// More than the kernels of both sides ever buffer.
const ENDLESS: u64 = 256 * 1024 * 1024;

const fn fault(direction: Direction, at: u64, effect: Effect) -> Fault {
    Fault { direction, at, effect }
}

/// A plain client whose kernel takes little before the test reads, so that the rest waits at the server.
fn connect(server: &Server) -> TcpStream {
    connect_with_receive_buffer(server.port, 64 * 1024)
}

/// The server must end with this status, one error line that contains `reason`, and no panic.
fn assert_ends(server: Server, status: i32, reason: &str) {
    let server = server.finish();
    assert_eq!(server.status, status, "{server:?}");
    assert!(server.errors().iter().any(|line| line.contains(reason)), "{reason}: {server:?}");
    assert_at_most_one_error(&server);
}

#[derive(Clone, Copy)]
enum Victim {
    Server,
    Client,
}

const KILLS_AT_ONCE: usize = 4;

/// Kills at random moments, several at a time. One that comes after the end does not count, and at least a quarter must
/// come before the file is stored, however fast this machine is.
fn kill_hundreds(victim: Victim, is_encrypted: bool, dials: Dials) {
    let kills = if dials == Dials::Client { 200 } else { 100 };
    let mut random = Random::seeded();
    let ends = Mutex::new(Vec::<bool>::new());
    thread::scope(|scope| {
        for _ in 0..KILLS_AT_ONCE {
            let mut random = random.fork();
            let ends = &ends;
            scope.spawn(move || {
                let not_enough = || {
                    let ends = ends.lock().unwrap();
                    ends.len() < kills || ends.iter().filter(|&&stored| !stored).count() < kills / 4
                };
                let mut attempts = 0;
                while not_enough() {
                    attempts += 1;
                    assert!(attempts < 10 * kills, "nearly all came too late");
                    let end = kill_one(victim, is_encrypted, dials, &mut random);
                    ends.lock().unwrap().extend(end);
                }
            });
        }
    });
    let ends = ends.into_inner().unwrap();
    let count = |wanted: bool| ends.iter().filter(|&&stored| stored == wanted).count();
    println!("killed: {}, of them stored: {}, not stored: {}", ends.len(), count(true), count(false));
}

/// Returns whether the file was stored all the same, or `None` if the victim had ended by itself.
fn kill_one(victim: Victim, is_encrypted: bool, dials: Dials, random: &mut Random) -> Option<bool> {
    let fixture = Fixture::random(random).in_mode(is_encrypted).dialled_by(dials);
    let server = random.one_of(&[&[][..], &["--chunk-size=1MiB"]]);
    let running = fixture.start(None, server, random.one_of(&[&[], &["--no-sync"]]));
    // Not a wait for anything: this is the random moment, every other time an early one.
    let longest = random.one_of(&[1_000, 8_000]);
    thread::sleep(Duration::from_micros(random.below(longest)));
    match victim {
        Victim::Server => running.server.signal(random.one_of(&ENDING_SIGNALS)),
        Victim::Client => running.client.signal(random.one_of(&ENDING_SIGNALS)),
    }
    let outcome = running.finish_or_use_up();
    let stored = fixture.assert_truthful(&outcome);
    let (client, server) = outcome.statuses();
    let status = if let Victim::Server = victim { server } else { client };
    is_ending_signal(status).then_some(stored)
}

#[test]
fn killed_servers_leave_the_old_file_or_the_whole_new_one() {
    kill_hundreds(Victim::Server, false, Dials::Client);
}

#[test]
fn killed_servers_with_a_key_leave_the_old_file_or_the_whole_new_one() {
    kill_hundreds(Victim::Server, true, Dials::Client);
}

#[test]
fn killed_clients_leave_the_old_file_or_the_whole_new_one_and_no_leftover_files() {
    kill_hundreds(Victim::Client, false, Dials::Client);
}

#[test]
fn killed_clients_with_a_key_leave_the_old_file_or_the_whole_new_one_and_no_leftover_files() {
    kill_hundreds(Victim::Client, true, Dials::Client);
}

#[test]
fn kills_in_a_push_leave_the_old_file_or_the_whole_new_one() {
    kill_hundreds(Victim::Server, false, Dials::Server);
    kill_hundreds(Victim::Client, false, Dials::Server);
}

#[test]
fn kills_in_a_push_with_a_key_leave_the_old_file_or_the_whole_new_one() {
    kill_hundreds(Victim::Server, true, Dials::Server);
    kill_hundreds(Victim::Client, true, Dials::Server);
}

/// Holds back the middle of the file until it has changed.
fn assert_change_is_noticed(change: fn(&File), has_old: bool, dials: Dials) {
    let fixture = Fixture::of_size(NOT_QUEUED).dialled_by(dials);
    let fixture = if has_old { fixture.with_old() } else { fixture };
    let running = fixture.start(fault(Direction::ToClient, 100_000, Effect::Stall), &[], &[]);
    running.wait_for_fault();
    wait_for_clock_tick(&fixture.source());
    change(&open_for_writing(&fixture.source()));
    running.release();
    let outcome = running.finish();
    outcome.assert_statuses(1, 1);
    assert!(outcome.client.stderr().contains(": the server gave up after "), "{outcome:?}");
    let reported = outcome.server.stderr();
    assert!(
        ["changed", "became shorter", "grew"].iter().any(|what| reported.contains(&format!("des.txt {what} while"))),
        "{outcome:?}"
    );
    assert!(!fixture.assert_truthful(&outcome));
}

#[test]
fn file_that_changes_while_it_is_sent_is_not_stored() {
    let shrink: fn(&File) = |file| file.set_len(1_000_000).unwrap();
    let empty: fn(&File) = |file| file.set_len(0).unwrap();
    let grow: fn(&File) = |file| file.set_len(NOT_QUEUED as u64 + 1).unwrap();
    let rewrite: fn(&File) = |file| file.write_all_at(b"?", 0).unwrap();
    let rewrite_with_the_old_time: fn(&File) = |file| {
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"?", 99_999).unwrap();
        file.set_modified(time).unwrap();
    };
    for change in [shrink, empty, grow, rewrite, rewrite_with_the_old_time] {
        assert_change_is_noticed(change, true, Dials::Client);
        assert_change_is_noticed(change, false, Dials::Client);
        assert_change_is_noticed(change, true, Dials::Server);
    }
}

/// A call of write(2) may already be under way when a client connects, and the file times are those of its beginning.
#[test]
fn file_that_is_rewritten_again_and_again_is_stored_in_one_version_or_not_at_all() {
    const SIZE: usize = 32 * MEGABYTE;
    let fixture = Fixture::new(vec![b'a'; SIZE]);
    let changing = fixture.source();
    let server = fixture.server(&["--keep-open", "--chunk-size=1MiB"]);
    thread::scope(|scope| {
        let (_until_here, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            let source = open_for_writing(&changing);
            for contents in [vec![b'b'; SIZE], vec![b'a'; SIZE]].iter().cycle() {
                source.write_all_at(contents, 0).unwrap();
                if ended.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            let client = fixture.client(server.port, &["--no-sync"]).finish();
            let received = fs::read(fixture.destination()).unwrap_or_default();
            assert!(received.is_empty() || received[1..] == received[..received.len() - 1], "mixed: {client:?}");
            assert!(matches!(client.status, 0 | 1), "{client:?}");
        }
    });
}

#[test]
fn plain_client_is_reset_when_the_file_changes() {
    let fixture = Fixture::sparse(ENDLESS);
    let server = fixture.server(&[]);
    let mut client = connect(&server);
    client.read_exact(&mut [0; 1000]).unwrap();
    overwrite_first_byte(&fixture.source());
    assert_reset(&client);
    assert_ends(server, 1, &format!("des.txt {SOURCE_CHANGED}"));
}

#[test]
fn unreadable_file_is_refused_before_a_client_connects() {
    let fixture = Fixture::of_size(1000);
    let server = run(&mut fixture.server_command(&["--file=/proc/self/mem"]));
    let error = "file-server: could not read /proc/self/mem: input/output error\n";
    assert_eq!((server.status, &*server.stderr()), (1, error));
}

#[test]
fn file_on_standard_input_that_becomes_shorter_is_not_stored() {
    let fixture = Fixture::sparse(ENDLESS);
    let input = File::open(fixture.source()).unwrap();
    let server = Server::start(fixture.server_command(&["--file=-"]).stdin(input));
    let mut client = connect(&server);
    client.read_exact(&mut [0; 1000]).unwrap();
    open_for_writing(&fixture.source()).set_len(1000).unwrap();
    assert_reset(&client);
    assert_ends(server, 1, "standard input became shorter while it was read");
}

#[test]
fn unreadable_standard_input_is_refused_before_a_client_connects() {
    let fixture = Fixture::of_size(1000);
    let only_for_writing = open_for_writing(&fixture.source());
    let server = run(fixture.server_command(&["--file=-"]).stdin(only_for_writing));
    let error = "file-server: could not read standard input: bad file descriptor\n";
    assert_eq!((server.status, &*server.stderr()), (1, error));
}

#[test]
fn server_notices_that_the_client_is_gone_while_standard_input_is_silent() {
    let fixture = Fixture::new("");
    let (input, mut producer) = io::pipe().unwrap();
    let server = Server::start(fixture.server_command(&["--file=-", "--timeout=0s"]).stdin(input));
    let mut client = connect(&server);
    // It may half-close early, as `nc host port < /dev/null` does.
    client.shutdown(Shutdown::Write).unwrap();
    wait_until("the client's half-close", || {
        connections_of(&server).iter().any(|connection| connection.state == TcpState::CloseWait)
    });
    producer.write_all(&[0; 30]).unwrap();
    client.read_exact(&mut [0; 30]).unwrap();
    reset(client);
    let server = server.finish();
    assert_at_most_one_error(&server);
    // Its half-close may have come before the server looked for one.
    let reasons =
        ["the client gave up after 30 B; the file was not stored there", "connected and left without taking the file"];
    assert!(reasons.iter().any(|reason| server.errors()[0].ends_with(reason)) && server.status == 1, "{server:?}");
}

/// A transfer by a server whose system calls strace makes fail.
fn transfer_with(inject: &str, fixture: &Fixture) -> Option<Outcome> {
    let (strace, inject) = (strace()?, format!("inject={inject}"));
    let strace = [strace.to_str().unwrap(), "--follow-forks", "-qq", "-o", "/dev/null", "-e"];
    let strace = [&strace[..], &["trace=accept4,connect,pread64,sendto", "-e", &inject]].concat();
    Some(fixture.start_with(None, &[], &[], |server| through(&strace, &server)).finish())
}

#[test]
fn file_with_a_read_error_in_the_middle_is_not_stored() {
    for dials in EITHER_DIALS {
        let fixture = Fixture::of_size(6 * MEGABYTE).with_old().dialled_by(dials);
        let Some(outcome) = transfer_with("pread64:error=EIO:when=9", &fixture) else { return };
        outcome.assert_statuses(1, 1);
        assert!(outcome.server.stderr().ends_with(": input/output error\n"), "{outcome:?}");
        assert!(!fixture.assert_truthful(&outcome));
    }
}

#[test]
fn server_repeats_calls_that_are_interrupted_or_fail_temporarily() {
    let errors = ["EINTR", "ECONNABORTED", "EPROTO", "EHOSTDOWN", "EPERM", "EOPNOTSUPP", "ENFILE", "ENOMEM", "ENOBUFS"];
    let accepts = errors.map(|error| format!("accept4:error={error}:when=1"));
    // The first calls of pread64 are those of the program's start.
    let chunks = ["pread64:error=EINTR:when=9+2", "sendto:error=EINTR:when=1+2"].map(str::to_owned);
    let fetched = accepts.into_iter().chain(chunks.clone()).map(|inject| (inject, Dials::Client));
    let pushed = chunks.into_iter().map(|inject| (inject, Dials::Server));
    for (inject, dials) in fetched.chain(pushed) {
        let fixture = Fixture::of_size(MEGABYTE).with_old().dialled_by(dials);
        let Some(outcome) = transfer_with(&inject, &fixture) else { return };
        assert_eq!(outcome.statuses(), (0, 0), "{inject}: {outcome:?}");
        assert!(fixture.assert_truthful(&outcome));
    }
}

#[test]
fn every_signal_that_ends_the_server_resets_the_connection() {
    let fixture = Fixture::sparse(ENDLESS);
    for signal in [Signal::HUP, Signal::QUIT, Signal::ABORT, Signal::ALARM, Signal::USR1, Signal::XCPU, Signal::SYS] {
        let server = fixture.server(&[]);
        let mut client = connect(&server);
        client.read_exact(&mut [0; 1000]).unwrap();
        server.running.signal(signal);
        assert_reset(&client);
        assert_eq!(server.finish().status, 128 + signal.as_raw());
    }
}

#[test]
fn connecting_to_a_host_that_does_not_answer_times_out() {
    let fixture = Fixture::of_size(1000).with_old();
    let port = SilentPort::new();
    let client = fixture.client(port.number, &["--timeout=1s"]).finish();
    let line = format!("file-client: could not connect to 127.0.0.1:{}: timed out\n", port.number);
    assert_eq!((client.status, client.stderr()), (1, line));
    assert!(!fixture.is_stored());
}

#[test]
fn rst_from_the_network_at_any_byte_of_the_file_leaves_the_old_file() {
    for (at, dials) in in_both_directions([0, 1, 29, 30, 500_000, 999_999, 1_000_000]) {
        let fixture = Fixture::of_size(MEGABYTE).dialled_by(dials);
        let fixture = if at % 2 == 0 { fixture.with_old() } else { fixture };
        let outcome = fixture.start(fault(Direction::ToClient, at, Effect::Reset), &[], &[]).finish_or_use_up();
        assert_eq!(outcome.statuses(), (1, 1), "at {at}: {outcome:?}");
        assert!(!fixture.assert_truthful(&outcome));
    }
}

/// The client has stored the file, and then the network cuts off its reply with RST. The server cannot tell this from a
/// client that failed; docs/design.md says so.
#[test]
fn rst_from_the_network_in_the_reply_is_reported_as_a_failed_client() {
    for (at, dials) in in_both_directions([1, 5, 9]) {
        let fixture = Fixture::of_size(1000).with_old().dialled_by(dials);
        let outcome = fixture.start(fault(Direction::ToServer, at, Effect::Reset), &[], &[]).finish();
        assert_eq!(outcome.statuses(), (0, 1), "at {at}: {outcome:?}");
        assert!(fixture.is_stored());
        assert!(
            outcome
                .server
                .stderr()
                .contains("the client gave up after all 1000 B; it has not said that they are stored"),
            "{outcome:?}"
        );
    }
}

#[test]
fn fin_from_the_network_in_the_file_is_noticed_with_size_or_sha256() {
    let digest = format!("--sha256={}", "00".repeat(32));
    for at in [0, 1, 999_999] {
        for (check, dials) in in_both_directions(["--size=1000000", &*digest]) {
            let fixture = Fixture::of_size(MEGABYTE).with_old().dialled_by(dials);
            let running = fixture.start(fault(Direction::ToClient, at, Effect::Fin), &[], &[check]);
            let outcome = running.finish_or_use_up();
            assert_eq!(outcome.statuses(), (1, 1), "at {at}: {outcome:?}");
            assert!(!fixture.assert_truthful(&outcome));
        }
    }
}

#[test]
fn network_that_forwards_one_byte_at_a_time_loses_nothing() {
    for (direction, dials) in in_both_directions([Direction::ToClient, Direction::ToServer]) {
        let fixture = Fixture::of_size(20_000).with_old().dialled_by(dials);
        let outcome = fixture.start(fault(direction, 0, Effect::Trickle), &[], &[]).finish();
        outcome.assert_statuses(0, 0);
        assert!(fixture.assert_truthful(&outcome));
    }
}

#[test]
fn reply_cut_off_by_fin_is_no_confirmation_and_no_failed_download() {
    for (at, dials) in in_both_directions([0, 1, 8]) {
        let fixture = Fixture::of_size(1000).with_old().dialled_by(dials);
        let outcome = fixture.start(fault(Direction::ToServer, at, Effect::Fin), &[], &[]).finish();
        assert_eq!(outcome.statuses(), (0, 3), "at {at}: {outcome:?}");
        assert!(fixture.assert_truthful(&outcome));
    }
}

#[test]
fn server_killed_after_its_half_close_has_sent_everything() {
    let fixture = Fixture::of_size(QUEUED).with_old();
    let server = fixture.server(&[]);
    let proxy = Proxy::start(server.port, Some(fault(Direction::ToClient, 1000, Effect::Stall)));
    let client = fixture.client(proxy.port, &[]);
    wait_for_half_close(&server);
    let server = server.interrupt(Signal::KILL);
    proxy.release();
    let outcome = Outcome { client: client.finish(), server };
    outcome.assert_statuses(0, 137);
    assert!(fixture.assert_truthful(&outcome));
}

#[test]
fn plain_client_gets_what_a_killed_server_had_queued() {
    let fixture = Fixture::of_size(QUEUED);
    let server = fixture.server(&[]);
    let client = connect(&server);
    wait_for_half_close(&server);
    assert_eq!(server.interrupt(Signal::KILL).status, 137);
    assert_same(&read_all(&client), fixture.bytes(), "what the client received");
}

#[test]
fn client_beyond_the_number_of_clients_is_reset_and_stores_nothing() {
    let fixture = Fixture::of_size(1000).with_old();
    let server = fixture.server(&[]);
    // Both are in the backlog when the server continues.
    server.running.signal(Signal::STOP);
    let first = connect(&server);
    let client = fixture.client(server.port, &[]);
    wait_until("two connections", || {
        let connections = connections_of(&server);
        connections.iter().filter(|connection| connection.state == TcpState::Established).count() == 2
    });
    server.running.signal(Signal::CONT);
    read_all(&first);
    drop(first);
    let outcome = Outcome { client: client.finish(), server: server.finish() };
    outcome.assert_statuses(1, 3);
    assert!(!fixture.assert_truthful(&outcome));
}

#[test]
fn urgent_data_is_part_of_the_file() {
    for size in [1, 1000] {
        let fixture = Fixture::of_size(2 * size).with_old();
        let listener = Listener::new();
        let client = fixture.client(listener.port(), &[]);
        let mut server = listener.accept();
        let bytes = fixture.bytes();
        server.write_all(&bytes[..size - 1]).unwrap();
        SockRef::from(&server).send_out_of_band(&bytes[size - 1..size]).unwrap();
        server.write_all(&bytes[size..]).unwrap();
        let reply = half_close(&server);
        drop(server);
        let client = client.finish();
        assert!(fixture.is_stored(), "{client:?}");
        assert_eq!((client.status, &reply[..]), (0, THANK_YOU));
    }
}

/// What the server reports of a client that has read everything and then does this.
fn assert_reported(timeout: &str, finish: impl FnOnce(TcpStream), status: i32, reason: &str) {
    let fixture = Fixture::of_size(MEGABYTE);
    let server = fixture.server(&[timeout]);
    let client = connect(&server);
    assert_eq!(read_all(&client).len(), MEGABYTE);
    finish(client);
    assert_ends(server, status, reason);
}

#[test]
fn only_thank_you_confirms_and_only_rst_reports_failure() {
    let never = "--timeout=0s";
    assert_reported(never, reset, 1, "the client gave up after all 976.6 KiB; it has not said that they are stored");
    assert_reported(never, drop, 3, NO_REPLY);
    for other in ["Thanks", "Thank", "thank you\0", "Thank you!\n"] {
        let reply = |mut client: TcpStream| client.write_all(other.as_bytes()).unwrap();
        assert_reported(never, reply, 3, OTHER_REPLY);
    }
}

#[test]
fn server_times_out_when_the_client_reads_everything_and_does_not_reply() {
    let kept = Mutex::new(None);
    let reason = format!("not confirmed: {}", no_progress(3));
    assert_reported("--timeout=3s", |client| *kept.lock().unwrap() = Some(client), 3, &reason);
}

#[test]
fn server_times_out_when_the_client_does_not_read() {
    let fixture = Fixture::sparse(ENDLESS);
    let server = fixture.server(&["--timeout=1s"]);
    let client = connect(&server);
    assert_ends(server, 1, &format!(" (the file was not stored there): {}", no_progress(1)));
    assert_reset(&client);
}

#[test]
fn client_times_out_when_nothing_arrives() {
    let check = |at, effect, dials| {
        let fixture = Fixture::of_size(MEGABYTE).dialled_by(dials);
        let fixture = if at > 0 { fixture.with_old() } else { fixture };
        let outcome = fixture.start(fault(Direction::ToClient, at, effect), &[], &["--timeout=3s"]).finish();
        assert_eq!(outcome.statuses(), (1, 1), "{effect:?} at {at}: {outcome:?}");
        let after = format!(" after {}; destination.txt is as it was", bytesize::ByteSize(at));
        let rest = if at > 0 { after } else { "; the server may be waiting for --key".to_owned() };
        let error = format!("file-client: could not receive all of destination.txt: {}{rest}", no_progress(3));
        assert_eq!(outcome.client.errors(), [error]);
        assert!(!fixture.assert_truthful(&outcome));
    };
    thread::scope(|scope| {
        for effect in [Effect::Stall, Effect::Drop] {
            // A server that sends nothing does not count at a client that listens.
            scope.spawn(move || check(0, effect, Dials::Client));
            for (at, dials) in in_both_directions([500_000, MEGABYTE as u64]) {
                scope.spawn(move || check(at, effect, dials));
            }
        }
    });
}

#[test]
fn server_times_out_when_the_reply_does_not_arrive() {
    let check = |at, effect, dials| {
        let fixture = Fixture::of_size(1000).with_old().dialled_by(dials);
        let outcome = fixture.start(fault(Direction::ToServer, at, effect), &["--timeout=3s"], &[]).finish();
        assert_eq!(outcome.statuses(), (0, 3), "{effect:?} at {at}: {outcome:?}");
        assert!(fixture.assert_truthful(&outcome));
    };
    thread::scope(|scope| {
        for (at, dials) in in_both_directions([0, 5]) {
            scope.spawn(move || check(at, Effect::Stall, dials));
            scope.spawn(move || check(at, Effect::Drop, dials));
        }
    });
}

#[test]
fn slow_server_that_makes_progress_does_not_time_out() {
    let fixture = Fixture::of_size(25).with_old();
    let listener = Listener::new();
    let client = fixture.client(listener.port(), &["--timeout=3s"]);
    let server = listener.accept();
    write_slowly(&server, fixture.bytes(), Duration::from_millis(150));
    server.shutdown(Shutdown::Write).unwrap();
    let client = client.finish();
    assert_eq!(client.status, 0, "{client:?}");
    assert!(fixture.is_stored());
}

/// A client that takes four seconds for the file, and confirms.
fn assert_slow_client_is_served(size: usize) {
    let fixture = Fixture::of_size(size);
    let server = fixture.server(&["--timeout=3s"]);
    let mut client = connect(&server);
    let mut received = Vec::new();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(200));
        (&client).take(size as u64 / 20).read_to_end(&mut received).unwrap();
    }
    client.read_to_end(&mut received).unwrap();
    thank(&client);
    drop(client);
    assert_same(&received, fixture.bytes(), "what the client received");
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert_at_most_one_error(&server);
}

#[test]
fn slow_client_that_makes_progress_does_not_time_out() {
    thread::scope(|scope| {
        // All of the one is queued long before the client has it, and most of the other is not.
        for size in [2 * MEGABYTE, 20 * MEGABYTE] {
            scope.spawn(move || assert_slow_client_is_served(size));
        }
    });
}

#[test]
fn hundreds_of_stops_and_continues_in_every_call_change_nothing() {
    for (point, dials) in [
        (fault(Direction::ToClient, 0, Effect::Stall), Dials::Client),
        (fault(Direction::ToClient, 5_000_000, Effect::Stall), Dials::Client),
        (fault(Direction::ToClient, 5_000_000, Effect::Stall), Dials::Server),
        (fault(Direction::ToServer, 0, Effect::Stall), Dials::Client),
        (fault(Direction::ToServer, 0, Effect::Stall), Dials::Server),
    ] {
        let fixture = Fixture::of_size(20 * MEGABYTE).with_old().dialled_by(dials);
        let running = fixture.start(point, &[], &[]);
        running.wait_for_fault();
        for round in 0..200 {
            if round == 100 {
                running.release();
            }
            for signal in [Signal::STOP, Signal::CONT] {
                running.server.signal(signal);
                running.client.signal(signal);
                thread::yield_now();
            }
        }
        let outcome = running.finish();
        outcome.assert_statuses(0, 0);
        assert!(fixture.assert_truthful(&outcome));
    }
}

/// The descriptor that is missing may be the one for the last step.
#[test]
fn client_with_too_few_descriptors_stores_nothing_or_all() {
    for (limit, is_encrypted) in (5..12).flat_map(|limit| [(limit, false), (limit, true)]) {
        let fixture = Fixture::of_size(1000).with_old().in_mode(is_encrypted);
        let server = fixture.server(&[]);
        let port = server.port;
        let key: &[&str] = if is_encrypted { &["--key", KEY] } else { &[] };
        let client = run(&mut with_open_files(limit, &fixture.client_command(port, key)));
        fixture.use_up(port);
        fixture.assert_truthful(&Outcome { client, server: server.finish() });
    }
}
