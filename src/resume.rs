//! Which bytes of a kept part are those of the file: the first messages of a session that can resume. Only digests of
//! the bytes decide: size, times and names do not tell whether two files begin alike.
//!
//! The receiver sends the length of its part (`u64`, big-endian) and the SHA-256 of each of its blocks. The sender
//! reads its own file until the first block that differs, answers with a zero byte from time to time meanwhile, then
//! with 1 and the offset (`u64`) from which its bytes follow.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytesize::ByteSize;
use sha2::{Digest as _, Sha256};

use crate::buffer::Buffer;
use crate::file::snapshot::Snapshot;

/// Bytes of a block; the last one may have fewer. At most this many bytes before a difference are sent again.
const BLOCK: u64 = if cfg!(test) { 1000 } else { 64 * 1024 * 1024 };

/// The longest part that a sender accepts: a million digests.
const LONGEST_PART: u64 = BLOCK * 1024 * 1024;

/// Bytes that are read at once.
const BUFFER_SIZE: usize = 128 * 1024;

/// How often a sender shows that it is still there.
const SIGN_OF_LIFE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });

/// The sender is still reading, or it knows the offset.
const WAIT: u8 = 0;
const GO_ON: u8 = 1;

/// What a receiver has of the file, or of another one.
#[derive(Default)]
pub(crate) struct Kept {
    length: u64,
    blocks: Vec<Block>,
}

struct Block {
    sha256: [u8; 32],
    /// The digest of everything up to the end of this block, to go on from.
    whole: Option<Sha256>,
}

impl Kept {
    /// Bytes of the part that are known.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of the whole blocks among them, which are not read again.
    pub(crate) fn whole_blocks(&self) -> u64 {
        self.length - self.length % BLOCK
    }

    /// The digest of all of them, to go on from, if it was computed.
    pub(crate) fn whole(&self) -> Sha256 {
        self.blocks.last().and_then(|block| block.whole.clone()).unwrap_or_default()
    }

    /// Reads the part from the end of the last known whole block, and computes a digest of each block and, if wanted,
    /// of the `whole`. Calls `on_progress` with the number of bytes in every step.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub(crate) fn read(&mut self, mut part: &File, whole: bool, on_progress: impl Fn(u64)) -> io::Result<()> {
        self.cut(self.whole_blocks());
        part.seek(SeekFrom::Start(self.length))?;
        let mut whole = whole.then(|| self.whole());
        let mut buffer = Buffer::new(BUFFER_SIZE);
        loop {
            let (mut block, mut length) = (Sha256::new(), 0);
            let mut bytes = part.take(BLOCK);
            loop {
                let read = match bytes.read(&mut buffer) {
                    Ok(0) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read?,
                };
                block.update(&buffer[..read]);
                if let Some(whole) = &mut whole {
                    whole.update(&buffer[..read]);
                }
                length += read as u64;
                on_progress(read as u64);
            }
            if length == 0 {
                return Ok(());
            }
            self.length += length;
            self.blocks.push(Block { sha256: block.finalize().into(), whole: whole.clone() });
        }
    }

    /// Forgets everything after the offset, which is the end of a block.
    pub(crate) fn cut(&mut self, offset: u64) {
        let blocks = usize::try_from(offset.div_ceil(BLOCK)).unwrap_or(usize::MAX);
        self.blocks.truncate(blocks);
        self.length = offset;
    }

    /// Tells the sender what the part contains, and forgets what is not in the sender's file.
    ///
    /// # Errors
    /// Returns an error if the connection failed, or if the answer is invalid.
    pub(crate) fn agree(&mut self, sender: &mut (impl Read + Write)) -> Result<()> {
        let digests = self.blocks.iter().flat_map(|block| block.sha256);
        let message: Vec<_> = self.length.to_be_bytes().into_iter().chain(digests).collect();
        sender.write_all(&message)?;
        loop {
            match receive::<1>(sender)? {
                [WAIT] => {}
                [GO_ON] => break,
                [other] => bail!("the server answered {other} where it says whether it goes on"),
            }
        }
        let offset = u64::from_be_bytes(receive(sender)?);
        let length = self.length;
        let is_end_of_block = offset == length || offset < length && offset.is_multiple_of(BLOCK);
        ensure!(is_end_of_block, "the server goes on from byte {offset}, which is not the end of a block of {length}");
        self.cut(offset);
        Ok(())
    }
}

