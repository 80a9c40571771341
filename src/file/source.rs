//! The file that is sent: read by any number of clients at once, each of which gets it as it was when that client came, or
//! an error. A file has changed when its bytes have: `mv`, `ln`, `rm` and `chmod` of it harm no transfer.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::fingerprint::{Fingerprint, Since};
use super::place;
use super::watch::Watch;
use crate::text;

/// Bytes that are read at once to compute a digest, or to read again what was sent.
const BUFFER_SIZE: usize = 128 * 1024;

/// The smallest file that is watched. One that is smaller is read by a single call, and to end a watch takes tens of
/// milliseconds (the kernel waits for all others that may be looking at it).
const MIN_WATCHED: u64 = 32 * 1024;

/// How often to look again at a file that is being written to, or that changes while it is read again.
const TRIES: usize = 1000;

/// A file, or a stream whose end is not known in advance.
pub(crate) struct Source {
    name: String,
    input: Input,
    watch: Option<Watch>,
    digested: Option<Digested>,
}

enum Input {
    /// Read at explicit offsets, so that every client reads from the start.
    File(File),
    /// Standard input, a FIFO or a device: one client reads it from where it stands.
    Stream(File),
}

/// What every client must get, once the digest of it was printed.
struct Digested {
    sha256: [u8; 32],
    last: Mutex<LastDigest>,
}

/// The file when its digest was last computed.
struct LastDigest {
    seen: Option<Fingerprint>,
    is_same: bool,
}

impl Source {
    /// Opens the file; `-` is standard input. A FIFO is opened without waiting for a writer.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or is a directory.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            let file = standard_input().context("could not read standard input")?;
            return Ok(Self::new("standard input".to_owned(), Input::Stream(file)));
        }
        let name = text::name(path);
        let input = Input::open(path).with_context(|| format!("could not open {name}"))?;
        Ok(Self::new(name, input))
    }

    fn new(name: String, input: Input) -> Self {
        let (Input::File(file) | Input::Stream(file)) = &input;
        let watch = if is_worth_watching(file) { Watch::on(file) } else { None };
        Self { name, input, watch, digested: None }
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn known_size(&self) -> Result<Option<u64>> {
        Ok(self.snapshot()?.known_size())
    }

    /// Whether its bytes are still there after one client has read them.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self.input, Input::File(_))
    }

    /// Whether it is a FIFO that no program has written to yet (fifo(7)).
    pub(crate) fn is_fifo_without_writer(&self) -> bool {
        #[cfg(unix)]
        {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            use std::os::unix::fs::FileTypeExt as _;
            let Input::Stream(file) = &self.input else { return false };
            let is_fifo = file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
            let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
            is_fifo && poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&no_time)).is_ok_and(|ready| ready == 0)
        }
        #[cfg(not(unix))]
        {
            false
        }
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
        let snapshot = self.snapshot_of_any_content()?;
        if let Some(digested) = &self.digested {
            self.ensure_digest_holds(digested, &snapshot)?;
        }
        Ok(snapshot)
    }

    /// Returns the digest of its bytes (FIPS 180-4), which every client gets from now on; calls `on_progress` with the
    /// number of bytes in every piece.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or changes meanwhile.
    pub(crate) fn compute_sha256(&mut self, on_progress: impl FnMut(u64)) -> Result<[u8; 32]> {
        let (sha256, seen) = self.digest_of_now(on_progress)?;
        self.digested = Some(Digested { sha256, last: Mutex::new(LastDigest { seen, is_same: true }) });
        Ok(sha256)
    }

    fn digest_of_now(&self, mut on_progress: impl FnMut(u64)) -> Result<([u8; 32], Option<Fingerprint>)> {
        let mut snapshot = self.snapshot_of_any_content()?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let arrived = snapshot.read(&mut buffer)?;
            if arrived == 0 {
                break;
            }
            digest.update(&buffer[..arrived]);
            on_progress(arrived as u64);
        }
        snapshot.ensure_unchanged()?;
        Ok((digest.finalize().into(), snapshot.taken))
    }

    /// Computes the digest again, once, if something happened to the file that may have changed its bytes.
    fn ensure_digest_holds(&self, digested: &Digested, snapshot: &Snapshot) -> Result<()> {
        let mut last = digested.last.lock().unwrap_or_else(PoisonError::into_inner);
        let since = snapshot.taken.zip(last.seen).map_or(Since::Nothing, |(now, seen)| now.since(&seen));
        if matches!(since, Since::Unknown | Since::Written) {
            last.is_same = self.digest_of_now(|_| ())?.0 == digested.sha256;
        }
        last.seen = snapshot.taken;
        if last.is_same { Ok(()) } else { bail!("{} changed since its digest was computed", self.name) }
    }

    fn snapshot_of_any_content(&self) -> Result<Snapshot<'_>> {
        let taken = self.settled()?;
        let size = self.size_at(taken.as_ref()).with_context(|| self.could_not_read())?;
        Ok(Snapshot { source: self, size, taken, read: 0, checksum: Xxh3::new() })
    }

    /// `None` for a stream, and for a value of the kernel, whose size says nothing: 0 in `/proc`, 4096 in `/sys` (proc(5),
    /// sysfs(5)).
    fn size_at(&self, taken: Option<&Fingerprint>) -> io::Result<Option<u64>> {
        let Input::File(file) = &self.input else { return Ok(None) };
        match taken {
            Some(_) if place::is_kernel_value(file) => Ok(None),
            // One that is empty may still have bytes, which a file system did not know beforehand.
            Some(taken) if taken.size == 0 && read_at(file, &mut [0], 0)? > 0 => Ok(None),
            Some(taken) => Ok(Some(taken.size)),
            None => { file }.seek(SeekFrom::End(0)).map(Some),
        }
    }

    fn settled(&self) -> Result<Option<Fingerprint>> {
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

    /// `None` if it cannot be known whether it changes, as with a pipe (which Windows cannot even examine) or a disk.
    fn fingerprint(&self) -> Result<Option<Fingerprint>> {
        let fingerprint = |file| Fingerprint::of(file, self.watch.as_ref());
        match &self.input {
            Input::File(file) => fingerprint(file).with_context(|| self.could_not_read()),
            Input::Stream(file) => Ok(fingerprint(file).unwrap_or_default()),
        }
    }

    fn could_not_read(&self) -> String {
        format!("could not read {}", self.name)
    }
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        let file = open_without_waiting(path)?;
        let file_type = file.metadata()?.file_type();
        if file_type.is_dir() {
            bail!("is a directory");
        }
        let is_file = file_type.is_file() || is_block_device(file_type);
        Ok(if is_file { Self::File(file) } else { Self::Stream(file) })
    }
}

