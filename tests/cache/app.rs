//! What the tests are made of: caches that share a Redis like processes do, and subscriptions.

use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::prelude::{Builder, Client, Config};
use hookpost::cache::{Cache, Change, RedisCache};
use hookpost::delivery::{Sealed, Secrets, Subscription, SubscriptionId, Timestamp};
use secrecy::SecretString;
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;
use uuid::Uuid;

/// A test that waits longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);

pub const ID: SubscriptionId = SubscriptionId(7);

/// A Redis and a prefix that no other test uses.
pub struct Redis {
    pub url: String,
    pub prefix: String,
}

impl Redis {
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), prefix: format!("test-{}", Uuid::from_u128(rand::random())) }
    }

    /// The one that all tests share.
    #[expect(clippy::disallowed_methods, reason = "the address of the test's Redis comes from outside")]
    pub fn shared() -> Self {
        Self::at(&std::env::var("TEST_REDIS_URL").expect("set TEST_REDIS_URL, or run make test"))
    }

    /// A cache, as another process would have it, and what it hears.
    pub async fn cache(&self) -> (RedisCache, Receiver<Change>) {
        let (cache, mut changes) = self.connecting();
        assert_eq!(next(&mut changes).await, Change::Everything);
        (cache, changes)
    }

    /// The same, without waiting until it is connected.
    pub fn connecting(&self) -> (RedisCache, Receiver<Change>) {
        let cache = RedisCache::connect(&SecretString::from(self.url.as_str()), &self.prefix).unwrap();
        let changes = cache.changes();
        (cache, changes)
    }

    /// Redis itself, past the cache.
    pub async fn client(&self) -> Client {
        let client = Builder::from_config(Config::from_url(&self.url).unwrap()).build().unwrap();
        client.init().await.unwrap();
        client
    }

    pub fn key(&self, id: SubscriptionId) -> String {
        format!("{}:subscription:{id}", self.prefix)
    }
}

/// What the cache says next.
pub async fn next(changes: &mut Receiver<Change>) -> Change {
    soon(changes.recv()).await.unwrap()
}

/// Waits until the cache says this.
pub async fn heard(changes: &mut Receiver<Change>, change: Change) {
    soon(async { while changes.recv().await.unwrap() != change {} }).await;
}

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("this should have happened by now")
}

/// As the store has it; a cache does not look into it.
const SEALED: &str = "sealed:0a1b2c3d:AAAA";

fn secrets() -> Secrets {
    Secrets { current: Some(Sealed::of(SEALED.to_owned())), ..Secrets::default() }
}

/// Subscription [`ID`] as of this version.
pub fn subscription(version: i64) -> Subscription {
    Subscription {
        tenant: hookpost::delivery::DEFAULT_TENANT.into(),
        id: ID,
        target_url: format!("https://receiver.example/v{version}").into(),
        event_types: vec!["order.*".parse().unwrap()],
        secrets: Some(secrets().into()),
        disabled: None,
        settings: std::sync::Arc::default(),
        drop_through: None,
        failing_since: None,
        version,
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    }
}

/// The version that the cache has, if any; a copy that it has is whole.
pub async fn version_in(cache: &RedisCache) -> Option<i64> {
    let found = cache.get(ID).await?;
    let expected = subscription(found.version);
    assert_eq!(found.target_url, expected.target_url);
    assert_eq!(found.event_types, expected.event_types);
    let sealed = found.secrets.as_ref().and_then(|secrets| secrets.current.as_ref());
    assert_eq!(sealed.map(Sealed::as_str), Some(SEALED));
    Some(found.version)
}
