//! What happens to the source while it is offered and sent: it has changed when its bytes have, and not before.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use common::files::{assert_same, make_fifo, open_for_writing, sha256, wait_for_clock_tick};
use common::network::{assert_reset, connect, fetch, fetch_from, read_all, reset, thank};
use common::processes::through;
use common::requirements::{has_loop_device, holder_of_lease};
use common::trace::{Injection, traced};
use common::{DEADLINE, Fixture, Server, Signal, c_program, directory, is_root, run, strace, wait_until};

/// More than the buffers of a connection hold, so that a client that reads nothing keeps the transfer from its end.
const LARGE: usize = 24_000_000;

/// How long after a change the times of a file are doubted.
const FRESH: Duration = Duration::from_secs(2);

type Change = fn(&Path);

/// What leaves the bytes of `des.txt` alone.
const HARMLESS: [(&str, Change); 8] = [
    ("touch", touch),
    ("cat", |file| File::open(file).unwrap().set_times(FileTimes::new().set_accessed(SystemTime::now())).unwrap()),
    ("mv", |file| fs::rename(file, file.with_file_name("renamed")).unwrap()),
    ("mv of another file over it", |file| {
        fs::write(file.with_file_name("other"), "other").unwrap();
        fs::rename(file.with_file_name("other"), file).unwrap();
    }),
    ("ln", |file| fs::hard_link(file, file.with_file_name("linked")).unwrap()),
    ("rm", |file| fs::remove_file(file).unwrap()),
    ("chmod", |file| fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap()),
    ("setfattr", |file| {
        let _ = rustix::fs::setxattr(file, "user.note", b"x", rustix::fs::XattrFlags::empty());
    }),
];

fn touch(file: &Path) {
    open_for_writing(file).set_modified(SystemTime::now()).unwrap();
}

/// Touches the file again and again until the returned value is dropped.
fn keep_touching(file: &Path) -> Sender<()> {
    let (until_dropped, ended) = mpsc::channel();
    let file = open_for_writing(file);
    thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
            file.set_modified(SystemTime::now()).unwrap();
        }
    });
    until_dropped
}

/// Writes one byte and sets the time of the last write back.
fn write_with_the_old_time(file: &Path, byte: u8, offset: u64) {
    wait_for_clock_tick(file);
    let file = open_for_writing(file);
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&[byte], offset).unwrap();
    file.set_modified(time).unwrap();
}

/// A client in the middle of the transfer: it has read the first bytes, and the server cannot send the last.
fn half_way(server: &Server) -> (TcpStream, Vec<u8>) {
    let mut client = connect(server.port);
    let mut first = vec![0; 1000];
    client.read_exact(&mut first).unwrap();
    (client, first)
}

fn read_the_rest(client: &TcpStream, mut first: Vec<u8>) -> Vec<u8> {
    first.extend(read_all(client));
    first
}

#[test]
fn names_and_rights_of_the_source_may_change_during_a_transfer() {
    for (what, change) in HARMLESS {
        let fixture = Fixture::of_size(LARGE);
        let server = fixture.server(&[]);
        let (client, first) = half_way(&server);
        wait_for_clock_tick(&fixture.source());
        change(&fixture.source());
        assert_same(&read_the_rest(&client, first), fixture.bytes(), what);
        thank(&client);
        assert_eq!(server.finish().status, 0, "{what}");
    }
}

#[test]
fn names_and_rights_of_a_large_source_may_change_during_a_transfer() {
    const SIZE: usize = 64 << 20;
    for (what, change) in HARMLESS {
        let fixture = Fixture::sparse(SIZE as u64);
        let server = fixture.server(&[]);
        let (client, first) = half_way(&server);
        wait_for_clock_tick(&fixture.source());
        change(&fixture.source());
        assert_eq!(read_the_rest(&client, first).len(), SIZE, "{what}");
        thank(&client);
        assert_eq!(server.finish().status, 0, "{what}");
    }
}

