//! What a person sees on a terminal while a file is under way and when it has arrived, and what to type on the other
//! side.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use common::terminal::{Left, Terminal};
use common::{Running, Server, Signal, content, file_client, file_server, folder, installed, is_root, names_in, run};
use hex::encode as hex;
use sha2::{Digest as _, Sha256};

const MIB: u64 = 1024 * 1024;

/// More than the kernel holds between two programs, so that one that does not read holds up the other.
const LARGE: u64 = 32 * MIB;

const USUAL: (u16, u16) = (24, 80);

/// `des.txt` of so many bytes, without writing them.
fn offer(folder: &Path, bytes: u64) {
    File::create(folder.join("des.txt")).unwrap().set_len(bytes).unwrap();
}

fn server_on_terminal(folder: &Path, arguments: &[&str], size: (u16, u16)) -> Option<(Terminal, u16)> {
    let terminal = Terminal::start(&file_server(folder, arguments), size)?;
    let port = port_in(&wait_for_announcement(&terminal));
    Some((terminal, port))
}

/// All of it, before something else comes to the screen.
fn wait_for_announcement(terminal: &Terminal) -> Vec<String> {
    terminal.wait_for_lines(|lines| lines.len() == 5 && lines[4].ends_with("> destination.txt"))
}

fn port_in(announced: &[String]) -> u16 {
    announced[0].strip_prefix("listening on 127.0.0.1:").unwrap().parse().unwrap()
}

/// A client that takes what it is given only when it is told to.
struct SlowClient(TcpStream);

impl SlowClient {
    fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    fn name(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    fn read_some(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        self.0.read_exact(&mut buffer).unwrap();
    }

    fn read_to_end(&mut self) {
        self.0.read_to_end(&mut Vec::new()).unwrap();
    }

    fn thank(mut self) {
        self.read_to_end();
        self.0.write_all(b"Thank you\0").unwrap();
    }
}

/// A server that gives what it has only when it is told to.
struct SlowServer {
    connection: TcpStream,
    /// Bytes.
    sent: u64,
}

impl SlowServer {
    /// With `file-client` on a terminal at its other end.
    fn start(folder: &Path, arguments: &[&str], size: (u16, u16)) -> Option<(Self, Terminal)> {
        Self::start_for(|port| file_client(folder, port, arguments), size)
    }

    fn start_for(client: impl FnOnce(u16) -> Command, size: (u16, u16)) -> Option<(Self, Terminal)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let terminal = Terminal::start(&client(port), size)?;
        Some((Self { connection: listener.accept().unwrap().0, sent: 0 }, terminal))
    }

    fn write(&mut self, bytes: u64) {
        self.connection.write_all(&vec![b'x'; usize::try_from(bytes).unwrap()]).unwrap();
        self.sent += bytes;
    }

    fn half_close(mut self) {
        self.connection.shutdown(std::net::Shutdown::Write).unwrap();
        self.connection.read_to_end(&mut Vec::new()).unwrap();
    }
}

fn has_bar(line: &str) -> bool {
    ["  [", "] ", "% ", " of 32.0 MiB", "/s  ", "s left"].iter().all(|part| line.contains(part))
}

/// Two MiB and some bytes, of which one has moved not long ago.
fn is_moving(line: &str) -> bool {
    line.starts_with("destination.txt     2.0 MiB  ") && line.ends_with("/s")
}

/// `des.txt: 32.0 MiB in 0.52 s (61.5 MiB/s)`
fn is_summary(line: &str, beginning: &str) -> bool {
    line.starts_with(beginning) && line.contains(" in ") && line.contains(" s (") && line.ends_with("/s)")
}

fn assert_tidy(left: &Left) {
    assert!(!left.cursor_is_hidden);
    let in_the_way = |line: &&String| ["[=", "[>", "waiting for", " left"].iter().any(|part| line.contains(part));
    assert_eq!(left.lines.iter().find(in_the_way), None, "{:#?}", left.lines);
}

