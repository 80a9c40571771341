//! The addresses under which other machines reach this one, the most useful first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use if_addrs::Interface;
use ipnet::IpNet;

/// The most addresses that are printed.
const MAX_ADDRESSES: usize = 4;

/// Prefixes of the names of interfaces that lead only to containers and virtual machines of this host.
const VIRTUAL: &[&str] = &["docker", "br-", "virbr", "veth", "vnet", "lxc", "lxd", "podman", "cni", "vmnet", "vboxnet"];

/// Addresses of this machine as they are typed on another.
pub(super) struct Addresses {
    pub(super) first: String,
    pub(super) others: Vec<String>,
    /// Whether no other machine can use them.
    pub(super) is_loopback: bool,
}

impl Addresses {
    /// The addresses under which those who may connect reach a listener on this address; with an empty `allow` that is
    /// everybody.
    pub(super) fn of(bound: SocketAddr, allow: &[IpNet]) -> Self {
        let ip = bound.ip().to_canonical();
        if !ip.is_unspecified() {
            return Self::new(&[ip]);
        }
        let accepts = |ip: &IpAddr| bound.is_ipv6() || ip.is_ipv4();
        let (own, machines): (Vec<_>, Vec<_>) = allow.iter().map(IpNet::addr).partition(IpAddr::is_loopback);
        if let (Some(own), []) = (own.into_iter().find(accepts), &machines[..]) {
            return Self::new(&[loopback(own)]);
        }
        let is_reached = |ip: &IpAddr| allow.is_empty() || machines.iter().any(|from| from.is_ipv4() == ip.is_ipv4());
        let reached = of_this_machine(|ip| accepts(ip) && is_reached(ip));
        let ips = Some(reached).filter(|ips| !ips.is_empty()).unwrap_or_else(|| of_this_machine(accepts));
        Self::new(if ips.is_empty() { &[IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { &ips })
    }

    fn new(ips: &[IpAddr]) -> Self {
        let mut typed = ips.iter().map(as_typed);
        Self {
            first: typed.next().unwrap_or_default(),
            others: typed.collect(),
            is_loopback: ips.iter().all(IpAddr::is_loopback),
        }
    }
}

/// The loopback address of the same family.
fn loopback(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// Those of this machine's addresses, ranked; of interfaces that lead only to containers if there are no others.
fn of_this_machine(accepts: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let default_route: Vec<_> = default_route().into_iter().filter(&accepts).collect();
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let usable: Vec<_> = interfaces.iter().filter(|own| own.is_oper_up() && accepts(&own.ip())).collect();
    let is_reserve = |own: &Interface| is_virtual(&own.name) && !default_route.contains(&own.ip());
    let ranked = |reserve| {
        let ips = usable.iter().filter(|own| is_reserve(own) == reserve).map(|own| own.ip());
        ranked(ips.collect(), &default_route)
    };
    Some(ranked(false)).filter(|ips| !ips.is_empty()).unwrap_or_else(|| ranked(true))
}

/// Sorts addresses: those of the default routes in their order, then global ones, then private ones; IPv4 before IPv6.
/// An IPv6 link-local address needs the name of an interface of the other machine, so it is used only if there is
/// nothing else.
fn ranked(mut ips: Vec<IpAddr>, default_route: &[IpAddr]) -> Vec<IpAddr> {
    ips.retain(|ip| !ip.is_loopback());
    let on_default_route =
        |ip: &IpAddr| default_route.iter().position(|other| other == ip).unwrap_or(default_route.len());
    ips.sort_by_key(|ip| (on_default_route(ip), scope(ip), ip.is_ipv6()));
    ips.dedup();
    let last = Scope::Ipv6LinkLocal;
    let link_local_only = ips.first().is_some_and(|ip| scope(ip) == last);
    ips.retain(|ip| link_local_only || scope(ip) != last);
    ips.truncate(MAX_ADDRESSES);
    ips
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Global,
    Private,
    Ipv4LinkLocal,
    Ipv6LinkLocal,
}

fn scope(ip: &IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) if ip.is_link_local() => Scope::Ipv4LinkLocal,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Scope::Ipv6LinkLocal,
        IpAddr::V4(ip) if ip.is_private() || is_shared(*ip) => Scope::Private,
        IpAddr::V6(ip) if ip.is_unique_local() => Scope::Private,
        _ => Scope::Global,
    }
}

/// Whether it is behind the NAT of a provider (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0b1100_0000 == 64
}

