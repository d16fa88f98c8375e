//! What an operator may ask of a subscription's machine: how it is, and why a delivery has not been sent yet.

use serde::Serialize;

use super::{DeliveryId, Timestamp};

/// A subscription's machine at one moment, as `GET /subscriptions/{id}/state` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How many attempts may be under way now.
    pub window: usize,
    /// Most that the window may become.
    pub max_concurrency: usize,
    /// Attempts under way, or not yet logged.
    pub in_flight: usize,
    /// The breaker's position.
    pub breaker: BreakerState,
    /// When an open breaker lets the next probe through.
    pub breaker_until: Option<Timestamp>,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Attempts that the rate limit would allow at this moment; `None` without a limit.
    pub tokens: Option<u32>,
    /// Until when the receiver asked for quiet with `Retry-After`.
    pub held_until: Option<Timestamp>,
    /// Deliveries in memory that wait for their first attempt.
    pub ready: usize,
    /// Retries in memory that wait for their time or their turn.
    pub retries: usize,
    /// Whether there may be more of either in the store only.
    pub more_in_store: bool,
    /// Ordering keys (or, with `fifo`, the one queue) that wait for a delivery that failed.
    pub blocked_keys: usize,
    /// When the oldest delivery that is not yet finished, and could be attempted by now, was accepted or became due.
    pub oldest_due: Option<Timestamp>,
    /// When it wakes up next, if nothing happens before.
    pub next_wakeup: Option<Timestamp>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// The last attempt that failed.
    pub last_failure: Option<LastFailure>,
}

/// A machine at one moment, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// How many attempts may be under way now.
    pub window: usize,
    /// The breaker's position.
    pub breaker: BreakerState,
    /// When the oldest delivery in memory that was never attempted, or is for the first time, was accepted.
    pub oldest_untried: Option<Timestamp>,
    /// When the first retry in memory has its time.
    pub next_retry: Option<Timestamp>,
}

impl Default for Glance {
    /// Of a machine that has not started.
    fn default() -> Self {
        Self { window: 0, breaker: BreakerState::Closed, oldest_untried: None, next_retry: None }
    }
}

impl Glance {
    /// Since when something could have been attempted.
    pub fn oldest_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.oldest_untried.into_iter().chain(self.next_retry.filter(|at| *at <= now)).min()
    }
}

/// The last attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastFailure {
    /// Of this delivery.
    pub delivery_id: DeliveryId,
    /// When it ended.
    pub at: Timestamp,
    /// What went wrong, for people.
    pub error_details: String,
}

/// A breaker's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Attempts are made.
    Closed,
    /// None is made.
    Open,
    /// One is made, to find out.
    HalfOpen,
    /// The probe came through: attempts are made, a few at first, and one failure opens it again.
    Recovering,
}

/// What an unfinished delivery waits for. Of several reasons, the one that would hold it the longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: an attempt is under way.
    InFlight {
        /// 1 for the first.
        attempt: u32,
    },
    /// Nothing: its last attempt has ended and is being logged.
    Recording {
        /// 1 for the first.
        attempt: u32,
    },
    /// The subscription is disabled.
    Disabled,
    /// The process is stopping.
    Draining,
    /// Its next attempt has its time.
    Retry {
        /// When it is due.
        at: Timestamp,
        /// The number that it will have.
        attempt: u32,
    },
    /// An earlier delivery of its ordering key, or of the subscription with `fifo`.
    Order {
        /// The delivery that has to end first.
        behind: DeliveryId,
    },
    /// The breaker is open.
    Breaker {
        /// When the next probe is let through.
        until: Timestamp,
    },
    /// The breaker's one probe, which is under way.
    Probe,
    /// The receiver asked for quiet.
    Held {
        /// Until then.
        until: Timestamp,
    },
    /// The rate limit.
    Rate {
        /// When the next attempt is allowed.
        at: Timestamp,
    },
    /// A place in the window.
    Window {
        /// How many attempts may be under way.
        size: usize,
    },
    /// A place among the attempts of the node. The machine knows nothing of these: to it an attempt is under way.
    Node,
    /// Its turn: it is further back in the backlog.
    Backlog,
}
