//! `prepare`, `expire`, `prune`: room ahead of time, a visible end for what outlived its retention, and its removal.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{AttemptLog, DeliveryId, DisabledReason, Outcome, Timestamp};
use hookpost::store::{Batch, JanitorCounts, Store, SubscriptionChange};

use crate::backend::Backend;
use crate::fixtures::*;

/// What was accepted at [`T0`] is too old at [`LATER`], what was accepted after [`CUTOFF`] is not. Whole weeks apart,
/// so that it makes no difference by what stretch of time a backend drops rows.
const CUTOFF: Timestamp = Timestamp(T0.0 + 14 * 86_400_000);
const LATER: Timestamp = Timestamp(T0.0 + 28 * 86_400_000);
/// More than any test has rows.
const LIMIT: usize = 100;

/// An owned store that can hold what was accepted at [`T0`] and what is accepted at [`LATER`].
async fn prepared(backend: &Backend) -> Arc<dyn Store> {
    let store = backend.owned().await;
    store.prepare(LATER).await.unwrap();
    store
}

async fn expire_all(store: &Arc<dyn Store>, limit: usize) -> JanitorCounts {
    let mut total = JanitorCounts::default();
    for _ in 0..LIMIT {
        let counts = store.expire(CUTOFF, LATER, limit).await.unwrap();
        assert!(counts.expired <= limit as u64, "{counts:?}");
        total.add(&counts);
        if !counts.more {
            return total;
        }
    }
    panic!("expiring does not come to an end");
}

async fn prune_all(store: &Arc<dyn Store>, limit: usize) {
    for _ in 0..LIMIT {
        if !store.prune(CUTOFF, limit).await.unwrap().more {
            return;
        }
    }
    panic!("pruning does not come to an end");
}

async fn attempts(store: &Arc<dyn Store>, id: DeliveryId) -> Vec<AttemptLog> {
    store.delivery(id).await.unwrap().expect("the delivery is still stored").attempts
}

fn assert_says_that_it_expired(log: &AttemptLog) {
    assert_eq!(log.outcome, Outcome::Failure);
    assert_eq!((log.http_status, log.timestamp), (None, LATER));
    assert_eq!(&*log.target_url, "https://receiver.example/hook");
    let details = log.error_details.as_deref().unwrap();
    assert!(details.contains("retention"), "{details:?}");
}

pub async fn preparing_twice_is_no_error(backend: &Backend) {
    let store = prepared(backend).await;
    let again = store.prepare(LATER).await.unwrap();
    assert_eq!(again.partitions_created, 0);
    let sub = subscribe(&store).await;
    commit(&store, delivered([delivery(sub, days(28))])).await;
}

pub async fn an_untried_delivery_that_is_too_old_ends_as_a_visible_failure(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let old = delivery(sub, 1);
    commit(&store, accepted([old.clone()])).await;
    assert_eq!(expire_all(&store, LIMIT).await.expired, 1);
    let attempts = attempts(&store, old.id).await;
    assert_eq!(attempts.len(), 1);
    assert_says_that_it_expired(&attempts[0]);
    assert!(recover(&store).await.untried.is_empty());
    assert!(backlog(&store, sub).await.is_empty());
    assert_eq!(expire_all(&store, LIMIT).await.expired, 0, "only once");
}

pub async fn a_retried_delivery_that_is_too_old_ends_as_a_visible_failure(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let old = delivery(sub, 1);
    commit(&store, Batch { watermark: Some(old.id), ..retried([old.clone()], days(28)) }).await;
    assert_eq!(expire_all(&store, LIMIT).await.expired, 1);
    let attempts = attempts(&store, old.id).await;
    assert_eq!(attempts.len(), 2);
    assert_says_that_it_expired(&attempts[1]);
    assert!(store.retries(sub, 10).await.unwrap().is_empty());
    assert_eq!(log_ids(&store, sub).await[0], attempts[1].id, "it is the newest of the subscription's log");
}

pub async fn a_delivery_behind_its_subscriptions_position_is_expired(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let (tried, old) = (delivery(sub, 1), delivery(sub, 5));
    let mut batch = delivered([tried.clone()]);
    batch.deliveries.push(old.clone());
    batch.positions = vec![(sub, Some(tried.id))];
    batch.watermark = Some(DeliveryId(id(9)));
    commit(&store, batch).await;
    assert_eq!(expire_all(&store, LIMIT).await.expired, 1);
    assert_says_that_it_expired(&attempts(&store, old.id).await[0]);
    assert_eq!(attempts(&store, tried.id).await.len(), 1);
}