fn is_virtual(name: &str) -> bool {
    VIRTUAL.iter().any(|prefix| name.starts_with(prefix))
}

/// The source addresses of this machine for distant destinations. Connecting a UDP socket sends nothing (connect(2));
/// the destinations are reserved for documentation (RFC 5737, RFC 3849).
fn default_route() -> Vec<IpAddr> {
    let local = |any: IpAddr, destination: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((destination, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let ipv4 = local(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(203, 0, 113, 1).into());
    let ipv6 = local(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into());
    ipv4.into_iter().chain(ipv6).collect()
}

/// Adds the name of an interface to an address that means nothing without one (RFC 4007 section 6).
fn as_typed(ip: &IpAddr) -> String {
    if scope(ip) == Scope::Ipv6LinkLocal { format!("{ip}%INTERFACE") } else { ip.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked_text(ips: &[&str], default_route: &[&str]) -> Vec<String> {
        let parse = |ips: &[&str]| ips.iter().flat_map(|ip| ip.parse()).collect::<Vec<IpAddr>>();
        ranked(parse(ips), &parse(default_route)).iter().map(as_typed).collect()
    }

    #[test]
    fn the_address_of_the_default_route_comes_first_and_global_before_local() {
        let all = ["127.0.0.1", "::1", "10.0.0.7", "169.254.1.7", "fe80::7", "198.51.100.7", "2001:db8::7"];
        assert_eq!(ranked_text(&all, &["10.0.0.7"]), ["10.0.0.7", "198.51.100.7", "2001:db8::7", "169.254.1.7"]);
        assert_eq!(
            ranked_text(&["fd00::7", "100.64.0.7", "10.0.0.7", "2001:db8::7"], &["10.0.0.7", "fd00::7"]),
            ["10.0.0.7", "fd00::7", "2001:db8::7", "100.64.0.7"]
        );
    }

    #[test]
    fn where_only_this_machine_may_connect_a_loopback_address_is_named() {
        let first = |allow: &[&str]| {
            let allow: Vec<IpNet> = allow.iter().flat_map(|network| network.parse()).collect();
            let addresses = Addresses::of((Ipv6Addr::UNSPECIFIED, 9190).into(), &allow);
            (addresses.first, addresses.is_loopback)
        };
        assert_eq!(first(&["127.0.0.0/8"]), ("127.0.0.1".to_owned(), true));
        assert_eq!(first(&["::1/128", "127.0.0.1/32"]), ("::1".to_owned(), true));
        assert_eq!(first(&["127.0.0.1/32", "192.0.2.7/32"]).1, first(&[]).1);
    }

    #[test]
    fn at_most_four_are_named_and_link_local_ones_only_without_others() {
        let many = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "fe80::7"];
        assert_eq!(ranked_text(&many, &[]), many[..4]);
        assert_eq!(ranked_text(&["fe80::7", "::1"], &[]), ["fe80::7%INTERFACE"]);
        assert_eq!(ranked_text(&["127.0.0.1"], &[]), [""; 0]);
    }

    #[test]
    fn interfaces_of_containers_and_virtual_machines_are_virtual() {
        for name in ["docker0", "br-5f0e2a", "virbr0", "veth12ab"] {
            assert!(is_virtual(name), "{name}");
        }
        for name in ["eth0", "enp3s0", "wlan0", "br0", "wg0", "tun0"] {
            assert!(!is_virtual(name), "{name}");
        }
    }
}
