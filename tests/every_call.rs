//! A real transfer that is ended, or fails, at one of its system calls: at each of them, one after the other. Every exit
//! status, and what is on the disk, must be as the model has it for the step that was reached (`tests/model.rs`), and
//! each trace must be a way through the model. The quick tests take the calls that are steps of the model; all others:
//!
//! ```text
//! cargo test --test every_call -- --ignored --nocapture
//! ```
//!
//! `HALF_CLOSE_VARIANT` names the only transfer that is tried.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "the ignored test takes minutes and says how far it is")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, panic, slice, thread};

use common::model::{Case, Content, Fault, Guard, Outcome, Outcomes, Role, Setup, Source, Status, Step, Target};
use common::network::{connect, has_listener, read_all, use_up};
use common::trace::{Call, Injection, Replay, calls, traced, with_begun_calls_done};
use common::{Finished, Fixture, Running, Server, Signal, directory, has_unnamed_files, names_in, sha256, wait_until};
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

const ROLES: [Role; 2] = [Role::Sender, Role::Receiver];

const AT_ONCE: usize = 8;

/// After which a server that had no client waits for one.
const LONG_FOR_NOTHING: Duration = Duration::from_secs(5);

/// More than one piece each way, and more than a pipe holds.
const SIZE: usize = 200_000;

/// What is kept of the file from an earlier attempt, which is half of it.
const PART: &str = "destination.txt.half-close-part";

/// A transfer whose calls are looked at.
#[derive(Clone, Copy, Debug)]
struct Variant {
    name: &'static str,
    setup: Setup,
    has_old: bool,
    /// Whether errors are tried in the quick tests too.
    is_common: bool,
}

const PLAIN: Setup = Setup {
    source: Source::File,
    target: Target::File,
    guard: Guard::Nothing,
    dials: Role::Receiver,
    has_relay: false,
    resumes: false,
    bug: None,
};

const VARIANTS: [Variant; 13] = [
    Variant { name: "plain", setup: PLAIN, has_old: true, is_common: true },
    Variant { name: "plain, a new file", setup: PLAIN, has_old: false, is_common: false },
    Variant { name: "with a key", setup: Setup { guard: Guard::Key, ..PLAIN }, has_old: true, is_common: true },
    Variant { name: "with a digest", setup: Setup { guard: Guard::Sha256, ..PLAIN }, has_old: true, is_common: false },
    Variant { name: "from a pipe", setup: Setup { source: Source::Stream, ..PLAIN }, has_old: true, is_common: false },
    Variant {
        name: "to standard output",
        setup: Setup { target: Target::Output, ..PLAIN },
        has_old: true,
        is_common: false,
    },
    Variant {
        name: "from a command",
        setup: Setup { source: Source::Command, ..PLAIN },
        has_old: true,
        is_common: false,
    },
    Variant {
        name: "to a command",
        setup: Setup { target: Target::Command, ..PLAIN },
        has_old: true,
        is_common: false,
    },
    Variant {
        name: "with a key, from a command to a command",
        setup: Setup { source: Source::Command, target: Target::Command, guard: Guard::Key, ..PLAIN },
        has_old: true,
        is_common: false,
    },
    Variant { name: "push", setup: Setup { dials: Role::Sender, ..PLAIN }, has_old: true, is_common: false },
    Variant {
        name: "push with a key",
        setup: Setup { dials: Role::Sender, guard: Guard::Key, ..PLAIN },
        has_old: true,
        is_common: false,
    },
    Variant {
        name: "with --resume",
        setup: Setup { guard: Guard::Key, resumes: true, ..PLAIN },
        has_old: true,
        is_common: false,
    },
    Variant {
        name: "with a key, from a pipe to standard output",
        setup: Setup { source: Source::Stream, target: Target::Output, guard: Guard::Key, ..PLAIN },
        has_old: true,
        is_common: false,
    },
];

/// How one transfer ended, and what the traced side did.
struct Run {
    fixture: Fixture,
    client: Finished,
    server: Finished,
    /// Whether the listener may still have listened when the other side had ended.
    was_listening: bool,
    /// Whether it went on listening.
    waits: bool,
    calls: Vec<Call>,
    /// Whether the traced side got as far as the injection.
    is_injected: bool,
    _log: TempDir,
}

