//! What is so at the moment of a scrape: looked for then, and not counted along the way.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{Atomic, Gauge};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Label, add};
use crate::delivery::BreakerState;

/// Windows are counted by size, up to each of these and beyond the last.
pub const WINDOW_BOUNDS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const WINDOW_LABELS: [&str; 7] = ["1", "2", "4", "8", "16", "32", "more"];
/// In the order of [`breaker_index`].
const BREAKER_LABELS: [&str; 4] = ["closed", "open", "half_open", "recovering"];

/// What is so at one moment. On standby nearly nothing is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Whether this process delivers from the store.
    pub owner: bool,
    /// Whether events are accepted.
    pub ready: bool,
    /// Whether the store answers reads and takes commits.
    pub store_up: bool,
    /// Whether Redis answers, or none is configured.
    pub redis_up: bool,
    /// Subscriptions with an actor.
    pub active: usize,
    /// Breakers by position.
    pub breakers: [u64; 4],
    /// Windows by size.
    pub windows: [u64; 7],
    /// Unfinished deliveries of those.
    pub backlog: u64,
    /// Those whose backlog is full.
    pub full: u64,
    /// What waits in the store for its next attempt.
    pub retries_waiting: u64,
    /// How long the oldest delivery has been due.
    pub oldest_due: Duration,
    /// How long ago the store was asked what waits there.
    pub census_age: Duration,
    /// Places of attempts: taken, and all.
    pub attempts: (usize, usize),
    /// Bytes of payloads in memory: held, and most.
    pub payload_bytes: (usize, usize),
    /// Events that wait for their commit, and most of them.
    pub submissions: (usize, usize),
}

impl Live {
    /// Counts a subscription's breaker and window.
    pub fn count(&mut self, breaker: BreakerState, window: usize) {
        self.breakers[breaker_index(breaker)] += 1;
        self.windows[WINDOW_BOUNDS.iter().take_while(|bound| window > **bound).count()] += 1;
    }
}

fn breaker_index(state: BreakerState) -> usize {
    match state {
        BreakerState::Closed => 0,
        BreakerState::Open => 1,
        BreakerState::HalfOpen => 2,
        BreakerState::Recovering => 3,
    }
}

type Labelled = Family<Label, Gauge>;

/// The gauges that show it.
#[derive(Debug)]
pub(super) struct Gauges {
    owner: Gauge,
    ready: Gauge,
    store_up: Gauge,
    redis_up: Gauge,
    active: Gauge,
    breakers: [Gauge; 4],
    windows: [Gauge; 7],
    backlog: Gauge,
    full: Gauge,
    retries_waiting: Gauge,
    oldest_due: Gauge<f64, AtomicU64>,
    census_age: Gauge<f64, AtomicU64>,
    attempts: [Gauge; 2],
    payload_bytes: [Gauge; 2],
    submissions: [Gauge; 2],
}

impl Gauges {
    pub fn new(r: &mut Registry) -> Self {
        let breakers =
            add(r, "breakers", "Subscriptions with an actor, by the position of their breaker", Labelled::default());
        let windows = "Subscriptions with an actor, by how many attempts they may have under way: up to the label size";
        let windows = add(r, "windows", windows, Labelled::default());
        let payload = "Bytes of payloads in memory";
        let oldest_due = Gauge::default();
        let due = "Time since when the oldest unfinished delivery of an enabled subscription could have been attempted";
        r.register_with_unit("oldest_due_age", due, Unit::Seconds, oldest_due.clone());
        let census_age = Gauge::default();
        let looked = "Time since the store was last asked what waits there";
        r.register_with_unit("census_age", looked, Unit::Seconds, census_age.clone());
        Self {
            owner: add(
                r,
                "owner",
                "Whether this process delivers from the store, and is not on standby",
                Gauge::default(),
            ),
            ready: add(r, "ready", "Whether this process accepts events, as /readyz says", Gauge::default()),
            store_up: add(r, "store_up", "Whether the store answers and takes commits", Gauge::default()),
            redis_up: add(r, "redis_up", "Whether Redis answers; 1 where none is configured", Gauge::default()),
            active: add(r, "actors_active", "Subscriptions with an actor", Gauge::default()),
            breakers: BREAKER_LABELS.map(|name| breakers.get_or_create_owned(&[("state", name)])),
            windows: WINDOW_LABELS.map(|name| windows.get_or_create_owned(&[("size", name)])),
            backlog: add(r, "backlog", "Unfinished deliveries of subscriptions with an actor", Gauge::default()),
            full: add(
                r,
                "backlogs_full",
                "Subscriptions whose backlog is full, so that their events are refused",
                Gauge::default(),
            ),
            retries_waiting: add(
                r,
                "retries_waiting",
                "Deliveries in the store that wait for another attempt, counted up to a million",
                Gauge::default(),
            ),
            oldest_due,
            census_age,
            attempts: [
                add(r, "attempts_in_flight", "Attempts that are under way or not yet logged", Gauge::default()),
                add(r, "attempts_limit", "Most attempts that may be under way or not yet logged", Gauge::default()),
            ],
            payload_bytes: [
                bytes(r, "payload", payload),
                bytes(r, "payload_limit", "Most bytes of payloads in memory"),
            ],
            submissions: [
                add(r, "submissions_waiting", "Events that wait for their commit", Gauge::default()),
                add(r, "submissions_limit", "Most events that may wait for their commit", Gauge::default()),
            ],
        }
    }

    pub fn set(&self, live: &Live) {
        for (gauge, yes) in [
            (&self.owner, live.owner),
            (&self.ready, live.ready),
            (&self.store_up, live.store_up),
            (&self.redis_up, live.redis_up),
        ] {
            gauge.set(yes.into());
        }
        for (gauge, count) in self.breakers.iter().chain(&self.windows).zip(live.breakers.iter().chain(&live.windows)) {
            set(gauge, *count);
        }
        for (gauge, count) in
            [(&self.backlog, live.backlog), (&self.full, live.full), (&self.retries_waiting, live.retries_waiting)]
        {
            set(gauge, count);
        }
        for ([held, most], (is, limit)) in [
            (&self.attempts, live.attempts),
            (&self.payload_bytes, live.payload_bytes),
            (&self.submissions, live.submissions),
        ] {
            set(held, is as u64);
            set(most, limit as u64);
        }
        set(&self.active, live.active as u64);
        Atomic::set(self.oldest_due.inner(), live.oldest_due.as_secs_f64());
        Atomic::set(self.census_age.inner(), live.census_age.as_secs_f64());
    }
}

fn set(gauge: &Gauge, count: u64) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

fn bytes(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
    gauge
}
