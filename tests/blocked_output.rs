//! Output that goes nowhere: a terminal that is stopped, a pipe that is not read. It holds up no transfer, and the end of
//! a program for a few seconds only.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::fixture::Fixture;
use common::messages::{CONFIRMED, assert_confirmations, is_confirmation, received};
use common::network::{Listener, connect, fetch, half_close, reset};
use common::processes::{
    Running, Server, after, children_of, full_pipe, port_of, run, shell_status, small_pipe, through,
};
use common::terminal::Terminal;
use common::wait::wait_for;
use common::{strace, wait_until};
use half_close::protocol::THANK_YOU;
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::{Pid, Signal, kill_process};

/// Rows and columns.
const USUAL: (u16, u16) = (24, 100);

const CTRL_C: &[u8] = b"\x03";
const CTRL_Q: &[u8] = b"\x11";
const CTRL_S: &[u8] = b"\x13";

/// A server whose standard error has room for a few lines; killed when dropped.
struct UnreadServer {
    process: Child,
    port: u16,
    stderr: BufReader<PipeReader>,
}

impl UnreadServer {
    fn start(fixture: &Fixture, arguments: &[&str]) -> Self {
        let (reader, writer) = small_pipe();
        let mut command = fixture.server_command(arguments);
        let process = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
        let mut stderr = BufReader::new(reader);
        let mut listening = String::new();
        stderr.read_line(&mut listening).unwrap();
        Self { process, port: port_of(&listening), stderr }
    }

    /// Threads and open descriptors.
    fn resources(&self) -> (usize, usize) {
        let count = |what| fs::read_dir(format!("/proc/{}/{what}", self.process.id())).unwrap().count();
        (count("task"), count("fd"))
    }
}

impl Drop for UnreadServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn status_of(process: &mut Child) -> i32 {
    shell_status(wait_for("the end of the program", || process.try_wait().unwrap()))
}

#[test]
fn server_on_a_stopped_terminal_serves_all_clients_and_prints_their_outcomes_later() {
    const CLIENTS: usize = 8;
    let fixture = Fixture::of_size(100_000);
    let command = fixture.server_command(&["--keep-open", "--timeout", "10s"]);
    let Some(mut terminal) = Terminal::start(&command, USUAL) else { return };
    let port = port_of(&terminal.wait_for_line("listening on "));
    let is_announced = |lines: &[String]| lines.last().is_some_and(|line| line.ends_with("> destination.txt"));
    let announced = terminal.wait_for_lines(is_announced).len();
    terminal.type_in(CTRL_S);
    for _ in 0..CLIENTS {
        assert!(fetch(port) == fixture.bytes());
    }
    terminal.type_in(CTRL_Q);
    terminal.wait_for_lines(|lines| lines.iter().filter(|line| is_confirmation(line)).count() == CLIENTS);
    terminal.type_in(CTRL_C);
    let ended = terminal.finish();
    assert_eq!((ended.status, ended.lines.len()), (130, announced + 2 * CLIENTS + 1), "{:#?}", ended.lines);
    let tally = format!("clients: {CLIENTS}, {CLIENTS} confirmed, 0 not confirmed, 0 failed");
    assert_eq!(ended.lines.last(), Some(&tally));
}

#[test]
fn client_on_a_stopped_terminal_stores_the_file_and_confirms_it() {
    const SIZE: usize = 32 * 1024 * 1024;
    let fixture = Fixture::new("");
    let listener = Listener::new();
    let command = fixture.client_command(listener.port(), &["--size", "32MiB"]);
    let Some(mut terminal) = Terminal::start(&command, USUAL) else { return };
    let mut server = listener.accept();
    server.write_all(&vec![b'x'; SIZE / 2]).unwrap();
    terminal.wait_for_line("destination.txt  [==");
    terminal.type_in(CTRL_S);
    server.write_all(&vec![b'x'; SIZE / 2]).unwrap();
    assert_eq!(half_close(&server), THANK_YOU);
    assert_eq!(fs::metadata(fixture.destination()).unwrap().len(), SIZE as u64);
    // Nor does the terminal keep it from its end.
    assert_eq!(terminal.status(), 0);
}

#[test]
fn served_clients_leave_no_threads_and_descriptors_while_stderr_is_not_read() {
    let fixture = Fixture::of_size(1000);
    let server = UnreadServer::start(&fixture, &["--keep-open"]);
    let (threads, descriptors) = server.resources();
    for _ in 0..120 {
        assert_eq!(fetch(server.port), fixture.bytes());
    }
    wait_until("about as many threads and descriptors as before", || {
        let now = server.resources();
        now.0 < threads + 5 && now.1 < descriptors + 5
    });
}

