//! Dialling: resolve the host, race its addresses, and retry for as long as `--wait` says.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::endpoint::Target;
use crate::text;
use imp::Attempts;

/// How long a program that waits for the other side pauses after a refusal.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long it pauses after looking up the name. Each further pause is twice as long, up to the longest.
const LOOKUP_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_LOOKUP_PAUSE: Duration = Duration::from_secs(4);

/// How long it waits for an answer before it makes new attempts beside the old ones. The kernel repeats a lost SYN
/// after a second and then at growing intervals (RFC 6298), so a new attempt finds a machine that comes up meanwhile
/// sooner.
const NEW_ATTEMPTS_AFTER: Duration = Duration::from_secs(2);

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
    /// The first try failed for this reason, or has had no answer, and is repeated.
    Retrying(String),
}

/// Connects to the first of the host's addresses that answers. While none does, tries all of them again for as long as
/// `wait` says. Zero makes one attempt, which may wait `timeout` for an answer; `None` leaves that limit to the kernel.
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
    let patience = waits.then_some(NEW_ATTEMPTS_AFTER);
    let mut clock = Clock {
        started: Instant::now(),
        limit: if waits { wait.checked_add(LAST_ATTEMPT) } else { timeout },
        is_slow: false,
        on_delay: &mut on_delay,
    };
    let mut lookups = Lookups { target, found: Ok(Vec::new()), pause: LOOKUP_PAUSE, next: None };
    let mut attempts = Attempts::default();
    let mut is_first = true;
    loop {
        let tried = match lookups.addresses(&mut clock) {
            Ok(addresses) => attempts.first_to_answer(addresses, patience, &mut clock).map_err(|refusals| {
                let what = format!("could not connect to {}", target.name());
                (what, summary(&refusals), refusals)
            }),
            Err(reason) => {
                let what = format!("could not resolve host {}", text::printable(target.bare_host().as_bytes()));
                Err((what, reason, Vec::new()))
            }
        };
        let (what, reason, refusals) = match tried {
            Ok(stream) => return Ok(stream),
            Err(failure) => failure,
        };
        // A reset, unlike a refusal, comes from a program that has accepted the connection: trying again would not change it.
        if let Some((_, reset)) = refusals.iter().find(|(_, error)| error.kind() == io::ErrorKind::ConnectionReset) {
            let (name, reason) = (target.name(), text::reason(reset));
            let hint = "perhaps it does not serve this address";
            let text = format!("{name} accepted the connection and ended it: {reason}; {hint}");
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, text).into());
        }
        let elapsed = clock.started.elapsed();
        if elapsed >= wait {
            bail!("{what}: {reason}");
        }
        if is_first {
            is_first = false;
            let no_answer = refusals.iter().all(|(_, error)| error.kind() == io::ErrorKind::TimedOut);
            let goes_on = no_answer && !refusals.is_empty();
            (clock.on_delay)(Delay::Retrying(if goes_on { "no answer yet".to_owned() } else { reason }));
            // This already says that it takes long.
            clock.is_slow = true;
        }
        thread::sleep(RETRY_INTERVAL.min(wait.saturating_sub(elapsed)));
    }
}

/// An address, and why there is no connection to it.
type Refusal = (SocketAddr, io::Error);

/// What each address answered, in one line; an answer that all share is given once.
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

    /// Returns how long connecting may still take; `None` is until the kernel gives up.
    fn until_limit(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.saturating_sub(self.started.elapsed()))
    }
}

/// The addresses of a host that is looked up again from time to time.
struct Lookups<'a> {
    target: &'a Target,
    found: Result<Vec<SocketAddr>, String>,
    pause: Duration,
    /// When to look again; `None` before the first time.
    next: Option<Instant>,
}

