//! What the table of outcomes promises, enumerated: the model of the hand-over (`tests/common/model.rs`) is walked from
//! end to end, and its outcomes are compared with the tables in `tests/model`, which show every fault at every step. A
//! change there is a change of what users can rely on. After a look at the difference, write them anew with
//!
//! ```text
//! cargo test --test model -- --ignored
//! ```
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the report")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, thread};

use common::model::{Bug, Case, Content, Fault, Guard, Outcome, Outcomes, Role, Setup, Source, Status, Step, Target};

const ROLES: [Role; 2] = [Role::Sender, Role::Receiver];
const GUARDS: [Guard; 4] = [Guard::Nothing, Guard::Size, Guard::Sha256, Guard::Key];
const SOURCES: [Source; 3] = [Source::File, Source::Stream, Source::Command];

/// The README's main job.
const PLAIN: Setup = Setup {
    source: Source::File,
    target: Target::File,
    guard: Guard::Nothing,
    dials: Role::Receiver,
    has_relay: false,
    resumes: false,
    bug: None,
};

const RESUMING: Setup = Setup { guard: Guard::Key, resumes: true, ..PLAIN };

/// Every way to use the programs.
fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for has_relay in [false, true] {
        for dials in [Role::Receiver, Role::Sender] {
            for guard in GUARDS {
                for source in SOURCES {
                    setups.push(Setup { source, guard, dials, has_relay, ..PLAIN });
                }
            }
        }
    }
    for target in [Target::Output, Target::Command] {
        setups.extend([Guard::Nothing, Guard::Key].map(|guard| Setup { target, guard, ..PLAIN }));
    }
    for guard in [Guard::Key, Guard::KeyAndSha256] {
        setups.extend(SOURCES.map(|source| Setup { source, guard, ..RESUMING }));
    }
    setups
}

type All = Vec<(Setup, Outcomes)>;

/// Every setup with at most one fault.
fn with_one_fault() -> &'static All {
    static ALL: OnceLock<All> = OnceLock::new();
    ALL.get_or_init(|| explore(setups(), 1))
}

/// Every setup with at most two faults, of which the relay is one.
fn with_two_faults() -> &'static All {
    static ALL: OnceLock<All> = OnceLock::new();
    ALL.get_or_init(|| explore(setups().into_iter().filter(|setup| !setup.has_relay).collect(), 2))
}

fn explore(setups: Vec<Setup>, faults: usize) -> All {
    thread::scope(|scope| {
        let explorers: Vec<_> =
            setups.into_iter().map(|setup| scope.spawn(move || (setup, setup.explore(faults)))).collect();
        explorers.into_iter().map(|explorer| explorer.join().unwrap()).collect()
    })
}

/// A name of the code in lower-case words.
fn words(name: impl Debug) -> String {
    let mut words = String::new();
    for letter in format!("{name:?}").chars().filter(|&letter| letter != ')') {
        let begins = letter == '(' || (letter.is_uppercase() && !words.is_empty() && !words.ends_with(' '));
        if begins {
            words.push(' ');
        }
        if letter != '(' {
            words.push(letter.to_ascii_lowercase());
        }
    }
    words
}

