//! What looks like a killed client's file and is none, or belongs to another user, is left alone and never waited for.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::assert_refused;
use crate::common::files::make_fifo;
use crate::common::fixture::transfer;
use crate::common::processes::through;
use crate::common::wait::wait_for;
use crate::common::{Signal, content, directory, file_client, installed, is_root, names_in};
use crate::stalled_server::StalledServer;
use crate::temporary_names::without_proc;

const OTHER_USER: u32 = 54_321;

#[test]
fn only_regular_files_of_our_own_user_are_swept_away() {
    let (here, elsewhere) = (directory(), directory());
    let name = |random: &str| here.path().join(format!(".half-close-{random}.part"));
    make_fifo(&name("fifo00"));
    let _socket = UnixListener::bind(name("socket")).unwrap();
    fs::create_dir(name("direct")).unwrap();
    fs::write(elsewhere.path().join("kept"), "kept").unwrap();
    symlink(elsewhere.path().join("kept"), name("link00")).unwrap();
    make_fifo(&elsewhere.path().join("fifo"));
    symlink(elsewhere.path().join("fifo"), name("link01")).unwrap();
    let mut kept = names_in(here.path());
    if rustix::process::geteuid().is_root() {
        fs::write(name("theirs"), "theirs").unwrap();
        chown(name("theirs"), Some(OTHER_USER), None).unwrap();
        kept = names_in(here.path());
    }
    fs::write(name("empty0"), "").unwrap();
    fs::write(name("mine00"), "mine").unwrap();
    fs::write(name("locked"), "locked").unwrap();
    let locked = fs::File::open(name("locked")).unwrap();
    locked.lock().unwrap();
    fs::write(name("rdonly"), "mine").unwrap();
    fs::set_permissions(name("rdonly"), Permissions::from_mode(0o400)).unwrap();
    kept.extend([".half-close-locked.part".to_owned(), "new".to_owned()]);
    kept.sort();
    transfer(b"new", |port| file_client(here.path(), port, &["-o", "new"])).assert_stored();
    assert_eq!(names_in(here.path()), kept);
    assert_eq!(fs::read(elsewhere.path().join("kept")).unwrap(), b"kept");
}

/// As `/tmp` is, in which another user has left a FIFO of that name.
#[test]
fn a_fifo_of_another_user_delays_no_one() {
    if !is_root() {
        return;
    }
    let here = directory();
    fs::set_permissions(here.path(), Permissions::from_mode(0o1777)).unwrap();
    let fifo = here.path().join(".half-close-abcdef.part");
    make_fifo(&fifo);
    fs::set_permissions(&fifo, Permissions::from_mode(0o666)).unwrap();
    chown(&fifo, Some(OTHER_USER), None).unwrap();
    transfer(b"new", |port| file_client(here.path(), port, &["-o", "new"])).assert_stored();
    assert_eq!(names_in(here.path()), [".half-close-abcdef.part", "new"]);
}

/// Every process that can open the new temporary file can lock it.
#[test]
fn a_foreign_lock_on_the_temporary_file_stops_no_client() {
    if !is_root() {
        return;
    }
    let here = directory();
    let bytes = content(300_001, 1);
    let held = StalledServer::start(&bytes, |port| without_proc(&file_client(here.path(), port, &["-o", "new"])));
    let temporary =
        wait_for("it has a name", || names_in(here.path()).into_iter().find(|name| name.starts_with(".half-close-")));
    let file = fs::File::open(here.path().join(temporary)).unwrap();
    assert!(matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)), "the client has no lock");
    assert_eq!(held.kill_client(Signal::TERM).status, 143);
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn where_every_temporary_file_is_locked_the_client_says_so() {
    if !is_root() {
        return;
    }
    let Some(strace) = installed("strace") else { return };
    let here = directory();
    let refusal = "could not write new: another process locks every temporary file in directory .";
    assert_refused(refusal, |port| {
        let mut client = Command::new(&strace);
        client.args(["-f", "-o", "/dev/null", "-e", "trace=flock,openat,open"]);
        client.args(["-e", "inject=flock:error=EAGAIN", "-e", "inject=open:error=EOPNOTSUPP"]);
        client.args(through(&["env"], &file_client(here.path(), port, &["-o", "new"])).get_args());
        client.current_dir(here.path());
        client
    });
    assert_eq!(names_in(here.path()), [""; 0]);
}
