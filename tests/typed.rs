//! What people type who know other programs: each gets one line with what to type here, their own values in it, and nothing
//! is read, written or connected to.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

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

#[track_caller]
fn prints(path: &str, arguments: &str, status: i32, line: &str) {
    let here = here();
    let before = names_in(here.path());
    let arguments = shlex::split(arguments).unwrap();
    let finished = run(program(path, here.path(), &[]).args(&arguments));
    let name = Path::new(path).file_name().unwrap().to_str().unwrap();
    assert_eq!(finished.stderr(), format!("{name}: {line}\n"), "{arguments:?}");
    assert_eq!((finished.status, finished.stdout()), (status, String::new()), "{arguments:?}");
    assert_eq!(names_in(here.path()), before, "{arguments:?}");
}

#[track_caller]
fn client_prints(arguments: &str, line: &str) {
    prints(FILE_CLIENT, arguments, 2, line);
}

#[track_caller]
fn server_prints(arguments: &str, line: &str) {
    prints(FILE_SERVER, arguments, 2, line);
}

#[test]
fn a_url_a_user_and_a_path_are_taken_off_the_host() {
    for typed in [
        "http://host:9190/",
        "http://host:9190/des.txt",
        "https://me:secret@host:9190",
        "ftp://host 9190",
        "host:9190/",
        "host:9190:",
        "tcp:host:9190",
        "me@host 9190",
        "me@host:9190",
        "host:/tmp/des.txt 9190",
        "host/ 9190",
        "host:9190 9190",
        "9190 host",
        "9190 host:/tmp",
        "host -p 9190",
        "-p9190 host",
        "--port 9190 host",
        "--port=9190 me@host",
    ] {
        client_prints(typed, "to fetch from host, type: file-client host 9190");
    }
    client_prints("http://[::1]:9190/", "to fetch from [::1], type: file-client '[::1]' 9190");
    client_prints("9190 fe80::1%eth0", "to fetch from fe80::1%eth0, type: file-client 'fe80::1%eth0' 9190");
}

#[test]
fn what_is_missing_is_named() {
    client_prints("", "the host and the port are missing, type: file-client HOST PORT");
    client_prints("host", "the port is missing, type: file-client host PORT");
    client_prints("host:", "the port is missing, type: file-client host PORT");
    client_prints("me@host:/tmp/x", "the port is missing, type: file-client host PORT");
    client_prints("::1", "the port is missing, type: file-client ::1 PORT");
    client_prints("9190", "the host is missing, type: file-client HOST 9190");
    server_prints("", "the port is missing, type: file-server PORT");
    server_prints("-f photo.jpg", "the port is missing, type: file-server --file photo.jpg PORT");
}

#[test]
fn a_port_out_of_range_is_named() {
    let out_of_range = "'70000' is not a port from 1 to 65535, type: file-client host PORT";
    for typed in ["host:70000", "http://host:70000", "host -p 70000"] {
        client_prints(typed, out_of_range);
    }
    client_prints("host:0", "'0' is not a port from 1 to 65535, type: file-client host PORT");
    let in_place = "invalid value '70000' for '<PORT>': not a port from 1 to 65535; for more information, try '--help'";
    client_prints("host 70000", in_place);
    client_prints(
        "70000 host",
        "invalid value 'host' for '<PORT>': not a port from 1 to 65535; \
        for more information, try '--help'",
    );
}

#[test]
fn the_client_s_file_is_its_output() {
    client_prints("host 9190 x.jpg", "to store the file as x.jpg, type: file-client --output x.jpg host 9190");
    client_prints("host:9190 'a b'", "to store the file as a b, type: file-client --output 'a b' host 9190");
    client_prints("-f x.jpg host 9190", "to store the file as x.jpg, type: file-client --output x.jpg host 9190");
    client_prints("--file=x.jpg host", "to store the file as x.jpg, type: file-client --output x.jpg host PORT");
    client_prints("-f -x host 9190", "'-f' is an option of file-server; for more information, try '--help'");
}

