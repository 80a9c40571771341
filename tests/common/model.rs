//! The hand-over of one file as a model: a sender, a receiver, the line between them, and every order in which their
//! steps and up to two faults can follow each other. [`Setup::explore`] walks all of it, breadth first, and returns the
//! exact outcomes for each fault at each step; `tests/model.rs` compares them with a table, and `tests/every_call.rs`
//! with what the programs do.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Pieces of the file: one is half of it.
const PIECES: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Sender,
    Receiver,
}

use Role::{Receiver, Sender};

impl Role {
    pub fn other(self) -> Self {
        if self == Sender { Receiver } else { Sender }
    }
}

/// What a side does next, in the words of "System calls, in order" in docs/design.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The source, or the file that is received into.
    Open,
    /// The part, so that no other client works on it.
    Lock,
    LingerOn,
    Dial,
    Accept,
    /// The handshake with a key: `Hello` sends, `Welcome` waits.
    Hello,
    Welcome,
    /// From where to go on: the receiver tells what it has, and the sender, which compares that with its source, from
    /// where it sends. `Hear` waits for the other one.
    Tell,
    Hear,
    Compare,
    /// Cuts the part to what is of this source.
    CutPart,
    Read,
    Send,
    /// Did the source end well? A file is unchanged, a command ended with 0.
    Ended,
    /// Did the receiver send something before the end?
    Unread,
    /// From here on signals wait; one that came first ends the program.
    Defer,
    LingerOff,
    CloseNotify,
    Shutdown,
    Reply,
    Drain,
    /// Starts the command.
    Begin,
    Receive,
    Write,
    /// `--size` and `--sha256`.
    Expected,
    Attributes,
    Sync,
    /// The end of its input makes a command complete; then its exit status.
    Finish,
    Link,
    Rename,
    SyncDirectory,
    Thank,
    /// Did the thanks meet a reset?
    Check,
    Close,
    Exit,
    /// After a failure to publish; then `Close`.
    LingerAgain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    File,
    Stream,
    Command,
}

/// Where the receiver puts the bytes: into a file, to standard output, or into a command, which takes what it has got for
/// all of it when its input ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    File,
    Output,
    Command,
}

/// What the receiver knows of the file besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    Nothing,
    Size,
    Sha256,
    Key,
    KeyAndSha256,
}

impl Guard {
    pub fn has_key(self) -> bool {
        matches!(self, Self::Key | Self::KeyAndSha256)
    }
}

/// A mistake in the order of steps, planted to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    LingerLeftOnAtTheHalfClose,
    NoLingerOnTheListener,
    NoLingerAtTheClient,
    ReplyBeforePublish,
    HalfCloseWithoutDeferredSignals,
    CloseNotifyBeforeTheUnreadCheck,
    StreamIsOfferedAgain,
    PartIsTrustedByItsLength,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    Kill(Role),
    /// A signal that ends the program.
    Interrupt(Role),
    /// A signal to the sender and to the program that writes its stream.
    InterruptGroup,
    /// That program dies or fails, and nothing else does.
    ProducerDies,
    /// The command that takes the file dies or fails.
    ConsumerFails,
    /// A system call fails: a disk error, for example.
    Error(Role),
    /// All bytes of the source.
    Change,
    /// Nothing arrives any more.
    Cut,
    /// The network resets both sides.
    Reset,
    /// This side is too slow for the other one's `--timeout`.
    Stall(Role),
    /// A byte is altered on the way.
    Alter,
}

impl Fault {
    pub const ALL: [Self; 15] = [
        Self::Kill(Sender),
        Self::Interrupt(Sender),
        Self::InterruptGroup,
        Self::ProducerDies,
        Self::Error(Sender),
        Self::Change,
        Self::Kill(Receiver),
        Self::Interrupt(Receiver),
        Self::ConsumerFails,
        Self::Error(Receiver),
        Self::Cut,
        Self::Reset,
        Self::Stall(Sender),
        Self::Stall(Receiver),
        Self::Alter,
    ];
}

