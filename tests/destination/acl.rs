//! Access lists (acl(5)): replacing a file gives no one more rights than the old file gave.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::disk::{Mounted, succeed};
use crate::common::fixture::{assert_replaced, directory_with_old, transfer};
use crate::common::processes::through;
use crate::common::{content, directory, file_client, installed, is_root, names_in, run, user_space_file_system};
use crate::durability::Strace;
use crate::modes::save_another_file;
use crate::stalled_server::StalledServer;
use crate::temporary_names::without_proc;

/// A user whom only access lists mention.
const NAMED: u32 = 54_321;
const OUTSIDER: u32 = 54_322;
const GROUP: u32 = 54_323;

/// A directory with an old file, both as the entries say; `None` where there are no access lists.
fn directory_with(entries_of_file: &str, default_entries: &str) -> Option<TempDir> {
    installed("setfacl")?;
    let here = directory_with_old();
    if !is_root() {
        return None;
    }
    fs::set_permissions(here.path(), Permissions::from_mode(0o755)).unwrap();
    if !entries_of_file.is_empty() {
        succeed(Command::new("setfacl").args(["-m", entries_of_file]).arg(here.path().join("destination.txt")));
    }
    if !default_entries.is_empty() {
        succeed(Command::new("setfacl").args(["-d", "-m", default_entries]).arg(here.path()));
    }
    Some(here)
}

/// The list as numbers, without its effective rights.
fn list_of(file: &Path) -> String {
    run(Command::new("getfacl").args(["--numeric", "--omit-header", "--absolute-names", "--no-effective"]).arg(file))
        .stdout()
        .trim()
        .replace('\n', " ")
}

fn can_read(file: &Path, user: u32, group: u32) -> bool {
    let (user, group) = (user.to_string(), group.to_string());
    let arguments = ["--reuid", &user, "--regid", &group, "--clear-groups", "cat"];
    run(Command::new("setpriv").args(arguments).arg(file)).status == 0
}

#[test]
fn the_access_list_of_the_old_file_stays() {
    let entries = format!("u:{NAMED}:rw,g::---");
    let Some(here) = directory_with(&entries, "") else { return };
    let file = here.path().join("destination.txt");
    let before = list_of(&file);
    chown(&file, None, Some(GROUP)).unwrap();
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
    assert_eq!(list_of(&file), before);
    assert!(can_read(&file, NAMED, NAMED));
    assert!(!can_read(&file, OUTSIDER, GROUP), "the mask was taken for the rights of the group");
}

#[test]
fn a_list_of_a_file_that_has_the_name_by_then_leaves_the_rights_to_the_owner() {
    let Some(here) = directory_with("", "") else { return };
    let file = here.path().join("destination.txt");
    let held = StalledServer::start(b"new", |port| file_client(here.path(), port, &[]));
    fs::remove_file(&file).unwrap();
    fs::write(&file, "other").unwrap();
    succeed(Command::new("setfacl").args(["-m", &format!("u:{NAMED}:rw,o::-")]).arg(&file));
    assert_eq!(held.half_close(b"").1.status, 0);
    assert_replaced(here.path(), b"new");
    assert!(!can_read(&file, OUTSIDER, GROUP) && !can_read(&file, NAMED, NAMED));
}

/// A directory whose old file mentions a user; or, without an old file, whose new files do so by default.
fn with_list(is_default: bool) -> Option<(TempDir, PathBuf)> {
    let entries = format!("u:{NAMED}:rw");
    let here = if is_default { directory_with("", &entries) } else { directory_with(&entries, "") }?;
    let file = here.path().join("destination.txt");
    if is_default {
        fs::remove_file(&file).unwrap();
    }
    Some((here, file))
}

#[test]
fn a_list_of_the_old_file_or_the_directory_gives_nothing_that_a_file_without_one_did_not() {
    for is_default in [false, true] {
        let Some((here, file)) = with_list(is_default) else { return };
        let held = StalledServer::start(b"new", |port| file_client(here.path(), port, &[]));
        save_another_file(&file, 0o660);
        assert!(!can_read(&file, NAMED, NAMED));
        assert_eq!(held.half_close(b"").1.status, 0);
        assert_replaced(here.path(), b"new");
        assert!(!can_read(&file, NAMED, NAMED), "{}", list_of(&file));
    }
}

