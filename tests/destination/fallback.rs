//! Where there are no files without a name, the new file has a temporary one until it is whole. A client that can't see
//! `/proc` has to do so on every file system.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::common::{Signal, content, file_client, folder, is_root, names_in};
use crate::held::Held;
use crate::{OLD, after, assert_replaced, assert_untouched, folder_with_old, through, transfer};

const HALF: usize = 300_001;

/// A client in a world of its own, in which there is no `/proc`.
fn without_proc(command: &Command) -> Command {
    through(&["unshare", "--mount"], &after("mount -t tmpfs -o size=4k none /proc", command))
}

fn client(here: &Path, port: u16) -> Command {
    without_proc(&file_client(here, port, &[]))
}

fn hold(here: &Path) -> Held {
    Held::start(&content(HALF, 1), |port| client(here, port))
}

/// The temporary name in the folder, which is there beside the old file.
fn temporary_name(here: &Path) -> String {
    let names = names_in(here);
    assert_eq!((names.len(), &*names[1]), (2, "destination.txt"), "{names:?}");
    assert!(names[0].starts_with(".half-close-"), "{names:?}");
    names[0].clone()
}

#[test]
fn a_temporary_name_is_there_until_the_file_is_whole() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let held = hold(here.path());
    let temporary = here.path().join(temporary_name(here.path()));
    // Whoever may not read the old file must not read the new one either.
    assert_eq!(fs::metadata(temporary).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), OLD);
    assert_eq!(held.end(b"").1.status, 0);
    assert_replaced(here.path(), &content(HALF, 1));
}

#[test]
fn the_temporary_name_is_gone_after_an_interrupt() {
    if !is_root() {
        return;
    }
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let here = folder_with_old();
        let held = hold(here.path());
        temporary_name(here.path());
        assert_eq!(held.kill(signal).status, status);
        assert_untouched(here.path());
    }
}

#[test]
fn the_temporary_name_is_gone_after_an_error() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let Held { client, connection } = hold(here.path());
    SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
    drop(connection);
    let client = client.finish();
    let line = "file-client: could not receive all of destination.txt: connection reset by peer\n";
    assert_eq!((client.status, client.stderr()), (1, line.to_owned()));
    assert_untouched(here.path());

    let limited = |port| without_proc(&after("ulimit -f 1", &file_client(here.path(), port, &[])));
    let outcome = transfer(&content(HALF, 1), limited);
    outcome.assert_failed("could not write destination.txt: file too large");
    assert_untouched(here.path());

    let held = Held::start(&content(HALF, 1), |port| {
        without_proc(&file_client(here.path(), port, &["--no-clobber", "-o", "new"]))
    });
    fs::write(here.path().join("new"), OLD).unwrap();
    assert_eq!(held.end(b"").1.stderr(), "file-client: could not write new: file exists\n");
    assert_eq!(names_in(here.path()), ["destination.txt", "new"]);
    assert_eq!(fs::read(here.path().join("new")).unwrap(), OLD);
}

#[test]
fn what_a_kill_leaves_is_swept_away_by_the_next_run() {
    if !is_root() {
        return;
    }
    for next in [client, |here: &Path, port| file_client(here, port, &[])] {
        let here = folder_with_old();
        assert_eq!(hold(here.path()).kill(Signal::KILL).status, 137);
        temporary_name(here.path());
        transfer(b"new", |port| next(here.path(), port)).assert_stored();
        assert_replaced(here.path(), b"new");
    }
}

#[test]
fn the_temporary_name_of_a_client_that_still_runs_is_not_touched() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let held = hold(here.path());
    let temporary = temporary_name(here.path());
    transfer(b"new", |port| client(here.path(), port)).assert_stored();
    assert_eq!(temporary_name(here.path()), temporary);
    assert_eq!(held.end(b"").1.status, 0);
    assert_replaced(here.path(), &content(HALF, 1));
}

#[test]
fn files_that_only_look_alike_are_not_swept_away() {
    let here = folder();
    let names =
        [".half-close-", ".half-close-backup", ".half-close-notes.part", ".half-close-ab_def.part", "half-close"];
    for name in names {
        fs::write(here.path().join(name), name).unwrap();
    }
    // Nor what is no file.
    fs::create_dir(here.path().join(".half-close-abcdef.part")).unwrap();
    let before = names_in(here.path());
    transfer(b"new", |port| file_client(here.path(), port, &["-o", "new"])).assert_stored();
    fs::remove_file(here.path().join("new")).unwrap();
    assert_eq!(names_in(here.path()), before);
}

#[test]
fn many_clients_at_once_in_one_folder_all_store_their_files() {
    if !is_root() {
        return;
    }
    let here = folder();
    let store = |number: usize| {
        let name = number.to_string();
        let client = |port| without_proc(&file_client(here.path(), port, &["-o", &name, "--no-sync"]));
        transfer(name.as_bytes(), client).assert_stored();
    };
    thread::scope(|scope| (0..12).for_each(|number| drop(scope.spawn(move || store(number)))));
    assert_eq!(names_in(here.path()).len(), 12);
}

#[test]
fn the_mode_is_the_same_as_elsewhere() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let (new, old) = (here.path().join("new"), here.path().join("destination.txt"));
    fs::set_permissions(&old, fs::Permissions::from_mode(0o4751)).unwrap();
    for (path, mode) in [(&new, 0o640), (&old, 0o751)] {
        let output = path.to_str().unwrap();
        let client = |port| after("umask 027", &without_proc(&file_client(here.path(), port, &["-o", output])));
        transfer(b"new", client).assert_stored();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, mode);
    }
}
