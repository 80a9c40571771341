//! This machine, in one line, and its folders: one in memory, one on a disk, with the room that they have.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;
use bytesize::ByteSize;
use tempfile::TempDir;

use crate::process::Invocation;

/// Cores, model, kernel and memory.
pub fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| env::consts::ARCH.to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = memory("MemTotal").map_or_else(|| "?".to_owned(), |bytes| ByteSize(bytes).display().iec().to_string());
    format!("{cores} cores, {model}, {} {}, {memory} memory", env::consts::OS, kernel.trim())
}

/// `Name: value` in one of the kernel's tables.
fn field(table: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(table).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn memory(name: &str) -> Option<u64> {
    let kibibytes: u64 = field("/proc/meminfo", name)?.trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024)
}

/// The most memory that this process had, below which no process that it starts can be seen to stay: its image is
/// the child's until exec(2).
pub fn own_peak() -> Option<u64> {
    let kibibytes: u64 = field("/proc/self/status", "VmHWM")?.trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024)
}

/// A folder of our own, gone when dropped.
pub struct Folder {
    folder: TempDir,
    /// Its file system, as the kernel's table of mounts names it.
    pub file_system: String,
}

impl Folder {
    /// In memory, if this machine has such a place with this much room; else said aloud and next to the programs.
    pub fn in_memory(room: u64) -> Result<Self> {
        let shared_memory = Path::new("/dev/shm");
        if mount_of(shared_memory).is_some_and(|mount| mount.kind == "tmpfs") {
            let folder = Self::under(shared_memory)?;
            if folder.has_room(room) {
                return Ok(folder);
            }
        }
        let folder = Self::on_disk()?;
        println!("/dev/shm is no tmpfs with room: \"memory\" means {} here", folder.file_system);
        Ok(folder)
    }

    /// On the file system where cargo builds.
    pub fn on_disk() -> Result<Self> {
        Self::under(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    fn under(parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("half-close-bench-").tempdir_in(parent)?;
        folders().push(folder.path().to_owned());
        let mount = mount_of(folder.path());
        let file_system = mount
            .map_or_else(|| "an unknown file system".to_owned(), |mount| format!("{} ({})", mount.kind, mount.device));
        Ok(Self { folder, file_system })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// With a margin for everybody else. What is in memory needs memory, too.
    pub fn has_room(&self, bytes: u64) -> bool {
        const MARGIN: u64 = 1 << 30;
        let free = rustix::fs::statvfs(self.folder.path()).map_or(0, |state| state.f_bavail * state.f_frsize);
        let available = if self.file_system.starts_with("tmpfs") { memory("MemAvailable") } else { None };
        bytes + MARGIN <= free.min(available.unwrap_or(u64::MAX))
    }

    /// Waits until what was written before is on the disk, so that nobody pays for the one before.
    pub fn settle(&self) -> Result<()> {
        Invocation::new("sync").with(["-f"]).with([self.folder.path()]).run()?;
        Ok(())
    }
}

/// Every folder so far: gigabytes of memory are in them when this process is interrupted.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is left of them.
pub fn discard_folders() {
    for folder in folders().iter() {
        let _ = fs::remove_dir_all(folder);
    }
}

struct Mount {
    device: String,
    kind: String,
    point: PathBuf,
}

fn mount_of(path: &Path) -> Option<Mount> {
    let path = path.canonicalize().ok()?;
    let table = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').map(str::to_owned);
        let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Mount { device, kind, point: point.into() })
    });
    mounts.filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.as_os_str().len())
}
