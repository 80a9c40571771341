//! Thousands of transfers with a random fault each, and how many of them ended in each row of the table of outcomes.
//! A lie fails it: an exit status that says other than what is on the disk, half a file, litter, a panic. To start it:
//!
//! ```text
//! cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! `HALF_CLOSE_ROUNDS` (5000) is how many transfers; `HALF_CLOSE_SEED` repeats the choices of a run.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "this one is for reading")]

mod common;

use std::collections::BTreeMap;
use std::env;
use std::fs::OpenOptions;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::proxy::{Direction, Fault, Proxy, Trouble};
use common::scene::{DEADLY, Dice, Scene, end_waiting, overwrite_a_byte};
use common::{Running, Signal};

const AT_ONCE: usize = 8;

/// What is done to one transfer.
#[derive(Clone, Copy, Debug)]
enum Injury {
    Nothing,
    KillServer(Signal),
    KillClient(Signal),
    Change,
    Shrink,
    Grow,
    StopAndContinue,
    Network(Direction, Trouble),
}

const INJURIES: [Injury; 22] = [
    Injury::Nothing,
    Injury::KillServer(DEADLY[0]),
    Injury::KillServer(DEADLY[1]),
    Injury::KillServer(DEADLY[2]),
    Injury::KillClient(DEADLY[0]),
    Injury::KillClient(DEADLY[1]),
    Injury::KillClient(DEADLY[2]),
    Injury::KillServer(DEADLY[0]),
    Injury::KillClient(DEADLY[0]),
    Injury::Change,
    Injury::Shrink,
    Injury::Grow,
    Injury::StopAndContinue,
    Injury::Network(Direction::ToClient, Trouble::Reset),
    Injury::Network(Direction::ToClient, Trouble::Stall),
    Injury::Network(Direction::ToClient, Trouble::Drop),
    Injury::Network(Direction::ToClient, Trouble::Finish),
    Injury::Network(Direction::ToClient, Trouble::Trickle),
    Injury::Network(Direction::ToServer, Trouble::Stall),
    Injury::Network(Direction::ToServer, Trouble::Drop),
    Injury::Network(Direction::ToServer, Trouble::Finish),
    Injury::Network(Direction::ToServer, Trouble::Trickle),
];

#[test]
#[ignore = "takes minutes; see the header for how to start it"]
fn thousands_of_random_faults_and_no_lies() {
    let rounds: u64 = env::var("HALF_CLOSE_ROUNDS").map_or(5000, |rounds| rounds.parse().unwrap());
    let started = Instant::now();
    let mut dice = Dice::seeded();
    let (next, rows) = (AtomicU64::new(0), Mutex::new(BTreeMap::<_, u64>::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (mut dice, next, rows) = (dice.fork(), &next, &rows);
            scope.spawn(move || {
                while next.fetch_add(1, Ordering::Relaxed) < rounds {
                    let row = one(&mut dice);
                    *rows.lock().unwrap().entry(row).or_default() += 1;
                }
            });
        }
    });
    for ((what_happens, client, server, stored), count) in rows.into_inner().unwrap() {
        let destination = if stored { "the whole new file" } else { "as it was before" };
        println!("{count:>6}  {what_happens}: client {client}, {destination}, server {server}");
    }
    println!("{rounds} transfers in {:.0?}, zero lies", started.elapsed());
}

