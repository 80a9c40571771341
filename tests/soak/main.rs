//! Thousands of transfers with a random disturbance each, and how many of them ended in each row of the table of outcomes.
//! Fails on an exit status that does not match what is on the disk, half a file, a leftover file, a panic, and on a transfer
//! that fails although nothing was done that may harm one. To start it:
//!
//! ```text
//! cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! `HALF_CLOSE_ROUNDS` (10000) is how many transfers; `HALF_CLOSE_SEED` repeats the choices of a run. Half of the transfers
//! are from one file into another, with everything that can happen there; the other half is in `varied.rs`. In both,
//! one of seven destinations is on a slow disk, which does no harm by itself.
//! `HALF_CLOSE_SOAK=streams` does only those that send streams, `HALF_CLOSE_SOAK=varied` only those in `varied.rs`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "prints a table")]

#[path = "../common/mod.rs"]
mod common;

mod varied;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::process::{Pid, kill_process};

use common::disk::{Mounted, slow_disk};
use common::files::{assert_file, open_for_writing, overwrite_first_byte};
use common::fixture::ENDING_SIGNALS;
use common::network::wait_for_listener;
use common::proxy::{Direction, Effect, Fault, Proxy};
use common::random::Random;
use common::stranger::Stranger;
use common::terminal::Terminal;
use common::{Finished, Fixture, Outcome, Running, Server, Signal, content, directory, sha256, wait_until};

const AT_ONCE: usize = 8;

/// How many bytes each takes in a second. To sync the largest files takes more than a second, and longer while other
/// transfers do so.
const SLOW_DISKS: [u32; 2] = [3_000_000; 2];

/// About as many bytes as a handshake takes in either direction.
const HANDSHAKE: u64 = 700;

/// About as many bytes as the reply takes, or the end of the file with a key.
const END: u64 = 50;

/// What is done to one transfer.
#[derive(Clone, Copy, Debug)]
enum Injection {
    Nothing,
    KillServer(Signal),
    KillClient(Signal),
    Change,
    Shrink,
    Grow,
    Rename(Renaming),
    StopAndContinue,
    Network(Direction, Effect),
}

#[derive(Clone, Copy, Debug)]
enum Second {
    EndServer,
    EndClient,
}

/// What is done to the name of the source, or to its mode: never to its bytes.
#[derive(Clone, Copy, Debug)]
enum Renaming {
    Move,
    MoveToAndFro,
    Replace,
    Link,
    Remove,
    ChangeMode,
}

const INJECTIONS: [Injection; 31] = [
    Injection::Nothing,
    Injection::Nothing,
    Injection::KillServer(ENDING_SIGNALS[0]),
    Injection::KillServer(ENDING_SIGNALS[1]),
    Injection::KillServer(ENDING_SIGNALS[2]),
    Injection::KillClient(ENDING_SIGNALS[0]),
    Injection::KillClient(ENDING_SIGNALS[1]),
    Injection::KillClient(ENDING_SIGNALS[2]),
    Injection::KillServer(ENDING_SIGNALS[0]),
    Injection::KillClient(ENDING_SIGNALS[0]),
    Injection::Change,
    Injection::Shrink,
    Injection::Grow,
    Injection::Rename(Renaming::Move),
    Injection::Rename(Renaming::MoveToAndFro),
    Injection::Rename(Renaming::Replace),
    Injection::Rename(Renaming::Link),
    Injection::Rename(Renaming::Remove),
    Injection::Rename(Renaming::ChangeMode),
    Injection::StopAndContinue,
    Injection::Network(Direction::ToClient, Effect::Reset),
    Injection::Network(Direction::ToClient, Effect::Stall),
    Injection::Network(Direction::ToClient, Effect::Drop),
    Injection::Network(Direction::ToClient, Effect::Fin),
    Injection::Network(Direction::ToClient, Effect::Trickle),
    Injection::Network(Direction::ToClient, Effect::Flip(0)),
    Injection::Network(Direction::ToServer, Effect::Stall),
    Injection::Network(Direction::ToServer, Effect::Drop),
    Injection::Network(Direction::ToServer, Effect::Fin),
    Injection::Network(Direction::ToServer, Effect::Trickle),
    Injection::Network(Direction::ToServer, Effect::Flip(0)),
];

