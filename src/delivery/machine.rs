//! The delivery machine of one subscription: which delivery is attempted when, and what follows from how it went.
//!
//! Pure. The shell feeds it [`Input`]s with the present time, performs the [`Action`]s that it hands out, and wakes it
//! at [`Machine::deadline`]. Everything in here can be lost at any instant and is rebuilt from the store.
//!
//! What it knows of the store, in order of id:
//! ```text
//!   … tried, logged … | untried in memory: in flight, ready | cursor | untried, in the store only (when behind)
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::interface::{Action, Input, RetryChange};
use super::{
    AttemptClass, AttemptResult, Delivery, DeliveryId, DisabledReason, Limits, Outcome, Retry, Snapshot,
    SubscriptionId, Timestamp, Waits,
};

/// Most deliveries that wait in memory for their first attempt. Deep enough that a fast receiver never waits for a
/// page, small enough that a thousand stuck subscriptions fit in memory.
pub const MAX_READY: usize = 256;
/// Most retries that are kept in memory; the rest are read again when these are done.
pub const MAX_RETRIES_HELD: usize = 512;
/// Payload that one subscription holds in memory before it leaves the rest to the store: a receiver of large bodies that
/// hangs must not take the memory of the others. One delivery is always let in, however large.
pub const MAX_HELD_BYTES: usize = 4 * 1024 * 1024;
/// Most payloads of due retries that are read at once; their sizes are not known before.
const MAX_LOADING: usize = 8;
/// How long to wait before asking a store again that could not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Jitter adds at most this fraction of a wait, so that what failed together does not come back together.
const JITTER_DIVISOR: u64 = 10;

