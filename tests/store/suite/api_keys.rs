//! API keys: made, listed, ended, and followed by their revisions.

use std::sync::Arc;

use hookpost::access::{Actor, ApiKey, KeyRequest, Role};
use hookpost::audit::{Action, AuditFilter, Thing};
use hookpost::delivery::Timestamp;
use hookpost::store::Store;
use secrecy::ExposeSecret;

use crate::backend::Backend;
use crate::fixtures::*;

const MANY: u64 = 1000;

fn request(name: &str) -> KeyRequest {
    KeyRequest { name: name.to_owned(), role: Role::Reader, tenant: None, expires_in: None }
}

async fn create(store: &Arc<dyn Store>, name: &str) -> ApiKey {
    store.create_api_key(request(name).issue(T0).1, MANY, &Actor::Hookpost, T0).await.unwrap().unwrap()
}

async fn changed_since(store: &Arc<dyn Store>, revision: i64) -> Vec<String> {
    let changed = store.api_keys_changed_since(revision, 100).await.unwrap();
    assert!(changed.is_sorted_by_key(|key| key.revision));
    changed.into_iter().map(|key| key.name).collect()
}

pub async fn a_key_reads_back_as_it_was_made(backend: &Backend) {
    let store = backend.owned().await;
    let asked = KeyRequest {
        role: Role::Tenant,
        tenant: Some("acme".to_owned()),
        expires_in: Some(DAY),
        ..request("a key, with é")
    };
    let (_, new) = asked.issue(T0);
    let created = store.create_api_key(new.clone(), MANY, &Actor::Hookpost, T0).await.unwrap().unwrap();
    let read = store.api_key(new.prefix).await.unwrap().unwrap();
    for key in [created, read] {
        assert_eq!((key.prefix, &*key.name, key.role), (new.prefix, "a key, with é", Role::Tenant));
        assert_eq!(key.tenant.as_deref(), Some("acme"));
        assert_eq!((key.created_at, key.expires_at, key.revoked_at), (T0, Some(T0 + DAY), None));
        assert!(key.hash.matches(&new.hash));
    }
    let plain = create(&store, "plain").await;
    assert_eq!((plain.tenant, plain.expires_at), (None, None));
    assert!(store.api_key(request("never stored").issue(T0).1.prefix).await.unwrap().is_none());
}

pub async fn only_a_hash_of_a_key_is_stored(backend: &Backend) {
    let store = backend.owned().await;
    let (text, new) = request("shop").issue(T0);
    let prefix = new.prefix;
    store.create_api_key(new, MANY, &Actor::Hookpost, T0).await.unwrap().unwrap();
    let secret = text.expose_secret().rsplit('_').next().unwrap().to_owned();
    let stored = backend.dump("api_keys").await;
    assert!(stored.contains(prefix.as_str()), "it is there: {stored}");
    let spellings = [secret.clone(), hex::encode(&secret)];
    assert!(spellings.iter().all(|spelling| !stored.contains(spelling)), "{stored}");
}

pub async fn more_live_keys_than_the_most_are_refused_and_dead_ones_do_not_count(backend: &Backend) {
    let store = backend.owned().await;
    let make = |expires_in, now| {
        let store = store.clone();
        async move {
            let asked = KeyRequest { expires_in, ..request("one of two") };
            store.create_api_key(asked.issue(now).1, 2, &Actor::Hookpost, now).await.unwrap()
        }
    };
    let first = make(None, T0).await.unwrap();
    assert!(make(Some(DAY), T0).await.is_some());
    assert!(make(None, T0).await.is_none(), "two are live");
    assert!(make(None, T0 + DAY).await.is_some(), "one has expired");
    assert!(make(None, T0 + DAY).await.is_none());
    store.revoke_api_key(first.prefix, &Actor::Hookpost, T0 + DAY).await.unwrap().unwrap();
    assert!(make(None, T0 + DAY).await.is_some(), "one was revoked");
}

pub async fn keys_come_by_prefix_in_pages(backend: &Backend) {
    let store = backend.owned().await;
    let mut all = Vec::new();
    for n in 0..7 {
        all.push(create(&store, &format!("{n}")).await.prefix);
    }
    all.sort_unstable();
    let mut seen = Vec::new();
    loop {
        let page = store.api_keys(seen.last().copied(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|key| key.prefix));
    }
    assert_eq!(seen, all);
}

pub async fn every_change_is_found_after_the_revision_before_it(backend: &Backend) {
    let store = backend.owned().await;
    assert_eq!(changed_since(&store, 0).await, [""; 0]);
    let (a, b) = (create(&store, "a").await, create(&store, "b").await);
    assert!(a.revision > 0 && b.revision > a.revision);
    assert_eq!(changed_since(&store, 0).await, ["a", "b"]);
    assert_eq!(changed_since(&store, a.revision).await, ["b"]);
    let revoked = store.revoke_api_key(a.prefix, &Actor::Hookpost, T0).await.unwrap().unwrap();
    assert!(revoked.revision > b.revision);
    assert_eq!(changed_since(&store, b.revision).await, ["a"]);
    assert_eq!(changed_since(&store, 0).await, ["b", "a"], "each once, as it is now");
    assert_eq!(changed_since(&store, revoked.revision).await, [""; 0]);
    let first = store.api_keys_changed_since(0, 1).await.unwrap();
    assert_eq!(first.iter().map(|key| key.revision).collect::<Vec<_>>(), [b.revision]);
}

