//! Pipes, FIFOs and devices in place of files: as what is sent, as what is stored, and as standard output and error.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::SystemTime;

use common::files::{assert_file, make_fifo, open_for_writing, wait_for_clock_tick};
use common::network::{Listener, connect, fetch, read_all, reset, thank, wait_for_connection};
use common::processes::{after, through};
use common::requirements::report_skipped;
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Running, Server, Signal, assert_same, content, directory, file_server,
    installed, run, wait_until,
};
use procfs::net::TcpState;
use rustix::fs::{Mode, OFlags};

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
fn a_reset_after_the_end_takes_nothing_from_a_slow_reader() {
    let fixture = Fixture::of_size(60_000);
    let fifo = fixture.destination_directory().join("fifo");
    make_fifo(&fifo);
    // It fits into neither the pipe nor what is read before the reset.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let mut reader = fs::File::from(rustix::fs::open(&fifo, flags, Mode::empty()).unwrap());
    if rustix::pipe::fcntl_setpipe_size(&reader, 1).unwrap() > 4096 {
        return report_skipped("a small FIFO");
    }
    rustix::io::ioctl_fionbio(&reader, false).unwrap();
    let listener = Listener::new();
    let client = Running::start(&mut fixture.client_command(listener.port(), &["--output=fifo"]));
    let mut connection = listener.accept();
    connection.write_all(fixture.bytes()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    wait_for_connection("half-closed", |it| {
        it.local_address.port() == listener.port() && it.state == TcpState::FinWait2
    });
    let mut received = vec![0; 20_000];
    reader.read_exact(&mut received).unwrap();
    reset(connection);
    let is_there = || procfs::net::tcp().unwrap().iter().any(|it| it.remote_address.port() == listener.port());
    wait_until("the reset", || !is_there());
    reader.read_to_end(&mut received).unwrap();
    assert_same(&received, fixture.bytes(), "the FIFO");
    let client = client.finish();
    assert_eq!(client.status, 0, "{client:?}");
    assert!(client.stderr().contains("fifo is stored, but the server could not be told"), "{client:?}");
}

#[test]
fn bytes_of_a_slow_producer_are_sent_when_it_pauses() {
    let fixture = Fixture::new(content(75, 8));
    let bytes = fixture.bytes();
    for chunk_size in ["--chunk-size=30", "--chunk-size=16MiB"] {
        let (input, mut producer) = io::pipe().unwrap();
        let server = Server::start(fixture.server_command(&["--file", "-", chunk_size]).stdin(input));
        let mut client = connect(server.port);
        for part in [&bytes[..5], &bytes[5..45], &bytes[45..60]] {
            producer.write_all(part).unwrap();
            let mut arrived = vec![0; part.len()];
            client.read_exact(&mut arrived).unwrap();
            assert_eq!(arrived, part);
        }
        producer.write_all(&bytes[60..]).unwrap();
        drop(producer);
        assert_eq!(read_all(&client), bytes[60..]);
        thank(&client);
        assert_eq!(server.finish().status, 0);
    }
}

/// Another program may have made it so, and may read what was there.
#[test]
fn pipe_that_does_not_block_is_waited_for() {
    let fixture = Fixture::new("");
    let (input, mut producer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&input, true).unwrap();
    let server = Server::start(fixture.server_command(&["--file", "-"]).stdin(input));
    let mut client = connect(server.port);
    for _ in 0..3 {
        producer.write_all(b"line\n").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    drop(producer);
    assert_eq!(read_all(&client), b"");
    thank(&client);
    assert_eq!(server.finish().status, 0);
}

#[test]
fn standard_input_that_is_a_file_is_sent_from_where_it_stands_and_may_be_touched() {
    const SIZE: usize = 24_000_000;
    let fixture = Fixture::of_size(SIZE);
    let mut input = fs::File::open(fixture.source()).unwrap();
    input.seek(SeekFrom::Start(1_000_000)).unwrap();
    let server = Server::start(fixture.server_command(&["--file", "-"]).stdin(input));
    let mut client = connect(server.port);
    let mut arrived = vec![0; 1000];
    client.read_exact(&mut arrived).unwrap();
    wait_for_clock_tick(&fixture.source());
    open_for_writing(&fixture.source()).set_modified(SystemTime::now()).unwrap();
    arrived.extend(read_all(&client));
    assert_same(&arrived, &fixture.bytes()[1_000_000..], "what was left of the file");
    thank(&client);
    let ended = server.finish();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.stderr().contains(" --size 23000000\n"), "{ended:?}");
}

#[test]
fn standard_input_that_was_not_asked_for_is_noted_if_it_is_a_file() {
    let fixture = Fixture::of_size(100);
    fs::write(fixture.source().with_file_name("photo.jpg"), "a photo").unwrap();
    let photo = || fs::File::open(fixture.source().with_file_name("photo.jpg")).unwrap();
    let note = "standard input is not sent without --file -\n";
    let notes = |command: &mut Command| {
        let server = Server::start(command);
        assert_same(&fetch(server.port), fixture.bytes(), "des.txt");
        let ended = server.finish();
        assert_eq!(ended.status, 0, "{ended:?}");
        ended.stderr().matches(note).count()
    };
    assert_eq!(notes(fixture.server_command(&[]).stdin(photo())), 1);
    assert_eq!(notes(fixture.server_command(&["--file", "./des.txt"]).stdin(photo())), 0);
    assert_eq!(notes(&mut fixture.server_command(&[])), 0);
    assert_eq!(notes(fixture.server_command(&[]).stdin(io::pipe().unwrap().0)), 0);
}

#[test]
fn standard_input_that_cannot_be_read_is_refused_before_the_server_listens() {
    let fixture = Fixture::new("");
    let closed = |name| run(&mut after("exec <&-", &fixture.server_command(&["--file", name])));
    for (name, error) in [
        ("-", "file-server: could not read standard input: it is closed\n"),
        ("/dev/stdin", "file-server: could not open /dev/stdin: it is closed\n"),
    ] {
        let closed = closed(name);
        assert_eq!((closed.status, &*closed.stderr()), (1, error));
    }
    let directory = run(fixture.server_command(&["--file", "-"]).stdin(fs::File::open("/").unwrap()));
    let error = "file-server: could not read standard input: is a directory\n";
    assert_eq!((directory.status, &*directory.stderr()), (1, error));
}

/// Neither can be opened once more.
#[test]
fn socket_or_forbidden_pipe_that_is_standard_input_can_be_sent_by_its_name() {
    for name in ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"] {
        let fixture = Fixture::new("");
        let (mut producer, input) = UnixStream::pair().unwrap();
        let server = Server::start(fixture.server_command(&["--file", name]).stdin(OwnedFd::from(input)));
        producer.write_all(b"through a socket").unwrap();
        drop(producer);
        assert_eq!(fetch(server.port), b"through a socket", "{name}");
        assert_eq!(server.finish().status, 0, "{name}");
    }
    let fixture = Fixture::new("");
    let (input, mut producer) = io::pipe().unwrap();
    rustix::fs::fchmod(&input, Mode::empty()).unwrap();
    let mut command = fixture.server_command(&["--file", "/dev/stdin"]);
    if rustix::process::geteuid().is_root() {
        if installed("setpriv").is_none() {
            return;
        }
        command = through(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"], &command);
    }
    let server = Server::start(command.stdin(input));
    producer.write_all(b"through a pipe").unwrap();
    drop(producer);
    assert_eq!(fetch(server.port), b"through a pipe");
    assert_eq!(server.finish().status, 0);
}

/// What the server says that the client should store it as, and what the server has said until then.
fn offered_output(command: &mut Command) -> (Option<String>, String) {
    let mut server = Server::start(command);
    let line = server.running.wait_for_line("  file-client ");
    let output = line.split_once(" --output ").map(|(_, output)| output.to_owned());
    (output, server.interrupt(Signal::TERM).stderr())
}

#[test]
fn descriptor_is_offered_under_the_name_of_its_file_or_none_and_is_not_called_a_fifo() {
    let fixture = Fixture::new("bytes");
    fs::write(fixture.source().with_file_name("-"), "not standard input").unwrap();
    let of_pipe = |name| {
        let (input, _producer) = io::pipe().unwrap();
        let (output, printed) = offered_output(fixture.server_command(&["--file", name]).stdin(input));
        assert!(!printed.contains("FIFO"), "{printed}");
        output
    };
    for name in ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0", "-"] {
        assert_eq!(of_pipe(name), None, "{name}");
    }
    for name in ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"] {
        let file = fs::File::open(fixture.source()).unwrap();
        let (of_file, _) = offered_output(fixture.server_command(&["--file", name]).stdin(file));
        assert_eq!(of_file.as_deref(), Some("des.txt --no-clobber"), "{name}");
    }
    assert_eq!(of_pipe("./-").as_deref(), Some("./- --no-clobber"));
    if let Some(bash) = installed("bash") {
        let (input, _producer) = io::pipe().unwrap();
        let script = format!("exec {FILE_SERVER} -b 127.0.0.1 -f <(exec cat 2> /dev/null) 0");
        let mut command = Command::new(bash);
        let (output, printed) = offered_output(command.args(["-c", &script]).stdin(input));
        assert_eq!(output, None);
        assert!(!printed.contains("FIFO"), "{printed}");
    }
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
