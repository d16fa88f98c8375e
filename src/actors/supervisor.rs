//! The supervisor: starts a subscription's actor when an event or due work asks for it, restarts it when it crashed,
//! and reconciles what runs with what the store says, so that a lost message heals.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;

use super::AcceptError;
use super::config::Config;
use super::entry::Entry;
use super::node::Node;
use super::subscription::{self, SubscriptionActor};
use crate::delivery::{DeliveryId, Subscription, SubscriptionId};
use crate::store::{Recovery, StoreError};

/// How often due work is looked for. Retries are activated one period ahead, so that none is late by it.
const DUE_PERIOD: Duration = Duration::from_secs(1);
/// How often positions and the watermark are written, and idle actors leave.
const REVIEW_PERIOD: Duration = Duration::from_secs(5);
/// How often the configurations of what runs are compared with the store: the backstop of a lost signal. While the cache
/// that brings the signals is away, they are compared every `DUE_PERIOD`.
const RECONCILE_PERIOD: Duration = Duration::from_secs(30);
/// Most subscriptions activated for due work in one period.
const MAX_DUE: usize = 10_000;
/// Most recovered subscriptions whose actors are being started at once.
const MAX_RECOVERING_AT_ONCE: usize = 64;
/// Bounds of the wait before a crashed actor is started again.
const RESTART_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(30);
/// How far the watermark stays behind now. Longer than a commit can take, statement timeout and clock skew included, so
/// that a commit which becomes visible late is never skipped by a recovery.
pub(super) const WATERMARK_TRAIL: Duration = Duration::from_secs(30);

type Reply = oneshot::Sender<Result<Arc<Entry>, AcceptError>>;

/// What the supervisor is told.
pub(super) enum Message {
    /// Someone needs the subscription's actor.
    Activate(SubscriptionId, Reply),
    /// The configuration that an activation waits for was read.
    Loaded(SubscriptionId, Result<Option<Subscription>, StoreError>),
    /// It was changed, here or elsewhere.
    Changed(Box<Subscription>, Option<oneshot::Sender<()>>),
    /// It was deleted, here or elsewhere.
    Deleted(SubscriptionId, Option<oneshot::Sender<()>>),
    /// Another process says that it has this version now.
    Hint(SubscriptionId, i64),
    Restart(Arc<Entry>),
    /// Deliveries were committed for subscriptions without an actor.
    Unclaimed,
    Due,
    DueFound(Vec<SubscriptionId>),
    Review,
    /// Compare everything that runs with the store.
    Reconcile,
    /// What the store says of these.
    Versions(Vec<SubscriptionId>, Vec<(SubscriptionId, i64)>),
    /// The process is stopping.
    Drain,
}

pub(super) struct Supervisor;

pub(super) struct Arguments {
    pub node: Arc<Node>,
    pub recovery: Recovery,
}

/// An activation that waits for its configuration.
#[derive(Default)]
struct Activation {
    replies: Vec<Reply>,
    /// Set by recovery: everything up to here has been tried, but there may be more.
    recover_from: Option<DeliveryId>,
    /// What was said about it while it was being read: newer than what will be read.
    changed: Option<Box<Subscription>>,
    deleted: bool,
}

pub(super) struct State {
    node: Arc<Node>,
    myself: ActorRef<Message>,
    activations: HashMap<SubscriptionId, Activation>,
    /// Still to be activated after the start.
    to_recover: BTreeMap<SubscriptionId, DeliveryId>,
    recovering: usize,
    actors: HashMap<ActorId, Arc<Entry>>,
    crashes: BTreeMap<SubscriptionId, u32>,
}

