//! What another user puts into a directory like `/tmp` for this program to find is not followed, opened or replaced, and
//! gives nothing to the new file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::disk::succeed;
use crate::common::files::make_fifo;
use crate::common::fixture::{OLD, transfer};
use crate::common::processes::{after, through};
use crate::common::{content, directory, file_client, is_root, names_in};
use crate::stalled_server::StalledServer;
use crate::{assert_refused, client_to};

const ATTACKER: u32 = 54_321;

/// A directory that everybody may write to, whose files only their owners may remove.
fn shared_directory() -> Option<TempDir> {
    let here = directory();
    fs::set_permissions(here.path(), Permissions::from_mode(0o1777)).unwrap();
    is_root().then_some(here)
}

fn plant(path: &Path) {
    lchown(path, Some(ATTACKER), Some(ATTACKER)).unwrap();
}

#[test]
fn a_link_of_another_user_is_not_followed() {
    let Some(here) = shared_directory() else { return };
    let home = directory();
    fs::write(home.path().join("profile"), OLD).unwrap();
    let link = here.path().join("link");
    for target in ["profile", "nothing yet"] {
        symlink(home.path().join(target), &link).unwrap();
        plant(&link);
        let refused = |output: &str| {
            let refusal = format!("could not write {output}: permission denied");
            assert_refused(&refusal, |port| client_to(here.path(), port, output));
        };
        refused("link");
        // Neither on the way from a link that may be followed.
        symlink("link", here.path().join("ours")).unwrap();
        refused("ours");
        fs::remove_file(here.path().join("ours")).unwrap();
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(fs::read(home.path().join("profile")).unwrap(), OLD);
    assert_eq!(names_in(home.path()), ["profile"]);
}

#[test]
fn a_link_of_the_user_or_of_the_owner_of_the_directory_is_followed() {
    let Some(here) = shared_directory() else { return };
    let home = directory();
    symlink(home.path().join("profile"), here.path().join("link")).unwrap();
    transfer(b"new", |port| client_to(here.path(), port, "link")).assert_stored();
    chown(here.path(), Some(ATTACKER), None).unwrap();
    plant(&here.path().join("link"));
    transfer(b"newer", |port| client_to(here.path(), port, "link")).assert_stored();
    assert_eq!(fs::read(home.path().join("profile")).unwrap(), b"newer");
}

#[test]
fn a_fifo_or_a_file_of_another_user_is_not_written() {
    let Some(here) = shared_directory() else { return };
    make_fifo(&here.path().join("fifo"));
    fs::write(here.path().join("file"), OLD).unwrap();
    for output in ["fifo", "file"] {
        let planted = here.path().join(output);
        fs::set_permissions(&planted, Permissions::from_mode(0o666)).unwrap();
        plant(&planted);
        let refusal = format!("could not write {output}: permission denied");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
    assert_eq!(fs::read(here.path().join("file")).unwrap(), OLD);
}

#[test]
fn a_file_that_appears_during_the_transfer_gives_its_owner_and_its_mode_to_nothing() {
    let Some(here) = shared_directory() else { return };
    let bytes = content(300_001, 1);
    let client = |port| after("umask 022", &file_client(here.path(), port, &[]));
    let held = StalledServer::start(&bytes, client);
    let planted = here.path().join("destination.txt");
    fs::write(&planted, "planted").unwrap();
    fs::set_permissions(&planted, Permissions::from_mode(0o666)).unwrap();
    plant(&planted);
    assert_eq!(held.half_close(b"").1.status, 0);
    let found = fs::metadata(&planted).unwrap();
    assert_eq!((found.len(), found.uid(), found.mode() & 0o777), (300_001, 0, 0o644));
}

#[test]
fn a_mount_that_forbids_following_links_is_obeyed() {
    if !is_root() {
        return;
    }
    let here = directory();
    fs::write(here.path().join("file"), OLD).unwrap();
    symlink("file", here.path().join("link")).unwrap();
    let mount = "mount --bind . . && mount -o remount,bind,nosymfollow . && cd .";
    let path = here.path().join("link");
    let forbids = Command::new("unshare").args(["--mount", "sh", "-c", mount]).current_dir(here.path()).status();
    if !forbids.unwrap().success() {
        return;
    }
    let refusal = format!("could not write {}: too many levels of symbolic links", path.display());
    assert_refused(&refusal, |port| {
        through(&["unshare", "--mount"], &after(mount, &client_to(here.path(), port, &path)))
    });
    succeed(Command::new("cmp").arg(here.path().join("file")).arg(&path));
}
