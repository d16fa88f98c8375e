//! What a change of a subscription does beside the fields that it names: versions, records, a backlog that is given up.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{
    DEFAULT_TENANT, DeliveryId, DisabledReason, Order, RateLimit, Settings, StateChange, Subscription, SubscriptionId,
    Timestamp,
};
use hookpost::store::{NewSubscription, Store, SubscriptionChange, Update};

use crate::backend::Backend;
use crate::fixtures::*;

fn some_settings() -> Settings {
    Settings {
        max_concurrency: Some(7),
        rate_limit: Some(RateLimit { per_second: 5, burst: None }),
        retry_schedule_s: Some(vec![1, 60]),
        order: Some(Order::OrderingKey),
        max_backlog: Some(u64::MAX),
        // NUL is a character that PostgreSQL's text does not have.
        headers: [("x-name".to_owned(), "é \"quoted\" \0".to_owned())].into(),
        ..Settings::default()
    }
}

/// A change to this reason, or to none.
fn disabled(reason: Option<DisabledReason>) -> SubscriptionChange {
    SubscriptionChange { disabled: Some(reason), detail: Some("in words".to_owned()), ..Default::default() }
}

async fn change(store: &Arc<dyn Store>, id: SubscriptionId, change: SubscriptionChange) -> Subscription {
    store.update_subscription(id, change, T0).await.unwrap().done().unwrap()
}

async fn reasons(store: &Arc<dyn Store>, id: SubscriptionId) -> Vec<Option<DisabledReason>> {
    store.state_changes(id, None, 100).await.unwrap().into_iter().map(|change| change.disabled).collect()
}

fn ids(changes: &[StateChange]) -> Vec<i64> {
    changes.iter().map(|change| change.id).collect()
}

pub async fn settings_read_back_as_they_were_written(backend: &Backend) {
    let store = backend.owned().await;
    let new = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        target_url: "https://receiver.example/".to_owned(),
        event_types: vec![],
        secrets: None,
        tenant: DEFAULT_TENANT.to_owned(),
        settings: some_settings(),
    };
    let created = store.create_subscription(new, u64::MAX, T0).await.unwrap().unwrap();
    let read = store.subscription(created.id).await.unwrap().unwrap();
    let listed = store.subscriptions(None, None, 10).await.unwrap().remove(0);
    for subscription in [&created, &read, &listed] {
        assert_eq!(*subscription.settings, some_settings());
        assert_eq!((subscription.drop_through, subscription.failing_since), (None, None));
    }
    let plain = change(&store, created.id, SubscriptionChange::default()).await;
    assert_eq!(*plain.settings, some_settings(), "they stay when they are not named");
    let others = Settings { max_concurrency: Some(1), ..Settings::default() };
    let named = SubscriptionChange { settings: Some(others.clone()), ..Default::default() };
    assert_eq!(*change(&store, created.id, named).await.settings, others, "they are replaced as a whole");
}

pub async fn a_change_made_from_an_old_version_is_overtaken_and_changes_nothing(backend: &Backend) {
    let store = backend.owned().await;
    let first = create(&store, "https://receiver.example/").await;
    commit(&store, retried([delivery(first.id, 1)], 500)).await;
    let from = |version| SubscriptionChange {
        target_url: Some("https://elsewhere.example/".to_owned()),
        drop_backlog: true,
        only_version: Some(version),
        ..disabled(Some(DisabledReason::ByHand))
    };
    let second = change(&store, first.id, SubscriptionChange::default()).await;
    let late = store.update_subscription(first.id, from(first.version), T0).await.unwrap();
    assert!(matches!(late, Update::Overtaken), "{late:?}");
    let read = store.subscription(first.id).await.unwrap().unwrap();
    assert_eq!((read.version, read.disabled, read.drop_through), (second.version, None, None));
    assert_eq!(read.target_url, first.target_url);
    assert!(reasons(&store, first.id).await.is_empty());
    assert_eq!(store.retries(first.id, 10).await.unwrap(), [retry(&delivery(first.id, 1), 2, 500)]);

    let third = change(&store, first.id, from(second.version)).await;
    assert_eq!((&*third.target_url, third.disabled), ("https://elsewhere.example/", Some(DisabledReason::ByHand)));
    let unknown = store.update_subscription(SubscriptionId(404), from(1), T0).await.unwrap();
    assert!(matches!(unknown, Update::Missing), "{unknown:?}");
}

pub async fn whatever_disables_or_enables_leaves_a_record(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let later = T0 + DAY;
    store.update_subscription(sub, disabled(Some(DisabledReason::Failing)), later).await.unwrap();
    let changes = store.state_changes(sub, None, 10).await.unwrap();
    let expected = StateChange {
        id: changes[0].id,
        subscription_id: sub,
        tenant: DEFAULT_TENANT.into(),
        at: later,
        disabled: Some(DisabledReason::Failing),
        detail: Some("in words".to_owned()),
    };
    assert_eq!(changes, [expected]);
    change(&store, sub, disabled(Some(DisabledReason::ByHand))).await;
    change(&store, sub, SubscriptionChange { detail: None, ..disabled(None) }).await;
    let reasons = reasons(&store, sub).await;
    assert_eq!(reasons, [None, Some(DisabledReason::ByHand), Some(DisabledReason::Failing)], "the newest first");
    assert_eq!(store.state_changes(sub, None, 1).await.unwrap()[0].detail, None);
    assert!(store.state_changes(other, None, 10).await.unwrap().is_empty());
}

