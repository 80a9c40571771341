//! Whatever ends a transfer before its last step, the destination is unchanged. A truncated stream is stored only if
//! it ends like a whole one and the client was not told what to expect.

use std::fs;
use std::process::Command;

use half_close::protocol::THANK_YOU;

use crate::assert_refused;
use crate::common::files::make_fifo;
use crate::common::fixture::{OLD, assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::messages::{CLIENT_INTERRUPTED, EXISTS_NO_CLOBBER, too_long, too_short, wrong_digest};
use crate::common::processes::sleeps_with_thread;
use crate::common::{
    Running, Signal, content, directory, file_client, has_unnamed_files, names_in, run, sha256, wait_until,
};
use crate::stalled_server::StalledServer;

const HALF: usize = 300_001;

#[test]
fn new_file_appears_only_when_it_is_whole() {
    if !has_unnamed_files() {
        return;
    }
    let bytes = content(2 * HALF, 1);
    for old in [false, true] {
        let here = if old { directory_with_old() } else { directory() };
        let server = StalledServer::start(&bytes[..HALF], |port| file_client(here.path(), port, &[]));
        if old {
            assert_untouched(here.path());
        } else {
            assert_eq!(names_in(here.path()), [""; 0]);
        }
        let (reply, client) = server.half_close(&bytes[HALF..]);
        assert_eq!((&reply[..], client.status), (THANK_YOU, 0), "{client:?}");
        assert_replaced(here.path(), &bytes);
    }
}

#[test]
fn signal_during_the_transfer_leaves_the_old_file_and_nothing_else() {
    if !has_unnamed_files() {
        return;
    }
    let reported = format!("{CLIENT_INTERRUPTED}\n");
    let signals = [
        (Signal::INT, 130, &*reported),
        (Signal::TERM, 143, &reported),
        (Signal::HUP, 129, &reported),
        (Signal::QUIT, 131, &reported),
        (Signal::KILL, 137, ""),
    ];
    for (signal, status, printed) in signals {
        let here = directory_with_old();
        let server = StalledServer::start(&content(HALF, 1), |port| file_client(here.path(), port, &[]));
        let client = server.kill_client(signal);
        assert_eq!((client.status, &*client.stdout(), &*client.stderr()), (status, "", printed));
        assert_untouched(here.path());
    }
}

#[test]
fn interrupt_ends_waiting_for_a_server_and_for_a_reader() {
    let here = directory_with_old();
    // Port 1 has no listener.
    let mut waiting = Running::start(&mut file_client(here.path(), 1, &["--wait", "60s"]));
    waiting.wait_for_line("waiting for 127.0.0.1:1");
    waiting.signal(Signal::INT);
    assert_eq!(waiting.finish().status, 130);
    assert_untouched(here.path());

    make_fifo(&here.path().join("fifo"));
    let waiting = Running::start(&mut file_client(here.path(), 1, &["-o", "fifo"]));
    wait_until("it catches signals and sleeps", || sleeps_with_thread(waiting.pid(), "signals"));
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.finish().status, 143);
}

#[test]
fn no_clobber_keeps_a_file_that_exists_before_or_appears_during_the_transfer() {
    let here = directory_with_old();
    let refusal = format!("could not write destination.txt: {EXISTS_NO_CLOBBER}");
    assert_refused(&refusal, |port| file_client(here.path(), port, &["--no-clobber"]));
    assert_untouched(here.path());

    let here = directory();
    let server = StalledServer::start(&content(HALF, 1), |port| file_client(here.path(), port, &["--no-clobber"]));
    fs::write(here.path().join("destination.txt"), OLD).unwrap();
    let (reply, client) = server.half_close(b"");
    assert_eq!((client.status, reply), (1, Vec::new()));
    assert_eq!(client.stderr(), "file-client: could not write destination.txt: file exists\n");
    assert_untouched(here.path());

    let here = directory();
    let outcome = transfer(b"new", |port| file_client(here.path(), port, &["--no-clobber"]));
    outcome.assert_stored();
    assert_replaced(here.path(), b"new");
}

#[test]
fn directory_that_takes_the_name_during_the_transfer_is_reported() {
    let here = directory();
    let server = StalledServer::start(&content(HALF, 1), |port| file_client(here.path(), port, &[]));
    fs::create_dir(here.path().join("destination.txt")).unwrap();
    let (reply, client) = server.half_close(b"");
    assert_eq!((client.status, reply), (1, Vec::new()));
    assert_eq!(client.stderr(), "file-client: could not write destination.txt: is a directory\n");
    assert_eq!(names_in(here.path()), ["destination.txt"]);
}

#[test]
fn directory_that_is_removed_during_the_transfer_is_reported() {
    if !has_unnamed_files() {
        return;
    }
    let here = directory();
    fs::create_dir(here.path().join("sub")).unwrap();
    let server = StalledServer::start(&content(HALF, 1), |port| file_client(here.path(), port, &["-o", "sub/new"]));
    fs::remove_dir(here.path().join("sub")).unwrap();
    let (reply, client) = server.half_close(b"");
    assert_eq!((client.status, reply), (1, Vec::new()));
    assert_eq!(client.stderr(), "file-client: could not write sub/new: no such file or directory\n");
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn last_of_two_clients_with_one_destination_wins() {
    if !has_unnamed_files() {
        return;
    }
    let here = directory_with_old();
    let (one, other) = (content(HALF, 1), content(HALF + 1, 2));
    let first = StalledServer::start(&one, |port| file_client(here.path(), port, &[]));
    let second = StalledServer::start(&other, |port| file_client(here.path(), port, &[]));
    assert_eq!(second.half_close(b"").1.status, 0);
    assert_replaced(here.path(), &other);
    assert_eq!(first.half_close(b"").1.status, 0);
    assert_replaced(here.path(), &one);
}

/// `nc` and the textbook server end the stream like this when they are killed.
#[test]
fn truncated_stream_is_stored_unless_size_or_digest_is_given() {
    let half = content(HALF, 1);
    let digest = "0".repeat(64);
    let expectations = [
        (["--size", "600002"], too_short(HALF, 600_002)),
        (["--size", "300000"], too_long(300_000)),
        (["--sha256", &digest], wrong_digest(&sha256(&half))),
    ];
    for (expected, reason) in expectations {
        let here = directory_with_old();
        let server = StalledServer::connect(|port| file_client(here.path(), port, &expected));
        let (reply, client) = server.half_close(&half);
        assert_eq!((client.status, reply), (1, Vec::new()));
        assert_eq!(client.stderr(), format!("file-client: {reason}\n"));
        assert_untouched(here.path());
    }

    let here = directory_with_old();
    let (reply, client) = StalledServer::connect(|port| file_client(here.path(), port, &[])).half_close(&half);
    assert_eq!((client.status, &reply[..]), (0, THANK_YOU));
    assert_replaced(here.path(), &half);
}

#[test]
fn file_with_the_expected_size_and_digest_is_stored() {
    let here = directory_with_old();
    let bytes = content(HALF, 3);
    fs::write(here.path().join("copy"), &bytes).unwrap();
    let sum = run(Command::new("sha256sum").arg(here.path().join("copy"))).stdout();
    fs::remove_file(here.path().join("copy")).unwrap();
    let digest = sum.split(' ').next().unwrap();
    let expected = ["--size", "300001", "--sha256", digest];
    transfer(&bytes, |port| file_client(here.path(), port, &expected)).assert_stored();
    assert_replaced(here.path(), &bytes);
}
