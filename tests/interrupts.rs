//! Signals to all programs of a pipeline, as Ctrl-C at a terminal sends them: the program that writes the stream dies of the
//! same signal, and its end must not look like the end of the stream.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::fixture::Fixture;
use common::messages::CLIENT_INTERRUPTED;
use common::network::wait_for_listener;
use common::processes::{children_of, in_shell, through};
use common::random::Random;
use common::requirements::skip_unless_required;
use common::terminal::Terminal;
use common::{Running, Server, Signal, installed, wait_until};
use procfs::process::Process;
use rustix::process::{Pid, kill_process_group};

const TRIES: usize = 50;
const AT_ONCE: usize = 4;

/// Never ends by itself.
const ENDLESS: &str = "yes 0123456789 | \"$@\"";

const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// `yes | file-server -f -`, all of it in a process group of its own.
fn pipeline(fixture: &Fixture) -> Command {
    let server = fixture.server_command(&["--file=-"]);
    let mut pipeline = in_shell(ENDLESS, &server);
    pipeline.process_group(0);
    pipeline
}

/// Nothing may be stored, whatever the moment.
fn assert_never_stored(is_encrypted: bool, start: impl Fn(&Fixture) -> Box<dyn Interruptible> + Sync) {
    let random = Random::seeded();
    let tries = AtomicUsize::new(0);
    let forks: Vec<_> = (0..AT_ONCE).scan(random, |random, _| Some(random.fork())).collect();
    thread::scope(|scope| {
        for mut random in forks {
            let (start, tries) = (&start, &tries);
            scope.spawn(move || {
                while tries.fetch_add(1, Ordering::Relaxed) < TRIES {
                    let fixture = Fixture::new("").with_old().in_mode(is_encrypted);
                    let mut server = start(&fixture);
                    wait_for_listener(fixture.port());
                    let client = fixture.client(fixture.port(), &[]);
                    wait_until_receiving(&client, &fixture);
                    // Not a wait for anything: the moment is random.
                    thread::sleep(Duration::from_micros(random.below(5_000)));
                    server.interrupt(random.one_of(&SIGNALS));
                    let client = client.finish();
                    assert!(!fixture.is_stored(), "half a stream was stored as a whole one: {client:?}");
                    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
                }
            });
        }
    });
}

/// Waits until the client has written bytes into a file of the destination directory.
fn wait_until_receiving(client: &Running, fixture: &Fixture) {
    let process = format!("/proc/{}", client.pid().as_raw_nonzero());
    let is_written = |descriptor: fs::DirEntry| {
        let is_new_file =
            fs::read_link(descriptor.path()).is_ok_and(|to| to.starts_with(fixture.destination_directory()));
        let information = Path::new(&process).join("fdinfo").join(descriptor.file_name());
        let information = fs::read_to_string(information).unwrap_or_default();
        is_new_file && !information.starts_with("pos:\t0\n")
    };
    wait_until("bytes in the client's file", || {
        fs::read_dir(Path::new(&process).join("fd")).into_iter().flatten().flatten().any(is_written)
    });
}

trait Interruptible {
    /// Sends the signal to the whole group.
    fn interrupt(&mut self, signal: Signal);
}

impl Interruptible for Server {
    fn interrupt(&mut self, signal: Signal) {
        let _ = kill_process_group(self.running.pid(), signal);
    }
}

impl Interruptible for Running {
    fn interrupt(&mut self, signal: Signal) {
        let _ = kill_process_group(self.pid(), signal);
    }
}

#[test]
fn an_interrupted_pipeline_is_never_stored_as_a_whole() {
    assert_never_stored(false, |fixture| Box::new(Server::start(&mut pipeline(fixture))));
}

#[test]
fn an_interrupted_pipeline_with_a_key_is_never_stored_as_a_whole() {
    assert_never_stored(true, |fixture| Box::new(Server::start(&mut pipeline(fixture))));
}

#[test]
fn a_pipeline_with_output_that_is_not_read_is_never_stored_as_a_whole() {
    assert_never_stored(false, |fixture| Box::new(Running::start_unread(&mut pipeline(fixture))));
}

