//! A real transfer that is ended, or fails, at one of its system calls: at each of them, one after the other. Every exit
//! status, and what is on the disk, must be as the model has it for the step that was reached (`tests/model.rs`), and
//! each trace must be a way through the model. The quick tests take the calls that are steps of the model; all others:
//!
//! ```text
//! cargo test --test every_call -- --ignored --nocapture
//! ```
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, io, panic, thread};

use common::model::{Content, Fault, Guard, Outcome, Outcomes, Role, Setup, Source, Status, Step, Target};
use common::network::use_up;
use common::trace::{Call, Injection, Replay, calls, traced};
use common::{Finished, Fixture, Running, Signal, directory, names_in, sha256};
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

const AT_ONCE: usize = 8;

/// After which a server that had no client waits for one.
const LONG_FOR_NOTHING: Duration = Duration::from_secs(5);

/// More than one piece each way, and more than a pipe holds.
const SIZE: usize = 200_000;

/// A transfer whose calls are looked at.
#[derive(Clone, Copy, Debug)]
struct Variant {
    name: &'static str,
    setup: Setup,
    has_old: bool,
}

const PLAIN: Setup = Setup {
    source: Source::File,
    target: Target::File,
    guard: Guard::Nothing,
    dials: Role::Receiver,
    has_relay: false,
    bug: None,
};

const VARIANTS: [Variant; 7] = [
    Variant { name: "plain", setup: PLAIN, has_old: true },
    Variant { name: "plain, a new file", setup: PLAIN, has_old: false },
    Variant { name: "with a key", setup: Setup { guard: Guard::Key, ..PLAIN }, has_old: true },
    Variant { name: "with a digest", setup: Setup { guard: Guard::Sha256, ..PLAIN }, has_old: true },
    Variant { name: "from a pipe", setup: Setup { source: Source::Stream, ..PLAIN }, has_old: true },
    Variant { name: "to standard output", setup: Setup { target: Target::Output, ..PLAIN }, has_old: true },
    Variant {
        name: "with a key, from a pipe to standard output",
        setup: Setup { source: Source::Stream, target: Target::Output, guard: Guard::Key, ..PLAIN },
        has_old: true,
    },
];

/// How one transfer ended, and what the traced side did.
struct Run {
    fixture: Fixture,
    client: Finished,
    server: Finished,
    /// Whether the server still listened when the client had ended.
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
        let fixture = Fixture::of_size(SIZE).in_mode(self.setup.guard == Guard::Key);
        let fixture = if self.has_old { fixture.with_old() } else { fixture };
        let log = directory();
        let file = log.path().join("log");
        let trace = |command: Command, of: Role| {
            if of == role { traced(&command, &file, injection) } else { Some(command) }
        };
        let mut server = trace(fixture.server_command(&self.server_arguments()), Role::Sender)?;
        let mut server = self.start_server(&mut server, &fixture);
        let is_listening = server.wait_for_line_or_end("listening on ").is_some();
        let mut client =
            trace(fixture.client_command(fixture.port(), &self.client_arguments(&fixture)), Role::Receiver)?;
        let client = Running::start(&mut client).finish();
        let was_listening = is_listening && self.use_up(&fixture);
        // An error that hits each thread that does a handshake leaves no client for the server.
        let waits = was_listening && !server.ends_within(LONG_FOR_NOTHING);
        if waits {
            // strace would not pass a signal on.
            let traced = calls(&fs::read_to_string(&file).unwrap())[0].thread;
            kill_process(Pid::from_raw(traced.cast_signed()).unwrap(), Signal::KILL).unwrap();
        }
        let server = server.finish();
        let text = fs::read_to_string(&file).unwrap();
        let is_injected = text.contains("(INJECTED)") || text.contains("+++ killed by SIGKILL +++");
        Some(Run { fixture, client, server, was_listening, waits, calls: calls(&text), is_injected, _log: log })
    }

    fn server_arguments(self) -> Vec<&'static str> {
        let source = if self.setup.source == Source::Stream { "--file=-" } else { "--file=des.txt" };
        vec!["--timeout=30s", source]
    }

    fn client_arguments(self, fixture: &Fixture) -> Vec<&'static str> {
        let mut arguments = vec!["--timeout=30s"];
        if self.setup.target == Target::Output {
            arguments.push("--output=-");
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

    /// Ends a server that still waits for its client. Returns whether it may have waited.
    fn use_up(self, fixture: &Fixture) -> bool {
        if self.setup.guard == Guard::Key {
            fixture.use_up(fixture.port());
            return true;
        }
        use_up(fixture.port())
    }
}

