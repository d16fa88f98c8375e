//! Idempotency keys: held from the commit of what they stand for until they are pruned.

use std::sync::Arc;

use hookpost::delivery::Timestamp;
use hookpost::store::{Batch, IdempotencyKey, Store, StoreError};
use uuid::Uuid;

use crate::backend::Backend;
use crate::fixtures::*;

fn key(scope: &str, key: &str, outcome: Uuid) -> IdempotencyKey {
    let created_at = T0;
    IdempotencyKey { scope: scope.into(), key: key.into(), request_hash: [0xa5; 32], outcome, created_at }
}

fn held(keys: impl IntoIterator<Item = IdempotencyKey>) -> Batch {
    Batch { keys: keys.into_iter().collect(), ..Batch::default() }
}

/// Those of the keys, given as (scope, key), that are held, in a fixed order.
async fn find(store: &Arc<dyn Store>, asked: &[(&str, &str)]) -> Vec<IdempotencyKey> {
    let asked: Vec<_> = asked.iter().map(|(scope, key)| (Arc::from(*scope), Arc::from(*key))).collect();
    let mut found = store.idempotency_keys(&asked).await.unwrap();
    found.sort_by(|a, b| (&a.scope, &a.key).cmp(&(&b.scope, &b.key)));
    found
}

pub async fn a_held_key_reads_back_as_it_was_written(backend: &Backend) {
    let store = backend.owned().await;
    let request_hash = std::array::from_fn(|n| u8::try_from(n * 8).unwrap());
    let written = IdempotencyKey { request_hash, ..key("ingest/7", "a key, with é", id(1)) };
    commit(&store, held([written.clone()])).await;
    assert_eq!(find(&store, &[("ingest/7", "a key, with é")]).await, [written]);
}

pub async fn only_those_asked_for_are_found(backend: &Backend) {
    let store = backend.owned().await;
    let keys = ["a", "b", "c"].map(|text| key("ingest/7", text, id(1)));
    commit(&store, held(keys.clone())).await;
    let asked = [("ingest/7", "c"), ("ingest/7", "never"), ("ingest/7", "a"), ("ingest/8", "b")];
    assert_eq!(find(&store, &asked).await, [keys[0].clone(), keys[2].clone()]);
    assert_eq!(find(&store, &[]).await, []);
}

pub async fn another_scope_is_another_key(backend: &Backend) {
    let store = backend.owned().await;
    let keys = [key("events/a", "same", id(2)), key("ingest/7", "same", id(1)), key("ingest/8", "same", id(3))];
    commit(&store, held([keys[1].clone()])).await;
    commit(&store, held([keys[0].clone(), keys[2].clone()])).await;
    let asked = [("ingest/7", "same"), ("ingest/8", "same"), ("events/a", "same")];
    assert_eq!(find(&store, &asked).await, keys);
}

pub async fn a_key_that_stands_for_something_else_refuses_the_whole_batch(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let first = key("ingest/7", "same", id(1));
    commit(&store, held([first.clone()])).await;

    let sent = event(0);
    let mut batch = fanned_out(&sent, &[sub]);
    let refused = batch.deliveries[0].clone();
    batch.keys = vec![key("ingest/7", "fresh", id(2)), key("ingest/7", "same", id(2))];
    batch.logs = vec![log(&refused, 500, 1, hookpost::delivery::Outcome::Success)];
    batch.watermark = Some(refused.id);
    let error = store.commit(&batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");

    assert_eq!(find(&store, &[("ingest/7", "same"), ("ingest/7", "fresh")]).await, [first]);
    assert_eq!(store.stored(&[refused.id]).await.unwrap(), []);
    assert_eq!(store.stored_events(&[sent.id]).await.unwrap(), []);
    assert!(log_ids(&store, sub).await.is_empty());
    assert_ne!(recover(&store).await.watermark, Some(refused.id));

    // Without the key it does no harm.
    batch.keys.pop();
    commit(&store, batch).await;
    assert_eq!(store.stored(&[refused.id]).await.unwrap(), [refused.id]);
}

pub async fn one_batch_cannot_give_a_key_to_two(backend: &Backend) {
    let store = backend.owned().await;
    let batch = held([key("ingest/7", "same", id(1)), key("ingest/7", "same", id(2))]);
    let error = store.commit(&batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");
    assert_eq!(find(&store, &[("ingest/7", "same")]).await, []);
}

/// The reply of a commit can be lost; the writer then commits the same batch again.
pub async fn the_same_batch_twice_holds_its_keys_once(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let keys = vec![key("ingest/7", "a", id(1)), key("ingest/7", "b", id(2))];
    let batch = Batch { keys: keys.clone(), ..accepted([delivery(sub, 1), delivery(sub, 2)]) };
    store.commit(&batch).await.unwrap();
    store.commit(&batch).await.unwrap();
    assert_eq!(find(&store, &[("ingest/7", "a"), ("ingest/7", "b")]).await, keys);
    assert_eq!(backlog(&store, sub).await.len(), 2);
}

pub async fn keys_are_pruned_from_the_cutoff_back_and_can_be_held_again(backend: &Backend) {
    let store = backend.owned().await;
    let at = |text, ms| IdempotencyKey { created_at: Timestamp(T0.0 + ms), ..key("ingest/7", text, id(ms)) };
    commit(&store, held([at("young", 11), at("old", 9), at("edge", 10)])).await;
    let counts = store.prune_keys(Timestamp(T0.0 + 10), 100).await.unwrap();
    assert_eq!((counts.rows_deleted, counts.more), (1, false));
    let asked = [("ingest/7", "old"), ("ingest/7", "edge"), ("ingest/7", "young")];
    assert_eq!(find(&store, &asked).await, [at("edge", 10), at("young", 11)]);
    commit(&store, held([at("old", 20)])).await;
    assert_eq!(find(&store, &asked[..1]).await, [at("old", 20)]);
}

pub async fn keys_are_pruned_in_chunks_that_come_to_an_end(backend: &Backend) {
    let store = backend.owned().await;
    commit(&store, held((0..7).map(|n| key("ingest/7", &n.to_string(), id(n))))).await;
    let mut deleted = 0;
    for _ in 0..7 {
        let counts = store.prune_keys(T0 + DAY, 3).await.unwrap();
        assert!(counts.rows_deleted <= 3, "{counts:?}");
        deleted += counts.rows_deleted;
        if !counts.more {
            break;
        }
    }
    assert_eq!(deleted, 7);
    assert_eq!(store.prune_keys(T0 + DAY, 3).await.unwrap().rows_deleted, 0);
}
