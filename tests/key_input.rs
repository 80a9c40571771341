//! How a key gets into the programs: typed or pasted at a terminal, from files and from standard input. A terminal is left
//! as it was, however the program ends or stops.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::files::make_fifo;
use common::fixture::KEY;
use common::network::ReservedPort;
use common::processes::{after, in_shell, sleeps_with_thread, through};
use common::terminal::Terminal;
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Outcome, Running, Server, Signal, directory, file_client, installed, names_in,
    program, run, wait_until,
};
use half_close::protocol::Key;
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::LocalModes;

const SCREEN: (u16, u16) = (24, 120);

/// What a terminal does for a shell: it shows what is typed, a line at a time, and its keys send signals.
const AS_USUAL: LocalModes = LocalModes::ECHO.union(LocalModes::ICANON).union(LocalModes::ISIG);

const TYPO: &str = "j5nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg";

fn is_hidden(terminal: &Terminal) -> bool {
    !terminal.modes().local_modes.contains(LocalModes::ECHO)
}

fn is_as_usual(terminal: &Terminal) -> bool {
    terminal.modes().local_modes.contains(AS_USUAL)
}

/// The program on a terminal, where it asks for the key.
fn at_prompt(command: &Command) -> Option<Terminal> {
    let terminal = Terminal::start(command, SCREEN)?;
    terminal.wait_for_lines(|lines| lines == ["key:"]);
    Some(terminal)
}

/// A server with [`KEY`], and a client that asks for it.
fn asking(fixture: &Fixture) -> (Server, Command) {
    let server = fixture.server(&["--key", KEY]);
    let client = fixture.client_command(server.port, &["--key-file=-"]);
    (server, client)
}

/// A shell with job control, which leaves the modes of the terminal to its jobs.
fn shell(directory: &Path) -> Option<Terminal> {
    let dash = installed("dash")?;
    let mut shell = program(dash.to_str().unwrap(), directory, &["-i"]);
    Terminal::start(shell.env("PS1", "$ "), SCREEN)
}

/// The command as it is typed into a shell.
fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| shlex::try_quote(word.to_str().unwrap()).unwrap()).collect();
    words.join(" ") + "\r"
}

#[test]
fn a_typed_key_is_not_shown_and_its_line_can_be_edited() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let Some(mut terminal) = at_prompt(&command) else { return };
    assert!(is_hidden(&terminal));
    terminal.type_in(b"wrong\x15J4xx\x7f\x7fnb-jdvz-hem5-r5ca-m6tb-tdax-3ypg\r");
    let ended = terminal.finish();
    assert_eq!(ended.status, 0, "{:#?}", ended.lines);
    assert!(!String::from_utf8_lossy(&ended.written).to_lowercase().contains("jdvz"));
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn every_signal_leaves_the_terminal_as_it_was() {
    let fixture = Fixture::of_size(1000).with_old();
    let (_server, command) = asking(&fixture);
    for (signal, key) in [
        (Signal::INT, Some(b"\x03")),
        (Signal::QUIT, Some(b"\x1c")),
        (Signal::INT, None),
        (Signal::QUIT, None),
        (Signal::TERM, None),
        (Signal::HUP, None),
    ] {
        let Some(mut terminal) = at_prompt(&command) else { return };
        assert!(is_hidden(&terminal));
        terminal.type_in(b"j4nb");
        match key {
            Some(key) => terminal.type_in(key),
            None => terminal.signal(signal),
        }
        assert_eq!(terminal.status(), 128 + signal.as_raw());
        assert!(is_as_usual(&terminal), "{signal:?}");
        assert!(!fixture.is_stored());
    }
}

#[test]
fn a_program_that_is_being_ended_does_not_ask() {
    let fixture = Fixture::of_size(1000);
    let fifo = fixture.destination_directory().join("full");
    make_fifo(&fifo);
    // Its error waits for room a few seconds, in which the server comes.
    let mut full = open(&fifo, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).map(fs::File::from).unwrap();
    while full.write(b"\n").is_ok() {}
    let command = fixture.client_command(fixture.port(), &["--key-file=-", "--wait=1h"]);
    let Some(mut terminal) = Terminal::start(&after("exec 2>full", &command), SCREEN) else { return };
    wait_until("handlers of signals", || sleeps_with_thread(terminal.pid(), "signals"));
    terminal.signal(Signal::TERM);
    let server = Running::start(&mut fixture.server_command(&["--key", KEY]));
    assert_eq!(terminal.status(), 128 + Signal::TERM.as_raw());
    assert!(is_as_usual(&terminal));
    server.interrupt(Signal::KILL);
}

