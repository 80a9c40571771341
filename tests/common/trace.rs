//! A program under strace: its system calls as the steps of the model, and faults at one of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::model::{Role, Setup, Source, Step, Target};
use super::processes::through;
use super::requirements::strace;

/// What strace does to the nth call of a name, by the first thread that gets there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Injection {
    pub call: String,
    pub number: usize,
    /// `signal=KILL` or `error=EIO`.
    pub effect: String,
}

/// The command under strace, which writes a line for each call to `log`; `None` if strace does not work here. The
/// programs that the command starts are not followed.
pub fn traced(command: &Command, log: &Path, injection: Option<&Injection>) -> Option<Command> {
    let strace = strace()?;
    let inject = injection.map(|Injection { call, number, effect }| format!("inject={call}:{effect}:when={number}"));
    let log = log.to_str().unwrap();
    let mut arguments = vec![strace.to_str().unwrap(), "--follow-forks", "-y", "-s", "8", "-b", "execve", "-o", log];
    arguments.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    Some(through(&arguments, command))
}

/// A line of strace's.
#[derive(Clone, Debug)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    pub arguments: String,
    /// `None` if it did not return.
    pub result: Option<String>,
}

impl Call {
    fn has_failed(&self) -> bool {
        self.result.as_deref().is_none_or(|result| result.starts_with('-'))
    }

    fn failed_with(&self, error: &str) -> bool {
        self.result.as_deref().is_some_and(|result| result.contains(error))
    }

    /// What the nth argument refers to if it is a descriptor, such as `socket:[7]`.
    fn file(&self, argument: usize) -> &str {
        let argument = self.arguments.split(", ").nth(argument).unwrap_or_default();
        opened(argument).unwrap_or_default()
    }

    /// What the descriptor refers to that it has returned.
    fn opened(&self) -> &str {
        self.result.as_deref().and_then(opened).unwrap_or_default()
    }
}

/// The text in `7<...>`.
fn opened(descriptor: &str) -> Option<&str> {
    let (number, rest) = descriptor.trim_start_matches("AT_FDCWD").split_once('<')?;
    number.chars().all(|c| c.is_ascii_digit()).then_some(rest.rsplit_once('>')?.0)
}

/// The calls in a log, in the order in which they began.
pub fn calls(log: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<u32, usize> = HashMap::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(at) = unfinished.remove(&thread) else { continue };
            let end = resumed.split_once(" resumed>").unwrap().1;
            let (arguments, result) = split_result(end);
            calls[at].arguments += arguments;
            calls[at].result = result;
        } else if let Some((name, rest)) = rest.split_once('(') {
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let is_unfinished = rest.ends_with("<unfinished ...>");
            let (arguments, result) =
                if is_unfinished { (rest.trim_end_matches(" <unfinished ...>"), None) } else { split_result(rest) };
            if is_unfinished {
                unfinished.insert(thread, calls.len());
            }
            calls.push(Call { thread, name: name.to_owned(), arguments: arguments.to_owned(), result });
        }
    }
    calls
}

/// The calls of a process that was killed at the call of this name, if those that its other threads had begun have done
/// their work.
pub fn with_begun_calls_done(calls: &[Call], killed_at: &str) -> Vec<Call> {
    let mut calls = calls.to_vec();
    for call in calls.iter_mut().filter(|call| call.result.is_none() && call.name != killed_at) {
        call.result = Some("0".to_owned());
    }
    calls
}

/// The arguments, and what the call has returned: not `?`, which stands for a call that did not return.
fn split_result(rest: &str) -> (&str, Option<String>) {
    let Some((arguments, result)) = rest.rsplit_once(" = ") else { return (rest, None) };
    let arguments = arguments.trim_end().trim_end_matches(')');
    (arguments, (!result.starts_with('?')).then(|| result.to_owned()))
}

/// What a call means for the hand-over.
struct Meaning {
    /// The steps that it may be: the first one that can come next.
    steps: &'static [Step],
    /// Whether it is something else where none of these can come next.
    is_optional: bool,
}

/// Follows the calls of one side through the steps of the model.
#[allow(clippy::struct_excessive_bools, reason = "what is known of a side is many bits")]
pub struct Replay {
    role: Role,
    setup: Setup,
    program: Vec<Step>,
    /// `des.txt`, and the directory of `destination.txt`.
    source: PathBuf,
    directory: PathBuf,
    sockets: Vec<String>,
    connection: String,
    /// What standard input, output and error are.
    standard: [String; 3],
    /// How many steps are done.
    done: usize,
    has_name: bool,
    /// Where a file without a name cannot be given one, it is copied into one that has.
    is_copied: bool,
    has_linger: bool,
    has_failed: bool,
    has_write_failed: bool,
    /// Every step that was taken.
    pub taken: Vec<Step>,
    /// Where the side may have been at a call that strace made fail.
    pub hit: Vec<Step>,
}

