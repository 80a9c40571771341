//! How many clients there were, and what that makes of the exit status.

use anyhow::Result;

use crate::sender::Outcome;

/// Number of clients by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Clients that are being served.
    pub(crate) active: u64,
    /// Clients that confirmed that they have stored the file.
    confirmed: u64,
    /// Clients that were sent the whole file and did not confirm.
    unconfirmed: u64,
    /// Clients that did not receive the whole file, or could not store it.
    failed: u64,
}

impl Tally {
    pub(crate) fn count(&mut self, outcome: &Result<Outcome>) {
        self.active -= 1;
        match outcome {
            Ok(Outcome::Confirmed(_)) => self.confirmed += 1,
            Ok(Outcome::Unconfirmed { .. }) => self.unconfirmed += 1,
            Err(_) => self.failed += 1,
        }
    }

    /// 1 if any client failed, otherwise 3 if any did not confirm, otherwise 0.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self { failed: 1.., .. } => 1,
            Self { unconfirmed: 1.., .. } => 3,
            _ => 0,
        }
    }

    pub(crate) fn summary(self) -> String {
        let Self { active, confirmed, unconfirmed, failed } = self;
        let total = active + confirmed + unconfirmed + failed;
        let interrupted = if active > 0 { format!(", {active} interrupted") } else { String::new() };
        format!("clients: {total}, {confirmed} confirmed, {unconfirmed} not confirmed, {failed} failed{interrupted}")
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Error;

    use super::*;
    use crate::protocol::{Reply, THANK_YOU};

    /// The tally after clients whose reply was this; `None` stands for a connection that was reset.
    fn tally_of(replies: &[Option<&[u8]>]) -> Result<Tally> {
        let mut tally = Tally { active: replies.len() as u64, ..Tally::default() };
        for reply in replies {
            let outcome = match reply.map(|reply| Reply::read_from(reply, None)).transpose()? {
                Some(reply) if reply.confirms() => Ok(Outcome::Confirmed(reply)),
                Some(reply) => Ok(Outcome::Unconfirmed { reply: Some(reply), reason: String::new() }),
                None => Err(Error::msg("connection reset by peer")),
            };
            tally.count(&outcome);
        }
        Ok(tally)
    }

    #[test]
    fn the_exit_status_is_that_of_the_worst_outcome() -> Result<()> {
        let (confirmed, unconfirmed, failed) = (Some(THANK_YOU), Some(&b"no"[..]), None);
        assert_eq!(tally_of(&[])?.exit_status(), 0);
        assert_eq!(tally_of(&[confirmed, confirmed])?.exit_status(), 0);
        assert_eq!(tally_of(&[confirmed, unconfirmed])?.exit_status(), 3);
        assert_eq!(tally_of(&[failed, unconfirmed, confirmed])?.exit_status(), 1);
        Ok(())
    }

    #[test]
    fn the_summary_counts_every_client_once() -> Result<()> {
        let mut tally = tally_of(&[Some(THANK_YOU), Some(b""), Some(b"no"), None])?;
        assert_eq!(tally.summary(), "clients: 4, 1 confirmed, 2 not confirmed, 1 failed");
        tally.active = 3;
        assert_eq!(tally.summary(), "clients: 7, 1 confirmed, 2 not confirmed, 1 failed, 3 interrupted");
        Ok(())
    }
}
