//! What both programs do with their arguments: parse them, print help, completions and the manual page, and report an
//! error in one line.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{hints, key};
use crate::blocking;
use crate::file::destination;
use crate::signals;
use crate::text;
use crate::ui::console::{self, Style};

/// The exit status for bad arguments.
pub(super) const BAD_ARGUMENTS: u8 = 2;

/// Completes the command after `--`, with that command's own completions if bash-completion is installed.
const BASH_COMMANDS: &str = r#"
_FUNCTION_command() {
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- ]]; then
            if declare -F _command_offset > /dev/null; then
                _command_offset $((i + 1))
            elif ((i + 1 == COMP_CWORD)); then
                COMPREPLY=($(compgen -c -- "$2"))
            fi
            return
        fi
    done
    _FUNCTION "$@"
}
complete -F _FUNCTION_command -o bashdefault -o default NAME
"#;

const FISH_COMMANDS: &str = "complete -c NAME -n 'contains -- -- (commandline -opc)' -a '(__fish_complete_command)'\n";

/// What distinguishes the two programs besides their arguments.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// Its usage, one form per line.
    pub(super) usage: &'static str,
    /// Command lines, and what each is for.
    pub(super) examples: &'static str,
    /// What each exit status means.
    pub(super) exit_status: &'static str,
    /// The name and the arguments of the program at the other side.
    pub(super) partner: (&'static str, fn() -> Command),
    /// What to type instead of an argument.
    pub(super) hint: fn(argument: &str, value: Option<&str>) -> Option<&'static str>,
}