#[test]
fn a_server_shows_a_bar_then_waits_for_the_client_and_leaves_a_line() {
    let there = folder();
    offer(there.path(), LARGE);
    let Some((terminal, port)) = server_on_terminal(there.path(), &[], USUAL) else { return };
    let announced = wait_for_announcement(&terminal);
    let mut client = SlowClient::connect(port);
    let lines = terminal.wait_for_lines(|lines| {
        client.read_some();
        lines.last().is_some_and(|line| line.starts_with("des.txt  [") && has_bar(line))
    });
    assert_eq!(lines[..5], announced);
    assert_eq!(lines.len(), 6);

    client.read_to_end();
    terminal.wait_for_line("des.txt  32.0 MiB, waiting for the client to confirm");
    client.thank();
    let left = terminal.finish();
    assert_eq!(left.status, 0);
    assert_eq!(left.lines[..5], announced);
    assert!(is_summary(&left.lines[5], "des.txt: 32.0 MiB in "), "{:#?}", left.lines);
    assert_eq!(left.lines[6..], ["Message from client: Thank you"]);
    assert_tidy(&left);
}

#[test]
fn a_client_that_does_not_know_the_size_shows_bytes_and_rate() {
    let here = folder();
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &[], USUAL) else { return };
    terminal.wait_for_line("destination.txt         0 B  waiting");
    server.write(2 * MIB);
    terminal.wait_for_lines(|lines| {
        server.write(1);
        lines.len() == 1 && is_moving(&lines[0])
    });
    let bytes = server.sent;
    server.half_close();
    let left = terminal.finish();
    assert_eq!(left.status, 0);
    assert!(is_summary(&left.lines[0], "destination.txt: 2.0 MiB in "), "{:#?}", left.lines);
    assert_eq!(left.lines[1..], [format!("Received file data: {bytes} bytes in destination.txt")]);
    assert_tidy(&left);
}

#[test]
fn a_client_that_knows_the_size_shows_a_bar_and_the_time_left() {
    let here = folder();
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    let half = ["destination.txt  [====", "]  50%    16.0 MiB of 32.0 MiB  ", "/s  ", "s left"];
    terminal.wait_for_lines(|lines| {
        server.write(1);
        lines.len() == 1 && half.iter().all(|part| lines[0].contains(part))
    });
    server.write(LARGE - server.sent);
    server.half_close();
    let left = terminal.finish();
    assert_eq!((left.status, left.lines.len()), (0, 2), "{:#?}", left.lines);
    assert!(is_summary(&left.lines[0], "destination.txt: 32.0 MiB in "), "{:#?}", left.lines);
    assert_tidy(&left);
}

#[test]
fn a_terminal_with_less_room_still_shows_a_bar_and_the_bytes() {
    let here = folder();
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &["--size", "32MiB"], (24, 70)) else { return };
    server.write(LARGE / 2);
    let half = ["destination.txt  [====", "]  50%    16.0 MiB  ", "/s  ", "s left"];
    terminal.wait_for_lines(|lines| {
        server.write(1);
        lines.len() == 1 && half.iter().all(|part| lines[0].contains(part))
    });
}

#[test]
fn a_transfer_that_stalls_is_seen_to_stall() {
    let here = folder();
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &[], USUAL) else { return };
    server.write(MIB);
    terminal.wait_for_line("destination.txt     1.0 MiB  stalled");
    server.write(MIB);
    terminal.wait_for_lines(|lines| {
        server.write(1);
        lines.len() == 1 && is_moving(&lines[0])
    });
}

#[test]
fn a_transfer_that_fails_leaves_its_error_only() {
    let here = folder();
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    terminal.wait_for_line("destination.txt  [=");
    drop(server.connection.shutdown(std::net::Shutdown::Write));
    let left = terminal.finish();
    assert_eq!(left.status, 1);
    let error = "file-client: could not store destination.txt: 16777216 bytes arrived, 33554432 were expected";
    assert_eq!(left.lines.concat(), error);
    assert_tidy(&left);
}

