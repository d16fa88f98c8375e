//! What people do to a running engine: they send events, change subscriptions, delete them. Each in a task of its own, which
//! dies with the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hookpost::access::Actor;
use hookpost::actors::{AcceptError, Accepted, Arrival, Engine, NewEvent, RequestKey};
use hookpost::cache::Change;
use hookpost::clock::{Clock, Simulation};
use hookpost::delivery::invariants as promise;
use hookpost::delivery::{DeliveryId, DisabledReason, RateLimit, Settings, SubscriptionId};
use hookpost::store::{Store, SubscriptionChange, Update};
use sha2::{Digest, Sha256};

use crate::cache::SimCache;
use crate::history::{Known, Offer, To};
use crate::network;
use crate::plan::{self, Action};
use crate::sim::Sim;
use crate::store::faults::short;

/// How often somebody asks a store again that does not answer.
const TRIES: usize = 5;

#[derive(Clone)]
pub struct Acting {
    pub sim: Arc<Sim>,
    pub engine: Engine,
    pub store: Arc<dyn Store>,
    pub cache: Arc<SimCache>,
    pub clock: Clock,
    pub simulation: &'static Simulation,
}

impl Acting {
    pub fn act(&self, action: Action) {
        let this = self.clone();
        self.sim.say(format_args!("{action:?}"));
        match action {
            Action::Send(nth) => drop(tokio::spawn(async move {
                // The producer may go away, which drops the request wherever it stands.
                let impatient = this.sim.faulty() && this.sim.chance.percent(this.sim.profile.impatient_percent);
                let patience = if impatient { this.sim.chance.skewed_ms(500) } else { Duration::from_secs(60) };
                let sim = this.sim.clone();
                tokio::select! {
                    biased;
                    () = this.send(nth) => {}
                    () = sim.pass(patience) => sim.say(format_args!("offer {nth}: its producer goes away")),
                }
            })),
            Action::Settle(id) => drop(tokio::spawn(async move { this.change_settings(id).await })),
            Action::Disable(id) => {
                let change = SubscriptionChange { disabled: Some(Some(DisabledReason::ByHand)), ..Default::default() };
                drop(tokio::spawn(async move { this.change(id, change).await }));
            }
            Action::Enable(id, drop_backlog) => {
                let change = SubscriptionChange { disabled: Some(None), drop_backlog, ..Default::default() };
                drop(tokio::spawn(async move { this.change(id, change).await }));
            }
            Action::Delete(id) => drop(tokio::spawn(async move { this.delete(id).await })),
            Action::Create => drop(tokio::spawn(async move { this.create().await })),
            Action::Word(id) => self.word(id),
            Action::StoreAway(by) => self.sim.take_store_away(by),
            Action::Fence => self.sim.disk.take_by_another(),
            // The world's own.
            Action::Step(_) | Action::Stop => {}
            Action::PanicAtStart(id) => drop(self.sim.history().panics_at_start.insert(id)),
            Action::PanicAtActivation(id) => drop(self.sim.history().panics_at_activation.insert(id)),
        }
    }