impl Fault {
    /// The side to which it happens, if it is one.
    pub fn side(self) -> Option<Role> {
        match self {
            Self::Kill(role) | Self::Interrupt(role) | Self::Error(role) | Self::Stall(role) => Some(role),
            Self::InterruptGroup | Self::ProducerDies | Self::Change => Some(Sender),
            Self::ConsumerFails => Some(Receiver),
            Self::Cut | Self::Reset | Self::Alter => None,
        }
    }
}

/// How a side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    Code(u8),
    Killed,
    Interrupted,
    /// It listens, and what came did not count, or may come back.
    Waits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    Old,
    /// All pieces, as the source had them at one moment.
    New,
    Half,
    /// Altered, or pieces of two versions.
    Mixed,
}

/// Of the file-client, the destination and the file-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Outcome {
    pub client: Status,
    pub destination: Content,
    /// A temporary file is left beside it, or the part that is kept.
    pub has_leftover: bool,
    pub server: Status,
}

/// The faults and, for a single one, where the sender and the receiver were when it happened, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Case {
    pub faults: [Option<Fault>; 2],
    pub at: [Option<Step>; 2],
}

pub type Outcomes = BTreeMap<Case, BTreeSet<Outcome>>;

/// One way to use the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub source: Source,
    pub target: Target,
    pub guard: Guard,
    pub dials: Role,
    /// A relay between them turns RST into FIN.
    pub has_relay: bool,
    /// `--resume`: the receiver, which dials, has the first piece from an earlier attempt.
    pub resumes: bool,
    pub bug: Option<Bug>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    /// A piece as it was at first, as it is since the source changed, and an altered one.
    First = 1,
    Second,
    Altered,
    Hello,
    Notify,
    Thanks,
    Fin,
    Rst,
}

/// What is on the way to a side or waits in its socket: four bits an item.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Queue(u32);

impl Queue {
    fn len(self) -> u32 {
        (32 - self.0.leading_zeros()).div_ceil(4)
    }

    fn first(self) -> u32 {
        self.0 & 15
    }

    fn rest(self) -> Self {
        Self(self.0 >> 4)
    }

    fn with(self, item: Item) -> Self {
        Self(self.0 | (item as u32) << (4 * self.len()))
    }

    fn with_fin(self) -> Self {
        if self.has(Item::Fin) { self } else { self.with(Item::Fin) }
    }

    fn has(self, item: Item) -> bool {
        (0..self.len()).any(|at| self.0 >> (4 * at) & 15 == item as u32)
    }

    fn has_data(self) -> bool {
        (0..self.len()).any(|at| self.0 >> (4 * at) & 15 < Item::Fin as u32)
    }

    /// Its beginnings, of every length.
    fn prefixes(self) -> impl Iterator<Item = Self> {
        (0..=self.len()).map(move |length| Self(self.0 & !u32::MAX.checked_shl(4 * length).unwrap_or(0)))
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "a state is many bits")]
struct Side {
    at: u8,
    has_linger: bool,
    is_deferred: bool,
    has_signal: bool,
    is_closed: bool,
    /// What it ends with if nothing else happens.
    status: u8,
    end: Option<Status>,
    /// What is to be read.
    incoming: Queue,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "a state is many bits")]
struct State {
    case: Case,
    sides: [Side; 2],
    is_connected: bool,
    is_cut: bool,
    /// Something from the sender can never arrive, nor be acknowledged.
    has_lost: bool,
    stalled: Option<Role>,
    is_changed: bool,
    has_producer_died: bool,
    has_consumer_failed: bool,
    /// The pieces that were read, and those that have arrived.
    read: Queue,
    received: Queue,
    /// Whether the sender has found that the part is of its source.
    goes_on: bool,
    has_early_reply: bool,
    destination: Content,
    has_leftover: bool,
}

