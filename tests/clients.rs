//! Many clients, bad clients, clients that may not fetch; and pipes in place of files.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{
    DEADLINE, Finished, Running, Server, Signal, assert_same, content, file_client, file_server, folder, has_ipv6,
    installed, is_root, names_in, run,
};
use procfs::sys::kernel::Version;

/// More than the kernel holds between two programs, so that one that does not read holds up the other.
const LARGE: usize = 32 * 1024 * 1024;

const THANK_YOU: &[u8] = b"Thank you\0";

fn offer(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("des.txt"), bytes).unwrap();
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Takes the whole file.
fn take(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Takes the whole file and thanks for it.
fn fetch(port: u16) -> Vec<u8> {
    let mut stream = connect(port);
    let bytes = take(&stream);
    stream.write_all(THANK_YOU).unwrap();
    bytes
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn lines_of(finished: &Finished, containing: &str) -> Vec<String> {
    finished.stderr().lines().filter(|line| line.contains(containing)).map(str::to_owned).collect()
}

/// The signal is sent once it would be caught: the server listens.
fn interrupt(server: Server, signal: Signal) -> Finished {
    server.running.signal(signal);
    server.finish()
}

#[test]
fn clients_are_counted_and_each_has_a_line() {
    let there = folder();
    offer(there.path(), &content(1000, 1));
    let server = Server::start(there.path(), &["--clients", "3"]);
    let port = server.port;
    let mut streams: Vec<_> = (0..3).map(|_| connect(port)).collect();
    let names: Vec<_> = streams.iter().map(|stream| stream.local_addr().unwrap().to_string()).collect();
    for stream in &mut streams {
        assert_eq!(take(stream), content(1000, 1));
        stream.write_all(THANK_YOU).unwrap();
    }
    let finished = server.finish();
    assert_eq!(finished.status, 0, "{finished:?}");
    assert_eq!(finished.stdout(), "Message from client: Thank you\n".repeat(3));
    for name in names {
        let line = lines_of(&finished, &name).concat();
        assert!(line.starts_with(&format!("{name}: sent 1000 bytes of des.txt, confirmed: 1000 B in ")), "{line}");
    }
    assert_eq!(finished.stderr().lines().last(), Some("clients: 3, 3 confirmed, 0 not confirmed, 0 failed"));
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn the_status_is_that_of_the_worst_client() {
    let there = folder();
    offer(there.path(), &vec![b'x'; LARGE]);
    let leave = |stream: TcpStream| drop(take(&stream));
    for (how, status, tally) in [
        (&[leave as fn(_)][..], 3, "clients: 2, 1 confirmed, 1 not confirmed, 0 failed"),
        (&[leave, reset], 1, "clients: 3, 1 confirmed, 1 not confirmed, 1 failed"),
    ] {
        let clients = (how.len() + 1).to_string();
        let mut server = Server::start(there.path(), &["--clients", &clients]);
        for misbehave in how {
            misbehave(connect(server.port));
            server.running.wait_for_line("file-server: 127.0.0.1:");
        }
        assert_eq!(fetch(server.port).len(), LARGE);
        let finished = server.finish();
        assert_eq!(finished.status, status, "{}", finished.stderr());
        assert_eq!(finished.stderr().lines().last(), Some(tally));
        assert_eq!(finished.errors().len(), how.len());
    }
}

#[test]
fn an_open_server_serves_until_it_is_interrupted() {
    let there = folder();
    offer(there.path(), b"short");
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut server = Server::start(there.path(), &["--keep-open"]);
        for _ in 0..3 {
            assert_eq!(fetch(server.port), b"short");
            server.running.wait_for_line("127.0.0.1:");
        }
        let finished = interrupt(server, signal);
        assert_eq!(finished.status, status);
        assert_eq!(finished.stderr().lines().last(), Some("clients: 3, 3 confirmed, 0 not confirmed, 0 failed"));
    }
}

#[test]
fn bad_clients_disturb_nobody() {
    let there = folder();
    let bytes = vec![b'x'; LARGE];
    offer(there.path(), &bytes);
    let mut server = Server::start(there.path(), &["--keep-open"]);
    let sits_there = connect(server.port);
    let reads_a_little = connect(server.port);
    (&reads_a_little).read_exact(&mut [0; 100]).unwrap();
    let never_replies = connect(server.port);
    assert_eq!(take(&never_replies).len(), LARGE);
    reset(connect(server.port));
    drop(connect(server.port));
    for _ in 0..2 {
        server.running.wait_for_line("file-server: 127.0.0.1:");
    }
    let shuts_its_half = connect(server.port);
    shuts_its_half.shutdown(Shutdown::Write).unwrap();
    for begun in [&sits_there, &shuts_its_half] {
        assert_eq!(begun.peek(&mut [0]).unwrap(), 1);
    }

    let here: Vec<_> = (0..3).map(|_| folder()).collect();
    let start = |here: &tempfile::TempDir| Running::start(&mut file_client(here.path(), server.port, &["--no-sync"]));
    let good: Vec<_> = here.iter().map(start).collect();
    for (client, here) in good.into_iter().zip(&here) {
        assert_eq!(client.finish().status, 0);
        assert!(fs::read(here.path().join("destination.txt")).unwrap() == bytes);
        server.running.wait_for_line("127.0.0.1:");
    }
    let finished = interrupt(server, Signal::INT);
    assert_eq!(finished.status, 130);
    let tally = finished.stderr().lines().last().unwrap().to_owned();
    assert!(tally.starts_with("clients: 9, 3 confirmed, 0 not confirmed, 2 failed, 4 interrupted"), "{tally}");
    // The ones that were still there learn that they did not get all of it.
    let rest = (&reads_a_little).read_to_end(&mut Vec::new());
    assert_eq!(rest.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A server whose standard error has room for some lines only, and which nobody reads once its port is known.
fn unread_server(folder: &Path, arguments: &[&str]) -> (Child, u16, impl Sized) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let server = file_server(folder, arguments).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let mut unread = BufReader::new(reader);
    let mut listening = String::new();
    unread.read_line(&mut listening).unwrap();
    let port = listening.trim_end().rsplit(':').next().unwrap().parse().unwrap();
    (server, port, unread)
}

#[test]
fn clients_are_served_though_nobody_reads_what_is_said_of_them() {
    let there = folder();
    offer(there.path(), b"a file");
    let (mut server, port, _unread) = unread_server(there.path(), &["--keep-open"]);
    let fetched: Vec<_> = (0..200).map(|_| fetch(port)).collect();
    assert!(fetched.iter().all(|bytes| bytes == b"a file"));
    // Nor does it keep the program from its end.
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(143));
}

#[test]
fn a_client_that_only_sits_there_is_given_up() {
    let there = folder();
    for (size, status, reason) in [
        (10, 3, "sent 10 bytes of des.txt, not confirmed: no progress for 2s"),
        (LARGE, 1, "bytes of des.txt: no progress for 2s"),
    ] {
        offer(there.path(), &vec![b'x'; size]);
        let server = Server::start(there.path(), &["--timeout", "2s"]);
        let _sits_there = connect(server.port);
        let finished = server.finish();
        assert_eq!((finished.status, finished.errors().len()), (status, 1), "{finished:?}");
        assert!(finished.errors()[0].ends_with(reason), "{finished:?}");

        let mut server = Server::start(there.path(), &["--timeout", "2s", "--keep-open"]);
        let _sits_there = connect(server.port);
        assert_eq!(fetch(server.port).len(), size);
        server.running.wait_for_line("file-server: 127.0.0.1:");
        assert_eq!(fetch(server.port).len(), size);
    }
}

#[test]
fn a_thousand_clients_at_once_are_served_whole_in_little_memory() {
    const CLIENTS: usize = 1000;
    const SIZE: usize = 1024 * 1024;
    const MEMORY: u64 = 160 * 1024;
    raise_open_files_limit();
    let there = folder();
    let bytes = content(SIZE, 5);
    offer(there.path(), &bytes);
    let mut command = Command::new("sh");
    let script = "ulimit -Sn 100; exec \"$0\" \"$@\"";
    let server = env!("CARGO_BIN_EXE_file-server");
    command.args(["-c", script, server, "--bind", "127.0.0.1", "0", "--clients", &CLIENTS.to_string(), "--timeout=0s"]);
    let server = Server::spawn(command.stdin(Stdio::null()).current_dir(there.path()));
    let (port, pid) = (server.port, server.running.pid().as_raw_nonzero().get());

    let streams: Vec<_> = (0..CLIENTS).map(|_| connect(port)).collect();
    thread::scope(|scope| {
        for share in streams.chunks(CLIENTS / 2) {
            let bytes = &bytes;
            scope.spawn(move || share.iter().for_each(|stream| assert!(take(stream) == *bytes)));
        }
    });
    let peak = peak_memory(pid);
    assert!(peak < MEMORY, "{peak} KiB");
    for mut stream in streams {
        stream.write_all(THANK_YOU).unwrap();
    }
    let finished = server.finish();
    assert_eq!(finished.status, 0, "{:?}", finished.errors());
    assert_eq!(finished.stderr().lines().last(), Some("clients: 1000, 1000 confirmed, 0 not confirmed, 0 failed"));
    assert_eq!(finished.stdout().lines().count(), CLIENTS);
}

/// The most that a process ever had in memory, in KiB (`VmHWM`, proc(5)).
fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Starts a server that may have less of something than all clients need at once.
fn serves_all_though_limited(limited: &mut Command, clients: usize) {
    let there = folder();
    let bytes = content(100_000, 6);
    offer(there.path(), &bytes);
    let standard_input = File::open(there.path().join("des.txt")).unwrap();
    limited.args(["--bind", "127.0.0.1", "0", "--file", "/proc/self/fd/0", "--clients", &clients.to_string()]);
    let server = Server::spawn(limited.stdin(standard_input));
    let streams: Vec<_> = (0..clients).map(|_| connect(server.port)).collect();
    for mut stream in streams {
        assert_same(&take(&stream), &bytes, "what a client got");
        stream.write_all(THANK_YOU).unwrap();
    }
    let finished = server.finish();
    assert_eq!(finished.status, 0, "{finished:?}");
    assert_eq!(finished.errors(), [""; 0]);
}

#[test]
fn too_few_open_files_are_waited_for() {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 20; ulimit -Hn 20; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_file-server")]);
    serves_all_though_limited(&mut limited, 60);
}

#[test]
fn too_few_threads_are_waited_for() {
    if !is_root() || installed("setpriv").is_none() {
        return;
    }
    // A copy that anyone can start, and a user that nobody else is, so that no other threads count.
    let public = folder();
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = public.path().join("file-server");
    // By another process: what this one has open for writing, one that another test starts could have open when the
    // copy is to be executed (ETXTBSY, execve(2)).
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_file-server")).arg(&program).status();
    assert!(copied.unwrap().success());
    let user = (100_000 + std::process::id()).to_string();
    let mut limited = Command::new("setpriv");
    limited.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c"]);
    limited.arg("ulimit -u 8 2> /dev/null || ulimit -p 8; exec \"$0\" \"$@\"").arg(&program).current_dir("/");
    serves_all_though_limited(&mut limited, 40);
}

/// `file-server` without the usual `--bind 127.0.0.1`.
fn server_bound_to(bind: &[&str], folder: &Path, arguments: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_file-server"));
    Server::spawn(command.arg("0").args(bind).args(arguments).current_dir(folder).stdin(Stdio::null()))
}

fn fetch_from(address: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    stream.write_all(THANK_YOU)?;
    Ok(bytes)
}

#[test]
fn only_allowed_addresses_may_fetch() {
    let there = folder();
    offer(there.path(), b"for friends");
    let everywhere: &[&str] = &[];
    for (bind, allow, friend, stranger) in [
        (everywhere, &["127.0.0.1"][..], "127.0.0.1", "::1"),
        (everywhere, &["::1"], "::1", "127.0.0.1"),
        (everywhere, &["127.0.0.0/8"], "127.0.0.1", "::1"),
        (everywhere, &["::ffff:127.0.0.1"], "127.0.0.1", "::1"),
        (everywhere, &["::ffff:127.0.0.0/104"], "127.0.0.1", "::1"),
        (everywhere, &["192.0.2.1", "2001:db8::/32", "::/64"], "::1", "127.0.0.1"),
        (&["--bind", "0.0.0.0"], &["127.0.0.1/32", "10.0.0.0/8"], "127.0.0.1", ""),
        (&["--bind", "::1"], &["::/0"], "::1", ""),
    ] {
        if [friend, stranger, bind.last().unwrap_or(&"")].contains(&"::1") && !has_ipv6() {
            continue;
        }
        let arguments: Vec<_> = allow.iter().flat_map(|network| ["--allow", network]).collect();
        let server = server_bound_to(bind, there.path(), &arguments);
        if !stranger.is_empty() {
            let refused = fetch_from(stranger, server.port);
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset, "{stranger} by {allow:?}");
        }
        assert_eq!(fetch_from(friend, server.port).unwrap(), b"for friends", "{friend} by {allow:?}");
        let finished = server.finish();
        assert_eq!(finished.status, 0, "{finished:?}");
        let refusals = lines_of(&finished, "refused, not in --allow");
        assert_eq!(refusals.len(), usize::from(!stranger.is_empty()), "{finished:?}");
        let address = if stranger.contains(':') { format!("[{stranger}]:") } else { format!("{stranger}:") };
        assert!(refusals.iter().all(|line| line.starts_with(&address)), "{refusals:?}");
    }
}

/// Nobody reads what is said of them.
#[test]
fn strangers_without_number_keep_nobody_waiting() {
    let there = folder();
    offer(there.path(), b"for friends");
    let (mut server, port, _unread) = unread_server(there.path(), &["--keep-open", "--allow", "127.0.0.1"]);
    for _ in 0..500 {
        let stranger = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        stranger.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        // The server may have reset it already.
        let _ = stranger.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into());
    }
    assert_eq!(fetch(port), b"for friends");
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_refused_client_stores_nothing() {
    let (there, here) = (folder(), folder());
    offer(there.path(), b"for friends");
    fs::write(here.path().join("destination.txt"), b"old").unwrap();
    let server = Server::start(there.path(), &["--allow", "192.0.2.1"]);
    let client = run(&mut file_client(here.path(), server.port, &[]));
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"old");
    assert_eq!(names_in(here.path()), ["destination.txt"]);
}