#[test]
fn several_clients_have_a_line_each_below_the_results() {
    let there = folder();
    offer(there.path(), LARGE);
    let Some((terminal, port)) = server_on_terminal(there.path(), &["--clients", "3"], (24, 120)) else { return };
    let mut clients: Vec<_> = (0..3).map(|_| SlowClient::connect(port)).collect();
    let names: Vec<_> = clients.iter().map(SlowClient::name).collect();
    let shows_bar_of =
        |lines: &[String], name| lines.iter().any(|line| line.starts_with(&format!("{name}  [")) && has_bar(line));
    terminal.wait_for_lines(|lines| {
        clients.iter_mut().for_each(SlowClient::read_some);
        lines.len() == 8 && names.iter().all(|name| shows_bar_of(&lines[5..], name))
    });

    clients.remove(0).thank();
    let confirmed = format!("{}: sent 33554432 bytes of des.txt, confirmed: 32.0 MiB in ", names[0]);
    terminal.wait_for_lines(|lines| {
        clients.iter_mut().for_each(SlowClient::read_some);
        lines.len() == 9
            && is_summary(&lines[5], &confirmed)
            && lines[6] == "Message from client: Thank you"
            && names[1..].iter().all(|name| shows_bar_of(&lines[7..], name))
    });
    clients.into_iter().for_each(SlowClient::thank);

    let left = terminal.finish();
    assert_eq!((left.status, left.lines.len()), (0, 12), "{:#?}", left.lines);
    assert_eq!(left.lines.iter().filter(|line| *line == "Message from client: Thank you").count(), 3);
    assert_eq!(left.lines.iter().filter(|line| line.contains(" bytes of des.txt, confirmed: 32.0 MiB in ")).count(), 3);
    assert_eq!(left.lines[11], "clients: 3, 3 confirmed, 0 not confirmed, 0 failed");
    assert_tidy(&left);
}

#[test]
fn many_clients_are_some_lines_and_a_number() {
    let there = folder();
    offer(there.path(), LARGE);
    let Some((mut terminal, port)) = server_on_terminal(there.path(), &["--keep-open"], (24, 100)) else { return };
    let _clients: Vec<_> = (0..40).map(|_| SlowClient::connect(port)).collect();
    terminal.wait_for_lines(|lines| {
        lines.last().is_some_and(|line| line == "... and 32 more")
            && lines.iter().filter(|line| line.starts_with("127.0.0.1:")).count() == 8
    });
    terminal.type_in(b"\x03");
    let left = terminal.finish();
    assert_eq!((left.status, left.lines.len()), (130, 6), "{:#?}", left.lines);
    assert_eq!(left.lines[5], "clients: 40, 0 confirmed, 0 not confirmed, 0 failed, 40 interrupted");
    assert_tidy(&left);
}

