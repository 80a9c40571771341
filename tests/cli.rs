//! What is wrong with the arguments or with what they name is one line and an exit status, and changes nothing on the
//! disk; and what the programs print about themselves.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use common::network::HeldPort;
use common::{FILE_CLIENT, FILE_SERVER, Server, file_client, folder, is_root, names_in, run};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

const BOTH: [&str; 2] = [FILE_SERVER, FILE_CLIENT];

/// The user without any rights, by the number that it has on every system that matters.
const NOBODY: u32 = 65_534;

/// Where mistakes are made: an old `destination.txt` and an empty folder.
fn here() -> TempDir {
    let here = folder();
    fs::write(here.path().join("destination.txt"), "old").unwrap();
    fs::create_dir(here.path().join("folder")).unwrap();
    here
}

fn program(path: &str, here: &Path) -> Command {
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).current_dir(here);
    command
}

/// Everything that a mistake must leave alone.
fn state_of(here: &Path) -> (Vec<String>, Vec<String>, Vec<u8>, std::time::SystemTime) {
    let old = here.join("destination.txt");
    let modified = old.metadata().unwrap().modified().unwrap();
    (names_in(here), names_in(&here.join("folder")), fs::read(&old).unwrap(), modified)
}

#[track_caller]
fn fails_in(here: &TempDir, command: &mut Command, status: i32, line: &str) {
    let before = state_of(here.path());
    let finished = run(command);
    assert_eq!(finished.stderr(), format!("{line}\n"), "{command:?}");
    assert_eq!((finished.status, finished.stdout()), (status, String::new()), "{command:?}");
    assert_eq!(state_of(here.path()), before, "{command:?}");
}

#[track_caller]
fn server_fails(arguments: &[&str], status: i32, line: &str) {
    let here = here();
    fails_in(&here, program(FILE_SERVER, here.path()).args(arguments), status, &format!("file-server: {line}"));
}

#[track_caller]
fn client_fails(arguments: &[&str], status: i32, line: &str) {
    let here = here();
    fails_in(&here, program(FILE_CLIENT, here.path()).args(arguments), status, &format!("file-client: {line}"));
}

/// A wrong argument, and where to read on.
#[track_caller]
fn server_rejects(arguments: &[&str], line: &str) {
    server_fails(arguments, 2, &format!("{line}; for more information, try '--help'"));
}

#[track_caller]
fn client_rejects(arguments: &[&str], line: &str) {
    client_fails(arguments, 2, &format!("{line}; for more information, try '--help'"));
}

#[test]
fn missing_arguments_are_named() {
    server_rejects(&[], "the following required arguments were not provided: <PORT>");
    client_rejects(&[], "the following required arguments were not provided: <HOST>; <PORT>");
    client_rejects(&["localhost"], "the following required arguments were not provided: <PORT>");
    server_rejects(&["9190", "--file"], "a value is required for '--file <PATH>' but none was supplied");
    server_rejects(&["9190", "--file", ""], "a value is required for '--file <PATH>' but none was supplied");
    client_rejects(&["", "9190"], "a value is required for '<HOST>' but none was supplied");
}

#[test]
fn one_argument_too_many_is_named() {
    server_rejects(&["9190", "9191"], "unexpected argument '9191' found");
    client_rejects(&["localhost", "9190", "file.txt"], "unexpected argument 'file.txt' found");
}

