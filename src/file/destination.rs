//! Where received bytes go: all of them or none. A regular file is replaced in one step; anything else (a device, a FIFO,
//! standard output, an open descriptor) is written straight.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::background_sync::BackgroundSync;
use super::directory::{Directory, Entry};
use super::preflight;
use super::replacement::Replacement;
use crate::blocking;
use crate::command::{Command, Run};
use crate::text;

/// How many symbolic links are followed in a row, as by the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// How to store what is received.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Fail rather than replace a file.
    pub(crate) keep_existing: bool,
    /// Sync the bytes to disk before they count as stored.
    pub(crate) durable: bool,
    /// How many bytes will come, if that is known.
    pub(crate) size: Option<u64>,
    /// How long the other side waits without progress, as far as is known; `None` waits forever.
    pub(crate) timeout: Option<Duration>,
}

/// A file that is being received.
pub(crate) struct Destination {
    name: String,
    target: Target,
    /// Whether the bytes have to be on disk.
    durable: bool,
    background_sync: BackgroundSync,
}

enum Target {
    /// A regular file that appears when it is complete.
    Replacement(Replacement),
    /// A device, a FIFO or an open descriptor, which is written straight.
    Stream(File),
    StandardOutput(File),
    Command(Command, Option<Reader>),
}

/// A command that runs, and its standard input until that has ended. The order is that in which they are dropped: a
/// command that is ended reads no end of its input before.
struct Reader {
    run: Run,
    input: Option<File>,
}

impl Destination {
    /// Prepares to write to the standard input of a command, which is started by [`Self::begin`].
    ///
    /// # Errors
    /// Returns an error if there is no such program.
    pub(crate) fn command(words: &[OsString]) -> Result<Self> {
        let command = Command::find(words)?;
        let name = command.name().to_owned();
        let target = Target::Command(command, None);
        Ok(Self { name, target, durable: false, background_sync: BackgroundSync::new(None) })
    }

    /// Starts what is not started before the connection may take part.
    ///
    /// # Errors
    /// Returns an error if a command cannot be started.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if let Target::Command(command, reader) = &mut self.target {
            let (run, input) = command.start_writing()?;
            *reader = Some(Reader { run, input: Some(input) });
        }
        Ok(())
    }

    /// Prepares to write to the path; `-` is standard output, and so is `/dev/stdout`. A symbolic link is followed.
    /// Nothing that was there changes yet. `report` is called with what is waited for, if that may take long.
    ///
    /// # Errors
    /// Returns an error if the path is a directory or cannot be written, if it is a file that must not be replaced, or if
    /// there is no room for the size.
    pub(crate) fn open(path: &Path, settings: Settings, report: impl FnOnce(&str)) -> Result<Self> {
        let place = Place::of(path).with_context(|| could_not_write(&text::name(path)))?;
        let is_standard_output = matches!(place, Place::StandardOutput);
        let name = if is_standard_output { "standard output".to_owned() } else { text::name(path) };
        let report = || report(&format!("{name}: waiting for a program that reads from this FIFO"));
        let target = Target::open(place, settings, report).with_context(|| could_not_write(&name))?;
        let durable = settings.durable && target.is_on_disk();
        Ok(Self { name, target, durable, background_sync: BackgroundSync::new(settings.timeout) })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The new regular file, into which the kernel can move bytes, if it is one.
    pub(crate) fn replacement_file(&self) -> Option<&File> {
        match &self.target {
            Target::Replacement(replacement) => Some(replacement.file()),
            _ => None,
        }
    }

    /// Writes all of the bytes. Waits as long as it takes where another program has made the destination non-blocking.
    ///
    /// # Errors
    /// Returns an error if they cannot be written.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match self.target.file().map(|file| blocking::write_all(file, bytes)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe && self.is_command() => {
                self.explain_early_end()
            }
            written => written.unwrap_or(Ok(())).with_context(|| self.could_not_write()),
        }
    }

    fn is_command(&self) -> bool {
        matches!(self.target, Target::Command(..))
    }

    /// A command that reads no more has failed, whatever it says itself.
    fn explain_early_end(&mut self) -> Result<()> {
        self.finish_command()?;
        bail!("{} ended before it had read everything", self.name)
    }

    /// Ends the input of the command, and waits until it has succeeded.
    fn finish_command(&mut self) -> Result<()> {
        let Target::Command(_, Some(reader)) = &mut self.target else { return Ok(()) };
        reader.input = None;
        reader.run.wait_for_success(|exit| Ok(blocking::wait_until_readable(exit)?))
    }

    /// What is done between the last byte and the thanks.
    pub(crate) fn last_phase(&self) -> &'static str {
        if self.is_command() { "waiting for the command" } else { "waiting for the disk" }
    }

    /// Whether a file with bytes will be replaced.
    pub(crate) fn would_discard_bytes(&self) -> bool {
        matches!(&self.target, Target::Replacement(replacement) if replacement.would_discard_bytes())
    }

    /// Whether what is stored survives the loss of power.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable
    }

    /// Counts bytes that were written. Waits while too many of them are not on disk yet.
    ///
    /// # Errors
    /// Returns an error if earlier bytes could not be synced.
    pub(crate) fn record_written(&mut self, bytes: usize) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        let Some(file) = self.target.file() else { return Ok(()) };
        let recorded = self.background_sync.record_written(bytes, file);
        recorded.with_context(|| self.could_not_write())
    }

    /// Syncs all bytes to disk, unless they need not be durable. Ends the input of a command, and waits for its success.
    ///
    /// # Errors
    /// Returns an error if they are not all there, or if the command has failed.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.finish_command()?;
        self.try_sync().with_context(|| self.could_not_write())
    }

    fn try_sync(&mut self) -> io::Result<()> {
        self.background_sync.finish()?;
        if let Target::Replacement(replacement) = &mut self.target {
            replacement.take_over_attributes()?;
        }
        match self.target.file() {
            Some(file) if self.durable => file.sync_all(),
            _ => Ok(()),
        }
    }

    /// Gives the file its name in one step: the old file was there until now, the new one is from now on, on disk too.
    /// Signals must be deferred meanwhile.
    ///
    /// # Errors
    /// Returns an error if the old file is still there as it was, or if it is replaced but the directory could not be
    /// synced.
    pub(crate) fn publish(&mut self) -> Result<()> {
        if let Target::Replacement(replacement) = &mut self.target {
            let durable = self.durable;
            replacement.publish(durable).with_context(|| self.could_not_write())?;
        }
        Ok(())
    }

    /// The beginning of every error about this file.
    pub(crate) fn could_not_write(&self) -> String {
        could_not_write(&self.name)
    }
}

