//! The receiver's side of one transfer, in order: the bytes up to EOF, the checks, the disk, the name, the thanks. Until
//! the file may be published, every way out of here ends the connection with RST, which tells the sender that it is not
//! stored.

use std::io;

use anyhow::{Context as _, Result, bail};

use crate::file::destination::Destination;
use crate::file::replacement::Replacement;
use crate::net::connection::Connection;
use crate::protocol::THANK_YOU;
use crate::resume::Kept;
use crate::signals;
use crate::transfer::receive::{Expected, NotAll, Start, receive};
use crate::ui::progress::Meter;

/// A file that is stored.
pub(crate) struct Stored {
    /// Its size.
    pub(crate) bytes: u64,
    /// Whether a file was there before.
    pub(crate) replaced: bool,
    /// Whether the sender was told.
    pub(crate) told: io::Result<()>,
}

/// Receives one file into the destination, after the part that is `kept` there, and thanks the sender once it is
/// stored.
///
/// # Errors
/// Returns an error if the file is not stored: the connection failed, what arrived is not what was expected, or the
/// destination could not be written.
pub(crate) fn run(
    mut connection: Connection,
    destination: &mut Destination,
    expected: Expected,
    kept: Option<&mut Kept>,
    meter: &Meter,
) -> Result<Stored> {
    destination.begin()?;
    let start = match kept {
        Some(kept) => agree(&mut connection, destination, kept)?,
        None => Start::default(),
    };
    meter.skip(start.bytes);
    let bytes = receive(&mut connection, destination, expected, start, |bytes| meter.add(bytes))?;
    if bytes == 0 && !expected.is_known() && connection.plain_socket().is_some() {
        ensure_nothing_is_lost(destination)?;
    }
    meter.phase(destination.last_phase());
    destination.sync()?;
    destination.ensure_part_has(bytes)?;

    // From here on only this process can know whether the file is stored. A kill in between ends in FIN without thanks,
    // "sent, not confirmed", and a signal waits.
    let deferred = signals::defer();
    connection.socket().finish_on_drop()?;
    let replaced = matches!(existing_size(destination), Ok(Some(_)));
    if let Err(error) = destination.publish() {
        let _ = connection.socket().reset_on_drop();
        return Err(error);
    }
    let told = connection.write_last(THANK_YOU);
    deferred.complete();
    Ok(Stored { bytes, replaced, told })
}

/// Where the file continues: at its start if the sender cannot resume.
fn agree(connection: &mut Connection, destination: &mut Destination, kept: &mut Kept) -> Result<Start> {
    if connection.can_resume() {
        kept.agree(connection).with_context(|| NotAll(destination.name().to_owned()))?;
    } else {
        kept.cut(0);
    }
    destination.go_on_from(kept.length())?;
    Ok(Start { bytes: kept.length(), sha256: kept.whole() })
}

/// An empty file may come from a relay or a published port whose server is not there.
fn ensure_nothing_is_lost(destination: &Destination) -> Result<()> {
    if let Some(1..) = existing_size(destination).map_err(|error| destination.could_not_write(error))? {
        bail!(
            "could not store {}: nothing arrived, perhaps because there is no server behind the port; to replace it with \
             an empty file, give --size 0",
            destination.name()
        );
    }
    Ok(())
}

fn existing_size(destination: &Destination) -> io::Result<Option<u64>> {
    destination.replacement().map_or(Ok(None), Replacement::existing_size)
}