impl Replay {
    pub fn new(setup: Setup, role: Role, source: PathBuf, directory: &Path) -> Self {
        let mut program = setup.program(role);
        program.retain(|&step| step != Step::LingerAgain);
        Self {
            role,
            setup,
            program,
            source,
            directory: directory.canonicalize().unwrap(),
            sockets: Vec::new(),
            connection: String::new(),
            standard: [const { String::new() }; 3],
            done: 0,
            has_name: false,
            is_copied: false,
            has_linger: false,
            has_failed: false,
            has_write_failed: false,
            taken: Vec::new(),
            hit: Vec::new(),
        }
    }

    /// Follows all calls. Returns whether one of them was a step.
    ///
    /// # Errors
    /// Returns the first call that the model does not allow where it came, and why.
    pub fn follow(&mut self, calls: &[Call]) -> Result<bool, String> {
        let before = self.taken.len();
        for call in calls {
            self.follow_one(call).map_err(|why| format!("{why}: {call:?}, after {:?}", self.taken))?;
        }
        Ok(self.taken.len() > before)
    }

    /// Whether a call is on another kind of socket than TCP's, as those of the thread that waits for signals.
    fn is_elsewhere(&self, call: &Call) -> bool {
        let file = call.file(0);
        file.starts_with("socket:") && file != self.connection && !self.sockets.iter().any(|it| it == file)
    }

    /// Whether strace made such a call fail, too.
    pub fn is_hit_elsewhere(&self, calls: &[Call]) -> bool {
        calls.iter().any(|call| call.failed_with("(INJECTED)") && self.is_elsewhere(call))
    }

    /// Where this side may be after its last call.
    pub fn next_steps(&self) -> Vec<Step> {
        let mut next: Vec<_> = self.reachable().map(|at| self.program[at]).collect();
        // After a piece comes another one.
        match self.done.checked_sub(1).map(|last| self.program[last]) {
            Some(Step::Send) => next.push(Step::Read),
            Some(Step::Write) => next.push(Step::Receive),
            _ => {}
        }
        // The command may run before the call that starts it has returned.
        if next.contains(&Step::Begin) {
            next.push(Step::Receive);
        }
        next
    }

    /// The steps up to the next one that cannot be left out, that one included.
    fn reachable(&self) -> impl Iterator<Item = usize> {
        let end = self.program.len() - 1;
        let last = (self.done..end).find(|&at| !self.may_be_left_out(self.program[at]));
        self.done.min(end)..=last.unwrap_or(end)
    }

    /// Whether the step can be taken without a call that shows it.
    fn may_be_left_out(&self, step: Step) -> bool {
        let sends = self.role == Role::Sender;
        match step {
            // A lock in memory, a comparison, a look at a connection that is in order, what need not be changed, and the
            // bytes of an empty file.
            Step::Defer | Step::Expected | Step::Check | Step::Drain | Step::Attributes | Step::Send | Step::Write => {
                true
            }
            // What the receiver has can arrive with the end of its handshake.
            Step::Hear => sends,
            // A stream that ends has ended.
            Step::Ended => self.setup.source == Source::Stream,
            Step::Open => {
                if sends {
                    self.setup.source != Source::File
                } else {
                    self.setup.target != Target::File
                }
            }
            // Where there are no unnamed files it has a name from the start.
            Step::Link => self.has_name,
            _ => false,
        }
    }

    fn follow_one(&mut self, call: &Call) -> Result<(), String> {
        self.notice(call);
        let meaning = self.meaning(call);
        let position = meaning.as_ref().and_then(|meaning| self.position_of(meaning.steps));
        if call.failed_with("(INJECTED)") && !self.has_failed {
            // What is not a step belongs to the last one or to the next one.
            let last = self.done.checked_sub(1).map(|last| self.program[last]);
            let near = || self.next_steps().into_iter().chain(last).collect();
            self.hit.extend(position.map_or_else(near, |position| vec![self.program[position]]));
            // A look that does not wait, wherever it is taken.
            self.hit.extend(call.arguments.contains("MSG_PEEK").then_some(Step::Unread));
        }
        let Some(Meaning { steps, is_optional }) = meaning else { return Ok(()) };
        // With a key there may be an alert that says why.
        let is_optional = is_optional || (self.has_write_failed && steps.contains(&Step::Welcome));
        self.has_write_failed |= steps.contains(&Step::Hello) && call.has_failed();
        match position {
            _ if self.has_failed => self.follow_failed(call, steps, is_optional),
            Some(position) => {
                self.follow_step(call, position);
                Ok(())
            }
            None if steps == [Step::LingerOn] => {
                self.has_failed = !self.has_linger;
                self.has_linger = true;
                self.taken.extend(self.has_failed.then_some(Step::LingerAgain));
                Ok(())
            }
            None if matches!(steps, [Step::Close | Step::Exit]) => {
                self.has_failed = true;
                let ends_well = self.has_linger || self.connection.is_empty() || self.is_done(Step::Shutdown);
                if ends_well { Ok(()) } else { Err("it has failed and would end in FIN".to_owned()) }
            }
            None if is_optional => Ok(()),
            None => Err(format!("{steps:?} cannot come here")),
        }
    }