impl Injection {
    fn random(random: &mut Random) -> Self {
        match random.one_of(&INJECTIONS) {
            Self::Network(direction, Effect::Flip(_)) => {
                Self::Network(direction, Effect::Flip(u8::try_from(random.below(8)).unwrap()))
            }
            injection => injection,
        }
    }

    /// Whether the transfer must succeed all the same.
    fn is_harmless(self) -> bool {
        matches!(self, Self::Nothing | Self::Rename(_) | Self::StopAndContinue)
    }
}

/// Whether the output of a program is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Screen {
    Read,
    FullPipe,
    StoppedTerminal,
}

impl Screen {
    fn random(random: &mut Random) -> Self {
        match random.below(60) {
            0 => Self::FullPipe,
            1 => Self::StoppedTerminal,
            _ => Self::Read,
        }
    }
}

/// All that is chosen for one transfer.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice")]
struct Plan {
    is_encrypted: bool,
    is_on_slow_disk: bool,
    injection: Injection,
    /// When a side is ended by the injection, in microseconds.
    moment: u64,
    /// Another fault at a random moment, given in microseconds: a side is ended.
    second: Option<(Second, Signal, u64)>,
    /// What a proxy between the programs does, if there is one.
    fault: Option<Fault>,
    server_screen: Screen,
    client_screen: Screen,
    /// Whether output that was stopped is read before the programs end, or not at all.
    is_read_later: bool,
    strangers: Vec<Stranger>,
    has_second_client: bool,
    timeout: &'static str,
    server_arguments: Vec<&'static str>,
    client_arguments: Vec<String>,
}

impl Plan {
    fn random(fixture: &Fixture, is_encrypted: bool, is_on_slow_disk: bool, random: &mut Random) -> Self {
        let injection = Injection::random(random);
        let fault = fault(injection, fixture.size(), is_encrypted, random);
        let timeouts = match (injection.is_harmless(), is_on_slow_disk) {
            (true, _) => ["--timeout=30s"; 2],
            (false, true) => ["--timeout=1s", "--timeout=3s"],
            (false, false) => ["--timeout=1s"; 2],
        };
        let timeout = random.one_of(&timeouts);
        let strangers: Vec<_> = match random.below(6) {
            0 => (0..=random.below(8)).map(|_| Stranger::random(is_encrypted, random)).collect(),
            _ => Vec::new(),
        };
        let has_second_client = injection.is_harmless() && !strangers.is_empty() && random.below(2) == 0;
        let mut server_arguments = vec![timeout, random.one_of(&["--chunk-size=30", "--chunk-size=64KiB"])];
        for (is_given, argument) in [
            (random.below(4) == 0, "--sha256"),
            (has_second_client, "--clients=2"),
            (!strangers.is_empty(), "--allow=127.0.0.1"),
        ] {
            if is_given {
                server_arguments.push(argument);
            }
        }
        let side = random.one_of(&[Second::EndServer, Second::EndClient]);
        let second = (side, random.one_of(&ENDING_SIGNALS), moment(is_on_slow_disk, random));
        // What may do no harm must go well.
        let has_second = !injection.is_harmless() && random.below(5) > 0;
        Self {
            is_encrypted,
            is_on_slow_disk,
            injection,
            moment: moment(is_on_slow_disk, random),
            second: has_second.then_some(second),
            fault,
            server_screen: Screen::random(random),
            client_screen: Screen::random(random),
            is_read_later: random.below(2) == 0,
            has_second_client,
            strangers,
            timeout,
            server_arguments,
            client_arguments: client_arguments(fixture, fault, is_encrypted, random),
        }
    }

    /// Whether one of the programs is not read until its end, so that its errors are lost.
    fn loses_output(&self) -> bool {
        (self.server_screen, self.client_screen) != (Screen::Read, Screen::Read) && !self.is_read_later
    }
}

/// In microseconds. Most transfers take less than 20 ms, and those to a slow disk up to seconds.
fn moment(is_on_slow_disk: bool, random: &mut Random) -> u64 {
    let limits = if is_on_slow_disk { [20_000, 200_000, 1_000_000] } else { [20_000; 3] };
    let limit = random.one_of(&limits);
    random.below(limit)
}

