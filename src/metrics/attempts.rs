//! The ways in which an attempt can end, few enough to be seen at a glance.

use prometheus_client::metrics::counter::Counter;

use super::Counters;
use crate::delivery::AttemptResult;

/// How `src/outbound/failure.rs` begins when the attempt's deadline passed, or the network's own.
const TIMED_OUT: [&str; 2] = ["timed out", "the network gave up"];
/// What it says when there was no connection to send anything over.
const NOT_CONNECTED: [&str; 5] =
    ["connection refused", "could not connect", "could not be resolved", "there is no route", "TLS with"];

/// A counter for each.
#[derive(Debug)]
pub(super) struct Attempts {
    success: Counter,
    http_4xx: Counter,
    http_5xx: Counter,
    timeout: Counter,
    connect: Counter,
    other: Counter,
}

impl Attempts {
    pub fn new(counters: &Counters) -> Self {
        let class = |name| counters.get_or_create_owned(&[("class", name)]);
        Self {
            success: class("success"),
            http_4xx: class("http_4xx"),
            http_5xx: class("http_5xx"),
            timeout: class("timeout"),
            connect: class("connect"),
            other: class("other"),
        }
    }

    /// The one to which this result adds.
    pub fn of(&self, result: &AttemptResult) -> &Counter {
        let error = result.error_details.as_deref().unwrap_or_default();
        match result.http_status {
            _ if result.succeeded() => &self.success,
            Some(400..=499) => &self.http_4xx,
            Some(500..=599) => &self.http_5xx,
            _ if TIMED_OUT.iter().any(|words| error.starts_with(words)) => &self.timeout,
            None if NOT_CONNECTED.iter().any(|words| error.contains(words)) => &self.connect,
            _ => &self.other,
        }
    }
}
