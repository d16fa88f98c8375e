//! Two processes on one PostgreSQL and one Redis; Redis gone.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::app::{App, Backend, Builder, Home, send, test_url};
use crate::receiver::{PATIENCE, Receiver};

/// How long a deletion through another process may go unheard: a second, and what a busy machine adds.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

async fn pair() -> (App, App) {
    pair_behind(&test_url("TEST_REDIS_URL")).await
}

async fn pair_behind(redis: &str) -> (App, App) {
    let home = Home::new(Backend::Postgres).await;
    let owner = Builder::at(home.clone()).redis(redis).start().await;
    let other = Builder::at(home).redis(redis).start().await;
    (owner, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_made_at_one_process_reaches_the_actor_in_another() {
    let (owner, other) = pair().await;
    let (mut first, mut second) = (Receiver::start([]).await, Receiver::start([]).await);
    let id = owner.subscribe(&first.url()).await;
    owner.ingest(id, json!({})).await;
    first.next().await;

    other.put(&format!("/subscriptions/{id}"), json!({ "target_url": second.url() })).await.expect(200);
    // The signal is on its way: every event goes to one of the two, and soon to the second.
    let arrived = async {
        loop {
            owner.ingest(id, json!({})).await;
            tokio::select! {
                _ = first.next() => {}
                _ = second.next() => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("the change arrives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_deleted_at_one_process_is_refused_by_another() {
    let (owner, other) = pair().await;
    let receiver = Receiver::start([]).await;
    let id = owner.subscribe(&receiver.url()).await;
    owner.ingest(id, json!({})).await;
    other.delete(&format!("/subscriptions/{id}")).await.expect(204);
    let refused =
        async { while send(owner.request(Method::POST, &format!("/ingest/{id}")).body("{}")).await.status != 404 {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("the deletion arrives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_redis_a_subscription_deleted_at_one_process_is_refused_by_another_within_a_second() {
    // Nobody listens there.
    let gone = Receiver::reserve().await.local_addr().expect("an address");
    let (owner, other) = pair_behind(&format!("redis://{gone}")).await;
    let receiver = Receiver::start([]).await;
    let id = owner.subscribe(&receiver.url()).await;
    owner.ingest(id, json!({})).await;
    other.delete(&format!("/subscriptions/{id}")).await.expect(204);
    let deleted = Instant::now();
    while send(owner.request(Method::POST, &format!("/ingest/{id}")).body("{}")).await.status != 404 {
        assert!(deleted.elapsed() < HEARD_WITHIN, "its owner takes events after {:?}", deleted.elapsed());
    }
    println!("refused after {:?}", deleted.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_redis_everything_works() {
    // Nobody listens there.
    let gone = Receiver::reserve().await.local_addr().expect("an address");
    let app = Builder::new(Backend::Sqlite).await.redis(&format!("redis://{gone}")).start().await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let delivery = app.ingest(id, json!({})).await;
    assert_eq!(receiver.next().await.id(), delivery);
    app.put(&format!("/subscriptions/{id}"), json!({ "event_type": ["a"], "target_url": receiver.url() }))
        .await
        .expect(200);
    app.get("/readyz").await.expect(200);
}
