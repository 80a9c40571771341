//! The synopsis of a manual page. That of `clap_mangen` leaves out the values of options.

use clap::{Arg, Command};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// `file-client [-o|--output PATH] ... HOST PORT`
pub(super) fn section(command: &Command) -> Roff {
    let mut line = vec![bold(command.get_name())];
    let options = command.get_arguments().filter(|argument| !argument.is_positional() && !argument.is_hide_set());
    line.extend(options.flat_map(option));
    line.extend(command.get_positionals().flat_map(|argument| [roman(" "), values_of(argument)]));
    let mut section = Roff::new();
    section.control("SH", ["SYNOPSIS"]).text(line);
    section
}

fn option(option: &Arg) -> Vec<Inline> {
    let short = option.get_short().map(|short| format!("-{short}"));
    let long = option.get_long().map(|long| format!("--{long}"));
    let names: Vec<_> = [short, long].into_iter().flatten().collect();
    let mut words = vec![roman(" ["), bold(names.join("|"))];
    if option.get_action().takes_values() {
        words.extend([roman(" "), values_of(option)]);
    }
    words.push(roman("]"));
    words
}

fn values_of(argument: &Arg) -> Inline {
    italic(argument.get_value_names().unwrap_or_default().join(" "))
}
