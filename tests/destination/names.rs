//! Under which name the file ends up: odd names, folders in place of names, and links of both kinds.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{content, file_client, folder, names_in};
use crate::{OLD, assert_refused, assert_replaced, client_to, folder_with_old, transfer};

#[test]
fn any_name_that_the_file_system_takes_is_good_and_printed_as_one_line() {
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
        let here = folder();
        let mut option = b"--output=".to_vec();
        option.extend_from_slice(name);
        for bytes in [b"old".as_slice(), b"newer"] {
            let outcome = transfer(bytes, |port| {
                let mut client = file_client(here.path(), port, &[]);
                client.arg(OsStr::from_bytes(&option));
                client
            });
            outcome.assert_stored();
            let line = format!("Received file data: {} bytes in {printed}\n", bytes.len());
            assert_eq!(outcome.client.stdout(), line);
            assert_eq!(fs::read(here.path().join(OsStr::from_bytes(name))).unwrap(), bytes);
            assert_eq!(fs::read_dir(here.path()).unwrap().count(), 1, "{printed}");
        }
    }
}

#[test]
fn what_can_be_no_file_is_refused_before_the_server_is_used_up() {
    let here = folder_with_old();
    fs::create_dir(here.path().join("sub")).unwrap();
    let too_long = "n".repeat(256);
    let refusals = [
        ("sub", "is a directory"),
        ("sub/", "is a directory"),
        (".", "is a directory"),
        ("sub/..", "is a directory"),
        ("/", "is a directory"),
        ("out/", "there is no such folder"),
        ("out/.", "there is no such folder"),
        ("destination.txt/", "not a directory"),
        ("destination.txt/new", "not a directory"),
        ("out/new", "there is no folder out"),
        ("out/../new", "there is no folder out/.."),
        (&too_long, "file name too long"),
    ];
    for (output, why) in refusals {
        assert_refused(&format!("could not write {output}: {why}"), |port| client_to(here.path(), port, output));
    }
    assert_eq!(names_in(here.path()), ["destination.txt", "sub"]);
}

/// The file goes to where the link leads, and the link stays as it is.
fn follows(here: &Path, output: &str, target: &Path) {
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
fn a_symbolic_link_is_followed_and_stays_a_link() {
    let (here, there) = (folder_with_old(), folder());
    let (path, elsewhere) = (here.path(), there.path().join("elsewhere"));
    fs::create_dir(path.join("sub")).unwrap();
    symlink("destination.txt", path.join("relative")).unwrap();
    symlink("../destination.txt", path.join("sub/upwards")).unwrap();
    symlink(&elsewhere, path.join("absolute and dangling")).unwrap();
    symlink("sub/nothing yet", path.join("relative and dangling")).unwrap();
    symlink("sub", path.join("folder")).unwrap();
    follows(path, "relative", &path.join("destination.txt"));
    follows(path, "sub/upwards", &path.join("destination.txt"));
    follows(path, "folder/upwards", &path.join("destination.txt"));
    follows(path, "absolute and dangling", &elsewhere);
    follows(path, "relative and dangling", &path.join("sub/nothing yet"));
    let names = ["absolute and dangling", "destination.txt", "folder", "relative", "relative and dangling", "sub"];
    assert_eq!(names_in(path), names);
    assert_eq!(names_in(&path.join("sub")), ["nothing yet", "upwards"]);
    assert_eq!(names_in(there.path()), ["elsewhere"]);
}

#[test]
fn as_many_links_in_a_row_are_followed_as_by_the_kernel() {
    let here = folder_with_old();
    symlink("destination.txt", here.path().join("1")).unwrap();
    for link in 2..=41 {
        symlink((link - 1).to_string(), here.path().join(link.to_string())).unwrap();
    }
    follows(here.path(), "40", &here.path().join("destination.txt"));
    let refusal = "could not write 41: too many levels of symbolic links";
    assert_refused(refusal, |port| client_to(here.path(), port, "41"));
}

#[test]
fn links_that_lead_to_no_file_are_refused() {
    let here = folder_with_old();
    let links = [
        ("loop", "loop", "too many levels of symbolic links"),
        ("to folder", ".", "is a directory"),
        ("to no folder", "out/", "there is no such folder"),
        ("into no folder", "out/new", "there is no folder ./out"),
    ];
    for (link, leads_to, why) in links {
        symlink(leads_to, here.path().join(link)).unwrap();
        assert_refused(&format!("could not write {link}: {why}"), |port| client_to(here.path(), port, link));
    }
    assert_eq!(names_in(here.path()).len(), 1 + links.len());
}

#[test]
fn a_hard_link_to_the_old_file_keeps_the_old_bytes() {
    let here = folder_with_old();
    let kept = folder();
    fs::hard_link(here.path().join("destination.txt"), kept.path().join("kept")).unwrap();
    transfer(b"new", |port| file_client(here.path(), port, &[])).assert_stored();
    assert_replaced(here.path(), b"new");
    assert_eq!(fs::read(kept.path().join("kept")).unwrap(), OLD);
}
