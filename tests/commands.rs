//! Commands in place of files: a program that writes what is sent, a program that reads what is received. Their exit
//! statuses are part of the truth.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use common::files::{assert_file, content, directory, names_in};
use common::fixture::{Fixture, KEY, Outcome, assert_at_most_one_error};
use common::messages::CONFIRMED;
use common::network::{connect, read_all, thank, wait_for_first_byte};
use common::processes::{Running, Signal, children_of, file_client, file_server, program, through, with_open_files};
use common::requirements::report_skipped;
use common::trace::{Injection, traced};
use common::{Server, assert_same, installed, is_root, run, wait_until};

/// A directory with a few files.
fn tree() -> tempfile::TempDir {
    let tree = directory();
    fs::create_dir(tree.path().join("dir")).unwrap();
    for number in 0..20 {
        fs::write(tree.path().join(format!("dir/{number}")), content(number * 10_000, 1)).unwrap();
    }
    tree
}

fn assert_same_tree(one: &Path, other: &Path) {
    let status = Command::new("diff").arg("-r").args([one, other]).status().unwrap();
    assert!(status.success());
}

fn with_key(command: &mut Command, is_encrypted: bool) -> &mut Command {
    if is_encrypted { command.env("HALF_CLOSE_KEY", KEY) } else { command }
}

/// `file-server PORT SERVER...` and `file-client HOST PORT CLIENT...`, each in its directory.
fn transfer(from: &Path, server: &[&str], to: &Path, client: &[&str], is_encrypted: bool) -> Outcome {
    let server = Server::start(with_key(&mut file_server(from, 0, server), is_encrypted));
    let client = run(with_key(&mut file_client(to, server.port, client), is_encrypted));
    Outcome { client, server: server.finish() }
}

#[test]
fn a_directory_goes_from_command_to_command() {
    for is_encrypted in [false, true] {
        let (from, to) = (tree(), directory());
        let outcome = transfer(from.path(), &["--", "tar", "c", "dir"], to.path(), &["--", "tar", "x"], is_encrypted);
        outcome.assert_statuses(0, 0);
        assert_same_tree(&from.path().join("dir"), &to.path().join("dir"));
        assert_eq!(outcome.server.stdout(), CONFIRMED);
        // Standard output belongs to the command.
        assert_eq!(outcome.client.stdout(), "");
        assert!(outcome.client.stderr().contains("Received file data: "), "{outcome:?}");
    }
}

#[test]
fn each_client_has_a_run_of_the_command() {
    let (from, log) = (directory(), directory());
    let script = format!("echo run >> {}/log; seq 100000", log.path().display());
    let server = Server::start(&mut file_server(from.path(), 0, &["-n", "3", "--", "sh", "-c", &script]));
    let expected = run(&mut program("seq", from.path(), &["100000"])).stdout;
    for _ in 0..3 {
        let to = directory();
        assert_eq!(run(&mut file_client(to.path(), server.port, &[])).status, 0);
        assert_file(&to.path().join("destination.txt"), &expected);
    }
    assert_eq!(server.finish().status, 0);
    assert_file(&log.path().join("log"), b"run\nrun\nrun\n");
}

#[test]
fn a_source_that_fails_leaves_the_old_file() {
    for (script, reason) in [
        ("exit 3", "sh exited with status 3"),
        ("seq 100000; exit 3", "sh exited with status 3"),
        ("seq 100000; kill -9 $$", "sh was killed by SIGKILL"),
        ("exec >&-; exit 1", "sh exited with status 1"),
    ] {
        for is_encrypted in [false, true] {
            let fixture = Fixture::new("").with_old().in_mode(is_encrypted);
            let outcome = fixture.transfer_with(&["--", "sh", "-c", script], |port| fixture.client_command(port, &[]));
            outcome.assert_statuses(1, 1);
            assert!(!fixture.is_stored());
            assert!(outcome.server.errors().concat().contains(reason), "{reason}: {outcome:?}");
            assert_at_most_one_error(&outcome.client);
            assert_at_most_one_error(&outcome.server);
        }
    }
}