impl Actor for Supervisor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { node, recovery } = arguments;
        let watermark = recovery.watermark.unwrap_or(DeliveryId::MIN);
        let untried = recovery.untried.into_iter().map(|id| (id, watermark));
        Ok(State {
            node,
            myself,
            activations: HashMap::new(),
            to_recover: untried.chain(recovery.positions).collect(),
            recovering: 0,
            actors: HashMap::new(),
            crashes: BTreeMap::new(),
        })
    }

    async fn post_start(&self, myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        myself.send_interval(DUE_PERIOD, || Message::Due);
        myself.send_interval(REVIEW_PERIOD, || Message::Review);
        myself.send_interval(RECONCILE_PERIOD, || Message::Reconcile);
        myself.cast(Message::Due)?;
        state.recover_some();
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Activate(id, reply) => state.activate(id, Some(reply)),
            Message::Loaded(id, loaded) => state.loaded(id, loaded).await?,
            Message::Changed(subscription, done) => {
                state.changed(subscription);
                done.map(|done| done.send(()));
            }
            Message::Deleted(id, done) => {
                state.deleted(id);
                done.map(|done| done.send(()));
            }
            Message::Hint(id, version) => state.hint(id, version),
            Message::Restart(entry) => state.restart(&entry).await?,
            Message::Unclaimed => state.claim(),
            Message::Due => {
                // Whose word was lost.
                state.claim();
                state.look_for_due();
                if !state.node.parts.cache.is_up() {
                    state.compare_with_store();
                }
            }
            Message::DueFound(ids) => ids.into_iter().for_each(|id| state.activate(id, None)),
            Message::Review => state.review(),
            Message::Reconcile => state.reconcile(),
            Message::Versions(asked, found) => state.compare(&asked, found),
            Message::Drain => {
                for entry in state.node.entries() {
                    entry.cast(subscription::Message::Drain);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, ..) => {
                if let Some(entry) = state.actors.remove(&actor.get_id()) {
                    state.node.remove(&entry);
                    state.crashes.remove(&entry.id);
                }
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                if let Some(entry) = state.actors.remove(&actor.get_id()) {
                    state.crashed(&myself, entry, &error);
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl State {
    fn activate(&mut self, id: SubscriptionId, reply: Option<Reply>) {
        if let Some(entry) = self.node.entry(id) {
            reply.map(|reply| reply.send(Ok(entry)));
            return;
        }
        let waiting = self.activations.contains_key(&id);
        let activation = self.activations.entry(id).or_default();
        activation.replies.extend(reply);
        if let Some(from) = self.to_recover.remove(&id) {
            activation.recover_from = Some(from);
            self.recovering += 1;
        }
        if !waiting {
            self.load(id);
        }
    }

    /// Reads the subscription through the cache.
    fn load(&self, id: SubscriptionId) {
        let (node, myself) = (self.node.clone(), self.myself.clone());
        tokio::spawn(async move {
            let _alarm = Alarm(id, myself.clone());
            let loaded = match node.parts.cache.get(id).await {
                Some(subscription) => Ok(Some(subscription)),
                None => node.parts.store.subscription(id).await,
            };
            let fresh = loaded.as_ref().ok().and_then(Option::as_ref).cloned();
            let _ = myself.cast(Message::Loaded(id, loaded));
            if let Some(subscription) = fresh {
                node.parts.cache.put(&subscription).await;
            }
        });
    }

    async fn loaded(
        &mut self,
        id: SubscriptionId,
        loaded: Result<Option<Subscription>, StoreError>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(mut activation) = self.activations.remove(&id) else { return Ok(()) };
        let recovered = activation.recover_from.is_some();
        let answer = match loaded {
            Err(error) if recovered => {
                // An outage is logged once, and not again each second for each that waits for its end.
                if error.is_retryable() {
                    tracing::debug!(subscription_id = id.0, %error, "could not recover the subscription; trying again");
                } else {
                    tracing::warn!(subscription_id = id.0, %error, "could not recover the subscription; trying again");
                }
                self.activations.insert(id, activation);
                self.load_later(id);
                return Ok(());
            }
            Err(error) => {
                self.claim_one(id);
                self.recover_some();
                Err(AcceptError::from(error))
            }
            Ok(Some(read)) if !activation.deleted => {
                let newer = activation.changed.take().map(|changed| *changed).filter(|c| c.version > read.version);
                self.start(newer.unwrap_or(read), activation.recover_from).await.map(Ok)?
            }
            Ok(_) => {
                self.node.unclaimed().remove(&id);
                Err(AcceptError::NotFound(id))
            }
        };
        for reply in activation.replies {
            let _ = reply.send(answer.clone());
        }
        if recovered {
            self.recovering -= 1;
            self.recover_some();
        }
        Ok(())
    }

    async fn start(
        &mut self,
        subscription: Subscription,
        recover_from: Option<DeliveryId>,
    ) -> Result<Arc<Entry>, ActorProcessingErr> {
        let config = self.config_of(subscription);
        let entry = self.node.insert(config.subscription.id, |unclaimed| {
            let from = recover_from.into_iter().chain(unclaimed.map(DeliveryId::predecessor)).min();
            // On demand: had it untried deliveries, its position or the recovery would say so. What is being committed
            // by now may hold some, and is above this.
            let tried_through = from.unwrap_or_else(|| self.node.writer.settled_through());
            Entry::new(config, self.node.clone(), tried_through, from.is_some())
        });
        self.node.parts.metrics.activated();
        self.spawn(&entry).await?;
        Ok(entry)
    }

    fn config_of(&self, subscription: Subscription) -> Arc<Config> {
        let parts = &self.node.parts;
        self.rise_above_what_was_dropped(&subscription);
        Config::new(subscription, &parts.vault, parts.clock.wall())
    }

    /// It was made of the clock, which may have been set back since: what comes now was not given up.
    fn rise_above_what_was_dropped(&self, subscription: &Subscription) {
        if let Some(through) = subscription.drop_through {
            self.node.writer.rise_above(through);
        }
    }

    async fn spawn(&mut self, entry: &Arc<Entry>) -> Result<(), ActorProcessingErr> {
        let arguments =
            subscription::Arguments { entry: entry.clone(), node: self.node.clone(), supervisor: self.myself.clone() };
        let (actor, _) = Actor::spawn_linked(None, SubscriptionActor, arguments, self.myself.get_cell()).await?;
        self.actors.insert(actor.get_id(), entry.clone());
        if self.node.is_draining() {
            // Perhaps all that had one have been told already.
            entry.cast(subscription::Message::Drain);
        }
        Ok(())
    }

    fn crashed(&mut self, myself: &ActorRef<Message>, entry: Arc<Entry>, error: &ActorProcessingErr) {
        entry.detach();
        let crashes = self.crashes.entry(entry.id).or_default();
        let wait = RESTART_BACKOFF.start.saturating_mul(1 << (*crashes).min(16)).min(RESTART_BACKOFF.end);
        *crashes += 1;
        tracing::error!(subscription_id = entry.id.0, %error, ?wait, "a subscription actor crashed; it will be restarted");
        self.node.parts.metrics.restarted();
        myself.send_after(wait, || Message::Restart(entry));
    }

    async fn restart(&mut self, entry: &Arc<Entry>) -> Result<(), ActorProcessingErr> {
        if entry.is_closed() {
            self.node.remove(entry);
            return Ok(());
        }
        if self.node.is_draining() {
            // The entry stays: without it the watermark would pass what its actor had not tried.
            return Ok(());
        }
        if entry.is_recording() {
            // What the crashed actor's attempts came to is not durable yet: read now, they would be made again.
            let entry = entry.clone();
            self.myself.send_after(RESTART_BACKOFF.start, || Message::Restart(entry));
            return Ok(());
        }
        self.spawn(entry).await
    }

    fn load_later(&self, id: SubscriptionId) {
        let (node, myself) = (self.node.clone(), self.myself.clone());
        tokio::spawn(async move {
            let _alarm = Alarm(id, myself.clone());
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = myself.cast(Message::Loaded(id, node.parts.store.subscription(id).await));
        });
    }

    /// Starts the next of those that a crash or a stop left unfinished, a few at a time.
    fn recover_some(&mut self) {
        while self.recovering < MAX_RECOVERING_AT_ONCE {
            let Some((id, from)) = self.to_recover.first_key_value().map(|(id, from)| (*id, *from)) else { break };
            self.activate(id, None);
            // It has an actor already, which has taken over what waited for it.
            if self.to_recover.get(&id) == Some(&from) {
                self.to_recover.remove(&id);
            }
        }
    }

    /// Starts the actors of those that have deliveries and none.
    fn claim(&mut self) {
        for id in self.node.take_fresh() {
            // An activation under way takes them over, or claims them when it fails.
            if !self.activations.contains_key(&id) {
                self.claim_one(id);
            }
        }
        self.recover_some();
    }

    fn claim_one(&mut self, id: SubscriptionId) {
        let first = self.node.unclaimed().get(&id).copied();
        if let Some(first) = first {
            self.to_recover.entry(id).or_insert(first.predecessor());
        }
    }

    fn changed(&mut self, subscription: Box<Subscription>) {
        // Before the change is answered, and whether it has an actor or not.
        self.rise_above_what_was_dropped(&subscription);
        self.node.matches.forget();
        self.node.changed.notify_one();
        let id = subscription.id;
        if let Some(activation) = self.activations.get_mut(&id) {
            if activation.changed.as_ref().is_none_or(|known| known.version < subscription.version) {
                activation.changed = Some(subscription);
            }
            return;
        }
        let enabled = subscription.disabled.is_none();
        let taken = self.node.entry(id).is_some_and(|entry| entry.reconfigure(self.config_of(*subscription)));
        if !taken && enabled {
            // It may just have been enabled, with a backlog that nothing else would wake it for.
            self.activate(id, None);
        }
    }

    fn deleted(&mut self, id: SubscriptionId) {
        self.node.matches.forget();
        if let Some(activation) = self.activations.get_mut(&id) {
            activation.deleted = true;
        }
        if let Some(entry) = self.node.entry(id) {
            entry.close();
            self.node.remove(&entry);
            entry.cast(subscription::Message::Deleted);
        }
    }

    /// A subscription without an actor is looked at, too: it may have been enabled, with a backlog.
    fn hint(&self, id: SubscriptionId, version: i64) {
        if self.node.entry(id).is_none_or(|entry| entry.config().subscription.version < version) {
            self.node.matches.forget();
            self.refresh(id);
        }
    }

    /// Reads it from the store, past the cache, and takes it for changed or deleted.
    fn refresh(&self, id: SubscriptionId) {
        let (node, myself) = (self.node.clone(), self.myself.clone());
        tokio::spawn(async move {
            let _ = match node.parts.store.subscription(id).await {
                Ok(Some(subscription)) => myself.cast(Message::Changed(Box::new(subscription), None)),
                Ok(None) => myself.cast(Message::Deleted(id, None)),
                // The next reconciliation asks again.
                Err(_) => return,
            };
        });
    }

    fn look_for_due(&self) {
        if self.node.is_draining() {
            return;
        }
        let (node, myself) = (self.node.clone(), self.myself.clone());
        tokio::spawn(async move {
            let before = node.parts.clock.steady() + DUE_PERIOD * 2;
            let due = node.parts.store.subscriptions_due(before, MAX_DUE).await;
            // Once a second, whatever else is going on: what readiness is told by.
            let before = node.reachable.swap(due.is_ok(), Ordering::Relaxed);
            match &due {
                Err(error) if before => tracing::warn!(%error, "the store does not answer; asking again every second"),
                Ok(_) if !before => tracing::info!("the store answers again"),
                _ => {}
            }
            match due {
                Ok(ids) => {
                    let passive: Vec<_> = ids.into_iter().filter(|id| node.entry(*id).is_none()).collect();
                    if !passive.is_empty() {
                        let _ = myself.cast(Message::DueFound(passive));
                    }
                }
                Err(error) => tracing::debug!(%error, "could not look for due retries"),
            }
        });
    }

    fn review(&mut self) {
        let trail = DeliveryId::floor_at(self.node.parts.clock.wall() - WATERMARK_TRAIL);
        // The writer before the entries: what it has settled by now, they know of. A commit that an outage holds up
        // for longer than the trail must not be passed by the watermark either.
        let settled = self.node.writer.settled_through();
        // Those without an entry before those with one, since a delivery moves only that way.
        let unclaimed = self.node.unclaimed().values().copied().min().map_or(settled, DeliveryId::predecessor);
        let entries = self.node.entries();
        let recovered = self.recovering == 0 && self.to_recover.is_empty();
        if recovered {
            let mut last = self.node.watermark();
            let watermark = entries
                .iter()
                .filter_map(|entry| entry.watermark_bound())
                .fold(trail.min(settled).min(unclaimed), DeliveryId::min);
            if watermark > *last {
                *last = watermark;
                self.node.writer.watermark(watermark);
            }
        }
        for entry in entries.iter().filter(|entry| entry.wants_review()) {
            entry.cast(subscription::Message::Review);
        }
    }

    fn reconcile(&self) {
        self.look_for_parked();
        self.compare_with_store();
    }

    /// Asks for the versions of what runs: so many keys of an index that is in memory.
    fn compare_with_store(&self) {
        const CHUNK: usize = 1000;
        let ids: Vec<_> = self.node.entries().iter().map(|entry| entry.id).collect();
        for chunk in ids.chunks(CHUNK) {
            let (node, myself, asked) = (self.node.clone(), self.myself.clone(), chunk.to_vec());
            tokio::spawn(async move {
                if let Ok(found) = node.parts.store.subscription_versions(&asked).await {
                    let _ = myself.cast(Message::Versions(asked, found));
                }
            });
        }
    }

    /// Enabled subscriptions with a backlog and no actor: one that was enabled through another process, whose word of it
    /// was lost.
    fn look_for_parked(&self) {
        let (node, myself) = (self.node.clone(), self.myself.clone());
        tokio::spawn(async move {
            if let Ok(ids) = node.parts.store.subscriptions_behind(MAX_DUE).await {
                let passive = ids.into_iter().filter(|id| node.entry(*id).is_none()).collect();
                let _ = myself.cast(Message::DueFound(passive));
            }
        });
    }

    fn compare(&mut self, asked: &[SubscriptionId], found: Vec<(SubscriptionId, i64)>) {
        let found: HashMap<_, _> = found.into_iter().collect();
        for id in asked {
            match found.get(id) {
                Some(version) => self.hint(*id, *version),
                None => self.deleted(*id),
            }
        }
    }
}

/// Tells the supervisor when reading a subscription panics: whoever waits for its actor would wait for ever.
struct Alarm(SubscriptionId, ActorRef<Message>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = StoreError::Corrupt("reading the subscription panicked".to_owned());
            let _ = self.1.cast(Message::Loaded(self.0, Err(error)));
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