/// Whether the bytes for this path go where results would go.
pub(crate) fn is_standard_output(path: &Path) -> bool {
    matches!(Place::of(path), Ok(Place::StandardOutput))
}

fn could_not_write(name: &str) -> String {
    format!("could not write {name}")
}

impl Target {
    fn open(place: Place, settings: Settings, report: impl FnOnce()) -> Result<Self> {
        let (directory, name, entry) = match place {
            Place::StandardOutput => return Ok(Self::StandardOutput(open_standard_output()?)),
            Place::Descriptor { directory, name, metadata } => {
                return Ok(Self::Stream(open_stream(&directory, &name, &metadata, report)?));
            }
            Place::Name { directory, name, entry } => (directory, name, entry),
        };
        if let Some(found) = &entry {
            preflight::check_not_planted(&found.metadata, &directory)?;
            if found.metadata.is_dir() {
                bail!("is a directory");
            }
            if !found.metadata.is_file() {
                let file = open_stream(&directory, &name, &found.metadata, report)?;
                if let Some(size) = settings.size {
                    preflight::check_capacity(&file, size)?;
                }
                return Ok(Self::Stream(file));
            }
            if settings.keep_existing {
                bail!("file exists, and --no-clobber keeps it");
            }
        }
        let Settings { keep_existing, size, .. } = settings;
        Ok(Self::Replacement(Replacement::create(directory, &name, entry, keep_existing, size)?))
    }

    /// Where the bytes are written; none for a command that has not begun or has ended.
    fn file(&self) -> Option<&File> {
        match self {
            Self::Replacement(replacement) => Some(replacement.file()),
            Self::Stream(file) | Self::StandardOutput(file) => Some(file),
            Self::Command(_, reader) => reader.as_ref()?.input.as_ref(),
        }
    }

