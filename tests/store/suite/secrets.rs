//! Secrets as sealed texts, and the master keys that they are sealed under.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{KeyPair, Previous, Sealed, Secrets, Subscription, SubscriptionId, Timestamp};
use hookpost::store::{MasterKeyRecord, NewSubscription, Reseal, Store, SubscriptionChange};

use crate::backend::Backend;
use crate::fixtures::*;

async fn create_sealed(store: &Arc<dyn Store>, secrets: Secrets) -> Subscription {
    let new = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        tenant: "acme".to_owned(),
        target_url: "https://receiver.example/hook".to_owned(),
        event_types: vec![],
        secrets: Some(secrets),
        settings: Default::default(),
    };
    store.create_subscription(new, u64::MAX, T0).await.unwrap().unwrap()
}

fn reseal(subscription: &Subscription, text: &str) -> Reseal {
    Reseal { id: subscription.id, version: subscription.version, secrets: sealed(text) }
}

fn record(id: &str) -> MasterKeyRecord {
    MasterKeyRecord { id: id.to_owned(), proof: Sealed::of(format!("sealed:{id}:proof")) }
}

async fn known(store: &Arc<dyn Store>) -> Vec<String> {
    let mut known: Vec<_> = store.master_keys().await.unwrap().into_iter().map(|record| record.id).collect();
    known.sort_unstable();
    known
}

pub async fn everything_that_is_sealed_reads_back(backend: &Backend) {
    let store = backend.owned().await;
    let all = Secrets {
        current: Some(Sealed::of("sealed:0a1b2c3d:one".to_owned())),
        previous: vec![Previous { secret: Sealed::of("plain:\"two\"\\ \0 \u{e9}".to_owned()), until: Timestamp(7) }],
        ed25519: Some(KeyPair {
            seed: Sealed::of("sealed:0a1b2c3d:three".to_owned()),
            public_key: "whpk_A".to_owned(),
        }),
    };
    let created = create_sealed(&store, all.clone()).await;
    let read = store.subscription(created.id).await.unwrap().unwrap();
    let listed = store.subscriptions(None, None, 10).await.unwrap().remove(0);
    for subscription in [created, read, listed] {
        let secrets = subscription.secrets.unwrap();
        let texts = |secrets: &Secrets| secrets.sealed().map(|one| one.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts(&secrets), texts(&all));
        assert_eq!(secrets.previous[0].until, Timestamp(7));
        assert_eq!(secrets.ed25519.as_ref().unwrap().public_key, "whpk_A");
    }
}

pub async fn a_reserved_id_is_given_once_whether_it_is_used_or_not(backend: &Backend) {
    let store = backend.owned().await;
    let unused = store.reserve_subscription_id().await.unwrap();
    let created = subscribe(&store).await;
    assert_eq!((unused, created), (SubscriptionId(1), SubscriptionId(2)));
    assert!(store.subscription(unused).await.unwrap().is_none());
    let (one, other) = tokio::join!(store.reserve_subscription_id(), store.reserve_subscription_id());
    let mut ids = [one.unwrap().0, other.unwrap().0];
    ids.sort_unstable();
    assert_eq!(ids, [3, 4]);
}

pub async fn subscriptions_with_secrets_come_by_id_in_pages_and_others_not_at_all(backend: &Backend) {
    let store = backend.owned().await;
    let mut expected = Vec::new();
    for n in 0..5 {
        subscribe(&store).await;
        expected.push(create_sealed(&store, sealed(&n.to_string())).await.id);
    }
    let mut seen = Vec::new();
    loop {
        let page = store.subscriptions_with_secrets(seen.last().copied(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        seen.extend(page.iter().map(|subscription| subscription.id));
    }
    assert_eq!(seen, expected);
}

pub async fn resealing_raises_the_version_and_is_no_change_that_anybody_made(backend: &Backend) {
    let store = backend.owned().await;
    let (one, other) = (create_sealed(&store, sealed("a")).await, create_sealed(&store, sealed("b")).await);
    let bystander = create_sealed(&store, sealed("c")).await;
    let mut changed = store.reseal(&[reseal(&one, "A"), reseal(&other, "B")]).await.unwrap();
    changed.sort_unstable_by_key(|subscription| subscription.id);
    assert_eq!(changed.iter().map(current).collect::<Vec<_>>(), [Some("A"), Some("B")]);
    for (before, after) in [(&one, &changed[0]), (&other, &changed[1])] {
        assert!(after.version > before.version);
        assert_eq!((after.updated_at, &after.target_url), (before.updated_at, &before.target_url));
        assert_eq!(current(&store.subscription(before.id).await.unwrap().unwrap()), current(after));
    }
    let read = store.subscription(bystander.id).await.unwrap().unwrap();
    assert_eq!((current(&read), read.version), (Some("c"), bystander.version));
}

pub async fn what_changed_meanwhile_is_not_resealed(backend: &Backend) {
    let store = backend.owned().await;
    let (changed, deleted) = (create_sealed(&store, sealed("a")).await, create_sealed(&store, sealed("b")).await);
    let change = SubscriptionChange { secrets: Some(Some(sealed("newer"))), ..Default::default() };
    store.update_subscription(changed.id, change, T0).await.unwrap().done().unwrap();
    store.delete_subscription(deleted.id, &Actor::Hookpost, T0).await.unwrap();
    assert!(store.reseal(&[reseal(&changed, "A"), reseal(&deleted, "B")]).await.unwrap().is_empty());
    assert_eq!(current(&store.subscription(changed.id).await.unwrap().unwrap()), Some("newer"));
    assert!(store.subscription(deleted.id).await.unwrap().is_none());
}

pub async fn a_master_key_is_made_known_once(backend: &Backend) {
    let store = backend.owned().await;
    assert!(known(&store).await.is_empty());
    store.add_master_key(&record("0a1b2c3d")).await.unwrap();
    let again = MasterKeyRecord { proof: Sealed::of("another".to_owned()), ..record("0a1b2c3d") };
    store.add_master_key(&again).await.unwrap();
    let known = store.master_keys().await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].proof.as_str(), "sealed:0a1b2c3d:proof");
}

pub async fn only_keys_under_which_nothing_is_sealed_are_forgotten(backend: &Backend) {
    let store = backend.owned().await;
    for id in ["plain", "00000001", "00000002", "00000003"] {
        store.add_master_key(&record(id)).await.unwrap();
    }
    let plain = create_sealed(&store, sealed("plain:hunter2")).await;
    let previous = vec![Previous { secret: Sealed::of("sealed:00000001:x".to_owned()), until: Timestamp(7) }];
    create_sealed(&store, Secrets { previous, ..sealed("sealed:00000003:x") }).await;
    for (id, expected) in [("plain", true), ("00000001", true), ("00000002", false), ("00000003", true), ("0", false)] {
        assert_eq!(store.is_sealed_under(id).await.unwrap(), expected, "{id}");
    }
    assert_eq!(store.forget_master_keys("00000003").await.unwrap(), ["00000002"]);
    assert_eq!(known(&store).await, ["00000001", "00000003", "plain"]);
    store.reseal(&[reseal(&plain, "sealed:00000003:y")]).await.unwrap();
    assert_eq!(store.forget_master_keys("00000003").await.unwrap(), ["plain"]);
    // The one that seals stays, whether it has sealed anything or not.
    assert!(store.forget_master_keys("00000001").await.unwrap().is_empty());
    assert_eq!(known(&store).await, ["00000001", "00000003"]);
}
