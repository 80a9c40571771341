//! Who may read and write the new file, and who may put it there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::{file_client, folder, is_root, names_in};
use crate::{OLD, after, assert_refused, assert_replaced, assert_untouched, folder_with_old, through, transfer};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
    let file = fs::metadata(path).unwrap();
    (file.mode() & 0o7777, file.uid(), file.gid())
}

#[test]
fn a_new_file_has_the_mode_that_the_umask_leaves() {
    for umask in [0, 0o002, 0o022, 0o027, 0o077, 0o777] {
        let here = folder();
        let set_umask = format!("umask {umask:o}");
        transfer(b"new", |port| after(&set_umask, &file_client(here.path(), port, &[]))).assert_stored();
        assert_eq!(mode_and_owner(&here.path().join("destination.txt")).0, 0o666 & !umask);
    }
}

#[test]
fn the_mode_of_the_old_file_stays_but_set_user_id_and_its_like_go() {
    for mode in [0o600, 0o640, 0o755, 0o666, 0o4755, 0o2775, 0o1644, 0o6711] {
        let here = folder_with_old();
        let file = here.path().join("destination.txt");
        set_mode(&file, mode);
        transfer(b"new", |port| after("umask 077", &file_client(here.path(), port, &[]))).assert_stored();
        assert_replaced(here.path(), b"new");
        assert_eq!(mode_and_owner(&file).0, mode & 0o777, "{mode:o} before");
    }
}

#[test]
fn root_leaves_the_file_to_its_owner() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let file = here.path().join("destination.txt");
    chown(&file, Some(1234), Some(4321)).unwrap();
    set_mode(&file, 0o4440);
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
    assert_eq!(mode_and_owner(&file), (0o440, 1234, 4321));
}

/// A user without any rights, and a folder of root's with an old file that this user can reach.
struct Nobody {
    programs: TempDir,
    here: TempDir,
}

const NOBODY: u32 = 65534;
const TEAM: u32 = 4242;

impl Nobody {
    fn new(folder_mode: u32, file_mode: u32) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let (programs, here) = (folder(), folder_with_old());
        set_mode(programs.path(), 0o755);
        // In a process of its own: no program can be started from a file while it is still open for writing here.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_file-client")).arg(programs.path()).status();
        assert!(copied.unwrap().success());
        set_mode(&here.path().join("destination.txt"), file_mode);
        set_mode(here.path(), folder_mode);
        Some(Self { programs, here })
    }

    fn path(&self) -> &Path {
        self.here.path()
    }

    fn client(&self, port: u16, arguments: &[&str]) -> Command {
        let mut client = Command::new(self.programs.path().join("file-client"));
        client.args(["127.0.0.1", &port.to_string()]).args(arguments).current_dir(self.path());
        let (user, team) = (NOBODY.to_string(), TEAM.to_string());
        through(&["setpriv", "--reuid", &user, "--regid", &user, "--groups", &team], &client)
    }
}

#[test]
fn a_file_that_this_user_may_not_write_is_refused() {
    let Some(nobody) = Nobody::new(0o777, 0o444) else { return };
    let refusal = "could not write destination.txt: permission denied";
    assert_refused(refusal, |port| nobody.client(port, &[]));
    chown(nobody.path().join("destination.txt"), Some(NOBODY), None).unwrap();
    assert_refused(refusal, |port| nobody.client(port, &[]));
    assert_untouched(nobody.path());
}

#[test]
fn a_folder_in_which_this_user_may_not_create_is_refused() {
    let Some(nobody) = Nobody::new(0o755, 0o666) else { return };
    for output in ["destination.txt", "new"] {
        let refusal = format!("could not write {output}: permission denied");
        assert_refused(&refusal, |port| nobody.client(port, &["-o", output]));
    }
    set_mode(nobody.path(), 0o700);
    let outside = format!("could not write {}/new: permission denied", nobody.path().display());
    assert_refused(&outside, |port| {
        let output = nobody.path().join("new");
        let mut client = nobody.client(port, &["-o", output.to_str().unwrap()]);
        client.current_dir("/");
        client
    });
    assert_untouched(nobody.path());
}

/// As in `/tmp`.
#[test]
fn a_sticky_folder_protects_the_files_of_others() {
    let Some(nobody) = Nobody::new(0o1777, 0o666) else { return };
    assert_refused("could not write destination.txt: operation not permitted", |port| nobody.client(port, &[]));
    assert_untouched(nobody.path());
    chown(nobody.path().join("destination.txt"), Some(NOBODY), None).unwrap();
    transfer(b"new", |port| nobody.client(port, &[])).assert_stored();
}

#[test]
fn a_drop_box_that_this_user_may_not_read_takes_the_file() {
    let Some(nobody) = Nobody::new(0o733, 0o600) else { return };
    transfer(b"new", |port| nobody.client(port, &["-o", "new"])).assert_stored();
    assert_eq!(names_in(nobody.path()), ["destination.txt", "new"]);
    assert_eq!(fs::read(nobody.path().join("new")).unwrap(), b"new");
}

#[test]
fn the_group_stays_where_only_the_owner_can_not() {
    let Some(nobody) = Nobody::new(0o777, 0o664) else { return };
    let file = nobody.path().join("destination.txt");
    chown(&file, None, Some(TEAM)).unwrap();
    transfer(b"new", |port| nobody.client(port, &[])).assert_stored();
    assert_replaced(nobody.path(), b"new");
    assert_eq!(mode_and_owner(&file), (0o664, NOBODY, TEAM));
}

#[test]
fn another_group_gets_no_more_than_others() {
    const SECRET_TEAM: u32 = 4343;
    let Some(nobody) = Nobody::new(0o777, 0o664) else { return };
    let file = nobody.path().join("destination.txt");
    chown(&file, Some(NOBODY), Some(SECRET_TEAM)).unwrap();
    for (before, after) in [(0o660, 0o600), (0o664, 0o644)] {
        chown(&file, Some(NOBODY), Some(SECRET_TEAM)).unwrap();
        set_mode(&file, before);
        transfer(b"new", |port| nobody.client(port, &[])).assert_stored();
        assert_eq!(mode_and_owner(&file), (after, NOBODY, NOBODY));
    }
}

#[test]
fn a_file_that_not_even_root_may_change_stays() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let file = here.path().join("destination.txt");
    let protect = |flag: &str| Command::new("chattr").arg(flag).arg(&file).output().is_ok_and(|it| it.status.success());
    if !protect("+i") {
        // A file system without such flags.
        return;
    }
    let refusal = "could not write destination.txt: operation not permitted";
    let judged = std::panic::catch_unwind(|| assert_refused(refusal, |port| file_client(here.path(), port, &[])));
    assert!(protect("-i"));
    judged.unwrap();
    assert_eq!(fs::read(&file).unwrap(), OLD);
}
