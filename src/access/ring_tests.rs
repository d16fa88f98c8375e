use std::sync::Arc;

use tokio::time::advance;

use super::*;
use crate::access::{Actor, KeyRequest, NewApiKey};
use crate::store::SqliteStore;

/// A store with its clock, and the directory that holds it.
struct Home {
    store: Arc<dyn Store>,
    clock: Clock,
    dir: tempfile::TempDir,
}

impl Home {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, clock) = (Arc::new(SqliteStore::open(dir.path()).unwrap()), Clock::start());
        store.migrate(clock.wall()).await.unwrap();
        Self { store, clock, dir }
    }

    async fn ring(&self) -> Arc<KeyRing> {
        KeyRing::load(self.store.clone(), self.clock).await.unwrap()
    }

    /// A key made somewhere else, and what its holder shows.
    async fn key(&self, role: Role, expires_at: Option<Timestamp>) -> (ApiKey, Token) {
        let asked = KeyRequest { name: "test".to_owned(), role, tenant: None, expires_in: None };
        let (_, new) = asked.issue(self.clock.wall());
        let new = NewApiKey { expires_at, ..new };
        let token = Token { prefix: new.prefix, hash: new.hash };
        let created = self.store.create_api_key(new, MAX_KEYS, &Actor::CommandLine, self.clock.wall()).await.unwrap();
        (created.unwrap(), token)
    }

    async fn revoke(&self, key: &ApiKey) -> ApiKey {
        self.store.revoke_api_key(key.prefix, &Actor::CommandLine, self.clock.wall()).await.unwrap().unwrap()
    }
}

