//! What tests of a part of the engine stand on: a node over an embedded store, with one subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tempfile::TempDir;

use super::config::Config;
use super::entry::Entry;
use super::node::{Node, Parts};
use super::supervisor;
use crate::access::Actor as By;
use crate::cache::NoCache;
use crate::clock::Clock;
use crate::delivery::{Defaults, DeliveryId, Settings, Subscription};
use crate::metrics::Metrics;
use crate::outbound::client::AttemptClient;
use crate::outbound::guard::TargetPolicy;
use crate::store::writer::Writer;
use crate::store::{NewSubscription, SqliteStore, Store};
use crate::traces::Tracer;
use crate::vault::Vault;

pub(super) struct Stage {
    pub node: Arc<Node>,
    /// Stands where the supervisor does, and does nothing but count what it hears.
    pub supervisor: ActorRef<supervisor::Message>,
    pub heard: Arc<AtomicUsize>,
    pub subscription: Subscription,
    _dir: TempDir,
}

impl Stage {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let (clock, metrics) = (Clock::start(), Arc::new(Metrics::default()));
        let now = clock.wall();
        store.migrate(now).await.unwrap();
        assert!(store.acquire().await.unwrap());
        let new = NewSubscription {
            id: store.reserve_subscription_id().await.unwrap(),
            target_url: "http://127.0.0.1:1/".to_owned(),
            event_types: Vec::new(),
            secrets: None,
            tenant: "default".to_owned(),
            by: By::Anonymous,
            settings: Settings::default(),
        };
        let subscription = store.create_subscription(new, 1, now).await.unwrap().unwrap();
        let (writer, _) = Writer::start(store.clone(), clock, None, metrics.clone());
        let attempt_timeout = Duration::from_secs(1);
        let parts = Parts {
            store,
            cache: Arc::new(NoCache::default()),
            client: AttemptClient::new(Arc::new(TargetPolicy::new(Vec::new())), attempt_timeout),
            clock,
            vault: Arc::new(Vault::new(Vec::new(), true)),
            metrics,
            tracer: Tracer::off(),
            defaults: Defaults { schedule: "1s".parse().unwrap(), attempt_timeout, retention: attempt_timeout },
        };
        let heard = Arc::default();
        let (supervisor, _) = Actor::spawn(None, Idle, Arc::clone(&heard)).await.unwrap();
        Self { node: Node::new(parts, writer, DeliveryId::MIN), supervisor, heard, subscription, _dir: dir }
    }

    /// An entry of it without an actor, in the directory.
    pub fn entry(&self) -> Arc<Entry> {
        let config = self.config(self.subscription.clone());
        self.node.insert(self.subscription.id, |_| Entry::new(config, self.node.clone(), DeliveryId::MIN, false))
    }

    pub fn config(&self, subscription: Subscription) -> Arc<Config> {
        Config::new(subscription, &self.node.parts.vault, self.node.parts.clock.wall())
    }
}

struct Idle;

impl Actor for Idle {
    type Msg = supervisor::Message;
    type State = Arc<AtomicUsize>;
    type Arguments = Arc<AtomicUsize>;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, heard: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(heard)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        _: Self::Msg,
        heard: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        heard.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