#[test]
fn the_time_in_which_the_key_is_typed_is_not_that_for_a_client_to_come() {
    const WAIT: Duration = Duration::from_secs(1);
    let fixture = Fixture::of_size(1000);
    let arguments = ["--key-file=-", "--wait", "1s", "--bind", "127.0.0.1", "0"];
    let Some(mut terminal) = at_prompt(&program(FILE_SERVER, fixture.source_directory(), &arguments)) else { return };
    thread::sleep(WAIT);
    let before = Instant::now();
    terminal.type_in(format!("{KEY}\r").as_bytes());
    terminal.wait_for_line("file-server: no client connected within 1s");
    assert!(before.elapsed() >= WAIT);
    assert_eq!(terminal.finish().status, 1);
}

#[test]
fn a_stopped_program_gives_the_terminal_back_and_asks_again_when_it_goes_on() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let Some(mut terminal) = shell(fixture.destination_directory()) else { return };
    terminal.wait_for_line("$");
    terminal.type_in(typed(&command).as_bytes());
    terminal.wait_for_line("key:");
    assert!(is_hidden(&terminal));
    for round in 1..=2 {
        terminal.type_in(b"j4nb\x1a");
        let stopped = |lines: &[String]| lines.iter().filter(|line| line.contains("Stopped")).count() == round;
        terminal.wait_for_lines(stopped);
        assert!(is_as_usual(&terminal), "{round}");
        terminal.type_in(b"fg\r");
        terminal.wait_for_lines(|lines| lines.iter().filter(|line| *line == "key:").count() == round + 1);
        assert!(is_hidden(&terminal), "{round}");
    }
    terminal.type_in(format!("{KEY}\r").as_bytes());
    terminal.wait_for_line("Received file data: 1000 bytes");
    assert!(is_as_usual(&terminal));
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn a_program_that_no_one_could_continue_is_not_stopped() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    // Its process group has no parent in the session (setpgid(2)).
    let Some(mut terminal) = at_prompt(&command) else { return };
    terminal.type_in(b"\x1a");
    terminal.wait_for_lines(|lines| lines == ["key:", "key:"]);
    assert!(is_hidden(&terminal));
    terminal.type_in(format!("{KEY}\r").as_bytes());
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(server.finish().status, 0);
}

#[test]
fn once_the_key_is_typed_a_program_stops_and_goes_on_as_ever() {
    let fixture = Fixture::new("what arrives later");
    let (input, mut source) = std::io::pipe().unwrap();
    let mut server = fixture.server_command(&["--key", KEY, "--file=-"]);
    let server = Server::start(server.stdin(input));
    let command = fixture.client_command(server.port, &["--key-file=-"]);
    let Some(mut terminal) = shell(fixture.destination_directory()) else { return };
    terminal.wait_for_line("$");
    terminal.type_in(typed(&command).as_bytes());
    terminal.wait_for_line("key:");
    terminal.type_in(format!("{KEY}\r").as_bytes());
    common::wait_until("the terminal is given back", || is_as_usual(&terminal));
    terminal.type_in(b"\x1a");
    terminal.wait_for_lines(|lines| lines.iter().any(|line| line.contains("Stopped")));
    assert!(is_as_usual(&terminal));
    terminal.type_in(b"fg\r");
    source.write_all(fixture.bytes()).unwrap();
    drop(source);
    terminal.wait_for_line("Received file data: 18 bytes");
    assert!(is_as_usual(&terminal));
    assert!(!terminal.wait_for_lines(|_| true)[2..].iter().any(|line| line.starts_with("key:")));
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn a_program_that_was_started_in_the_background_asks_when_it_is_brought_forward() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let Some(mut terminal) = shell(fixture.destination_directory()) else { return };
    terminal.wait_for_line("$");
    terminal.type_in(typed(&command).replace('\r', " &\r").as_bytes());
    terminal.wait_for_lines(|lines| lines.iter().any(|line| line.contains("key:")));
    assert!(is_as_usual(&terminal));
    terminal.type_in(b"fg\r");
    common::wait_until("nothing is shown any more", || is_hidden(&terminal));
    terminal.type_in(format!("{KEY}\r").as_bytes());
    terminal.wait_for_line("Received file data: 1000 bytes");
    assert!(is_as_usual(&terminal));
    assert_eq!(server.finish().status, 0);
}