    /// A side that has failed only ends.
    fn follow_failed(&self, call: &Call, steps: &[Step], is_optional: bool) -> Result<(), String> {
        let is_end = matches!(steps, [Step::Close | Step::Exit | Step::LingerOn]);
        let is_alert = self.setup.guard.has_key() && steps.contains(&Step::Hello);
        if is_end || is_alert || is_optional || call.has_failed() {
            return Ok(());
        }
        Err("it has failed, and goes on".to_owned())
    }

    fn follow_step(&mut self, call: &Call, position: usize) {
        let step = self.program[position];
        let has_happened = match step {
            Step::Exit => true,
            // From here on there may be a connection.
            Step::Accept => call.name != "listen" && !call.has_failed(),
            Step::Dial => !call.has_failed() || call.failed_with("EINPROGRESS"),
            // A look has been taken whatever it has shown, and thanks are given up without an error.
            Step::Unread | Step::Thank => call.result.is_some(),
            _ => !call.has_failed(),
        };
        if has_happened { self.take(position) } else { self.done = self.done.max(position) }
    }

    fn take(&mut self, position: usize) {
        let step = self.program[position];
        match step {
            Step::LingerOn => self.has_linger = true,
            Step::LingerOff => self.has_linger = false,
            _ => {}
        }
        self.done = position + 1;
        self.taken.push(step);
    }

    /// Whether a connection that has failed was one of a stranger: it had something to show first.
    fn may_listen_on(&self) -> bool {
        self.has_failed && (self.setup.guard.has_key() || self.setup.dials == Role::Sender)
    }

    fn is_done(&self, step: Step) -> bool {
        self.program[..self.done].contains(&step)
    }

    /// Where one of these steps comes next: the last one again, the next one, or another piece.
    fn position_of(&self, steps: &[Step]) -> Option<usize> {
        let is_one = |&at: &usize| steps.contains(&self.program[at]);
        let last = self.done.checked_sub(1);
        // What is read behind the reply is drained.
        let again = last.filter(is_one).filter(|&last| self.program[last] != Step::Reply);
        let piece = last.and_then(|last| match self.program[last] {
            Step::Read | Step::Send | Step::Ended => self.program.iter().position(|&step| step == Step::Read),
            // A part that is not in its place is opened again.
            Step::Lock => Some(0),
            Step::CutPart | Step::Receive | Step::Write => self.program.iter().position(|&step| step == Step::Receive),
            _ => None,
        });
        let next = self.reachable().find(is_one);
        let agreement = next.filter(|&at| matches!(self.program[at], Step::Tell | Step::Hear));
        // The second step of a piece may follow a check in the middle, after which there must be another one.
        agreement.or(again).or(next).or_else(|| piece.into_iter().flat_map(|first| [first, first + 1]).find(is_one))
    }

    fn notice(&mut self, call: &Call) {
        match call.name.as_str() {
            // That of the runtime, before everything else.
            "poll" if self.standard[0].is_empty() => {
                for (number, standard) in self.standard.iter_mut().enumerate() {
                    let of = call.arguments.split_once(&format!("fd={number}"));
                    of.and_then(|(_, rest)| opened(rest.split_once(',')?.0)).unwrap_or_default().clone_into(standard);
                }
            }
            "socket" if call.arguments.starts_with("AF_INET") && call.arguments.contains("SOCK_STREAM") => {
                self.sockets.push(call.opened().to_owned());
            }
            "connect" if self.sockets.iter().any(|it| it == call.file(0)) => {
                call.file(0).clone_into(&mut self.connection);
            }
            "openat" | "open"
                if !self.setup.resumes && self.role == Role::Receiver && call.opened().contains(".half-close-") =>
            {
                self.has_name = true;
                self.is_copied = self.is_done(Step::LingerOff);
            }
            "accept4" if !call.has_failed() && (self.connection.is_empty() || self.may_listen_on()) => {
                call.opened().clone_into(&mut self.connection);
                let accept = self.program.iter().position(|&step| step == Step::Accept);
                self.done = self.done.min(accept.unwrap_or(self.done));
                (self.has_failed, self.has_write_failed, self.has_linger) = (false, false, true);
            }
            _ => {}
        }
    }

