//! A regular file that appears under its name all at once: written without a name, or under a temporary one where the
//! file system has no unnamed files, and renamed when it is complete.

/// A temporary name begins with the real one, so that a file system that refuses the real name refuses the temporary
/// one before the transfer. Its end shows a later run which files a killed one has left.
const MARK: &str = ".half-close-";
const SUFFIX: &str = ".part";

pub(crate) use imp::Replacement;

#[cfg(target_os = "linux")]
mod imp {
    use std::collections::hash_map::RandomState;
    use std::ffi::{OsStr, OsString};
    use std::fs::{File, Metadata};
    use std::hash::{BuildHasher as _, Hasher as _};
    use std::io::{self, ErrorKind, Seek as _};
    use std::mem;
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    use anyhow::{Result, bail};
    use rustix::fs::{FileType, Stat};

    use super::{MARK, SUFFIX};
    use crate::file::attributes::{OldFile, narrow};
    use crate::file::destination::Settings;
    use crate::file::directory::{Directory, Entry};
    use crate::file::partial::{Part, part_name};
    use crate::file::preflight;
    use crate::signals::{self, AtExit};
    use crate::text;

    /// In seconds. An older file was left behind: a client that still runs writes more often.
    const LEFTOVER_AGE: i64 = 24 * 60 * 60;

    /// Characters between the mark and the suffix.
    const RANDOM_CHARACTERS: usize = 6;

    /// How many random names are tried before something else must be wrong.
    const MAX_NAMES: usize = 100;

    /// A regular file that is not visible under its name yet.
    pub(crate) struct Replacement {
        directory: Arc<Directory>,
        name: OsString,
        keep_existing: bool,
        old: Option<OldFile>,
        file: File,
        /// Its name until then, where the file system has no unnamed files.
        temporary: Option<Temporary>,
        /// Its name until then, if it is kept even when the transfer fails.
        part: Option<Part>,
        note: Option<String>,
    }

    impl Replacement {
        /// Creates an empty file that will get the name, in place of the old one if there is one, or goes on with the part
        /// that is kept. Reserves room for the size if it is known. Removes temporary files that killed clients have left in the directory.
        ///
        /// # Errors
        /// Returns an error if the old file cannot be replaced, or if the new one cannot be created or has no room.
        pub(crate) fn create(
            directory: Directory,
            name: &OsStr,
            old: Option<Entry>,
            settings: Settings,
        ) -> Result<Self> {
            let Settings { keep_existing, size, resume, .. } = settings;
            preflight::check_directory(&directory, old.is_some())?;
            if let Some(old) = &old {
                preflight::check_replaceable(&directory, name, &old.metadata)?;
            }
            let directory = Arc::new(directory);
            let mut old = old.map(OldFile::new);
            let unnamed = directory.create_unnamed(mode(old.is_some()))?;
            if (unnamed.is_none() || resume) && preflight::keeps_names(&directory) {
                let directory = text::name(directory.path());
                bail!("directory {directory} is append-only (see chattr(1)): no temporary file can be removed")
            }
            let (mut file, mut temporary) = if let Some(file) = unnamed {
                (file, None)
            } else {
                let _deferred = signals::defer();
                let (file, temporary) = Temporary::create(&directory, name, old.is_some())?;
                (file, Some(temporary))
            };
            sweep(&directory, &file.metadata()?, old.as_ref());
            let (mut part, mut note) = (None, None);
            if resume {
                part = Part::open(&directory, name)?;
                if let Some(part) = &part {
                    // The new file shows which rights the part should get.
                    let descriptor = mem::replace(&mut file, part.file().try_clone()?);
                    old = Some(old.unwrap_or(OldFile::new(Entry { metadata: descriptor.metadata()?, descriptor })));
                    temporary = None;
                } else {
                    let name = text::name(name.as_ref());
                    note = Some(format!("{name}: another client receives it with --resume; this one keeps no part"));
                }
            } else if directory.status_of(&part_name(name)).is_ok_and(|part| part.is_some()) {
                let part = text::name(part_name(name).as_ref());
                note = Some(format!("{part} stays as it is; with --resume a client goes on from there"));
            }
            if let Some(size) = size {
                let reserved = preflight::reserve(&file, size);
                // What stays must not hold room that it may never need.
                if part.is_some() {
                    file.set_len(file.metadata()?.len())?;
                }
                reserved?;
            }
            Ok(Self { directory, name: name.to_owned(), keep_existing, old, file, temporary, part, note })
        }

        /// Bytes in the file that will be replaced, as it is now, if there is one.
        ///
        /// # Errors
        /// Returns an error if that cannot be known.
        pub(crate) fn existing_size(&self) -> io::Result<Option<u64>> {
            let existing = self.directory.status_of(&self.name)?.filter(is_file);
            Ok(existing.and_then(|existing| existing.st_size.try_into().ok()))
        }

        /// The new file.
        pub(crate) fn file(&self) -> &File {
            &self.file
        }

        /// What the user may want to know about a part.
        pub(crate) fn note(&self) -> Option<&str> {
            self.note.as_deref()
        }

