//! What works on every system that the programs are built for. The other tests need what only Unix or Linux has, and so
//! do the helpers that they share.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A server that listens; killed when a test fails.
struct Server {
    process: Child,
    port: String,
}

impl Server {
    fn start(directory: &Path, arguments: &[&str], input: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-server"));
        command.args(["--quiet", "--bind", "127.0.0.1", "0"]).args(arguments).current_dir(directory);
        let mut process = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim_end().rsplit(':').next().unwrap().to_owned();
        assert!(line.starts_with("listening on "), "{line}");
        Self { process, port }
    }

    fn fetch(&self, directory: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-client"));
        command.args(["127.0.0.1", &self.port]).args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Fails unless the server ends with this status and has printed this.
    #[track_caller]
    fn assert_ends(mut self, status: i32, printed: &str) {
        let mut stdout = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert_eq!((self.process.wait().unwrap().code(), &*stdout), (Some(status), printed));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const CONFIRMED: &str = "Message from client: Thank you\n";

fn directory_with(name: &str, bytes: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(name), bytes).unwrap();
    directory
}

#[test]
fn file_replaces_another_one() {
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|number| number.to_le_bytes()[0]).collect();
    let (source, destination) = (directory_with("des.txt", &bytes), directory_with("destination.txt", b"old"));
    let server = Server::start(source.path(), &[], Stdio::null());
    let client = server.fetch(destination.path(), &["--size", "1000003"]);
    assert!(client.status.success(), "{client:?}");
    server.assert_ends(0, CONFIRMED);
    assert!(fs::read(destination.path().join("destination.txt")).unwrap() == bytes);
    assert_eq!(fs::read_dir(destination.path()).unwrap().count(), 1);
}

#[test]
fn pipe_is_sent_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(directory.path(), &["--file", "-"], Stdio::piped());
    let mut input = server.process.stdin.take().unwrap();
    input.write_all(b"through pipes").unwrap();
    drop(input);
    let client = server.fetch(directory.path(), &["--output", "-"]);
    assert_eq!((client.status.code(), &client.stdout[..]), (Some(0), &b"through pipes"[..]), "{client:?}");
    server.assert_ends(0, CONFIRMED);
}

#[test]
fn file_of_another_size_is_not_stored() {
    let (source, destination) = (directory_with("des.txt", b"short"), directory_with("destination.txt", b"old"));
    let server = Server::start(source.path(), &[], Stdio::null());
    let client = server.fetch(destination.path(), &["--size", "6"]);
    assert_eq!(client.status.code(), Some(1), "{client:?}");
    server.assert_ends(1, "");
    assert_eq!(fs::read(destination.path().join("destination.txt")).unwrap(), b"old");
    assert_eq!(fs::read_dir(destination.path()).unwrap().count(), 1);
}
