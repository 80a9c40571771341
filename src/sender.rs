//! The sender's side of one transfer, in order: the bytes of the source in chunks, the half-close, the reply. Until the
//! source has ended well, every way out of here ends the connection with RST.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};

use crate::file::snapshot::Snapshot;
use crate::net::connection::{Connection, Unread};
use crate::protocol::Reply;
use crate::resume;
use crate::signals;
use crate::text;
use crate::transfer::send::{send, wait_for_input};
use crate::ui::event;
use crate::ui::progress::Meter;

/// The outcome of a transfer in which everything was sent.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The receiver has stored the file.
    Confirmed(Reply),
    /// Whether the receiver has stored the file is not known.
    Unconfirmed {
        /// What it replied instead, if anything.
        reply: Option<Reply>,
        /// Why that is not a confirmation.
        reason: String,
        /// Whether the connection broke, so that a receiver that resumes may come back for the rest.
        is_break: bool,
    },
}

/// Sends the source to one receiver, in pieces of `chunk_size` bytes, and waits for its reply, which must be complete
/// within `timeout` once it has begun. `checking` returns a meter for reading what the receiver already has.
///
/// # Errors
/// Returns an error if the receiver did not get everything or could not store it: the source cannot be read, changed or
/// failed, or the connection failed.
pub(crate) fn run(
    mut snapshot: Snapshot,
    mut connection: Connection,
    chunk_size: usize,
    timeout: Option<Duration>,
    meter: &Meter,
    checking: impl FnOnce(u64) -> Meter,
) -> Result<Outcome> {
    // A port probe ends its half at once. So does a client that has nothing to send, so this counts only with a reset.
    let has_left = connection.unread()? == Unread::End && snapshot.known_size().is_some();
    if connection.can_resume() {
        let start = |bytes| {
            let checking = checking(bytes);
            move |read| checking.add(read)
        };
        let agreed = resume::agree(&mut connection, &mut snapshot, start);
        meter.skip(agreed.context("could not agree with the client from where to go on")?);
    }
    let sent = send(&mut snapshot, &mut connection, chunk_size, |bytes| meter.add(bytes));
    sent.map_err(|error| explain_reset(error, has_left))?;
    snapshot.ensure_ended_well(|exit| wait_for_input(exit, &connection))?;
    connection.wait_for_room()?;
    // A reply before the half-close confirms nothing.
    let unread = connection.unread().map_err(|error| explain_reset(error, has_left))?;
    if has_left {
        // If the client has gone, it resets the connection when bytes arrive.
        connection.socket().wait_until_acknowledged().map_err(|error| explain_reset(error.into(), has_left))?;
    }

    // A signal that ended the program that writes the source ends this one too, before it can half-close.
    if snapshot.stream().is_some() {
        signals::wait_for_group();
    }
    let deferred = signals::defer();
    connection.half_close()?;
    drop(deferred);

    meter.phase("waiting for the client to confirm");
    let outcome = receive_reply(&mut connection, unread == Unread::Bytes, timeout);
    outcome.map_err(|error| explain_reset(error, has_left || unread == Unread::End))
}

/// Everything was sent: from here on only a reset says that the receiver failed.
fn receive_reply(connection: &mut Connection, replied_early: bool, timeout: Option<Duration>) -> Result<Outcome> {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Other, UnexpectedEof};
    let reply = match Reply::read_from(&mut *connection, timeout) {
        Ok(reply) if reply.confirms() && !replied_early => return Ok(Outcome::Confirmed(reply)),
        Ok(reply) => reply,
        // With a key it also says so in an alert.
        Err(error) if matches!(error.kind(), ConnectionReset | ConnectionAborted | Other) => {
            return Err(error).context("the client failed after everything was sent");
        }
        // A stall, or a failure of the network, such as a lost route: the receiver may have everything. Bytes that a
        // relay has acknowledged may not have reached it yet.
        Err(error) => {
            let is_break = error.kind() == UnexpectedEof || !connection.socket().is_acknowledged();
            return Ok(Outcome::Unconfirmed { reply: None, reason: text::reason(&error), is_break });
        }
    };
    connection.socket().drain();
    let (reply, reason) = match reply {
        reply if reply.is_empty() => (None, "the client closed the connection without a reply"),
        reply if reply.is_handshake() => (None, "the client encrypts, but this server was given no key"),
        reply if reply.is_http() => (Some(reply), "the client replied with an HTTP request, as a browser does"),
        reply if replied_early => (Some(reply), "the client replied before the end of the file"),
        reply => (Some(reply), "the client replied something other than \"Thank you\""),
    };
    Ok(Outcome::Unconfirmed { reply, reason: reason.to_owned(), is_break: false })
}

/// A receiver that had already ended its half of the connection, and then resets it, has taken nothing.
fn explain_reset(error: Error, has_left: bool) -> Error {
    if has_left && event::is_gone(&error) { io::Error::from(io::ErrorKind::NotConnected).into() } else { error }
}
