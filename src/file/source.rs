//! The file that is sent: read by any number of clients at once, each of which gets it as it was when that client came, or
//! an error.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::ui::text;

/// Bytes that are read at once to compute a digest.
const BUFFER_SIZE: usize = 128 * 1024;

/// A file, or a stream whose end is not known in advance.
pub(crate) struct Source {
    name: String,
    input: Input,
    /// What every client must get, once the digest of it was printed.
    digested: Option<Fingerprint>,
}

enum Input {
    /// Read at explicit offsets, so that every client reads from the start.
    File(File),
    /// Standard input, a FIFO or a device: one client reads it from where it stands.
    Stream(File),
}

/// What a write to a file changes (inode(7)).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    size: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok(), changed: change_time(metadata) }
    }
}

impl Source {
    /// Opens the file; `-` is standard input.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or is a directory.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            let file = standard_input().context("could not read standard input")?;
            return Ok(Self { name: "standard input".to_owned(), input: Input::Stream(file), digested: None });
        }
        let name = text::name(path);
        let could_not_open = || format!("could not open {name}");
        let file = File::open(path).with_context(could_not_open)?;
        let metadata = file.metadata().with_context(could_not_open)?;
        if metadata.is_dir() {
            bail!("could not open {name}: is a directory");
        }
        let input = if metadata.is_file() { Input::File(file) } else { Input::Stream(file) };
        Ok(Self { name, input, digested: None })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether its bytes are still there after one client has read them.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self.input, Input::File(_))
    }

    /// The stream, if it is one, to wait for until it has bytes.
    pub(crate) fn as_stream(&self) -> Option<&File> {
        match &self.input {
            Input::Stream(file) => Some(file),
            Input::File(_) => None,
        }
    }

    /// The file as it is now, once no write is under way: such a write has changed some of the file's size and times
    /// already, in an order that differs between file systems, but not yet all of its bytes.
    ///
    /// # Errors
    /// Returns an error if the file cannot be examined, or changed since its digest was computed.
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>> {
        let taken = self.settled()?;
        if self.digested.is_some() && self.digested != taken {
            bail!("{} changed since its digest was computed", self.name);
        }
        Ok(Snapshot { source: self, taken })
    }

    /// Returns the digest of its bytes (FIPS 180-4), which every client gets from now on; calls `on_progress` with the
    /// number of bytes in every piece.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or changes meanwhile.
    pub(crate) fn compute_sha256(&mut self, mut on_progress: impl FnMut(u64)) -> Result<[u8; 32]> {
        let snapshot = self.snapshot()?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_SIZE];
        let mut offset = 0;
        loop {
            let arrived = snapshot.read(&mut buffer, offset)?;
            if arrived == 0 {
                break;
            }
            digest.update(&buffer[..arrived]);
            offset += arrived as u64;
            on_progress(arrived as u64);
        }
        snapshot.ensure_unchanged()?;
        self.digested = snapshot.taken;
        Ok(digest.finalize().into())
    }

    fn settled(&self) -> Result<Option<Fingerprint>> {
        const TRIES: usize = 1000;
        let Input::File(file) = &self.input else { return self.fingerprint() };
        let mut before = self.fingerprint()?;
        for _ in 0..TRIES {
            wait_for_write(file);
            let now = self.fingerprint()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        bail!("{} is being written to", self.name)
    }

    /// `None` if it cannot be known whether it changes, as with a pipe.
    fn fingerprint(&self) -> Result<Option<Fingerprint>> {
        let (Input::File(file) | Input::Stream(file)) = &self.input;
        let metadata = file.metadata().with_context(|| format!("could not read {}", self.name))?;
        Ok(metadata.is_file().then(|| Fingerprint::of(&metadata)))
    }
}

/// The source as it was at one moment, for one client.
pub(crate) struct Snapshot<'a> {
    source: &'a Source,
    taken: Option<Fingerprint>,
}

impl Snapshot<'_> {
    /// The source that it was taken of.
    pub(crate) fn source(&self) -> &Source {
        self.source
    }

    /// Bytes in the file; `None` for a stream, and for an empty file, which may be one (as in `/proc`).
    pub(crate) fn known_size(&self) -> Option<u64> {
        self.taken.filter(|_| self.source.is_repeatable()).map(|taken| taken.size).filter(|&size| size > 0)
    }

    /// Checks that the bytes that were read belong together.
    ///
    /// # Errors
    /// Returns an error if the file was written to since the snapshot.
    pub(crate) fn ensure_unchanged(&self) -> Result<()> {
        if self.source.fingerprint()? != self.taken {
            bail!("{} changed while it was read", self.source.name);
        }
        Ok(())
    }

    /// Reads like pread(2), or like read(2) from a stream, which has no offsets: returns 0 at the end, and never reads
    /// past the snapshot's size, for a log that grows faster than it is sent.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read or became shorter than the snapshot.
    pub(crate) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let name = &self.source.name;
        let left = self.known_size().map_or(u64::MAX, |size| size - offset);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..wanted];
        loop {
            let read = match &self.source.input {
                Input::File(file) => read_at(file, buffer, offset),
                Input::Stream(file) => { file }.read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) if wanted > 0 && self.known_size().is_some() => bail!("{name} became shorter while it was read"),
                read => return read.with_context(|| format!("could not read {name}")),
            }
        }
    }
}

/// Standard input as a file: unlike that of `std` it has no buffer, and one that cannot be read is an error rather than an
/// end.
fn standard_input() -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd as _;
        Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
    }
    #[cfg(windows)]
    {
        use std::os::windows::io::AsHandle as _;
        Ok(io::stdin().as_handle().try_clone_to_owned()?.into())
    }
}

/// Reads at an offset without moving the file's own one, so that threads can share the file (pread(2)).
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_at(file, buffer, offset)
    }
    #[cfg(windows)]
    {
        std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
    }
}

/// When the file was last changed in any way, in seconds and nanoseconds: unlike the time of its last modification it
/// cannot be set back (inode(7)).
#[cfg(unix)]
fn change_time(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn change_time(_: &Metadata) -> (i64, i64) {
    (0, 0)
}

/// Waits for a write that is under way: asking where data begins takes the lock that a write holds (lseek(2); on ext4,
/// tmpfs and btrfs).
fn wait_for_write(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}