#[test]
fn a_source_that_has_closed_its_output_is_waited_for() {
    let fixture = Fixture::new("1\n");
    let pipe = directory();
    let fifo = pipe.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!("echo 1; exec >&-; read line < {}; exit 5", fifo.display());
    let server = fixture.server(&["--", "sh", "-c", &script]);
    let client = fixture.client(server.port, &[]);
    // Its end is known only once it has got this.
    fs::write(&fifo, "\n").unwrap();
    let outcome = Outcome { client: client.finish(), server: server.finish() };
    outcome.assert_statuses(1, 1);
    assert!(!fixture.is_stored());
    assert!(outcome.server.errors().concat().contains("sh exited with status 5"), "{outcome:?}");
}

/// A program that is started with SIGCHLD ignored gets no exit status of its children (wait(2)).
#[test]
fn commands_succeed_although_their_end_was_ignored() {
    const IGNORING: [&str; 2] = ["env", "--ignore-signal=CHLD"];
    let fixture = Fixture::of_size(1000);
    let ignoring = |command: Command| through(&IGNORING, &command);
    if run(&mut ignoring(Command::new("true"))).status != 0 {
        return report_skipped("env cannot ignore a signal");
    }
    let mut server = ignoring(file_server(fixture.source_directory(), 0, &["--", "cat", "des.txt"]));
    let server = Server::start(&mut server);
    let client = fixture.client_command(server.port, &["--", "sh", "-c", "cat > destination.txt"]);
    let outcome = Outcome { client: run(&mut ignoring(client)), server: server.finish() };
    outcome.assert_stored();
    fixture.assert_replaced();
}

/// What is needed to wait for a command is there before a byte is sent, or the transfer fails; older kernels lack it.
#[test]
fn a_command_that_has_done_all_does_not_fail_for_want_of_a_descriptor() {
    for (effect, is_stored) in [("error=EMFILE", false), ("error=ENOSYS", true)] {
        let fixture = Fixture::of_size(1000);
        let log = fixture.source_directory().join("log");
        let injection = Injection { call: "pidfd_open".to_owned(), number: 1, effect: effect.to_owned() };
        let server = fixture.server(&[]);
        let script = "cat > destination.txt";
        let client = fixture.client_command(server.port, &["--", "sh", "-c", script]);
        let Some(mut client) = traced(&client, &log, Some(&injection)) else { return };
        let outcome = Outcome { client: run(&mut client), server: server.finish() };
        let statuses = if is_stored { (0, 0) } else { (1, 1) };
        assert_eq!(outcome.statuses(), statuses, "{effect}: {outcome:?}");
        let stored = fs::read(fixture.destination()).unwrap_or_default();
        assert!(stored == if is_stored { fixture.bytes() } else { b"" }, "{effect}: {} bytes", stored.len());
    }
}

/// Older kernels have no descriptor for a command.
#[test]
fn without_a_descriptor_for_its_command_a_server_notices_that_the_client_has_gone() {
    let fixture = Fixture::of_size(1000);
    let mark = format!("86407.{}", std::process::id());
    let log = fixture.source_directory().join("log");
    let injection = Injection { call: "pidfd_open".to_owned(), number: 1, effect: "error=ENOSYS".to_owned() };
    let script = format!("cat des.txt; exec >&-; exec sleep {mark}");
    let server = file_server(fixture.source_directory(), 0, &["--", "sh", "-c", &script]);
    let Some(mut server) = traced(&server, &log, Some(&injection)) else { return };
    let server = Server::start(&mut server);
    let client = connect(server.port);
    wait_for_first_byte(&client);
    wait_until("the command", || runs(&mark));
    common::network::reset(client);
    let server = server.finish();
    assert_eq!(server.status, 1, "{server:?}");
    assert!(!runs(&mark));
}

#[test]
fn without_a_path_commands_are_where_they_are_by_default() {
    let fixture = Fixture::of_size(1000);
    let mut server = file_server(fixture.source_directory(), 0, &["--", "cat", "des.txt"]);
    let server = Server::start(server.env_remove("PATH"));
    let client = run(&mut fixture.client_command(server.port, &[]));
    Outcome { client, server: server.finish() }.assert_stored();
}

