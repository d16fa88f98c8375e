//! What operators may ask of it.

use super::*;
use crate::delivery::{BreakerState, Glance, Snapshot, Waits};

impl Machine {
    /// How it is, for operators.
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let (breaker, breaker_until) = self.breaker.state();
        let lanes = self.lanes.as_ref();
        let parked_retries = lanes.map_or(0, |lanes| lanes.parked_retries());
        Snapshot {
            window: self.window.size(),
            max_concurrency: self.limits.max_concurrency,
            in_flight: self.in_flight.len(),
            breaker,
            breaker_until,
            consecutive_failures: self.breaker.consecutive_failures(),
            tokens: self.limits.rate.map(|rate| self.bucket.tokens(now, rate)),
            held_until: Some(self.held_until).filter(|until| *until > now),
            ready: self.ready.len() + lanes.map_or(0, |lanes| lanes.parked_first()),
            retries: self.retries.len() + self.loading.len() + self.due.len() + parked_retries,
            more_in_store: self.behind || self.retries_beyond || self.retries_loading,
            blocked_keys: lanes.map_or(0, |lanes| lanes.blocked()),
            oldest_due: self.oldest_due(now),
            next_wakeup: self.deadline(),
            failing_since: self.failing_since,
            last_failure: self.last_failure.as_deref().cloned(),
        }
    }

    /// What is counted of it, cheap enough to be asked after every input.
    pub fn glance(&self) -> Glance {
        let waiting = self.enabled && !self.deleted;
        let ready = self.ready.front().map(|delivery| delivery.id);
        let first = self.untried.first().copied().into_iter().chain(ready).min();
        Glance {
            window: self.window.size(),
            breaker: self.breaker.state().0,
            oldest_untried: first.filter(|_| waiting).map(DeliveryId::accepted_at),
            next_retry: self.retries.keys().next().filter(|_| waiting).map(|(at, _)| *at),
        }
    }

    /// Of what is in memory: the store's own is younger, or due later.
    fn oldest_due(&self, now: Timestamp) -> Option<Timestamp> {
        let first =
            self.untried.first().copied().into_iter().chain(self.ready.front().map(|delivery| delivery.id)).min();
        let retry = self.retries.keys().next().map(|(at, _)| *at).filter(|at| *at <= now);
        let under_way = self.in_flight.keys().chain(self.loading.keys()).next().map(|id| id.accepted_at());
        let due = self.due.front().map(|(delivery, _)| delivery.id.accepted_at());
        [first.map(DeliveryId::accepted_at), retry, under_way, due].into_iter().flatten().min()
    }

    /// What an unfinished delivery waits for. Of one that is not in memory, what would hold it were it the next.
    pub fn why(&self, now: Timestamp, id: DeliveryId) -> Waits {
        if let Some(flight) = self.in_flight.get(&id) {
            return match flight.stage {
                Stage::Sending => Waits::InFlight { attempt: flight.number },
                Stage::Recording(_) => Waits::Recording { attempt: flight.number },
            };
        }
        if !self.enabled || self.deleted {
            return Waits::Disabled;
        }
        if self.draining {
            return Waits::Draining;
        }
        let first = self.ready.iter().find(|delivery| delivery.id == id);
        let retry = self.retries.iter().find(|((_, held), _)| *held == id).map(|((at, _), held)| (*at, held));
        let key = first.and_then(|delivery| delivery.ordering_key.as_ref());
        let key = key.or(retry.and_then(|(_, held)| held.ordering_key.as_ref()));
        if let Some(behind) = self.lanes.as_ref().and_then(|lanes| lanes.ahead_of(key, id)) {
            return Waits::Order { behind };
        }
        self.waits_until(now, retry).unwrap_or_else(|| match self.room() {
            0 => Waits::Window { size: self.window.size() },
            _ => Waits::Backlog,
        })
    }

    /// The time that holds it the longest.
    fn waits_until(&self, now: Timestamp, retry: Option<(Timestamp, &Held)>) -> Option<Waits> {
        let retry = retry.map(|(at, held)| (at, Waits::Retry { at, attempt: held.number }));
        let held = (self.held_until, Waits::Held { until: self.held_until });
        let breaker = match self.breaker.state() {
            (BreakerState::Open, Some(until)) => Some((until, Waits::Breaker { until })),
            (BreakerState::HalfOpen, _) if self.breaker.admits_at().is_none() => Some((now, Waits::Probe)),
            _ => None,
        };
        let rate = self.limits.rate.map(|rate| self.bucket.next(rate)).map(|at| (at, Waits::Rate { at }));
        let probe = matches!(breaker, Some((_, Waits::Probe)));
        let reasons = [rate, retry, Some(held), breaker].into_iter().flatten();
        // Of two with the same time, the last.
        let longest = reasons.filter(|(at, why)| *at > now || (probe && *why == Waits::Probe));
        longest.max_by_key(|(at, _)| *at).map(|(_, why)| why)
    }
}
