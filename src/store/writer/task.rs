//! The writer's task: takes what waits, commits it, and sees to what became of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::super::ids::IdSource;
use super::super::{Store, StoreError};
use super::pending::Pending;
use super::{Key, Shared, WriteError};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Most deliveries, and most logs, in one commit: past this a batch gets slower and not cheaper.
pub(super) const MAX_BATCH_ROWS: usize = 1024;
/// Most payload in one commit, so that one statement stays far below what a server takes.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Bounds between tries to reach a store that is away.
pub(super) const RECONNECT_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);
/// How long an event may wait for a store that went away while it waited; its producer has an answer before that.
pub(super) const ACK_DEADLINE: Duration = Duration::from_secs(5);
/// How long another holder of the store is taken for our own dead connection. Longer than it takes a server to notice
/// by keep-alive that a peer is gone.
pub(super) const OWNERSHIP_PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Task {
    pub shared: Arc<Shared>,
    /// Commits that failed since the last one that did not.
    pub failures: u32,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub ids: IdSource,
    pub metrics: Arc<Metrics>,
}

impl Task {
    pub async fn run(mut self) {
        loop {
            let Some(pending) = self.take() else {
                let due_at = {
                    let queue = self.shared.lock();
                    if queue.closing {
                        // What came since has been promised an answer.
                        if queue.submissions.is_empty() && queue.records.is_empty() {
                            return;
                        }
                        continue;
                    }
                    queue.records.due_at()
                };
                let woken = self.shared.wake.notified();
                match due_at {
                    Some(at) => drop(timeout_at(at, woken).await),
                    None => woken.await,
                }
                continue;
            };
            if let Err(lost) = self.settle(pending).await {
                tracing::error!(error = %lost, "the store is lost to this process");
                self.shared.lock().closing = true;
                self.refuse_queued();
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
        if let Some(floor) = queue.floor.take() {
            self.ids.rise_above(floor.0);
        }
        let mut pending = Pending::new();
        let (mut rows, mut bytes) = (0, 0);
        let (mut keys, mut repeated, mut abandoned) = (HashSet::new(), Vec::new(), Vec::new());
        while rows < MAX_BATCH_ROWS && bytes < MAX_BATCH_BYTES {
            let Some(submission) = queue.submissions.pop_front() else { break };
            // Its producer went away before anything was stored: nothing is owed.
            if submission.reply.is_closed() {
                abandoned.push(submission);
                continue;
            }
            // The second with a key waits for what becomes of the first. However many there are, nobody behind them waits, too.
            if submission.key.as_ref().is_some_and(|key| keys.contains(&key.name())) {
                repeated.push(submission);
                continue;
            }
            // A large fan-out has a commit of its own: it makes others wait, and does not take them with it.
            if rows > 0 && rows + submission.what.rows() > MAX_BATCH_ROWS {
                queue.submissions.push_front(submission);
                break;
            }
            keys.extend(submission.key.as_ref().map(Key::name));
            rows += submission.what.rows();
            bytes += submission.what.bytes();
            let last = pending.add(wall, submission, || self.ids.next(wall));
            queue.last_id = last.unwrap_or(queue.last_id);
        }
        for submission in repeated.into_iter().rev() {
            queue.submissions.push_front(submission);
        }
        if queue.closing || queue.records.are_due(pending.taken_at) {
            // What they announce is bounded like what was submitted, and never keeps the first of them waiting.
            let most = pending.batch.deliveries.len() + MAX_BATCH_ROWS;
            while pending.batch.logs.len() < MAX_BATCH_ROWS && pending.batch.deliveries.len() < most {
                let Some(record) = queue.records.pop() else { break };
                let last = pending.add_record(wall, record, || self.ids.next(wall));
                queue.last_id = last.unwrap_or(queue.last_id);
            }
        }
        for (id, (sink, position)) in std::mem::take(&mut queue.positions) {
            pending.batch.positions.push((id, position));
            pending.position_sinks.push(sink);
        }
        pending.batch.watermark = queue.watermark.take();
        queue.unsettled_from = pending.batch.deliveries.first().map(|delivery| delivery.id);
        drop(queue);
        // Not before: whoever hears that a claim is given up takes locks of its own, and may hold one while it waits for ours.
        drop(abandoned);
        (!pending.batch.is_empty()).then_some(pending)
    }

    /// Commits the batch, whatever it takes. `Err` only when another process owns the store.
    async fn settle(&mut self, mut pending: Pending) -> Result<(), StoreError> {
        loop {
            match self.commit(&mut pending).await {
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
                    // What one commit cannot take in time it will not take the next time either, and everyone waits for it.
                    if pending.batch.events.len() == 1 && pending.batch.deliveries.len() > MAX_BATCH_ROWS {
                        pending.refuse(&WriteError::Unavailable { ambiguous: false });
                        pending.keep_unstored(&HashSet::new(), true);
                    }
                    if pending.batch.is_empty() {
                        // The next batch tells whether it can be written to; until then it is let in.
                        self.shared.lock().down = false;
                        return Ok(());
                    }
                }
                Err(error) => {
                    // It answers: it refuses the row, and is not away.
                    self.is_up();
                    return Box::pin(self.bisect(pending, error)).await;
                }
            }
        }
    }

    async fn commit(&self, pending: &mut Pending) -> Result<(), StoreError> {
        if !pending.batch.keys.is_empty() {
            let keys: Vec<_> = pending.batch.keys.iter().map(|key| (key.scope.clone(), key.key.clone())).collect();
            // This process alone commits, so what is not held now is not held at the commit; the unique index would
            // refuse it if it were.
            match self.store.idempotency_keys(&keys).await {
                Ok(held) => pending.answer_held(held),
                // A read that finds no connection is no reason to refuse what has no key.
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, "idempotency keys could not be looked up; their events are refused");
                    pending.refuse_keyed();
                }
                Err(error) => return Err(error),
            }
            if pending.batch.is_empty() {
                return Ok(());
            }
        }
        #[cfg(feature = "negative-controls")]
        if crate::negative_controls::acks_before_commit() {
            pending.answer_early();
        }
        let batch = &pending.batch;
        let started = Instant::now();
        let result = self.store.commit(batch).await;
        match result {
            Ok(()) => self.metrics.committed(batch.deliveries.len() + batch.logs.len(), started.elapsed()),
            Err(_) => self.metrics.commit_failed(),
        }
        result
    }

    fn is_up(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.shared.lock().down = false;
            tracing::info!("the store is back");
        }
    }

    fn is_down(&mut self, error: &StoreError) {
        if self.failures == 0 {
            tracing::warn!(%error, "a commit failed; trying until the store is back");
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
                Ok(true) => match self.stored(pending).await {
                    Ok(stored) => {
                        pending.keep_unstored(&stored, hopeless);
                        return Ok(());
                    }
                    Err(error) => tracing::debug!(%error, "the store came back and went away again"),
                },
                // The server may not have noticed yet that our own last connection is gone.
                Ok(false) if denied_since.get_or_insert_with(Instant::now).elapsed() < OWNERSHIP_PATIENCE => {}
                Ok(false) | Err(StoreError::NotOwner) => {
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

    /// Which of the batch's deliveries and events are stored.
    async fn stored(&self, pending: &Pending) -> Result<HashSet<Uuid>, StoreError> {
        let (deliveries, events) = pending.ids();
        let deliveries = self.store.stored(&deliveries).await?.into_iter().map(|id| id.0);
        let mut stored: HashSet<_> = deliveries.collect();
        if !events.is_empty() {
            stored.extend(self.store.stored_events(&events).await?.into_iter().map(|id| id.0));
        }
        Ok(stored)
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
        if pending.has_producers() {
            pending.refuse(&WriteError::Rejected(error.to_string()));
        } else if pending.has_logs() {
            // A log that cannot be stored as it is loses its texts, not its place: the delivery must go on.
            if pending.strip_texts() {
                return self.settle(pending).await;
            }
            pending.durable();
        }
        // A position or the watermark is written again when it has changed; nobody is told of it. After a removal its entry stays.
        Ok(())
    }
}