pub async fn changes_at_the_same_time_have_revisions_of_their_own(backend: &Backend) {
    let (store, other) = (backend.owned().await, backend.open());
    let made = (0..20).map(|n| {
        let store = if n % 2 == 0 { store.clone() } else { other.clone() };
        tokio::spawn(async move { create(&store, "one of many").await.revision })
    });
    let mut revisions = Vec::new();
    for made in made.collect::<Vec<_>>() {
        revisions.push(made.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
}

pub async fn a_revoked_key_keeps_its_time_and_stays_listed(backend: &Backend) {
    let store = backend.owned().await;
    let key = create(&store, "shop").await;
    let later = T0 + DAY;
    for now in [T0, later] {
        let revoked = store.revoke_api_key(key.prefix, &Actor::Hookpost, now).await.unwrap().unwrap();
        assert_eq!((revoked.revoked_at, revoked.is_live(T0)), (Some(T0), false));
    }
    assert_eq!(store.api_keys(None, 10).await.unwrap()[0].revoked_at, Some(T0));
    let unknown = request("never stored").issue(T0).1.prefix;
    assert!(store.revoke_api_key(unknown, &Actor::Hookpost, T0).await.unwrap().is_none());
}

pub async fn dead_keys_are_pruned_and_live_ones_stay(backend: &Backend) {
    let store = backend.owned().await;
    let live = create(&store, "live").await;
    let at = |ms| Timestamp(T0.0 + ms);
    for ms in [9, 10, 11] {
        let revoked = create(&store, "revoked").await;
        store.revoke_api_key(revoked.prefix, &Actor::Hookpost, at(ms)).await.unwrap();
    }
    let asked = KeyRequest { expires_in: Some(DAY), ..request("expired") };
    store.create_api_key(asked.issue(T0 - DAY).1, MANY, &Actor::Hookpost, T0 - DAY).await.unwrap().unwrap();

    let one = store.prune_api_keys(at(10), 1).await.unwrap();
    assert_eq!((one.rows_deleted, one.more), (1, true));
    let rest = store.prune_api_keys(at(10), 10).await.unwrap();
    assert_eq!((rest.rows_deleted, rest.more), (1, false));
    let left = store.api_keys(None, 10).await.unwrap();
    assert_eq!(left.len(), 3, "those that ended at the cutoff or later, and the live one");
    assert!(left.iter().any(|key| key.prefix == live.prefix));
}

pub async fn the_last_place_for_a_key_is_taken_once(backend: &Backend) {
    let (store, other) = (backend.owned().await, backend.open());
    let tries = (0..20).map(|n| {
        let store = if n % 2 == 0 { store.clone() } else { other.clone() };
        tokio::spawn(
            async move { store.create_api_key(request("one").issue(T0).1, 7, &Actor::Hookpost, T0).await.unwrap() },
        )
    });
    let mut created = 0;
    for tried in tries.collect::<Vec<_>>() {
        created += usize::from(tried.await.unwrap().is_some());
    }
    assert_eq!((created, store.api_keys(None, 100).await.unwrap().len()), (7, 7));
}

pub async fn revocations_at_the_same_time_leave_one_record(backend: &Backend) {
    let (store, other) = (backend.owned().await, backend.open());
    let key = create(&store, "one").await;
    let tries = (0..10).map(|n| {
        let store = if n % 2 == 0 { store.clone() } else { other.clone() };
        tokio::spawn(async move { store.revoke_api_key(key.prefix, &Actor::Hookpost, T0).await.unwrap() })
    });
    for tried in tries.collect::<Vec<_>>() {
        assert!(tried.await.unwrap().is_some());
    }
    let filter = AuditFilter { object: Some(Thing::Key(key.prefix.as_str().into())), ..AuditFilter::default() };
    let actions: Vec<_> =
        store.audit(&filter, None, 100).await.unwrap().iter().map(|record| record.act.action).collect();
    assert_eq!(actions, [Action::KeyRevoked, Action::KeyCreated]);
}

pub async fn the_revision_is_that_of_the_last_change(backend: &Backend) {
    let store = backend.owned().await;
    let before = store.api_key_revision().await.unwrap();
    let key = create(&store, "one").await;
    assert_eq!(store.api_key_revision().await.unwrap(), key.revision);
    let revoked = store.revoke_api_key(key.prefix, &Actor::Hookpost, T0).await.unwrap().unwrap();
    assert!(before < key.revision && store.api_key_revision().await.unwrap() == revoked.revision);
}
