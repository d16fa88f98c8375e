//! The group-commit writer: the one way in which the data path writes.
//!
//! What arrived while the last commit ran is the next batch: accepted events and attempt logs share commits. It gives
//! deliveries their ids, so that id order is commit order; it answers producers after the commit, never before; and it
//! finds out what became of a commit whose reply was lost before it does anything else.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

use super::ids::IdSource;
use super::{Batch, Store, StoreError};
use crate::clock::Clock;
use crate::delivery::{AttemptLog, Delivery, DeliveryId, RetryChange, SubscriptionId};
use crate::metrics::Metrics;

/// Most events that wait for a commit. At ten thousand a second it is under a second of work: a queue that is longer
/// only turns refusals into time-outs.
pub const MAX_QUEUED: usize = 8192;
/// Most deliveries, and most logs, in one commit: past this a batch gets slower and not cheaper.
const MAX_BATCH_ROWS: usize = 1024;
/// Most payload in one commit, so that one statement stays far below what a server takes.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Bounds between tries to reach a store that is away.
const RECONNECT_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);
/// How long an event may wait for a store that went away while it waited; its producer has an answer before that.
const ACK_DEADLINE: Duration = Duration::from_secs(5);

/// Whoever owns what is written, and is told when it is durable. Calls come in commit order, on the writer's task, and
/// must not block.
pub trait Sink: Send + Sync + 'static {
    /// An accepted delivery is durable.
    fn committed(&self, delivery: Delivery);
    /// An attempt's log row is durable.
    fn recorded(&self, id: DeliveryId);
    /// The subscription's row in `positions` is durable, or gone.
    fn positioned(&self, position: Option<DeliveryId>);
    /// A [`Claim`] on it was given up: the submission has left the writer, whatever became of it.
    fn released(&self);
}

/// A sink for as long as a submission is with the writer.
pub struct Claim(Arc<dyn Sink>);

