//! An open descriptor is written through, whatever name it has: its file stays, and only grows.

use std::fs;
use std::io::{ErrorKind, Read, Seek as _, Write};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, OFlags, StatVfsMountFlags, fcntl_setfl, memfd_create, statvfs};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::common::fixture::{assert_untouched, directory_with_old, transfer};
use crate::common::processes::{after, in_shell, run};
use crate::common::{Server, assert_same, content, directory, file_server, names_in, wait_until};
use crate::{assert_refused, client_to};

const LARGE: usize = 3_000_001;

#[test]
fn a_deleted_file_is_written_through_its_descriptor() {
    for output in ["/dev/fd/3", "/proc/self/fd/3", "/proc/thread-self/fd/3", "link"] {
        let (here, bytes) = (directory_with_old(), content(LARGE, 1));
        std::os::unix::fs::symlink("/dev/fd/3", here.path().join("link")).unwrap();
        let script = "exec 3<> gone && rm gone && \"$@\" && exec cat /dev/fd/3 > seen";
        let outcome = transfer(&bytes, |port| in_shell(script, &client_to(here.path(), port, output)));
        outcome.assert_stored();
        assert_eq!(outcome.client.stdout(), format!("Received file data: {LARGE} bytes in {output}\n"));
        assert_same(&fs::read(here.path().join("seen")).unwrap(), &bytes, output);
        assert_eq!(names_in(here.path()), ["destination.txt", "link", "seen"]);
    }
}

#[test]
fn a_file_with_a_name_is_not_replaced_under_its_owner() {
    let bytes = content(LARGE, 2);
    for (open, before, after, expected) in [
        ("3>> all", "before", "after", [b"before".as_slice(), &bytes, b"after"].concat()),
        ("3> all", "", "", bytes.clone()),
        ("3> all; printf head >&3", "", "", [b"head".as_slice(), &bytes].concat()),
        ("3<> all", "before", "", [b"before".as_slice(), &bytes].concat()),
    ] {
        let here = directory();
        fs::write(here.path().join("all"), before).unwrap();
        fs::hard_link(here.path().join("all"), here.path().join("same")).unwrap();
        let script = format!("exec {open}; \"$@\" && printf '{after}' >&3");
        transfer(&bytes, |port| in_shell(&script, &client_to(here.path(), port, "/dev/fd/3"))).assert_stored();
        assert_same(&fs::read(here.path().join("all")).unwrap(), &expected, open);
        assert_same(&fs::read(here.path().join("same")).unwrap(), &expected, open);
        assert_eq!(names_in(here.path()), ["all", "same"]);
    }
}

#[test]
fn standard_output_is_found_under_all_its_names() {
    let here = directory();
    let bytes = content(LARGE, 4);
    for output in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let outcome = transfer(&bytes, |port| client_to(here.path(), port, output));
        outcome.assert_stored();
        // No result among the bytes.
        assert_same(&outcome.client.stdout, &bytes, output);
    }
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn messages_are_not_mixed_into_what_is_stored() {
    let here = directory();
    for (output, script) in [
        ("/dev/stderr", "exec 2>mixed"),
        ("/dev/fd/2", "exec 2>mixed"),
        ("/dev/fd/3", "exec 3>mixed 2>&3"),
        ("-", "exec >mixed 2>&1"),
    ] {
        // There is no server.
        let client = run(&mut after(script, &client_to(here.path(), 1, output)));
        assert_eq!(client.status, 1, "{script}: {client:?}");
        let name = if output == "-" { "standard output" } else { output };
        let error = format!(
            "file-client: could not write {name}: standard error is the same file, and messages would be mixed into it\n"
        );
        assert_eq!(fs::read_to_string(here.path().join("mixed")).unwrap(), error);
    }
    let nowhere = |port| after("exec >/dev/null 2>&1", &client_to(here.path(), port, "-"));
    transfer(b"new", nowhere).assert_stored();
}

#[test]
fn a_descriptor_of_another_process_is_written_through() {
    let (here, bytes) = (directory(), content(LARGE, 5));
    fs::write(here.path().join("all"), "").unwrap();
    let file = fs::OpenOptions::new().append(true).open(here.path().join("all")).unwrap();
    let mut owner = Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
    let output = format!("/proc/{}/fd/1", owner.id());
    // The child has its files only once it has become `cat`.
    wait_until("the child has become cat", || fs::read_link(&output).is_ok_and(|path| path.ends_with("all")));
    transfer(&bytes, |port| client_to(here.path(), port, &output)).assert_stored();
    owner.stdin.take().unwrap().write_all(b"after").unwrap();
    assert!(owner.wait().unwrap().success());
    assert_same(&fs::read(here.path().join("all")).unwrap(), &[&bytes[..], b"after"].concat(), "the file");
}

