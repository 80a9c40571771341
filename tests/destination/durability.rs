//! In which order the client syncs bytes and names to the disk and replies: strace shows the system calls, and makes them
//! fail as a broken disk or an older kernel would.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use half_close::protocol::THANK_YOU;
use tempfile::TempDir;

use crate::common::fixture::{OLD, assert_replaced, assert_untouched, directory_with_old, transfer};
use crate::common::processes::{after, through};
use crate::common::{assert_same, content, directory, file_client, has_unnamed_files, strace, wait_until};
use crate::stalled_server::StalledServer;

/// More than is written between two syncs while the file arrives.
const MORE_THAN_ONE_WINDOW: usize = 64 * 1024 * 1024 + 1;

/// strace and its log.
pub struct Strace {
    path: PathBuf,
    log: TempDir,
}

impl Strace {
    pub fn new() -> Option<Self> {
        Some(Self { path: strace()?, log: directory() })
    }

    /// The command traced; `inject` has expressions of strace's option of this name.
    pub fn trace(&self, command: &Command, inject: Option<&str>) -> Command {
        let (strace, log) = (self.path.display().to_string(), self.log.path().join("log").display().to_string());
        let inject: Vec<_> = inject.iter().flat_map(|all| all.split(' ')).map(|one| format!("inject={one}")).collect();
        let calls = "trace=fsync,fdatasync,syncfs,linkat,rename,renameat,renameat2,splice,recvfrom,sendto,write,fgetxattr,\
                     fsetxattr,faccessat2";
        let mut program = vec![&*strace, "--follow-forks", "-qq", "--decode-fds=path", "-o", &log, "-e", calls];
        program.extend(inject.iter().flat_map(|inject| ["-e", inject]));
        through(&program, command)
    }

    /// A test would also pass if nothing had failed.
    pub fn assert_injected(&self) {
        assert!(self.lines().contains("(INJECTED)"));
    }

    fn lines(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }

    /// The calls that matter, in order.
    fn steps(&self, here: &Path) -> Vec<&'static str> {
        let here = format!("<{}>", here.canonicalize().unwrap().display());
        self.lines().lines().filter_map(|line| step(line, &here)).collect()
    }
}

/// What one line of strace shows.
fn step(line: &str, here: &str) -> Option<&'static str> {
    // The process, and then the call.
    let call = line.split_once(' ')?.1.trim_start();
    // Two lines if another thread's call comes in between. A call that failed does not count.
    if call.contains("linkat") {
        return call.ends_with("= 0").then_some("link");
    }
    match call.split_once('(')?.0 {
        "fsync" if call.contains(here) => Some("sync the directory"),
        "fsync" => Some("sync the file"),
        "fdatasync" | "syncfs" => Some("sync something else"),
        "rename" | "renameat" | "renameat2" => Some("rename"),
        "sendto" if call.contains(&reply_as_logged()) => Some("reply"),
        _ => None,
    }
}

/// The reply and its size, as strace prints the arguments of a call.
fn reply_as_logged() -> String {
    format!("\"{}\", {}", String::from_utf8_lossy(THANK_YOU).replace('\0', r"\0"), THANK_YOU.len())
}

#[test]
fn reply_is_sent_after_file_and_directory_are_synced() {
    if !has_unnamed_files() {
        return;
    }
    let synced: &[&str] = &["sync the file", "link", "rename", "sync the directory", "reply"];
    let not_synced: &[&str] = &["link", "rename", "reply"];
    let cases: [(bool, &[&str], &[&str]); 5] = [
        (false, &[], synced),
        (true, &[], synced),
        (false, &["--no-clobber"], synced),
        (false, &["--no-sync"], not_synced),
        (true, &["--no-sync"], not_synced),
    ];
    for (old, options, steps) in cases {
        let Some(strace) = Strace::new() else { return };
        let here = if old { directory_with_old() } else { directory() };
        let bytes = content(100_000, 1);
        transfer(&bytes, |port| strace.trace(&file_client(here.path(), port, options), None)).assert_stored();
        assert_replaced(here.path(), &bytes);
        assert_eq!(strace.steps(here.path()), steps);
    }
}

