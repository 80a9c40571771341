//! What is on a terminal during a transfer and after it: progress bars, results, errors.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use common::fixture::Fixture;
use common::messages::{
    CLIENT_INTERRUPTED, CONFIRMED, assert_confirmations, confirmed_by, is_confirmation, received, too_short,
};
use common::network::{Listener, connect, fetch, half_close, read_all, thank};
use common::processes::{after, port_of};
use common::terminal::{Ended, Terminal};
use common::{Server, names_in, run};

const MIB: u64 = 1024 * 1024;

/// More than the kernel buffers between two programs, so that one that does not read blocks the other.
const LARGE: u64 = 32 * MIB;

/// Rows and columns.
const USUAL: (u16, u16) = (24, 80);

const CTRL_C: &[u8] = b"\x03";

fn server_on_terminal(fixture: &Fixture, arguments: &[&str], size: (u16, u16)) -> Option<(Terminal, u16)> {
    let terminal = Terminal::start(&fixture.server_command(arguments), size)?;
    let port = port_of(&wait_for_instructions(&terminal)[0]);
    Some((terminal, port))
}

/// Waits for the server's first five lines: its address and the commands for the other machine.
fn wait_for_instructions(terminal: &Terminal) -> Vec<String> {
    let is_complete = |lines: &[String]| lines.len() == 5 && lines[4].ends_with("> destination.txt");
    let lines = terminal.wait_for_lines(is_complete);
    assert!(lines[0].starts_with("listening on 127.0.0.1:"), "{lines:#?}");
    lines
}

/// A plain client that reads only when the test says so.
struct SlowClient(TcpStream);

impl SlowClient {
    fn connect(port: u16) -> Self {
        Self(connect(port))
    }

    fn name(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    fn read_some(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        self.0.read_exact(&mut buffer).unwrap();
    }

    fn read_to_end(&self) {
        read_all(&self.0);
    }

    fn finish(self) {
        self.read_to_end();
        thank(&self.0);
    }
}

/// A plain server that writes only when the test says so.
struct SlowServer {
    connection: TcpStream,
    /// Bytes.
    sent: u64,
}

impl SlowServer {
    /// Starts `file-client` on a terminal.
    fn start(fixture: &Fixture, arguments: &[&str], size: (u16, u16)) -> Option<(Self, Terminal)> {
        Self::start_for(|port| fixture.client_command(port, arguments), size)
    }

    fn start_for(client: impl FnOnce(u16) -> Command, size: (u16, u16)) -> Option<(Self, Terminal)> {
        let listener = Listener::new();
        let terminal = Terminal::start(&client(listener.port()), size)?;
        Some((Self { connection: listener.accept(), sent: 0 }, terminal))
    }

    fn write(&mut self, bytes: u64) {
        self.connection.write_all(&vec![b'x'; usize::try_from(bytes).unwrap()]).unwrap();
        self.sent += bytes;
    }

