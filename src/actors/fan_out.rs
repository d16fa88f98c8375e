//! Fan-out: which subscriptions want an event, and how their actors come to its deliveries.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;

use super::budget::Account;
use super::engine::write;
use super::node::Node;
use super::supervisor;
use super::{AcceptError, NewEvent};
use crate::delivery::{Delivery, SubscriptionId, TraceContext};
use crate::store::writer::{Claim, DeliverySink, Key, Refused, Stored, What};
use crate::store::{Store, StoreError};

/// Most deliveries of one event: a commit of this size takes seconds, and everyone else's waits for it.
pub(super) const MAX_FAN_OUT: usize = 100_000;
/// How long an answer of the store is used again. A subscription that is made or changed here, or of which another
/// process tells, is seen at once; this is for the word that was lost.
const MATCHES_TTL: Duration = Duration::from_secs(1);
/// Most subscription ids that are kept in answers: 8 MB.
const MAX_MATCHES: usize = 1_000_000;
/// Most answers that are kept: 1 MB. A producer that puts ids into event types asks for a new one each time.
const MAX_ANSWERS: usize = 4096;

/// Hands the deliveries of one event to the actors that run, and leaves word for the supervisor of the others.
pub(super) struct FanOut {
    node: Arc<Node>,
    supervisor: ActorRef<supervisor::Message>,
    /// The tenant's.
    account: Arc<Account>,
}

impl FanOut {
    /// With a place in the writer's queue; `None` when its tenant or the node has too many there.
    pub fn claim(node: Arc<Node>, supervisor: ActorRef<supervisor::Message>, account: Arc<Account>) -> Option<Claim> {
        account.submit().then(|| Claim::on(Arc::new(Self { node, supervisor, account })))
    }

    /// For an event that must not be refused.
    pub fn owed(node: Arc<Node>, supervisor: ActorRef<supervisor::Message>, account: Arc<Account>) -> Claim {
        account.submit_owed();
        Claim::on(Arc::new(Self { node, supervisor, account }))
    }
}

impl DeliverySink for FanOut {
    fn committed(&self, delivery: Delivery) {
        self.node.hand_over(delivery);
    }

    fn released(&self) {
        self.account.submitted();
        // After the commit, and once for all of them: the actors of a large fan-out are started a few at a time.
        if self.node.has_fresh() {
            let _ = self.supervisor.cast(supervisor::Message::Unclaimed);
        }
    }
}

/// Makes the event durable with a delivery for every subscription that wants it.
pub(super) async fn publish(
    node: &Arc<Node>,
    supervisor: &ActorRef<supervisor::Message>,
    event: NewEvent,
    key: Option<Key>,
    trace: Option<Arc<TraceContext>>,
) -> Result<Stored, AcceptError> {
    let NewEvent { tenant, event_type, ordering_key, payload } = event;
    let account = node.budget.tenant(&tenant);
    let payload = account.admit(payload).ok_or(AcceptError::BUSY)?;
    let subscriptions = node.matches.of(&*node.parts.store, &tenant, &event_type).await?;
    if subscriptions.len() > MAX_FAN_OUT {
        return Err(AcceptError::TooManyDeliveries { matched: subscriptions.len(), limit: MAX_FAN_OUT });
    }
    let claim = FanOut::claim(node.clone(), supervisor.clone(), account).ok_or(AcceptError::BUSY)?;
    let (subscriptions, refused) = split_full(node, subscriptions);
    let what = What::Event { tenant, event_type, ordering_key, payload, trace, subscriptions, refused };
    write(node, claim, what, key).await
}

/// Who gets an event and, of those that want it, whose backlog is full. Of a subscription without an actor nobody knows
/// that, and it gets it.
pub(super) fn split_full(node: &Node, wanted: Arc<[SubscriptionId]>) -> (Arc<[SubscriptionId]>, Arc<[Refused]>) {
    let full = |id: &SubscriptionId| {
        let entry = node.entry(*id)?;
        let target_url = entry.config().subscription.target_url.clone();
        entry.full().map(|full| Refused { subscription_id: *id, target_url, max_backlog: full.limit })
    };
    let refused: Vec<_> = wanted.iter().filter_map(full).collect();
    if refused.is_empty() {
        return (wanted, Arc::default());
    }
    let mut left = refused.iter().map(|refused| refused.subscription_id).peekable();
    let takes = wanted.iter().copied().filter(|id| left.next_if_eq(id).is_none()).collect();
    (takes, refused.into())
}

/// The store's answers of a moment ago to who wants which events.
#[derive(Default)]
pub(super) struct Matches {
    /// Raised by every change of a subscription.
    generation: AtomicU64,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    /// By tenant and event type.
    by_type: HashMap<(Arc<str>, Arc<str>), Answer>,
    /// Subscription ids in them.
    ids: usize,
}

impl Answers {
    fn keep(&mut self, key: (Arc<str>, Arc<str>), answer: Answer) {
        self.ids += answer.subscriptions.len();
        if let Some(before) = self.by_type.insert(key, answer) {
            self.ids -= before.subscriptions.len();
        }
        if self.by_type.len() > MAX_ANSWERS || self.ids > MAX_MATCHES {
            // Seldom, so that it costs an insertion little: what it leaves is of the last second.
            self.by_type.retain(|_, answer| answer.read_at.elapsed() < MATCHES_TTL);
            if self.by_type.len() > MAX_ANSWERS / 2 || self.ids > MAX_MATCHES {
                self.by_type.clear();
            }
            self.ids = self.by_type.values().map(|answer| answer.subscriptions.len()).sum();
        }
    }
}

struct Answer {
    generation: u64,
    read_at: Instant,
    subscriptions: Arc<[SubscriptionId]>,
}

impl Matches {
    /// A subscription was made, changed or deleted.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The enabled subscriptions of the tenant that want the event, by id.
    pub async fn of(
        &self,
        store: &dyn Store,
        tenant: &Arc<str>,
        event_type: &Arc<str>,
    ) -> Result<Arc<[SubscriptionId]>, StoreError> {
        // Read before the store is: what changes meanwhile makes the answer old.
        let generation = self.generation.load(Ordering::Relaxed);
        let key = (tenant.clone(), event_type.clone());
        if let Some(answer) = self.lock().by_type.get(&key)
            && answer.generation == generation
            && answer.read_at.elapsed() < MATCHES_TTL
        {
            return Ok(answer.subscriptions.clone());
        }
        let read_at = Instant::now();
        let subscriptions: Arc<[SubscriptionId]> = store.matching(tenant, event_type).await?.into();
        self.lock().keep(key, Answer { generation, read_at, subscriptions: subscriptions.clone() });
        Ok(subscriptions)
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
