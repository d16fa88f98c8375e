//! Tenants: what each has, how much it may have, and whose what is left of a deleted subscription is.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{Settings, SubscriptionId};
use hookpost::store::{NewSubscription, Store};

use crate::backend::Backend;
use crate::fixtures::*;

async fn new(store: &Arc<dyn Store>, tenant: &str) -> NewSubscription {
    NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        target_url: "https://receiver.example/hook".to_owned(),
        event_types: vec![],
        secrets: None,
        tenant: tenant.to_owned(),
        settings: Settings::default(),
    }
}

/// A new subscription of the tenant, if it may have it.
async fn create(store: &Arc<dyn Store>, tenant: &str, quota: u64) -> Option<SubscriptionId> {
    store.create_subscription(new(store, tenant).await, quota, T0).await.unwrap().map(|created| created.id)
}

pub async fn a_list_is_of_one_tenant_or_of_all(backend: &Backend) {
    let store = backend.owned().await;
    let mut of = std::collections::BTreeMap::<&str, Vec<SubscriptionId>>::new();
    for tenant in ["acme", "bolt", "acme", "acme", "bolt"] {
        of.entry(tenant).or_default().push(create(&store, tenant, 10).await.unwrap());
    }
    let list = |tenant, after| {
        let store = store.clone();
        async move {
            let page = store.subscriptions(tenant, after, 2).await.unwrap();
            page.into_iter().map(|subscription| subscription.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(list(Some("acme"), None).await, of["acme"][..2]);
    assert_eq!(list(Some("acme"), Some(of["acme"][1])).await, of["acme"][2..]);
    assert_eq!(list(Some("bolt"), None).await, of["bolt"]);
    assert_eq!(list(Some("acm"), None).await, []);
    assert_eq!(list(None, None).await, [1, 2].map(SubscriptionId));
}

pub async fn a_tenant_has_up_to_its_quota_and_what_is_deleted_makes_room(backend: &Backend) {
    let store = backend.owned().await;
    assert!(create(&store, "acme", 0).await.is_none());
    let first = create(&store, "acme", 2).await.unwrap();
    assert!(create(&store, "acme", 2).await.is_some());
    assert!(create(&store, "acme", 2).await.is_none());
    assert!(create(&store, "bolt", 2).await.is_some(), "another tenant has its own");
    assert!(store.delete_subscription(first, &Actor::Hookpost, T0).await.unwrap());
    assert!(!store.delete_subscription(first, &Actor::Hookpost, T0).await.unwrap(), "which makes no more room");
    assert!(create(&store, "acme", 2).await.is_some());
    assert!(create(&store, "acme", 2).await.is_none());
    assert_eq!(store.subscriptions(Some("acme"), None, 10).await.unwrap().len(), 2);
}

pub async fn the_last_place_is_taken_once(backend: &Backend) {
    let (store, other) = (backend.owned().await, backend.open());
    let tries = (0..20).map(|n| {
        let store = if n % 2 == 0 { store.clone() } else { other.clone() };
        tokio::spawn(async move { create(&store, "acme", 7).await.is_some() })
    });
    let mut created = 0;
    for tried in tries.collect::<Vec<_>>() {
        created += u32::from(tried.await.unwrap());
    }
    assert_eq!(created, 7);
}

pub async fn a_tenant_that_has_none_left_is_forgotten_and_may_come_back(backend: &Backend) {
    let store = backend.owned().await;
    let only = create(&store, "acme", 1).await.unwrap();
    store.delete_subscription(only, &Actor::Hookpost, T0).await.unwrap();
    store.prune(T0, 100).await.unwrap();
    assert!(!backend.dump("tenants").await.contains("acme"));
    assert!(create(&store, "acme", 1).await.is_some());
    store.prune(T0, 100).await.unwrap();
    assert!(create(&store, "acme", 1).await.is_none());
}

pub async fn a_delivery_is_its_subscriptions_tenants_also_after_the_deletion(backend: &Backend) {
    let store = backend.owned().await;
    let sub = create(&store, "acme", 10).await.unwrap();
    let left = delivery(sub, 1);
    commit(&store, delivered([left.clone()])).await;
    let tenant = || {
        let store = store.clone();
        async move { store.delivery(left.id).await.unwrap().unwrap().tenant }
    };
    assert_eq!(tenant().await.as_deref(), Some("acme"));
    store.delete_subscription(sub, &Actor::Hookpost, T0 + DAY).await.unwrap();
    assert_eq!(tenant().await.as_deref(), Some("acme"));
    store.prune(T0, 100).await.unwrap();
    assert_eq!(tenant().await.as_deref(), Some("acme"), "it is remembered as long as the delivery");
}

pub async fn whose_a_deleted_subscription_was_is_forgotten_after_its_deliveries(backend: &Backend) {
    let store = backend.owned().await;
    let (old, young) = (create(&store, "acme", 10).await.unwrap(), create(&store, "bolt", 10).await.unwrap());
    let left = delivery(young, days(9));
    commit(&store, delivered([delivery(old, 1), left.clone()])).await;
    store.delete_subscription(old, &Actor::Hookpost, T0).await.unwrap();
    store.delete_subscription(young, &Actor::Hookpost, T0 + DAY * 9).await.unwrap();
    let mut pruned = store.prune(T0 + DAY * 5, 2).await.unwrap();
    while pruned.more {
        pruned = store.prune(T0 + DAY * 5, 2).await.unwrap();
    }
    let remembered = backend.dump("deleted_subscriptions").await;
    assert!(!remembered.contains("acme") && remembered.contains("bolt"), "{remembered}");
    assert_eq!(store.delivery(left.id).await.unwrap().unwrap().tenant.as_deref(), Some("bolt"));
}

pub async fn a_delivery_of_a_subscription_that_nobody_remembers_is_nobodys(backend: &Backend) {
    let store = backend.owned().await;
    let stray = delivery(SubscriptionId(404), 1);
    commit(&store, accepted([stray.clone()])).await;
    assert_eq!(store.delivery(stray.id).await.unwrap().unwrap().tenant, None);
}
