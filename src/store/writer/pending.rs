//! A batch on its way: its rows, and who waits for what becomes of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::{Batch, Deed, IdempotencyKey, Progress};
use super::{
    Announcement, Claim, Key, Permit, Record, RecordSink, Refused, Resend, Stored, Submission, What, WriteError,
};
use crate::audit::Thing;
use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, Event, EventId, Outcome, RetryChange, SubscriptionId, Timestamp,
};

type Reply = oneshot::Sender<Result<Stored, WriteError>>;

/// See the module's docs. `batch.deliveries`, `.events`, `.keys`, `.deeds`, `.progress` and the first `refusals` of `.logs` are in the order of
/// `producers`; the other logs are those of `record_sinks`.
pub(super) struct Pending {
    pub batch: Batch,
    pub taken_at: Instant,
    producers: Vec<Producer>,
    refusals: usize,
    record_sinks: Vec<Arc<dyn RecordSink>>,
    permits: Vec<Option<Permit>>,
    pub position_sinks: Vec<Arc<dyn RecordSink>>,
}

/// One submission: what of the batch is its own, and who is told.
struct Producer {
    claim: Claim,
    /// Taken when it is answered. An announcement has none.
    reply: Option<Reply>,
    /// It is written although nobody waits for it.
    owed: bool,
    event: Option<EventId>,
    has_key: bool,
    has_deed: bool,
    has_progress: bool,
    deliveries: usize,
    /// How many of them, the last ones, have ended with a log row of their own.
    refused: usize,
}

/// A producer with its rows, for the rare occasions on which a batch is taken apart.
struct Part {
    producer: Producer,
    event: Option<Event>,
    key: Option<IdempotencyKey>,
    deed: Option<Deed>,
    progress: Option<Progress>,
    deliveries: Vec<Delivery>,
    logs: Vec<AttemptLog>,
}

impl Part {
    /// What the store is asked for, and what a key stands for.
    fn outcome(&self) -> Option<Uuid> {
        let delivery = || self.deliveries.first().map(|delivery| delivery.id.0);
        self.producer.event.map(|event| event.0).or_else(delivery)
    }

    fn answer(&mut self, answer: Result<Stored, WriteError>) {
        if let Some(reply) = self.producer.reply.take() {
            let _ = reply.send(answer);
        }
    }
}

impl Pending {
    pub fn new() -> Self {
        Self {
            batch: Batch::default(),
            taken_at: Instant::now(),
            producers: Vec::new(),
            refusals: 0,
            record_sinks: Vec::new(),
            permits: Vec::new(),
            position_sinks: Vec::new(),
        }
    }

    /// Takes a submission in; the id of its last delivery, if it has any.
    pub fn add(&mut self, now: Timestamp, submission: Submission, next_id: impl FnMut() -> Uuid) -> Option<DeliveryId> {
        let Submission { claim, what, key, reply } = submission;
        self.add_producer(now, claim, what, key, Some(reply), next_id)
    }

