//! Errors in the arguments or in what they name: one line and an exit status, and nothing on the disk changes. Also help,
//! version, completions and man page.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::messages::{NO_DIRECTORY, no_directory};
use common::network::ReservedPort;
use common::processes::{after, copy_program, through};
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Running, Server, directory, file_client, has_ipv6, is_root, names_in, program,
    report_skipped, run, wait_until,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

const BOTH: [&str; 2] = [FILE_SERVER, FILE_CLIENT];

/// The unprivileged user `nobody`, by its usual number.
const NOBODY: u32 = 65_534;

/// A directory with an old `destination.txt` and an empty directory `dir`.
fn here() -> TempDir {
    let here = common::fixture::directory_with_old();
    fs::create_dir(here.path().join("dir")).unwrap();
    here
}

/// Everything that an error must not change.
fn state_of(here: &Path) -> (Vec<String>, Vec<String>, Vec<u8>, std::time::SystemTime) {
    let old = here.join("destination.txt");
    let modified = old.metadata().unwrap().modified().unwrap();
    (names_in(here), names_in(&here.join("dir")), fs::read(&old).unwrap(), modified)
}

#[track_caller]
fn assert_fails_in(here: &TempDir, command: &mut Command, status: i32, line: &str) {
    let before = state_of(here.path());
    let finished = run(command);
    assert_eq!(finished.stderr(), format!("{line}\n"), "{command:?}");
    assert_eq!((finished.status, finished.stdout()), (status, String::new()), "{command:?}");
    assert_eq!(state_of(here.path()), before, "{command:?}");
}

#[track_caller]
fn assert_server_fails(arguments: &[&str], status: i32, line: &str) {
    let here = here();
    assert_fails_in(&here, &mut program(FILE_SERVER, here.path(), arguments), status, &format!("file-server: {line}"));
}

#[track_caller]
fn assert_client_fails(arguments: &[&str], status: i32, line: &str) {
    let here = here();
    assert_fails_in(&here, &mut program(FILE_CLIENT, here.path(), arguments), status, &format!("file-client: {line}"));
}

/// An error in the arguments, which also names the usage.
#[track_caller]
fn assert_server_rejects(arguments: &[&str], line: &str) {
    let usage = "usage: file-server [OPTIONS] <PORT> [-- <COMMAND>...] (more: --help)";
    assert_server_fails(arguments, 2, &format!("{line}; {usage}"));
}

#[track_caller]
fn assert_client_rejects(arguments: &[&str], line: &str) {
    let usage = "usage: file-client [OPTIONS] <HOST> <PORT> [-- <COMMAND>...] (more: --help)";
    assert_client_fails(arguments, 2, &format!("{line}; {usage}"));
}

#[test]
fn missing_arguments_are_named() {
    assert_server_rejects(&[], "the port is missing");
    assert_client_rejects(&[], "the host and the port are missing");
    assert_client_rejects(&["localhost"], "the port is missing");
    assert_server_rejects(&["9190", "--file"], "a value is required for '--file <PATH>' but none was supplied");
    assert_server_rejects(&["9190", "--file", ""], "a value is required for '--file <PATH>' but none was supplied");
    assert_client_rejects(&["", "9190"], "a value is required for '[HOST]' but none was supplied");
}

#[test]
fn extra_argument_is_named() {
    let line = "unexpected argument '9191' found; for a file, type: --file PATH; for a command: -- COMMAND; for an address to listen on: --bind ADDRESS";
    assert_server_fails(&["9190", "9191"], 2, line);
    let line = "unexpected argument '9191' found; for the name of the file that is stored, type: --output PATH";
    assert_client_fails(&["localhost", "9190", "9191"], 2, line);
}

