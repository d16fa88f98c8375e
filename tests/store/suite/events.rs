//! Events and their fan-out: one payload for many deliveries, which are otherwise like any other.

use std::sync::Arc;

use bytes::Bytes;
use hookpost::access::Actor;
use hookpost::delivery::{Delivery, DeliveryId, Event, EventId, Outcome, SubscriptionId};
use hookpost::store::{Batch, EventDelivery, Store};

use crate::backend::Backend;
use crate::fixtures::*;

/// An event with a payload that cannot be compressed.
fn large_event(ms: i64, bytes: usize) -> Event {
    let mut state = 1_u32;
    let mut next = || {
        // Xorshift: looks random, and is the same in every run.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    Event { payload: Bytes::from((0..bytes).map(|_| next()).collect::<Vec<u8>>()), ..event(ms) }
}

async fn subscribe_all<const N: usize>(store: &Arc<dyn Store>) -> [SubscriptionId; N] {
    let mut all = [SubscriptionId(0); N];
    for id in &mut all {
        *id = subscribe(store).await;
    }
    all
}

fn ids(deliveries: &[EventDelivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

pub async fn an_event_reads_back_as_it_was_written(backend: &Backend) {
    let store = backend.owned().await;
    let bytes: Vec<u8> = (0..=255).chain("{\"é\":\"\u{1F980}\u{0}\"}\r\n ".bytes()).collect();
    let keyed = Event {
        tenant: Arc::from("a tenant"),
        ordering_key: Some(Arc::from("order 7, é")),
        payload: Bytes::from(bytes),
        deliveries: 3,
        ..event(1)
    };
    let plain = event(2);
    commit(&store, Batch { events: vec![keyed.clone(), plain.clone()], ..Batch::default() }).await;
    assert_eq!(store.event(keyed.id).await.unwrap(), Some(keyed));
    assert_eq!(store.event(plain.id).await.unwrap(), Some(plain));
}

pub async fn an_event_that_nobody_wanted_is_kept(backend: &Backend) {
    let store = backend.owned().await;
    let unwanted = event(1);
    commit(&store, fanned_out(&unwanted, &[])).await;
    assert_eq!(store.event(unwanted.id).await.unwrap(), Some(unwanted.clone()));
    assert_eq!(store.event_deliveries(unwanted.id, DeliveryId::MIN, 10).await.unwrap(), []);
}

pub async fn an_unknown_event_is_none(backend: &Backend) {
    let store = backend.owned().await;
    for unknown in [id(404), uuid::Uuid::new_v4(), uuid::Uuid::max()].map(EventId) {
        assert_eq!(store.event(unknown).await.unwrap(), None);
        assert_eq!(store.event_deliveries(unknown, DeliveryId::MIN, 10).await.unwrap(), []);
    }
}

pub async fn stored_events_names_those_that_are_and_keeps_the_order(backend: &Backend) {
    let store = backend.owned().await;
    commit(&store, Batch { events: (0..3).map(event).collect(), ..Batch::default() }).await;
    let [first, second, third, never] = [0, 1, 2, 3].map(|ms| EventId(id(ms)));
    assert_eq!(store.stored_events(&[third, never, first, second]).await.unwrap(), [third, first, second]);
    assert_eq!(store.stored_events(&[]).await.unwrap(), []);
}

pub async fn an_events_payload_is_stored_once(backend: &Backend) {
    const MEBIBYTE: usize = 1 << 20;
    let store = backend.owned().await;
    let all: [_; 8] = subscribe_all(&store).await;
    let before = backend.size().await;
    commit(&store, fanned_out(&large_event(1, MEBIBYTE), &all)).await;
    let grown = backend.size().await - before;
    assert!(grown < 2 * 1_048_576, "eight deliveries of one mebibyte take {grown} bytes");
}

pub async fn every_delivery_reads_back_the_payload_byte_for_byte(backend: &Backend) {
    let store = backend.owned().await;
    let all: [_; 2] = subscribe_all(&store).await;
    let sent = large_event(1, 300_000);
    let batch = fanned_out(&sent, &all);
    commit(&store, batch.clone()).await;
    for id in all {
        let page = store.backlog_page(id, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
        assert_eq!(page.deliveries.len(), 1);
        assert_is_of(&page.deliveries[0], &sent);
    }

    let retries = batch.deliveries.iter().map(|delivery| retry(delivery, 2, 500)).collect();
    commit(&store, Batch { retries, ..Batch::default() }).await;
    let again = store.unfinished(&batch.deliveries.iter().map(|d| d.id).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(again.len(), 2);
    again.iter().for_each(|delivery| assert_is_of(delivery, &sent));
}

fn assert_is_of(delivery: &Delivery, event: &Event) {
    assert!(delivery.payload == event.payload, "the payload differs");
    assert_eq!(delivery.event_id, Some(event.id));
    assert_eq!(delivery.event_type.as_ref(), Some(&event.event_type));
}

pub async fn a_backlog_holds_deliveries_of_events_and_others_in_order(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let sent = event(150);
    commit(&store, accepted([delivery(sub, 100)])).await;
    commit(&store, fanned_out(&sent, &[sub])).await;
    commit(&store, accepted([delivery(sub, 300)])).await;
    let page = store.backlog_page(sub, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
    let found: Vec<_> = page.deliveries.iter().map(|d| (d.id.0, d.event_id, d.payload.clone())).collect();
    let plain = |ms| (id(ms), None, delivery(sub, ms).payload);
    assert_eq!(found, [plain(100), (id(250), Some(sent.id), sent.payload.clone()), plain(300)]);
}

pub async fn a_page_counts_the_bytes_of_an_events_payload(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    for ms in [0, 1000, 2000] {
        let ten_bytes = Event { payload: Bytes::from_static(b"\"12345678\""), ..event(ms) };
        commit(&store, fanned_out(&ten_bytes, &[sub])).await;
    }
    for (max_bytes, expected) in [(1, 1), (19, 1), (20, 2), (29, 2), (30, 3)] {
        let page = store.backlog_page(sub, DeliveryId::MIN, 10, max_bytes).await.unwrap();
        assert_eq!(page.deliveries.len(), expected, "with {max_bytes} bytes");
        assert_eq!(page.complete, expected == 3, "with {max_bytes} bytes");
    }
}

pub async fn a_delivery_says_which_event_it_is_of(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let sent = event(0);
    commit(&store, fanned_out(&sent, &[sub])).await;
    commit(&store, accepted([delivery(sub, 200)])).await;
    let of_event = store.delivery(DeliveryId(id(100))).await.unwrap().unwrap();
    assert_eq!((of_event.event_id, of_event.event_type), (Some(sent.id), Some(sent.event_type)));
    assert_eq!(store.delivery(DeliveryId(id(200))).await.unwrap().unwrap().event_id, None);
}

pub async fn an_events_deliveries_come_by_id_in_pages(backend: &Backend) {
    let store = backend.owned().await;
    let all: [_; 5] = subscribe_all(&store).await;
    let (sent, other) = (event(0), event(50));
    commit(&store, fanned_out(&sent, &all[..3])).await;
    commit(&store, fanned_out(&other, &all)).await;
    // A fan-out that is too large for one batch.
    commit(&store, accepted([delivery_of(&sent, all[3], 1000), delivery_of(&sent, all[4], 1100)])).await;
    let expected = [100, 200, 300, 1000, 1100].map(|ms| DeliveryId(id(ms)));
    let first = store.event_deliveries(sent.id, DeliveryId::MIN, 2).await.unwrap();
    assert_eq!(ids(&first), expected[..2]);
    assert_eq!(first.iter().map(|d| d.subscription_id).collect::<Vec<_>>(), all[..2]);
    let rest = store.event_deliveries(sent.id, first[1].id, 10).await.unwrap();
    assert_eq!(ids(&rest), expected[2..]);
    assert_eq!(store.event_deliveries(sent.id, expected[4], 10).await.unwrap(), []);
}

pub async fn an_events_deliveries_show_how_they_stand(backend: &Backend) {
    let store = backend.owned().await;
    let all: [_; 4] = subscribe_all(&store).await;
    let sent = event(0);
    let batch = fanned_out(&sent, &all);
    let [untried, failing, received, ended] = &batch.deliveries[..] else { panic!("four were fanned out") };
    let logs = vec![
        log(failing, 501, 1, Outcome::FailedAttempt),
        log(received, 502, 1, Outcome::FailedAttempt),
        log(ended, 503, 1, Outcome::Failure),
        log(received, 504, 2, Outcome::Success),
    ];
    commit(&store, Batch { logs, retries: vec![retry(failing, 2, 900)], ..batch.clone() }).await;
    store.delete_subscription(all[3], &Actor::Hookpost, T0).await.unwrap();

    let shown = |delivery: &Delivery, last_outcome, retry, subscription_exists| EventDelivery {
        id: delivery.id,
        subscription_id: delivery.subscription_id,
        last_outcome,
        retry,
        subscription_exists,
    };
    let expected = [
        shown(untried, None, None, true),
        shown(failing, Some(Outcome::FailedAttempt), Some(retry(failing, 2, 900)), true),
        shown(received, Some(Outcome::Success), None, true),
        shown(ended, Some(Outcome::Failure), None, false),
    ];
    assert_eq!(store.event_deliveries(sent.id, DeliveryId::MIN, 10).await.unwrap(), expected);
}

pub async fn the_same_fan_out_twice_stores_one_of_each(backend: &Backend) {
    let store = backend.owned().await;
    let all: [_; 2] = subscribe_all(&store).await;
    let sent = event(0);
    let batch = fanned_out(&sent, &all);
    commit(&store, batch.clone()).await;
    commit(&store, batch.clone()).await;
    assert_eq!(store.event(sent.id).await.unwrap(), Some(batch.events[0].clone()));
    assert_eq!(store.event_deliveries(sent.id, DeliveryId::MIN, 10).await.unwrap().len(), 2);
    assert_eq!(backlog(&store, all[0]).await, [batch.deliveries[0].id]);
}

pub async fn a_refused_fan_out_leaves_nothing(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    backend.refuse_retries().await;
    let sent = event(0);
    let batch = fanned_out(&sent, &[sub]);
    let retries = vec![retry(&batch.deliveries[0], 2, 900)];
    assert!(store.commit(&Batch { retries, ..batch.clone() }).await.is_err());
    assert_eq!(store.stored_events(&[sent.id]).await.unwrap(), []);
    // And it does no harm to the next.
    commit(&store, batch).await;
    assert_eq!(store.stored_events(&[sent.id]).await.unwrap(), [sent.id]);
}

pub async fn deliveries_of_events_are_recovered_like_any_other(backend: &Backend) {
    let store = backend.owned().await;
    let [tried, behind, received, untried] = subscribe_all(&store).await;
    let batch = fanned_out(&event(0), &[tried, behind, received, untried]);
    let (watermark, position) = (batch.deliveries[0].id, DeliveryId(id(50)));
    let logs = vec![log(&batch.deliveries[2], 500, 1, Outcome::Success)];
    let positions = vec![(behind, Some(position))];
    commit(&store, Batch { logs, positions, watermark: Some(watermark), ..batch }).await;
    let recovery = recover(&store).await;
    assert_eq!((recovery.watermark, recovery.positions), (Some(watermark), vec![(behind, position)]));
    assert_eq!(recovery.untried, [untried], "not {tried}, {behind} or {received}");
}

/// Else the next event could have the id of one that is stored.
pub async fn the_newest_id_may_be_an_events(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, accepted([delivery(sub, 1)])).await;
    commit(&store, fanned_out(&event(5), &[])).await;
    assert_eq!(recover(&store).await.newest_id, Some(id(5)));
}