#[test]
fn names_and_rights_of_the_source_may_change_after_its_digest_was_printed() {
    for (what, change) in HARMLESS {
        let fixture = Fixture::of_size(1_000_000);
        let server = fixture.server(&["--keep-open", "--sha256"]);
        wait_for_clock_tick(&fixture.source());
        change(&fixture.source());
        for _ in 0..2 {
            assert_same(&fetch(server.port), fixture.bytes(), what);
        }
        assert_eq!(server.interrupt(Signal::INT).status, 130);
    }
}

#[test]
fn write_whose_time_was_set_back_is_found_at_the_end() {
    let fixture = Fixture::of_size(LARGE);
    let server = fixture.server(&[]);
    let (client, _) = half_way(&server);
    write_with_the_old_time(&fixture.source(), !fixture.bytes()[0], 0);
    assert_reset(&client);
    let ended = server.finish();
    assert_eq!(ended.status, 1);
    assert!(ended.stderr().ends_with("des.txt changed while it was read\n"), "{ended:?}");
}

/// Only the bytes tell: its times are those of the last write, and what was done to it then explains that they moved.
#[test]
fn write_through_a_mapping_whose_times_were_set_back_is_found_at_the_end() {
    let Some(mapped_write) = c_program("mapped-write.c") else { return };
    let nothing: (&str, Change) = ("nothing", |_| {});
    for (what, change) in HARMLESS.into_iter().chain([nothing]) {
        let fixture = Fixture::of_size(LARGE);
        let server = fixture.server(&[]);
        let (client, _) = half_way(&server);
        wait_for_clock_tick(&fixture.source());
        let byte = (!fixture.bytes()[0]).to_string();
        let write = Command::new(&mapped_write).arg(fixture.source()).args(["0", &byte]).status();
        assert!(write.unwrap().success());
        change(&fixture.source());
        assert_reset(&client);
        let ended = server.finish();
        assert_eq!(ended.status, 1, "{what}");
        assert!(ended.stderr().ends_with("des.txt changed while it was read\n"), "{what}: {ended:?}");
    }
}

#[test]
fn a_lease_of_another_program_is_waited_for() {
    let fixture = Fixture::of_size(1000);
    let Some(_holder) = holder_of_lease(&fixture.source(), &["until asked"]) else { return };
    fixture.transfer(&[], &[]).assert_stored();
}

#[test]
fn write_whose_time_was_set_back_is_found_before_a_client_that_trusts_the_digest() {
    let fixture = Fixture::of_size(1_000_000);
    let mut server = fixture.server(&["--keep-open", "--sha256"]);
    write_with_the_old_time(&fixture.source(), !fixture.bytes()[7], 7);
    assert!(fetch_from("127.0.0.1", server.port).is_err());
    server.wait_for_failed_client();
    // What was there is served again once it is there again.
    write_with_the_old_time(&fixture.source(), fixture.bytes()[7], 7);
    assert_same(&fetch(server.port), fixture.bytes(), "the file as it was");
    let ended = server.interrupt(Signal::INT);
    assert!(ended.stderr().contains("des.txt changed since its digest was computed"), "{ended:?}");
}

#[test]
fn file_that_is_not_the_one_of_the_digest_is_sent_to_one_client_in_vain_and_refused_to_the_next() {
    let fixture = Fixture::of_size(LARGE);
    let mut server = fixture.server(&["--keep-open", "--sha256"]);
    wait_for_clock_tick(&fixture.source());
    open_for_writing(&fixture.source()).write_all_at(&[!fixture.bytes()[7]], 7).unwrap();
    // Times that are fresh would be doubted.
    wait_until("settled times", || {
        fs::metadata(fixture.source()).unwrap().modified().unwrap().elapsed().unwrap() > FRESH
    });
    for sent_something in [true, false] {
        assert!(fetch_from("127.0.0.1", server.port).is_err());
        let line = server.running.wait_for_line("file-server: ");
        assert!(line.ends_with("des.txt changed since its digest was computed"), "{line}");
        assert_eq!(!line.contains("stopped after 0 B "), sent_something, "{line}");
    }
    assert_eq!(server.interrupt(Signal::INT).status, 130);
}

