//! What the HTTP side may ask of the delivery engine, and how it is started and drained.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorRef};
use tokio::sync::{SetOnce, broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use super::accept::{AcceptError, Accepted, Arrival, NewEvent, Published, RequestKey};
use super::announce;
use super::census;
use super::entry::{Entry, Unclaimed};
use super::fan_out;
use super::ingest::Ingest;
use super::janitor::Janitor;
use super::node::{Node, Parts, longest_wait};
use super::replays;
use super::subscription;
use super::supervisor::{self, Supervisor};
use crate::audit::Act;
use crate::cache::{Cache, Change};
use crate::delivery::{
    Delivery, DeliveryId, EventId, Outcome, Snapshot, Subscription, SubscriptionId, TraceContext, Waits, subscribed,
};
use crate::outbound::signing::SigningKeys;
use crate::store::writer::{Claim, Key, Resend, Stored, Submission, What, WriteError, Writer};
use crate::store::{EventDelivery, Recovery, Store, StoreError};
use crate::vault::Unopened;

/// How long a producer waits for its commit. A store that is slower than this is down, as far as it is concerned. So its
/// answer is there within 6 s, the way to it included.
const ACK_TIMEOUT: Duration = Duration::from_millis(5800);
/// How long an activation may take before its event is refused.
const ACTIVATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an actor may take to say how it is: it waits for nobody.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle to the engine. Cheap to clone. On standby until [`Engine::take_over`]: another process delivers from the
/// store, and this one answers reads and changes subscriptions only.
#[derive(Clone)]
pub struct Engine {
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) running: Arc<SetOnce<Handles>>,
}

pub(super) struct Handles {
    pub(super) node: Arc<Node>,
    supervisor: ActorRef<supervisor::Message>,
    /// Which of the engine's tasks has ended, if one has. Only a stop should end them.
    ended: watch::Sender<Option<&'static str>>,
}

impl Drop for Handles {
    fn drop(&mut self) {
        // The entries hold the node, which holds them. Without them nothing would hold the watermark back.
        self.supervisor.stop(None);
        self.node.forget_entries();
    }
}

/// A subscription whose actor runs, as of the moment of asking.
#[derive(Clone)]
pub struct Active {
    entry: Arc<Entry>,
    subscription: Arc<Subscription>,
    keys: Result<Option<Arc<SigningKeys>>, Arc<Unopened>>,
}

impl Active {
    /// Its configuration.
    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    /// What it signs and verifies with, if it has anything, derived once.
    ///
    /// # Errors
    /// When its secrets do not open.
    pub fn signing_keys(&self) -> Result<Option<&SigningKeys>, &Unopened> {
        self.keys.as_ref().map(Option::as_deref).map_err(|unopened| &**unopened)
    }

    /// Whether it wants events of this type.
    pub fn wants(&self, event_type: Option<&str>) -> bool {
        subscribed(&self.subscription.event_types, event_type)
    }
}

/// A subscription's actor at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveState {
    /// Its machine.
    pub snapshot: Snapshot,
    /// Unfinished deliveries.
    pub backlog: u64,
    /// Most of them; at the limit new events are refused.
    pub max_backlog: u64,
    /// Deliveries that have ended a second, of late.
    pub drain_rate_per_s: f64,
}

/// The tasks that a running engine is made of, for whoever stops it.
pub struct Running {
    writer: JoinHandle<()>,
    changes: JoinHandle<()>,
    janitor: JoinHandle<()>,
    announcer: JoinHandle<()>,
    census: JoinHandle<()>,
    replays: JoinHandle<()>,
    supervisor: JoinHandle<()>,
}

impl Engine {
    /// An engine on standby.
    pub fn standby(store: Arc<dyn Store>, cache: Arc<dyn Cache>) -> Self {
        Self { store, cache, running: Arc::default() }
    }

