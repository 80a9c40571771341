//! What is no regular file is written straight and stays what it is: devices, FIFOs, standard output.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::common::{Finished, assert_same, content, file_client, folder, names_in};
use crate::{assert_refused, client_to, in_shell, transfer};

/// More than any pipe holds.
const LARGE: usize = 3_000_001;

pub fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_device_is_written_to_and_stays_a_device() {
    let here = folder();
    let outcome = transfer(&vec![1; LARGE], |port| client_to(here.path(), port, "/dev/null"));
    outcome.assert_stored();
    assert_eq!(outcome.client.stdout(), "Received file data: 3000001 bytes in /dev/null\n");
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn a_device_without_room_is_one_line() {
    let here = folder();
    for size in [1, LARGE] {
        let outcome = transfer(&vec![1; size], |port| client_to(here.path(), port, "/dev/full"));
        outcome.assert_failed("could not write /dev/full: no space left on device");
        let to_standard_output = |port| in_shell("exec \"$@\" > /dev/full", &client_to(here.path(), port, "-"));
        transfer(&vec![1; size], to_standard_output)
            .assert_failed("could not write standard output: no space left on device");
    }
}

#[test]
fn a_fifo_gets_every_byte_and_stays_a_fifo() {
    let here = folder();
    let fifo = here.path().join("fifo");
    make_fifo(&fifo);
    let bytes = content(LARGE, 2);
    let reader = thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    transfer(&bytes, |port| client_to(here.path(), port, "fifo")).assert_stored();
    assert_same(&reader.join().unwrap(), &bytes, "the FIFO");
    assert!(fs::symlink_metadata(fifo).unwrap().file_type().is_fifo());
    assert_eq!(names_in(here.path()), ["fifo"]);
}

#[test]
fn a_socket_can_not_be_written_to() {
    let here = folder();
    let _listener = UnixListener::bind(here.path().join("socket")).unwrap();
    let refusal = "could not write socket: no such device or address";
    assert_refused(refusal, |port| client_to(here.path(), port, "socket"));
}

fn assert_printed(client: &Finished, bytes: &[u8]) {
    assert_same(&client.stdout, bytes, "standard output");
    assert_eq!(client.stderr(), format!("Received file data: {} bytes in standard output\n", bytes.len()));
}

#[test]
fn standard_output_carries_the_file_and_nothing_else() {
    let here = folder();
    for size in [0, 1, LARGE] {
        let bytes = content(size, 3);
        for output in ["-", "/dev/stdout"] {
            let outcome = transfer(&bytes, |port| client_to(here.path(), port, output));
            outcome.assert_stored();
            assert_printed(&outcome.client, &bytes);
        }
    }
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn an_open_file_descriptor_is_an_output_like_any_other() {
    let here = folder();
    let bytes = content(LARGE, 4);
    let outcome =
        transfer(&bytes, |port| in_shell("exec \"$@\" 3>&1 > /dev/null", &client_to(here.path(), port, "/dev/fd/3")));
    outcome.assert_stored();
    assert_same(&outcome.client.stdout, &bytes, "the descriptor");
}

#[test]
fn standard_output_may_be_a_file_with_something_in_it() {
    let here = folder();
    let bytes = content(LARGE, 5);
    for output in ["-", "/dev/stdout"] {
        for (script, before) in [(">> all", "before"), ("> all", ""), ("1<> all", "")] {
            fs::write(here.path().join("all"), "before").unwrap();
            let script = format!("exec \"$@\" {script}");
            let outcome = transfer(&bytes, |port| in_shell(&script, &client_to(here.path(), port, output)));
            outcome.assert_stored();
            let all = fs::read(here.path().join("all")).unwrap();
            assert_same(&all, &[before.as_bytes(), &bytes].concat(), &script);
            assert_eq!(names_in(here.path()), ["all"]);
        }
    }
}

#[test]
fn a_closed_pipe_is_one_line_and_status_1() {
    let here = folder();
    let script = "{ \"$@\"; echo $? > status; } | head -c 1 > /dev/null";
    let outcome = transfer(&vec![1; LARGE], |port| in_shell(script, &client_to(here.path(), port, "-")));
    assert_eq!(fs::read_to_string(here.path().join("status")).unwrap(), "1\n");
    assert_eq!(outcome.client.stderr(), "file-client: could not write standard output: broken pipe\n");
    assert_eq!(outcome.server.status, 1);
}

#[test]
fn a_result_that_can_not_be_printed_does_not_fail_a_file_that_is_stored() {
    let here = folder();
    let outcome = transfer(b"new", |port| in_shell("exec \"$@\" > /dev/full", &file_client(here.path(), port, &[])));
    assert_eq!((outcome.client.status, outcome.server.status), (0, 0));
    let warning = "file-client: warning: could not write to standard output: no space left on device\n";
    assert_eq!(outcome.client.stderr(), warning);
    crate::assert_replaced(here.path(), b"new");
}