fn show(outcomes: &BTreeSet<Outcome>) -> String {
    let status = |status: Status| words(status).replace("code ", "");
    let one = |outcome: &Outcome| {
        let Outcome { client, destination, has_leftover, server } = *outcome;
        let content = match destination {
            Content::Old => "old",
            Content::New => "new",
            Content::Half => "HALF",
            Content::Mixed => "MIXED",
        };
        format!("{} {content}{} {}", status(client), if has_leftover { "+part" } else { "" }, status(server))
    };
    outcomes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The outcomes of this fault while this side was at this step.
fn row(outcomes: &Outcomes, fault: Fault, role: Role, step: Step) -> BTreeSet<Outcome> {
    let is_meant = |case: &Case| case.faults[0] == Some(fault) && case.at[role as usize] == Some(step);
    outcomes.iter().filter(|(case, _)| is_meant(case)).flat_map(|(_, set)| set.iter().copied()).collect()
}

/// What a row is about: the faults in their order, the side whose steps it goes by, and the step.
type Name = (Vec<usize>, Option<(Role, Step)>);

/// The rows of one setup.
type Rows = Vec<(Name, BTreeSet<Outcome>)>;

fn rows_with_steps(setup: Setup, outcomes: &Outcomes) -> Rows {
    let mut rows = vec![((Vec::new(), None), outcomes[&Case::default()].clone())];
    for (number, fault) in Fault::ALL.into_iter().enumerate() {
        for role in ROLES.into_iter().filter(|&role| fault.side().is_none_or(|side| side == role)) {
            let steps: BTreeSet<_> = setup.program(role).into_iter().collect();
            let rows_of_steps =
                steps.into_iter().map(|step| ((vec![number], Some((role, step))), row(outcomes, fault, role, step)));
            rows.extend(rows_of_steps.filter(|(_, outcomes)| !outcomes.is_empty()));
        }
    }
    rows
}

fn rows_of_pairs(_: Setup, outcomes: &Outcomes) -> Rows {
    let number = |fault: Fault| Fault::ALL.iter().position(|&it| it == fault).unwrap();
    let pair = |case: &Case| case.faults.iter().flatten().copied().map(number).collect::<Vec<_>>();
    let all = outcomes.iter().map(|(case, set)| ((pair(case), None), set.clone()));
    all.filter(|((pair, _), _)| pair.len() == 2).collect()
}

fn show_name((faults, at): &Name) -> String {
    let names: Vec<_> = faults.iter().map(|&number| words(Fault::ALL[number])).collect();
    match (&names[..], at) {
        ([], _) => "nothing".to_owned(),
        ([fault], Some((role, step))) if fault.contains(&words(role)) => format!("{fault}: {}", words(step)),
        ([fault], Some((role, step))) => format!("{fault}: {} {}", words(role), words(step)),
        _ => names.join(" and "),
    }
}

/// By row: the outcomes, and in which setups they are the ones. Rows that say the same stand together.
fn table<'a>(all: impl Iterator<Item = &'a (Setup, Outcomes)>, rows: impl Fn(Setup, &Outcomes) -> Rows) -> String {
    let all: Vec<_> = all.collect();
    let mut by_name: BTreeMap<Name, BTreeMap<String, Vec<Setup>>> = BTreeMap::new();
    for (setup, outcomes) in &all {
        for (name, outcomes) in rows(*setup, outcomes) {
            by_name.entry(name).or_default().entry(show(&outcomes)).or_default().push(*setup);
        }
    }
    let (mut text, mut last) = (String::new(), String::new());
    for (name, by_outcomes) in by_name {
        let mut body = String::new();
        for (outcomes, setups) in by_outcomes {
            for setups in products(&setups, &all) {
                writeln!(body, "    {setups:<52} {outcomes}").unwrap();
            }
        }
        if body != last {
            text += &last;
        }
        writeln!(text, "{}", show_name(&name)).unwrap();
        last = body;
    }
    text + &last
}

/// The setups as few products of properties; a property that may be any of those of the whole table is left out.
fn products(setups: &[Setup], all: &[&(Setup, Outcomes)]) -> Vec<String> {
    let properties = |setup: &Setup| {
        let relay = if setup.has_relay { "relay" } else { "direct" };
        let target = format!("to {}", words(setup.target));
        [words(setup.source), words(setup.guard), words(setup.dials) + " dials", relay.to_owned(), target]
    };
    let any: [BTreeSet<String>; 5] =
        std::array::from_fn(|at| all.iter().map(|(setup, _)| properties(setup)[at].clone()).collect());
    let mut products: Vec<_> = setups.iter().map(|setup| properties(setup).map(|it| BTreeSet::from([it]))).collect();
    for at in [4, 3, 2, 0, 1] {
        let mut merged: Vec<[BTreeSet<String>; 5]> = Vec::new();
        for product in products {
            let is_like = |other: &&mut [BTreeSet<String>; 5]| (0..5).all(|it| it == at || other[it] == product[it]);
            match merged.iter_mut().find(is_like) {
                Some(other) => other[at].extend(product[at].iter().cloned()),
                None => merged.push(product),
            }
        }
        products = merged;
    }
    let show = |product: &[BTreeSet<String>; 5]| {
        let given = product.iter().zip(&any).filter(|(set, any)| set != any).map(|(set, _)| set);
        let given: Vec<_> = given.map(|set| set.iter().cloned().collect::<Vec<_>>().join("|")).collect();
        if given.is_empty() { "always".to_owned() } else { given.join(", ") }
    };
    products.iter().map(show).collect()
}

