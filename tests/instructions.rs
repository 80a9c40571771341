//! What the server prints for the user of the other machine: the commands that fetch the file.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use common::files::assert_file;
use common::processes::{after, through};
use common::{
    FILE_CLIENT, FILE_SERVER, Finished, Fixture, Running, Signal, directory, installed, is_root, names_in, program,
    run, sha256,
};

/// Waits for the address and the commands of `file-client` and of `nc`, as many as there are addresses.
fn instructions(running: &mut Running, addresses: usize) -> Vec<String> {
    let listening = running.wait_for_line("listening on ");
    let heading = running.wait_for_line("to fetch the file, type on the other machine:");
    assert_eq!(heading, "");
    let clients: Vec<_> =
        (0..addresses).map(|_| format!("file-client {}", running.wait_for_line("  file-client "))).collect();
    let heading = running.wait_for_line("or, if there is no file-client, without confirmation:");
    assert_eq!(heading, "");
    let others = (0..addresses).map(|_| format!("nc {}", running.wait_for_line("  nc ")));
    [vec![listening], clients, others.collect()].concat()
}

/// Runs a command in a shell that finds `file-client`.
fn run_in_shell(command: &str, directory: &Path) -> Finished {
    let programs = Path::new(FILE_CLIENT).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    run(program("sh", directory, &["-c", command]).env("PATH", path))
}

#[test]
fn printed_command_works_as_it_is() {
    for has_digest in [false, true] {
        let fixture = Fixture::of_size(1000);
        let arguments: &[&str] = if has_digest { &["--sha256"] } else { &[] };
        let mut server = Running::start(&mut fixture.server_command(arguments));
        let printed = instructions(&mut server, 1);
        let port = printed[0].strip_prefix("127.0.0.1:").unwrap();
        let digest = if has_digest { format!(" --sha256 {}", sha256(fixture.bytes())) } else { String::new() };
        assert_eq!(printed[1], format!("file-client 127.0.0.1 {port} --size 1000{digest}"));
        let client = run_in_shell(&printed[1], fixture.destination_directory());
        assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
        fixture.assert_replaced();
    }
}

#[test]
fn printed_commands_keep_the_name_of_the_file() {
    if installed("nc").is_none() {
        return;
    }
    let fixture = Fixture::of_size(1000);
    fs::rename(fixture.source(), fixture.source().with_file_name("it's two words.iso")).unwrap();
    for (command, status) in [(1, 0), (2, 3)] {
        let here = directory();
        let mut server = Running::start(&mut fixture.server_command(&["--file", "./it's two words.iso"]));
        let printed = instructions(&mut server, 1);
        let client = run_in_shell(&printed[command], here.path());
        assert_eq!((client.status, server.finish().status), (0, status), "{client:?}");
        assert_eq!(names_in(here.path()), ["it's two words.iso"]);
        assert_file(&here.path().join("it's two words.iso"), fixture.bytes());
    }
}

#[test]
fn printed_command_with_nc_fetches_the_file() {
    if installed("nc").is_none() {
        return;
    }
    let fixture = Fixture::of_size(1_000_000);
    let mut server = Running::start(&mut fixture.server_command(&[]));
    let printed = instructions(&mut server, 1);
    let nc = run_in_shell(&printed[2], fixture.destination_directory());
    let server = server.finish();
    assert_eq!((nc.status, server.status), (0, 3), "{nc:?} {server:?}");
    fixture.assert_replaced();
}

#[test]
fn printed_command_for_a_stream_has_no_size() {
    let fixture = Fixture::new("");
    let mut command = fixture.server_command(&["--file", "-"]);
    let mut server = Running::start(command.stdin(Stdio::piped()));
    let printed = instructions(&mut server, 1);
    let port = printed[0].strip_prefix("127.0.0.1:").unwrap();
    assert_eq!(printed[1], format!("file-client 127.0.0.1 {port}"));
}

/// What a server in a network of its own prints.
fn instructions_in_network(setup: &str, bind: &[&str], addresses: usize) -> Vec<String> {
    let fixture = Fixture::of_size(7);
    let mut server = program(FILE_SERVER, fixture.source_directory(), &["9190"]);
    let server = after(&format!("set -e; ip link set lo up; {setup} true"), server.args(bind));
    let mut running = Running::start(&mut through(&["unshare", "--net"], &server));
    let printed = instructions(&mut running, addresses);
    assert_eq!(running.interrupt(Signal::INT).status, 130);
    printed
}

#[test]
fn each_address_that_other_machines_can_reach_has_a_command() {
    if !is_root() || installed("unshare").is_none() || installed("ip").is_none() {
        return;
    }
    let two_up_one_down = "\
        ip link add one type veth peer name two; ip link add off type veth peer name off-peer; \
        ip address add 2001:db8::7/64 dev one nodad; ip address add 192.0.2.7/24 dev two; \
        ip address add 169.254.7.7/16 dev one; ip address add fe80::7/64 dev one nodad; \
        ip address add 198.51.100.7/24 dev one; ip address add 203.0.113.7/24 dev off; \
        ip link set one up; ip link set two up; \
        for end in one two; do until ip link show $end | grep -q 'state UP'; do sleep 0.01; done; done;";
    let commands = |printed: Vec<String>| printed[1..].to_vec();
    let command = |address: &&str| format!("file-client {address} 9190 --size 7");
    let nc = |address: &&str| format!("nc {address} 9190 < /dev/null > destination.txt");
    let expected = |addresses: &[&str]| {
        [addresses.iter().map(command).collect(), addresses.iter().map(nc).collect::<Vec<_>>()].concat()
    };

    let everywhere = instructions_in_network(two_up_one_down, &[], 4);
    assert_eq!(everywhere[0], "[::]:9190");
    assert_eq!(commands(everywhere), expected(&["192.0.2.7", "198.51.100.7", "169.254.7.7", "2001:db8::7"]));
    let ipv4 = instructions_in_network(two_up_one_down, &["--bind", "0.0.0.0"], 3);
    assert_eq!(commands(ipv4), expected(&["192.0.2.7", "198.51.100.7", "169.254.7.7"]));
    let one = instructions_in_network(two_up_one_down, &["--bind", "2001:db8::7"], 1);
    assert_eq!(commands(one), expected(&["2001:db8::7"]));
    let alone = instructions_in_network("", &[], 1);
    assert_eq!(commands(alone), expected(&["127.0.0.1"]));
}
