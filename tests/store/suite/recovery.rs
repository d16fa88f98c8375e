//! `recovery` and `pending`: what a starting owner and an activated actor are told.

use hookpost::access::Actor;
use hookpost::delivery::{DeliveryId, DisabledReason, Outcome, SubscriptionId};
use hookpost::store::{Batch, Pending, SubscriptionChange};

use crate::backend::Backend;
use crate::fixtures::*;

pub async fn a_new_store_has_nothing_to_recover(backend: &Backend) {
    let store = backend.owned().await;
    subscribe(&store).await;
    let recovery = recover(&store).await;
    assert!(recovery.watermark.is_none_or(|watermark| watermark == DeliveryId::MIN));
    assert!(recovery.positions.is_empty() && recovery.untried.is_empty());
    assert_eq!(recovery.newest_id, None);
}

pub async fn what_no_log_mentions_is_untried(backend: &Backend) {
    let store = backend.owned().await;
    let [waiting, done, failing, quiet] =
        [subscribe(&store).await, subscribe(&store).await, subscribe(&store).await, subscribe(&store).await];
    commit(&store, accepted([delivery(waiting, 1), delivery(waiting, 2)])).await;
    commit(&store, delivered([delivery(done, 3), delivery(waiting, 4)])).await;
    commit(&store, retried([delivery(failing, 5)], 50)).await;
    let untried = recover(&store).await.untried;
    assert_eq!(untried, [waiting], "not {done}, {failing} or {quiet}");
}

pub async fn what_is_up_to_the_watermark_counts_as_tried(backend: &Backend) {
    let store = backend.owned().await;
    let (before, after) = (subscribe(&store).await, subscribe(&store).await);
    let last = delivery(before, 5);
    let batch = accepted([last.clone(), delivery(after, 6)]);
    commit(&store, Batch { watermark: Some(last.id), ..batch }).await;
    assert_eq!(recover(&store).await.untried, [after]);
}

pub async fn a_subscription_with_a_position_is_not_untried(backend: &Backend) {
    let store = backend.owned().await;
    let (behind, other) = (subscribe(&store).await, subscribe(&store).await);
    let first = delivery(behind, 1);
    let batch = accepted([first.clone(), delivery(behind, 2), delivery(other, 3)]);
    commit(&store, Batch { positions: vec![(behind, Some(first.id))], ..batch }).await;
    let recovery = recover(&store).await;
    assert_eq!(recovery.positions, [(behind, first.id)]);
    assert_eq!(recovery.untried, [other]);
}

/// Its deliveries wait, and are forgotten if the watermark passes them.
pub async fn a_disabled_subscription_is_recovered(backend: &Backend) {
    let store = backend.owned().await;
    let (untried, behind) = (subscribe(&store).await, subscribe(&store).await);
    let position = DeliveryId(id(0));
    let batch = accepted([delivery(untried, 1), delivery(behind, 2)]);
    commit(&store, Batch { positions: vec![(behind, Some(position))], ..batch }).await;
    for id in [untried, behind] {
        let disable = SubscriptionChange { disabled: Some(Some(DisabledReason::Gone)), ..Default::default() };
        store.update_subscription(id, disable, T0).await.unwrap();
    }
    let recovery = recover(&store).await;
    assert_eq!((recovery.untried, recovery.positions), (vec![untried], vec![(behind, position)]));
    assert_eq!(store.subscriptions_behind(10).await.unwrap(), [], "until it is enabled");
    let enable = SubscriptionChange { disabled: Some(None), drop_backlog: true, ..Default::default() };
    store.update_subscription(behind, enable, T0).await.unwrap();
    assert_eq!(store.subscriptions_behind(10).await.unwrap(), [behind], "also to end what is given up");
}

pub async fn a_deleted_subscription_is_not_recovered(backend: &Backend) {
    let store = backend.owned().await;
    let (untried, behind) = (subscribe(&store).await, subscribe(&store).await);
    let batch = accepted([delivery(untried, 1), delivery(behind, 2)]);
    commit(&store, Batch { positions: vec![(behind, Some(DeliveryId(id(0))))], ..batch }).await;
    assert!(store.delete_subscription(untried, &Actor::Hookpost, T0).await.unwrap());
    assert!(store.delete_subscription(behind, &Actor::Hookpost, T0).await.unwrap());
    let recovery = recover(&store).await;
    assert!(recovery.untried.is_empty() && recovery.positions.is_empty(), "{recovery:?}");
}

pub async fn the_newest_id_is_the_higher_of_deliveries_and_logs(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let first = delivery(sub, 1);
    commit(&store, accepted([first.clone()])).await;
    assert_eq!(recover(&store).await.newest_id, Some(id(1)));
    commit(&store, Batch { logs: vec![log(&first, 7, 1, Outcome::Success)], ..Batch::default() }).await;
    assert_eq!(recover(&store).await.newest_id, Some(id(7)));
    commit(&store, accepted([delivery(sub, 9)])).await;
    assert_eq!(recover(&store).await.newest_id, Some(id(9)));
}

/// Else a clock that was set back could give an id below the watermark, and the delivery would never be tried.
pub async fn the_newest_id_outlives_what_is_pruned(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let last = delivery(sub, 1);
    commit(&store, Batch { watermark: Some(last.id), ..delivered([last.clone()]) }).await;
    let later = T0 + DAY * 30;
    store.prepare(later).await.unwrap();
    while store.prune(later, 100).await.unwrap().more {}
    assert!(recover(&store).await.newest_id >= Some(last.id.0));
}

pub async fn pending_is_the_position_and_the_first_retries(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let [a, b, c] = [1, 2, 3].map(|ms| delivery(sub, ms));
    commit(&store, retried([a.clone(), b.clone(), c.clone(), delivery(other, 4)], 50)).await;
    let change = Batch {
        retries: vec![retry(&c, 3, 20)],
        positions: vec![(sub, Some(b.id)), (other, Some(a.id))],
        ..Batch::default()
    };
    commit(&store, change).await;
    let expected = Pending { position: Some(b.id), retries: vec![retry(&c, 3, 20), retry(&a, 2, 50)] };
    assert_eq!(store.pending(sub, 2).await.unwrap(), expected);
}

pub async fn pending_of_an_unknown_subscription_is_empty(backend: &Backend) {
    let store = backend.owned().await;
    assert_eq!(store.pending(SubscriptionId(404), 10).await.unwrap(), Pending::default());
}

/// It may be an id that was given and not stored. With the clock set back it was given again, and its delivery was taken for tried.
pub async fn the_newest_id_is_no_lower_than_a_position(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([delivery(sub, 1)])).await;
    commit(&store, Batch { positions: vec![(sub, Some(DeliveryId(id(9))))], ..Batch::default() }).await;
    assert_eq!(recover(&store).await.newest_id, Some(id(9)));
}