fn fault(injection: Injection, size: u64, is_encrypted: bool, random: &mut Random) -> Option<Fault> {
    // What TLS adds, at least: 22 bytes to each 16 KiB.
    let on_wire = size + if is_encrypted { HANDSHAKE + size / (16 * 1024) * 22 } else { 0 };
    let at = match injection {
        Injection::Network(Direction::ToServer, _) => random.below(if is_encrypted { HANDSHAKE + END } else { 10 }),
        // One byte at a time is slow.
        Injection::Network(_, Effect::Trickle) => on_wire.saturating_sub(random.below(10_000)),
        // A file that changes before its first byte is sent is just another file.
        Injection::Change | Injection::Shrink | Injection::Grow => 1 + on_wire - size + random.below(size),
        _ if random.below(4) == 0 => (on_wire + END).saturating_sub(random.below(4 * END)),
        _ => random.below(on_wire + 1),
    };
    let to_client = |effect| Some(Fault { direction: Direction::ToClient, at, effect });
    // Over the bare wire nothing tells bytes of a file that changed, and a FIN that was a RST, from a file.
    let is_reset_hidden = random.below(3) == 0;
    match injection {
        Injection::Network(direction, effect) => Some(Fault { direction, at, effect }),
        Injection::Change | Injection::Shrink | Injection::Grow if is_reset_hidden && is_encrypted => {
            to_client(Effect::ResetToFin)
        }
        // Before the client connects.
        Injection::Rename(_) if random.below(4) == 0 => None,
        Injection::Change | Injection::Shrink | Injection::Grow | Injection::Rename(_) | Injection::StopAndContinue => {
            to_client(Effect::Stall)
        }
        Injection::KillServer(_) if is_reset_hidden => to_client(Effect::ResetToFin),
        Injection::KillClient(_) if is_reset_hidden => {
            Some(Fault { direction: Direction::ToServer, at: 0, effect: Effect::ResetToFin })
        }
        Injection::Nothing | Injection::KillServer(_) | Injection::KillClient(_) => None,
    }
}

fn client_arguments(fixture: &Fixture, fault: Option<Fault>, is_encrypted: bool, random: &mut Random) -> Vec<String> {
    let mut arguments = Vec::new();
    let effect = fault.map(|fault| fault.effect);
    // Without a key only the size can tell an early FIN from the true one, and only the digest a changed byte.
    let has_early_fin = matches!(effect, Some(Effect::Fin | Effect::ResetToFin)) && !is_encrypted;
    let has_changed_byte = matches!(effect, Some(Effect::Flip(_))) && !is_encrypted;
    // Without its size an empty file never replaces one that has bytes.
    let has_nothing = fixture.size() == 0 && !is_encrypted;
    if has_early_fin || has_nothing || random.below(4) == 0 {
        arguments.push(format!("--size={}", fixture.size()));
    }
    if has_changed_byte || random.below(8) == 0 {
        arguments.push(format!("--sha256={}", sha256(fixture.bytes())));
    }
    arguments
}

const CTRL_Q: &[u8] = b"\x11";
const CTRL_S: &[u8] = b"\x13";

/// Room for everything that a program prints.
const ROWS_AND_COLUMNS: (u16, u16) = (50, 500);

/// A program, whose output may be stopped.
enum Program {
    OnPipes(Running),
    OnTerminal(Terminal),
}

impl Program {
    fn start(command: &mut Command, screen: Screen) -> Self {
        match screen {
            Screen::Read => Self::OnPipes(Running::start(command)),
            Screen::FullPipe => Self::OnPipes(Running::start_unread(command)),
            Screen::StoppedTerminal => {
                let mut terminal = Terminal::start(command, ROWS_AND_COLUMNS).unwrap();
                terminal.type_in(CTRL_S);
                Self::OnTerminal(terminal)
            }
        }
    }