impl Claim {
    /// Tells `sink` when it is dropped.
    pub fn on(sink: Arc<dyn Sink>) -> Self {
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
}

/// An event to be made durable.
pub struct Submission {
    /// Told when it is.
    pub claim: Claim,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// As the producer named it.
    pub event_type: Option<Arc<str>>,
    /// The body.
    pub payload: Bytes,
    /// Answered after the commit.
    pub reply: oneshot::Sender<Result<DeliveryId, WriteError>>,
}

/// An attempt to be logged.
pub struct Record {
    /// Told when it is durable.
    pub sink: Arc<dyn Sink>,
    /// The row; its id is given by the writer.
    pub log: AttemptLog,
    /// What becomes of the delivery's retry, in the same transaction.
    pub retry: RetryChange,
    /// The attempt's place among the node's attempts: it is free again when the row is durable, so that attempts that
    /// are not yet logged are bounded. `None` when there was no attempt.
    pub permit: Option<OwnedSemaphorePermit>,
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
    records: VecDeque<Record>,
    /// The last word of each subscription.
    positions: BTreeMap<SubscriptionId, (Arc<dyn Sink>, Option<DeliveryId>)>,
    watermark: Option<DeliveryId>,
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
        newest: Option<uuid::Uuid>,
        metrics: Arc<Metrics>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let queue = Queue { last_id: DeliveryId(newest.unwrap_or_default()), ..Queue::default() };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake: Notify::new(), lost: watch::Sender::new(None) });
        let task = Task { shared: shared.clone(), failures: 0, store, clock, ids: IdSource::above(newest), metrics };
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
        self.0.lock().records.push_back(record);
        self.0.wake.notify_one();
    }

    /// Writes, or removes, the subscription's own position.
    pub fn position(&self, sink: Arc<dyn Sink>, id: SubscriptionId, position: Option<DeliveryId>) {
        self.0.lock().positions.insert(id, (sink, position));
        self.0.wake.notify_one();
    }

    /// Writes the watermark with the next batch.
    pub fn watermark(&self, watermark: DeliveryId) {
        self.0.lock().watermark = Some(watermark);
        self.0.wake.notify_one();
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

/// What one batch is made of, beside the rows: who waits for it.
struct Pending {
    claims: Vec<Claim>,
    replies: Vec<Option<oneshot::Sender<Result<DeliveryId, WriteError>>>>,
    record_sinks: Vec<Arc<dyn Sink>>,
    permits: Vec<Option<OwnedSemaphorePermit>>,
    position_sinks: Vec<Arc<dyn Sink>>,
    batch: Batch,
    taken_at: Instant,
}

struct Task {
    shared: Arc<Shared>,
    /// Commits that failed since the last one that did not.
    failures: u32,
    store: Arc<dyn Store>,
    clock: Clock,
    ids: IdSource,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let Some(pending) = self.take() else {
                if self.shared.lock().closing {
                    return;
                }
                self.shared.wake.notified().await;
                continue;
            };
            if let Err(lost) = self.settle(pending).await {
                tracing::error!(error = %lost, "the store is lost to this process");
                self.shared.lock().closing = true;
                self.shared.lost.send_replace(Some(lost));
                return;
            }
            self.shared.lock().unsettled_from = None;
        }
    }

    /// The next batch, if there is anything to write.
    fn take(&mut self) -> Option<Pending> {
        let wall = self.clock.wall();
        let mut queue = self.shared.lock();
        let mut pending = Pending::new();
        let mut bytes = 0;
        while pending.batch.deliveries.len() < MAX_BATCH_ROWS && bytes < MAX_BATCH_BYTES {
            let Some(submission) = queue.submissions.pop_front() else { break };
            // Its producer went away before anything was stored: nothing is owed.
            if submission.reply.is_closed() {
                continue;
            }
            bytes += submission.payload.len();
            let id = DeliveryId(self.ids.next(wall));
            queue.last_id = id;
            pending.add(id, submission);
        }
        let records = queue.records.len().min(MAX_BATCH_ROWS);
        for record in queue.records.drain(..records) {
            pending.add_record(self.ids.next(wall), record);
        }
        for (id, (sink, position)) in std::mem::take(&mut queue.positions) {
            pending.batch.positions.push((id, position));
            pending.position_sinks.push(sink);
        }
        pending.batch.watermark = queue.watermark.take();
        queue.unsettled_from = pending.batch.deliveries.first().map(|delivery| delivery.id);
        drop(queue);
        (!pending.batch.is_empty()).then_some(pending)
    }

    /// Commits the batch, whatever it takes. `Err` only when another process owns the store.
    async fn settle(&mut self, mut pending: Pending) -> Result<(), StoreError> {
        loop {
            match self.commit(&pending.batch).await {
                Ok(()) => {
                    self.is_up();
                    pending.durable();
                    return Ok(());
                }
                Err(StoreError::NotOwner) => {
                    pending.refuse(&WriteError::Unavailable { ambiguous: false });
                    return Err(StoreError::NotOwner);
                }
                Err(error) if error.is_retryable() => {
                    self.is_down(&error);
                    self.reconnect(&mut pending).await?;
                    if pending.batch.is_empty() {
                        // The next batch tells whether it can be written to; until then it is let in.
                        self.shared.lock().down = false;
                        return Ok(());
                    }
                }
                Err(error) => return Box::pin(self.bisect(pending, error)).await,
            }
        }
    }

    async fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let started = Instant::now();
        let result = self.store.commit(batch).await;
        self.metrics.committed(batch.deliveries.len() + batch.logs.len(), started.elapsed());
        result
    }

    fn is_up(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.shared.lock().down = false;
            self.metrics.store_up(true);
            tracing::info!("the store is back");
        }
    }

    fn is_down(&mut self, error: &StoreError) {
        if self.failures == 0 {
            tracing::warn!(%error, "a commit failed; trying until the store is back");
            self.metrics.store_up(false);
        }
        self.failures = self.failures.saturating_add(1);
        self.shared.lock().down = true;
    }

    /// Waits for the store, then keeps of the batch what is still to be written. While the store is away new events
    /// are refused at once, and those in the queue after [`ACK_DEADLINE`].
    async fn reconnect(&mut self, pending: &mut Pending) -> Result<(), StoreError> {
        let mut wait = RECONNECT_BACKOFF.start;
        let mut denied_since = None;
        // A store that can be reached and not written to (full, read-only) must not be hammered, nor keep producers waiting.
        let hopeless = self.failures > 1;
        if hopeless {
            self.refuse_queued();
            tokio::time::sleep(RECONNECT_BACKOFF.end).await;
        }
        loop {
            // Once the store is acquired again the old connection is dead, and the fate of its commit decided.
            match self.store.acquire().await {
                Ok(true) => match self.store.stored(&pending.ids()).await {
                    Ok(stored) => {
                        if hopeless {
                            pending.refuse_unstored(&stored);
                        }
                        pending.keep_unstored(&stored);
                        return Ok(());
                    }
                    Err(error) => tracing::debug!(%error, "the store came back and went away again"),
                },
                // The server may not have noticed yet that our own last connection is gone.
                Ok(false) if denied_since.get_or_insert_with(Instant::now).elapsed() < OWNERSHIP_PATIENCE => {}
                Ok(false) => {
                    pending.refuse(&WriteError::Unavailable { ambiguous: true });
                    return Err(StoreError::NotOwner);
                }
                Err(error) => tracing::debug!(%error, "the store is still away"),
            }
            if pending.taken_at.elapsed() > ACK_DEADLINE {
                pending.refuse(&WriteError::Unavailable { ambiguous: true });
            }
            self.refuse_queued();
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RECONNECT_BACKOFF.end);
        }
    }

    /// What waits in the queue while the store is away has not been tried: it is refused, and not stored.
    fn refuse_queued(&self) {
        let refused = std::mem::take(&mut self.shared.lock().submissions);
        for submission in refused {
            let _ = submission.reply.send(Err(WriteError::Unavailable { ambiguous: false }));
        }
    }

    /// One row that the store refuses must not take the others with it: halve until it stands alone.
    async fn bisect(&mut self, mut pending: Pending, error: StoreError) -> Result<(), StoreError> {
        if let Some(rest) = pending.split_off_half() {
            self.settle(pending).await?;
            return self.settle(rest).await;
        }
        tracing::error!(%error, "the store refused a row");
        if pending.batch.deliveries.is_empty() {
            // A log that cannot be stored as it is loses its texts, not its place: the delivery must go on.
            if pending.strip_texts() {
                return self.settle(pending).await;
            }
            pending.durable();
        } else {
            pending.refuse(&WriteError::Rejected(error.to_string()));
        }
        Ok(())
    }
}

