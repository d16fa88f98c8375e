//! All live keys of the store, in the memory of every node: checking one asks nobody. It is kept fresh by asking the
//! store, a few times a second, which keys have changed; when that has not worked for a second, the store is asked for
//! the very key instead. So a revocation counts within a second on every node, whatever else is down.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{ApiKey, Caller, KeyHash, Prefix, Role, Token};
use crate::clock::Clock;
use crate::delivery::Timestamp;
use crate::store::{Result, Store, StoreError};

/// Most live keys of a store: some 30 MB on every node.
pub const MAX_KEYS: u64 = 100_000;
/// Between two questions: four tries before what is held is too old.
const POLL_PERIOD: Duration = Duration::from_millis(250);
/// What was read longer ago is not relied upon: the promise that is made for a revocation.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Keys in one answer: a few hundred kilobytes.
const PAGE: usize = 1000;
/// How long a request waits for the store to say whether its key is good.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// Look-ups at the same time: further ones wait for a place, within the same time, and not before the poll.
const MAX_LOOK_UPS: usize = 4;

/// See the module's docs.
pub struct KeyRing {
    store: Arc<dyn Store>,
    clock: Clock,
    entries: RwLock<HashMap<Prefix, Entry>>,
    /// Every change up to this one has been taken.
    revision: AtomicI64,
    /// The highest that was heard of, from the store or from a change made here: the store never has a lower one again.
    heard_of: AtomicI64,
    /// When the last question was asked that was answered in full, on the steady clock.
    fresh_at: AtomicI64,
    look_ups: Semaphore,
}

/// What is known of a key, as of a revision.
struct Entry {
    revision: i64,
    /// `None` if it was revoked here, until the poll comes to the revocation: what is older must not bring it back.
    held: Option<Held>,
}

struct Held {
    hash: KeyHash,
    expires_at: Option<Timestamp>,
    /// Ready to be handed out.
    caller: Caller,
}

impl Held {
    fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

impl Entry {
    fn of(key: &ApiKey) -> Self {
        let held = Held { hash: key.hash, expires_at: key.expires_at, caller: key.caller() };
        Self { revision: key.revision, held: key.revoked_at.is_none().then_some(held) }
    }
}

impl KeyRing {
    /// With all keys that there are.
    pub async fn load(store: Arc<dyn Store>, clock: Clock) -> Result<Arc<Self>> {
        let (revision, heard_of, fresh_at) = (AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(i64::MIN));
        let look_ups = Semaphore::new(MAX_LOOK_UPS);
        let ring = Self { store, clock, entries: RwLock::default(), revision, heard_of, fresh_at, look_ups };
        ring.poll().await?;
        Ok(Arc::new(ring))
    }

    /// Keeps it fresh until it is aborted.
    pub async fn run(self: Arc<Self>) {
        let mut failing = false;
        loop {
            tokio::time::sleep(POLL_PERIOD).await;
            match self.poll().await {
                Ok(()) => failing = false,
                // Once: it is tried again four times a second.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "changed keys could not be read; every key is looked up until they can be");
                }
                Err(_) => {}
            }
        }
    }

    /// Takes what has changed since the last time.
    async fn poll(&self) -> Result<()> {
        loop {
            // Before the question: the answer is of some moment after this one.
            let asked_at = self.clock.steady();
            let heard_of = self.heard_of.load(Ordering::Relaxed);
            let after = self.revision.load(Ordering::Relaxed);
            let changed = self.store.api_keys_changed_since(after, PAGE).await?;
            self.take(&changed);
            if changed.is_empty() && self.store.api_key_revision().await? < heard_of {
                self.forget();
                continue;
            }
            if changed.len() < PAGE {
                self.fresh_at.store(asked_at.0, Ordering::Relaxed);
                return Ok(());
            }
        }
    }