/// It waits for its subscription to be enabled, but not for ever.
pub async fn a_disabled_subscriptions_deliveries_expire_like_any_other(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([delivery(sub, 1)])).await;
    commit(&store, retried([delivery(sub, 3)], 50)).await;
    let disable = SubscriptionChange { disabled: Some(Some(DisabledReason::ByHand)), ..Default::default() };
    store.update_subscription(sub, disable, T0).await.unwrap();
    assert_eq!(expire_all(&store, LIMIT).await.expired, 2);
    assert_eq!(store.backlog(sub, DeliveryId::MIN, 10).await.unwrap(), 0);
}

/// What it leaves in the logs does not count against what comes later.
pub async fn what_expired_and_was_pruned_is_in_no_backlog(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([1, 2, 3].map(|ms| delivery(sub, ms)))).await;
    commit(&store, accepted([delivery(sub, days(28) - 5), delivery(sub, days(28) + 5)])).await;
    expire_all(&store, LIMIT).await;
    assert_eq!(store.backlog(sub, DeliveryId::MIN, 10).await.unwrap(), 2);
    prune_all(&store, LIMIT).await;
    assert_eq!(store.backlog(sub, DeliveryId::MIN, 10).await.unwrap(), 2);
    assert_eq!(backlog(&store, sub).await, [days(28) - 5, days(28) + 5].map(|ms| DeliveryId(id(ms))));
}

pub async fn what_is_finished_or_young_is_not_expired(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    commit(&store, delivered([delivery(sub, 1)])).await;
    commit(&store, accepted([delivery(sub, days(28))])).await;
    commit(&store, retried([delivery(sub, days(28) + 1)], days(29))).await;
    assert_eq!(expire_all(&store, LIMIT).await.expired, 0);
    assert_eq!(backlog(&store, sub).await, [DeliveryId(id(days(28)))]);
    assert_eq!(store.retries(sub, 10).await.unwrap().len(), 1);
}

pub async fn expiring_stops_at_its_limit_and_says_so(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([1, 2].map(|ms| delivery(sub, ms)))).await;
    commit(&store, retried([3, 5].map(|ms| delivery(sub, ms)), 50)).await;
    let first = store.expire(CUTOFF, LATER, 1).await.unwrap();
    assert_eq!((first.expired, first.more), (1, true));
    assert_eq!(expire_all(&store, 2).await.expired, 3);
    assert_eq!(log_ids(&store, sub).await.len(), 6);
}

pub async fn a_deleted_subscriptions_deliveries_need_no_failure(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let (untried, failing) = (delivery(sub, 1), delivery(sub, 2));
    commit(&store, accepted([untried.clone()])).await;
    commit(&store, retried([failing], 50)).await;
    store.delete_subscription(sub, &Actor::Hookpost, T0).await.unwrap();
    assert_eq!(expire_all(&store, LIMIT).await.expired, 0);
    assert!(attempts(&store, untried.id).await.is_empty());
}

pub async fn pruning_takes_what_is_old_and_leaves_what_is_young(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let (old, young) = (delivery(sub, 1), delivery(sub, days(28)));
    commit(&store, delivered([old.clone()])).await;
    commit(&store, delivered([young.clone()])).await;
    prune_all(&store, LIMIT).await;
    assert!(store.delivery(old.id).await.unwrap().is_none());
    assert_eq!(store.stored(&[old.id, young.id]).await.unwrap(), [young.id]);
    assert_eq!(log_ids(&store, sub).await, [id(days(28) + 1)]);
    assert!(store.subscription(sub).await.unwrap().is_some());
}

/// Whoever prunes without expiring first must lose nothing.
pub async fn pruning_leaves_what_is_unfinished(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let (untried, failing, done) = (delivery(sub, 1), delivery(sub, 3), delivery(sub, 5));
    commit(&store, accepted([untried.clone()])).await;
    commit(&store, retried([failing.clone()], 50)).await;
    commit(&store, delivered([done])).await;
    prune_all(&store, LIMIT).await;
    assert_eq!(backlog(&store, sub).await, [untried.id]);
    assert_eq!(store.unfinished(&[failing.id]).await.unwrap().len(), 1);
    assert_eq!(attempts(&store, failing.id).await.len(), 1, "else it would count as untried");
}

pub async fn pruning_takes_what_a_deleted_subscription_left(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let (untried, failing) = (delivery(sub, 1), delivery(sub, 2));
    commit(&store, accepted([untried.clone()])).await;
    store.delete_subscription(sub, &Actor::Hookpost, T0).await.unwrap();
    commit(&store, retried([failing.clone()], 50)).await;
    expire_all(&store, LIMIT).await;
    prune_all(&store, LIMIT).await;
    assert_eq!(store.stored(&[untried.id, failing.id]).await.unwrap(), []);
    assert!(log_ids(&store, sub).await.is_empty());
}

