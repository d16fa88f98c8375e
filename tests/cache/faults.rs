//! A Redis that is away, killed or hanging makes things slower, and nothing worse.

use hookpost::cache::{Cache, Change};

use crate::app::{ID, Redis, heard, soon, subscription, version_in};
use crate::server::Server;
use crate::wire::Wire;

#[tokio::test]
async fn a_redis_that_is_away_at_the_start_is_a_miss_until_it_comes() {
    let mut server = Server::start();
    server.kill();
    let (cache, mut changes) = Redis::at(&server.url()).connecting();
    cache.put(&subscription(1)).await;
    assert_eq!(version_in(&cache).await, None);
    assert_eq!(cache.status(), "redis: unreachable");

    server.restart();
    heard(&mut changes, Change::Everything).await;
    assert_eq!(cache.status(), "redis: connected");
    cache.put(&subscription(1)).await;
    assert_eq!(version_in(&cache).await, Some(1));
}

#[tokio::test]
async fn a_killed_redis_is_a_miss_and_its_return_means_look_at_everything() {
    let mut server = Server::start();
    let (cache, mut changes) = Redis::at(&server.url()).cache().await;
    cache.put(&subscription(1)).await;
    server.kill();
    assert_eq!(soon(version_in(&cache)).await, None);

    server.restart();
    heard(&mut changes, Change::Everything).await;
    cache.put(&subscription(2)).await;
    assert_eq!(version_in(&cache).await, Some(2));
}

#[tokio::test]
async fn a_hanging_redis_costs_a_bounded_wait_once_and_works_again_when_it_goes_on() {
    let server = Server::start();
    let (cache, mut changes) = Redis::at(&server.url()).cache().await;
    cache.put(&subscription(1)).await;
    server.hang();
    assert_eq!(soon(version_in(&cache)).await, None);
    assert_eq!(cache.status(), "redis: unreachable");
    // Far more calls than would fit into the test's patience if each waited for its timeout.
    soon(async {
        for _ in 0..1_000 {
            assert_eq!(version_in(&cache).await, None);
        }
    })
    .await;

    server.go_on();
    heard(&mut changes, Change::Everything).await;
    assert_eq!(cache.status(), "redis: connected");
    assert_eq!(version_in(&cache).await, Some(1));
}

#[tokio::test]
async fn a_deletion_that_redis_missed_reaches_the_other_processes_when_it_is_back() {
    let server = Server::start();
    let redis = Redis::at(&server.url());
    let (one, _) = redis.cache().await;
    let (other, mut heard_by_other) = redis.cache().await;
    one.put(&subscription(1)).await;
    server.hang();
    assert_eq!(soon(version_in(&one)).await, None);
    // Redis is known to hang: the deletion is not even tried.
    one.deleted(ID).await;

    server.go_on();
    heard(&mut heard_by_other, Change::Subscription { id: ID, version: i64::MAX }).await;
    assert_eq!(version_in(&other).await, None);
}

#[tokio::test]
async fn a_redis_that_forgot_is_told_again_what_was_deleted() {
    let mut server = Server::start();
    let redis = Redis::at(&server.url());
    let (one, mut changes) = redis.cache().await;
    one.deleted(ID).await;
    server.kill();
    server.restart();
    heard(&mut changes, Change::Everything).await;
    let (other, _) = redis.cache().await;
    other.put(&subscription(1)).await;
    assert_eq!(version_in(&other).await, None);
}

#[tokio::test]
async fn a_connection_that_went_dead_without_a_word_is_given_up_for_a_new_one() {
    let server = Server::start();
    let wire = Wire::to(server.port).await;
    let (cache, mut changes) = Redis::at(&wire.url()).cache().await;
    cache.put(&subscription(1)).await;
    wire.cut();
    assert_eq!(soon(version_in(&cache)).await, None);

    heard(&mut changes, Change::Everything).await;
    assert_eq!(version_in(&cache).await, Some(1));
}

#[tokio::test]
async fn a_redis_killed_while_it_hangs_is_found_again() {
    let mut server = Server::start();
    let (cache, mut changes) = Redis::at(&server.url()).cache().await;
    server.hang();
    assert_eq!(soon(version_in(&cache)).await, None);
    server.kill();
    server.restart();
    heard(&mut changes, Change::Everything).await;
    cache.put(&subscription(1)).await;
    assert_eq!(version_in(&cache).await, Some(1));
}
