//! Outputs that are not regular files are written directly and stay what they are: devices, FIFOs, standard output.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use crate::common::files::{assert_file, make_fifo};
use crate::common::fixture::{assert_replaced, transfer};
use crate::common::messages::received;
use crate::common::processes::in_shell;
use crate::common::{Finished, Fixture, assert_same, content, directory, file_client, is_root, names_in};
use crate::{assert_refused, client_to};

/// More than any pipe holds.
const LARGE: usize = 3_000_001;

#[test]
fn device_is_written_and_stays_a_device() {
    let here = directory();
    let outcome = transfer(&vec![1; LARGE], |port| client_to(here.path(), port, "/dev/null"));
    outcome.assert_stored();
    assert_eq!(outcome.client.stdout(), received(LARGE, "/dev/null"));
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn full_device_is_reported() {
    let here = directory();
    for size in [1, LARGE] {
        let outcome = transfer(&vec![1; size], |port| client_to(here.path(), port, "/dev/full"));
        outcome.assert_failed("could not write /dev/full: no space left on device");
        let to_standard_output = |port| in_shell("exec \"$@\" > /dev/full", &client_to(here.path(), port, "-"));
        transfer(&vec![1; size], to_standard_output)
            .assert_failed("could not write standard output: no space left on device");
    }
}

#[test]
fn fifo_gets_every_byte_and_stays_a_fifo() {
    let here = directory();
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
fn fifo_without_a_reader_is_reported_and_waited_for() {
    let fixture = Fixture::new("what a program reads");
    let (here, server) = (directory(), fixture.server(&[]));
    make_fifo(&here.path().join("fifo"));
    let mut client = client_to(here.path(), server.port, "fifo");
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "fifo: waiting for a program that reads from this FIFO\n");
    assert_file(&here.path().join("fifo"), fixture.bytes());
    assert!(client.wait().unwrap().success());
    assert_eq!(server.finish().status, 0);
}

#[test]
fn socket_is_refused_before_connecting() {
    let here = directory();
    let _listener = UnixListener::bind(here.path().join("socket")).unwrap();
    let refusal = "could not write socket: no such device or address";
    assert_refused(refusal, |port| client_to(here.path(), port, "socket"));
}

/// The file is on standard output, and the result on standard error.
fn assert_printed(client: &Finished, bytes: &[u8]) {
    assert_same(&client.stdout, bytes, "standard output");
    assert_eq!(client.stderr(), received(bytes.len(), "standard output"));
}

#[test]
fn standard_output_gets_the_file_and_nothing_else() {
    let here = directory();
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
fn open_file_descriptor_can_be_the_output() {
    let here = directory();
    let bytes = content(LARGE, 4);
    let outcome =
        transfer(&bytes, |port| in_shell("exec \"$@\" 3>&1 > /dev/null", &client_to(here.path(), port, "/dev/fd/3")));
    outcome.assert_stored();
    assert_same(&outcome.client.stdout, &bytes, "the descriptor");
}

#[test]
fn standard_output_may_be_a_file_that_is_not_empty() {
    let here = directory();
    let bytes = content(LARGE, 5);
    for output in ["-", "/dev/stdout"] {
        for (script, before) in [(">> all", "before"), ("> all", ""), ("1<> all", "")] {
            fs::write(here.path().join("all"), "before").unwrap();
            let script = format!("exec \"$@\" {script}");
            let outcome = transfer(&bytes, |port| in_shell(&script, &client_to(here.path(), port, output)));
            outcome.assert_stored();
            assert_file(&here.path().join("all"), &[before.as_bytes(), &bytes].concat());
            assert_eq!(names_in(here.path()), ["all"]);
        }
    }
}

#[test]
fn closed_pipe_is_reported_with_status_1() {
    let here = directory();
    let script = "{ \"$@\"; echo $? > status; } | head -c 1 > /dev/null";
    let outcome = transfer(&vec![1; LARGE], |port| in_shell(script, &client_to(here.path(), port, "-")));
    assert_eq!(fs::read_to_string(here.path().join("status")).unwrap(), "1\n");
    assert_eq!(outcome.client.stderr(), "file-client: could not write standard output: broken pipe\n");
    assert_eq!(outcome.server.status, 1);
}

#[test]
fn unprintable_result_is_a_warning_when_the_file_is_stored() {
    let here = directory();
    let outcome = transfer(b"new", |port| in_shell("exec \"$@\" > /dev/full", &file_client(here.path(), port, &[])));
    assert_eq!((outcome.client.status, outcome.server.status), (0, 0));
    let warning = "file-client: warning: could not write to standard output: no space left on device\n";
    assert_eq!(outcome.client.stderr(), warning);
    assert_replaced(here.path(), b"new");
}

#[test]
fn a_closed_standard_output_is_refused_before_connecting() {
    let here = directory();
    for (output, name) in [("-", "standard output"), ("/dev/stdout", "standard output"), ("/dev/fd/1", "/dev/fd/1")] {
        let refusal = format!("could not write {name}: it is closed; to discard the bytes, use '--output /dev/null'");
        assert_refused(&refusal, |port| {
            // The shell's own output is what the test reads.
            in_shell("exec \"$@\" >&-", &client_to(here.path(), port, output))
        });
    }
    // It is not closed if it leads to the same device.
    let outcome = transfer(b"new", |port| in_shell("exec \"$@\" > /dev/null", &client_to(here.path(), port, "-")));
    outcome.assert_stored();
}

/// A typing error in the name of a disk must not fill the memory that `/dev` is in.
#[test]
fn a_device_that_does_not_exist_is_not_created_as_a_file() {
    if !is_root() {
        return;
    }
    let here = directory();
    for output in ["/dev/no-such-disk", "/dev/half-close-test"] {
        let refusal = format!("could not write {output}: no such device");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
        assert!(!Path::new(output).exists());
    }
}