    /// The store was set back, to a backup or a replica that lagged: what is held may never have been. Until all is read again,
    /// each key is looked up.
    fn forget(&self) {
        let mut entries = self.write();
        entries.clear();
        self.revision.store(0, Ordering::Relaxed);
        self.heard_of.store(0, Ordering::Relaxed);
        self.fresh_at.store(i64::MIN, Ordering::Relaxed);
    }

    /// Takes the next changes, in their order. Whatever is dead by them can go: nothing older comes after it.
    fn take(&self, changed: &[ApiKey]) {
        let Some(last) = changed.last() else { return };
        let now = self.clock.wall();
        let mut entries = self.write();
        for key in changed {
            let known = entries.get(&key.prefix).map_or(i64::MIN, |entry| entry.revision);
            if known > key.revision {
                continue;
            }
            if key.is_live(now) {
                entries.insert(key.prefix, Entry::of(key));
            } else {
                entries.remove(&key.prefix);
            }
        }
        if entries.len() as u64 > MAX_KEYS {
            // Keys expire where they are; the store counts those that have not.
            entries.retain(|_, entry| entry.held.as_ref().is_none_or(|held| held.is_live(now)));
        }
        self.revision.store(last.revision, Ordering::Relaxed);
        self.heard_of.fetch_max(last.revision, Ordering::Relaxed);
    }

    /// A change that was made here counts here at once.
    pub fn changed(&self, key: &ApiKey) {
        let mut entries = self.write();
        if key.revision <= self.revision.load(Ordering::Relaxed) {
            // The poll was quicker and will not come by again, or the store was set back. A revocation is final in any case.
            if key.revoked_at.is_some() {
                entries.remove(&key.prefix);
            }
            return;
        }
        self.heard_of.fetch_max(key.revision, Ordering::Relaxed);
        let newer = entries.get(&key.prefix).is_none_or(|known| known.revision < key.revision);
        if newer || key.revoked_at.is_some() {
            entries.insert(key.prefix, Entry::of(key));
        }
    }

    /// Whose key it is; `None` if it is nobody's (any more).
    ///
    /// # Errors
    /// When what is held is too old and the store does not answer: nobody can say then.
    pub async fn check(&self, token: &Token) -> Result<Option<Caller>> {
        match self.held(token) {
            Some(held) => Ok(held),
            None => self.look_up(token).await,
        }
    }

    fn is_fresh(&self) -> bool {
        let fresh_at = Timestamp(self.fresh_at.load(Ordering::Relaxed));
        self.clock.steady().since(fresh_at) <= MAX_AGE
    }

    /// What is held of it, unless that is too old. Under one lock: what is forgotten in between is not taken for unknown.
    fn held(&self, token: &Token) -> Option<Option<Caller>> {
        let entries = self.read();
        if !self.is_fresh() {
            return None;
        }
        let held = entries.get(&token.prefix).and_then(|entry| entry.held.as_ref());
        let good = |held: &&Held| held.hash.matches(&token.hash) && held.is_live(self.clock.wall());
        Some(held.filter(good).map(|held| held.caller.clone()))
    }

    async fn look_up(&self, token: &Token) -> Result<Option<Caller>> {
        let look_up = async {
            let _place = self.look_ups.acquire().await;
            self.store.api_key(token.prefix).await
        };
        let asked = timeout(LOOK_UP_TIMEOUT, look_up).await;
        let found = asked.map_err(|_| StoreError::Unavailable("a key's look-up took too long".to_owned()))??;
        let good = |key: &ApiKey| key.hash.matches(&token.hash) && key.is_live(self.clock.wall());
        Ok(found.filter(good).map(|key| key.caller()))
    }

    /// Whether anybody could make further keys.
    pub fn has_admin(&self) -> bool {
        let now = self.clock.wall();
        let is_admin = |held: &Held| held.caller.role == Role::Admin && held.is_live(now);
        self.read().values().any(|entry| entry.held.as_ref().is_some_and(is_admin))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Prefix, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Prefix, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
