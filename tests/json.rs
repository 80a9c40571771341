//! `--json`: every line is an object for another parser, on every way out of the programs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::kill_process;

use common::fixture::KEY;
use common::network::{Listener, connect, fetch, half_close, read_all, reset, wait_for_first_byte, wait_for_listener};
use common::processes::{children_of, through};
use common::terminal::Terminal;
use common::{
    Finished, Fixture, Outcome, Running, Signal, directory, file_client, installed, is_root, names_in, run, sha256,
    wait_until,
};

/// What Python makes of a Python expression, in which `events` are the objects in the lines of what was printed, without
/// notes; `every` has those too. `None` where Python is not installed.
fn query(printed: &[u8], expression: &str) -> Option<String> {
    const SCRIPT: &str = "\
import json, sys
text = sys.stdin.buffer.read().decode()
assert text == '' or text.endswith('\\n'), text
every = [json.loads(line) for line in text.splitlines()]
assert all(type(event) is dict for event in every), every
events = [event for event in every if event['event'] != 'note']
print(eval(sys.argv[1]))";
    let mut python = Command::new(installed("python3")?);
    let python = python.args(["-c", SCRIPT, expression]).stdin(Stdio::piped());
    let mut python = python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(printed).unwrap();
    let answer = python.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert!(answer.status.success(), "{}\n{expression} of {}", text(&answer.stderr), text(printed));
    Some(text(&answer.stdout))
}

/// Fails unless the events are those that the Python expression says. What it leaves open is `ANY`.
#[track_caller]
fn assert_events(printed: &[u8], expected: &str) {
    let any = "type('Any', (), {'__eq__': lambda self, other: True, '__repr__': lambda self: 'ANY'})()";
    let expression = format!("(lambda ANY: 'same' if events == {expected} else events)({any})");
    if let Some(answer) = query(printed, &expression) {
        assert_eq!(answer, "same", "expected {expected}");
    }
}