    /// Waits until the server listens.
    fn start_server(fixture: &Fixture, arguments: &[&str], screen: Screen) -> Self {
        let mut command = fixture.server_command(arguments);
        if screen == Screen::Read {
            return Self::OnPipes(Server::start(&mut command).running);
        }
        let server = Self::start(&mut command, screen);
        wait_for_listener(fixture.port());
        server
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    fn pid(&self) -> Pid {
        match self {
            Self::OnPipes(running) => running.pid(),
            Self::OnTerminal(terminal) => terminal.pid(),
        }
    }

    fn has_ended(&self) -> bool {
        let process = procfs::process::Process::new(self.pid().as_raw_nonzero().get());
        process.and_then(|process| process.stat()).map_or(true, |stat| stat.state == 'Z')
    }

    /// Lets stopped output go on.
    fn read_output(&mut self) {
        match self {
            Self::OnPipes(running) => running.read_output(),
            Self::OnTerminal(terminal) => terminal.type_in(CTRL_Q),
        }
    }

    fn finish(self) -> Finished {
        match self {
            Self::OnPipes(running) => running.finish(),
            Self::OnTerminal(terminal) => {
                let ended = terminal.finish();
                Finished { status: ended.status, stdout: Vec::new(), stderr: ended.lines.join("\n").into_bytes() }
            }
        }
    }
}

#[test]
#[ignore = "takes minutes; see the header for how to start it"]
fn random_faults_never_make_an_exit_status_false() {
    let rounds: u64 = env::var("HALF_CLOSE_ROUNDS").map_or(10_000, |rounds| rounds.parse().unwrap());
    let kind = env::var("HALF_CLOSE_SOAK").unwrap_or_default();
    let started = Instant::now();
    let mut random = Random::seeded();
    let disks: Vec<_> = SLOW_DISKS.into_iter().filter_map(slow_disk).collect();
    if disks.is_empty() {
        println!("no destination is on a slow disk: none can be made here");
    }
    let (next, table) = (AtomicU64::new(0), Mutex::new(Table::default()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (mut random, next, table, kind, disks) = (random.fork(), &next, &table, &kind, &disks[..]);
            scope.spawn(move || {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds {
                        break;
                    }
                    let is_encrypted = random.below(2) == 0;
                    let mut fixture = Fixture::random(&mut random).in_mode(is_encrypted);
                    let slow_disk = one_of_slow_disks(disks, &mut random);
                    let is_on_slow_disk = slow_disk.is_some();
                    if let Some(disk) = slow_disk {
                        fixture = fixture.stored_in(disk);
                    }
                    if !kind.is_empty() || random.below(2) == 0 {
                        let plan = varied::Plan::random(
                            &fixture,
                            is_encrypted,
                            is_on_slow_disk,
                            kind == "streams",
                            &mut random,
                        );
                        let _printed =
                            PrintedOnPanic(format!("of transfer {round}: {plan:?}, {} bytes", fixture.size()));
                        let row = varied::transfer(&fixture, &plan, &mut random);
                        table.lock().unwrap().count_kinds(is_encrypted, row, &plan.kinds());
                    } else {
                        let plan = Plan::random(&fixture, is_encrypted, is_on_slow_disk, &mut random);
                        let row = transfer_one(&fixture, &plan, &mut random);
                        table.lock().unwrap().count(&plan, row);
                    }
                }
            });
        }
    });
    table.into_inner().unwrap().print();
    println!("{rounds} transfers in {:.0?}, every exit status true", started.elapsed());
}

/// For one of seven transfers, if there are any.
fn one_of_slow_disks<'a>(disks: &'a [(Mounted, Mounted)], random: &mut Random) -> Option<&'a Path> {
    let chosen = random.below(7 * SLOW_DISKS.len() as u64);
    disks.get(usize::try_from(chosen).unwrap()).map(|(disk, _)| disk.path())
}

