//! What this process has changed lately: it must not be served an older copy again, whatever became of its writes.
//!
//! A write may not get through (Redis away or hanging), and one that did may be lost again (a restart, a failover to a
//! replica that lags). So every change is remembered until the copies that it outdates have run out, is sent again until
//! it got through, and once more after every reconnection.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::COPY_TTL;
use crate::delivery::SubscriptionId;

/// By then an older copy has run out, even one that was written a little after the change.
const KEEP: Duration = COPY_TTL.saturating_mul(2);
/// Most changes remembered: about 8 MB. Beyond it the cache is not believed for a while.
const MAX_NOTED: usize = 100_000;

#[derive(Default)]
pub(super) struct Recent(Mutex<Changes>);

#[derive(Default)]
struct Changes {
    noted: HashMap<SubscriptionId, Noted>,
    /// When a change was last left out for want of room.
    overflowed: Option<Instant>,
}

struct Noted {
    version: i64,
    at: Instant,
    sent: bool,
}

impl Recent {
    pub(super) fn note(&self, id: SubscriptionId, version: i64) {
        let mut changes = self.lock();
        let at = Instant::now();
        if changes.noted.len() >= MAX_NOTED && !changes.noted.contains_key(&id) {
            changes.overflowed = Some(at);
        } else if changes.noted.get(&id).is_none_or(|noted| noted.version <= version) {
            changes.noted.insert(id, Noted { version, at, sent: false });
        }
    }

    pub(super) fn sent(&self, id: SubscriptionId, version: i64) {
        if let Some(noted) = self.lock().noted.get_mut(&id) {
            noted.sent |= noted.version == version;
        }
    }

    /// Whether a copy of this version is older than what was changed here.
    pub(super) fn outdates(&self, id: SubscriptionId, version: i64) -> bool {
        let changes = self.lock();
        match changes.noted.get(&id) {
            Some(noted) => version < noted.version,
            None => changes.overflowed.is_some(),
        }
    }

    pub(super) fn unsent(&self) -> Vec<(SubscriptionId, i64)> {
        self.lock().noted.iter().filter(|(_, noted)| !noted.sent).map(|(id, noted)| (*id, noted.version)).collect()
    }

    pub(super) fn send_again(&self) {
        self.lock().noted.values_mut().for_each(|noted| noted.sent = false);
    }

    pub(super) fn forget_old(&self) {
        let mut changes = self.lock();
        changes.noted.retain(|_, noted| noted.at.elapsed() < KEEP);
        changes.overflowed = changes.overflowed.filter(|at| at.elapsed() < KEEP);
    }

    /// Every section leaves the table whole, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SubscriptionId = SubscriptionId(1);

    #[test]
    fn an_older_copy_is_outdated_and_the_same_version_is_not() {
        let recent = Recent::default();
        assert!(!recent.outdates(ID, 1));
        recent.note(ID, 3);
        recent.note(ID, 2);
        assert!(recent.outdates(ID, 2));
        assert!(!recent.outdates(ID, 3));
    }

    #[test]
    fn a_change_is_unsent_until_its_own_version_was_sent_and_again_after_a_reconnection() {
        let recent = Recent::default();
        recent.note(ID, 2);
        recent.note(ID, 3);
        recent.sent(ID, 2);
        assert_eq!(recent.unsent(), [(ID, 3)]);
        recent.sent(ID, 3);
        assert_eq!(recent.unsent(), []);
        recent.send_again();
        assert_eq!(recent.unsent(), [(ID, 3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_forgotten_when_the_copies_that_it_outdates_have_run_out() {
        let recent = Recent::default();
        recent.note(ID, 2);
        tokio::time::advance(KEEP - Duration::from_millis(1)).await;
        recent.forget_old();
        assert!(recent.outdates(ID, 1));
        tokio::time::advance(Duration::from_millis(1)).await;
        recent.forget_old();
        assert!(!recent.outdates(ID, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_change_too_many_makes_every_copy_unbelievable_for_a_while() {
        let recent = Recent::default();
        let left_out = SubscriptionId(0);
        (1..=MAX_NOTED).for_each(|id| recent.note(SubscriptionId(id.try_into().unwrap()), 1));
        assert!(!recent.outdates(left_out, 1));
        recent.note(left_out, 2);
        assert!(recent.outdates(left_out, 1));
        tokio::time::advance(KEEP).await;
        recent.forget_old();
        assert!(!recent.outdates(left_out, 1));
    }
}
