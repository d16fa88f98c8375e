//! What follows from how an attempt went: for the delivery, its record and its retry; for the subscription, what the
//! receiver showed of itself.

use super::*;
use crate::delivery::breaker::Turn;
use crate::delivery::interface::RetryChange;
use crate::delivery::schedule::jitter;
use crate::delivery::verdict::{Verdict, judge};
use crate::delivery::{AttemptClass, AttemptResult, DisabledReason, Outcome};

const GONE: u16 = 410;
/// Longest that a `Retry-After` holds the whole subscription: one delivery's answer must not silence it for an hour.
pub const MAX_HOLD: Duration = Duration::from_secs(60);
/// Failing is saved when it has lasted this long. A restart forgets less than that, and a receiver that restarts costs no
/// write.
pub const SAVE_FAILING_AFTER: Duration = Duration::from_secs(600);

const OUTLIVED: &str = "the delivery outlived its retention; no attempt was made any more";
const DROPPED: &str = "the backlog was dropped when the subscription was enabled again; no attempt was made any more";

impl Machine {
    pub(super) fn attempted(&mut self, now: Timestamp, id: DeliveryId, result: AttemptResult, stale: bool) {
        let Some(flight) = self.in_flight.get(&id) else { return };
        let sending = matches!(flight.stage, Stage::Sending);
        debug_assert!(sending, "an attempt ends once");
        if !sending {
            return;
        }
        let number = flight.number;
        let gone = !stale && result.http_status == Some(GONE);
        // Written back, a retry would bring a delivery back that the janitor has ended meanwhile.
        let next = if result.succeeded() || gone || self.deleted || self.is_over(now, id).is_some() {
            None
        } else {
            self.next_attempt(now, id, number, result.retry_after)
        };
        if stale {
            self.breaker.void(id);
        } else {
            self.learn(now, id, &result);
        }
        if !result.succeeded() {
            let error_details = result.error_details.clone().unwrap_or_default();
            self.last_failure = Some(Box::new(LastFailure { delivery_id: id, at: now, error_details }));
        }
        self.record(id, number, result, next);
        if gone {
            self.disable(now, DisabledReason::Gone);
        } else if !stale && self.failing_since.is_some_and(|since| now.since(since) >= self.limits.disable_after) {
            self.disable(now, DisabledReason::Failing);
        }
    }

    fn record(&mut self, id: DeliveryId, number: u32, result: AttemptResult, next: Option<Retry>) {
        let outcome = match (result.succeeded(), &next) {
            (true, _) => Outcome::Success,
            (false, Some(_)) => Outcome::FailedAttempt,
            (false, None) => Outcome::Failure,
        };
        let mut event_type = None;
        if let Some(flight) = self.in_flight.get_mut(&id) {
            flight.stage = Stage::Recording(next.clone().map(Box::new));
            event_type = flight.event_type.take();
        }
        let retry = match next {
            Some(retry) => RetryChange::Schedule(retry),
            None if number > 1 => RetryChange::Settle,
            None => RetryChange::None,
        };
        self.actions.push_back(Action::Record { id, number, outcome, result, retry, event_type });
    }

    /// What the attempt says of the receiver, as it is configured now.
    fn learn(&mut self, now: Timestamp, id: DeliveryId, result: &AttemptResult) {
        let Some((round, epoch)) = self.in_flight.get(&id).map(|flight| (flight.round, flight.epoch)) else { return };
        let verdict = judge(result);
        match verdict {
            Verdict::Received => {
                let quick = result.duration <= self.limits.latency_target;
                let full = self.under_way() >= self.window.size();
                self.window.succeeded(round, quick, full, self.limits.max_concurrency);
            }
            Verdict::Struggling => self.window.struggled(round),
            Verdict::Refused => {}
        }
        if let Some(asked) = result.retry_after {
            self.held_until = self.held_until.max(now + asked.min(self.limits.max_retry_after).min(MAX_HOLD));
        }
        match self.breaker.ended(now, id, epoch, verdict, &self.limits.breaker) {
            Some(Turn::Opened) => {
                self.window.close_down();
                self.give_due_back(now);
                if let Some(lanes) = &mut self.lanes {
                    self.held_bytes -= lanes.shed();
                }
            }
            Some(Turn::Recovered) => self.start_bucket_over(now),
            None => {}
        }
        // While what was missing was ours, the receiver was not asked: it may have been well. Its failing begins anew.
        if result.succeeded() || result.class == AttemptClass::Local {
            self.end_failing();
        } else {
            self.go_on_failing(now);
        }
    }

    fn go_on_failing(&mut self, now: Timestamp) {
        let since = *self.failing_since.get_or_insert(now);
        if !self.failing_saved && now.since(since) >= SAVE_FAILING_AFTER {
            self.failing_saved = true;
            self.actions.push_back(Action::SaveFailing(Some(since)));
        }
    }

