//! Where files without a name (`O_TMPFILE`) are not available, the new file has a temporary name until it is whole. A
//! client without `/proc` has to use one on every file system.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::inotify;

use crate::common::files::{assert_file, make_old};
use crate::common::fixture::{OLD, assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::network::reset;
use crate::common::processes::{after, through};
use crate::common::{Signal, content, directory, file_client, is_root, names_in};
use crate::stalled_server::StalledServer;

const HALF: usize = 300_001;

/// The command in a mount namespace of its own, without `/proc`.
pub fn without_proc(command: &Command) -> Command {
    through(&["unshare", "--mount"], &after("mount -t tmpfs -o size=4k none /proc", command))
}

fn client(here: &Path, port: u16) -> Command {
    without_proc(&file_client(here, port, &[]))
}

fn stall(here: &Path) -> StalledServer {
    StalledServer::start(&content(HALF, 1), |port| client(here, port))
}

/// The temporary name beside the old file.
fn temporary_name(here: &Path) -> String {
    let names = names_in(here);
    assert_eq!((names.len(), &*names[0]), (2, "destination.txt"), "{names:?}");
    assert!(names[1].starts_with("destination.txt.half-close-"), "{names:?}");
    names[1].clone()
}

#[test]
fn temporary_name_exists_until_the_file_is_whole() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let server = stall(here.path());
    let temporary = here.path().join(temporary_name(here.path()));
    // It may contain what users that cannot read the old file must not see.
    assert_eq!(fs::metadata(temporary).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), OLD);
    assert_eq!(server.half_close(b"").1.status, 0);
    assert_replaced(here.path(), &content(HALF, 1));
}

#[test]
fn interrupt_removes_the_temporary_name() {
    if !is_root() {
        return;
    }
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let here = directory_with_old();
        let server = stall(here.path());
        temporary_name(here.path());
        assert_eq!(server.kill_client(signal).status, status);
        assert_untouched(here.path());
    }
}

#[test]
fn error_removes_the_temporary_name() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let StalledServer { client, connection } = stall(here.path());
    reset(connection);
    let client = client.finish();
    let line = client.stderr();
    assert!(
        line.starts_with("file-client: could not receive all of destination.txt: the server gave up after "),
        "{line}"
    );
    assert!(line.ends_with(" KiB; destination.txt is as it was\n") && client.status == 1, "{line}");
    assert_untouched(here.path());

    let limited = |port| without_proc(&after("ulimit -f 1", &file_client(here.path(), port, &[])));
    let outcome = transfer(&content(HALF, 1), limited);
    outcome.assert_failed("could not write destination.txt: file too large");
    assert_untouched(here.path());

    let server = StalledServer::start(&content(HALF, 1), |port| {
        without_proc(&file_client(here.path(), port, &["--no-clobber", "-o", "new"]))
    });
    fs::write(here.path().join("new"), OLD).unwrap();
    assert_eq!(server.half_close(b"").1.stderr(), "file-client: could not write new: file exists\n");
    assert_eq!(names_in(here.path()), ["destination.txt", "new"]);
    assert_eq!(fs::read(here.path().join("new")).unwrap(), OLD);
}

#[test]
fn a_run_a_day_later_removes_the_temporary_name_of_a_killed_client() {
    if !is_root() {
        return;
    }
    for next in [client, |here: &Path, port| file_client(here, port, &[])] {
        let here = directory_with_old();
        assert_eq!(stall(here.path()).kill_client(Signal::KILL).status, 137);
        let leftover = here.path().join(temporary_name(here.path()));
        // Another client of this destination may still be writing it.
        transfer(b"new", |port| next(here.path(), port)).assert_stored();
        assert_file(&leftover, &content(HALF, 1));
        make_old(&leftover);
        transfer(b"newer", |port| next(here.path(), port)).assert_stored();
        assert_replaced(here.path(), b"newer");
    }
}

#[test]
fn temporary_name_of_a_running_client_is_not_removed() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let server = stall(here.path());
    let temporary = temporary_name(here.path());
    transfer(b"new", |port| client(here.path(), port)).assert_stored();
    assert_eq!(temporary_name(here.path()), temporary);
    assert_eq!(server.half_close(b"").1.status, 0);
    assert_replaced(here.path(), &content(HALF, 1));
}

#[test]
fn files_with_similar_names_are_not_removed() {
    let here = directory();
    let names =
        [".half-close-", ".half-close-backup", ".half-close-notes.part", ".half-close-ab_def.part", "half-close"];
    for name in names {
        fs::write(here.path().join(name), name).unwrap();
    }
    // Not a file.
    fs::create_dir(here.path().join(".half-close-abcdef.part")).unwrap();
    let before = names_in(here.path());
    transfer(b"new", |port| file_client(here.path(), port, &["-o", "new"])).assert_stored();
    fs::remove_file(here.path().join("new")).unwrap();
    assert_eq!(names_in(here.path()), before);
}

#[test]
fn many_clients_can_store_in_one_directory_at_once() {
    if !is_root() {
        return;
    }
    let here = directory();
    let store = |number: usize| {
        let name = number.to_string();
        let client = |port| without_proc(&file_client(here.path(), port, &["-o", &name, "--no-sync"]));
        transfer(name.as_bytes(), client).assert_stored();
    };
    thread::scope(|scope| (0..12).for_each(|number| drop(scope.spawn(move || store(number)))));
    assert_eq!(names_in(here.path()).len(), 12);
}

#[test]
fn mode_is_the_same_as_without_a_temporary_name() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let (new, old) = (here.path().join("new"), here.path().join("destination.txt"));
    fs::set_permissions(&old, fs::Permissions::from_mode(0o4751)).unwrap();
    for (path, mode) in [(&new, 0o640), (&old, 0o751)] {
        let output = path.to_str().unwrap();
        let client = |port| after("umask 027", &without_proc(&file_client(here.path(), port, &["-o", output])));
        transfer(b"new", client).assert_stored();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, mode);
    }
}

/// Programs that wait for files in a directory wait for this event or for `CLOSE_WRITE` (inotify(7)).
#[test]
fn a_watcher_of_the_directory_hears_of_a_new_file_as_of_a_replaced_one() {
    for (old, options) in [(false, &[][..]), (false, &["--no-clobber"]), (true, &[])] {
        let here = if old { directory_with_old() } else { directory() };
        let watcher = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watcher, here.path(), inotify::WatchFlags::MOVED_TO).unwrap();
        transfer(b"new", |port| file_client(here.path(), port, options)).assert_stored();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watcher, &mut buffer);
        assert_eq!(events.next().unwrap().file_name(), Some(c"destination.txt"));
        assert!(events.next().is_err(), "one event");
    }
}