impl Setup {
    /// The steps of one side in order. `LingerAgain` stands behind the end: only a failure leads there.
    pub fn program(self, role: Role) -> Vec<Step> {
        use Step::{
            Accept, Attributes, Begin, Check, Close, CloseNotify, Compare, CutPart, Defer, Dial, Drain, Ended, Exit,
            Expected, Finish, Hear, Hello, LingerAgain, LingerOff, LingerOn, Link, Lock, Open, Read, Receive, Rename,
            Reply, Send, Shutdown, Sync, SyncDirectory, Tell, Thank, Unread, Welcome, Write,
        };
        let dials = self.dials == role;
        let when = |is_so: bool, steps: &'static [Step]| if is_so { steps } else { &[] };
        let key = |steps| when(self.guard.has_key(), steps);
        let begin = [LingerOn, if dials { Dial } else { Accept }];
        let mut steps = match role {
            Sender => [
                &[Open],
                &begin[..],
                key(&[Welcome, Hello, Welcome]),
                when(self.resumes, &[Hear, Compare, Tell]),
                &[Read, Send, Ended],
                // The last bytes of a file go out once it is known to be unchanged.
                when(self.source == Source::File, &[Send]),
                &[Unread, Defer, LingerOff],
                key(&[CloseNotify]),
                &[Shutdown, Reply, Drain, Close, Exit],
            ]
            .concat(),
            Receiver => [
                &[Open],
                when(self.resumes, &[Lock]),
                &begin[..],
                key(&[Hello, Welcome, Hello]),
                when(self.resumes, &[Tell, Hear, CutPart]),
                &[Begin, Receive, Write, Expected],
                // A part may stay what it is, and gets the rights of the file with its name.
                when(!self.resumes, &[Attributes]),
                &[Sync, Finish, Defer, LingerOff],
                when(self.resumes, &[Attributes, Sync]),
                when(!self.resumes, &[Link]),
                &[Rename, SyncDirectory, Thank, Check, Close, Exit, LingerAgain],
            ]
            .concat(),
        };
        let of_a_file = |step| matches!(step, Attributes | Sync | Link | Rename | SyncDirectory | LingerAgain);
        let of_a_command = |step| matches!(step, Begin | Finish);
        steps.retain(|&step| match self.target {
            Target::File => !of_a_command(step),
            Target::Output => !of_a_command(step) && !of_a_file(step),
            Target::Command => !of_a_file(step),
        });
        let listens = !dials;
        match self.bug {
            Some(Bug::LingerLeftOnAtTheHalfClose) if role == Sender => steps.retain(|&step| step != LingerOff),
            Some(Bug::NoLingerOnTheListener) if listens => steps.retain(|&step| step != LingerOn),
            Some(Bug::NoLingerAtTheClient) if role == Receiver => steps.retain(|&step| step != LingerOn),
            Some(Bug::ReplyBeforePublish) if role == Receiver => put_before(&mut steps, Thank, Link),
            Some(Bug::HalfCloseWithoutDeferredSignals) if role == Sender => steps.retain(|&step| step != Defer),
            Some(Bug::CloseNotifyBeforeTheUnreadCheck) if role == Sender => put_before(&mut steps, CloseNotify, Unread),
            _ => {}
        }
        steps
    }

    /// All outcomes with at most `faults` of them. With one, each case says where the sides were.
    ///
    /// # Panics
    /// Panics if a side can wait for ever.
    pub fn explore(self, faults: usize) -> Outcomes {
        let model = Model { setup: self, programs: [self.program(Sender), self.program(Receiver)], faults };
        let first = State::first(self);
        let (mut seen, mut next) = (HashSet::<_, BuildHasherDefault<Folded>>::default(), VecDeque::from([first]));
        let mut outcomes = Outcomes::new();
        while let Some(state) = next.pop_front() {
            if let [Some(server), Some(client)] = state.sides.map(|side| side.end) {
                let State { destination, has_leftover, .. } = state;
                let outcome = Outcome { client, destination, has_leftover, server };
                outcomes.entry(state.case).or_default().insert(outcome);
                continue;
            }
            let mut after = Vec::new();
            for role in [Sender, Receiver] {
                model.step(state, role, &mut after);
            }
            assert!(!after.is_empty(), "waits for ever: {:?} {:?}", self, state.sides.map(|side| side.at));
            model.fail(state, &mut after);
            next.extend(after.into_iter().filter(|&state| seen.insert(state)));
        }
        outcomes
    }
}