#[test]
fn of_two_clients_at_once_the_second_keeps_the_list_that_the_first_has_kept() {
    for is_default in [false, true] {
        let Some((here, file)) = with_list(is_default) else { return };
        let second = StalledServer::start(b"second", |port| file_client(here.path(), port, &[]));
        transfer(b"first", |port| file_client(here.path(), port, &[])).assert_stored();
        let before = list_of(&file);
        assert!(before.contains("user:54321:rw-"));
        assert_eq!(second.half_close(b"").1.status, 0);
        assert_replaced(here.path(), b"second");
        assert_eq!(list_of(&file), before);
    }
}

#[test]
fn a_default_list_gives_nothing_that_the_old_file_did_not() {
    let entries = format!("u:{NAMED}:rwx,g:{GROUP}:rwx");
    for mode in [0o640, 0o600, 0o664, 0o751] {
        let Some(here) = directory_with("", &entries) else { return };
        let file = here.path().join("destination.txt");
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let before = list_of(&file);
        transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
        assert_eq!(list_of(&file), before);
        assert_eq!(can_read(&file, NAMED, NAMED), mode & 0o004 != 0);
    }
}

#[test]
fn the_old_list_wins_over_a_default_one() {
    let Some(here) = directory_with(&format!("u:{NAMED}:r"), &format!("u:{OUTSIDER}:rwx,o::rwx")) else { return };
    let file = here.path().join("destination.txt");
    let before = list_of(&file);
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_eq!(list_of(&file), before);
}

#[test]
fn a_new_file_has_the_default_list_as_any_other() {
    let Some(here) = directory_with("", &format!("u:{NAMED}:rw")) else { return };
    fs::write(here.path().join("other"), "").unwrap();
    transfer(b"new", |port| file_client(here.path(), port, &["-o", "new"])).assert_stored();
    assert_eq!(list_of(&here.path().join("new")), list_of(&here.path().join("other")));
    assert!(list_of(&here.path().join("new")).contains("user:54321:rw-"));
}

/// Without `/proc` there are no unnamed files.
#[test]
fn a_temporary_file_is_private_in_a_directory_with_a_default_list() {
    let Some(here) = directory_with("", &format!("u:{NAMED}:rwx,g:{GROUP}:rwx")) else { return };
    let file = here.path().join("destination.txt");
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let (before, bytes) = (list_of(&file), content(300_001, 1));
    let held = StalledServer::start(&bytes, |port| without_proc(&file_client(here.path(), port, &[])));
    let names = names_in(here.path());
    let temporary = here.path().join(names.iter().find(|name| name.contains(".half-close-")).unwrap());
    assert!(!can_read(&temporary, NAMED, NAMED) && !can_read(&temporary, OUTSIDER, GROUP), "{}", list_of(&temporary));
    assert_eq!(held.half_close(b"").1.status, 0);
    assert_replaced(here.path(), &bytes);
    assert_eq!(list_of(&file), before);
}

/// The user may write the file by its list, but can't give a file to that group.
#[test]
fn where_the_group_can_not_stay_there_is_no_list_and_nobody_gets_more() {
    let Some(here) = directory_with(&format!("u:{NAMED}:rw,g::rw,o::r"), "") else { return };
    let programs = directory();
    fs::set_permissions(programs.path(), Permissions::from_mode(0o755)).unwrap();
    succeed(Command::new("cp").arg(env!("CARGO_BIN_EXE_file-client")).arg(programs.path()));
    fs::set_permissions(here.path(), Permissions::from_mode(0o777)).unwrap();
    let file = here.path().join("destination.txt");
    chown(&file, None, Some(GROUP)).unwrap();
    let user = NAMED.to_string();
    let client = |port: u16| {
        let mut client = Command::new(programs.path().join("file-client"));
        client.args(["127.0.0.1", &port.to_string()]).current_dir(here.path());
        through(&["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"], &client)
    };
    transfer(b"new", client).assert_stored();
    assert_eq!(list_of(&file), "user::rw- group::--- other::---");

    // Without a list the new group and others get what both had.
    succeed(Command::new("setfacl").arg("--remove-all").arg(&file));
    for (mode, expected) in [(0o606, 0o600), (0o664, 0o644), (0o666, 0o666)] {
        chown(&file, Some(NAMED), Some(GROUP)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        transfer(b"new", client).assert_stored();
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (expected, NAMED));
    }
}