/// Reads from the receiver what it has, and skips the start of the snapshot that is the same. Calls `on_start` with the
/// most bytes that will be read, and the function that it returns with the number of bytes in every step. Returns the
/// offset at which the snapshot continues.
///
/// # Errors
/// Returns an error if the connection failed, if the receiver's message is invalid, or if the source cannot be read or
/// changes.
pub(crate) fn agree<P: Fn(u64)>(
    receiver: &mut (impl Read + Write),
    snapshot: &mut Snapshot,
    on_start: impl FnOnce(u64) -> P,
) -> Result<u64> {
    let length = u64::from_be_bytes(receive(receiver)?);
    ensure!(length <= LONGEST_PART, "the client says that it has {} of the file already", ByteSize(length));
    let mut digests = Vec::new();
    // The memory grows with what has arrived, not with what was announced.
    for _ in 0..length.div_ceil(BLOCK) {
        digests.try_reserve(1).ok().context("not enough memory for the digests of the client")?;
        digests.push(receive::<32>(receiver)?);
    }

    let on_progress = on_start(length.min(snapshot.known_size().unwrap_or(0)));
    let mut last = Instant::now();
    let mut show_life = || -> Result<()> {
        if last.elapsed() >= SIGN_OF_LIFE {
            receiver.write_all(&[WAIT])?;
            last = Instant::now();
        }
        Ok(())
    };
    let mut offset = 0;
    for digest in &digests {
        let block = BLOCK.min(length - offset);
        let on_read = |bytes| {
            on_progress(bytes);
            show_life()
        };
        if !snapshot.skip_if(block, digest, on_read)? {
            break;
        }
        offset += block;
    }
    // After the answer this side can no longer show that it is still there.
    snapshot.ensure_unchanged(|_, _| show_life())?;
    let mut answer = [GO_ON; 9];
    answer[1..].copy_from_slice(&offset.to_be_bytes());
    receiver.write_all(&answer)?;
    Ok(offset)
}