impl Run {
    fn status(finished: &Finished) -> Status {
        match finished.status {
            137 => Status::Killed,
            status => Status::Code(u8::try_from(status).unwrap()),
        }
    }

    /// What happened, as the model says it: a server with 1 that was listening may be one that had no client.
    fn outcomes(&self, variant: Variant) -> Result<Vec<Outcome>, String> {
        let (client, server) = (Self::status(&self.client), Self::status(&self.server));
        let new = self.fixture.bytes();
        let kind = |found: &[u8]| match found {
            found if found == new => Content::New,
            found if new.starts_with(found) => Content::Half,
            _ => Content::Mixed,
        };
        let names = names_in(self.fixture.destination_directory());
        let mut leftovers: Vec<_> = names.iter().filter(|name| *name != "destination.txt").collect();
        let is_part = |name: &String| name.starts_with(".half-close-") && name.ends_with(".part");
        let destination = match variant.setup.target {
            Target::Output if self.client.stdout.is_empty() => Content::Old,
            Target::Output => kind(&self.client.stdout),
            Target::File => match fs::read(self.fixture.destination()).ok() {
                found if found.as_deref() == self.fixture.old() => Content::Old,
                None => return Err("the old file is gone".to_owned()),
                Some(found) => kind(&found),
            },
        };
        let part = leftovers.pop_if(|name| is_part(name));
        let is_whole = |name: &String| fs::read(self.fixture.destination_directory().join(name)).unwrap() == new;
        if !leftovers.is_empty() || part.is_some_and(|name| !is_whole(name)) {
            return Err(format!("leftover files: {names:?}"));
        }
        if names_in(self.fixture.source_directory()) != ["des.txt"] {
            return Err("leftover files beside the source".to_owned());
        }
        let one = Outcome { client, destination, has_leftover: part.is_some(), server };
        let waiting = Outcome { server: Status::Waits, ..one };
        let may_have_waited = self.was_listening && server == Status::Code(1);
        Ok(if self.waits {
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
    let source = run.fixture.source();
    let mut replay = Replay::new(variant.setup, role, &source, run.fixture.destination_directory());
    replay.follow(&run.calls)?;
    let mut allowed = BTreeSet::new();
    let injection = injection.filter(|_| run.is_injected);
    let is_kill = injection.is_some_and(|injection| injection.effect == "signal=KILL");
    if !is_kill {
        allowed.extend(&model[&common::model::Case::default()]);
    }
    // A call that does not wait is not interrupted.
    let is_error = |injection: &Injection| injection.effect != "error=EINTR" || replay.hit.contains(&Step::Unread);
    if injection.is_some_and(is_error) {
        let (fault, steps) =
            if is_kill { (Fault::Kill(role), replay.next_steps()) } else { (Fault::Error(role), replay.hit.clone()) };
        allowed.extend(rows(model, fault, role, &steps));
        if injection.is_some_and(|injection| injection.effect == "error=ECONNRESET") {
            allowed.extend(rows(model, Fault::Reset, role, &steps));
        }
    }
    let outcomes = run.outcomes(variant)?;
    for finished in [&run.client, &run.server] {
        if finished.stderr().contains("panicked") && !replay.is_hit_elsewhere(&run.calls) {
            return Err("a panic".to_owned());
        }
    }
    if outcomes.iter().any(|outcome| allowed.contains(outcome)) {
        return Ok(replay.taken);
    }
    Err(format!(
        "{outcomes:?} is none of {allowed:?}, hit at {:?}, at {:?} after {:?}",
        replay.hit,
        replay.next_steps(),
        replay.taken
    ))
}

/// The calls of a side, by name and by how many of that name came before in the same thread, each once.
fn points(calls: &[Call]) -> BTreeSet<(String, usize)> {
    let mut counts: BTreeMap<(u32, &str), usize> = BTreeMap::new();
    let mut points = BTreeSet::new();
    // strace itself makes the first one.
    for call in calls.iter().filter(|call| call.name != "execve") {
        let count = counts.entry((call.thread, &call.name)).or_default();
        *count += 1;
        points.insert((call.name.clone(), *count));
    }
    points
}

/// Those of the program itself, behind the loader's and the runtime's.
fn own_calls(calls: &[Call]) -> BTreeSet<(String, usize)> {
    let is_last = |call: &Call| call.name == "rt_sigaction" && call.arguments.starts_with("SIGBUS, {");
    let start = calls.iter().rposition(is_last).unwrap();
    points(calls).difference(&points(&calls[..start])).cloned().collect()
}

/// Runs all of these, and fails with all that went wrong.
fn run_all(jobs: &[(Variant, Role, Injection)]) {
    let models: BTreeMap<&str, Outcomes> =
        VARIANTS.into_iter().map(|variant| (variant.name, variant.setup.explore(1))).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((variant, role, injection)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let what = format!("{}, {role:?}, {injection:?}", variant.name);
                    let Ok(run) = panic::catch_unwind(|| variant.run(*role, Some(injection)).unwrap()) else {
                        wrong.lock().unwrap().push(format!("{what}: see the panic"));
                        continue;
                    };
                    if let Err(why) = judge(*variant, *role, Some(injection), &run, &models[variant.name]) {
                        println!("{what}: {why}");
                        wrong.lock().unwrap().push(format!("{what}: {why}\n{:?}\n{:?}", run.client, run.server));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), jobs.len(), wrong.join("\n"));
}

#[test]
fn traces() {
    for variant in VARIANTS {
        let model = variant.setup.explore(1);
        for role in [Role::Sender, Role::Receiver] {
            let run = variant.run(role, None).unwrap();
            println!("{} {role:?} {} {:?}", variant.name, run.calls.len(), judge(variant, role, None, &run, &model));
        }
    }
}

#[test]
fn kills() {
    for variant in VARIANTS {
        if !variant.has_old {
            continue;
        }
        for role in [Role::Sender, Role::Receiver] {
            let mut jobs = Vec::new();
            let run = variant.run(role, None).unwrap();
            for (call, number) in points(&run.calls) {
                jobs.push((variant, role, Injection { call, number, effect: "signal=KILL".into() }));
            }
            let t = std::time::Instant::now();
            println!("{} {role:?} {}", variant.name, jobs.len());
            let _ = std::panic::catch_unwind(|| run_all(&jobs));
            println!("{} {role:?} {} {:?}", variant.name, jobs.len(), t.elapsed());
        }
    }
}

/// The errors that a call can have where the programs must know what to do.
fn errors(call: &str) -> &'static [&'static str] {
    match call {
        "read" | "pread64" => &["EINTR", "EIO"],
        "write" | "pwrite64" => &["EINTR", "EIO", "ENOSPC", "EDQUOT"],
        "recvfrom" | "recvmsg" => &["EINTR", "ECONNRESET", "ETIMEDOUT", "ENOMEM"],
        "sendto" | "writev" | "sendmsg" => &["EINTR", "ECONNRESET", "EPIPE", "ENOBUFS"],
        "splice" => &["EINTR", "EIO", "ENOSPC", "EDQUOT", "ECONNRESET", "ENOMEM", "ENOSYS"],
        "fsync" | "fdatasync" => &["EIO", "ENOSPC", "EDQUOT"],
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

#[test]
fn errs() {
    for variant in VARIANTS {
        if !variant.has_old {
            continue;
        }
        if std::env::var("V").is_ok_and(|v| v != variant.name) {
            continue;
        }
        for role in [Role::Sender, Role::Receiver] {
            let mut jobs = Vec::new();
            let run = variant.run(role, None).unwrap();
            for (call, number) in own_calls(&run.calls) {
                for error in errors(&call) {
                    jobs.push((
                        variant,
                        role,
                        Injection { call: call.clone(), number, effect: format!("error={error}") },
                    ));
                }
            }
            let t = std::time::Instant::now();
            println!("{} {role:?} {}", variant.name, jobs.len());
            let _ = std::panic::catch_unwind(|| run_all(&jobs));
            println!("{} {role:?} {} {:?}", variant.name, jobs.len(), t.elapsed());
        }
    }
}
