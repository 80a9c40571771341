//! File names in scripts whose letters are made of several characters.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::path::Path;

use common::files::assert_file;
use common::messages::received;
use common::{FILE_CLIENT, Fixture, Running, directory, names_in, program, run};

const NAMES: [&str; 8] = [
    "हिन्दी क्षेत्र.txt",
    "தமிழ்.txt",
    "ภาษาไทย ที่นี่.txt",
    "שָׁלוֹם.txt",
    "می\u{200c}خواهم.txt",
    "re\u{301}sume\u{301}.txt",
    "👨\u{200d}👩\u{200d}👧.png",
    "❤\u{fe0f}.png",
];

/// The command for `file-client` that the server prints for this file.
fn printed_command(server: &mut Running) -> String {
    format!("file-client {}", server.wait_for_line("  file-client "))
}

#[test]
fn printed_command_keeps_names_in_all_scripts() {
    let path = format!("{}:{}", Path::new(FILE_CLIENT).parent().unwrap().display(), std::env::var("PATH").unwrap());
    for name in NAMES {
        let fixture = Fixture::of_size(1000);
        let here = directory();
        fs::rename(fixture.source(), fixture.source().with_file_name(name)).unwrap();
        let mut server = Running::start(&mut fixture.server_command(&["--file", name]));
        let command = printed_command(&mut server);
        assert!(command.contains(" --output "), "{command}");
        let client = run(program("sh", here.path(), &["-c", &command]).env("PATH", &path));
        assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
        assert_eq!(names_in(here.path()), [name]);
        assert_file(&here.path().join(name), fixture.bytes());
        assert_eq!(client.stdout(), received(1000, name));
    }
}

#[test]
fn names_that_are_not_what_they_look_like_are_left_out_of_the_printed_command() {
    for name in ["\u{301}a", "a\u{202e}txt.exe", "a\u{2066}b", "a \u{301}", "a\u{200b}b", "\u{200d}", "a\nb"] {
        let fixture = Fixture::of_size(1000);
        fs::rename(fixture.source(), fixture.source().with_file_name(name)).unwrap();
        let mut server = Running::start(&mut fixture.server_command(&["--file", name]));
        let command = printed_command(&mut server);
        assert!(!command.contains("--output"), "{command}");
    }
}
