//! Mode, owner and group of the new file, and who is permitted to create it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::assert_refused;
use crate::common::fixture::{assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::processes::{after, copy_program, through};
use crate::common::requirements::holder_of_lease;
use crate::common::{FILE_CLIENT, directory, file_client, is_root, names_in, program};
use crate::durability::Strace;
use crate::stalled_server::StalledServer;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
    let file = fs::metadata(path).unwrap();
    (file.mode() & 0o7777, file.uid(), file.gid())
}

#[test]
fn mode_of_a_new_file_obeys_the_umask() {
    for umask in [0, 0o002, 0o022, 0o027, 0o077, 0o777] {
        let here = directory();
        let set_umask = format!("umask {umask:o}");
        transfer(b"new", |port| after(&set_umask, &file_client(here.path(), port, &[]))).assert_stored();
        assert_eq!(mode_and_owner(&here.path().join("destination.txt")).0, 0o666 & !umask);
    }
}

#[test]
fn mode_of_the_old_file_is_kept_without_special_bits() {
    for mode in [0o600, 0o640, 0o755, 0o666, 0o4755, 0o2775, 0o1644, 0o6711] {
        let here = directory_with_old();
        let file = here.path().join("destination.txt");
        set_mode(&file, mode);
        transfer(b"new", |port| after("umask 077", &file_client(here.path(), port, &[]))).assert_stored();
        assert_replaced(here.path(), b"new");
        assert_eq!(mode_and_owner(&file).0, mode & 0o777, "{mode:o} before");
    }
}

/// Puts another file under the name as an editor does, with this mode and no access list.
pub fn save_another_file(file: &Path, mode: u32) {
    let elsewhere = directory();
    let other = elsewhere.path().join("other");
    fs::write(&other, "other").unwrap();
    set_mode(&other, mode);
    fs::rename(other, file).unwrap();
}

#[test]
fn a_file_that_has_the_name_by_then_only_takes_rights_away() {
    for (before, meanwhile, stored) in [
        (None, 0o600, 0o600),
        (None, 0o664, 0o644),
        (Some(0o664), 0o600, 0o600),
        (Some(0o644), 0o666, 0o644),
        (Some(0o660), 0o604, 0o600),
    ] {
        let here = directory();
        let file = here.path().join("destination.txt");
        if let Some(mode) = before {
            save_another_file(&file, mode);
        }
        let held = StalledServer::start(b"new", |port| after("umask 022", &file_client(here.path(), port, &[])));
        save_another_file(&file, meanwhile);
        assert_eq!(held.half_close(b"").1.status, 0);
        assert_replaced(here.path(), b"new");
        assert_eq!(mode_and_owner(&file).0, stored, "{before:?} {meanwhile:o}");
    }
}

#[test]
fn a_file_of_another_owner_that_has_the_name_by_then_is_not_given_to_the_owner_of_the_old_one() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let file = here.path().join("destination.txt");
    chown(&file, Some(1234), Some(4321)).unwrap();
    let held = StalledServer::start(b"new", |port| file_client(here.path(), port, &[]));
    save_another_file(&file, 0o600);
    assert_eq!(held.half_close(b"").1.status, 0);
    assert_replaced(here.path(), b"new");
    let (mode, owner, _) = mode_and_owner(&file);
    assert_eq!((mode, owner), (0o600, 0));
}

/// To open the file for reading would take the lease away (fcntl(2), `F_SETLEASE`).
#[test]
fn mode_of_a_file_on_which_another_program_has_a_lease_is_kept() {
    let here = directory_with_old();
    let file = here.path().join("destination.txt");
    set_mode(&file, 0o664);
    let Some(_holder) = holder_of_lease(&file, &[]) else { return };
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
    assert_eq!(mode_and_owner(&file).0, 0o664);
}

#[test]
fn root_keeps_owner_group_and_mode() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let file = here.path().join("destination.txt");
    chown(&file, Some(1234), Some(4321)).unwrap();
    set_mode(&file, 0o4440);
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
    assert_eq!(mode_and_owner(&file), (0o440, 1234, 4321));
}

/// An unprivileged user, and a directory of root with an old file that this user can reach.
struct Unprivileged {
    programs: TempDir,
    here: TempDir,
}

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;
/// A group of that user.
const TEAM: u32 = 4242;

