//! `matching`: who wants an event, and the tenants that keep subscriptions apart.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{DEFAULT_TENANT, DisabledReason, EventTypePattern, SubscriptionId};
use hookpost::store::{NewSubscription, Store, SubscriptionChange};

use crate::backend::Backend;
use crate::fixtures::*;

fn patterns(texts: &[&str]) -> Vec<EventTypePattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn subscribe_to(store: &Arc<dyn Store>, tenant: &str, event_types: &[&str]) -> SubscriptionId {
    let new = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        target_url: "https://receiver.example/hook".to_owned(),
        event_types: patterns(event_types),
        secrets: None,
        tenant: tenant.to_owned(),
        settings: hookpost::delivery::Settings::default(),
    };
    store.create_subscription(new, u64::MAX, T0).await.unwrap().unwrap().id
}

async fn matching(store: &Arc<dyn Store>, event_type: &str) -> Vec<SubscriptionId> {
    store.matching(DEFAULT_TENANT, event_type).await.unwrap()
}

async fn change(store: &Arc<dyn Store>, id: SubscriptionId, change: SubscriptionChange) {
    store.update_subscription(id, change, T0).await.unwrap().done().unwrap();
}

pub async fn an_exact_pattern_matches_its_type_only(backend: &Backend) {
    let store = backend.owned().await;
    let exact = subscribe_to(&store, DEFAULT_TENANT, &["order.created"]).await;
    assert_eq!(matching(&store, "order.created").await, [exact]);
    for other in ["order", "order.created.eu", "order.createdx", "Order.created", "xorder.created", "order_created"] {
        assert_eq!(matching(&store, other).await, [], "{other}");
    }
}

pub async fn a_wildcard_matches_below_its_prefix(backend: &Backend) {
    let store = backend.owned().await;
    let below = subscribe_to(&store, DEFAULT_TENANT, &["order.*"]).await;
    let deeper = subscribe_to(&store, DEFAULT_TENANT, &["order.created.*"]).await;
    assert_eq!(matching(&store, "order.paid").await, [below]);
    assert_eq!(matching(&store, "order.created.eu").await, [below, deeper]);
    for other in ["order", "orders.created", "invoice.paid"] {
        assert_eq!(matching(&store, other).await, [], "{other}");
    }
}

pub async fn a_star_and_no_patterns_match_every_type(backend: &Backend) {
    let store = backend.owned().await;
    let star = subscribe_to(&store, DEFAULT_TENANT, &["*"]).await;
    let none = subscribe_to(&store, DEFAULT_TENANT, &[]).await;
    for event_type in ["order", "order.created", "a/b:c"] {
        assert_eq!(matching(&store, event_type).await, [star, none], "{event_type}");
    }
}

/// Whoever asked for everything did not ask for them.
pub async fn hookposts_own_events_match_those_who_name_them(backend: &Backend) {
    let store = backend.owned().await;
    for everything in [&["*"][..], &[], &["hookposts.*"], &["*", "order.*"]] {
        subscribe_to(&store, DEFAULT_TENANT, everything).await;
    }
    let below = subscribe_to(&store, DEFAULT_TENANT, &["hookpost.*"]).await;
    let deeper = subscribe_to(&store, DEFAULT_TENANT, &["*", "hookpost.subscription.*"]).await;
    let exact = subscribe_to(&store, DEFAULT_TENANT, &["hookpost.subscription.disabled"]).await;
    assert_eq!(matching(&store, "hookpost.subscription.disabled").await, [below, deeper, exact]);
    assert_eq!(matching(&store, "hookpost.delivery.exhausted").await, [below]);
}

pub async fn one_that_matches_twice_is_named_once_and_all_come_by_id(backend: &Backend) {
    let store = backend.owned().await;
    let first = subscribe_to(&store, DEFAULT_TENANT, &["order.created"]).await;
    let twice = subscribe_to(&store, DEFAULT_TENANT, &["order.created", "order.*", "*", "order.*"]).await;
    let last = subscribe_to(&store, DEFAULT_TENANT, &["*"]).await;
    assert_eq!(matching(&store, "order.created").await, [first, twice, last]);
}

pub async fn another_tenants_do_not_match(backend: &Backend) {
    let store = backend.owned().await;
    let ours = subscribe_to(&store, "ours", &[]).await;
    let theirs = subscribe_to(&store, "theirs", &["order.created"]).await;
    assert_eq!(store.matching("ours", "order.created").await.unwrap(), [ours]);
    assert_eq!(store.matching("theirs", "order.created").await.unwrap(), [theirs]);
    assert_eq!(matching(&store, "order.created").await, []);
}

pub async fn a_disabled_one_does_not_match_until_it_is_enabled(backend: &Backend) {
    let store = backend.owned().await;
    let id = subscribe_to(&store, DEFAULT_TENANT, &["order.*"]).await;
    let disable = SubscriptionChange { disabled: Some(Some(DisabledReason::Gone)), ..Default::default() };
    change(&store, id, disable).await;
    assert_eq!(matching(&store, "order.created").await, []);
    change(&store, id, SubscriptionChange { event_types: Some(patterns(&["*"])), ..Default::default() }).await;
    assert_eq!(matching(&store, "order.created").await, [], "whatever else is changed");
    change(&store, id, SubscriptionChange { disabled: Some(None), ..Default::default() }).await;
    assert_eq!(matching(&store, "invoice.paid").await, [id]);
}

pub async fn a_deleted_one_does_not_match(backend: &Backend) {
    let store = backend.owned().await;
    let (deleted, left) = (subscribe(&store).await, subscribe(&store).await);
    store.delete_subscription(deleted, &Actor::Hookpost, T0).await.unwrap();
    assert_eq!(matching(&store, "order.created").await, [left]);
}

pub async fn changed_patterns_are_followed(backend: &Backend) {
    let store = backend.owned().await;
    let id = subscribe_to(&store, DEFAULT_TENANT, &["order.created", "invoice.*"]).await;
    let neighbour = subscribe_to(&store, DEFAULT_TENANT, &["order.created"]).await;
    change(&store, id, SubscriptionChange { event_types: Some(patterns(&["a.*"])), ..Default::default() }).await;
    assert_eq!(matching(&store, "order.created").await, [neighbour]);
    assert_eq!(matching(&store, "a.b").await, [id]);
    change(&store, id, SubscriptionChange { event_types: Some(vec![]), ..Default::default() }).await;
    assert_eq!(matching(&store, "order.created").await, [id, neighbour]);
    let other_field = SubscriptionChange { target_url: Some("https://b.example/".to_owned()), ..Default::default() };
    change(&store, id, other_field).await;
    assert_eq!(matching(&store, "order.created").await, [id, neighbour], "patterns stay when they are not named");
}

pub async fn a_subscription_keeps_its_tenant(backend: &Backend) {
    let store = backend.owned().await;
    let id = subscribe_to(&store, "ours", &[]).await;
    let updated = store.update_subscription(id, SubscriptionChange::default(), T0).await.unwrap().done().unwrap();
    let read = store.subscription(id).await.unwrap().unwrap();
    let listed = store.subscriptions(None, None, 10).await.unwrap().remove(0);
    for subscription in [updated, read, listed] {
        assert_eq!(&*subscription.tenant, "ours");
    }
}
