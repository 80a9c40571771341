//! What both programs do with their arguments: parse them, print help, completions and the manual page, and refuse what is
//! wrong in one line.

use std::ffi::OsString;
use std::io;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::key::{KeyArguments, without_keys};
use super::synopsis;
use super::typed::{Foreign, Typed};
use crate::blocking;
use crate::key::Key;
use crate::text;

/// The exit status for bad arguments.
pub(super) const BAD_ARGUMENTS: u8 = 2;

/// What distinguishes the two programs besides their arguments.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Command lines, and what each is for.
    pub(super) examples: &'static str,
    /// What each exit status means.
    pub(super) exit_status: &'static str,
    /// An argument that may be missing because another one has it too.
    pub(super) optional: Option<&'static str>,
    /// The name and the arguments of the program at the other side.
    pub(super) partner: (&'static str, fn() -> Command),
    /// Options of other programs that people try.
    pub(super) foreign: &'static [Foreign],
    /// What to type instead of arguments that are no options, in one line.
    pub(super) advise: fn(&Typed) -> Option<String>,
}

impl Program {
    /// Reads the arguments of the process; prints what they ask to know about the program.
    ///
    /// # Errors
    /// Returns the exit status when there is nothing more to do: 0 after help and its like, 2 after a line about what is
    /// wrong.
    pub(super) fn parse<A: CommandFactory + FromArgMatches>(&self, arguments: &[OsString]) -> Result<A, u8> {
        let matches = self.matches::<A>(arguments).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => self.status(error.print()),
            _ => self.refuse::<A>(arguments, &self.problem(&error)),
        })?;
        if let Some(&shell) = matches.get_one::<Shell>("completions") {
            return Err(self.print(|out| {
                clap_complete::generate(shell, &mut A::command(), self.name, out);
                Ok(())
            }));
        }
        if matches.get_flag("man") {
            return Err(self.print(|out| self.manual(A::command(), out)));
        }
        A::from_arg_matches(&matches).map_err(|error| self.refuse::<A>(arguments, &self.problem(&error)))
    }

    fn matches<A: CommandFactory>(&self, arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
        match (A::command().try_get_matches_from(arguments), self.optional) {
            (Err(error), Some(id)) if error.kind() == ErrorKind::MissingRequiredArgument => {
                A::command().mut_arg(id, |argument| argument.required(false)).try_get_matches_from(arguments)
            }
            (matches, _) => matches,
        }
    }

    /// What is wrong, in one line.
    fn problem(&self, error: &clap::Error) -> String {
        let (partner, command) = &self.partner;
        match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) if has_option(&command(), option) => {
                format!("'{option}' is an option of {partner}")
            }
            _ => one_line(error),
        }
    }

    /// Says what to type instead of these arguments if that can be told, otherwise what is wrong with them. Returns the
    /// exit status.
    pub(super) fn refuse<A: CommandFactory>(&self, arguments: &[OsString], problem: &str) -> u8 {
        let typed = Typed::parse(&A::command(), self.foreign, arguments);
        match typed.and_then(|typed| (self.advise)(&typed)) {
            Some(advice) => self.say(&advice),
            None => self.say(&format!("{problem}; for more information, try '--help'")),
        }
        BAD_ARGUMENTS
    }

    /// The key that was given, if one was.
    ///
    /// # Errors
    /// Returns the exit status after a line about what is wrong.
    pub(super) fn given_key(&self, arguments: KeyArguments) -> Result<Option<Key>, u8> {
        arguments.resolve().map_err(|problem| {
            self.say(&format!("{problem}; for more information, try '--help'"));
            BAD_ARGUMENTS
        })
    }

    /// Prints one line on standard error, without any key that was typed.
    pub(super) fn say(&self, line: &str) {
        let line = format!("{}: {}\n", self.name, without_keys(line));
        let _ = blocking::write_all(io::stderr(), line.as_bytes());
    }

    /// What follows the options in the help.
    pub(super) fn after_help(&self) -> String {
        let [examples, exit_status] = [self.examples, self.exit_status].map(|text| text.replace('\n', "\n  "));
        format!("Examples:\n  {examples}\n\nExit status:\n  {exit_status}")
    }

    /// The manual page: what follows the help there are sections of their own here, whose lines stay as they are.
    fn manual(&self, mut command: Command, out: &mut Vec<u8>) -> io::Result<()> {
        command.build();
        let synopsis = synopsis::section(&command);
        let page = Man::new(command);
        page.render_title(out)?;
        page.render_name_section(out)?;
        synopsis.to_writer(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)?;
        for (title, text) in [("EXAMPLES", self.examples), ("EXIT STATUS", self.exit_status)] {
            Roff::new()
                .control("SH", [title])
                .control("nf", [])
                .text([roman(text)])
                .control("fi", [])
                .to_writer(out)?;
        }
        page.render_version_section(out)
    }

    /// Prints through memory, because a closed pipe (`| head`) must not end in a panic. Returns the exit status.
    fn print(&self, render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> u8 {
        let mut text = Vec::new();
        self.status(render(&mut text).and_then(|()| blocking::write_all(io::stdout(), &text)))
    }

    fn status(&self, printed: io::Result<()>) -> u8 {
        match printed {
            Ok(()) => 0,
            // The reader closed the pipe; stay silent.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 1,
            Err(error) => {
                self.say(&format!("could not write to standard output: {}", text::reason(&error)));
                1
            }
        }
    }
}

/// Whether an option is written so: `-k` or `--keep-open`.
fn has_option(command: &Command, option: &str) -> bool {
    let is_long = |argument: &Arg| option.strip_prefix("--").is_some_and(|long| argument.get_long() == Some(long));
    let is_short = |argument: &Arg| argument.get_short().is_some_and(|short| option == format!("-{short}"));
    command.get_arguments().any(|argument| is_long(argument) || is_short(argument))
}

/// The first paragraph of clap's text, which says what is wrong, and the name that was probably meant.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let problem = lines.collect::<Vec<_>>().join(" ");
    let problem = text::printable(problem.trim_start_matches("error: ").as_bytes());
    let similar = |kind, what| error.get(kind).map(|name| format!("{problem}; tip: a similar {what} exists: '{name}'"));
    similar(ContextKind::SuggestedArg, "argument")
        .or_else(|| similar(ContextKind::SuggestedValue, "value"))
        .unwrap_or(problem)
}
