//! What the server says when it is ready: where it listens, and what to type on the other machine.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::protocol::{DEFAULT_FILE, DEFAULT_OUTPUT};
use crate::ui::console::Console;
use crate::ui::text;

/// What is known of the file that is offered.
pub(super) struct Offer<'a> {
    pub(super) file: &'a Path,
    pub(super) size: Option<u64>,
    pub(super) sha256: Option<[u8; 32]>,
}

/// Tells where the server listens and how to fetch the file from there, in one piece: an interrupt comes before or
/// after it. A port that nobody has chosen is told even to those who want to hear results only.
pub(super) fn announce(console: &Console, bound: SocketAddr, chosen_port: u16, offer: &Offer) {
    let listening = format!("listening on {bound}");
    if !console.is_quiet() {
        console.always(&format!("{listening}\n{}", how_to_fetch(bound, offer)));
    } else if chosen_port == 0 {
        console.always(&listening);
    }
}

fn how_to_fetch(bound: SocketAddr, offer: &Offer) -> String {
    let port = bound.port();
    let output = output(offer.file);
    let options = options(offer, output.as_deref());
    let output = output.as_deref().unwrap_or(DEFAULT_OUTPUT);
    let addresses = reachable(bound.ip());
    let with_file_client = addresses.iter().map(|address| format!("  file-client {address} {port}{options}"));
    let with_nc = addresses.iter().map(|address| format!("  nc {address} {port} < /dev/null > {output}"));

    let mut lines = vec!["to fetch the file, type on the other machine:".to_owned()];
    lines.extend(with_file_client);
    lines.push("or, if there is no file-client, without confirmation:".to_owned());
    lines.extend(with_nc);
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

/// The name of the file in a shell's words; `None` if the default is as good, or the name is one that nobody should
/// paste unseen.
fn output(file: &Path) -> Option<String> {
    if [DEFAULT_FILE, "-"].iter().any(|name| file.as_os_str() == *name) {
        return None;
    }
    let name = file.file_name()?.to_str()?;
    let is_plain = !name.starts_with('-') && text::printable(name.as_bytes()) == name;
    shlex::try_quote(name).ok().filter(|_| is_plain).map(Into::into)
}

/// The addresses under which others can reach this one, IPv4 first; loopback if there are no others.
fn reachable(bound: IpAddr) -> Vec<IpAddr> {
    if !bound.is_unspecified() {
        return vec![bound.to_canonical()];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let ours = interfaces.iter().filter(|own| own.is_oper_up() && !own.is_loopback());
    let ours = ours.map(if_addrs::Interface::ip).filter(|address| match address {
        IpAddr::V4(_) => true,
        // A link-local one means nothing without the name of an interface of the other machine (RFC 4007 section 6).
        IpAddr::V6(address) => bound.is_ipv6() && !address.is_unicast_link_local(),
    });
    let mut addresses: Vec<_> = ours.collect();
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V4(address) if address.is_link_local());
    addresses.sort_by_key(|address| (address.is_ipv6(), is_link_local(address)));
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_has_the_file_s_name_as_a_shell_reads_it() {
        let output = |path: &str| output(Path::new(path));
        assert_eq!(output("../isos/image.iso").as_deref(), Some("image.iso"));
        assert_eq!(output("two words").as_deref(), Some("'two words'"));
        assert_eq!(output("$(reboot)").as_deref(), Some("'$(reboot)'"));
        for path in ["des.txt", "-", "-rf", "a\nb", "a\u{202e}b", "/"] {
            assert_eq!(output(path), None, "{path}");
        }
    }
}
