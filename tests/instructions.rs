//! What the server prints for the user of the other machine: one command that works as it is, for the address that is
//! most likely to be reachable.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::path::Path;

use common::files::assert_file;
use common::messages::EXISTS_NO_CLOBBER;
use common::processes::{after, in_shell, through};
use common::{
    FILE_CLIENT, FILE_SERVER, Finished, Fixture, Running, Signal, directory, has_ipv6, installed, is_root, names_in,
    program, run, sha256,
};

/// Returns the port, and the lines that the server prints after the first one up to that with nc.
fn instructions(running: &mut Running) -> (String, Vec<String>) {
    let listening = running.wait_for_line("listening on ");
    let mut lines: Vec<String> = Vec::new();
    while lines.last().is_none_or(|line| !line.starts_with("  nc ")) {
        lines.push(running.wait_for_line(""));
    }
    (listening.rsplit_once(':').unwrap().1.to_owned(), lines)
}

/// Runs a command in a shell that finds `file-client`.
fn run_in_shell(command: &str, directory: &Path) -> Finished {
    let programs = Path::new(FILE_CLIENT).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    run(program("sh", directory, &["-c", command]).env("PATH", path))
}

const HERE: &str = "to fetch the file, type on this machine:";
const THERE: &str = "to fetch the file, type on the other machine:";
const WITHOUT: &str = "or, if there is no file-client, without confirmation:";

#[test]
fn printed_commands_work_as_they_are_and_keep_the_name_of_the_file() {
    let fixture = Fixture::of_size(1000);
    for (file, stored, word) in [
        ("des.txt", "destination.txt", None),
        ("it's two words.iso", "it's two words.iso", Some("\"it's two words.iso\"")),
        ("-rf", "-rf", Some("./-rf")),
        ("-", "-", Some("./-")),
    ] {
        let source = fixture.source().with_file_name(file);
        if !source.exists() {
            fs::copy(fixture.source(), &source).unwrap();
        }
        let path = if file == "des.txt" { file.to_owned() } else { format!("./{file}") };
        for (command, status) in [(1, 0), (3, 3)] {
            if command == 3 && installed("nc").is_none() {
                continue;
            }
            let here = directory();
            let mut server = Running::start(&mut fixture.server_command(&["--file", &path]));
            let (port, lines) = instructions(&mut server);
            let output = word.map(|word| format!(" --output {word} --no-clobber")).unwrap_or_default();
            let client_line = format!("  file-client 127.0.0.1 {port} --size 1000{output}");
            let nc_line = format!("  nc 127.0.0.1 {port} < /dev/null > {}", word.unwrap_or("destination.txt"));
            assert_eq!(lines, [HERE, &client_line, WITHOUT, &nc_line]);
            let client = run_in_shell(&lines[command], here.path());
            assert_eq!((client.status, server.finish().status), (0, status), "{client:?}");
            assert_eq!(names_in(here.path()), [stored]);
            assert_file(&here.path().join(stored), fixture.bytes());
        }
    }
}

#[test]
fn printed_command_has_the_digest() {
    let fixture = Fixture::of_size(1000);
    let mut server = Running::start(&mut fixture.server_command(&["--sha256"]));
    let (port, lines) = instructions(&mut server);
    let digest = sha256(fixture.bytes());
    assert_eq!(lines[1], format!("  file-client 127.0.0.1 {port} --size 1000 --sha256 {digest}"));
    let client = run_in_shell(&lines[1], fixture.destination_directory());
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();
}

#[test]
fn empty_file_has_a_size_and_a_file_that_only_says_so_has_none() {
    let fixture = Fixture::new("");
    let mut server = Running::start(&mut fixture.server_command(&[]));
    let (port, lines) = instructions(&mut server);
    assert_eq!(lines[1], format!("  file-client 127.0.0.1 {port} --size 0"));
    let client = run_in_shell(&lines[1], fixture.destination_directory());
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    fixture.assert_replaced();

    let here = directory();
    let mut server = Running::start(&mut fixture.server_command(&["--file", "/proc/version"]));
    let (port, lines) = instructions(&mut server);
    assert_eq!(lines[1], format!("  file-client 127.0.0.1 {port} --output version --no-clobber"));
    let client = run_in_shell(&lines[1], here.path());
    assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
    assert_file(&here.path().join("version"), &fs::read("/proc/version").unwrap());
}

