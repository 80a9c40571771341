//! Chunks out of a source into a connection.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::file::source::Snapshot;
use crate::net::connection::Connection;

/// Bytes that are read at once and written at once, so that small chunks share system calls. More would be hardly faster,
/// and every client that is served has a buffer.
const BUFFER_SIZE: usize = 64 * 1024;

/// Bytes of address space that must be left once a client has its buffer. More than allocators keep for later, so that
/// trying costs two system calls and no memory (`M_MMAP_THRESHOLD`, mallopt(3)).
const LEFT_FREE: usize = 33 * 1024 * 1024;

/// Bytes behind the buffer that stay unused. What an allocator puts there, as what rustls encrypts to, would otherwise begin
/// at the same place in a page as the buffer; between such places `rep movsb` copies 2 GB/s and not 50 on AMD's Zen 3 and 4
/// (1 GiB with a key cost 0.7 s of user time, and 0.24 s with this).
const GAP: usize = 128;

/// How often to check that the file that is sent was not written to.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes in a page of memory, on most machines.
const PAGE_SIZE: usize = 4096;

/// Sends all bytes of the snapshot in chunks of `chunk_size` bytes, and calls `on_progress` with the number of bytes that
/// were handed to the connection each time. A file that is written to meanwhile is noticed within about a second.
///
/// # Errors
/// Returns an error if the source cannot be read or was written to, or if the connection failed or stalled.
pub(crate) fn send(
    snapshot: &mut Snapshot,
    connection: &mut Connection,
    chunk_size: usize,
    on_progress: impl Fn(u64),
) -> Result<()> {
    let mut chunks = Chunks::new(snapshot, chunk_size)?;
    let mut last_check = Instant::now();
    loop {
        let bytes = chunks.next_piece(connection)?;
        if bytes == 0 {
            return Ok(());
        }
        let mut sent = 0;
        while sent < bytes {
            let written = connection.write(&chunks.buffer[sent..bytes])?;
            sent += written;
            on_progress(written as u64);
            if last_check.elapsed() >= CHECK_INTERVAL {
                chunks.snapshot.ensure_not_written()?;
                last_check = Instant::now();
            }
        }
    }
}

/// The snapshot's bytes from the start, in pieces of whole chunks.
struct Chunks<'a, 'source> {
    snapshot: &'a mut Snapshot<'source>,
    chunk_size: usize,
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that the caller has received.
    consumed: usize,
    /// Bytes in the buffer; those behind `consumed` are an unfinished chunk.
    buffered: usize,
}

impl<'a, 'source> Chunks<'a, 'source> {
    fn new(snapshot: &'a mut Snapshot<'source>, chunk_size: usize) -> Result<Self> {
        let size = chunks_at_once(chunk_size) * chunk_size;
        let known_size = snapshot.known_size().and_then(|known| usize::try_from(known).ok());
        let buffer = zeroed(known_size.map_or(size, |known| size.min(known)))?;
        Ok(Self { snapshot, chunk_size, buffer, consumed: 0, buffered: 0 })
    }

    /// Puts the next bytes at the front of the buffer: as many whole chunks as one read gave, and only at the very end a
    /// shorter one. Returns their number, 0 after the end. While a stream is silent it is waited for as long as the peer
    /// is still there.
    fn next_piece(&mut self, peer: &Connection) -> Result<usize> {
        self.buffer.copy_within(self.consumed..self.buffered, 0);
        self.buffered -= self.consumed;
        let mut ended = false;
        while self.buffered < self.chunk_size && !ended {
            if let Some(stream) = self.snapshot.source().as_stream() {
                wait_for_input(stream, peer)?;
            }
            let arrived = self.snapshot.read(&mut self.buffer[self.buffered..])?;
            self.buffered += arrived;
            ended = arrived == 0 || self.snapshot.is_at_end();
        }
        self.consumed = if ended { self.buffered } else { self.buffered - self.buffered % self.chunk_size };
        Ok(self.consumed)
    }
}

/// Waits until a stream has something to read, or its end.
fn wait_for_input(stream: &File, client: &Connection) -> Result<()> {
    match client.wait_for_input(stream) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error.into()),
        waited_or_closed => waited_or_closed.context("the client closed the connection"),
    }
}

/// A buffer for one client. When memory is short, that client fails and no other: enough is left for everything else in
/// this process, which would abort if it found none.
fn zeroed(size: usize) -> Result<Vec<u8>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let reserve = |bytes: usize| {
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(bytes).ok().with_context(|| format!("not enough memory for {size} bytes"))?;
        anyhow::Ok(buffer)
    };
    let mut buffer: Vec<u8> = {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // Else the compiler may leave out what is never used.
        drop(black_box(reserve(size.saturating_add(LEFT_FREE))?));
        reserve(size.saturating_add(GAP))?
    };
    buffer.resize(size, 0);
    Ok(buffer)
}

/// As many chunks as the buffer holds; a number of them that fills whole pages if there is one, for the kernel copies
/// those faster.
fn chunks_at_once(chunk_size: usize) -> usize {
    let fit = (BUFFER_SIZE / chunk_size).max(1);
    let fill_pages = PAGE_SIZE >> chunk_size.trailing_zeros().min(PAGE_SIZE.trailing_zeros());
    if fit < fill_pages { fit } else { fit - fit % fill_pages }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;
    use crate::file::source::Source;

    /// The sizes of the pieces in which a file of `size` bytes is handed to the connection.
    fn pieces(size: usize, chunk_size: usize) -> Result<Vec<usize>> {
        let file = tempfile::NamedTempFile::new()?;
        let content: Vec<u8> = (0..=250).cycle().take(size).collect();
        file.as_file().write_all(&content)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let peer = Connection::new(TcpStream::connect(listener.local_addr()?)?, None)?;

        let source = Source::open(file.path())?;
        let mut snapshot = source.snapshot()?;
        let mut chunks = Chunks::new(&mut snapshot, chunk_size)?;
        let (mut pieces, mut arrived) = (Vec::new(), Vec::new());
        loop {
            let bytes = chunks.next_piece(&peer)?;
            if bytes == 0 {
                assert_eq!(arrived, content);
                return Ok(pieces);
            }
            arrived.extend_from_slice(&chunks.buffer[..bytes]);
            pieces.push(bytes);
        }
    }

    #[test]
    fn a_file_is_sent_in_whole_chunks_and_a_shorter_last_one() -> Result<()> {
        assert_eq!(pieces(0, 30)?, []);
        assert_eq!(pieces(29, 30)?, [29]);
        assert_eq!(pieces(30, 30)?, [30]);
        assert_eq!(pieces(61, 30)?, [61]);
        assert_eq!(pieces(61_440 + 31, 30)?, [61_440, 31]);
        assert_eq!(pieces(250_000, 100_000)?, [100_000, 100_000, 50_000]);
        Ok(())
    }

    #[test]
    fn chunks_fill_whole_pages_where_they_can() {
        for (chunk_size, bytes) in [(1, 65_536), (30, 61_440), (4096, 65_536), (32_768, 65_536), (1 << 20, 1 << 20)] {
            assert_eq!(chunks_at_once(chunk_size) * chunk_size, bytes, "{chunk_size}");
        }
        assert_eq!(chunks_at_once(99), 65_536 / 99);
        assert_eq!(chunks_at_once(200_001), 1);
    }
}
