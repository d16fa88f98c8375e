//! `commit` and `stored`: one durable, idempotent transaction, and what became of it.

use bytes::Bytes;
use hookpost::delivery::{Delivery, DeliveryId, Outcome};
use hookpost::store::{Batch, StoreError};

use crate::backend::Backend;
use crate::fixtures::*;

pub async fn a_delivery_and_its_log_read_back_as_they_were_written(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let (typed, untyped) = (delivery(sub, 1), Delivery { event_type: None, ..delivery(sub, 2) });
    let mut bare = log(&untyped, 4, 1, Outcome::Failure);
    (bare.http_status, bare.error_details, bare.response_body) = (None, None, None);
    let full = log(&typed, 3, 1, Outcome::Failure);
    let logs = vec![full.clone(), bare.clone()];
    commit(&store, Batch { logs, ..accepted([typed.clone(), untyped.clone()]) }).await;

    for (written, its_log) in [(typed, full), (untyped, bare)] {
        let read = store.delivery(written.id).await.unwrap().unwrap();
        assert_eq!(read.id, written.id);
        assert_eq!(read.subscription_id, written.subscription_id);
        assert_eq!(read.event_type, written.event_type);
        assert_eq!(read.attempts, [its_log]);
        assert!(read.subscription_exists);
        assert_eq!(read.retry, None);
    }
}

pub async fn every_byte_of_a_payload_survives(backend: &Backend) {
    let bytes: Vec<u8> = (0..=255).chain("{\"é\":\"\u{1F980}\u{0}\"}\r\n ".bytes()).collect();
    payload_survives(backend, bytes).await;
}

pub async fn a_payload_of_a_mebibyte_survives(backend: &Backend) {
    payload_survives(backend, (0..1 << 20).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()).await;
}

async fn payload_survives(backend: &Backend, bytes: Vec<u8>) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let written = Delivery { payload: Bytes::from(bytes), ..delivery(sub, 1) };
    commit(&store, accepted([written.clone()])).await;
    let page = store.backlog_page(sub, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
    assert!(page.deliveries[0].payload == written.payload, "the backlog's payload differs");

    commit(&store, Batch { retries: vec![retry(&written, 2, 10)], ..Batch::default() }).await;
    let again = store.unfinished(&[written.id]).await.unwrap();
    assert!(again[0].payload == written.payload, "the retry's payload differs");
}

/// PostgreSQL's text cannot hold NUL; a receiver's answer can.
pub async fn a_text_with_nul_is_stored_without_harm_to_its_neighbours(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let (odd, neighbour) = (delivery(sub, 1), delivery(sub, 2));
    let mut odd_log = log(&odd, 3, 1, Outcome::Failure);
    odd_log.error_details = Some("before\0after".to_owned());
    odd_log.response_body = Some("\0".to_owned());
    let neighbours_log = log(&neighbour, 4, 1, Outcome::Success);
    let logs = vec![odd_log, neighbours_log.clone()];
    commit(&store, Batch { logs, ..accepted([odd.clone(), neighbour.clone()]) }).await;

    let read = store.logs(sub, None, 10).await.unwrap();
    assert_eq!(read[0], neighbours_log);
    let details = read[1].error_details.as_deref().unwrap();
    assert!(details.starts_with("before") && details.ends_with("after"), "{details:?}");
    assert!(read[1].response_body.is_some());
}

pub async fn a_full_batch_is_stored(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let deliveries: Vec<_> = (0..1024).map(|ms| delivery(sub, ms)).collect();
    let ids: Vec<_> = deliveries.iter().map(|d| d.id).collect();
    commit(&store, delivered(deliveries)).await;
    assert_eq!(store.stored(&ids).await.unwrap(), ids);
    assert_eq!(store.logs(sub, None, 2000).await.unwrap().len(), 1024);
}

pub async fn an_empty_batch_is_no_error(backend: &Backend) {
    let store = backend.owned().await;
    commit(&store, Batch::default()).await;
}

/// The reply of a commit can be lost; the writer then commits the same batch again.
pub async fn the_same_batch_twice_stores_one_of_each(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let (waiting, ended) = (delivery(sub, 1), delivery(sub, 2));
    let mut batch = retried([waiting.clone()], 50);
    batch.deliveries.push(ended.clone());
    batch.logs.push(log(&ended, 4, 1, Outcome::Success));
    batch.settled = vec![ended.id];
    batch.positions = vec![(other, Some(waiting.id))];
    batch.watermark = Some(ended.id);
    store.commit(&batch).await.unwrap();
    store.commit(&batch).await.unwrap();

    assert_eq!(log_ids(&store, sub).await, [id(4), id(2)]);
    assert_eq!(store.retries(sub, 10).await.unwrap(), [retry(&waiting, 2, 50)]);
    assert_eq!(store.stored(&[waiting.id, ended.id]).await.unwrap(), [waiting.id, ended.id]);
    assert_eq!(recover(&store).await.positions, [(other, waiting.id)]);
}