#[test]
fn words_for_numbers_are_rejected() {
    let no_port = "not a port from 0 to 65535 (a file is named with --file)";
    server_rejects(&["words"], &format!("invalid value 'words' for '<PORT>': {no_port}"));
    client_rejects(&["localhost", "words"], "invalid value 'words' for '<PORT>': not a port from 1 to 65535");
    let no_size = "not a size such as 30, 64KiB or 1MiB";
    server_rejects(&["0", "-c", "words"], &format!("invalid value 'words' for '--chunk-size <SIZE>': {no_size}"));
    client_rejects(&["h", "1", "--size", "words"], &format!("invalid value 'words' for '--size <BYTES>': {no_size}"));
    server_rejects(&["0", "-n", "words"], "invalid value 'words' for '--clients <N>': not a number from 1 up");
    let no_duration = "not a duration such as 500ms, 60s or 1m30s";
    server_rejects(&["0", "-t", "words"], &format!("invalid value 'words' for '--timeout <DURATION>': {no_duration}"));
    client_rejects(
        &["h", "1", "-w", "words"],
        &format!("invalid value 'words' for '--wait <DURATION>': {no_duration}"),
    );
    let no_address = "not an IP address such as 192.168.1.20 or ::1";
    server_rejects(&["0", "-b", "words"], &format!("invalid value 'words' for '--bind <ADDRESS>': {no_address}"));
    let no_network = "not an address such as 192.168.1.20 or 10.0.0.0/8";
    server_rejects(
        &["0", "--allow", "w"],
        &format!("invalid value 'w' for '--allow <ADDRESS[/PREFIX]>': {no_network}"),
    );
    client_rejects(&["h", "1", "--sha256", "w"], "invalid value 'w' for '--sha256 <HEX>': not 64 hexadecimal digits");
}

#[test]
fn numbers_out_of_range_are_rejected() {
    let no_port = "not a port from 0 to 65535 (a file is named with --file)";
    server_rejects(&["70000"], &format!("invalid value '70000' for '<PORT>': {no_port}"));
    server_rejects(&["--", "-1"], &format!("invalid value '-1' for '<PORT>': {no_port}"));
    client_rejects(&["localhost", "70000"], "invalid value '70000' for '<PORT>': not a port from 1 to 65535");
    client_rejects(&["localhost", "0"], "invalid value '0' for '<PORT>': not a port from 1 to 65535");
    server_rejects(&["0", "-c", "0"], "invalid value '0' for '--chunk-size <SIZE>': not in 1..=16777216 bytes");
    server_rejects(&["0", "-c", "17MiB"], "invalid value '17MiB' for '--chunk-size <SIZE>': not in 1..=16777216 bytes");
    server_rejects(&["0", "-n", "0"], "invalid value '0' for '--clients <N>': not a number from 1 up");
    let no_duration = "not a duration such as 500ms, 60s or 1m30s";
    client_rejects(&["h", "1", "-w", "30x"], &format!("invalid value '30x' for '--wait <DURATION>': {no_duration}"));
}

#[test]
fn a_mistyped_option_gets_a_suggestion() {
    let similar =
        |wrong, right| format!("unexpected argument '{wrong}' found; tip: a similar argument exists: '{right}'");
    server_rejects(&["0", "--chunksize", "7"], &similar("--chunksize", "--chunk-size"));
    server_rejects(&["0", "--fle", "des.txt"], &similar("--fle", "--file"));
    client_rejects(&["h", "1", "--no-clober"], &similar("--no-clober", "--no-clobber"));
    client_rejects(&["h", "1", "--sise", "3"], &similar("--sise", "--size"));
}

#[test]
fn options_that_contradict_each_other_are_rejected() {
    let contradiction = "the argument '--clients <N>' cannot be used with '--keep-open'";
    server_rejects(&["0", "--clients", "2", "--keep-open"], contradiction);
    let only_one = "standard input can be sent to one client only";
    server_rejects(&["0", "--file", "-", "--clients", "2"], only_one);
    server_rejects(&["0", "--file", "-", "--keep-open"], only_one);
    let no_digest = "the SHA-256 of standard input is not known in advance";
    server_rejects(&["0", "--file", "-", "--sha256"], no_digest);
}

#[test]
fn a_missing_file_is_one_line_and_status_1() {
    server_fails(&["0"], 1, "could not open des.txt: no such file or directory");
    server_fails(&["0", "-f", "no/such.txt"], 1, "could not open no/such.txt: no such file or directory");
    server_fails(&["0", "-f", "destination.txt/x"], 1, "could not open destination.txt/x: not a directory");
}

#[test]
fn a_folder_for_a_file_is_one_line_and_status_1() {
    server_fails(&["0", "-f", "folder"], 1, "could not open folder: is a directory");
    client_fails(&["127.0.0.1", "1", "-o", "folder"], 1, "could not write folder: is a directory");
    client_fails(&["127.0.0.1", "1", "-o", "folder/"], 1, "could not write folder/: is a directory");
    client_fails(&["127.0.0.1", "1", "-o", "."], 1, "could not write .: is a directory");
}

