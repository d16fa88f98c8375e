use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::stage::Stage;
use super::*;
use crate::delivery::{Delivery, Snapshot};
use crate::store::writer::{Claim, Stored, Submission, What};

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
    entry.start(None, Some(0));
    assert_eq!(entry.watermark_bound(), None, "nothing is untried");
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

async fn accepted(stage: &Stage, entry: Arc<Entry>) -> DeliveryId {
    let (reply, stored) = oneshot::channel();
    entry.claim().unwrap();
    let what = What::Delivery {
        subscription_id: entry.id,
        event_type: None,
        ordering_key: None,
        payload: Bytes::from_static(b"{}"),
        trace: None,
    };
    stage.node.writer.submit(Submission { claim: Claim::on(entry), what, key: None, reply }).unwrap();
    let Stored::Delivery(id) = stored.await.unwrap().unwrap() else { panic!("it is a delivery") };
    id
}

/// Ids followed the clock, and what was accepted was taken for part of the backlog that had been dropped.
#[tokio::test]
async fn what_comes_after_a_backlog_was_dropped_is_above_it_though_the_clock_was_set_back() {
    let stage = Stage::new().await;
    let now = stage.node.parts.clock.wall();
    let through = |hours| DeliveryId::ceiling_at(now + Duration::from_secs(3600) * hours);
    let dropping = |hours| Subscription { drop_through: Some(through(hours)), ..stage.subscription.clone() };
    let mut state = state(&stage);
    state.changed(Box::new(dropping(1)));
    let without_actor = accepted(&stage, stage.entry()).await;
    assert!(without_actor > through(1), "{without_actor}");
    let entry = state.start(dropping(2), None).await.unwrap();
    let read_at_a_start = accepted(&stage, entry).await;
    assert!(read_at_a_start > through(2), "{read_at_a_start}");
}
