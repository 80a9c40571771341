//! `--until-stored`: only clients that have stored the file count.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::net::Shutdown;

use procfs::net::TcpState;

use common::fixture::Fixture;
use common::messages::{reply, tally};
use common::network::{connect, connections_of, read_all, reset};
use common::processes::{Signal, run};
use common::{Server, directory, wait_until};

/// Waits until the server has reported a client that has not stored the file, and returns the line without its address.
fn next_failure(server: &mut Server) -> String {
    let line = server.running.wait_for_line("file-server: 127.0.0.1:");
    line.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn a_probe_a_full_disk_and_an_interrupt_leave_the_server_there() {
    let fixture = Fixture::of_size(3_000_000);
    let mut server = fixture.server(&["--until-stored"]);

    // Before the server could send anything.
    server.running.while_stopped(|| {
        reset(connect(server.port));
        let is_gone = || connections_of(&server).iter().all(|connection| connection.state == TcpState::Listen);
        wait_until("the reset", is_gone);
    });
    assert_eq!(next_failure(&mut server), "connected and left without taking the file");

    let full = run(&mut fixture.client_command(server.port, &["--output=/dev/full"]));
    assert_eq!(full.status, 1, "{full:?}");
    next_failure(&mut server);

    // It has everything, and does not say that it has stored it.
    let silent = connect(server.port);
    assert_eq!(read_all(&silent), fixture.bytes());
    drop(silent);
    assert!(next_failure(&mut server).ends_with("the client closed the connection without a reply"));

    let client = run(&mut fixture.client_command(server.port, &[]));
    assert_eq!(client.status, 0, "{client:?}");
    fixture.assert_replaced();
    let server = server.finish();
    assert_eq!(server.status, 0, "{server:?}");
    assert_eq!(server.last_line(), tally(1, 1, 2));
}

#[test]
fn a_port_probe_that_says_goodbye_at_once_is_told_from_a_client_that_failed() {
    for size in [2116, 3_000_000] {
        let fixture = Fixture::of_size(size);
        let mut server = fixture.server(&["--until-stored"]);
        // As nc -z: connected, and closed before anything came.
        server.running.while_stopped(|| {
            connect(server.port).shutdown(Shutdown::Both).unwrap();
            let has_ended = || connections_of(&server).iter().any(|connection| connection.state == TcpState::CloseWait);
            wait_until("the end", has_ended);
        });
        assert_eq!(next_failure(&mut server), "connected and left without taking the file", "{size}");
        server.interrupt(Signal::TERM);
    }
}

#[test]
fn as_many_clients_as_wanted_have_to_store_it() {
    for key in [false, true] {
        let fixture = Fixture::of_size(100_000).in_mode(key);
        let server = fixture.server(&["--until-stored", "--clients=3"]);
        for _ in 0..2 {
            let elsewhere = directory();
            let mut client = fixture.client_command(server.port, &[]);
            assert_eq!(run(client.current_dir(elsewhere.path())).status, 0);
            let wrong = run(&mut fixture.client_command(server.port, &["--size=1"]));
            assert_eq!(wrong.status, 1);
        }
        let client = run(&mut fixture.client_command(server.port, &[]));
        assert_eq!(client.status, 0);
        let server = server.finish();
        assert_eq!(server.status, 0, "{server:?}");
        assert_eq!(server.stdout().lines().count(), 3);
        assert_eq!(server.last_line(), tally(3, 0, 2));
    }
}

#[test]
fn the_port_is_free_once_the_last_client_has_stored_it() {
    let fixture = Fixture::of_size(1000);
    let server = fixture.server(&["--until-stored"]);
    assert_eq!(run(&mut fixture.client_command(server.port, &[])).status, 0);
    let server = server.finish();
    assert_eq!(server.status, 0);
    assert!(server.stdout().ends_with("Thank you\n"), "{}", reply("Thank you"));
    let again = fixture.transfer(&[], &[]);
    again.assert_stored();
}

#[test]
fn standard_input_cannot_be_sent_again() {
    let fixture = Fixture::new("");
    let server = run(&mut fixture.server_command(&["--until-stored", "--file=-"]));
    assert_eq!((server.status, server.errors().len()), (2, 1), "{server:?}");
}
