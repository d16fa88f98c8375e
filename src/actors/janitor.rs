//! The janitor: makes room ahead of time, ends what outlived its retention, and removes what is old.

use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use crate::store::{JanitorCounts, Result};

/// How often it looks. Partitions are made a day ahead, so that a missed run costs nothing.
const PERIOD: Duration = Duration::from_secs(60);
/// Most unfinished deliveries that are ended in one transaction.
const EXPIRE_LIMIT: usize = 500;
/// Most rows that are deleted in one transaction: a few milliseconds of the embedded store's writer.
const PRUNE_LIMIT: usize = 500;
/// How long a producer may send a request again under the same key.
const KEYS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a key that was revoked or has expired is still listed: long enough to be asked about.
const DEAD_API_KEYS_KEPT: Duration = Duration::from_hours(90 * 24);
/// How long the audit says who did what: a year, so that last year's question can be answered.
const AUDIT_KEPT: Duration = Duration::from_secs(366 * 24 * 3600);
/// Between two chunks, so that producers are served in between.
const BREATH: Duration = Duration::from_millis(20);

pub(super) struct Janitor {
    node: Arc<Node>,
}

impl Janitor {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Runs until it is aborted.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tick.tick().await;
            match self.run_once().await {
                Ok(counts) => {
                    failing = false;
                    self.node.parts.metrics.janitor(&counts);
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "the janitor could not finish; it will try again");
                }
                Err(_) => {}
            }
        }
    }

    async fn run_once(&self) -> Result<JanitorCounts> {
        let store = &self.node.parts.store;
        // The earlier of the two: a clock that was stepped far ahead must not end everything.
        let clock = self.node.parts.clock;
        let now = clock.wall().min(clock.steady());
        let cutoff = now - self.node.parts.defaults.retention;
        let mut total = store.prepare(now).await?;
        // First the visible failure, then the removal.
        loop {
            let counts = store.expire(cutoff, now, EXPIRE_LIMIT).await?;
            total.add(&counts);
            if counts.expired > 0 {
                // The entries have not heard of it: a backlog would stay full that is not.
                self.node.entries().iter().for_each(|entry| entry.count_again());
            }
            if !counts.more {
                break;
            }
            tokio::time::sleep(BREATH).await;
        }
        total.add(&in_chunks(|| store.prune(cutoff, PRUNE_LIMIT)).await?);
        total.add(&in_chunks(|| store.prune_replays(cutoff, PRUNE_LIMIT)).await?);
        total.add(&in_chunks(|| store.prune_keys(now - KEYS_KEPT, PRUNE_LIMIT)).await?);
        total.add(&in_chunks(|| store.prune_api_keys(now - DEAD_API_KEYS_KEPT, PRUNE_LIMIT)).await?);
        total.add(&in_chunks(|| store.prune_audit(now - AUDIT_KEPT, PRUNE_LIMIT)).await?);
        Ok(total)
    }
}

/// Goes on as long as there is more, a breath between two chunks.
async fn in_chunks<F: Future<Output = Result<JanitorCounts>>>(chunk: impl Fn() -> F) -> Result<JanitorCounts> {
    let mut total = JanitorCounts::default();
    loop {
        let counts = chunk().await?;
        total.add(&counts);
        if !counts.more {
            return Ok(total);
        }
        tokio::time::sleep(BREATH).await;
    }
}
