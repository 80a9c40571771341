//! Pipes, FIFOs and devices in place of files: as what is sent, as what is stored, and as standard output and error.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use common::files::{assert_file, make_fifo};
use common::network::{connect, read_all, thank};
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Server, Signal, assert_same, content, directory, file_server, installed, run,
};

#[test]
fn tar_streams_a_directory_from_pipe_to_pipe() {
    if installed("tar").is_none() {
        return;
    }
    let (there, here) = (directory(), directory());
    fs::create_dir_all(there.path().join("dir/sub")).unwrap();
    fs::write(there.path().join("dir/a"), content(1_000_000, 7)).unwrap();
    fs::write(there.path().join("dir/sub/b"), b"b").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "tar c dir | \"$0\" -b 127.0.0.1 -f - 0", FILE_SERVER]);
    let server = Server::start(command.current_dir(there.path()));
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" -o - 127.0.0.1 \"$1\" | tar x", FILE_CLIENT, &server.port.to_string()]);
    let client = run(command.current_dir(here.path()));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_eq!(client.stdout(), "");
    assert!(client.stderr().ends_with(" bytes in standard output\n"), "{client:?}");
    assert_file(&here.path().join("dir/a"), &content(1_000_000, 7));
    assert_file(&here.path().join("dir/sub/b"), b"b");
}

#[test]
fn bytes_of_a_slow_producer_are_sent_as_soon_as_a_chunk_is_full() {
    let fixture = Fixture::new(content(75, 8));
    let bytes = fixture.bytes();
    let (input, mut producer) = io::pipe().unwrap();
    let server = Server::start(fixture.server_command(&["--file", "-"]).stdin(input));
    let mut client = connect(server.port);
    let mut arrived = [0; 30];
    producer.write_all(&bytes[..45]).unwrap();
    client.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, bytes[..30]);
    producer.write_all(&bytes[45..60]).unwrap();
    client.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, bytes[30..60]);
    producer.write_all(&bytes[60..]).unwrap();
    drop(producer);
    assert_eq!(read_all(&client), bytes[60..]);
    thank(&client);
    assert_eq!(server.finish().status, 0);
}

#[test]
fn closed_output_pipe_is_one_error_on_each_side() {
    let fixture = Fixture::new(vec![b'x'; 32 * 1024 * 1024]);
    let server = fixture.server(&[]);
    let (reader, closed) = io::pipe().unwrap();
    drop(reader);
    let mut client = fixture.client_command(server.port, &["--output", "-"]);
    let mut client = client.stdout(closed).stderr(Stdio::piped()).spawn().unwrap();
    let mut printed = String::new();
    client.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(1));
    assert_eq!(printed, "file-client: could not write standard output: broken pipe\n");
    let finished = server.finish();
    assert_eq!((finished.status, finished.errors().len()), (1, 1), "{finished:?}");
}

#[test]
fn closed_standard_output_and_error_do_not_change_the_exit_status() {
    let fixture = Fixture::new("bytes");
    let server = fixture.server(&[]);
    let (reader, closed) = io::pipe().unwrap();
    drop(reader);
    let mut client = fixture.client_command(server.port, &[]);
    let status = client.stdout(closed.try_clone().unwrap()).stderr(closed).status().unwrap();
    assert_eq!((status.code(), server.finish().status), (Some(0), 0));
    fixture.assert_replaced();
}

#[test]
fn signal_after_the_file_is_stored_does_not_change_the_exit_status() {
    const FULL: usize = 4096;
    let fixture = Fixture::new("bytes");
    let server = fixture.server(&[]);
    // The result is not read, so the client cannot end by itself.
    let (_reader, mut full) = io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&full, FULL).unwrap();
    full.write_all(&[0; FULL]).unwrap();
    let mut client = fixture.client_command(server.port, &[]).stdout(full).spawn().unwrap();
    assert_eq!(server.finish().status, 0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&client), Signal::TERM).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    fixture.assert_replaced();
}

/// What a client gets if this is sent in place of `des.txt`.
fn transferred(file: &str, fixture: &Fixture) -> Vec<u8> {
    fixture.transfer(&["--file", file], &[]).assert_statuses(0, 0);
    let received = fs::read(fixture.destination()).unwrap();
    // Nothing replaces no file that has bytes.
    fs::remove_file(fixture.destination()).unwrap();
    received
}

#[test]
fn fifos_devices_and_files_that_report_no_size_can_be_sent() {
    let fixture = Fixture::new("");
    let fifo = fixture.source_directory().join("fifo");
    make_fifo(&fifo);
    let bytes = content(300_000, 10);
    let producer = thread::spawn({
        let bytes = bytes.clone();
        move || fs::write(fifo, bytes)
    });
    assert_same(&transferred("fifo", &fixture), &bytes, "the FIFO");
    producer.join().unwrap().unwrap();

    assert_eq!(transferred("/dev/null", &Fixture::new("")), b"");
    let version = "/proc/version";
    assert_eq!(fs::metadata(version).unwrap().len(), 0);
    assert_eq!(transferred(version, &fixture), fs::read(version).unwrap());
    // Its figures change, its lines do not.
    let processors =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().filter(|line| line.starts_with("processor")).count();
    assert_eq!(processors(&transferred("/proc/cpuinfo", &fixture)), processors(&fs::read("/proc/cpuinfo").unwrap()));
    fixture.transfer(&[], &["--size=0"]).assert_stored();
    assert_eq!(fs::read(fixture.destination()).unwrap(), b"");
}

#[test]
fn stream_is_rejected_for_more_than_one_client() {
    let there = directory();
    for option in ["--keep-open", "--clients=2"] {
        let server = run(&mut file_server(there.path(), 0, &["--file", "/dev/null", option]));
        let error = "file-server: /dev/null is not a regular file, so it can be read only once\n";
        assert_eq!((server.status, &*server.stderr()), (1, error));
    }
}
