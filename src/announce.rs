//! What the server says when it is ready: where it listens, and what to type on the other machine.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::console::Console;

/// Tells where the server listens and how to fetch the file from there.
pub(crate) fn announce(console: &Console, bound: SocketAddr, size: Option<u64>, sha256: Option<[u8; 32]>) {
    console.note(&format!("listening on {bound}"));
    if console.is_quiet() {
        return;
    }
    let addresses = reachable(bound.ip());
    let port = bound.port();
    let mut options = size.map(|size| format!(" --size {size}")).unwrap_or_default();
    if let Some(sha256) = sha256 {
        options += " --sha256 ";
        for byte in sha256 {
            let _ = write!(options, "{byte:02x}");
        }
    }
    console.note("to fetch the file, type on the other machine:");
    for address in &addresses {
        console.note(&format!("  file-client {address} {port}{options}"));
    }
    console.note("or, if there is no file-client, without confirmation:");
    for address in &addresses {
        console.note(&format!("  nc {address} {port} < /dev/null > destination.txt"));
    }
}

/// The addresses under which others can reach this one, IPv4 first; loopback if there are no others.
fn reachable(bound: IpAddr) -> Vec<IpAddr> {
    if !bound.is_unspecified() {
        return vec![bound.to_canonical()];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    // A link-local address means nothing without the name of an interface of the other machine.
    let ours = interfaces.iter().filter(|own| own.is_oper_up() && !own.is_loopback() && !own.is_link_local());
    let ours = ours.map(if_addrs::Interface::ip).filter(|address| bound.is_ipv6() || address.is_ipv4());
    let mut addresses: Vec<_> = ours.collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses
}
