//! The main job on every kind of file system that this machine can mount. What is mounted here goes when it is dropped,
//! a panic included.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::{content, file_client, folder, installed, is_root, names_in};
use crate::{OLD, assert_replaced, transfer};

/// A file system at a place of its own.
pub struct Mounted {
    place: TempDir,
    /// What is below it: an image, or other folders.
    _below: TempDir,
}

impl Mounted {
    fn with(program: &str, arguments: &[&str], below: TempDir) -> Self {
        let mounted = Self { place: folder(), _below: below };
        succeed(Command::new(program).args(arguments).arg(mounted.path()));
        mounted
    }

    /// A file system that needs no disk.
    pub fn new(kind: &str, options: &str) -> Self {
        Self::with("mount", &["-t", kind, "-o", options, "half-close-test"], folder())
    }

    /// A file system in a file; `None` if it can't be made here.
    pub fn image(kind: &str, megabytes: u64) -> Option<Self> {
        let make = installed(&format!("mkfs.{kind}"))?;
        let below = folder();
        let image = below.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes * 1024 * 1024).unwrap();
        succeed(Command::new(make).arg("-q").arg(&image));
        Some(Self::with("mount", &["-o", "loop", image.to_str().unwrap()], below))
    }

    /// One folder over another, as in containers.
    fn overlay() -> Self {
        let below = folder();
        let place = |name: &str| {
            let place = below.path().join(name);
            fs::create_dir(&place).unwrap();
            place.display().to_string()
        };
        let options = format!("lowerdir={},upperdir={},workdir={}", place("lower"), place("upper"), place("work"));
        fs::write(below.path().join("lower/destination.txt"), OLD).unwrap();
        Self::with("mount", &["-t", "overlay", "-o", &options, "half-close-test"], below)
    }

    /// A file system without unnamed files, in a process of its own (FUSE).
    fn fuse() -> Option<Self> {
        let mount = installed("bindfs")?;
        let below = folder();
        let source = below.path().to_str().unwrap().to_owned();
        Some(Self::with(mount.to_str().unwrap(), &["--no-allow-other", &source], below))
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", output.stderr.escape_ascii());
}

/// A new file, one in place of it, and one that is refused at the end.
fn does_the_main_job(mounted: &Mounted) {
    let here = mounted.path().join("sub");
    fs::create_dir(&here).unwrap();
    stores_in(&here);
}

fn stores_in(here: &Path) {
    let (one, other) = (content(3_000_001, 1), content(1, 2));
    for bytes in [&one, &other, &one] {
        transfer(bytes, |port| file_client(here, port, &[])).assert_stored();
        assert_replaced(here, bytes);
    }
    let outcome = transfer(&other, |port| file_client(here, port, &["--size", "2"]));
    outcome.assert_failed("could not store destination.txt: 1 bytes arrived, 2 were expected");
    assert_replaced(here, &one);
}

#[test]
fn ext4_takes_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::image("ext4", 24)
    {
        does_the_main_job(&mounted);
    }
}

#[test]
fn xfs_takes_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::image("xfs", 320)
    {
        does_the_main_job(&mounted);
    }
}

#[test]
fn btrfs_takes_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::image("btrfs", 128)
    {
        does_the_main_job(&mounted);
    }
}

#[test]
fn a_memory_file_system_takes_the_file() {
    if is_root() {
        does_the_main_job(&Mounted::new("tmpfs", "size=16m"));
        does_the_main_job(&Mounted::new("ramfs", "mode=755"));
    }
}

#[test]
fn an_overlay_takes_the_file_also_over_one_from_below() {
    if is_root() {
        let mounted = Mounted::overlay();
        assert_eq!(names_in(mounted.path()), ["destination.txt"]);
        stores_in(mounted.path());
    }
}

#[test]
fn a_file_system_without_unnamed_files_takes_the_file() {
    if is_root()
        && let Some(mounted) = Mounted::fuse()
    {
        does_the_main_job(&mounted);
    }
}
