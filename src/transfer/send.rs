//! Chunks out of a source into a connection.

use std::fs::File;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::buffer::Buffer;
use crate::file::snapshot::Snapshot;
use crate::net::connection::Connection;

/// Bytes that are read at once and written at once, so that small chunks share system calls: whole chunks of the usual
/// size that fill whole pages. A larger buffer would hardly be faster, and every client that is served has one.
const BUFFER_SIZE: usize = 60 * 1024;

/// The longest chunk that is in memory at once; a longer one goes out in parts.
const MAX_CHUNK_IN_MEMORY: usize = 1024 * 1024;

/// How often to check that the file is unchanged, and the least pause after a check as a multiple of its duration:
/// checks take at most a tenth of the time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_PAUSE: u32 = 9;

/// Sends all bytes of the snapshot in chunks of `chunk_size` bytes, and calls `on_progress` with the number of bytes
/// that were handed to the connection each time. The last bytes of a file are held back until it is known to be
/// unchanged. If it has to be read again, they go out a few at a time meanwhile, so that the client does not time out.
///
/// # Errors
/// Returns an error if the source cannot be read or has changed, or if the connection failed or stalled.
pub(crate) fn send(
    snapshot: &mut Snapshot,
    connection: &mut Connection,
    chunk_size: usize,
    on_progress: impl Fn(u64),
) -> Result<()> {
    let chunk_size = chunk_size.min(MAX_CHUNK_IN_MEMORY);
    let mut buffer = Buffer::new(0);
    let mut next_check = Instant::now() + CHECK_INTERVAL;
    loop {
        let bytes = read_piece(snapshot, &mut buffer, chunk_size, connection)?;
        if bytes == 0 {
            return Ok(());
        }
        let mut unsent = &buffer[..bytes];
        let mut send_until = |left: usize, connection: &mut Connection| -> Result<()> {
            while unsent.len() > left {
                let written = connection.write(&unsent[..unsent.len() - left])?;
                unsent = &unsent[written..];
                on_progress(written as u64);
            }
            Ok(())
        };
        let started = Instant::now();
        if snapshot.left() == Some(0) || started >= next_check {
            snapshot.ensure_unchanged(|read, of| {
                connection.socket().check().context("the client closed the connection")?;
                send_until(held_back(bytes, read, of), connection)
            })?;
            next_check = Instant::now() + CHECK_INTERVAL.max(started.elapsed() * CHECK_PAUSE);
        }
        send_until(0, connection)?;
    }
}

/// How many bytes of a piece are kept when `read` of `of` bytes have been read again: at least one.
fn held_back(bytes: usize, read: u64, of: u64) -> usize {
    let sent = (bytes as u128 - 1) * u128::from(read) / u128::from(of.max(1));
    bytes - usize::try_from(sent).unwrap_or_default()
}

/// Reads the next bytes to the front of the buffer and returns their number, 0 after the end: as many whole chunks of a
/// file as belong together, or what a stream has. Waits for a silent stream as long as the peer is still there.
fn read_piece(snapshot: &mut Snapshot, buffer: &mut Buffer, chunk_size: usize, peer: &Connection) -> Result<usize> {
    let size = piece_size(snapshot.left(), chunk_size);
    loop {
        if let Some(stream) = snapshot.stream() {
            wait_for_input(stream, peer)?;
        }
        if buffer.len() < size {
            *buffer = Buffer::try_new(size).ok().with_context(|| format!("not enough memory for {size} bytes"))?;
        }
        match snapshot.read(&mut buffer[..size]) {
            // Another process has read the bytes first.
            Err(error) if snapshot.stream().is_some() && error.downcast_ref().is_some_and(would_block) => {}
            read => return read,
        }
    }
}

/// The size of the next piece: whole chunks of a file, or the whole buffer for a stream. The last piece of a file fills
/// the buffer if it can: all of it may be needed to keep the client waiting.
fn piece_size(left: Option<u64>, chunk_size: usize) -> usize {
    let at_once = (BUFFER_SIZE / chunk_size).max(1) * chunk_size;
    let left = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
    let last = at_once.min(BUFFER_SIZE);
    match left.checked_sub(at_once) {
        None | Some(0) => left,
        // A chunk that fills the buffer alone is cut.
        Some(behind) if behind < last && at_once == chunk_size => left - last,
        Some(behind) if behind < last => behind.next_multiple_of(chunk_size),
        Some(_) => at_once,
    }
}

/// Waits until a stream has something to read, or its end.
///
/// # Errors
/// Returns an error if the client has closed the connection meanwhile, or does not take what it is sent.
pub(crate) fn wait_for_input(stream: &File, client: &Connection) -> Result<()> {
    match client.socket().wait_for_input(stream) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error.into()),
        waited_or_closed => waited_or_closed.context("the client closed the connection"),
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
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
        let (mut pieces, mut buffer, mut arrived) = (Vec::new(), Buffer::new(0), Vec::new());
        loop {
            let bytes = read_piece(&mut snapshot, &mut buffer, chunk_size, &peer)?;
            if bytes == 0 {
                assert_eq!(arrived, content);
                return Ok(pieces);
            }
            arrived.extend_from_slice(&buffer[..bytes]);
            pieces.push(bytes);
        }
    }

    #[test]
    fn a_file_is_sent_in_whole_chunks_and_a_shorter_last_one() -> Result<()> {
        assert!(pieces(0, 30)?.is_empty());
        assert_eq!(pieces(29, 30)?, [29]);
        assert_eq!(pieces(30, 30)?, [30]);
        assert_eq!(pieces(61, 30)?, [61]);
        assert_eq!(pieces(300_000, 100_000)?, [100_000, 100_000, 100_000]);
        Ok(())
    }

    #[test]
    fn the_last_piece_of_a_large_file_is_a_large_one() -> Result<()> {
        assert_eq!(pieces(61_440 + 31, 30)?, [60, 61_411]);
        assert_eq!(pieces(2 * 61_440, 30)?, [61_440, 61_440]);
        assert_eq!(pieces(2 * 61_440 + 1, 30)?, [61_440, 30, 61_411]);
        assert_eq!(pieces(40_000 + 1, 40_000)?, [1, 40_000]);
        assert_eq!(pieces(250_000, 100_000)?, [100_000, 88_560, 61_440]);
        Ok(())
    }

    #[test]
    fn a_piece_holds_as_many_chunks_as_a_buffer() {
        for (chunk_size, bytes) in [(1, 61_440), (30, 61_440), (4096, 61_440), (30_721, 30_721), (1 << 20, 1 << 20)] {
            assert_eq!(piece_size(None, chunk_size), bytes, "{chunk_size}");
            assert_eq!(piece_size(Some(u64::MAX), chunk_size), bytes, "{chunk_size}");
        }
    }

    #[test]
    fn held_back_bytes_go_out_evenly_and_the_last_one_never() {
        assert_eq!(held_back(100, 0, 1000), 100);
        assert_eq!(held_back(100, 500, 1000), 51);
        assert_eq!(held_back(100, 1000, 1000), 1);
        assert_eq!(held_back(1, 1000, 1000), 1);
        assert_eq!(held_back(MAX_CHUNK_IN_MEMORY, u64::MAX, u64::MAX), 1);
    }
}
