//! The key of `--key`: 128 random bits as text that can be read out, and the two secrets that are derived from it, one
//! for each side.

use std::fmt;
use std::str::FromStr;

use rustls::crypto::ring;
use sha2::{Digest as _, Sha256};

/// Crockford's base32: no letter looks like a digit or another letter.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Bits of a character, and the largest number that they can hold.
const BITS: usize = 5;
const SYMBOL: u16 = (1 << BITS) - 1;

/// Characters of a key, without the dashes.
pub(crate) const LENGTH: usize = 28;

/// Characters between two dashes.
const GROUP: usize = 4;

/// Bytes that the characters cover: 16 of the key, one of check bits, and one of which the last character takes four
/// bits, which are zero.
const BYTES: usize = 18;

/// The secret that both sides share: 128 random bits. Its text has 8 more bits, which reveal a mistyped character: the
/// first 8 of the SHA-256 of the others.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 16]);

/// What a side does in the transfer, no matter which side dialled. With a key the receiver is the client of TLS and the sender the
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Receiver,
    Sender,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Receiver => "client",
            Self::Sender => "server",
        })
    }
}

impl Key {
    /// Returns a new key.
    ///
    /// # Errors
    /// Returns an error if the system has no random numbers.
    pub fn random() -> Result<Self, KeyError> {
        let mut bits = [0; 16];
        ring::default_provider().secure_random.fill(&mut bits).map_err(|_| KeyError::NoRandomNumbers)?;
        Ok(Self(bits))
    }

    /// The key as a user reads and types it. There is no `Display` on purpose: a key must not get into a line by accident.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.checked();
        let character = |index| {
            let (byte, shift) = position(index);
            let window = u16::from_be_bytes([bytes[byte], bytes[byte + 1]]);
            char::from(ALPHABET[usize::from(window >> shift & SYMBOL)])
        };
        let characters: Vec<_> = (0..LENGTH).map(character).collect();
        characters.chunks(GROUP).map(String::from_iter).collect::<Vec<_>>().join("-")
    }

    /// The key, its check bits, and zeros.
    fn checked(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.0);
        bytes[16] = Sha256::digest(self.0)[0];
        bytes
    }

    /// The Ed25519 seed (RFC 8032 section 5.1.5) of one side. Each has its own, so that what one side has signed cannot
    /// be sent back to it as the other's.
    pub(crate) fn seed(&self, role: Role) -> [u8; 32] {
        let label: &[u8] = match role {
            Role::Receiver => b"half-close/1 client",
            Role::Sender => b"half-close/1 server",
        };
        Sha256::new().chain_update(label).chain_update(self.0).finalize().into()
    }
}

/// Where the bits of a character are: the first of the two bytes that hold them, and how far they are from the end of
/// both.
fn position(index: usize) -> (usize, usize) {
    let bit = index * BITS;
    (bit / 8, 16 - BITS - bit % 8)
}

impl FromStr for Key {
    type Err = KeyError;

    /// Reads a key as a person may have typed or pasted it: in either case, `o` for 0, `i` and `l` for 1, with or without
    /// `key:` in front, and with anything between its characters that is neither a letter nor a digit, such as dashes,
    /// spaces and invisible characters.
    ///
    /// # Errors
    /// Returns an error if this is not a key, or if a character is wrong.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if count(text) != LENGTH {
            return Err(KeyError::Malformed);
        }
        let mut bytes = [0; BYTES];
        for (index, character) in characters(text).chars().enumerate() {
            let symbol = symbol(character).ok_or(KeyError::Malformed)?;
            let (byte, shift) = position(index);
            let [high, low] = (symbol << shift).to_be_bytes();
            bytes[byte] |= high;
            bytes[byte + 1] |= low;
        }
        let [key @ .., _, _] = bytes;
        let key = Self(key);
        if key.checked() == bytes { Ok(key) } else { Err(KeyError::Mistyped) }
    }
}

/// The characters of a key in a text. The bytes of UTF-16 that are not ASCII are skipped too, so that such a text needs
/// no decoding.
fn characters(text: &str) -> String {
    let kept: String = text.chars().filter(|&c| c.is_alphanumeric() || c == ':').collect();
    match kept.split_at_checked("key:".len()) {
        Some((label, key)) if label.eq_ignore_ascii_case("key:") => key.to_owned(),
        _ => kept,
    }
}

/// How many characters of a key a text has; a whole key has [`LENGTH`].
pub(crate) fn count(text: &str) -> usize {
    characters(text).chars().count()
}

fn symbol(character: char) -> Option<u16> {
    let character = match character.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        character => character,
    };
    let symbol = ALPHABET.iter().position(|&known| char::from(known) == character)?;
    u16::try_from(symbol).ok()
}