/// The end is far away here: a server that looked there only would never come to it.
#[test]
fn write_to_what_was_sent_of_a_long_file_resets_at_once() {
    let fixture = Fixture::sparse(1 << 40);
    let server = fixture.server(&[]);
    let (client, _) = half_way(&server);
    wait_for_clock_tick(&fixture.source());
    open_for_writing(&fixture.source()).write_all_at(b"?", 500).unwrap();
    assert_reset(&client);
    let ended = server.finish();
    assert_eq!(ended.status, 1);
    assert!(ended.stderr().ends_with("des.txt changed while it was read\n"), "{ended:?}");
}

#[test]
fn size_that_changes_in_the_middle_of_a_long_file_resets_at_once() {
    for size in [1 << 39, 1 << 41] {
        let fixture = Fixture::sparse(1 << 40);
        let server = fixture.server(&[]);
        let (client, _) = half_way(&server);
        open_for_writing(&fixture.source()).set_len(size).unwrap();
        assert_reset(&client);
        assert_eq!(server.finish().status, 1);
    }
}

/// What the client gets was all in the file at one moment.
#[test]
fn write_to_what_was_not_sent_yet_is_sent() {
    let fixture = Fixture::of_size(LARGE);
    let server = fixture.server(&[]);
    let (client, first) = half_way(&server);
    wait_for_clock_tick(&fixture.source());
    let mut bytes = fixture.bytes().to_vec();
    bytes[LARGE - 1] = !bytes[LARGE - 1];
    open_for_writing(&fixture.source()).write_all_at(&bytes[LARGE - 1..], LARGE as u64 - 1).unwrap();
    assert_same(&read_the_rest(&client, first), &bytes, "the file as it is now");
    thank(&client);
    assert_eq!(server.finish().status, 0);
}

#[test]
fn times_that_are_set_again_and_again_do_no_harm() {
    let fixture = Fixture::of_size(LARGE);
    let server = fixture.server(&["--clients=2", "--sha256"]);
    let _touched = keep_touching(&fixture.source());
    for _ in 0..2 {
        assert_same(&fetch(server.port), fixture.bytes(), "the file that is touched");
    }
    assert_eq!(server.finish().status, 0);
}

/// The server in strace, whose log is the second argument, with a delay of its calls of pread(2) from the one with this number
/// on; `None` if there is no strace.
fn server_with_slow_reads(fixture: &Fixture, log: &Path, delay: Duration, when: &str) -> Option<Server> {
    let (strace, log) = (strace()?, log.to_str().unwrap());
    let inject = format!("inject=pread64:delay_enter={}:when={when}", delay.as_micros());
    let source = fixture.source();
    let source = ["-P", source.to_str().unwrap()];
    let strace = [strace.to_str().unwrap(), "-f", "-qq", "-o", log, "-e", "trace=pread64", "-e", &inject];
    let strace = [&strace[..], &source].concat();
    Some(Server::start(&mut through(&strace, &fixture.server_command(&["--chunk-size=1MiB"]))))
}

/// The most calls that read a file of a million bytes again, which was read by one.
const READS_AGAIN: usize = 16;

#[test]
fn client_is_kept_while_the_file_is_read_again() {
    let (fixture, log) = (Fixture::of_size(1_000_000), directory());
    let log = log.path().join("log");
    let _touched = keep_touching(&fixture.source());
    // Until the end of the test the server is reading the second half of the file again.
    let when = (READS_AGAIN / 4 + 2).to_string();
    let Some(server) = server_with_slow_reads(&fixture, &log, 2 * DEADLINE, &when) else { return };
    let mut client = connect(server.port);
    let mut arrived = vec![0; 200_000];
    client.read_exact(&mut arrived).unwrap();
    assert_same(&arrived, &fixture.bytes()[..arrived.len()], "what has arrived");
    // Without strace the server goes on, and finds that its client has gone.
    drop((client, server));
}

#[test]
fn file_is_not_read_on_for_a_client_that_has_gone() {
    let (fixture, log) = (Fixture::of_size(1_000_000), directory());
    let log = log.path().join("log");
    let _touched = keep_touching(&fixture.source());
    let Some(server) = server_with_slow_reads(&fixture, &log, Duration::from_secs(1), "2+") else { return };
    let mut client = connect(server.port);
    client.read_exact(&mut [0]).unwrap();
    reset(client);
    assert_eq!(server.finish().status, 1);
    let reads = fs::read_to_string(log).unwrap().lines().count();
    assert!((2..=READS_AGAIN).contains(&reads), "{reads}");
}