    pub(super) fn end_failing(&mut self) {
        self.failing_since = None;
        if std::mem::take(&mut self.failing_saved) {
            self.actions.push_back(Action::SaveFailing(None));
        }
    }

    fn disable(&mut self, now: Timestamp, reason: DisabledReason) {
        if self.enabled && !self.deleted {
            self.enabled = false;
            self.shed(now);
            self.actions.push_back(Action::Disable(reason));
        }
    }

    fn next_attempt(&self, now: Timestamp, id: DeliveryId, number: u32, asked: Option<Duration>) -> Option<Retry> {
        let wait = self.limits.schedule.wait_after(number)?;
        let asked = asked.unwrap_or_default().min(self.limits.max_retry_after);
        let wait = wait.max(asked);
        Some(Retry {
            delivery_id: id,
            subscription_id: self.subscription_id,
            attempt_number: number + 1,
            next_attempt_at: now + wait + jitter(id, number, wait),
            ordering_key: self.in_flight.get(&id).and_then(|flight| flight.ordering_key.clone()),
        })
    }

    /// Gives the delivery back: an untried one is above the cursor again, a retry still has its row.
    pub(super) fn not_sent(&mut self, now: Timestamp, id: DeliveryId) {
        let Some(flight) = self.in_flight.remove(&id) else { return };
        debug_assert!(matches!(flight.stage, Stage::Sending), "what was not sent has not ended");
        self.held_bytes -= flight.bytes;
        self.breaker.void(id);
        self.leave_lane(flight.ordering_key.as_ref(), id);
        if self.untried.remove(&id) {
            self.go_back_before(now, id);
        } else if !self.deleted {
            self.hold_retry((now, id), Held { number: flight.number, ordering_key: flight.ordering_key });
        }
    }

    pub(super) fn recorded(&mut self, id: DeliveryId) {
        // Of a crashed predecessor, perhaps: this one has not ended.
        if self.in_flight.get(&id).is_none_or(|flight| matches!(flight.stage, Stage::Sending)) {
            return;
        }
        let Some(flight) = self.in_flight.remove(&id) else { return };
        self.held_bytes -= flight.bytes;
        self.giving_up -= usize::from(flight.given_up);
        self.untried.remove(&id);
        if let (Stage::Recording(Some(retry)), false) = (flight.stage, self.deleted) {
            let key = (retry.next_attempt_at, id);
            // Beyond the last one held there may be others in the store: it would jump the queue. While these are being
            // read it is held all the same: the answer may be older than its row.
            let beyond = self.retries_beyond && !self.retries_loading;
            if !beyond || self.retries.last_key_value().is_some_and(|(last, _)| key <= *last) {
                let held = Held { number: retry.attempt_number, ordering_key: flight.ordering_key };
                return self.hold_retry(key, held);
            }
        }
        self.leave_lane(flight.ordering_key.as_ref(), id);
    }

    pub(super) fn is_dropped(&self, id: DeliveryId) -> bool {
        self.limits.drop_through.is_some_and(|through| id <= through)
    }

    /// Why a delivery ends without a further attempt, if it does.
    pub(super) fn is_over(&self, now: Timestamp, id: DeliveryId) -> Option<&'static str> {
        if self.is_dropped(id) {
            Some(DROPPED)
        } else {
            (id.accepted_at() + self.limits.retention < now).then_some(OUTLIVED)
        }
    }

    /// Ends what need not wait for an attempt that it will not get.
    pub(super) fn end_what_is_over(&mut self, now: Timestamp) {
        while let Some(why) = self.ready.front().and_then(|delivery| self.is_over(now, delivery.id)) {
            let Some(delivery) = self.ready.pop_front() else { break };
            self.give_up(now, delivery, 1, why);
        }
        while let Some(at) = self.due.iter().position(|(delivery, _)| self.is_over(now, delivery.id).is_some()) {
            let Some((delivery, number)) = self.due.remove(at) else { break };
            let why = self.is_over(now, delivery.id).unwrap_or(OUTLIVED);
            self.give_up(now, delivery, number, why);
        }
    }

    /// Ends a delivery without a further attempt, visibly.
    pub(super) fn give_up(&mut self, now: Timestamp, delivery: Delivery, number: u32, why: &str) {
        let id = delivery.id;
        self.enter(&delivery, number, Stage::Recording(None));
        self.giving_up += 1;
        let result = AttemptResult {
            started_at: now,
            duration: Duration::ZERO,
            http_status: None,
            retry_after: None,
            error_details: Some(why.to_owned()),
            class: AttemptClass::Expired,
            response_body: None,
        };
        self.record(id, number, result, None);
    }
}
