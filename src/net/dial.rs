//! Connecting: resolve the host, race its addresses, and try again for as long as `--wait` says.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::endpoint::Target;
use crate::text;

#[cfg_attr(unix, path = "dial/race.rs")]
#[cfg_attr(not(unix), path = "dial/in_turn.rs")]
mod attempts;

/// How often a client that waits for its server tries again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a client that waits for its server leaves its last attempt without an answer before it makes new ones. The
/// kernel repeats a lost SYN after a second and then ever later (RFC 6298), so that new attempts find a server that comes
/// up meanwhile sooner.
const ATTEMPT_WHILE_WAITING: Duration = Duration::from_secs(2);

/// How long an attempt may go on after the end of `--wait`.
const LAST_ATTEMPT: Duration = Duration::from_secs(1);

/// After this long without a connection [`Delay::Slow`] is reported.
const SLOW_AFTER: Duration = Duration::from_secs(1);

impl Target {
    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        let (host, port) = (self.bare_host(), self.port);
        let name = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        text::printable(name.as_bytes())
    }

    fn bare_host(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }
}

/// What a user who waits may want to know; each is reported once at most.
pub(crate) enum Delay {
    /// There was no connection for a second, and no failure either.
    Slow,
    /// The first try failed for this reason, and is repeated.
    Retrying(String),
}

/// Connects to the first of the host's addresses that answers. While none does, tries all of them again for as long as
/// `wait` says; zero is one attempt. An attempt may go `timeout` without an answer; `None` leaves that to the kernel.
///
/// # Errors
/// Returns an error if the host cannot be resolved, or with the reason why each address did not answer in the last try.
pub(crate) fn connect(
    target: &Target,
    wait: Duration,
    timeout: Option<Duration>,
    mut on_delay: impl FnMut(Delay),
) -> Result<TcpStream> {
    let waits = !wait.is_zero();
    let attempt = waits.then(|| timeout.unwrap_or(Duration::MAX).min(ATTEMPT_WHILE_WAITING));
    let mut clock = Clock {
        started: Instant::now(),
        limit: if waits { wait.checked_add(LAST_ATTEMPT) } else { timeout },
        is_slow: false,
        on_delay: &mut on_delay,
    };
    let mut is_first = true;
    loop {
        let failure = match try_once(target, attempt, &mut clock) {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        };
        let elapsed = clock.started.elapsed();
        if elapsed >= wait || failure.is_final {
            bail!("{}: {}", failure.what, failure.reason);
        }
        if is_first {
            is_first = false;
            (clock.on_delay)(Delay::Retrying(failure.reason));
            // That it takes long is said with it.
            clock.is_slow = true;
        }
        thread::sleep(RETRY_INTERVAL.min(wait.saturating_sub(elapsed)));
    }
}

/// Why there is no connection.
struct Failure {
    what: String,
    reason: String,
    /// A try again would not change it.
    is_final: bool,
}

/// An address, and why there is no connection to it.
type Refusal = (SocketAddr, io::Error);

fn try_once(target: &Target, attempt: Option<Duration>, clock: &mut Clock) -> Result<TcpStream, Failure> {
    let addresses = resolve(target.bare_host(), target.port, clock).map_err(|reason| {
        let what = format!("could not resolve host {}", text::printable(target.bare_host().as_bytes()));
        Failure { what, reason, is_final: false }
    })?;
    attempts::first_to_answer(&addresses, attempt, clock).map_err(|refusals| {
        // A reset, unlike a refusal, comes from a server that has accepted the connection.
        let reset = refusals.iter().find(|(_, error)| error.kind() == io::ErrorKind::ConnectionReset);
        match reset {
            Some((_, error)) => Failure {
                what: format!("{} accepted the connection and ended it", target.name()),
                reason: text::reason(error),
                is_final: true,
            },
            None => Failure {
                what: format!("could not connect to {}", target.name()),
                reason: summary(&refusals),
                is_final: false,
            },
        }
    })
}

