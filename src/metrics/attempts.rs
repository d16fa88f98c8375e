//! The ways in which an attempt can end, few enough to be seen at a glance.

use prometheus_client::metrics::counter::Counter;

use super::Counters;
use crate::delivery::{AttemptClass, AttemptResult};

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
        match (result.class, result.http_status) {
            _ if result.succeeded() => &self.success,
            (_, Some(400..=499)) => &self.http_4xx,
            (_, Some(500..=599)) => &self.http_5xx,
            (AttemptClass::Timeout, _) => &self.timeout,
            (AttemptClass::Resolve | AttemptClass::Connect | AttemptClass::Tls, _) => &self.connect,
            _ => &self.other,
        }
    }
}
