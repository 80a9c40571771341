//! The ioctl for it (`SIOCOUTQ`, tcp(7)) has no safe wrapper, and the question is asked only when a call has been blocked
//! for a while, so the kernel's tables of connections answer it (`/proc/net/tcp`, proc(5)). One reading of a table answers
//! for all connections, so that many blocked ones cost little more than one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use procfs::net::TcpNetEntries;
use procfs::prelude::FromReadSI as _;

static IPV4: Mutex<Table> = Mutex::new(Table::new("/proc/net/tcp"));
static IPV6: Mutex<Table> = Mutex::new(Table::new("/proc/net/tcp6"));

struct Table {
    path: &'static str,
    /// Kept open, so that it can be read though descriptors are exhausted.
    file: Option<File>,
    read_at: Option<Instant>,
    unacknowledged: BTreeMap<(SocketAddr, SocketAddr), u32>,
}

impl Table {
    const fn new(path: &'static str) -> Self {
        Self { path, file: None, read_at: None, unacknowledged: BTreeMap::new() }
    }

    fn open(&mut self) -> Option<&mut File> {
        if self.file.is_none() {
            self.file = File::open(self.path).ok();
        }
        self.file.as_mut()
    }

    fn refresh(&mut self, max_age: Duration) {
        if self.read_at.is_some_and(|read_at| read_at.elapsed() < max_age) {
            return;
        }
        let entries = self.read().unwrap_or(TcpNetEntries(Vec::new()));
        let pair = |local, peer| (without_scope(local), without_scope(peer));
        let entries = entries.0.into_iter();
        self.unacknowledged =
            entries.map(|entry| (pair(entry.local_address, entry.remote_address), entry.tx_queue)).collect();
        self.read_at = Some(Instant::now());
    }

    fn read(&mut self) -> Option<TcpNetEntries> {
        let file = self.open()?;
        file.seek(SeekFrom::Start(0)).ok()?;
        TcpNetEntries::from_read(file, procfs::current_system_info()).ok()
    }
}

/// Opens what has to be read later.
pub(crate) fn prepare() {
    for table in [&IPV4, &IPV6] {
        lock(table).open();
    }
    procfs::current_system_info();
}

/// Returns the number of bytes that were written to this connection and that its peer had not acknowledged, at a time not
/// longer ago than `max_age`; `None` if that cannot be known.
pub(crate) fn unacknowledged_bytes(connection: &TcpStream, max_age: Duration) -> Option<u32> {
    let (local, peer) = (connection.local_addr().ok()?, connection.peer_addr().ok()?);
    let mut table = lock(if local.is_ipv4() { &IPV4 } else { &IPV6 });
    table.refresh(max_age);
    table.unacknowledged.get(&(without_scope(local), without_scope(peer))).copied()
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tables have neither the scope nor the flow of an IPv6 address.
fn without_scope(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    #[test]
    fn what_the_peer_has_not_read_is_unacknowledged_until_it_has() -> io::Result<()> {
        prepare();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut ours = TcpStream::connect(listener.local_addr()?)?;
        let mut peer = listener.accept()?.0;
        ours.set_nonblocking(true)?;
        let mut written = 0;
        while let Ok(bytes) = ours.write(&[0; 4096]) {
            written += bytes;
        }
        let settles = |is_it: fn(u32) -> bool| {
            (0..1000).any(|_| {
                thread::sleep(Duration::from_millis(10));
                unacknowledged_bytes(&ours, Duration::ZERO).is_some_and(is_it)
            })
        };
        assert!(settles(|bytes| bytes > 0));
        peer.read_exact(&mut vec![0; written])?;
        assert!(settles(|bytes| bytes == 0));
        Ok(())
    }
}
