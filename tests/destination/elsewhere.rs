//! The directory is renamed, replaced or changed during the transfer, or its path cannot be written down: the file goes
//! into the directory that was there at the start.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::common::fixture::{OLD, assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::network::reset;
use crate::common::processes::in_shell;
use crate::common::{Signal, content, directory, file_client, has_unnamed_files, installed, is_root, names_in};
use crate::stalled_server::StalledServer;
use crate::temporary_names::without_proc;

const SIZE: usize = 300_001;

/// The client writes to `sub/destination.txt`, where a file is.
fn stall_in_subdirectory(here: &Path, wrap: fn(&Command) -> Command) -> StalledServer {
    fs::create_dir(here.join("sub")).unwrap();
    fs::write(here.join("sub/destination.txt"), OLD).unwrap();
    let output = ["--output", "sub/destination.txt"];
    StalledServer::start(&content(SIZE, 1), |port| wrap(&file_client(here, port, &output)))
}

fn as_it_is(command: &Command) -> Command {
    in_shell("exec \"$@\"", command)
}

#[test]
fn a_directory_that_is_replaced_by_a_link_gets_the_file_and_the_other_one_does_not() {
    let wrappers: &[fn(&Command) -> Command] = if is_root() { &[as_it_is, without_proc] } else { &[as_it_is] };
    for wrap in wrappers {
        let (here, elsewhere) = (directory(), directory_with_old());
        let held = stall_in_subdirectory(here.path(), *wrap);
        fs::rename(here.path().join("sub"), here.path().join("renamed")).unwrap();
        symlink(elsewhere.path(), here.path().join("sub")).unwrap();
        assert_eq!(held.half_close(b"").1.status, 0);
        assert_replaced(&here.path().join("renamed"), &content(SIZE, 1));
        assert_untouched(elsewhere.path());
    }
}

#[test]
fn a_renamed_directory_keeps_no_temporary_file() {
    if !is_root() {
        return;
    }
    for signal in [Some(Signal::TERM), None] {
        let here = directory();
        let held = stall_in_subdirectory(here.path(), without_proc);
        let renamed = here.path().join("renamed");
        fs::rename(here.path().join("sub"), &renamed).unwrap();
        assert_eq!(names_in(&renamed).len(), 2, "the temporary file");
        if let Some(signal) = signal {
            assert_eq!(held.kill_client(signal).status, 143);
        } else {
            let StalledServer { client, connection } = held;
            reset(connection);
            assert_eq!(client.finish().status, 1);
        }
        assert_untouched(&renamed);
    }
}

#[test]
fn a_directory_that_becomes_append_only_keeps_no_temporary_file() {
    let Some(chattr) = installed("chattr") else { return };
    if !is_root() || !has_unnamed_files() {
        return;
    }
    for old in [true, false] {
        let here = if old { directory_with_old() } else { directory() };
        let held = StalledServer::start(&content(SIZE, 1), |port| file_client(here.path(), port, &[]));
        let flag = |flag: &str| Command::new(&chattr).arg(flag).arg(here.path()).output().unwrap().status.success();
        if !flag("+a") {
            return;
        }
        let client = held.half_close(b"").1;
        assert!(flag("-a"));
        if old {
            assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
            assert_untouched(here.path());
        } else {
            assert_eq!(client.status, 0, "{client:?}");
            assert_replaced(here.path(), &content(SIZE, 1));
        }
    }
}

#[test]
fn a_private_file_that_is_deleted_meanwhile_comes_back_private() {
    let here = directory_with_old();
    let file = here.path().join("destination.txt");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let held = StalledServer::start(&content(SIZE, 1), |port| file_client(here.path(), port, &[]));
    fs::remove_file(&file).unwrap();
    assert_eq!(held.half_close(b"").1.status, 0);
    assert_replaced(here.path(), &content(SIZE, 1));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// No call takes a path of more than 4,096 bytes, so that this directory has none.
#[test]
fn a_file_is_stored_and_replaced_in_a_directory_that_is_too_deep_for_a_path() {
    let descend =
        "name=$(printf 'n%.0s' $(seq 250)); for i in $(seq 20); do mkdir -p $name && cd -P $name || exit; done";
    let wrappers: &[fn(&Command) -> Command] = if is_root() { &[as_it_is, without_proc] } else { &[as_it_is] };
    for wrap in wrappers {
        let here = directory();
        for bytes in ["new", "newer"] {
            let script = format!("{descend}; \"$@\" >&2 && cat destination.txt && ls -A | wc -l");
            let client = |port| in_shell(&script, &wrap(&file_client(here.path(), port, &[])));
            let outcome = transfer(bytes.as_bytes(), client);
            outcome.assert_statuses(0, 0);
            assert_eq!(outcome.client.stdout(), format!("{bytes}1\n"));
        }
    }
}