/// What each address answered, in one line; what all answered alike is said once.
fn summary(refusals: &[Refusal]) -> String {
    let mut reasons = refusals.iter().map(|(address, error)| (address, text::reason(error)));
    match reasons.next() {
        Some((_, first)) if reasons.all(|(_, reason)| reason == first) => first,
        _ => {
            let each = refusals.iter().map(|(address, error)| format!("{} ({address})", text::reason(error)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// How long connecting takes.
struct Clock<'a> {
    started: Instant,
    limit: Option<Duration>,
    is_slow: bool,
    on_delay: &'a mut dyn FnMut(Delay),
}

impl Clock<'_> {
    /// Returns how long to wait before asking again, or `None` once the time is up. Reports when it takes long.
    fn time_left(&mut self) -> Option<Duration> {
        let elapsed = self.started.elapsed();
        if !self.is_slow && elapsed >= SLOW_AFTER {
            self.is_slow = true;
            (self.on_delay)(Delay::Slow);
        }
        let until_slow = if self.is_slow { Duration::MAX } else { SLOW_AFTER.saturating_sub(elapsed) };
        let left = self.until_limit().unwrap_or(Duration::MAX).min(until_slow);
        Some(left).filter(|left| !left.is_zero())
    }

    /// Returns how long connecting may still take; `None` is as long as the system lets it.
    fn until_limit(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.saturating_sub(self.started.elapsed()))
    }
}

/// Returns the host's addresses in the order in which to try them, or why there are none. The resolver of the system
/// cannot be told when to give up, so it runs in a thread, which ends with the process at the latest.
fn resolve(host: &str, port: u16, clock: &mut Clock) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    let look_up = move || {
        let _ = sender.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
    };
    thread::Builder::new().name("resolver".to_owned()).spawn(look_up).map_err(|error| text::reason(&error))?;
    while let Some(left) = clock.time_left() {
        match receiver.recv_timeout(left) {
            Ok(Ok(addresses)) if Vec::is_empty(&addresses) => return Err("it has no address".to_owned()),
            Ok(Ok(addresses)) => return Ok(in_turns(addresses)),
            Ok(Err(error)) => return Err(text::reason(&error)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the resolver failed".to_owned()),
        }
    }
    Err(text::reason(&io::ErrorKind::TimedOut.into()))
}

/// Returns addresses of both families in turn, each family in the given order and the first one first (RFC 8305 section
/// 4); none twice.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return ordered;
        }
        for address in pair.into_iter().flatten() {
            if !ordered.contains(&address) {
                ordered.push(address);
            }
        }
    }
}

/// A socket to connect to the address with; it resets unless it was finished, as every connection here.
fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    if matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0) {
        return Err(io::Error::other("a link-local address needs its interface, as in fe80::1%eth0"));
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Bytes that the peer marks as urgent are bytes of the file like all others; else they would be left out (tcp(7)).
    socket.set_out_of_band_inline(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// The stream of a connected socket, unless it is connected to itself: trying a free local port for long enough ends in
/// that (RFC 9293 section 3.5).
fn into_stream(socket: Socket) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) if local == peer => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Ok(stream),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn try_all(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, Vec<Refusal>> {
        let mut clock = Clock { started: Instant::now(), limit: Some(limit), is_slow: false, on_delay: &mut |_| {} };
        attempts::first_to_answer(addresses, None, &mut clock)
    }

    fn listener() -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// An address that refuses: the port is that of a socket which does not listen.
    fn closed() -> io::Result<(Socket, SocketAddr)> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&any.into())?;
        let address = socket.local_addr()?.as_socket().unwrap_or(any);
        Ok((socket, address))
    }

    /// An address that does not answer, for its queue has room for one connection: that which is returned.
    #[cfg(target_os = "linux")]
    fn black_hole() -> io::Result<(impl Sized, SocketAddr)> {
        use rustix::event::{PollFd, PollFlags, poll};
        let (listener, address) = closed()?;
        listener.listen(0)?;
        let only = TcpStream::connect(address)?;
        // Until the kernel has handled the last segment of the handshake there is room for another one.
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
        Ok(((only, listener), address))
    }

    #[test]
    fn families_take_turns() {
        let addresses = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<SocketAddr>>();
        for (given, ordered) in [
            (&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"][..], &["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"][..]),
            (&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"], &["1.1.1.1:1", "[::1]:1", "2.2.2.2:1"]),
            (&["1.1.1.1:1", "1.1.1.1:1"], &["1.1.1.1:1"]),
            (&[], &[]),
        ] {
            assert_eq!(in_turns(addresses(given)), addresses(ordered));
        }
    }

    #[test]
    fn an_address_that_answers_is_found_behind_one_that_refuses() -> Result<()> {
        let ((_listener, open), (_held, closed)) = (listener()?, closed()?);
        let stream = try_all(&[closed, open], Duration::from_secs(60))
            .map_err(|refusals| anyhow::Error::msg(summary(&refusals)))?;
        assert_eq!(stream.peer_addr()?, open);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_address_that_answers_is_found_behind_one_that_does_not() -> Result<()> {
        let ((_held, silent), (_listener, open)) = (black_hole()?, listener()?);
        let stream = try_all(&[silent, silent, open], Duration::from_secs(60))
            .map_err(|refusals| anyhow::Error::msg(summary(&refusals)))?;
        assert_eq!(stream.peer_addr()?, open);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_each_address_answered_is_told_apart() -> Result<()> {
        let ((_silent, silent), (_closed, closed)) = (black_hole()?, closed()?);
        let refusals = try_all(&[closed, silent], Duration::from_secs(2)).err().unwrap_or_default();
        assert_eq!(summary(&refusals), format!("connection refused ({closed}), timed out ({silent})"));
        let refusals = try_all(&[closed], Duration::from_secs(60)).err().unwrap_or_default();
        assert_eq!(summary(&refusals), "connection refused");
        Ok(())
    }
}
