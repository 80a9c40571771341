//! What people type who know other programs: each gets one line that names what to type here, and nothing is read, written
//! or connected to.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::thread;

use common::network::Listener;
use common::{FILE_CLIENT, FILE_SERVER, Running, directory, file_client, names_in, program, run};
use tempfile::TempDir;

/// A directory with what the arguments name.
fn here() -> TempDir {
    let here = directory();
    for file in ["photo.jpg", "two words.jpg", "-x.jpg", "2024"] {
        fs::write(here.path().join(file), file).unwrap();
    }
    fs::create_dir(here.path().join("dir")).unwrap();
    here
}

/// Fails unless the program ends with one line on standard error; returns it without the program's name.
#[track_caller]
fn refusal(path: &str, arguments: &str, status: i32) -> String {
    let here = here();
    let before = names_in(here.path());
    let words = shlex::split(arguments).unwrap();
    let finished = run(program(path, here.path(), &[]).args(&words));
    assert_eq!((finished.status, finished.stdout()), (status, String::new()), "{arguments}: {finished:?}");
    assert_eq!(names_in(here.path()), before, "{arguments}");
    let prefix = format!("{}: ", Path::new(path).file_name().unwrap().to_str().unwrap());
    let printed = finished.stderr();
    let line = printed.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix('\n'));
    line.filter(|line| !line.contains('\n')).unwrap_or_else(|| panic!("{arguments}: {printed}")).to_owned()
}

#[track_caller]
fn client_names(arguments: &str, name: &str) {
    let line = refusal(FILE_CLIENT, arguments, 2);
    assert!(line.contains(name), "{arguments}: {line}");
}

#[track_caller]
fn server_names(arguments: &str, name: &str) {
    let line = refusal(FILE_SERVER, arguments, 2);
    assert!(line.contains(name), "{arguments}: {line}");
}

const CLIENT_USAGE: &str = "usage: file-client [OPTIONS] <HOST> <PORT> [-- <COMMAND>...] (more: --help)";
const SERVER_USAGE: &str = "usage: file-server [OPTIONS] <PORT> [-- <COMMAND>...] (more: --help)";

#[test]
fn each_hint_follows_what_is_wrong() {
    let more = "for a file, type: --file PATH; for a command: -- COMMAND; for an address to listen on: --bind ADDRESS";
    for (path, typed, line) in [
        (
            FILE_CLIENT,
            "http://host:9190",
            "invalid value 'http://host:9190' for '[HOST]': not a name or address; \
            without a URL, type: file-client HOST PORT",
        ),
        (
            FILE_CLIENT,
            "me@host 9190",
            "invalid value 'me@host' for '[HOST]': not a name or address; \
            without a user, type: file-client HOST PORT",
        ),
        (
            FILE_CLIENT,
            "host:/tmp/x 9190",
            "invalid value 'host:/tmp/x' for '[HOST]': not a name or address; \
            without a path, type: file-client HOST PORT",
        ),
        (
            FILE_CLIENT,
            "host -p 9190",
            "unexpected argument '-p' found; the port has no option, type: file-client HOST PORT",
        ),
        (
            FILE_CLIENT,
            "host 9190 x.jpg",
            "unexpected argument 'x.jpg' found; for the name of the file that is stored, type: --output PATH",
        ),
        (
            FILE_CLIENT,
            "-o -x.jpg host 9190",
            "unexpected argument '-x' found; for a name that begins with a dash, type: ./-NAME",
        ),
        (FILE_CLIENT, "-k host 9190", &format!("'-k' is an option of file-server; {CLIENT_USAGE}")),
        (FILE_CLIENT, "host", &format!("the port is missing; {CLIENT_USAGE}")),
        (
            FILE_CLIENT,
            "--encrypt host 9190",
            "--encrypt makes a key where the program listens; where it connects, type: --key-file -",
        ),
        (
            FILE_SERVER,
            "photo.jpg",
            &format!("invalid value 'photo.jpg' for '<PORT>': not a port from 0 to 65535; {more}"),
        ),
        (FILE_SERVER, "9190 photo.jpg", &format!("unexpected argument 'photo.jpg' found; {more}")),
        (FILE_SERVER, "-p 9190", "unexpected argument '-p' found; the port has no option, type: file-server PORT"),
        (FILE_SERVER, "-o x.jpg 9190", &format!("'-o' is an option of file-client; {SERVER_USAGE}")),
    ] {
        assert_eq!(refusal(path, typed, 2), line, "{typed}");
    }
}