#[test]
fn receiver_chooses_where_a_stream_goes_and_without_a_choice_it_fills_no_terminal() {
    let fixture = Fixture::new("from a program");
    let redirected = in_shell("exec \"$@\" < des.txt", &fixture.server_command(&["--file", "-"]));
    let piped = |path| in_shell("cat des.txt | exec \"$@\"", &fixture.server_command(&["--file", path]));
    let written = fixture.server_command(&["--", "cat", "des.txt"]);
    for mut command in [redirected, piped("-"), piped("/dev/stdin"), piped("/dev/fd/0"), written] {
        let mut server = Running::start(&mut command);
        let (port, lines) = instructions(&mut server);
        let client_line = format!("  file-client 127.0.0.1 {port}");
        let nc_line = format!("  nc 127.0.0.1 {port} < /dev/null > destination.txt");
        let choice = "to fetch it, type on this machine (-o PATH names the file, -- COMMAND reads it):";
        let options = lines[1].strip_prefix(&client_line).unwrap();
        assert!(matches!(options, "" | " --size 14"), "{lines:?}");
        assert_eq!([&lines[0], &lines[2], &lines[3]], [choice, WITHOUT, &nc_line]);
        let here = directory();
        let client = run_in_shell(&format!("{} --output chosen", lines[1]), here.path());
        assert_eq!((client.status, server.finish().status), (0, 0), "{client:?}");
        assert_eq!(names_in(here.path()), ["chosen"]);
        assert_file(&here.path().join("chosen"), b"from a program");
    }
}

#[test]
fn printed_command_replaces_no_file_of_the_receiver_that_has_the_same_name() {
    let fixture = Fixture::of_size(1000);
    fs::copy(fixture.source(), fixture.source().with_file_name("photo.jpg")).unwrap();
    let here = directory();
    fs::write(here.path().join("photo.jpg"), "mine").unwrap();
    let mut server = Running::start(&mut fixture.server_command(&["--file", "photo.jpg"]));
    let (_, lines) = instructions(&mut server);
    let client = run_in_shell(&lines[1], here.path());
    assert_eq!(client.status, 1, "{client:?}");
    assert!(client.stderr().contains(EXISTS_NO_CLOBBER), "{client:?}");
    assert_file(&here.path().join("photo.jpg"), b"mine");
}

/// Returns the first line and the others of a server in a network of its own.
fn instructions_in_network(setup: &str, bind: &[&str]) -> (String, Vec<String>) {
    let fixture = Fixture::of_size(5);
    let mut server = program(FILE_SERVER, fixture.source_directory(), &["9190"]);
    let server = after(&format!("set -e; ip link set lo up; {setup} true"), server.args(bind));
    let mut running = Running::start(&mut through(&["unshare", "--net"], &server));
    let (_, lines) = instructions(&mut running);
    let finished = running.interrupt(Signal::INT);
    assert_eq!(finished.status, 130);
    (finished.stderr().lines().next().unwrap().to_owned(), lines)
}

fn can_make_networks() -> bool {
    is_root() && has_ipv6() && installed("unshare").is_some() && installed("ip").is_some()
}

/// Two ends of a cable, `one` and `two`, each a network card as far as anyone can tell.
const CABLE: &str = "ip link add one type veth peer name two; ip link set one up; ip link set two up; \
    for end in one two; do until ip link show $end | grep -q 'state UP'; do sleep 0.01; done; done;";

fn command(address: &str) -> String {
    format!("  file-client {address} 9190 --size 5")
}

fn nc(address: &str) -> String {
    format!("  nc {address} 9190 < /dev/null > destination.txt")
}

