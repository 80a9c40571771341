//! What tells whether a file was written to: its size, its times, and the events that were seen.

use std::fs::{File, Metadata};
use std::io;
use std::time::SystemTime;

use super::watch::{Events, Watch};

/// A file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Bytes in the file.
    pub(crate) size: u64,
    /// The time of the last write, which can be set to any other (inode(7)).
    modified: Option<SystemTime>,
    /// The time of the last change of any kind, which cannot be set.
    changed: (i64, i64),
    inode: Inode,
    events: Events,
}

/// What is known of a file beside its bytes and times: its mode, its links, its owner and its group.
type Inode = (u32, u64, u32, u32);

/// What happened to a file since a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// Nothing.
    Nothing,
    /// Something that was seen and leaves the bytes alone, such as a rename.
    Harmless,
    /// Something that was not seen, and may be a write whose times were set back.
    Unknown,
    /// A write.
    Written,
}

impl Fingerprint {
    /// `None` if the file is not a regular one: nothing tells of writes to a device or a pipe.
    ///
    /// # Errors
    /// Returns an error if the file cannot be examined.
    pub(crate) fn of(file: &File, watch: Option<&Watch>) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        let of_regular = || Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
            changed: change_time(&metadata),
            inode: inode(&metadata),
            events: watch.map(Watch::events).unwrap_or_default(),
        };
        Ok(metadata.is_file().then(of_regular))
    }

    /// What happened between that fingerprint and this one.
    pub(crate) fn since(&self, before: &Self) -> Since {
        if (self.size, self.modified, self.events.writes) != (before.size, before.modified, before.events.writes) {
            Since::Written
        } else if self.changed == before.changed {
            Since::Nothing
        } else if self.is_explained(before) {
            Since::Harmless
        } else {
            Since::Unknown
        }
    }

    /// Whether what was seen explains that the change time moved. That attributes changed does only if it shows which:
    /// setting the times back, after a write through a mapping, looks the same but leaves all others as they were.
    fn is_explained(&self, before: &Self) -> bool {
        if self.events.attributes > before.events.attributes {
            self.inode != before.inode
        } else {
            self.events.moves > before.events.moves
        }
    }
}

#[cfg(unix)]
fn change_time(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> Inode {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.mode(), metadata.nlink(), metadata.uid(), metadata.gid())
}

#[cfg(not(unix))]
fn change_time(_: &Metadata) -> (i64, i64) {
    (0, 0)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> Inode {
    (0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Fingerprint = Fingerprint {
        size: 30,
        modified: Some(SystemTime::UNIX_EPOCH),
        changed: (1, 2),
        inode: (0o644, 1, 0, 0),
        events: Events { writes: 3, moves: 4, attributes: 5 },
    };

    #[test]
    fn size_time_and_events_of_writes_tell_of_a_write() {
        assert_eq!(BEFORE.since(&BEFORE), Since::Nothing);
        assert_eq!(Fingerprint { size: 31, ..BEFORE }.since(&BEFORE), Since::Written);
        assert_eq!(Fingerprint { modified: None, ..BEFORE }.since(&BEFORE), Since::Written);
        let seen = Events { writes: 4, moves: 5, attributes: 6 };
        assert_eq!(Fingerprint { changed: (9, 9), events: seen, ..BEFORE }.since(&BEFORE), Since::Written);
    }

    #[test]
    fn only_an_event_explains_that_the_change_time_alone_moved() {
        let moved = Fingerprint { changed: (9, 9), ..BEFORE };
        assert_eq!(moved.since(&BEFORE), Since::Unknown);
        let renamed = Events { moves: 5, ..BEFORE.events };
        assert_eq!(Fingerprint { events: renamed, ..moved }.since(&BEFORE), Since::Harmless);
    }

    #[test]
    fn attributes_that_changed_explain_it_only_if_they_differ() {
        let seen = Events { moves: 5, attributes: 6, ..BEFORE.events };
        let times_were_set = Fingerprint { changed: (9, 9), events: seen, ..BEFORE };
        assert_eq!(times_were_set.since(&BEFORE), Since::Unknown);
        let linked = Fingerprint { inode: (0o644, 2, 0, 0), ..times_were_set };
        assert_eq!(linked.since(&BEFORE), Since::Harmless);
        let unseen = Fingerprint { events: BEFORE.events, ..linked };
        assert_eq!(unseen.since(&BEFORE), Since::Unknown);
    }
}
