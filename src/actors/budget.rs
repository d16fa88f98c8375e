//! What the node holds of new events, by tenant and by subscription: payload bytes, and submissions that wait for their
//! commit. As with attempts (see `shares.rs`), nobody may hold more than a multiple of what is free, so that one tenant at a
//! hundred times its usual rate leaves the others their share. There is no queue: what does not fit is refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use crate::store::writer::MAX_QUEUED;

/// Most payload bytes in memory: waiting for their commit, for their attempt, or under way.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 * 1024 * 1024;
/// A subscription may hold a quarter of what is free: alone, a fifth of all.
const SUBSCRIPTION_DIVISOR: usize = 4;
/// A tenant may hold twice what is free: alone, two thirds of all.
const TENANT_FACTOR: usize = 2;

/// What one subscription, one tenant, or the node holds. Counts are read without a lock: they may be passed by what is
/// taken at the same instant, and no further.
pub(super) struct Account {
    bytes: AtomicUsize,
    submissions: AtomicUsize,
    /// That of its tenant, or of the node; none for the node itself.
    within: Option<Arc<Account>>,
    /// How much it may hold of what is free.
    most: fn(usize) -> usize,
}

/// The node's accounts.
pub(super) struct Budget {
    node: Arc<Account>,
    tenants: Mutex<HashMap<Arc<str>, Weak<Account>>>,
}

impl Budget {
    pub fn new() -> Self {
        Self { node: Account::of(None, |free| free), tenants: Mutex::default() }
    }

    /// Payload bytes in memory.
    pub fn bytes(&self) -> usize {
        self.node.bytes.load(Ordering::Relaxed)
    }

    /// Submissions that are with the writer.
    pub fn submissions(&self) -> usize {
        self.node.submissions.load(Ordering::Relaxed)
    }

    /// The account of a tenant, for as long as somebody holds it.
    pub fn tenant(&self, tenant: &Arc<str>) -> Arc<Account> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = tenants.get(tenant).and_then(Weak::upgrade) {
            return account;
        }
        // Before it grows: a tenant that came and went leaves its name.
        if tenants.len() == tenants.capacity() {
            tenants.retain(|_, account| account.strong_count() > 0);
        }
        let account = Account::of(Some(self.node.clone()), |free| free * TENANT_FACTOR);
        tenants.insert(tenant.clone(), Arc::downgrade(&account));
        account
    }
}

impl Account {
    /// A subscription's, within its tenant's.
    pub fn of_subscription(tenant: Arc<Self>) -> Arc<Self> {
        Self::of(Some(tenant), |free| free / SUBSCRIPTION_DIVISOR)
    }

    fn of(within: Option<Arc<Self>>, most: fn(usize) -> usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), submissions: AtomicUsize::new(0), within, most })
    }

    /// A new event's payload, counted for as long as any copy of it lives; `None` when too much is held.
    pub fn admit(self: &Arc<Self>, payload: Bytes) -> Option<Bytes> {
        self.may_hold(|account| &account.bytes, payload.len(), MAX_PAYLOAD_BYTES).then(|| self.count(payload))
    }

    /// A payload read back from the store, counted likewise.
    pub fn count(self: &Arc<Self>, payload: Bytes) -> Bytes {
        self.add(|account| &account.bytes, payload.len());
        Bytes::from_owner(Counted { payload, account: self.clone() })
    }

    /// A place in the writer's queue; `false` when too many are held.
    pub fn submit(&self) -> bool {
        let may = self.may_hold(|account| &account.submissions, 1, MAX_QUEUED);
        if may {
            self.add(|account| &account.submissions, 1);
        }
        may
    }

    /// A place in the writer's queue for what must not be refused.
    pub fn submit_owed(&self) {
        self.add(|account| &account.submissions, 1);
    }

    /// The submission has left the writer.
    pub fn submitted(&self) {
        self.subtract(|account| &account.submissions, 1);
    }

    /// Whether `more` may be added to what is held here. Whoever holds nothing needs only room.
    fn may_hold(&self, count: impl Fn(&Self) -> &AtomicUsize, more: usize, max: usize) -> bool {
        let held = |account: &Self| count(account).load(Ordering::Relaxed);
        let free = max.saturating_sub(self.path().last().map_or(0, held));
        let fits = |account: &Self| held(account) == 0 || held(account) + more <= (account.most)(free);
        more <= free && self.path().filter(|account| account.within.is_some()).all(fits)
    }

    fn add(&self, count: impl Fn(&Self) -> &AtomicUsize, more: usize) {
        for account in self.path() {
            count(account).fetch_add(more, Ordering::Relaxed);
        }
    }

    fn subtract(&self, count: impl Fn(&Self) -> &AtomicUsize, less: usize) {
        for account in self.path() {
            count(account).fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// This account and those that it counts for.
    fn path(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |account| account.within.as_deref())
    }
}

