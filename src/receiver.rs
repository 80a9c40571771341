//! The receiver's side of one transfer, in order: the bytes up to EOF, the checks, the disk, the name, the thanks. Until
//! the file may be published, every way out of here ends the connection with RST, which tells the sender that it is not
//! stored.

use std::io;

use anyhow::{Result, bail};

use crate::file::destination::Destination;
use crate::net::connection::Connection;
use crate::protocol::THANK_YOU;
use crate::signals;
use crate::transfer::receive::{Expected, receive};
use crate::ui::console::Meter;

/// A file that is stored.
pub(crate) struct Stored {
    /// Its size.
    pub(crate) bytes: u64,
    /// Whether a file was there before.
    pub(crate) replaced: bool,
    /// Whether the sender was told.
    pub(crate) told: io::Result<()>,
}

/// Receives one file into the destination, and thanks the sender once it is stored.
///
/// # Errors
/// Returns an error if the file is not stored: the connection failed, what arrived is not what was expected, or the
/// destination could not be written.
pub(crate) fn run(
    mut connection: Connection,
    destination: &mut Destination,
    expected: Expected,
    meter: &Meter,
) -> Result<Stored> {
    destination.begin()?;
    let bytes = receive(&mut connection, destination, expected, |bytes| meter.add(bytes))?;
    if bytes == 0 && !expected.is_known() && connection.plain_socket().is_some() {
        ensure_nothing_is_lost(destination)?;
    }
    meter.phase(destination.last_phase());
    destination.sync()?;

    // From here on only this process can know whether the file is stored. A kill in between ends in FIN without thanks,
    // "sent, not confirmed", and a signal waits.
    let deferred = signals::defer();
    connection.finish_on_drop()?;
    let replaced = destination.existing_size().is_some();
    if let Err(error) = destination.publish() {
        let _ = connection.reset_on_drop();
        return Err(error);
    }
    let told = connection.write_last(THANK_YOU);
    deferred.complete();
    Ok(Stored { bytes, replaced, told })
}

/// An empty file may come from a relay or a published port whose server is not there.
fn ensure_nothing_is_lost(destination: &Destination) -> Result<()> {
    if matches!(destination.existing_size(), Some(1..)) {
        bail!(
            "could not store {}: nothing arrived, perhaps because there is no server behind the port; to replace it with \
             an empty file, give --size 0",
            destination.name()
        );
    }
    Ok(())
}
