//! Reaching a server: names with several addresses, hosts that do not answer or come up late, relays without a server
//! behind them, and addresses with an interface.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::fixture::KEY;
use common::messages::received;
use common::network::{Listener, ReservedPort, SilentPort, half_close, reset};
use common::processes::{in_shell, program, through};
use common::requirements::skip_unless_required;
use common::terminal::Terminal;
use common::trace::{Injection, traced};
use common::{
    FILE_CLIENT, FILE_SERVER, Fixture, Running, Server, Signal, has_ipv6, installed, is_root, run, strace, wait_until,
};

/// Several times what a wait that is bounded takes, and a part of what one that is not would.
const BOUND: Duration = Duration::from_secs(30);

/// A machine of its own, whose loopback interface is up; removed when dropped.
struct Machine(String);

impl Machine {
    /// `None` where networks cannot be created.
    fn new() -> Option<Self> {
        static MACHINES: AtomicU32 = AtomicU32::new(0);
        if !is_root() || installed("ip").is_none() {
            return None;
        }
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let machine = Self(format!("half-close-connecting-{}-{number}", std::process::id()));
        ip(&["netns", "add", &machine.0]);
        ip(&["-netns", &machine.0, "link", "set", "lo", "up"]);
        Some(machine)
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-netns", &self.0], arguments].concat());
    }

    /// A link whose other end takes everything and answers nothing.
    fn add_link(&self, name: &str) {
        self.ip(&["link", "add", name, "type", "veth", "peer", "name", "other-end"]);
        for end in [name, "other-end"] {
            self.ip(&["link", "set", end, "up"]);
        }
    }

