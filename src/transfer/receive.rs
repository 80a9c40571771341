//! Bytes out of a connection into a destination: by splice where the kernel can, otherwise through a buffer.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};

use super::splice::{self, Pipe};
use crate::buffer::Buffer;
use crate::file::destination::Destination;
use crate::file::replacement::Replacement;
use crate::net::connection::Connection;

/// Bytes that are read at once if that many have arrived: the larger a write, the less a page costs the file system.
const BUFFER_SIZE: usize = 512 * 1024;

/// What the client was told about the file in advance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    /// Its size in bytes.
    pub(crate) size: Option<u64>,
    /// Its digest (FIPS 180-4).
    pub(crate) sha256: Option<[u8; 32]>,
}

impl Expected {
    /// Whether anything is known of the file.
    pub(crate) fn is_known(&self) -> bool {
        self.size.is_some() || self.sha256.is_some()
    }
}

/// What the destination already has.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) bytes: u64,
    /// Their digest, to go on from.
    pub(crate) sha256: Sha256,
}

/// Moves everything up to EOF into the destination, after what it already has, and calls `on_progress` with the number
/// of bytes as they arrive. Returns the size of the whole.
///
/// # Errors
/// Returns an error if the connection failed or stalled before EOF, if the destination could not be written, or if what
/// arrived is not what was expected.
pub(crate) fn receive(
    connection: &mut Connection,
    destination: &mut Destination,
    expected: Expected,
    start: Start,
    on_progress: impl Fn(u64),
) -> Result<u64> {
    let mut digest = expected.sha256.map(|_| start.sha256);
    let can_splice = destination.replacement().is_some() && digest.is_none() && connection.plain_socket().is_some();
    let mut mover = if can_splice { Mover::spliced() } else { Mover::buffered() };
    let mut received = start.bytes;
    // It is what the sender has, so the expectation is wrong.
    if let Some(size) = expected.size.filter(|&size| received > size) {
        bail!("could not store {}: it is larger than the expected {size} bytes", destination.name());
    }
    loop {
        if let Some(size) = expected.size.filter(|&size| received > size) {
            return Err(not_expected(destination, &format!("more than the expected {size} bytes arrived")));
        }
        let bytes = mover.step(connection, destination, digest.as_mut(), &on_progress)?;
        if bytes == 0 {
            break;
        }
        received += bytes as u64;
        destination.record_written(bytes)?;
    }
    if let Some(size) = expected.size.filter(|&size| received < size) {
        return Err(not_expected(destination, &format!("{received} bytes arrived, {size} were expected")));
    }
    let actual: Option<[u8; 32]> = digest.map(|digest| digest.finalize().into());
    if actual != expected.sha256 {
        let actual = actual.map(hex::encode).unwrap_or_default();
        let reason = format!("the SHA-256 of what arrived is {actual}, not the expected one");
        return Err(not_expected(destination, &reason));
    }
    Ok(received)
}

/// Discards the part, because nothing of what arrived is usable, and returns the error.
fn not_expected(destination: &Destination, reason: &str) -> Error {
    if let Some(replacement) = destination.replacement() {
        replacement.discard_part();
    }
    anyhow!("could not store {}: {reason}", destination.name())
}

/// The context of an error of the connection: what it could not receive in full.
#[derive(Clone, Debug)]
pub(crate) struct NotAll(pub(crate) String);

impl fmt::Display for NotAll {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "could not receive all of {}", self.0)
    }
}

/// How bytes get from the connection to the file.
enum Mover {
    /// Through a pipe in the kernel.
    Spliced {
        pipe: Pipe,
        /// Whether the file has taken bytes that way.
        splice_works: bool,
    },
    /// Through a buffer of this process.
    Buffered(Buffer),
}

impl Mover {
    fn spliced() -> Self {
        Pipe::new().map_or_else(|_| Self::buffered(), |pipe| Self::Spliced { pipe, splice_works: false })
    }

    fn buffered() -> Self {
        Self::Buffered(Buffer::new(BUFFER_SIZE))
    }

    /// Moves what one read gives; 0 bytes at EOF.
    fn step(
        &mut self,
        connection: &mut Connection,
        to: &mut Destination,
        digest: Option<&mut Sha256>,
        on_progress: &impl Fn(u64),
    ) -> Result<usize> {
        let not_all = |to: &Destination| NotAll(to.name().to_owned());
        match self {
            Self::Buffered(buffer) => {
                let arrived = connection.read(buffer).with_context(|| not_all(to))?;
                on_progress(arrived as u64);
                let name = NotAll(to.name().to_owned());
                to.write_all(&buffer[..arrived], |output| {
                    connection.socket().wait_for_output(output).context(name.clone())
                })?;
                if let Some(digest) = digest {
                    digest.update(&buffer[..arrived]);
                }
                Ok(arrived)
            }
            Self::Spliced { pipe, splice_works } => {
                let filled = match connection.plain_socket() {
                    Some(socket) => socket.retry_until_stalled(|| pipe.fill(socket.stream())),
                    None => Ok(0),
                };
                let arrived = match filled {
                    // The error of a connection that has failed may be of the same kind, and is reported once (socket(7)).
                    Err(error)
                        if !*splice_works && splice::is_unsupported(&error) && !connection.socket().has_failed() =>
                    {
                        *self = Self::buffered();
                        return self.step(connection, to, digest, on_progress);
                    }
                    // EOF, or urgent data, at which splice(2) stops for good: only a plain read can tell.
                    Ok(0) => {
                        *self = Self::buffered();
                        return self.step(connection, to, digest, on_progress);
                    }
                    filled => filled.with_context(|| not_all(to))?,
                };
                on_progress(arrived as u64);
                let Some(file) = to.replacement().map(Replacement::file) else { bail!("not a regular file") };
                let drained = drain_pipe(pipe, arrived, file, *splice_works);
                *splice_works = drained.map_err(|error| to.could_not_write(error))?;
                if !*splice_works {
                    *self = Self::buffered();
                }
                Ok(arrived)
            }
        }
    }
}

/// Moves all `left` bytes in the pipe into the file. Returns false if they were copied through a buffer, because the
/// file's first answer was that it cannot take them from a pipe.
fn drain_pipe(pipe: &Pipe, mut left: usize, mut file: &File, mut splice_works: bool) -> io::Result<bool> {
    while left > 0 {
        match pipe.drain(file, left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(moved) => (left, splice_works) = (left - moved, true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if !splice_works && splice::is_unsupported(&error) => {
                let mut leftover = vec![0; left];
                pipe.reader().read_exact(&mut leftover)?;
                file.write_all(&leftover)?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(splice_works)
}
