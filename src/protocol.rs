//! What the two programs agree on besides the file's own bytes: nothing before them, and after the half-close one short
//! reply on the way back. Names, sizes and words are those of the textbook example and never change.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::text;

pub use crate::key::{Key, KeyError};

/// The file that the server sends, unless told otherwise.
pub const DEFAULT_FILE: &str = "des.txt";

/// The file that the client stores, unless told otherwise.
pub const DEFAULT_OUTPUT: &str = "destination.txt";

/// Bytes that the server reads from the file and hands to the connection as one piece, unless told otherwise.
pub const CHUNK_SIZE: usize = 30;

/// The reply of a client that has stored the file, with the NUL that ends a C string: 10 bytes.
pub const THANK_YOU: &[u8] = b"Thank you\0";

/// The longest reply in bytes, which is the textbook server's buffer.
pub const REPLY_LIMIT: usize = 30;

/// What a client said after the half-close, without the NUL or newline that ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(Vec<u8>);

impl Reply {
    /// Reads up to the first NUL, newline, EOF, or [`REPLY_LIMIT`] bytes; what came after a NUL or newline in the same
    /// segment is dropped. A reply that has begun and is not complete after `limit` ends there.
    ///
    /// # Errors
    /// Returns the error of the reader.
    pub fn read_from(mut connection: impl Read, limit: Option<Duration>) -> io::Result<Self> {
        let mut buffer = [0; REPLY_LIMIT];
        let mut filled = 0;
        let mut begun = None;
        while filled < buffer.len() {
            let arrived = connection.read(&mut buffer[filled..])?;
            let begun = *begun.get_or_insert_with(Instant::now);
            let fresh = &buffer[filled..filled + arrived];
            if let Some(end) = fresh.iter().position(|byte| matches!(byte, b'\0' | b'\n')) {
                filled += end;
                break;
            }
            if arrived == 0 {
                break;
            }
            filled += arrived;
            if limit.is_some_and(|limit| begun.elapsed() >= limit) {
                break;
            }
        }
        Ok(Self(buffer[..filled].to_vec()))
    }

    /// Whether this is the reply of a client that has stored the file.
    #[must_use]
    pub fn confirms(&self) -> bool {
        THANK_YOU.strip_suffix(b"\0") == Some(&self.0)
    }

    /// Whether it is the start of a TLS handshake (RFC 8446 section 5.1), from a client that was given a key.
    #[must_use]
    pub fn is_handshake(&self) -> bool {
        self.0.starts_with(&[22, 3])
    }

    /// Whether it is the start of an HTTP request (RFC 9112 section 3), from a browser.
    #[must_use]
    pub fn is_http(&self) -> bool {
        [&b"GET "[..], b"HEAD ", b"POST "].iter().any(|method| self.0.starts_with(method))
    }

    /// Whether the client closed the connection without a reply.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&text::printable(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: &[u8]) -> Reply {
        Reply::read_from(bytes, None).unwrap_or(Reply(Vec::new()))
    }

    #[test]
    fn a_reply_ends_at_nul_newline_eof_or_thirty_bytes() {
        for whole in [&b"Thank you\0"[..], b"Thank you\0junk", b"Thank you\nmore", b"Thank you"] {
            assert!(reply(whole).confirms(), "{whole:?}");
        }
        for other in [&b""[..], b"\0Thank you", b"Thank yo", b"Thank you!", b"thank you\0", b"Thank you\r\n"] {
            assert!(!reply(other).confirms(), "{other:?}");
        }
        assert_eq!(reply(&[b'x'; 100]).to_string(), "x".repeat(REPLY_LIMIT));
    }
}
