//! The group-commit writer: the one way in which the data path writes.
//!
//! What arrived while the last commit ran is the next batch: accepted events and attempt logs share commits. It gives
//! deliveries their ids, so that id order is commit order; it answers producers after the commit, never before; and it
//! finds out what became of a commit whose reply was lost before it does anything else.

mod pending;
mod records;
mod task;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot, watch};
use uuid::Uuid;

use self::records::Records;
use super::ids::IdSource;
use super::{Progress, Store, StoreError};
use crate::audit::Act;
use crate::clock::Clock;
use crate::delivery::{AttemptLog, Delivery, DeliveryId, EventId, Outcome, RetryChange, SubscriptionId, TraceContext};
use crate::metrics::Metrics;

/// Most events that wait for a commit. At ten thousand a second it is under a second of work: a queue that is longer
/// only turns refusals into time-outs.
pub const MAX_QUEUED: usize = 8192;

/// Whoever takes accepted deliveries over. Calls come in commit order, on the writer's task, and must not block.
pub trait DeliverySink: Send + Sync + 'static {
    /// An accepted delivery is durable.
    fn committed(&self, delivery: Delivery);
    /// A [`Claim`] on it was given up: the submission has left the writer, whatever became of it.
    fn released(&self);
}

/// Whoever waits for attempts to be logged. Calls come in commit order, on the writer's task, and must not block.
pub trait RecordSink: Send + Sync + 'static {
    /// An attempt's log row is durable.
    fn recorded(&self, id: DeliveryId, outcome: Outcome);
    /// The subscription's row in `positions` is durable, or gone.
    fn positioned(&self, position: Option<DeliveryId>);
}

/// A sink for as long as a submission is with the writer.
pub struct Claim(Arc<dyn DeliverySink>);

impl Claim {
    /// Tells `sink` when it is dropped.
    pub fn on(sink: Arc<dyn DeliverySink>) -> Self {
        Self(sink)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.released();
    }
}

/// Why an event was not made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Too many events wait for a commit.
    #[error("{MAX_QUEUED} events wait for a commit already")]
    Full,
    /// The store is away. The event is stored only if `ambiguous`, and then perhaps.
    #[error("the store is unavailable")]
    Unavailable {
        /// Whether a commit was under way whose end is unknown.
        ambiguous: bool,
    },
    /// The store refused this event; it is not stored.
    #[error("{0}")]
    Rejected(String),
    /// Its idempotency key is held by another request; it is not stored.
    #[error("the idempotency key was used with another request")]
    KeyReused,
}

/// What became durable.
#[derive(Debug)]
pub enum Stored {
    /// A delivery of its own, or the first of several resends.
    Delivery(DeliveryId),
    /// An event.
    Event {
        /// The event.
        id: EventId,
        /// Its deliveries that were handed over, by id.
        deliveries: Vec<(SubscriptionId, DeliveryId)>,
        /// Those that ended at once, see [`Refused`].
        refused: Vec<(SubscriptionId, DeliveryId)>,
    },
    /// Nothing now: the same request was accepted before, and came to this delivery or event.
    Before(Uuid),
}

/// An idempotency key, as it comes with a request.
#[derive(Debug)]
pub struct Key {
    /// What it is unique in.
    pub scope: Arc<str>,
    /// As the producer chose it.
    pub key: Arc<str>,
    /// SHA-256 of what makes the request.
    pub request_hash: [u8; 32],
}

impl Key {
    /// What it is told from others by.
    fn name(&self) -> (Arc<str>, Arc<str>) {
        (self.scope.clone(), self.key.clone())
    }
}

