//! The Debian package that `packaging/deb` builds, installed into a root directory of its own: it brings all that a user
//! expects there, and its programs transfer a file.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::messages::{CONFIRMED, received};
use common::processes::through;
use common::requirements::debian_package;
use common::{Server, assert_same, content, directory, installed, is_root, program, run};
use tempfile::TempDir;

/// Installs the package as dpkg does, into a directory with nothing else in it. `None` if there is no dpkg or package.
fn install() -> Option<TempDir> {
    let (dpkg, package) = (installed("dpkg")?, debian_package()?);
    let root = directory();
    let database = root.path().join("var/lib/dpkg");
    for name in ["info", "updates", "triggers"] {
        fs::create_dir_all(database.join(name)).unwrap();
    }
    fs::write(database.join("status"), "").unwrap();
    let mut command = Command::new(dpkg);
    command.args(["--force-not-root", "--force-bad-path", "--log=/dev/null", "--root"]).arg(root.path());
    let finished = run(command.arg("--install").arg(package));
    assert_eq!(finished.status, 0, "{finished:?}");
    Some(root)
}

/// An installed program, whose root directory is the package's if that can be arranged: then there are no shared
/// libraries, no `/proc` and no `/etc`.
fn installed_in(root: &Path, name: &str, arguments: &[&str]) -> Command {
    let path = Path::new("usr/bin").join(name);
    if !is_root() {
        return program(root.join(path).to_str().unwrap(), root, arguments);
    }
    through(&["chroot", root.to_str().unwrap()], &program(&format!("/{}", path.display()), root, arguments))
}

#[test]
fn the_package_brings_programs_man_pages_completions_and_licences() {
    let Some(root) = install() else { return };
    for program in ["file-server", "file-client"] {
        for file in [
            format!("bin/{program}"),
            format!("share/man/man1/{program}.1.gz"),
            format!("share/bash-completion/completions/{program}"),
            format!("share/zsh/vendor-completions/_{program}"),
            format!("share/fish/vendor_completions.d/{program}.fish"),
        ] {
            let size = fs::metadata(root.path().join("usr").join(&file)).map_or(0, |file| file.len());
            assert!(size > 0, "{file} is missing or empty");
        }
    }
    let overview = root.path().join("usr/share/man/man1/half-close.1.gz");
    assert!(fs::metadata(&overview).is_ok_and(|file| file.len() > 0), "man half-close leads nowhere");
    let copyright = fs::read_to_string(root.path().join("usr/share/doc/half-close/copyright")).unwrap();
    for part in ["half-close: LICENSE-MIT", "half-close: LICENSE-APACHE", "GNU C library", "==== clap "] {
        assert!(copyright.contains(part), "{part}");
    }
}

#[test]
fn installed_programs_transfer_a_file_with_nothing_else_in_their_root() {
    let Some(root) = install() else { return };
    let bytes = content(1 << 20, 12);
    fs::write(root.path().join("sent"), &bytes).unwrap();

    let options = ["--bind", "127.0.0.1", "--file", "sent", "0"];
    let server = Server::start(&mut installed_in(root.path(), "file-server", &options));
    let options = ["127.0.0.1", &server.port.to_string(), "--output", "stored"];
    let client = run(&mut installed_in(root.path(), "file-client", &options));

    assert_eq!((client.status, client.stdout()), (0, received(bytes.len(), "stored")), "{client:?}");
    let server = server.finish();
    assert_eq!((server.status, server.stdout().as_str()), (0, CONFIRMED), "{server:?}");
    assert_same(&fs::read(root.path().join("stored")).unwrap(), &bytes, "the stored file");
}
