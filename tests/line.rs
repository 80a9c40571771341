//! Two machines with a long line between them: delay, loss, an outage, a shrinking MTU; fetched and pushed, without and with
//! a key. Needs root, `/dev/net/tun` and python3 (`tests/peers/line.py`).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::fixture::{Dials, in_both_directions};
use common::processes::in_network;
use common::requirements::can_be_opened;
use common::{Fixture, Outcome, Running, installed, is_root, report_skipped};

/// What is fetched or pushed in the README's main job.
const SMALL: usize = 2116;

/// The two ends of a line, and the process that joins them; removed when dropped.
struct Line {
    relay: Child,
    control: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Line {
    /// `None` where there can be no line.
    fn new(settings: &[&str]) -> Option<Self> {
        static LINES: AtomicU32 = AtomicU32::new(0);
        if !is_root() || installed("ip").is_none() {
            return None;
        }
        let python = installed("python3")?;
        if !can_be_opened("/dev/net/tun") {
            report_skipped("this machine has no /dev/net/tun that can be opened");
            return None;
        }
        let name = format!("half-close-{}-line-{}", std::process::id(), LINES.fetch_add(1, Ordering::Relaxed));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/line.py");
        let mut relay = Command::new(python);
        relay.arg(script).arg(&name).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut relay = relay.spawn().unwrap();
        let (control, answers) = (relay.stdin.take(), BufReader::new(relay.stdout.take().unwrap()));
        let mut line = Self { relay, control, answers, name };
        line.read_answer();
        for setting in settings {
            line.set(setting);
        }
        Some(line)
    }

    /// Changes the line. Returns how many packets were too long for it so far.
    fn set(&mut self, setting: &str) -> u32 {
        writeln!(self.control.as_ref().unwrap(), "{setting}").unwrap();
        self.read_answer()
    }

    fn read_answer(&mut self) -> u32 {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().strip_prefix("ready ").unwrap().parse().unwrap()
    }

    /// The same command on one of the machines, with an address of this network: the first machine listens.
    fn on_machine(&self, number: u32, on_loopback: &Command) -> Command {
        in_network(&format!("{}-{number}", self.name), "10.0.0.1", on_loopback)
    }

    /// Runs both programs to their ends. Returns also how long the side took that dials.
    fn transfer(&self, dials: Dials, fixture: &Fixture, timeout: &str) -> (Outcome, Duration) {
        let (listener, dialler) = match dials {
            Dials::Client => {
                (fixture.server_command(&[timeout]), fixture.client_command(fixture.port(), &[timeout, "--wait=30s"]))
            }
            Dials::Server => (
                fixture.listening_client_command(&[timeout, "--allow=10.0.0.2"]),
                fixture.dialling_server_command(fixture.port(), &[timeout, "--wait=30s"]),
            ),
        };
        let mut listener = Running::start(&mut self.on_machine(1, &listener));
        listener.wait_for_line("listening on ");
        let started = Instant::now();
        let dialler = Running::start(&mut self.on_machine(2, &dialler)).finish();
        let took = started.elapsed();
        let listener = listener.finish();
        let (client, server) = if dials == Dials::Client { (dialler, listener) } else { (listener, dialler) };
        (Outcome { client, server }, took)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The end of what it reads.
        self.control = None;
        let _ = self.relay.wait();
    }
}

/// Each way, without and with a key, at the same time: they mostly wait.
fn each_way_and_mode(check: impl Fn(Dials, bool) + Sync) {
    thread::scope(|scope| {
        for (has_key, dials) in in_both_directions([false, true]) {
            let check = &check;
            scope.spawn(move || check(dials, has_key));
        }
    });
}

#[test]
fn a_small_file_takes_two_round_trips_and_three_with_a_key() {
    const ROUND_TRIP: Duration = Duration::from_millis(800);
    // A busy machine is slow: one of them must be as fast as the line.
    const TRIES: usize = 20;
    each_way_and_mode(|dials, has_key| {
        let Some(line) = Line::new(&["rtt 800"]) else { return };
        // What dials waits for the thanks. With a key a client that listens speaks first, half a round trip late.
        let most = match (dials, has_key) {
            (_, false) => 2.45,
            (Dials::Client, true) => 3.45,
            (Dials::Server, true) => 4.45,
        };
        let mut tries = Vec::new();
        while tries.iter().all(|&round_trips| round_trips > most) {
            assert!(tries.len() < TRIES, "{dials:?}, key: {has_key}: {tries:?} round trips, and not {most}");
            let fixture = Fixture::of_size(SMALL).in_mode(has_key);
            let (outcome, took) = line.transfer(dials, &fixture, "--timeout=30s");
            outcome.assert_statuses(0, 0);
            fixture.assert_replaced();
            tries.push(took.div_duration_f64(ROUND_TRIP));
        }
    });
}

#[test]
fn a_file_arrives_over_a_line_that_loses_packets() {
    each_way_and_mode(|dials, has_key| {
        let Some(line) = Line::new(&["rtt 80", "loss 3"]) else { return };
        let fixture = Fixture::of_size(300_000).with_old().in_mode(has_key);
        let (outcome, _) = line.transfer(dials, &fixture, "--timeout=60s");
        outcome.assert_statuses(0, 0);
        fixture.assert_replaced();
    });
}

#[test]
fn a_cable_that_is_out_for_less_than_the_timeout_only_delays() {
    each_way_and_mode(|dials, has_key| {
        let Some(line) = Line::new(&["rtt 20", "outage 100000 2"]) else { return };
        let fixture = Fixture::of_size(1_000_000).with_old().in_mode(has_key);
        let (outcome, took) = line.transfer(dials, &fixture, "--timeout=20s");
        outcome.assert_statuses(0, 0);
        assert!(took > Duration::from_secs(2), "{took:?}");
        fixture.assert_replaced();
    });
}

#[test]
fn a_cable_that_is_out_for_longer_than_the_timeout_fails_both_sides() {
    each_way_and_mode(|dials, has_key| {
        let Some(line) = Line::new(&["rtt 20", "outage 100000 3600"]) else { return };
        let fixture = Fixture::of_size(10_000_000).with_old().in_mode(has_key);
        let (outcome, _) = line.transfer(dials, &fixture, "--timeout=8s");
        assert!(!fixture.assert_truthful(&outcome), "{dials:?}");
        outcome.assert_statuses(1, 1);
    });
}

#[test]
fn an_mtu_that_shrinks_under_way_does_no_harm() {
    each_way_and_mode(|dials, has_key| {
        let Some(mut line) = Line::new(&["rtt 20", "mtu 100000 600"]) else { return };
        let fixture = Fixture::of_size(1_000_000).with_old().in_mode(has_key);
        let (outcome, _) = line.transfer(dials, &fixture, "--timeout=30s");
        outcome.assert_statuses(0, 0);
        assert!(line.set("loss 0") > 0);
        fixture.assert_replaced();
    });
}