/// The terminal's own Ctrl-C, or its end.
struct OnTerminal {
    terminal: Terminal,
    ends: bool,
}

impl Interruptible for OnTerminal {
    fn interrupt(&mut self, signal: Signal) {
        if signal == Signal::HUP && self.ends {
            self.terminal.hang_up();
        } else {
            self.terminal.type_in(b"\x03");
        }
    }
}

#[test]
fn a_pipeline_on_a_terminal_is_never_stored_as_a_whole() {
    assert_never_stored(false, |fixture| {
        let command = pipeline_of_terminal(fixture);
        let terminal = Terminal::start(&command, (24, 80)).unwrap();
        terminal.wait_for_line("listening on ");
        Box::new(OnTerminal { terminal, ends: true })
    });
}

#[test]
fn a_pipeline_on_a_stopped_terminal_is_never_stored_as_a_whole() {
    assert_never_stored(false, |fixture| {
        let command = pipeline_of_terminal(fixture);
        let mut terminal = Terminal::start(&command, (24, 80)).unwrap();
        terminal.wait_for_line("listening on ");
        // Ctrl-S.
        terminal.type_in(b"\x13");
        Box::new(OnTerminal { terminal, ends: false })
    });
}

/// The same; the terminal makes the process group.
fn pipeline_of_terminal(fixture: &Fixture) -> Command {
    in_shell(ENDLESS, &fixture.server_command(&["--file=-"]))
}

#[test]
fn an_interrupt_is_one_error_and_the_end_by_its_signal_though_the_reader_of_the_output_dies_too() {
    const SCRIPT: &str = "trap : INT TERM HUP; \"$@\" | sleep 600; echo ${PIPESTATUS[0]}";
    if installed("bash").is_none() || !shows_where_programs_wait() {
        return;
    }
    for signal in SIGNALS.repeat(8) {
        let fixture = Fixture::new("");
        let server = fixture.server(&["--file=/dev/zero"]);
        let client = fixture.client_command(server.port, &["--output=-"]);
        let shell = Running::start(through(&["bash", "-c", SCRIPT, "bash"], &client).process_group(0));
        // The pipe to a program that does not read is full.
        for (name, call) in [("sleep", "nanosleep"), ("file-client", "pipe_write")] {
            wait_until(&format!("{name} in {call}"), || waits_in(shell.pid(), name, call));
        }
        kill_process_group(shell.pid(), signal).unwrap();
        let shell = shell.finish();
        assert_eq!(shell.stdout(), format!("{}\n", 128 + signal.as_raw()), "{shell:?}");
        assert_eq!(shell.errors(), [CLIENT_INTERRUPTED], "{shell:?}");
    }
}

/// Whether `/proc/PID/wchan` names the call of a program that waits: not every kernel has it, or the names.
fn shows_where_programs_wait() -> bool {
    const LONG_ENOUGH: Duration = Duration::from_secs(20);
    let started = Instant::now();
    let mut waits = Command::new("sleep").arg("600").spawn().unwrap();
    let process = Process::new(waits.id().cast_signed()).unwrap();
    let mut is_shown = false;
    // It shows nothing while the program starts, either.
    while !is_shown && started.elapsed() < LONG_ENOUGH {
        thread::sleep(Duration::from_millis(1));
        is_shown = process.wchan().is_ok_and(|call| !matches!(&*call, "" | "0"));
    }
    waits.kill().unwrap();
    waits.wait().unwrap();
    if !is_shown {
        skip_unless_required("/proc/PID/wchan shows nothing");
    }
    is_shown
}

/// Whether a child with this name is waiting in a call of the kernel (`/proc/PID/wchan`, proc(5)).
fn waits_in(parent: Pid, name: &str, call: &str) -> bool {
    let is = |child: Pid, file: &str, wanted: &str| {
        let file = format!("/proc/{}/{file}", child.as_raw_nonzero());
        fs::read_to_string(file).is_ok_and(|found| found.contains(wanted))
    };
    children_of(parent).into_iter().any(|child| is(child, "comm", name) && is(child, "wchan", call))
}