#[test]
fn own_options_are_kept() {
    client_prints(
        "--size 7 http://host:9190 -qw 30s -o 'my file'",
        "to fetch from host, type: file-client --output 'my file' --wait 30s --size 7 --quiet host 9190",
    );
    server_prints(
        "--allow 10.0.0.0/8 -k photo.jpg --allow ::1 9190",
        "to send photo.jpg, type: file-server --keep-open --allow 10.0.0.0/8 --allow ::1 --file photo.jpg 9190",
    );
}

#[test]
fn a_file_given_to_the_server_as_a_word_belongs_to_an_option() {
    for typed in ["photo.jpg 9190", "9190 photo.jpg", "-o photo.jpg 9190", "-p 9190 photo.jpg", "-l 9190 photo.jpg"] {
        server_prints(typed, "to send photo.jpg, type: file-server --file photo.jpg 9190");
    }
    server_prints("photo.jpg", "to send photo.jpg, type: file-server --file photo.jpg PORT");
    server_prints("2024 9190", "to send 2024, type: file-server --file 2024 9190");
    server_prints("no.jpg 9190", "to send no.jpg, type: file-server --file no.jpg 9190");
    server_prints("'two words.jpg' 9190", "to send two words.jpg, type: file-server --file 'two words.jpg' 9190");
    server_prints("-- -x.jpg 9190", "to send -x.jpg, type: file-server --file ./-x.jpg 9190");
    server_prints("- 9190", "to send standard input, type: file-server --file - 9190");
    server_prints("'$(reboot)' 9190", "to send $(reboot), type: file-server --file '$(reboot)' 9190");
    server_prints("'\u{1b}[1m' 9190", r"to send \u{1b}[1m, type: file-server --file PATH 9190");
}

#[test]
fn directories_and_several_files_go_through_tar() {
    server_prints("dir 9190", "to send dir, type: tar c dir | file-server --file - 9190");
    server_prints(
        "photo.jpg dir 'two words.jpg' 9190",
        "to send 3 files, type: tar c photo.jpg dir 'two words.jpg' | file-server --file - 9190",
    );
    server_prints("-f photo.jpg 2024 9190", "to send 2 files, type: tar c photo.jpg 2024 | file-server --file - 9190");
    server_prints("-q -- dir -x.jpg", "to send 2 files, type: tar c dir ./-x.jpg | file-server --quiet --file - PORT");
    let many = "dir ".repeat(9) + "9190";
    server_prints(&many, "to send 9 files, type: tar c FILE... | file-server --file - 9190");
    let for_several = "type: tar cf files.tar dir && file-server --keep-open --file files.tar 9190";
    server_prints("-k dir 9190", &format!("to send dir, {for_several}"));
    let directory = "could not open dir: is a directory; to send dir, ";
    let once = "type: tar c dir | file-server --file - 9190";
    prints(FILE_SERVER, "-f dir 9190", 1, &format!("{directory}{once}"));
    prints(FILE_SERVER, "-k 9190 --file=dir", 1, &format!("{directory}{for_several}"));
}

#[test]
fn an_address_to_listen_on_belongs_to_an_option() {
    for typed in ["127.0.0.1:9190", "127.0.0.1 9190", "9190 localhost", "localhost:9190", "-p 9190 127.0.0.1"] {
        server_prints(typed, "to listen on 127.0.0.1, type: file-server --bind 127.0.0.1 9190");
    }
    server_prints("[::1]:9190", "to listen on ::1, type: file-server --bind ::1 9190");
    server_prints("::1 photo.jpg 9190", "to send photo.jpg, type: file-server --bind ::1 --file photo.jpg 9190");
    for typed in ["-p 9190", "--port 9190", "-l 9190", "-l -p 9190", "-lp 9190", ":9190"] {
        server_prints(typed, "to listen on port 9190, type: file-server 9190");
    }
}

