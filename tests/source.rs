//! What happens to the source while it is offered and sent: it has changed when its bytes have, and not before.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use common::files::{assert_same, make_fifo, open_for_writing, sha256, wait_for_clock_tick};
use common::network::{assert_reset, connect, fetch, fetch_from, read_all, thank};
use common::{Fixture, Server, Signal, installed, is_root, run};

/// More than the buffers of a connection hold, so that a client that reads nothing keeps the transfer from its end.
const LARGE: usize = 24_000_000;

type Change = fn(&Path);

/// What leaves the bytes of `des.txt` alone.
const HARMLESS: [(&str, Change); 6] = [
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

/// It is watched, where a smaller one would be read again.
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

/// Of such a write there is no event, and of the times there is one.
#[test]
fn write_through_a_mapping_whose_time_was_set_back_is_found_at_the_end() {
    const WRITE: &str = "import mmap, os, sys
path = sys.argv[1]
file = open(path, 'r+b')
before = os.stat(path)
mmap.mmap(file.fileno(), 0)[0:1] = b'?'
os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))";
    let Some(python) = installed("python3") else { return };
    let fixture = Fixture::new(vec![b'.'; LARGE]);
    let server = fixture.server(&[]);
    let (client, _) = half_way(&server);
    wait_for_clock_tick(&fixture.source());
    let written = run(Command::new(python).args(["-c", WRITE]).arg(fixture.source()));
    assert_eq!(written.status, 0, "{written:?}");
    assert_reset(&client);
    assert_eq!(server.finish().status, 1);
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

/// The end is far away here: a server that looked there only would never come to it.
#[test]
fn write_in_the_middle_of_a_long_transfer_resets_at_once() {
    let fixture = Fixture::sparse(1 << 40);
    let server = fixture.server(&[]);
    let (client, _) = half_way(&server);
    wait_for_clock_tick(&fixture.source());
    open_for_writing(&fixture.source()).write_all_at(b"?", 1 << 39).unwrap();
    assert_reset(&client);
    assert_eq!(server.finish().status, 1);
}

#[test]
fn growing_log_fails_with_the_command_that_sends_it() {
    let fixture = Fixture::of_size(LARGE);
    let server = fixture.server(&[]);
    let (client, _) = half_way(&server);
    wait_for_clock_tick(&fixture.source());
    File::options().append(true).open(fixture.source()).unwrap().write_all(b"one more line\n").unwrap();
    assert_reset(&client);
    let ended = server.finish();
    let command = format!("head -c {LARGE} des.txt | file-server -f - PORT");
    let line = format!("des.txt grew while it was read; to send what it has now, type: {command}\n");
    assert!(ended.stderr().ends_with(&line), "{ended:?}");
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
    if !is_root() || installed("losetup").is_none() {
        return;
    }
    let fixture = Fixture::of_size(3 << 20);
    let attached = run(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(fixture.source()));
    if attached.status != 0 {
        common::requirements::report_skipped("no loop device is free");
        return;
    }
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
