//! What a user can't see without pulling the plug: in which order the client brings bytes and names to the disk and
//! thanks for them. strace shows it, and plays the failing disk and the kernel that can't do everything.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{assert_same, content, file_client, folder, installed};
use crate::held::{Held, until};
use crate::{assert_replaced, assert_untouched, folder_with_old, through, transfer};

/// More than the bytes between two syncs while the file grows.
const ABOVE_ONE_WINDOW: usize = 64 * 1024 * 1024 + 1;

/// strace, and where it writes.
struct Watch {
    strace: PathBuf,
    log: TempDir,
}

impl Watch {
    fn new() -> Option<Self> {
        Some(Self { strace: installed("strace")?, log: folder() })
    }

    /// The command watched; in the words of strace, what is to go wrong.
    fn over(&self, command: &Command, inject: Option<&str>) -> Command {
        let (strace, log) = (self.strace.display().to_string(), self.log.path().join("log").display().to_string());
        let inject = inject.map(|what| format!("inject={what}"));
        let calls = "trace=fsync,fdatasync,syncfs,linkat,rename,renameat,renameat2,splice,recvfrom,sendto,write";
        let mut program = vec![&*strace, "--follow-forks", "-qq", "--decode-fds=path", "-o", &log, "-e", calls];
        program.extend(inject.iter().flat_map(|inject| ["-e", inject]));
        through(&program, command)
    }

    /// Without this a test would pass because nothing went wrong.
    fn assert_injected(&self) {
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
    // Two lines if another thread's call comes in between; one that failed is no link.
    if call.contains("linkat") {
        return call.ends_with("= 0").then_some("link");
    }
    match call.split_once('(')?.0 {
        "fsync" if call.contains(here) => Some("sync the folder"),
        "fsync" => Some("sync the file"),
        "fdatasync" | "syncfs" => Some("sync something else"),
        "rename" | "renameat" | "renameat2" => Some("rename"),
        "sendto" if call.contains(r#""Thank you\0", 10"#) => Some("thank"),
        _ => None,
    }
}

#[test]
fn the_thanks_come_after_the_disk_has_the_bytes_and_the_name() {
    let cases: [(bool, &[&str], &[&str]); 4] = [
        (false, &[], &["sync the file", "link", "sync the folder", "thank"]),
        (true, &[], &["sync the file", "link", "rename", "sync the folder", "thank"]),
        (false, &["--no-sync"], &["link", "thank"]),
        (true, &["--no-sync"], &["link", "rename", "thank"]),
    ];
    for (old, options, steps) in cases {
        let Some(watch) = Watch::new() else { return };
        let here = if old { folder_with_old() } else { folder() };
        let bytes = content(100_000, 1);
        transfer(&bytes, |port| watch.over(&file_client(here.path(), port, options), None)).assert_stored();
        assert_replaced(here.path(), &bytes);
        assert_eq!(watch.steps(here.path()), steps);
    }
}

#[test]
fn a_large_file_is_brought_to_the_disk_while_it_still_arrives() {
    let bytes = vec![0; ABOVE_ONE_WINDOW];
    for (options, runs_along) in [(&[][..], true), (&["--no-sync"], false)] {
        let Some(watch) = Watch::new() else { return };
        let here = folder();
        let mut held = Held::connect(|port| watch.over(&file_client(here.path(), port, options), None));
        held.connection.write_all(&bytes).unwrap();
        let synced = || watch.lines().contains("fdatasync(");
        if runs_along {
            // The file has not ended yet.
            until("a part of the file is synced", || synced().then_some(()));
        }
        assert_eq!(held.end(b"").1.status, 0);
        assert_eq!(synced(), runs_along);
    }
}

#[test]
fn a_disk_that_fails_at_any_step_is_one_line_and_no_thanks() {
    for (inject, size, why) in [
        ("splice:error=EIO:when=2", 1000, "input/output error"),
        ("splice:error=ENOSPC:when=6", 3_000_000, "no space left on device"),
        ("splice:error=EINVAL:when=6", 3_000_000, "invalid argument"),
        ("fdatasync:error=EIO", ABOVE_ONE_WINDOW, "input/output error"),
        ("fsync:error=EIO:when=1", 1000, "input/output error"),
        ("linkat:error=EIO", 1000, "input/output error"),
        ("/^rename:error=ENOSPC", 1000, "no space left on device"),
    ] {
        let Some(watch) = Watch::new() else { return };
        let here = folder_with_old();
        let outcome = transfer(&vec![0; size], |port| watch.over(&file_client(here.path(), port, &[]), Some(inject)));
        outcome.assert_failed(&format!("could not write destination.txt: {why}"));
        watch.assert_injected();
        assert_untouched(here.path());
    }
}

#[test]
fn a_folder_that_can_not_be_synced_is_no_success_though_the_name_is_taken() {
    let Some(watch) = Watch::new() else { return };
    let here = folder_with_old();
    let inject = Some("fsync:error=EIO:when=2");
    let outcome = transfer(b"new", |port| watch.over(&file_client(here.path(), port, &[]), inject));
    outcome.assert_failed("could not write destination.txt: input/output error");
    watch.assert_injected();
    assert_replaced(here.path(), b"new");
}

/// The first call takes bytes out of the connection, the second one brings them from the pipe to the file.
#[test]
fn a_kernel_or_file_that_can_not_splice_loses_no_byte() {
    let bytes = content(3_000_001, 1);
    let here = folder();
    for error in ["EINVAL:when=1", "EINVAL:when=2", "ENOSYS:when=1+", "EPERM:when=1+", "EOPNOTSUPP:when=2+"] {
        let Some(watch) = Watch::new() else { return };
        let inject = format!("splice:error={error}");
        let client = |port| watch.over(&file_client(here.path(), port, &["--no-sync"]), Some(&inject));
        transfer(&bytes, client).assert_stored();
        watch.assert_injected();
        assert_replaced(here.path(), &bytes);
        fs::remove_file(here.path().join("destination.txt")).unwrap();
    }
}

#[test]
fn interrupted_calls_are_repeated() {
    let bytes = content(3_000_001, 1);
    let here = folder_with_old();
    for call in ["1+2", "2+2"] {
        let Some(watch) = Watch::new() else { return };
        let inject = format!("splice:error=EINTR:when={call}");
        transfer(&bytes, |port| watch.over(&file_client(here.path(), port, &[]), Some(&inject))).assert_stored();
        watch.assert_injected();
        assert_replaced(here.path(), &bytes);
    }
    let Some(watch) = Watch::new() else { return };
    let inject = Some("recvfrom,write:error=EINTR:when=1+2");
    let outcome = transfer(&bytes, |port| watch.over(&file_client(here.path(), port, &["-o", "-"]), inject));
    outcome.assert_stored();
    watch.assert_injected();
    assert_same(&outcome.client.stdout, &bytes, "standard output");
}