async fn opens(ring: &KeyRing, token: &Token) -> bool {
    ring.check(token).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_loaded_opens_without_the_store() {
    let home = Home::new().await;
    let (key, token) = home.key(Role::Reader, None).await;
    let ring = home.ring().await;
    home.store.close().await;
    let caller = ring.check(&token).await.unwrap().unwrap();
    assert_eq!((caller.role, caller.actor), (Role::Reader, key.caller().actor));
}

#[tokio::test(start_paused = true)]
async fn another_secret_or_another_prefix_opens_nothing() {
    let home = Home::new().await;
    let ((_, token), (_, other)) = (home.key(Role::Reader, None).await, home.key(Role::Reader, None).await);
    let ring = home.ring().await;
    assert!(!opens(&ring, &Token { hash: other.hash, ..token }).await);
    assert!(!opens(&ring, &Token::generate().1).await);
}

#[tokio::test(start_paused = true)]
async fn the_poll_takes_new_keys_and_revocations_from_elsewhere() {
    let home = Home::new().await;
    let ring = home.ring().await;
    let (key, token) = home.key(Role::Reader, None).await;
    assert!(!opens(&ring, &token).await, "nobody has told it");
    ring.poll().await.unwrap();
    assert!(opens(&ring, &token).await);
    home.revoke(&key).await;
    ring.poll().await.unwrap();
    assert!(!opens(&ring, &token).await);
    assert!(ring.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_a_page_are_all_loaded() {
    let home = Home::new().await;
    let mut last = None;
    for _ in 0..=PAGE {
        last = Some(home.key(Role::Reader, None).await.1);
    }
    assert!(opens(&*home.ring().await, &last.unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_made_here_counts_at_once_and_an_older_answer_does_not_undo_it() {
    let home = Home::new().await;
    let ring = home.ring().await;
    let (key, token) = home.key(Role::Reader, None).await;
    ring.changed(&key);
    assert!(opens(&ring, &token).await);
    ring.changed(&home.revoke(&key).await);
    assert!(!opens(&ring, &token).await);
    // As if the poll had asked before the revocation and was answered after it.
    ring.take(std::slice::from_ref(&key));
    assert!(!opens(&ring, &token).await);
    ring.poll().await.unwrap();
    assert!(!opens(&ring, &token).await && ring.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_poll_has_taken_already_leaves_nothing_behind() {
    let home = Home::new().await;
    let ring = home.ring().await;
    let (key, _) = home.key(Role::Reader, None).await;
    let revoked = home.revoke(&key).await;
    ring.poll().await.unwrap();
    ring.changed(&revoked);
    assert!(ring.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_more_than_a_second_ago_is_not_relied_upon() {
    let home = Home::new().await;
    let (key, token) = home.key(Role::Reader, None).await;
    let ring = home.ring().await;
    home.revoke(&key).await;
    advance(MAX_AGE).await;
    assert!(opens(&ring, &token).await, "at the edge it still is");
    advance(Duration::from_millis(1)).await;
    assert!(!opens(&ring, &token).await, "the store was asked");
    let (_, new) = home.key(Role::Reader, None).await;
    assert!(opens(&ring, &new).await, "and knows newer keys, too");
}

#[tokio::test(start_paused = true)]
async fn with_old_keys_and_no_store_nobody_is_let_in_and_nobody_is_called_a_stranger() {
    let home = Home::new().await;
    let (_, token) = home.key(Role::Reader, None).await;
    let ring = home.ring().await;
    home.store.close().await;
    assert!(ring.poll().await.is_err());
    advance(MAX_AGE + Duration::from_millis(1)).await;
    let error = ring.check(&token).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_key_expires_where_it_is() {
    let home = Home::new().await;
    let past = home.clock.wall() - Duration::from_secs(1);
    let (expired, token) = home.key(Role::Admin, Some(past)).await;
    let ring = home.ring().await;
    assert!(!opens(&ring, &token).await && !ring.has_admin());
    // One that was live when it was loaded, and is no more.
    ring.write().insert(expired.prefix, Entry::of(&expired));
    assert!(!opens(&ring, &token).await && !ring.has_admin());
    let (_, live) = home.key(Role::Admin, Some(home.clock.wall() + Duration::from_secs(60))).await;
    ring.poll().await.unwrap();
    assert!(opens(&ring, &live).await && ring.has_admin());
}

#[tokio::test(start_paused = true)]
async fn keys_that_have_expired_make_room() {
    let home = Home::new().await;
    let ring = home.ring().await;
    let (key, token) = home.key(Role::Reader, None).await;
    let expired = ApiKey { expires_at: Some(Timestamp(0)), ..key.clone() };
    {
        let mut entries = ring.write();
        for _ in 0..=MAX_KEYS {
            entries.insert(Token::generate().1.prefix, Entry::of(&expired));
        }
    }
    ring.poll().await.unwrap();
    assert_eq!(ring.read().len(), 1);
    assert!(opens(&ring, &token).await);
}

#[tokio::test(start_paused = true)]
async fn it_is_kept_fresh_while_it_runs() {
    let home = Home::new().await;
    let ring = home.ring().await;
    let running = tokio::spawn(ring.clone().run());
    let (_, token) = home.key(Role::Reader, None).await;
    // Time moves when everything waits: to the next poll.
    while !opens(&ring, &token).await {
        tokio::time::sleep(POLL_PERIOD).await;
    }
    assert!(ring.is_fresh());
    running.abort();
}

/// As after a backup was restored: what was made and revoked since then is not in the store.
#[tokio::test(start_paused = true)]
async fn a_store_that_was_set_back_is_read_again_from_the_start() {
    let home = Home::new().await;
    let (kept, token) = home.key(Role::Reader, None).await;
    let (_, lost) = home.key(Role::Reader, None).await;
    let ring = home.ring().await;
    let database = rusqlite::Connection::open(home.dir.path().join("hookpost.db")).unwrap();
    database.execute("DELETE FROM api_keys WHERE prefix <> ?1", [kept.prefix.as_str()]).unwrap();
    database.execute("UPDATE key_revision SET revision = 1", []).unwrap();
    ring.poll().await.unwrap();
    assert!(opens(&ring, &token).await && !opens(&ring, &lost).await);
    home.revoke(&kept).await;
    ring.poll().await.unwrap();
    assert!(!opens(&ring, &token).await, "a revocation is seen, whatever was held before");
}

/// The poll had not come to it, and never will.
#[tokio::test(start_paused = true)]
async fn a_key_made_here_goes_with_the_store_that_was_set_back() {
    let home = Home::new().await;
    let ring = home.ring().await;
    let (made, token) = home.key(Role::Reader, None).await;
    ring.changed(&made);
    assert!(opens(&ring, &token).await);
    let database = rusqlite::Connection::open(home.dir.path().join("hookpost.db")).unwrap();
    database.execute_batch("DELETE FROM api_keys; UPDATE key_revision SET revision = 0").unwrap();
    ring.poll().await.unwrap();
    assert!(!opens(&ring, &token).await);
}