/// A payload that is taken off its account when its last copy is dropped, a crash of its actor included.
struct Counted {
    payload: Bytes,
    account: Arc<Account>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.subtract(|account| &account.bytes, self.payload.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 64 * 1024;

    fn fill(account: &Arc<Account>) -> Vec<Bytes> {
        std::iter::from_fn(|| account.admit(Bytes::from(vec![0; PIECE]))).collect()
    }

    fn bytes(held: &[Bytes]) -> usize {
        held.iter().map(Bytes::len).sum()
    }

    #[test]
    fn a_subscription_alone_may_hold_a_fifth_and_its_tenant_two_thirds() {
        let budget = Budget::new();
        let tenant = budget.tenant(&"t".into());
        let alone = fill(&Account::of_subscription(tenant.clone()));
        assert!(bytes(&alone).abs_diff(MAX_PAYLOAD_BYTES / 5) <= PIECE * 2);
        let others: Vec<_> = (0..100).flat_map(|_| fill(&Account::of_subscription(tenant.clone()))).collect();
        let held = bytes(&alone) + bytes(&others);
        assert!(held.abs_diff(MAX_PAYLOAD_BYTES * 2 / 3) <= PIECE * 2, "{held}");
        assert!(
            !fill(&Account::of_subscription(budget.tenant(&"u".into()))).is_empty(),
            "another tenant has its share"
        );
    }

    #[test]
    fn what_is_dropped_is_free_again() {
        let budget = Budget::new();
        let subscription = Account::of_subscription(budget.tenant(&"t".into()));
        let held = fill(&subscription);
        assert_eq!(budget.bytes(), bytes(&held));
        let copy = held[0].slice(1..2);
        drop(held);
        assert_eq!(budget.bytes(), PIECE, "any copy holds all of it");
        drop(copy);
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn what_is_read_back_counts_and_is_never_refused() {
        let budget = Budget::new();
        let tenant = budget.tenant(&"t".into());
        let _held: Vec<_> = (0..MAX_PAYLOAD_BYTES / PIECE).map(|_| tenant.count(Bytes::from(vec![0; PIECE]))).collect();
        assert_eq!(budget.bytes(), MAX_PAYLOAD_BYTES);
        assert!(Account::of_subscription(budget.tenant(&"u".into())).admit(Bytes::from_static(b"1")).is_none());
    }

    #[test]
    fn one_subscription_may_not_fill_the_queue_of_the_writer() {
        let budget = Budget::new();
        let tenant = budget.tenant(&"t".into());
        let (one, other) = (Account::of_subscription(tenant.clone()), Account::of_subscription(tenant));
        let submitted = std::iter::from_fn(|| one.submit().then_some(())).count();
        assert!(submitted.abs_diff(MAX_QUEUED / 5) <= 2, "{submitted}");
        assert!(other.submit());
        one.submitted();
        assert!(one.submit(), "its own place is free again");
    }

    #[test]
    fn a_tenant_that_is_gone_leaves_nothing_behind() {
        let budget = Budget::new();
        for n in 0..1000 {
            drop(budget.tenant(&n.to_string().into()));
        }
        assert!(budget.tenants.lock().unwrap().len() < 100);
    }
}
