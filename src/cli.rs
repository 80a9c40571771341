//! The arguments of both programs, and what they print about themselves: help, completions, a man page. A wrong
//! argument is one line on standard error and exit status 2.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, Command, Parser, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use hex::FromHex as _;
use ipnet::{IpNet, Ipv4Net};

use crate::protocol::{CHUNK_SIZE, DEFAULT_FILE, DEFAULT_OUTPUT};
use crate::ui::text;
use crate::{client, server};

/// The largest chunk, in bytes: every client's thread has a buffer for at least one.
const MAX_CHUNK_SIZE: u64 = 16 * 1024 * 1024;

/// Offer one file on a TCP port, and learn whether it was stored
///
/// The client gets the bytes of the file and nothing else; their end is TCP's half-close. Then it says whether it has
/// stored the file, on the half of the connection that is still open.
#[derive(Debug, Parser)]
#[command(name = "file-server", version, max_term_width = 100, after_long_help = after_help::<Self>())]
struct ServerArguments {
    /// Port to listen on; 0 picks a free one and prints it
    #[arg(value_parser = server_port, value_hint = ValueHint::Other)]
    pub port: u16,

    /// File to send; "-" is standard input
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_FILE, value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Listen on this address only [default: every address, IPv6 and IPv4]
    #[arg(short, long, value_name = "ADDRESS", value_parser = address, value_hint = ValueHint::Other)]
    pub bind: Option<IpAddr>,

    /// Connections to serve, then exit
    #[arg(short = 'n', long, value_name = "N", default_value = "1", conflicts_with = "keep_open")]
    #[arg(value_parser = clients, value_hint = ValueHint::Other)]
    pub clients: NonZeroU64,

    /// Serve until interrupted
    #[arg(short, long)]
    pub keep_open: bool,

    /// Bytes to read and send as one piece, such as 30, 64KiB or 1MiB
    #[arg(short, long, value_name = "SIZE", default_value_t = CHUNK_SIZE, value_parser = chunk_size)]
    #[arg(value_hint = ValueHint::Other)]
    pub chunk_size: usize,

    /// Give up on a peer that makes no progress for so long, such as 60s or 5m (0s: never)
    #[arg(short, long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    #[arg(value_hint = ValueHint::Other)]
    timeout: Duration,

    /// Serve these addresses only, such as 192.168.1.20 or 10.0.0.0/8; others are reset and do not count (repeatable)
    #[arg(long, value_name = "ADDRESS[/PREFIX]", value_parser = network, value_hint = ValueHint::Other)]
    pub allow: Vec<IpNet>,

    /// Print the file's SHA-256 in the command for the other side
    #[arg(long)]
    pub sha256: bool,

    /// Print results and errors only
    #[arg(short, long)]
    pub quiet: bool,

    #[command(flatten)]
    about: About,
}

/// Fetch one file from a TCP port, and store all of it or nothing
///
/// Connects, reads to the end, stores the file and only then replies "Thank you". A file that was there before stays as
/// it was until the new one is complete and on the disk.
#[derive(Debug, Parser)]
#[command(name = "file-client", version, max_term_width = 100, after_long_help = after_help::<Self>())]
struct ClientArguments {
    /// Name, IPv4 or IPv6 address of the server
    #[arg(value_parser = NonEmptyStringValueParser::new(), value_hint = ValueHint::Hostname)]
    pub host: String,

    /// Port of the server
    #[arg(value_parser = client_port, value_hint = ValueHint::Other)]
    pub port: u16,

    /// File to store; "-" is standard output
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_OUTPUT, value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// Keep trying to connect for so long, such as 30s
    #[arg(short, long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    #[arg(value_hint = ValueHint::Other)]
    pub wait: Duration,

    /// Give up on a server that makes no progress for so long, such as 60s or 5m (0s: never)
    #[arg(short, long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    #[arg(value_hint = ValueHint::Other)]
    timeout: Duration,

    /// Expected size: shows the time left, and a short or long file is an error
    #[arg(long, value_name = "BYTES", value_parser = size, value_hint = ValueHint::Other)]
    pub size: Option<u64>,

    /// Expected SHA-256: another file is an error
    #[arg(long, value_name = "HEX", value_parser = sha256, value_hint = ValueHint::Other)]
    pub sha256: Option<[u8; 32]>,

    /// Fail rather than replace an existing file
    #[arg(long)]
    pub no_clobber: bool,

    /// Don't wait for the disk before thanking
    #[arg(long)]
    pub no_sync: bool,