    /// The command on this machine, with these lines in the place of `/etc/hosts`.
    fn command(&self, hosts: &str, command: &Command) -> Command {
        // `ip netns exec` gives the command a mount namespace of its own.
        let script = format!("printf '{hosts}' > hosts && mount --bind hosts /etc/hosts && rm hosts && exec \"$@\"");
        through(&["ip", "netns", "exec", &self.0], &in_shell(&script, command))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn name_with_addresses_that_do_not_answer_is_reached_at_the_one_that_does() {
    let Some(machine) = Machine::new() else { return };
    // What is sent on this link is not answered, not even by "no such host".
    machine.add_link("silent");
    machine.ip(&["link", "set", "silent", "arp", "off"]);
    machine.ip(&["address", "add", "10.9.9.1/24", "dev", "silent"]);
    let fixture = Fixture::of_size(1000).with_old();
    let hosts = "10.9.9.2 several\\n10.9.9.3 several\\n127.0.0.1 several\\n";
    let server = Server::start(&mut machine.command(hosts, &fixture.server_command(&[])));
    let client = program(FILE_CLIENT, fixture.destination_directory(), &["several", &server.port.to_string()]);
    let started = Instant::now();
    let client = run(&mut machine.command(hosts, &client));
    assert_eq!((client.status, client.stdout()), (0, received(1000, "destination.txt")), "{client:?}");
    assert!(started.elapsed() < BOUND);
    assert!(fixture.is_stored());
    assert_eq!(server.finish().status, 0);
}

#[test]
fn wait_bounds_an_attempt_that_is_not_answered() {
    let (fixture, port) = (Fixture::of_size(1000).with_old(), SilentPort::new());
    let started = Instant::now();
    let client = run(&mut fixture.client_command(port.number, &["--wait=1s"]));
    let error = format!("file-client: could not connect to 127.0.0.1:{}: timed out\n", port.number);
    assert_eq!((client.status, client.stderr()), (1, error));
    assert!(started.elapsed() < BOUND);
    assert!(!fixture.is_stored());
}

#[test]
fn server_that_comes_up_on_a_silent_host_is_met() {
    let (fixture, port) = (Fixture::of_size(1000).with_old(), SilentPort::new());
    let number = port.number;
    let client = fixture.client(number, &["--wait=60s"]);
    let connecting = |state: &procfs::net::TcpState| matches!(state, procfs::net::TcpState::SynSent);
    wait_until("an attempt to connect", || {
        let entries = procfs::net::tcp().unwrap();
        entries.iter().any(|entry| entry.remote_address.port() == number && connecting(&entry.state))
    });
    port.close();
    let bind = ["--bind", "127.0.0.1", &number.to_string()];
    let server = Server::start(&mut program(FILE_SERVER, fixture.source_directory(), &bind));
    let client = client.finish();
    assert_eq!(client.status, 0, "{client:?}");
    assert_eq!(server.finish().status, 0);
    assert!(fixture.is_stored());
}

#[test]
fn terminal_shows_where_the_client_connects_after_a_second() {
    let (fixture, port) = (Fixture::of_size(1000), SilentPort::new());
    let client = fixture.client_command(port.number, &["--timeout=6s"]);
    let Some(terminal) = Terminal::start(&client, (24, 80)) else { return };
    terminal.wait_for_line(&format!("connecting to 127.0.0.1:{} ...", port.number));
    terminal.wait_for_line("file-client: could not connect to ");
}

#[test]
fn client_that_waits_says_so_once() {
    let (fixture, port) = (Fixture::of_size(1000), ReservedPort::new());
    let client = fixture.client_command(port.number, &["--wait=2s"]);
    let Some(terminal) = Terminal::start(&client, (24, 80)) else { return };
    let waiting = format!("waiting for 127.0.0.1:{}: connection refused", port.number);
    let failed = format!("file-client: could not connect to 127.0.0.1:{}: connection refused", port.number);
    let ended = terminal.finish();
    assert_eq!((ended.status, ended.lines), (1, vec![waiting, failed]));
}

#[test]
fn connection_that_was_accepted_and_reset_is_not_called_a_failure_to_connect() {
    let (fixture, listener) = (Fixture::of_size(1000).with_old(), Listener::new());
    let client = fixture.client(listener.port(), &["--wait=60s"]);
    reset(listener.accept());
    let client = client.finish();
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    // It may be reset while the client still connects.
    assert!(client.stderr().contains("not serve this address"), "{client:?}");
    assert!(!client.stderr().contains("could not connect"), "{client:?}");
    listener.assert_unused();
}

#[test]
fn reset_before_the_first_byte_is_not_the_end_of_an_empty_file() {
    let empty = Fixture::new("");
    for arguments in [&[][..], &["--size=0"], &["--timeout=0s"], &["--output=-"]] {
        let listener = Listener::new();
        let client = empty.client(listener.port(), arguments);
        reset(listener.accept());
        let client = client.finish();
        assert_eq!((client.status, client.errors().len()), (1, 1), "{arguments:?}: {client:?}");
        assert!(!fs::exists(empty.destination()).unwrap());
    }
}

#[test]
fn side_that_dials_hears_that_its_address_may_not_be_served() {
    for (size, key) in [(1000, &[][..]), (3_000_000, &[]), (1000, &["--key", KEY]), (3_000_000, &["--key", KEY])] {
        let fixture = Fixture::of_size(size).with_old();
        let only_another = [&["--allow=192.0.2.1"], key].concat();
        let server = fixture.server(&only_another);
        let pulls = fixture.client(server.port, key).finish();
        let mut refused = server.interrupt(Signal::TERM).stderr();

        let listen = ["--listen=0", "--bind=127.0.0.1"];
        let client = program(FILE_CLIENT, fixture.destination_directory(), &[&listen[..], &only_another].concat());
        let client = Server::start(&mut { client });
        let dial = ["--connect", "127.0.0.1", &client.port.to_string()];
        let pushes = run(&mut program(FILE_SERVER, fixture.source_directory(), &[&dial[..], key].concat()));
        refused += &client.interrupt(Signal::TERM).stderr();

        for dialling in [pulls, pushes] {
            assert_eq!((dialling.status, dialling.errors().len()), (1, 1), "{key:?}: {dialling:?}");
            assert!(dialling.stderr().contains("not serve this address"), "{key:?}: {dialling:?}");
        }
        assert_eq!(refused.matches(": refused, 127.0.0.1 is not in --allow\n").count(), 2, "{refused}");
        assert!(!fixture.is_stored());
    }
}

#[test]
fn address_whose_numbers_would_be_octal_is_not_connected_to() {
    let (fixture, listener) = (Fixture::of_size(1000), Listener::new());
    let port = listener.port();
    // To the resolver this is 127.0.0.1, but with 010 at its end it would be 127.0.0.8.
    let arguments = ["127.000.000.001", &port.to_string(), "--wait=60s"];
    let client = run(&mut program(FILE_CLIENT, fixture.destination_directory(), &arguments));
    assert_eq!((client.status, client.errors().len()), (2, 1), "{client:?}");
    assert!(client.stderr().contains("octal"), "{client:?}");
    listener.assert_unused();
}

#[test]
fn name_server_is_asked_ever_more_rarely() {
    let Some(strace) = strace() else { return };
    let Some(machine) = Machine::new() else { return };
    let fixture = Fixture::of_size(1000);
    // Nothing listens there, so that each question is answered at once: there is no name server.
    fs::write(fixture.source_directory().join("resolv.conf"), "nameserver 127.0.0.1\noptions attempts:1\n").unwrap();
    let trace = fixture.source_directory().join("trace");
    let client = program(FILE_CLIENT, fixture.source_directory(), &["no-such-host.example", "9190", "--wait=4s"]);
    let strace = [strace.to_str().unwrap(), "-f", "-qq", "-e", "trace=connect", "-o", trace.to_str().unwrap()];
    let mounted = in_shell("mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"", &through(&strace, &client));
    let client = run(&mut through(&["ip", "netns", "exec", &machine.0], &mounted));
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    assert!(client.stderr().contains("could not resolve host no-such-host.example"), "{client:?}");
    let trace = fs::read_to_string(trace).unwrap();
    let asked = trace.lines().filter(|line| line.contains("sin_port=htons(53)")).count();
    if asked == 0 {
        return skip_unless_required("the resolver of this machine asks another program, and no name server");
    }
    // After 0, 1/4, 3/4, 7/4 and 15/4 of a second, each time for one address or for two; ten times a second would be 40.
    assert!(asked <= 10, "{trace}");
}

/// What the client does with a connection that ends at once.
fn fetch_nothing(fixture: &Fixture, arguments: &[&str]) -> (Running, TcpStream) {
    let listener = Listener::new();
    let client = fixture.client(listener.port(), arguments);
    (client, listener.accept())
}

#[test]
fn nothing_replaces_no_file_that_has_bytes_unless_an_empty_one_is_expected() {
    let old = Fixture::new("").with_old();
    let (client, connection) = fetch_nothing(&old, &[]);
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let error = "could not store destination.txt: nothing arrived, perhaps because there is no server behind the port; to replace it with an empty file, give --size 0";
    let client = client.finish();
    assert_eq!((client.status, client.stderr()), (1, format!("file-client: {error}\n")));
    assert!(!old.is_stored());
    common::network::assert_reset_without_reply(&connection);

    for (fixture, arguments) in [(&old, &["--size=0"][..]), (&Fixture::new(""), &[])] {
        let (client, connection) = fetch_nothing(fixture, arguments);
        assert_eq!(half_close(&connection), half_close::protocol::THANK_YOU);
        let client = client.finish();
        assert_eq!(client.status, 0, "{arguments:?}: {client:?}");
        assert!(fixture.is_stored());
    }
    // An empty file has nothing to lose.
    let (client, connection) = fetch_nothing(&old, &[]);
    assert_eq!(half_close(&connection), half_close::protocol::THANK_YOU);
    assert_eq!(client.finish().status, 0);
}

/// At each call that takes a name.
#[test]
fn no_error_makes_nothing_replace_a_file_that_has_bytes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(drop));
    for number in 1.. {
        let fixture = Fixture::new("").with_old();
        let log = fixture.source_directory().join("log");
        let injection = Injection { call: "%file".to_owned(), number, effect: "error=ENFILE".to_owned() };
        let Some(mut client) = traced(&fixture.client_command(port, &[]), &log, Some(&injection)) else { return };
        let client = run(&mut client);
        assert_ne!(client.status, 0, "{number}: {client:?}");
        assert!(!fixture.is_stored(), "{number}: {client:?}");
        if !fs::read_to_string(log).unwrap().contains("(INJECTED)") {
            assert!(number > 10);
            break;
        }
    }
}

#[test]
fn relay_without_a_server_behind_it_leaves_the_old_file() {
    let Some(socat) = installed("socat") else { return };
    let (fixture, relay, closed) = (Fixture::of_size(1000).with_old(), ReservedPort::new(), ReservedPort::new());
    let listen = format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork", relay.number);
    let to = format!("TCP:127.0.0.1:{}", closed.number);
    let mut socat = Command::new(socat).args([listen, to]).stderr(Stdio::null()).spawn().unwrap();
    let client = run(&mut fixture.client_command(relay.number, &["--wait=60s"]));
    socat.kill().unwrap();
    socat.wait().unwrap();
    assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
    assert!(!fixture.is_stored());
}

#[test]
fn server_binds_to_a_link_local_address_with_its_interface() {
    let Some(machine) = Machine::new() else { return };
    if !has_ipv6() {
        return;
    }
    machine.add_link("wire");
    machine.ip(&["address", "add", "fe80::1/64", "dev", "wire", "nodad"]);
    let fixture = Fixture::of_size(1000);
    let server = program(FILE_SERVER, fixture.source_directory(), &["--bind=fe80::1%wire", "0"]);
    let server = Server::start(&mut through(&["ip", "netns", "exec", &machine.0], &server));
    for host in ["fe80::1", "[fe80::1]"] {
        let client = program(FILE_CLIENT, fixture.destination_directory(), &[host, &server.port.to_string()]);
        let client = run(&mut through(&["ip", "netns", "exec", &machine.0], &client));
        assert_eq!((client.status, client.errors().len()), (1, 1), "{client:?}");
        assert!(
            client.stderr().ends_with("a link-local address needs its interface, as in fe80::1%eth0\n"),
            "{client:?}"
        );
    }
    let client = program(FILE_CLIENT, fixture.destination_directory(), &["fe80::1%wire", &server.port.to_string()]);
    let client = run(&mut through(&["ip", "netns", "exec", &machine.0], &client));
    let server = server.finish();
    assert_eq!((client.status, server.status), (0, 0), "{client:?} {server:?}");
    assert!(fixture.is_stored());
}

#[test]
fn link_local_address_to_bind_to_without_an_interface_is_a_wrong_argument() {
    let fixture = Fixture::of_size(1000);
    for (address, reason) in [
        ("fe80::1", "a link-local address needs its interface, such as fe80::1%eth0"),
        ("fe80::1%no-such-interface", "there is no such interface"),
        ("localhost%lo", "not an IP address such as 192.168.1.20 or ::1"),
    ] {
        let server = run(&mut program(FILE_SERVER, fixture.source_directory(), &["--bind", address, "0"]));
        assert_eq!((server.status, server.errors().len()), (2, 1), "{server:?}");
        assert!(server.stderr().contains(reason), "{server:?}");
    }
    let any_scope = Ipv6Addr::LOCALHOST.to_string();
    if has_ipv6() {
        let server = program(FILE_SERVER, fixture.source_directory(), &["--bind", &any_scope, "0"]);
        drop(Server::start(&mut { server }));
    }
    assert!(fs::exists(fixture.source()).unwrap());
}