#[test]
fn an_interrupt_takes_its_own_echo_and_the_progress_off_the_screen() {
    let (there, here) = (folder(), folder());
    offer(there.path(), LARGE);
    let Some((mut server, _)) = server_on_terminal(there.path(), &[], USUAL) else { return };
    server.type_in(b"\x03");
    let left = server.finish();
    assert_eq!((left.status, left.lines.len()), (130, 6), "{:#?}", left.lines);
    assert_eq!(left.lines[5], "file-server: interrupted before a client came");

    let Some((mut server, port)) = server_on_terminal(there.path(), &[], USUAL) else { return };
    let mut client = SlowClient::connect(port);
    server.wait_for_lines(|lines| {
        client.read_some();
        lines.last().is_some_and(|line| has_bar(line))
    });
    server.type_in(b"\x03");
    let left = server.finish();
    assert_eq!((left.status, left.lines.len()), (130, 6), "{:#?}", left.lines);
    assert_eq!(left.lines[5], "file-server: interrupted before the client confirmed");
    assert_tidy(&left);

    let Some((mut server, mut client)) = SlowServer::start(here.path(), &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    client.wait_for_line("destination.txt  [=");
    client.type_in(b"\x03");
    let left = client.finish();
    assert_eq!((left.status, left.lines.concat()), (130, "file-client: interrupted before the file was stored".into()));
    assert_tidy(&left);
}

/// The command as `nohup` leaves it: closing the window does not end it.
fn without_hang_up(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    shell
}

#[test]
fn a_terminal_that_is_closed_changes_nothing() {
    let (there, here) = (folder(), folder());
    offer(there.path(), LARGE);
    let server = without_hang_up(&file_server(there.path(), &["--clients", "2"]));
    let Some(mut server) = Terminal::start(&server, USUAL) else { return };
    let port = port_in(&wait_for_announcement(&server));
    let mut clients = [0, 1].map(|_| SlowClient::connect(port));
    server.wait_for_lines(|lines| {
        clients.iter_mut().for_each(SlowClient::read_some);
        lines.last().is_some_and(|line| line.contains("] "))
    });
    server.hang_up();
    clients.into_iter().for_each(SlowClient::thank);
    assert_eq!(server.status(), 0);

    let client = |port| without_hang_up(&file_client(here.path(), port, &[]));
    let Some((mut server, mut client)) = SlowServer::start_for(client, USUAL) else { return };
    server.write(LARGE / 2);
    client.wait_for_line("destination.txt    16.0 MiB");
    client.hang_up();
    server.write(LARGE / 2);
    server.half_close();
    assert_eq!(client.status(), 0);
    assert_eq!(fs::metadata(here.path().join("destination.txt")).unwrap().len(), LARGE);
}

#[test]
fn data_on_the_terminal_has_no_progress_in_between() {
    let here = folder();
    let Some((mut server, client)) = SlowServer::start(here.path(), &["--output", "-"], USUAL) else { return };
    server.connection.write_all(b"hello\n").unwrap();
    client.wait_for_line("hello");
    server.half_close();
    let left = client.finish();
    assert_eq!(
        (left.status, left.lines),
        (0, vec!["hello".into(), "Received file data: 6 bytes in standard output".into()])
    );
}

#[test]
fn a_digest_shows_its_progress_and_can_be_interrupted() {
    // Some seconds of work, with and without optimisation.
    const WORK: u64 = if cfg!(debug_assertions) { 256 * MIB } else { 8192 * MIB };
    let there = folder();
    offer(there.path(), WORK);
    let Some(mut terminal) = Terminal::start(&file_server(there.path(), &["--sha256"]), USUAL) else { return };
    let shows_progress =
        |line: &String| line.starts_with("SHA-256 of des.txt  ") && line.contains("% ") && line.contains("/s  ");
    terminal.wait_for_lines(|lines| lines.iter().any(shows_progress));
    terminal.type_in(b"\x03");
    let left = terminal.finish();
    assert_eq!((left.status, left.cursor_is_hidden), (130, false));
}

#[test]
fn a_narrow_terminal_has_one_row_for_a_transfer() {
    for (columns, shown) in [(40, "/s"), (20, "/s"), (10, "50%"), (4, "50%")] {
        let here = folder();
        let Some((mut server, terminal)) = SlowServer::start(here.path(), &["--size", "32MiB"], (10, columns)) else {
            return;
        };
        server.write(LARGE / 2);
        let lines = terminal.wait_for_lines(|lines| {
            server.write(1);
            lines.first().is_some_and(|line| line.contains("50") && line.contains(shown))
        });
        assert!(lines.len() <= 1, "{columns} columns: {lines:#?}");
        server.write(LARGE - server.sent);
        server.half_close();
        let left = terminal.finish();
        assert_eq!(left.status, 0);
        let text = left.lines.concat().replace(' ', "");
        assert!(columns < 10 || text.ends_with("Receivedfiledata:33554432bytesindestination.txt"), "{text}");
        assert_tidy(&left);
    }
}

#[test]
fn a_terminal_that_changes_its_size_keeps_one_row_for_a_transfer() {
    let here = folder();
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &["--size", "32MiB"], (50, 200)) else { return };
    server.write(LARGE / 2);
    let wait = |wanted: fn(&str) -> bool| {
        let lines = terminal.wait_for_lines(|lines| lines.first().is_some_and(|line| wanted(line)));
        assert_eq!(lines.len(), 1, "{lines:#?}");
    };
    wait(|line| line.contains("[=============================="));
    terminal.resize(24, 100);
    wait(|line| line.starts_with("destination.txt  [==") && line.ends_with("stalled"));
    terminal.resize(50, 200);
    wait(|line| line.contains("[=============================="));
}