impl Lookups<'_> {
    /// The addresses in the order in which to try them, or why there are none.
    fn addresses(&mut self, clock: &mut Clock) -> Result<&[SocketAddr], String> {
        if self.next.is_none_or(|next| Instant::now() >= next) {
            let found = resolve(self.target.bare_host(), self.target.port, clock);
            // If the name server is gone, the addresses that it gave before are kept.
            if found.is_ok() || !matches!(&self.found, Ok(known) if !known.is_empty()) {
                self.found = found;
            }
            self.next = Instant::now().checked_add(self.pause);
            self.pause = (self.pause * 2).min(LONGEST_LOOKUP_PAUSE);
        }
        self.found.as_deref().map_err(String::clone)
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

/// Returns the addresses of both families in turn, the family of the first address first and each in the given order
/// (RFC 8305 section 4), without duplicates.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let turns = 0..first.len().max(second.len());
    let mut ordered = Vec::new();
    for &address in turns.flat_map(|turn| [first.get(turn), second.get(turn)]).flatten() {
        if !ordered.contains(&address) {
            ordered.push(address);
        }
    }
    ordered
}

/// A socket to connect to the address with; it resets unless it was finished, like every connection here.
fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    if matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0) {
        return Err(io::Error::other("a link-local address needs its interface, as in fe80::1%eth0"));
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Bytes that the peer marks as urgent are bytes of the file like all others; otherwise they would be left out
    // (tcp(7)).
    socket.set_out_of_band_inline(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// The stream of a connected socket, unless it is connected to itself: that happens after enough attempts at a free
/// local port (RFC 9293 section 3.5).
fn into_stream(socket: Socket) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) if local == peer => Err(io::ErrorKind::ConnectionRefused.into()),
        _ => Ok(stream),
    }
}

/// Happy Eyeballs (RFC 8305): the next address is tried while the one before it has not answered yet, and the first to
/// answer wins. The sockets do not block, and one call to poll(2) waits for all of them.
#[cfg(unix)]
mod imp {
    use std::io;
    use std::net::{SocketAddr, TcpStream};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use socket2::Socket;

    use super::{Clock, Refusal, into_stream, new_socket};

    /// How long an address has to answer before the next one is tried as well (RFC 8305 section 5).
    const NEXT_AFTER: Duration = Duration::from_millis(250);

    /// Attempts that have had no answer yet. They go on until the kernel gives them up.
    #[derive(Default)]
    pub(super) struct Attempts(Vec<Attempt>);

    struct Attempt {
        address: SocketAddr,
        socket: Socket,
        started: Instant,
    }

    impl Attempts {
        /// Starts another attempt for each address, and returns the first connection, which may be from an earlier
        /// attempt. Gives up when the clock says so, once all of the new attempts have failed, or `patience` after the
        /// last of them started; attempts without an answer go on.
        ///
        /// # Errors
        /// Returns what each address has answered.
        pub(super) fn first_to_answer(
            &mut self,
            addresses: &[SocketAddr],
            patience: Option<Duration>,
            clock: &mut Clock,
        ) -> Result<TcpStream, Vec<Refusal>> {
            let mut untried = addresses.iter();
            let mut refusals = Vec::new();
            let begun = Instant::now();
            let mut last_start = begun;
            let mut start_next = true;
            loop {
                let has_new = self.0.iter().any(|attempt| attempt.started >= begun);
                if start_next || !has_new || last_start.elapsed() >= NEXT_AFTER {
                    match untried.next() {
                        Some(&address) => {
                            last_start = Instant::now();
                            match start(address) {
                                Ok(socket) => self.0.push(Attempt { address, socket, started: last_start }),
                                Err(error) => {
                                    refusals.push((address, error));
                                    start_next = true;
                                    continue;
                                }
                            }
                        }
                        None if !has_new => return Err(self.unanswered(refusals)),
                        None => {}
                    }
                }
                let longest = if untried.len() > 0 { Some(NEXT_AFTER) } else { patience };
                let longest = longest.map_or(Duration::MAX, |longest| longest.saturating_sub(last_start.elapsed()));
                let is_over = longest.is_zero() && untried.len() == 0;
                let Some(left) = clock.time_left().filter(|_| !is_over) else {
                    return Err(self.unanswered(refusals));
                };
                let refused_before = refusals.len();
                if let Some(stream) = self.wait(left.min(longest), &mut refusals) {
                    return Ok(stream);
                }
                start_next = refusals.len() > refused_before;
            }
        }

        /// Adds the addresses that have not answered.
        fn unanswered(&self, mut refusals: Vec<Refusal>) -> Vec<Refusal> {
            for attempt in &self.0 {
                if refusals.iter().all(|(address, _)| *address != attempt.address) {
                    refusals.push((attempt.address, io::ErrorKind::TimedOut.into()));
                }
            }
            refusals
        }

