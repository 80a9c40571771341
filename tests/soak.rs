//! Thousands of transfers with a random fault each, and how many of them ended in each row of the table of outcomes.
//! Fails on an exit status that does not match what is on the disk, half a file, a leftover file, a panic. To start it:
//!
//! ```text
//! cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! `HALF_CLOSE_ROUNDS` (5000) is how many transfers; `HALF_CLOSE_SEED` repeats the choices of a run.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "prints a table")]

mod common;

use std::collections::BTreeMap;
use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::files::{open_for_writing, overwrite_first_byte};
use common::fixture::ENDING_SIGNALS;
use common::proxy::{Direction, Effect, Fault, Proxy};
use common::random::Random;
use common::{Fixture, Outcome, Running, Signal};

const AT_ONCE: usize = 8;

/// About as many bytes as a handshake takes in either direction.
const HANDSHAKE: u64 = 700;

/// What is done to one transfer.
#[derive(Clone, Copy, Debug)]
enum Injection {
    Nothing,
    KillServer(Signal),
    KillClient(Signal),
    Change,
    Shrink,
    Grow,
    StopAndContinue,
    Network(Direction, Effect),
}

const INJECTIONS: [Injection; 23] = [
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
    Injection::StopAndContinue,
    Injection::Network(Direction::ToClient, Effect::Reset),
    Injection::Network(Direction::ToClient, Effect::Stall),
    Injection::Network(Direction::ToClient, Effect::Drop),
    Injection::Network(Direction::ToClient, Effect::Fin),
    Injection::Network(Direction::ToClient, Effect::Trickle),
    Injection::Network(Direction::ToClient, Effect::ResetToFin),
    Injection::Network(Direction::ToServer, Effect::Stall),
    Injection::Network(Direction::ToServer, Effect::Drop),
    Injection::Network(Direction::ToServer, Effect::Fin),
    Injection::Network(Direction::ToServer, Effect::Trickle),
];

#[test]
#[ignore = "takes minutes; see the header for how to start it"]
fn random_faults_never_make_an_exit_status_false() {
    let rounds: u64 = env::var("HALF_CLOSE_ROUNDS").map_or(5000, |rounds| rounds.parse().unwrap());
    let started = Instant::now();
    let mut random = Random::seeded();
    let (next, rows) = (AtomicU64::new(0), Mutex::new(BTreeMap::<_, u64>::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (mut random, next, rows) = (random.fork(), &next, &rows);
            scope.spawn(move || {
                while next.fetch_add(1, Ordering::Relaxed) < rounds {
                    let row = transfer_one(&mut random);
                    *rows.lock().unwrap().entry(row).or_default() += 1;
                }
            });
        }
    });
    for ((what_happens, client, server, stored), count) in rows.into_inner().unwrap() {
        let destination = if stored { "the whole new file" } else { "as it was before" };
        println!("{count:>6}  {what_happens}: client {client}, {destination}, server {server}");
    }
    println!("{rounds} transfers in {:.0?}, every exit status true", started.elapsed());
}

/// What happened, the exit statuses of client and server, and whether the file is stored.
type Row = (&'static str, i32, i32, bool);

fn transfer_one(random: &mut Random) -> Row {
    let is_encrypted = random.below(2) == 0;
    let fixture = Fixture::random(random).in_mode(is_encrypted);
    let on_wire = fixture.size() + if is_encrypted { HANDSHAKE } else { 0 };
    let injection = random.one_of(&INJECTIONS);
    let at = match injection {
        Injection::Network(Direction::ToServer, _) => random.below(if is_encrypted { HANDSHAKE } else { 10 }),
        // One byte at a time is slow.
        Injection::Network(_, Effect::Trickle) => on_wire.saturating_sub(random.below(10_000)),
        // A file that changes before its first byte is sent is just another file.
        Injection::Change | Injection::Shrink | Injection::Grow => {
            1 + on_wire - fixture.size() + random.below(fixture.size())
        }
        _ => random.below(on_wire + 1),
    };
    let fault = match injection {
        Injection::Network(direction, effect) => Some(Fault { direction, at, effect }),
        Injection::Change | Injection::Shrink | Injection::Grow | Injection::StopAndContinue => {
            Some(Fault { direction: Direction::ToClient, at, effect: Effect::Stall })
        }
        Injection::Nothing | Injection::KillServer(_) | Injection::KillClient(_) => None,
    };
    let mut client_arguments = vec!["--timeout=1s"];
    let size = format!("--size={}", fixture.size());
    // Without a key only the size can tell an early FIN from the true one.
    let is_fin = matches!(injection, Injection::Network(_, Effect::Fin | Effect::ResetToFin));
    if random.below(4) == 0 || (is_fin && !is_encrypted) {
        client_arguments.push(&size);
    }
    let chunk_size = random.one_of(&["--chunk-size=30", "--chunk-size=64KiB"]);
    let _printed = PrintedOnPanic(format!(
        "{injection:?} at {at} of {}, encrypted: {is_encrypted}, {chunk_size}, {client_arguments:?}",
        fixture.size()
    ));
    let server = fixture.server(&["--timeout=1s", chunk_size]);
    let port = server.port;
    let proxy = Proxy::start(port, fault);
    let client = fixture.client(if fault.is_some() { proxy.port } else { port }, &client_arguments);
    inject(injection, &fixture, &server.running, &client, &proxy, random);
    let client = client.finish();
    fixture.use_up(port);
    let outcome = Outcome { client, server: server.finish() };
    let stored = fixture.assert_truthful(&outcome);
    let (client, server) = outcome.statuses();
    (what_happens(injection, client, server), client, server, stored)
}

/// Printed beside the message of a panic.
struct PrintedOnPanic(String);

impl Drop for PrintedOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the fault was {}", self.0);
        }
    }
}

fn inject(
    injection: Injection,
    fixture: &Fixture,
    server: &Running,
    client: &Running,
    proxy: &Proxy,
    random: &mut Random,
) {
    // Not a wait for anything: this is the random moment.
    let moment = Duration::from_micros(random.below(20_000));
    match injection {
        Injection::Nothing | Injection::Network(..) => {}
        Injection::KillServer(signal) => {
            thread::sleep(moment);
            server.signal(signal);
        }
        Injection::KillClient(signal) => {
            thread::sleep(moment);
            client.signal(signal);
        }
        Injection::Change | Injection::Shrink | Injection::Grow => {
            proxy.wait_until_reached();
            let source = open_for_writing(&fixture.source());
            match injection {
                Injection::Change => overwrite_first_byte(&fixture.source()),
                Injection::Shrink => source.set_len(fixture.size() / 2).unwrap(),
                _ => source.set_len(fixture.size() + 1).unwrap(),
            }
            proxy.release();
        }
        Injection::StopAndContinue => {
            proxy.wait_until_reached();
            for signal in [Signal::STOP, Signal::CONT].repeat(20) {
                server.signal(signal);
                client.signal(signal);
            }
            proxy.release();
        }
    }
}

/// The row of the table of outcomes. The injection may have come too late, so the exit statuses decide first.
fn what_happens(injection: Injection, client: i32, server: i32) -> &'static str {
    match (injection, client, server) {
        (_, 0, 0) => "all goes well",
        (_, 0, 3) => "all goes well, but the reply is lost or late",
        (_, 0, _) => "server dies after it has sent everything",
        (_, 3.., _) => "client dies or is interrupted",
        (Injection::Network(_, Effect::Stall | Effect::Drop), ..) => "network silently cut, or the other side stalls",
        (Injection::Network(..), ..) => "connection ends too early",
        _ => "server dies, or the file changes or shrinks while it is sent",
    }
}