    /// Starts delivering, over a store that this process has acquired.
    pub async fn take_over(&self, parts: Parts, recovery: Recovery) -> Result<Running, ractor::SpawnErr> {
        let changes = parts.cache.changes();
        let latest = parts.clock.steady() + longest_wait();
        if let Err(error) = parts.store.bring_retries_forward(latest).await {
            tracing::warn!(%error, "retries that a clock set back has put off could not be looked for");
        }
        let (writer, writer_task) =
            Writer::start(parts.store.clone(), parts.clock, recovery.newest_id, parts.metrics.clone());
        let node = Node::new(parts, writer, recovery.watermark.unwrap_or(DeliveryId::MIN));
        let arguments = supervisor::Arguments { node: node.clone(), recovery };
        let (supervisor, supervisor_task) = Actor::spawn(None, Supervisor, arguments).await?;
        let ended = watch::Sender::new(None);
        let running = Running {
            writer: watched("writer", &ended, writer_task),
            changes: watched("changes", &ended, tokio::spawn(follow(changes, supervisor.clone()))),
            janitor: watched("janitor", &ended, tokio::spawn(Janitor::new(node.clone()).run())),
            announcer: watched("announcer", &ended, tokio::spawn(announce::run(node.clone(), supervisor.clone()))),
            census: watched("census", &ended, tokio::spawn(census::run(node.clone()))),
            replays: watched("replays", &ended, tokio::spawn(replays::run(node.clone(), supervisor.clone()))),
            supervisor: watched("supervisor", &ended, supervisor_task),
        };
        let _ = self.running.set(Handles { node, supervisor, ended });
        Ok(running)
    }

    fn handles(&self) -> Result<&Handles, AcceptError> {
        self.running.get().ok_or_else(|| AcceptError::unavailable(STANDBY))
    }

    /// The subscription's actor, started if need be.
    pub async fn activate(&self, id: SubscriptionId) -> Result<Active, AcceptError> {
        let handles = self.handles()?;
        let entry = match handles.node.entry(id) {
            Some(entry) => entry,
            None => start_actor(&handles.supervisor, id).await?,
        };
        let config = entry.config();
        Ok(Active { entry, subscription: config.subscription.clone(), keys: config.keys.clone() })
    }

    /// Whether the subscription's actor runs here.
    pub fn is_active(&self, id: SubscriptionId) -> bool {
        self.handles().is_ok_and(|handles| handles.node.entry(id).is_some())
    }

    /// Makes the event durable and hands it to its actor. Returns after the commit.
    pub async fn accept(
        &self,
        active: &Active,
        event_type: Option<Arc<str>>,
        ordering_key: Option<Arc<str>>,
        payload: Bytes,
        key: Option<RequestKey>,
        arrival: Arrival,
    ) -> Result<Accepted<DeliveryId>, AcceptError> {
        let subscription_id = active.subscription.id;
        let key = key.map(|key| key.in_scope(ingest_scope(subscription_id)));
        let named = event_type.clone();
        let what = |payload, trace| What::Delivery { subscription_id, event_type, ordering_key, payload, trace };
        self.take(active, (named, payload), key, arrival, what).await
    }

    /// Makes a delivery durable that sends an earlier one again, with the deed, and hands it to its actor.
    pub async fn resend(
        &self,
        active: &Active,
        original: Delivery,
        act: Act,
        key: Option<RequestKey>,
    ) -> Result<Accepted<DeliveryId>, AcceptError> {
        let subscription_id = active.subscription.id;
        let key = key.map(|key| key.in_scope(format!("resend/{}", original.id)));
        let deed = Some((act, Some(active.subscription.tenant.clone())));
        let Delivery { id, event_type, ordering_key, payload, resend_of, trace, .. } = original;
        let (named, arrival) = (event_type.clone(), Arrival { trace, ..Arrival::now() });
        let what = |payload, trace| {
            let resends = vec![Resend { of: resend_of.unwrap_or(id), event_type, ordering_key, payload, trace }];
            What::Resends { subscription_id, resends, deed, progress: None }
        };
        self.take(active, (named, payload), key, arrival, what).await
    }

    /// A replay may have been asked for: it begins at once.
    pub fn replay_asked(&self) {
        if let Some(Handles { node, .. }) = self.running.get() {
            node.replay_asked.notify_one();
        }
    }

