//! What the service counts, in Prometheus' words. One place names every figure.

use std::time::Duration;

use crate::delivery::{AttemptResult, Outcome};
use crate::store::JanitorCounts;

/// All figures of this process.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// An event was accepted, so long after its request was read.
    pub fn accepted(&self, _ack: Duration) {}
    /// An event was refused, for this reason (the last word of the problem's type).
    pub fn refused(&self, _reason: &'static str) {}
    /// A commit of so many rows took so long.
    pub fn committed(&self, _rows: usize, _took: Duration) {}
    /// Whether the store answers.
    pub fn store_up(&self, _up: bool) {}
    /// An attempt ended, so long after its delivery was accepted.
    pub fn attempted(&self, _result: &AttemptResult, _number: u32, _since_accepted: Duration) {}
    /// What an attempt came to for its delivery.
    pub fn outcome(&self, _outcome: Outcome) {}
    /// So many actors run.
    pub fn active(&self, _actors: usize) {}
    /// An actor was started.
    pub fn activated(&self) {}
    /// An idle actor left.
    pub fn passivated(&self) {}
    /// A crashed actor is started again.
    pub fn restarted(&self) {}
    /// What the janitor did in one run.
    pub fn janitor(&self, _counts: &JanitorCounts) {}
    /// The text exposition format.
    pub fn render(&self) -> String {
        String::new()
    }
}
