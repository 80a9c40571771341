//! What cannot be replaced or has no room is known before connecting: the waiting server is not used up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::disk::{LoopDevice, Mounted, succeed};
use crate::common::fixture::{OLD, assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::messages::too_short;
use crate::common::network::Listener;
use crate::common::processes::{after, through};
use crate::common::requirements::has_loop_device;
use crate::common::{
    assert_same, content, directory, file_client, has_unnamed_files, installed, is_root, names_in, run,
    user_space_file_system,
};
use crate::temporary_names::without_proc;
use crate::{assert_refused, client_to};

/// A file or directory with an attribute (chattr(1)) until this is dropped.
struct Flagged<'a>(&'a Path, char);

impl<'a> Flagged<'a> {
    /// `None` where there are no such attributes.
    fn new(path: &'a Path, flag: char) -> Option<Self> {
        let chattr = installed("chattr")?;
        let set = Command::new(chattr).arg(format!("+{flag}")).arg(path).output().unwrap().status.success();
        set.then_some(Self(path, flag))
    }
}

impl Drop for Flagged<'_> {
    fn drop(&mut self) {
        succeed(Command::new("chattr").arg(format!("-{}", self.1)).arg(self.0));
    }
}

#[test]
fn an_immutable_or_append_only_file_is_refused() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let file = here.path().join("destination.txt");
    let reasons =
        [('i', "it is immutable (see chattr(1))"), ('a', "it is append-only (see chattr(1)) and cannot be replaced")];
    for (flag, reason) in reasons {
        let Some(_flagged) = Flagged::new(&file, flag) else { return };
        let refusal = format!("could not write destination.txt: {reason}");
        assert_refused(&refusal, |port| file_client(here.path(), port, &[]));
        assert_refused(&refusal, |port| without_proc(&file_client(here.path(), port, &[])));
        assert_untouched(here.path());
    }
}

#[test]
fn an_immutable_directory_is_refused() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let Some(_flagged) = Flagged::new(here.path(), 'i') else { return };
    for output in ["destination.txt", "new"] {
        let refusal = format!("could not write {output}: directory . is immutable (see chattr(1))");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
    assert_untouched(here.path());
}

#[test]
fn an_append_only_directory_takes_new_files_and_keeps_no_temporary_one() {
    if !is_root() || !has_unnamed_files() {
        return;
    }
    let here = directory_with_old();
    let Some(flagged) = Flagged::new(here.path(), 'a') else { return };
    let refusal =
        "could not write destination.txt: directory . is append-only (see chattr(1)): nothing in it can be replaced";
    assert_refused(refusal, |port| file_client(here.path(), port, &[]));
    let link = directory();
    symlink(here.path(), link.path().join("link")).unwrap();
    let refusal = "could not write link/destination.txt: directory link is append-only (see chattr(1)): nothing in it \
                   can be replaced";
    assert_refused(refusal, |port| client_to(link.path(), port, "link/destination.txt"));
    let refusal = "could not write new: directory . is append-only (see chattr(1)): no temporary file can be removed";
    assert_refused(refusal, |port| without_proc(&client_to(here.path(), port, "new")));
    assert_untouched(here.path());
    transfer(b"new", |port| client_to(here.path(), port, "new")).assert_stored();
    assert_eq!(fs::read(here.path().join("new")).unwrap(), b"new");
    assert_eq!(names_in(here.path()), ["destination.txt", "new"]);
    drop(flagged);
}

#[test]
fn a_mounted_file_is_written_through_standard_output() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let mount = "mount --bind destination.txt destination.txt && exec > destination.txt";
    let client = |port| through(&["unshare", "--mount"], &after(mount, &client_to(here.path(), port, "-")));
    transfer(b"new", client).assert_stored();
    assert_replaced(here.path(), b"new");
}

#[test]
fn a_working_directory_that_was_deleted_is_named() {
    let here = directory();
    let refusal = |output: &str| format!("could not write {output}: the current directory was deleted");
    for output in ["destination.txt", "./new"] {
        fs::create_dir(here.path().join("gone")).unwrap();
        assert_refused(&refusal(output), |port| {
            after("cd gone && rmdir ../gone", &client_to(here.path(), port, output))
        });
    }
    // Another directory is no matter.
    fs::create_dir(here.path().join("gone")).unwrap();
    let output = here.path().join("new");
    transfer(b"new", |port| after("cd gone && rmdir ../gone", &client_to(here.path(), port, &output))).assert_stored();
    assert_eq!(names_in(here.path()), ["new"]);
}

