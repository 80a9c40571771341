//! Key by key (termios(3)): an interrupt must not leave a terminal behind that shows nothing any more.

use std::io::{self, Write as _};

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ERASE_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// The longest line in bytes; what is typed behind it is dropped.
const MAX_LINE: usize = 256;

/// Asks for a line on standard error and reads it from standard input, which must be a terminal.
///
/// # Errors
/// Returns an error if the terminal cannot be set up, read or is interrupted.
pub(crate) fn secret(question: &str) -> io::Result<Vec<u8>> {
    let before = tcgetattr(stdin())?;
    let mut modes = before.clone();
    modes.local_modes &= !(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(stdin(), OptionalActions::Drain, &modes)?;
    let restore = Restore(before);
    let _ = write!(io::stderr(), "{question}");
    let line = read_line();
    drop(restore);
    let _ = writeln!(io::stderr());
    if line.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
        // The end that the key would have made, unless the signal is ignored.
        kill_process(getpid(), Signal::INT)?;
    }
    line
}

struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

fn read_line() -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let mut key = [0];
        match rustix::io::read(stdin(), &mut key) {
            Ok(0) => return Ok(line),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match key[0] {
            b'\n' | b'\r' | END => return Ok(line),
            INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
            BACKSPACE | DELETE => drop(line.pop()),
            ERASE_LINE => line.clear(),
            key if line.len() < MAX_LINE => line.push(key),
            _ => {}
        }
    }
}
