//! Directories and files: content to send, what a directory holds, comparisons.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use std::{env, fs};

use rustix::fs::{CWD, FileType, StatVfs, StatVfsMountFlags, statvfs};
#[cfg(target_os = "linux")]
use rustix::fs::{Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::wait::wait_until;

/// An empty directory, removed when dropped. It has files without a name where any of the usual file systems has.
pub fn directory() -> TempDir {
    static PARENT: OnceLock<PathBuf> = OnceLock::new();
    tempfile::tempdir_in(PARENT.get_or_init(parent_of_directories)).unwrap()
}

/// The default one may be in a container (overlayfs), where there are files without a name only since Linux 6.10.
fn parent_of_directories() -> PathBuf {
    let default = env::temp_dir();
    if has_unnamed_files_in(&default) {
        return default;
    }
    let others = [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"].map(PathBuf::from);
    others.into_iter().find(|other| has_unnamed_files_in(other) && is_fit_for_tests(other)).unwrap_or(default)
}

/// Whether the directory takes files without a name (`O_TMPFILE`, open(2)).
pub fn has_unnamed_files_in(directory: &Path) -> bool {
    #[cfg(target_os = "linux")]
    let is_possible = openat(CWD, directory, OFlags::TMPFILE | OFlags::WRONLY, Mode::RUSR | Mode::WUSR).is_ok();
    #[cfg(not(target_os = "linux"))]
    let is_possible = false;
    is_possible
}

/// Programs are copied there and started, by other users too, and files may be large.
fn is_fit_for_tests(directory: &Path) -> bool {
    const ROOM: u64 = 2 << 30;
    let is_open = |directory: &Path| fs::metadata(directory).is_ok_and(|found| found.mode() & 0o001 != 0);
    let is_fit = |found: StatVfs| {
        !found.f_flag.contains(StatVfsMountFlags::NOEXEC) && found.f_bavail.saturating_mul(found.f_frsize) >= ROOM
    };
    directory.ancestors().all(is_open) && statvfs(directory).is_ok_and(is_fit)
}

/// Bytes without a pattern that could hide a wrong buffer size. The same seed gives the same bytes.
pub fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; size.next_multiple_of(8)];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Every name in the directory in order, hidden ones too.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Compares without printing megabytes.
pub fn assert_same(actual: &[u8], expected: &[u8], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: the length differs");
    if actual != expected {
        let differs = actual.iter().zip(expected).position(|(a, b)| a != b);
        panic!("{what}: differs from this byte on: {differs:?}");
    }
}

/// Fails unless the file has these bytes.
pub fn assert_file(path: &Path, expected: &[u8]) {
    assert_same(&fs::read(path).unwrap(), expected, &path.display().to_string());
}

/// A named pipe (mkfifo(3)).
pub fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// Waits until a change gets a later time than the file's last one: before Linux 6.13 the clock of file times ticks
/// every 10 ms at most.
pub fn wait_for_clock_tick(file: &Path) {
    let changed = |metadata: fs::Metadata| (metadata.ctime(), metadata.ctime_nsec());
    let last = changed(fs::metadata(file).unwrap());
    let newest = || tempfile::tempfile_in(file.parent().unwrap()).unwrap().metadata().unwrap();
    wait_until("a tick of the file system's clock", || changed(newest()) > last);
}

/// Changes the first byte in place, without changing the size.
pub fn overwrite_first_byte(file: &Path) {
    wait_for_clock_tick(file);
    open_for_writing(file).write_all(b"?").unwrap();
}

/// Sets its time back by two days.
pub fn make_old(file: &Path) {
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    // A read-only file cannot be opened for writing.
    fs::File::open(file).unwrap().set_modified(two_days_ago).unwrap();
}

/// Without truncating it.
pub fn open_for_writing(file: &Path) -> fs::File {
    fs::OpenOptions::new().write(true).open(file).unwrap()
}