/// What happened, the exit statuses of client and server, and whether the file is stored.
type Row = (&'static str, i32, i32, bool);

/// Counts without and with a key.
#[derive(Default)]
struct Table {
    rows: BTreeMap<Row, [u64; 2]>,
    /// By what was done that may happen in any row.
    beside: BTreeMap<&'static str, [u64; 2]>,
}

impl Table {
    fn count_kinds(&mut self, is_encrypted: bool, row: Row, kinds: &[&'static str]) {
        let mode = usize::from(is_encrypted);
        self.rows.entry(row).or_default()[mode] += 1;
        for kind in kinds {
            self.beside.entry(kind).or_default()[mode] += 1;
        }
    }

    fn count(&mut self, plan: &Plan, row: Row) {
        let is_renamed = matches!(plan.injection, Injection::Rename(_));
        let is_relayed = matches!(plan.fault, Some(Fault { effect: Effect::ResetToFin, .. }));
        let has_flipped_bit = matches!(plan.fault, Some(Fault { effect: Effect::Flip(_), .. }));
        let is_stopped = (plan.server_screen, plan.client_screen) != (Screen::Read, Screen::Read);
        let kinds = [
            (is_renamed, "the source was moved, replaced, linked or removed, or its mode changed"),
            (is_relayed, "a relay turned RST into FIN"),
            (has_flipped_bit, "a bit was flipped"),
            (is_stopped, "the output of a program was stopped"),
            (!plan.strangers.is_empty(), "strangers connected"),
            (plan.is_on_slow_disk, "the destination was on a slow disk"),
            (plan.second.is_some(), "two faults"),
        ];
        let kinds: Vec<_> = kinds.into_iter().filter_map(|(is_so, what)| is_so.then_some(what)).collect();
        self.count_kinds(plan.is_encrypted, row, &kinds);
    }

    fn print(&self) {
        println!(" plain    key");
        for ((what_happens, client, server, stored), [plain, key]) in &self.rows {
            let destination = if *stored { "the whole new file" } else { "as it was before" };
            println!("{plain:>6} {key:>6}  {what_happens}: client {client}, {destination}, server {server}");
        }
        println!("of these:");
        for (what, [plain, key]) in &self.beside {
            println!("{plain:>6} {key:>6}  {what}");
        }
    }
}

fn transfer_one(fixture: &Fixture, plan: &Plan, random: &mut Random) -> Row {
    let _printed = PrintedOnPanic(format!("{plan:?}, {} bytes", fixture.size()));
    let outcome = thread::scope(|scope| {
        let server = Program::start_server(fixture, &plan.server_arguments, plan.server_screen);
        for stranger in &plan.strangers {
            scope.spawn(|| stranger.visit(fixture.port()));
        }
        run_clients(fixture, plan, server, random)
    });
    if is_reset_behind_the_end(plan, &outcome) && fixture.is_stored() {
        return ("the network sent a RST after the encrypted end of the file", outcome.client.status, 1, true);
    }
    let stored =
        if plan.loses_output() { fixture.assert_true_statuses(&outcome) } else { fixture.assert_truthful(&outcome) };
    if plan.injection.is_harmless() {
        assert_eq!(outcome.statuses(), (0, 0), "{outcome:?}");
    }
    if let Injection::Rename(_) = plan.injection {
        let printed = outcome.server.stderr();
        assert!(!["changed", "grew", "shorter", "written"].iter().any(|word| printed.contains(word)), "{printed}");
    }
    let (client, server) = outcome.statuses();
    (what_happens(plan.injection, client, server, stored), client, server, stored)
}

/// Whether the proxy's RST came after all bytes of the session and before the FIN. A client that has the encrypted end of
/// the file stores it; the server takes the RST for the client's, and has no way to know better ("Who sent a RST" in
/// docs/design.md).
fn is_reset_behind_the_end(plan: &Plan, outcome: &Outcome) -> bool {
    let is_reset = matches!(plan.injection, Injection::Network(Direction::ToClient, Effect::Reset));
    plan.is_encrypted && is_reset && outcome.client.status != 1 && outcome.server.status == 1
}

fn run_clients(fixture: &Fixture, plan: &Plan, mut server: Program, random: &mut Random) -> Outcome {
    let proxy = plan.fault.map(|fault| Proxy::start(fixture.port(), Some(fault)));
    let arguments: Vec<_> =
        [plan.timeout].into_iter().chain(plan.client_arguments.iter().map(String::as_str)).collect();
    let port = proxy.as_ref().map_or(fixture.port(), |proxy| proxy.port);
    let elsewhere = directory();
    let second_file = elsewhere.path().join("second");
    let second = plan.has_second_client.then(|| {
        let mut command = fixture.client_command(fixture.port(), &[plan.timeout, "--output"]);
        Running::start(command.arg(&second_file))
    });
    let mut client = Program::start(&mut fixture.client_command(port, &arguments), plan.client_screen);
    thread::scope(|scope| {
        if let Some((side, signal, moment)) = plan.second {
            let program = if let Second::EndServer = side { &server } else { &client };
            let process = program.pid();
            scope.spawn(move || {
                thread::sleep(Duration::from_micros(moment));
                let _ = kill_process(process, signal);
            });
        }
        inject(plan, fixture, &server, &client, proxy.as_ref(), random);
    });
    if plan.is_read_later {
        server.read_output();
        client.read_output();
    }
    let client = client.finish();
    if let Some(second) = second {
        let second = second.finish();
        assert_eq!(second.status, 0, "{second:?}");
        assert_file(&second_file, fixture.bytes());
    }
    fixture.use_up(fixture.port());
    Outcome { client, server: server.finish() }
}

/// Printed beside the message of a panic.
struct PrintedOnPanic(String);

impl Drop for PrintedOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the choices were {}", self.0);
        }
    }
}