#[test]
fn a_server_listens_where_it_is_told_to() {
    let there = folder();
    offer(there.path(), b"here");
    for (bind, reached, not) in
        [("127.0.0.1", "127.0.0.1", "::1"), ("127.0.0.2", "127.0.0.2", "127.0.0.1"), ("::1", "::1", "127.0.0.1")]
    {
        if [bind, not].contains(&"::1") && !has_ipv6() {
            continue;
        }
        let server = server_bound_to(&["--bind", bind], there.path(), &[]);
        let refused = fetch_from(not, server.port).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(fetch_from(reached, server.port).unwrap(), b"here");
        let finished = server.finish();
        let port = SocketAddr::new(bind.parse().unwrap(), 0).to_string();
        assert!(finished.stderr().starts_with(&format!("listening on {}", port.trim_end_matches('0'))), "{finished:?}");
    }
}

#[test]
fn tar_goes_from_pipe_to_pipe() {
    if installed("tar").is_none() {
        return;
    }
    let (there, here) = (folder(), folder());
    fs::create_dir_all(there.path().join("dir/sub")).unwrap();
    fs::write(there.path().join("dir/a"), content(1_000_000, 7)).unwrap();
    fs::write(there.path().join("dir/sub/b"), b"b").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "tar c dir | \"$0\" -b 127.0.0.1 -f - 0", env!("CARGO_BIN_EXE_file-server")]);
    let server = Server::spawn(command.current_dir(there.path()));
    let mut command = Command::new("sh");
    let script = "\"$0\" -o - 127.0.0.1 \"$1\" | tar x";
    command.args(["-c", script, env!("CARGO_BIN_EXE_file-client"), &server.port.to_string()]);
    let client = run(command.current_dir(here.path()));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_eq!(client.stdout(), "");
    assert!(client.stderr().ends_with(" bytes in standard output\n"), "{client:?}");
    assert_same(&fs::read(here.path().join("dir/a")).unwrap(), &content(1_000_000, 7), "dir/a");
    assert_eq!(fs::read(here.path().join("dir/sub/b")).unwrap(), b"b");
}