/// How long another holder of the store is taken for our own dead connection. Longer than it takes a server to notice
/// by keep-alive that a peer is gone.
const OWNERSHIP_PATIENCE: Duration = Duration::from_secs(20);

impl Pending {
    fn new() -> Self {
        Self {
            claims: Vec::new(),
            replies: Vec::new(),
            record_sinks: Vec::new(),
            permits: Vec::new(),
            position_sinks: Vec::new(),
            batch: Batch::default(),
            taken_at: Instant::now(),
        }
    }

    fn add(&mut self, id: DeliveryId, submission: Submission) {
        let Submission { claim, subscription_id, event_type, payload, reply } = submission;
        self.batch.deliveries.push(Delivery { id, subscription_id, event_type, payload, event_id: None });
        self.claims.push(claim);
        self.replies.push(Some(reply));
    }

    fn add_record(&mut self, id: uuid::Uuid, record: Record) {
        let Record { sink, mut log, retry, permit } = record;
        log.id = id;
        match retry {
            RetryChange::None => {}
            RetryChange::Schedule(retry) => self.batch.retries.push(retry),
            RetryChange::Settle => self.batch.settled.push(log.delivery_id),
        }
        self.batch.logs.push(log);
        self.record_sinks.push(sink);
        self.permits.push(permit);
    }