#[test]
fn values_of_the_wrong_type_are_rejected() {
    let no_port = "invalid value 'words' for '<PORT>': not a port from 0 to 65535";
    let more = "for a file, type: --file PATH; for a command: -- COMMAND; for an address to listen on: --bind ADDRESS";
    assert_server_fails(&["words"], 2, &format!("{no_port}; {more}"));
    assert_client_rejects(&["localhost", "words"], "invalid value 'words' for '[PORT]': not a port from 1 to 65535");
    let no_size = "not a size such as 30, 64KiB or 1MiB";
    assert_server_rejects(
        &["0", "-c", "words"],
        &format!("invalid value 'words' for '--chunk-size <SIZE>': {no_size}"),
    );
    assert_client_rejects(
        &["h", "1", "--size", "words"],
        &format!("invalid value 'words' for '--size <BYTES>': {no_size}"),
    );
    assert_server_rejects(&["0", "-n", "words"], "invalid value 'words' for '--clients <N>': not a number from 1 up");
    let no_duration = "not a duration such as 500ms, 60s or 1m30s";
    assert_server_rejects(
        &["0", "-t", "words"],
        &format!("invalid value 'words' for '--timeout <DURATION>': {no_duration}"),
    );
    assert_client_rejects(
        &["h", "1", "-w", "words"],
        &format!("invalid value 'words' for '--wait <DURATION>': {no_duration}"),
    );
    let no_address = "not an IP address such as 192.168.1.20 or ::1";
    assert_server_rejects(
        &["0", "-b", "words"],
        &format!("invalid value 'words' for '--bind <ADDRESS>': {no_address}"),
    );
    let no_network = "not an address such as 192.168.1.20 or 10.0.0.0/8";
    assert_server_rejects(
        &["0", "--allow", "w"],
        &format!("invalid value 'w' for '--allow <ADDRESS[/PREFIX]>': {no_network}"),
    );
    assert_client_rejects(
        &["h", "1", "--sha256", "w"],
        "invalid value 'w' for '--sha256 <HEX>': not 64 hexadecimal digits",
    );
}

#[test]
fn values_out_of_range_are_rejected() {
    let no_port = "not a port from 0 to 65535";
    assert_server_rejects(&["70000"], &format!("invalid value '70000' for '<PORT>': {no_port}"));
    assert_server_rejects(&["-1"], "unexpected argument '-1' found");
    assert_client_rejects(&["localhost", "70000"], "invalid value '70000' for '[PORT]': not a port from 1 to 65535");
    assert_client_rejects(&["localhost", "0"], "invalid value '0' for '[PORT]': not a port from 1 to 65535");
    let no_chunk_size = "must be between 1 byte and 16 MiB";
    for size in ["0", "17MiB"] {
        let line = format!("invalid value '{size}' for '--chunk-size <SIZE>': {no_chunk_size}");
        assert_server_rejects(&["0", "-c", size], &line);
    }
    assert_server_rejects(&["0", "-n", "0"], "invalid value '0' for '--clients <N>': not a number from 1 up");
    let no_duration = "not a duration such as 500ms, 60s or 1m30s";
    assert_client_rejects(
        &["h", "1", "-w", "30x"],
        &format!("invalid value '30x' for '--wait <DURATION>': {no_duration}"),
    );
}

#[test]
fn misspelled_option_gets_a_suggestion() {
    let similar =
        |wrong, right| format!("unexpected argument '{wrong}' found; tip: a similar argument exists: '{right}'");
    assert_server_rejects(&["0", "--chunksize", "7"], &similar("--chunksize", "--chunk-size"));
    assert_server_rejects(&["0", "--fle", "des.txt"], &similar("--fle", "--file"));
    assert_client_rejects(&["h", "1", "--no-clober"], &similar("--no-clober", "--no-clobber"));
    assert_client_rejects(&["h", "1", "--sise", "3"], &similar("--sise", "--size"));
}

