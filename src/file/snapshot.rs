//! A source at one moment, and whether the bytes that are read from it belong together. A file has changed when its bytes
//! have: its times only tell when to compare them.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::source::{BUFFER_SIZE, Source, retry_interrupted, without_kind};
use crate::buffer::Buffer;
use crate::command::Run;

/// How often a file is read again while its times keep moving.
const READINGS_AGAIN: u64 = 2;

/// For this long after a file's last change a write may leave its times the same: a tick of the kernel (10 ms at most,
/// time(7)), or 2 s on FAT. A direct write that was submitted then may be under way for as long.
const FRESH: Duration = Duration::from_secs(2);

/// What one client gets, read once from its start.
pub(crate) struct Snapshot<'a> {
    source: &'a Source,
    size: Option<u64>,
    /// The file when its bytes were last known to belong together; `None` if nothing shows whether they change.
    fingerprint: Option<Fingerprint>,
    /// Bytes read so far, and how many of them belong together.
    read: u64,
    checked: u64,
    checksum: Xxh3,
    sha256: Option<Sha256>,
    /// The run of a command, and what it writes. Dropped before it has ended, the command is ended.
    run: Option<(Run, File)>,
}

impl<'a> Snapshot<'a> {
    /// # Errors
    /// Returns an error if the source cannot be examined.
    pub(super) fn take(source: &'a Source) -> Result<Self> {
        let (fingerprint, size) = source.examine()?;
        let run = source.start()?;
        Ok(Self { source, size, fingerprint, read: 0, checked: 0, checksum: Xxh3::new(), sha256: None, run })
    }

    /// From now on the bytes are also compared with the digest that was printed.
    pub(super) fn compute_sha256(&mut self) {
        self.sha256 = Some(Sha256::new());
    }

    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Bytes to be read in all; `None` if that is only known at the end.
    pub(crate) fn known_size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes that are still to be read, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.size.map(|size| size - self.read)
    }

    /// The stream to wait for, if the source is one.
    pub(crate) fn stream(&self) -> Option<&File> {
        self.run.as_ref().map(|(_, output)| output).or(self.source.stream())
    }

    /// Reads the next bytes: returns 0 at the end, and never reads past the snapshot's size, for a log that grows faster
    /// than it is sent.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read or became shorter than the snapshot.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.left().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let arrived = match &self.run {
            Some((run, output)) => retry_interrupted(|| { output }.read(&mut buffer[..wanted]))
                .map_err(without_kind)
                .with_context(|| format!("could not read what {} writes", run.name()))?,
            None => self.source.read_at(&mut buffer[..wanted], self.read)?,
        };
        match self.size {
            Some(size) if arrived == 0 => return Err(self.source.changed(size, self.read)),
            _ => {}
        }
        self.checksum.update(&buffer[..arrived]);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(&buffer[..arrived]);
        }
        self.read += arrived as u64;
        Ok(arrived)
    }

    /// Skips the next `length` bytes if they have this digest; otherwise returns false, and the next read begins where
    /// this one did. Returns false as well if there are fewer bytes, or if they can be read only once. Calls
    /// `meanwhile` with the number of bytes in every step.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read or became shorter, or the error of `meanwhile`.
    pub(crate) fn skip_if(
        &mut self,
        length: u64,
        digest: &[u8; 32],
        mut meanwhile: impl FnMut(u64) -> Result<()>,
    ) -> Result<bool> {
        if self.stream().is_some() || self.left().is_none_or(|left| left < length) {
            return Ok(false);
        }
        let before = (self.read, self.checksum.clone(), self.sha256.clone());
        let (mut sha256, mut buffer) = (Sha256::new(), Buffer::new(BUFFER_SIZE));
        let end = self.read + length;
        while self.read < end {
            let wanted = usize::try_from(end - self.read).unwrap_or(usize::MAX).min(BUFFER_SIZE);
            let arrived = self.read(&mut buffer[..wanted])?;
            sha256.update(&buffer[..arrived]);
            meanwhile(arrived as u64)?;
        }
        let is_same = <[u8; 32]>::from(sha256.finalize()) == *digest;
        if !is_same {
            (self.read, self.checksum, self.sha256) = before;
        }
        Ok(is_same)
    }

    /// Checks that the bytes read so far were all in the file at one moment and, at the end, that they have the digest
    /// that was printed. This costs one system call if nothing has happened to the file. Otherwise the file is read
    /// again, and `meanwhile` is called after every buffer with the number of bytes read again so far and the most that
    /// will be.
    ///
    /// # Errors
    /// Returns an error if the file has changed or cannot be read, or the error of `meanwhile`.
    pub(crate) fn ensure_unchanged(&mut self, meanwhile: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        // What happens to the file after a check does not matter to bytes that were read before it.
        if self.checked < self.read {
            self.compare(meanwhile)?;
            self.checked = self.read;
        }
        if self.left() == Some(0) { self.ensure_digest_holds() } else { Ok(()) }
    }

    /// Checks that the source has ended well, so that the client may be told that this was all. `wait_for_input` waits for
    /// the end of a command that has closed its output.
    ///
    /// # Errors
    /// Returns an error if a file has changed or a command has failed, or the error of `wait_for_input`.
    pub(crate) fn ensure_ended_well(&mut self, wait_for_input: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        if let Some((run, _)) = &self.run {
            run.wait_for_success(wait_for_input)?;
        }
        self.ensure_unchanged(|_, _| Ok(()))?;
        self.ensure_digest_holds()
    }

    fn ensure_digest_holds(&mut self) -> Result<()> {
        let Some(sha256) = self.sha256.take() else { return Ok(()) };
        self.source.ensure_digest_holds(sha256.finalize().into(), self.fingerprint)
    }

    /// Bytes that are found again where they were read were there at every moment between the two readings, unless someone
    /// has changed them and changed them back. So a second reading is enough, and a third one makes sure if the times have
    /// moved again.
    fn compare(&mut self, mut meanwhile: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        for reading in 0..READINGS_AGAIN {
            let (Some(before), Some(now)) = (self.fingerprint, self.source.fingerprint()?) else { return Ok(()) };
            match now.since(&before) {
                Change::None => return Ok(()),
                Change::Size => return Err(self.source.changed(before.size, now.size)),
                Change::Possible if reading > 0 && now.has_times_of(&before) => return Ok(()),
                Change::Possible => {}
            }
            self.read_again(|bytes| meanwhile(reading * self.read + bytes, READINGS_AGAIN * self.read))?;
            self.fingerprint = Some(now);
        }
        Ok(())
    }

    fn read_again(&self, mut meanwhile: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut checksum = Xxh3::new();
        let part = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_SIZE);
        let mut buffer = Buffer::new(part(self.read));
        let mut read = 0;
        while read < self.read {
            let arrived = self.source.read_at(&mut buffer[..part(self.read - read)], read)?;
            if arrived == 0 {
                return Err(self.source.changed(self.read, read));
            }
            checksum.update(&buffer[..arrived]);
            read += arrived as u64;
            meanwhile(read)?;
        }
        if checksum.digest128() == self.checksum.digest128() { Ok(()) } else { Err(self.source.changed(read, read)) }
    }
}