/// Each of them needs descriptors too.
#[test]
fn with_few_descriptors_clients_wait_for_the_commands_of_others() {
    const CLIENTS: usize = 16;
    let fixture = Fixture::of_size(1000);
    let arguments = ["--clients", &CLIENTS.to_string(), "--", "sh", "-c", "cat des.txt; exec sleep 0.1"];
    let server = file_server(fixture.source_directory(), 0, &arguments);
    let server = Server::start(&mut with_open_files(40, &server));
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.port)).collect();
    for client in &clients {
        assert_same(&read_all(client), fixture.bytes(), "what a client got");
        thank(client);
    }
    let server = server.finish();
    assert_eq!((server.status, server.errors()), (0, Vec::new()), "{server:?}");
}

#[test]
fn a_destination_that_fails_is_not_thanked_for() {
    for (script, reason) in [
        ("cat > /dev/null; exit 4", "sh exited with status 4"),
        ("exit 4", "sh exited with status 4"),
        ("cat > /dev/null; kill -TERM $$", "sh was killed by SIGTERM"),
    ] {
        for is_encrypted in [false, true] {
            let fixture = Fixture::of_size(3_000_000).in_mode(is_encrypted);
            let outcome = fixture.transfer(&[], &["--", "sh", "-c", script]);
            outcome.assert_statuses(1, 1);
            assert!(outcome.client.errors().concat().contains(reason), "{reason}: {outcome:?}");
            assert_at_most_one_error(&outcome.client);
            assert_at_most_one_error(&outcome.server);
            assert_eq!(outcome.server.stdout(), "");
        }
    }
}

#[test]
fn a_transfer_that_breaks_kills_the_command_before_its_input_ends() {
    for script in [
        "cat > part && mv part whole",
        "cat > part; mv part whole",
        "(cat; :) > part; mv part whole",
        "cat | { cat > part; mv part whole; }",
        // What is started when all that ran were asked to end.
        "trap : TERM; cat > part; sh -c 'cat > part; mv part whole'; :",
    ] {
        let fixture = Fixture::of_size(30_000_000);
        let server = fixture.server(&["--file=/dev/zero"]);
        let client = fixture.client(server.port, &["--", "sh", "-c", script]);
        let part = fixture.destination_directory().join("part");
        wait_until("bytes in the part", || part.metadata().is_ok_and(|part| part.len() > 0));
        server.interrupt(Signal::KILL);
        let client = client.finish();
        assert_eq!(client.status, 1, "{client:?}");
        assert_eq!(names_in(fixture.destination_directory()), ["part"], "{script}");
    }
}

#[test]
fn an_interrupted_client_makes_no_whole_out_of_half() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let fixture = Fixture::new("");
        let server = fixture.server(&["--file=/dev/zero"]);
        let client = fixture.client(server.port, &["--", "sh", "-c", "cat > part; mv part whole"]);
        let part = fixture.destination_directory().join("part");
        wait_until("bytes in the part", || part.metadata().is_ok_and(|part| part.len() > 0));
        let client = client.interrupt(signal);
        assert_eq!(client.status, 128 + signal.as_raw(), "{client:?}");
        assert_eq!(names_in(fixture.destination_directory()), ["part"]);
        assert_eq!(server.finish().status, 1);
    }
}

/// How many processes run with this in their command lines.
fn running(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).split('\0').any(|word| word == mark)).count()
}

fn runs(mark: &str) -> bool {
    running(mark) > 0
}

#[test]
fn a_client_that_goes_away_leaves_no_program_running() {
    let from = directory();
    // The number is in no other command line.
    let mark = format!("86400.{}", std::process::id());
    for script in [format!("echo 1; sleep {mark}"), format!("echo 1; sh -c 'sleep {mark}; :'; :")] {
        let server = Server::start(&mut file_server(from.path(), 0, &["--", "sh", "-c", &script]));
        let client = connect(server.port);
        wait_until("the command", || runs(&mark));
        common::network::reset(client);
        let server = server.finish();
        assert_eq!(server.status, 1, "{server:?}");
        assert!(!runs(&mark), "{script}");
    }
}