impl Unprivileged {
    fn new(directory_mode: u32, file_mode: u32) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let (programs, here) = (directory(), directory_with_old());
        set_mode(programs.path(), 0o755);
        copy_program(FILE_CLIENT, programs.path());
        set_mode(&here.path().join("destination.txt"), file_mode);
        set_mode(here.path(), directory_mode);
        Some(Self { programs, here })
    }

    fn path(&self) -> &Path {
        self.here.path()
    }

    fn client(&self, port: u16, arguments: &[&str]) -> Command {
        let path = self.programs.path().join("file-client");
        let mut client = program(path.to_str().unwrap(), self.path(), &["127.0.0.1", &port.to_string()]);
        client.args(arguments);
        let (user, team) = (NOBODY.to_string(), TEAM.to_string());
        through(&["setpriv", "--reuid", &user, "--regid", &user, "--groups", &team], &client)
    }
}

#[test]
fn file_without_write_permission_is_refused() {
    let Some(user) = Unprivileged::new(0o777, 0o444) else { return };
    let refusal = "could not write destination.txt: permission denied";
    assert_refused(refusal, |port| user.client(port, &[]));
    chown(user.path().join("destination.txt"), Some(NOBODY), None).unwrap();
    assert_refused(refusal, |port| user.client(port, &[]));
    assert_untouched(user.path());
}

#[test]
fn directory_without_write_permission_is_refused() {
    let Some(user) = Unprivileged::new(0o755, 0o666) else { return };
    for output in ["destination.txt", "new"] {
        let refusal = format!("could not write {output}: permission denied");
        assert_refused(&refusal, |port| user.client(port, &["-o", output]));
    }
    set_mode(user.path(), 0o700);
    let outside = format!("could not write {}/new: permission denied", user.path().display());
    assert_refused(&outside, |port| {
        let output = user.path().join("new");
        let mut client = user.client(port, &["-o", output.to_str().unwrap()]);
        client.current_dir("/");
        client
    });
    assert_untouched(user.path());
}

/// As in an old sandbox, which does not know the call.
#[test]
fn a_refused_question_for_rights_refuses_nothing() {
    let Some(strace) = Strace::new() else { return };
    let here = directory_with_old();
    let inject = Some("faccessat2:error=EPERM");
    transfer(b"new", |port| strace.trace(&file_client(here.path(), port, &[]), inject)).assert_stored();
    strace.assert_injected();
    assert_replaced(here.path(), b"new");
}

/// As in `/tmp`.
#[test]
fn sticky_directory_protects_files_of_other_users() {
    let Some(user) = Unprivileged::new(0o1777, 0o666) else { return };
    assert_refused("could not write destination.txt: operation not permitted", |port| user.client(port, &[]));
    assert_untouched(user.path());
    chown(user.path().join("destination.txt"), Some(NOBODY), None).unwrap();
    transfer(b"new", |port| user.client(port, &[])).assert_stored();
}

#[test]
fn directory_that_is_writable_but_not_readable_takes_the_file() {
    let Some(user) = Unprivileged::new(0o733, 0o600) else { return };
    transfer(b"new", |port| user.client(port, &["-o", "new"])).assert_stored();
    assert_eq!(names_in(user.path()), ["destination.txt", "new"]);
    assert_eq!(fs::read(user.path().join("new")).unwrap(), b"new");
}

#[test]
fn group_is_kept_when_only_the_owner_cannot_be() {
    let Some(user) = Unprivileged::new(0o777, 0o664) else { return };
    let file = user.path().join("destination.txt");
    chown(&file, None, Some(TEAM)).unwrap();
    transfer(b"new", |port| user.client(port, &[])).assert_stored();
    assert_replaced(user.path(), b"new");
    assert_eq!(mode_and_owner(&file), (0o664, NOBODY, TEAM));
}

#[test]
fn group_that_cannot_be_kept_gives_its_permissions_to_no_other_group() {
    const SECRET_TEAM: u32 = 4343;
    let Some(user) = Unprivileged::new(0o777, 0o664) else { return };
    let file = user.path().join("destination.txt");
    chown(&file, Some(NOBODY), Some(SECRET_TEAM)).unwrap();
    for (before, after) in [(0o660, 0o600), (0o664, 0o644)] {
        chown(&file, Some(NOBODY), Some(SECRET_TEAM)).unwrap();
        set_mode(&file, before);
        transfer(b"new", |port| user.client(port, &[])).assert_stored();
        assert_eq!(mode_and_owner(&file), (after, NOBODY, NOBODY));
    }
}
