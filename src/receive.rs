//! The client: connection to end of file, checks, destination, and only then the thanks. Until the file may be stored,
//! every way out of here ends the connection with RST, which tells the server that it is not.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::cli::ClientArguments;
use crate::console::{Console, Meter};
use crate::destination::{self, Destination, Uninterrupted};
use crate::patience::PatientStream;
use crate::protocol::THANK_YOU;
use crate::source::BUFFER_SIZE;
use crate::zero_copy::{self, Pipe};
use crate::{report, socket};

/// What the client was told about the file in advance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its digest (FIPS 180-4).
    pub sha256: Option<[u8; 32]>,
}

/// Fetches one file from a server and stores it.
///
/// # Errors
/// The file is not stored, the old one is untouched, and the server has been told so by RST.
pub fn fetch(arguments: &ClientArguments, console: &Console) -> Result<()> {
    // Before connecting, so that a destination that can't be written does not use up the waiting server.
    let mut destination = Destination::open(&arguments.output, arguments.no_clobber, !arguments.no_sync)?;
    if destination.is_terminal() {
        console.clear();
    }
    let stream = socket::connect(&arguments.host, arguments.port, arguments.wait, arguments.timeout(), |waiting| {
        console.note(waiting);
    })?;
    socket::reset_on_close(&stream).context("could not set up the connection")?;
    socket::notice_silence(&stream, arguments.timeout()).context("could not set up the connection")?;
    let connection = PatientStream::new(&stream, arguments.timeout()).context("could not set up the connection")?;

    let meter = console.meter(destination.name().to_owned(), arguments.size);
    let expected = Expected { size: arguments.size, sha256: arguments.sha256 };
    let bytes = receive(&connection, &mut destination, expected, &meter)?;
    meter.phase("waiting for the disk");
    destination.sync()?;
    let uninterrupted = publish(&mut destination, &stream)?;
    let thanked = thank(&stream);
    uninterrupted.stored();

    meter.finish();
    if let Err(error) = thanked {
        let reason = report::reason(&error);
        console.warn(&format!("{} is stored, but the server could not be told: {reason}", destination.name()));
    }
    let line = format!("Received file data: {bytes} bytes in {}", destination.name());
    if destination.is_standard_output() {
        console.note(&line);
    } else {
        console.result(&line);
    }
    Ok(())
}

/// From the first line on nobody but this process can know whether the file is stored, so from then on a kill ends in
/// FIN without thanks: "sent, not confirmed". No signal ends the program between that and the thanks.
fn publish(destination: &mut Destination, stream: &TcpStream) -> Result<Uninterrupted> {
    let uninterrupted = destination::uninterrupted();
    socket::finish_on_close(stream).context("the server went away")?;
    destination.publish().inspect_err(|_| {
        let _ = socket::reset_on_close(stream);
    })?;
    Ok(uninterrupted)
}

fn thank(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(THANK_YOU)?;
    // A server that hung up after the file answers with RST, which may have come already.
    stream.take_error()?.map_or(Ok(()), Err)
}

/// Moves everything up to the end of the connection into the destination; gives the bytes.
fn receive(
    connection: &PatientStream,
    destination: &mut Destination,
    expected: Expected,
    meter: &Meter,
) -> Result<u64> {
    let mut digest = expected.sha256.map(|_| Sha256::new());
    let by_kernel = destination.is_replacement() && digest.is_none();
    let mut mover = if by_kernel { Mover::by_kernel() } else { Mover::by_hand() };
    let mut received = 0;
    loop {
        let bytes = mover.step(connection, destination, digest.as_mut())?;
        if bytes == 0 {
            break;
        }
        received += bytes as u64;
        meter.add(bytes as u64);
        destination.wrote(bytes)?;
        if let Some(size) = expected.size.filter(|&size| received > size) {
            bail!("could not store {}: more than the expected {size} bytes arrived", destination.name());
        }
    }
    if let Some(size) = expected.size.filter(|&size| received < size) {
        bail!("could not store {}: {received} bytes arrived, {size} were expected", destination.name());
    }
    let actual: Option<[u8; 32]> = digest.map(|digest| digest.finalize().into());
    if actual != expected.sha256 {
        let actual = actual.map(|digest| report::hex(&digest)).unwrap_or_default();
        bail!("could not store {}: the SHA-256 of what arrived is {actual}, not the expected one", destination.name());
    }
    Ok(received)
}

/// How bytes get from the connection to the file.
enum Mover {
    /// Through a pipe in the kernel; proven once the file has taken bytes that way.
    Splice { pipe: Pipe, proven: bool },
    /// Through a buffer of our own.
    Copy(Vec<u8>),
}

impl Mover {
    fn by_kernel() -> Self {
        Pipe::new().map_or_else(|_| Self::by_hand(), |pipe| Self::Splice { pipe, proven: false })
    }

    fn by_hand() -> Self {
        Self::Copy(vec![0; BUFFER_SIZE])
    }

    /// Moves what one read gives; 0 bytes at the end of the connection.
    fn step(&mut self, connection: &PatientStream, to: &Destination, digest: Option<&mut Sha256>) -> Result<usize> {
        let not_all = || format!("could not receive all of {}", to.name());
        match self {
            Self::Copy(buffer) => {
                let arrived = { connection }.read(buffer).with_context(not_all)?;
                to.file().write_all(&buffer[..arrived]).with_context(|| to.could_not_write())?;
                if let Some(digest) = digest {
                    digest.update(&buffer[..arrived]);
                }
                Ok(arrived)
            }
            Self::Splice { pipe, proven } => {
                let arrived = match connection.persist(|| pipe.fill(connection.stream())) {
                    Err(error) if !*proven && zero_copy::is_unsupported(&error) => {
                        *self = Self::by_hand();
                        return self.step(connection, to, digest);
                    }
                    // The end, or urgent data, at which splice(2) stops for ever: only a plain read can tell.
                    Ok(0) => {
                        *self = Self::by_hand();
                        return self.step(connection, to, digest);
                    }
                    filled => filled.with_context(not_all)?,
                };
                *proven = empty(pipe, arrived, to.file(), *proven).with_context(|| to.could_not_write())?;
                if !*proven {
                    *self = Self::by_hand();
                }
                Ok(arrived)
            }
        }
    }
}

/// Moves all `left` bytes in the pipe into the file; false if it had to be done by hand, because the file's first
/// answer was that it can't take them from a pipe.
fn empty(pipe: &Pipe, mut left: usize, mut file: &File, mut proven: bool) -> io::Result<bool> {
    while left > 0 {
        match pipe.drain(file, left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(moved) => (left, proven) = (left - moved, true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if !proven && zero_copy::is_unsupported(&error) => {
                let mut rescued = vec![0; left];
                pipe.reader().read_exact(&mut rescued)?;
                file.write_all(&rescued)?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(proven)
}