        /// Bytes in the part that stays if this fails, if there is one.
        pub(crate) fn kept_size(&self) -> Option<u64> {
            self.part.as_ref().and_then(Part::size)
        }

        /// The part that it goes on with, or has begun.
        pub(crate) fn part(&self) -> Option<&File> {
            self.part.as_ref().map(Part::file)
        }

        /// Removes the part, so that nothing is kept.
        pub(crate) fn discard_part(&self) {
            if let Some(part) = &self.part {
                part.remove();
            }
        }

        /// Takes over the attributes of the old file. A part gets them only with its name, because it may stay a part.
        ///
        /// # Errors
        /// Returns an error if another user would have more rights than before.
        pub(crate) fn prepare(&mut self) -> io::Result<()> {
            if self.part.is_none() { self.take_over_attributes() } else { Ok(()) }
        }

        /// Takes over the attributes of the old file. Another one that has its name by now can only take rights away: who has
        /// put it there is not known.
        ///
        /// # Errors
        /// Returns an error if another user would have more rights than before.
        fn take_over_attributes(&mut self) -> io::Result<()> {
            if let Some(old) = &mut self.old {
                old.give_attributes_to(&self.file)?;
            }
            let is_another = |found: &Stat| is_file(found) && !self.old.as_ref().is_some_and(|old| old.is(found));
            match self.directory.status_of(&self.name)?.filter(is_another) {
                Some(_) => narrow(&self.file, &self.directory, &self.name),
                None => Ok(()),
            }
        }

        /// Gives the file its name, and syncs the directory if the name has to be `durable`.
        ///
        /// # Errors
        /// Returns an error if it did not get its name, or if the directory could not be synced.
        pub(crate) fn publish(&mut self, durable: bool) -> io::Result<()> {
            let named = self.give_name(durable);
            if let (Err(_), Some(part)) = (&named, &self.part) {
                part.take_back();
            }
            named?;
            if durable { self.directory.sync(&self.file) } else { Ok(()) }
        }

        fn give_name(&mut self, durable: bool) -> io::Result<()> {
            // Rights may have been taken away while the file was synced.
            self.take_over_attributes()?;
            if let Some(part) = &self.part {
                if durable {
                    self.file.sync_all()?;
                }
                // Another client may have begun a part of its own under that name.
                if !part.is_in_place()? {
                    return Err(io::Error::other("its part was removed or replaced"));
                }
                self.rename(part.name())?;
            } else if self.temporary.is_none() && preflight::keeps_names(&self.directory) {
                self.directory.link(&self.file, &self.name)?;
            } else {
                // A new file also gets its name by a rename: programs that watch the directory wait for one
                // (inotify(7)).
                let mut temporary = match self.temporary.take() {
                    Some(temporary) => temporary,
                    None => self.give_temporary_name(durable)?,
                };
                self.rename(&temporary.name)?;
                temporary.name.clear();
            }
            Ok(())
        }

        fn rename(&self, from: &OsStr) -> io::Result<()> {
            if self.keep_existing {
                self.directory.rename_to_free_name(from, &self.name)
            } else {
                self.directory.rename(from, &self.name)
            }
        }

        fn give_temporary_name(&mut self, durable: bool) -> io::Result<Temporary> {
            match Temporary::make(&self.directory, &self.name, |name| self.directory.link(&self.file, name)) {
                Ok(((), temporary)) => Ok(temporary),
                // Links are forbidden here, by a security module for example: a named copy is the last resort.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => self.copy_to_temporary_name(durable),
                Err(error) => Err(error),
            }
        }

        fn copy_to_temporary_name(&mut self, durable: bool) -> io::Result<Temporary> {
            let (copy, temporary) = Temporary::create(&self.directory, &self.name, self.old.is_some())?;
            self.file.rewind()?;
            io::copy(&mut &self.file, &mut &copy)?;
            self.file = copy;
            self.take_over_attributes()?;
            if durable {
                self.file.sync_all()?;
            }
            Ok(temporary)
        }
    }

    /// The rights of a new file: those that the umask leaves, or the owner's alone until it gets those of the old file.
    fn mode(replaces: bool) -> u32 {
        if replaces { 0o600 } else { 0o666 }
    }

    /// A temporary name in a directory, removed when this is dropped and when a signal ends the program.
    struct Temporary {
        directory: Arc<Directory>,
        /// Empty once the file has its own name.
        name: OsString,
        _at_exit: AtExit,
    }

    impl Temporary {
        fn create(directory: &Arc<Directory>, beginning: &OsStr, replaces: bool) -> io::Result<(File, Self)> {
            Self::make(directory, beginning, |name| directory.create(name, mode(replaces)))
        }

        fn new(directory: &Arc<Directory>, name: OsString) -> Self {
            let directory = Arc::clone(directory);
            let at_exit = {
                let (directory, name) = (Arc::clone(&directory), name.clone());
                signals::at_exit(move || drop(directory.remove(&name)))
            };
            Self { directory, name, _at_exit: at_exit }
        }

