//! What only the store knows and whoever watches the service wants to know: looked for on a timer, so that a scrape waits for no
//! query. And what the entries know, gathered when somebody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::attempts::MAX_ATTEMPTS;
use super::budget::MAX_PAYLOAD_BYTES;
use super::node::Node;
use crate::delivery::Timestamp;
use crate::metrics::Live;
use crate::store::writer::MAX_QUEUED;

/// How often the store is asked.
const PERIOD: Duration = Duration::from_secs(10);
/// No more retries are counted, and no more of the oldest are looked at for one of an enabled subscription: a tenth of a second
/// of a database's work.
const MAX_COUNTED: u64 = 1_000_000;
/// In place of a time: nothing is due.
const NOTHING: i64 = i64::MAX;

/// What waits in the store, as of the last look.
pub(super) struct Census {
    retries: AtomicU64,
    /// When the first of them became due.
    oldest_due: AtomicI64,
    /// When that was; the start, before the first.
    looked_at: AtomicI64,
}

impl Census {
    pub fn new(now: Timestamp) -> Self {
        Self { retries: AtomicU64::new(0), oldest_due: AtomicI64::new(NOTHING), looked_at: AtomicI64::new(now.0) }
    }
}

/// Asks the store until it is aborted.
pub(super) async fn run(node: Arc<Node>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match node.parts.store.retries_waiting(node.parts.clock.steady(), MAX_COUNTED).await {
            Ok(waiting) => {
                node.census.retries.store(waiting.count, Ordering::Relaxed);
                let oldest = waiting.oldest_due.map_or(NOTHING, |due| due.0);
                node.census.oldest_due.store(oldest, Ordering::Relaxed);
                node.census.looked_at.store(node.parts.clock.steady().0, Ordering::Relaxed);
            }
            // The last figures stay, and their age tells.
            Err(error) => tracing::debug!(%error, "could not count what waits for another attempt"),
        }
    }
}

/// The node at this moment. Asks no actor and waits for nobody: ten thousand entries are about a millisecond.
pub(super) fn live(node: &Node) -> Live {
    let now = node.parts.clock.steady();
    let (entries, census) = (node.entries(), &node.census);
    let mut live = Live {
        owner: true,
        store_up: node.writer.is_up() && node.is_reachable(),
        active: entries.len(),
        retries_waiting: census.retries.load(Ordering::Relaxed),
        attempts: (node.attempts.held(), MAX_ATTEMPTS),
        payload_bytes: (node.budget.bytes(), MAX_PAYLOAD_BYTES),
        submissions: (node.budget.submissions(), MAX_QUEUED),
        ..Live::default()
    };
    live.ready = live.store_up && !node.is_draining();
    let mut oldest = Timestamp(census.oldest_due.load(Ordering::Relaxed));
    for entry in entries {
        let entry = entry.figures(now);
        live.count(entry.breaker, entry.window);
        live.backlog += entry.backlog;
        live.full += u64::from(entry.full);
        oldest = oldest.min(entry.oldest_due.unwrap_or(Timestamp::MAX));
    }
    live.oldest_due = now.since(oldest);
    live.census_age = now.since(Timestamp(census.looked_at.load(Ordering::Relaxed)));
    live
}
