//! What has to wait for what: nothing, everything, or what has the same key.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    fifo_waits_for_a_head_that_fails,
    a_head_that_fails_blocks_its_key_and_no_other,
    the_first_successes_of_a_key_are_in_the_order_of_acceptance,
);

/// A breaker that hardly opens, and not for long: what is tested here is who waits for whom.
fn settings(order: &str) -> Value {
    let breaker = json!({ "consecutive_failures": 1000, "failure_rate_percent": 100, "wait_ms": 100 });
    json!({ "order": order, "breaker": breaker })
}

async fn fifo_waits_for_a_head_that_fails(backend: Backend) {
    let app = Builder::new(backend).await.schedule("10ms,10ms").start().await;
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(500)]).await;
    let subscription = app.subscribe_with(&receiver.url(), settings("fifo")).await;
    let mut accepted = Vec::new();
    for n in 0..3 {
        accepted.push(app.ingest(subscription, json!({ "n": n })).await);
    }
    let [head, second, third] = &accepted[..] else { unreachable!("three events") };
    for expected in [head, head, head, second, third] {
        assert_eq!(receiver.next().await.id(), expected);
    }
}

async fn a_head_that_fails_blocks_its_key_and_no_other(backend: Backend) {
    let app = Builder::new(backend).await.schedule("1h").start().await;
    let mut receiver = Receiver::start([Script::Status(500)]).await;
    let subscription = app.subscribe_with(&receiver.url(), settings("ordering_key")).await;
    let head = app.ingest_keyed(subscription, "a", json!({ "n": 1 })).await;
    assert_eq!(receiver.next().await.id(), head);
    app.status_when(&head, "retrying").await;
    let behind = app.ingest_keyed(subscription, "a", json!({ "n": 2 })).await;
    for n in 3..6 {
        let other = app.ingest_keyed(subscription, "b", json!({ "n": n })).await;
        assert_eq!(receiver.next().await.id(), other);
    }
    let keyless = app.ingest(subscription, json!({ "n": 6 })).await;
    assert_eq!(receiver.next().await.id(), keyless);
    assert_eq!(app.status(&behind).await["attempts"], json!([]));
    assert_eq!(receiver.unread().len(), 0);
    let explained = app.get(&format!("/deliveries/{behind}/explain")).await.expect(200);
    assert!(explained.to_string().contains(&head), "names what it waits for: {explained}");
}

async fn the_first_successes_of_a_key_are_in_the_order_of_acceptance(backend: Backend) {
    for seed in 0..3 {
        keys_keep_their_order(backend, seed).await;
    }
}

async fn keys_keep_their_order(backend: Backend, seed: u64) {
    const EVENTS: usize = 60;
    const KEYS: usize = 4;
    /// The longest schedule.
    const MAX_WAITS: usize = 32;
    let mut random = StdRng::seed_from_u64(seed);
    // Fewer failures than a delivery has attempts: none is given up, whoever gets them.
    let script: Vec<_> =
        (0..MAX_WAITS).map(|_| Script::Status(if random.random_bool(0.5) { 500 } else { 200 })).collect();
    let schedule = ["10ms"; MAX_WAITS].join(",");
    let app: App = Builder::new(backend).await.schedule(&schedule).start().await;
    let mut receiver = Receiver::start(script).await;
    let subscription = app.subscribe_with(&receiver.url(), settings("ordering_key")).await;
    let mut accepted = BTreeMap::<String, Vec<String>>::new();
    for n in 0..EVENTS {
        let key = format!("key-{}", random.random_range(0..KEYS));
        let id = app.ingest_keyed(subscription, &key, json!({ "key": key, "n": n })).await;
        accepted.entry(key).or_default().push(id);
    }
    let (mut received, mut successes) = (BTreeMap::<String, Vec<String>>::new(), 0);
    while successes < EVENTS {
        let receipt = receiver.next().await;
        if matches!(receipt.script, Script::Status(200)) {
            let event: Value = serde_json::from_slice(&receipt.body).expect("what was sent");
            let key = event["key"].as_str().expect("a key").to_owned();
            received.entry(key).or_default().push(receipt.id().to_owned());
            successes += 1;
        }
    }
    assert_eq!(received, accepted, "seed {seed}");
}
