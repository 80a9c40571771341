//! What is sent: a file, read by any number of clients at once, or a stream, read by one.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow};
use sha2::{Digest as _, Sha256};

use super::snapshot::{Change, Fingerprint, Snapshot};
use crate::blocking;
use crate::buffer::Buffer;
use crate::command::{Command, Run};
use crate::text;
pub(super) use imp::is_block_device;
use imp::{check_is_open, is_fifo, open_without_waiting, read_at, takes_room};

/// Bytes that are read at once to compute a digest, or to compare what was sent with the file.
pub(super) const BUFFER_SIZE: usize = 128 * 1024;

/// The names of standard input on Linux, besides `-` (proc(5)).
const NAMES_OF_STANDARD_INPUT: [&str; 3] = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// Whether this path names standard input.
pub(crate) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-" || NAMES_OF_STANDARD_INPUT.iter().any(|name| path.as_os_str() == *name)
}

/// What every client gets, as it is when that client connects.
pub(crate) struct Source {
    name: String,
    /// As it was given; `None` for standard input.
    path: Option<PathBuf>,
    input: Input,
    printed: Option<PrintedDigest>,
}

enum Input {
    /// A regular file or a disk, read at explicit offsets, the first of which is `start`.
    File { file: File, start: u64 },
    /// A pipe, a socket or another device, read from its current position.
    Stream(File),
    /// A program that is run for each client, and whose output the client gets.
    Command(Command),
}

/// A digest that clients were told to expect.
struct PrintedDigest {
    sha256: [u8; 32],
    /// The file when its digest was last computed, and whether the digest was this one.
    last: Mutex<(Option<Fingerprint>, bool)>,
}

