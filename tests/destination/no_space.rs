//! Full disks, size limits, quotas, and files that cannot be replaced. One error line names the file and the reason, the
//! old file is unchanged, and there are no leftover files.

use std::fs;
use std::process::Command;

use crate::common::disk::{Mounted, succeed};
use crate::common::fixture::{OLD, assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::processes::{after, through};
use crate::common::{assert_same, content, directory, file_client, is_root, names_in, wait_until};
use crate::{assert_refused, client_to};

const NO_SPACE: &str = "could not write destination.txt: no space left on device";

#[test]
fn full_disk_is_reported_and_the_old_file_stays() {
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
fn full_ext4_is_reported_and_the_old_file_stays() {
    if is_root()
        && let Some(mounted) = Mounted::image("ext4", 4)
    {
        let here = mounted.subdirectory();
        fs::write(here.join("destination.txt"), OLD).unwrap();
        transfer(&vec![1; 9_000_000], |port| file_client(&here, port, &[])).assert_failed(NO_SPACE);
        assert_untouched(&here);
    }
}

#[test]
fn disk_without_inodes_is_refused_before_connecting() {
    if !is_root() {
        return;
    }
    // For the directory itself and the old file.
    let here = Mounted::new("tmpfs", "nr_inodes=2");
    fs::write(here.path().join("destination.txt"), OLD).unwrap();
    assert_refused(NO_SPACE, |port| file_client(here.path(), port, &[]));
    assert_untouched(here.path());
}

#[test]
fn read_only_file_system_is_refused_before_connecting() {
    if !is_root() {
        return;
    }
    let here = Mounted::new("tmpfs", "size=64k");
    fs::write(here.path().join("destination.txt"), OLD).unwrap();
    // Fails while a program that another test starts at the moment has inherited the file, open for writing.
    let remounted = || Command::new("mount").args(["-o", "remount,ro"]).arg(here.path()).status().unwrap().success();
    wait_until("no other program has the file open", remounted);
    for output in ["destination.txt", "new"] {
        let refusal = format!("could not write {output}: read-only file system");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
    assert_untouched(here.path());
}

/// As containers get their configuration files.
#[test]
fn bind_mounted_file_cannot_be_replaced_and_stays() {
    if !is_root() {
        return;
    }
    let here = directory_with_old();
    let mount = "mount --bind destination.txt destination.txt";
    let client = |port| through(&["unshare", "--mount"], &after(mount, &file_client(here.path(), port, &[])));
    let refusal = "could not write destination.txt: it is a mount point and cannot be replaced; to write into it, use \
                   '--output -' and redirect it there";
    assert_refused(refusal, client);
    assert_untouched(here.path());
}

#[test]
fn exceeded_quota_is_reported_and_the_old_file_stays() {
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
fn file_size_limit_is_reported_instead_of_dying_of_sigxfsz() {
    let too_large = "could not write destination.txt: file too large";
    // In blocks of 512 bytes.
    for (limit, size) in [(0, 1), (1, 513), (1, 9_000_000), (4096, 9_000_000)] {
        let here = directory_with_old();
        let limited = format!("ulimit -f {limit}");
        for options in [&[][..], &["--sha256", &"0".repeat(64)]] {
            let client = |port| after(&limited, &file_client(here.path(), port, options));
            transfer(&vec![1; size], client).assert_failed(too_large);
            assert_untouched(here.path());
        }
    }
    let here = directory_with_old();
    let bytes = content(512, 1);
    transfer(&bytes, |port| after("ulimit -f 1", &file_client(here.path(), port, &[]))).assert_stored();
    assert_replaced(here.path(), &bytes);
}

#[test]
fn file_size_limit_is_reported_for_standard_output() {
    let here = directory();
    let bytes = content(9_000_000, 1);
    let outcome = transfer(&bytes, |port| after("ulimit -f 4 && exec > all", &client_to(here.path(), port, "-")));
    outcome.assert_failed("could not write standard output: file too large");
    assert_same(&fs::read(here.path().join("all")).unwrap(), &bytes[..2048], "what fits");
    assert_eq!(names_in(here.path()), ["all"]);
}
