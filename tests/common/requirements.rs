//! What a test needs from this machine: installed programs, root, IPv6, a C compiler. Where it is missing the test is
//! skipped and says so; where everything is required (`HALF_CLOSE_REQUIRE_ALL` is set) it fails.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::files::{directory, has_unnamed_files_in};

/// The path of the program, or `None` if it is not installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip_unless_required(&format!("{program} is not installed"));
    }
    found
}

/// Whether this is root and may mount file systems and create networks, which root may not in every container.
pub fn is_root() -> bool {
    static IS_ROOT: OnceLock<bool> = OnceLock::new();
    let may_unshare = || {
        let probe = Command::new("unshare").args(["--mount", "--net", "true"]).stderr(Stdio::null()).status();
        rustix::process::geteuid().is_root() && probe.is_ok_and(|status| status.success())
    };
    let is_root = *IS_ROOT.get_or_init(may_unshare);
    if !is_root {
        skip_unless_required("this test needs root that may mount file systems and create networks");
    }
    is_root
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
    let found = Command::new("losetup").arg("--find").output();
    let has = found.is_ok_and(|found| found.status.success());
    if !has {
        skip_unless_required("there is no loop device");
    }
    has
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

fn skip_unless_required(reason: &str) {
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
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result", "-o"])
        .arg(&fresh)
        .arg(source)
        .status();
    assert!(status.unwrap().success());
    fs::rename(fresh, &program).unwrap();
    Some(program)
}