    /// Print results and errors only
    #[arg(short, long)]
    pub quiet: bool,

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

impl ServerArguments {
    /// How many clients to serve; `None` is no end of them.
    #[must_use]
    pub fn clients(&self) -> Option<NonZeroU64> {
        if self.keep_open { None } else { Some(self.clients) }
    }
}

/// One of the two programs.
trait Program: Parser {
    /// Command lines, and what each is for.
    const EXAMPLES: &str;

    /// What each exit status says.
    const EXIT_STATUS: &str;

    /// What no single argument can tell to be wrong.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), &'static str>;
}

impl Program for ServerArguments {
    const EXAMPLES: &str = "\
file-server 9190                          offer des.txt to one client
file-server -f photo.jpg --sha256 9190    and let it check every bit
file-server -k --allow 192.168.1.0/24 9190
                                          to a whole network, until Ctrl-C
tar c dir | file-server -f - 9190         whatever a program writes";

    const EXIT_STATUS: &str = "\
0  every client has stored the file
1  the file or the port can't be had, or a client did not get or could not
   store the whole file
2  wrong arguments
3  all was sent, but a client did not confirm
130, 143  interrupted";

    fn check(&self) -> Result<(), &'static str> {
        let standard_input = self.file.as_os_str() == "-";
        match self.clients().map(NonZeroU64::get) {
            Some(1) if standard_input && self.sha256 => Err("the SHA-256 of standard input is not known in advance"),
            Some(1) => Ok(()),
            _ if standard_input => Err("standard input can be sent to one client only"),
            _ => Ok(()),
        }
    }
}

impl Program for ClientArguments {
    const EXAMPLES: &str = "\
file-client 192.168.1.20 9190             store it as destination.txt
file-client -o photo.jpg -w 30s laptop 9190
                                          wait for a server that is not there yet
file-client -o - laptop 9190 | tar x      whatever reads standard input";

    const EXIT_STATUS: &str = "\
0  the file is stored
1  it is not, and an older one is as it was
2  wrong arguments
130, 143  interrupted";

    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Reads the arguments of `file-server`; prints help and its like.
///
/// # Errors
/// Returns the exit status when there is nothing more to do: 0 after help and its like, 2 after a line about what is wrong.
pub fn server_options() -> Result<server::Options, u8> {
    let arguments: ServerArguments = parse(std::env::args_os())?;
    Ok(server::Options {
        clients: arguments.clients(),
        file: arguments.file,
        bind: arguments.bind,
        port: arguments.port,
        chunk_size: arguments.chunk_size,
        timeout: zero_means_none(arguments.timeout),
        allow: arguments.allow,
        sha256: arguments.sha256,
        quiet: arguments.quiet,
    })
}

/// Reads the arguments of `file-client`; prints help and its like.
///
/// # Errors
/// Returns the exit status when there is nothing more to do: 0 after help and its like, 2 after a line about what is wrong.
pub fn client_options() -> Result<client::Options, u8> {
    let arguments: ClientArguments = parse(std::env::args_os())?;
    Ok(client::Options {
        host: arguments.host,
        port: arguments.port,
        output: arguments.output,
        wait: arguments.wait,
        timeout: zero_means_none(arguments.timeout),
        size: arguments.size,
        sha256: arguments.sha256,
        no_clobber: arguments.no_clobber,
        no_sync: arguments.no_sync,
        quiet: arguments.quiet,
    })
}

/// Reads the arguments; prints what they ask to know about the program.
///
/// # Errors
/// The exit status, when there is nothing more to do: 0 after help and its like, 2 after a line about what is wrong.
fn parse<P: Program>(arguments: impl IntoIterator<Item = OsString>) -> Result<P, u8> {
    let mut command = P::command();
    let matches = command.try_get_matches_from_mut(arguments).map_err(|error| explain::<P>(&error))?;
    if let Some(&shell) = matches.get_one::<Shell>("completions") {
        let name = command.get_name().to_owned();
        return Err(print::<P>(|out| {
            clap_complete::generate(shell, &mut command, name, out);
            Ok(())
        }));
    }
    if matches.get_flag("man") {
        return Err(print::<P>(|out| manual::<P>(command, out)));
    }
    let program = P::from_arg_matches(&matches).map_err(|error| explain::<P>(&error))?;
    match program.check() {
        Ok(()) => Ok(program),
        Err(text) => Err(wrong::<P>(&format!("{text}; for more information, try '--help'"))),
    }
}

fn after_help<P: Program>() -> String {
    let [examples, exit_status] = [P::EXAMPLES, P::EXIT_STATUS].map(|text| text.replace('\n', "\n  "));
    format!("Examples:\n  {examples}\n\nExit status:\n  {exit_status}")
}

/// With what follows the help as sections of their own, whose lines stay as they are.
fn manual<P: Program>(command: Command, out: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(command);
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    for (title, text) in [("EXAMPLES", P::EXAMPLES), ("EXIT STATUS", P::EXIT_STATUS)] {
        Roff::new().control("SH", [title]).control("nf", []).text([roman(text)]).control("fi", []).to_writer(out)?;
    }
    page.render_version_section(out)
}

fn explain<P: Program>(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => status::<P>(error.print()),
        _ => wrong::<P>(&one_line(error)),
    }
}

