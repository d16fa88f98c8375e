//! What all actors of this process share, and the bounds that hold for all of them together.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::attempts::Attempts;
use super::budget::{Budget, MAX_PAYLOAD_BYTES};
use super::census::Census;
use super::entry::Entry;
use super::fan_out::Matches;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::delivery::{Defaults, Delivery, DeliveryId, MAX_RETRY_AFTER, MAX_WAIT, SubscriptionId};
use crate::metrics::Metrics;
use crate::outbound::client::AttemptClient;
use crate::store::Store;
use crate::store::writer::Writer;
use crate::traces::Tracer;
use crate::vault::Vault;

/// From here on committed payloads are left to the store, so that the other half stays for new events.
const SPILL_BYTES: usize = MAX_PAYLOAD_BYTES / 2;

/// How long to wait before asking a store again that could not answer.
pub(super) const STORE_RETRY: Duration = Duration::from_secs(1);

/// Longer than any wait for a retry that can be meant.
pub(super) fn longest_wait() -> Duration {
    MAX_WAIT.max(MAX_RETRY_AFTER) * 2
}

/// What the engine is made of.
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// In front of it.
    pub cache: Arc<dyn Cache>,
    /// Sends.
    pub client: AttemptClient,
    /// Tells the time.
    pub clock: Clock,
    /// Opens secrets.
    pub vault: Arc<Vault>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Exports spans, if that is configured.
    pub tracer: Tracer,
    /// As configured, for subscriptions that say nothing.
    pub defaults: Defaults,
}

pub(super) struct Node {
    pub parts: Parts,
    pub writer: Writer,
    /// One place an attempt, from its start until its log row is durable.
    pub attempts: Arc<Attempts>,
    pub budget: Budget,
    pub draining: AtomicBool,
    /// Whether the store answered when it was last read.
    pub reachable: AtomicBool,
    /// As last handed to the writer. Whoever decides on what it may not pass holds it meanwhile.
    watermark: Mutex<DeliveryId>,
    pub matches: Matches,
    /// A subscription may have been enabled or disabled.
    pub changed: Notify,
    /// A replay may have been asked for.
    pub replay_asked: Notify,
    /// The first delivery of each subscription that was committed while it had no actor. Held while an entry is made, so
    /// that a delivery is either here or handed to the entry.
    unclaimed: Mutex<BTreeMap<SubscriptionId, DeliveryId>>,
    /// Those among them that the supervisor has not heard of. Locked after `unclaimed`, if both are.
    fresh: Mutex<Vec<SubscriptionId>>,
    directory: RwLock<HashMap<SubscriptionId, Arc<Entry>>>,
    /// What waits in the store, as of the last look.
    pub census: Census,
}

impl Node {
    pub fn new(parts: Parts, writer: Writer, watermark: DeliveryId) -> Arc<Self> {
        Arc::new(Self {
            census: Census::new(parts.clock.steady()),
            parts,
            writer,
            attempts: Attempts::new(),
            budget: Budget::new(),
            draining: AtomicBool::new(false),
            reachable: AtomicBool::new(true),
            watermark: Mutex::new(watermark),
            matches: Matches::default(),
            changed: Notify::new(),
            replay_asked: Notify::new(),
            unclaimed: Mutex::default(),
            fresh: Mutex::default(),
            directory: RwLock::default(),
        })
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    pub fn watermark(&self) -> MutexGuard<'_, DeliveryId> {
        self.watermark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn entry(&self, id: SubscriptionId) -> Option<Arc<Entry>> {
        let found = self.directory.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        // One that is closed is about to be removed; another may take its place.
        found.filter(|entry| !entry.is_closed())
    }

    /// By id, so that what is done with all of them is done in the same order every time.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> =
            self.directory.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    pub fn active(&self) -> usize {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A durable delivery to its entry, or to those that wait for an actor.
    pub fn hand_over(&self, delivery: Delivery) {
        let id = delivery.subscription_id;
        let mut unclaimed = self.unclaimed();
        let refused = match self.entry(id) {
            Some(entry) => entry.take(delivery).err(),
            None => Some(delivery.id),
        };
        if let Some(delivery) = refused {
            unclaimed.entry(id).or_insert_with(|| {
                self.fresh().push(id);
                delivery
            });
        }
    }

    /// Subscriptions that wait for an actor, each with the first delivery that it has not seen.
    pub fn unclaimed(&self) -> MutexGuard<'_, BTreeMap<SubscriptionId, DeliveryId>> {
        self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the supervisor has to hear of some.
    pub fn has_fresh(&self) -> bool {
        !self.fresh().is_empty()
    }

    /// Those that it has not heard of.
    pub fn take_fresh(&self) -> Vec<SubscriptionId> {
        std::mem::take(&mut *self.fresh())
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<SubscriptionId>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an entry with what waits for it, and puts it into the directory.
    pub fn insert(&self, id: SubscriptionId, make: impl FnOnce(Option<DeliveryId>) -> Arc<Entry>) -> Arc<Entry> {
        let mut unclaimed = self.unclaimed();
        let entry = make(unclaimed.remove(&id));
        self.put(entry.clone());
        entry
    }

    fn put(&self, entry: Arc<Entry>) {
        self.directory.write().unwrap_or_else(PoisonError::into_inner).insert(entry.id, entry);
    }

    /// Removes this entry, unless another has taken its place.
    pub fn remove(&self, entry: &Arc<Entry>) {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        if directory.get(&entry.id).is_some_and(|known| Arc::ptr_eq(known, entry)) {
            directory.remove(&entry.id);
        }
    }

    /// There is no engine any more.
    pub fn forget_entries(&self) {
        let entries = std::mem::take(&mut *self.directory.write().unwrap_or_else(PoisonError::into_inner));
        // Not under the lock: with the last of them more may go.
        drop(entries);
    }

    /// Whether committed payloads should be left to the store.
    pub fn must_spill(&self) -> bool {
        self.budget.bytes() > SPILL_BYTES
    }

    /// How much payload one page may bring in: a share of what is left, so that many that read at once stay within it.
    /// A page always brings one delivery, so that everyone goes on.
    pub fn page_bytes(&self) -> usize {
        const MAX_PAGE_BYTES: usize = 1024 * 1024;
        const SHARES: usize = 16;
        let left = SPILL_BYTES.saturating_sub(self.budget.bytes());
        (left / SHARES).clamp(1, MAX_PAGE_BYTES)
    }
}
