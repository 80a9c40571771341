//! Transfers in other ways than from one file into another: streams whose records differ in size, commands, pipelines in
//! a process group, slow readers, clients that are stopped, push, `--until-stored`, `--resume`; with up to two faults.

use std::fs;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, kill_process_group};

use crate::common::files::overwrite_first_byte;
use crate::common::fixture::{ENDING_SIGNALS, Fixture};
use crate::common::network::{has_listener, use_up};
use crate::common::processes::{Finished, Running, Signal, in_shell};
use crate::common::proxy::{Direction, Effect, Fault as NetworkFault, Proxy};
use crate::common::random::Random;
use crate::common::{names_in, wait_until};
use crate::moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    File,
    /// Standard input, written by this process in pieces of very different sizes.
    Stream,
    /// `{ cat des.txt; yes; } | file-server -f -` in a process group: it never ends by itself.
    EndlessPipeline,
    /// `-- cat des.txt`
    Command,
    /// A command that has written all and fails.
    FailingCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    File,
    /// Standard output, read with pauses.
    SlowReader,
    /// A command that takes what it got for all of it when its input ends.
    Command,
    FailingCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    EndServer(Signal),
    EndClient(Signal),
    /// To the server and all that is in its process group.
    InterruptPipeline(Signal),
    ChangeSource,
    Network(Effect),
    /// For moments.
    StopClient,
}

/// All that is chosen for one transfer.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice")]
pub struct Plan {
    pub is_encrypted: bool,
    /// The client syncs the file on a slow disk; a command need not.
    is_stored_slowly: bool,
    source: Source,
    target: Target,
    is_pushed: bool,
    until_stored: bool,
    resumes: bool,
    faults: Vec<Fault>,
    at: u64,
    moments: [u64; 2],
}

impl Plan {
    /// `only_streams`: what programs from before commands can do.
    pub fn random(
        fixture: &Fixture,
        is_encrypted: bool,
        is_on_slow_disk: bool,
        only_streams: bool,
        random: &mut Random,
    ) -> Self {
        let sources = [
            Source::Stream,
            Source::Stream,
            Source::EndlessPipeline,
            Source::File,
            Source::Command,
            Source::FailingCommand,
        ];
        let targets = [Target::File, Target::File, Target::SlowReader, Target::Command, Target::FailingCommand];
        let (sources, targets) =
            if only_streams { (&sources[..3], &targets[..3]) } else { (&sources[..], &targets[..]) };
        let (source, target) = (random.one_of(sources), random.one_of(targets));
        let is_stored_slowly = is_on_slow_disk && target == Target::File;
        let is_pushed = !only_streams && random.below(4) == 0;
        let is_file = source == Source::File && target == Target::File && !is_pushed;
        let resumes = is_encrypted && is_file && random.below(2) == 0;
        let until_stored = is_file && !resumes;
        let mut faults = Vec::new();
        if source == Source::EndlessPipeline {
            faults.push(Fault::InterruptPipeline(random.one_of(&[Signal::INT, Signal::TERM, Signal::HUP])));
        }
        // Half of them draw two.
        let wanted = random.one_of(&[0, 1, 2, 2]);
        while faults.len() < wanted {
            let signal = random.one_of(&ENDING_SIGNALS);
            let fault = random.one_of(&[
                Fault::EndServer(signal),
                Fault::EndClient(signal),
                Fault::ChangeSource,
                Fault::Network(Effect::Reset),
                Fault::Network(Effect::Drop),
                Fault::Network(Effect::Stall),
                Fault::Network(Effect::Trickle),
                Fault::StopClient,
            ]);
            let is_taken =
                matches!(fault, Fault::Network(_)) && faults.iter().any(|it| matches!(it, Fault::Network(_)));
            let has_meaning = match fault {
                Fault::ChangeSource => source == Source::File,
                // It would end the shell, and not the server.
                Fault::EndServer(_) => source != Source::EndlessPipeline,
                _ => true,
            };
            if has_meaning && !is_taken {
                faults.push(fault);
            }
        }
        let trickles = faults.iter().any(|fault| matches!(fault, Fault::Network(Effect::Trickle)));
        // Bytes that wait in a relay are no progress that the server could see.
        let first = if trickles { fixture.size().saturating_sub(20_000) } else { 0 };
        let at = first + random.below(fixture.size() - first + 1000);
        Self {
            is_encrypted,
            is_stored_slowly,
            source,
            target,
            is_pushed,
            until_stored,
            resumes,
            faults,
            at,
            moments: [moment(is_stored_slowly, random), moment(is_stored_slowly, random)],
        }
    }

