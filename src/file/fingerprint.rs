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
    status: Status,
    events: Events,
}

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
            status: status(&metadata),
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

    /// Whether what was seen explains that the change time moved. Times that were set do not: they may hide a write through
    /// a mapping, of which there is no event (mmap(2)).
    fn is_explained(&self, before: &Self) -> bool {
        let (now, then) = (self.events, before.events);
        if now.others > then.others { self.status != before.status } else { now.moves > then.moves }
    }
}

/// What an inode holds besides bytes and times: mode, links, owner and group (inode(7)). A change of it explains one of the
/// change time.
type Status = [u64; 4];

#[cfg(unix)]
fn status(metadata: &Metadata) -> Status {
    use std::os::unix::fs::MetadataExt as _;
    [metadata.mode().into(), metadata.nlink(), metadata.uid().into(), metadata.gid().into()]
}

#[cfg(not(unix))]
fn status(_: &Metadata) -> Status {
    Status::default()
}

#[cfg(unix)]
fn change_time(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn change_time(_: &Metadata) -> (i64, i64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Fingerprint = Fingerprint {
        size: 30,
        modified: Some(SystemTime::UNIX_EPOCH),
        changed: (1, 2),
        status: [0; 4],
        events: Events { writes: 3, moves: 4, others: 5 },
    };

    #[test]
    fn size_time_and_events_of_writes_tell_of_a_write() {
        assert_eq!(BEFORE.since(&BEFORE), Since::Nothing);
        assert_eq!(Fingerprint { size: 31, ..BEFORE }.since(&BEFORE), Since::Written);
        assert_eq!(Fingerprint { modified: None, ..BEFORE }.since(&BEFORE), Since::Written);
        let seen = Events { writes: 4, ..BEFORE.events };
        assert_eq!(Fingerprint { changed: (9, 9), events: seen, ..BEFORE }.since(&BEFORE), Since::Written);
    }

    #[test]
    fn only_an_event_explains_that_the_change_time_alone_moved() {
        let moved = Fingerprint { changed: (9, 9), ..BEFORE };
        assert_eq!(moved.since(&BEFORE), Since::Unknown);
        let renamed = Events { moves: 5, ..BEFORE.events };
        assert_eq!(Fingerprint { events: renamed, ..moved }.since(&BEFORE), Since::Harmless);
        let with_rights_changed = Fingerprint { status: [1; 4], ..moved };
        assert_eq!(with_rights_changed.since(&BEFORE), Since::Unknown);
        let other = Events { others: 6, ..BEFORE.events };
        assert_eq!(Fingerprint { events: other, ..with_rights_changed }.since(&BEFORE), Since::Harmless);
    }

    #[test]
    fn times_that_were_set_explain_nothing() {
        let others = Events { others: 6, ..BEFORE.events };
        for events in [others, Events { moves: 5, ..others }] {
            assert_eq!(Fingerprint { changed: (9, 9), events, ..BEFORE }.since(&BEFORE), Since::Unknown);
        }
    }
}
