//! The headers of the records that arrive. TLS ignores the version in them (RFC 8446 section 5.1), so a bit that is
//! changed there would go unnoticed; and the very first tells whether the other side speaks TLS at all.

use crate::key::Role;

/// Bytes of a header: the type, two of the version, two of the length of what follows (RFC 8446 section 5.1).
const HEADER_SIZE: usize = 5;

/// The types `change_cipher_spec`, `alert`, `handshake` and `application_data`.
const TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// The version in every record but the client's first, in which rustls has that of TLS 1.0, as the RFC wants it.
const VERSION: [u8; 2] = [3, 3];
const FIRST_VERSION: [u8; 2] = [3, 1];

/// Where the next header is, and what must be in it.
pub(super) struct Records {
    header: [u8; HEADER_SIZE],
    /// Bytes of the header that have arrived.
    filled: usize,
    /// Bytes that are still to come before the next header.
    until_next: usize,
    version: [u8; 2],
    is_first: bool,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The other side does not speak TLS.
    NotTls,
    /// The other side has sent something else.
    Changed,
}

impl Records {
    pub(super) fn from(sender: Role) -> Self {
        let version = if sender == Role::Receiver { FIRST_VERSION } else { VERSION };
        Self { header: [0; HEADER_SIZE], filled: 0, until_next: 0, version, is_first: true }
    }

    /// Looks at the headers in the next bytes, each as soon as a byte of it is there.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let skipped = self.until_next.min(bytes.len());
            self.until_next -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEADER_SIZE - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + wanted].copy_from_slice(&bytes[..wanted]);
            self.filled += wanted;
            bytes = &bytes[wanted..];
            self.check_header()?;
            if self.filled == HEADER_SIZE {
                self.until_next = u16::from_be_bytes([self.header[3], self.header[4]]).into();
                (self.filled, self.version, self.is_first) = (0, VERSION, false);
            }
        }
        Ok(())
    }

    fn check_header(&self) -> Result<(), Fault> {
        match &self.header[..self.filled] {
            [kind, ..] if !TYPES.contains(kind) => Err(self.strange()),
            [_, major, ..] if *major != VERSION[0] => Err(self.strange()),
            [_, _, minor, ..] if *minor != self.version[1] => Err(Fault::Changed),
            _ => Ok(()),
        }
    }

    fn strange(&self) -> Fault {
        if self.is_first { Fault::NotTls } else { Fault::Changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of three bytes, and one of none.
    const SENT: [u8; 13] = [22, 3, 1, 0, 3, 7, 7, 7, 23, 3, 3, 0, 0];

    fn check(bytes: &[u8], at_once: usize) -> Result<(), Fault> {
        let mut records = Records::from(Role::Receiver);
        bytes.chunks(at_once).try_for_each(|piece| records.check(piece))
    }

    #[test]
    fn headers_are_found_wherever_the_bytes_are_split() {
        for at_once in 1..=SENT.len() {
            assert_eq!(check(&SENT, at_once), Ok(()), "{at_once}");
        }
    }

    #[test]
    fn a_changed_version_or_type_is_found_at_once() {
        for at_once in 1..=SENT.len() {
            for (index, bit) in [(2, 1), (2, 2), (8, 0x10), (9, 1), (10, 2), (10, 0x80)] {
                let mut changed = SENT;
                changed[index] ^= bit;
                assert_eq!(check(&changed, at_once), Err(Fault::Changed), "{index}");
                assert_eq!(check(&changed[..=index], at_once), Err(Fault::Changed), "{index}");
            }
        }
        assert_eq!(Records::from(Role::Sender).check(&SENT), Err(Fault::Changed));
    }

    #[test]
    fn what_is_no_tls_is_told_by_its_first_bytes() {
        for other in [&b"G"[..], b"GET / HTTP/1.1", b"\x16\x02", b"\0"] {
            assert_eq!(check(other, 1), Err(Fault::NotTls), "{other:?}");
        }
    }
}