#[test]
fn what_a_slow_producer_wrote_arrives_in_chunks_as_it_comes() {
    let there = folder();
    let (input, mut producer) = std::io::pipe().unwrap();
    let server = Server::spawn(file_server(there.path(), &["--file", "-"]).stdin(input));
    let client = connect(server.port);
    let bytes = content(75, 8);
    let mut arrived = [0; 30];
    producer.write_all(&bytes[..45]).unwrap();
    (&client).read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, bytes[..30]);
    producer.write_all(&bytes[45..60]).unwrap();
    (&client).read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, bytes[30..60]);
    producer.write_all(&bytes[60..]).unwrap();
    drop(producer);
    assert_eq!(take(&client), bytes[60..]);
    (&client).write_all(THANK_YOU).unwrap();
    assert_eq!(server.finish().status, 0);
}

#[test]
fn a_pipe_that_is_closed_ends_without_a_panic() {
    let (there, here) = (folder(), folder());
    offer(there.path(), &vec![b'x'; LARGE]);
    let server = Server::start(there.path(), &[]);
    let (output, closed) = std::io::pipe().unwrap();
    drop(output);
    let mut client = file_client(here.path(), server.port, &["--output", "-"]);
    let mut client = client.stdout(closed).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    client.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(1));
    assert_eq!(said, "file-client: could not write standard output: broken pipe\n");
    let finished = server.finish();
    assert_eq!((finished.status, finished.errors().len()), (1, 1), "{finished:?}");
}