/// A table as the model has it.
fn table_of(name: &str) -> String {
    type IsMeant = fn(Setup) -> bool;
    let one = |is_meant: IsMeant| table(with_one_fault().iter().filter(|it| is_meant(it.0)), rows_with_steps);
    let two = |is_meant: IsMeant| table(with_two_faults().iter().filter(|it| is_meant(it.0)), rows_of_pairs);
    let is_whole: IsMeant = |setup| setup.target == Target::File && !setup.resumes;
    let resumes: IsMeant = |setup| setup.resumes;
    match name {
        "one-fault.txt" => one(is_whole),
        "two-faults.txt" => two(is_whole),
        "resume.txt" => one(resumes) + &two(resumes),
        _ => one(|setup| setup.target != Target::File),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model").join(name)
}

#[track_caller]
fn assert_as_checked_in(name: &str) {
    let (before, now) = (fs::read_to_string(path(name)).unwrap(), table_of(name));
    let differs = before.lines().zip(now.lines()).position(|(before, now)| before != now);
    if let Some(line) = differs {
        let [before, now] = [&before, &now].map(|text| text.lines().nth(line).unwrap());
        panic!("{name}:{}: the table has\n{before}\nand the model\n{now}", line + 1);
    }
    assert_eq!(before.len(), now.len(), "{name}");
}

#[test]
fn one_fault_at_any_step_has_the_outcomes_of_the_table() {
    assert_as_checked_in("one-fault.txt");
}

#[test]
fn one_fault_with_standard_output_or_a_command_has_the_outcomes_of_the_table() {
    assert_as_checked_in("no-file.txt");
}

#[test]
fn two_faults_have_the_outcomes_of_the_table() {
    assert_as_checked_in("two-faults.txt");
}

#[test]
fn a_client_that_resumes_has_the_outcomes_of_the_table() {
    assert_as_checked_in("resume.txt");
}

#[test]
#[ignore = "writes the tables that the others compare with"]
fn write_the_tables() {
    for name in ["one-fault.txt", "no-file.txt", "two-faults.txt", "resume.txt"] {
        fs::write(path(name), table_of(name)).unwrap();
    }
}

/// Fails unless the model with this bug has an outcome of this fault, at this step, that the right one has not.
#[track_caller]
fn assert_caught(bug: Bug, setup: Setup, fault: Option<(Fault, Step)>, [client, server]: [Status; 2], stored: Content) {
    let has_leftover = setup.resumes && stored == Content::Old;
    let wrong = Outcome { client, destination: stored, has_leftover, server };
    let of = |setup: Setup| {
        let outcomes = setup.explore(1);
        match fault {
            Some((fault, step)) => row(&outcomes, fault, fault.side().unwrap(), step),
            None => outcomes[&Case::default()].clone(),
        }
    };
    let (right, with_bug) = (of(setup), of(Setup { bug: Some(bug), ..setup }));
    assert!(!right.contains(&wrong) && with_bug.contains(&wrong), "{bug:?}: {}", show(&with_bug));
}

const ZERO: Status = Status::Code(0);
const ONE: Status = Status::Code(1);
const THREE: Status = Status::Code(3);

#[test]
fn linger_left_on_at_the_half_close_is_caught() {
    let killed = Some((Fault::Kill(Role::Sender), Step::Reply));
    assert_caught(Bug::LingerLeftOnAtTheHalfClose, PLAIN, killed, [ONE, Status::Killed], Content::Old);
}

#[test]
fn a_listener_without_linger_is_caught() {
    let killed = Some((Fault::Kill(Role::Sender), Step::Read));
    assert_caught(Bug::NoLingerOnTheListener, PLAIN, killed, [ZERO, Status::Killed], Content::Half);
    let (push, killed) = (Setup { dials: Role::Sender, ..PLAIN }, Some((Fault::Kill(Role::Receiver), Step::Expected)));
    assert_caught(Bug::NoLingerOnTheListener, push, killed, [Status::Killed, THREE], Content::Old);
}

#[test]
fn a_client_without_linger_is_caught() {
    let killed = Some((Fault::Kill(Role::Receiver), Step::Expected));
    assert_caught(Bug::NoLingerAtTheClient, PLAIN, killed, [Status::Killed, THREE], Content::Old);
}

#[test]
fn a_reply_before_the_file_has_its_name_is_caught() {
    let killed = Some((Fault::Kill(Role::Receiver), Step::Link));
    assert_caught(Bug::ReplyBeforePublish, PLAIN, killed, [Status::Killed, ZERO], Content::Old);
}

#[test]
fn a_half_close_without_deferred_signals_is_caught() {
    let stream = Setup { source: Source::Stream, ..PLAIN };
    let interrupted = Some((Fault::InterruptGroup, Step::Read));
    let wrong = [ZERO, Status::Interrupted];
    assert_caught(Bug::HalfCloseWithoutDeferredSignals, stream, interrupted, wrong, Content::Half);
}

#[test]
fn close_notify_before_the_unread_check_is_caught() {
    let with_key = Setup { guard: Guard::Key, ..PLAIN };
    assert_caught(Bug::CloseNotifyBeforeTheUnreadCheck, with_key, None, [ZERO, THREE], Content::New);
}

#[test]
fn a_stream_that_is_offered_again_is_caught() {
    let stream = Setup { source: Source::Stream, ..RESUMING };
    let killed = Some((Fault::Kill(Role::Receiver), Step::Receive));
    assert_caught(Bug::StreamIsOfferedAgain, stream, killed, [Status::Killed, Status::Waits], Content::Old);
}

#[test]
fn a_part_that_is_trusted_by_its_length_is_caught() {
    let changed = Some((Fault::Change, Step::Hear));
    assert_caught(Bug::PartIsTrustedByItsLength, RESUMING, changed, [ZERO, ZERO], Content::Mixed);
}

type IsKnown = fn(Setup, &[Fault], Outcome) -> bool;

/// When an exit status may be false, which the model shows and docs/design.md lists under these titles.
const KNOWN: [(&str, IsKnown); 8] = [
    ("A relay that turns RST into FIN.", |setup, _, _| setup.has_relay && !setup.guard.has_key()),
    ("A producer that dies alone.", |setup, faults, outcome| {
        setup.source == Source::Stream && faults.contains(&Fault::ProducerDies) && outcome.destination == Content::Half
    }),
    ("Bytes that are altered on the way.", |setup, faults, outcome| {
        matches!(setup.guard, Guard::Nothing | Guard::Size)
            && faults.contains(&Fault::Alter)
            && outcome.destination == Content::Mixed
    }),
    ("A RST from the network.", |_, faults, outcome| {
        let is_reset = faults.contains(&Fault::Reset) || faults.contains(&Fault::Error(Role::Sender));
        is_reset && (outcome.destination, outcome.server) == (Content::New, ONE)
    }),
    ("A disk that fails in the last step.", |_, faults, outcome| {
        faults.contains(&Fault::Error(Role::Receiver)) && outcome.destination == Content::New
    }),
    ("SIGKILL to a client that feeds a command.", |setup, faults, outcome| {
        let is_killed = faults.contains(&Fault::Kill(Role::Receiver)) && outcome.client == Status::Killed;
        setup.target == Target::Command && is_killed && outcome.destination == Content::Half
    }),
    ("The end of a command and the end of its client.", |setup, _, outcome| {
        setup.target == Target::Command && outcome.destination == Content::New
    }),
    ("SIGKILL between two system calls.", |_, faults, outcome| {
        faults.contains(&Fault::Kill(Role::Receiver)) && outcome.has_leftover
    }),
];

/// Whether each status says what is on the disk, what a command has taken for all of its input, or that all went to standard
/// output.
fn is_true(setup: Setup, outcome: Outcome) -> bool {
    let Outcome { client, destination, has_leftover, server } = outcome;
    if setup.target == Target::Output {
        return destination == Content::New || (client, server) == (ONE, ONE) || ![client, server].contains(&ZERO);
    }
    let client = match client {
        Status::Code(0) => destination == Content::New,
        Status::Code(_) | Status::Interrupted | Status::Waits => destination == Content::Old,
        Status::Killed => matches!(destination, Content::Old | Content::New),
    };
    let server = match server {
        // It waits for a client of which it does not know more than that.
        Status::Waits if setup.resumes => true,
        Status::Code(0) => destination == Content::New,
        Status::Code(1) | Status::Waits => destination == Content::Old,
        _ => true,
    };
    client && server && (!has_leftover || may_keep(setup, outcome))
}

/// What arrived is kept until the file is stored.
fn may_keep(setup: Setup, outcome: Outcome) -> bool {
    setup.resumes && outcome.destination == Content::Old
}

#[test]
fn exit_statuses_are_true_but_for_what_the_design_lists() {
    let design = read("docs/design.md");
    let mut unused: BTreeSet<_> = KNOWN.map(|(title, _)| title).into();
    for title in &unused {
        assert!(design.contains(&format!("**{title}**")), "docs/design.md has nothing about: {title}");
    }
    for (setup, outcomes) in with_one_fault().iter().chain(with_two_faults()) {
        for (case, set) in outcomes {
            let faults: Vec<_> = case.faults.into_iter().flatten().collect();
            for &outcome in set.iter().filter(|&&outcome| !is_true(*setup, outcome)) {
                let known = KNOWN.iter().filter(|(_, is_it)| is_it(*setup, &faults, outcome));
                let titles: Vec<_> = known.map(|(title, _)| title).collect();
                assert!(!titles.is_empty(), "{setup:?} {case:?}: {}", show(&[outcome].into()));
                unused.retain(|title| !titles.contains(&title));
            }
        }
    }
    assert!(unused.is_empty(), "these never happen: {unused:?}");
}

/// Unless the source has changed: then nothing of the part is of use.
#[test]
fn a_part_of_the_file_stays_until_the_file_is_stored() {
    let all = with_one_fault().iter().chain(with_two_faults());
    for (setup, outcomes) in all.filter(|(setup, _)| *setup == RESUMING) {
        for (case, set) in outcomes.iter().filter(|(case, _)| !case.faults.contains(&Some(Fault::Change))) {
            let is_kept = |outcome: &Outcome| outcome.has_leftover == may_keep(*setup, *outcome);
            assert!(set.iter().all(is_kept), "{case:?}: {}", show(set));
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A row of the README's table: what happens, `file-client`, the destination, `file-server`.
fn rows_of_readme() -> Vec<[String; 4]> {
    let readme = read("README.md");
    let guarantees = readme.split("\n## ").find(|section| section.starts_with("Guarantees")).unwrap();
    let rows = guarantees.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what happens"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(|line| cells(line).try_into().unwrap()).collect()
}

/// The faults of a row, and the setups that it is about.
fn faults_of(what_happens: &str) -> (Vec<Fault>, fn(Setup) -> bool) {
    use Fault::{
        Alter, Change, ConsumerFails, Cut, Error, Interrupt, InterruptGroup, Kill, ProducerDies, Reset, Stall,
    };
    use Role::{Receiver, Sender};
    let any = |_| true;
    // A stream says nothing about the program that writes it.
    let not_a_stream = |setup: Setup| setup.source != Source::Stream;
    let with_key = |setup: Setup| setup.guard.has_key();
    let begins = |beginning| what_happens.starts_with(beginning);
    if begins("the sender dies") {
        (vec![Kill(Sender), Interrupt(Sender), InterruptGroup, ProducerDies, Error(Sender), Change], not_a_stream)
    } else if begins("the receiver dies") {
        (vec![Kill(Receiver), Interrupt(Receiver), Error(Receiver), ConsumerFails], any)
    } else if begins("the network is silently cut") {
        (vec![Cut, Stall(Sender), Stall(Receiver)], any)
    } else if begins("wrong key") {
        (vec![Alter, Reset, Cut], with_key)
    } else if begins("the receiver takes everything") || begins("bad arguments") {
        // Other programs as receivers, and what ends before there is a connection.
        (vec![], any)
    } else {
        panic!("the README has a row that the model does not know: {what_happens}");
    }
}

/// Whether a status is one of those in a cell, such as "1, or 3 when all was sent" or "not 0". One that was given by a
/// signal, and still waiting for someone else, are not 0.
fn is_in(status: Status, cell: &str) -> bool {
    let Status::Code(code) = status else { return !cell.starts_with('0') };
    let mut words = cell.split(|letter: char| !letter.is_alphanumeric());
    if cell.starts_with("not 0") { code != 0 } else { cell.is_empty() || words.any(|word| word == code.to_string()) }
}

#[test]
fn the_table_of_the_readme_follows() {
    let rows = rows_of_readme();
    assert!(rows.len() >= 6, "{rows:?}");
    let is_meant = |setup: &Setup| !setup.has_relay && setup.target != Target::Output;
    let direct: Vec<_> = with_one_fault().iter().filter(|(setup, _)| is_meant(setup)).collect();
    let [what_happens, client, destination, server] = &rows[0];
    assert!(what_happens.starts_with("all goes well") && destination.starts_with("the whole new file"));
    assert!(is_in(ZERO, client) && is_in(ZERO, server));
    let good = Outcome { client: ZERO, destination: Content::New, has_leftover: false, server: ZERO };
    for [what_happens, client, destination, server] in &rows[1..] {
        let (faults, is_about) = faults_of(what_happens);
        let mut seen = BTreeSet::new();
        for (setup, outcomes) in direct.iter().filter(|(setup, _)| is_about(*setup)) {
            assert_eq!(outcomes[&Case::default()], [good].into(), "{setup:?}");
            for &fault in &faults {
                let of_fault = outcomes.iter().filter(|(case, _)| case.faults[0] == Some(fault));
                for (case, &outcome) in of_fault.flat_map(|(case, set)| set.iter().map(move |outcome| (case, outcome)))
                {
                    let is_as_promised = is_in(outcome.client, client)
                        && is_in(outcome.server, server)
                        && outcome.destination == Content::Old
                        && (!outcome.has_leftover || setup.resumes);
                    // The fault came when the file was stored or about to be, or all was sent.
                    let is_late = is_true(*setup, outcome)
                        && (outcome.destination == Content::New || outcome.server == THREE)
                        && outcome.server != ONE;
                    let is_known = KNOWN.iter().any(|(_, is_it)| is_it(*setup, &[fault], outcome));
                    let is_allowed = is_as_promised || is_late || is_known;
                    assert!(is_allowed, "{what_happens}: {setup:?} {case:?}: {}", show(&[outcome].into()));
                    seen.extend(is_as_promised.then_some(outcome));
                }
            }
        }
        if !faults.is_empty() {
            assert!(destination.starts_with("as it was before"), "{what_happens}");
            let promised = server.split(|letter: char| !letter.is_alphanumeric()).filter_map(|word| word.parse().ok());
            for code in promised.collect::<Vec<u8>>() {
                let is_seen = seen.iter().any(|outcome| outcome.server == Status::Code(code));
                assert!(is_seen, "{what_happens}: the server never ends with {code}");
            }
        }
    }
}
