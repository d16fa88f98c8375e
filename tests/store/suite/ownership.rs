//! `migrate`, `acquire`, `ping`: who may do what, and when.

use std::sync::Arc;
use std::time::Duration;

use hookpost::store::{Batch, Store, StoreError};

use crate::backend::Backend;
use crate::fixtures::*;

/// How long a server may take to notice that an owner is gone.
const PATIENCE: Duration = Duration::from_secs(10);

fn batch() -> Batch {
    Batch { watermark: Some(hookpost::delivery::DeliveryId(id(1))), ..Batch::default() }
}

async fn acquired_at_last(store: &Arc<dyn Store>) {
    let acquired = async { while !store.acquire().await.unwrap() {} };
    tokio::time::timeout(PATIENCE, acquired).await.expect("the store is free");
}

pub async fn nobody_commits_before_acquiring(backend: &Backend) {
    let store = backend.open();
    store.migrate(T0).await.unwrap();
    let error = store.commit(&batch()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotOwner), "{error:?}");
    assert!(recover(&store).await.watermark.is_none_or(|w| w == hookpost::delivery::DeliveryId::MIN));
}

pub async fn the_owner_acquires_again(backend: &Backend) {
    let store = backend.owned().await;
    assert!(store.acquire().await.unwrap());
    commit(&store, batch()).await;
}

pub async fn a_second_process_gets_the_store_only_when_the_first_is_gone(backend: &Backend) {
    let first = backend.owned().await;
    let second = backend.open();
    assert!(!second.acquire().await.unwrap());
    assert!(!second.acquire().await.unwrap(), "asking twice does not help");
    commit(&first, batch()).await;
    first.close().await;
    acquired_at_last(&second).await;
    commit(&second, batch()).await;
}

pub async fn a_second_process_can_read_but_not_commit(backend: &Backend) {
    let first = backend.owned().await;
    let sub = subscribe(&first).await;
    let second = backend.open();
    second.migrate(T0).await.unwrap();
    assert!(!second.acquire().await.unwrap());
    assert_eq!(second.subscription(sub).await.unwrap().unwrap().id, sub);
    second.ping().await.unwrap();
    let error = second.commit(&accepted([delivery(sub, 1)])).await.unwrap_err();
    assert!(matches!(error, StoreError::NotOwner), "{error:?}");
    assert!(backlog(&first, sub).await.is_empty());
}

pub async fn migrating_again_and_at_the_same_time_is_no_error(backend: &Backend) {
    let (first, second) = (backend.open(), backend.open());
    let (one, other) = tokio::join!(first.migrate(T0), second.migrate(T0));
    one.unwrap();
    other.unwrap();
    first.migrate(T0 + DAY).await.unwrap();
    subscribe(&first).await;
}

pub async fn migrating_works_while_another_process_owns_the_store(backend: &Backend) {
    let owner = backend.owned().await;
    let standby = backend.open();
    standby.migrate(T0).await.unwrap();
    commit(&owner, batch()).await;
}

pub async fn ping_answers(backend: &Backend) {
    let store = backend.owned().await;
    store.ping().await.unwrap();
}

pub async fn its_identity_is_the_same_for_every_process_and_another_stores_is_another(backend: &Backend) {
    let identity = backend.owned().await.identity().await.unwrap();
    assert_eq!(backend.open().identity().await.unwrap(), identity);
    assert_ne!(Backend::sqlite().owned().await.identity().await.unwrap(), identity);
}

pub async fn it_says_its_name(backend: &Backend) {
    let expected = match backend {
        Backend::Sqlite { .. } => "sqlite",
        Backend::Postgres { .. } => "postgres",
    };
    assert_eq!(backend.open().name(), expected);
}
