//! The arguments of both programs, converted into their options. A wrong argument is one line on standard error and exit
//! status 2.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory as _, Parser, ValueHint};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::client::Output;
use crate::endpoint::{Endpoint, Listening, Target};
use crate::file::source::is_standard_input;
use crate::key::Key;
use crate::protocol::{CHUNK_SIZE, DEFAULT_FILE, DEFAULT_OUTPUT};
use crate::server::Offered;
use crate::{client, server, text};
use key::KeyArguments;
use program::{BAD_ARGUMENTS, Program};
use values::zero_means_none;

mod hints;
mod key;
mod program;
mod values;

const FILE_SERVER: Program = Program {
    name: "file-server",
    usage: "\
file-server [OPTIONS] <PORT> [-- <COMMAND>...]
       file-server [OPTIONS] --connect <HOST> <PORT> [-- <COMMAND>...]",
    examples: "\
file-server 9190                          offer des.txt to one client
file-server -u -f photo.jpg 9190          until a client has stored it
file-server --encrypt 9190                only to a client that is given the key
file-server -k --allow 192.168.1.0/24 9190
                                          to a whole network, until Ctrl-C
file-server 9190 -- tar c dir             what a command writes
file-server --connect laptop 9190         to file-client --listen",
    exit_status: "\
0  every client has stored the file (with -u: as many as were wanted)
1  the file cannot be read or the port cannot be bound, no client came within
   --wait or could be reached, or one did not receive or store the whole file
2  bad arguments
3  everything was sent, but a client did not confirm
129 and more  interrupted: 128 plus the number of the signal",
    partner: ("file-client", ClientArguments::command),
    hint: hints::server,
};

const FILE_CLIENT: Program = Program {
    name: "file-client",
    usage: "\
file-client [OPTIONS] <HOST> <PORT> [-- <COMMAND>...]
       file-client [OPTIONS] --listen <PORT> [-- <COMMAND>...]",
    examples: "\
file-client 192.168.1.20 9190             store it as destination.txt
file-client -o photo.jpg -w 30s laptop 9190
                                          wait for a server that is not there yet
file-client --key-file - laptop 9190      ask for the key of file-server --encrypt
file-client laptop 9190 -- tar x          give it to a command
file-client --encrypt --listen 9190       from file-server --connect",
    exit_status: "\
0  the file is stored
1  the file was not stored; an existing file is unchanged
2  bad arguments
129 and more  interrupted: 128 plus the number of the signal",
    partner: ("file-server", ServerArguments::command),
    hint: hints::client,
};

/// Offer one file on a TCP port, and learn whether it was stored
///
/// The client receives the bytes of the file and nothing else; their end is TCP's half-close. Then it replies that it
/// has stored the file, on the half of the connection that is still open.
#[derive(Debug, Parser)]
#[command(name = "file-server", version, max_term_width = 100, args_override_self = true)]
#[command(override_usage = FILE_SERVER.usage, after_long_help = FILE_SERVER.after_help())]
#[allow(clippy::struct_excessive_bools, reason = "options are given or not")]
struct ServerArguments {
    /// Port to listen on; 0 picks a free one and prints it
    #[arg(required = true, value_parser = values::listening_port, value_hint = ValueHint::Other)]
    port: Option<u16>,

