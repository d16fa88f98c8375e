//! What was accepted and is unfinished goes on after a stop.

use std::time::Duration;

use serde_json::json;

use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    a_retry_goes_on_after_a_restart_at_its_due_time,
    what_was_not_attempted_before_a_stop_is_attempted_after_it,
    a_stop_finishes_what_is_in_flight_and_sends_nothing_twice,
    a_second_process_stands_by_and_takes_over_when_the_first_stops,
);

async fn a_retry_goes_on_after_a_restart_at_its_due_time(backend: Backend) {
    let app = Builder::new(backend).await.schedule("1500ms").start().await;
    let mut receiver = Receiver::start([Script::Status(500)]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let id = app.ingest(subscription, json!({})).await;
    let first = receiver.next().await;
    app.status_when(&id, "retrying").await;

    let app = app.stop().await.start().await;
    let second = receiver.next().await;
    assert_eq!(second.id(), id);
    assert_eq!(second.header("x-hookpost-attempt"), "2");
    let waited = second.at - first.at;
    assert!(waited >= Duration::from_millis(1500), "came after {waited:?}");
    app.status_when(&id, "delivered").await;
}

async fn what_was_not_attempted_before_a_stop_is_attempted_after_it(backend: Backend) {
    const EVENTS: usize = 80;
    let app = Builder::new(backend).await.schedule("10ms").attempt_timeout(Duration::from_millis(500)).start().await;
    let mut receiver = Receiver::start([Script::Hang; 8]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let mut waiting = std::collections::BTreeSet::new();
    for n in 0..EVENTS {
        waiting.insert(app.ingest(subscription, json!({ "n": n })).await);
    }
    let _app = app.stop().await.start().await;
    while !waiting.is_empty() {
        waiting.remove(receiver.next().await.id());
    }
}

async fn a_stop_finishes_what_is_in_flight_and_sends_nothing_twice(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(app.ingest(subscription, json!({ "n": n })).await);
    }
    let app = app.stop().await.start().await;
    for id in &ids {
        app.status_when(id, "delivered").await;
    }
    assert_eq!(receiver.unread().len(), ids.len());
}

async fn a_second_process_stands_by_and_takes_over_when_the_first_stops(backend: Backend) {
    let first = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let id = first.subscribe(&receiver.url()).await;
    let second = Builder::at(first.home.clone()).start().await;
    let refused = second.post(&format!("/ingest/{id}"), json!({})).await.expect(503);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("standby")), "{refused}");
    second.get("/readyz").await.expect(503);
    second.get(&format!("/subscriptions/{id}")).await.expect(200);

    first.stop().await;
    // The standby asks every half second whether the store is free.
    let accepted = loop {
        let answer = second.post(&format!("/ingest/{id}"), json!({})).await;
        if answer.status != 503 {
            break answer.expect(202);
        }
    };
    assert_eq!(receiver.next().await.id(), accepted["delivery_id"]);
}