#[test]
fn large_file_is_synced_while_it_arrives() {
    let bytes = vec![0; MORE_THAN_ONE_WINDOW];
    for (options, syncs) in [(&[][..], true), (&["--no-sync"], false)] {
        let Some(strace) = Strace::new() else { return };
        let here = directory();
        let mut server = StalledServer::connect(|port| strace.trace(&file_client(here.path(), port, options), None));
        server.connection.write_all(&bytes).unwrap();
        let synced = || strace.lines().contains("fdatasync(");
        if syncs {
            // The end of the file has not been sent yet.
            wait_until("a part of the file is synced", synced);
        }
        assert_eq!(server.half_close(b"").1.status, 0);
        assert_eq!(synced(), syncs);
    }
}

#[test]
fn disk_that_fails_at_any_step_is_reported_and_nothing_is_stored() {
    if !has_unnamed_files() {
        return;
    }
    for (inject, size, reason) in [
        ("splice:error=EIO:when=2", 1000, "input/output error"),
        ("splice:error=ENOSPC:when=6", 3_000_000, "no space left on device"),
        ("splice:error=EINVAL:when=6", 3_000_000, "invalid argument"),
        ("fdatasync:error=EIO", MORE_THAN_ONE_WINDOW, "input/output error"),
        ("fsync:error=EIO:when=1", 1000, "input/output error"),
        ("linkat:error=EIO", 1000, "input/output error"),
        ("/^rename:error=ENOSPC", 1000, "no space left on device"),
    ] {
        let Some(strace) = Strace::new() else { return };
        let here = directory_with_old();
        // Without a timeout a call of splice(2) is not repeated while nothing arrives.
        let client = |port| strace.trace(&file_client(here.path(), port, &["--timeout=0s"]), Some(inject));
        let outcome = transfer(&vec![0; size], client);
        outcome.assert_failed(&format!("could not write destination.txt: {reason}"));
        strace.assert_injected();
        assert_untouched(here.path());
    }
}

#[test]
fn directory_that_cannot_be_synced_is_a_failure_although_the_file_is_replaced() {
    let Some(strace) = Strace::new() else { return };
    let here = directory_with_old();
    let inject = Some("fsync:error=EIO:when=2");
    let outcome = transfer(b"new", |port| strace.trace(&file_client(here.path(), port, &[]), inject));
    outcome.assert_failed("could not write destination.txt: input/output error");
    strace.assert_injected();
    assert_replaced(here.path(), b"new");
}

/// The file has its name, and its file system cannot do more.
#[test]
fn a_file_system_that_syncs_no_directories_is_synced_as_a_whole() {
    if !has_unnamed_files() {
        return;
    }
    for error in ["EINVAL", "EOPNOTSUPP", "ENOSYS", "EBADF"] {
        let Some(strace) = Strace::new() else { return };
        let here = directory_with_old();
        let inject = format!("fsync:error={error}:when=2");
        transfer(b"new", |port| strace.trace(&file_client(here.path(), port, &[]), Some(&inject))).assert_stored();
        strace.assert_injected();
        assert_replaced(here.path(), b"new");
        let steps = ["sync the file", "link", "rename", "sync the directory", "sync something else", "reply"];
        assert_eq!(strace.steps(here.path()), steps);
    }
}

