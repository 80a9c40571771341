//! Where received bytes go: all of them or none. A regular file is replaced in one step; anything else (a device, a
//! FIFO, standard output, an open descriptor) is written directly.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail, ensure};

use super::background_sync::BackgroundSync;
use super::replacement::Replacement;
use super::source::{is_block_device, without_kind};
use crate::blocking;
use crate::command::{Command, Run};
use crate::text;

/// How long a command may keep running after it has closed its input too early.
const UNTIL_ENDED: Duration = Duration::from_secs(2);

/// How to store what is received.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Fail rather than replace a file.
    pub(crate) keep_existing: bool,
    /// Sync the bytes to disk before they count as stored.
    pub(crate) durable: bool,
    /// How many bytes will come, if that is known.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux can reserve room"))]
    pub(crate) size: Option<u64>,
    /// Go on from the part that is kept beside the file, and keep what arrives there.
    pub(crate) resume: bool,
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
    Replacement(Box<Replacement>),
    /// A device, a FIFO, standard output or another open descriptor, which is written directly.
    Stream(File),
    Command(Command, Option<Reader>),
}

/// A running command, and its standard input until that is closed. The fields are dropped in this order, so a command
/// that is ended has not read EOF before.
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

    /// Starts a command: it does not run before the connection may take part.
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
        let name = if is_called_standard_output(path) { "standard output".to_owned() } else { text::name(path) };
        let report = || report(&format!("{name}: waiting for a program that reads from this FIFO"));
        let target = imp::open(path, settings, report).with_context(|| could_not_write(&name))?;
        if settings.resume && !matches!(target, Target::Replacement(_)) {
            bail!("--resume is for regular files, and {name} is written directly");
        }
        let durable = settings.durable && target.is_on_disk();
        Ok(Self { name, target, durable, background_sync: BackgroundSync::new(settings.timeout) })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The new regular file, if it is one.
    pub(crate) fn replacement(&self) -> Option<&Replacement> {
        if let Target::Replacement(replacement) = &self.target { Some(replacement) } else { None }
    }

    /// Continues after the first `bytes` bytes of the new file, and discards the others.
    ///
    /// # Errors
    /// Returns an error if the file has fewer bytes by now, or cannot be changed.
    pub(crate) fn go_on_from(&mut self, bytes: u64) -> Result<()> {
        let Some(mut file) = self.replacement().map(Replacement::file) else { return Ok(()) };
        if self.size_of(file)? < bytes {
            return Err(self.changed_by_another());
        }
        let cut = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes)));
        cut.map(|_| ()).map_err(|error| self.could_not_write(error))
    }

    /// Makes sure that the part has as many bytes as it should: its name is known, so other processes can write to it.
    ///
    /// # Errors
    /// Returns an error if it has more or fewer.
    pub(crate) fn ensure_part_has(&self, bytes: u64) -> Result<()> {
        match self.replacement().and_then(Replacement::part) {
            Some(part) if self.size_of(part)? != bytes => Err(self.changed_by_another()),
            _ => Ok(()),
        }
    }

    fn size_of(&self, file: &File) -> Result<u64> {
        file.metadata().map(|metadata| metadata.len()).map_err(|error| self.could_not_write(error))
    }

    fn changed_by_another(&self) -> Error {
        self.could_not_write(io::Error::other("another program has changed what had arrived"))
    }

    /// Writes all of the bytes. Where there is no room for them now, `wait` waits for some, or gives up.
    ///
    /// # Errors
    /// Returns an error if they cannot be written, or the error of `wait`.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8], wait: impl Fn(&File) -> Result<()>) -> Result<()> {
        while let Some(mut file) = self.target.file().filter(|_| !bytes.is_empty()) {
            match file.write(bytes) {
                Ok(0) => return Err(self.could_not_write(io::ErrorKind::WriteZero.into())),
                Ok(written) => bytes = &bytes[written..],
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => wait(file)?,
                    io::ErrorKind::BrokenPipe if self.is_command() => return self.explain_early_end(),
                    _ => return Err(self.could_not_write(error)),
                },
            }
        }
        Ok(())
    }

    fn is_command(&self) -> bool {
        matches!(self.target, Target::Command(..))
    }

    /// A command that stops reading early has failed, whatever its exit status. If it ends soon, the status shows why.
    fn explain_early_end(&mut self) -> Result<()> {
        let name = &self.name;
        self.target.finish_command(|exit| {
            let has_ended = blocking::is_readable_within(Some(UNTIL_ENDED), exit)?;
            ensure!(has_ended, "{name} closed its input before it had read everything");
            Ok(())
        })?;
        bail!("{name} ended before it had read everything")
    }

    /// What is done between the last byte and the thanks.
    pub(crate) fn last_phase(&self) -> &'static str {
        if self.is_command() { "waiting for the command" } else { "waiting for the disk" }
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
        recorded.map_err(|error| self.could_not_write(error))
    }

    /// Syncs all bytes to disk, unless they need not be durable. Ends the input of a command, and waits for its success.
    ///
    /// # Errors
    /// Returns an error if they are not all there, or if the command has failed.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.target.finish_command(|exit| {
            // If this fails, the program is still waited for.
            let _ = blocking::is_readable_within(None, exit);
            Ok(())
        })?;
        self.try_sync().map_err(|error| self.could_not_write(error))
    }

    fn try_sync(&mut self) -> io::Result<()> {
        self.background_sync.finish()?;
        if let Target::Replacement(replacement) = &mut self.target {
            replacement.prepare()?;
        }
        match self.target.file().filter(|_| self.durable).map(File::sync_all) {
            // A value that the kernel shows as a file, which cannot be synced (fsync(2)).
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput && self.replacement().is_none() => Ok(()),
            synced => synced.unwrap_or(Ok(())),
        }
    }

    /// Gives the file its name in one step: the old file is there until then, and the new one from then on, also on
    /// disk. Signals must be deferred meanwhile.
    ///
    /// # Errors
    /// Returns an error if the old file is still there as it was, or if it is replaced but the directory could not be
    /// synced.
    pub(crate) fn publish(&mut self) -> Result<()> {
        if let Target::Replacement(replacement) = &mut self.target {
            let durable = self.durable;
            replacement.publish(durable).map_err(|error| self.could_not_write(error))?;
        }
        Ok(())
    }

    /// An error about this file. It has no kind that could be taken for that of the connection.
    pub(crate) fn could_not_write(&self, error: io::Error) -> Error {
        without_kind(error).context(could_not_write(&self.name))
    }
}