    fn half_close(self) {
        half_close(&self.connection);
    }
}

fn has_bar(line: &str) -> bool {
    ["  [", "] ", "% ", " of 32.0 MiB", "/s  ", "s left"].iter().all(|part| line.contains(part))
}

/// The line of two MiB and some bytes, of which one has moved not long ago.
fn is_moving(line: &str) -> bool {
    line.starts_with("destination.txt     2.0 MiB  ") && line.ends_with("/s")
}

/// `des.txt: 32.0 MiB in 0.52 s (61.5 MiB/s)`
fn is_summary(line: &str, beginning: &str) -> bool {
    line.starts_with(beginning) && line.contains(" in ") && line.contains(" s (") && line.ends_with("/s)")
}

/// No rest of a progress bar is on the screen.
fn assert_tidy(left: &Ended) {
    assert!(!left.cursor_is_hidden);
    let rest = |line: &&String| ["[=", "[>", "waiting for", " left"].iter().any(|part| line.contains(part));
    assert_eq!(left.lines.iter().find(rest), None, "{:#?}", left.lines);
}

#[test]
fn server_shows_a_bar_then_waits_for_the_client_and_leaves_a_line() {
    let fixture = Fixture::sparse(LARGE);
    let Some((terminal, port)) = server_on_terminal(&fixture, &[], USUAL) else { return };
    let instructions = wait_for_instructions(&terminal);
    let mut client = SlowClient::connect(port);
    let lines = terminal.wait_for_lines(|lines| {
        client.read_some();
        lines.last().is_some_and(|line| line.starts_with("des.txt  [") && has_bar(line))
    });
    assert_eq!(lines[..5], instructions);
    assert_eq!(lines.len(), 6);

    client.read_to_end();
    terminal.wait_for_line("des.txt  32.0 MiB, waiting for the client to confirm");
    client.finish();
    let left = terminal.finish();
    assert_eq!(left.status, 0);
    assert_eq!(left.lines[..5], instructions);
    assert!(is_summary(&left.lines[5], "des.txt: 32.0 MiB in "), "{:#?}", left.lines);
    assert_eq!(left.lines[6..], [CONFIRMED.trim_end()]);
    assert_tidy(&left);
}

#[test]
fn client_without_size_shows_bytes_and_rate() {
    let fixture = Fixture::new("");
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &[], USUAL) else { return };
    terminal.wait_for_line("destination.txt         0 B  ");
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
    assert_eq!(left.lines[1..], [received(usize::try_from(bytes).unwrap(), "destination.txt").trim_end()]);
    assert_tidy(&left);
}

#[test]
fn client_with_size_shows_a_bar_and_the_time_left() {
    let fixture = Fixture::new("");
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &["--size", "32MiB"], USUAL) else { return };
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
fn terminal_of_70_columns_still_shows_a_bar_and_the_bytes() {
    let fixture = Fixture::new("");
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &["--size", "32MiB"], (24, 70)) else { return };
    server.write(LARGE / 2);
    let half = ["destination.txt  [====", "]  50%    16.0 MiB  ", "/s  ", "s left"];
    terminal.wait_for_lines(|lines| {
        server.write(1);
        lines.len() == 1 && half.iter().all(|part| lines[0].contains(part))
    });
}

#[test]
fn stalled_transfer_is_shown_as_stalled() {
    let fixture = Fixture::new("");
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &[], USUAL) else { return };
    server.write(MIB);
    terminal.wait_for_line("destination.txt     1.0 MiB  stalled");
    server.write(MIB);
    terminal.wait_for_lines(|lines| {
        server.write(1);
        lines.len() == 1 && is_moving(&lines[0])
    });
}

#[test]
fn silent_other_side_is_shown_as_stalled_before_the_first_byte_and_after_the_last_one() {
    let fixture = Fixture::of_size(1000);
    let Some((_server, client)) = SlowServer::start(&fixture, &[], USUAL) else { return };
    client.wait_for_line("destination.txt         0 B  ");
    client.wait_for_output("nothing has arrived yet; ");
    client.wait_for_line("destination.txt         0 B  stalled");

    let Some((server, port)) = server_on_terminal(&fixture, &[], USUAL) else { return };
    let client = SlowClient::connect(port);
    client.read_to_end();
    server.wait_for_line("des.txt  1000 B, waiting for the client to confirm  stalled");
    client.finish();
    assert_eq!(server.finish().status, 0);
}

#[test]
fn name_that_is_cut_off_has_dots_that_the_locale_has() {
    let name = format!("{}.txt", "x".repeat(40));
    for (locale, dots) in [("C.UTF-8", "…"), ("POSIX", "...")] {
        let fixture = Fixture::new("");
        let listener = Listener::new();
        let mut command = fixture.client_command(listener.port(), &["--output", &name]);
        let Some(terminal) = Terminal::start(command.env("LC_ALL", locale), USUAL) else { return };
        let _server = listener.accept();
        let shown = terminal.wait_for_line(dots);
        assert!(shown.starts_with("xxx") && shown.contains("xxx.txt  "), "{shown}");
    }
}

