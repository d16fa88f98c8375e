use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::super::stage::Stage;
use super::*;
use crate::cache::Change;

/// Notes how much the supervisor had heard when this was told.
struct Noting {
    heard: Arc<AtomicUsize>,
    before: watch::Sender<Vec<usize>>,
}

impl Noting {
    fn note(&self) {
        self.before.send_modify(|before| before.push(self.heard.load(Ordering::Relaxed)));
    }
}

#[async_trait]
impl Cache for Noting {
    async fn get(&self, _: SubscriptionId) -> Option<Subscription> {
        None
    }
    async fn put(&self, _: &Subscription) {}
    async fn changed(&self, _: &Subscription) {
        self.note();
    }
    async fn deleted(&self, _: SubscriptionId) {
        self.note();
    }
    fn changes(&self) -> broadcast::Receiver<Change> {
        broadcast::Sender::new(1).subscribe()
    }
    fn status(&self) -> String {
        "noting".to_owned()
    }
    fn is_up(&self) -> bool {
        true
    }
}

/// The supervisor heard of it first, and an actor that started before the cache had heard began with the old copy.
#[tokio::test]
async fn a_change_is_in_the_cache_before_an_actor_can_start_with_it() {
    let stage = Stage::new().await;
    let before = watch::Sender::default();
    let cache = Arc::new(Noting { heard: stage.heard.clone(), before: before.clone() });
    let engine = Engine::standby(stage.node.parts.store.clone(), cache);
    let (node, supervisor, ended) = (stage.node.clone(), stage.supervisor.clone(), watch::Sender::new(None));
    let _ = engine.running.set(Handles { node, supervisor, ended });
    engine.subscription_changed(stage.subscription.clone()).await;
    engine.subscription_deleted(stage.subscription.id).await;
    assert_eq!(*before.borrow(), [0, 1]);
    assert_eq!(stage.heard.load(Ordering::Relaxed), 2);
}