#[test]
fn a_client_whose_command_reads_nothing_notices_that_the_server_has_gone() {
    let fixture = Fixture::of_size(20_000_000);
    let mark = format!("86406.{}", std::process::id());
    let server = fixture.server(&[]);
    let client =
        fixture.client(server.port, &["--", "sh", "-c", &format!("head -c 1 > first; sleep {mark}; cat > rest")]);
    let first = fixture.destination_directory().join("first");
    wait_until("a byte", || first.metadata().is_ok_and(|first| first.len() == 1));
    wait_until("the command", || runs(&mark));
    server.interrupt(Signal::KILL);
    let client = client.finish();
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    assert!(!runs(&mark));
    assert_eq!(names_in(fixture.destination_directory()), ["first"]);
}

#[test]
fn an_interrupted_server_leaves_no_program_running() {
    let from = directory();
    let mark = format!("86401.{}", std::process::id());
    let script = format!("echo 1; sleep {mark}");
    let server = Server::start(&mut file_server(from.path(), 0, &["--", "sh", "-c", &script]));
    let _client = connect(server.port);
    wait_until("the command", || runs(&mark));
    let server = server.interrupt(Signal::TERM);
    assert_eq!(server.status, 128 + Signal::TERM.as_raw(), "{server:?}");
    assert!(!runs(&mark));
}

#[test]
fn a_program_that_ignores_the_request_to_end_is_killed() {
    let from = directory();
    let mark = format!("86402.{}", std::process::id());
    let script = format!("trap '' TERM; echo 1; sleep {mark}");
    let server = Server::start(&mut file_server(from.path(), 0, &["--", "sh", "-c", &script]));
    let client = connect(server.port);
    wait_until("the command", || runs(&mark));
    common::network::reset(client);
    assert_eq!(server.finish().status, 1);
    assert!(!runs(&mark));
}

#[test]
fn an_interrupted_server_ends_its_commands_at_the_same_time() {
    // One after the other they would take longer than anything may.
    const CLIENTS: usize = 40;
    let from = directory();
    let mark = format!("86404.{}", std::process::id());
    let script = format!("trap '' TERM; echo 1; sleep {mark}");
    let server = Server::start(&mut file_server(from.path(), 0, &["--keep-open", "--", "sh", "-c", &script]));
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(server.port)).collect();
    for mut client in &clients {
        client.read_exact(&mut [0; 2]).unwrap();
    }
    wait_until("every command", || running(&mark) == CLIENTS);
    let server = server.interrupt(Signal::TERM);
    assert_eq!(server.status, 128 + Signal::TERM.as_raw(), "{server:?}");
    assert!(!runs(&mark));
}

/// As one that `sudo` runs: then the server is not root and the program is.
#[test]
fn a_program_that_may_not_be_ended_is_not_waited_for() {
    if !is_root() || installed("setpriv").is_none() {
        return;
    }
    let from = directory();
    let mark = format!("86403.{}", std::process::id());
    let script = format!("exec cat /dev/zero {mark}");
    let other_user = ["--", "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "sh", "-c", &script];
    for signal in [None, Some(Signal::TERM)] {
        let server = file_server(from.path(), 0, &other_user);
        let without_rights = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
        let server = Server::start(&mut through(&without_rights, &server));
        let client = connect(server.port);
        wait_until("the command", || runs(&mark));
        let (server, status) = match signal {
            None => {
                common::network::reset(client);
                (server.finish(), 1)
            }
            Some(signal) => (server.interrupt(signal), 128 + signal.as_raw()),
        };
        assert_eq!(server.status, status, "{server:?}");
        // It notices that nothing reads any more.
        wait_until("the end of the command", || !runs(&mark));
    }
}

/// The state of each child, as in `/proc/PID/stat`: `Z` for one that has ended and is still in the table of processes.
fn states_of_children(server: &Server) -> Vec<char> {
    let stats = children_of(server.running.pid()).into_iter().filter_map(|child| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    });
    stats.collect()
}