impl Variant {
    /// Runs both programs to their ends, this side under strace.
    fn run(self, role: Role, injection: Option<&Injection>) -> Option<Run> {
        let fixture = Fixture::of_size(SIZE).in_mode(self.setup.guard.has_key());
        let fixture = if self.has_old { fixture.with_old() } else { fixture };
        if self.setup.resumes {
            fs::write(fixture.destination_directory().join(PART), &fixture.bytes()[..SIZE / 2]).unwrap();
        }
        let log = directory();
        let file = log.path().join("log");
        let mut commands = ROLES.map(|of| self.command(of, &fixture));
        commands[role as usize] = traced(&commands[role as usize], &file, injection)?;
        let [server, client] = &mut commands;
        let (mut listener, dialler) = match self.setup.dials {
            Role::Receiver => (self.start_server(server, &fixture), client),
            Role::Sender => (Running::start(client), server),
        };
        let mut is_listening = false;
        wait_until("a listener, or the end of it", || {
            is_listening = has_listener(fixture.port());
            is_listening || listener.ends_within(Duration::ZERO)
        });
        let dialler = match self.setup.dials {
            Role::Receiver => Running::start(dialler),
            Role::Sender => self.start_server(dialler, &fixture),
        };
        let dialler = dialler.finish();
        let was_listening = is_listening && self.use_up(&fixture);
        // An error that hits each thread that does a handshake leaves no client for the listener.
        let waits = was_listening && !listener.ends_within(LONG_FOR_NOTHING) && has_listener(fixture.port());
        if waits {
            // strace would not pass a signal on.
            let traced = calls(&fs::read_to_string(&file).unwrap())[0].thread;
            let _ = kill_process(Pid::from_raw(traced.cast_signed()).unwrap(), Signal::KILL);
        }
        let listener = listener.finish();
        let (client, server) =
            if self.setup.dials == Role::Receiver { (dialler, listener) } else { (listener, dialler) };
        let text = fs::read_to_string(&file).unwrap();
        let is_injected = text.contains("(INJECTED)") || text.contains("+++ killed by SIGKILL +++");
        Some(Run { fixture, client, server, was_listening, waits, calls: calls(&text), is_injected, _log: log })
    }

    fn command(self, role: Role, fixture: &Fixture) -> Command {
        let (server, client) = (self.server_arguments(), self.client_arguments(fixture));
        match (role, self.setup.dials) {
            (Role::Sender, Role::Receiver) => fixture.server_command(&server),
            (Role::Sender, Role::Sender) => fixture.dialling_server_command(fixture.port(), &server),
            (Role::Receiver, Role::Receiver) => fixture.client_command(fixture.port(), &client),
            (Role::Receiver, Role::Sender) => fixture.listening_client_command(&client),
        }
    }

    fn server_arguments(self) -> Vec<&'static str> {
        let source: &[_] = match self.setup.source {
            Source::File => &["--file=des.txt"],
            Source::Stream => &["--file=-"],
            Source::Command => &["--", "cat", "des.txt"],
        };
        [&["--timeout=30s"], source].concat()
    }

    fn client_arguments(self, fixture: &Fixture) -> Vec<&'static str> {
        let mut arguments = vec!["--timeout=30s"];
        if self.setup.resumes {
            arguments.push("--resume");
        }
        match self.setup.target {
            Target::File => {}
            Target::Output => arguments.push("--output=-"),
            // It takes whatever it gets for all when its input ends.
            Target::Command => arguments.extend(["--", "sh", "-c", "cat > part && mv part destination.txt"]),
        }
        if self.setup.guard == Guard::Sha256 {
            arguments.push(Box::leak(format!("--sha256={}", sha256(fixture.bytes())).into_boxed_str()));
        }
        arguments
    }

    fn start_server(self, command: &mut Command, fixture: &Fixture) -> Running {
        if self.setup.source != Source::Stream {
            return Running::start(command);
        }
        let (input, mut producer) = io::pipe().unwrap();
        let server = Running::start(command.stdin(input));
        command.stdin(Stdio::null());
        let bytes = fixture.bytes().to_vec();
        // Fails when the server ends.
        thread::spawn(move || producer.write_all(&bytes));
        server
    }

    /// Ends a listener that still waits for the other side. Returns whether it may have waited.
    fn use_up(self, fixture: &Fixture) -> bool {
        match (self.setup.dials, self.setup.guard) {
            (Role::Receiver, Guard::Key) => fixture.use_up(fixture.port()),
            (Role::Receiver, _) => return use_up(fixture.port()),
            (Role::Sender, _) => fixture.use_up_client(fixture.port()),
        };
        true
    }
}

