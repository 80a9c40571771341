//! Values of arguments: each function reads one from text, or says what it should look like.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroU64;
use std::time::Duration;

use bytesize::ByteSize;
use hex::FromHex as _;
use ipnet::IpNet;

use crate::endpoint::Target;
use crate::key::Key;
use crate::text;

/// The largest chunk, in bytes: every client's thread has a buffer for at least one.
const MAX_CHUNK_SIZE: u64 = 16 * 1024 * 1024;

/// A port to listen on; 0 picks a free one.
pub(super) fn listening_port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_| "not a port from 0 to 65535")
}

/// A port to connect to.
pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|&port| port > 0).ok_or("not a port from 1 to 65535")
}

/// A name or an address; an IPv6 address may be in brackets. Resolvers read a part of an IPv4 address that begins with
/// 0 as octal (`inet_aton(3)`), so `192.168.001.010` would be another machine.
pub(super) fn host(text: &str) -> Result<String, &'static str> {
    let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let is_octal = |part: &str| part.len() > 1 && part.starts_with('0');
    if is_ipv6(unbracketed) {
        Ok(text.to_owned())
    } else if text.is_empty() || text.contains(['/', '@', ':', '[', ']', ' ']) || is_printed_key(text) {
        Err("not a name or address")
    } else if text.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()) && text.split('.').any(is_octal) {
        Err("a number that begins with 0 is read as octal; leave out the zeros in front")
    } else {
        Ok(text.to_owned())
    }
}

/// The host and the port, in one argument or in two; `[IPV6]:PORT` has brackets.
///
/// # Errors
/// Returns what is wrong or missing, in one line.
pub(super) fn target(place: &str, separate_port: Option<u16>) -> Result<Target, String> {
    let (name, number) = match place.rsplit_once(':').filter(|_| separate_port.is_none() && !is_ipv6(place)) {
        Some((name, number)) => (name, Some(port(number))),
        None => (place, separate_port.map(Ok)),
    };
    let wrong = |reason| format!("invalid value '{}' for '[HOST]': {reason}", text::printable(place.as_bytes()));
    let host = host(name).map_err(wrong)?;
    match number {
        Some(port) => Ok(Target { host, port: port.map_err(wrong)? }),
        None if port(name).is_ok() => Err("the host is missing".to_owned()),
        None => Err("the port is missing".to_owned()),
    }
}

/// Whether it is a key as `file-server` prints it: as a host it would be sent to a name server.
fn is_printed_key(text: &str) -> bool {
    text.parse::<Key>().is_ok_and(|key| key.text().eq_ignore_ascii_case(text))
}

fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

/// An IP address with port 0. Only the system's resolver knows the interface that a zone names (RFC 4007 section 11);
/// it asks no name server about a numeric address.
pub(super) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    const WRONG: &str = "not an IP address such as 192.168.1.20 or ::1";
    match text.split_once('%') {
        None => match text.parse().map_err(|_| WRONG)? {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                Err("a link-local address needs its interface, such as fe80::1%eth0")
            }
            address => Ok(SocketAddr::new(address, 0)),
        },
        Some((address, _)) => {
            address.parse::<Ipv6Addr>().map_err(|_| WRONG)?;
            let resolved = (text, 0).to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
            resolved.ok_or("there is no such interface")
        }
    }
}

pub(super) fn clients(text: &str) -> Result<NonZeroU64, &'static str> {
    text.parse().map_err(|_| "not a number from 1 up")
}

/// A number without a unit is in seconds, as in most programs.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    let parsed = humantime::parse_duration(text).or_else(|_| humantime::parse_duration(&format!("{text}s")));
    parsed.map_err(|_| "not a duration such as 500ms, 60s or 1m30s")
}

pub(super) fn zero_means_none(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

pub(super) fn size(text: &str) -> Result<u64, &'static str> {
    text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| "not a size such as 30, 64KiB or 1MiB")
}

pub(super) fn chunk_size(text: &str) -> Result<usize, &'static str> {
    let bytes = Some(size(text)?).filter(|bytes| (1..=MAX_CHUNK_SIZE).contains(bytes));
    bytes.and_then(|bytes| usize::try_from(bytes).ok()).ok_or("must be between 1 byte and 16 MiB")
}

pub(super) fn sha256(text: &str) -> Result<[u8; 32], &'static str> {
    <[u8; 32]>::from_hex(text).map_err(|_| "not 64 hexadecimal digits")
}

