//! What a test needs from this machine: installed programs, root, IPv6, a C compiler. Where it is missing the test is
//! skipped and says so; where everything is required (`HALF_CLOSE_REQUIRE_ALL` is set) it fails.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::files::{directory, has_unnamed_files_in};
use super::processes::Running;

/// The path of the program, or `None` if it is not installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip_unless_required(&format!("{program} is not installed"));
    }
    found
}

/// The path of strace, or `None` if it is not installed or may not trace a program and change its calls here.
pub fn strace() -> Option<PathBuf> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let path = installed("strace")?;
    let probe = || {
        let mut strace = Command::new(&path);
        strace.args(["-f", "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"]);
        strace.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !*WORKS.get_or_init(probe) {
        skip_unless_required("strace may not trace programs");
        return None;
    }
    Some(path)
}

/// The path of a program that is a file system in user space (FUSE), or `None` if it is not installed or cannot be one
/// here.
pub fn user_space_file_system(program: &str) -> Option<PathBuf> {
    let path = installed(program)?;
    if !can_be_opened("/dev/fuse") {
        skip_unless_required("/dev/fuse cannot be opened");
        return None;
    }
    Some(path)
}

/// For reading and writing: of some devices a container has the names only.
pub fn can_be_opened(device: &str) -> bool {
    File::options().read(true).write(true).open(device).is_ok()
}

/// Whether this is root as on a machine: it may mount file systems, create networks, change their settings, and give
/// files to any user. In many containers it may not.
pub fn is_root() -> bool {
    static IS_ROOT: OnceLock<bool> = OnceLock::new();
    let probe = || rustix::process::geteuid().is_root() && has_all_users() && can_mount_and_set_up_networks();
    let is_root = *IS_ROOT.get_or_init(probe);
    if !is_root {
        skip_unless_required("this test needs root that may mount, set up networks and give files to any user");
    }
    is_root
}

/// Whether each number of a user is that of one (`user_namespaces(7)`).
fn has_all_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn can_mount_and_set_up_networks() -> bool {
    const SCRIPT: &str = "mount -t tmpfs none \"$0\" && echo 5 > /proc/sys/net/ipv4/tcp_retries2";
    let mount_point = directory();
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--net", "sh", "-c", SCRIPT]).arg(mount_point.path()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Whether a [`directory`] has files without a name.
pub fn has_unnamed_files() -> bool {
    let has = has_unnamed_files_in(directory().path());
    if !has {
        skip_unless_required("no directory for temporary files has files without a name (O_TMPFILE)");
    }
    has
}

/// Whether this process can have so many files open, which it may from now on.
pub fn raise_open_files_limit(wanted: usize) -> bool {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let is_enough = maximum.is_none_or(|maximum| maximum >= wanted as u64);
    if !is_enough {
        skip_unless_required(&format!("{wanted} files cannot be open"));
    }
    is_enough
}

/// Whether a file can be used as a disk.
pub fn has_loop_device() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    let has = *HAS.get_or_init(can_attach_image);
    if !has {
        skip_unless_required("there is no loop device");
    }
    has
}

fn can_attach_image() -> bool {
    let below = directory();
    let image = below.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let attached = Command::new("losetup").args(["--find", "--show"]).arg(image).stderr(Stdio::null()).output();
    let Some(attached) = attached.ok().filter(|attached| attached.status.success()) else { return false };
    let device = String::from_utf8_lossy(&attached.stdout);
    Command::new("losetup").args(["--detach", device.trim()]).status().is_ok_and(|status| status.success())
}

/// Whether this machine has IPv6. Never required.
pub fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        report_skipped("this machine has no IPv6");
    }
    has
}

/// The Debian package of this version, or `None` if `packaging/deb` has not built it.
pub fn debian_package() -> Option<PathBuf> {
    let name = concat!("half-close_", env!("CARGO_PKG_VERSION"), "_");
    let is_ours = |file: &PathBuf| file.extension() == Some(OsStr::new("deb")) && has_name_with(file, name);
    let packages = fs::read_dir(target_directory().join("debian")).into_iter().flatten().flatten();
    packages.map(|entry| entry.path()).find(is_ours).or_else(|| not_built("packaging/deb"))
}

/// A program without shared libraries, or `None` if `packaging/static` has not built it.
pub fn static_program(name: &str) -> Option<PathBuf> {
    let tree = format!("half-close-{}-{}-linux", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let program = target_directory().join("static").join(tree).join("bin").join(name);
    if program.is_file() { Some(program) } else { not_built("packaging/static") }
}

fn target_directory() -> &'static Path {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.parent().unwrap_or(temporary)
}

fn has_name_with(file: &Path, beginning: &str) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
}

/// They are not built by the tests, because it takes a minute to optimize them.
fn not_built(script: &str) -> Option<PathBuf> {
    skip_unless_required(&format!("{script} was not run"));
    None
}

pub fn skip_unless_required(reason: &str) {
    assert!(!is_all_required(), "{reason}; HALF_CLOSE_REQUIRE_ALL requires it");
    report_skipped(reason);
}

fn is_all_required() -> bool {
    env::var_os("HALF_CLOSE_REQUIRE_ALL").is_some()
}

/// Writes past the test harness, which hides the output of tests that pass.
pub fn report_skipped(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "skipped: {test}: {reason}");
}

/// Compiles a program of `tests/peers`; `None` if there is no C compiler.
pub fn c_program(source: &str) -> Option<PathBuf> {
    let compiler = installed("cc")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(source);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source.file_stem().unwrap_or(OsStr::new("peer")));
    let fresh = program.with_extension(format!("{}-{:?}", std::process::id(), thread::current().id()));
    let status = Command::new(compiler)
        .args(["-O2", "-Wall", "-Wextra", "-Wno-unused-result"])
        // Each compiler has warnings of its own.
        .args(is_all_required().then_some("-Werror"))
        .arg("-o")
        .arg(&fresh)
        .arg(source)
        .status();
    assert!(status.unwrap().success());
    fs::rename(fresh, &program).unwrap();
    Some(program)
}

/// A program that holds a write lease on the file until it is dropped (`tests/peers/lease.c`); `None` if there is no C
/// compiler, or no lease on this file system.
pub fn holder_of_lease(file: &Path, arguments: &[&str]) -> Option<Running> {
    let mut lease = Command::new(c_program("lease.c")?);
    let mut holder = Running::start(lease.arg(file).args(arguments).stdin(Stdio::piped()));
    if holder.wait_for_line("") == "holds it" {
        return Some(holder);
    }
    report_skipped("this file system has no leases");
    None
}