#[test]
fn a_file_name_cannot_recolour_the_terminal() {
    let line = r"could not open \u{1b}[31mred\n: no such file or directory";
    server_fails(&["0", "-f", "\x1b[31mred\n"], 1, line);
}

#[test]
fn a_missing_output_folder_is_one_line_and_status_1() {
    client_fails(&["127.0.0.1", "1", "-o", "no/x"], 1, "could not write no/x: there is no folder no");
    client_fails(&["127.0.0.1", "1", "-o", "no/"], 1, "could not write no/: there is no such folder");
    let not_a_folder = "could not write destination.txt/x: not a directory";
    client_fails(&["127.0.0.1", "1", "-o", "destination.txt/x"], 1, not_a_folder);
}

#[test]
fn standard_output_that_can_not_be_written_is_one_line_and_status_1() {
    let here = here();
    let mut client = file_client(here.path(), 1, &["-o", "-"]);
    let status = client.stdout(fs::File::open("/dev/null").unwrap()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    let line = "file-client: could not write to standard output: bad file descriptor\n";
    assert_eq!(String::from_utf8_lossy(&status.stderr), line);
}

#[test]
fn a_quiet_server_tells_a_port_that_nobody_chose() {
    let here = here();
    let server =
        program(FILE_SERVER, here.path()).args(["-q", "-f", "destination.txt", "0"]).stderr(Stdio::piped()).spawn();
    let mut server = server.unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stderr.take().unwrap()), &mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.starts_with("listening on "), "{line}");
}

#[test]
fn an_output_link_that_leads_nowhere_is_one_line_and_status_1() {
    let here = here();
    symlink("loop", here.path().join("loop")).unwrap();
    symlink("no/such", here.path().join("broken")).unwrap();
    let mut client = file_client(here.path(), 1, &["-o", "loop"]);
    fails_in(&here, &mut client, 1, "file-client: could not write loop: too many levels of symbolic links");
    let mut client = file_client(here.path(), 1, &["-o", "broken"]);
    fails_in(&here, &mut client, 1, "file-client: could not write broken: there is no folder ./no");
}

#[test]
fn a_port_in_use_is_one_line_and_status_1() {
    let here = here();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut server = program(FILE_SERVER, here.path());
    server.args(["--file", "destination.txt", &port]);
    fails_in(&here, &mut server, 1, &format!("file-server: could not listen on port {port}: address already in use"));
    let line = format!("file-server: could not listen on 127.0.0.1:{port}: address already in use");
    fails_in(&here, server.args(["--bind", "127.0.0.1"]), 1, &line);
}

#[test]
fn an_address_of_another_machine_cannot_be_bound() {
    // Reserved for documentation (RFC 5737), so nobody's.
    let line = "could not listen on 192.0.2.1:0: cannot assign requested address";
    server_fails(&["--bind", "192.0.2.1", "0", "--file", "destination.txt"], 1, line);
}

#[test]
fn nobody_listening_is_one_line_and_status_1() {
    let (here, port) = (here(), HeldPort::new());
    for host in ["127.0.0.1", "localhost"] {
        let mut client = program(FILE_CLIENT, here.path());
        client.args([host, &port.number.to_string()]);
        let line = format!("file-client: could not connect to {host}:{}: connection refused", port.number);
        fails_in(&here, &mut client, 1, &line);
    }
}

#[test]
fn an_unknown_host_is_one_line_and_status_1() {
    let here = here();
    let before = state_of(here.path());
    // Never a host (RFC 6761); how its absence is put depends on the machine's resolver.
    let client = run(program(FILE_CLIENT, here.path()).args(["nowhere.invalid", "9190"]));
    assert_eq!((client.status, client.stderr().lines().count()), (1, 1), "{client:?}");
    assert!(client.stderr().starts_with("file-client: could not find host nowhere.invalid: "), "{client:?}");
    assert_eq!(state_of(here.path()), before);
}