#[derive(Debug)]
struct InFlight {
    number: u32,
    bytes: usize,
    /// Set when the attempt has ended and its log row is on its way to the store.
    recording: Option<RetryChange>,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Machine {
    subscription_id: SubscriptionId,
    limits: Limits,
    enabled: bool,
    deleted: bool,
    draining: bool,

    /// The highest id that was ever in memory.
    cursor: DeliveryId,
    /// Whether the store may hold untried deliveries above the cursor.
    behind: bool,
    page_loading: bool,
    page_after: DeliveryId,
    page_not_before: Timestamp,
    ready: VecDeque<Delivery>,

    /// Waiting for their time. Whatever is in the store only is due no earlier than the last of these.
    retries: BTreeMap<(Timestamp, DeliveryId), u32>,
    retries_beyond: bool,
    retries_loading: bool,
    retries_not_before: Timestamp,
    /// Due, and their payloads asked for.
    loading: BTreeMap<DeliveryId, u32>,
    /// Due, with their payloads, waiting for a place in the window.
    due: VecDeque<(Delivery, u32)>,

    in_flight: BTreeMap<DeliveryId, InFlight>,
    /// Payload in `ready`, `due` and `in_flight`.
    held_bytes: usize,
    /// First attempts among `in_flight`.
    untried_in_flight: BTreeSet<DeliveryId>,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine that waits for [`Input::Started`].
    pub fn new(subscription_id: SubscriptionId, limits: Limits, enabled: bool) -> Self {
        Self {
            subscription_id,
            limits,
            enabled,
            deleted: false,
            draining: false,
            cursor: DeliveryId::MIN,
            behind: true,
            // Until it has started there is nothing to ask the store for.
            page_loading: true,
            page_after: DeliveryId::MIN,
            page_not_before: Timestamp::default(),
            ready: VecDeque::new(),
            retries: BTreeMap::new(),
            retries_beyond: false,
            retries_loading: false,
            retries_not_before: Timestamp::default(),
            loading: BTreeMap::new(),
            due: VecDeque::new(),
            in_flight: BTreeMap::new(),
            held_bytes: 0,
            untried_in_flight: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes an input in at `now`. Read the actions afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Started { cursor, behind, retries, all_retries, failing_since: _ } => {
                self.cursor = cursor;
                self.behind = behind;
                self.page_loading = false;
                self.take_retries(now, retries, all_retries);
            }
            // While behind, what comes in memory comes too early: it is above the cursor and will be read in its turn.
            Input::Accepted(_) if self.behind => {}
            Input::Accepted(delivery) => self.take_ready(delivery),
            Input::FellBehind => self.behind = true,
            Input::Page { deliveries, caught_up } => {
                let wanted = self.wants_page();
                self.page_loading = false;
                if wanted {
                    deliveries.into_iter().for_each(|delivery| self.take_ready(delivery));
                    self.behind = caught_up.is_none();
                    // Above what was read there may be ids that ended elsewhere: they are tried, too.
                    self.cursor = self.cursor.max(caught_up.unwrap_or(self.cursor));
                }
            }
            Input::PageUnavailable => {
                self.page_loading = false;
                self.page_not_before = now + STORE_RETRY;
            }
            Input::Retries { retries, all } => {
                self.retries_loading = false;
                self.take_retries(now, retries, all);
            }
            Input::RetriesUnavailable => {
                self.retries_loading = false;
                self.retries_not_before = now + STORE_RETRY;
            }
            Input::Payloads { asked, found } => self.take_payloads(now, &asked, found),
            Input::PayloadsUnavailable(asked) => self.postpone(now, &asked),
            Input::Attempted { id, result, stale } => self.attempted(now, id, result, stale),
            Input::NotSent(id) => self.not_sent(now, id),
            Input::Recorded(id) => self.recorded(id),
            Input::Woken => {}
            Input::Configured { enabled, limits } => {
                self.limits = *limits;
                self.enabled = enabled;
                if !enabled {
                    self.shed(now);
                }
            }
            Input::Deleted => {
                self.deleted = true;
                self.shed(now);
                self.retries.clear();
            }
            Input::Draining => {
                self.draining = true;
                self.shed(now);
            }
        }
        self.advance(now);
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to wake it with [`Input::Woken`], if nothing happens before.
    pub fn deadline(&self) -> Option<Timestamp> {
        if !self.may_start() {
            return None;
        }
        let retry = self.retries.keys().next().map(|(at, _)| *at).filter(|_| self.may_load_due());
        let page = self.must_load_page().then_some(self.page_not_before);
        let retries = self.must_load_retries().then_some(self.retries_not_before);
        [retry, page, retries].into_iter().flatten().min()
    }

    /// Every delivery up to this id has been tried and its attempt logged.
    pub fn tried_through(&self) -> DeliveryId {
        let ready = self.ready.front().map(|delivery| delivery.id);
        let untried = self.untried_in_flight.first().copied().into_iter().chain(ready).min();
        // The cursor may be below an attempt under way, when one before it was not sent.
        untried.map_or(self.cursor, DeliveryId::predecessor).min(self.cursor)
    }

    /// Whether untried deliveries may exist in the store only.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Deliveries that wait in memory for their first attempt.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Payload in memory.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether attempts are under way or not yet logged.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether another attempt could be started without one that ends.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Whether it can be forgotten: nothing is under way, and nothing is due before `horizon` that the supervisor would
    /// not find in the store by itself. A disabled subscription's backlog waits in the store, below its position.
    pub fn is_idle(&self, horizon: Timestamp) -> bool {
        let backlog = self.behind || !self.ready.is_empty();
        let soon = self.retries.keys().next().is_some_and(|(at, _)| *at < horizon);
        !self.is_busy()
            && !self.page_loading
            && !self.retries_loading
            && self.loading.is_empty()
            && self.due.is_empty()
            && (!self.enabled || !(backlog || soon))
    }

    /// How it is, for operators.
    pub fn snapshot(&self, _now: Timestamp) -> Option<Snapshot> {
        None
    }

    /// What an unfinished delivery waits for.
    pub fn why(&self, _now: Timestamp, _id: DeliveryId) -> Option<Waits> {
        None
    }

    /// Whether the subscription is enabled.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the subscription was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    fn may_start(&self) -> bool {
        self.enabled && !self.deleted && !self.draining
    }

    /// Whether the page that is being read continues what is in memory. When deliveries were given back to the store
    /// meanwhile, taking it would skip them.
    pub fn wants_page(&self) -> bool {
        self.may_start() && self.page_loading && self.page_after == self.cursor
    }

    /// Free places in the window.
    fn room(&self) -> usize {
        self.limits.max_concurrency.saturating_sub(self.in_flight.len() + self.due.len() + self.loading.len())
    }

    fn take_ready(&mut self, delivery: Delivery) {
        if delivery.id > self.cursor {
            self.cursor = delivery.id;
            self.held_bytes += delivery.payload.len();
            self.ready.push_back(delivery);
        }
    }

    /// Gives back to the store what waits in memory. Nothing is lost: it is above the cursor again, or in `retries`.
    fn shed(&mut self, now: Timestamp) {
        if let Some(first) = self.ready.front() {
            self.cursor = first.id.predecessor();
        }
        self.behind = true;
        self.actions.push_back(Action::FallBehind);
        for delivery in std::mem::take(&mut self.ready) {
            self.held_bytes -= delivery.payload.len();
        }
        for (delivery, number) in std::mem::take(&mut self.due) {
            self.held_bytes -= delivery.payload.len();
            self.hold_retry((now, delivery.id), number);
        }
    }

    fn take_retries(&mut self, now: Timestamp, retries: Vec<Retry>, all: bool) {
        self.retries_beyond = !all;
        // A wall clock that was set back, or a schedule that became shorter, must not leave a delivery waiting for
        // longer than any wait that could have been meant.
        let latest = now + self.longest_wait();
        for retry in retries {
            let id = retry.delivery_id;
            if !self.in_flight.contains_key(&id) && !self.loading.contains_key(&id) && !self.is_held(id) {
                self.hold_retry((retry.next_attempt_at.min(latest), id), retry.attempt_number);
            }
        }
    }

    fn is_held(&self, id: DeliveryId) -> bool {
        self.due.iter().any(|(delivery, _)| delivery.id == id) || self.retries.keys().any(|(_, held)| *held == id)
    }

    fn longest_wait(&self) -> Duration {
        let longest = self.limits.schedule.longest().max(self.limits.max_retry_after);
        longest + longest / u32::try_from(JITTER_DIVISOR).unwrap_or(1)
    }

    fn hold_retry(&mut self, key: (Timestamp, DeliveryId), number: u32) {
        self.retries.insert(key, number);
        if self.retries.len() > MAX_RETRIES_HELD {
            self.retries.pop_last();
            self.retries_beyond = true;
        }
    }

    fn take_payloads(&mut self, now: Timestamp, asked: &[DeliveryId], found: Vec<Delivery>) {
        for delivery in found {
            match self.loading.remove(&delivery.id) {
                // It was disabled while they were being read: they wait in the store, not in memory.
                Some(number) if !self.may_start() => self.hold_retry((now, delivery.id), number),
                Some(number) => {
                    self.held_bytes += delivery.payload.len();
                    self.due.push_back((delivery, number));
                }
                None => {}
            }
        }
        // What was not found has ended elsewhere: expired, or its subscription's retries were deleted.
        for id in asked {
            self.loading.remove(id);
        }
    }

    fn postpone(&mut self, now: Timestamp, asked: &[DeliveryId]) {
        for id in asked {
            if let Some(number) = self.loading.remove(id) {
                self.hold_retry((now + STORE_RETRY, *id), number);
            }
        }
    }

    fn attempted(&mut self, now: Timestamp, id: DeliveryId, result: AttemptResult, stale: bool) {
        let Some(flight) = self.in_flight.get(&id) else { return };
        debug_assert!(flight.recording.is_none(), "an attempt ends once");
        let (number, bytes) = (flight.number, flight.bytes);
        let gone = !stale && result.http_status == Some(GONE);
        // Written back, a retry would bring a delivery back that the janitor has ended meanwhile.
        let next = if result.succeeded() || gone || self.deleted || self.has_expired(now, id) {
            None
        } else {
            self.next_attempt(now, id, number, result.retry_after)
        };
        let outcome = match (result.succeeded(), &next) {
            (true, _) => Outcome::Success,
            (false, Some(_)) => Outcome::FailedAttempt,
            (false, None) => Outcome::Failure,
        };
        let retry = match next {
            Some(retry) => RetryChange::Schedule(retry),
            None if number > 1 => RetryChange::Settle,
            None => RetryChange::None,
        };
        self.in_flight.insert(id, InFlight { number, bytes, recording: Some(retry.clone()) });
        self.actions.push_back(Action::Record { id, number, outcome, result, retry, event_type: None });
        if gone && self.enabled && !self.deleted {
            self.enabled = false;
            self.shed(now);
            self.actions.push_back(Action::Disable(DisabledReason::Gone));
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
            ordering_key: None,
        })
    }