#[test]
fn failed_transfer_leaves_only_its_error() {
    let fixture = Fixture::new("");
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    terminal.wait_for_line("destination.txt  [=");
    drop(server.connection.shutdown(std::net::Shutdown::Write));
    let left = terminal.finish();
    assert_eq!(left.status, 1);
    assert_eq!(left.lines.concat(), format!("file-client: {}", too_short(16_777_216, 33_554_432)));
    assert_tidy(&left);
}

#[test]
fn several_clients_have_a_line_each_below_the_results() {
    let fixture = Fixture::sparse(LARGE);
    let Some((terminal, port)) = server_on_terminal(&fixture, &["--clients", "3"], (24, 120)) else { return };
    let mut clients: Vec<_> = (0..3).map(|_| SlowClient::connect(port)).collect();
    let names: Vec<_> = clients.iter().map(SlowClient::name).collect();
    let shows_bar_of =
        |lines: &[String], name| lines.iter().any(|line| line.starts_with(&format!("{name}  [")) && has_bar(line));
    terminal.wait_for_lines(|lines| {
        clients.iter_mut().for_each(SlowClient::read_some);
        lines.len() == 8 && names.iter().all(|name| shows_bar_of(&lines[5..], name))
    });

    clients.remove(0).finish();
    let confirmed = format!("{}: sent 33554432 bytes of des.txt, confirmed: 32.0 MiB in ", names[0]);
    terminal.wait_for_lines(|lines| {
        clients.iter_mut().for_each(SlowClient::read_some);
        lines.len() == 9
            && is_summary(&lines[5], &confirmed)
            && lines[6] == confirmed_by(&names[0]).trim_end()
            && names[1..].iter().all(|name| shows_bar_of(&lines[7..], name))
    });
    clients.into_iter().for_each(SlowClient::finish);

    let left = terminal.finish();
    assert_eq!((left.status, left.lines.len()), (0, 12), "{:#?}", left.lines);
    assert_eq!(left.lines.iter().filter(|line| is_confirmation(line)).count(), 3);
    assert_eq!(left.lines.iter().filter(|line| line.contains(" bytes of des.txt, confirmed: 32.0 MiB in ")).count(), 3);
    assert_eq!(left.lines[11], "clients: 3, 3 confirmed, 0 not confirmed, 0 failed");
    assert_tidy(&left);
}

#[test]
fn many_clients_have_some_lines_and_a_count_of_the_rest() {
    let fixture = Fixture::sparse(LARGE);
    let Some((mut terminal, port)) = server_on_terminal(&fixture, &["--keep-open"], (24, 100)) else { return };
    let _clients: Vec<_> = (0..40).map(|_| SlowClient::connect(port)).collect();
    terminal.wait_for_lines(|lines| {
        lines.last().is_some_and(|line| line == "... and 32 more")
            && lines.iter().filter(|line| line.starts_with("127.0.0.1:")).count() == 8
    });
    terminal.type_in(CTRL_C);
    let left = terminal.finish();
    assert_eq!((left.status, left.lines.len()), (130, 6), "{:#?}", left.lines);
    assert_eq!(left.lines[5], "clients: 40, 0 confirmed, 0 not confirmed, 0 failed, 40 interrupted");
    assert_tidy(&left);
}