#[test]
fn where_no_mode_can_be_set_a_file_is_replaced_with_no_more_rights() {
    let Some(bindfs) = user_space_file_system("bindfs") else { return };
    if !is_root() {
        return;
    }
    for mode in [0o600, 0o640, 0o644, 0o400] {
        let below = directory_with_old();
        let old = below.path().join("destination.txt");
        fs::set_permissions(&old, Permissions::from_mode(mode)).unwrap();
        let options = ["--chmod-deny", "--chown-deny", "--no-allow-other", below.path().to_str().unwrap()];
        let mounted = Mounted::with(bindfs.to_str().unwrap(), &options, directory());
        transfer(b"new", |port| file_client(mounted.path(), port, &[])).assert_stored();
        assert_replaced(mounted.path(), b"new");
        let found = fs::metadata(mounted.path().join("destination.txt")).unwrap().mode() & 0o777;
        assert_eq!(found & !mode & 0o077, 0, "{found:o} in place of {mode:o}");
    }
}

/// A file system without access lists, and one with a list on a file that is replaced through it.
#[test]
fn file_systems_without_lists_are_replaced_on_as_ever() {
    if !is_root() {
        return;
    }
    for mounted in [Mounted::new("ramfs", "mode=755"), Mounted::new("tmpfs", "size=1m,mode=755")] {
        let file = mounted.path().join("destination.txt");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        transfer(b"new", |port| file_client(mounted.path(), port, &[])).assert_stored();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    }
}

/// As root in a container that lacks one capability or another.
#[test]
fn without_the_right_to_change_the_files_of_others_a_file_is_replaced_with_no_more_rights() {
    for missing in ["-fowner", "-chown", "-fowner,-chown"] {
        let Some(here) = directory_with(&format!("u:{NAMED}:r,g::r,o::---"), "") else { return };
        let file = here.path().join("destination.txt");
        let before = list_of(&file);
        chown(&file, Some(OUTSIDER), None).unwrap();
        let limited = |port| {
            through(
                &["setpriv", "--bounding-set", missing, "--inh-caps", missing],
                &file_client(here.path(), port, &[]),
            )
        };
        transfer(b"new", limited).assert_stored();
        assert_replaced(here.path(), b"new");
        assert_eq!(list_of(&file), before);

        succeed(Command::new("setfacl").arg("--remove-all").arg(&file));
        chown(&file, Some(OUTSIDER), Some(GROUP)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        transfer(b"new", limited).assert_stored();
        let found = fs::metadata(&file).unwrap();
        let expected = if missing.contains("chown") { (0o600, 0) } else { (0o640, GROUP) };
        assert_eq!((found.mode() & 0o777, found.gid()), expected, "{missing}");
    }
}

/// Some file systems answer like this, and old sandboxes.
#[test]
fn where_the_access_list_can_not_be_read_only_the_owner_has_rights() {
    for error in ["EINVAL", "EBUSY", "EPERM"] {
        let Some(strace) = Strace::new() else { return };
        let here = directory_with_old();
        let file = here.path().join("destination.txt");
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        let inject = format!("fgetxattr:error={error}");
        transfer(b"new", |port| strace.trace(&file_client(here.path(), port, &[]), Some(&inject))).assert_stored();
        strace.assert_injected();
        assert_replaced(here.path(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }
}

/// Some file systems lose a file to which another client has renamed its own.
#[test]
fn an_access_list_that_can_be_read_only_at_the_start_stays() {
    let Some(strace) = Strace::new() else { return };
    let Some(here) = directory_with(&format!("u:{NAMED}:r,g::r,o::---"), "") else { return };
    let file = here.path().join("destination.txt");
    let before = list_of(&file);
    let inject = Some("fgetxattr:error=ENOENT:when=2+");
    transfer(b"new", |port| strace.trace(&file_client(here.path(), port, &[]), inject)).assert_stored();
    strace.assert_injected();
    assert_replaced(here.path(), b"new");
    assert_eq!(list_of(&file), before);
}

#[test]
fn two_clients_of_one_destination_on_fuse_keep_its_mode() {
    let Some(bindfs) = user_space_file_system("bindfs") else { return };
    if !is_root() {
        return;
    }
    let below = directory_with_old();
    fs::set_permissions(below.path().join("destination.txt"), Permissions::from_mode(0o640)).unwrap();
    let options = ["--no-allow-other", below.path().to_str().unwrap()];
    let mounted = Mounted::with(bindfs.to_str().unwrap(), &options, directory());
    let bytes = content(300_001, 1);
    let first = StalledServer::start(&bytes, |port| file_client(mounted.path(), port, &[]));
    transfer(b"new", |port| file_client(mounted.path(), port, &[])).assert_stored();
    assert_eq!(first.half_close(b"").1.status, 0);
    assert_replaced(mounted.path(), &bytes);
    assert_eq!(fs::metadata(mounted.path().join("destination.txt")).unwrap().mode() & 0o777, 0o640);
}
