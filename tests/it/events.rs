//! Fan-out and idempotency: one event for everyone who wants it, and the same request twice.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, App, Backend, on_both_stores, send};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    an_event_goes_to_every_enabled_subscription_of_its_tenant_that_wants_it_and_to_no_other,
    its_payload_arrives_byte_for_byte_and_its_deliveries_are_shown_with_their_states,
    an_event_that_nobody_wants_is_kept_and_the_answer_says_so,
    subscriptions_without_an_actor_are_woken_by_a_fan_out,
    a_new_or_changed_subscription_is_matched_at_once,
    the_same_key_and_request_is_answered_again_and_delivered_once,
    the_same_key_with_another_request_is_refused,
    a_key_used_at_the_same_time_is_delivered_once,
    a_key_is_remembered_across_a_restart,
    a_request_is_answered_again_though_it_would_be_refused_by_now,
);

async fn subscribe(app: &App, receiver: &Receiver, more: Value) -> i64 {
    let mut body = json!({ "target_url": receiver.url() });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    app.post("/subscriptions", body).await.expect(201)["id"].as_i64().expect("an id")
}

fn subscriptions(published: &Value) -> BTreeSet<i64> {
    let deliveries = published["deliveries"].as_array().expect("deliveries");
    deliveries.iter().map(|delivery| delivery["subscription_id"].as_i64().expect("an id")).collect()
}

async fn an_event_goes_to_every_enabled_subscription_of_its_tenant_that_wants_it_and_to_no_other(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let mut wanting = BTreeSet::new();
    for more in [json!({}), json!({ "event_type": ["order.created"] }), json!({ "event_type": ["x", "order.*"] })] {
        wanting.insert(subscribe(&app, &receiver, more).await);
    }
    let mut others = Receiver::start([]).await;
    for more in
        [json!({ "event_type": ["order.deleted"] }), json!({ "event_type": ["orders.*"] }), json!({ "tenant": "acme" })]
    {
        subscribe(&app, &others, more).await;
    }
    let deleted = subscribe(&app, &others, json!({})).await;
    app.delete(&format!("/subscriptions/{deleted}")).await.expect(204);

    let event = json!({ "event_type": "order.created", "payload": { "n": 1 } });
    let published = app.post("/events", event).await.expect(202);
    assert_eq!(subscriptions(&published), wanting);
    assert_eq!(published["matched"], 3);
    let ids: BTreeSet<_> = [receiver.next().await, receiver.next().await, receiver.next().await]
        .iter()
        .map(|receipt| receipt.id().to_owned())
        .collect();
    assert_eq!(ids.len(), 3, "each delivery has an id of its own");

    let acme = json!({ "event_type": "order.created", "payload": 1, "tenant": "acme" });
    assert_eq!(app.post("/events", acme).await.expect(202)["matched"], 1);
    assert_eq!(others.next().await.body, "1");
    assert_eq!(receiver.unread().len() + others.unread().len(), 0);
}

async fn its_payload_arrives_byte_for_byte_and_its_deliveries_are_shown_with_their_states(backend: Backend) {
    let app = App::start(backend).await;
    let (mut good, mut bad) = (Receiver::start([]).await, Receiver::start([Script::Status(500)]).await);
    let delivered = subscribe(&app, &good, json!({})).await;
    subscribe(&app, &bad, json!({})).await;
    let payload = "{\"amount\" : 49.990,\t\"big\":1e400}";
    let body = format!("{{\"event_type\":\"a\", \"ordering_key\":\"k\", \"payload\": {payload} }}");
    let published = send(app.request(Method::POST, "/events").body(body)).await.expect(202);
    assert_eq!(good.next().await.body, payload);
    assert_eq!(bad.next().await.body, payload);

    let path = published["status_url"].as_str().expect("a URL").to_owned();
    for delivery in published["deliveries"].as_array().expect("deliveries") {
        let state = if delivery["subscription_id"] == delivered { "delivered" } else { "retrying" };
        let status = app.status_when(delivery["delivery_id"].as_str().expect("an id"), state).await;
        assert_eq!(status["event_id"], published["event_id"]);
    }
    let answer = app.get(&path).await;
    assert!(answer.text.contains(payload), "the payload as it was sent: {}", answer.text);
    let shown: Value = serde_json::from_str(&answer.text.replace("1e400", "0")).expect("JSON");
    assert_eq!((&shown["matched"], &shown["ordering_key"]), (&json!(2), &json!("k")));
    let states: BTreeSet<_> =
        shown["deliveries"].as_array().expect("deliveries").iter().map(|d| d["state"].to_string()).collect();
    assert_eq!(states, ["\"delivered\"", "\"retrying\""].map(str::to_owned).into());
}

async fn an_event_that_nobody_wants_is_kept_and_the_answer_says_so(backend: Backend) {
    let app = App::start(backend).await;
    let published = app.post("/events", json!({ "event_type": "lonely", "payload": {} })).await.expect(202);
    assert_eq!((&published["matched"], &published["deliveries"]), (&json!(0), &json!([])));
    assert!(published["note"].as_str().is_some_and(|note| note.contains("lonely")), "{published}");
    let shown = app.get(published["status_url"].as_str().expect("a URL")).await.expect(200);
    assert_eq!((&shown["event_type"], &shown["deliveries"]), (&json!("lonely"), &json!([])));
    app.get("/events/0198c0de-0000-7000-8000-000000000000").await.expect(404);
}