#[test]
fn interrupt_removes_its_echo_and_the_progress_from_the_screen() {
    let fixture = Fixture::sparse(LARGE);
    let Some((mut server, _)) = server_on_terminal(&fixture, &[], USUAL) else { return };
    server.type_in(CTRL_C);
    let left = server.finish();
    assert_eq!((left.status, left.lines.len()), (130, 6), "{:#?}", left.lines);
    assert_eq!(left.lines[5], "file-server: interrupted before a client connected");

    let Some((mut server, port)) = server_on_terminal(&fixture, &[], USUAL) else { return };
    let mut client = SlowClient::connect(port);
    server.wait_for_lines(|lines| {
        client.read_some();
        lines.last().is_some_and(|line| has_bar(line))
    });
    server.type_in(CTRL_C);
    let left = server.finish();
    assert_eq!((left.status, left.lines.len()), (130, 6), "{:#?}", left.lines);
    assert_eq!(left.lines[5], "file-server: interrupted before the client confirmed");
    assert_tidy(&left);

    let Some((mut server, mut client)) = SlowServer::start(&fixture, &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    client.wait_for_line("destination.txt  [=");
    client.type_in(CTRL_C);
    let left = client.finish();
    assert_eq!((left.status, left.lines.concat()), (130, CLIENT_INTERRUPTED.to_owned()));
    assert_tidy(&left);
}

/// The command with SIGHUP ignored, as under `nohup`: closing the window does not end it.
fn ignoring_hang_up(command: &Command) -> Command {
    after("trap '' HUP", command)
}

#[test]
fn closed_terminal_does_not_affect_the_transfer() {
    let fixture = Fixture::sparse(LARGE);
    let server = ignoring_hang_up(&fixture.server_command(&["--clients", "2"]));
    let Some(mut server) = Terminal::start(&server, USUAL) else { return };
    let port = port_of(&wait_for_instructions(&server)[0]);
    let mut clients = [0, 1].map(|_| SlowClient::connect(port));
    server.wait_for_lines(|lines| {
        clients.iter_mut().for_each(SlowClient::read_some);
        lines.last().is_some_and(|line| line.contains("] "))
    });
    server.hang_up();
    clients.into_iter().for_each(SlowClient::finish);
    assert_eq!(server.status(), 0);

    let client = |port| ignoring_hang_up(&fixture.client_command(port, &[]));
    let Some((mut server, mut client)) = SlowServer::start_for(client, USUAL) else { return };
    server.write(LARGE / 2);
    client.wait_for_line("destination.txt    16.0 MiB");
    client.hang_up();
    server.write(LARGE / 2);
    server.half_close();
    assert_eq!(client.status(), 0);
    assert_eq!(fs::metadata(fixture.destination()).unwrap().len(), LARGE);
}

/// A stranger's escape sequences would control it, and it would type the answers.
#[test]
fn a_terminal_is_refused_as_standard_output_before_connecting() {
    let fixture = Fixture::new("");
    for (output, name) in [("-", "standard output"), ("/dev/stdout", "standard output"), ("/dev/fd/1", "/dev/fd/1")] {
        let listener = Listener::new();
        let client = fixture.client_command(listener.port(), &["--output", output]);
        let Some(terminal) = Terminal::start(&client, (24, 200)) else { return };
        let left = terminal.finish();
        let reason = "it is a terminal; to store the bytes, use '--output FILE', or redirect or pipe them";
        let refusal = format!("file-client: could not write {name}: {reason}");
        assert_eq!((left.status, left.lines), (1, vec![refusal]));
        listener.assert_unused();
    }
}

#[test]
fn computing_a_digest_shows_progress_and_can_be_interrupted() {
    // Minutes of work on any machine.
    let fixture = Fixture::sparse(MIB * MIB);
    let Some(mut terminal) = Terminal::start(&fixture.server_command(&["--sha256"]), USUAL) else { return };
    let shows_progress =
        |line: &String| line.starts_with("SHA-256 of des.txt  ") && line.contains("% ") && line.contains("/s  ");
    terminal.wait_for_lines(|lines| lines.iter().any(shows_progress));
    terminal.type_in(CTRL_C);
    let left = terminal.finish();
    assert_eq!((left.status, left.cursor_is_hidden), (130, false));
}

#[test]
fn narrow_terminal_has_one_row_for_a_transfer() {
    for (columns, shown) in [(40, "/s"), (20, "/s"), (10, "50%"), (4, "50%")] {
        let fixture = Fixture::new("");
        let Some((mut server, terminal)) = SlowServer::start(&fixture, &["--size", "32MiB"], (10, columns)) else {
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
fn resized_terminal_keeps_one_row_for_a_transfer() {
    let fixture = Fixture::new("");
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &["--size", "32MiB"], (50, 200)) else { return };
    server.write(LARGE / 2);
    let wait_for_bar = |is_wanted: fn(&str) -> bool| {
        let lines = terminal.wait_for_lines(|lines| lines.first().is_some_and(|line| is_wanted(line)));
        assert_eq!(lines.len(), 1, "{lines:#?}");
    };
    wait_for_bar(|line| line.contains("[=============================="));
    terminal.resize(24, 100);
    wait_for_bar(|line| line.starts_with("destination.txt  [==") && line.ends_with("stalled"));
    terminal.resize(50, 200);
    wait_for_bar(|line| line.contains("[=============================="));
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_no_files() {
    let fixture = Fixture::sparse(LARGE);
    let Some((mut server, port)) = server_on_terminal(&fixture, &[], USUAL) else { return };
    let instructions = wait_for_instructions(&server);
    let _client = SlowClient::connect(port);
    server.wait_for_line("des.txt  [");
    server.type_in(CTRL_C);
    let left = server.finish();
    assert_eq!((left.status, left.cursor_is_hidden), (130, false));
    assert_eq!(left.lines[..5], instructions);

    let Some((mut server, mut client)) = SlowServer::start(&fixture, &["--size", "32MiB"], USUAL) else { return };
    server.write(LARGE / 2);
    client.wait_for_line("destination.txt  [");
    client.type_in(CTRL_C);
    let left = client.finish();
    assert_eq!((left.status, left.cursor_is_hidden), (130, false));
    assert!(names_in(fixture.destination_directory()).is_empty());
}

#[test]
fn quiet_prints_only_the_result() {
    let fixture = Fixture::new("");
    let arguments = ["--quiet", "--size", "32MiB"];
    let Some((mut server, terminal)) = SlowServer::start(&fixture, &arguments, USUAL) else { return };
    server.write(LARGE);
    server.half_close();
    let left = terminal.finish();
    assert_eq!(left.status, 0);
    assert_eq!(left.written, received(33_554_432, "destination.txt").replace('\n', "\r\n").as_bytes());
}

#[test]
fn no_colour_is_used_and_a_dumb_terminal_gets_plain_lines() {
    for (key, value) in [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1"), ("TERM", "dumb")] {
        let fixture = Fixture::sparse(LARGE);
        let mut command = fixture.server_command(&[]);
        let Some(terminal) = Terminal::start(command.env(key, value), USUAL) else { return };
        let mut client = SlowClient::connect(port_of(&wait_for_instructions(&terminal)[0]));
        if value != "dumb" {
            terminal.wait_for_lines(|lines| {
                client.read_some();
                lines.last().is_some_and(|line| has_bar(line))
            });
        }
        client.finish();
        let left = terminal.finish();
        assert_eq!(left.lines.last().unwrap(), CONFIRMED.trim_end());
        let text = String::from_utf8(left.written).unwrap();
        let escapes: Vec<_> = text.split("\x1b[").skip(1).collect();
        assert!(escapes.iter().all(|rest| !rest.trim_start_matches(|c: char| !c.is_alphabetic()).starts_with('m')));
        assert!(value != "dumb" || !text.replace("\r\n", "").contains(char::is_control), "{text:?}");
    }
}

#[test]
fn pipe_gets_lines_without_control_characters() {
    let fixture = Fixture::sparse(LARGE);
    let server = Server::start(fixture.server_command(&["--clients", "2"]).env("TERM", "xterm-256color"));
    let port = server.port;
    let client = run(fixture.client_command(port, &["--size", "32MiB"]).env("TERM", "xterm-256color"));
    fetch(port);
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert_eq!(client.stderr(), "");
    assert_eq!(client.stdout(), received(33_554_432, "destination.txt"));
    assert_confirmations(&server.stdout(), 2);
    let lines = server.stderr();
    assert!(!lines.replace('\n', "").contains(char::is_control), "{lines:?}");
    assert_eq!(lines.lines().count(), 8, "{lines}");
}
