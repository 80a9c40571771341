//! The number of clients by outcome, and the exit status that follows from it.

use serde::Serialize;

/// What became of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It has stored the file.
    Confirmed,
    /// It was sent the whole file, and whether it has stored it is not known.
    Unconfirmed,
    /// It did not receive the whole file, or could not store it.
    Failed,
}

/// Number of clients by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// How often a client broke off that may come back.
    #[serde(skip)]
    pub(crate) broken: u64,
    pub(crate) confirmed: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) failed: u64,
    /// Clients that are being served, or were when the program was interrupted.
    #[serde(rename = "interrupted", skip_serializing_if = "is_none")]
    pub(crate) active: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

impl Tally {
    /// An active client has been served; without a verdict it may come back, and does not count.
    pub(crate) fn count(&mut self, verdict: Option<Verdict>) {
        self.active -= 1;
        match verdict {
            Some(Verdict::Confirmed) => self.confirmed += 1,
            Some(Verdict::Unconfirmed) => self.unconfirmed += 1,
            Some(Verdict::Failed) => self.failed += 1,
            None => self.broken += 1,
        }
    }

    /// Clients that have a verdict.
    pub(crate) fn counted(self) -> u64 {
        self.confirmed + self.unconfirmed + self.failed
    }

    /// 1 if any client failed, otherwise 3 if any did not confirm, otherwise 0.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self { failed: 1.., .. } => 1,
            Self { unconfirmed: 1.., .. } => 3,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Confirmed, Failed, Unconfirmed};
    use super::*;

    fn tally_of(verdicts: &[Verdict]) -> Tally {
        let mut tally = Tally { active: verdicts.len() as u64, ..Tally::default() };
        for &verdict in verdicts {
            tally.count(Some(verdict));
        }
        tally
    }

    #[test]
    fn the_exit_status_is_that_of_the_worst_outcome() {
        assert_eq!(tally_of(&[]).exit_status(), 0);
        assert_eq!(tally_of(&[Confirmed, Confirmed]).exit_status(), 0);
        assert_eq!(tally_of(&[Confirmed, Unconfirmed]).exit_status(), 3);
        assert_eq!(tally_of(&[Failed, Unconfirmed, Confirmed]).exit_status(), 1);
    }

    #[test]
    fn every_client_is_counted_once() {
        let tally = tally_of(&[Confirmed, Unconfirmed, Unconfirmed, Failed]);
        assert_eq!(tally, Tally { confirmed: 1, unconfirmed: 2, failed: 1, ..Tally::default() });
    }
}
