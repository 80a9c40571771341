//! Progress on screens as people use them: small ones, ones that change their size, shells with job control, both programs
//! on one terminal.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use common::fixture::Fixture;
use common::messages::{CONFIRMED, received};
use common::network::{Listener, connect, half_close};
use common::terminal::Terminal;
use common::{FILE_CLIENT, installed, program};

const MIB: usize = 1024 * 1024;

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";

/// A file of 32 MiB of which the client has got half.
struct HalfSent {
    connection: TcpStream,
    left: usize,
}

impl HalfSent {
    fn start(mut connection: TcpStream) -> Self {
        connection.write_all(&vec![b'x'; 16 * MIB]).unwrap();
        Self { connection, left: 16 * MIB }
    }

    fn send_byte(&mut self) {
        self.connection.write_all(b"x").unwrap();
        self.left -= 1;
    }

    fn finish(mut self) {
        self.connection.write_all(&vec![b'x'; self.left]).unwrap();
        half_close(&self.connection);
    }
}

/// The port in the arguments of `file-server --bind 127.0.0.1 PORT`.
fn port_in(server: &Command) -> String {
    server.get_args().nth(2).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn terminal_made_narrower_keeps_one_row_for_a_transfer() {
    let fixture = Fixture::new("");
    let listener = Listener::new();
    let command = fixture.client_command(listener.port(), &["--size", "32MiB"]);
    let Some(terminal) = Terminal::start(&command, (24, 100)) else { return };
    let mut server = HalfSent::start(listener.accept());
    terminal.wait_for_line("destination.txt  [==");
    terminal.resize(24, 40);
    terminal.wait_for_lines(|lines| {
        server.send_byte();
        lines.first().is_some_and(|line| line.starts_with("50% ") && line.ends_with("/s"))
    });
    // Some seconds of paintings.
    let lines = terminal.wait_for_lines(|lines| lines.first().is_some_and(|line| line.ends_with("stalled")));
    assert_eq!(lines, ["50% stalled"]);
    server.finish();
    let ended = terminal.finish();
    assert_eq!(ended.status, 0);
    // The summary and the result.
    assert_eq!(String::from_utf8(ended.written).unwrap().matches('\n').count(), 2, "{:#?}", ended.lines);
}

#[test]
fn transfers_that_have_no_row_on_a_low_terminal_are_counted() {
    let fixture = Fixture::sparse(32 * MIB as u64);
    let server = fixture.server_command(&["--keep-open"]);
    let Some(mut terminal) = Terminal::start(&server, (5, 100)) else { return };
    terminal.wait_for_lines(|lines| lines.last().is_some_and(|line| line.ends_with("> destination.txt")));
    let _clients: Vec<_> = (0..12).map(|_| connect(port_in(&server).parse().unwrap())).collect();
    terminal.wait_for_lines(|lines| {
        let shown = lines.iter().filter(|line| line.starts_with("127.0.0.1:")).count();
        shown == 3 && lines.last().is_some_and(|line| line == "... and 9 more")
    });
    terminal.type_in(CTRL_C);
    let ended = terminal.finish();
    let tally = "clients: 12, 0 confirmed, 0 not confirmed, 0 failed, 12 interrupted";
    assert_eq!((ended.status, ended.lines.last().map(String::as_str)), (130, Some(tally)));
    assert!(!ended.lines.iter().any(|line| line.contains("... and") || line.starts_with("127.0.0.1:")));
}

#[test]
fn job_in_the_background_prints_its_lines_and_no_progress() {
    if installed("bash").is_none() {
        return;
    }
    let fixture = Fixture::new("");
    let listener = Listener::new();
    let mut shell = program("bash", fixture.destination_directory(), &["--norc", "--noprofile", "-i"]);
    shell.env("PS1", "$ ").env("HISTFILE", "");
    let Some(mut terminal) = Terminal::start(&shell, (24, 80)) else { return };
    terminal.wait_for_line("$");
    let line = format!("{FILE_CLIENT} --size 32MiB 127.0.0.1 {}\n", listener.port());
    terminal.type_in(line.as_bytes());
    let mut server = HalfSent::start(listener.accept());
    terminal.wait_for_line("destination.txt  [==");
    terminal.type_in(CTRL_Z);
    terminal.wait_for_lines(|lines| lines.iter().any(|line| line.contains("Stopped")));
    // Several paintings' time, in which nothing but the shell prints.
    terminal.type_in(b"bg; sleep 1; echo in the'' background\n");
    terminal.wait_for_line("in the background");
    server.send_byte();
    terminal.type_in(b"fg\n");
    let shows_bar = |lines: &[String]| lines.last().is_some_and(|line| line.starts_with("destination.txt  [=="));
    let lines = terminal.wait_for_lines(|lines| {
        server.send_byte();
        shows_bar(lines)
    });
    let row = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    let between = &lines[row("Stopped") + 1..=row("in the background")];
    assert!(!between.iter().any(|line| line.contains("destination.txt  ")), "{lines:#?}");
    // What the shell printed when it continued is still there.
    assert!(lines[row("in the background")..].iter().any(|line| line.contains("fg")), "{lines:#?}");

    terminal.type_in(CTRL_Z);
    terminal.wait_for_lines(|lines| lines.iter().filter(|line| line.contains("Stopped")).count() == 2);
    terminal.type_in(b"bg; wait; exit\n");
    server.finish();
    let ended = terminal.finish();
    let result = received(32 * MIB, "destination.txt");
    assert!(ended.lines.iter().any(|line| line == result.trim_end()), "{:#?}", ended.lines);
}

/// How long the transfer took according to its line `des.txt: 1000 B in 0.52 s (1.9 KiB/s)`.
fn seconds(lines: &[String], name: &str) -> Option<f64> {
    let line = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": 1000 B in "))?;
    line.split(' ').next()?.parse().ok()
}

#[test]
fn short_transfer_between_both_programs_on_one_terminal_is_lines_only() {
    let mut checked = 0;
    for _ in 0..20 {
        let fixture = Fixture::of_size(1000);
        let server = fixture.server_command(&[]);
        let port = port_in(&server);
        let both = format!(
            "\"$@\" & {FILE_CLIENT} --wait 60s --output '{}' 127.0.0.1 {port}; wait",
            fixture.destination().display()
        );
        let Some(terminal) = Terminal::start(&common::processes::in_shell(&both, &server), (24, 200)) else { return };
        let ended = terminal.finish();
        assert_eq!(ended.status, 0);
        fixture.assert_replaced();
        let text = String::from_utf8(ended.written).unwrap();
        let has_line = |line: &str| ended.lines.iter().any(|shown| shown == line.trim_end());
        let destination = fixture.destination().display().to_string();
        if text.replace("\r\n", "").contains(char::is_control) {
            // Only a transfer that took longer, on a busy machine, is shown.
            let took = ["des.txt", &destination].map(|name| seconds(&ended.lines, name));
            assert!(took.iter().any(|seconds| seconds.is_none_or(|seconds| seconds > 0.25)), "{text:?}");
        } else {
            checked += 1;
            assert!(has_line(CONFIRMED) && has_line(&received(1000, &destination)), "{text}");
        }
    }
    if checked == 0 {
        common::report_skipped("this machine is too busy for a short transfer");
    }
}
