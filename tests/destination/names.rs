//! Under which name the file is stored: unusual names, directories in place of files, symbolic and hard links.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::disk::{Mounted, succeed};
use crate::common::fixture::{OLD, assert_replaced, directory_with_old, transfer};
use crate::common::messages::{NO_DIRECTORY, no_directory, received};
use crate::common::{content, directory, file_client, installed, is_root, names_in, user_space_file_system};
use crate::{assert_refused, client_to};

#[test]
fn any_name_that_the_file_system_permits_is_used_and_printed_as_one_line() {
    let long = "n".repeat(255);
    let names: [(&[u8], &str); 7] = [
        (b"with two spaces", "with two spaces"),
        (b"new\nline", r"new\nline"),
        (b"no \xff UTF-8", r"no \xff UTF-8"),
        (b"\x1b[31mred", r"\u{1b}[31mred"),
        ("déjà 文件".as_bytes(), "déjà 文件"),
        (b"--help", "--help"),
        (long.as_bytes(), &long),
    ];
    for (name, printed) in names {
        let here = directory();
        let mut option = b"--output=".to_vec();
        option.extend_from_slice(name);
        for bytes in [b"old".as_slice(), b"newer"] {
            let outcome = transfer(bytes, |port| {
                let mut client = file_client(here.path(), port, &[]);
                client.arg(OsStr::from_bytes(&option));
                client
            });
            outcome.assert_stored();
            assert_eq!(outcome.client.stdout(), received(bytes.len(), printed));
            assert_eq!(fs::read(here.path().join(OsStr::from_bytes(name))).unwrap(), bytes);
            assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1, "{printed}");
        }
    }
}

#[test]
fn output_that_cannot_be_a_file_is_refused_before_connecting() {
    let here = directory_with_old();
    fs::create_dir(here.path().join("sub")).unwrap();
    let too_long = "n".repeat(256);
    let (no_out, no_out_parent) = (no_directory("out"), no_directory("out/.."));
    for (output, file) in
        [("sub", "sub/NAME"), ("sub/", "sub/NAME"), (".", "./NAME"), ("sub/..", "sub/../NAME"), ("/", "/NAME")]
    {
        let refusal = format!("{output} is a directory; name the file: -o {file}");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
    let refusals = [
        ("out/", NO_DIRECTORY),
        ("out/.", NO_DIRECTORY),
        ("destination.txt/", "not a directory"),
        ("destination.txt/new", "not a directory"),
        ("out/new", &no_out),
        ("out/../new", &no_out_parent),
        (&too_long, "file name too long"),
    ];
    for (output, reason) in refusals {
        assert_refused(&format!("could not write {output}: {reason}"), |port| client_to(here.path(), port, output));
    }
    assert_eq!(names_in(here.path()), ["destination.txt", "sub"]);
}

/// The file is stored where the link leads, and the link stays as it is.
fn assert_follows(here: &Path, output: &str, target: &Path) {
    let link = here.join(output);
    let leads_to = fs::read_link(&link).unwrap();
    for bytes in [content(1000, 1), content(2000, 2)] {
        transfer(&bytes, |port| client_to(here, port, output)).assert_stored();
        assert_eq!(fs::read(target).unwrap(), bytes, "{output}");
        assert_eq!(fs::read_link(&link).unwrap(), leads_to);
        assert!(target.symlink_metadata().unwrap().is_file());
    }
}

#[test]
fn symbolic_link_is_followed_and_stays_a_link() {
    let (here, there) = (directory_with_old(), directory());
    let (path, elsewhere) = (here.path(), there.path().join("elsewhere"));
    fs::create_dir(path.join("sub")).unwrap();
    symlink("destination.txt", path.join("relative")).unwrap();
    symlink("../destination.txt", path.join("sub/upwards")).unwrap();
    symlink(&elsewhere, path.join("absolute and dangling")).unwrap();
    symlink("sub/nothing yet", path.join("relative and dangling")).unwrap();
    symlink("sub", path.join("directory")).unwrap();
    assert_follows(path, "relative", &path.join("destination.txt"));
    assert_follows(path, "sub/upwards", &path.join("destination.txt"));
    assert_follows(path, "directory/upwards", &path.join("destination.txt"));
    assert_follows(path, "absolute and dangling", &elsewhere);
    assert_follows(path, "relative and dangling", &path.join("sub/nothing yet"));
    let names = ["absolute and dangling", "destination.txt", "directory", "relative", "relative and dangling", "sub"];
    assert_eq!(names_in(path), names);
    assert_eq!(names_in(&path.join("sub")), ["nothing yet", "upwards"]);
    assert_eq!(names_in(there.path()), ["elsewhere"]);
}

#[test]
fn as_many_links_in_a_row_are_followed_as_the_kernel_does() {
    let here = directory_with_old();
    symlink("destination.txt", here.path().join("1")).unwrap();
    for link in 2..=41 {
        symlink((link - 1).to_string(), here.path().join(link.to_string())).unwrap();
    }
    assert_follows(here.path(), "40", &here.path().join("destination.txt"));
    let refusal = "could not write 41: too many levels of symbolic links";
    assert_refused(refusal, |port| client_to(here.path(), port, "41"));
}

#[test]
fn links_that_cannot_lead_to_a_file_are_refused() {
    let here = directory_with_old();
    let no_directory = no_directory("./out");
    let links = [
        ("loop", "loop", "too many levels of symbolic links"),
        ("to no directory", "out/", NO_DIRECTORY),
        ("into no directory", "out/new", &*no_directory),
    ];
    for (link, leads_to, reason) in links {
        symlink(leads_to, here.path().join(link)).unwrap();
        assert_refused(&format!("could not write {link}: {reason}"), |port| client_to(here.path(), port, link));
    }
    symlink(".", here.path().join("to_directory")).unwrap();
    let refusal = "to_directory is a directory; name the file: -o to_directory/NAME";
    assert_refused(refusal, |port| client_to(here.path(), port, "to_directory"));
    assert_eq!(names_in(here.path()).len(), 2 + links.len());
}

#[test]
fn hard_link_to_the_old_file_keeps_the_old_bytes() {
    let here = directory_with_old();
    let kept = directory();
    fs::hard_link(here.path().join("destination.txt"), kept.path().join("kept")).unwrap();
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
    assert_eq!(fs::read(kept.path().join("kept")).unwrap(), OLD);
}

/// FAT, exFAT and NTFS have no unnamed files, and refuse names with a colon.
#[test]
fn a_name_that_the_file_system_refuses_is_refused_before_connecting() {
    let (Some(make), Some(mount)) = (installed("mkfs.ntfs"), user_space_file_system("ntfs-3g")) else { return };
    if !is_root() {
        return;
    }
    let below = directory();
    let image = below.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    succeed(Command::new(make).args(["--quiet", "--force"]).arg(&image));
    let options = ["-o", "windows_names", image.to_str().unwrap()];
    let here = Mounted::with(mount.to_str().unwrap(), &options, below);
    for output in ["a:b.txt", "what?", "con.txt"] {
        let refusal = format!("could not write {output}: invalid argument");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
    let longest = "n".repeat(255);
    for output in ["ab.txt", &longest] {
        transfer(b"new", |port| client_to(here.path(), port, output)).assert_stored();
    }
    assert_eq!(names_in(here.path()), ["ab.txt", &longest]);
}