fn wrong<P: Program>(text: &str) -> u8 {
    say::<P>(text);
    2
}

fn say<P: Program>(text: &str) {
    let _ = writeln!(io::stderr(), "{}: {text}", P::command().get_name());
}

/// Through memory, because a reader that is gone (`| head`) must not end in a panic.
fn print<P: Program>(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> u8 {
    let mut text = Vec::new();
    status::<P>(render(&mut text).and_then(|()| io::stdout().write_all(&text)))
}

fn status<P: Program>(printed: io::Result<()>) -> u8 {
    match printed {
        Ok(()) => 0,
        // Who reads no more wants to hear no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 1,
        Err(error) => {
            say::<P>(&format!("could not write to standard output: {}", text::reason(&error)));
            1
        }
    }
}

/// What clap says over several lines.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Usage:"));
    let text = lines.collect::<Vec<_>>().join("; ");
    text.trim_start_matches("error: ")
        .replace(":; ", ": ")
        .replace("; For more", "; for more")
        .trim_end_matches('.')
        .to_owned()
}

fn zero_means_none(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

fn server_port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_| "not a port from 0 to 65535 (a file is named with --file)")
}

fn client_port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|&port| port > 0).ok_or("not a port from 1 to 65535")
}

fn address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| "not an IP address such as 192.168.1.20 or ::1")
}

fn clients(text: &str) -> Result<NonZeroU64, &'static str> {
    text.parse().map_err(|_| "not a number from 1 up")
}

/// A number alone is one of seconds, as most programs have it.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().map(Duration::from_secs);
    seconds.or_else(|_| humantime::parse_duration(text)).map_err(|_| "not a duration such as 500ms, 60s or 1m30s")
}

fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| "not a size such as 30, 64KiB or 1MiB".to_owned())
}

fn chunk_size(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes @ 1..=MAX_CHUNK_SIZE => usize::try_from(bytes).map_err(|error| error.to_string()),
        _ => Err(format!("not in 1..={MAX_CHUNK_SIZE} bytes")),
    }
}

fn sha256(text: &str) -> Result<[u8; 32], &'static str> {
    <[u8; 32]>::from_hex(text).map_err(|_| "not 64 hexadecimal digits")
}

/// An address alone is a network of one; an IPv4 address in IPv6 clothes is an IPv4 address (RFC 4291 section 2.5.5.2).
fn network(text: &str) -> Result<IpNet, String> {
    const MAPPED_BITS: u8 = 96;
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| "not an address such as 192.168.1.20 or 10.0.0.0/8".to_owned())?,
    };
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(MAPPED_BITS)),
        IpNet::V4(_) => None,
    };
    Ok(mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn both_commands_are_consistent() {
        ServerArguments::command().debug_assert();
        ClientArguments::command().debug_assert();
    }

    #[test]
    fn networks_cover_what_they_say() {
        let covers = |net: &str, address: &str| {
            let address = address.parse::<IpAddr>().map_err(|error| error.to_string());
            network(net).and_then(|net| address.map(|address| net.contains(&address)))
        };
        assert_eq!(covers("10.0.0.0/8", "10.1.2.3"), Ok(true));
        assert_eq!(covers("10.0.0.0/8", "11.0.0.0"), Ok(false));
        assert_eq!(covers("127.0.0.1", "127.0.0.1"), Ok(true));
        assert_eq!(covers("::ffff:10.0.0.0/104", "10.1.2.3"), Ok(true));
        assert_eq!(covers("2001:db8::/32", "2001:db8::1"), Ok(true));
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn digests_are_sixty_four_hexadecimal_digits() {
        assert_eq!(sha256(&"0f".repeat(32)), Ok([15; 32]));
        for wrong in ["", "0f", &"0g".repeat(32), &"+f".repeat(32), &"é".repeat(32)] {
            assert!(sha256(wrong).is_err(), "{wrong}");
        }
    }
}