impl Source {
    /// Opens the file; `-` is standard input. A FIFO is opened without waiting for a writer.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened or is a directory, or if standard input is closed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            let input = standard_input().and_then(Input::new).context("could not read standard input")?;
            return Ok(Self { name: "standard input".to_owned(), path: None, input, printed: None });
        }
        let name = text::name(path);
        let file = if is_standard_input(path) {
            // Neither a socket nor another user's pipe can be opened again (open(2)).
            standard_input().map(|input| open_without_waiting(path).unwrap_or(input))
        } else {
            open_without_waiting(path)
        };
        let input = file.and_then(Input::new).with_context(|| format!("could not open {name}"))?;
        Ok(Self { name, path: Some(path.to_owned()), input, printed: None })
    }

    /// The output of a program; `words` are its name and its arguments.
    ///
    /// # Errors
    /// Returns an error if there is no such program.
    pub(crate) fn command(words: &[OsString]) -> Result<Self> {
        let command = Command::find(words)?;
        let name = command.name().to_owned();
        Ok(Self { name, path: None, input: Input::Command(command), printed: None })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in it, if that is known.
    ///
    /// # Errors
    /// Returns an error if the file cannot be examined.
    pub(crate) fn known_size(&self) -> Result<Option<u64>> {
        Ok(self.examine()?.1)
    }

    /// Whether every client can get it from the start.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self.input, Input::Stream(_))
    }

    /// Whether it is a FIFO that no program has written to yet (fifo(7)).
    pub(crate) fn is_fifo_without_writer(&self) -> bool {
        let (Input::Stream(file), Some(path)) = (&self.input, &self.path) else { return false };
        // The pipe behind `/dev/fd/63` has its writer.
        path.symlink_metadata().is_ok_and(|found| is_fifo(found.file_type()))
            && blocking::is_readable_within(Some(Duration::ZERO), file).is_ok_and(|has_writer| !has_writer)
    }

    /// What one client gets: the file as it is now, or the stream.
    ///
    /// # Errors
    /// Returns an error if the file cannot be examined, or no longer has the digest that was printed.
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>> {
        let mut snapshot = Snapshot::take(self)?;
        if let Some(PrintedDigest { last, .. }) = &self.printed {
            let (seen, is_same) = *last.lock().unwrap_or_else(PoisonError::into_inner);
            let change = snapshot.fingerprint().zip(seen).map_or(Change::Possible, |(now, seen)| now.since(&seen));
            match change {
                Change::None if is_same => {}
                Change::None => return Err(self.digest_changed()),
                Change::Possible | Change::Size => snapshot.compute_sha256(),
            }
        }
        Ok(snapshot)
    }

    /// Returns the SHA-256 (FIPS 180-4) of the bytes that every client gets from now on. Calls `on_progress` with the
    /// number of bytes in every piece.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or changes meanwhile.
    pub(crate) fn compute_sha256(&mut self, on_progress: impl Fn(u64)) -> Result<[u8; 32]> {
        let mut snapshot = Snapshot::take(self)?;
        let mut digest = Sha256::new();
        let mut buffer = Buffer::new(BUFFER_SIZE);
        loop {
            let arrived = snapshot.read(&mut buffer)?;
            if arrived == 0 {
                break;
            }
            digest.update(&buffer[..arrived]);
            on_progress(arrived as u64);
        }
        snapshot.ensure_ended_well(|_| Ok(()))?;
        let (sha256, seen) = (digest.finalize().into(), snapshot.fingerprint());
        self.printed = Some(PrintedDigest { sha256, last: Mutex::new((seen, true)) });
        Ok(sha256)
    }

    /// Compares what a client was sent with the digest that it was told to expect.
    pub(super) fn ensure_digest_holds(&self, sha256: [u8; 32], of: Option<Fingerprint>) -> Result<()> {
        let Some(printed) = &self.printed else { return Ok(()) };
        let is_same = sha256 == printed.sha256;
        *printed.last.lock().unwrap_or_else(PoisonError::into_inner) = (of, is_same);
        if is_same { Ok(()) } else { Err(self.digest_changed()) }
    }

    fn digest_changed(&self) -> Error {
        anyhow!("{} changed since its digest was computed", self.name)
    }

    /// Reads at `offset` bytes from the start of a file; a stream is read from its current position.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let read = retry_interrupted(|| match &self.input {
            Input::File { file, start } => read_at(file, buffer, start.saturating_add(offset)),
            Input::Stream(file) => { file }.read(buffer),
            Input::Command(_) => Ok(0),
        });
        read.map_err(|error| self.could_not_read(error))
    }

    /// The stream to wait for, if the source is one.
    pub(super) fn stream(&self) -> Option<&File> {
        if let Input::Stream(file) = &self.input { Some(file) } else { None }
    }

    /// Starts the command, if it is one: returns its run and what it writes.
    pub(super) fn start(&self) -> Result<Option<(Run, File)>> {
        if let Input::Command(command) = &self.input { command.start_reading().map(Some) } else { Ok(None) }
    }

    /// The file as it is now, if anything shows whether it changes, and the number of bytes from its start, if that is
    /// known.
    pub(super) fn examine(&self) -> Result<(Option<Fingerprint>, Option<u64>)> {
        let Input::File { file, start } = &self.input else { return Ok((None, None)) };
        let examined = Fingerprint::of_settled(file, *start).and_then(|fingerprint| match fingerprint {
            Some(fingerprint) if !has_true_size(file, fingerprint.size)? => Ok((Some(fingerprint.of_value()), None)),
            Some(fingerprint) => Ok((Some(fingerprint), Some(fingerprint.size.saturating_sub(*start)))),
            None => Ok((None, Some({ file }.seek(SeekFrom::End(0))?.saturating_sub(*start)))),
        });
        examined.map_err(|error| self.could_not_read(error))
    }

    /// The file as it is now, once no write is under way. `None` if nothing shows whether its bytes change.
    pub(super) fn fingerprint(&self) -> Result<Option<Fingerprint>> {
        let Input::File { file, start } = &self.input else { return Ok(None) };
        Fingerprint::of_settled(file, *start).map_err(|error| self.could_not_read(error))
    }

    /// Why a client that was promised `size` bytes cannot get them, with what to type if there are more now.
    pub(super) fn changed(&self, size: u64, now: u64) -> Error {
        let name = &self.name;
        match size.cmp(&now) {
            std::cmp::Ordering::Equal => anyhow!("{name} changed while it was read"),
            std::cmp::Ordering::Greater => anyhow!("{name} became shorter while it was read"),
            std::cmp::Ordering::Less => {
                let file = self.path.as_deref().map(Path::as_os_str).and_then(text::shell::path);
                let advice = file.map_or(String::new(), |file| {
                    format!("; to send what it has now, type: head -c {now} < {file} | file-server -f - PORT")
                });
                anyhow!("{name} grew while it was read{advice}")
            }
        }
    }

    fn could_not_read(&self, error: io::Error) -> Error {
        without_kind(error).context(format!("could not read {}", self.name))
    }
}