#[test]
fn growing_log_fails_with_the_command_that_sends_it() {
    const MORE: &[u8] = b"one more line\n";
    let now = LARGE + MORE.len();
    for (name, word) in [
        ("des.txt", Some("./des.txt")),
        ("two words", Some("'./two words'")),
        ("it's", Some("\"./it's\"")),
        ("-", Some("./-")),
        ("a\nb", None),
    ] {
        let fixture = Fixture::of_size(LARGE);
        let source = fixture.source().with_file_name(name);
        fs::rename(fixture.source(), &source).unwrap();
        let server = fixture.server(&["--file", &format!("./{name}")]);
        let (client, _) = half_way(&server);
        File::options().append(true).open(source).unwrap().write_all(MORE).unwrap();
        assert_reset(&client);
        let ended = server.finish();
        let advice = word.map_or(String::new(), |word| {
            format!("; to send what it has now, type: head -c {now} < {word} | file-server -f - PORT")
        });
        assert!(ended.stderr().ends_with(&format!(" grew while it was read{advice}\n")), "{ended:?}");
    }
}

#[test]
fn file_of_the_kernel_that_tells_no_true_size_is_sent_to_its_end() {
    let fixture = Fixture::new("");
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Ok(content) = fs::read(file) else { return };
    assert_ne!(fs::metadata(file).unwrap().len(), content.len() as u64);
    let server = fixture.server(&["--clients=2", "--file", file]);
    for _ in 0..2 {
        assert_same(&fetch(server.port), &content, file);
    }
    assert_eq!(server.finish().status, 0);
}

#[test]
fn block_device_has_a_size_and_a_digest_and_several_clients() {
    if !is_root() || !has_loop_device() {
        return;
    }
    let fixture = Fixture::of_size(3 << 20);
    let attached = run(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(fixture.source()));
    assert_eq!(attached.status, 0, "{attached:?}");
    let device = attached.stdout().trim().to_owned();
    let server = fixture.server(&["--clients=2", "--sha256", "--file", &device]);
    let digest = format!("--sha256={}", sha256(fixture.bytes()));
    for _ in 0..2 {
        let client = fixture.client(server.port, &["--size=3MiB", &digest]).finish();
        assert_eq!(client.status, 0, "{client:?}");
        fixture.assert_replaced();
    }
    let ended = server.finish();
    assert_eq!(run(Command::new("losetup").args(["--detach", &device])).status, 0);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stderr().contains("--size 3145728 --sha256"), "{ended:?}");
}

#[test]
fn fifo_without_a_writer_is_listened_for_and_reported() {
    let fixture = Fixture::new("");
    let fifo = fixture.source_directory().join("fifo");
    make_fifo(&fifo);
    let server = fixture.server(&["--file", "fifo"]);
    let client = connect(server.port);
    fs::write(&fifo, b"what a program writes").unwrap();
    assert_same(&read_all(&client), b"what a program writes", "the FIFO");
    thank(&client);
    let ended = server.finish();
    assert_eq!(ended.status, 0);
    assert!(ended.stderr().starts_with("fifo: waiting for a program that writes to this FIFO\n"), "{ended:?}");
}

/// As some files of a driver say when they have nothing yet; to try at once again would never end.
#[test]
fn a_file_that_has_nothing_to_read_now_is_an_error() {
    let fixture = Fixture::of_size(1_000_000);
    let log = fixture.source_directory().join("log");
    let injection = Injection { call: "pread64".to_owned(), number: 10, effect: "error=EAGAIN".to_owned() };
    let Some(mut server) = traced(&fixture.server_command(&[]), &log, Some(&injection)) else { return };
    let server = Server::start(&mut server);
    let client = run(&mut fixture.client_command(server.port, &[]));
    let server = server.finish();
    assert_eq!((client.status, server.status), (1, 1), "{client:?}\n{server:?}");
    assert!(server.errors()[0].contains("could not read des.txt: "), "{server:?}");
}
