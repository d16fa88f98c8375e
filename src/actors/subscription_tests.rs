use super::*;
use crate::access::Actor as By;
use crate::cache::NoCache;
use crate::clock::Clock;
use crate::delivery::{Defaults, Settings};
use crate::metrics::Metrics;
use crate::outbound::client::AttemptClient;
use crate::outbound::guard::TargetPolicy;
use crate::store::writer::Writer;
use crate::store::{NewSubscription, SqliteStore, Store};
use crate::traces::Tracer;
use crate::vault::Vault;

/// Stands where the supervisor does, and does nothing.
struct Idle;

impl Actor for Idle {
    type Msg = supervisor::Message;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<supervisor::Message>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

async fn node(store: Arc<dyn Store>) -> Arc<Node> {
    let (clock, metrics) = (Clock::start(), Arc::new(Metrics::default()));
    let (writer, _) = Writer::start(store.clone(), clock, None, metrics.clone());
    let policy = Arc::new(TargetPolicy::new(Vec::new()));
    let attempt_timeout = std::time::Duration::from_secs(1);
    let parts = super::super::Parts {
        store,
        cache: Arc::new(NoCache::default()),
        client: AttemptClient::new(policy, attempt_timeout),
        clock,
        vault: Arc::new(Vault::new(Vec::new(), true)),
        metrics,
        tracer: Tracer::off(),
        defaults: Defaults { schedule: "1s".parse().unwrap(), attempt_timeout, retention: attempt_timeout },
    };
    Node::new(parts, writer, DeliveryId::MIN)
}

/// The supervisor attached it after it was spawned. On a busy machine the actor had started by then, was taken for one that had
/// not, and nothing that was committed from then on came to it.
#[tokio::test]
async fn an_actor_is_attached_to_its_entry_before_anybody_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
    let node = node(store.clone()).await;
    let now = node.parts.clock.wall();
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
    let config = Config::new(subscription, &node.parts.vault, now);
    let entry = Entry::new(config, node.clone(), DeliveryId::MIN, false);
    let (supervisor, _) = Actor::spawn(None, Idle, ()).await.unwrap();
    let arguments = Arguments { entry: entry.clone(), node, supervisor };
    let (actor, ended) = Actor::spawn(None, SubscriptionActor, arguments).await.unwrap();
    let (answer, snapshot) = oneshot::channel();
    assert!(entry.cast(Message::Snapshot(answer)), "the entry has no actor");
    snapshot.await.unwrap();
    actor.stop(None);
    ended.await.unwrap();
}