    /// The table that is to be changed when the programs use other system calls.
    fn meaning(&self, call: &Call) -> Option<Meaning> {
        use Step::{
            Accept, Attributes, Begin, Check, Close, CloseNotify, Compare, CutPart, Dial, Drain, Ended, Exit, Finish,
            Hear, Hello, LingerOff, LingerOn, Link, Lock, Open, Read, Receive, Rename, Reply, Send, Shutdown, Sync,
            SyncDirectory, Tell, Thank, Unread, Welcome, Write,
        };
        let must = |steps| Some(Meaning { steps, is_optional: false });
        let may = |steps| Some(Meaning { steps, is_optional: true });
        let on_connection = |argument| !self.connection.is_empty() && call.file(argument) == self.connection;
        let is_socket = self.sockets.iter().any(|it| it == call.file(0)) || on_connection(0);
        let own = Path::new(call.file(0));
        let is_source = match self.setup.source {
            Source::File => own == self.source,
            Source::Stream => call.file(0) == self.standard[0],
            Source::Command => {
                call.file(0).starts_with("pipe:") && !self.standard.iter().any(|standard| standard == call.file(0))
            }
        };
        let is_in_directory = |file: &str| Path::new(file).parent() == Some(&self.directory);
        let is_destination = |argument| match self.setup.target {
            Target::File => is_in_directory(call.file(argument)),
            Target::Output => call.file(argument) == self.standard[1],
            // Neither its output nor that of this program.
            Target::Command => {
                let file = call.file(argument);
                file.starts_with("pipe:") && !self.standard.iter().any(|standard| standard == file)
            }
        };
        let sender = self.role == Role::Sender;
        match call.name.as_str() {
            "setsockopt" if is_socket && call.arguments.contains("SO_LINGER, {l_onoff=1, l_linger=0}") => {
                must(&[LingerOn])
            }
            "setsockopt" if is_socket && call.arguments.contains("SO_LINGER, {l_onoff=0") => must(&[LingerOff]),
            // Another client's.
            "accept4" if !self.connection.is_empty() && self.connection != call.opened() => None,
            "listen" | "accept4" => must(&[Accept]),
            "connect" if is_socket => must(&[Dial]),
            // There is one before the first byte, too.
            "recvfrom" if on_connection(0) && call.arguments.contains("MSG_PEEK") => may(&[Unread]),
            // It did not return, and its flags are not known.
            "recvfrom" if on_connection(0) && call.arguments.split(", ").count() < 4 => {
                may(&[Welcome, Hear, Receive, Reply, Drain, Unread])
            }
            "recvfrom" | "read" | "recvmsg" if on_connection(0) => {
                must(&[Welcome, Hear, Receive, Reply, Drain, Unread])
            }
            "sendto" | "write" | "sendmsg" | "writev" if on_connection(0) => {
                must(&[Hello, Tell, Send, CloseNotify, Thank])
            }
            "splice" if on_connection(0) => must(&[Receive]),
            "shutdown" if on_connection(0) => must(&[Shutdown]),
            "getsockopt" if on_connection(0) && call.arguments.contains("SO_ERROR") => may(&[Check]),
            "close" if on_connection(0) => must(&[Close]),
            "exit_group" => must(&[Exit]),
            "openat" | "open" if sender && Path::new(call.opened()) == self.source => must(&[Open]),
            "pread64" | "read" | "splice" | "sendfile" if sender && is_source => may(&[Compare, Read]),
            "statx" | "newfstatat" | "fstat" if sender && is_source => may(&[Ended]),
            "wait4" | "waitid" if sender && self.setup.source == Source::Command => may(&[Ended]),
            "clone3" | "clone" | "vfork" if !sender && !call.arguments.contains("CLONE_THREAD") => must(&[Begin]),
            "wait4" | "waitid" if !sender && self.setup.target == Target::Command => may(&[Finish]),
            "openat" | "open" | "write" | "copy_file_range" | "fchown" | "fchmod" | "fsync"
                if self.is_copied && !self.is_done(Rename) && (is_destination(0) || own == self.directory) =>
            {
                None
            }
            "openat" | "open" if !sender && is_in_directory(call.opened()) && !call.arguments.contains("O_RDONLY") => {
                must(&[Open])
            }
            "write" | "pwrite64" if !sender && is_destination(0) => must(&[Write]),
            "splice" if !sender && is_destination(2) => must(&[Write]),
            "fchown" | "fchmod" | "fsetxattr" | "fremovexattr" if !sender && is_destination(0) => may(&[Attributes]),
            "flock" if !sender && is_destination(0) => must(&[Lock]),
            "ftruncate" if !sender && is_destination(0) => must(&[CutPart]),
            "fsync" if !sender && own == self.directory => must(&[SyncDirectory]),
            "fsync" if !sender && is_destination(0) => must(&[Sync]),
            "linkat" => must(&[Link]),
            "rename" | "renameat" | "renameat2" => must(&[Rename]),
            _ => None,
        }
    }
}
