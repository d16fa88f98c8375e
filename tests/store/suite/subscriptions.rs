//! Subscriptions: created, read, changed, deleted.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{DeliveryId, DisabledReason, EventTypePattern, Subscription, SubscriptionId};
use hookpost::store::{Batch, NewSubscription, Store, SubscriptionChange};

use crate::backend::Backend;
use crate::fixtures::*;

fn patterns(texts: &[&str]) -> Vec<EventTypePattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// One with this sealed secret, if any.
async fn create_with(store: &Arc<dyn Store>, secret: Option<&str>) -> Subscription {
    let new = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        tenant: hookpost::delivery::DEFAULT_TENANT.into(),
        target_url: "https://receiver.example/hook?q=é".to_owned(),
        event_types: patterns(&["order.*", "invoice.paid"]),
        secrets: secret.map(sealed),
        settings: hookpost::delivery::Settings::default(),
    };
    store.create_subscription(new, u64::MAX, T0).await.unwrap().unwrap()
}

pub async fn what_was_created_reads_back(backend: &Backend) {
    let store = backend.owned().await;
    let created = create_with(&store, Some("a made-up secret")).await;
    let read = store.subscription(created.id).await.unwrap().unwrap();
    for subscription in [created, read] {
        assert_eq!(&*subscription.target_url, "https://receiver.example/hook?q=é");
        assert_eq!(subscription.event_types, patterns(&["order.*", "invoice.paid"]));
        assert_eq!(current(&subscription), Some("a made-up secret"));
        assert_eq!(subscription.disabled, None);
        assert_eq!((subscription.created_at, subscription.updated_at), (T0, T0));
    }
    let plain = create(&store, "http://receiver.example/").await;
    let plain = store.subscription(plain.id).await.unwrap().unwrap();
    assert!(plain.event_types.is_empty() && plain.secrets.is_none());
}

pub async fn an_unknown_one_is_none(backend: &Backend) {
    let store = backend.owned().await;
    for id in [0, 1, -1, i64::MAX, i64::MIN] {
        assert!(store.subscription(SubscriptionId(id)).await.unwrap().is_none(), "{id}");
    }
}

pub async fn ids_are_small_integers_that_rise(backend: &Backend) {
    let store = backend.owned().await;
    let ids = [subscribe(&store).await, subscribe(&store).await, subscribe(&store).await];
    assert_eq!(ids, [1, 2, 3].map(SubscriptionId));
}

/// Else the deliveries of the old one would become the new one's.
pub async fn an_id_is_never_given_again(backend: &Backend) {
    let store = backend.owned().await;
    let last = subscribe(&store).await;
    store.delete_subscription(last, &Actor::Hookpost, T0).await.unwrap();
    assert!(subscribe(&store).await > last);
    let last = subscribe(&store).await;
    store.delete_subscription(last, &Actor::Hookpost, T0).await.unwrap();
    store.close().await;
    assert!(subscribe(&backend.open()).await > last, "nor after a restart");
}

pub async fn pages_come_by_id(backend: &Backend) {
    let store = backend.owned().await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(subscribe(&store).await);
    }
    store.delete_subscription(all.remove(1), &Actor::Hookpost, T0).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let page = store.subscriptions(None, seen.last().copied(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|subscription| subscription.id));
    }
    assert_eq!(seen, all);
}

pub async fn an_update_leaves_out_what_it_does_not_name(backend: &Backend) {
    let store = backend.owned().await;
    let before = create_with(&store, Some("a made-up secret")).await;
    let later = T0 + DAY;
    let after =
        store.update_subscription(before.id, SubscriptionChange::default(), later).await.unwrap().done().unwrap();
    assert_eq!(after.target_url, before.target_url);
    assert_eq!(after.event_types, before.event_types);
    assert_eq!(current(&after), current(&before));
    assert_eq!(after.disabled, None);
    assert_eq!((after.created_at, after.updated_at), (T0, later));
}

pub async fn an_update_replaces_what_it_names(backend: &Backend) {
    let store = backend.owned().await;
    let id = create_with(&store, Some("a made-up secret")).await.id;
    let neighbour = create_with(&store, Some("a made-up secret")).await.id;
    let change = SubscriptionChange {
        target_url: Some("https://elsewhere.example/".to_owned()),
        event_types: Some(vec![]),
        secrets: Some(Some(sealed("another made-up secret"))),
        ..Default::default()
    };
    let returned = store.update_subscription(id, change, T0).await.unwrap().done().unwrap();
    for subscription in [returned, store.subscription(id).await.unwrap().unwrap()] {
        assert_eq!(&*subscription.target_url, "https://elsewhere.example/");
        assert!(subscription.event_types.is_empty());
        assert_eq!(current(&subscription), Some("another made-up secret"));
    }
    let neighbour = store.subscription(neighbour).await.unwrap().unwrap();
    assert_eq!(current(&neighbour), Some("a made-up secret"));
}

