//! Why events are refused. An overloaded node refuses more than it accepts, and must not queue at a lock to count it.

use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;

use super::Counters;

/// Most reasons that are counted apart; about twice as many as the API has kinds of problems.
pub(super) const MAX_REASONS: usize = 48;

/// A counter a reason, found by comparing a few static words. Slots are taken in order of first use and never given
/// back; reasons beyond the last slot are counted together.
#[derive(Debug)]
pub(super) struct Reasons {
    slots: [OnceLock<(&'static str, Counter)>; MAX_REASONS],
    counters: Counters,
    other: Counter,
}

impl Reasons {
    pub fn new(counters: Counters) -> Self {
        let other = counters.get_or_create_owned(&[("reason", "other")]);
        Self { slots: [const { OnceLock::new() }; MAX_REASONS], counters, other }
    }

    pub fn count(&self, reason: &'static str) {
        let found = self.slots.iter().find_map(|slot| {
            let (name, counter) = slot.get_or_init(|| (reason, self.counter(reason)));
            (*name == reason).then_some(counter)
        });
        found.unwrap_or(&self.other).inc();
    }

    fn counter(&self, reason: &'static str) -> Counter {
        self.counters.get_or_create_owned(&[("reason", reason)])
    }
}