    /// Program whose output is sent, with its arguments; run once for each client
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments, conflicts_with_all = ["file", "sha256"])]
    command: Vec<OsString>,

    /// File to send; "-" is standard input
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Bytes to read and send as one chunk, for example 30, 64KiB or 1MiB
    #[arg(short, long, value_name = "SIZE", default_value_t = CHUNK_SIZE, value_parser = values::chunk_size)]
    #[arg(value_hint = ValueHint::Other)]
    chunk_size: usize,

    /// Print the file's SHA-256; where it listens, in the command for the other side
    #[arg(long)]
    sha256: bool,

    /// Clients to serve, then exit
    #[arg(short = 'n', long, value_name = "N", default_value = "1", conflicts_with = "keep_open")]
    #[arg(value_parser = values::clients, value_hint = ValueHint::Other)]
    clients: NonZeroU64,

    /// Serve until interrupted
    #[arg(short, long)]
    keep_open: bool,

    /// Count only the clients that have stored the file
    #[arg(short, long)]
    until_stored: bool,

    /// Connect to the PORT of a 'file-client --listen' instead of listening
    #[arg(long, value_name = "HOST", value_parser = values::host, value_hint = ValueHint::Hostname)]
    #[arg(conflicts_with_all = ["clients", "keep_open", "until_stored", "bind", "allow"])]
    connect: Option<String>,

    #[command(flatten)]
    common: CommonArguments,

    /// Print a new key, for --key-file
    #[arg(long, exclusive = true)]
    new_key: bool,

    #[command(flatten)]
    about: About,
}

/// Fetch one file from a TCP port, and store all of it or nothing
///
/// Connects, reads to the end, stores the file and only then replies "Thank you". An existing file is unchanged until the
/// new one is complete and synced to disk.
#[derive(Debug, Parser)]
#[command(name = "file-client", version, max_term_width = 100, args_override_self = true)]
#[command(override_usage = FILE_CLIENT.usage, after_long_help = FILE_CLIENT.after_help())]
struct ClientArguments {
    #[arg(help = "Name or address of the server; HOST:PORT and [IPV6]:PORT name the port too")]
    #[arg(value_parser = NonEmptyStringValueParser::new(), value_hint = ValueHint::Hostname)]
    host: Option<String>,

    /// Port of the server
    #[arg(value_parser = values::port, value_hint = ValueHint::Other)]
    port: Option<u16>,

    /// Program that is given the file as its standard input, with its arguments
    #[arg(last = true, value_hint = ValueHint::CommandWithArguments)]
    #[arg(conflicts_with_all = ["output", "no_clobber", "no_sync", "resume"])]
    command: Vec<OsString>,

    /// Listen for a 'file-server --connect' on this port instead of connecting; 0 picks a free one
    #[arg(long, value_name = "PORT", value_parser = values::listening_port, value_hint = ValueHint::Other)]
    #[arg(conflicts_with_all = ["host", "port"])]
    listen: Option<u16>,

    /// File to store; "-" is standard output
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_OUTPUT, value_hint = ValueHint::FilePath)]
    output: PathBuf,

    /// Expected size: shows the time left, and any other size is an error
    #[arg(long, value_name = "BYTES", value_parser = values::size, value_hint = ValueHint::Other)]
    size: Option<u64>,

    /// Expected SHA-256: any other is an error
    #[arg(long, value_name = "HEX", value_parser = values::sha256, value_hint = ValueHint::Other)]
    sha256: Option<[u8; 32]>,

    /// Fail rather than replace an existing file
    #[arg(long)]
    no_clobber: bool,

    /// Reply before the file is synced to disk
    #[arg(long)]
    no_sync: bool,

    /// Keep what has arrived when the connection breaks, and go on from there; with a key
    #[arg(long)]
    resume: bool,

    #[command(flatten)]
    common: CommonArguments,

    #[command(flatten)]
    about: About,
}

/// What either program takes.
#[derive(Args, Debug)]
struct CommonArguments {
    /// Give up after this long without progress, for example 0.5s or 5m (0s: never)
    #[arg(short, long, value_name = "DURATION", default_value = "60s", value_parser = values::duration)]
    #[arg(value_hint = ValueHint::Other)]
    timeout: Duration,

    /// Wait this long for the other side: connecting, try again (0s: once); listening (0s: for ever)
    #[arg(short, long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    #[arg(value_hint = ValueHint::Other)]
    wait: Duration,

    /// Listen on this address only [default: every address, IPv6 and IPv4]
    #[arg(short, long, value_name = "ADDRESS", value_parser = values::address, value_hint = ValueHint::Other)]
    bind: Option<SocketAddr>,