fn put_before(steps: &mut Vec<Step>, step: Step, other: Step) {
    if let Some(at) = steps.iter().position(|&it| it == step) {
        steps.remove(at);
        let to = steps.iter().position(|&it| it == other).unwrap();
        steps.insert(to, step);
    }
}

/// The standard hasher is slow in a debug build.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl State {
    fn first(setup: Setup) -> Self {
        let side = Side::default();
        Self {
            case: Case::default(),
            sides: [side; 2],
            is_connected: false,
            is_cut: false,
            has_lost: false,
            stalled: None,
            is_changed: false,
            has_producer_died: false,
            has_consumer_failed: false,
            read: Queue::default(),
            received: if setup.resumes { Queue::default().with(Item::First) } else { Queue::default() },
            goes_on: false,
            has_early_reply: false,
            destination: Content::Old,
            has_leftover: setup.resumes,
        }
    }

    /// A piece of the source as it is now.
    fn piece(&self) -> Item {
        if self.is_changed { Item::Second } else { Item::First }
    }

    /// What was passed on of what has arrived.
    fn written(&self, at: Step) -> Queue {
        let last = self.received.len().saturating_sub(1);
        if at == Step::Write { Queue(self.received.0 & !(15 << (4 * last))) } else { self.received }
    }
}

impl Queue {
    /// What these pieces are, all in all.
    fn content(self) -> Content {
        let has = |item| self.has(item);
        match self.len() {
            _ if has(Item::Altered) || (has(Item::First) && has(Item::Second)) => Content::Mixed,
            length if length < u32::from(PIECES) => Content::Half,
            _ => Content::New,
        }
    }
}

struct Model {
    setup: Setup,
    programs: [Vec<Step>; 2],
    /// The most that may happen.
    faults: usize,
}

impl Model {
    fn at(&self, state: &State, role: Role) -> Step {
        self.programs[role as usize][usize::from(state.sides[role as usize].at)]
    }

    fn position(&self, role: Role, step: Step) -> Option<u8> {
        self.programs[role as usize].iter().position(|&it| it == step).map(|at| u8::try_from(at).unwrap())
    }

    /// The state with this side at a step, or at the next one.
    fn go(&self, mut state: State, role: Role, to: Option<Step>) -> State {
        let side = &mut state.sides[role as usize];
        side.at = to.map_or(side.at + 1, |to| self.position(role, to).unwrap());
        state
    }

