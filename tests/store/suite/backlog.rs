//! `backlog_page`: what a subscription has still to be sent for the first time.

use bytes::Bytes;
use hookpost::delivery::{Delivery, DeliveryId};

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