/// What shows whether a file may have been written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint {
    /// Bytes in the file.
    pub(super) size: u64,
    /// The time of the last write, which can be set to any value (inode(7)).
    modified: Option<SystemTime>,
    /// The time of the last change of any kind, which cannot be set.
    changed: Option<SystemTime>,
    /// Whether the next write may get the same times.
    is_fresh: bool,
}

/// What may have happened to the bytes of a file since a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// They may or may not have changed, as after `touch`, `chmod`, `ln`, or a write whose times were set back.
    Possible,
    /// There are more of them, or fewer.
    Size,
}

impl Fingerprint {
    /// The fingerprint of the file once every write under way has ended: such a write has already set the file's times,
    /// but not yet all of its bytes, so two readings during it could agree. A write that begins meanwhile makes the
    /// fingerprint fresh. `None` if the file is not a regular one: nothing reveals writes to a disk. The offset of the
    /// file is `start`, and stays there.
    ///
    /// # Errors
    /// Returns an error if the file cannot be examined.
    pub(super) fn of_settled(file: &File, start: u64) -> io::Result<Option<Self>> {
        let now = SystemTime::now();
        wait_for_write(file, start);
        Self::at(now, file)
    }

    fn at(now: SystemTime, file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        let (modified, changed) = (metadata.modified().ok(), change_time(&metadata));
        let is_fresh = changed.and_then(|changed| changed.checked_add(FRESH)).is_none_or(|until| now <= until);
        let fingerprint = Self { size: metadata.len(), modified, changed, is_fresh };
        Ok(metadata.is_file().then_some(fingerprint))
    }

    /// The same for a value that the kernel generates when it is read, and that may differ each time.
    pub(super) fn of_value(self) -> Self {
        Self { is_fresh: false, ..self }
    }

    /// What may have happened between that fingerprint and this one.
    pub(super) fn since(&self, before: &Self) -> Change {
        if self.size != before.size {
            Change::Size
        } else if before.is_fresh || !self.has_times_of(before) {
            Change::Possible
        } else {
            Change::None
        }
    }