    /// What the next step of this side can lead to: nothing if it has ended or waits.
    fn step(&self, state: State, role: Role, after: &mut Vec<State>) {
        let side = state.sides[role as usize];
        if side.end.is_some() {
            return;
        }
        if side.has_signal && !side.is_deferred {
            self.end(state, role, Status::Interrupted, after);
        }
        let mut next = self.go(state, role, None);
        let own = &mut next.sides[role as usize];
        match self.at(&state, role) {
            Step::LingerOn => own.has_linger = true,
            Step::LingerOff => own.has_linger = false,
            Step::LingerAgain => {
                next = self.go(state, role, Some(Step::Close));
                next.sides[role as usize].has_linger = true;
                next.sides[role as usize].is_deferred = false;
            }
            Step::Dial => {
                let listener = state.sides[role.other() as usize];
                if listener.end.is_some() {
                    return self.end(state, role, Status::Code(1), after);
                }
                if self.at(&state, role.other()) != Step::Accept {
                    return;
                }
                next.is_connected = true;
            }
            Step::Accept if !state.is_connected => {
                if state.sides[role.other() as usize].end.is_some() {
                    self.end(state, role, Status::Waits, after);
                }
                return;
            }
            Step::Hello | Step::Tell => return self.write(state, role, Item::Hello, after),
            Step::Send => return self.write(state, role, last(state.read), after),
            Step::CloseNotify => return self.write(state, role, Item::Notify, after),
            Step::Thank => return self.write(state, role, Item::Thanks, after),
            Step::Shutdown => return self.write(state, role, Item::Fin, after),
            Step::Welcome | Step::Hear | Step::Receive | Step::Reply | Step::Drain => {
                return self.wait(state, role, after);
            }
            Step::Compare if self.is_same(&state) => {
                next.goes_on = true;
                next.read = Queue::default().with(state.piece());
            }
            Step::CutPart if !state.goes_on => next.received = Queue::default(),
            Step::Read => return self.read(state, after),
            Step::Ended if self.has_source_failed(&state) => return self.end_badly(state, role, after),
            Step::Unread => {
                if own.incoming.has(Item::Rst) {
                    self.lose(state, role, after);
                }
                next.has_early_reply = own.incoming.has_data();
            }
            Step::Defer if own.has_signal => return,
            Step::Defer => own.is_deferred = true,
            Step::Write | Step::Finish if state.has_consumer_failed => return self.end_badly(state, role, after),
            Step::Finish => next.destination = next.received.content(),
            Step::Write => {
                next = self.go(state, role, Some(Step::Receive));
                if self.setup.target == Target::Output {
                    next.destination = next.received.content();
                }
            }
            Step::Expected if !self.is_expected(&state) => {
                // A part of which nothing is of use is removed.
                return self.end_badly(State { has_leftover: false, ..state }, role, after);
            }
            Step::Expected if self.setup.target == Target::Output => next.destination = next.received.content(),
            Step::Link => next.has_leftover = true,
            Step::Rename => {
                next.has_leftover = false;
                next.destination = next.received.content();
            }
            Step::Close => return self.close(next, role, after),
            Step::Exit => {
                return self.end(state, role, Status::Code(side.status), after);
            }
            Step::Open
            | Step::Lock
            | Step::Compare
            | Step::CutPart
            | Step::Accept
            | Step::Ended
            | Step::Begin
            | Step::Expected
            | Step::Attributes
            | Step::Sync
            | Step::SyncDirectory
            | Step::Check => {}
        }
        after.push(next);
    }

    /// Reads the next piece of the source, or comes to its end.
    fn read(&self, state: State, after: &mut Vec<State>) {
        let end = self.go(state, Sender, Some(Step::Ended));
        let is_whole = |read: Queue| read.len() == u32::from(PIECES);
        if is_whole(state.read) || state.has_producer_died {
            after.push(end);
        }
        if !is_whole(state.read) {
            let read = state.read.with(state.piece());
            let is_held_back = self.setup.source == Source::File && is_whole(read);
            let next = if is_held_back { end } else { self.go(state, Sender, None) };
            after.push(State { read, ..next });
        }
    }

    /// Whether the part is the first piece of what the source is now, as the sender sees it.
    fn is_same(&self, state: &State) -> bool {
        let is_trusted = self.setup.bug == Some(Bug::PartIsTrustedByItsLength);
        self.setup.source == Source::File && (!state.is_changed || is_trusted)
    }

    /// Whether a server waits for a client that has broken off. What can be read only once has no beginning then.
    fn may_come_back(&self) -> bool {
        let is_repeatable = self.setup.source != Source::Stream || self.setup.bug == Some(Bug::StreamIsOfferedAgain);
        self.setup.resumes && is_repeatable
    }

    fn has_source_failed(&self, state: &State) -> bool {
        match self.setup.source {
            Source::File => state.is_changed && state.read.has(Item::First),
            Source::Stream => false,
            Source::Command => state.has_producer_died,
        }
    }

    /// Whether what has arrived may be the file, as far as the receiver knows.
    fn is_expected(&self, state: &State) -> bool {
        let has_all = state.received.len() == u32::from(PIECES);
        match self.setup.guard {
            // An empty file does not replace one that has bytes.
            Guard::Nothing => state.received.len() > 0 || self.setup.target != Target::File,
            Guard::Size => has_all,
            Guard::Sha256 | Guard::KeyAndSha256 => {
                has_all && !state.received.has(Item::Second) && !state.received.has(Item::Altered)
            }
            Guard::Key => true,
        }
    }

