use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::stage::Stage;
use super::*;
use crate::delivery::{Delivery, Snapshot};

fn state(stage: &Stage) -> State {
    State {
        node: stage.node.clone(),
        myself: stage.supervisor.clone(),
        activations: HashMap::new(),
        to_recover: BTreeMap::new(),
        recovering: 0,
        actors: HashMap::new(),
        crashes: BTreeMap::new(),
    }
}

/// It was removed, and the watermark, which nothing held back any more, passed what the crashed actor had not tried.
#[tokio::test]
async fn the_entry_of_an_actor_that_crashed_before_a_stop_holds_the_watermark_back_to_the_end() {
    let stage = Stage::new().await;
    let entry = stage.entry();
    entry.detach();
    stage.node.draining.store(true, Ordering::Relaxed);
    state(&stage).restart(&entry).await.unwrap();
    let kept = stage.node.entry(entry.id).expect("its entry");
    assert_eq!(kept.watermark_bound(), Some(DeliveryId::MIN));
}

async fn snapshot(entry: &Entry) -> Snapshot {
    let (answer, snapshot) = oneshot::channel();
    assert!(entry.cast(subscription::Message::Snapshot(answer)));
    snapshot.await.unwrap()
}

/// Nobody told it, and it tried and put back what it had as fast as the store could be read.
#[tokio::test]
async fn an_actor_that_starts_while_the_node_stops_attempts_nothing() {
    let stage = Stage::new().await;
    stage.node.draining.store(true, Ordering::Relaxed);
    let entry = state(&stage).start(stage.subscription.clone(), None).await.unwrap();
    while entry.backlog().0.is_none() {
        snapshot(&entry).await;
    }
    entry
        .take(Delivery {
            id: DeliveryId::floor_at(stage.node.parts.clock.wall()),
            subscription_id: entry.id,
            event_type: None,
            event_id: None,
            ordering_key: None,
            resend_of: None,
            payload: Bytes::from_static(b"{}"),
            trace: None,
        })
        .unwrap();
    let Snapshot { ready, in_flight, .. } = snapshot(&entry).await;
    assert_eq!((ready, in_flight), (1, 0));
}
