//! What is kept, what is refused, and who is told.

use fred::interfaces::{HashesInterface, KeysInterface, PubsubInterface};
use hookpost::cache::{Cache, Change, RedisCache};
use secrecy::SecretString;

use crate::app::{ID, Redis, next, subscription, version_in};

#[tokio::test]
async fn what_one_process_put_another_one_gets() {
    let redis = Redis::shared();
    let (one, _) = redis.cache().await;
    let (other, _) = redis.cache().await;
    assert_eq!(version_in(&other).await, None);
    one.put(&subscription(1)).await;
    assert_eq!(version_in(&other).await, Some(1));
}

#[tokio::test]
async fn an_older_copy_never_replaces_a_newer_one() {
    let redis = Redis::shared();
    let (one, _) = redis.cache().await;
    let (other, _) = redis.cache().await;
    one.put(&subscription(10)).await;
    other.put(&subscription(9)).await;
    assert_eq!(version_in(&one).await, Some(10));
    other.put(&subscription(11)).await;
    assert_eq!(version_in(&one).await, Some(11));
}

#[tokio::test]
async fn a_change_replaces_the_copy_and_is_told_to_the_others() {
    let redis = Redis::shared();
    let (one, _) = redis.cache().await;
    let (other, mut heard_by_other) = redis.cache().await;
    one.put(&subscription(1)).await;
    one.changed(&subscription(2)).await;
    assert_eq!(next(&mut heard_by_other).await, Change::Subscription { id: ID, version: 2 });
    assert_eq!(version_in(&other).await, Some(2));
}

#[tokio::test]
async fn a_deleted_subscription_is_told_and_no_older_copy_comes_back() {
    let redis = Redis::shared();
    let (one, _) = redis.cache().await;
    let (other, mut heard_by_other) = redis.cache().await;
    one.put(&subscription(1)).await;
    one.deleted(ID).await;
    assert_eq!(next(&mut heard_by_other).await, Change::Subscription { id: ID, version: i64::MAX });
    assert_eq!(version_in(&other).await, None);
    other.put(&subscription(1)).await;
    other.changed(&subscription(2)).await;
    assert_eq!(version_in(&one).await, None);
    let (third, _) = redis.cache().await;
    assert_eq!(version_in(&third).await, None);
}

#[tokio::test]
async fn a_copy_runs_out_and_being_read_or_put_again_does_not_prolong_it() {
    let redis = Redis::shared();
    let (cache, _) = redis.cache().await;
    let client = redis.client().await;
    cache.put(&subscription(1)).await;
    let ttl_ms: i64 = client.pttl(redis.key(ID)).await.unwrap();
    assert!((1..=60_000).contains(&ttl_ms), "{ttl_ms}");

    let _: bool = client.pexpire(redis.key(ID), 30_000, None).await.unwrap();
    assert_eq!(version_in(&cache).await, Some(1));
    cache.put(&subscription(1)).await;
    let ttl_ms: i64 = client.pttl(redis.key(ID)).await.unwrap();
    assert!((1..=30_000).contains(&ttl_ms), "{ttl_ms}");
}

#[tokio::test]
async fn the_mark_of_a_deletion_outlives_a_copy() {
    let redis = Redis::shared();
    let (cache, _) = redis.cache().await;
    cache.deleted(ID).await;
    let ttl_ms: i64 = redis.client().await.pttl(redis.key(ID)).await.unwrap();
    assert!((60_001..=600_000).contains(&ttl_ms), "{ttl_ms}");
}

#[tokio::test]
async fn a_process_is_not_served_an_older_copy_than_what_it_changed() {
    let redis = Redis::shared();
    let (one, _) = redis.cache().await;
    let (other, _) = redis.cache().await;
    one.changed(&subscription(2)).await;
    // Redis loses the write, as in a failover, and someone adds what they had read before the change.
    let _: i64 = redis.client().await.del(redis.key(ID)).await.unwrap();
    other.put(&subscription(1)).await;
    assert_eq!(version_in(&other).await, Some(1));
    assert_eq!(version_in(&one).await, None);
}

#[tokio::test]
async fn what_is_not_a_copy_is_a_miss() {
    let redis = Redis::shared();
    let (cache, _) = redis.cache().await;
    let client = redis.client().await;
    let _: i64 = client.hset(redis.key(ID), [("version", "1"), ("copy", "{\"version\":1}")]).await.unwrap();
    assert_eq!(version_in(&cache).await, None);
    let _: i64 = client.del(redis.key(ID)).await.unwrap();
    let _: () = client.set(redis.key(ID), "not a hash", None, None, false).await.unwrap();
    assert_eq!(version_in(&cache).await, None);
    assert_eq!(cache.status(), "redis: connected");
}

#[tokio::test]
async fn nonsense_on_the_channel_is_ignored() {
    let redis = Redis::shared();
    let (one, mut changes) = redis.cache().await;
    let client = redis.client().await;
    let _: i64 = client.publish(format!("{}:changes", redis.prefix), "nonsense").await.unwrap();
    one.changed(&subscription(2)).await;
    assert_eq!(next(&mut changes).await, Change::Subscription { id: ID, version: 2 });
}

#[tokio::test]
async fn a_wrong_url_is_an_error_without_the_password() {
    let error = RedisCache::connect(&SecretString::from("http://user:hunter2@localhost"), "test").err().unwrap();
    let error = format!("{error:#}");
    assert!(error.contains("REDIS_URL begins with http://") && error.contains("expected redis://"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}
