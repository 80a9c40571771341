//! The server's side of one transfer, in order: the file in chunks, the half-close, the reply. Until the last byte of an
//! unchanged file has been written, every way out of here ends the connection with RST.

use std::io;

use anyhow::{Context as _, Result};

use crate::file::snapshot::Snapshot;
use crate::net::connection::Connection;
use crate::protocol::Reply;
use crate::text;
use crate::transfer::send::send;
use crate::ui::console::Meter;

/// The outcome of a transfer in which the whole file was sent.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The client has stored the file.
    Confirmed(Reply),
    /// Whether the client has stored the file is not known.
    Unconfirmed {
        /// What the client replied instead, if anything.
        reply: Option<Reply>,
        /// Why that is no confirmation.
        reason: String,
    },
}

/// Sends the file to one client, in pieces of `chunk_size` bytes, and waits for its reply.
///
/// # Errors
/// Returns an error if the client did not receive the whole file or could not store it: the source cannot be read or
/// changed, or the connection failed.
pub(crate) fn run(
    mut snapshot: Snapshot,
    mut connection: Connection,
    chunk_size: usize,
    meter: &Meter,
) -> Result<Outcome> {
    connection.disable_nagle()?;
    connection.limit_loopback_send_buffer()?;

    send(&mut snapshot, &mut connection, chunk_size, |bytes| meter.add(bytes))?;
    snapshot.ensure_ended_well()?;
    // A reply before EOF confirms nothing.
    let replied_early = connection.has_unread_data()?;
    connection.half_close()?;
    meter.phase("waiting for the client to confirm");
    receive_reply(&mut connection, replied_early)
}

/// Everything was sent: from here on only a reset says that the client failed.
fn receive_reply(connection: &mut Connection, replied_early: bool) -> Result<Outcome> {
    let reply = match Reply::read_from(&mut *connection) {
        Ok(reply) if reply.confirms() && !replied_early => return Ok(Outcome::Confirmed(reply)),
        Ok(reply) => reply,
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) => {
            return Err(error).context("the client failed after everything was sent");
        }
        // A stall, or a failure of the network, such as no route any more: the client may have it all.
        Err(error) => return Ok(Outcome::Unconfirmed { reply: None, reason: text::reason(&error) }),
    };
    connection.drain();
    let (reply, reason) = match reply {
        reply if reply.is_empty() => (None, "the client closed the connection without a reply"),
        reply if reply.is_handshake() => (None, "the client encrypts, but this server was given no key"),
        reply if replied_early => (Some(reply), "the client replied before the end of the file"),
        reply => (Some(reply), "the client replied something other than \"Thank you\""),
    };
    Ok(Outcome::Unconfirmed { reply, reason: reason.to_owned() })
}
