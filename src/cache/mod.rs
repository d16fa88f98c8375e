//! The cache in front of the store: optional, never the truth. Every call is bounded by a short timeout, and a failure
//! is a miss.

mod redis;

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::delivery::{Subscription, SubscriptionId};

pub use redis::{Examination as RedisExamination, RedisCache, examine as examine_redis};

/// Another process changed or deleted a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Look at this one again.
    Subscription {
        /// Which.
        id: SubscriptionId,
        /// Its version now; `i64::MAX` when it was deleted.
        version: i64,
    },
    /// Messages may have been lost: look at everything again.
    Everything,
}

/// What a cache does. Nothing here fails: a cache that is gone misses.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// The subscription, if the cache has it.
    async fn get(&self, id: SubscriptionId) -> Option<Subscription>;
    /// Keeps it for a while, unless a newer version (or a deletion) is there already.
    async fn put(&self, subscription: &Subscription);
    /// Replaces what is kept with this newer version and tells the other processes.
    async fn changed(&self, subscription: &Subscription);
    /// Forgets it, refuses older copies for a while, and tells the other processes.
    async fn deleted(&self, id: SubscriptionId);
    /// What other processes say.
    fn changes(&self) -> broadcast::Receiver<Change>;
    /// For the home page and `/readyz`: `none`, `redis: connected`, `redis: unreachable`.
    fn status(&self) -> String;
    /// Whether it answers, or there is none. While it does not, what other processes say is lost.
    fn is_up(&self) -> bool;
}

/// No cache: every look-up goes to the store.
#[derive(Debug)]
pub struct NoCache(broadcast::Sender<Change>);

impl Default for NoCache {
    fn default() -> Self {
        Self(broadcast::Sender::new(1))
    }
}

#[async_trait]
impl Cache for NoCache {
    async fn get(&self, _: SubscriptionId) -> Option<Subscription> {
        None
    }
    async fn put(&self, _: &Subscription) {}
    async fn changed(&self, _: &Subscription) {}
    async fn deleted(&self, _: SubscriptionId) {}
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }
    fn status(&self) -> String {
        "none".to_owned()
    }
    fn is_up(&self) -> bool {
        true
    }
}