impl Input {
    fn new(mut file: File) -> io::Result<Self> {
        let file_type = file.metadata()?.file_type();
        if file_type.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if file_type.is_file() || is_block_device(file_type) {
            let start = file.stream_position()?;
            return Ok(Self::File { file, start });
        }
        Ok(Self::Stream(file))
    }
}

/// Whether the file really has this size. The kernel shows values as files of size 0 (proc(5)) or 4096 (sysfs(5)) that
/// occupy no blocks, and that may have no byte at the end of that size.
fn has_true_size(file: &File, size: u64) -> io::Result<bool> {
    if size > 0 && takes_room(file)? {
        return Ok(true);
    }
    let has_byte = |offset| Ok(retry_interrupted(|| read_at(file, &mut [0], offset))? > 0);
    match size.checked_sub(1) {
        Some(last) => has_byte(last),
        None => has_byte(0).map(|has_byte| !has_byte),
    }
}

fn standard_input() -> io::Result<File> {
    let input = blocking::unbuffered(io::stdin())?;
    check_is_open(&input)?;
    Ok(input)
}

/// An error of a file as text, without its kind: a network file system may fail like the connection, and must not be
/// taken for it. Only `WouldBlock` keeps its kind.
pub(crate) fn without_kind(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::WouldBlock { error.into() } else { Error::msg(text::reason(&error)) }
}

/// Whether standard input is a regular file, which is sent only if it is asked for.
pub(crate) fn standard_input_is_a_file() -> bool {
    standard_input().and_then(|input| input.metadata()).is_ok_and(|metadata| metadata.is_file())
}

pub(super) fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(unix)]
mod imp {
    use std::fs::{self, File, FileType};
    use std::io;
    use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
    use std::path::Path;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::io::Errno;

    /// A FIFO without a writer would block open(2); its bytes are waited for in any case (fifo(7)).
    pub(super) fn open_without_waiting(path: &Path) -> io::Result<File> {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = match File::options().read(true).custom_flags(nonblocking).open(path) {
            // Another program has to give up a lease first (fcntl(2), `F_SETLEASE`).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return File::open(path),
            opened => opened?,
        };
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        Ok(file)
    }

    /// In place of a closed standard input `std` opens `/dev/null`, for reading and writing.
    pub(super) fn check_is_open(input: &File) -> io::Result<()> {
        let mode = fcntl_getfl(input)? & OFlags::ACCMODE;
        let is_null = || Ok::<_, io::Error>(input.metadata()?.rdev() == fs::metadata("/dev/null")?.rdev());
        if mode == OFlags::WRONLY {
            return Err(Errno::BADF.into());
        }
        if mode == OFlags::RDWR && is_null().unwrap_or(false) {
            return Err(io::Error::other("it is closed"));
        }
        Ok(())
    }

    pub(in crate::file) fn is_block_device(file_type: FileType) -> bool {
        file_type.is_block_device()
    }

    pub(super) fn is_fifo(file_type: FileType) -> bool {
        file_type.is_fifo()
    }

    pub(super) fn takes_room(file: &File) -> io::Result<bool> {
        Ok(file.metadata()?.blocks() > 0)
    }

    /// Reads at an offset without moving the file's own one, so that threads can share the file (pread(2)).
    pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }
}

#[cfg(windows)]
mod imp {
    use std::fs::{File, FileType};
    use std::io;
    use std::os::windows::fs::FileExt as _;
    use std::path::Path;

    pub(super) fn open_without_waiting(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    pub(super) fn check_is_open(_: &File) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::file) fn is_block_device(_: FileType) -> bool {
        false
    }

    pub(super) fn is_fifo(_: FileType) -> bool {
        false
    }

    pub(super) fn takes_room(_: &File) -> io::Result<bool> {
        Ok(true)
    }

    pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.seek_read(buffer, offset)
    }
}