#[test]
fn options_of_the_other_program_are_said_to_be_so() {
    let more = "; for more information, try '--help'";
    for option in ["--keep-open", "-k", "--allow", "--chunk-size", "-n"] {
        client_prints(&format!("{option} 1 host 9190"), &format!("'{option}' is an option of file-server{more}"));
    }
    for option in ["--wait", "-w", "--size", "--no-clobber"] {
        server_prints(&format!("{option} 1 9190"), &format!("'{option}' is an option of file-client{more}"));
    }
    client_prints("--allowed host 9190", &format!("unexpected argument '--allowed' found{more}"));
}

#[test]
fn the_client_encrypts_with_the_key_of_the_server() {
    let encrypt = "to encrypt with the server's key, type: file-client";
    client_prints("--encrypt host 9190", &format!("{encrypt} --key-file - host 9190"));
    client_prints("host:9190 --encrypt -q", &format!("{encrypt} --quiet --key-file - host 9190"));
    client_prints("--encrypt --key-file key host 9190", &format!("{encrypt} --key-file key host 9190"));
    client_prints("--encrypt", "the host and the port are missing, type: file-client --key-file - HOST PORT");
}

#[test]
fn the_name_at_the_client_is_the_client_s() {
    let line = "the client names the file it stores: file-client --output x.jpg HOST 9190";
    server_prints("-f photo.jpg -o x.jpg 9190", line);
    server_prints("photo.jpg --output x.jpg 9190", line);
}

#[test]
fn no_default_file_names_the_option_for_another() {
    let line = "could not open des.txt: no such file or directory; to send another file, type: ";
    prints(FILE_SERVER, "9190", 1, &format!("{line}file-server --file PATH 9190"));
    prints(FILE_SERVER, "-k 9190", 1, &format!("{line}file-server --keep-open --file PATH 9190"));
    prints(FILE_SERVER, "-f no.jpg 9190", 1, "could not open no.jpg: no such file or directory");
}

#[test]
fn a_directory_to_store_into_needs_a_name() {
    prints(FILE_CLIENT, "-o dir/ host 9190", 1, "dir/ is a directory; name the file: -o dir/NAME");
    prints(FILE_CLIENT, "-o dir host 9190", 1, "dir is a directory; name the file: -o dir/NAME");
    prints(FILE_CLIENT, "-o . host 9190", 1, ". is a directory; name the file: -o ./NAME");
}

#[test]
fn what_cannot_be_understood_is_refused_without_advice() {
    let more = "; for more information, try '--help'";
    client_prints("host 9190 9191", &format!("unexpected argument '9191' found{more}"));
    client_prints("host a b 9190", &format!("unexpected argument 'b' found{more}"));
    client_prints("host words", &format!("invalid value 'words' for '<PORT>': not a port from 1 to 65535{more}"));
    client_prints("'a b' 9190", &format!("invalid value 'a b' for '<HOST>': not a name or address{more}"));
    server_prints("words", &format!("invalid value 'words' for '<PORT>': not a port from 0 to 65535{more}"));
    server_prints("9190 9191", &format!("unexpected argument '9191' found{more}"));
    server_prints("a.jpg b.jpg 9190", &format!("unexpected argument 'b.jpg' found{more}"));
}

#[test]
fn service_that_waits_after_a_greeting_is_told_from_a_silent_one() {
    let here = directory();
    let check = |greeting: &str, reason: &str| {
        let listener = Listener::new();
        let client = Running::start(&mut file_client(here.path(), listener.port(), &["--timeout", "3s"]));
        let mut service = listener.accept();
        service.write_all(greeting.as_bytes()).unwrap();
        let client = client.finish();
        let line = format!("file-client: could not receive all of destination.txt: {reason}\n");
        assert_eq!((client.status, client.stderr()), (1, line));
    };
    thread::scope(|scope| {
        let greeting = "220 mail.example ESMTP\r\n";
        scope.spawn(move || check(greeting, "24 bytes arrived, but no end: no progress for 3s"));
        scope.spawn(move || check("", "no progress for 3s; the server may be waiting for --key"));
    });
    assert_eq!(names_in(here.path()), [""; 0]);
}
