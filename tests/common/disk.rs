//! File systems on mount points of their own, loop devices, and a disk that is slow. All are removed when dropped, also
//! after a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::files::directory;
use super::processes::run;
use super::requirements::{has_loop_device, installed, is_root, skip_unless_required, user_space_file_system};

/// A file system on a mount point of its own.
pub struct Mounted {
    mount_point: TempDir,
    /// What it is made of: an image, or other directories.
    _source: TempDir,
}

impl Mounted {
    pub fn with(program: &str, arguments: &[&str], source: TempDir) -> Self {
        let mounted = Self { mount_point: directory(), _source: source };
        succeed(Command::new(program).args(arguments).arg(mounted.path()));
        mounted
    }

    /// A file system that needs no device.
    pub fn new(kind: &str, options: &str) -> Self {
        Self::with("mount", &["-t", kind, "-o", options, "half-close-test"], directory())
    }

    /// A file system in a file; `None` if it cannot be created here, or if the kernel does not know it.
    pub fn image(kind: &str, megabytes: u64) -> Option<Self> {
        let make = installed(&format!("mkfs.{kind}"))?;
        if !has_loop_device() {
            return None;
        }
        let below = directory();
        let image = below.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes * 1024 * 1024).unwrap();
        succeed(Command::new(make).arg("-q").arg(&image));
        let mounted = Self { mount_point: directory(), _source: below };
        let mount = run(Command::new("mount").args(["-t", kind, "-o", "loop"]).arg(image).arg(mounted.path()));
        if mount.status != 0 {
            skip_unless_required(&format!("{kind} cannot be mounted: {}", mount.last_line()));
            return None;
        }
        Some(mounted)
    }

    /// A new directory on the file system: its root may hold more than our file.
    pub fn subdirectory(&self) -> PathBuf {
        let sub = self.path().join("sub");
        fs::create_dir(&sub).unwrap();
        sub
    }

    pub fn path(&self) -> &Path {
        self.mount_point.path()
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

/// A loop device, detached when dropped.
pub struct LoopDevice(pub String);

impl LoopDevice {
    pub fn of(image: &Path) -> Self {
        let attached = run(Command::new("losetup").args(["--find", "--show"]).arg(image));
        assert_eq!(attached.status, 0, "{attached:?}");
        Self(attached.stdout().trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        succeed(Command::new("losetup").args(["--detach", &self.0]));
    }
}

/// A file system in user space that takes that many bytes in a second, and in it the image of a disk.
pub fn slow_image(bytes_in_a_second: u32) -> Option<(Mounted, PathBuf)> {
    let (bindfs, make) = (user_space_file_system("bindfs")?, installed("mkfs.ext4")?);
    if !is_root() || !has_loop_device() {
        return None;
    }
    let below = directory();
    let image = below.path().join("image");
    fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    succeed(Command::new(make).arg("-q").arg(&image));
    let (rate, source) = (format!("--write-rate={bytes_in_a_second}"), below.path().display().to_string());
    let mounted = Mounted::with(bindfs.to_str().unwrap(), &["--no-allow-other", &rate, &source], below);
    let image = mounted.path().join("image");
    Some((mounted, image))
}

/// The file system of a disk that takes that many bytes in a second, and what it depends on.
pub fn slow_disk(bytes_in_a_second: u32) -> Option<(Mounted, Mounted)> {
    let (below, image) = slow_image(bytes_in_a_second)?;
    let disk = Mounted::with("mount", &["-o", "loop", image.to_str().unwrap()], directory());
    Some((disk, below))
}
