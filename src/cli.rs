//! The arguments of both programs, and what they print about themselves: help, completions, a manual page. A wrong
//! argument is one line on standard error and exit status 2.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory as _, Parser, ValueHint};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::client::Output;
use crate::endpoint::{Encryption, Endpoint, Listening, Target};
use crate::protocol::{CHUNK_SIZE, DEFAULT_FILE, DEFAULT_OUTPUT};
use crate::server::Offered;
use crate::text;
use crate::{client, server};
use key::{KeyArguments, ServerKeyArguments};
use program::{BAD_ARGUMENTS, Program};
use typed::Typed;
use values::zero_means_none;

mod advice;
mod key;
mod place;
mod program;
mod synopsis;
mod typed;
mod values;

const FILE_SERVER: Program = Program {
    name: "file-server",
    examples: "\
file-server 9190                          offer des.txt to one client
file-server -f photo.jpg --sha256 9190    and let it check every bit
file-server --encrypt 9190                only to a client that is given the key
file-server -k --allow 192.168.1.0/24 9190
                                          to a whole network, until Ctrl-C
tar c dir | file-server -f - 9190         whatever a program writes",
    exit_status: "\
0  every client has stored the file
1  the file cannot be read or the port cannot be bound, or a client did not
   receive or store the whole file
2  bad arguments
3  everything was sent, but a client did not confirm
129, 130, 131, 143  interrupted",
    optional: None,
    partner: ("file-client", ClientArguments::command),
    foreign: advice::SERVER_FOREIGN,
    advise: advice::server,
};

const FILE_CLIENT: Program = Program {
    name: "file-client",
    examples: "\
file-client 192.168.1.20 9190             store it as destination.txt
file-client -o photo.jpg -w 30s laptop 9190
                                          wait for a server that is not there yet
file-client --key-file - laptop 9190      ask for the key of file-server --encrypt
file-client -o - laptop 9190 | tar x      whatever reads standard input",
    exit_status: "\
0  the file is stored
1  the file was not stored; an existing file is unchanged
2  bad arguments
129, 130, 131, 143  interrupted",
    // HOST:PORT has it.
    optional: Some("port"),
    partner: ("file-server", ServerArguments::command),
    foreign: advice::CLIENT_FOREIGN,
    advise: advice::client,
};

/// Offer one file on a TCP port, and learn whether it was stored
///
/// The client receives the bytes of the file and nothing else; their end is TCP's half-close. Then it replies that it
/// has stored the file, on the half of the connection that is still open.
#[derive(Debug, Parser)]
#[command(name = "file-server", version, max_term_width = 100, after_long_help = FILE_SERVER.after_help())]
struct ServerArguments {
    /// Port to listen on; 0 picks a free one and prints it
    #[arg(value_parser = values::server_port, value_hint = ValueHint::Other)]
    port: u16,

    /// File to send; "-" is standard input
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Listen on this address only [default: every address, IPv6 and IPv4]
    #[arg(short, long, value_name = "ADDRESS", value_parser = values::address, value_hint = ValueHint::Other)]
    bind: Option<SocketAddr>,

    /// Clients to serve, then exit
    #[arg(short = 'n', long, value_name = "N", default_value = "1", conflicts_with = "keep_open")]
    #[arg(value_parser = values::clients, value_hint = ValueHint::Other)]
    clients: NonZeroU64,

    /// Serve until interrupted
    #[arg(short, long)]
    keep_open: bool,

    /// Bytes to read and send as one chunk, for example 30, 64KiB or 1MiB
    #[arg(short, long, value_name = "SIZE", default_value_t = CHUNK_SIZE, value_parser = values::chunk_size)]
    #[arg(value_hint = ValueHint::Other)]
    chunk_size: usize,

    /// Give up after this long without progress, for example 60s or 5m (0s: never)
    #[arg(short, long, value_name = "DURATION", default_value = "60s", value_parser = values::duration)]
    #[arg(value_hint = ValueHint::Other)]
    timeout: Duration,

    /// Serve these addresses only, for example 192.168.1.20 or 10.0.0.0/8; others are reset and not counted (repeatable)
    #[arg(long, value_name = "ADDRESS[/PREFIX]", value_parser = values::network, value_hint = ValueHint::Other)]
    allow: Vec<IpNet>,

    /// Print the file's SHA-256 in the command for the other side
    #[arg(long)]
    sha256: bool,

    #[command(flatten)]
    key: ServerKeyArguments,

    /// Print results and errors only
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    about: About,
}

/// Fetch one file from a TCP port, and store all of it or nothing
///
/// Connects, reads to the end, stores the file and only then replies "Thank you". An existing file is unchanged until the
/// new one is complete and synced to disk.
#[derive(Debug, Parser)]
#[command(name = "file-client", version, max_term_width = 100, after_long_help = FILE_CLIENT.after_help())]
struct ClientArguments {
    #[arg(help = "Name or address of the server; HOST:PORT and [IPV6]:PORT name the port too")]
    #[arg(value_parser = NonEmptyStringValueParser::new(), value_hint = ValueHint::Hostname)]
    host: String,

    /// Port of the server
    #[arg(required = true, value_parser = values::client_port, value_hint = ValueHint::Other)]
    port: Option<u16>,

