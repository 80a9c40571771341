//! What the systems call differently, each with the plain way for those that lack it.

use std::fs::{File, Metadata};
use std::io;
use std::net::TcpStream;
use std::path::Path;

/// Reads at an offset without moving the file's own one, so that threads can share the file (pread(2)).
#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// When the file was last changed in any way, in seconds and nanoseconds: unlike the time of its last modification
/// nobody can set it back (inode(7)).
#[cfg(unix)]
pub(crate) fn change_time(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
pub(crate) fn change_time(_: &Metadata) -> (i64, i64) {
    (0, 0)
}

/// Waits for a write that is under way. The question where data begins takes the lock that a write holds (lseek(2); on
/// ext4, tmpfs and btrfs).
#[cfg(target_os = "linux")]
pub(crate) fn wait_for_write(file: &File) {
    let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn wait_for_write(_: &File) {}

/// Waits until a stream has something to read, or its end. No bytes tell meanwhile that a peer is gone, so its
/// connection is watched as well: a reset and a cable that keepalive found cut are errors, a half-close is none
/// (poll(2)).
#[cfg(unix)]
pub(crate) fn wait_for_input(file: &File, peer: &TcpStream) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    loop {
        let mut watched = [PollFd::new(file, PollFlags::IN), PollFd::new(peer, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) if !watched[0].revents().is_empty() => return Ok(()),
            Ok(_) => return Err(peer.take_error()?.unwrap_or(io::ErrorKind::ConnectionReset.into())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn wait_for_input(_: &File, _: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Standard input as a file: unlike std's own it has no buffer, and one that can't be read is an error and no end.
#[cfg(unix)]
pub(crate) fn standard_input() -> io::Result<File> {
    use std::os::fd::AsFd as _;
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
pub(crate) fn standard_input() -> io::Result<File> {
    use std::os::windows::io::AsHandle as _;
    Ok(io::stdin().as_handle().try_clone_to_owned()?.into())
}

/// Standard output as a file, without a buffer of our own; one that is open for reading only is an error at once.
#[cfg(unix)]
pub(crate) fn standard_output() -> io::Result<File> {
    use rustix::fs::{OFlags, fcntl_getfl};
    use std::os::fd::AsFd as _;
    if fcntl_getfl(io::stdout())? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(rustix::io::Errno::BADF.into());
    }
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
pub(crate) fn standard_output() -> io::Result<File> {
    use std::os::windows::io::AsHandle as _;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// Whether this process may write to the file that is there (access(2)).
#[cfg(unix)]
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD};
    Ok(rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?)
}

#[cfg(not(unix))]
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    match path.metadata()?.permissions().readonly() {
        true => Err(io::ErrorKind::PermissionDenied.into()),
        false => Ok(()),
    }
}

/// Whether this process may put another file in the place of the one that is there: in a sticky folder only owners may
/// (unlink(2)), and root.
#[cfg(unix)]
pub(crate) fn check_replaceable(file: &Metadata, folder: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    const STICKY: u32 = 0o1000;
    let us = rustix::process::geteuid();
    let is_owner = [file.uid(), folder.uid()].contains(&us.as_raw());
    if folder.mode() & STICKY == 0 || is_owner || us.is_root() { Ok(()) } else { Err(rustix::io::Errno::PERM.into()) }
}

#[cfg(not(unix))]
pub(crate) fn check_replaceable(_: &Metadata, _: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Brings the bytes to the disk where they are on one: a pipe or a terminal has none (fsync(2)).
pub(crate) fn sync_if_stored(file: &File) -> io::Result<()> {
    let kind = file.metadata()?.file_type();
    #[cfg(unix)]
    let is_stored = kind.is_file() || std::os::unix::fs::FileTypeExt::is_block_device(&kind);
    #[cfg(not(unix))]
    let is_stored = kind.is_file();
    if is_stored { file.sync_all() } else { Ok(()) }
}

/// Files that are readable and writable by whom the umask lets, like any other new file.
#[cfg(unix)]
pub(crate) fn temporary_files() -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut files = tempfile::Builder::new();
    files.permissions(std::fs::Permissions::from_mode(0o666));
    files
}

#[cfg(not(unix))]
pub(crate) fn temporary_files() -> tempfile::Builder<'static, 'static> {
    tempfile::Builder::new()
}

/// Gives the new file the permissions of the old one, less set-user-ID and its like, and as far as this process may
/// its owner and its group.
#[cfg(unix)]
pub(crate) fn take_over_attributes(old: &Metadata, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
    let fresh = new.metadata()?;
    if (fresh.uid(), fresh.gid()) != (old.uid(), old.gid()) {
        let group = Some(old.gid());
        let _ = fchown(new, Some(old.uid()), group).or_else(|_| fchown(new, None, group));
    }
    let (mode, others) = (old.mode() & 0o777, old.mode() & 0o007);
    let has_group = new.metadata()?.gid() == old.gid();
    // Another group is others.
    let mode = if has_group { mode } else { mode & (0o707 | others << 3) };
    new.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
pub(crate) fn take_over_attributes(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}

/// Brings the names in a folder to the disk (fsync(2)), one of which is that of the file.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path, file: &File) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems have no such thing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        // A drop box: one may put files there but not read what is there.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => sync_file_system(file),
        synced => synced,
    }
}

#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

/// Brings all of the file system that the file is on to the disk (syncfs(2)).
#[cfg(target_os = "linux")]
fn sync_file_system(file: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn sync_file_system(_: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Raises the limit of open files as far as this process may (setrlimit(2)).
#[cfg(unix)]
pub(crate) fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(not(unix))]
pub(crate) fn raise_open_files_limit() {}

/// Whether an accept failed for what was wrong with that one client, or for a firewall that forbids it (accept(2)).
#[cfg(target_os = "linux")]
pub(crate) fn is_peer_s_fault(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_one_of(error, &[Errno::CONNABORTED, Errno::CONNRESET, Errno::PROTO, Errno::NOPROTOOPT, Errno::PERM])
        || is_one_of(error, &[Errno::NETDOWN, Errno::NETUNREACH, Errno::NONET, Errno::HOSTDOWN, Errno::HOSTUNREACH])
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_peer_s_fault(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Whether an accept failed for want of something that a client gives back when it goes (accept(2)).
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    #[cfg(unix)]
    if is_one_of(error, &[rustix::io::Errno::MFILE, rustix::io::Errno::AGAIN]) {
        return true;
    }
    is_system_exhausted(error)
}

/// Whether it failed for want of something that other programs have.
#[cfg(unix)]
pub(crate) fn is_system_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_one_of(error, &[Errno::NFILE, Errno::NOBUFS, Errno::NOMEM])
}

#[cfg(not(unix))]
pub(crate) fn is_system_exhausted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(unix)]
fn is_one_of(error: &io::Error, errnos: &[rustix::io::Errno]) -> bool {
    rustix::io::Errno::from_io_error(error).is_some_and(|errno| errnos.contains(&errno))
}