/// Shows nothing of the key.
impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("Key(..)")
    }
}

/// Why there is no key. It does not contain the text that was given, which may be almost a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not the number of characters that a key has, or invalid ones.
    Malformed,
    /// The check bits do not match.
    Mistyped,
    /// The system has no random numbers.
    NoRandomNumbers,
}

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "not a key of 28 letters and digits, as 'file-server --encrypt' prints it",
            Self::Mistyped => "a character of the key is wrong",
            Self::NoRandomNumbers => "the system has no random numbers",
        })
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = "j4nb-jdvz-hem5-r5ca-m6tb-tdax-3ypg";

    #[test]
    fn the_text_of_a_key_stays_the_same() {
        let key = Key(0x912a_b937_7f8b_a85c_158a_a1b4_bd35_5d1f_u128.to_be_bytes());
        assert_eq!(key.text(), SAMPLE);
        assert_eq!(SAMPLE.parse(), Ok(key));
    }

    #[test]
    fn a_typed_key_is_forgiven_case_dashes_spaces_and_lookalikes() {
        let key = Key([0x08; 16]);
        let text = key.text();
        assert!(text.contains('0') && text.contains('1'), "{text}");
        let typed = [
            text.to_uppercase(),
            text.replace('-', ""),
            text.replace('-', " "),
            format!("  {text}\r\n"),
            text.replace('0', "o").replace('1', "l"),
            text.replace('0', "O").replace('1', "I"),
        ];
        for typed in typed {
            assert_eq!(typed.parse().as_ref(), Ok(&key), "{typed}");
        }
    }

    #[test]
    fn a_pasted_key_is_forgiven_what_stands_around_and_between_its_characters() {
        let key = SAMPLE.parse::<Key>();
        let mut pasted = vec![
            format!("\u{feff}{SAMPLE}\r\n"),
            format!("key: {SAMPLE}"),
            format!("\u{feff}Key:{SAMPLE}"),
            format!("\n\r\n  {SAMPLE}\n"),
            format!("\"{SAMPLE}\""),
            SAMPLE.replace("m5-", "m5-\n"),
        ];
        // Dashes, spaces, and what is invisible.
        for between in "\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2212}\u{fe63}\u{ff0d}\u{ad}_\u{a0}\u{202f}\u{3000}\u{200b}\u{2060}\t".chars() {
            pasted.push(SAMPLE.replace('-', &between.to_string()));
        }
        for pasted in pasted {
            assert_eq!(pasted.parse(), key, "{pasted:?}");
        }
        for malformed in ["key:", &format!("kye: {SAMPLE}"), &format!("{SAMPLE}:"), &format!("key: {SAMPLE} key")] {
            assert_eq!(malformed.parse::<Key>(), Err(KeyError::Malformed), "{malformed}");
        }
    }

    #[test]
    fn anything_else_is_told_from_a_typo() {
        for malformed in ["", "-", "password", &SAMPLE[1..], &format!("{SAMPLE}0"), &SAMPLE.replace('4', "u"), "é"] {
            assert_eq!(malformed.parse::<Key>(), Err(KeyError::Malformed), "{malformed}");
        }
        for mistyped in [SAMPLE.replacen('4', "5", 1), SAMPLE.replacen("4n", "n4", 1), SAMPLE.replace('g', "h")] {
            assert_eq!(mistyped.parse::<Key>(), Err(KeyError::Mistyped), "{mistyped}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_anything_of_a_key() -> Result<(), KeyError> {
        assert_eq!(format!("{:?}", SAMPLE.parse::<Key>()?), "Key(..)");
        let error = SAMPLE[1..].parse::<Key>();
        assert!(!format!("{error:?}").contains("4nb"));
        Ok(())
    }

    #[test]
    fn new_keys_differ_and_so_do_the_secrets_of_the_two_sides() -> Result<(), KeyError> {
        let (one, other) = (Key::random()?, Key::random()?);
        assert_ne!(one, other);
        let seeds =
            [one.seed(Role::Receiver), one.seed(Role::Sender), other.seed(Role::Receiver), other.seed(Role::Sender)];
        for (index, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..index].contains(seed));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn the_text_of_every_key_is_read_back(bits: [u8; 16]) {
            prop_assert_eq!(Key(bits).text().parse(), Ok(Key(bits)));
        }

        #[test]
        fn what_was_typed_is_never_another_key_unless_its_check_bits_match(text in "[0-9a-z-]{28,34}") {
            if let Ok(key) = text.parse::<Key>() {
                let plain = |text: &str| text.replace('-', "").replace('o', "0").replace(['i', 'l'], "1");
                prop_assert_eq!(plain(&key.text()), plain(&text));
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<Key>();
        }
    }
}