pub(crate) use imp::is_standard_output;

/// `/dev/stdout` is recognized even without `/proc`.
fn is_called_standard_output(path: &Path) -> bool {
    ["-", "/dev/stdout"].iter().any(|name| path.as_os_str() == *name)
}

fn could_not_write(name: &str) -> String {
    format!("could not write {name}")
}

impl Target {
    /// Where the bytes are written; none for a command that has not begun or has ended.
    fn file(&self) -> Option<&File> {
        match self {
            Self::Replacement(replacement) => Some(replacement.file()),
            Self::Stream(file) => Some(file),
            Self::Command(_, reader) => reader.as_ref()?.input.as_ref(),
        }
    }

    /// Ends the input of the command, if it is one, and waits until it has succeeded. `wait_for_end` may give up.
    fn finish_command(&mut self, wait_for_end: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        let Self::Command(_, Some(reader)) = self else { return Ok(()) };
        reader.input = None;
        reader.run.wait_for_success(wait_for_end)
    }

    /// Whether the bytes end up on a disk: a pipe and a terminal have none (fsync(2)).
    fn is_on_disk(&self) -> bool {
        if let Self::Replacement(_) = self {
            return true;
        }
        // Windows cannot even examine a pipe.
        self.file()
            .and_then(|file| file.metadata().ok())
            .is_some_and(|metadata| metadata.is_file() || is_block_device(metadata.file_type()))
    }
}

/// Standard output, unless it is a terminal, which would obey what a stranger sends.
fn open_standard_output(file: File) -> Result<Target> {
    if file.is_terminal() {
        bail!("it is a terminal; to store the bytes, use '--output FILE', or redirect or pipe them");
    }
    Ok(Target::Stream(file))
}