#[test]
fn contradictory_options_are_rejected() {
    let contradiction = "the argument '--clients <N>' cannot be used with '--keep-open'";
    assert_server_rejects(&["0", "--clients", "2", "--keep-open"], contradiction);
    let only_one = "standard input can be sent to one client only";
    assert_server_fails(&["0", "--file", "-", "--clients", "2"], 2, only_one);
    assert_server_fails(&["0", "--file", "-", "--keep-open"], 2, only_one);
    let no_digest = "the SHA-256 of standard input is not known in advance";
    assert_server_fails(&["0", "--file", "-", "--sha256"], 2, no_digest);
    let unstored = "standard input can be sent only once, stored or not";
    assert_server_fails(&["0", "--file", "-", "--until-stored"], 2, unstored);
    let both =
        "the key and the file cannot both come from standard input; put the key into a file, and type: --key-file PATH";
    for name in ["-", "/dev/stdin", "/dev/fd/0"] {
        assert_server_fails(&["0", "--file", name, "--key-file", "-"], 2, both);
        assert_server_fails(&["0", "--file", "-", "--key-file", name], 2, both);
    }
}

#[test]
fn a_server_that_connects_serves_one_client_and_listens_nowhere() {
    for option in [
        &["--clients <N>", "2"][..],
        &["--keep-open"],
        &["--until-stored"],
        &["--bind <ADDRESS>", "127.0.0.1"],
        &["--allow <ADDRESS[/PREFIX]>", "10.0.0.0/8"],
    ] {
        let mut arguments = vec!["--connect", "localhost", "9190", option[0].split(' ').next().unwrap()];
        arguments.extend(&option[1..]);
        let line = format!("the argument '--connect <HOST>' cannot be used with '{}'", option[0]);
        assert_server_rejects(&arguments, &line);
    }
    let line = "--encrypt makes a key where the program listens; where it connects, type: --key-file -";
    assert_server_fails(&["--connect", "localhost", "9190", "--encrypt"], 2, line);
    let line = "--connect needs the port of the other side, which is not 0";
    assert_server_fails(&["--connect", "localhost", "0"], 2, line);
    let line = "invalid value 'localhost:9190' for '--connect <HOST>': not a name or address; the port is a word of its \
                own: --connect HOST PORT";
    assert_server_fails(&["--connect", "localhost:9190", "9190"], 2, line);
}

#[test]
fn a_client_listens_or_connects() {
    assert_client_rejects(
        &["--listen", "0", "localhost", "9190"],
        "the argument '--listen <PORT>' cannot be used with: [HOST] [PORT]",
    );
    let line = "--bind and --allow are for --listen";
    assert_client_fails(&["localhost", "9190", "--bind", "127.0.0.1"], 2, line);
    assert_client_fails(&["localhost", "9190", "--allow", "10.0.0.0/8"], 2, line);
    let line = "--encrypt makes a key where the program listens; where it connects, type: --key-file -";
    assert_client_fails(&["localhost", "9190", "--encrypt"], 2, line);
    assert_client_rejects(
        &["--listen", "70000"],
        "invalid value '70000' for '--listen <PORT>': not a port from 0 to 65535",
    );
}

#[test]
fn a_client_that_listens_is_not_open_to_everyone() {
    let line = "everyone who can reach the port could store a file here; \
        add --encrypt, --allow ADDRESS, --sha256 HEX or --bind 127.0.0.1";
    for open in [&[][..], &["--bind", "192.168.1.20"], &["--size", "7"], &["--output", "new"], &["--", "cat"]] {
        assert_client_fails(&[&["--listen", "0"], open].concat(), 2, line);
    }
}

#[test]
fn a_command_takes_the_place_of_the_file() {
    for options in [&["--file <PATH>", "x"][..], &["--sha256"]] {
        let mut arguments = vec!["0", options[0].split(' ').next().unwrap()];
        arguments.extend(&options[1..]);
        arguments.extend(["--", "cat"]);
        assert_server_rejects(&arguments, &format!("the argument '{}' cannot be used with '[COMMAND]...'", options[0]));
    }
    for options in [&["--output <PATH>", "x"][..], &["--no-clobber"], &["--no-sync"], &["--resume"]] {
        let mut arguments = vec!["localhost", "9190", options[0].split(' ').next().unwrap()];
        arguments.extend(&options[1..]);
        arguments.extend(["--", "cat"]);
        assert_client_rejects(&arguments, &format!("the argument '{}' cannot be used with '[COMMAND]...'", options[0]));
    }
    assert_server_rejects(&["0", "--"], "the command after '--' is missing");
    assert_server_rejects(&["0", "--", ""], "the command after '--' is missing");
    assert_client_rejects(&["localhost", "9190", "--"], "the command after '--' is missing");
    let unused = ReservedPort::new();
    let port = unused.number.to_string();
    assert_client_fails(
        &["127.0.0.1", &port, "--", "echo", "--"],
        1,
        &format!("could not connect to 127.0.0.1:{port}: connection refused"),
    );
}

