//! The file that is sent: read in whole chunks, by any number of clients at once, each of which gets it as it was when
//! that client came, or an error.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{platform, report};

/// Bytes that are read at once and written at once, so that small chunks share system calls.
pub const BUFFER_SIZE: usize = 128 * 1024;

/// Bytes in a page of memory, on most machines.
const PAGE_SIZE: usize = 4096;

/// A file, or a stream without a known end.
pub struct Source {
    name: String,
    input: Input,
    /// What every client must get, once its digest has been told.
    pinned: Option<Fingerprint>,
}

enum Input {
    /// Read at offsets of our own, so that every client reads from the start.
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
        Self { size: metadata.len(), modified: metadata.modified().ok(), changed: platform::change_time(metadata) }
    }
}

impl Source {
    /// Opens the file; `-` is standard input.
    ///
    /// # Errors
    /// The file can't be opened, or is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            let file = platform::standard_input().context("could not read standard input")?;
            return Ok(Self { name: "standard input".to_owned(), input: Input::Stream(file), pinned: None });
        }
        let name = report::name(path);
        let could_not = || format!("could not open {name}");
        let file = File::open(path).with_context(could_not)?;
        let metadata = file.metadata().with_context(could_not)?;
        if metadata.is_dir() {
            bail!("could not open {name}: is a directory");
        }
        let input = if metadata.is_file() { Input::File(file) } else { Input::Stream(file) };
        Ok(Self { name, input, pinned: None })
    }

    /// What to call it in front of a person.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its bytes are still there after one client has had them.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        matches!(self.input, Input::File(_))
    }

    /// The file as it is now, when no write is under way: such a one has changed some of the file's size and times
    /// already, in an order that differs between file systems, but not yet all of its bytes.
    ///
    /// # Errors
    /// It can't be examined, or is no longer the one whose digest was told.
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        let taken = self.settled()?;
        if self.pinned.is_some() && self.pinned != taken {
            bail!("{} changed since its digest was taken", self.name);
        }
        Ok(Snapshot { source: self, taken })
    }

    /// The digest of its bytes (FIPS 180-4), which every client is to get from now on; `on_progress` hears of every
    /// piece, in bytes.
    ///
    /// # Errors
    /// The file can't be read, or changes meanwhile.
    pub fn pin_sha256(&mut self, mut on_progress: impl FnMut(u64)) -> Result<[u8; 32]> {
        let snapshot = self.snapshot()?;
        let mut digest = Sha256::new();
        let mut chunks = snapshot.chunks(BUFFER_SIZE, None);
        loop {
            let piece = chunks.next_piece()?;
            if piece.is_empty() {
                break;
            }
            digest.update(piece);
            on_progress(piece.len() as u64);
        }
        snapshot.check_unchanged()?;
        self.pinned = snapshot.taken;
        Ok(digest.finalize().into())
    }

    fn settled(&self) -> Result<Option<Fingerprint>> {
        const TRIES: usize = 1000;
        let Input::File(file) = &self.input else { return self.fingerprint() };
        let mut before = self.fingerprint()?;
        for _ in 0..TRIES {
            platform::wait_for_write(file);
            let now = self.fingerprint()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        bail!("{} is being written to", self.name)
    }

    /// `None` if nobody can tell whether it changes, as with a pipe.
    fn fingerprint(&self) -> Result<Option<Fingerprint>> {
        let (Input::File(file) | Input::Stream(file)) = &self.input;
        let metadata = file.metadata().with_context(|| format!("could not read {}", self.name))?;
        Ok(metadata.is_file().then(|| Fingerprint::of(&metadata)))
    }
}

/// The source as it was at one moment, for one client.
pub struct Snapshot<'a> {
    source: &'a Source,
    taken: Option<Fingerprint>,
}

impl<'a> Snapshot<'a> {
    /// Bytes in the file; `None` for a stream, and for an empty file, which may be one (as in `/proc`).
    #[must_use]
    pub fn known_size(&self) -> Option<u64> {
        self.taken.filter(|_| self.source.is_repeatable()).map(|taken| taken.size).filter(|&size| size > 0)
    }

    /// The file itself and its size, for a kernel that moves it on its own.
    #[must_use]
    pub fn as_file(&self) -> Option<(&'a File, u64)> {
        match &self.source.input {
            Input::File(file) => self.known_size().map(|size| (file, size)),
            Input::Stream(_) => None,
        }
    }