async fn subscriptions_without_an_actor_are_woken_by_a_fan_out(backend: Backend) {
    const SUBSCRIPTIONS: usize = 150;
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    for _ in 0..SUBSCRIPTIONS {
        app.subscribe(&receiver.url()).await;
    }
    // Nobody has asked for their actors after this.
    let app = app.stop().await.start().await;
    let published = app.post("/events", json!({ "event_type": "a", "payload": {} })).await.expect(202);
    let mut waiting: BTreeSet<_> = published["deliveries"]
        .as_array()
        .expect("deliveries")
        .iter()
        .map(|delivery| delivery["delivery_id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(waiting.len(), SUBSCRIPTIONS);
    while !waiting.is_empty() {
        assert!(waiting.remove(receiver.next().await.id()), "nothing arrives twice");
    }
}

async fn a_new_or_changed_subscription_is_matched_at_once(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let event = json!({ "event_type": "a.b", "payload": {} });
    assert_eq!(app.post("/events", event.clone()).await.expect(202)["matched"], 0);
    let id = subscribe(&app, &receiver, json!({ "event_type": ["a.*"] })).await;
    assert_eq!(app.post("/events", event.clone()).await.expect(202)["matched"], 1);
    let path = format!("/subscriptions/{id}");
    app.put(&path, json!({ "event_type": ["b"] })).await.expect(200);
    assert_eq!(app.post("/events", event.clone()).await.expect(202)["matched"], 0);
    app.put(&path, json!({ "event_type": [] })).await.expect(200);
    assert_eq!(app.post("/events", event.clone()).await.expect(202)["matched"], 1);
    app.delete(&path).await.expect(204);
    assert_eq!(app.post("/events", event).await.expect(202)["matched"], 0);
}

async fn keyed(app: &App, path: &str, key: &str, body: &Value) -> Answer {
    send(app.request(Method::POST, path).header("Idempotency-Key", key).body(body.to_string())).await
}

async fn the_same_key_and_request_is_answered_again_and_delivered_once(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let event = json!({ "event_type": "a", "payload": { "n": 1 } });
    for (path, body) in [(format!("/ingest/{id}"), json!({ "n": 1 })), ("/events".to_owned(), event)] {
        let first = keyed(&app, &path, "key-1", &body).await;
        let again = keyed(&app, &path, "key-1", &body).await;
        assert!(!first.headers.contains_key("idempotency-replayed"));
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!((first.status, &first.text), (again.status, &again.text));
        receiver.next().await;
        // Whatever was sent twice would have come before this.
        let witness = app.ingest(id, json!({ "witness": true })).await;
        assert_eq!(receiver.next().await.id(), witness);
    }
}

async fn the_same_key_with_another_request_is_refused(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (one, other) = (app.subscribe(&receiver.url()).await, app.subscribe(&receiver.url()).await);
    keyed(&app, &format!("/ingest/{one}"), "k", &json!({ "n": 1 })).await.expect(202);
    let refused = keyed(&app, &format!("/ingest/{one}"), "k", &json!({ "n": 2 })).await.expect(409);
    assert_eq!(refused["type"], "/problems/idempotency-key-reused");
    // Another subscription's producer may have chosen the same key.
    keyed(&app, &format!("/ingest/{other}"), "k", &json!({ "n": 2 })).await.expect(202);
    keyed(&app, &format!("/ingest/{one}"), "", &json!({})).await.expect(400);
}

async fn a_key_used_at_the_same_time_is_delivered_once(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let path = format!("/ingest/{id}");
    let body = json!({ "n": 1 });
    let answers = futures_util::future::join_all((0..20).map(|_| keyed(&app, &path, "k", &body))).await;
    let ids: BTreeSet<_> = answers.into_iter().map(|answer| answer.expect(202)["delivery_id"].to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

async fn a_key_is_remembered_across_a_restart(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let first = keyed(&app, &format!("/ingest/{id}"), "k", &json!({})).await.expect(202);
    let app = app.stop().await.start().await;
    assert_eq!(keyed(&app, &format!("/ingest/{id}"), "k", &json!({})).await.expect(202), first);
}

async fn a_request_is_answered_again_though_it_would_be_refused_by_now(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let (path, body) = (format!("/ingest/{id}"), json!({ "n": 1 }));
    let first = keyed(&app, &path, "k", &body).await;
    receiver.next().await;

    app.patch(&format!("/subscriptions/{id}"), json!({ "event_type": ["another"] })).await.expect(200);
    assert_eq!(keyed(&app, &path, "k", &body).await.text, first.text);
    keyed(&app, &path, "k", &json!({ "n": 2 })).await.expect(409);
    keyed(&app, &path, "new", &body).await.expect(403);

    app.patch(&format!("/subscriptions/{id}"), json!({ "event_type": null })).await.expect(200);
    app.post(&format!("/subscriptions/{id}/disable"), json!({})).await.expect(200);
    assert_eq!(keyed(&app, &path, "k", &body).await.text, first.text);
    let refused = keyed(&app, &path, "new", &body).await.expect(409);
    assert_eq!(refused["type"], "/problems/subscription-disabled");
}
