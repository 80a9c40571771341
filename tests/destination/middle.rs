//! Before the last step nothing has happened, whatever ends the transfer; and a torso is taken for a whole file only
//! from a sender that could not say otherwise, by a client that was not told what to expect.

use std::fs;
use std::process::Command;

use hex::encode as hex;
use sha2::{Digest as _, Sha256};

use crate::common::{Pid, Running, Signal, content, file_client, folder, heed, names_in, run};
use crate::held::{Held, until};
use crate::special::make_fifo;
use crate::{OLD, assert_replaced, assert_untouched, folder_with_old};

const HALF: usize = 300_001;

#[test]
fn the_new_file_is_seen_only_when_it_is_whole() {
    let bytes = content(2 * HALF, 1);
    for old in [false, true] {
        let here = if old { folder_with_old() } else { folder() };
        let held = Held::start(&bytes[..HALF], |port| file_client(here.path(), port, &[]));
        if old {
            assert_untouched(here.path());
        } else {
            assert_eq!(names_in(here.path()), [""; 0]);
        }
        let (reply, client) = held.end(&bytes[HALF..]);
        assert_eq!((&reply[..], client.status), (&b"Thank you\0"[..], 0), "{client:?}");
        assert_replaced(here.path(), &bytes);
    }
}

#[test]
fn a_signal_in_the_middle_leaves_the_old_file_and_nothing_else() {
    let told = "file-client: interrupted before the file was stored\n";
    let signals = [
        (Signal::INT, 130, told),
        (Signal::TERM, 143, told),
        (Signal::HUP, 129, ""),
        (Signal::QUIT, 131, ""),
        (Signal::KILL, 137, ""),
    ];
    heed(&[Signal::HUP, Signal::QUIT]);
    for (signal, status, said) in signals {
        let here = folder_with_old();
        let held = Held::start(&content(HALF, 1), |port| file_client(here.path(), port, &[]));
        let client = held.kill(signal);
        assert_eq!((client.status, &*client.stdout(), &*client.stderr()), (status, "", said));
        assert_untouched(here.path());
    }
}

#[test]
fn an_interrupt_ends_the_waiting_for_a_server_and_for_a_reader() {
    let here = folder_with_old();
    let nobody = &["--wait", "60s"];
    let mut waiting = Running::start(&mut file_client(here.path(), 1, nobody));
    waiting.wait_for_line("waiting for 127.0.0.1:1");
    waiting.signal(Signal::INT);
    assert_eq!(waiting.finish().status, 130);
    assert_untouched(here.path());

    make_fifo(&here.path().join("fifo"));
    let waiting = Running::start(&mut file_client(here.path(), 1, &["-o", "fifo"]));
    until("it catches signals and sleeps", || sleeps_with_thread(waiting.pid(), "signals").then_some(()));
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.finish().status, 143);
}

/// Whether the process has a thread of this name while its first one waits for something.
fn sleeps_with_thread(pid: Pid, name: &str) -> bool {
    let names = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut names = names.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    names.any(|found| found.trim_end() == name) && status.contains("State:\tS")
}

#[test]
fn no_clobber_keeps_a_file_that_was_there_and_one_that_came_meanwhile() {
    let here = folder_with_old();
    let refusal = "could not write destination.txt: file exists, and --no-clobber keeps it";
    crate::assert_refused(refusal, |port| file_client(here.path(), port, &["--no-clobber"]));
    assert_untouched(here.path());

    let here = folder();
    let held = Held::start(&content(HALF, 1), |port| file_client(here.path(), port, &["--no-clobber"]));
    fs::write(here.path().join("destination.txt"), OLD).unwrap();
    let (reply, client) = held.end(b"");
    assert_eq!((client.status, reply), (1, Vec::new()));
    assert_eq!(client.stderr(), "file-client: could not write destination.txt: file exists\n");
    assert_untouched(here.path());

    let here = folder();
    let outcome = crate::transfer(b"new", |port| file_client(here.path(), port, &["--no-clobber"]));
    outcome.assert_stored();
    assert_replaced(here.path(), b"new");
}

#[test]
fn a_folder_that_takes_the_name_meanwhile_is_one_line() {
    let here = folder();
    let held = Held::start(&content(HALF, 1), |port| file_client(here.path(), port, &[]));
    fs::create_dir(here.path().join("destination.txt")).unwrap();
    let (reply, client) = held.end(b"");
    assert_eq!((client.status, reply), (1, Vec::new()));
    assert_eq!(client.stderr(), "file-client: could not write destination.txt: is a directory\n");
    assert_eq!(names_in(here.path()), ["destination.txt"]);
}

#[test]
fn a_folder_that_goes_away_meanwhile_is_one_line() {
    let here = folder();
    fs::create_dir(here.path().join("sub")).unwrap();
    let held = Held::start(&content(HALF, 1), |port| file_client(here.path(), port, &["-o", "sub/new"]));
    fs::remove_dir(here.path().join("sub")).unwrap();
    let (reply, client) = held.end(b"");
    assert_eq!((client.status, reply), (1, Vec::new()));
    assert_eq!(client.stderr(), "file-client: could not write sub/new: no such file or directory\n");
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn of_two_clients_with_one_destination_the_last_one_wins() {
    let here = folder_with_old();
    let (one, other) = (content(HALF, 1), content(HALF + 1, 2));
    let first = Held::start(&one, |port| file_client(here.path(), port, &[]));
    let second = Held::start(&other, |port| file_client(here.path(), port, &[]));
    assert_eq!(second.end(b"").1.status, 0);
    assert_replaced(here.path(), &other);
    assert_eq!(first.end(b"").1.status, 0);
    assert_replaced(here.path(), &one);
}

/// What `nc` and the textbook's server do when they are killed.
#[test]
fn a_torso_that_ends_like_a_file_is_stored_unless_its_size_or_digest_is_known() {
    let half = content(HALF, 1);
    let digest = "0".repeat(64);
    let actual = hex(Sha256::digest(&half));
    let wrong_digest =
        &format!("could not store destination.txt: the SHA-256 of what arrived is {actual}, not the expected one");
    let too_short = "could not store destination.txt: 300001 bytes arrived, 600002 were expected";
    let too_long = "could not store destination.txt: more than the expected 300000 bytes arrived";
    let expectations =
        [(["--size", "600002"], too_short), (["--size", "300000"], too_long), (["--sha256", &digest], wrong_digest)];
    for (expected, why) in expectations {
        let here = folder_with_old();
        let held = Held::connect(|port| file_client(here.path(), port, &expected));
        let (reply, client) = held.end(&half);
        assert_eq!((client.status, reply), (1, Vec::new()));
        assert_eq!(client.stderr(), format!("file-client: {why}\n"));
        assert_untouched(here.path());
    }

    let here = folder_with_old();
    let (reply, client) = Held::connect(|port| file_client(here.path(), port, &[])).end(&half);
    assert_eq!((client.status, &reply[..]), (0, &b"Thank you\0"[..]));
    assert_replaced(here.path(), &half);
}

#[test]
fn a_file_with_the_expected_size_and_digest_is_stored() {
    let here = folder_with_old();
    let bytes = content(HALF, 3);
    fs::write(here.path().join("copy"), &bytes).unwrap();
    let sum = run(Command::new("sha256sum").arg(here.path().join("copy"))).stdout();
    fs::remove_file(here.path().join("copy")).unwrap();
    let digest = sum.split(' ').next().unwrap();
    let expected = ["--size", "300001", "--sha256", digest];
    crate::transfer(&bytes, |port| file_client(here.path(), port, &expected)).assert_stored();
    assert_replaced(here.path(), &bytes);
}