#[test]
fn ctrl_c_ends_with_130_and_nothing_beside_the_file() {
    let (there, here) = (folder(), folder());
    offer(there.path(), LARGE);
    let Some((mut server, port)) = server_on_terminal(there.path(), &[], USUAL) else { return };
    let announced = wait_for_announcement(&server);
    let _client = SlowClient::connect(port);
    server.wait_for_line("des.txt  [");
    server.type_in(b"\x03");
    let left = server.finish();
    assert_eq!((left.status, left.cursor_is_hidden), (130, false));
    assert_eq!(left.lines[..5], announced);

    let Some((mut server, mut client)) = SlowServer::start(here.path(), &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    client.wait_for_line("destination.txt  [");
    client.type_in(b"\x03");
    let left = client.finish();
    assert_eq!((left.status, left.cursor_is_hidden), (130, false));
    assert!(names_in(here.path()).is_empty());
}

#[test]
fn quiet_means_results_and_errors_only() {
    let here = folder();
    let arguments = ["--quiet", "--size", "32MiB"];
    let Some((mut server, terminal)) = SlowServer::start(here.path(), &arguments, USUAL) else { return };
    server.write(LARGE);
    server.half_close();
    let left = terminal.finish();
    assert_eq!(left.status, 0);
    assert_eq!(left.written, b"Received file data: 33554432 bytes in destination.txt\r\n");
}

#[test]
fn no_colour_is_ever_used_and_a_dumb_terminal_gets_plain_lines() {
    for (key, value) in [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1"), ("TERM", "dumb")] {
        let there = folder();
        offer(there.path(), LARGE);
        let mut command = file_server(there.path(), &[]);
        let Some(terminal) = Terminal::start(command.env(key, value), USUAL) else { return };
        let mut client = SlowClient::connect(port_in(&wait_for_announcement(&terminal)));
        if value != "dumb" {
            terminal.wait_for_lines(|lines| {
                client.read_some();
                lines.last().is_some_and(|line| has_bar(line))
            });
        }
        client.thank();
        let left = terminal.finish();
        assert_eq!(left.lines.last().unwrap(), "Message from client: Thank you");
        let text = String::from_utf8(left.written).unwrap();
        let escapes: Vec<_> = text.split("\x1b[").skip(1).collect();
        assert!(escapes.iter().all(|rest| !rest.trim_start_matches(|c: char| !c.is_alphabetic()).starts_with('m')));
        assert!(value != "dumb" || !text.replace("\r\n", "").contains(char::is_control), "{text:?}");
    }
}

#[test]
fn a_pipe_gets_lines_without_a_control_character() {
    let (there, here) = (folder(), folder());
    offer(there.path(), LARGE);
    let server = Server::spawn(file_server(there.path(), &["--clients", "2"]).env("TERM", "xterm-256color"));
    let port = server.port;
    let client = run(file_client(here.path(), port, &["--size", "32MiB"]).env("TERM", "xterm-256color"));
    SlowClient::connect(port).thank();
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!(client.stderr(), "");
    assert_eq!(client.stdout(), "Received file data: 33554432 bytes in destination.txt\n");
    assert_eq!(server.stdout(), "Message from client: Thank you\n".repeat(2));
    let lines = server.stderr();
    assert!(!lines.replace('\n', "").contains(char::is_control), "{lines:?}");
    assert_eq!(lines.lines().count(), 8, "{lines}");
}

/// What `file-server` says until it has told what to type.
fn announcement(running: &mut Running, commands: usize) -> Vec<String> {
    let listening = running.wait_for_line("listening on ");
    let heading = running.wait_for_line("to fetch the file, type on the other machine:");
    assert_eq!(heading, "");
    let clients: Vec<_> =
        (0..commands).map(|_| format!("file-client {}", running.wait_for_line("  file-client "))).collect();
    let heading = running.wait_for_line("or, if there is no file-client, without confirmation:");
    assert_eq!(heading, "");
    let others = (0..commands).map(|_| format!("nc {}", running.wait_for_line("  nc ")));
    [vec![listening], clients, others.collect()].concat()
}

/// Types a command into a shell that finds `file-client`.
fn type_into_shell(command: &str, folder: &Path) -> Running {
    let programs = Path::new(env!("CARGO_BIN_EXE_file-client")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    Running::start(shell.args(["-c", command]).current_dir(folder).env("PATH", path).stdin(Stdio::null()))
}

#[test]
fn the_command_for_the_other_side_works_as_it_stands() {
    let (there, here) = (folder(), folder());
    let bytes = content(1000, 5);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    for sha256 in [false, true] {
        let arguments: &[&str] = if sha256 { &["--sha256"] } else { &[] };
        let mut server = Running::start(&mut file_server(there.path(), arguments));
        let said = announcement(&mut server, 1);
        let port = said[0].strip_prefix("127.0.0.1:").unwrap();
        let digest = if sha256 { format!(" --sha256 {}", hex(Sha256::digest(&bytes))) } else { String::new() };
        assert_eq!(said[1], format!("file-client 127.0.0.1 {port} --size 1000{digest}"));
        let client = type_into_shell(&said[1], here.path()).finish();
        assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
        assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), bytes);
    }
}