fn receive<const N: usize>(peer: &mut impl Read) -> io::Result<[u8; N]> {
    let (mut bytes, mut filled) = ([0; N], 0);
    while filled < N {
        match peer.read(&mut bytes[filled..])? {
            0 => {
                let text = "the connection ended before both sides had agreed from where to go on";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            read => filled += read,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::file::source::Source;

    /// The other side: what it says, and what it was told.
    struct Peer(Cursor<Vec<u8>>, Vec<u8>);

    impl Peer {
        fn saying(bytes: impl Into<Vec<u8>>) -> Self {
            Self(Cursor::new(bytes.into()), Vec::new())
        }
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // Nothing arrives in one piece.
            let most = buffer.len().min(7);
            self.0.read(&mut buffer[..most])
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn file(content: &[u8]) -> io::Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().write_all(content)?;
        Ok(file)
    }

    fn kept(part: &[u8]) -> io::Result<Kept> {
        let mut kept = Kept::default();
        kept.read(file(part)?.as_file(), true, |_| ())?;
        Ok(kept)
    }

    /// From where the file goes on behind the part, as both sides see it, and what is sent then.
    fn goes_on_from(part: &[u8], source: &[u8]) -> Result<u64> {
        let mut kept = kept(part)?;
        assert_eq!(kept.length(), part.len() as u64);
        let mut told = Peer::saying([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        kept.agree(&mut told)?;
        let file = file(source)?;
        let source_file = Source::open(file.path())?;
        let mut snapshot = source_file.snapshot()?;
        let mut sender = Peer::saying(told.1);
        let offset = agree(&mut sender, &mut snapshot, |_| |_| ())?;
        let mut rest = vec![0; source.len() + 1];
        let mut read = 0;
        while let arrived @ 1.. = snapshot.read(&mut rest[read..])? {
            read += arrived;
        }
        assert_eq!(rest[..read], source[usize::try_from(offset)?..]);
        let mut kept = self::kept(part)?;
        kept.agree(&mut Peer::saying(sender.1))?;
        assert_eq!(kept.length(), offset);
        let whole = Sha256::digest(&part[..usize::try_from(offset)?]);
        assert_eq!(kept.whole().finalize(), whole);
        Ok(offset)
    }

    #[test]
    fn what_is_the_same_up_to_the_end_of_a_block_is_not_sent_again() -> Result<()> {
        let bytes: Vec<u8> = (0..=250).cycle().take(3500).collect();
        let with_zero_at = |at: usize, length: usize| {
            let mut part = bytes[..length].to_vec();
            part[at] ^= 1;
            part
        };
        for (part, source, offset) in [
            (&bytes[..0], &bytes[..], 0),
            (&bytes[..1], &bytes, 1),
            (&bytes[..1000], &bytes, 1000),
            (&bytes[..2300], &bytes, 2300),
            (&bytes, &bytes, 3500),
            (&bytes, &bytes[..3499], 3000),
            (&bytes, &bytes[..700], 0),
            (&bytes, &bytes[..0], 0),
            (&with_zero_at(0, 3500), &bytes, 0),
            (&with_zero_at(2999, 3500), &bytes, 2000),
            (&with_zero_at(3499, 3500), &bytes, 3000),
            (&[&bytes[..2100], &[0; 900]].concat(), &bytes, 2000),
            (&[&bytes[..], b"more"].concat(), &bytes, 3000),
        ] {
            assert_eq!(goes_on_from(part, source)?, offset, "{} of {}", part.len(), source.len());
        }
        Ok(())
    }

    #[test]
    fn a_sender_that_reads_for_long_shows_that_it_is_still_there() -> Result<()> {
        let file = file(&[1; 2000])?;
        let source = Source::open(file.path())?;
        let claim = [&2000_u64.to_be_bytes()[..], &Sha256::digest([1; 1000]).repeat(2)].concat();
        let mut peer = Peer::saying(claim);
        agree(&mut peer, &mut source.snapshot()?, |_| |_| std::thread::sleep(SIGN_OF_LIFE))?;
        assert!(peer.1.starts_with(&[WAIT, WAIT]) && peer.1.ends_with(&2000_u64.to_be_bytes()), "{:?}", peer.1);
        Ok(())
    }

    #[test]
    fn after_a_break_only_what_is_new_is_read() -> Result<()> {
        let part = file(&[1; 2500])?;
        let mut kept = kept(&[1; 2500])?;
        part.as_file().write_all(&[1; 700])?;
        let read = std::cell::Cell::new(0);
        kept.read(part.as_file(), true, |bytes| read.set(read.get() + bytes))?;
        assert_eq!((read.get(), kept.length()), (1200, 3200));
        assert_eq!(kept.whole().finalize(), Sha256::digest([1; 3200]));
        Ok(())
    }

    #[test]
    fn a_sender_that_makes_no_sense_is_an_error() -> Result<()> {
        let answer = |kind: u8, offset: u64| [&[kind][..], &offset.to_be_bytes()].concat();
        for (answer, error) in [
            (answer(2, 0), "the server answered 2 where it says whether it goes on"),
            (answer(1, 2501), "the server goes on from byte 2501, which is not the end of a block of 2500"),
            (answer(1, u64::MAX), "is not the end of a block of 2500"),
            (answer(1, 1001), "is not the end of a block of 2500"),
            (answer(1, 3000), "is not the end of a block of 2500"),
            (vec![0, 0, 1, 0], "the connection ended before both sides had agreed"),
            (Vec::new(), "the connection ended before both sides had agreed"),
        ] {
            let failed = kept(&[1; 2500])?.agree(&mut Peer::saying(answer));
            let message = failed.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(error), "{message}");
        }
        Ok(())
    }

    #[test]
    fn a_receiver_that_makes_no_sense_is_an_error() -> Result<()> {
        let file = file(&[1; 2500])?;
        let source = Source::open(file.path())?;
        let claim = |length: u64, digests: usize| [&length.to_be_bytes()[..], &[7].repeat(32 * digests)].concat();
        for (claim, error) in [
            (claim(1 << 63, 0), "the client says that it has 8.0 EiB of the file already"),
            (claim(LONGEST_PART + 1, 1), "of the file already"),
            (claim(LONGEST_PART, 1000), "the connection ended before both sides had agreed"),
            (claim(1, 0), "the connection ended before both sides had agreed"),
            (vec![0; 7], "the connection ended before both sides had agreed"),
        ] {
            let mut peer = Peer::saying(claim);
            let failed = agree(&mut peer, &mut source.snapshot()?, |_| |_| ());
            let message = failed.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(error), "{message}");
            assert!(peer.1.is_empty());
        }
        Ok(())
    }

    #[test]
    fn what_was_read_before_is_checked_for_changes_too() -> Result<()> {
        let file = file(&[1; 2500])?;
        let source = Source::open(file.path())?;
        let mut snapshot = source.snapshot()?;
        let digests = [Sha256::digest([1; 1000]), Sha256::digest([1; 1000])];
        let claim = [&2000_u64.to_be_bytes()[..], &digests.concat()].concat();
        let mut peer = Peer::saying(claim);
        assert_eq!(agree(&mut peer, &mut snapshot, |_| |_| ())?, 2000);
        let mut changed = vec![1; 2500];
        changed[5] = 0;
        std::fs::write(file.path(), changed)?;
        while snapshot.read(&mut [0; 4096])? > 0 {}
        assert!(snapshot.ensure_ended_well(|_| Ok(())).is_err());
        Ok(())
    }
}