#[test]
fn lines_that_found_no_room_are_counted_and_reported_once_they_are_read() {
    const FAILED: usize = 1500;
    let fixture = Fixture::of_size(1000);
    let mut server = UnreadServer::start(&fixture, &["--keep-open"]);
    let (threads, _) = server.resources();
    for _ in 0..FAILED {
        reset(connect(server.port));
    }
    // Clients are accepted in the order in which they came.
    assert_eq!(fetch(server.port), fixture.bytes());
    wait_until("about as many threads as before", || server.resources().0 < threads + 5);

    let (mut printed, mut dropped) = (0, 0);
    let mut line = String::new();
    while printed + dropped < FAILED {
        line.clear();
        server.stderr.read_line(&mut line).unwrap();
        printed += usize::from(line.starts_with("file-server: 127.0.0.1:"));
        if let Some(count) = line.strip_prefix("... ").and_then(|rest| rest.strip_suffix(" lines were not printed\n")) {
            dropped += count.parse::<usize>().unwrap();
        }
    }
    // The last client's two lines may be among them.
    assert!((FAILED..=FAILED + 2).contains(&(printed + dropped)), "{printed} + {dropped}");
    assert!(printed >= 1000 && dropped > 0, "{printed} + {dropped}");

    assert_eq!(fetch(server.port), fixture.bytes());
    wait_for("the line of a client", || {
        line.clear();
        server.stderr.read_line(&mut line).unwrap();
        line.contains("confirmed").then_some(())
    });
}

#[test]
fn programs_end_by_themselves_though_nothing_that_they_print_is_read() {
    let fixture = Fixture::of_size(1000);
    let (_unread, stdout) = full_pipe();
    let mut server = UnreadServer::start(&fixture, &[]);
    let mut client = fixture.client_command(server.port, &[]).stdout(stdout).spawn().unwrap();
    assert_eq!((status_of(&mut client), status_of(&mut server.process)), (0, 0));
    fixture.assert_replaced();

    let (_unread, stderr) = full_pipe();
    let mut client = fixture.client_command(1, &[]).stderr(stderr).spawn().unwrap();
    assert_eq!(status_of(&mut client), 1);
}

#[test]
fn result_does_not_wait_for_a_standard_error_that_is_stuck() {
    let fixture = Fixture::of_size(1000);
    let port = fixture.port().to_string();
    let (_unread, stderr) = full_pipe();
    let mut server = fixture.server_command(&[]).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    let client = run(&mut fixture.client_command(port.parse().unwrap(), &["--wait", "60s"]));
    let mut result = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut result).unwrap();
    assert_eq!((client.status, result.as_str()), (0, CONFIRMED), "{client:?}");
    assert_eq!(status_of(&mut server), 0);
}