/// Refused with the size that does not fit, stored with the size that fits.
fn assert_room_is_known(here: &Path, too_large: u64) {
    fs::write(here.join("destination.txt"), OLD).unwrap();
    let size = too_large.to_string();
    let refusal = "could not write destination.txt: no space left on device";
    assert_refused(refusal, |port| file_client(here, port, &["--size", &size]));
    assert_untouched(here);
    for size in [0, 1, 1_000_001] {
        let bytes = content(size, 1);
        transfer(&bytes, |port| file_client(here, port, &["--size", &size.to_string()])).assert_stored();
        assert_replaced(here, &bytes);
    }
    let outcome = transfer(b"less", |port| file_client(here, port, &["--size", "1000000"]));
    outcome.assert_failed(&too_short(4, 1_000_000));
    assert_eq!(names_in(here), ["destination.txt"]);
}

#[test]
fn a_file_that_has_no_room_is_refused_if_its_size_is_known() {
    if !is_root() {
        return;
    }
    assert_room_is_known(Mounted::new("tmpfs", "size=4m").path(), 4_200_000);
    for (kind, megabytes) in [("ext4", 24), ("xfs", 320), ("btrfs", 128)] {
        let Some(mounted) = Mounted::image(kind, megabytes) else { return };
        let here = mounted.path().join("sub");
        fs::create_dir(&here).unwrap();
        assert_room_is_known(&here, megabytes << 20);
    }
}

/// As mergerfs and rclone do, which have room elsewhere.
#[test]
fn a_file_system_that_reserves_nothing_takes_any_size_whatever_it_calls_free() {
    if !is_root() {
        return;
    }
    let Some(bindfs) = user_space_file_system("bindfs") else { return };
    let below = Mounted::new("tmpfs", "size=1m");
    let options = ["--no-allow-other", below.path().to_str().unwrap()];
    let here = Mounted::with(bindfs.to_str().unwrap(), &options, directory());
    let outcome = transfer(b"less", |port| file_client(here.path(), port, &["--size", "4200000"]));
    outcome.assert_failed(&too_short(4, 4_200_000));
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn a_file_system_that_counts_no_blocks_takes_any_size() {
    if !is_root() {
        return;
    }
    let here = Mounted::new("ramfs", "mode=755");
    let bytes = content(1_000_001, 1);
    transfer(&bytes, |port| file_client(here.path(), port, &["--size", "1000001"])).assert_stored();
    assert_replaced(here.path(), &bytes);
}

#[test]
fn a_size_above_the_limit_for_files_is_refused() {
    let here = directory_with_old();
    let client = |size: &str, port| after("ulimit -f 1", &file_client(here.path(), port, &["--size", size]));
    assert_refused("could not write destination.txt: file too large", |port| client("513", port));
    assert_untouched(here.path());
    let bytes = content(512, 1);
    transfer(&bytes, |port| client("512", port)).assert_stored();
    assert_replaced(here.path(), &bytes);
}

/// No file system holds so much.
#[test]
fn an_absurd_size_is_refused_where_room_can_be_known() {
    let here = directory_with_old();
    let size = (u64::MAX / 2).to_string();
    let listener = Listener::new();
    let client = run(&mut file_client(here.path(), listener.port(), &["--size", &size]));
    listener.assert_unused();
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    assert_untouched(here.path());
}

#[test]
fn a_block_device_that_is_too_small_is_refused_before_it_is_overwritten() {
    if !is_root() || !has_loop_device() {
        return;
    }
    let here = directory();
    let image = here.path().join("image");
    fs::write(&image, vec![7; 1 << 20]).unwrap();
    let device = LoopDevice::of(&image);
    let refusal = format!("could not write {}: no space left on device", device.0);
    assert_refused(&refusal, |port| file_client(here.path(), port, &["--size", "1048577", "-o", &device.0]));
    let bytes = content(1 << 20, 1);
    transfer(&bytes, |port| file_client(here.path(), port, &["--size", "1048576", "-o", &device.0])).assert_stored();
    drop(device);
    assert_same(&fs::read(image).unwrap(), &bytes, "the device");
}