fn replay(fixture: &Fixture, setup: Setup, role: Role) -> Replay {
    Replay::new(setup, role, fixture.source(), fixture.destination_directory())
}

impl Run {
    fn replay(&self, variant: Variant, role: Role) -> Replay {
        replay(&self.fixture, variant.setup, role)
    }

    fn status(finished: &Finished) -> Status {
        match finished.status {
            137 => Status::Killed,
            status => Status::Code(u8::try_from(status).unwrap()),
        }
    }

    fn is_killed(&self, role: Role) -> bool {
        !self.waits && [&self.server, &self.client][role as usize].status == 137
    }

    /// What happened, as the model says it: a listener with 1 may be one that no other side has come to.
    fn outcomes(&self, variant: Variant) -> Result<Vec<Outcome>, String> {
        let (client, server) = (Self::status(&self.client), Self::status(&self.server));
        let new = self.fixture.bytes();
        let kind = |found: &[u8]| match found {
            found if found == new => Content::New,
            found if new.starts_with(found) => Content::Half,
            _ => Content::Mixed,
        };
        let names = names_in(self.fixture.destination_directory());
        let is_of_command = |name: &str| variant.setup.target == Target::Command && name == "part";
        let is_expected = |name: &&String| *name == "destination.txt" || is_of_command(name);
        let mut leftovers: Vec<_> = names.iter().filter(|name| !is_expected(name)).collect();
        let is_part = |name: &String| name.contains(".half-close-");
        let destination = match variant.setup.target {
            Target::Output if self.client.stdout.is_empty() => Content::Old,
            Target::Output => kind(&self.client.stdout),
            Target::File | Target::Command => match fs::read(self.fixture.destination()).ok() {
                found if found.as_deref() == self.fixture.old() => Content::Old,
                None => return Err("the old file is gone".to_owned()),
                Some(found) => kind(&found),
            },
        };
        let part = leftovers.pop_if(|name| is_part(name));
        let is_right = |name: &String| {
            let found = fs::read(self.fixture.destination_directory().join(name)).unwrap();
            if name == PART { new.starts_with(&found) } else { found == new }
        };
        if !leftovers.is_empty() || part.is_some_and(|name| !is_right(name)) {
            return Err(format!("leftover files: {names:?}"));
        }
        if names_in(self.fixture.source_directory()) != ["des.txt"] {
            return Err("leftover files beside the source".to_owned());
        }
        let one = Outcome { client, destination, has_leftover: part.is_some(), server };
        let (waiting, listener) = match variant.setup.dials {
            Role::Receiver => (Outcome { server: Status::Waits, ..one }, server),
            Role::Sender => (Outcome { client: Status::Waits, ..one }, client),
        };
        let may_have_waited = self.was_listening && listener == Status::Code(1);
        let says_that_it_waits = self.server.stderr().contains("it may come back");
        Ok(if self.waits || says_that_it_waits {
            vec![waiting]
        } else {
            [one].into_iter().chain(may_have_waited.then_some(waiting)).collect()
        })
    }
}

/// The outcomes of this fault while this side is at one of these steps.
fn rows(outcomes: &Outcomes, fault: Fault, role: Role, steps: &[Step]) -> BTreeSet<Outcome> {
    let is_meant = |at: Option<Step>| at.is_some_and(|step| steps.contains(&step));
    let of = outcomes.iter().filter(|(case, _)| case.faults[0] == Some(fault) && is_meant(case.at[role as usize]));
    of.flat_map(|(_, set)| set.iter().copied()).collect()
}

