//! `retries`, `unfinished`, `subscriptions_due`: what failed and waits.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{
    Delivery, DeliveryId, DisabledReason, Event, Outcome, SubscriptionId, Timestamp, TraceContext,
};
use hookpost::store::{Batch, RetriesWaiting, SubscriptionChange};

use crate::backend::Backend;
use crate::fixtures::*;

/// `ms` after the tests' time.
fn at(ms: i64) -> Timestamp {
    Timestamp(T0.0 + ms)
}

pub async fn they_come_by_due_time_then_by_delivery(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let [a, b, c] = [1, 2, 3].map(|ms| delivery(sub, ms));
    commit(&store, retried([c.clone(), a.clone(), delivery(other, 4)], 50)).await;
    commit(&store, retried([b.clone()], 40)).await;
    let expected = [retry(&b, 2, 40), retry(&a, 2, 50), retry(&c, 2, 50)];
    assert_eq!(store.retries(sub, 10).await.unwrap(), expected);
}

pub async fn they_stop_at_the_limit(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, retried([1, 2, 3].map(|ms| delivery(sub, ms)), 50)).await;
    let first = store.retries(sub, 2).await.unwrap();
    assert_eq!(first, [1, 2].map(|ms| retry(&delivery(sub, ms), 2, 50)));
}

pub async fn payloads_come_for_what_is_untried_or_to_be_retried(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let [waiting, settled, done, untried] = [1, 2, 3, 4].map(|ms| delivery(sub, ms));
    commit(&store, retried([waiting.clone(), settled.clone()], 50)).await;
    commit(&store, delivered([done.clone()])).await;
    let batch = accepted([untried.clone()]);
    commit(&store, Batch { settled: vec![settled.id], ..batch }).await;
    let ids = [untried.id, waiting.id, settled.id, done.id, DeliveryId(id(404))];
    let mut found = store.unfinished(&ids).await.unwrap();
    found.sort_by_key(|delivery| delivery.id);
    assert_eq!(found.len(), 2);
    for (found, stored) in found.iter().zip([waiting, untried]) {
        assert_eq!((found.id, found.subscription_id), (stored.id, sub));
        assert_eq!((&found.payload, &found.event_type), (&stored.payload, &stored.event_type));
    }
    assert!(store.unfinished(&[]).await.unwrap().is_empty());
}

/// The key of a delivery, or of the event that it came from.
pub async fn ordering_keys_come_with_deliveries_and_with_retries(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let keyed = |key: &str, ms| Delivery { ordering_key: Some(key.into()), ..delivery(sub, ms) };
    let sent = Event { ordering_key: Some("of the event".into()), ..event(10) };
    let mut batch = fanned_out(&sent, &[sub]);
    batch.deliveries.insert(0, keyed("its own, é", 1));
    batch.deliveries.insert(1, delivery(sub, 2));
    commit(&store, batch.clone()).await;
    let expected = ["its own, é", "", "of the event"].map(|key| Some(key).filter(|key| !key.is_empty()));

    let page = store.backlog_page(sub, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
    let keys: Vec<_> = page.deliveries.iter().map(|delivery| delivery.ordering_key.as_deref()).collect();
    assert_eq!(keys, expected);

    let retries = batch.deliveries.iter().map(|delivery| retry(delivery, 2, 500)).collect::<Vec<_>>();
    let logs = batch.deliveries.iter().zip(600..).map(|(d, ms)| log(d, ms, 1, Outcome::FailedAttempt)).collect();
    commit(&store, Batch { retries: retries.clone(), logs, ..Batch::default() }).await;
    assert_eq!(store.retries(sub, 10).await.unwrap(), retries);
    assert_eq!(store.pending(sub, 10).await.unwrap().retries, retries);
    let mut again = store.unfinished(&batch.deliveries.iter().map(|d| d.id).collect::<Vec<_>>()).await.unwrap();
    again.sort_by_key(|delivery| delivery.id);
    assert_eq!(again.iter().map(|delivery| delivery.ordering_key.as_deref()).collect::<Vec<_>>(), expected);
    for retry in retries {
        assert_eq!(store.delivery(retry.delivery_id).await.unwrap().unwrap().retry, Some(retry));
    }
    let of_event = store.event_deliveries(sent.id, DeliveryId::MIN, 10).await.unwrap();
    assert_eq!(of_event[0].retry.as_ref().unwrap().ordering_key.as_deref(), expected[2]);
}

pub async fn due_subscriptions_come_earliest_first(backend: &Backend) {
    let store = backend.owned().await;
    let (late, early) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, retried([delivery(late, 1), delivery(late, 2)], 50)).await;
    commit(&store, retried([delivery(early, 3)], 40)).await;
    commit(&store, retried([delivery(early, 4)], 60)).await;
    assert_eq!(store.subscriptions_due(at(100), 10).await.unwrap(), [early, late]);
}

