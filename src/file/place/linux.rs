//! The links of `/proc/PID/fd`, and the kernel's own file systems.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::process;

use rustix::fs::{OFlags, StatFs, statfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Place, directory_of};

/// File systems whose files are values of the kernel: none can be created, renamed or replaced there (statfs(2)).
const KERNEL_FILE_SYSTEMS: [u32; 12] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x6265_6570, // configfs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0xde5e_81e4, // efivarfs
    0x4249_4e4d, // binfmt_misc
    0x0765_5821, // resctrl
];

fn is_kernel_file_system(found: &StatFs) -> bool {
    KERNEL_FILE_SYSTEMS.map(i128::from).contains(&magic(found.f_type))
}

/// What the path stands for if that is no name in an ordinary directory.
///
/// # Errors
/// Returns an error if it is a descriptor that is not open for writing.
pub(super) fn special_place(path: &Path) -> io::Result<Option<Place>> {
    let directory = directory_of(path);
    if !statfs(directory).is_ok_and(|found| is_kernel_file_system(&found)) {
        return Ok(None);
    }
    match Descriptor::named(path) {
        Some(descriptor) if descriptor.is_standard_output() => Ok(Some(Place::StandardOutput)),
        Some(descriptor) => Ok(Some(Place::Descriptor(descriptor.open()?))),
        None => Ok(Some(Place::Kernel(path.to_owned()))),
    }
}

/// Its type differs by machine; its lower 32 bits do not.
fn magic(word: impl Into<i128>) -> i128 {
    word.into() & i128::from(u32::MAX)
}

/// A descriptor of this process or of another one.
struct Descriptor {
    /// `/proc/PID` or `/proc/PID/task/TID`.
    owner: PathBuf,
    process: i32,
    number: i32,
}

impl Descriptor {
    /// The one that a path names: `/proc/PID/fd/NUMBER` or `/proc/PID/task/TID/fd/NUMBER`, also through `/dev/fd` and
    /// `/proc/self`.
    fn named(path: &Path) -> Option<Self> {
        let number = path.file_name()?.to_str()?.parse().ok()?;
        let directory = fs::canonicalize(directory_of(path)).ok()?;
        let owner = directory.parent().filter(|_| directory.ends_with("fd"))?.to_owned();
        let inside: Vec<_> = owner.strip_prefix("/proc").ok()?.components().map(Component::as_os_str).collect();
        let process = match &inside[..] {
            [process] => process,
            [process, task, _] if *task == "task" => process,
            _ => return None,
        };
        let process = process.to_str()?.parse().ok()?;
        Some(Self { owner, process, number })
    }

    fn is_of_this_process(&self) -> bool {
        itself_in_proc() == Some(self.process)
    }

    fn is_standard_output(&self) -> bool {
        self.number == 1 && self.is_of_this_process()
    }

    /// A duplicate, which shares its position in the file with the original. Where a sandbox forbids to duplicate, the
    /// same file opened once more.
    fn open(&self) -> io::Result<File> {
        let information = fs::read_to_string(self.owner.join("fdinfo").join(self.number.to_string()));
        let information = match information {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Errno::BADF.into()),
            read => Information::parse(&read?),
        };
        // What this process has opened itself is closed on exec(3): only the others were passed to it.
        let is_internal = self.is_of_this_process() && information.flags.contains(OFlags::CLOEXEC);
        let is_writable = information.flags & OFlags::ACCMODE != OFlags::RDONLY;
        if is_internal || !is_writable {
            return Err(Errno::BADF.into());
        }
        match self.duplicate() {
            Err(Errno::PERM | Errno::NOSYS | Errno::SRCH) => self.reopen(&information),
            duplicated => Ok(duplicated?),
        }
    }

    fn duplicate(&self) -> rustix::io::Result<File> {
        // A `/proc` of another PID namespace has other numbers.
        let has_our_numbers = itself_in_proc() == i32::try_from(process::id()).ok();
        let process = Pid::from_raw(self.process).filter(|_| has_our_numbers).ok_or(Errno::SRCH)?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        Ok(pidfd_getfd(process, self.number, PidfdGetfdFlags::empty())?.into())
    }

    /// Opens the file behind the descriptor once more, appending if the descriptor does, else from its position on.
    fn reopen(&self, information: &Information) -> io::Result<File> {
        let path = self.owner.join("fd").join(self.number.to_string());
        let appends = information.flags.contains(OFlags::APPEND);
        let mut file = OpenOptions::new().write(true).append(appends).open(path)?;
        if file.metadata()?.is_file() && !appends {
            file.seek(SeekFrom::Start(information.position))?;
        }
        Ok(file)
    }
}

/// The number that `/proc` has for this process.
fn itself_in_proc() -> Option<i32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// What `/proc/PID/fdinfo/NUMBER` says about a descriptor (`proc_pid_fdinfo(5)`).
struct Information {
    position: u64,
    flags: OFlags,
}

impl Information {
    fn parse(text: &str) -> Self {
        let field = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)).map_or("", str::trim);
        let flags = u32::from_str_radix(field("flags:"), 8).unwrap_or_default();
        Self { position: field("pos:").parse().unwrap_or_default(), flags: OFlags::from_bits_retain(flags) }
    }
}