    /// Gives the delivery back: an untried one is above the cursor again, a retry still has its row.
    fn not_sent(&mut self, now: Timestamp, id: DeliveryId) {
        let Some(flight) = self.in_flight.remove(&id) else { return };
        debug_assert!(flight.recording.is_none(), "what was not sent has not ended");
        self.held_bytes -= flight.bytes;
        if self.untried_in_flight.remove(&id) {
            self.shed(now);
            self.cursor = self.cursor.min(id.predecessor());
        } else if !self.deleted {
            self.hold_retry((now, id), flight.number);
        }
    }

    fn has_expired(&self, now: Timestamp, id: DeliveryId) -> bool {
        id.accepted_at() + self.limits.retention < now
    }

    fn recorded(&mut self, id: DeliveryId) {
        // Of a crashed predecessor, perhaps: this one has not ended.
        if self.in_flight.get(&id).is_none_or(|flight| flight.recording.is_none()) {
            return;
        }
        let Some(flight) = self.in_flight.remove(&id) else { return };
        self.held_bytes -= flight.bytes;
        self.untried_in_flight.remove(&id);
        if let (Some(RetryChange::Schedule(retry)), false) = (flight.recording, self.deleted) {
            let key = (retry.next_attempt_at, id);
            // Beyond the last one held there may be others in the store: it would jump the queue. While these are being
            // read it is held all the same: the answer may be older than its row.
            if self.retries_beyond
                && !self.retries_loading
                && self.retries.last_key_value().is_none_or(|(last, _)| key > *last)
            {
                return;
            }
            self.hold_retry(key, retry.attempt_number);
        }
    }