    async fn take(
        &self,
        active: &Active,
        (event_type, payload): (Option<Arc<str>>, Bytes),
        key: Option<Key>,
        arrival: Arrival,
        what: impl FnOnce(Bytes, Option<Arc<TraceContext>>) -> What,
    ) -> Result<Accepted<DeliveryId>, AcceptError> {
        let node = &self.handles()?.node;
        if node.is_draining() {
            return Err(AcceptError::unavailable("this process is stopping"));
        }
        let payload = active.entry.account.admit(payload).ok_or(AcceptError::BUSY)?;
        let claim = match self.claim(active).await {
            Ok(claim) => claim,
            // What it refuses now it may have taken before: then the producer has missed the answer.
            Err(refusal) => match self.answered_before(key.as_ref()).await? {
                Some(outcome) => return Ok(Accepted { outcome: DeliveryId(outcome), replayed: true }),
                None => return Err(refusal),
            },
        };
        let ingest = Ingest::begin(&node.parts, arrival);
        match write(node, claim, what(payload, ingest.context()), key).await? {
            Stored::Delivery(delivery) => {
                ingest.delivery(delivery, active.subscription.id, event_type.as_deref());
                Ok(Accepted { outcome: delivery, replayed: false })
            }
            Stored::Before(outcome) => {
                ingest.again();
                Ok(Accepted { outcome: DeliveryId(outcome), replayed: true })
            }
            Stored::Event { .. } => Err(AcceptError::Rejected("a delivery became an event".to_owned())),
        }
    }

    /// What the first request with this key was answered with, if there was one.
    pub async fn accepted_before(
        &self,
        active: &Active,
        key: Option<RequestKey>,
    ) -> Result<Option<Accepted<DeliveryId>>, AcceptError> {
        let key = key.map(|key| key.in_scope(ingest_scope(active.subscription.id)));
        let before = self.answered_before(key.as_ref()).await?;
        Ok(before.map(|outcome| Accepted { outcome: DeliveryId(outcome), replayed: true }))
    }

    /// What the first request with this key came to, if there was one.
    async fn answered_before(&self, key: Option<&Key>) -> Result<Option<Uuid>, AcceptError> {
        let Some(key) = key else { return Ok(None) };
        let held = self.store.idempotency_keys(&[(key.scope.clone(), key.key.clone())]).await?;
        match held.first() {
            Some(first) if first.request_hash == key.request_hash => Ok(Some(first.outcome)),
            Some(_) => Err(AcceptError::KeyReused),
            None => Ok(None),
        }
    }

    /// Makes the event durable with a delivery for every subscription that wants it. Returns after the commit.
    pub async fn publish(
        &self,
        event: NewEvent,
        key: Option<RequestKey>,
        arrival: Arrival,
    ) -> Result<Accepted<Published>, AcceptError> {
        let Handles { node, supervisor, .. } = self.handles()?;
        if node.is_draining() {
            return Err(AcceptError::unavailable("this process is stopping"));
        }
        let key = key.map(|key| key.in_scope(format!("events/{}", event.tenant)));
        let ingest = Ingest::begin(&node.parts, arrival);
        let event_type = event.event_type.clone();
        match fan_out::publish(node, supervisor, event, key, ingest.context()).await? {
            Stored::Event { id, mut deliveries, refused } => {
                ingest.event(id, &event_type, deliveries.len(), refused.len());
                deliveries.extend(&refused);
                Ok(Accepted { outcome: Published { id, deliveries, refused, gone: false }, replayed: false })
            }
            Stored::Before(outcome) => {
                ingest.again();
                let published = self.published(EventId(outcome)).await?;
                Ok(Accepted { outcome: published, replayed: true })
            }
            Stored::Delivery(_) => Err(AcceptError::Rejected("an event became a delivery".to_owned())),
        }
    }

    /// What an event was answered with.
    async fn published(&self, id: EventId) -> Result<Published, AcceptError> {
        const PAGE: usize = 1000;
        let (mut deliveries, mut refused) = (Vec::new(), Vec::new());
        loop {
            let after = deliveries.last().map_or(DeliveryId::MIN, |(_, delivery)| *delivery);
            let page = self.store.event_deliveries(id, after, PAGE).await?;
            for EventDelivery { id, subscription_id, last_outcome, .. } in &page {
                deliveries.push((*subscription_id, *id));
                if *last_outcome == Some(Outcome::Failure) && self.was_refused(*id).await? {
                    refused.push((*subscription_id, *id));
                }
            }
            if page.len() < PAGE {
                let gone = deliveries.is_empty() && self.store.event(id).await?.is_none();
                return Ok(Published { id, deliveries, refused, gone });
            }
        }
    }