/// Checks one run against the model. `Ok` has the steps that the traced side took.
fn judge(
    variant: Variant,
    role: Role,
    injection: Option<&Injection>,
    run: &Run,
    model: &Outcomes,
) -> Result<Vec<Step>, String> {
    let mut replay = run.replay(variant, role);
    replay.follow(&run.calls)?;
    let is_hit_elsewhere = replay.is_hit_elsewhere(&run.calls);
    let mut allowed = BTreeSet::new();
    let mut allow = |fault, steps: &[Step]| allowed.extend(rows(model, fault, role, steps));
    let every_step = variant.setup.program(role);
    match injection.filter(|_| run.is_injected).map(|injection| &*injection.effect) {
        Some(KILL) if run.is_killed(role) => {
            allow(Fault::Kill(role), &replay.next_steps());
            let mut if_done = run.replay(variant, role);
            let killed_at = injection.map_or("", |injection| &injection.call);
            if if_done.follow(&with_begun_calls_done(&run.calls, killed_at)).is_ok() {
                allow(Fault::Kill(role), &if_done.next_steps());
            }
        }
        // The command, between fork(2) and execve(2).
        Some(KILL) if role == Role::Sender => allow(Fault::ProducerDies, &every_step),
        Some(KILL) => allow(Fault::ConsumerFails, &every_step),
        effect => {
            allowed.extend(&model[&Case::default()]);
            // What has nothing to do with the connection fails in ways that it does not have.
            if is_hit_elsewhere {
                allowed.extend(rows(model, Fault::Error(role), role, &every_step));
            }
            match effect {
                // A call that waits is repeated.
                Some("error=EINTR") if !replay.hit.contains(&Step::Unread) => {}
                Some(error) => {
                    allowed.extend(rows(model, Fault::Error(role), role, &replay.hit));
                    let is_reset = error == "error=ECONNRESET";
                    allowed.extend(rows(model, Fault::Reset, role, if is_reset { &replay.hit } else { &[] }));
                }
                None => {}
            }
        }
    }
    let outcomes = run.outcomes(variant)?;
    for finished in [&run.client, &run.server] {
        if finished.stderr().contains("panicked") && !is_hit_elsewhere {
            return Err("a panic".to_owned());
        }
    }
    if outcomes.iter().any(|outcome| allowed.contains(outcome)) {
        return Ok(replay.taken);
    }
    Err(format!(
        "{outcomes:?} is not one of {allowed:?}, hit at {:?}, at {:?} after {:?}",
        replay.hit,
        replay.next_steps(),
        replay.taken
    ))
}

/// The name of a call, and its number among those of this name in the same thread.
type Point = (String, usize);

/// Each point once at which one of these calls is made.
fn points(calls: &[Call], is_meant: impl Fn(usize, &Call) -> bool) -> BTreeSet<Point> {
    let mut counts: BTreeMap<(u32, &str), usize> = BTreeMap::new();
    let mut points = BTreeSet::new();
    for (position, call) in calls.iter().enumerate() {
        let count = counts.entry((call.thread, &call.name)).or_default();
        *count += 1;
        // strace itself makes the first execve.
        if call.name != "execve" && is_meant(position, call) {
            points.insert((call.name.clone(), *count));
        }
    }
    points
}

/// Where the loader's and the runtime's calls end.
fn start_of_program(calls: &[Call]) -> usize {
    let is_last = |call: &Call| call.name == "rt_sigaction" && call.arguments.starts_with("SIGBUS, {");
    calls.iter().rposition(is_last).unwrap()
}

/// What to do at these points of both sides of a variant, one run each. `None` if strace is not installed.
fn jobs(variant: Variant, which: Which, effects: impl Fn(&str) -> Vec<String>) -> Option<Vec<Job>> {
    let mut jobs = Vec::new();
    for role in ROLES {
        let run = variant.run(role, None)?;
        let mut replay = run.replay(variant, role);
        let steps: Vec<_> =
            run.calls.iter().map(|call| replay.follow(slice::from_ref(call)).is_ok_and(|is_step| is_step)).collect();
        let start = start_of_program(&run.calls);
        let is_meant = |position: usize, _: &Call| match which {
            Which::Steps => steps[position],
            Which::OfTheProgram => position > start,
            Which::All => true,
        };
        for (call, number) in points(&run.calls, is_meant) {
            let injections = effects(&call).into_iter().map(|effect| Injection { call: call.clone(), number, effect });
            jobs.extend(injections.map(|injection| (variant, role, injection)));
        }
    }
    Some(jobs)
}

type Job = (Variant, Role, Injection);

#[derive(Clone, Copy)]
enum Which {
    /// The calls that are steps of the model.
    Steps,
    OfTheProgram,
    All,
}

/// Runs all of these. Returns what went wrong.
fn run_all(jobs: &[Job]) -> Vec<String> {
    let models: BTreeMap<&str, Outcomes> =
        VARIANTS.into_iter().map(|variant| (variant.name, variant.setup.explore(1))).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run_next = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcomes = &models[job.0.name];
            let started = Instant::now();
            let mut judged = run_job(job, outcomes);
            // A machine that stands still for a while reaches the limit too.
            if started.elapsed() >= HANDSHAKE_LIMIT && judged.is_err() {
                judged = run_job(job, outcomes);
            }
            wrong.lock().unwrap().extend(judged.err());
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(run_next);
        }
    });
    wrong.into_inner().unwrap()
}