/// What happened, the exit statuses of client and server, and whether the file is stored.
type Row = (&'static str, i32, i32, bool);

fn one(dice: &mut Dice) -> Row {
    let scene = Scene::random(dice);
    let injury = dice.one_of(&INJURIES);
    let at = match injury {
        Injury::Network(Direction::ToServer, _) => dice.below(10),
        // A byte at a time takes its time.
        Injury::Network(_, Trouble::Trickle) => scene.size().saturating_sub(dice.below(10_000)),
        // Before its first byte the file may be anything.
        Injury::Change | Injury::Shrink | Injury::Grow => 1 + dice.below(scene.size()),
        _ => dice.below(scene.size() + 1),
    };
    let fault = match injury {
        Injury::Network(direction, trouble) => Some(Fault { direction, at, trouble }),
        Injury::Change | Injury::Shrink | Injury::Grow | Injury::StopAndContinue => {
            Some(Fault { direction: Direction::ToClient, at, trouble: Trouble::Stall })
        }
        Injury::Nothing | Injury::KillServer(_) | Injury::KillClient(_) => None,
    };
    let mut client_arguments = vec!["--timeout=1s"];
    let size = format!("--size={}", scene.size());
    // Nothing else can tell an end that comes too early from the true one.
    if dice.below(4) == 0 || matches!(injury, Injury::Network(_, Trouble::Finish)) {
        client_arguments.push(&size);
    }
    let mut method = dice.one_of(&["--chunk-size=30", "--chunk-size=64KiB", "--zero-copy"]);
    if matches!(injury, Injury::Change | Injury::Shrink | Injury::Grow) {
        // With zero copies a change can reach bytes that are under way: what --zero-copy gives up.
        method = "--chunk-size=30";
    }
    let _told = ToldOnPanic(format!("{injury:?} at {at} of {}, {method}, {client_arguments:?}", scene.size()));
    let server = scene.server(&["--timeout=1s", method]);
    let port = server.port;
    let proxy = Proxy::start(port, fault);
    let client = scene.client(if fault.is_some() { proxy.port } else { port }, &client_arguments);
    injure(injury, &scene, &server.running, &client, &proxy, dice);
    let client = client.finish();
    end_waiting(port);
    let server = server.finish();
    let stored = scene.assert_no_lie(&client, &server);
    (what_happens(injury, client.status, server.status), client.status, server.status, stored)
}

/// What was done, beside what came of it.
struct ToldOnPanic(String);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the fault was {}", self.0);
        }
    }
}

fn injure(injury: Injury, scene: &Scene, server: &Running, client: &Running, proxy: &Proxy, dice: &mut Dice) {
    // Not a wait for anything: this is the random moment.
    let moment = Duration::from_micros(dice.below(20_000));
    match injury {
        Injury::Nothing | Injury::Network(..) => {}
        Injury::KillServer(signal) => {
            thread::sleep(moment);
            server.signal(signal);
        }
        Injury::KillClient(signal) => {
            thread::sleep(moment);
            client.signal(signal);
        }
        Injury::Change | Injury::Shrink | Injury::Grow => {
            proxy.wait_until_reached();
            let source = OpenOptions::new().write(true).open(scene.source()).unwrap();
            match injury {
                Injury::Change => overwrite_a_byte(&scene.source()),
                Injury::Shrink => source.set_len(scene.size() / 2).unwrap(),
                _ => source.set_len(scene.size() + 1).unwrap(),
            }
            proxy.release();
        }
        Injury::StopAndContinue => {
            proxy.wait_until_reached();
            for signal in [Signal::STOP, Signal::CONT].repeat(20) {
                server.signal(signal);
                client.signal(signal);
            }
            proxy.release();
        }
    }
}

/// The row of the table of outcomes. What was done may have come too late, so the exit statuses come first.
fn what_happens(injury: Injury, client: i32, server: i32) -> &'static str {
    match (injury, client, server) {
        (_, 0, 0) => "all goes well",
        (_, 0, 3) => "all goes well, but the reply is lost or late",
        (_, 0, _) => "server dies after it has sent everything",
        (_, 3.., _) => "client dies or is interrupted",
        (Injury::Network(_, Trouble::Stall | Trouble::Drop), ..) => "network silently cut, or the other side stalls",
        (Injury::Network(..), ..) => "connection ends too early",
        _ => "server dies, or the file changes or shrinks while it is sent",
    }
}
