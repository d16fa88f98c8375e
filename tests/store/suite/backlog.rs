//! `backlog_page` and `backlog`: what a subscription has still to be sent for the first time, and how much is unfinished.

use bytes::Bytes;
use hookpost::delivery::{Delivery, DeliveryId, Outcome, SubscriptionId};
use hookpost::store::Batch;

use crate::backend::Backend;
use crate::fixtures::*;

const ANY_SIZE: usize = usize::MAX;

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

fn of_ten_bytes(delivery: Delivery) -> Delivery {
    Delivery { payload: Bytes::from_static(b"\"12345678\""), ..delivery }
}

pub async fn a_page_is_in_order_of_id_and_starts_after_the_cursor(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let rows = [1, 2, 3].map(|ms| delivery(sub, ms));
    commit(&store, accepted([rows[0].clone(), rows[1].clone()])).await;
    commit(&store, accepted([rows[2].clone()])).await;
    assert_eq!(backlog(&store, sub).await, ids(&rows));
    let page = store.backlog_page(sub, rows[0].id, 10, ANY_SIZE).await.unwrap();
    assert_eq!(ids(&page.deliveries), ids(&rows[1..]));
    assert_eq!(page.deliveries[0].payload, rows[1].payload);
    assert_eq!(page.deliveries[0].event_type, rows[1].event_type);
    let page = store.backlog_page(sub, rows[2].id, 10, ANY_SIZE).await.unwrap();
    assert!(page.deliveries.is_empty() && page.complete);
}

pub async fn a_page_leaves_out_what_was_attempted(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, delivered([delivery(sub, 1)])).await;
    commit(&store, retried([delivery(sub, 2)], 50)).await;
    commit(&store, accepted([delivery(sub, 3)])).await;
    assert_eq!(backlog(&store, sub).await, [DeliveryId(id(3))]);
}

pub async fn a_page_holds_at_most_its_limit(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, delivered([delivery(sub, 1)])).await;
    let rows = [2, 3, 4].map(|ms| delivery(sub, ms));
    commit(&store, accepted(rows.clone())).await;
    let page = store.backlog_page(sub, DeliveryId::MIN, 2, ANY_SIZE).await.unwrap();
    assert_eq!(ids(&page.deliveries), ids(&rows[..2]));
    assert!(!page.complete);
}

pub async fn a_page_stops_before_it_has_too_many_bytes(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([1, 2, 3].map(|ms| of_ten_bytes(delivery(sub, ms))))).await;
    for (max_bytes, expected) in [(19, 1), (20, 2), (29, 2), (30, 3)] {
        let page = store.backlog_page(sub, DeliveryId::MIN, 10, max_bytes).await.unwrap();
        assert_eq!(page.deliveries.len(), expected, "with {max_bytes} bytes");
        assert_eq!(page.complete, expected == 3, "with {max_bytes} bytes");
    }
}

pub async fn a_page_holds_one_however_large(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([1, 2].map(|ms| of_ten_bytes(delivery(sub, ms))))).await;
    let page = store.backlog_page(sub, DeliveryId::MIN, 10, 1).await.unwrap();
    assert_eq!(ids(&page.deliveries), [DeliveryId(id(1))]);
    assert!(!page.complete);
}

pub async fn a_page_holds_one_subscription_only(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, accepted([delivery(other, 1), delivery(sub, 2), delivery(other, 3)])).await;
    assert_eq!(backlog(&store, sub).await, [DeliveryId(id(2))]);
}

pub async fn an_exactly_full_last_page_is_complete(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([delivery(sub, 1), delivery(sub, 2)])).await;
    commit(&store, delivered([delivery(sub, 3)])).await;
    let page = store.backlog_page(sub, DeliveryId::MIN, 2, ANY_SIZE).await.unwrap();
    assert_eq!(page.deliveries.len(), 2);
    assert!(page.complete);
}

pub async fn the_size_is_what_is_untried_above_the_cursor_and_all_retries(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let size = async |after: i64| store.backlog(sub, DeliveryId(id(after)), 100).await.unwrap();
    assert_eq!(size(0).await, 0);
    commit(&store, retried([delivery(sub, 1)], 5000)).await;
    commit(&store, accepted([delivery(sub, 10), delivery(other, 11), delivery(sub, 12)])).await;
    commit(&store, delivered([delivery(sub, 20), delivery(other, 22)])).await;
    commit(&store, retried([delivery(sub, 30), delivery(other, 33)], 5000)).await;
    commit(&store, accepted([delivery(sub, 40)])).await;
    assert_eq!(size(0).await, 5);
    assert_eq!(size(10).await, 4, "the cursor itself is not above it");
    assert_eq!(size(12).await, 3);
    assert_eq!(size(40).await, 2, "retries wait wherever the cursor is");
    assert_eq!(store.backlog(SubscriptionId(404), DeliveryId::MIN, 100).await.unwrap(), 0);
}

pub async fn the_size_is_counted_no_further_than_its_cap(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    // What was tried comes first, and must not use up what may be counted.
    commit(&store, delivered((0..20).map(|n| delivery(sub, 100 + n * 2)))).await;
    commit(&store, accepted((0..20).map(|n| delivery(sub, 200 + n)))).await;
    commit(&store, retried((0..20).map(|n| delivery(sub, 300 + n * 2)), 5000)).await;
    for (cap, expected) in [(0, 0), (1, 1), (19, 19), (20, 20), (39, 39), (40, 40), (41, 40), (u64::MAX, 40)] {
        assert_eq!(store.backlog(sub, DeliveryId::MIN, cap).await.unwrap(), expected, "up to {cap}");
    }
}

/// As a full subscription's part of a fan-out is recorded: it is there, and nobody will send it.
pub async fn a_delivery_that_failed_in_the_batch_that_brought_it_is_no_backlog(backend: &Backend) {
    let store = backend.owned().await;
    let (full, other) = (subscribe(&store).await, subscribe(&store).await);
    let batch = fanned_out(&event(0), &[full, other]);
    let refused = log(&batch.deliveries[0], 500, 0, Outcome::Failure);
    let batch = Batch { logs: vec![refused.clone()], ..batch };
    commit(&store, batch.clone()).await;
    commit(&store, batch.clone()).await;

    assert!(backlog(&store, full).await.is_empty());
    assert_eq!(store.backlog(full, DeliveryId::MIN, 10).await.unwrap(), 0);
    assert_eq!(recover(&store).await.untried, [other]);
    assert_eq!(store.unfinished(&[batch.deliveries[0].id]).await.unwrap().len(), 0);
    assert_eq!(store.delivery(batch.deliveries[0].id).await.unwrap().unwrap().attempts, std::slice::from_ref(&refused));
    assert_eq!(store.logs(full, None, 10).await.unwrap(), [refused]);
    let shown = store.event_deliveries(batch.events[0].id, DeliveryId::MIN, 10).await.unwrap();
    assert_eq!(shown[0].last_outcome, Some(Outcome::Failure));
}