#[test]
fn a_pasted_key_may_be_broken_and_the_shell_gets_nothing_of_the_paste() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let Some(mut terminal) = shell(fixture.destination_directory()) else { return };
    terminal.wait_for_line("$");
    terminal.type_in(typed(&command).as_bytes());
    terminal.wait_for_line("key:");
    terminal.type_in(format!("\r{}\r{}\r> leaked\r", &KEY[..15], &KEY[15..]).as_bytes());
    terminal.wait_for_line("12 of 28 characters; the rest:");
    terminal.wait_for_line("Received file data: 1000 bytes");
    assert_eq!(server.finish().status, 0);
    terminal.type_in(b"echo behind it\r");
    // What the shell prints, and not what was typed.
    terminal.wait_for_lines(|lines| lines.iter().any(|line| line.trim_start_matches("$ ") == "behind it"));
    fixture.assert_replaced();
}

#[test]
fn a_typo_is_asked_for_again_three_times_in_all() {
    let fixture = Fixture::of_size(1000).with_old();
    let (server, command) = asking(&fixture);
    let wrong = "a character of the key is wrong; try again";
    let Some(mut terminal) = at_prompt(&command) else { return };
    terminal.type_in(format!("{TYPO}\r").as_bytes());
    terminal.wait_for_lines(|lines| lines == ["key:", wrong, "key:"]);
    terminal.type_in(b"j4nb-jdvz\r");
    terminal.wait_for_lines(|lines| lines[2..] == ["key:", "8 of 28 characters; the rest:"]);
    terminal.type_in(b"\r");
    let malformed = "not a key of 28 letters and digits, as 'file-server --encrypt' prints it; try again";
    terminal.wait_for_lines(|lines| lines[4..] == [malformed, "key:"]);
    terminal.type_in(format!("{TYPO}\r").as_bytes());
    let ended = terminal.finish();
    assert_eq!(ended.status, 1, "{:#?}", ended.lines);
    let error = "file-client: could not read the key from the terminal: a character of the key is wrong";
    assert_eq!(ended.lines.last().map(String::as_str), Some(error), "{:#?}", ended.lines);
    assert!(!fixture.is_stored());

    let mut terminal = Terminal::start(&command, SCREEN).unwrap();
    for attempt in 1..=3 {
        terminal.wait_for_lines(|lines| lines.iter().filter(|line| *line == "key:").count() == attempt);
        terminal.type_in(format!("{}\r", if attempt < 3 { TYPO } else { KEY }).as_bytes());
    }
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn the_end_of_the_input_is_an_error() {
    let fixture = Fixture::of_size(1000);
    let (_server, command) = asking(&fixture);
    let Some(mut terminal) = at_prompt(&command) else { return };
    terminal.type_in(b"\x04");
    let error = "file-client: could not read the key from the terminal: nothing was typed";
    terminal.wait_for_line(error);
    assert_eq!(terminal.status(), 1);
    assert!(is_as_usual(&terminal));
}

#[test]
fn what_else_can_fail_fails_before_the_key_is_asked_for() {
    let (fixture, unused) = (Fixture::of_size(1000), ReservedPort::new());
    let here = directory();
    let port = unused.number.to_string();
    let refused = format!("could not connect to 127.0.0.1:{port}: connection refused");
    for (path, arguments, error) in [
        (FILE_CLIENT, &["127.0.0.1", &port][..], &*refused),
        (FILE_CLIENT, &["127.0.0.1", &port, "-o", "no/x"], "could not write no/x: directory no does not exist"),
        (FILE_SERVER, &["0", "-f", "no"], "could not open no: no such file or directory"),
        (FILE_SERVER, &["0", "-f", ".", "-b", "192.0.2.1"], "could not open .: is a directory"),
    ] {
        let command = program(path, here.path(), &[arguments, &["--key-file", "-"]].concat());
        let Some(terminal) = Terminal::start(&command, SCREEN) else { return };
        let ended = terminal.finish();
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let printed = ended.lines.concat();
        assert!(printed.starts_with(&format!("{name}: {error}")) && !printed.contains("key:"), "{printed}");
        assert_eq!(ended.status, 1);
    }
    let elsewhere = ["192.0.2.1", "--key-file=-", "0"];
    let command = program(FILE_SERVER, fixture.source_directory(), &[&["--bind"], &elsewhere[..]].concat());
    let ended = Terminal::start(&command, SCREEN).unwrap().finish();
    assert_eq!(ended.lines, ["file-server: could not listen on 192.0.2.1:0: this machine does not have that address"]);
}

#[test]
fn a_server_that_did_not_wait_for_the_key_is_connected_to_again() {
    let fixture = Fixture::of_size(1000);
    let mut server = fixture.server(&["--key", KEY, "--timeout=5s"]);
    let command = fixture.client_command(server.port, &["--key-file=-"]);
    let Some(mut terminal) = at_prompt(&command) else { return };
    server.running.wait_for_line("127.0.0.1:");
    terminal.type_in(format!("{KEY}\r").as_bytes());
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn a_client_that_listens_waits_while_the_server_asks() {
    let fixture = Fixture::of_size(1000);
    let listen = ["--listen", "0", "--bind", "127.0.0.1", "--key", KEY];
    let mut client = program(FILE_CLIENT, fixture.destination_directory(), &listen);
    let client = Server::start(&mut client);
    let connect = ["--connect", "127.0.0.1", &client.port.to_string(), "--key-file=-"];
    let server = program(FILE_SERVER, fixture.source_directory(), &connect);
    let Some(mut terminal) = at_prompt(&server) else { return };
    terminal.type_in(format!("{KEY}\r").as_bytes());
    assert_eq!(terminal.finish().status, 0);
    let client = client.finish();
    assert!(client.status == 0 && !client.stderr().contains("refused"), "{client:?}");
    fixture.assert_replaced();
}

#[test]
fn a_client_that_did_not_wait_for_the_key_is_connected_to_again() {
    let fixture = Fixture::of_size(1000);
    let listen = ["--listen", "0", "--bind", "127.0.0.1", "--key", KEY, "--timeout=5s"];
    let mut client = program(FILE_CLIENT, fixture.destination_directory(), &listen);
    let mut client = Server::start(&mut client);
    let connect = ["--connect", "127.0.0.1", &client.port.to_string(), "--key-file=-"];
    let server = program(FILE_SERVER, fixture.source_directory(), &connect);
    let Some(mut terminal) = at_prompt(&server) else { return };
    client.running.wait_for_line("127.0.0.1:");
    terminal.type_in(format!("{KEY}\r").as_bytes());
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(client.finish().status, 0);
    fixture.assert_replaced();
}

#[test]
fn a_server_asks_too() {
    let fixture = Fixture::of_size(1000);
    let Some(mut terminal) = at_prompt(&fixture.server_command(&["--key-file=-"])) else { return };
    terminal.type_in(format!("{KEY}\r").as_bytes());
    terminal.wait_for_line("listening on 127.0.0.1:");
    let client = fixture.client(fixture.port(), &["--key", KEY]).finish();
    assert_eq!((client.status, terminal.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

#[test]
fn the_question_is_asked_at_the_terminal_wherever_the_output_goes() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let log = directory();
    let script = format!("exec \"$@\" > {0}/out 2> {0}/err", log.path().display());
    let Some(mut terminal) = at_prompt(&in_shell(&script, &command)) else { return };
    terminal.type_in(format!("{KEY}\r").as_bytes());
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(server.finish().status, 0);
    assert_eq!(fs::read_to_string(log.path().join("err")).unwrap(), "");
    assert_eq!(
        fs::read_to_string(log.path().join("out")).unwrap(),
        common::messages::received(1000, "destination.txt")
    );
}

#[test]
fn a_standard_input_that_does_not_block_is_waited_for() {
    let Some(python) = installed("python3") else { return };
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let script = "import os, sys; os.set_blocking(0, False); os.execv(sys.argv[1], sys.argv[1:])";
    let command = through(&[python.to_str().unwrap(), "-c", script], &command);
    let Some(mut terminal) = at_prompt(&command) else { return };
    terminal.type_in(format!("{KEY}\r").as_bytes());
    assert_eq!(terminal.finish().status, 0);
    assert_eq!(server.finish().status, 0);

    let (server, mut command) = asking(&fixture);
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
    let client = common::Running::start(command.stdin(reader));
    writer.write_all(format!("key: {KEY}\n").as_bytes()).unwrap();
    // It stays open: the line is enough.
    Outcome { client: client.finish(), server: server.finish() }.assert_stored();
    drop(writer);
}

#[test]
fn what_follows_the_key_on_standard_input_is_left_there() {
    let fixture = Fixture::of_size(1000);
    let (server, command) = asking(&fixture);
    let input = fixture.source_directory().join("input");
    fs::write(&input, format!("\nkey: {KEY}\r\nthe rest\n")).unwrap();
    let client = run(in_shell("\"$@\" > /dev/null && cat", &command).stdin(fs::File::open(input).unwrap()));
    assert_eq!((client.status, &*client.stdout()), (0, "the rest\n"), "{client:?}");
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}

/// A file with a key in a directory of its own.
fn key_file(mode: u32) -> (tempfile::TempDir, PathBuf) {
    let keys = directory();
    let path = keys.path().join("key");
    fs::write(&path, KEY).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (keys, path)
}

#[test]
fn a_key_file_that_others_can_read_is_warned_of() {
    for (mode, is_private) in [(0o600, true), (0o400, true), (0o644, false), (0o604, false), (0o640, false)] {
        let (_keys, path) = key_file(mode);
        let path = path.to_str().unwrap();
        let fixture = Fixture::of_size(1000);
        let outcome = fixture.transfer(&["--key", KEY], &["--key-file", path]);
        let warning = format!(
            "file-client: warning: other users can read the key in {path}; to prevent that, type: chmod 600 {path}\n"
        );
        assert_eq!(outcome.client.stderr(), if is_private { String::new() } else { warning }, "{mode:o}");
        outcome.assert_statuses(0, 0);
    }
    let (_keys, path) = key_file(0o644);
    let spaced = path.with_file_name("my key");
    fs::copy(&path, &spaced).unwrap();
    let outcome = Fixture::of_size(10).transfer(&["--key", KEY], &["--key-file", spaced.to_str().unwrap()]);
    assert!(outcome.client.stderr().ends_with(&format!("type: chmod 600 '{}'\n", spaced.display())), "{outcome:?}");
    let here = directory();
    let unused = ReservedPort::new();
    let mut client = file_client(here.path(), unused.number, &["--quiet", "--key-file", path.to_str().unwrap()]);
    let client = run(&mut client);
    assert!(!client.stderr().contains("warning"), "{client:?}");
}

#[test]
fn a_new_key_is_printed_for_scripts_and_nothing_else_is_done() {
    let here = directory();
    let print = || {
        let finished = run(&mut program(FILE_SERVER, here.path(), &["--new-key"]));
        assert_eq!((finished.status, &*finished.stderr()), (0, ""));
        let key: Key = finished.stdout().parse().unwrap();
        assert_eq!(finished.stdout(), format!("{}\n", key.text()));
        key
    };
    assert_ne!(print(), print());
    assert_eq!(names_in(here.path()), [""; 0]);
    let refused = run(&mut program(FILE_SERVER, here.path(), &["--new-key", "9190"]));
    assert_eq!((refused.status, refused.stdout()), (2, String::new()));
}

#[test]
fn a_key_is_not_repeated_wherever_it_stands() {
    let here = directory();
    let spaced = KEY.replace('-', " ");
    let elsewhere = "a key stands where it does not belong; type: --key KEY\n";
    let in_place_of_a_file = "--key-file names a file; for the key itself, type: --key KEY\n";
    for (path, arguments, line) in [
        (FILE_CLIENT, &[KEY, "9190"][..], elsewhere),
        (FILE_CLIENT, &["localhost", KEY], elsewhere),
        (FILE_CLIENT, &["localhost", "9190", KEY], elsewhere),
        (FILE_CLIENT, &["localhost", "9190", &spaced], elsewhere),
        (FILE_CLIENT, &["localhost", "9190", "--key-file", KEY], in_place_of_a_file),
        (FILE_CLIENT, &["localhost", "9190", TYPO], elsewhere),
        (FILE_SERVER, &["0", "--encrypt", KEY], elsewhere),
        (FILE_SERVER, &["--key-file", &spaced, "0"], in_place_of_a_file),
    ] {
        let finished = run(&mut program(path, here.path(), arguments));
        assert_eq!(finished.status, 2, "{finished:?}");
        assert!(finished.stderr().ends_with(line), "{finished:?}");
        assert!(!finished.stderr().contains("jdvz"), "{finished:?}");
    }
    // As long as a key, with its letters.
    let name = "backends.files.example-pages.net";
    let finished = run(&mut program(FILE_CLIENT, here.path(), &["localhost", "9190", name]));
    assert!(finished.stderr().contains(name), "{finished:?}");
}
