//! `delivery` and `logs`: what people are shown.

use hookpost::access::Actor;
use hookpost::delivery::{DeliveryId, Outcome, SubscriptionId};
use hookpost::store::Batch;

use crate::backend::Backend;
use crate::fixtures::*;

pub async fn an_unknown_delivery_is_none(backend: &Backend) {
    let store = backend.owned().await;
    assert!(store.delivery(DeliveryId(id(404))).await.unwrap().is_none());
    assert!(store.delivery(DeliveryId(uuid::Uuid::new_v4())).await.unwrap().is_none(), "whatever kind of id it is");
    assert!(store.delivery(DeliveryId(uuid::Uuid::max())).await.unwrap().is_none());
}

pub async fn a_delivery_lists_its_attempts_oldest_first(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let (shown, other) = (delivery(sub, 1), delivery(sub, 2));
    let first = log(&shown, 3, 1, Outcome::FailedAttempt);
    let second = log(&shown, 5, 2, Outcome::FailedAttempt);
    let third = log(&shown, 9, 3, Outcome::Success);
    let logs = vec![first.clone(), log(&other, 4, 1, Outcome::Success)];
    commit(&store, Batch { logs, ..accepted([shown.clone(), other]) }).await;
    commit(&store, Batch { logs: vec![third.clone(), second.clone()], ..Batch::default() }).await;
    assert_eq!(store.delivery(shown.id).await.unwrap().unwrap().attempts, [first, second, third]);
}

pub async fn a_delivery_shows_its_retry(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let (waiting, untried) = (delivery(sub, 1), delivery(sub, 2));
    commit(&store, retried([waiting.clone()], 50)).await;
    commit(&store, accepted([untried.clone()])).await;
    assert_eq!(store.delivery(waiting.id).await.unwrap().unwrap().retry, Some(retry(&waiting, 2, 50)));
    let untried = store.delivery(untried.id).await.unwrap().unwrap();
    assert!(untried.retry.is_none() && untried.attempts.is_empty());
}

pub async fn a_delivery_outlives_its_subscription(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let left = delivery(sub, 1);
    commit(&store, delivered([left.clone()])).await;
    store.delete_subscription(sub, &Actor::Hookpost, T0).await.unwrap();
    let record = store.delivery(left.id).await.unwrap().unwrap();
    assert!(!record.subscription_exists);
    assert_eq!((record.subscription_id, record.attempts.len()), (sub, 1));
}

pub async fn logs_come_newest_first_in_pages(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, delivered([10, 20, 30].map(|ms| delivery(sub, ms)))).await;
    let first = store.logs(sub, None, 2).await.unwrap();
    assert_eq!(first.iter().map(|log| log.id).collect::<Vec<_>>(), [id(31), id(21)]);
    let rest = store.logs(sub, Some(first[1].id), 2).await.unwrap();
    assert_eq!(rest, [log(&delivery(sub, 10), 11, 1, Outcome::Success)]);
    assert!(store.logs(sub, Some(rest[0].id), 2).await.unwrap().is_empty());
}

pub async fn logs_of_another_subscription_are_left_out(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, delivered([delivery(sub, 10), delivery(other, 20)])).await;
    assert_eq!(log_ids(&store, sub).await, [id(11)]);
    assert!(log_ids(&store, SubscriptionId(404)).await.is_empty());
}
