//! The delivery machine of one subscription: which delivery is attempted when, and what follows from how it went.
//!
//! Pure. The shell feeds it [`Input`]s with the present time, performs the [`Action`]s that it hands out, and wakes it
//! at [`Machine::deadline`]. Everything in here can be lost at any instant and is rebuilt from the store.
//!
//! What it knows of the store, in order of id:
//! ```text
//!   … tried, logged … | untried in memory: in flight, parked, ready | cursor | untried, in the store only (when behind)
//! ```
//! An attempt starts when the breaker, a `Retry-After`, the rate limit, the window and the order all let it.

mod order;
mod outcome;
mod pages;
mod retries;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::order::Lanes;
pub use self::order::MAX_PARKED;
use self::retries::Held;
use super::breaker::Breaker;
use super::interface::{Action, Input};
use super::rate::Bucket;
use super::schedule::MAX_WAITS;
use super::window::Window;
use super::{Delivery, DeliveryId, LastFailure, Limits, Retry, SubscriptionId, Timestamp, invariants};

/// Most deliveries that wait in memory for their first attempt. Deep enough that a fast receiver never waits for a
/// page, small enough that a thousand stuck subscriptions fit in memory.
pub const MAX_READY: usize = 256;
/// Most retries that are kept in memory; the rest are read again when these are done.
pub const MAX_RETRIES_HELD: usize = 512;
/// Payload that one subscription holds in memory before it leaves the rest to the store: a receiver of large bodies that
/// hangs must not take the memory of the others. One delivery is always let in, however large.
pub const MAX_HELD_BYTES: usize = 4 * 1024 * 1024;
/// Places that the queues of a busy subscription keep while they are empty.
const KEPT: usize = 4;
/// How long to wait before asking a store again that could not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How far an attempt is.
#[derive(Debug)]
enum Stage {
    Sending,
    /// It has ended, and its log row is on its way to the store, with its next attempt if there will be one.
    Recording(Option<Box<Retry>>),
}

#[derive(Debug)]
struct InFlight {
    number: u32,
    bytes: usize,
    ordering_key: Option<Arc<str>>,
    event_type: Option<Arc<str>>,
    stage: Stage,
    /// Of the window and of the breaker, when it started.
    round: u32,
    epoch: u32,
    /// It ends without an attempt, and takes no place in the window.
    given_up: bool,
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
    retries: BTreeMap<(Timestamp, DeliveryId), Held>,
    retries_beyond: bool,
    retries_loading: bool,
    /// What is being read was asked for before the store's retries were changed.
    retries_outdated: bool,
    retries_not_before: Timestamp,
    /// Their turn has come, and their payloads are asked for.
    loading: BTreeMap<DeliveryId, Held>,
    /// Their turn has come, with their payloads. They wait for a place in the window.
    due: VecDeque<(Delivery, u32)>,

    in_flight: BTreeMap<DeliveryId, InFlight>,
    /// Those among `in_flight` that end without an attempt.
    giving_up: usize,
    /// Payload in `ready`, `due`, `in_flight` and parked.
    held_bytes: usize,
    /// Never attempted before: in flight, parked, or on the way from there.
    untried: BTreeSet<DeliveryId>,

    window: Window,
    breaker: Breaker,
    bucket: Bucket,
    /// The receiver asked for quiet until then.
    held_until: Timestamp,
    /// `None` when nothing waits for anything.
    lanes: Option<Box<Lanes>>,
    failing_since: Option<Timestamp>,
    /// Whether the store knows of it.
    failing_saved: bool,
    last_failure: Option<Box<LastFailure>>,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine that waits for [`Input::Started`].
    pub fn new(subscription_id: SubscriptionId, limits: Limits, enabled: bool) -> Self {
        Self {
            subscription_id,
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
            retries_outdated: false,
            retries_not_before: Timestamp::default(),
            loading: BTreeMap::new(),
            due: VecDeque::new(),
            in_flight: BTreeMap::new(),
            giving_up: 0,
            held_bytes: 0,
            untried: BTreeSet::new(),
            window: Window::new(limits.max_concurrency),
            breaker: Breaker::closed(),
            bucket: Bucket::default(),
            held_until: Timestamp::default(),
            lanes: Lanes::of(limits.order),
            failing_since: None,
            failing_saved: false,
            last_failure: None,
            actions: VecDeque::new(),
            limits,
        }
    }