#[test]
fn a_bad_output_does_not_use_up_the_waiting_server() {
    let (there, here) = (folder(), here());
    fs::write(there.path().join("des.txt"), "new").unwrap();
    let server = Server::start(there.path(), &[]);
    for output in ["folder", "no/x", "no/", "destination.txt/x", "/proc/x"] {
        let before = state_of(here.path());
        let client = run(&mut file_client(here.path(), server.port, &["--output", output]));
        assert_eq!((client.status, client.stderr().lines().count()), (1, 1), "{client:?}");
        assert_eq!(state_of(here.path()), before);
    }
    let client = run(&mut file_client(here.path(), server.port, &[]));
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"new");
}

/// A program run by somebody without rights in a folder that is open to all, for root may do anything.
fn without_rights(path: &str, here: &TempDir) -> Command {
    let mut command = program(path, here.path());
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(here.path(), Permissions::from_mode(0o777)).unwrap();
        // Nobody may not enter every folder that this project is built in.
        let copy = here.path().join("program");
        assert!(Command::new("cp").arg(path).arg(&copy).status().unwrap().success());
        command = program(copy.to_str().unwrap(), here.path());
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn a_file_that_may_not_be_read_is_one_line_and_status_1() {
    let here = here();
    let mut server = without_rights(FILE_SERVER, &here);
    fs::write(here.path().join("des.txt"), "secret").unwrap();
    fs::set_permissions(here.path().join("des.txt"), Permissions::from_mode(0o000)).unwrap();
    fails_in(&here, server.arg("0"), 1, "file-server: could not open des.txt: permission denied");
}

#[test]
fn an_output_that_may_not_be_written_is_one_line_and_status_1() {
    let here = here();
    let mut client = without_rights(FILE_CLIENT, &here);
    client.args(["127.0.0.1", "1"]);
    let line = "file-client: could not write destination.txt: permission denied";
    fs::set_permissions(here.path().join("destination.txt"), Permissions::from_mode(0o444)).unwrap();
    fails_in(&here, &mut client, 1, line);

    fs::set_permissions(here.path().join("destination.txt"), Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(here.path(), Permissions::from_mode(0o555)).unwrap();
    fails_in(&here, &mut client, 1, line);
    let line = "file-client: could not write new.txt: permission denied";
    fails_in(&here, client.args(["-o", "new.txt"]), 1, line);
    fs::set_permissions(here.path(), Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn a_port_for_the_privileged_is_one_line_and_status_1() {
    let unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if unprivileged.trim() != "1024" {
        return common::say_skipped("this machine lets everybody listen on every port");
    }
    let here = here();
    let mut server = without_rights(FILE_SERVER, &here);
    server.args(["--file", "destination.txt", "--bind", "127.0.0.1", "7"]);
    fails_in(&here, &mut server, 1, "file-server: could not listen on 127.0.0.1:7: permission denied");
}

#[test]
fn a_read_only_file_system_is_one_line_and_status_1() {
    if !is_root() {
        return;
    }
    let here = here();
    let mut client = program("unshare", here.path());
    // In a name space of its own, so that the mount ends with the process.
    let script = "mount -t tmpfs -o ro none folder && exec \"$0\" 127.0.0.1 1 --output folder/x";
    client.args(["--mount", "sh", "-c", script, FILE_CLIENT]);
    fails_in(&here, &mut client, 1, "file-client: could not write folder/x: read-only file system");
}

#[track_caller]
fn prints(path: &str, arguments: &[&str]) -> String {
    let here = folder();
    let printed = run(program(path, here.path()).args(arguments));
    assert_eq!((printed.status, &*printed.stderr()), (0, ""), "{arguments:?}");
    assert_eq!(names_in(here.path()), [""; 0]);
    printed.stdout()
}

#[test]
fn version_is_the_package_s() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(prints(FILE_SERVER, &["-V"]), format!("file-server {version}\n"));
    assert_eq!(prints(FILE_CLIENT, &["--version"]), format!("file-client {version}\n"));
}

#[test]
fn help_is_short_or_long_with_examples_and_exit_statuses() {
    for (path, usage) in
        [(FILE_SERVER, "file-server [OPTIONS] <PORT>"), (FILE_CLIENT, "file-client [OPTIONS] <HOST> <PORT>")]
    {
        let (short, long) = (prints(path, &["-h"]), prints(path, &["--help"]));
        for help in [&short, &long] {
            assert!(help.contains(&format!("\nUsage: {usage}\n")), "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
        assert!(!short.contains("Examples:") && short.len() < long.len(), "{short}");
        assert!(long.contains("\nExamples:\n") && long.contains("\nExit status:\n"), "{long}");
    }
}

#[test]
fn every_shell_gets_completions() {
    for path in BOTH {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = prints(path, &["--completions", shell]);
            let name = Path::new(path).file_name().unwrap().to_str().unwrap();
            assert!(script.contains(name) && script.contains("timeout"), "{name} for {shell}: {script}");
        }
    }
    let unknown = "invalid value 'csh' for '--completions <SHELL>'; \
        [possible values: bash, elvish, fish, powershell, zsh]; tip: a similar value exists: 'zsh'";
    client_rejects(&["--completions", "csh"], unknown);
}

#[test]
fn bash_understands_its_completions() {
    if !Path::new("/bin/bash").exists() {
        return common::say_skipped("there is no bash");
    }
    for path in BOTH {
        let (script, mut to_bash) = io::pipe().unwrap();
        let mut bash = program("/bin/bash", Path::new("/"));
        bash.args(["-c", "source /dev/stdin && complete -p \"$0\""]).arg(Path::new(path).file_name().unwrap());
        let bash = common::Running::start(bash.stdin(script));
        to_bash.write_all(prints(path, &["--completions", "bash"]).as_bytes()).unwrap();
        drop(to_bash);
        let bash = bash.finish();
        assert_eq!((bash.status, &*bash.stderr()), (0, ""), "{bash:?}");
    }
}

#[test]
fn the_manual_page_has_a_title_and_every_section() {
    for (path, name) in [(FILE_SERVER, "file-server"), (FILE_CLIENT, "file-client")] {
        let page = prints(path, &["--man"]);
        assert!(page.contains(&format!("\n.TH {name} 1")), "{page}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{page}");
        }
    }
}

#[test]
fn what_they_print_about_themselves_survives_a_closed_pipe() {
    for path in BOTH {
        for arguments in [&["-h"][..], &["--help"], &["-V"], &["--man"], &["--completions", "bash"]] {
            let (reader, writer) = io::pipe().unwrap();
            drop(reader);
            let printed = Command::new(path).args(arguments).stdin(Stdio::null()).stdout(writer).output().unwrap();
            assert!(printed.status.code().is_some_and(|status| status <= 1), "{arguments:?}: {printed:?}");
            assert_eq!(printed.stderr, b"", "{arguments:?}");
        }
    }
}

#[test]
fn what_they_print_about_themselves_tells_of_a_full_disk() {
    let Ok(full) = fs::File::create("/dev/full") else { return common::say_skipped("there is no /dev/full") };
    for argument in ["-h", "-V", "--man"] {
        let stdout = full.try_clone().unwrap();
        let printed = Command::new(FILE_CLIENT).arg(argument).stdin(Stdio::null()).stdout(stdout).output().unwrap();
        let line = "file-client: could not write to standard output: no space left on device\n";
        assert_eq!((printed.status.code(), &*String::from_utf8_lossy(&printed.stderr)), (Some(1), line));
    }
}

/// What poll(2) says of a pipe.
fn has_no_reader(writer: &io::PipeWriter) -> bool {
    let mut ends = [PollFd::new(writer, PollFlags::OUT)];
    rustix::event::poll(&mut ends, Some(&Timespec::default())).unwrap();
    ends[0].revents().contains(PollFlags::ERR)
}

#[test]
fn a_result_that_nobody_reads_fails_nothing() {
    let (there, here) = (folder(), folder());
    fs::write(there.path().join("des.txt"), "stored all the same").unwrap();
    let server = Server::start(there.path(), &[]);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    // Another test may be starting a program that has not let go of it yet.
    assert!(common::wait_until(|| has_no_reader(&writer)));
    let client = file_client(here.path(), server.port, &[]).stdout(writer).output().unwrap();
    let warning = "file-client: warning: could not write to standard output: broken pipe\n";
    assert_eq!((client.status.code(), &*String::from_utf8_lossy(&client.stderr)), (Some(0), warning));
    assert_eq!(server.finish().status, 0);
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), b"stored all the same");
}