    fn is_harmless(&self) -> bool {
        let fails = self.source == Source::FailingCommand || self.target == Target::FailingCommand;
        let is_harmless = |fault: &Fault| matches!(fault, Fault::StopClient | Fault::Network(Effect::Trickle));
        !fails && self.faults.iter().all(is_harmless)
    }

    fn has(&self, is_it: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(is_it)
    }

    fn network(&self) -> Option<Effect> {
        self.faults.iter().find_map(|fault| if let Fault::Network(effect) = fault { Some(*effect) } else { None })
    }

    /// What it is counted as, besides its outcome.
    pub fn kinds(&self) -> Vec<&'static str> {
        let two = self.faults.len() == 2;
        [
            (matches!(self.source, Source::Stream), "a stream in pieces of mixed sizes was sent"),
            (matches!(self.source, Source::EndlessPipeline), "a whole pipeline was interrupted"),
            (matches!(self.source, Source::Command | Source::FailingCommand), "a command was sent"),
            (matches!(self.target, Target::Command | Target::FailingCommand), "a command received"),
            (self.target == Target::SlowReader, "a slow program read standard output"),
            (self.has(|fault| *fault == Fault::StopClient), "the client was stopped for moments"),
            (self.is_pushed, "the server dialled"),
            (self.until_stored, "--until-stored"),
            (self.resumes, "--resume"),
            (self.is_stored_slowly, "the destination was on a slow disk"),
            (two, "two faults"),
        ]
        .into_iter()
        .filter_map(|(is_so, what)| is_so.then_some(what))
        .collect()
    }

    fn timeout(&self) -> &'static str {
        let waits = matches!(self.network(), Some(Effect::Drop | Effect::Stall));
        match (waits, self.is_stored_slowly) {
            (false, _) => "--timeout=30s",
            // The client that comes again must have the time to store the file.
            (true, true) => "--timeout=5s",
            (true, false) => "--timeout=1s",
        }
    }

    fn server(&self, fixture: &Fixture, port: u16) -> Command {
        let mut arguments = vec![self.timeout()];
        arguments.extend(self.until_stored.then_some("--until-stored"));
        arguments.extend(match self.source {
            Source::File => &["--file=des.txt"][..],
            Source::Stream | Source::EndlessPipeline => &["--file=-"],
            Source::Command => &["--", "cat", "des.txt"],
            Source::FailingCommand => &["--", "sh", "-c", "cat des.txt; exit 3"],
        });
        let server = if self.is_pushed {
            fixture.dialling_server_command(port, &arguments)
        } else {
            fixture.server_command(&arguments)
        };
        if self.source != Source::EndlessPipeline {
            return server;
        }
        let mut pipeline = in_shell("{ cat des.txt; yes; } | \"$@\"", &server);
        pipeline.process_group(0);
        pipeline
    }

    fn client(&self, fixture: &Fixture, port: u16) -> Command {
        let mut arguments = vec![self.timeout()];
        arguments.extend(self.resumes.then_some("--resume"));
        match self.target {
            Target::File => {}
            Target::SlowReader => arguments.push("--output=-"),
            Target::Command => arguments.extend(["--", "sh", "-c", "cat > part && mv part destination.txt"]),
            Target::FailingCommand => arguments.extend(["--", "sh", "-c", "cat > part; exit 4"]),
        }
        if self.is_pushed {
            fixture.listening_client_command(&arguments)
        } else {
            fixture.client_command(port, &arguments)
        }
    }
}

/// A program that runs, and what feeds or reads it.
struct Side {
    running: Running,
    helper: Option<JoinHandle<Vec<u8>>>,
}

impl Side {
    fn finish(self) -> (Finished, Vec<u8>) {
        let finished = self.running.finish();
        let read = self.helper.map(|helper| helper.join().unwrap()).unwrap_or_default();
        (finished, read)
    }
}