        /// Creates something under a random name that is free. Signals must be deferred meanwhile.
        fn make<T>(
            directory: &Arc<Directory>,
            mut beginning: &OsStr,
            create: impl Fn(&OsStr) -> io::Result<T>,
        ) -> io::Result<(T, Self)> {
            for _ in 0..MAX_NAMES {
                let name = temporary_name(beginning);
                match create(&name) {
                    Ok(created) => return Ok((created, Self::new(directory, name))),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    // Only the addition makes it too long.
                    Err(error) if error.kind() == ErrorKind::InvalidFilename && !beginning.is_empty() => {
                        beginning = OsStr::new("");
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(ErrorKind::AlreadyExists.into())
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            if !self.name.is_empty() {
                let _ = self.directory.remove(&self.name);
            }
        }
    }

    fn temporary_name(beginning: &OsStr) -> OsString {
        // The keys of this hasher are random.
        let random = RandomState::new().build_hasher().finish() & 0xff_ffff;
        let mut name = beginning.to_owned();
        name.push(format!("{MARK}{random:06x}{SUFFIX}"));
        name
    }

    /// Whether a name has the form of a temporary one, which no user would choose.
    fn is_temporary(name: &OsStr) -> bool {
        let Some(name) = name.as_encoded_bytes().strip_suffix(SUFFIX.as_bytes()) else { return false };
        let (marked, random) = name.split_at(name.len().saturating_sub(RANDOM_CHARACTERS));
        marked.ends_with(MARK.as_bytes()) && random.iter().all(u8::is_ascii_alphanumeric)
    }

    /// Removes the temporary files that killed clients of this user have left. Root's may already have the owner of the
    /// old file. The time is the file system's, which may be another machine's.
    fn sweep(directory: &Directory, fresh: &Metadata, old: Option<&OldFile>) {
        for name in directory.names().filter(|name| is_temporary(name)) {
            let Ok(Some(found)) = directory.status_of(&name) else { continue };
            let is_ours = found.st_uid == fresh.uid() || old.is_some_and(|old| old.owner() == found.st_uid);
            let is_left_behind = fresh.mtime().saturating_sub(found.st_mtime) > LEFTOVER_AGE;
            if is_file(&found) && is_ours && is_left_behind {
                let _ = directory.remove(&name);
            }
        }
    }

    fn is_file(found: &Stat) -> bool {
        FileType::from_raw_mode(found.st_mode).is_file()
    }
}

/// Other systems use the path, which is looked up each time.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::ffi::OsString;
    use std::fs::{self, File};
    use std::io;
    use std::path::{Path, PathBuf};

    use anyhow::Result;
    use tempfile::{Builder, TempPath};

    use super::{MARK, SUFFIX};
    use crate::file::destination::Settings;
    use crate::signals::{self, AtExit};

    pub(crate) struct Replacement {
        path: PathBuf,
        keep_existing: bool,
        resume: bool,
        file: File,
        /// Its name until then, and its removal when a signal ends the program.
        temporary: Option<(TempPath, AtExit)>,
    }

    impl Replacement {
        pub(crate) fn create(path: &Path, settings: Settings) -> Result<Self> {
            let Settings { keep_existing, resume, .. } = settings;
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let mut beginning = path.file_name().map_or_else(OsString::new, OsString::from);
            beginning.push(MARK);
            let mut files = Builder::new();
            #[cfg(unix)]
            files.permissions(std::os::unix::fs::PermissionsExt::from_mode(if path.exists() { 0o600 } else { 0o666 }));
            let _deferred = signals::defer();
            let file = files.prefix(&beginning).suffix(SUFFIX).tempfile_in(directory_of(&path))?;
            let (file, temporary) = file.into_parts();
            let name = temporary.to_path_buf();
            let at_exit = signals::at_exit(move || drop(fs::remove_file(name)));
            Ok(Self { path, keep_existing, resume, file, temporary: Some((temporary, at_exit)) })
        }

        pub(crate) fn existing_size(&self) -> io::Result<Option<u64>> {
            match fs::metadata(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                existing => Ok(Some(existing?.len())),
            }
        }

        pub(crate) fn file(&self) -> &File {
            &self.file
        }

        /// Nothing is kept here.
        pub(crate) fn note(&self) -> Option<&str> {
            self.resume.then_some("parts are kept on Linux only: this client goes on without --resume")
        }

        pub(crate) fn part(&self) -> Option<&File> {
            None
        }

        pub(crate) fn kept_size(&self) -> Option<u64> {
            None
        }

        pub(crate) fn discard_part(&self) {}

        pub(crate) fn prepare(&mut self) -> io::Result<()> {
            fs::metadata(&self.path).map_or(Ok(()), |old| self.file.set_permissions(old.permissions()))
        }

        pub(crate) fn publish(&mut self, durable: bool) -> io::Result<()> {
            let Some((temporary, _at_exit)) = self.temporary.take() else { return Ok(()) };
            let persist = if self.keep_existing { TempPath::persist_noclobber } else { TempPath::persist };
            persist(temporary, &self.path).map_err(|failed| failed.error)?;
            // Windows cannot open a directory as a file.
            if durable && cfg!(unix) { File::open(directory_of(&self.path))?.sync_all() } else { Ok(()) }
        }
    }

    fn directory_of(path: &Path) -> &Path {
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}
