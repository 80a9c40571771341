//! One client's transfer at the server: the source in chunks, the half-close, the reply. Until the last byte of an
//! unchanged file has been written, every way out of here ends the connection with RST.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::console::Meter;
use crate::patience::PatientStream;
use crate::protocol::Reply;
use crate::source::Snapshot;
use crate::{report, socket, zero_copy};

/// Bytes that the kernel moves between two looks at the progress.
const SENDFILE_AT_ONCE: usize = 1024 * 1024;

/// Bytes that a client may send beside the reply before it is hung up on.
const DRAIN_LIMIT: usize = 1024 * 1024;

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Bytes that are read and handed to the connection as one piece.
    pub chunk_size: usize,
    /// Let the kernel move the file instead, where it can.
    pub zero_copy: bool,
    /// Give up on a client that makes no progress for so long.
    pub timeout: Option<Duration>,
}

/// What became of a file that was sent whole.
#[derive(Debug)]
pub enum Delivery {
    /// The client has it stored.
    Confirmed(Reply),
    /// Nobody knows.
    Unconfirmed {
        /// What the client said instead, if anything.
        reply: Option<Reply>,
        /// Why that is no confirmation.
        why: String,
    },
}

/// Sends the file and waits for the reply.
///
/// # Errors
/// The client did not get the whole file: the source can't be read or changed, or the connection failed. The
/// connection is reset when it is dropped, so that the client knows too.
pub fn send(snapshot: &Snapshot, stream: &TcpStream, method: Method, meter: &Meter) -> Result<Delivery> {
    let connection = prepare(stream, method.timeout).context("could not set up the connection")?;
    let by_kernel = method.zero_copy && send_by_kernel(snapshot, &connection, meter)?;
    if !by_kernel {
        send_chunks(snapshot, &connection, method.chunk_size, meter)?;
    }
    snapshot.check_unchanged()?;
    let replied_early = half_close(stream).context("the client went away")?;
    meter.phase("waiting for the client to confirm");
    match receive_reply(&connection, replied_early)? {
        // The kernel queues the file's own memory, not a copy (sendfile(2)): a change reaches what is still under way.
        Delivery::Confirmed(reply) if by_kernel && snapshot.check_unchanged().is_err() => {
            let why = "the file changed before the client had all of it".to_owned();
            Ok(Delivery::Unconfirmed { reply: Some(reply), why })
        }
        delivery => Ok(delivery),
    }
}

fn prepare(stream: &TcpStream, timeout: Option<Duration>) -> io::Result<PatientStream<'_>> {
    socket::reset_on_close(stream)?;
    socket::notice_silence(stream, timeout)?;
    socket::send_at_once(stream)?;
    socket::keep_local_queue_short(stream)?;
    PatientStream::new(stream, timeout)
}

fn send_chunks(snapshot: &Snapshot, mut connection: &PatientStream, chunk_size: usize, meter: &Meter) -> Result<()> {
    let mut chunks = snapshot.chunks(chunk_size, Some(connection.stream()));
    loop {
        let mut unsent = chunks.next_piece()?;
        if unsent.is_empty() {
            return Ok(());
        }
        while !unsent.is_empty() {
            let written = connection.write(unsent)?;
            unsent = &unsent[written..];
            meter.add(written as u64);
        }
    }
}

/// False if the kernel can't send this source, and nothing has been sent.
fn send_by_kernel(snapshot: &Snapshot, connection: &PatientStream, meter: &Meter) -> Result<bool> {
    let Some((file, size)) = snapshot.as_file() else { return Ok(false) };
    let mut offset = 0;
    while offset < size {
        let count = usize::try_from(size - offset).unwrap_or(usize::MAX).min(SENDFILE_AT_ONCE);
        match connection.persist(|| zero_copy::sendfile(file, &mut offset, connection.stream(), count)) {
            Err(error) if offset == 0 && zero_copy::is_unsupported(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(snapshot.became_shorter()),
            Ok(moved) => meter.add(moved as u64),
        }
    }
    Ok(true)
}

/// The end of the file, which the client reads as EOF (shutdown(2)); true if the client has said something already.
fn half_close(stream: &TcpStream) -> io::Result<bool> {
    let replied_early = socket::has_unread(stream)?;
    // Before the half-close and not after: with the option left on, a server that is killed after the half-close
    // would throw away all that is still queued.
    socket::finish_on_close(stream)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(replied_early)
}

/// Everything was sent: from here on only a reset says that the client failed.
fn receive_reply(connection: &PatientStream, replied_early: bool) -> Result<Delivery> {
    let reply = match Reply::read_from(connection) {
        Ok(reply) if reply.confirms() && !replied_early => return Ok(Delivery::Confirmed(reply)),
        Ok(reply) => reply,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Err(error).context("the client failed after everything was sent");
        }
        // A stall, or the network's own trouble, such as no route any more: the client may have it all.
        Err(error) => return Ok(Delivery::Unconfirmed { reply: None, why: report::reason(&error) }),
    };
    drain(connection);
    let (reply, why) = match reply {
        reply if reply.is_empty() => (None, "the client left without a reply"),
        reply if replied_early => (Some(reply), "the client replied before the end of the file"),
        reply => (Some(reply), "the client replied something other than \"Thank you\""),
    };
    Ok(Delivery::Unconfirmed { reply, why: why.to_owned() })
}

/// Reads on to the end: closing a connection with unread data would reset it and throw away what the client has not
/// read yet (RFC 2525 section 2.17). A client that sends without end is hung up on all the same.
fn drain(mut connection: &PatientStream) {
    let started = Instant::now();
    let mut buffer = [0; 4096];
    let mut drained = 0;
    while drained < DRAIN_LIMIT && connection.limit().is_none_or(|limit| started.elapsed() < limit) {
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(arrived) => drained += arrived,
        }
    }
}