/// What is to be made durable.
#[derive(Debug)]
pub enum What {
    /// A delivery with a payload of its own.
    Delivery {
        /// Whose it is.
        subscription_id: SubscriptionId,
        /// As the producer named it.
        event_type: Option<Arc<str>>,
        /// For subscriptions that want order by key.
        ordering_key: Option<Arc<str>>,
        /// The body.
        payload: Bytes,
        /// The trace that it belongs to.
        trace: Option<Arc<TraceContext>>,
    },
    /// Deliveries of one subscription, each made to send an earlier one again; in one commit with what is kept of that. At
    /// least one.
    Resends {
        /// Whose they are.
        subscription_id: SubscriptionId,
        /// In the order in which they are accepted.
        resends: Vec<Resend>,
        /// What the audit says.
        deed: Option<(Act, Option<Arc<str>>)>,
        /// How far the replay has come that makes them; the delivery in it is given by the writer.
        progress: Option<Progress>,
    },
    /// An event with a delivery for each of these subscriptions, its payload once; in one commit.
    Event {
        /// Whose subscriptions they are.
        tenant: Arc<str>,
        /// As the producer named it.
        event_type: Arc<str>,
        /// For subscriptions that want order by key.
        ordering_key: Option<Arc<str>>,
        /// The body.
        payload: Bytes,
        /// The trace that its deliveries belong to.
        trace: Option<Arc<TraceContext>>,
        /// Who gets it.
        subscriptions: Arc<[SubscriptionId]>,
        /// Who would get it if there were room: their deliveries are recorded as failed in the same commit.
        refused: Arc<[Refused]>,
    },
}

/// A delivery to be sent again.
#[derive(Debug)]
pub struct Resend {
    /// The first delivery of the same.
    pub of: DeliveryId,
    /// As the first's.
    pub event_type: Option<Arc<str>>,
    /// As the first's.
    pub ordering_key: Option<Arc<str>>,
    /// As the first's, and its own: the event's may be gone before it was received.
    pub payload: Bytes,
    /// As the first's.
    pub trace: Option<Arc<TraceContext>>,
}

/// A subscription whose backlog is full: its delivery of an event ends without an attempt, and visibly.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// Where it would have been sent.
    pub target_url: Arc<str>,
    /// Most unfinished deliveries that it may have.
    pub max_backlog: u64,
}

impl What {
    /// Rows of the batch that it comes to.
    fn rows(&self) -> usize {
        match self {
            Self::Delivery { .. } => 1,
            Self::Resends { resends, .. } => resends.len(),
            Self::Event { subscriptions, refused, .. } => 1 + subscriptions.len() + refused.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Delivery { payload, .. } | Self::Event { payload, .. } => payload.len(),
            Self::Resends { resends, .. } => resends.iter().map(|resend| resend.payload.len()).sum(),
        }
    }
}

/// An event to be made durable.
pub struct Submission {
    /// Takes its deliveries over when it is.
    pub claim: Claim,
    /// What it is.
    pub what: What,
    /// Under which the producer may send it again.
    pub key: Option<Key>,
    /// Answered after the commit.
    pub reply: oneshot::Sender<Result<Stored, WriteError>>,
}

/// An event that nobody waits for, and that must not be lost.
pub struct Announcement {
    /// Takes its deliveries over when it is durable.
    pub claim: Claim,
    /// What it is.
    pub what: What,
}

/// A place that is free again when this is dropped.
pub type Permit = Box<dyn Send + Sync>;

/// An attempt to be logged.
pub struct Record {
    /// Told when it is durable.
    pub sink: Arc<dyn RecordSink>,
    /// The row; its id is given by the writer.
    pub log: AttemptLog,
    /// What becomes of the delivery's retry, in the same transaction.
    pub retry: RetryChange,
    /// The attempt's place among the node's attempts: it is free again when the row is durable, so that attempts that
    /// are not yet logged are bounded. `None` when there was no attempt.
    pub permit: Option<Permit>,
    /// An event of Hookpost's own that is made durable in the same transaction.
    pub announcement: Option<Box<Announcement>>,
    /// Its row goes with the next commit, because somebody waits for what follows from it. Others wait for each other.
    pub urgent: bool,
}