#[cfg(target_os = "linux")]
mod imp {
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File, Metadata};
    use std::io;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    use std::path::Path;

    use anyhow::{Result, bail};
    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::Errno;

    use super::{Settings, Target, is_called_standard_output, open_standard_output};
    use crate::blocking;
    use crate::file::directory::{Directory, Entry};
    use crate::file::preflight;
    use crate::file::replacement::Replacement;

    /// How many symbolic links are followed in a row, as by the kernel (`path_resolution(7)`).
    const MAX_LINKS: usize = 40;

    pub(super) fn open(path: &Path, settings: Settings, report: impl FnOnce()) -> Result<Target> {
        if is_standard_output(path) {
            let file = blocking::unbuffered(io::stdout())?;
            check_is_open(&file)?;
            check_is_apart(&file)?;
            return open_standard_output(file);
        }
        let (directory, name, entry) = follow(path)?;
        if let Some(found) = &entry {
            let is_descriptor = found.metadata.is_symlink();
            let metadata = if is_descriptor { directory.behind_link(&name, found)? } else { found.metadata.clone() };
            preflight::check_not_planted(&metadata, &directory)?;
            if metadata.is_dir() {
                bail!("is a directory");
            }
            if is_descriptor || !metadata.is_file() {
                let file = open_stream(&directory, &name, &metadata, report)?;
                check_is_apart(&file)?;
                if let Some(size) = settings.size {
                    preflight::check_capacity(&file, size)?;
                }
                return Ok(Target::Stream(file));
            }
            if settings.keep_existing {
                bail!("file exists, and --no-clobber keeps it");
            }
        }
        Ok(Target::Replacement(Box::new(Replacement::create(directory, &name, entry, settings)?)))
    }

    /// Whether this path leads to standard output, where results would go.
    pub(crate) fn is_standard_output(path: &Path) -> bool {
        let is_same_file = || {
            let (directory, name, entry) = follow(path).ok()?;
            let behind =
                directory.behind_link(&name, entry.as_ref().filter(|found| found.metadata.is_symlink())?).ok()?;
            Some(same_file(&behind, &blocking::unbuffered(io::stdout()).ok()?.metadata().ok()?))
        };
        is_called_standard_output(path) || is_same_file().unwrap_or(false)
    }

    /// Follows the symbolic links at the end of the path, even if they lead to no file, but not the links that the
    /// kernel makes, such as those of a process's open files: the text of such a link need not be a path
    /// (`proc_pid_fd(5)`).
    fn follow(path: &Path) -> Result<(Directory, OsString, Option<Entry>)> {
        let mut path = path.to_owned();
        for _ in 0..=MAX_LINKS {
            preflight::check_names_a_file(&path)?;
            let directory = preflight::open_directory(&path)?;
            let name = path.file_name().unwrap_or_default().to_owned();
            let entry = directory.find(&name)?;
            match &entry {
                Some(link) if link.metadata.is_symlink() && !directory.has_kernel_links() => {
                    preflight::check_not_planted(&link.metadata, &directory)?;
                    path = directory.read_link(&name)?;
                }
                _ => return Ok((directory, name, entry)),
            }
        }
        bail!("too many levels of symbolic links")
    }

    /// Opens a destination that is not replaced. A regular file here is one behind a descriptor, and is only appended
    /// to. Calls `report` before it waits for a reader of a FIFO (fifo(7)).
    fn open_stream(directory: &Directory, name: &OsStr, found: &Metadata, report: impl FnOnce()) -> io::Result<File> {
        let flags = if found.is_file() { OFlags::APPEND } else { OFlags::empty() };
        if found.file_type().is_fifo() {
            match directory.open_to_write(name, flags | OFlags::NONBLOCK) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => report(),
                opened => return opened,
            }
        }
        directory.open_to_write(name, flags)
    }

    /// In place of a closed standard output, `std` opens `/dev/null` for both reading and writing.
    fn check_is_open(standard_output: &File) -> Result<()> {
        let mode = fcntl_getfl(standard_output)? & OFlags::ACCMODE;
        if mode == OFlags::RDONLY {
            return Err(io::Error::from(Errno::BADF).into());
        }
        if mode == OFlags::RDWR && same_file(&standard_output.metadata()?, &fs::metadata("/dev/null")?) {
            bail!("it is closed; to discard the bytes, use '--output /dev/null'");
        }
        Ok(())
    }

    /// Messages must not be mixed into what is stored; a terminal and `/dev/null` store nothing.
    fn check_is_apart(file: &File) -> Result<()> {
        let (file, errors) =
            (file.metadata()?, blocking::unbuffered(io::stderr()).and_then(|errors| errors.metadata()));
        if !file.file_type().is_char_device() && errors.is_ok_and(|errors| same_file(&file, &errors)) {
            bail!("standard error is the same file, and messages would be mixed into it");
        }
        Ok(())
    }

    fn same_file(one: &Metadata, other: &Metadata) -> bool {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
}

/// Other systems use the path, which is looked up each time.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::fs::{self, OpenOptions};
    use std::io;
    use std::path::Path;

    use anyhow::{Result, bail};

    use super::{Settings, Target, is_called_standard_output, open_standard_output};
    use crate::blocking;
    use crate::file::replacement::Replacement;

    pub(super) fn open(path: &Path, settings: Settings, _: impl FnOnce()) -> Result<Target> {
        if is_standard_output(path) {
            return open_standard_output(blocking::unbuffered(io::stdout())?);
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => bail!("is a directory"),
            Ok(found) if !found.is_file() => Ok(Target::Stream(OpenOptions::new().write(true).open(path)?)),
            Ok(_) if settings.keep_existing => bail!("file exists, and --no-clobber keeps it"),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(Target::Replacement(Box::new(Replacement::create(path, settings)?))),
        }
    }

    /// Whether this path leads to standard output, where results would go.
    pub(crate) fn is_standard_output(path: &Path) -> bool {
        is_called_standard_output(path) || path == Path::new("/dev/fd/1")
    }
}