/// The source as it was at one moment, read once from its start.
pub(crate) struct Snapshot<'a> {
    source: &'a Source,
    size: Option<u64>,
    taken: Option<Fingerprint>,
    /// Bytes read so far, and a checksum of them.
    read: u64,
    checksum: Xxh3,
}

impl Snapshot<'_> {
    /// The source that it was taken of.
    pub(crate) fn source(&self) -> &Source {
        self.source
    }

    /// Bytes in the file; `None` if that is known at its end only.
    pub(crate) fn known_size(&self) -> Option<u64> {
        self.size
    }

    /// Whether all bytes of a file of known size have been read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.size == Some(self.read)
    }

    /// Reads the next bytes: returns 0 at the end, and never reads past the snapshot's size, for a log that grows faster
    /// than it is sent.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read or became shorter than the snapshot.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.size.map_or(u64::MAX, |size| size - self.read);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..wanted];
        let arrived = retry_interrupted(|| match &self.source.input {
            Input::File(file) => read_at(file, buffer, self.read),
            Input::Stream(file) => { file }.read(buffer),
        });
        match arrived.with_context(|| self.source.could_not_read())? {
            0 if wanted > 0 && self.size.is_some() => bail!("{} became shorter while it was read", self.source.name),
            arrived => {
                self.checksum.update(&buffer[..arrived]);
                self.read += arrived as u64;
                Ok(arrived)
            }
        }
    }

    /// Checks, at the price of one system call, that nothing is known to have been written to the file so far.
    ///
    /// # Errors
    /// Returns an error if the file was written to since the snapshot.
    pub(crate) fn ensure_not_written(&self) -> Result<()> {
        match self.since()? {
            Since::Written => Err(self.changed()),
            _ => Ok(()),
        }
    }

    /// Checks that the bytes that were read belong together. Reads them again if something happened to the file that was
    /// not seen, and may be a write whose times were set back.
    ///
    /// # Errors
    /// Returns an error if the file was written to since the snapshot.
    pub(crate) fn ensure_unchanged(&self) -> Result<()> {
        match self.since()? {
            Since::Nothing | Since::Harmless => Ok(()),
            Since::Unknown if self.is_read_again_the_same()? => Ok(()),
            Since::Unknown | Since::Written => Err(self.changed()),
        }
    }

    fn since(&self) -> Result<Since> {
        let now = self.source.fingerprint()?;
        Ok(now.zip(self.taken).map_or(Since::Nothing, |(now, taken)| now.since(&taken)))
    }

    fn changed(&self) -> Error {
        let name = &self.source.name;
        let now = self.source.fingerprint().ok().flatten().map(|now| now.size);
        match self.size {
            Some(size) if now.is_some_and(|now| now > size) => {
                let file = shlex::try_quote(name).unwrap_or("FILE".into());
                anyhow!(
                    "{name} grew while it was read; to send what it has now, type: head -c {size} < {file} | file-server -f - PORT"
                )
            }
            _ => anyhow!("{name} changed while it was read"),
        }
    }

    fn is_read_again_the_same(&self) -> Result<bool> {
        let Input::File(_) = self.source.input else { return Ok(false) };
        for _ in 0..TRIES {
            let mut again = self.source.snapshot_of_any_content()?;
            let mut buffer = vec![0; BUFFER_SIZE];
            while again.read < self.read {
                let left = usize::try_from(self.read - again.read).unwrap_or(usize::MAX).min(BUFFER_SIZE);
                if again.read(&mut buffer[..left])? == 0 {
                    return Ok(false);
                }
            }
            match again.since()? {
                // Something happened meanwhile that may have changed what was read.
                Since::Unknown => {}
                Since::Written => return Ok(false),
                Since::Nothing | Since::Harmless => return Ok(again.checksum.digest128() == self.checksum.digest128()),
            }
        }
        Ok(false)
    }
}

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A FIFO without a writer would block open(2); what is read then is waited for in any case (fifo(7)).
fn open_without_waiting(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        use std::os::unix::fs::OpenOptionsExt as _;
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        Ok(file)
    }
    #[cfg(not(unix))]
    {
        File::open(path)
    }
}

fn is_worth_watching(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() >= MIN_WATCHED) && !place::is_kernel_value(file)
}

fn is_block_device(file_type: std::fs::FileType) -> bool {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileTypeExt::is_block_device(&file_type)
    }
    #[cfg(not(unix))]
    {
        let _ = file_type;
        false
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

/// Waits for a write that is under way: asking where data begins takes the lock that a write holds (lseek(2); on ext4,
/// tmpfs and btrfs).
fn wait_for_write(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}
