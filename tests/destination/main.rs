//! The file system as a user finds it after a transfer, and during one: all of the file or none, under the name that
//! was asked for, with the right mode, and nothing beside it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

#[path = "../common/mod.rs"]
mod common;

mod fallback;
mod file_systems;
mod full;
mod held;
mod middle;
mod modes;
mod names;
mod order;
mod special;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Finished, Server, assert_same, file_client, folder, names_in, run};

/// What `destination.txt` holds before the transfer.
const OLD: &[u8] = b"the old file\n";

/// A folder in which an old `destination.txt` is waiting.
fn folder_with_old() -> tempfile::TempDir {
    let folder = folder();
    fs::write(folder.path().join("destination.txt"), OLD).unwrap();
    folder
}

/// `destination.txt` is as it was, and alone.
fn assert_untouched(folder: &Path) {
    assert_eq!(names_in(folder), ["destination.txt"]);
    assert_same(&fs::read(folder.join("destination.txt")).unwrap(), OLD, "the old file");
}

/// `destination.txt` is the new file, and alone.
fn assert_replaced(folder: &Path, bytes: &[u8]) {
    assert_eq!(names_in(folder), ["destination.txt"]);
    assert_same(&fs::read(folder.join("destination.txt")).unwrap(), bytes, "the new file");
}

/// How the two programs ended.
#[derive(Debug)]
struct Outcome {
    client: Finished,
    server: Finished,
}

/// Offers the bytes to the client that is made for a port.
fn transfer(bytes: &[u8], client: impl FnOnce(u16) -> Command) -> Outcome {
    let there = folder();
    fs::write(there.path().join("des.txt"), bytes).unwrap();
    let server = Server::start(there.path(), &[]);
    let client = run(&mut client(server.port));
    Outcome { client, server: server.finish() }
}

impl Outcome {
    /// Both sides say that all went well.
    fn assert_stored(&self) {
        assert_eq!((self.client.status, self.server.status), (0, 0), "{self:?}");
        assert_eq!(self.client.errors(), [""; 0], "{self:?}");
        assert_eq!(self.server.stdout(), "Message from client: Thank you\n");
    }

    /// Both sides say that it failed, and the client why.
    fn assert_failed(&self, why: &str) {
        assert_eq!((self.client.status, self.server.status), (1, 1), "{self:?}");
        assert_eq!(self.client.stderr(), format!("file-client: {why}\n"));
        assert_eq!((self.client.stdout(), self.server.stdout()), (String::new(), String::new()));
    }
}

/// The client says why it can't store the file before it connects, so that the waiting server is not used up.
fn assert_refused(why: &str, client: impl FnOnce(u16) -> Command) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let client = run(&mut client(listener.local_addr().unwrap().port()));
    assert_eq!((client.status, client.stderr()), (1, format!("file-client: {why}\n")), "{client:?}");
    assert_eq!(listener.accept().map_err(|error| error.kind()).err(), Some(ErrorKind::WouldBlock), "it has connected");
}

/// The client with one more `--output`, which need not be text.
fn client_to(folder: &Path, port: u16, output: impl AsRef<OsStr>) -> Command {
    let mut command = file_client(folder, port, &["--output"]);
    command.arg(output);
    command
}

/// The command started by a shell after a script; the process stays the same.
fn after(script: &str, command: &Command) -> Command {
    in_shell(&format!("{script} && exec \"$@\""), command)
}

/// A shell's script in which `"$@"` is the command.
fn in_shell(script: &str, command: &Command) -> Command {
    through(&["sh", "-c", script, "sh"], command)
}

/// The command as the last arguments of another program.
fn through(program: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program[0]);
    outer.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    outer.stdin(Stdio::null()).current_dir(command.get_current_dir().unwrap());
    outer
}
