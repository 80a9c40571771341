//! Signals in the middle of a transfer: what ends the client leaves nothing, and what was ignored from the start stays
//! ignored.

use crate::common::fixture::{assert_replaced, assert_untouched, directory_with_old};
use crate::common::messages::CLIENT_INTERRUPTED;
use crate::common::processes::after;
use crate::common::{Running, Signal, content, file_client, is_root, names_in};
use crate::stalled_server::StalledServer;
use crate::temporary_names::without_proc;

const HALF: usize = 300_001;

const TERMINATING: [(Signal, i32, &str); 10] = [
    (Signal::HUP, 129, "HUP"),
    (Signal::INT, 130, "INT"),
    (Signal::QUIT, 131, "QUIT"),
    (Signal::USR1, 138, "USR1"),
    (Signal::USR2, 140, "USR2"),
    (Signal::ALARM, 142, "ALRM"),
    (Signal::TERM, 143, "TERM"),
    (Signal::XCPU, 152, "XCPU"),
    (Signal::VTALARM, 154, "VTALRM"),
    (Signal::PROF, 155, "PROF"),
];

#[test]
fn every_signal_that_ends_the_client_leaves_the_old_file_and_nothing_else() {
    for (signal, status, name) in TERMINATING {
        let here = directory_with_old();
        let held = StalledServer::start(&content(HALF, 1), |port| file_client(here.path(), port, &[]));
        let client = held.kill_client(signal);
        assert_eq!((client.status, client.stdout()), (status, String::new()), "{name}");
        assert_eq!(client.stderr(), format!("{CLIENT_INTERRUPTED}\n"), "{name}");
        assert_untouched(here.path());
    }
}

#[test]
fn every_signal_that_ends_the_client_takes_its_temporary_file_along() {
    if !is_root() {
        return;
    }
    for (signal, status, name) in TERMINATING {
        let here = directory_with_old();
        let held = StalledServer::start(&content(HALF, 1), |port| without_proc(&file_client(here.path(), port, &[])));
        assert_eq!(names_in(here.path()).len(), 2, "the temporary file");
        assert_eq!(held.kill_client(signal).status, status, "{name}");
        assert_untouched(here.path());
    }
}

/// As `nohup` does, and a shell for what its scripts run in the background.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let bytes = content(2 * HALF, 1);
    for (signal, _, name) in TERMINATING {
        let here = directory_with_old();
        let trap = format!("trap '' {name}");
        let held = StalledServer::start(&bytes[..HALF], |port| after(&trap, &file_client(here.path(), port, &[])));
        held.client.signal(signal);
        let (reply, client) = held.half_close(&bytes[HALF..]);
        assert_eq!((client.status, &reply[..]), (0, &b"Thank you\0"[..]), "{name}: {client:?}");
        assert_replaced(here.path(), &bytes);

        // The others are not.
        let (other, status) = if signal == Signal::TERM { (Signal::INT, 130) } else { (Signal::TERM, 143) };
        let held = StalledServer::start(&bytes[..HALF], |port| after(&trap, &file_client(here.path(), port, &[])));
        assert_eq!(held.kill_client(other).status, status, "{name}");
    }
}

#[test]
fn a_signal_during_the_wait_for_a_server_ends_the_client() {
    for (signal, status, name) in TERMINATING {
        let here = directory_with_old();
        let mut waiting = Running::start(&mut file_client(here.path(), 1, &["--wait", "60s"]));
        waiting.wait_for_line("waiting for 127.0.0.1:1");
        waiting.signal(signal);
        assert_eq!(waiting.finish().status, status, "{name}");
        assert_untouched(here.path());
    }
}