    fn add_producer(
        &mut self,
        now: Timestamp,
        claim: Claim,
        what: What,
        key: Option<Key>,
        reply: Option<Reply>,
        mut next_id: impl FnMut() -> Uuid,
    ) -> Option<DeliveryId> {
        let before = self.batch.deliveries.len();
        let mut logs = Vec::new();
        let (deeds, progress) = (self.batch.deeds.len(), self.batch.progress.len());
        let (event, outcome) = match what {
            What::Delivery { subscription_id, event_type, ordering_key, payload, trace } => {
                let id = DeliveryId(next_id());
                self.batch.deliveries.push(Delivery {
                    id,
                    subscription_id,
                    event_type,
                    payload,
                    event_id: None,
                    ordering_key,
                    trace,
                    resend_of: None,
                });
                (None, id.0)
            }
            What::Resends { subscription_id, resends, deed, progress } => {
                let first = self.add_resends(subscription_id, resends, &mut next_id);
                self.batch.deeds.extend(deed.map(|(act, tenant)| Deed {
                    act,
                    object: Thing::Subscription(subscription_id),
                    tenant,
                    at: now,
                    with: first,
                }));
                self.batch.progress.extend(progress.map(|progress| Progress { with: Some(first), ..progress }));
                (None, first.0)
            }
            What::Event { tenant, event_type, ordering_key, payload, trace, subscriptions, refused } => {
                let id = EventId(next_id());
                let deliveries = u32::try_from(subscriptions.len() + refused.len()).unwrap_or(u32::MAX);
                let whose = subscriptions.iter().copied().chain(refused.iter().map(|refused| refused.subscription_id));
                self.batch.deliveries.extend(whose.map(|subscription_id| Delivery {
                    id: DeliveryId(next_id()),
                    subscription_id,
                    event_type: Some(event_type.clone()),
                    payload: payload.clone(),
                    event_id: Some(id),
                    ordering_key: ordering_key.clone(),
                    trace: trace.clone(),
                    resend_of: None,
                }));
                let ended = self.batch.deliveries[before + subscriptions.len()..].iter().zip(refused.iter());
                logs.extend(ended.map(|(delivery, refused)| refusal(next_id(), now, delivery.id, refused)));
                self.batch.events.push(Event { id, tenant, event_type, ordering_key, payload, deliveries, trace });
                (Some(id), id.0)
            }
        };
        let has_key = key.is_some();
        self.batch.keys.extend(key.map(|Key { scope, key, request_hash }| IdempotencyKey {
            scope,
            key,
            request_hash,
            outcome,
            created_at: now,
        }));
        let deliveries = self.batch.deliveries.len() - before;
        let refused = logs.len();
        self.put_back_logs(logs);
        let owed = reply.is_none();
        let (has_deed, has_progress) = (self.batch.deeds.len() > deeds, self.batch.progress.len() > progress);
        let counts = Producer { claim, reply, owed, event, has_key, has_deed, has_progress, deliveries, refused };
        self.producers.push(counts);
        self.batch.deliveries[before..].last().map(|delivery| delivery.id)
    }

    /// The id of the first.
    fn add_resends(
        &mut self,
        subscription_id: SubscriptionId,
        resends: Vec<Resend>,
        mut next_id: impl FnMut() -> Uuid,
    ) -> DeliveryId {
        let before = self.batch.deliveries.len();
        let deliveries = resends.into_iter().map(|Resend { of, event_type, ordering_key, payload, trace }| Delivery {
            id: DeliveryId(next_id()),
            subscription_id,
            event_type,
            payload,
            event_id: None,
            ordering_key,
            trace,
            resend_of: Some(of),
        });
        self.batch.deliveries.extend(deliveries);
        self.batch.deliveries.get(before).map_or(DeliveryId::MIN, |first| first.id)
    }

    /// Takes a record in, with its announcement; the id of that one's last delivery, if there is one.
    pub fn add_record(
        &mut self,
        now: Timestamp,
        record: Record,
        mut next_id: impl FnMut() -> Uuid,
    ) -> Option<DeliveryId> {
        let Record { sink, mut log, retry, permit, announcement, urgent: _ } = record;
        log.id = next_id();
        match retry {
            RetryChange::None => {}
            RetryChange::Schedule(retry) => self.batch.retries.push(retry),
            RetryChange::Settle => self.batch.settled.push(log.delivery_id),
        }
        self.batch.logs.push(log);
        self.record_sinks.push(sink);
        self.permits.push(permit);
        let Announcement { claim, what } = *announcement?;
        self.add_producer(now, claim, what, None, None, next_id)
    }

    /// What tells whether a producer's rows are stored: its event, or its delivery.
    pub fn ids(&self) -> (Vec<DeliveryId>, Vec<EventId>) {
        let single = self.batch.deliveries.iter().filter(|delivery| delivery.event_id.is_none());
        (single.map(|delivery| delivery.id).collect(), self.batch.events.iter().map(|event| event.id).collect())
    }

    /// Tells everyone, actors before producers: whoever has an answer finds its delivery under way.
    pub fn durable(self) {
        let Self { producers, refusals, record_sinks, permits, position_sinks, batch, .. } = self;
        let mut deliveries = batch.deliveries.into_iter();
        for producer in producers {
            hand_over(producer, &mut deliveries);
        }
        for (sink, log) in record_sinks.into_iter().zip(batch.logs.into_iter().skip(refusals)) {
            sink.recorded(log.delivery_id, log.outcome);
        }
        drop(permits);
        for (sink, (_, position)) in position_sinks.into_iter().zip(batch.positions) {
            sink.positioned(position);
        }
    }