    /// Whether the delivery ended without an attempt because its subscription's backlog was full.
    async fn was_refused(&self, id: DeliveryId) -> Result<bool, StoreError> {
        let record = self.store.delivery(id).await?;
        Ok(record.and_then(|record| record.attempts.first().map(|log| log.attempt_number == 0)).unwrap_or(false))
    }

    /// A claim on the subscription's entry. An entry that closed meanwhile is looked up again, once: it was passivated,
    /// or the subscription was deleted.
    async fn claim(&self, active: &Active) -> Result<Claim, AcceptError> {
        let id = active.subscription.id;
        if active.subscription.disabled.is_some() {
            return Err(AcceptError::Disabled(id));
        }
        let again = match active.entry.claim() {
            Ok(()) => return Ok(Claim::on(active.entry.clone())),
            Err(Unclaimed::Closed) => self.activate(id).await?,
            Err(unclaimed) => return Err(AcceptError::of(id, &unclaimed)),
        };
        again.entry.claim().map_err(|unclaimed| AcceptError::of(id, &unclaimed))?;
        Ok(Claim::on(again.entry))
    }

    /// Puts a new subscription where its first event will look for it.
    pub async fn subscription_created(&self, subscription: &Subscription) {
        match self.running.get() {
            Some(Handles { node, .. }) => {
                node.matches.forget();
                self.cache.put(subscription).await;
            }
            // The process that delivers has to hear of it: it may just have asked who wants such events.
            None => self.cache.changed(subscription).await,
        }
    }

    /// Tells everyone who caches it that this subscription has changed. Events that come after it see the change.
    pub async fn subscription_changed(&self, subscription: Subscription) {
        // The cache before the actor: one that starts in between would start with what the cache has.
        self.cache.changed(&subscription).await;
        if let Some(Handles { supervisor, .. }) = self.running.get() {
            heard(supervisor, |done| supervisor::Message::Changed(Box::new(subscription), Some(done))).await;
        }
    }

    /// Tells everyone who caches it that this subscription is gone.
    pub async fn subscription_deleted(&self, id: SubscriptionId) {
        self.cache.deleted(id).await;
        if let Some(Handles { supervisor, .. }) = self.running.get() {
            heard(supervisor, |done| supervisor::Message::Deleted(id, Some(done))).await;
        }
    }

    /// The subscription's actor as it is now; `None` when it does not run.
    pub async fn state(&self, id: SubscriptionId) -> Result<Option<LiveState>, AcceptError> {
        let Some(entry) = self.handles()?.node.entry(id) else { return Ok(None) };
        let Some(snapshot) = ask(&entry, subscription::Message::Snapshot).await? else { return Ok(None) };
        let (backlog, drain_rate_per_s) = entry.backlog();
        let in_memory = snapshot.ready + snapshot.retries + snapshot.in_flight;
        let max_backlog = entry.config().subscription.settings.max_backlog();
        let backlog = backlog.unwrap_or(in_memory as u64);
        Ok(Some(LiveState { snapshot, backlog, max_backlog, drain_rate_per_s }))
    }

    /// What an unfinished delivery waits for; `None` when its actor does not run or does not know.
    pub async fn why(&self, subscription: SubscriptionId, delivery: DeliveryId) -> Result<Option<Waits>, AcceptError> {
        let Some(entry) = self.handles()?.node.entry(subscription) else { return Ok(None) };
        ask(&entry, |answer| subscription::Message::Why(delivery, answer)).await
    }

    /// Resolves when this process can deliver no more and should end: another has taken the store, or a part of the
    /// engine has ended that only a stop should end. Says why.
    pub async fn lost(&self) -> String {
        let handles = self.running.wait().await;
        let (mut lost, mut ended) = (handles.node.writer.lost(), handles.ended.subscribe());
        let reason = tokio::select! {
            biased;
            Ok(lost) = lost.wait_for(Option::is_some) => lost.as_ref().map(ToString::to_string),
            Ok(part) = ended.wait_for(Option::is_some) => part.map(|part| format!("the {part} has ended")),
        };
        reason.unwrap_or_default()
    }