#[test]
fn programs_that_could_not_be_ended_are_forgotten_once_they_have_ended() {
    if !is_root() || installed("setpriv").is_none() {
        return;
    }
    let from = directory();
    let other_user = ["-k", "--", "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "cat", "/dev/zero"];
    let server = file_server(from.path(), 0, &other_user);
    let without_rights = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    let mut server = Server::start(&mut through(&without_rights, &server));
    for _ in 0..2 {
        let client = connect(server.port);
        wait_for_first_byte(&client);
        common::network::reset(client);
        server.wait_for_failed_client();
        // It notices that nothing reads any more.
        wait_until("its end", || states_of_children(&server).iter().all(|&state| state == 'Z'));
    }
    assert!(states_of_children(&server).len() <= 1);
    server.interrupt(Signal::TERM);
}

#[test]
fn a_client_that_took_what_a_slow_command_has_written_is_not_said_to_have_taken_nothing() {
    let from = directory();
    let mut server = Server::start(&mut file_server(from.path(), 0, &["-k", "--", "sh", "-c", "echo a; sleep 600"]));
    let client = connect(server.port);
    wait_for_first_byte(&client);
    common::network::reset(client);
    let failure = server.running.wait_for_line("file-server: 127.0.0.1:");
    assert!(failure.contains(": the client gave up after 2 B; "), "{failure}");
    server.interrupt(Signal::TERM);
}

#[test]
fn a_server_that_resets_what_a_command_has_not_taken_yet_has_sent_something() {
    let to = directory();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = Running::start(&mut file_client(to.path(), port, &["--", "sh", "-c", "head -c 1 > first; sleep 600"]));
    let mut server = listener.accept().unwrap().0;
    server.write_all(&content(200_000, 1)).unwrap();
    let first = to.path().join("first");
    wait_until("a byte", || first.metadata().is_ok_and(|first| first.len() == 1));
    common::network::reset(server);
    let client = client.finish();
    assert_eq!(client.status, 1);
    assert!(client.errors()[0].contains(": the server gave up after "), "{client:?}");
}

#[test]
fn a_command_that_is_not_there_is_found_before_listening_and_connecting() {
    let here = directory();
    fs::write(here.path().join("not-executable"), "").unwrap();
    let path = format!("not-executable:{}", std::env::var("PATH").unwrap());
    for name in ["no-such-program", "./no-such-program", "./not-executable"] {
        let server = run(file_server(here.path(), 0, &["--", name, "x"]).env("PATH", &path));
        assert_eq!(
            (server.status, server.stderr()),
            (1, format!("file-server: could not run {name}: {}\n", reason(name)))
        );
        // Nothing listens on port 1.
        let client = run(&mut file_client(here.path(), 1, &["--", name]));
        assert_eq!(
            (client.status, client.stderr()),
            (1, format!("file-client: could not run {name}: {}\n", reason(name)))
        );
    }
}

fn reason(name: &str) -> &'static str {
    match name {
        "./not-executable" => "permission denied",
        "./no-such-program" => "no such file or directory",
        _ => "there is no such program",
    }
}

#[test]
fn the_input_of_a_source_is_empty() {
    let fixture = Fixture::new("");
    let outcome = fixture.transfer(&["--", "cat"], &["--size=0"]);
    outcome.assert_stored();
    assert!(fixture.is_stored());
}

#[test]
fn an_early_end_of_a_destination_with_status_0_is_a_failure_if_bytes_are_left() {
    let fixture = Fixture::of_size(30_000_000);
    let outcome = fixture.transfer(&[], &["--", "head", "-c", "10"]);
    outcome.assert_statuses(1, 1);
    assert!(outcome.client.errors().concat().contains("head ended before it had read everything"), "{outcome:?}");
}

#[test]
fn a_destination_that_closes_its_input_and_goes_on_is_not_waited_for() {
    let fixture = Fixture::of_size(30_000_000);
    let mark = format!("86405.{}", std::process::id());
    let outcome = fixture.transfer(&[], &["--", "sh", "-c", &format!("exec <&-; sleep {mark}")]);
    outcome.assert_statuses(1, 1);
    assert_eq!(outcome.client.errors(), ["file-client: sh closed its input before it had read everything"]);
    assert!(!runs(&mark));
}

#[test]
fn a_command_has_its_size_and_digest_checked_before_its_input_ends() {
    let fixture = Fixture::of_size(100_000);
    let script = "cat > part; mv part whole";
    let outcome = fixture.transfer(&[], &["--size=99999", "--", "sh", "-c", script]);
    outcome.assert_statuses(1, 1);
    assert!(!names_in(fixture.destination_directory()).contains(&"whole".to_owned()), "{outcome:?}");
}
