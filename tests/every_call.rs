#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]
#![cfg(target_os = "linux")]

mod common;

use common::model::{Guard, Role, Setup, Source};
use common::trace::{Replay, calls, traced};
use common::{Fixture, Running, Server, directory, run};
use std::fs;

#[test]
fn traces() {
    for (guard, is_encrypted) in [(Guard::Nothing, false), (Guard::Key, true)] {
        let setup = Setup { source: Source::File, guard, dials: Role::Receiver, has_relay: false, bug: None };
        let fixture = Fixture::of_size(200_000).with_old().in_mode(is_encrypted);
        let logs = directory();
        let [a, b] = ["server", "client"].map(|name| logs.path().join(name));
        let server = Server::start(&mut traced(&fixture.server_command(&[]), &a, None).unwrap());
        let client = run(&mut traced(&fixture.client_command(server.port, &[]), &b, None).unwrap());
        println!("{client:?} {:?}", server.finish());
        for (role, log) in [(Role::Sender, a), (Role::Receiver, b)] {
            let text = fs::read_to_string(log).unwrap();
            let calls = calls(&text);
            let source = fixture.source();
            let mut replay = Replay::new(setup, role, &source, fixture.destination_directory());
            let r = replay.follow(&calls);
            println!("{r:?} {} {:?} next {:?}", calls.len(), replay.taken, replay.next_steps());
        }
    }
}
