//! What looks like a killed client's file and is not one, is recent, or belongs to another user, is left alone and never
//! waited for.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;

use crate::common::disk::Mounted;
use crate::common::files::{make_fifo, make_old};
use crate::common::fixture::{assert_replaced, directory_with_old, transfer};
use crate::common::{content, directory, file_client, is_root, names_in, user_space_file_system, wait_until};
use crate::stalled_server::StalledServer;

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
    fs::write(name("recent"), "of a client that may still run").unwrap();
    let mut kept = names_in(here.path());
    if rustix::process::geteuid().is_root() {
        fs::write(name("theirs"), "theirs").unwrap();
        chown(name("theirs"), Some(OTHER_USER), None).unwrap();
        make_old(&name("theirs"));
        kept = names_in(here.path());
    }
    for old in ["empty0", "mine00", "rdonly"] {
        fs::write(name(old), if old == "empty0" { "" } else { "mine" }).unwrap();
        make_old(&name(old));
    }
    fs::write(here.path().join("other.txt.half-close-0a1b2c.part"), "mine").unwrap();
    make_old(&here.path().join("other.txt.half-close-0a1b2c.part"));
    make_old(&name("direct"));
    fs::set_permissions(name("rdonly"), Permissions::from_mode(0o400)).unwrap();
    kept.push("new".to_owned());
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

/// Root's client was killed after it had given the new file the owner of the old one.
#[test]
fn a_leftover_that_has_the_owner_of_the_old_file_already_is_swept_away() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let leftover = here.path().join("destination.txt.half-close-0a1b2c.part");
    fs::write(&leftover, "new").unwrap();
    make_old(&leftover);
    for file in [&leftover, &here.path().join("destination.txt")] {
        chown(file, Some(OTHER_USER), None).unwrap();
    }
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
}

/// As on two machines: locks of the one are unknown to the other.
#[test]
fn a_client_of_another_mount_of_the_directory_is_left_alone() {
    let Some(bindfs) = user_space_file_system("bindfs") else { return };
    if !is_root() {
        return;
    }
    let below = directory_with_old();
    let options = ["--no-allow-other", below.path().to_str().unwrap()];
    let mount = || Mounted::with(bindfs.to_str().unwrap(), &options, directory());
    let (one, other) = (mount(), mount());
    let bytes = content(300_001, 1);
    let first = StalledServer::start(&bytes, |port| file_client(one.path(), port, &[]));
    assert_eq!(names_in(below.path()).len(), 2, "the temporary file");
    transfer(b"new", |port| file_client(other.path(), port, &[])).assert_stored();
    let (reply, client) = first.half_close(b"");
    assert_eq!((client.status, &reply[..]), (0, &b"Thank you\0"[..]), "{client:?}");
    // bindfs keeps a replaced file that is open under another name, and removes that some time after the last close.
    wait_until("the replaced file is gone", || names_in(below.path()).len() == 1);
    assert_replaced(below.path(), &bytes);
}