    /// Writes to the other side. It may be noticed that that fails; then only thanks are given up without an error.
    fn write(&self, state: State, role: Role, item: Item, after: &mut Vec<State>) {
        let [own, peer] = [state.sides[role as usize], state.sides[role.other() as usize]];
        let is_piece = matches!(item, Item::First | Item::Second);
        // Little always finds room.
        let may_stall = is_piece || item == Item::Notify;
        let is_stalled = state.is_cut || state.stalled == Some(role.other());
        if own.incoming.has(Item::Rst) || (may_stall && is_stalled) {
            match item {
                Item::Thanks => after.push(self.go(state, role, None)),
                _ => self.lose(state, role, after),
            }
        }
        let is_last = state.sides[role as usize].at > self.position(role, Step::Ended).unwrap_or(u8::MAX);
        let to = if is_piece && !is_last { Some(Step::Read) } else { None };
        let mut next = self.go(state, role, to);
        next.has_lost |= state.is_cut && role == Sender;
        let is_gone = peer.is_closed || peer.end.is_some();
        if !state.is_cut && !is_gone && !peer.incoming.has(Item::Rst) {
            let incoming = &mut next.sides[role.other() as usize].incoming;
            *incoming = incoming.with(item);
        } else if !state.is_cut && is_gone && item != Item::Fin && !own.incoming.has(Item::Rst) {
            // A socket that was closed answers with RST.
            let incoming = &mut next.sides[role as usize].incoming;
            *incoming = if self.setup.has_relay { incoming.with_fin() } else { incoming.with(Item::Rst) };
        }
        if item == Item::Fin {
            next.sides[role as usize].is_deferred = false;
        }
        after.push(next);
    }

    /// Waits for something from the other side.
    fn wait(&self, state: State, role: Role, after: &mut Vec<State>) {
        let step = self.at(&state, role);
        let incoming = state.sides[role as usize].incoming;
        let has_key = self.setup.guard.has_key();
        if incoming.len() == 0 {
            if state.is_cut || state.stalled == Some(role.other()) {
                match step {
                    Step::Reply => self.miss_reply(state, after),
                    Step::Drain => after.push(self.go(state, role, None)),
                    _ => self.lose(state, role, after),
                }
            }
            return;
        }
        let item = incoming.first();
        let mut taken = state;
        taken.sides[role as usize].incoming = incoming.rest();
        let is = |other: Item| item == other as u32;
        match step {
            Step::Reply if is(Item::Thanks) => {
                let (status, to) = if state.has_early_reply { (3, Step::Drain) } else { (0, Step::Close) };
                after.push(self.replied(taken, status, to));
            }
            Step::Reply if self.may_come_back() && (is(Item::Rst) || is(Item::Fin)) => self.lose(taken, role, after),
            Step::Reply if is(Item::Rst) => after.push(self.replied(taken, 1, Step::Close)),
            Step::Reply if is(Item::Fin) => after.push(self.replied(taken, 3, Step::Close)),
            Step::Reply => after.push(self.replied(taken, 3, Step::Drain)),
            Step::Drain if is(Item::Fin) || is(Item::Rst) => after.push(self.go(taken, role, None)),
            Step::Drain => after.push(taken),
            Step::Welcome | Step::Hear if is(Item::Hello) => after.push(self.go(taken, role, None)),
            Step::Receive if is(Item::First) || is(Item::Second) || (is(Item::Altered) && !has_key) => {
                taken.received = Queue(taken.received.0 | item << (4 * taken.received.len()));
                after.push(self.go(taken, role, None));
            }
            Step::Receive if is(if has_key { Item::Notify } else { Item::Fin }) => {
                after.push(self.go(taken, role, Some(Step::Expected)));
            }
            _ if is(Item::Rst) || is(Item::Fin) => self.lose(taken, role, after),
            _ => self.end_badly(taken, role, after),
        }
    }

    /// No reply can be read. A client that has not acknowledged everything may want the rest.
    fn miss_reply(&self, state: State, after: &mut Vec<State>) {
        if self.may_come_back() {
            self.lose(state, Sender, after);
        }
        if !self.may_come_back() || !state.has_lost {
            after.push(self.replied(state, 3, Step::Close));
        }
    }