/// An address alone is a network of one. The listener turns a client's IPv4-mapped IPv6 address into IPv4, so a network
/// of such addresses would never match.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    let network = address.or_else(|_| text.parse()).map_err(|_| "not an address such as 192.168.1.20 or 10.0.0.0/8")?;
    match network {
        IpNet::V6(mapped) if mapped.addr().to_ipv4_mapped().is_some() => Err("write IPv4 networks as 10.0.0.0/8"),
        network => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_cover_what_they_say() -> Result<(), Box<dyn std::error::Error>> {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.1.2.3", "11.0.0.0"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
            ("0.0.0.0/0", "192.0.2.1", "::1"),
        ] {
            let network = network(net)?;
            assert!(network.contains(&inside.parse::<IpAddr>()?), "{net} has {inside}");
            assert!(!network.contains(&outside.parse::<IpAddr>()?), "{net} has not {outside}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0.0/", "::ffff:10.0.0.0/104", "localhost"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn digests_are_sixty_four_hexadecimal_digits() {
        assert_eq!(sha256(&"0f".repeat(32)), Ok([15; 32]));
        for wrong in ["", "0f", &"0g".repeat(32), &"+f".repeat(32), &"é".repeat(32)] {
            assert!(sha256(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(chunk_size("64KiB"), Ok(65_536));
        assert_eq!(chunk_size("16MiB"), Ok(16_777_216));
        assert_eq!(chunk_size("16777217"), Err("must be between 1 byte and 16 MiB"));
        assert_eq!(chunk_size("0"), Err("must be between 1 byte and 16 MiB"));
        assert_eq!(duration("5").map(zero_means_none), Ok(Some(Duration::from_secs(5))));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s").map(zero_means_none), Ok(None));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "s", "-1", "1e3", "0.5.5", "inf", "5 s s", "five"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_and_a_port_are_one_argument_or_two() {
        const NOT_A_HOST: &str = "not a name or address";
        const NOT_A_PORT: &str = "not a port from 1 to 65535";
        for (place, port, expected) in [
            ("host", Some(9190), Ok(("host", 9190))),
            ("::1", Some(9190), Ok(("::1", 9190))),
            ("fe80::1%eth0", Some(9190), Ok(("fe80::1%eth0", 9190))),
            ("[::1]", Some(9190), Ok(("[::1]", 9190))),
            ("host:9190", None, Ok(("host", 9190))),
            ("192.0.2.1:1", None, Ok(("192.0.2.1", 1))),
            ("[fe80::1%eth0]:9190", None, Ok(("[fe80::1%eth0]", 9190))),
            ("127.1", Some(9190), Ok(("127.1", 9190))),
            ("0.0.0.0", Some(9190), Ok(("0.0.0.0", 9190))),
            ("host", None, Err("the port is missing")),
            ("9190", None, Err("the host is missing")),
            ("::1", None, Err("the port is missing")),
            ("::1:9190", None, Err("the port is missing")),
            ("host:", None, Err(NOT_A_PORT)),
            ("host:0", None, Err(NOT_A_PORT)),
            ("host:65536", None, Err(NOT_A_PORT)),
            ("host:http", None, Err(NOT_A_PORT)),
            (":9190", None, Err(NOT_A_HOST)),
            ("host:9190", Some(9190), Err(NOT_A_HOST)),
            ("me@host", Some(9190), Err(NOT_A_HOST)),
            ("http://host:9190", None, Err(NOT_A_HOST)),
            ("host/", Some(9190), Err(NOT_A_HOST)),
            ("a b", Some(9190), Err(NOT_A_HOST)),
            ("[host]", Some(9190), Err(NOT_A_HOST)),
            ("", Some(9190), Err(NOT_A_HOST)),
        ] {
            let found = target(place, port).map(|target| (target.host, target.port));
            let prefix = format!("invalid value '{place}' for '[HOST]': ");
            let found = found.map_err(|error| error.trim_start_matches(&prefix).to_owned());
            let expected = expected.map(|(host, port)| (host.to_owned(), port)).map_err(str::to_owned);
            assert_eq!(found, expected, "{place} {port:?}");
        }
    }

    #[test]
    fn an_address_that_a_resolver_would_read_as_octal_is_refused() {
        const OCTAL: &str = "a number that begins with 0 is read as octal; leave out the zeros in front";
        for octal in ["127.000.000.010", "192.168.1.010", "010.0.0.1", "00"] {
            assert_eq!(host(octal), Err(OCTAL), "{octal}");
            assert!(address(octal).is_err() && network(octal).is_err(), "{octal}");
        }
        for name in ["10.0.0.1", "0", "01.example", "host-010"] {
            assert_eq!(host(name).as_deref(), Ok(name));
        }
    }
}
