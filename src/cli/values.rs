//! Values of arguments: each function reads one from text, or says what it should look like.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::num::NonZeroU64;
use std::time::Duration;

use bytesize::ByteSize;
use hex::FromHex as _;
use ipnet::IpNet;

/// The largest chunk, in bytes: every client's thread has a buffer for at least one.
const MAX_CHUNK_SIZE: u64 = 16 * 1024 * 1024;

pub(super) fn server_port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_| "not a port from 0 to 65535")
}

pub(super) fn client_port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|&port| port > 0).ok_or("not a port from 1 to 65535")
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

/// A number alone is one of seconds, as in most programs.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().map(Duration::from_secs);
    seconds.or_else(|_| humantime::parse_duration(text)).map_err(|_| "not a duration such as 500ms, 60s or 1m30s")
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

/// An address alone is a network of one. A client's IPv4-mapped IPv6 address is an IPv4 address to the listener, so such a
/// network would never match.
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
    }
}
