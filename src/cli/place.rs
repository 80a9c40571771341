//! Where the server is, as people write it: `HOST PORT` and `HOST:PORT` are taken as they are, and what else names a host
//! (a URL, `user@host`, `host:/path`) is understood well enough to show what to type instead.

use std::net::Ipv6Addr;

use super::values;

/// The host and the port, if the arguments name them without anything else around them.
pub(super) fn host_and_port(host: &str, port: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = if let Some(port) = port {
        (host, port)
    } else {
        let (host, port) = host.rsplit_once(':').filter(|_| !is_ipv6(host))?;
        (host, values::client_port(port).ok()?)
    };
    is_host(host).then(|| (host.to_owned(), port))
}

/// Whether it is a name or an address, with brackets around it where it is IPv6.
fn is_host(text: &str) -> bool {
    is_ipv6(unbracketed(text)) || (!text.is_empty() && !text.contains(['/', '@', ':', '[', ']', ' ']))
}

fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text)
}

/// The host in a word, and what stands where a port would: `("host", Some("9190"))` for `http://me@host:9190/file`.
pub(super) fn find_host(word: &str) -> Option<(&str, Option<&str>)> {
    let word = word.split_once("://").map_or(word, |(_scheme, rest)| rest);
    let word = match word.split_at_checked(4) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp:") => rest,
        _ => word,
    };
    let word = word.split(['/', '?', '#']).find(|part| !part.is_empty())?;
    let word = word.rsplit_once('@').map_or(word, |(_user, rest)| rest);
    let word = word.strip_suffix(':').filter(|word| !word.ends_with(':')).unwrap_or(word);
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) if !is_ipv6(word) && is_host(host) => (host, Some(port)),
        _ => (word, None),
    };
    is_host(host).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_one_argument_or_two() {
        for (host, port, expected) in [
            ("host", Some(9190), Some(("host", 9190))),
            ("::1", Some(9190), Some(("::1", 9190))),
            ("fe80::1%eth0", Some(9190), Some(("fe80::1%eth0", 9190))),
            ("[::1]", Some(9190), Some(("[::1]", 9190))),
            ("host:9190", None, Some(("host", 9190))),
            ("192.0.2.1:1", None, Some(("192.0.2.1", 1))),
            ("[fe80::1%eth0]:9190", None, Some(("[fe80::1%eth0]", 9190))),
            ("host", None, None),
            ("::1", None, None),
            ("::1:9190", None, None),
            ("host:", None, None),
            ("host:0", None, None),
            ("host:65536", None, None),
            ("host:http", None, None),
            (":9190", None, None),
            ("host:9190", Some(9190), None),
            ("me@host", Some(9190), None),
            ("http://host:9190", None, None),
            ("host/", Some(9190), None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(host, port), expected, "{host} {port:?}");
        }
    }

    #[test]
    fn a_host_is_found_in_what_other_programs_take() {
        for (word, expected) in [
            ("http://host:9190/", Some(("host", Some("9190")))),
            ("HTTPS://host/file.txt?x#y", Some(("host", None))),
            ("ftp://me:secret@host:21/", Some(("host", Some("21")))),
            ("http://[::1]:9190/", Some(("[::1]", Some("9190")))),
            ("me@host", Some(("host", None))),
            ("me@host:photo.jpg", Some(("host", Some("photo.jpg")))),
            ("host:/tmp/x", Some(("host", None))),
            ("host:9190/", Some(("host", Some("9190")))),
            ("host:9190:", Some(("host", Some("9190")))),
            ("//host:9190", Some(("host", Some("9190")))),
            ("TCP:host:9190", Some(("host", Some("9190")))),
            ("::1", Some(("::1", None))),
            ("host", Some(("host", None))),
            ("a b", None),
            ("", None),
            ("://", None),
            ("[::1", None),
        ] {
            assert_eq!(find_host(word), expected, "{word}");
        }
    }
}