#[test]
fn a_memory_file_is_written_through_its_descriptor() {
    let (here, bytes) = (directory(), content(LARGE, 6));
    // Not closed on exec.
    let mut memory = fs::File::from(memfd_create("memory", MemfdFlags::empty()).unwrap());
    let output = format!("/dev/fd/{}", memory.as_raw_fd());
    transfer(&bytes, |port| client_to(here.path(), port, &output)).assert_stored();
    let mut seen = Vec::new();
    memory.rewind().unwrap();
    memory.read_to_end(&mut seen).unwrap();
    assert_same(&seen, &bytes, "the memory file");
    assert_eq!(names_in(here.path()), [""; 0]);
}

#[test]
fn a_descriptor_that_can_not_be_written_to_is_refused_before_connecting() {
    let here = directory_with_old();
    let reading = |port| in_shell("exec \"$@\" 3< destination.txt", &client_to(here.path(), port, "/dev/fd/3"));
    assert_refused("could not write /dev/fd/3: bad file descriptor", reading);
    let refusal = "could not write /dev/fd/99: no such file or directory";
    assert_refused(refusal, |port| client_to(here.path(), port, "/dev/fd/99"));
    assert_untouched(here.path());
}

/// Standard output may be a pipe or a socket whose other users want no waiting.
#[test]
fn a_non_blocking_standard_output_is_waited_for() {
    for output in ["-", "/dev/fd/1"] {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        fcntl_setfl(&reader, OFlags::empty()).unwrap();
        assert_arrives_behind_what_was_there(output, fs::File::from(writer), fs::File::from(reader));

        let (reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        assert_arrives_behind_what_was_there(output, writer, reader);
    }
}

/// The pipe or socket is full when the client starts.
fn assert_arrives_behind_what_was_there(output: &str, mut writer: impl Write + Into<OwnedFd>, mut reader: impl Read) {
    let mut full = 0;
    let error = loop {
        match writer.write(&[0; 1024]) {
            Ok(written) => full += written,
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(error, ErrorKind::WouldBlock);
    let (there, here, bytes) = (directory(), directory(), content(LARGE, 7));
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let server = Server::start(&mut file_server(there.path(), 0, &[]));
    let mut command = client_to(here.path(), server.port, output);
    let mut client = command.stdout(writer.into()).stderr(Stdio::null()).spawn().unwrap();
    // With its end of the pipe or socket.
    drop(command);
    let mut seen = vec![0; full + bytes.len()];
    let read = reader.read_exact(&mut seen);
    let status = client.wait().unwrap();
    assert!(status.success() && read.is_ok(), "{status}: {read:?}");
    assert_same(&seen[full..], &bytes, "standard output");
    assert_eq!(server.finish().status, 0);
}

/// It cannot be replaced.
#[test]
fn a_value_of_the_kernel_is_refused_before_connecting() {
    let here = directory();
    // Read-only in many containers.
    let reason_in = |directory| {
        let is_read_only = statvfs(directory).unwrap().f_flag.contains(StatVfsMountFlags::RDONLY);
        if is_read_only { "read-only file system" } else { "permission denied" }
    };
    for (output, reason) in [
        ("/proc/self/oom_score_adj", "operation not permitted"),
        ("/proc/sys/half-close", reason_in("/proc/sys")),
        ("/sys/half-close", reason_in("/sys")),
    ] {
        let refusal = format!("could not write {output}: {reason}");
        assert_refused(&refusal, |port| client_to(here.path(), port, output));
    }
}

/// It cannot be synced.
#[test]
fn standard_output_may_be_a_value_of_the_kernel() {
    let here = directory();
    let script = "value=/proc/$$/oom_score_adj; \"$@\" > $value && cat $value";
    // One byte, because each write sets the value.
    let outcome = transfer(b"9", |port| in_shell(script, &client_to(here.path(), port, "-")));
    outcome.assert_stored();
    assert_eq!(outcome.client.stdout(), "9\n");
}