#[test]
fn address_of_the_default_route_is_in_the_command_and_others_follow() {
    if !can_make_networks() {
        return;
    }
    let setup = format!(
        "{CABLE} ip link add off type veth peer name peer; ip address add 192.0.2.9/24 dev off; \
        ip address add 192.0.2.7/24 dev two; ip address add 10.0.0.7/24 dev one; \
        ip address add 169.254.7.7/16 dev one; ip address add 2001:db8::7/64 dev two nodad; \
        ip address add fe80::7/64 dev one nodad; ip address add fd00::7/64 dev one nodad; \
        ip route add default via 10.0.0.1 dev one;"
    );
    let others = |others: &str| format!("other addresses of this machine: {others}");
    let (listening, lines) = instructions_in_network(&setup, &[]);
    assert_eq!(listening, "listening on [::]:9190");
    let at_most_four = others("192.0.2.7, 2001:db8::7, fd00::7");
    assert_eq!(lines, [THERE, &command("10.0.0.7"), &at_most_four, WITHOUT, &nc("10.0.0.7")]);

    let (listening, lines) = instructions_in_network(&setup, &["--bind", "0.0.0.0"]);
    assert_eq!(listening, "listening on 0.0.0.0:9190");
    let ipv4_only = others("192.0.2.7, 169.254.7.7");
    assert_eq!(lines, [THERE, &command("10.0.0.7"), &ipv4_only, WITHOUT, &nc("10.0.0.7")]);

    let (listening, lines) = instructions_in_network(&setup, &["--bind", "2001:db8::7"]);
    assert_eq!(listening, "listening on [2001:db8::7]:9190");
    assert_eq!(lines, [THERE, &command("2001:db8::7"), WITHOUT, &nc("2001:db8::7")]);
}

#[test]
fn interfaces_of_containers_are_left_out_unless_there_is_nothing_else() {
    if !can_make_networks() {
        return;
    }
    let bridges = "ip link add docker0 type veth peer name virbr0; ip link set docker0 up; ip link set virbr0 up; \
        for end in docker0 virbr0; do until ip link show $end | grep -q 'state UP'; do sleep 0.01; done; done; \
        ip address add 172.17.0.1/16 dev docker0;";
    let setup = format!("{CABLE} {bridges} ip address add 192.168.1.7/24 dev one;");
    let (_, lines) = instructions_in_network(&setup, &["--bind", "0.0.0.0"]);
    assert_eq!(lines, [THERE, &command("192.168.1.7"), WITHOUT, &nc("192.168.1.7")]);

    let (_, lines) = instructions_in_network(bridges, &["--bind", "0.0.0.0"]);
    assert_eq!(lines, [THERE, &command("172.17.0.1"), WITHOUT, &nc("172.17.0.1")]);
}

#[test]
fn without_a_network_the_file_is_fetched_on_this_machine() {
    if !can_make_networks() {
        return;
    }
    let (listening, lines) = instructions_in_network("", &[]);
    assert_eq!(listening, "listening on [::]:9190");
    assert_eq!(lines, [HERE, &command("127.0.0.1"), WITHOUT, &nc("127.0.0.1")]);
}

#[test]
fn link_local_address_needs_the_interface_of_the_other_machine() {
    if !can_make_networks() {
        return;
    }
    // The kernel's own ones would come as well, if it gives any.
    let setup = "ip link add one type veth peer name two; ip link set one addrgenmode none; \
        ip link set two addrgenmode none; ip link set one up; ip link set two up; \
        until ip link show one | grep -q 'state UP'; do sleep 0.01; done; ip address add fe80::7/64 dev one nodad;";
    let (_, lines) = instructions_in_network(setup, &[]);
    let address = "fe80::7%INTERFACE";
    assert_eq!(lines, [THERE, &command(address), WITHOUT, &nc(address)]);
}

#[test]
fn quiet_server_prints_only_a_port_that_the_kernel_picked() {
    let fixture = Fixture::of_size(5);
    let arguments = ["--quiet", "--bind", "127.0.0.1", "0"];
    let mut server = Running::start(&mut program(FILE_SERVER, fixture.source_directory(), &arguments));
    server.wait_for_line("listening on 127.0.0.1:");
    let server = server.interrupt(Signal::INT);
    assert_eq!(server.stderr().lines().count(), 2, "{server:?}");
    assert!(server.stderr().ends_with("interrupted before a client connected\n"), "{server:?}");
}