/// A failure that vanished with its delivery would not be visible.
pub async fn the_failure_of_an_expired_delivery_outlives_it(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([delivery(sub, 1)])).await;
    expire_all(&store, LIMIT).await;
    prune_all(&store, LIMIT).await;
    let logs = store.logs(sub, None, 10).await.unwrap();
    assert_eq!(logs.len(), 1);
    assert_says_that_it_expired(&logs[0]);
}

pub async fn pruning_in_chunks_comes_to_an_end(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let rows: Vec<_> = (0..10).map(|n| delivery(sub, n * 2)).collect();
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    commit(&store, delivered(rows)).await;
    prune_all(&store, 3).await;
    assert_eq!(store.stored(&ids).await.unwrap(), []);
    assert!(log_ids(&store, sub).await.is_empty());
}

pub async fn a_delivery_of_an_event_that_is_too_old_ends_as_a_visible_failure(backend: &Backend) {
    let store = prepared(backend).await;
    let (untried, failing) = (subscribe(&store).await, subscribe(&store).await);
    let batch = fanned_out(&event(0), &[untried, failing]);
    let (first, second) = (batch.deliveries[0].clone(), batch.deliveries[1].clone());
    let logs = vec![log(&second, 500, 1, Outcome::FailedAttempt)];
    commit(&store, Batch { logs, retries: vec![retry(&second, 2, days(28))], ..batch }).await;
    assert_eq!(expire_all(&store, LIMIT).await.expired, 2);
    assert_says_that_it_expired(&attempts(&store, first.id).await[0]);
    assert_says_that_it_expired(&attempts(&store, second.id).await[1]);
}

pub async fn pruning_takes_old_events_and_leaves_young_ones(backend: &Backend) {
    let store = prepared(backend).await;
    let sub = subscribe(&store).await;
    let (old, unwanted, young, young_unwanted) = (event(0), event(1), event(days(28)), event(days(28) + 1));
    for sent in [&old, &young] {
        let batch = fanned_out(sent, &[sub]);
        let logs =
            vec![log(&batch.deliveries[0], batch.deliveries[0].id.accepted_at().0 - T0.0 + 1, 1, Outcome::Success)];
        commit(&store, Batch { logs, ..batch }).await;
    }
    commit(&store, Batch { events: vec![unwanted.clone(), young_unwanted.clone()], ..Batch::default() }).await;
    prune_all(&store, LIMIT).await;
    let all = [old.id, unwanted.id, young.id, young_unwanted.id];
    assert_eq!(store.stored_events(&all).await.unwrap(), [young.id, young_unwanted.id]);
    assert_eq!(store.event_deliveries(young.id, DeliveryId::MIN, 10).await.unwrap().len(), 1);
}

/// Its payload is still to be sent.
pub async fn pruning_leaves_the_event_of_an_unfinished_delivery(backend: &Backend) {
    let store = prepared(backend).await;
    let [done, failing, untried] = [subscribe(&store).await, subscribe(&store).await, subscribe(&store).await];
    let (tried, waiting) = (event(0), event(1000));
    let batch = fanned_out(&tried, &[done, failing]);
    let received = log(&batch.deliveries[0], 500, 1, Outcome::Success);
    let failed = batch.deliveries[1].clone();
    let logs = vec![received, log(&failed, 501, 1, Outcome::FailedAttempt)];
    commit(&store, Batch { logs, retries: vec![retry(&failed, 2, days(28))], ..batch }).await;
    commit(&store, fanned_out(&waiting, &[untried])).await;
    prune_all(&store, LIMIT).await;
    assert_eq!(store.stored_events(&[tried.id, waiting.id]).await.unwrap(), [tried.id, waiting.id]);
    assert_eq!(store.unfinished(&[failed.id]).await.unwrap()[0].payload, tried.payload);
    let page = store.backlog_page(untried, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
    assert_eq!(page.deliveries[0].payload, waiting.payload);
}

pub async fn pruning_events_in_chunks_comes_to_an_end(backend: &Backend) {
    let store = prepared(backend).await;
    let all: Vec<_> = (0..10).map(event).collect();
    let ids: Vec<_> = all.iter().map(|event| event.id).collect();
    commit(&store, Batch { events: all, ..Batch::default() }).await;
    prune_all(&store, 3).await;
    assert_eq!(store.stored_events(&ids).await.unwrap(), []);
}
