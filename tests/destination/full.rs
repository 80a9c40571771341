//! No room: full disks, size limits, quotas, and places where nothing can be replaced. One line says which file and
//! why, the old one is as it was, and there is no litter.

use std::fs;
use std::process::Command;

use crate::common::{content, file_client, folder, is_root, names_in};
use crate::file_systems::{Mounted, succeed};
use crate::held::until;
use crate::{OLD, after, assert_refused, assert_same, assert_untouched, client_to, folder_with_old, through, transfer};

const NO_SPACE: &str = "could not write destination.txt: no space left on device";

#[test]
fn a_full_disk_is_one_line_and_the_old_file_stays() {
    if !is_root() {
        return;
    }
    for (disk, file) in [("size=64k", 65_536), ("size=64k", 9_000_000), ("size=4m", 9_000_000)] {
        let here = Mounted::new("tmpfs", disk);
        fs::write(here.path().join("destination.txt"), OLD).unwrap();
        for options in [&[][..], &["--no-sync"], &["--sha256", &"0".repeat(64)]] {
            transfer(&vec![1; file], |port| file_client(here.path(), port, options)).assert_failed(NO_SPACE);
            assert_untouched(here.path());
        }
        transfer(b"small", |port| file_client(here.path(), port, &[])).assert_stored();
    }
}

#[test]
fn a_full_ext4_is_one_line_and_the_old_file_stays() {
    if is_root()
        && let Some(mounted) = Mounted::image("ext4", 4)
    {
        let here = mounted.path().join("sub");
        fs::create_dir(&here).unwrap();
        fs::write(here.join("destination.txt"), OLD).unwrap();
        transfer(&vec![1; 9_000_000], |port| file_client(&here, port, &[])).assert_failed(NO_SPACE);
        assert_untouched(&here);
    }
}

#[test]
fn a_disk_without_room_for_one_more_file_is_refused() {
    if !is_root() {
        return;
    }
    // The folder itself, and the old file.
    let here = Mounted::new("tmpfs", "nr_inodes=2");
    fs::write(here.path().join("destination.txt"), OLD).unwrap();
    assert_refused(NO_SPACE, |port| file_client(here.path(), port, &[]));
    assert_untouched(here.path());
}

#[test]
fn a_read_only_disk_is_refused() {
    if !is_root() {
        return;
    }
    let here = Mounted::new("tmpfs", "size=64k");
    fs::write(here.path().join("destination.txt"), OLD).unwrap();
    // Busy for as long as a program that another test is starting has the file open for writing, too.
    let remounted = || Command::new("mount").args(["-o", "remount,ro"]).arg(here.path()).status().unwrap().success();
    until("no other program has it open", || remounted().then_some(()));
    for output in ["destination.txt", "new"] {
        let refusal = format!("could not write {output}: read-only file system");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
    assert_untouched(here.path());
}

/// As containers get their configuration.
#[test]
fn a_file_that_is_mounted_by_itself_can_not_be_replaced() {
    if !is_root() {
        return;
    }
    let here = folder_with_old();
    let mount = "mount --bind destination.txt destination.txt";
    let client = |port| through(&["unshare", "--mount"], &after(mount, &file_client(here.path(), port, &[])));
    let outcome = transfer(b"new", client);
    outcome.assert_failed("could not write destination.txt: device or resource busy");
    assert_untouched(here.path());
}

#[test]
fn a_quota_is_one_line_and_the_old_file_stays() {
    if is_root()
        && let Some(here) = Mounted::image("btrfs", 128)
    {
        let btrfs = |arguments: &[&str]| succeed(Command::new("btrfs").args(arguments).arg(here.path()));
        btrfs(&["quota", "enable"]);
        let limited = here.path().join("limited");
        succeed(Command::new("btrfs").args(["subvolume", "create"]).arg(&limited));
        succeed(Command::new("btrfs").args(["qgroup", "limit", "1M"]).arg(&limited));
        fs::write(limited.join("destination.txt"), OLD).unwrap();
        let outcome = transfer(&vec![1; 9_000_000], |port| file_client(&limited, port, &[]));
        outcome.assert_failed("could not write destination.txt: disk quota exceeded");
        assert_untouched(&limited);
    }
}

#[test]
fn a_file_size_limit_is_one_line_and_no_signal() {
    let too_large = "could not write destination.txt: file too large";
    // In blocks of 512 bytes.
    for (limit, size) in [(0, 1), (1, 513), (1, 9_000_000), (4096, 9_000_000)] {
        let here = folder_with_old();
        let limited = format!("ulimit -f {limit}");
        for options in [&[][..], &["--sha256", &"0".repeat(64)]] {
            let client = |port| after(&limited, &file_client(here.path(), port, options));
            transfer(&vec![1; size], client).assert_failed(too_large);
            assert_untouched(here.path());
        }
    }
    let here = folder_with_old();
    let bytes = content(512, 1);
    transfer(&bytes, |port| after("ulimit -f 1", &file_client(here.path(), port, &[]))).assert_stored();
    crate::assert_replaced(here.path(), &bytes);
}

#[test]
fn a_file_size_limit_holds_for_standard_output_too() {
    let here = folder();
    let bytes = content(9_000_000, 1);
    let outcome = transfer(&bytes, |port| after("ulimit -f 4 && exec > all", &client_to(here.path(), port, "-")));
    outcome.assert_failed("could not write standard output: file too large");
    assert_same(&fs::read(here.path().join("all")).unwrap(), &bytes[..2048], "what fits");
    assert_eq!(names_in(here.path()), ["all"]);
}
