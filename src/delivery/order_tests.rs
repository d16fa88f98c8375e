//! The machine over a model of the store and of the receiver, with faults that are drawn from a seed and then stop: order
//! holds, nothing is lost, nothing is attempted twice at once, and no limit is exceeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::*;

const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);
const SEEDS: u64 = 400;
const DELIVERIES: u128 = 60;
/// Faults stop after this.
const FAULTS: Duration = Duration::from_secs(40);
/// Retries that the model's store answers with at once: few, so that some are always beyond.
const RETRIES: usize = 8;
const MAX_STEPS: usize = 40_000;

struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }

    fn ms(&mut self, below: u64) -> Duration {
        Duration::from_millis(1 + self.next(below))
    }
}

/// A delivery as the store has it.
struct Row {
    delivery: Delivery,
    tried: bool,
    ended: bool,
    retry: Option<(Timestamp, u32)>,
}

enum Event {
    Accept,
    Ends(DeliveryId),
    Durable,
    /// What was asked for, and the answer as it was then.
    Page(Vec<Delivery>, bool),
    Payloads(Vec<DeliveryId>, Vec<Delivery>),
    Retries(Vec<Retry>),
    Unavailable(Input),
    Crash,
    Configure,
}

struct World {
    seed: u64,
    chance: Chance,
    now: Timestamp,
    limits: Limits,
    changes_rules: bool,
    failing_percent: u64,
    machine: Machine,
    enabled: bool,
    rows: BTreeMap<DeliveryId, Row>,
    events: BTreeMap<(Timestamp, u64), Event>,
    events_made: u64,
    records: Vec<(DeliveryId, Outcome, RetryChange)>,
    recorded_at: Timestamp,
    /// The intake: whether deliveries come in memory, and what was committed while a page is read.
    behind: bool,
    tail: Option<Vec<Delivery>>,
    under_way: BTreeSet<DeliveryId>,
    starts: Vec<Timestamp>,
    /// By lane, in the order of their first success.
    received: BTreeMap<Option<Arc<str>>, Vec<DeliveryId>>,
    large: Bytes,
    settled: bool,
}

fn id(n: u128) -> DeliveryId {
    DeliveryId(Uuid::from_u128(n << 64))
}