        /// Waits until an attempt has an answer. Returns the first that is connected, and moves those that failed to
        /// `refusals`.
        fn wait(&mut self, time: Duration, refusals: &mut Vec<Refusal>) -> Option<TcpStream> {
            let mut watched: Vec<_> =
                self.0.iter().map(|attempt| PollFd::new(&attempt.socket, PollFlags::OUT)).collect();
            let time = Timespec::try_from(time).ok();
            // A signal or a failure is not an answer.
            let _ = poll(&mut watched, time.as_ref());
            let answered: Vec<_> = watched.iter().map(|socket| !socket.revents().is_empty()).collect();
            let mut connected = None;
            for (attempt, answered) in std::mem::take(&mut self.0).into_iter().zip(answered) {
                if !answered {
                    self.0.push(attempt);
                } else if connected.is_none() {
                    match finish(attempt.socket) {
                        Ok(stream) => connected = Some(stream),
                        Err(error) => refusals.push((attempt.address, error)),
                    }
                }
            }
            connected
        }
    }

    /// A connection that is under way.
    fn start(address: SocketAddr) -> io::Result<Socket> {
        let socket = new_socket(address)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    /// The result of the attempt (connect(2), `EINPROGRESS`).
    fn finish(socket: Socket) -> io::Result<TcpStream> {
        socket.take_error()?.map_or(Ok(()), Err)?;
        socket.set_nonblocking(false)?;
        into_stream(socket)
    }
}

/// Other systems: one address after the other, each with its share of the time.
#[cfg(not(unix))]
mod imp {
    use std::io;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use super::{Clock, Refusal, into_stream, new_socket};

    #[derive(Default)]
    pub(super) struct Attempts;

    impl Attempts {
        /// Connects to the first address that answers; each gets the time of `patience`, or an equal share of what the
        /// clock leaves.
        ///
        /// # Errors
        /// Returns what each address has answered.
        pub(super) fn first_to_answer(
            &mut self,
            addresses: &[SocketAddr],
            patience: Option<Duration>,
            clock: &mut Clock,
        ) -> Result<TcpStream, Vec<Refusal>> {
            let mut refusals = Vec::new();
            for (tried, &address) in addresses.iter().enumerate() {
                let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
                let share = clock.until_limit().map(|left| left / untried);
                match connect_to(address, patience.into_iter().chain(share).min()) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => refusals.push((address, error)),
                }
            }
            Err(refusals)
        }
    }

    fn connect_to(address: SocketAddr, timeout: Option<Duration>) -> io::Result<TcpStream> {
        let socket = new_socket(address)?;
        match timeout {
            Some(timeout) => socket.connect_timeout(&address.into(), timeout.max(Duration::from_millis(1)))?,
            None => socket.connect(&address.into())?,
        }
        into_stream(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn try_all(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, Vec<Refusal>> {
        let mut clock = Clock { started: Instant::now(), limit: Some(limit), is_slow: false, on_delay: &mut |_| {} };
        Attempts::default().first_to_answer(addresses, None, &mut clock)
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

    /// An address that does not answer: its queue has room for one connection, which is returned.
    #[cfg(target_os = "linux")]
    fn black_hole() -> io::Result<((TcpStream, Socket), SocketAddr)> {
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
    fn an_attempt_without_an_answer_goes_on_while_others_are_made() -> Result<()> {
        let ((held, slow), (_other, silent)) = (black_hole()?, black_hole()?);
        let limit = Some(Duration::from_secs(60));
        let mut clock = Clock { started: Instant::now(), limit, is_slow: false, on_delay: &mut |_| {} };
        let mut attempts = Attempts::default();
        let given_up = attempts.first_to_answer(&[slow], Some(Duration::from_millis(1)), &mut clock);
        assert_eq!(summary(&given_up.err().unwrap_or_default()), "timed out");
        // There is room for it when the kernel asks again.
        held.1.accept()?;
        let stream = attempts.first_to_answer(&[silent], None, &mut clock);
        assert_eq!(stream.map_err(|refusals| anyhow::Error::msg(summary(&refusals)))?.peer_addr()?, slow);
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