    /// Starts what may start, and asks the store for what is missing.
    fn advance(&mut self, now: Timestamp) {
        if !self.may_start() {
            return;
        }
        self.load_due(now);
        while self.in_flight.len() < self.limits.max_concurrency {
            // Retries were accepted earlier, and hold their place in the window already.
            let Some((delivery, number)) = self.due.pop_front().or_else(|| self.pop_ready()) else { break };
            if self.has_expired(now, delivery.id) {
                self.give_up(now, delivery, number);
            } else {
                self.start(delivery, number);
            }
        }
        if self.must_load_page() && now >= self.page_not_before {
            self.page_loading = true;
            self.page_after = self.cursor;
            self.actions.push_back(Action::LoadPage { after: self.cursor, limit: MAX_READY - self.ready.len() });
        }
        if self.must_load_retries() && now >= self.retries_not_before {
            self.retries_loading = true;
            self.actions.push_back(Action::LoadRetries);
        }
        release(&mut self.ready);
        release(&mut self.due);
        release(&mut self.actions);
    }

    fn pop_ready(&mut self) -> Option<(Delivery, u32)> {
        (self.room() > 0).then(|| self.ready.pop_front())?.map(|delivery| (delivery, 1))
    }

    fn start(&mut self, delivery: Delivery, number: u32) {
        if number == 1 {
            self.untried_in_flight.insert(delivery.id);
        }
        let flight = InFlight { number, bytes: delivery.payload.len(), recording: None };
        let before = self.in_flight.insert(delivery.id, flight);
        debug_assert!(before.is_none(), "a delivery has at most one attempt under way");
        self.actions.push_back(Action::Attempt { delivery, number });
    }

    /// Ends a delivery that outlived its retention before its turn came, visibly.
    fn give_up(&mut self, now: Timestamp, delivery: Delivery, number: u32) {
        let id = delivery.id;
        self.start(delivery, number);
        self.actions.pop_back();
        let result = AttemptResult {
            started_at: now,
            duration: Duration::ZERO,
            http_status: None,
            retry_after: None,
            error_details: Some("the delivery outlived its retention; no attempt was made any more".to_owned()),
            class: AttemptClass::Expired,
            response_body: None,
        };
        self.attempted(now, id, result, false);
    }

    fn load_due(&mut self, now: Timestamp) {
        let mut ids = Vec::new();
        while self.may_load_due() {
            let Some(entry) = self.retries.first_entry().filter(|entry| entry.key().0 <= now) else { break };
            let ((_, id), number) = entry.remove_entry();
            self.loading.insert(id, number);
            ids.push(id);
        }
        if !ids.is_empty() {
            self.actions.push_back(Action::LoadPayloads(ids));
        }
    }

    fn may_load_due(&self) -> bool {
        let empty = self.held_bytes == 0 && self.loading.is_empty();
        self.room() > 0 && self.loading.len() < MAX_LOADING && (empty || self.held_bytes < MAX_HELD_BYTES)
    }

    fn must_load_page(&self) -> bool {
        let wants = self.ready.len() <= MAX_READY / 2 && self.held_bytes <= MAX_HELD_BYTES / 2;
        // Attempts above the cursor are under way when one before them was not sent: read now, they would be made twice.
        let untried_above = self.untried_in_flight.last().is_some_and(|last| *last > self.cursor);
        self.behind && !self.page_loading && wants && !untried_above
    }

    fn must_load_retries(&self) -> bool {
        self.retries_beyond && self.retries.is_empty() && !self.retries_loading
    }
}

const GONE: u16 = 410;

/// Added to a wait, never taken from it: up to a tenth, drawn from the id so that it needs no randomness here.
fn jitter(id: DeliveryId, number: u32, wait: Duration) -> Duration {
    let bound = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) / JITTER_DIVISOR;
    // Fibonacci hashing spreads ids that differ in a counter only.
    let drawn = (id.0.as_u64_pair().1 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    Duration::from_millis(if bound == 0 { 0 } else { drawn % bound })
}

/// An idle subscription keeps no buffers: ten thousand of them are in memory.
fn release<T>(queue: &mut VecDeque<T>) {
    const KEPT: usize = 4;
    if queue.is_empty() && queue.capacity() > KEPT * 16 {
        queue.shrink_to(KEPT);
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