impl World {
    fn new(seed: u64, order: Order, changes_rules: bool, large: Bytes) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Near seeds begin alike.
        for _ in 0..8 {
            chance.next(2);
        }
        let defaults = Defaults {
            schedule: "1s,2s,4s,8s".parse().expect("a schedule"),
            attempt_timeout: Duration::from_secs(2),
            retention: Duration::MAX,
        };
        let mut limits = Settings { order: Some(order), ..Settings::default() }.limits(&defaults, None);
        limits.max_concurrency = 1 + usize::try_from(chance.next(12)).expect("small");
        limits.breaker.wait = Duration::from_secs(1);
        if chance.percent(50) {
            let per_second = 5 + u32::try_from(chance.next(50)).expect("small");
            limits.rate = Some(Rate { per_second, burst: 1 + per_second / 10 });
        }
        let now = Timestamp(1_000_000);
        let failing_percent = chance.next(80);
        let mut world = Self {
            seed,
            now,
            changes_rules,
            failing_percent,
            machine: Machine::new(SUBSCRIPTION, limits.clone(), true),
            limits,
            enabled: true,
            rows: BTreeMap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            records: Vec::new(),
            recorded_at: now,
            behind: true,
            tail: None,
            under_way: BTreeSet::new(),
            starts: Vec::new(),
            received: BTreeMap::new(),
            large,
            settled: false,
            chance,
        };
        for _ in 0..DELIVERIES {
            let wait = world.chance.ms(20_000);
            world.plan(wait, Event::Accept);
        }
        for _ in 0..world.chance.next(5) {
            let wait = world.chance.ms(40_000);
            world.plan(wait, Event::Crash);
        }
        for _ in 0..world.chance.next(6) {
            let wait = world.chance.ms(40_000);
            world.plan(wait, Event::Configure);
        }
        world.start();
        world
    }

    fn faulty(&self) -> bool {
        self.now.since(Timestamp(1_000_000)) < FAULTS
    }

    fn plan(&mut self, wait: Duration, event: Event) {
        self.events_made += 1;
        self.events.insert((self.now + wait, self.events_made), event);
    }

    fn start(&mut self) {
        self.machine = Machine::new(SUBSCRIPTION, self.limits.clone(), self.enabled);
        self.behind = true;
        self.tail = None;
        self.starts.clear();
        let untried = self.rows.iter().find(|(_, row)| !row.tried).map(|(id, _)| id.predecessor());
        let through = untried.or(self.rows.keys().last().copied()).unwrap_or(DeliveryId::MIN);
        // A lower bound.
        let cursor =
            DeliveryId(Uuid::from_u128(through.0.as_u128().saturating_sub(u128::from(self.chance.next(3)) << 64)));
        let retries = self.retries();
        let all_retries = retries.len() < RETRIES;
        self.give(Input::Started { cursor, behind: true, retries, all_retries, failing_since: None });
    }

    fn retries(&self) -> Vec<Retry> {
        let waiting = self.rows.iter().filter_map(|(id, row)| row.retry.map(|(at, number)| (at, *id, number)));
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable();
        let retry = |(next_attempt_at, delivery_id, attempt_number)| Retry {
            delivery_id,
            subscription_id: SUBSCRIPTION,
            attempt_number,
            next_attempt_at,
            ordering_key: self.rows[&delivery_id].delivery.ordering_key.clone(),
        };
        waiting.into_iter().take(RETRIES).map(retry).collect()
    }

    fn give(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        let mut started = false;
        while let Some(action) = self.machine.poll_action() {
            started |= matches!(action, Action::Attempt { .. });
            self.perform(action);
        }
        let snapshot = self.machine.snapshot(self.now);
        if started && self.limits.drop_through.is_none() {
            assert!(snapshot.in_flight <= snapshot.window, "the window is exceeded: {snapshot:?}");
        }
        assert!(self.machine.held_bytes() <= MAX_HELD_BYTES * 2, "holds {}", self.machine.held_bytes());
    }

    fn perform(&mut self, action: Action) {
        let wait = self.chance.ms(20);
        let unavailable = self.faulty() && self.chance.percent(10);
        match action {
            Action::Attempt { delivery, number } => self.attempt(&delivery, number),
            Action::Record { id, outcome, retry, .. } => {
                self.records.push((id, outcome, retry));
                // One writer: in the order in which they were handed to it.
                self.recorded_at = self.recorded_at.max(self.now + wait);
                self.plan(self.recorded_at.since(self.now), Event::Durable);
            }
            Action::LoadPage { .. } if unavailable => self.plan(wait, Event::Unavailable(Input::PageUnavailable)),
            Action::LoadPage { after, limit } => {
                self.tail = Some(Vec::new());
                let untried = self.rows.range(after..).filter(|(id, row)| **id > after && !row.tried);
                let mut page: Vec<_> = untried.map(|(_, row)| row.delivery.clone()).collect();
                let limit = limit.min(1 + usize::try_from(self.chance.next(20)).expect("small"));
                // As in the store, no more than a page's bytes, but always one.
                let mut bytes = 0;
                let fits = page.iter().enumerate().take_while(|(n, delivery)| {
                    bytes += delivery.payload.len();
                    *n < limit && (*n == 0 || bytes <= MAX_HELD_BYTES / 2)
                });
                let fits = fits.count();
                let complete = page.len() <= fits;
                page.truncate(fits);
                self.plan(wait, Event::Page(page, complete));
            }
            Action::LoadRetries if unavailable => self.plan(wait, Event::Unavailable(Input::RetriesUnavailable)),
            Action::LoadRetries => {
                let retries = self.retries();
                self.plan(wait, Event::Retries(retries));
            }
            Action::LoadPayloads(ids) if unavailable => {
                self.plan(wait, Event::Unavailable(Input::PayloadsUnavailable(ids)));
            }
            Action::LoadPayloads(ids) => {
                let found = ids.iter().map(|id| &self.rows[id]).filter(|row| !row.ended);
                let found = found.map(|row| row.delivery.clone()).collect();
                self.plan(wait, Event::Payloads(ids, found));
            }
            Action::FallBehind => (self.behind, self.tail) = (true, None),
            Action::SaveFailing(_) => {}
            Action::Disable(reason) => panic!("disabled: {reason:?}"),
        }
    }

    fn attempt(&mut self, delivery: &Delivery, number: u32) {
        let id = delivery.id;
        assert!(self.enabled, "attempted while disabled");
        assert!(self.under_way.insert(id), "{id} has two attempts under way");
        assert!(self.limits.drop_through.is_none_or(|through| id > through), "{id} was dropped");
        let row = &self.rows[&id];
        assert!(!row.ended, "{id} has ended");
        assert_eq!(row.retry.map_or(1, |(_, number)| number), number, "the number of the attempt at {id}");
        let lane = self.lane(id);
        if lane.is_some() && !self.changes_rules {
            let others = self.under_way.iter().filter(|other| self.lane(**other) == lane).count();
            assert_eq!(others, 1, "attempts under way in a lane");
        }
        self.starts.push(self.now);
        if let Some(rate) = self.limits.rate.filter(|_| !self.changes_rules) {
            let recent = self.starts.iter().filter(|at| self.now.since(**at) < Duration::from_secs(1)).count();
            assert!(recent <= (rate.per_second + rate.burst) as usize, "{recent} attempts within a second");
        }
        let latency = if self.faulty() { self.chance.ms(2000) } else { self.chance.ms(50) };
        self.plan(latency, Event::Ends(id));
    }

    fn lane(&self, id: DeliveryId) -> Option<Arc<str>> {
        match self.limits.order {
            Order::Unordered => None,
            Order::Fifo => Some(Arc::from("")),
            Order::OrderingKey => self.rows[&id].delivery.ordering_key.clone(),
        }
    }

    fn receive(&mut self, id: DeliveryId) {
        let lane = self.lane(id);
        let received = self.received.entry(lane.clone()).or_default();
        if !received.contains(&id) {
            if lane.is_some() && !self.changes_rules {
                assert!(received.last().is_none_or(|last| *last < id), "{id} was received out of order");
            }
            received.push(id);
        }
    }

    fn result(&mut self) -> AttemptResult {
        let fails = self.faulty() && self.chance.percent(self.failing_percent);
        let statuses = [Some(500), Some(503), Some(429), Some(404), None, None];
        let http_status =
            if fails { statuses[usize::try_from(self.chance.next(6)).expect("small")] } else { Some(200) };
        let asks = matches!(http_status, Some(429 | 503)) && self.chance.percent(50);
        AttemptResult {
            started_at: self.now,
            duration: self.chance.ms(2000),
            http_status,
            retry_after: asks.then(|| self.chance.ms(5000)),
            error_details: fails.then(|| "failed".to_owned()),
            class: if http_status.is_some() { AttemptClass::Answered } else { AttemptClass::Timeout },
            response_body: None,
        }
    }

    fn accept(&mut self) {
        let n = u128::try_from(self.rows.len()).expect("small") + 1;
        let keys = [None, Some("a"), Some("b"), Some("c")];
        let large = self.chance.percent(15);
        let delivery = Delivery {
            trace: None,
            id: id(n),
            subscription_id: SUBSCRIPTION,
            event_type: None,
            payload: if large { self.large.clone() } else { Bytes::from_static(b"{}") },
            event_id: None,
            resend_of: None,
            ordering_key: keys[usize::try_from(self.chance.next(4)).expect("small")].map(Arc::from),
        };
        self.rows.insert(id(n), Row { delivery: delivery.clone(), tried: false, ended: false, retry: None });
        if self.behind {
            if let Some(tail) = &mut self.tail {
                tail.push(delivery);
            }
        } else if self.chance.percent(10) || self.machine.held_bytes() + delivery.payload.len() > MAX_HELD_BYTES {
            self.behind = true;
            self.give(Input::FellBehind);
        } else {
            self.give(Input::Accepted(delivery));
        }
    }

    /// The first record that was handed to the writer becomes durable.
    fn make_durable(&mut self) -> DeliveryId {
        let (id, outcome, retry) = self.records.remove(0);
        let row = self.rows.get_mut(&id).expect("a delivery");
        row.tried = true;
        row.ended = outcome != Outcome::FailedAttempt;
        row.retry = match retry {
            RetryChange::Schedule(retry) => Some((retry.next_attempt_at, retry.attempt_number)),
            RetryChange::Settle => None,
            RetryChange::None => row.retry,
        };
        id
    }

    fn crash(&mut self) {
        for id in std::mem::take(&mut self.under_way) {
            if !self.records.iter().any(|record| record.0 == id) && self.chance.percent(30) {
                self.receive(id);
            }
        }
        for _ in 0..self.chance.next(u64::try_from(self.records.len()).expect("small") + 1) {
            self.make_durable();
        }
        self.records.clear();
        self.events.retain(|_, event| matches!(event, Event::Accept | Event::Crash | Event::Configure));
        self.start();
    }

    fn configure(&mut self) {
        self.enabled = !self.enabled;
        if self.changes_rules {
            let orders = [Order::Unordered, Order::Fifo, Order::OrderingKey];
            self.limits.order = orders[usize::try_from(self.chance.next(3)).expect("small")];
            if self.enabled && self.chance.percent(50) {
                self.limits.drop_through = self.rows.keys().last().copied();
                let now = self.now;
                self.rows.values_mut().filter_map(|row| row.retry.as_mut()).for_each(|retry| retry.0 = now);
            }
        }
        self.give(Input::Configured { enabled: self.enabled, limits: Box::new(self.limits.clone()) });
        if !self.enabled {
            let ends = self.events.iter().filter_map(|(at, event)| match event {
                Event::Ends(id) => Some((*at, *id)),
                _ => None,
            });
            for (at, id) in ends.collect::<Vec<_>>() {
                if self.chance.percent(50) {
                    self.events.remove(&at);
                    self.under_way.remove(&id);
                    self.give(Input::NotSent(id));
                }
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Accept => self.accept(),
            Event::Ends(id) => {
                let result = self.result();
                if result.succeeded() {
                    self.receive(id);
                }
                let stale = self.faulty() && self.chance.percent(5);
                self.give(Input::Attempted { id, result, stale });
            }
            Event::Durable => {
                let id = self.make_durable();
                self.under_way.remove(&id);
                self.give(Input::Recorded(id));
            }
            Event::Page(mut deliveries, complete) => {
                let mut caught_up = None;
                if let Some(tail) = self.tail.take().filter(|_| complete && self.machine.wants_page()) {
                    deliveries.extend(tail);
                    self.behind = false;
                    caught_up = self.rows.keys().last().copied().or(Some(DeliveryId::MIN));
                }
                self.give(Input::Page { deliveries, caught_up });
            }
            Event::Payloads(asked, found) => self.give(Input::Payloads { asked, found }),
            Event::Retries(retries) => self.give(Input::Retries { all: retries.len() < RETRIES, retries }),
            Event::Unavailable(input) => self.give(input),
            Event::Crash => self.crash(),
            Event::Configure => self.configure(),
        }
    }

    fn run(&mut self) {
        let mut vain = 0;
        for _ in 0..MAX_STEPS {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let deadline = self.machine.deadline();
            let next = [event, deadline].into_iter().flatten().min();
            if next.is_none() && !self.enabled {
                self.configure();
                continue;
            }
            let Some(at) = next else { return self.check() };
            vain = if at > self.now { 0 } else { vain + 1 };
            assert!(vain < 1000, "it is woken in vain: {:?}", self.machine.snapshot(self.now));
            // The timer may be late, and may go off once more.
            let late = if self.faulty() && self.chance.percent(20) { self.chance.ms(200) } else { Duration::ZERO };
            self.now = self.now.max(if event == Some(at) { at } else { at + late });
            if event == Some(at) {
                let Some((_, event)) = self.events.pop_first() else { return };
                self.happen(event);
            } else {
                self.give(Input::Woken);
            }
            if self.faulty() && self.chance.percent(10) {
                self.give(Input::Woken);
            }
            let untried = self.rows.iter().find(|(_, row)| !row.tried).map(|(id, _)| *id);
            let through = self.machine.tried_through();
            assert!(untried.is_none_or(|id| through < id), "{untried:?} is untried, but all up to {through} should be");
        }
        panic!("it does not settle: {:?}", self.machine.snapshot(self.now));
    }

    fn check(&mut self) {
        assert_eq!(u128::try_from(self.rows.len()), Ok(DELIVERIES));
        let left: Vec<_> = self.rows.iter().filter(|(_, row)| !row.ended).map(|(id, _)| *id).collect();
        let why = left.first().map(|id| self.machine.why(self.now, *id));
        assert!(left.is_empty(), "left: {left:?}, because of {why:?}: {:?}", self.machine.snapshot(self.now));
        assert_eq!(self.machine.held_bytes(), 0);
        assert!(self.machine.is_idle(Timestamp::MAX), "nothing is left, and it is not idle");
        self.settled = true;
    }
}

/// Names the seed of the world that failed.
impl Drop for World {
    fn drop(&mut self) {
        if !self.settled {
            eprintln!("seed {} ({:?}) at {:?}", self.seed, self.limits, self.now);
        }
    }
}

fn run(order: Order, changes_rules: bool) {
    let large = Bytes::from(vec![b' '; 900 * 1024]);
    (1..=SEEDS).for_each(|seed| World::new(seed, order, changes_rules, large.clone()).run());
}

#[test]
fn unordered_nothing_is_lost_or_attempted_twice_at_once() {
    run(Order::Unordered, false);
}

#[test]
fn with_fifo_first_successes_come_in_the_order_of_acceptance() {
    run(Order::Fifo, false);
}

#[test]
fn with_ordering_keys_first_successes_of_a_key_come_in_the_order_of_acceptance() {
    run(Order::OrderingKey, false);
}

#[test]
fn rules_that_change_and_backlogs_that_are_dropped_lose_nothing() {
    run(Order::OrderingKey, true);
}