    fn ids(&self) -> Vec<DeliveryId> {
        self.batch.deliveries.iter().map(|delivery| delivery.id).collect()
    }

    /// Tells everyone, actors before producers: whoever has an answer finds its delivery under way.
    fn durable(self) {
        let Self { claims, replies, record_sinks, permits, position_sinks, batch, .. } = self;
        for ((claim, reply), delivery) in claims.into_iter().zip(replies).zip(batch.deliveries) {
            let id = delivery.id;
            claim.0.committed(delivery);
            if let Some(reply) = reply {
                let _ = reply.send(Ok(id));
            }
        }
        for (sink, log) in record_sinks.into_iter().zip(batch.logs) {
            sink.recorded(log.delivery_id);
        }
        drop(permits);
        for (sink, (_, position)) in position_sinks.into_iter().zip(batch.positions) {
            sink.positioned(position);
        }
    }

    /// Answers every producer that still waits with this error.
    fn refuse(&mut self, error: &WriteError) {
        for reply in self.replies.iter_mut().filter_map(Option::take) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Answers those whose event is known not to be stored.
    fn refuse_unstored(&mut self, stored: &[DeliveryId]) {
        let stored: HashSet<_> = stored.iter().collect();
        for (delivery, reply) in self.batch.deliveries.iter().zip(&mut self.replies) {
            if !stored.contains(&delivery.id)
                && let Some(reply) = reply.take()
            {
                let _ = reply.send(Err(WriteError::Unavailable { ambiguous: false }));
            }
        }
    }

    /// After a commit whose reply was lost: what is stored goes on as accepted, what is not stored and has nobody
    /// waiting for it any more is forgotten, the rest is to be written again.
    fn keep_unstored(&mut self, stored: &[DeliveryId]) {
        let stored: HashSet<_> = stored.iter().collect();
        let claims = std::mem::take(&mut self.claims);
        let replies = std::mem::take(&mut self.replies);
        let deliveries = std::mem::take(&mut self.batch.deliveries);
        for ((claim, reply), delivery) in claims.into_iter().zip(replies).zip(deliveries) {
            let id = delivery.id;
            if stored.contains(&id) {
                claim.0.committed(delivery);
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(id));
                }
            } else if reply.as_ref().is_some_and(|reply| !reply.is_closed()) {
                self.claims.push(claim);
                self.replies.push(reply);
                self.batch.deliveries.push(delivery);
            }
        }
    }

    /// Splits a batch of more than one row; `None` when it has one.
    fn split_off_half(&mut self) -> Option<Self> {
        let (keep_deliveries, keep_logs) = match (self.batch.deliveries.len(), self.batch.logs.len()) {
            (0, 0 | 1) | (1, 0) => return None,
            (deliveries, 0) => (deliveries / 2, 0),
            (0, logs) => (0, logs / 2),
            (deliveries, _) => (deliveries, 0),
        };
        let mut rest = Self { taken_at: self.taken_at, ..Self::new() };
        rest.batch.deliveries = self.batch.deliveries.split_off(keep_deliveries);
        rest.claims = self.claims.split_off(keep_deliveries);
        rest.replies = self.replies.split_off(keep_deliveries);
        rest.batch.logs = self.batch.logs.split_off(keep_logs);
        rest.record_sinks = self.record_sinks.split_off(keep_logs);
        rest.permits = self.permits.split_off(keep_logs);
        let moved: HashSet<_> = rest.batch.logs.iter().map(|log| log.delivery_id).collect();
        (rest.batch.retries, self.batch.retries) =
            self.batch.retries.drain(..).partition(|retry| moved.contains(&retry.delivery_id));
        (rest.batch.settled, self.batch.settled) = self.batch.settled.drain(..).partition(|id| moved.contains(id));
        Some(rest)
    }

    /// Removes the texts of the logs; whether there were any.
    fn strip_texts(&mut self) -> bool {
        let mut any = false;
        for log in &mut self.batch.logs {
            any |= log.error_details.take().is_some() | log.response_body.take().is_some();
        }
        any
    }
}