#[test]
fn the_command_for_the_other_side_keeps_the_name_of_the_file() {
    if installed("nc").is_none() {
        return;
    }
    let there = folder();
    let bytes = content(1000, 5);
    fs::write(there.path().join("it's two words.iso"), &bytes).unwrap();
    for (command, status) in [(1, 0), (2, 3)] {
        let here = folder();
        let mut server = Running::start(&mut file_server(there.path(), &["--file", "./it's two words.iso"]));
        let said = announcement(&mut server, 1);
        let client = type_into_shell(&said[command], here.path()).finish();
        assert_eq!((client.status, server.finish().status), (0, status), "{client:?}");
        assert_eq!(names_in(here.path()), ["it's two words.iso"]);
        assert_eq!(fs::read(here.path().join("it's two words.iso")).unwrap(), bytes);
    }
}

#[test]
fn the_command_with_nc_fetches_the_file_too() {
    if installed("nc").is_none() {
        return;
    }
    let (there, here) = (folder(), folder());
    let bytes = content(1_000_000, 6);
    fs::write(there.path().join("des.txt"), &bytes).unwrap();
    let mut server = Running::start(&mut file_server(there.path(), &[]));
    let said = announcement(&mut server, 1);
    let nc = type_into_shell(&said[2], here.path()).finish();
    let server = server.finish();
    assert_eq!((nc.status, server.status), (0, 3), "{nc:?} {server:?}");
    assert_eq!(fs::read(here.path().join("destination.txt")).unwrap(), bytes);
}

#[test]
fn the_size_of_a_stream_is_not_announced() {
    let there = folder();
    let mut command = file_server(there.path(), &["--file", "-"]);
    let mut server = Running::start(command.stdin(Stdio::piped()));
    let said = announcement(&mut server, 1);
    let port = said[0].strip_prefix("127.0.0.1:").unwrap();
    assert_eq!(said[1], format!("file-client 127.0.0.1 {port}"));
}

/// A network of its own, where a server that listens on `bind` tells what to type.
fn announced_in_network(setup: &str, bind: &[&str], commands: usize) -> Vec<String> {
    let there = folder();
    offer(there.path(), 7);
    let server = env!("CARGO_BIN_EXE_file-server");
    let script = format!("set -e; ip link set lo up; {setup} exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, server, "9190"]).args(bind).current_dir(there.path());
    let mut running = Running::start(command.stdin(Stdio::null()));
    let said = announcement(&mut running, commands);
    running.signal(Signal::INT);
    assert_eq!(running.finish().status, 130);
    said
}

#[test]
fn there_is_a_command_for_each_address_that_others_can_reach() {
    if !is_root() || installed("unshare").is_none() || installed("ip").is_none() {
        return;
    }
    let two_up_one_down = "\
        ip link add one type veth peer name two; ip link add off type veth peer name nobody; \
        ip address add 2001:db8::7/64 dev one nodad; ip address add 192.0.2.7/24 dev two; \
        ip address add 169.254.7.7/16 dev one; ip address add fe80::7/64 dev one nodad; \
        ip address add 198.51.100.7/24 dev one; ip address add 203.0.113.7/24 dev off; \
        ip link set one up; ip link set two up; \
        for end in one two; do until ip link show $end | grep -q 'state UP'; do sleep 0.01; done; done;";
    let commands = |said: Vec<String>| said[1..].to_vec();
    let command = |address: &&str| format!("file-client {address} 9190 --size 7");
    let nc = |address: &&str| format!("nc {address} 9190 < /dev/null > destination.txt");
    let expected = |addresses: &[&str]| {
        [addresses.iter().map(command).collect(), addresses.iter().map(nc).collect::<Vec<_>>()].concat()
    };

    let everywhere = announced_in_network(two_up_one_down, &[], 4);
    assert_eq!(everywhere[0], "[::]:9190");
    assert_eq!(commands(everywhere), expected(&["192.0.2.7", "198.51.100.7", "169.254.7.7", "2001:db8::7"]));
    let ipv4 = announced_in_network(two_up_one_down, &["--bind", "0.0.0.0"], 3);
    assert_eq!(commands(ipv4), expected(&["192.0.2.7", "198.51.100.7", "169.254.7.7"]));
    let one = announced_in_network(two_up_one_down, &["--bind", "2001:db8::7"], 1);
    assert_eq!(commands(one), expected(&["2001:db8::7"]));
    let alone = announced_in_network("", &[], 1);
    assert_eq!(commands(alone), expected(&["127.0.0.1"]));
}