    /// Where it listens, let in these only, for example 192.168.1.20 or 10.0.0.0/8 (repeatable)
    #[arg(long, value_name = "ADDRESS[/PREFIX]", value_parser = values::network, value_hint = ValueHint::Other)]
    allow: Vec<IpNet>,

    #[command(flatten)]
    key: KeyArguments,

    /// Print every line as a JSON object
    #[arg(long)]
    json: bool,

    /// Print results and errors only
    #[arg(short, long)]
    quiet: bool,
}

impl CommonArguments {
    /// Where to connect to, or else on which port to listen.
    fn endpoint(&self, target: Option<Target>, port: u16) -> Endpoint {
        let listening = Listening { bind: self.bind, port, allow: self.allow.clone() };
        target.map_or(Endpoint::Listen(listening), Endpoint::Connect)
    }
}

#[derive(Args, Debug)]
struct About {
    /// Print completions for a shell
    #[arg(long, value_name = "SHELL", exclusive = true)]
    completions: Option<Shell>,

    /// Print the manual page
    #[arg(long, exclusive = true)]
    man: bool,
}

/// Reads the arguments of `file-server`, and prints any information that they ask for.
///
/// # Errors
/// Returns the exit status when there is nothing more to do: 0 after help, version, completions, the manual page or a
/// new key, otherwise that of an error, after one line about it.
pub fn server_options() -> Result<server::Options, u8> {
    let arguments: ServerArguments = FILE_SERVER.parse()?;
    if arguments.new_key {
        return Err(print_new_key());
    }
    if let Some(problem) = server_contradiction(&arguments) {
        return Err(FILE_SERVER.fail(BAD_ARGUMENTS, problem));
    }
    let ServerArguments { port, command, file, common, .. } = arguments;
    let port = port.unwrap_or_default();
    let endpoint = common.endpoint(arguments.connect.map(|host| Target { host, port }), port);
    let encryption = common.key.resolve(&FILE_SERVER, common.quiet)?;
    if command.is_empty()
        && let Some(line) = unsendable(&file)
    {
        return Err(FILE_SERVER.fail(1, &line));
    }
    Ok(server::Options {
        offered: if command.is_empty() { Offered::File(file) } else { Offered::Command(command) },
        endpoint,
        wait: common.wait,
        encryption,
        clients: if arguments.keep_open { None } else { Some(arguments.clients) },
        until_stored: arguments.until_stored,
        json: common.json,
        chunk_size: arguments.chunk_size,
        timeout: zero_means_none(common.timeout),
        sha256: arguments.sha256,
        quiet: common.quiet,
    })
}

fn print_new_key() -> u8 {
    match Key::random() {
        Ok(key) => FILE_SERVER.print(|out| writeln!(out, "{}", key.text())),
        Err(error) => FILE_SERVER.fail(1, &error.to_string()),
    }
}

/// Returns what is wrong with the arguments in combination.
fn server_contradiction(arguments: &ServerArguments) -> Option<&'static str> {
    let ServerArguments { command, file, common, .. } = arguments;
    let is_connecting = arguments.connect.is_some();
    // It can be read only once.
    let sends_standard_input = command.is_empty() && is_standard_stream(file);
    [
        (is_connecting && arguments.port == Some(0), "--connect needs the port of the other side, which is not 0"),
        (is_connecting && common.key.encrypt, hints::KEY_OF_THE_OTHER_SIDE),
        (
            sends_standard_input && (arguments.keep_open || arguments.clients != NonZeroU64::MIN),
            "standard input can be sent to one client only",
        ),
        (sends_standard_input && arguments.until_stored, "standard input can be sent only once, stored or not"),
        (sends_standard_input && arguments.sha256, "the SHA-256 of standard input is not known in advance"),
        (is_standard_input(file) && common.key.reads_standard_input(), hints::KEY_BESIDE_STANDARD_INPUT),
    ]
    .into_iter()
    .find_map(|(is_wrong, problem)| is_wrong.then_some(problem))
}