pub async fn a_change_that_makes_no_difference_leaves_no_record(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    change(&store, sub, disabled(None)).await;
    change(&store, sub, SubscriptionChange { detail: Some("of what?".to_owned()), ..Default::default() }).await;
    assert!(reasons(&store, sub).await.is_empty());
    change(&store, sub, disabled(Some(DisabledReason::Gone))).await;
    change(&store, sub, disabled(Some(DisabledReason::Gone))).await;
    change(&store, sub, SubscriptionChange::default()).await;
    assert_eq!(reasons(&store, sub).await, [Some(DisabledReason::Gone)]);
}

pub async fn records_come_in_pages(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    for n in 0..5 {
        change(&store, sub, disabled((n % 2 == 0).then_some(DisabledReason::ByHand))).await;
        change(&store, other, disabled((n % 2 == 0).then_some(DisabledReason::ByHand))).await;
    }
    let all = ids(&store.state_changes(sub, None, 100).await.unwrap());
    assert!(all.len() == 5 && all.is_sorted_by(|newer, older| newer > older), "{all:?}");
    assert_eq!(ids(&store.state_changes(sub, None, 2).await.unwrap()), all[..2]);
    assert_eq!(ids(&store.state_changes(sub, Some(all[1]), 2).await.unwrap()), all[2..4]);
    assert!(store.state_changes(sub, Some(all[4]), 2).await.unwrap().is_empty());
}

pub async fn records_are_unannounced_oldest_first_until_they_were_announced(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    change(&store, sub, disabled(Some(DisabledReason::Gone))).await;
    change(&store, other, disabled(Some(DisabledReason::Gone))).await;
    change(&store, sub, disabled(None)).await;
    let all = store.unannounced(10).await.unwrap();
    assert_eq!(all.iter().map(|change| change.subscription_id).collect::<Vec<_>>(), [sub, other, sub]);
    assert!(ids(&all).is_sorted(), "{all:?}");
    assert_eq!(store.unannounced(2).await.unwrap(), all[..2]);
    store.announced(&[all[0].id, all[2].id, 404]).await.unwrap();
    store.announced(&[]).await.unwrap();
    assert_eq!(store.unannounced(10).await.unwrap(), all[1..2]);
    assert_eq!(reasons(&store, sub).await.len(), 2, "they are still there");
}

pub async fn a_deleted_subscription_takes_its_records_along(backend: &Backend) {
    let store = backend.owned().await;
    let (deleted, left) = (subscribe(&store).await, subscribe(&store).await);
    change(&store, deleted, disabled(Some(DisabledReason::Gone))).await;
    change(&store, left, disabled(Some(DisabledReason::Gone))).await;
    store.delete_subscription(deleted, &Actor::Hookpost, T0).await.unwrap();
    assert!(reasons(&store, deleted).await.is_empty());
    assert_eq!(store.unannounced(10).await.unwrap().len(), 1);
}

/// Whatever was accepted by then is given up, and nothing that is accepted later.
pub async fn a_dropped_backlog_ends_at_the_last_id_of_now(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let drop = || SubscriptionChange { drop_backlog: true, ..Default::default() };
    let through = change(&store, sub, drop()).await.drop_through.unwrap();
    assert!(through >= DeliveryId(id(0)) && through < DeliveryId::floor_at(Timestamp(T0.0 + 1)), "{through}");
    let read = store.subscription(sub).await.unwrap().unwrap();
    assert_eq!(read.drop_through, Some(through));
    assert_eq!(change(&store, sub, SubscriptionChange::default()).await.drop_through, Some(through), "it stays");
    // The clock was set back since this one was accepted.
    let ahead = delivery(sub, 60_000);
    commit(&store, accepted([ahead.clone()])).await;
    assert_eq!(change(&store, sub, drop()).await.drop_through, Some(ahead.id));
}

pub async fn a_dropped_backlogs_retries_are_due_at_once(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let (late, due, others) = (delivery(sub, 1), delivery(sub, 3), delivery(other, 5));
    commit(&store, retried([late.clone(), others.clone()], 500_000)).await;
    commit(&store, retried([due.clone()], -50)).await;
    change(&store, sub, SubscriptionChange { drop_backlog: true, ..Default::default() }).await;
    assert_eq!(store.retries(sub, 10).await.unwrap(), [retry(&due, 2, -50), retry(&late, 2, 0)]);
    assert_eq!(store.retries(other, 10).await.unwrap(), [retry(&others, 2, 500_000)]);
    assert_eq!(store.subscriptions_due(Timestamp(T0.0 + 1), 10).await.unwrap(), [sub]);
}

pub async fn failing_is_saved_without_a_new_version(backend: &Backend) {
    let store = backend.owned().await;
    let (before, neighbour) = (create(&store, "http://a.example/").await, subscribe(&store).await);
    for since in [Some(T0), Some(T0 + DAY), None] {
        store.save_failing(before.id, since).await.unwrap();
        let read = store.subscription(before.id).await.unwrap().unwrap();
        assert_eq!((read.failing_since, read.version, read.updated_at), (since, before.version, before.updated_at));
        assert_eq!(store.subscription(neighbour).await.unwrap().unwrap().failing_since, None);
    }
    store.save_failing(SubscriptionId(404), Some(T0)).await.unwrap();
}

/// Else it would be disabled again at the first failure.
pub async fn whoever_is_enabled_has_not_failed_yet(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    store.save_failing(sub, Some(T0)).await.unwrap();
    let failing = |subscription: Subscription| subscription.failing_since;
    assert_eq!(failing(change(&store, sub, disabled(None)).await), Some(T0), "it was enabled already");
    assert_eq!(failing(change(&store, sub, disabled(Some(DisabledReason::Failing))).await), Some(T0));
    assert_eq!(failing(change(&store, sub, SubscriptionChange::default()).await), Some(T0));
    assert_eq!(failing(change(&store, sub, disabled(None)).await), None);
}
