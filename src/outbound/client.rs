//! The one HTTP client: one attempt at one receiver, from the connection to the last byte of the answer that is kept.

use std::sync::Arc;
use std::time::Duration;

use super::guard::TargetPolicy;
use super::signing::SigningKeys;
use crate::delivery::{AttemptResult, Delivery, Timestamp};

/// Where a subscription's deliveries go, parsed once.
#[derive(Debug)]
pub struct Target {}

impl Target {
    /// Never fails: a URL that cannot be sent to makes every attempt a failure that says so.
    pub fn new(_url: &str) -> Self {
        todo!()
    }
}

/// One attempt to be made.
#[derive(Debug)]
pub struct AttemptRequest<'a> {
    /// Where it goes.
    pub target: &'a Target,
    /// Signs it, when the subscription has a secret.
    pub keys: Option<&'a SigningKeys>,
    /// What is sent.
    pub delivery: Delivery,
    /// 1 for the first.
    pub number: u32,
    /// When it begins, by the wall clock.
    pub started_at: Timestamp,
    /// The deadline of the whole attempt, answer included.
    pub timeout: Duration,
}

/// Sends attempts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AttemptClient {}

impl AttemptClient {
    /// A client that connects only where the policy allows.
    pub fn new(_policy: Arc<TargetPolicy>, _timeout: Duration) -> Result<Self, reqwest::Error> {
        todo!()
    }

    /// Makes one attempt. Whatever happens is a result; it ends by the request's timeout.
    pub async fn attempt(&self, _request: AttemptRequest<'_>) -> AttemptResult {
        todo!()
    }
}