/// What came of one transfer: the statuses of client and server, and whether the file is stored.
pub type Ending = (&'static str, i32, i32, bool);

/// Runs it, and fails if an exit status is false.
pub fn transfer(fixture: &Fixture, plan: &Plan, random: &mut Random) -> Ending {
    let network = plan.network().map(|effect| {
        let direction = if plan.is_pushed { Direction::ToServer } else { Direction::ToClient };
        Proxy::start(fixture.port(), Some(NetworkFault { direction, at: plan.at, effect }))
    });
    let port = network.as_ref().map_or(fixture.port(), |proxy| proxy.port);
    let (mut server, mut client) = if plan.is_pushed {
        let client = start_client(plan, plan.client(fixture, port));
        let client = until_listening(client, fixture);
        (start_server(fixture, plan, plan.server(fixture, port), random), client)
    } else {
        let server = start_server(fixture, plan, plan.server(fixture, port), random);
        (until_listening(server, fixture), start_client(plan, plan.client(fixture, port)))
    };
    for (fault, moment) in plan.faults.iter().zip(plan.moments) {
        // Not a wait for anything: this is the random moment.
        thread::sleep(Duration::from_micros(moment));
        inject(*fault, fixture, &mut server, &mut client);
    }
    let ((client, output), server) = if plan.is_pushed {
        let server = server.finish().0;
        // A client to which no server has come.
        if has_listener(fixture.port()) {
            client.running.signal(Signal::TERM);
        }
        (client.finish(), server)
    } else {
        let client = client.finish();
        come_again(fixture, plan, &client.0, &server.running);
        (client, server.finish().0)
    };
    // The reply may have been on its way until now.
    drop(network);
    judge(fixture, plan, &client, &output, &server)
}

fn start_server(fixture: &Fixture, plan: &Plan, mut command: Command, random: &mut Random) -> Side {
    if plan.source != Source::Stream {
        return Side { running: Running::start(&mut command), helper: None };
    }
    let (input, mut producer) = io::pipe().unwrap();
    let running = Running::start(command.stdin(input));
    command.stdin(Stdio::null());
    let bytes = fixture.bytes().to_vec();
    let sizes: Vec<_> = (0..64).map(|_| if random.below(8) == 0 { 65_536 } else { 600 + random.below(3400) }).collect();
    let helper = thread::spawn(move || {
        let mut rest = &bytes[..];
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(usize::try_from(*size).unwrap()));
            // Fails when the server ends.
            if piece.is_empty() || producer.write_all(piece).is_err() {
                break;
            }
            rest = after;
        }
        Vec::new()
    });
    Side { running, helper: Some(helper) }
}

fn start_client(plan: &Plan, mut command: Command) -> Side {
    if plan.target != Target::SlowReader {
        return Side { running: Running::start(&mut command), helper: None };
    }
    let (output, writer) = io::pipe().unwrap();
    let running = Running::start_with_stdout(&mut command, writer);
    Side { running, helper: Some(thread::spawn(move || read_slowly(output))) }
}

/// With a pause after each buffer at first.
fn read_slowly(mut from: PipeReader) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => return all,
            bytes => all.extend_from_slice(&buffer[..bytes]),
        }
        if all.len() < 1_000_000 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn until_listening(mut side: Side, fixture: &Fixture) -> Side {
    wait_until("a listener, or the end of it", || {
        has_listener(fixture.port()) || side.running.ends_within(Duration::ZERO)
    });
    side
}

fn inject(fault: Fault, fixture: &Fixture, server: &mut Side, client: &mut Side) {
    match fault {
        Fault::EndServer(signal) => server.running.signal(signal),
        Fault::EndClient(signal) => client.running.signal(signal),
        Fault::InterruptPipeline(signal) => {
            if !server.running.ends_within(Duration::ZERO) {
                let _ = kill_process_group(Pid::from_raw(server.running.pid().as_raw_nonzero().get()).unwrap(), signal);
            }
        }
        Fault::ChangeSource => overwrite_first_byte(&fixture.source()),
        Fault::StopClient => {
            for signal in [Signal::STOP, Signal::CONT].repeat(20) {
                if !client.running.ends_within(Duration::from_micros(200)) {
                    client.running.signal(signal);
                }
            }
            if !client.running.ends_within(Duration::ZERO) {
                client.running.signal(Signal::CONT);
            }
        }
        // Done by the proxy.
        Fault::Network(_) => {}
    }
}