impl Program {
    /// Reads the arguments of the process, and prints any information that they ask for.
    ///
    /// # Errors
    /// Returns the exit status when there is nothing more to do: 0 after help, version, completions or the manual page, 2
    /// after a line about what is wrong.
    pub(super) fn parse<A: CommandFactory + FromArgMatches>(&self) -> Result<A, u8> {
        let arguments: Vec<_> = env::args_os().collect();
        let mut command = arguments.iter().skip_while(|argument| *argument != "--");
        if command.next().is_some() && command.next().is_none_or(|name| name.is_empty()) {
            return Err(self.refuse("the command after '--' is missing"));
        }
        let matches = A::command().try_get_matches_from(&arguments).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => self.status(error.print()),
            _ => self.reject(&error, &arguments),
        })?;
        if let Some(&shell) = matches.get_one::<Shell>("completions") {
            return Err(self.print(|out| self.completions(A::command(), shell, out)));
        }
        if matches.get_flag("man") {
            return Err(self.print(|out| self.manual(A::command(), out)));
        }
        A::from_arg_matches(&matches).map_err(|error| self.reject(&error, &arguments))
    }

    /// Says what is wrong, and what to type instead where there is a hint. Returns the exit status.
    fn reject(&self, error: &clap::Error, arguments: &[OsString]) -> u8 {
        let (partner, command) = &self.partner;
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let argument = context(ContextKind::InvalidArg).unwrap_or_default();
        let hint = || (self.hint)(argument, context(ContextKind::InvalidValue));
        match error.kind() {
            ErrorKind::MissingRequiredArgument => self.refuse("the port is missing"),
            ErrorKind::UnknownArgument if has_option(&command(), argument) => {
                self.refuse(&format!("'{argument}' is an option of {partner}"))
            }
            ErrorKind::UnknownArgument | ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
                self.refuse_with(&one_line(error), hints::dashed_name(arguments).or_else(hint))
            }
            _ => self.refuse(&one_line(error)),
        }
    }

    /// Says what is wrong with the arguments, and how the program is started. Returns the exit status.
    pub(super) fn refuse(&self, problem: &str) -> u8 {
        self.refuse_with(problem, None)
    }

    /// Says what is wrong with the place to connect to, and what to type instead where there is a hint. Returns the exit
    /// status.
    pub(super) fn refuse_place(&self, problem: &str, place: &str) -> u8 {
        self.refuse_with(problem, (self.hint)(hints::HOST, Some(place)))
    }

    fn refuse_with(&self, problem: &str, hint: Option<&'static str>) -> u8 {
        let usage = || format!("usage: {} (more: --help)", self.usage.lines().next().unwrap_or_default());
        if key::is_repeated_in(problem) {
            return self.fail(BAD_ARGUMENTS, hints::KEY_IN_ANOTHER_PLACE);
        }
        self.fail(BAD_ARGUMENTS, &format!("{problem}; {}", hint.map_or_else(usage, str::to_owned)))
    }

    /// Says in one line why the program does not start. Returns the exit status.
    pub(super) fn fail(&self, status: u8, line: &str) -> u8 {
        // Either this or an interrupt is reported.
        signals::defer().complete();
        console::refuse(self.style(), line, status)
    }

    /// Lets a signal that comes before the program has started print what `fail` prints.
    ///
    /// # Errors
    /// Returns what went wrong.
    pub(super) fn report_interrupt(&self) -> Result<(), String> {
        let style = self.style();
        let report = move |status| {
            console::refuse(style, "interrupted before anything was done", status);
        };
        signals::install(report).map_err(|error| text::one_line(&error))
    }

    /// Prints a problem that the user should know of, although nothing failed.
    pub(super) fn warn(&self, line: &str) {
        console::warn(self.style(), line);
    }

    /// How to print before the arguments are known to be valid, as far as they show it.
    fn style(&self) -> Style {
        let arguments: Vec<_> = env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let own = arguments.split(|argument| argument == "--").next().unwrap_or_default();
        let has_output = outputs(own).any(|path| destination::is_standard_output(Path::new(path)));
        let stdout_is_taken = has_output || own.len() < arguments.len();
        Style {
            program: self.name,
            quiet: false,
            json: own.iter().any(|argument| argument == "--json"),
            stdout_is_taken: stdout_is_taken && self.name == "file-client",
        }
    }

    /// What follows the options in the help.
    pub(super) fn after_help(&self) -> String {
        let [examples, exit_status] = [self.examples, self.exit_status].map(|text| text.replace('\n', "\n  "));
        format!("Examples:\n  {examples}\n\nExit status:\n  {exit_status}")
    }

    /// Completions, and what `clap_complete` leaves out: the command after `--`.
    fn completions(&self, mut command: Command, shell: Shell, out: &mut Vec<u8>) -> io::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, self.name, &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        let named = |text: &str| text.replace("FUNCTION", &self.name.replace('-', "__")).replace("NAME", self.name);
        let script = match shell {
            Shell::Bash => script + &named(BASH_COMMANDS),
            Shell::Fish => script + &named(FISH_COMMANDS),
            // With two colons, zsh takes the words before the command as part of it (zshcompsys(1), `_arguments`).
            Shell::Zsh => script.replace("'*::command", "'*:::command"),
            _ => script,
        };
        out.write_all(script.as_bytes())
    }

    /// The manual page. What follows the options in the help becomes sections here, with its line breaks kept.
    fn manual(&self, mut command: Command, out: &mut Vec<u8>) -> io::Result<()> {
        command.build();
        let page = Man::new(command);
        page.render_title(out)?;
        page.render_name_section(out)?;
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)?;
        let see_also = format!("{}(1), half-close(1), nc(1), tcp(7)", self.partner.0);
        for (title, text) in [
            ("EXIT STATUS", self.exit_status),
            ("ENVIRONMENT", key::ENVIRONMENT),
            ("EXAMPLES", self.examples),
            ("SEE ALSO", &see_also),
        ] {
            let mut section = Roff::new();
            section.control("SH", [title]).control("nf", []).text([roman(text)]).control("fi", []).to_writer(out)?;
        }
        page.render_version_section(out)
    }

    /// Prints through memory, because a closed pipe (`| head`) must not end in a panic. Returns the exit status.
    pub(super) fn print(&self, render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> u8 {
        let mut text = Vec::new();
        self.status(render(&mut text).and_then(|()| blocking::write_all(io::stdout(), &text)))
    }

    fn status(&self, printed: io::Result<()>) -> u8 {
        match printed {
            Ok(()) => 0,
            // The reader closed the pipe; stay silent.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 1,
            Err(error) => self.fail(1, &format!("could not write to standard output: {}", text::reason(&error))),
        }
    }
}

/// The values of `--output` and `-o`, which may follow a `-q` in the same word.
fn outputs(arguments: &[String]) -> impl Iterator<Item = &str> {
    let following = arguments.iter().skip(1).map(Some).chain([None]);
    arguments.iter().zip(following).filter_map(|(word, following)| {
        let short = || word.strip_prefix('-')?.trim_start_matches('q').strip_prefix('o');
        let value = word.strip_prefix("--output").or_else(short)?;
        if value.is_empty() { following.map(String::as_str) } else { Some(value.strip_prefix('=').unwrap_or(value)) }
    })
}

/// Whether the command has this option, written as `-k` or `--keep-open`.
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