pub async fn due_subscriptions_stop_at_the_limit(backend: &Backend) {
    let store = backend.owned().await;
    let mut all: Vec<SubscriptionId> = Vec::new();
    for due in 0..3 {
        all.push(subscribe(&store).await);
        let rows = [1, 2, 3].map(|ms| delivery(all[all.len() - 1], due * 10 + ms));
        commit(&store, retried(rows, due)).await;
    }
    assert_eq!(store.subscriptions_due(at(100), 2).await.unwrap(), all[..2]);
}

pub async fn what_is_due_later_is_not_due(backend: &Backend) {
    let store = backend.owned().await;
    let (now, later) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, retried([delivery(now, 1)], 49)).await;
    commit(&store, retried([delivery(later, 2)], 50)).await;
    assert_eq!(store.subscriptions_due(at(50), 10).await.unwrap(), [now]);
}

pub async fn a_disabled_subscription_is_not_due(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, retried([delivery(sub, 1)], 50)).await;
    let disable = SubscriptionChange { disabled: Some(Some(DisabledReason::Gone)), ..Default::default() };
    store.update_subscription(sub, disable, T0).await.unwrap();
    assert!(store.subscriptions_due(at(100), 10).await.unwrap().is_empty());
    assert_eq!(store.retries(sub, 10).await.unwrap().len(), 1, "they wait for it to be enabled");
}

pub async fn a_deleted_subscription_is_not_due(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, retried([delivery(sub, 1)], 50)).await;
    store.delete_subscription(sub, &Actor::Hookpost, T0).await.unwrap();
    assert!(store.subscriptions_due(at(100), 10).await.unwrap().is_empty());
}

/// An attempt can be under way while its subscription is deleted.
pub async fn a_retry_written_after_its_subscription_was_deleted_is_not_due(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let late = delivery(sub, 1);
    commit(&store, accepted([late.clone()])).await;
    store.delete_subscription(sub, &Actor::Hookpost, T0).await.unwrap();
    commit(&store, retried([late], 50)).await;
    assert!(store.subscriptions_due(at(100), 10).await.unwrap().is_empty());
    assert_eq!(log_ids(&store, sub).await.len(), 1, "the attempt is logged all the same");
}

pub async fn what_waits_is_counted_up_to_a_cap_and_the_oldest_due_is_of_an_enabled_one(backend: &Backend) {
    let store = backend.owned().await;
    assert_eq!(store.retries_waiting(at(100), 10).await.unwrap(), RetriesWaiting::default());
    let (disabled, enabled) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, retried([1, 2].map(|ms| delivery(disabled, ms)), 40)).await;
    commit(&store, retried([delivery(enabled, 3)], 60)).await;
    commit(&store, retried([delivery(enabled, 4)], 50)).await;
    let disable = SubscriptionChange { disabled: Some(Some(DisabledReason::Gone)), ..Default::default() };
    store.update_subscription(disabled, disable, T0).await.unwrap();
    let waiting = store.retries_waiting(at(100), 10).await.unwrap();
    assert_eq!(waiting, RetriesWaiting { count: 4, oldest_due: Some(at(50)) });
    assert_eq!(store.retries_waiting(at(100), 3).await.unwrap(), RetriesWaiting { count: 3, oldest_due: Some(at(50)) });
    assert_eq!(store.retries_waiting(at(100), 2).await.unwrap().oldest_due, None, "the first two are a disabled one's");
    assert_eq!(store.retries_waiting(at(50), 10).await.unwrap().oldest_due, Some(at(50)), "due from this moment on");
    assert_eq!(store.retries_waiting(at(49), 10).await.unwrap().oldest_due, None);
}

/// The trace of a delivery, or of the event that it came from.
pub async fn traces_come_with_deliveries_and_with_events(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let trace = |state: &str| {
        let text = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01{state}");
        Some(Arc::new(text.parse::<TraceContext>().unwrap()))
    };
    let (own, events) = (trace(" vendor=1,other=a b"), trace(""));
    let sent = Event { trace: events.clone(), ..event(10) };
    let mut batch = fanned_out(&sent, &[sub]);
    batch.deliveries.insert(0, Delivery { trace: own.clone(), ..delivery(sub, 1) });
    batch.deliveries.insert(1, delivery(sub, 2));
    commit(&store, batch.clone()).await;
    let expected = [own, None, events.clone()];
    let page = store.backlog_page(sub, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
    assert_eq!(page.deliveries.into_iter().map(|delivery| delivery.trace).collect::<Vec<_>>(), expected);
    let ids: Vec<_> = batch.deliveries.iter().map(|delivery| delivery.id).collect();
    let mut again = store.unfinished(&ids).await.unwrap();
    again.sort_by_key(|delivery| delivery.id);
    assert_eq!(again.into_iter().map(|delivery| delivery.trace).collect::<Vec<_>>(), expected);
    assert_eq!(store.event(sent.id).await.unwrap().unwrap().trace, events);
}