    fn replied(&self, mut state: State, status: u8, to: Step) -> State {
        state.sides[Sender as usize].status = status;
        self.go(state, Sender, Some(to))
    }

    /// Whether the other side counts.
    fn is_client(&self, state: &State, role: Role) -> bool {
        if !self.setup.guard.has_key() {
            return role == Sender || state.received.len() > 0;
        }
        let is_handshake = |step: &Step| matches!(step, Step::Hello | Step::Welcome);
        Some(usize::from(state.sides[role as usize].at)) > self.programs[role as usize].iter().rposition(is_handshake)
    }

    /// Ends a side whose connection is lost: a server waits for a client that may come back.
    fn lose(&self, state: State, role: Role, after: &mut Vec<State>) {
        let waits = role == Sender && self.may_come_back() && self.is_client(&state, role);
        let first = after.len();
        self.end_badly(state, role, after);
        for state in after[first..].iter_mut().filter(|_| waits) {
            state.sides[role as usize].end = Some(Status::Waits);
        }
    }

    /// Ends a side with an error: with 1, unless it listens for others and this one did not count.
    fn end_badly(&self, mut state: State, role: Role, after: &mut Vec<State>) {
        let at = state.sides[role as usize].at;
        let is_client = self.is_client(&state, role);
        let listens = self.setup.dials != role && Some(at) > self.position(role, Step::Accept);
        if matches!(self.at(&state, role), Step::CloseNotify | Step::Shutdown) {
            state.sides[role as usize].has_linger = true;
        }
        self.end(state, role, if listens && !is_client { Status::Waits } else { Status::Code(1) }, after);
    }

    /// Ends a side, whose socket the kernel closes.
    fn end(&self, mut state: State, role: Role, status: Status, after: &mut Vec<State>) {
        let first = after.len();
        let has_command = role == Receiver && self.setup.target == Target::Command && !state.has_consumer_failed;
        let runs = has_command && Some(state.sides[role as usize].at) > self.position(role, Step::Begin);
        if runs && status == Status::Killed && state.destination == Content::Old {
            // Nothing is left that would end the command before its input ends.
            state.destination = state.written(self.at(&state, role)).content();
        }
        if role == Receiver && status != Status::Killed && state.written(self.at(&state, role)).len() == 0 {
            // An empty part is of no use.
            state.has_leftover = false;
        }
        self.close(state, role, after);
        let ended = Side {
            at: self.position(role, Step::Exit).unwrap(),
            is_closed: true,
            end: Some(status),
            ..Side::default()
        };
        for state in &mut after[first..] {
            state.sides[role as usize] = ended;
        }
    }

    /// Closes the socket: with RST, which overtakes what is queued, or with FIN behind it.
    fn close(&self, mut state: State, role: Role, after: &mut Vec<State>) {
        let own = &mut state.sides[role as usize];
        let is_pending = self.programs[role as usize].get(usize::from(own.at)) == Some(&Step::Accept);
        let resets = own.has_linger || is_pending || own.incoming.has_data();
        let has_socket = state.is_connected && !own.is_closed;
        own.is_closed = true;
        own.incoming = Queue::default();
        let peer = state.sides[role.other() as usize];
        let incoming = peer.incoming;
        if !has_socket || state.is_cut || peer.is_closed || peer.end.is_some() || incoming.has(Item::Rst) {
            return after.push(state);
        }
        let mut push = |incoming| {
            state.sides[role.other() as usize].incoming = incoming;
            after.push(state);
        };
        match (resets, self.setup.has_relay) {
            (false, _) => push(incoming.with_fin()),
            (true, true) => incoming.prefixes().for_each(|queue| push(queue.with_fin())),
            (true, false) => incoming.prefixes().for_each(|queue| push(queue.with(Item::Rst))),
        }
    }