#[test]
fn results_that_nobody_reads_and_standard_error_that_is_gone_change_no_status() {
    let (there, here) = (folder(), folder());
    offer(there.path(), b"bytes");
    let server = Server::start(there.path(), &[]);
    let (gone, closed) = std::io::pipe().unwrap();
    drop(gone);
    let mut client = file_client(here.path(), server.port, &[]);
    let status = client.stdout(closed.try_clone().unwrap()).stderr(closed).status().unwrap();
    assert_eq!((status.code(), server.finish().status), (Some(0), 0));
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"bytes");
}

#[test]
fn a_signal_that_comes_when_the_file_is_stored_comes_too_late() {
    const FULL: usize = 4096;
    let (there, here) = (folder(), folder());
    offer(there.path(), b"bytes");
    let server = Server::start(there.path(), &[]);
    // Nobody reads the result, so the client can't end by itself.
    let (_reader, mut full) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&full, FULL).unwrap();
    full.write_all(&[0; FULL]).unwrap();
    let mut client = file_client(here.path(), server.port, &[]).stdout(full).spawn().unwrap();
    assert_eq!(server.finish().status, 0);
    rustix::process::kill_process(rustix::process::Pid::from_child(&client), Signal::TERM).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"bytes");
}

/// What a client gets of a file that is none.
fn fetched(file: &str, folder: &Path) -> Vec<u8> {
    let server = Server::start(folder, &["--file", file]);
    let here = common::folder();
    let client = run(&mut file_client(here.path(), server.port, &[]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fs::read(here.path().join("destination.txt")).unwrap()
}

#[test]
fn a_fifo_a_device_and_files_without_a_size_can_be_sent() {
    let there = folder();
    let fifo = there.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let bytes = content(300_000, 10);
    let producer = thread::spawn({
        let (fifo, bytes) = (fifo.clone(), bytes.clone());
        move || fs::write(fifo, bytes)
    });
    assert_same(&fetched("fifo", there.path()), &bytes, "the FIFO");
    producer.join().unwrap().unwrap();

    assert_eq!(fetched("/dev/null", there.path()), b"");
    let version = "/proc/version";
    assert_eq!(fs::metadata(version).unwrap().len(), 0);
    assert_eq!(fetched(version, there.path()), fs::read(version).unwrap());
    // Its figures change, its lines do not.
    let names =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().filter(|line| line.starts_with("processor")).count();
    assert_eq!(names(&fetched("/proc/cpuinfo", there.path())), names(&fs::read("/proc/cpuinfo").unwrap()));
    fs::write(there.path().join("empty"), b"").unwrap();
    assert_eq!(fetched("empty", there.path()), b"");
}

#[test]
fn a_stream_can_be_read_by_one_client_only() {
    let there = folder();
    for (arguments, error) in [
        (["--file", "/dev/null", "--keep-open"], "/dev/null is no regular file, so it can be read only once"),
        (["--file", "/dev/null", "--clients=2"], "/dev/null is no regular file, so it can be read only once"),
    ] {
        let server = run(&mut file_server(there.path(), &arguments));
        assert_eq!((server.status, server.stderr()), (1, format!("file-server: {error}\n")));
    }
}

#[test]
fn each_client_of_a_changing_file_gets_one_version_or_a_reset() {
    let there = folder();
    let versions: Vec<_> = (0..2).map(|version| vec![b'a' + version; LARGE]).collect();
    offer(there.path(), &versions[0]);
    let mut server = Server::start(there.path(), &["--keep-open"]);

    // Held in the middle of the file while it changes.
    let mut held = connect(server.port);
    held.read_exact(&mut [0; 1000]).unwrap();
    offer(there.path(), &versions[1]);
    let torn = held.read_to_end(&mut Vec::new());
    assert_eq!(torn.unwrap_err().kind(), ErrorKind::ConnectionReset);
    server.running.wait_for_line("file-server: 127.0.0.1:");
    assert!(fetch(server.port) == versions[1]);

    // Held and fetched while it is changed over and over.
    let changing = there.path().join("des.txt");
    // Before Linux 6.13 two changes within one tick of the clock, at most 10 ms, are told apart by their sizes only.
    let every_change_has_its_time = Version::current().unwrap() >= Version::new(6, 13, 0);
    let pause = Duration::from_millis(if every_change_has_its_time { 0 } else { 20 });
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let changer = thread::spawn(move || {
        let versions = versions;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            for version in &versions {
                fs::write(&changing, &version[..1_000_000]).unwrap();
                thread::sleep(pause);
            }
        }
    });
    for _ in 0..300 {
        let mut bytes = Vec::new();
        if connect(server.port).read_to_end(&mut bytes).is_ok() {
            // Every version begins with nothing: the file is truncated first.
            assert!([0, 1_000_000].contains(&bytes.len()), "a part of a version: {} bytes", bytes.len());
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two versions in one");
        }
    }
    drop(stop);
    changer.join().unwrap();
}