    /// Breaks the promise that nobody is answered before the commit.
    #[cfg(feature = "negative-controls")]
    pub fn answer_early(&mut self) {
        let mut deliveries = self.batch.deliveries.iter().map(|delivery| (delivery.subscription_id, delivery.id));
        for producer in &mut self.producers {
            let accepted: Vec<_> = deliveries.by_ref().take(producer.deliveries - producer.refused).collect();
            let refused = deliveries.by_ref().take(producer.refused).collect();
            let stored = match (producer.event, accepted.first()) {
                (Some(id), _) => Stored::Event { id, deliveries: accepted, refused },
                (None, Some((_, delivery))) => Stored::Delivery(*delivery),
                (None, None) => continue,
            };
            producer.reply.take().map(|reply| reply.send(Ok(stored)));
        }
    }

    /// Answers every producer that still waits with this error.
    pub fn refuse(&mut self, error: &WriteError) {
        for reply in self.producers.iter_mut().filter_map(|producer| producer.reply.take()) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Answers those whose key is held already: with what their first request came to, or, when it was another request,
    /// with an error. Nothing of theirs is stored again.
    pub fn answer_held(&mut self, held: Vec<IdempotencyKey>) {
        let held: HashMap<_, _> = held.into_iter().map(|key| ((key.scope.clone(), key.key.clone()), key)).collect();
        for mut part in self.take_apart() {
            let first = part.key.as_ref().and_then(|key| held.get(&(key.scope.clone(), key.key.clone())));
            match (first, &part.key) {
                // Its own row: the commit that is being decided has stored it.
                (Some(first), _) if Some(first.outcome) == part.outcome() => self.put_back(part),
                (Some(first), Some(key)) if first.request_hash == key.request_hash => {
                    let outcome = first.outcome;
                    part.answer(Ok(Stored::Before(outcome)));
                }
                (Some(_), _) => part.answer(Err(WriteError::KeyReused)),
                (None, _) => self.put_back(part),
            }
        }
    }

    /// Answers those that came with a key that the store cannot be asked for. Nothing of theirs is stored.
    pub fn refuse_keyed(&mut self) {
        for mut part in self.take_apart() {
            if part.key.is_some() {
                part.answer(Err(WriteError::Unavailable { ambiguous: false }));
            } else {
                self.put_back(part);
            }
        }
    }

    /// After a commit whose reply was lost: what is stored goes on as accepted, what is not stored and has nobody
    /// waiting for it any more is forgotten, the rest is to be written again. `refuse` answers the rest, too: the store
    /// cannot be written to.
    pub fn keep_unstored(&mut self, stored: &HashSet<Uuid>, refuse: bool) {
        for mut part in self.take_apart() {
            if part.outcome().is_some_and(|id| stored.contains(&id)) {
                hand_over(part.producer, &mut part.deliveries.into_iter());
            } else if part.producer.owed {
                self.put_back(part);
            } else if refuse {
                part.answer(Err(WriteError::Unavailable { ambiguous: false }));
            } else if part.producer.reply.as_ref().is_some_and(|reply| !reply.is_closed()) {
                self.put_back(part);
            }
        }
    }

    /// Splits a batch of more than one row; `None` when it has one. What says how far everything is comes apart from the
    /// rows first.
    pub fn split_off_half(&mut self) -> Option<Self> {
        if !self.batch.positions.is_empty() || self.batch.watermark.is_some() {
            return self.split_off_marks();
        }
        let (keep_producers, keep_logs) = match (self.producers.len(), self.record_sinks.len()) {
            (0, 0 | 1) | (1, 0) => return None,
            (producers, 0) => (producers / 2, 0),
            (0, logs) => (0, logs / 2),
            (producers, _) => (producers, 0),
        };
        let mut rest = Self { taken_at: self.taken_at, ..Self::new() };
        let parts = self.take_apart();
        rest.batch.logs = self.batch.logs.split_off(keep_logs);
        for (at, part) in parts.into_iter().enumerate() {
            if at < keep_producers { self.put_back(part) } else { rest.put_back(part) }
        }
        rest.record_sinks = self.record_sinks.split_off(keep_logs);
        rest.permits = self.permits.split_off(keep_logs);
        let moved: HashSet<_> = rest.batch.logs[rest.refusals..].iter().map(|log| log.delivery_id).collect();
        (rest.batch.retries, self.batch.retries) =
            self.batch.retries.drain(..).partition(|retry| moved.contains(&retry.delivery_id));
        (rest.batch.settled, self.batch.settled) = self.batch.settled.drain(..).partition(|id| moved.contains(id));
        Some(rest)
    }

    fn split_off_marks(&mut self) -> Option<Self> {
        let mut rest = Self { taken_at: self.taken_at, ..Self::new() };
        let beside_rows = self.has_producers() || self.has_logs();
        if !beside_rows && self.batch.positions.len() + usize::from(self.batch.watermark.is_some()) == 1 {
            return None;
        }
        let keep = if beside_rows { 0 } else { self.batch.positions.len() / 2 };
        rest.batch.positions = self.batch.positions.split_off(keep);
        rest.position_sinks = self.position_sinks.split_off(keep);
        if beside_rows {
            rest.batch.watermark = self.batch.watermark.take();
        }
        Some(rest)
    }

    /// Whether any attempt is logged in it.
    pub fn has_logs(&self) -> bool {
        !self.record_sinks.is_empty()
    }

    /// Whether any producer has rows in it.
    pub fn has_producers(&self) -> bool {
        !self.producers.is_empty()
    }

    /// Removes the texts of the logs; whether there were any.
    pub fn strip_texts(&mut self) -> bool {
        let strip = |log: &mut AttemptLog| log.error_details.take().is_some() | log.response_body.take().is_some();
        self.batch.logs.iter_mut().fold(false, |any, log| strip(log) | any)
    }

    fn take_apart(&mut self) -> Vec<Part> {
        let mut deliveries = std::mem::take(&mut self.batch.deliveries).into_iter();
        let mut events = std::mem::take(&mut self.batch.events).into_iter();
        let mut keys = std::mem::take(&mut self.batch.keys).into_iter();
        let mut deeds = std::mem::take(&mut self.batch.deeds).into_iter();
        let mut progress = std::mem::take(&mut self.batch.progress).into_iter();
        let mut logs = self.batch.logs.drain(..std::mem::take(&mut self.refusals));
        let parts = std::mem::take(&mut self.producers).into_iter().map(|producer| Part {
            event: producer.event.and_then(|_| events.next()),
            key: producer.has_key.then(|| keys.next()).flatten(),
            deed: producer.has_deed.then(|| deeds.next()).flatten(),
            progress: producer.has_progress.then(|| progress.next()).flatten(),
            deliveries: deliveries.by_ref().take(producer.deliveries).collect(),
            logs: logs.by_ref().take(producer.refused).collect(),
            producer,
        });
        parts.collect()
    }

    fn put_back(&mut self, part: Part) {
        self.batch.events.extend(part.event);
        self.batch.keys.extend(part.key);
        self.batch.deeds.extend(part.deed);
        self.batch.progress.extend(part.progress);
        self.batch.deliveries.extend(part.deliveries);
        self.put_back_logs(part.logs);
        self.producers.push(part.producer);
    }

    /// Before those of attempts.
    fn put_back_logs(&mut self, logs: Vec<AttemptLog>) {
        let (at, more) = (self.refusals, logs.len());
        self.batch.logs.splice(at..at, logs);
        self.refusals += more;
    }
}

/// Why a delivery has ended without an attempt, and without its subscription's actor.
fn refusal(id: Uuid, now: Timestamp, delivery_id: DeliveryId, refused: &Refused) -> AttemptLog {
    let Refused { subscription_id, target_url, max_backlog } = refused;
    AttemptLog {
        id,
        delivery_id,
        subscription_id: *subscription_id,
        target_url: target_url.clone(),
        timestamp: now,
        attempt_number: 0,
        outcome: Outcome::Failure,
        http_status: None,
        error_details: Some(format!(
            "no attempt was made: the subscription's backlog of {max_backlog} unfinished deliveries was full"
        )),
        duration_ms: 0,
        response_body: None,
    }
}

/// Its rows are durable: the actors get their deliveries, then the producer its answer.
fn hand_over(producer: Producer, deliveries: &mut impl Iterator<Item = Delivery>) {
    let Producer { claim, reply, event, deliveries: count, refused: ended, .. } = producer;
    let mut accepted = Vec::with_capacity(count - ended);
    for delivery in deliveries.take(count - ended) {
        accepted.push((delivery.subscription_id, delivery.id));
        claim.0.committed(delivery);
    }
    let refused = deliveries.take(ended).map(|delivery| (delivery.subscription_id, delivery.id)).collect();
    // Before the answer: a claim's release may be what wakes the actors of passive subscriptions.
    drop(claim);
    let stored = match (event, accepted.first()) {
        (Some(id), _) => Stored::Event { id, deliveries: accepted, refused },
        (None, Some((_, delivery))) => Stored::Delivery(*delivery),
        (None, None) => return,
    };
    if let Some(reply) = reply {
        let _ = reply.send(Ok(stored));
    }
}
