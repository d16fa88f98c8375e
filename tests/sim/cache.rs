//! The cache of a simulation: it forgets, and its words to other processes come late, twice, or never.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hookpost::cache::{Cache, Change};
use hookpost::delivery::{Subscription, SubscriptionId};
use tokio::sync::broadcast;

use crate::sim::Sim;

/// What a process may lag behind.
const WORDS: usize = 8;

pub struct SimCache {
    sim: Arc<Sim>,
    kept: Mutex<BTreeMap<SubscriptionId, Subscription>>,
    words: broadcast::Sender<Change>,
}

impl SimCache {
    pub fn new(sim: Arc<Sim>) -> Self {
        Self { sim, kept: Mutex::default(), words: broadcast::Sender::new(WORDS) }
    }

    /// Something comes from another process, whatever it is.
    pub fn word(&self, change: Change) {
        let _ = self.words.send(change);
    }

    fn keep(&self, subscription: &Subscription) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = kept.get(&subscription.id).is_none_or(|known| known.version <= subscription.version);
        if self.sim.profile.has_cache && newer {
            kept.insert(subscription.id, subscription.clone());
        }
    }

    fn forget(&self, id: SubscriptionId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

#[async_trait]
impl Cache for SimCache {
    async fn get(&self, id: SubscriptionId) -> Option<Subscription> {
        if self.sim.faulty() && self.sim.chance.percent(20) {
            self.sim.pass(self.sim.chance.ms(1, 20)).await;
            self.forget(id);
        }
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
    async fn put(&self, subscription: &Subscription) {
        self.keep(subscription);
    }
    async fn changed(&self, subscription: &Subscription) {
        self.keep(subscription);
    }
    async fn deleted(&self, id: SubscriptionId) {
        self.forget(id);
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.words.subscribe()
    }
    fn status(&self) -> String {
        "simulated".to_owned()
    }
}