/// A security module may forbid hard links.
#[test]
fn where_links_are_forbidden_the_file_is_copied_to_a_temporary_name() {
    if !has_unnamed_files() {
        return;
    }
    let bytes = content(300_001, 1);
    for error in ["EPERM", "EACCES"] {
        for old in [true, false] {
            let Some(strace) = Strace::new() else { return };
            let here = if old { directory_with_old() } else { directory() };
            let file = here.path().join("destination.txt");
            if old {
                fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
            }
            let inject = format!("linkat:error={error}");
            let client = |port| after("umask 027", &strace.trace(&file_client(here.path(), port, &[]), Some(&inject)));
            transfer(&bytes, client).assert_stored();
            strace.assert_injected();
            assert_replaced(here.path(), &bytes);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
            let steps = ["sync the file", "sync the file", "rename", "sync the directory", "reply"];
            assert_eq!(strace.steps(here.path()), steps);
        }
    }
}

/// NFS does not know that kind of rename. Folders that a virtual machine shares with its host do not know links either.
#[test]
fn no_clobber_works_without_a_rename_that_does_not_replace() {
    for inject in ["renameat2:error=EINVAL", "renameat2:error=ENOSYS", "renameat2:error=EINVAL linkat:error=EPERM"] {
        let Some(strace) = Strace::new() else { return };
        let here = directory();
        let client = |port| strace.trace(&file_client(here.path(), port, &["--no-clobber"]), Some(inject));
        transfer(b"new", client).assert_stored();
        strace.assert_injected();
        assert_replaced(here.path(), b"new");

        fs::remove_file(here.path().join("destination.txt")).unwrap();
        let held = StalledServer::connect(client);
        fs::write(here.path().join("destination.txt"), OLD).unwrap();
        let client = held.half_close(b"new").1;
        assert_eq!(client.stderr(), "file-client: could not write destination.txt: file exists\n");
        assert_untouched(here.path());
    }
}

/// The first call moves bytes from the connection to a pipe, the second one from the pipe to the file.
#[test]
fn kernel_or_file_without_splice_loses_no_byte() {
    let bytes = content(3_000_001, 1);
    let here = directory();
    for error in ["EINVAL:when=1", "EINVAL:when=2", "ENOSYS:when=1+", "EPERM:when=1+", "EOPNOTSUPP:when=2+"] {
        let Some(strace) = Strace::new() else { return };
        let inject = format!("splice:error={error}");
        let client = |port| strace.trace(&file_client(here.path(), port, &["--no-sync"]), Some(&inject));
        transfer(&bytes, client).assert_stored();
        strace.assert_injected();
        assert_replaced(here.path(), &bytes);
        fs::remove_file(here.path().join("destination.txt")).unwrap();
    }
}

#[test]
fn interrupted_calls_are_repeated() {
    let bytes = content(3_000_001, 1);
    let here = directory_with_old();
    for call in ["1+2", "2+2"] {
        let Some(strace) = Strace::new() else { return };
        let inject = format!("splice:error=EINTR:when={call}");
        transfer(&bytes, |port| strace.trace(&file_client(here.path(), port, &[]), Some(&inject))).assert_stored();
        strace.assert_injected();
        assert_replaced(here.path(), &bytes);
    }
    let Some(strace) = Strace::new() else { return };
    let inject = Some("recvfrom,write:error=EINTR:when=1+2");
    let outcome = transfer(&bytes, |port| strace.trace(&file_client(here.path(), port, &["-o", "-"]), inject));
    outcome.assert_stored();
    strace.assert_injected();
    assert_same(&outcome.client.stdout, &bytes, "standard output");
}

#[test]
fn rights_that_are_taken_away_while_the_file_is_synced_stay_away() {
    let Some(strace) = Strace::new() else { return };
    let here = directory_with_old();
    let file = here.path().join("destination.txt");
    let set_mode = |mode| fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    thread::scope(|scope| {
        let transfer = scope.spawn(|| {
            let inject = Some("fsync:delay_enter=10s:when=1");
            transfer(b"new", |port| strace.trace(&file_client(here.path(), port, &[]), inject))
        });
        wait_until("the client syncs", || strace.lines().contains("fsync(") || transfer.is_finished());
        set_mode(0o600);
        transfer.join().unwrap().assert_stored();
    });
    assert_replaced(here.path(), b"new");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
}