/// What to type for a directory, or where there is no `des.txt`. Other errors are reported when the file is opened.
fn unsendable(file: &Path) -> Option<String> {
    let (reason, hint) = match file.metadata() {
        Ok(found) if found.is_dir() && !is_standard_stream(file) => {
            ("is a directory".to_owned(), hints::DIRECTORY_TO_SEND)
        }
        Err(error) if error.kind() == ErrorKind::NotFound && file == Path::new(DEFAULT_FILE) => {
            (text::reason(&error), hints::NO_DEFAULT_FILE)
        }
        _ => return None,
    };
    Some(format!("could not open {}: {reason}; {hint}", text::name(file)))
}

/// Reads the arguments of `file-client`, and prints any information that they ask for.
///
/// # Errors
/// Returns the exit status when there is nothing more to do: 0 after help, version, completions or the manual page,
/// otherwise that of an error, after one line about it.
pub fn client_options() -> Result<client::Options, u8> {
    let arguments: ClientArguments = FILE_CLIENT.parse()?;
    let target = match (&arguments.host, arguments.listen) {
        (None, None) => return Err(FILE_CLIENT.refuse("the host and the port are missing")),
        (None, Some(_)) => None,
        (Some(host), _) => {
            let target = values::target(host, arguments.port);
            Some(target.map_err(|problem| FILE_CLIENT.refuse_place(&problem, host))?)
        }
    };
    if let Some(problem) = client_contradiction(&arguments) {
        return Err(FILE_CLIENT.fail(BAD_ARGUMENTS, problem));
    }
    let ClientArguments { command, output, common, .. } = arguments;
    if command.is_empty() && !is_standard_stream(&output) && output.is_dir() {
        return Err(FILE_CLIENT.fail(1, &hints::directory_to_store(&output)));
    }
    let endpoint = common.endpoint(target, arguments.listen.unwrap_or_default());
    Ok(client::Options {
        encryption: common.key.resolve(&FILE_CLIENT, common.quiet)?,
        output: if command.is_empty() { Output::File(output) } else { Output::Command(command) },
        endpoint,
        resume: arguments.resume,
        json: common.json,
        wait: common.wait,
        timeout: zero_means_none(common.timeout),
        size: arguments.size,
        sha256: arguments.sha256,
        no_clobber: arguments.no_clobber,
        no_sync: arguments.no_sync,
        quiet: common.quiet,
    })
}

/// Returns what is wrong with the arguments in combination.
fn client_contradiction(arguments: &ClientArguments) -> Option<&'static str> {
    let ClientArguments { output, common, resume, .. } = arguments;
    let is_listening = arguments.listen.is_some();
    let is_restricted = !common.allow.is_empty() || common.bind.is_some();
    let is_on_loopback = common.bind.is_some_and(|address| address.ip().to_canonical().is_loopback());
    let has_key = common.key.is_given();
    let is_protected = has_key || arguments.sha256.is_some() || !common.allow.is_empty() || is_on_loopback;
    let is_regular = || output.metadata().map_or(!is_standard_stream(output), |found| found.is_file());
    [
        (!is_listening && is_restricted, "--bind and --allow are for --listen"),
        (!is_listening && common.key.encrypt, hints::KEY_OF_THE_OTHER_SIDE),
        (is_listening && !is_protected, hints::LISTENING_CLIENT),
        (*resume && !has_key && is_listening, hints::LISTENING_RESUME_NEEDS_KEY),
        (*resume && !has_key, hints::RESUME_NEEDS_KEY),
        (*resume && !is_regular(), "--resume is for regular files"),
    ]
    .into_iter()
    .find_map(|(is_wrong, problem)| is_wrong.then_some(problem))
}

fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_commands_are_consistent() {
        ServerArguments::command().debug_assert();
        ClientArguments::command().debug_assert();
    }
}