    /// Starts no new attempt, waits up to `patience` for those under way, and writes what is left to write. What was
    /// not finished is in the store and goes on with the next start.
    pub async fn drain(&self, running: Running, patience: Duration) {
        let Some(Handles { node, supervisor, .. }) = self.running.get() else { return };
        node.draining.store(true, Ordering::Relaxed);
        let _ = supervisor.cast(supervisor::Message::Drain);
        // Every place free means: every attempt ended and its log row is durable.
        if timeout(patience, node.attempts.all_free()).await.is_err() {
            let left = node.attempts.held();
            tracing::warn!(left, "stopping with attempts under way; they will be made again");
        }
        node.writer.close();
        let mut writer = running.writer;
        if timeout(FLUSH_TIMEOUT, &mut writer).await.is_err() {
            // Their places are held by the log rows that wait for the store.
            let left = node.attempts.held();
            tracing::error!(
                left,
                "the store did not take the last writes in time; attempts are not logged and will be made again"
            );
            writer.abort();
        }
        running.changes.abort();
        running.janitor.abort();
        running.announcer.abort();
        running.census.abort();
        running.replays.abort();
        supervisor.stop(None);
        let _ = timeout(FLUSH_TIMEOUT, running.supervisor).await;
    }
}

/// Has the subscription's actor started.
pub(super) async fn start_actor(
    supervisor: &ActorRef<supervisor::Message>,
    id: SubscriptionId,
) -> Result<Arc<Entry>, AcceptError> {
    let (reply, answer) = oneshot::channel();
    let stopped = || AcceptError::unavailable("this process is stopping");
    supervisor.cast(supervisor::Message::Activate(id, reply)).map_err(|_| stopped())?;
    match timeout(ACTIVATION_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(stopped()),
        Err(_) => Err(AcceptError::unavailable("the store did not answer in time")),
    }
}

/// Sends a message and waits until it was handled. The supervisor waits for nobody, so this is short.
async fn heard(
    supervisor: &ActorRef<supervisor::Message>,
    message: impl FnOnce(oneshot::Sender<()>) -> supervisor::Message,
) {
    let (done, wait) = oneshot::channel();
    if supervisor.cast(message(done)).is_ok() {
        let _ = wait.await;
    }
}

/// Asks the subscription's actor; `None` when it does not run (any more), or does not know.
async fn ask<T>(
    entry: &Entry,
    message: impl FnOnce(oneshot::Sender<T>) -> subscription::Message,
) -> Result<Option<T>, AcceptError> {
    let (answer, wait) = oneshot::channel();
    if !entry.cast(message(answer)) {
        return Ok(None);
    }
    match timeout(ASK_TIMEOUT, wait).await {
        Ok(answer) => Ok(answer.ok()),
        Err(_) => Err(AcceptError::unavailable("the subscription's actor did not answer in time")),
    }
}

/// What a key of a subscription's own producers is unique in.
fn ingest_scope(id: SubscriptionId) -> String {
    format!("ingest/{id}")
}

/// Submits it, and waits for the commit.
pub(super) async fn write(node: &Node, claim: Claim, what: What, key: Option<Key>) -> Result<Stored, AcceptError> {
    let (reply, answer) = oneshot::channel();
    node.writer.submit(Submission { claim, what, key, reply })?;
    match timeout(ACK_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer?),
        Ok(Err(_)) | Err(_) => Err(WriteError::Unavailable { ambiguous: true }.into()),
    }
}

/// Tells when a task has ended, however it did.
fn watched(name: &'static str, ended: &watch::Sender<Option<&'static str>>, task: JoinHandle<()>) -> JoinHandle<()> {
    let ended = ended.clone();
    tokio::spawn(async move {
        // Aborting the watcher must abort the task, too.
        let _task = AbortOnDrop(task.abort_handle());
        let _ = task.await;
        ended.send_replace(Some(name));
    })
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) const STANDBY: &str = "standby: another process delivers from this store";

/// How long the last batch may take at a stop.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Passes on what other processes say about subscriptions.
async fn follow(mut changes: broadcast::Receiver<Change>, supervisor: ActorRef<supervisor::Message>) {
    loop {
        let message = match changes.recv().await {
            Ok(Change::Subscription { id, version }) => supervisor::Message::Hint(id, version),
            Ok(Change::Everything) | Err(broadcast::error::RecvError::Lagged(_)) => supervisor::Message::Reconcile,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if supervisor.cast(message).is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
