//! The access list of a file (acl(5)): rights for single users and groups beside the mode. A file that has one shows
//! the list's mask where the mode has the rights of the group.

use std::fs::File;
use std::io;
use std::path::Path;

#[cfg_attr(target_os = "linux", path = "access_list/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "access_list/other.rs")]
mod imp;

pub(crate) use imp::remove;

/// An access list as Linux stores it: a version, then eight bytes an entry, all in little-endian order.
pub(crate) struct AccessList(Vec<u8>);

/// What an entry is about (`linux/posix_acl_xattr.h`).
const OWNER: u16 = 0x01;
const OWNING_GROUP: u16 = 0x04;
const NAMED_GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

const VERSION_SIZE: usize = 4;
const ENTRY_SIZE: usize = 8;

/// Read, write and execute.
const ALL_RIGHTS: u16 = 0o7;

impl AccessList {
    /// The list of the file, if it has one.
    ///
    /// # Errors
    /// Returns an error if that cannot be known.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        Ok(imp::read(path)?.map(Self))
    }

    /// Gives the list to a file, with the mode that it stands for, in one step.
    ///
    /// # Errors
    /// Returns an error if the file cannot have it.
    pub(crate) fn give_to(&self, file: &File) -> io::Result<()> {
        imp::write(file, &self.0)
    }

    /// The list for a file that belongs to another group: its members had the rights of others or of a named group, and
    /// the members of the former group are others now.
    pub(crate) fn for_another_group(mut self) -> Self {
        let shared = self.common_rights(|kind| matches!(kind, OWNING_GROUP | NAMED_GROUP | OTHERS));
        for entry in self.0.get_mut(VERSION_SIZE..).unwrap_or_default().chunks_exact_mut(ENTRY_SIZE) {
            if matches!(u16::from_le_bytes([entry[0], entry[1]]), OWNING_GROUP | OTHERS) {
                entry[2..4].copy_from_slice(&shared.to_le_bytes());
            }
        }
        self
    }

    /// The widest mode that gives no one more rights than the list does.
    pub(crate) fn narrower_mode(&self) -> u32 {
        let owner = self.common_rights(|kind| kind == OWNER);
        let shared = self.common_rights(|kind| kind != OWNER);
        u32::from(owner << 6 | shared << 3 | shared)
    }

    /// The rights that all entries of these kinds give.
    fn common_rights(&self, is_meant: impl Fn(u16) -> bool) -> u16 {
        let mask = self.entries().find(|entry| entry.0 == MASK).map_or(ALL_RIGHTS, |entry| entry.1);
        let masked = |(kind, rights)| if matches!(kind, OWNER | OTHERS) { rights } else { rights & mask };
        let meant = self.entries().filter(|entry| is_meant(entry.0));
        meant.map(masked).fold(ALL_RIGHTS, |common, rights| common & rights)
    }

    /// Kind and rights of each entry.
    fn entries(&self) -> impl Iterator<Item = (u16, u16)> {
        let pair = |entry: &[u8]| (u16::from_le_bytes([entry[0], entry[1]]), u16::from_le_bytes([entry[2], entry[3]]));
        self.0.get(VERSION_SIZE..).unwrap_or_default().chunks_exact(ENTRY_SIZE).map(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED_USER: u16 = 0x02;

    fn list(entries: &[(u16, u16)]) -> AccessList {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (kind, rights) in entries {
            bytes.extend([kind.to_le_bytes(), rights.to_le_bytes(), [0; 2], [0; 2]].concat());
        }
        AccessList(bytes)
    }

    #[test]
    fn a_mode_in_place_of_a_list_gives_no_one_more() {
        for (named, group, mask, others, mode) in
            [(6, 0, 6, 4, 0o600), (6, 6, 6, 4, 0o644), (0, 6, 6, 4, 0o600), (7, 6, 4, 6, 0o644), (4, 7, 7, 7, 0o644)]
        {
            let list = list(&[(OWNER, 6), (NAMED_USER, named), (OWNING_GROUP, group), (MASK, mask), (OTHERS, others)]);
            assert_eq!(list.narrower_mode(), mode);
        }
    }

    #[test]
    fn another_group_and_others_get_what_both_had() {
        let before = list(&[(OWNER, 7), (NAMED_USER, 6), (OWNING_GROUP, 6), (NAMED_GROUP, 4), (MASK, 7), (OTHERS, 5)]);
        let after: Vec<_> = before.for_another_group().entries().collect();
        let expected = [(OWNER, 7), (NAMED_USER, 6), (OWNING_GROUP, 4), (NAMED_GROUP, 4), (MASK, 7), (OTHERS, 4)];
        assert_eq!(after, expected);
    }

    #[test]
    fn what_is_no_list_is_no_panic() {
        assert_eq!(AccessList(vec![2, 0]).narrower_mode(), 0o777);
        assert_eq!(AccessList(Vec::new()).for_another_group().entries().count(), 0);
    }
}