    /// Lets each fault happen that can.
    fn fail(&self, state: State, after: &mut Vec<State>) {
        let happened = state.case.faults.iter().flatten().count();
        if happened == self.faults {
            return;
        }
        let is_running = |role: Role| state.sides[role as usize].end.is_none();
        let at = [Sender, Receiver].map(|role| self.at(&state, role));
        for fault in Fault::ALL {
            let mut next = state;
            next.case.faults[happened] = Some(fault);
            if happened == 1 {
                next.case.faults.sort();
            }
            next.case.at = match fault.side() {
                _ if self.faults > 1 => [None; 2],
                None => at.map(Some),
                Some(Sender) => [Some(at[0]), None],
                Some(Receiver) => [None, Some(at[1])],
            };
            match fault {
                Fault::Kill(role) if is_running(role) => self.end(next, role, Status::Killed, after),
                Fault::Interrupt(role) if is_running(role) => {
                    next.sides[role as usize].has_signal = true;
                    after.push(next);
                }
                Fault::InterruptGroup if self.setup.source != Source::File && is_running(Sender) => {
                    next.sides[Sender as usize].has_signal = true;
                    next.has_producer_died = true;
                    after.push(next);
                }
                Fault::ProducerDies if self.setup.source != Source::File && is_running(Sender) => {
                    next.has_producer_died = true;
                    after.push(next);
                }
                Fault::ConsumerFails if self.setup.target == Target::Command && is_running(Receiver) => {
                    next.has_consumer_failed = true;
                    after.push(next);
                }
                Fault::Error(role) if is_running(role) => self.error(next, role, after),
                Fault::Change if self.setup.source == Source::File && is_running(Sender) && !state.is_changed => {
                    next.is_changed = true;
                    after.push(next);
                }
                Fault::Stall(role) if is_running(role) && state.stalled.is_none() => {
                    next.stalled = Some(role);
                    after.push(next);
                }
                Fault::Cut | Fault::Reset if state.is_connected && !state.is_cut => {
                    next.is_cut = true;
                    let incoming = state.sides.map(|side| side.incoming);
                    for to_sender in incoming[0].prefixes() {
                        for to_receiver in incoming[1].prefixes() {
                            next.has_lost = to_receiver != incoming[1];
                            for (side, queue) in next.sides.iter_mut().zip([to_sender, to_receiver]) {
                                let is_reset = fault == Fault::Reset && !side.is_closed;
                                let rst = if self.setup.has_relay { Item::Fin } else { Item::Rst };
                                side.incoming = if is_reset { queue.with(rst) } else { queue };
                            }
                            after.push(next);
                        }
                    }
                }
                Fault::Alter => {
                    for role in [Sender, Receiver] {
                        let Queue(items) = state.sides[role as usize].incoming;
                        for at in (0..Queue(items).len()).map(|at| 4 * at) {
                            if items >> at & 15 < Item::Fin as u32 {
                                next.sides = state.sides;
                                let altered = items & !(15 << at) | (Item::Altered as u32) << at;
                                next.sides[role as usize].incoming = Queue(altered);
                                after.push(next);
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The system call of the next step fails.
    fn error(&self, mut state: State, role: Role, after: &mut Vec<State>) {
        let is_publishing = Some(state.sides[role as usize].at) > self.position(role, Step::LingerOff);
        match self.at(&state, role) {
            Step::Attributes | Step::Sync | Step::Link | Step::Rename | Step::SyncDirectory if is_publishing => {
                state.has_leftover &= self.setup.resumes;
                state.sides[role as usize].status = 1;
                after.push(self.go(state, role, Some(Step::LingerAgain)));
            }
            Step::Reply => self.miss_reply(state, after),
            Step::Tell | Step::Hear | Step::Send | Step::Unread | Step::CloseNotify | Step::Shutdown => {
                self.end_badly(state, role, after);
                self.lose(state, role, after);
            }
            Step::Thank | Step::Check | Step::Drain => after.push(self.go(state, role, None)),
            Step::Accept => self.end(state, role, Status::Code(1), after),
            Step::Expected | Step::Defer | Step::Close | Step::Exit | Step::LingerAgain => {}
            _ => self.end_badly(state, role, after),
        }
    }
}

/// The piece that was read last.
fn last(read: Queue) -> Item {
    if read.0 >> (4 * (read.len() - 1)) == Item::First as u32 { Item::First } else { Item::Second }
}
