//! The audit: records of deeds, found by what they were done to, by whom, and whose that was.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::audit::{Act, Action, AuditFilter, AuditRecord, Thing};
use hookpost::delivery::{SubscriptionId, Timestamp};
use hookpost::store::Store;

use crate::backend::Backend;
use crate::fixtures::*;

async fn record(store: &Arc<dyn Store>, by: Actor, thing: Thing, tenant: Option<&str>, at: i64) {
    let act = Act { by, action: Action::SecretShown, detail: Some("é \"in words\" \0".to_owned()) };
    store.record(&act, &thing, tenant, Timestamp(T0.0 + at)).await.unwrap();
}

async fn found(store: &Arc<dyn Store>, filter: AuditFilter) -> Vec<i64> {
    let records = store.audit(&filter, None, 100).await.unwrap();
    records.iter().map(|record| record.at.0 - T0.0).collect()
}

fn sub(id: i64) -> Thing {
    Thing::Subscription(SubscriptionId(id))
}

fn key() -> Actor {
    Actor::Key("3f9a".into())
}

pub async fn a_record_is_read_back_as_it_was_written(backend: &Backend) {
    let store = backend.owned().await;
    record(&store, key(), sub(7), Some("acme"), 0).await;
    let AuditRecord { at, act, object, tenant, .. } =
        store.audit(&AuditFilter::default(), None, 10).await.unwrap().remove(0);
    assert_eq!((at, object, tenant.as_deref()), (T0, sub(7), Some("acme")));
    assert_eq!((act.by, act.action), (key(), Action::SecretShown));
    // PostgreSQL's text has no NUL.
    assert!(act.detail.unwrap().starts_with("é \"in words\" "));
}

pub async fn records_are_found_by_what_by_whom_and_whose(backend: &Backend) {
    let store = backend.owned().await;
    record(&store, key(), sub(7), Some("acme"), 1).await;
    record(&store, Actor::Anonymous, sub(7), Some("acme"), 2).await;
    record(&store, key(), sub(70), Some("other"), 3).await;
    record(&store, Actor::CommandLine, Thing::MasterKey, None, 4).await;
    let (object, by, tenant) = (Some(sub(7)), Some(key()), Some("acme".into()));
    assert_eq!(found(&store, AuditFilter::default()).await, [4, 3, 2, 1], "newest first");
    assert_eq!(found(&store, AuditFilter { object: object.clone(), ..Default::default() }).await, [2, 1]);
    assert_eq!(found(&store, AuditFilter { by: by.clone(), ..Default::default() }).await, [3, 1]);
    assert_eq!(found(&store, AuditFilter { tenant: tenant.clone(), ..Default::default() }).await, [2, 1]);
    assert_eq!(found(&store, AuditFilter { object, by, tenant }).await, [1]);
}

pub async fn pages_of_the_audit_follow_each_other(backend: &Backend) {
    let store = backend.owned().await;
    for at in 0..5 {
        record(&store, key(), sub(7), None, at).await;
    }
    let filter = AuditFilter { object: Some(sub(7)), ..Default::default() };
    let page = |before| store.audit(&filter, before, 2);
    let first = page(None).await.unwrap();
    let second = page(Some(first[1].id)).await.unwrap();
    let all: Vec<_> = first.iter().chain(&second).map(|record| record.at.0 - T0.0).collect();
    assert_eq!(all, [4, 3, 2, 1]);
}

pub async fn old_records_are_pruned_in_chunks(backend: &Backend) {
    let store = backend.owned().await;
    for at in 0..5 {
        record(&store, key(), sub(7), None, at).await;
    }
    let cutoff = Timestamp(T0.0 + 3);
    let counts = store.prune_audit(cutoff, 2).await.unwrap();
    assert_eq!((counts.rows_deleted, counts.more), (2, true));
    let counts = store.prune_audit(cutoff, 2).await.unwrap();
    assert_eq!((counts.rows_deleted, counts.more), (1, false));
    assert_eq!(found(&store, AuditFilter::default()).await, [4, 3]);
}