    /// Its bytes from the start, in pieces of whole chunks of so many bytes each; on a stream that is silent they are
    /// waited for as long as the peer, if there is one, is still there.
    #[must_use]
    pub fn chunks(&'a self, chunk_size: usize, peer: Option<&'a TcpStream>) -> Chunks<'a> {
        let buffer = vec![0; chunks_at_once(chunk_size) * chunk_size];
        Chunks { snapshot: self, peer, chunk_size, buffer, offset: 0, handed: 0, filled: 0 }
    }

    /// Whether the bytes that were read belong together.
    ///
    /// # Errors
    /// The file was written to since the snapshot.
    pub fn check_unchanged(&self) -> Result<()> {
        if self.source.fingerprint()? != self.taken {
            bail!("{} changed while it was read", self.source.name);
        }
        Ok(())
    }

    /// What to say of a file that ends before the snapshot's size.
    #[must_use]
    pub fn became_shorter(&self) -> anyhow::Error {
        anyhow::anyhow!("{} became shorter while it was read", self.source.name)
    }

    /// Reads what is there, like read(2): 0 bytes at the end, and never past the snapshot's size, for a log that
    /// grows faster than it is sent.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.source.input {
            Input::File(file) => {
                let left = self.known_size().map_or(u64::MAX, |size| size - offset);
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                platform::read_at(file, &mut buffer[..wanted], offset)
            }
            Input::Stream(file) => { file }.read(buffer),
        }
    }
}

/// As many chunks as the buffer holds; a number of them that fills whole pages if it can, for the kernel copies those
/// faster.
fn chunks_at_once(chunk_size: usize) -> usize {
    let fit = (BUFFER_SIZE / chunk_size).max(1);
    let fill_pages = PAGE_SIZE >> chunk_size.trailing_zeros().min(PAGE_SIZE.trailing_zeros());
    if fit < fill_pages { fit } else { fit - fit % fill_pages }
}

/// One client's way through the source.
pub struct Chunks<'a> {
    snapshot: &'a Snapshot<'a>,
    peer: Option<&'a TcpStream>,
    chunk_size: usize,
    buffer: Vec<u8>,
    /// Bytes read so far.
    offset: u64,
    /// Bytes at the front of the buffer that the caller has had.
    handed: usize,
    /// Bytes in the buffer; those behind `handed` are an unfinished chunk.
    filled: usize,
}

impl Chunks<'_> {
    /// The next bytes: as many whole chunks as one read gave, and only at the very end a shorter one; none after it.
    ///
    /// # Errors
    /// The source can't be read, or became shorter than the snapshot; or the peer went away while it was silent.
    pub fn next_piece(&mut self) -> Result<&[u8]> {
        self.buffer.copy_within(self.handed..self.filled, 0);
        self.filled -= self.handed;
        let mut ended = false;
        while self.filled < self.chunk_size && !ended {
            let arrived = self.read()?;
            self.filled += arrived;
            ended = arrived == 0 || self.snapshot.known_size() == Some(self.offset);
        }
        self.handed = if ended { self.filled } else { self.filled - self.filled % self.chunk_size };
        Ok(&self.buffer[..self.handed])
    }

    fn read(&mut self) -> Result<usize> {
        if let (Input::Stream(file), Some(peer)) = (&self.snapshot.source.input, self.peer) {
            platform::wait_for_input(file, peer).context("the client went away")?;
        }
        loop {
            match self.snapshot.read(&mut self.buffer[self.filled..], self.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("could not read {}", self.snapshot.source.name));
                }
                Ok(0) if self.snapshot.known_size().is_some_and(|size| self.offset < size) => {
                    return Err(self.snapshot.became_shorter());
                }
                Ok(arrived) => {
                    self.offset += arrived as u64;
                    return Ok(arrived);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fill_whole_pages_where_they_can() {
        for (chunk_size, bytes) in [(1, 131_072), (30, 122_880), (4096, 131_072), (65_536, 131_072), (1 << 20, 1 << 20)]
        {
            assert_eq!(chunks_at_once(chunk_size) * chunk_size, bytes, "{chunk_size}");
        }
        assert_eq!(chunks_at_once(99), 131_072 / 99);
        assert_eq!(chunks_at_once(200_001), 1);
    }
}