pub async fn a_refused_commit_leaves_nothing(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    backend.refuse_retries().await;
    let failed = delivery(sub, 1);
    let batch =
        Batch { positions: vec![(sub, Some(failed.id))], watermark: Some(failed.id), ..retried([failed.clone()], 50) };
    let error = store.commit(&batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");

    assert_eq!(store.stored(&[failed.id]).await.unwrap(), []);
    assert!(log_ids(&store, sub).await.is_empty());
    let recovery = recover(&store).await;
    assert!(recovery.positions.is_empty() && recovery.watermark.is_none_or(|w| w == DeliveryId::MIN));

    // And it does no harm to the next.
    commit(&store, accepted([failed.clone()])).await;
    assert_eq!(store.stored(&[failed.id]).await.unwrap(), [failed.id]);
}

pub async fn a_later_retry_replaces_the_earlier(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let failing = delivery(sub, 1);
    commit(&store, retried([failing.clone()], 50)).await;
    commit(&store, Batch { retries: vec![retry(&failing, 3, 90)], ..Batch::default() }).await;
    assert_eq!(store.retries(sub, 10).await.unwrap(), [retry(&failing, 3, 90)]);
}

/// The logs of a store that was away for long pile up, and go out in one batch.
pub async fn of_two_attempts_in_a_batch_the_last_has_the_last_word(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let (failing, received) = (delivery(sub, 1), delivery(sub, 2));
    commit(&store, accepted([failing.clone(), received.clone()])).await;
    let batch = Batch {
        logs: vec![
            log(&failing, 3, 1, Outcome::FailedAttempt),
            log(&received, 4, 1, Outcome::FailedAttempt),
            log(&failing, 5, 2, Outcome::FailedAttempt),
            log(&received, 6, 2, Outcome::Success),
        ],
        retries: vec![retry(&failing, 2, 50), retry(&received, 2, 50), retry(&failing, 3, 90)],
        settled: vec![received.id],
        ..Batch::default()
    };
    commit(&store, batch).await;
    assert_eq!(store.retries(sub, 10).await.unwrap(), [retry(&failing, 3, 90)]);
    assert_eq!(log_ids(&store, sub).await, [6, 5, 4, 3].map(id));
}

pub async fn a_settled_delivery_has_no_retry(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let (failing, other) = (delivery(sub, 1), delivery(sub, 2));
    commit(&store, retried([failing.clone(), other.clone()], 50)).await;
    commit(&store, Batch { settled: vec![failing.id], ..Batch::default() }).await;
    assert_eq!(store.retries(sub, 10).await.unwrap(), [retry(&other, 2, 50)]);
}

pub async fn a_position_is_replaced_and_removed(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let (early, late) = (DeliveryId(id(1)), DeliveryId(id(2)));
    let at = |positions| Batch { positions, ..Batch::default() };
    commit(&store, at(vec![(sub, Some(early)), (other, Some(early))])).await;
    commit(&store, at(vec![(sub, Some(late))])).await;
    assert_eq!(recover(&store).await.positions, [(sub, late), (other, early)]);
    commit(&store, at(vec![(other, None), (sub, None)])).await;
    assert!(recover(&store).await.positions.is_empty());
}

pub async fn the_watermark_is_kept_until_it_moves(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let at = DeliveryId(id(5));
    commit(&store, Batch { watermark: Some(at), ..Batch::default() }).await;
    commit(&store, accepted([delivery(sub, 9)])).await;
    assert_eq!(recover(&store).await.watermark, Some(at));
    commit(&store, Batch { watermark: Some(DeliveryId(id(8))), ..Batch::default() }).await;
    assert_eq!(recover(&store).await.watermark, Some(DeliveryId(id(8))));
}

pub async fn stored_names_those_that_are_and_keeps_the_order(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, accepted((0..3).map(|ms| delivery(sub, ms)))).await;
    let [first, second, third, never] = [0, 1, 2, 3].map(|ms| DeliveryId(id(ms)));
    assert_eq!(store.stored(&[third, never, first, second]).await.unwrap(), [third, first, second]);
    assert_eq!(store.stored(&[]).await.unwrap(), []);
}

pub async fn what_was_committed_is_there_after_a_restart(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, delivered([delivery(sub, 1)])).await;
    store.close().await;
    let store = backend.open();
    store.migrate(T0).await.unwrap();
    assert_eq!(log_ids(&store, sub).await, [id(2)]);
    assert_eq!(store.subscription(sub).await.unwrap().unwrap().id, sub);
}