/// The longest handshake of the programs.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

fn run_job((variant, role, injection): &Job, outcomes: &Outcomes) -> Result<(), String> {
    let what = format!("{}, {role:?}, {injection:?}", variant.name);
    let run = panic::catch_unwind(|| variant.run(*role, Some(injection)).unwrap())
        .map_err(|_| format!("{what}: see the panic"))?;
    judge(*variant, *role, Some(injection), &run, outcomes)
        .map(|_| ())
        .map_err(|why| format!("{what}: {why}\n{:?}\n{:?}", run.client, run.server))
}

#[track_caller]
fn assert_nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} transfers:\n{}", wrong.len(), wrong.join("\n"));
}

const KILL: &str = "signal=KILL";

fn kills(_: &str) -> Vec<String> {
    vec![KILL.to_owned()]
}

fn all_errors(call: &str) -> Vec<String> {
    errors(call).iter().map(|error| format!("error={error}")).collect()
}

/// An interruption, and the first other one.
fn two_errors(call: &str) -> Vec<String> {
    all_errors(call).into_iter().take(2).collect()
}

/// The errors that a call can have where the programs must know what to do.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "read" | "pread64" => &["EINTR", "EIO"],
        "write" | "pwrite64" => &["EINTR", "EIO", "ENOSPC", "EDQUOT"],
        "recvfrom" | "recvmsg" => &["EINTR", "ECONNRESET", "ETIMEDOUT", "ENOMEM"],
        "sendto" | "writev" | "sendmsg" => &["EINTR", "ECONNRESET", "EPIPE", "ENOBUFS"],
        "splice" => &["EINTR", "EIO", "ENOSPC", "EDQUOT", "ECONNRESET", "ENOMEM", "ENOSYS"],
        "fsync" | "fdatasync" | "ftruncate" => &["EIO", "ENOSPC", "EDQUOT"],
        "linkat" | "renameat" | "renameat2" | "rename" => &["EIO", "ENOSPC", "EDQUOT", "EPERM", "ENOMEM"],
        "openat" | "open" => &["EINTR", "EIO", "EMFILE", "ENFILE", "ENOMEM"],
        "socket" | "pipe2" | "socketpair" => &["EMFILE", "ENFILE", "ENOMEM"],
        "accept4" => &["EINTR", "ECONNABORTED", "EMFILE", "ENFILE", "ENOMEM", "EPERM", "ENOBUFS"],
        "connect" => &["ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT"],
        "poll" | "ppoll" => &["EINTR", "ENOMEM"],
        "bind" | "listen" => &["EADDRINUSE"],
        "setsockopt" | "getsockopt" => &["ENOMEM", "ENOPROTOOPT"],
        "shutdown" => &["ENOTCONN"],
        "fchown" | "fchmod" | "fsetxattr" | "fremovexattr" | "fgetxattr" | "getxattr" => {
            &["EIO", "EPERM", "EOPNOTSUPP"]
        }
        "statx" | "newfstatat" | "fstat" | "fstatfs" | "statfs" => &["EIO", "ENOMEM", "EPERM"],
        "faccessat2" | "pwritev2" | "getrandom" | "close_range" | "copy_file_range" | "fallocate" => {
            &["ENOSYS", "EPERM"]
        }
        "clone3" => &["ENOSYS", "EAGAIN"],
        "fcntl" | "lseek" | "getdents64" | "readlink" | "getcwd" | "unlinkat" | "unlink" | "flock" => {
            &["EIO", "ENOMEM"]
        }
        "ioctl" => &["ENOTTY", "EIO"],
        _ => &[],
    }
}

/// Every step that has a call of its own is taken by one of the variants. Deferring signals is a lock in memory, and
/// comparing size and digest is no call either.
#[test]
fn every_trace_is_a_way_through_the_model_and_every_step_is_taken() {
    if !has_unnamed_files() {
        return;
    }
    let mut taken = BTreeSet::from([Step::Defer, Step::Expected]);
    for variant in VARIANTS {
        let model = variant.setup.explore(1);
        for role in ROLES {
            let Some(run) = variant.run(role, None) else { return };
            let steps = judge(variant, role, None, &run, &model);
            taken.extend(steps.unwrap_or_else(|why| panic!("{}, {role:?}: {why}", variant.name)));
        }
    }
    taken.extend(steps_of_a_failure_to_publish());
    taken.extend(steps_beside_another_reply());
    let missing: Vec<_> = VARIANTS
        .iter()
        .flat_map(|variant| ROLES.map(|role| variant.setup.program(role)))
        .flatten()
        .filter(|step| !taken.contains(step))
        .collect();
    assert!(missing.is_empty(), "no trace has taken these: {missing:?}");
}