/// A server that waits for a client that stores the file gets one, and must be content with it.
fn come_again(fixture: &Fixture, plan: &Plan, client: &Finished, server: &Running) {
    let ends_by_itself = plan.is_harmless();
    if ends_by_itself || !has_listener(fixture.port()) {
        return;
    }
    let was_changed = plan.has(|fault| *fault == Fault::ChangeSource);
    if (plan.until_stored || plan.resumes) && client.status != 0 && !was_changed {
        let again = Running::start(&mut plan.client(fixture, fixture.port())).finish();
        // The signal that ends the server may still be on its way.
        let is_ending = plan.has(|fault| matches!(fault, Fault::EndServer(_)));
        assert!(again.status == 0 || is_ending, "the second client: {again:?}");
    } else if plan.until_stored || plan.resumes {
        server.signal(Signal::TERM);
    } else if plan.is_encrypted {
        fixture.use_up(fixture.port());
    } else {
        use_up(fixture.port());
    }
}

fn judge(fixture: &Fixture, plan: &Plan, client: &Finished, output: &[u8], server: &Finished) -> Ending {
    let context = || format!("client: {client:?}\nserver: {server:?}");
    let is_killed = |finished: &Finished| finished.status == 128 + Signal::KILL.as_raw();
    let now = fs::read(fixture.source()).unwrap();
    let is_whole = |found: &[u8]| found == fixture.bytes() || found == now;
    let (stored, as_before) = if plan.target == Target::SlowReader {
        (is_whole(output), true)
    } else {
        let found = fs::read(fixture.destination()).ok();
        let as_before = found.as_deref() == fixture.old();
        (found.is_some_and(|found| is_whole(&found)) && (!as_before || client.status == 0), as_before)
    };
    let takes_half = plan.target == Target::Command && is_killed(client);
    assert!(stored || as_before || takes_half, "neither the whole file nor as before\n{}", context());
    let may_be_beside = |name: &String| match plan.target {
        Target::Command | Target::FailingCommand => name == "part",
        _ if plan.resumes => name.ends_with(".half-close-part"),
        _ => is_killed(client) && name.contains(".half-close-"),
    };
    let names = names_in(fixture.destination_directory());
    let beside: Vec<_> = names.iter().filter(|name| *name != "destination.txt" && !may_be_beside(name)).collect();
    assert!(beside.is_empty(), "left beside the destination: {beside:?}\n{}", context());
    let came_again = plan.until_stored || plan.resumes;
    match client.status {
        0 => assert!(stored, "client 0, and not stored\n{}", context()),
        1 => assert!(!stored || came_again || plan.target == Target::SlowReader, "client 1, and stored\n{}", context()),
        status => assert!(status > 128, "{}", context()),
    }
    // A RST of the network may meet the reply; and a command may take everything before its client is ended.
    let may_be_unknown = plan.network() == Some(Effect::Reset) || plan.target != Target::File || came_again;
    match server.status {
        0 => assert!(stored, "server 0, and not stored\n{}", context()),
        1 => assert!(!stored || may_be_unknown, "server 1, and stored\n{}", context()),
        3 => {}
        status => assert!(status > 128, "{}", context()),
    }
    for finished in [client, server] {
        assert!(!finished.stderr().contains("panicked"), "{}", context());
    }
    if plan.source == Source::EndlessPipeline {
        // A reader may have got the file, and nothing of what never ends.
        let is_stored = stored && plan.target != Target::SlowReader;
        assert!(!is_stored && client.status != 0, "half a stream was stored as a whole one\n{}", context());
    }
    // A connection without a byte does not count at a client that listens, and replaces no file that has bytes.
    let is_refused = plan.is_pushed || plan.target == Target::File && fixture.old().is_some();
    let is_noticed = plan.is_encrypted || fixture.size() > 0 || !is_refused;
    if plan.is_harmless() && is_noticed {
        assert_eq!((client.status, server.status), (0, 0), "{}", context());
    }
    let what = match (client.status, server.status) {
        (0, 0) => "nothing went wrong",
        (0, 3) => "the reply was lost, changed or late",
        (0, _) => "the server was ended after it had sent everything",
        (3.., _) if stored => "the client was killed after it had stored the file",
        (3.., _) => "the client was killed or interrupted",
        _ if plan.source == Source::EndlessPipeline => "a whole pipeline was interrupted",
        _ if plan.source == Source::FailingCommand || plan.target == Target::FailingCommand => "a command failed",
        _ if plan.network().is_some() => "the connection was cut, reset or stalled",
        _ => "the server was ended, or the file changed",
    };
    (what, client.status, server.status, stored)
}