/// Hands work to the writer's task. Cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    /// Why the writer gave up for good, if it did.
    lost: watch::Sender<Option<StoreError>>,
}

#[derive(Default)]
struct Queue {
    submissions: VecDeque<Submission>,
    /// Bounded by the permits in it.
    records: Records,
    /// The last word of each subscription.
    positions: BTreeMap<SubscriptionId, (Arc<dyn RecordSink>, Option<DeliveryId>)>,
    watermark: Option<DeliveryId>,
    /// What ids must be above from the next batch on.
    floor: Option<DeliveryId>,
    /// The store is away: refuse at once instead of letting producers wait.
    down: bool,
    closing: bool,
    /// The highest id given so far.
    last_id: DeliveryId,
    /// The first delivery of the batch whose fate is not decided yet.
    unsettled_from: Option<DeliveryId>,
}

impl Default for DeliveryId {
    fn default() -> Self {
        Self::MIN
    }
}

impl Writer {
    /// Starts the writer's task over a store that this process has acquired. Ids will be above `newest`.
    pub fn start(
        store: Arc<dyn Store>,
        clock: Clock,
        newest: Option<Uuid>,
        metrics: Arc<Metrics>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let queue = Queue { last_id: DeliveryId(newest.unwrap_or_default()), ..Queue::default() };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake: Notify::new(), lost: watch::Sender::new(None) });
        let ids = IdSource::above(newest).drawing_from(clock.seed());
        let task = task::Task { shared: shared.clone(), failures: 0, store, clock, ids, metrics };
        (Self(shared), tokio::spawn(task.run()))
    }

    /// Queues an event. The reply comes after the commit.
    pub fn submit(&self, submission: Submission) -> Result<(), WriteError> {
        let mut queue = self.0.lock();
        if queue.down || queue.closing {
            return Err(WriteError::Unavailable { ambiguous: false });
        }
        if queue.submissions.len() >= MAX_QUEUED {
            return Err(WriteError::Full);
        }
        queue.submissions.push_back(submission);
        drop(queue);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Queues an attempt's log. It is kept until it is durable, however long the store is away.
    pub fn record(&self, record: Record) {
        if self.0.lock().records.push(record) {
            self.0.wake.notify_one();
        }
    }

    /// Writes, or removes, the subscription's own position.
    pub fn position(&self, sink: Arc<dyn RecordSink>, id: SubscriptionId, position: Option<DeliveryId>) {
        self.0.lock().positions.insert(id, (sink, position));
        self.0.wake.notify_one();
    }

    /// Writes the watermark with the next batch.
    pub fn watermark(&self, watermark: DeliveryId) {
        self.0.lock().watermark = Some(watermark);
        self.0.wake.notify_one();
    }

    /// Whatever is submitted from now on will be above this id, also if the clock was set back since it was made.
    pub fn rise_above(&self, id: DeliveryId) {
        let mut queue = self.0.lock();
        queue.floor = queue.floor.max(Some(id));
    }

    /// The highest id given so far: whatever is submitted from now on will be above it.
    pub fn last_id(&self) -> DeliveryId {
        self.0.lock().last_id
    }

    /// Everything up to this id has been handed to its sink, or will never be stored.
    pub fn settled_through(&self) -> DeliveryId {
        let queue = self.0.lock();
        queue.unsettled_from.map_or(queue.last_id, DeliveryId::predecessor)
    }

    /// Whether the store answers.
    pub fn is_up(&self) -> bool {
        !self.0.lock().down
    }

    /// Resolves when another process has taken the store: nothing in memory is worth anything any more.
    pub fn lost(&self) -> watch::Receiver<Option<StoreError>> {
        self.0.lost.subscribe()
    }

    /// Refuses new events, and ends the task once the rest is written.
    pub fn close(&self) {
        self.0.lock().closing = true;
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held; if something did, the queue would still be whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
