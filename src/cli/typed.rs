//! Arguments read leniently, after they were refused: which of them are options, and which are words in any number and
//! order.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::key::KEY;
use crate::text::shell;

/// An option that another program has.
pub(super) struct Foreign {
    pub(super) short: Option<char>,
    pub(super) long: &'static str,
    pub(super) takes_value: bool,
}

impl Foreign {
    fn argument(&self) -> Arg {
        let argument = Arg::new(self.long).short(self.short).long(self.long);
        if self.takes_value {
            argument.value_parser(value_parser!(OsString))
        } else {
            argument.action(ArgAction::SetTrue)
        }
    }
}

/// What someone typed.
pub(super) struct Typed {
    matches: ArgMatches,
    /// The program's own options.
    own: Vec<Arg>,
}

impl Typed {
    /// Returns `None` if something other than the words is wrong.
    pub(super) fn parse(command: &Command, foreign: &[Foreign], arguments: &[OsString]) -> Option<Self> {
        let own: Vec<_> = command.get_arguments().filter(|argument| !argument.is_positional()).cloned().collect();
        let foreign = foreign.iter().map(Foreign::argument);
        let words = Arg::new("words").num_args(0..).value_parser(value_parser!(OsString));
        let lenient = Command::new("lenient").disable_version_flag(true).args(&own).args(foreign).arg(words);
        let matches = lenient.try_get_matches_from(arguments).ok()?;
        Some(Self { matches, own })
    }

    /// The words in their order; `None` if one is no text.
    pub(super) fn words(&self) -> Option<Vec<&str>> {
        let words = self.matches.get_many::<OsString>("words").into_iter().flatten();
        words.map(|word| word.to_str()).collect()
    }

    /// The program's own options that were typed, but for one, as a shell reads them, each after a space; `None` if one
    /// cannot be printed.
    pub(super) fn options_except(&self, except: Option<&str>) -> Option<String> {
        let mut options = String::new();
        for option in &self.own {
            let id = option.get_id().as_str();
            if !self.has(id) || except == Some(id) {
                continue;
            }
            let long = option.get_long()?;
            if !option.get_action().takes_values() {
                let _ = write!(options, " --{long}");
                continue;
            }
            if id == KEY {
                options.push_str(" --key KEY");
                continue;
            }
            for value in self.matches.get_raw(id).into_iter().flatten() {
                let _ = write!(options, " --{long} {}", shell::path(value)?);
            }
        }
        Some(options)
    }

    /// Whether the option was typed.
    pub(super) fn has(&self, id: &str) -> bool {
        self.matches.value_source(id) == Some(ValueSource::CommandLine)
    }

    /// The value that was typed for an option.
    pub(super) fn value(&self, id: &str) -> Option<&OsStr> {
        self.matches.get_raw(id).filter(|_| self.has(id)).and_then(Iterator::last)
    }
}