/// Fails unless the program printed on standard output only, and last the one end, with its exit status.
#[track_caller]
fn assert_ends(finished: &Finished, status: i32) {
    assert_eq!(finished.status, status, "{finished:?}");
    assert_eq!(finished.stderr(), "", "{finished:?}");
    let ends = |line: &str| line.starts_with(r#"{"event":"end","status":"#);
    let printed = finished.stdout();
    let last = printed.lines().last().unwrap_or_default();
    assert!(ends(last) && last.trim_end_matches('}').contains(&format!(r#""status":{status}"#)), "{finished:?}");
    assert_eq!(printed.lines().filter(|line| ends(line)).count(), 1, "{finished:?}");
}

fn server(fixture: &Fixture, arguments: &[&str]) -> Running {
    let server = Running::start(&mut fixture.server_command(&[&["--json"], arguments].concat()));
    wait_for_listener(fixture.port());
    server
}

fn transfer(fixture: &Fixture, server_arguments: &[&str], client_arguments: &[&str]) -> Outcome {
    let server = server(fixture, server_arguments);
    let client = run(&mut fixture.client_command(fixture.port(), &[&["--json"], client_arguments].concat()));
    Outcome { client, server: server.finish() }
}

#[test]
fn file_that_is_stored_is_told_in_the_documented_fields() {
    let fixture = Fixture::of_size(2116);
    let outcome = transfer(&fixture, &[], &[]);
    outcome.assert_statuses(0, 0);
    fixture.assert_replaced();
    assert_ends(&outcome.client, 0);
    assert_ends(&outcome.server, 0);
    let stored = "{'event': 'stored', 'path': 'destination.txt', 'bytes': 2116, 'seconds': ANY, 'durable': True, \
                  'told': True, 'replaced': False}";
    assert_events(&outcome.client.stdout, &format!("[{stored}, {{'event': 'end', 'status': 0}}]"));
    let port = fixture.port();
    let command = format!("['file-client', '127.0.0.1', '{port}', '--size', '2116']");
    let listening = format!(
        "{{'event': 'listening', 'address': '127.0.0.1', 'port': {port}, 'size': 2116, 'sha256': None, 'key': None, \
         'command': {command}}}"
    );
    let client = "{'event': 'client', 'peer': ANY, 'outcome': 'confirmed', 'bytes': 2116, 'seconds': ANY, \
                  'reply': 'Thank you', 'message': None}";
    let end = "{'event': 'end', 'status': 0, 'confirmed': 1, 'unconfirmed': 0, 'failed': 0}";
    assert_events(&outcome.server.stdout, &format!("[{listening}, {client}, {end}]"));
    let types = "[type(events[1]['seconds']) is float, events[1]['peer'].startswith('127.0.0.1:')]";
    if let Some(answer) = query(&outcome.server.stdout, types) {
        assert_eq!(answer, "[True, True]");
    }
}

#[test]
fn file_that_replaces_another_without_being_synced_says_so() {
    let fixture = Fixture::of_size(100).with_old();
    let outcome = transfer(&fixture, &["--sha256"], &["--no-sync", "--sha256", &sha256(Fixture::of_size(100).bytes())]);
    outcome.assert_statuses(0, 0);
    let stored = "[(e['durable'], e['told'], e['replaced']) for e in events if e['event'] == 'stored']";
    if let Some(answer) = query(&outcome.client.stdout, stored) {
        assert_eq!(answer, "[(False, True, True)]");
        let digest = query(&outcome.server.stdout, "events[0]['sha256'], events[0]['command'][-1]").unwrap();
        assert_eq!(digest, format!("('{0}', '{0}')", sha256(fixture.bytes())));
    }
}

#[test]
fn command_of_the_other_side_is_a_list_that_can_be_run_as_it_is() {
    let names = ["two words", "a'b", "-rf", "-", "caf\u{e9}"];
    let Some(python) = installed("python3") else { return };
    for name in names {
        let fixture = Fixture::of_size(1000);
        fs::copy(fixture.source(), fixture.source().with_file_name(name)).unwrap();
        let mut server = fixture.server_command(&["--json", "--file", &format!("./{name}"), "--sha256"]);
        let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap());
        let mut listening = String::new();
        lines.read_line(&mut listening).unwrap();

        let here = directory();
        let script =
            "import json, os, sys; command = json.loads(sys.argv[1])['command']; os.execv(sys.argv[2], command)";
        let client = Command::new(&python)
            .args(["-c", script, &listening, common::FILE_CLIENT])
            .current_dir(here.path())
            .status();
        assert!(client.unwrap().success(), "{listening}");
        assert_eq!(names_in(here.path()), [name]);
        assert!(server.wait().unwrap().success());
    }
}

#[test]
fn key_that_was_made_is_told_and_works() {
    let fixture = Fixture::of_size(1000);
    let mut server = fixture.server_command(&["--json", "--encrypt", "--quiet"]);
    let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap());
    let mut listening = String::new();
    lines.read_line(&mut listening).unwrap();
    let key = listening.split_once(r#""key":""#).unwrap().1.split('"').next().unwrap();
    assert_eq!(key.len(), KEY.len(), "{listening}");
    assert!(listening.contains(r#""command":["file-client","--key-file","-","127.0.0.1","#), "{listening}");
    let client = run(fixture.client_command(fixture.port(), &["--json"]).env("HALF_CLOSE_KEY", key));
    assert_ends(&client, 0);
    assert!(server.wait().unwrap().success());
    fixture.assert_replaced();
}

#[test]
fn file_on_standard_output_leaves_the_events_on_standard_error() {
    let fixture = Fixture::of_size(100_000);
    let outcome = transfer(&fixture, &[], &["--output", "-"]);
    outcome.assert_statuses(0, 0);
    assert_eq!(outcome.client.stdout, fixture.bytes());
    let end = "{'event': 'end', 'status': 0}";
    let stored = "{'event': 'stored', 'path': '-', 'bytes': 100000, 'seconds': ANY, 'durable': ANY, 'told': True, \
                  'replaced': False}";
    assert_events(&outcome.client.stderr, &format!("[{stored}, {end}]"));

    let fixture = Fixture::of_size(100_000);
    let outcome = transfer(&fixture, &["--", "cat", "des.txt"], &["--", "cat"]);
    outcome.assert_statuses(0, 0);
    assert_eq!(outcome.client.stdout, fixture.bytes());
    assert_events(&outcome.client.stderr, &format!("[{}, {end}]", stored.replace("'-'", "None")));
}

#[test]
fn path_that_is_not_utf_8_is_there_in_hexadecimal_too() {
    let fixture = Fixture::of_size(10);
    let name = OsStr::from_bytes(b"caf\xe9\n\"");
    let server = server(&fixture, &[]);
    let client = run(fixture.client_command(fixture.port(), &["--json", "--output"]).arg(name));
    assert_ends(&client, 0);
    assert_eq!(server.finish().status, 0);
    assert!(fixture.destination().with_file_name(name).exists());
    if let Some(answer) = query(&client.stdout, "(events[0]['path'], bytes.fromhex(events[0]['path_hex']))") {
        assert_eq!(answer, "('caf\u{fffd}\\n\"', b'caf\\xe9\\n\"')");
    }
}

#[test]
fn clients_that_fail_or_do_not_confirm_are_told_with_the_reason() {
    let fixture = Fixture::sparse(32 * 1024 * 1024);
    let server = server(&fixture, &["--clients", "3"]);
    reset(connect(fixture.port()));
    let connection = connect(fixture.port());
    read_all(&connection);
    (&connection).write_all(b"no \"thanks\"\n").unwrap();
    drop(connection);
    assert_eq!(fetch(fixture.port()).len(), 32 * 1024 * 1024);
    let server = server.finish();
    assert_ends(&server, 1);
    let outcomes =
        "sorted((e['outcome'], e['reply'], type(e['message']) is str) for e in events if e['event'] == 'client')";
    if let Some(answer) = query(&server.stdout, outcomes) {
        let unconfirmed = r#"('unconfirmed', 'no "thanks"', True)"#;
        let expected = format!("[('confirmed', 'Thank you', False), ('failed', None, True), {unconfirmed}]");
        assert_eq!(answer, expected);
        let end = query(&server.stdout, "events[-1]").unwrap();
        assert_eq!(end, "{'event': 'end', 'status': 1, 'confirmed': 1, 'unconfirmed': 1, 'failed': 1}");
    }
}

#[test]
fn client_that_is_refused_or_reset_prints_an_error_and_the_end() {
    let fixture = Fixture::of_size(10);
    let refused = run(&mut fixture.client_command(fixture.port(), &["--json"]));
    let nowhere = run(&mut fixture.client_command(1, &["--json", "--output", "missing/file"]));
    let listener = Listener::new();
    let client = Running::start(&mut fixture.client_command(listener.port(), &["--json", "--size", "10"]));
    reset(listener.accept());
    for client in [refused, nowhere, client.finish()] {
        assert_ends(&client, 1);
        assert_events(&client.stdout, "[{'event': 'error', 'message': ANY}, {'event': 'end', 'status': 1}]");
    }
}

#[test]
fn server_that_cannot_begin_prints_an_error_and_the_end() {
    let fixture = Fixture::of_size(10);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let program =
        |arguments: &[&str]| run(&mut common::program(common::FILE_SERVER, fixture.source_directory(), arguments));
    let end = |status| format!("{{'event': 'end', 'status': {status}, 'confirmed': 0, 'unconfirmed': 0, 'failed': 0}}");
    for (status, arguments) in [
        (1, &["--json", "--bind", "127.0.0.1", &port][..]),
        (1, &["--json", "--file", "missing", "0"]),
        (1, &["--json", "0", "--", "no-such-program"]),
        (2, &["--json", "--no-such-option", "0"]),
        (2, &["0", "--clients", "0", "--json"]),
        (2, &["--json"]),
    ] {
        let server = program(arguments);
        assert_ends(&server, status);
        let expected = format!("[{{'event': 'error', 'message': ANY}}, {}]", end(status));
        assert_events(&server.stdout, &expected);
    }
}

#[test]
fn bad_arguments_of_a_client_are_an_error_and_the_end_and_never_in_the_way_of_a_file() {
    let here = directory();
    let client = |arguments: &[&str]| run(&mut common::program(common::FILE_CLIENT, here.path(), arguments));
    let expected = "[{'event': 'error', 'message': ANY}, {'event': 'end', 'status': 2}]";
    for arguments in [&["--json"][..], &["--json", "host", "port"], &["host", "9190", "--nothing", "--json"]] {
        let client = client(arguments);
        assert_ends(&client, 2);
        assert_events(&client.stdout, expected);
    }
    for arguments in [
        &["--json", "-o", "-", "host"][..],
        &["--json", "--output=-", "host"],
        &["--json", "-qo", "-", "host"],
        &["--json", "-qo-", "host"],
        &["--json", "-o", "/dev/stdout", "host"],
        &["--json", "-qo=/dev/fd/1", "host"],
        &["--json", "--output=/proc/self/fd/1", "host"],
        &["--json", "--", "cat"],
    ] {
        let client = client(arguments);
        assert_eq!((client.status, client.stdout()), (2, String::new()), "{client:?}");
        assert_events(&client.stderr, expected);
    }
    // What belongs to a command is not an argument of the program.
    let client = client(&["--", "cat", "--json"]);
    assert_eq!((client.status, client.stdout()), (2, String::new()), "{client:?}");
    assert!(client.stderr().starts_with("file-client: "), "{client:?}");
}

#[test]
fn interrupted_programs_print_an_error_and_the_end() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let fixture = Fixture::of_size(10);
        let mut alone = server(&fixture, &[]);
        alone.wait_for_result(r#"{"event":"listening","#);
        let alone = alone.interrupt(signal);
        assert_ends(&alone, status);
        assert_events(
            &alone.stdout,
            &format!(
                "[ANY, {{'event': 'error', 'message': ANY}}, {{'event': 'end', 'status': {status}, 'confirmed': 0, \
                 'unconfirmed': 0, 'failed': 0}}]"
            ),
        );

        let mut several = server(&fixture, &["--keep-open"]);
        assert_eq!(fetch(fixture.port()), fixture.bytes());
        several.wait_for_result(r#"{"event":"client","#);
        let several = several.interrupt(signal);
        assert_ends(&several, status);
        assert_events(
            &several.stdout,
            &format!(
                "[ANY, ANY, {{'event': 'end', 'status': {status}, 'confirmed': 1, 'unconfirmed': 0, 'failed': 0}}]"
            ),
        );

        let busy = server(&fixture, &["--keep-open"]);
        let client = connect(fixture.port());
        wait_for_first_byte(&client);
        let busy = busy.interrupt(signal);
        assert_events(
            &busy.stdout,
            &format!(
                "[ANY, {{'event': 'end', 'status': {status}, 'confirmed': 0, 'unconfirmed': 0, 'failed': 0, \
                 'interrupted': 1}}]"
            ),
        );

        let listener = Listener::new();
        let client = Running::start(&mut fixture.client_command(listener.port(), &["--json"]));
        let _connection = listener.accept();
        let client = client.interrupt(signal);
        assert_ends(&client, status);
        let end = format!("{{'event': 'end', 'status': {status}}}");
        assert_events(&client.stdout, &format!("[{{'event': 'error', 'message': ANY}}, {end}]"));
    }
}

#[test]
fn programs_that_are_interrupted_while_they_wait_for_a_key_print_an_error_and_the_end() {
    let fixture = Fixture::of_size(10);
    let arguments = ["--json", "--key-file", "-"];
    let server = (fixture.server_command(&arguments), ", 'confirmed': 0, 'unconfirmed': 0, 'failed': 0");
    let client = (fixture.client_command(fixture.port(), &arguments), "");
    for (mut command, tally) in [server, client] {
        let (input, mut pipe) = std::io::pipe().unwrap();
        let program = Running::start(command.stdin(input));
        drop(command);
        pipe.write_all(&KEY.as_bytes()[..10]).unwrap();
        // Then it waits for the rest, and signals are handled.
        wait_until("the key to be read", || rustix::io::ioctl_fionread(&pipe).unwrap() == 0);
        let program = program.interrupt(Signal::TERM);
        assert_ends(&program, 143);
        let end = format!("{{'event': 'end', 'status': 143{tally}}}");
        assert_events(&program.stdout, &format!("[{{'event': 'error', 'message': ANY}}, {end}]"));
    }
}

#[test]
fn listening_client_tells_the_command_of_the_sender() {
    let fixture = Fixture::of_size(1000);
    let port = fixture.port().to_string();
    let arguments = ["--json", "--bind", "127.0.0.1", "--listen", &port];
    let client = Running::start(&mut common::program(common::FILE_CLIENT, fixture.destination_directory(), &arguments));
    let arguments = ["--json", "--wait", "60s", "--connect", "127.0.0.1", &port];
    let server = run(&mut common::program(common::FILE_SERVER, fixture.source_directory(), &arguments));
    let client = client.finish();
    assert_ends(&client, 0);
    assert_ends(&server, 0);
    let command = format!("['file-server', '--connect', '127.0.0.1', '{port}']");
    let listening = format!(
        "{{'event': 'listening', 'address': '127.0.0.1', 'port': {port}, 'size': None, 'sha256': None, 'key': None, \
         'command': {command}}}"
    );
    assert_events(&client.stdout, &format!("[{listening}, ANY, {{'event': 'end', 'status': 0}}]"));
    if let Some(answer) = query(&server.stdout, "[e['event'] for e in events], events[0]['outcome']") {
        assert_eq!(answer, "(['client', 'end'], 'confirmed')");
    }
    fixture.assert_replaced();
}

#[test]
fn quiet_leaves_results_errors_and_the_end() {
    let fixture = Fixture::of_size(10);
    let Outcome { client, server } = transfer(&fixture, &["--quiet"], &["--quiet"]);
    assert_ends(&client, 0);
    assert_ends(&server, 0);
    let names = "[e['event'] for e in events]";
    if let Some(answer) = query(&client.stdout, names) {
        assert_eq!(answer, "['stored', 'end']");
        assert_eq!(query(&server.stdout, names).unwrap(), "['client', 'end']");
    }
}

#[test]
fn terminal_shows_the_same_objects_and_no_progress() {
    let fixture = Fixture::new("");
    let listener = Listener::new();
    let command = fixture.client_command(listener.port(), &["--json"]);
    let Some(terminal) = Terminal::start(&command, (24, 200)) else { return };
    let mut server = listener.accept();
    // Long enough for a bar to be there.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        server.write_all(b"x").unwrap();
    }
    half_close(&server);
    let ended = terminal.finish();
    assert_eq!(ended.status, 0);
    let printed = String::from_utf8(ended.written).unwrap().replace("\r\n", "\n");
    assert!(!printed.replace('\n', "").contains(char::is_control), "{printed:?}");
    if let Some(answer) = query(printed.as_bytes(), "[e['event'] for e in events]") {
        assert_eq!(answer, "['stored', 'end']");
    }
}

#[test]
fn script_takes_a_free_port_and_waits_until_the_server_listens() {
    let Some(python) = installed("python3") else { return };
    let fixture = Fixture::of_size(1000);
    let script = "set -eu; \"$1\" --json --bind 127.0.0.1 0 > events & \
                  until [ -s events ]; do :; done; \
                  port=$(head -n 1 events | \"$2\" -c 'import json, sys; print(json.load(sys.stdin)[\"port\"])'); \
                  \"$3\" --json -o stored 127.0.0.1 \"$port\" > /dev/null; wait \"$!\"";
    let python = python.to_str().unwrap();
    let arguments = ["-c", script, "sh", common::FILE_SERVER, python, common::FILE_CLIENT];
    let ended = run(&mut common::program("sh", fixture.source_directory(), &arguments));
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(fs::read(fixture.source_directory().join("stored")).unwrap(), fixture.bytes());
}

#[test]
fn empty_stream_that_would_replace_bytes_is_an_error_of_the_client() {
    let fixture = Fixture::new("").with_old();
    let listener = Listener::new();
    let client = Running::start(&mut file_client(fixture.destination_directory(), listener.port(), &["--json"]));
    let connection = listener.accept();
    connection.shutdown(Shutdown::Write).unwrap();
    let client = client.finish();
    assert_ends(&client, 1);
    assert_events(&client.stdout, "[{'event': 'error', 'message': ANY}, {'event': 'end', 'status': 1}]");
    assert!(!fixture.is_stored());
}

/// However the interrupt falls among the clients that end.
#[test]
fn each_client_that_is_counted_is_reported_and_nothing_follows_the_end() {
    for _ in 0..20 {
        let fixture = Fixture::of_size(1000);
        let server = Running::start(&mut fixture.server_command(&["--json", "--keep-open"]));
        wait_for_listener(fixture.port());
        let connections: Vec<_> = (0..30).map(|_| connect(fixture.port())).collect();
        for connection in &connections {
            read_all(connection);
        }
        for mut connection in connections {
            connection.write_all(half_close::protocol::THANK_YOU).unwrap();
        }
        let server = server.interrupt(Signal::TERM);
        let printed = server.stdout();
        let reported = printed.lines().filter(|line| line.contains("\"outcome\":\"confirmed\"")).count();
        let end = printed.lines().last().unwrap();
        let beginning = format!("{{\"event\":\"end\",\"status\":143,\"confirmed\":{reported},");
        assert!(end.starts_with(&beginning), "{printed}");
    }
}

/// In a container without another one. No signal ends such a process by itself (`pid_namespaces(7)`).
#[test]
fn the_first_process_of_a_container_ends_with_the_status_of_the_signal() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::of_size(1000);
    let container = ["unshare", "--pid", "--fork", "--mount-proc"];
    let server = Running::start(&mut through(&container, &fixture.server_command(&["--json"])));
    wait_for_listener(fixture.port());
    kill_process(children_of(server.pid())[0], Signal::TERM).unwrap();
    let server = server.finish();
    assert_eq!(server.status, 143, "{server:?}");
    assert!(
        server
            .stdout()
            .ends_with("{\"event\":\"end\",\"status\":143,\"confirmed\":0,\"unconfirmed\":0,\"failed\":0}\n")
    );
}