#[test]
fn a_call_that_another_threads_end_cut_off_may_have_done_its_work() {
    let log = "\
7 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_TCP) = 5<socket:[1]>
7 setsockopt(5<socket:[1]>, SOL_SOCKET, SO_LINGER, {l_onoff=1, l_linger=0}, 8) = 0
8 recvfrom(3<socket:[2]>,  <unfinished ...>
7 connect(5<socket:[1]>, {sa_family=AF_INET, sin_port=htons(7)}, 16 <unfinished ...>
8 <... recvfrom resumed> <unfinished ...>) = ?
8 +++ killed by SIGKILL +++
7 +++ killed by SIGKILL +++
";
    let next_steps_after = |calls: &[Call]| {
        let setup = Setup { target: Target::Output, ..PLAIN };
        let mut replay = replay(&Fixture::of_size(1), setup, Role::Receiver);
        replay.follow(calls).unwrap();
        replay.next_steps()
    };
    let next_steps_if_done = |killed_at| next_steps_after(&with_begun_calls_done(&calls(log), killed_at));
    assert!(next_steps_after(&calls(log)).contains(&Step::Dial));
    assert!(!next_steps_if_done("recvfrom").contains(&Step::Dial));
    assert!(next_steps_if_done("connect").contains(&Step::Dial), "it was killed before that");
}

fn steps_of_a_failure_to_publish() -> Vec<Step> {
    let (variant, role) = (VARIANTS[0], Role::Receiver);
    let injection = Injection { call: "renameat".to_owned(), number: 1, effect: "error=EIO".to_owned() };
    let run = variant.run(role, Some(&injection)).unwrap();
    judge(variant, role, Some(&injection), &run, &variant.setup.explore(1)).unwrap()
}

/// Those of a server whose client replies something else: it reads to the end.
fn steps_beside_another_reply() -> Vec<Step> {
    let (fixture, log) = (Fixture::of_size(SIZE), directory());
    let file = log.path().join("log");
    let server = Server::start(&mut traced(&fixture.server_command(&[]), &file, None).unwrap());
    let client = connect(server.port);
    assert_eq!(read_all(&client), fixture.bytes());
    (&client).write_all(b"no\n").unwrap();
    drop(client);
    assert_eq!(server.finish().status, 3);
    let mut replay = replay(&fixture, PLAIN, Role::Sender);
    replay.follow(&calls(&fs::read_to_string(&file).unwrap())).unwrap();
    replay.taken
}

#[test]
fn a_transfer_that_is_killed_at_any_of_its_steps_ends_as_the_model_says() {
    if !has_unnamed_files() {
        return;
    }
    for variant in VARIANTS {
        let Some(jobs) = jobs(variant, Which::Steps, kills) else { return };
        assert_nothing_wrong(&run_all(&jobs));
    }
}

#[test]
fn a_transfer_whose_steps_fail_ends_as_the_model_says() {
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_common) {
        let Some(jobs) = jobs(variant, Which::Steps, two_errors) else { return };
        assert_nothing_wrong(&run_all(&jobs));
    }
}

#[test]
#[ignore = "takes minutes; see the header for how to start it"]
fn every_call_of_every_variant() {
    let mut wrong = Vec::new();
    let wanted = std::env::var("HALF_CLOSE_VARIANT").ok();
    for variant in VARIANTS.into_iter().filter(|variant| wanted.as_ref().is_none_or(|wanted| variant.name == wanted)) {
        for (which, effects) in [(Which::All, kills as fn(&str) -> Vec<String>), (Which::OfTheProgram, all_errors)] {
            let jobs = jobs(variant, which, effects).unwrap();
            let started = Instant::now();
            wrong.extend(run_all(&jobs));
            println!("{}: {} transfers in {:.0?}", variant.name, jobs.len(), started.elapsed());
        }
    }
    assert_nothing_wrong(&wrong);
}
