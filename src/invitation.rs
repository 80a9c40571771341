//! What the server says when it is ready: where it listens, and what to type on the other machine.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use crate::key::Key;
use crate::protocol::DEFAULT_OUTPUT;
use crate::text::shell;
use crate::ui::console::Console;
use addresses::Addresses;

mod addresses;

/// What is known of the file that is offered.
pub(crate) struct Offer<'a> {
    /// What to store it as, `-` for standard output; `None` if the client's default is as good.
    pub(crate) name: Option<&'a Path>,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<[u8; 32]>,
    /// Whether a client needs a key.
    pub(crate) is_encrypted: bool,
    /// The key if it was made just now.
    pub(crate) new_key: Option<Key>,
}

/// Tells where the server listens and how to fetch the file from there, in one piece: an interrupt comes before or
/// after it. A port that the system has chosen and a new key are told even to those who want results only.
pub(crate) fn announce(console: &Console, bound: SocketAddr, chosen_port: u16, offer: &Offer) {
    let mut lines = Vec::new();
    if !console.is_quiet() || chosen_port == 0 {
        lines.push(format!("listening on {bound}"));
    }
    if let Some(key) = &offer.new_key {
        lines.push(format!("key: {}", key.text()));
    }
    if !console.is_quiet() {
        lines.push(how_to_fetch(&Addresses::of(bound), bound.port(), offer));
    }
    if !lines.is_empty() {
        console.always(&lines.join("\n"));
    }
}

/// One command that can be copied as it stands, the other addresses, and the same with nc.
fn how_to_fetch(addresses: &Addresses, port: u16, offer: &Offer) -> String {
    let machine = if addresses.is_loopback() { "this" } else { "the other" };
    let address = &addresses.first;
    let output = output(offer.name);
    // The key itself would be seen in the list of processes.
    let (key, then) = if offer.is_encrypted { (" --key-file -", ", and then the key") } else { ("", "") };
    let mut lines = vec![
        format!("to fetch the file, type on {machine} machine{then}:"),
        format!("  file-client{key} {address} {port}{}", options(offer, output.as_deref())),
    ];
    if !addresses.others.is_empty() {
        lines.push(format!("other addresses of this machine: {}", addresses.others.join(", ")));
    }
    if offer.is_encrypted {
        return lines.join("\n");
    }
    lines.push("or, if there is no file-client, without confirmation:".to_owned());
    lines.push(match output.as_deref() {
        Some("-") => format!("  nc {address} {port} < /dev/null"),
        output => format!("  nc {address} {port} < /dev/null > {}", output.unwrap_or(DEFAULT_OUTPUT)),
    });
    lines.join("\n")
}

fn options(offer: &Offer, output: Option<&str>) -> String {
    let mut options = String::new();
    if let Some(size) = offer.size {
        let _ = write!(options, " --size {size}");
    }
    if let Some(sha256) = offer.sha256 {
        let _ = write!(options, " --sha256 {}", hex::encode(sha256));
    }
    if let Some(output) = output {
        let _ = write!(options, " --output {output}");
    }
    options
}

/// The name as a shell reads it; `None` if it cannot be printed.
fn output(name: Option<&Path>) -> Option<String> {
    name.and_then(|name| shell::path(name.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_has_the_name_of_the_file_as_a_shell_reads_it() {
        let output = |name: &str| output(Some(Path::new(name)));
        assert_eq!(output("image.iso").as_deref(), Some("image.iso"));
        assert_eq!(output("two words").as_deref(), Some("'two words'"));
        assert_eq!(output("-rf").as_deref(), Some("./-rf"));
        assert_eq!(output("-").as_deref(), Some("-"));
        assert_eq!(output("./-").as_deref(), Some("./-"));
        for name in ["a\nb", "a\u{202e}b"] {
            assert_eq!(output(name), None, "{name}");
        }
    }
}
