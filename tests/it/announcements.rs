//! Hookpost's own events: who asks for them by name hears of them, and nobody else.

use serde_json::{Value, json};

use crate::app::{App, Backend, Builder, on_both_stores};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    being_disabled_and_enabled_is_announced_to_those_who_ask,
    an_exhausted_delivery_is_announced_and_an_exhausted_announcement_is_not,
    a_subscription_that_wants_everything_hears_nothing_of_hookpost_itself,
);

async fn subscribe(app: &App, receiver: &Receiver, event_types: &[&str]) -> i64 {
    let body = json!({ "target_url": receiver.url(), "event_type": event_types });
    app.post("/subscriptions", body).await.expect(201)["id"].as_i64().expect("an id")
}

async fn heard(receiver: &mut Receiver) -> Value {
    let receipt = receiver.next().await;
    let event: Value = serde_json::from_slice(&receipt.body).expect("JSON");
    assert_eq!(receipt.header("x-event-type"), event["type"].as_str().expect("a type"));
    assert!(event["timestamp"].is_string(), "{event}");
    event
}

async fn being_disabled_and_enabled_is_announced_to_those_who_ask(backend: Backend) {
    let app = App::start(backend).await;
    let mut listening = Receiver::start([]).await;
    let gone = Receiver::start([Script::Status(410)]).await;
    subscribe(&app, &listening, &["hookpost.subscription.*"]).await;
    let id = subscribe(&app, &gone, &[]).await;

    app.ingest(id, json!({})).await;
    let event = heard(&mut listening).await;
    assert_eq!(event["type"], "hookpost.subscription.disabled");
    assert_eq!((&event["data"]["subscription_id"], &event["data"]["reason"]), (&json!(id), &json!("gone")));

    app.post(&format!("/subscriptions/{id}/enable"), json!({})).await.expect(200);
    let event = heard(&mut listening).await;
    assert_eq!((&event["type"], &event["data"]["reason"]), (&json!("hookpost.subscription.enabled"), &Value::Null));

    app.post(&format!("/subscriptions/{id}/disable"), json!({ "reason": "maintenance" })).await.expect(200);
    let event = heard(&mut listening).await;
    assert_eq!((&event["data"]["reason"], &event["data"]["detail"]), (&json!("by_hand"), &json!("maintenance")));
}

async fn an_exhausted_delivery_is_announced_and_an_exhausted_announcement_is_not(backend: Backend) {
    let app = Builder::new(backend).await.schedule("").start().await;
    let mut listening = Receiver::start([Script::Status(500)]).await;
    let dead = Receiver::start([Script::Status(500), Script::Status(500)]).await;
    subscribe(&app, &listening, &["hookpost.delivery.exhausted"]).await;
    let id = subscribe(&app, &dead, &[]).await;

    // Its receiver fails the first announcement for good, too: that is the end of it.
    let first = app.ingest(id, json!({})).await;
    assert_eq!(heard(&mut listening).await["data"]["delivery_id"], first);
    let second = app.ingest(id, json!({})).await;
    let event = heard(&mut listening).await;
    assert_eq!(event["data"]["delivery_id"], second, "nothing came in between");
    assert_eq!((&event["data"]["attempts"], &event["data"]["subscription_id"]), (&json!(1), &json!(id)));
    assert!(event["data"]["last_error"].as_str().is_some_and(|error| error.contains("500")), "{event}");
}

async fn a_subscription_that_wants_everything_hears_nothing_of_hookpost_itself(backend: Backend) {
    let app = App::start(backend).await;
    let mut everything = Receiver::start([]).await;
    let mut named = Receiver::start([]).await;
    subscribe(&app, &everything, &[]).await;
    subscribe(&app, &named, &["hookpost.*"]).await;
    let id = subscribe(&app, &everything, &["never"]).await;
    app.post(&format!("/subscriptions/{id}/disable"), json!({})).await.expect(200);
    heard(&mut named).await;
    app.post("/events", json!({ "event_type": "order.created", "payload": 1 })).await.expect(202);
    assert_eq!(everything.next().await.header("x-event-type"), "order.created", "the first that it hears of");
}
