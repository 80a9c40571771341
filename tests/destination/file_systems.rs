//! The main job on every kind of file system that this machine can mount.

use std::fs;
use std::path::Path;

use crate::common::disk::Mounted;
use crate::common::fixture::{OLD, assert_replaced, transfer};
use crate::common::messages::too_short;
use crate::common::{content, directory, file_client, is_root, names_in, user_space_file_system};

impl Mounted {
    /// One directory over another, as in containers, and the file system that has both: it may be no overlay itself.
    fn overlay() -> (Self, Self) {
        let below = Self::new("tmpfs", "size=64m");
        let create = |name: &str| {
            let created = below.path().join(name);
            fs::create_dir(&created).unwrap();
            created.display().to_string()
        };
        let options = format!("lowerdir={},upperdir={},workdir={}", create("lower"), create("upper"), create("work"));
        fs::write(below.path().join("lower/destination.txt"), OLD).unwrap();
        (Self::with("mount", &["-t", "overlay", "-o", &options, "half-close-test"], directory()), below)
    }

    /// A file system in user space (FUSE), which has no files without a name.
    fn fuse() -> Option<Self> {
        let mount = user_space_file_system("bindfs")?;
        let below = directory();
        let source = below.path().to_str().unwrap().to_owned();
        Some(Self::with(mount.to_str().unwrap(), &["--no-allow-other", &source], below))
    }
}

fn assert_stores_on(mounted: &Mounted) {
    assert_stores_in(&mounted.subdirectory());
}

/// Stores a new file, replaces it, and refuses one at the end.
fn assert_stores_in(here: &Path) {
    let (one, other) = (content(3_000_001, 1), content(1, 2));
    for bytes in [&one, &other, &one] {
        transfer(bytes, |port| file_client(here, port, &[])).assert_stored();
        assert_replaced(here, bytes);
    }
    let outcome = transfer(&other, |port| file_client(here, port, &["--size", "2"]));
    outcome.assert_failed(&too_short(1, 2));
    assert_replaced(here, &one);
}

#[test]
fn ext4_stores_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::image("ext4", 24)
    {
        assert_stores_on(&mounted);
    }
}

#[test]
fn xfs_stores_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::image("xfs", 320)
    {
        assert_stores_on(&mounted);
    }
}

#[test]
fn btrfs_stores_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::image("btrfs", 128)
    {
        assert_stores_on(&mounted);
    }
}

#[test]
fn tmpfs_and_ramfs_store_the_file() {
    if is_root() {
        assert_stores_on(&Mounted::new("tmpfs", "size=16m"));
        assert_stores_on(&Mounted::new("ramfs", "mode=755"));
    }
}

#[test]
fn overlay_stores_the_file_also_over_one_of_the_lower_layer() {
    if is_root() {
        let (mounted, _below) = Mounted::overlay();
        assert_eq!(names_in(mounted.path()), ["destination.txt"]);
        assert_stores_in(mounted.path());
    }
}

#[test]
fn fuse_without_unnamed_files_stores_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::fuse()
    {
        assert_stores_on(&mounted);
    }
}