pub async fn a_secret_can_be_taken_away(backend: &Backend) {
    let store = backend.owned().await;
    let id = create_with(&store, Some("a made-up secret")).await.id;
    let change = SubscriptionChange { secrets: Some(None), ..Default::default() };
    assert!(store.update_subscription(id, change, T0).await.unwrap().done().unwrap().secrets.is_none());
    assert!(store.subscription(id).await.unwrap().unwrap().secrets.is_none());
}

pub async fn one_can_be_disabled_and_enabled(backend: &Backend) {
    let store = backend.owned().await;
    let id = subscribe(&store).await;
    for disabled in [Some(DisabledReason::Gone), None] {
        let change = SubscriptionChange { disabled: Some(disabled), ..Default::default() };
        assert_eq!(store.update_subscription(id, change, T0).await.unwrap().done().unwrap().disabled, disabled);
        assert_eq!(store.subscription(id).await.unwrap().unwrap().disabled, disabled);
    }
}

pub async fn every_change_raises_the_version(backend: &Backend) {
    let store = backend.owned().await;
    let created = create(&store, "https://receiver.example/").await;
    let mut last = created.version;
    for _ in 0..3 {
        let change = SubscriptionChange { event_types: Some(patterns(&["a"])), ..Default::default() };
        let version = store.update_subscription(created.id, change, T0).await.unwrap().done().unwrap().version;
        assert!(version > last);
        last = version;
    }
    assert_eq!(store.subscription(created.id).await.unwrap().unwrap().version, last);
}

pub async fn updating_or_deleting_an_unknown_one_changes_nothing(backend: &Backend) {
    let store = backend.owned().await;
    let known = subscribe(&store).await;
    let unknown = SubscriptionId(known.0 + 1);
    assert!(store.update_subscription(unknown, SubscriptionChange::default(), T0).await.unwrap().done().is_none());
    assert!(!store.delete_subscription(unknown, &Actor::Hookpost, T0).await.unwrap());
    assert!(store.delete_subscription(known, &Actor::Hookpost, T0).await.unwrap());
    assert!(!store.delete_subscription(known, &Actor::Hookpost, T0).await.unwrap(), "only the first time");
}

pub async fn versions_come_for_those_that_exist(backend: &Backend) {
    let store = backend.owned().await;
    let (changed, plain) = (create(&store, "http://a.example/").await, create(&store, "http://b.example/").await);
    create(&store, "http://c.example/").await;
    let change = SubscriptionChange { secrets: Some(Some(sealed("s"))), ..Default::default() };
    let changed = store.update_subscription(changed.id, change, T0).await.unwrap().done().unwrap();
    let asked = [plain.id, SubscriptionId(404), changed.id];
    let mut versions = store.subscription_versions(&asked).await.unwrap();
    versions.sort_unstable();
    assert_eq!(versions, [(changed.id, changed.version), (plain.id, plain.version)]);
    assert!(store.subscription_versions(&[]).await.unwrap().is_empty());
}

pub async fn deleting_takes_retries_and_position_and_leaves_deliveries_and_logs(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let (failing, others) = (delivery(sub, 1), delivery(other, 2));
    let batch = retried([failing.clone(), others.clone()], 50);
    let positions = [sub, other].map(|id| (id, Some(failing.id))).to_vec();
    commit(&store, Batch { positions, ..batch }).await;
    assert!(store.delete_subscription(sub, &Actor::Hookpost, T0).await.unwrap());

    assert!(store.subscription(sub).await.unwrap().is_none());
    assert_eq!(store.pending(sub, 10).await.unwrap(), Default::default());
    assert_eq!(store.stored(&[failing.id]).await.unwrap(), [DeliveryId(id(1))]);
    assert_eq!(log_ids(&store, sub).await, [id(2)]);
    let neighbour = store.pending(other, 10).await.unwrap();
    assert_eq!((neighbour.position, neighbour.retries.len()), (Some(failing.id), 1));
}

pub async fn two_may_share_a_target(backend: &Backend) {
    let store = backend.owned().await;
    let first = create(&store, "https://receiver.example/").await;
    let second = create(&store, "https://receiver.example/").await;
    assert_ne!(first.id, second.id);
}