fn inject(
    plan: &Plan,
    fixture: &Fixture,
    server: &Program,
    client: &Program,
    proxy: Option<&Proxy>,
    random: &mut Random,
) {
    // Not a wait for anything: this is the random moment.
    let moment = Duration::from_micros(plan.moment);
    match plan.injection {
        Injection::KillServer(signal) => {
            thread::sleep(moment);
            return server.signal(signal);
        }
        Injection::KillClient(signal) => {
            thread::sleep(moment);
            return client.signal(signal);
        }
        Injection::Nothing | Injection::Network(..) => return,
        _ => {}
    }
    let Some(proxy) = proxy else { return };
    // A client that was ended may never have connected.
    wait_until("the fault", || proxy.is_reached() || client.has_ended());
    let source = fixture.source();
    match plan.injection {
        Injection::Change => overwrite_first_byte(&source),
        Injection::Shrink => open_for_writing(&source).set_len(fixture.size() / 2).unwrap(),
        Injection::Grow => open_for_writing(&source).set_len(fixture.size() + 1).unwrap(),
        Injection::Rename(renaming) => rename(renaming, fixture, random),
        _ => {
            for signal in [Signal::STOP, Signal::CONT].repeat(20) {
                server.signal(signal);
                client.signal(signal);
            }
        }
    }
    proxy.release();
}

fn rename(renaming: Renaming, fixture: &Fixture, random: &mut Random) {
    let (source, other) = (fixture.source(), fixture.source_directory().join("other"));
    match renaming {
        Renaming::Move => fs::rename(source, other).unwrap(),
        Renaming::MoveToAndFro => {
            for _ in 0..10 {
                fs::rename(&source, &other).unwrap();
                thread::sleep(Duration::from_micros(random.below(1000)));
                fs::rename(&other, &source).unwrap();
            }
        }
        Renaming::Replace => {
            fs::write(&other, content(fixture.bytes().len(), 3)).unwrap();
            fs::rename(other, source).unwrap();
        }
        Renaming::Link => fs::hard_link(source, other).unwrap(),
        Renaming::Remove => fs::remove_file(source).unwrap(),
        Renaming::ChangeMode => fs::set_permissions(source, fs::Permissions::from_mode(0o600)).unwrap(),
    }
}

/// The row of the table of outcomes. The injection may have come too late, so the exit statuses decide first.
fn what_happens(injection: Injection, client: i32, server: i32, stored: bool) -> &'static str {
    match (injection, client, server) {
        (_, 0, 0) => "nothing went wrong",
        (_, 0, 3) => "the reply was lost, changed or late",
        (_, 0, _) => "the server was ended after it had sent everything",
        (_, 3.., _) if stored => "the client was killed after it had stored the file",
        (_, 3.., _) => "the client was killed or interrupted",
        (Injection::Network(_, Effect::Stall | Effect::Drop), ..) => "the network was cut, or the other side stalled",
        (Injection::Network(_, Effect::Flip(_)), ..) => "a bit was flipped",
        (Injection::Network(..), ..) => "the connection ended too early",
        _ => "the server was ended, or the file changed",
    }
}