#[test]
fn a_url_a_user_a_path_and_an_option_for_the_port_are_named() {
    for (what, typed) in [
        (
            "without a URL",
            &[
                "http://host:9190/",
                "http://host:9190/des.txt",
                "https://me:secret@host:9190",
                "ftp://host 9190",
                "http://[::1]:9190/",
                "http://host:70000",
            ][..],
        ),
        ("without a user", &["me@host 9190", "me@host:9190", "me@host:/tmp/x"]),
        ("without a path", &["host:9190/", "host:/tmp/des.txt 9190", "host/ 9190"]),
        ("the port has no option", &["host -p 9190", "-p9190 host", "--port 9190 host", "--port=9190 me@host"]),
        (CLIENT_USAGE, &["host:9190:", "tcp:host:9190", "host:9190 9190", "9190 host", "9190 host:/tmp"]),
    ] {
        for typed in typed {
            client_names(typed, what);
            client_names(typed, "HOST");
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    client_names("", "the host and the port are missing");
    client_names("host", "the port is missing");
    client_names("host:", "not a port from 1 to 65535");
    client_names("::1", "the port is missing");
    client_names("9190", "the host is missing");
    server_names("", "the port is missing");
    server_names("-f photo.jpg", "the port is missing");
    server_names("-- -x.jpg 9190", "the port is missing");
    server_names("9190 --", "the command after '--' is missing");
    client_names("host 9190 --", "the command after '--' is missing");
}

#[test]
fn a_port_out_of_range_is_named() {
    for typed in ["host:70000", "http://host:70000/", "host:0", "host 70000", "70000 host"] {
        client_names(typed, if typed.contains("://") { "a URL" } else { "not a port from 1 to 65535" });
    }
    client_names("host -p 70000", "the port has no option");
}

#[test]
fn the_client_s_file_is_its_output() {
    for typed in ["host 9190 x.jpg", "host:9190 9190 'a b'"] {
        client_names(typed, "--output PATH");
    }
    for typed in ["-f x.jpg host 9190", "--file=x.jpg host", "-f -x host 9190"] {
        client_names(typed, " is an option of file-server");
    }
}

#[test]
fn a_file_or_an_address_given_to_the_server_as_a_word_belongs_to_an_option() {
    for typed in [
        "photo.jpg 9190",
        "9190 photo.jpg",
        "photo.jpg",
        "2024 9190",
        "no.jpg 9190",
        "'two words.jpg' 9190",
        "'$(reboot)' 9190",
        "'\u{1b}[1m' 9190",
        "dir 9190",
        "photo.jpg dir 'two words.jpg' 9190",
        "-f photo.jpg 2024 9190",
        "-k dir 9190",
        "- 9190",
    ] {
        server_names(typed, "--file PATH");
    }
    for typed in ["127.0.0.1:9190", "127.0.0.1 9190", "9190 localhost", "localhost:9190", "[::1]:9190", ":9190"] {
        server_names(typed, "--bind ADDRESS");
    }
    for typed in ["-p 9190", "--port 9190", "-l 9190", "-l -p 9190", "-lp 9190", "-p 9190 photo.jpg"] {
        server_names(typed, "type: file-server PORT");
    }
    assert!(!refusal(FILE_SERVER, "9190 '\u{1b}[1m'", 2).contains('\u{1b}'));
}

#[test]
fn a_name_that_begins_with_a_dash_is_typed_with_its_directory() {
    for typed in ["-f -x.jpg 9190", "9190 --file -x.jpg", "--key-file -x 9190", "--file --x.jpg 9190", "-f -qx 9190"] {
        server_names(typed, "./-NAME");
    }
    client_names("host 9190 -o -x.jpg", "./-NAME");
}

#[test]
fn a_directory_goes_through_a_command() {
    let line = "could not open dir: is a directory; to send a directory, type: file-server PORT -- tar c DIRECTORY";
    for typed in ["-f dir 9190", "-k 9190 --file=dir"] {
        assert_eq!(refusal(FILE_SERVER, typed, 1), line);
    }
}

#[test]
fn options_of_the_other_program_are_said_to_be_so() {
    for option in ["--keep-open", "-k", "--until-stored", "--connect", "--chunk-size", "-n", "--new-key"] {
        let line = format!("'{option}' is an option of file-server; {CLIENT_USAGE}");
        assert_eq!(refusal(FILE_CLIENT, &format!("{option} 1 host 9190"), 2), line);
    }
    for option in ["--size", "--no-clobber", "--resume", "--listen", "-o"] {
        let line = format!("'{option}' is an option of file-client; {SERVER_USAGE}");
        assert_eq!(refusal(FILE_SERVER, &format!("{option} 1 9190"), 2), line);
    }
    assert_eq!(
        refusal(FILE_CLIENT, "--keep-opened host 9190", 2),
        format!("unexpected argument '--keep-opened' found; {CLIENT_USAGE}")
    );
}

#[test]
fn no_default_file_names_the_option_for_another() {
    let line = "could not open des.txt: no such file or directory; -f PATH sends another file";
    for typed in ["9190", "-k 9190"] {
        assert_eq!(refusal(FILE_SERVER, typed, 1), line);
    }
    assert_eq!(refusal(FILE_SERVER, "-f no.jpg 9190", 1), "could not open no.jpg: no such file or directory");
}

#[test]
fn a_directory_to_store_into_needs_a_name() {
    for (typed, directory, file) in [
        ("-o dir/ host 9190", "dir/", "dir/NAME"),
        ("-o dir host 9190", "dir", "dir/NAME"),
        ("-o . host 9190", ".", "./NAME"),
        ("--listen 9190 --encrypt -o dir", "dir", "dir/NAME"),
    ] {
        let line = format!("{directory} is a directory; name the file: -o {file}");
        assert_eq!(refusal(FILE_CLIENT, typed, 1), line);
    }
}

#[test]
fn the_port_is_no_part_of_the_host_to_connect_to() {
    for typed in ["--connect host:9190", "--connect 192.0.2.1:9190 9190"] {
        let line = refusal(FILE_SERVER, typed, 2);
        assert!(line.ends_with("; the port is a word of its own: --connect HOST PORT"), "{line}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused_with_the_usage() {
    for (typed, problem) in [
        ("host words", "invalid value 'words' for '[PORT]': not a port from 1 to 65535"),
        ("'a b' 9190", "invalid value 'a b' for '[HOST]': not a name or address"),
        ("host 9190 --frobnicate", "unexpected argument '--frobnicate' found"),
    ] {
        assert_eq!(refusal(FILE_CLIENT, typed, 2), format!("{problem}; {CLIENT_USAGE}"));
    }
    let problem = "invalid value '70000' for '<PORT>': not a port from 0 to 65535";
    assert_eq!(refusal(FILE_SERVER, "70000", 2), format!("{problem}; {SERVER_USAGE}"));
}

#[test]
fn service_that_waits_after_a_greeting_is_told_from_a_silent_one() {
    let here = directory();
    let check = |greeting: &str, reason: &str| {
        let listener = Listener::new();
        let client = Running::start(&mut file_client(here.path(), listener.port(), &["--timeout", "10s"]));
        let mut service = listener.accept();
        service.write_all(greeting.as_bytes()).unwrap();
        let client = client.finish();
        // Beside a note after three seconds of silence.
        let line = format!("file-client: could not receive all of destination.txt: {reason}");
        assert_eq!((client.status, client.errors()), (1, vec![line]));
    };
    thread::scope(|scope| {
        let greeting = "220 mail.example ESMTP\r\n";
        scope.spawn(move || check(greeting, "no progress for 10s after 24 B; nothing was stored"));
        scope.spawn(move || check("", "no progress for 10s; the server may be waiting for --key"));
    });
    assert_eq!(names_in(here.path()), [""; 0]);
}