#[test]
fn resuming_takes_a_key_and_a_regular_file() {
    let line = "--resume needs a key: add --encrypt to file-server, and --key-file - to file-client";
    assert_client_fails(&["localhost", "9190", "--resume"], 2, line);
    let line = "--resume needs a key: add --encrypt here, and --key-file - to file-server --connect";
    assert_client_fails(&["--listen", "0", "--bind", "127.0.0.1", "--resume"], 2, line);
    for output in ["-", "/dev/null"] {
        let arguments = ["localhost", "9190", "--resume", "--key-file", "k", "--output", output];
        assert_client_fails(&arguments, 2, "--resume is for regular files");
    }
}

#[test]
fn an_address_with_octal_parts_is_refused() {
    let octal = "a number that begins with 0 is read as octal; leave out the zeros in front";
    for place in [&["127.000.000.010", "9190"][..], &["127.000.000.010:9190"]] {
        assert_client_rejects(place, &format!("invalid value '{}' for '[HOST]': {octal}", place[0]));
    }
    assert_server_rejects(
        &["--connect", "127.000.000.010", "9190"],
        &format!("invalid value '127.000.000.010' for '--connect <HOST>': {octal}"),
    );
    let no_address = "not an IP address such as 192.168.1.20 or ::1";
    assert_server_rejects(
        &["0", "-b", "127.000.000.010"],
        &format!("invalid value '127.000.000.010' for '--bind <ADDRESS>': {no_address}"),
    );
}

#[test]
fn of_an_option_that_is_given_twice_the_last_one_counts() {
    let here = here();
    let twice = ["-t", "words", "-t", "5s"];
    // A value that is wrong is wrong even if another one follows.
    assert_server_rejects(
        &[&["0"], &twice[..]].concat(),
        "invalid value 'words' for '--timeout <DURATION>': not a duration such as 500ms, 60s or 1m30s",
    );
    for first in ["--file=no", "-fno"] {
        let arguments =
            [first, "-q", "-t", "5s", "-q", "--timeout=0.5", "-f", "destination.txt", "--wait=0.1", "-w1", "0"];
        let server = Server::start(&mut program(FILE_SERVER, here.path(), &arguments));
        assert_ne!(server.port, 0);
    }
    let (one, other) = ("--allow=192.0.2.1", "--allow=127.0.0.1");
    for allowed in [[one, other], [other, one]] {
        let fixture = Fixture::new("both count");
        fixture.transfer(&allowed, &["-o", "x", "-odestination.txt", "--no-sync", "--no-sync"]).assert_stored();
        fixture.assert_replaced();
    }
}