    /// Takes an input in at `now`. Read the actions afterwards.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Started { cursor, behind, retries, all_retries, failing_since } => {
                self.cursor = cursor;
                self.behind = behind;
                self.page_loading = false;
                self.failing_since = failing_since.map(|since| since.min(now));
                self.failing_saved = failing_since.is_some();
                // The last one may have spent the burst.
                self.start_bucket_over(now);
                self.start_carefully(!retries.is_empty());
                self.take_retries(now, retries, all_retries);
            }
            // While behind, what comes in memory comes too early: it is above the cursor and will be read in its turn.
            Input::Accepted(_) if self.behind => {}
            Input::Accepted(delivery) => self.take_ready(delivery),
            Input::FellBehind => self.behind = true,
            Input::Page { deliveries, caught_up } => self.take_page(deliveries, caught_up),
            Input::PageUnavailable => {
                self.page_loading = false;
                self.page_not_before = now + STORE_RETRY;
            }
            Input::Retries { retries, all } => {
                self.retries_loading = false;
                if std::mem::take(&mut self.retries_outdated) {
                    self.leave_retries_to_the_store();
                } else {
                    self.take_retries(now, retries, all);
                }
            }
            Input::RetriesUnavailable => {
                self.retries_loading = false;
                self.leave_retries_to_the_store();
                self.retries_not_before = now + STORE_RETRY;
            }
            Input::Payloads { asked, found } => self.take_payloads(now, &asked, found),
            Input::PayloadsUnavailable(asked) => self.postpone(now, &asked),
            Input::Attempted { id, result, stale } => self.attempted(now, id, result, stale),
            Input::NotSent(id) => self.not_sent(now, id),
            Input::Recorded(id) => self.recorded(id),
            Input::Woken => {}
            Input::Configured { enabled, limits } => self.configure(now, enabled, *limits),
            Input::Deleted => {
                self.deleted = true;
                self.shed(now);
                self.retries.clear();
                self.forget_parked();
            }
            Input::Draining => {
                self.draining = true;
                self.shed(now);
            }
        }
        self.advance(now);
        self.release();
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
        let page = self.must_load_page().then_some(self.page_not_before);
        let retries = self.must_load_retries().then_some(self.retries_not_before);
        [self.next_start(), self.next_load(), page, retries].into_iter().flatten().min()
    }

    /// Deliveries that wait in memory for their first attempt, with their payloads.
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
    /// not find in the store by itself. A disabled subscription's backlog waits in the store, below its position. An open
    /// breaker is forgotten with the rest: it starts carefully again.
    pub fn is_idle(&self, horizon: Timestamp) -> bool {
        let backlog = self.behind || !self.ready.is_empty() || !self.untried.is_empty();
        let due = self.lanes.as_ref().is_some_and(|lanes| lanes.parked_retries() > 0);
        let soon = due || self.retries.keys().next().is_some_and(|(at, _)| *at < horizon);
        !self.is_busy()
            && !self.page_loading
            && !self.retries_loading
            && self.loading.is_empty()
            && self.due.is_empty()
            && (!self.enabled || !(backlog || soon))
    }

    /// Whether the subscription is enabled.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the subscription was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    fn configure(&mut self, now: Timestamp, enabled: bool, limits: Limits) {
        let before = std::mem::replace(&mut self.limits, limits);
        let enabled_again = !std::mem::replace(&mut self.enabled, enabled) && enabled;
        self.window.limit(self.limits.max_concurrency);
        if before.rate != self.limits.rate {
            // What it owes is counted in the old rate's intervals.
            self.bucket = Bucket::default();
            self.start_bucket_over(now);
        }
        if !enabled {
            self.shed(now);
        }
        // The store has made the retries due that are to be dropped.
        if before.order != self.limits.order || before.drop_through < self.limits.drop_through {
            self.read_again(now);
        }
        if enabled_again {
            self.start_over(now);
        } else {
            self.breaker.probe_now(now);
        }
    }

    /// Somebody enabled it, and believes in the receiver: what was before does not count.
    fn start_over(&mut self, now: Timestamp) {
        self.window.close_down();
        self.breaker.start_over();
        self.start_bucket_over(now);
        self.held_until = Timestamp::default();
        self.end_failing();
    }

    /// Of a receiver that failed when it was last tried, nothing but that is known any more: it gets one attempt at a time,
    /// and one that has failed for long gets a probe.
    fn start_carefully(&mut self, has_retries: bool) {
        if self.failing_since.is_some() {
            self.breaker.start_half_open();
        }
        if has_retries || self.failing_since.is_some() {
            self.window.close_down();
        }
    }

    fn start_bucket_over(&mut self, now: Timestamp) {
        if let Some(rate) = self.limits.rate {
            self.bucket.start_over(now, rate);
        }
    }

    fn may_start(&self) -> bool {
        self.enabled && !self.deleted && !self.draining
    }

    /// Attempts under way or not yet logged.
    fn under_way(&self) -> usize {
        self.in_flight.len() - self.giving_up
    }

    /// Free places in the window. Whatever is loading or due holds its own.
    fn room(&self) -> usize {
        self.window.size().saturating_sub(self.under_way() + self.due.len() + self.loading.len())
    }

    /// When the receiver may be disturbed again; `None` while the breaker's probe is under way.
    fn calm_until(&self) -> Option<Timestamp> {
        Some(self.breaker.admits_at()?.max(self.held_until))
    }

    /// Likewise, and the rate limit allows it.
    fn admits_at(&self) -> Option<Timestamp> {
        let rate = self.limits.rate.map_or(Timestamp::default(), |rate| self.bucket.next(rate));
        Some(self.calm_until()?.max(rate))
    }

    /// When the next attempt starts of what waits with its payload.
    fn next_start(&self) -> Option<Timestamp> {
        let due = !self.due.is_empty() && self.under_way() < self.window.size();
        let first = self.room() > 0 && self.ready.front().is_some_and(|delivery| self.place(delivery) != Place::Stop);
        if due || first { self.admits_at() } else { None }
    }

    /// Starts what may start, and asks the store for what is missing.
    fn advance(&mut self, now: Timestamp) {
        if !self.may_start() {
            return;
        }
        self.end_what_is_over(now);
        loop {
            self.load_due(now);
            let Some((delivery, number)) = self.next(now) else { break };
            if let Some(why) = self.is_over(now, delivery.id) {
                self.give_up(now, delivery, number, why);
            } else {
                self.start(now, delivery, number);
            }
        }
        self.trim_ready();
        if self.must_load_page() && now >= self.page_not_before {
            self.page_loading = true;
            self.page_after = self.cursor;
            let limit = self.ready_limit() - self.ready.len();
            self.actions.push_back(Action::LoadPage { after: self.cursor, limit });
        }
        if self.must_load_retries() && now >= self.retries_not_before {
            self.retries_loading = true;
            // Set again by one that has to be left to the store meanwhile.
            self.retries_beyond = false;
            self.actions.push_back(Action::LoadRetries);
        }
    }

    /// An idle subscription keeps no buffers: ten thousand of them are in memory. A busy one keeps small ones, so that not
    /// every delivery makes them anew.
    fn release(&mut self) {
        let kept = if self.is_busy() { KEPT } else { 0 };
        release(&mut self.ready, kept);
        release(&mut self.due, kept);
        release(&mut self.actions, kept);
        if !self.is_busy() {
            // Empty maps keep their last node.
            self.in_flight = BTreeMap::new();
            if self.untried.is_empty() {
                self.untried = BTreeSet::new();
            }
        }
    }

    /// The next delivery whose attempt may start. Those that are due were accepted earlier, and hold their places already.
    fn next(&mut self, now: Timestamp) -> Option<(Delivery, u32)> {
        if self.under_way() >= self.window.size() || self.admits_at().is_none_or(|at| at > now) {
            return None;
        }
        self.due.pop_front().or_else(|| self.next_first().map(|delivery| (delivery, 1)))
    }

    /// The next first attempt. Those before it whose keys are taken are parked: they must not hold it up.
    fn next_first(&mut self) -> Option<Delivery> {
        while self.room() > 0 {
            match self.place(self.ready.front()?) {
                Place::Start => return self.ready.pop_front(),
                Place::Park => {
                    let delivery = self.ready.pop_front()?;
                    self.untried.insert(delivery.id);
                    if let Some(lanes) = &mut self.lanes {
                        self.held_bytes -= lanes.park_first(delivery);
                    }
                }
                Place::Stop => return None,
            }
        }
        None
    }

    fn place(&self, delivery: &Delivery) -> Place {
        let key = delivery.ordering_key.as_ref();
        match &self.lanes {
            Some(lanes) if lanes.applies_to(key) => match lanes.is_free(key) && self.knows_its_lanes(lanes) {
                true => Place::Start,
                false if lanes.is_single() || lanes.parked_first() >= MAX_PARKED => Place::Stop,
                false => Place::Park,
            },
            _ => Place::Start,
        }
    }

    /// Whether a lane of which nothing is known is free: no retry is in the store only. So that this stays so, no more
    /// lanes are taken than retries can be held.
    fn knows_its_lanes(&self, lanes: &Lanes) -> bool {
        !self.retries_beyond && !self.retries_loading && lanes.taken() < MAX_RETRIES_HELD
    }

    fn start(&mut self, now: Timestamp, delivery: Delivery, number: u32) {
        self.breaker.started(delivery.id);
        if let Some(rate) = self.limits.rate {
            self.bucket.take(now, rate);
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.begin(delivery.ordering_key.as_ref(), delivery.id);
        }
        self.enter(&delivery, number, Stage::Sending);
        self.assert_invariants(&delivery, number);
        self.actions.push_back(Action::Attempt { delivery, number });
    }

    fn enter(&mut self, delivery: &Delivery, number: u32, stage: Stage) {
        if number == 1 {
            self.untried.insert(delivery.id);
        }
        let flight = InFlight {
            number,
            bytes: delivery.payload.len(),
            ordering_key: delivery.ordering_key.clone(),
            event_type: delivery.event_type.clone(),
            given_up: matches!(stage, Stage::Recording(_)),
            stage,
            round: self.window.round(),
            epoch: self.breaker.epoch(),
        };
        let before = self.in_flight.insert(delivery.id, flight);
        debug_assert_eq!(invariants::one_attempt_at_a_time(delivery.id, before.is_some()), Ok(()));
    }

    fn assert_invariants(&self, started: &Delivery, number: u32) {
        let (of, most) = (self.subscription_id, self.limits.max_concurrency);
        debug_assert_eq!(invariants::the_window_is_kept(of, self.under_way(), most), Ok(()));
        // The schedule may have been another when the retry was planned.
        debug_assert_eq!(invariants::attempts_stay_within_the_schedule(started.id, number, MAX_WAITS), Ok(()));
    }
}

/// Where a first attempt stands in the order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It waits for nobody.
    Start,
    /// Others need not wait for it.
    Park,
    /// Nobody overtakes it.
    Stop,
}

fn release<T>(queue: &mut VecDeque<T>, kept: usize) {
    if queue.is_empty() && queue.capacity() > kept * 2 {
        queue.shrink_to(kept);
    }
}

#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
mod tests;