    fn has_times_of(&self, other: &Self) -> bool {
        (self.modified, self.changed) == (other.modified, other.changed)
    }
}

#[cfg(unix)]
fn change_time(metadata: &Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt as _;
    let (seconds, nanoseconds) = (u64::try_from(metadata.ctime()).ok()?, u32::try_from(metadata.ctime_nsec()).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

#[cfg(not(unix))]
fn change_time(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}

/// Asking where data begins takes the lock that a write holds (lseek(2); on ext4, tmpfs and btrfs), and may move the
/// offset, which standard input shares with other programs. XFS itself blocks reads during a write.
#[cfg(target_os = "linux")]
fn wait_for_write(file: &File, start: u64) {
    use rustix::fs::{SeekFrom, seek};
    if seek(file, SeekFrom::Data(start)).is_ok_and(|data| data != start) {
        let _ = seek(file, SeekFrom::Start(start));
    }
}

#[cfg(not(target_os = "linux"))]
fn wait_for_write(_: &File, _: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(size: u64, modified: u64, changed: u64, is_fresh: bool) -> Fingerprint {
        let time = |milliseconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds));
        Fingerprint { size, modified: time(modified), changed: time(changed), is_fresh }
    }

    /// Whether a byte that is written without moving any time is noticed.
    fn notices_write_without_a_trace(is_fresh: bool) -> Result<bool> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, "the old bytes")?;
        let source = Source::open(file.path())?;
        let mut snapshot = source.snapshot()?;
        snapshot.read(&mut [0; 100])?;
        std::fs::write(&file, "the new bytes")?;
        snapshot.fingerprint = source.fingerprint()?.map(|now| Fingerprint { is_fresh, ..now });
        Ok(snapshot.ensure_ended_well(|_| Ok(())).is_err())
    }

    #[test]
    fn a_write_in_the_same_tick_as_the_snapshot_is_noticed() -> Result<()> {
        assert!(notices_write_without_a_trace(true)?);
        assert!(!notices_write_without_a_trace(false)?);
        Ok(())
    }

    #[test]
    fn reading_again_ends_when_the_client_has_gone_and_after_three_readings_that_agree() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, vec![b'x'; 3 * BUFFER_SIZE])?;
        let source = Source::open(file.path())?;
        let mut snapshot = source.snapshot()?;
        while snapshot.read(&mut [0; 4096])? > 0 {}
        file.as_file().set_modified(SystemTime::UNIX_EPOCH)?;
        let mut calls = 0;
        let gone = snapshot.ensure_unchanged(|_, _| {
            calls += 1;
            anyhow::bail!("the client has gone")
        });
        assert!(gone.is_err() && calls == 1);
        let mut calls = Vec::new();
        let agreed = snapshot.ensure_unchanged(|read, most| {
            // Times that move at every reading.
            file.as_file().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(read))?;
            calls.push(read / BUFFER_SIZE as u64);
            assert_eq!(most, 6 * BUFFER_SIZE as u64);
            Ok(())
        });
        assert!(agreed.is_ok());
        assert_eq!(calls, [1, 2, 3, 4, 5, 6]);
        Ok(())
    }

    #[test]
    fn only_the_size_tells_for_certain_that_bytes_have_changed() {
        let before = fingerprint(30, 1, 2, false);
        assert_eq!(fingerprint(30, 1, 2, false).since(&before), Change::None);
        assert_eq!(fingerprint(30, 1, 2, true).since(&before), Change::None);
        assert_eq!(fingerprint(30, 9, 2, false).since(&before), Change::Possible);
        assert_eq!(fingerprint(30, 1, 9, false).since(&before), Change::Possible);
        assert_eq!(fingerprint(31, 9, 9, false).since(&before), Change::Size);
        assert_eq!(fingerprint(30, 1, 2, false).since(&fingerprint(30, 1, 2, true)), Change::Possible);
    }

    #[test]
    fn a_file_is_fresh_until_its_next_write_gets_another_time() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        let written = change_time(&file.metadata()?).unwrap_or(SystemTime::UNIX_EPOCH);
        let is_fresh_after = |milliseconds| -> io::Result<Option<bool>> {
            let fingerprint = Fingerprint::at(written + Duration::from_millis(milliseconds), &file)?;
            Ok(fingerprint.map(|fingerprint| fingerprint.is_fresh))
        };
        assert_eq!(is_fresh_after(0)?, Some(true));
        assert_eq!(is_fresh_after(2000)?, Some(true));
        assert_eq!(is_fresh_after(2001)?, Some(false));
        Ok(())
    }
}