#[test]
fn bad_arguments_are_two_objects_with_json() {
    for (path, arguments, message) in [
        (FILE_CLIENT, &["--json", "localhost"][..], "the port is missing"),
        (FILE_SERVER, &["--file", "-", "-k", "0", "--json"], "standard input can be sent to one client only"),
        (FILE_SERVER, &["words", "--json"], "invalid value 'words' for '<PORT>': not a port from 0 to 65535"),
        (FILE_CLIENT, &["\"\\ ", "1", "--json"], r#"invalid value '\"\\\\ ' for '[HOST]'"#),
    ] {
        let here = here();
        let finished = run(&mut program(path, here.path(), arguments));
        assert_eq!((finished.status, finished.stderr()), (2, String::new()), "{finished:?}");
        let printed = finished.stdout();
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(lines.len(), 2, "{printed}");
        assert!(lines[0].starts_with(&format!("{{\"event\":\"error\",\"message\":\"{message}")), "{printed}");
        assert!(lines[1].starts_with("{\"event\":\"end\",\"status\":2"), "{printed}");
    }
    // Standard output is that of the file.
    let here = here();
    for output in [&["-o", "-"][..], &["--", "cat"]] {
        let finished = run(&mut program(FILE_CLIENT, here.path(), &[&["--json", "localhost"], output].concat()));
        assert_eq!((finished.status, finished.stdout(), finished.stderr().lines().count()), (2, String::new(), 2));
    }
    // Behind `--` it is the command's.
    let finished = run(&mut program(FILE_SERVER, here.path(), &["words", "--", "cat", "--json"]));
    assert_eq!((finished.status, finished.stdout()), (2, String::new()));
}

#[test]
fn missing_file_is_reported() {
    assert_server_fails(&["0", "-f", "no/such.txt"], 1, "could not open no/such.txt: no such file or directory");
    assert_server_fails(&["0", "-f", "destination.txt/x"], 1, "could not open destination.txt/x: not a directory");
}

#[test]
fn directory_in_place_of_a_file_is_reported() {
    let archive = "to send a directory, type: file-server PORT -- tar c DIRECTORY";
    assert_server_fails(&["0", "-f", "dir"], 1, &format!("could not open dir: is a directory; {archive}"));
    let name = "name the file: -o dir/NAME";
    assert_client_fails(&["127.0.0.1", "1", "-o", "dir"], 1, &format!("dir is a directory; {name}"));
}

#[test]
fn control_characters_of_a_file_name_are_escaped_in_errors() {
    let line = r"could not open \u{1b}[31mred\n: no such file or directory";
    assert_server_fails(&["0", "-f", "\x1b[31mred\n"], 1, line);
}

#[test]
fn missing_output_directory_is_reported() {
    assert_client_fails(&["127.0.0.1", "1", "-o", "no/x"], 1, &format!("could not write no/x: {}", no_directory("no")));
    assert_client_fails(&["127.0.0.1", "1", "-o", "no/"], 1, &format!("could not write no/: {NO_DIRECTORY}"));
    let not_a_directory = "could not write destination.txt/x: not a directory";
    assert_client_fails(&["127.0.0.1", "1", "-o", "destination.txt/x"], 1, not_a_directory);
}

#[test]
fn unwritable_standard_output_is_reported() {
    let here = here();
    let mut client = file_client(here.path(), 1, &["-o", "-"]);
    let status = client.stdout(fs::File::open("/dev/null").unwrap()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    let line = "file-client: could not write standard output: bad file descriptor\n";
    assert_eq!(String::from_utf8_lossy(&status.stderr), line);
}

#[test]
fn quiet_server_prints_the_port_that_the_kernel_picked() {
    let here = here();
    let server = Server::start(&mut program(FILE_SERVER, here.path(), &["-q", "-f", "destination.txt", "0"]));
    assert_ne!(server.port, 0);
}

#[test]
fn output_link_that_leads_nowhere_is_reported() {
    let here = here();
    symlink("loop", here.path().join("loop")).unwrap();
    symlink("no/such", here.path().join("broken")).unwrap();
    let mut client = file_client(here.path(), 1, &["-o", "loop"]);
    assert_fails_in(&here, &mut client, 1, "file-client: could not write loop: too many levels of symbolic links");
    let mut client = file_client(here.path(), 1, &["-o", "broken"]);
    assert_fails_in(&here, &mut client, 1, &format!("file-client: could not write broken: {}", no_directory("./no")));
}

#[test]
fn port_in_use_is_reported() {
    let here = here();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut server = program(FILE_SERVER, here.path(), &["--file", "destination.txt", &port]);
    assert_fails_in(
        &here,
        &mut server,
        1,
        &format!("file-server: could not listen on port {port}: address already in use; port 0 picks a free one"),
    );
    let line =
        format!("file-server: could not listen on 127.0.0.1:{port}: address already in use; port 0 picks a free one");
    assert_fails_in(&here, server.args(["--bind", "127.0.0.1"]), 1, &line);
}

#[test]
fn address_of_another_machine_is_reported() {
    // Reserved for documentation (RFC 5737), so no machine has it.
    let line = "could not listen on 192.0.2.1:0: this machine does not have that address";
    assert_server_fails(&["--bind", "192.0.2.1", "0", "--file", "destination.txt"], 1, line);
}

#[test]
fn refused_connection_is_reported() {
    let (here, port) = (here(), ReservedPort::new());
    let client = |host| program(FILE_CLIENT, here.path(), &[host, &port.number.to_string()]);
    let refused = |host| format!("file-client: could not connect to {host}:{}: connection refused", port.number);
    assert_fails_in(&here, &mut client("127.0.0.1"), 1, &refused("127.0.0.1"));
    if has_ipv6() {
        assert_fails_in(&here, &mut client("localhost"), 1, &refused("localhost"));
    } else {
        // It may have an IPv6 address nevertheless, which fails for another reason.
        let finished = run(&mut client("localhost"));
        assert_eq!((finished.status, finished.stderr().lines().count()), (1, 1), "{finished:?}");
        assert!(finished.stderr().starts_with(&refused("localhost")), "{finished:?}");
    }
}

#[test]
fn unknown_host_is_reported() {
    let here = here();
    let before = state_of(here.path());
    // Never a host (RFC 6761). The reason depends on the machine's resolver, which may take minutes to find one.
    let client = run(&mut program(FILE_CLIENT, here.path(), &["nowhere.invalid", "9190", "--timeout=20s"]));
    assert_eq!((client.status, client.stderr().lines().count()), (1, 1), "{client:?}");
    assert!(client.stderr().starts_with("file-client: could not resolve host nowhere.invalid: "), "{client:?}");
    assert_eq!(state_of(here.path()), before);
}

#[test]
fn bad_output_does_not_use_up_the_server() {
    let (fixture, here) = (Fixture::new("new"), here());
    let server = fixture.server(&[]);
    for output in ["dir", "no/x", "no/", "destination.txt/x", "/proc/x"] {
        let before = state_of(here.path());
        let client = run(&mut file_client(here.path(), server.port, &["--output", output]));
        assert_eq!((client.status, client.stderr().lines().count()), (1, 1), "{client:?}");
        assert_eq!(state_of(here.path()), before);
    }
    let client = run(&mut file_client(here.path(), server.port, &[]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"new");
}

/// A program run by an unprivileged user, because root has every permission, in a directory that any user can write to.
fn unprivileged(path: &str, here: &TempDir) -> Command {
    let mut command = program(path, here.path(), &[]);
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(here.path(), Permissions::from_mode(0o777)).unwrap();
        // That user may not be permitted to enter the directory that this project is built in.
        let copy = here.path().join("program");
        copy_program(path, &copy);
        command = program(copy.to_str().unwrap(), here.path(), &[]);
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn unreadable_file_is_reported() {
    let here = here();
    let mut server = unprivileged(FILE_SERVER, &here);
    fs::write(here.path().join("des.txt"), "secret").unwrap();
    fs::set_permissions(here.path().join("des.txt"), Permissions::from_mode(0o000)).unwrap();
    assert_fails_in(&here, server.arg("0"), 1, "file-server: could not open des.txt: permission denied");
}

#[test]
fn unwritable_output_is_reported() {
    let here = here();
    let mut client = unprivileged(FILE_CLIENT, &here);
    client.args(["127.0.0.1", "1"]);
    let line = "file-client: could not write destination.txt: permission denied";
    fs::set_permissions(here.path().join("destination.txt"), Permissions::from_mode(0o444)).unwrap();
    assert_fails_in(&here, &mut client, 1, line);

    fs::set_permissions(here.path().join("destination.txt"), Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(here.path(), Permissions::from_mode(0o555)).unwrap();
    assert_fails_in(&here, &mut client, 1, line);
    let line = "file-client: could not write new.txt: permission denied";
    assert_fails_in(&here, client.args(["-o", "new.txt"]), 1, line);
    fs::set_permissions(here.path(), Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn privileged_port_is_reported() {
    let first_unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first_unprivileged.trim() != "1024" {
        return report_skipped("this machine permits every user to listen on every port");
    }
    let here = here();
    let mut server = unprivileged(FILE_SERVER, &here);
    server.args(["--file", "destination.txt", "--bind", "127.0.0.1", "7"]);
    let line = "file-server: could not listen on 127.0.0.1:7: permission denied; take a port from 1024 up";
    assert_fails_in(&here, &mut server, 1, line);
}

#[test]
fn read_only_file_system_is_reported() {
    if !is_root() {
        return;
    }
    let here = here();
    // In a mount namespace of its own, so that the mount ends with the process.
    let client = after("mount -t tmpfs -o ro none dir", &file_client(here.path(), 1, &["--output", "dir/x"]));
    let mut client = through(&["unshare", "--mount"], &client);
    assert_fails_in(&here, &mut client, 1, "file-client: could not write dir/x: read-only file system");
}

#[track_caller]
fn prints(path: &str, arguments: &[&str]) -> String {
    let here = directory();
    let printed = run(&mut program(path, here.path(), arguments));
    assert_eq!((printed.status, &*printed.stderr()), (0, ""), "{arguments:?}");
    assert_eq!(names_in(here.path()), [""; 0]);
    printed.stdout()
}

#[test]
fn version_is_that_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(prints(FILE_SERVER, &["-V"]), format!("file-server {version}\n"));
    assert_eq!(prints(FILE_CLIENT, &["--version"]), format!("file-client {version}\n"));
}

#[test]
fn short_help_is_short_and_long_help_has_examples_and_exit_statuses() {
    for (path, usage) in [
        (
            FILE_SERVER,
            "file-server [OPTIONS] <PORT> [-- <COMMAND>...]\n       \
            file-server [OPTIONS] --connect <HOST> <PORT> [-- <COMMAND>...]",
        ),
        (
            FILE_CLIENT,
            "file-client [OPTIONS] <HOST> <PORT> [-- <COMMAND>...]\n       \
            file-client [OPTIONS] --listen <PORT> [-- <COMMAND>...]",
        ),
    ] {
        let (short, long) = (prints(path, &["-h"]), prints(path, &["--help"]));
        for help in [&short, &long] {
            assert!(help.contains(&format!("\nUsage: {usage}\n")), "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
        assert!(!short.contains("Examples:") && short.len() < long.len(), "{short}");
        assert!(short.lines().count() <= 50, "more than a screen: {short}");
        assert!(long.contains("\nExamples:\n") && long.contains("\nExit status:\n"), "{long}");
    }
}

#[test]
fn every_shell_has_completions() {
    for path in BOTH {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = prints(path, &["--completions", shell]);
            let name = Path::new(path).file_name().unwrap().to_str().unwrap();
            for part in [name, "timeout", "json", if path == FILE_CLIENT { "listen" } else { "until-stored" }] {
                assert!(script.contains(part), "{part} of {name} for {shell}: {script}");
            }
        }
    }
    let unknown = "invalid value 'csh' for '--completions <SHELL>' \
        [possible values: bash, elvish, fish, powershell, zsh]; tip: a similar value exists: 'zsh'";
    assert_client_rejects(&["--completions", "csh"], unknown);
}

#[test]
fn bash_accepts_its_completions_and_completes_a_command_after_two_dashes() {
    if !Path::new("/bin/bash").exists() {
        return report_skipped("there is no bash");
    }
    for path in BOTH {
        let (script, mut to_bash) = io::pipe().unwrap();
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let command = "source /dev/stdin && complete -p \"$0\" && \
            COMP_WORDS=(\"$0\" 9190 -- tes) COMP_CWORD=3 && \"_$1_command\" \"$0\" tes -- && \
            printf '%s,' \"${COMPREPLY[@]}\"";
        let mut bash = program("/bin/bash", Path::new("/"), &["-c", command, name, &name.replace('-', "__")]);
        let bash = Running::start(bash.stdin(script));
        to_bash.write_all(prints(path, &["--completions", "bash"]).as_bytes()).unwrap();
        drop(to_bash);
        let bash = bash.finish();
        assert_eq!((bash.status, &*bash.stderr()), (0, ""), "{bash:?}");
        assert!(bash.stdout().contains("test,"), "{bash:?}");
    }
}

#[test]
fn man_page_has_a_title_and_every_section() {
    for (path, name, option, partner) in
        [(FILE_SERVER, "file-server", "file", "file-client"), (FILE_CLIENT, "file-client", "output", "file-server")]
    {
        let page = prints(path, &["--man"]);
        assert!(page.contains(&format!("\n.TH {name} 1")), "{page}");
        assert!(page.contains(&format!("\\-\\-{option}\\fR \\fI<PATH>\\fR [default: ")), "{page}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ENVIRONMENT", "EXAMPLES", "VERSION"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{page}");
        }
        let page = page.replace("\\-", "-");
        assert!(page.contains("\n.SH \"EXIT STATUS\"\n.nf\n0  "), "{page}");
        assert!(page.contains("\nHALF_CLOSE_KEY  the key"), "{page}");
        assert!(page.contains(&format!("\n.SH \"SEE ALSO\"\n.nf\n{partner}(1), half-close(1), ")), "{page}");
    }
}

#[test]
fn help_and_the_like_end_silently_on_a_closed_pipe() {
    for path in BOTH {
        for arguments in [&["-h"][..], &["--help"], &["-V"], &["--man"], &["--completions", "bash"]] {
            let (reader, writer) = io::pipe().unwrap();
            drop(reader);
            let printed = Command::new(path).args(arguments).stdin(Stdio::null()).stdout(writer).output().unwrap();
            assert!(printed.status.code().is_some_and(|status| status <= 1), "{arguments:?}: {printed:?}");
            assert_eq!(printed.stderr, b"", "{arguments:?}");
        }
    }
}

#[test]
fn help_and_the_like_report_a_full_disk() {
    let Ok(full) = fs::File::create("/dev/full") else { return report_skipped("there is no /dev/full") };
    for argument in ["-h", "-V", "--man"] {
        let stdout = full.try_clone().unwrap();
        let printed = Command::new(FILE_CLIENT).arg(argument).stdin(Stdio::null()).stdout(stdout).output().unwrap();
        let line = "file-client: could not write to standard output: no space left on device\n";
        assert_eq!((printed.status.code(), &*String::from_utf8_lossy(&printed.stderr)), (Some(1), line));
    }
}

/// Whether the pipe has no reader (poll(2)).
fn has_no_reader(writer: &io::PipeWriter) -> bool {
    let mut ends = [PollFd::new(writer, PollFlags::OUT)];
    rustix::event::poll(&mut ends, Some(&Timespec::default())).unwrap();
    ends[0].revents().contains(PollFlags::ERR)
}

#[test]
fn result_that_cannot_be_printed_is_a_warning() {
    let fixture = Fixture::new("stored all the same");
    let server = fixture.server(&[]);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    // A program that another test starts at the moment may have inherited the reader.
    wait_until("the pipe has no reader", || has_no_reader(&writer));
    let client = fixture.client_command(server.port, &[]).stdout(writer).output().unwrap();
    let warning = "file-client: warning: could not write to standard output: broken pipe\n";
    assert_eq!((client.status.code(), &*String::from_utf8_lossy(&client.stderr)), (Some(0), warning));
    assert_eq!(server.finish().status, 0);
    fixture.assert_replaced();
}