    /// File to store; "-" is standard output
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_OUTPUT, value_hint = ValueHint::FilePath)]
    output: PathBuf,

    /// Keep trying to connect for this long, for example 30s
    #[arg(short, long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    #[arg(value_hint = ValueHint::Other)]
    wait: Duration,

    /// Give up after this long without progress, for example 60s or 5m (0s: never)
    #[arg(short, long, value_name = "DURATION", default_value = "60s", value_parser = values::duration)]
    #[arg(value_hint = ValueHint::Other)]
    timeout: Duration,

    /// Expected size: shows the time left, and any other size is an error
    #[arg(long, value_name = "BYTES", value_parser = values::size, value_hint = ValueHint::Other)]
    size: Option<u64>,

    /// Expected SHA-256: any other is an error
    #[arg(long, value_name = "HEX", value_parser = values::sha256, value_hint = ValueHint::Other)]
    sha256: Option<[u8; 32]>,

    #[command(flatten)]
    key: KeyArguments,

    /// Fail rather than replace an existing file
    #[arg(long)]
    no_clobber: bool,

    /// Reply before the file is synced to disk
    #[arg(long)]
    no_sync: bool,

    /// Print results and errors only
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    about: About,
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

/// Reads the arguments of `file-server`; prints help and its like.
///
/// # Errors
/// Returns the exit status when there is nothing more to do: 0 after help and its like, otherwise that after a line about
/// what is wrong.
pub fn server_options() -> Result<server::Options, u8> {
    let typed: Vec<OsString> = env::args_os().collect();
    let arguments: ServerArguments = FILE_SERVER.parse(&typed)?;
    let clients = if arguments.keep_open { None } else { Some(arguments.clients) };
    if let Some(problem) = contradiction(&arguments.file, clients, arguments.sha256) {
        FILE_SERVER.say(&format!("{problem}; for more information, try '--help'"));
        return Err(BAD_ARGUMENTS);
    }
    let key = if arguments.key.encrypt { None } else { FILE_SERVER.given_key(arguments.key.given)? };
    if let Some(line) = unsendable(&arguments.file, &typed) {
        FILE_SERVER.say(&line);
        return Err(1);
    }
    Ok(server::Options {
        offered: Offered::File(arguments.file),
        endpoint: Endpoint::Listen(Listening { bind: arguments.bind, port: arguments.port, allow: arguments.allow }),
        wait: Duration::ZERO,
        encryption: if arguments.key.encrypt {
            Encryption::NewKey
        } else {
            key.map_or(Encryption::Off, Encryption::Key)
        },
        clients,
        until_stored: false,
        json: false,
        chunk_size: arguments.chunk_size,
        timeout: zero_means_none(arguments.timeout),
        sha256: arguments.sha256,
        quiet: arguments.quiet,
    })
}

/// What is wrong with these together: standard input can be read only once.
fn contradiction(file: &Path, clients: Option<NonZeroU64>, sha256: bool) -> Option<&'static str> {
    if !is_standard_stream(file) {
        None
    } else if clients != Some(NonZeroU64::MIN) {
        Some("standard input can be sent to one client only")
    } else {
        sha256.then_some("the SHA-256 of standard input is not known in advance")
    }
}

/// What to type for a directory, or where there is no `des.txt`. Other errors are reported when the file is opened.
fn unsendable(file: &Path, typed: &[OsString]) -> Option<String> {
    let typed = || Typed::parse(&ServerArguments::command(), FILE_SERVER.foreign, typed);
    match file.metadata() {
        Ok(found) if found.is_dir() && !is_standard_stream(file) => advice::directory_to_send(file, &typed()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file == Path::new(DEFAULT_FILE) => {
            advice::no_default_file(&error, &typed()?)
        }
        _ => None,
    }
}

/// Reads the arguments of `file-client`; prints help and its like.
///
/// # Errors
/// Returns the exit status when there is nothing more to do: 0 after help and its like, otherwise that after a line about
/// what is wrong.
pub fn client_options() -> Result<client::Options, u8> {
    let typed: Vec<OsString> = env::args_os().collect();
    let arguments: ClientArguments = FILE_CLIENT.parse(&typed)?;
    let Some((host, port)) = place::host_and_port(&arguments.host, arguments.port) else {
        let problem = format!(
            "invalid value '{}' for '<HOST>': not a name or address",
            text::printable(arguments.host.as_bytes())
        );
        return Err(FILE_CLIENT.refuse::<ClientArguments>(&typed, &problem));
    };
    if !is_standard_stream(&arguments.output) && arguments.output.is_dir() {
        FILE_CLIENT.say(&advice::directory_to_store(&arguments.output));
        return Err(1);
    }
    Ok(client::Options {
        encryption: FILE_CLIENT.given_key(arguments.key)?.map_or(Encryption::Off, Encryption::Key),
        endpoint: Endpoint::Connect(Target { host, port }),
        output: Output::File(arguments.output),
        resume: false,
        json: false,
        wait: arguments.wait,
        timeout: zero_means_none(arguments.timeout),
        size: arguments.size,
        sha256: arguments.sha256,
        no_clobber: arguments.no_clobber,
        no_sync: arguments.no_sync,
        quiet: arguments.quiet,
    })
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
