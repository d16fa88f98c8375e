//! What a subscription's owner may decide about its delivery, and what follows from it for the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DeliveryId, RetrySchedule};

/// Each `None` leaves it to the node's default. Stored as JSON with the subscription; checked before it is stored.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Most attempts under way or not yet logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// An answer that takes longer does not let the window grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_target_ms: Option<u64>,
    /// Attempts a second; `None` is as many as the window allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Waits between attempts, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_schedule_s: Option<Vec<u64>>,
    /// The deadline of a whole attempt, answer included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt_timeout_ms: Option<u64>,
    /// What has to wait for what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Most unfinished deliveries; at the limit new events are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_backlog: Option<u64>,
    /// It is disabled when every attempt has failed for this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_after_s: Option<u64>,
    /// When the breaker opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSettings>,
    /// `POST`, `PUT` or `PATCH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Sent with every attempt. May hold credentials: shown by name only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Settings {
    /// The names of those that are others than in `other`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |settings: &Self| match serde_json::to_value(settings) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (own, others) = (fields(self), fields(other));
        let named: BTreeSet<_> = own.keys().chain(others.keys()).collect();
        named.into_iter().filter(|name| own.get(*name) != others.get(*name)).cloned().collect()
    }
}

/// Of headers the names: their values may be credentials.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Self { headers: BTreeMap::new(), ..self.clone() };
        let text = serde_json::to_string(&shown).map_err(|_| fmt::Error)?;
        write!(f, "Settings({text}, headers: {:?})", self.headers.keys())
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Attempts a second.
    pub per_second: u32,
    /// Most attempts at once after an idle time; a tenth of a second's worth, and at least one, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// When the breaker opens. Each `None` is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerSettings {
    /// Failures in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// Failures among the last attempts, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_rate_percent: Option<u32>,
    /// The first wait of an open breaker; it doubles with every probe that fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// What has to wait for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Nothing: a delivery that fails does not hold up the others.
    #[default]
    Unordered,
    /// One at a time in the order of acceptance. One that fails holds up all others until it ends.
    Fifo,
    /// Likewise, among those with the same ordering key. Those without one are unordered.
    OrderingKey,
}

/// What the node does for a subscription that says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Waits between attempts.
    pub schedule: RetrySchedule,
    /// The deadline of a whole attempt, answer included.
    pub attempt_timeout: Duration,
    /// How long deliveries are kept.
    pub retention: Duration,
}

/// What a subscription may do, as far as the machine is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Waits between attempts.
    pub schedule: RetrySchedule,
    /// Most attempts under way or not yet logged.
    pub max_concurrency: usize,
    /// A success that took longer does not let the window grow.
    pub latency_target: Duration,
    /// Attempts a second, and at once.
    pub rate: Option<Rate>,
    /// What has to wait for what.
    pub order: Order,
    /// When the breaker opens.
    pub breaker: BreakerLimits,
    /// Longest `Retry-After` that is honoured.
    pub max_retry_after: Duration,
    /// A delivery that is older is the janitor's: no attempt is made any more.
    pub retention: Duration,
    /// The subscription is disabled when every attempt has failed for this long.
    pub disable_after: Duration,
    /// Deliveries up to this one were given up by hand: they end as failures, without an attempt.
    pub drop_through: Option<DeliveryId>,
}

/// See [`RateLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Attempts a second; at least 1.
    pub per_second: u32,
    /// Attempts at once; at least 1.
    pub burst: u32,
}

/// See [`BreakerSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// Failures among the last attempts that open it, in percent.
    pub failure_rate_percent: u32,
    /// The first wait of an open breaker.
    pub wait: Duration,
}

/// Longest `Retry-After` that is honoured: an hour is patience, a day is a receiver that forgot us.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Attempts under way, unless the subscription says otherwise: enough to fill a link to the other side of the world.
pub const DEFAULT_MAX_CONCURRENCY: u32 = 32;
/// Slower than this, a receiver has no use for more at once.
pub const DEFAULT_LATENCY_TARGET_MS: u64 = 1000;
/// Unfinished deliveries, unless the subscription says otherwise: some hours of a busy receiver.
pub const DEFAULT_MAX_BACKLOG: u64 = 1_000_000;
/// Long enough for a holiday weekend to end.
pub const DEFAULT_DISABLE_AFTER_S: u64 = 5 * 24 * 3600;
/// Failures in a row that say more than bad luck.
pub const DEFAULT_CONSECUTIVE_FAILURES: u32 = 10;
/// A receiver that fails every second time is not helped by more.
pub const DEFAULT_FAILURE_RATE_PERCENT: u32 = 50;
/// Of a restart of the receiver, say.
pub const DEFAULT_BREAKER_WAIT_MS: u64 = 5000;

impl Settings {
    /// What the machine keeps to.
    pub fn limits(&self, defaults: &Defaults, drop_through: Option<DeliveryId>) -> Limits {
        let breaker = self.breaker.unwrap_or_default();
        Limits {
            schedule: self.retry_schedule_s.as_deref().map_or_else(|| defaults.schedule.clone(), RetrySchedule::of_s),
            max_concurrency: self.max_concurrency.unwrap_or(DEFAULT_MAX_CONCURRENCY).max(1) as usize,
            latency_target: Duration::from_millis(self.latency_target_ms.unwrap_or(DEFAULT_LATENCY_TARGET_MS)),
            rate: self.rate_limit.map(RateLimit::rate),
            order: self.order.unwrap_or_default(),
            breaker: BreakerLimits {
                consecutive_failures: breaker.consecutive_failures.unwrap_or(DEFAULT_CONSECUTIVE_FAILURES).max(1),
                failure_rate_percent: breaker.failure_rate_percent.unwrap_or(DEFAULT_FAILURE_RATE_PERCENT),
                wait: Duration::from_millis(breaker.wait_ms.unwrap_or(DEFAULT_BREAKER_WAIT_MS)),
            },
            max_retry_after: MAX_RETRY_AFTER,
            retention: defaults.retention,
            disable_after: Duration::from_secs(self.disable_after_s.unwrap_or(DEFAULT_DISABLE_AFTER_S)),
            drop_through,
        }
    }

    /// The deadline of a whole attempt.
    pub fn attempt_timeout(&self, defaults: &Defaults) -> Duration {
        self.attempt_timeout_ms.map_or(defaults.attempt_timeout, Duration::from_millis)
    }

    /// Most unfinished deliveries.
    pub fn max_backlog(&self) -> u64 {
        self.max_backlog.unwrap_or(DEFAULT_MAX_BACKLOG)
    }
}

impl RateLimit {
    /// With the default filled in.
    pub fn rate(self) -> Rate {
        let per_second = self.per_second.max(1);
        Rate { per_second, burst: self.burst.unwrap_or(per_second / 10).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_names_of_headers_and_no_value() {
        let headers = BTreeMap::from([("authorization".to_owned(), "hunter2".to_owned())]);
        let shown = format!("{:?}", Settings { max_concurrency: Some(3), headers, ..Settings::default() });
        assert!(shown.contains("authorization") && shown.contains("\"max_concurrency\":3"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