    pub fn step_clock(&self, by_ms: i64) {
        self.sim.say(format_args!("the clock is stepped by {by_ms} ms"));
        self.simulation.stepped_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    async fn send(self, nth: usize) {
        let offer = {
            let mut history = self.sim.history();
            history.answers.entry(nth).or_default().under_way += 1;
            history.offers[nth].clone()
        };
        let answer = match offer.to {
            To::One(id) => self.ingest(id, &offer).await,
            To::WhoeverWants => self.publish(&offer).await,
        };
        self.answered(nth, &offer, answer);
    }

    fn key(offer: &Offer) -> Option<RequestKey> {
        let request_hash = Sha256::digest(&offer.body).into();
        offer.key.clone().map(|key| RequestKey { key, request_hash })
    }

    async fn ingest(&self, id: SubscriptionId, offer: &Offer) -> Result<Accepted<Vec<DeliveryId>>, AcceptError> {
        let active = self.engine.activate(id).await?;
        let (event_type, body) = (Some(offer.event_type.into()), offer.body.clone());
        let (ordering_key, key) = (offer.ordering_key.clone(), Self::key(offer));
        let accepted = self.engine.accept(&active, event_type, ordering_key, body, key, Arrival::now()).await?;
        Ok(Accepted { outcome: vec![accepted.outcome], replayed: accepted.replayed })
    }

    async fn publish(&self, offer: &Offer) -> Result<Accepted<Vec<DeliveryId>>, AcceptError> {
        let event = NewEvent {
            tenant: "default".into(),
            event_type: offer.event_type.into(),
            ordering_key: offer.ordering_key.clone(),
            payload: offer.body.clone(),
        };
        let accepted = self.engine.publish(event, Self::key(offer), Arrival::now()).await?;
        let outcome = accepted.outcome.deliveries.into_iter().map(|(_, id)| id).collect();
        Ok(Accepted { outcome, replayed: accepted.replayed })
    }

    fn answered(&self, nth: usize, offer: &Offer, answer: Result<Accepted<Vec<DeliveryId>>, AcceptError>) {
        let sim = &self.sim;
        match &answer {
            Ok(Accepted { outcome, replayed }) => {
                let ids: Vec<_> = outcome.iter().map(|id| short(id.0)).collect();
                sim.say(format_args!("offer {nth} is accepted: {ids:?}{}", if *replayed { " again" } else { "" }));
            }
            Err(error) => {
                sim.say(format_args!("offer {nth} is refused: {error}"));
                sim.count("an offer is refused");
            }
        }
        let mut history = sim.history();
        let answers = history.answers.entry(nth).or_default();
        answers.under_way -= 1;
        let Ok(Accepted { outcome, .. }) = answer else {
            let perhaps = answer.is_err_and(|error| error.to_string().contains("may have been stored"));
            if perhaps {
                *history.tally.entry("an answer is ambiguous").or_default() += 1;
            }
            let answers = history.answers.entry(nth).or_default();
            (answers.perhaps, answers.refused) = (answers.perhaps || perhaps, answers.refused || !perhaps);
            return;
        };
        let first = answers.accepted.get_or_insert_with(|| outcome.clone()).clone();
        for id in &outcome {
            history.accepted.insert(*id, nth);
        }
        drop(history);
        // Retention takes deliveries out of what an event is answered with again.
        if let (Some(key), false) = (&offer.key, sim.forgets_deliveries()) {
            sim.check(promise::a_key_stands_for_one_outcome(key, &first, &outcome));
        }
    }

    /// As `http/subscriptions.rs` does it: the store first, then the word of it. Sometimes it is another process that does it,
    /// and its word comes late or never.
    async fn change(&self, id: SubscriptionId, change: SubscriptionChange) {
        for _ in 0..TRIES {
            match self.store.update_subscription(id, change.clone(), self.clock.wall()).await {
                Ok(Update::Done(changed)) => {
                    self.sim.say(format_args!("subscription {id} is changed: version {}", changed.version));
                    if self.sim.faulty() && self.sim.chance.percent(self.sim.profile.others_change_percent) {
                        return self.word_later(id, changed.version);
                    }
                    return self.engine.subscription_changed(changed).await;
                }
                Ok(_) => return,
                Err(_) => self.sim.pass(Duration::from_millis(300)).await,
            }
        }
    }

    fn word_later(&self, id: SubscriptionId, version: i64) {
        if self.sim.chance.percent(70) {
            let (sim, cache) = (self.sim.clone(), self.cache.clone());
            tokio::spawn(async move {
                sim.pass(sim.chance.skewed_ms(10_000)).await;
                cache.word(Change::Subscription { id, version });
            });
        }
    }

    async fn change_settings(&self, id: SubscriptionId) {
        let Some(current) = self.sim.disk.tables().subscriptions.get(&id).map(|s| (*s.settings).clone()) else {
            return;
        };
        let drawn = plan::settings(&self.sim.chance);
        let settings = if self.sim.profile.changes_rules {
            drawn
        } else {
            Settings { latency_target_ms: Some(self.sim.chance.between(1, 1000)), ..current }
        };
        let moves = self.sim.chance.percent(30);
        let rotates = self.sim.chance.percent(30);
        // Before it is so: what follows from it may be seen at once.
        if let Some(known) = self.sim.history().known.get_mut(&id) {
            known.waits = known.waits.max(settings.retry_schedule_s.as_ref().map_or(0, Vec::len));
            known.max_concurrency = known.max_concurrency.max(settings.max_concurrency.unwrap_or(1) as usize);
            known.rate = settings.rate_limit.map(RateLimit::rate);
            if rotates && !known.secrets.is_empty() {
                known.secrets.push(format!("made up again for {id}: {}", known.secrets.len()));
            }
        }
        let secrets = self.sim.history().known.get(&id).and_then(Known::secrets);
        self.sim.say(format_args!("subscription {id} gets {settings:?}"));
        self.change(
            id,
            SubscriptionChange {
                settings: Some(settings),
                target_url: moves.then(|| network::address_of(id).replace("10.0.0.", "10.0.1.")),
                secrets: rotates.then_some(secrets),
                ..Default::default()
            },
        )
        .await;
    }

    async fn create(&self) {
        let Ok(id) = self.store.reserve_subscription_id().await else { return };
        let (known, settings) = plan::known(&self.sim.chance, id, None);
        let new = plan::new(id, &known, settings);
        self.sim.say(format_args!("subscription {id}: {known:?}"));
        self.sim.history().known.insert(id, known);
        if let Ok(Some(created)) = self.store.create_subscription(new, u64::MAX, self.clock.wall()).await {
            self.engine.subscription_created(&created).await;
        }
    }

    async fn delete(&self, id: SubscriptionId) {
        for _ in 0..TRIES {
            match self.store.delete_subscription(id, &Actor::Hookpost, self.clock.wall()).await {
                Ok(true) => return self.engine.subscription_deleted(id).await,
                Ok(false) => return,
                Err(_) => self.sim.pass(Duration::from_millis(300)).await,
            }
        }
    }

    fn word(&self, id: SubscriptionId) {
        let version = i64::try_from(self.sim.chance.below(6)).expect("small");
        let change =
            if self.sim.chance.percent(30) { Change::Everything } else { Change::Subscription { id, version } };
        (0..self.sim.chance.between(1, 4)).for_each(|_| self.cache.word(change));
    }

    /// Whoever is disabled by now is enabled, so that what waits is delivered.
    pub async fn enable_all(&self) {
        let disabled = {
            let tables = self.sim.disk.tables();
            let disabled = tables.subscriptions.values().filter(|subscription| subscription.disabled.is_some());
            disabled.map(|subscription| subscription.id).collect::<Vec<_>>()
        };
        for id in disabled {
            self.change(id, SubscriptionChange { disabled: Some(None), ..Default::default() }).await;
        }
    }
}