    /// Whether the bytes are on a disk, in the end: a pipe and a terminal have none (fsync(2)).
    fn is_on_disk(&self) -> bool {
        // Windows cannot even examine a pipe.
        self.file().and_then(|file| file.metadata().ok()).is_some_and(|metadata| {
            #[cfg(unix)]
            let is_block_device = std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type());
            #[cfg(not(unix))]
            let is_block_device = false;
            metadata.is_file() || is_block_device
        })
    }
}

/// What a path stands for.
enum Place {
    /// Standard output of this process.
    StandardOutput,
    /// Another open descriptor, of this process or another one, by its name in `/proc` (`proc_pid_fd(5)`).
    Descriptor { directory: Directory, name: OsString, metadata: Metadata },
    /// A name in a directory, and what has it. It is not a symbolic link.
    Name { directory: Directory, name: OsString, entry: Option<Entry> },
}

impl Place {
    /// Follows the symbolic links at the end of the path, whether or not there is a file behind them.
    fn of(path: &Path) -> Result<Self> {
        // `/dev/stdout` is known without `/proc`, too.
        if ["-", "/dev/stdout"].iter().any(|name| path.as_os_str() == *name) {
            return Ok(Self::StandardOutput);
        }
        let mut path = path.to_owned();
        for _ in 0..=MAX_LINKS {
            preflight::check_names_a_file(&path)?;
            let directory = preflight::open_directory(directory_of(&path))?;
            let name = path.file_name().unwrap_or_default().to_owned();
            let entry = directory.find(&name)?;
            let Some(link) = entry.as_ref().map(|found| &found.metadata).filter(|found| found.is_symlink()) else {
                return Ok(Self::Name { directory, name, entry });
            };
            preflight::check_not_planted(link, &directory)?;
            if let Some(metadata) = directory.behind_kernel_link(&name, link)? {
                let is_standard_output = imp::standard_output()
                    .and_then(|file| file.metadata())
                    .is_ok_and(|standard_output| imp::is_same_file(&standard_output, &metadata));
                let descriptor = Self::Descriptor { directory, name, metadata };
                return Ok(if is_standard_output { Self::StandardOutput } else { descriptor });
            }
            path = directory.read_link(&name)?;
        }
        bail!("too many levels of symbolic links")
    }
}

/// The directory that the last name of the path is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// Opens what is not replaced. A regular file, which is one behind a descriptor, only grows. Calls `report` before it
/// waits for a FIFO to be read from (fifo(7)).
fn open_stream(directory: &Directory, name: &OsStr, found: &Metadata, report: impl FnOnce()) -> io::Result<File> {
    let append = found.is_file();
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type()) {
        match directory.open_to_write(name, append, false) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => report(),
            opened => return opened,
        }
    }
    #[cfg(not(unix))]
    let _ = report;
    directory.open_to_write(name, append, true)
}

/// Standard output, unless it cannot be written to, or would obey what a stranger sends as a terminal does.
fn open_standard_output() -> Result<File> {
    let file = imp::standard_output()?;
    if imp::is_closed(&file)? {
        bail!("it is closed; to discard the bytes, use '--output /dev/null'");
    }
    if file.is_terminal() {
        bail!("it is a terminal; to store the bytes, use '--output FILE', or redirect or pipe them");
    }
    Ok(file)
}

#[cfg(unix)]
mod imp {
    use std::fs::{self, File, Metadata};
    use std::io;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::Errno;

    /// Standard output as a file without a buffer.
    pub(super) fn standard_output() -> io::Result<File> {
        Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
    }

    /// In place of a closed standard stream, std opens `/dev/null` for both reading and writing.
    ///
    /// # Errors
    /// Returns an error if it is open only for reading.
    pub(super) fn is_closed(standard_output: &File) -> io::Result<bool> {
        match fcntl_getfl(standard_output)? & OFlags::ACCMODE {
            OFlags::RDONLY => Err(Errno::BADF.into()),
            OFlags::WRONLY => Ok(false),
            _ => Ok(is_same_file(&standard_output.metadata()?, &fs::metadata("/dev/null")?)),
        }
    }

    pub(super) fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
}

#[cfg(windows)]
mod imp {
    use std::fs::{File, Metadata};
    use std::io;
    use std::os::windows::io::AsHandle as _;

    pub(super) fn standard_output() -> io::Result<File> {
        Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
    }

    pub(super) fn is_closed(_: &File) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn is_same_file(_: &Metadata, _: &Metadata) -> bool {
        false
    }
}