#[test]
fn without_a_thread_for_output_programs_print_what_they_can_and_end_by_themselves() {
    if strace().is_none() {
        return;
    }
    // The first thread is that for signals.
    let no_thread = "--inject=clone,clone3:error=EAGAIN:when=2+";
    let nothing_at_once = "--inject=pwritev2:error=EOPNOTSUPP";
    let without_thread =
        |command: &Command| through(&["strace", "-f", "-o", "/dev/null", no_thread, nothing_at_once], command);
    let fixture = Fixture::of_size(1000);
    let server = Server::start(&mut without_thread(&fixture.server_command(&[])));
    let client = run(&mut without_thread(&fixture.client_command(server.port, &[])));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!((client.stdout(), server.stdout()), (received(1000, "destination.txt"), CONFIRMED.to_owned()));

    let (_unread, stderr) = full_pipe();
    let port = fixture.port();
    let mut tracer = without_thread(&fixture.server_command(&["--keep-open"])).stderr(stderr).spawn().unwrap();
    wait_until("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    kill_process(children_of(Pid::from_child(&tracer))[0], Signal::TERM).unwrap();
    assert_eq!(status_of(&mut tracer), 143);
}

#[test]
fn signal_ends_a_server_that_has_lines_left_to_print() {
    let fixture = Fixture::of_size(1000);
    let mut server = UnreadServer::start(&fixture, &["--keep-open"]);
    for _ in 0..100 {
        assert_eq!(fetch(server.port), fixture.bytes());
    }
    kill_process(Pid::from_child(&server.process), Signal::TERM).unwrap();
    assert_eq!(status_of(&mut server.process), 143);
}

#[test]
fn lines_wait_for_room_in_a_pipe_that_another_program_has_made_non_blocking() {
    let fixture = Fixture::of_size(1000);
    let (mut reader, stdout) = full_pipe();
    rustix::io::ioctl_fionbio(&stdout, true).unwrap();
    let mut command = fixture.server_command(&["--keep-open"]);
    let mut server = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut stderr = BufReader::new(server.stderr.take().unwrap());
    let mut listening = String::new();
    stderr.read_line(&mut listening).unwrap();
    assert_eq!(fetch(port_of(&listening)), fixture.bytes());
    // The result is printed right after it.
    let mut line = String::new();
    while !line.contains("confirmed: ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    let full = fcntl_getpipe_size(&reader).unwrap();
    reader.read_exact(&mut vec![0; full]).unwrap();
    let mut result = String::new();
    BufReader::new(reader).read_line(&mut result).unwrap();
    assert_confirmations(&result, 1);
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(status_of(&mut server), 143);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("could not write"), "{rest}");
}

#[test]
fn result_that_finds_no_space_is_a_warning_unless_the_client_is_quiet() {
    let Ok(full) = fs::File::create("/dev/full") else { return common::report_skipped("there is no /dev/full") };
    for (arguments, warning) in [
        (&[][..], "file-client: warning: could not write to standard output: no space left on device\n"),
        (&["--quiet"], ""),
    ] {
        let fixture = Fixture::of_size(1000);
        let server = fixture.server(&[]);
        let mut command = fixture.client_command(server.port, arguments);
        let client = command.stdout(full.try_clone().unwrap()).output().unwrap();
        assert_eq!((client.status.code(), server.finish().status), (Some(0), 0));
        assert_eq!(String::from_utf8(client.stderr).unwrap(), warning);
        fixture.assert_replaced();
    }
}

#[test]
fn results_and_messages_that_share_a_file_keep_their_order() {
    let fixture = Fixture::of_size(1000);
    let both = fixture.destination_directory().join("output");
    let file = fs::File::create(&both).unwrap();
    let mut command = fixture.server_command(&["--clients", "3"]);
    let mut server = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    let port = wait_for("the address", || {
        let text = fs::read_to_string(&both).unwrap();
        text.ends_with("> destination.txt\n").then(|| port_of(text.lines().next().unwrap()))
    });
    for client in 1..=3 {
        assert_eq!(fetch(port), fixture.bytes());
        wait_until("the result", || {
            fs::read_to_string(&both).unwrap().lines().filter(|line| is_confirmation(line)).count() == client
        });
    }
    assert_eq!(status_of(&mut server), 0);
    assert_in_order(&fs::read_to_string(&both).unwrap());
}

#[test]
fn results_and_messages_that_share_a_pipe_keep_their_order() {
    let fixture = Fixture::of_size(1000);
    let (reader, both) = std::io::pipe().unwrap();
    let mut command = fixture.server_command(&["--clients", "3"]);
    let mut server = command.stdout(both.try_clone().unwrap()).stderr(both).spawn().unwrap();
    drop(command);
    let (mut reader, mut text) = (BufReader::new(reader), String::new());
    reader.read_line(&mut text).unwrap();
    let port = port_of(text.trim_end());
    for _ in 0..3 {
        assert_eq!(fetch(port), fixture.bytes());
        let mut line = String::new();
        while !is_confirmation(line.trim_end()) {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "{text}");
            text.push_str(&line);
        }
    }
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(status_of(&mut server), 0);
    assert_in_order(&text);
}

/// Fails unless each of three clients is reported in two lines that belong together, behind what the server prints first.
fn assert_in_order(text: &str) {
    let lines: Vec<_> = text.lines().skip_while(|line| !line.ends_with("> destination.txt")).skip(1).collect();
    assert_eq!(lines.len(), 7, "{text}");
    for pair in lines[..6].chunks(2) {
        assert!(pair[0].contains(": sent 1000 bytes of des.txt, confirmed: "), "{text}");
        assert!(is_confirmation(pair[1]), "{text}");
    }
    assert!(lines[6].starts_with("clients: 3, 3 confirmed"), "{text}");
}

#[test]
fn log_that_may_not_grow_any_more_ends_no_server() {
    const CLIENTS: usize = 30;
    let fixture = Fixture::of_size(1000);
    let command = fixture.server_command(&["--clients", &CLIENTS.to_string()]);
    let server = Running::start(&mut after("ulimit -f 1 && exec 2> log", &command));
    let log = fixture.source_directory().join("log");
    let mut port = None;
    wait_until("the server listens", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        port = log.split_once('\n').map(|(listening, _)| port_of(listening));
        port.is_some()
    });
    for _ in 0..CLIENTS {
        fetch(port.unwrap());
    }
    let server = server.finish();
    assert_eq!(server.status, 0);
    assert_confirmations(&server.stdout(), CLIENTS);
    assert!(fs::metadata(log).unwrap().len() <= 1024);
}
