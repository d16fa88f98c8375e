//! From ingest to receipt: what arrives, how often, when, and what the log says.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::app::{App, Backend, Builder, on_both_stores, send};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    an_event_is_delivered_byte_for_byte_with_its_headers_and_logged,
    three_failures_and_a_success_are_four_attempts_at_the_scheduled_times_and_logged_newest_first,
    a_spent_schedule_is_a_visible_failure,
    a_retry_after_longer_than_the_wait_is_honoured,
    a_redirect_is_a_failure_and_never_followed,
    gone_disables_the_subscription_and_an_update_enables_it_again_with_its_backlog,
    a_backlog_beyond_memory_arrives_complete_and_its_first_attempts_in_order,
    a_deleted_subscription_gets_nothing_more_and_its_delivery_says_so,
    a_receiver_that_never_answers_is_timed_out_and_retried,
    a_changed_target_gets_the_next_event,
);

fn hub_signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

async fn an_event_is_delivered_byte_for_byte_with_its_headers_and_logged(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let subscription = json!({ "target_url": receiver.url(), "event_type": ["order.*"], "secret": "mysecret" });
    let created = app.post("/subscriptions", subscription).await.expect(201);
    assert!(!created.to_string().contains("mysecret"), "a secret is never shown: {created}");

    // Neither the spacing nor the number would survive a re-serialisation.
    let body = "{\"order_id\" :123,\t\"amount\":49.990, \"name\":\"h\u{e9}llo \u{2713}\"}";
    let request = app.request(Method::POST, "/ingest/1").header("event_type", "order.created").body(body);
    let request = request.header("X-Hub-Signature-256", hub_signature("mysecret", body.as_bytes()));
    let accepted = send(request).await.expect(202);
    let id = accepted["delivery_id"].as_str().expect("an id").to_owned();
    assert_eq!(accepted["subscription_id"], 1);

    let receipt = receiver.next().await;
    assert_eq!(receipt.body, body.as_bytes());
    assert_eq!(receipt.id(), id);
    assert_eq!(receipt.header("x-hub-signature-256"), hub_signature("mysecret", body.as_bytes()));
    assert!(receipt.header("webhook-signature").starts_with("v1,"));
    assert_eq!(receipt.header("x-event-type"), "order.created");
    assert_eq!(receipt.header("content-type"), "application/json");

    app.status_when(&id, "delivered").await;
    let status = app.get(accepted["status_url"].as_str().expect("a URL")).await.expect(200);
    assert_eq!(status["attempts"][0]["outcome"], "Success");
    assert_eq!(status["attempts"][0]["http_status"], 200);
    assert_eq!(status["attempts"][0]["response_body"], "noted");
    assert_eq!(status["next_attempt_at"], Value::Null);
}

async fn three_failures_and_a_success_are_four_attempts_at_the_scheduled_times_and_logged_newest_first(
    backend: Backend,
) {
    let waits = [60, 120, 180].map(Duration::from_millis);
    let app = Builder::new(backend).await.schedule("60ms,120ms,180ms,1h").start().await;
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(502), Script::Status(503)]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let id = app.ingest(subscription, json!({ "n": 1 })).await;

    let mut receipts = vec![receiver.next().await];
    for wait in waits {
        let receipt = receiver.next().await;
        let waited = receipt.at - receipts[receipts.len() - 1].at;
        assert!(waited >= wait, "came after {waited:?}, not before {wait:?}");
        receipts.push(receipt);
    }
    assert!(receipts.iter().all(|receipt| receipt.id() == id), "webhook-id is stable across retries");

    let status = app.status_when(&id, "delivered").await;
    let column = |rows: &Value, name: &str| -> Vec<Value> {
        rows.as_array().expect("rows").iter().map(|row| row[name].clone()).collect()
    };
    assert_eq!(column(&status["attempts"], "http_status"), [500, 502, 503, 200]);
    assert_eq!(column(&status["attempts"], "attempt_number"), [1, 2, 3, 4]);
    let outcomes = ["Failed Attempt", "Failed Attempt", "Failed Attempt", "Success"];
    assert_eq!(column(&status["attempts"], "outcome"), outcomes);
    let logs = app.get(&format!("/subscriptions/{subscription}/logs")).await.expect(200);
    assert_eq!(column(&logs, "attempt_number"), [4, 3, 2, 1], "newest first");
}

async fn a_spent_schedule_is_a_visible_failure(backend: Backend) {
    let app = Builder::new(backend).await.schedule("10ms").start().await;
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(500)]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let id = app.ingest(subscription, json!({})).await;
    let status = app.status_when(&id, "failed").await;
    assert_eq!(status["attempts"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["attempts"][1]["outcome"], "Failure");
    assert_eq!(receiver.unread().len(), 2);
}

async fn a_retry_after_longer_than_the_wait_is_honoured(backend: Backend) {
    let app = Builder::new(backend).await.schedule("10ms").start().await;
    let mut receiver = Receiver::start([Script::RetryAfter(429, 1)]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    app.ingest(subscription, json!({})).await;
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert!(second.at - first.at >= Duration::from_secs(1), "came after {:?}", second.at - first.at);
}

async fn a_redirect_is_a_failure_and_never_followed(backend: Backend) {
    let app = Builder::new(backend).await.schedule("").start().await;
    let receiver = Receiver::start([Script::Status(302)]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let id = app.ingest(subscription, json!({})).await;
    let status = app.status_when(&id, "failed").await;
    assert_eq!(status["attempts"][0]["http_status"], 302);
}

async fn gone_disables_the_subscription_and_an_update_enables_it_again_with_its_backlog(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([Script::Hang, Script::Status(410)]).await;
    let id = app.subscribe(&receiver.url()).await;
    let held = app.ingest(id, json!({ "n": 1 })).await;
    receiver.next().await;
    let gone = app.ingest(id, json!({ "n": 2 })).await;
    app.status_when(&gone, "failed").await;
    let disabled = loop {
        let subscription = app.get(&format!("/subscriptions/{id}")).await.expect(200);
        if !subscription["disabled"].is_null() {
            break subscription["disabled"].clone();
        }
    };
    assert_eq!(disabled, "gone");
    let refused = app.post(&format!("/ingest/{id}"), json!({})).await;
    assert!(refused.status.is_client_error(), "a disabled subscription accepts nothing: {refused:?}");
    assert_eq!(app.status(&held).await["state"], "pending");

    let mut second = Receiver::start([]).await;
    app.put(&format!("/subscriptions/{id}"), json!({ "target_url": second.url() })).await.expect(200);
    let next = app.ingest(id, json!({ "n": 3 })).await;
    assert_eq!(second.next().await.id(), next);
}

async fn a_backlog_beyond_memory_arrives_complete_and_its_first_attempts_in_order(backend: Backend) {
    const EVENTS: usize = 700;
    let builder = Builder::new(backend).await.schedule("10ms").attempt_timeout(Duration::from_secs(3));
    let app = builder.start().await;
    // The only place is taken by an attempt that hangs; what comes behind it is more than memory keeps.
    let mut receiver = Receiver::start([Script::Hang]).await;
    let body = json!({ "target_url": receiver.url(), "max_concurrency": 1 });
    let subscription = app.post("/subscriptions", body).await.expect(201)["id"].as_i64().expect("an id");
    let mut accepted = Vec::new();
    for n in 0..EVENTS {
        accepted.push(app.ingest(subscription, json!({ "n": n })).await);
    }
    let mut arrived = Vec::new();
    while arrived.len() < EVENTS {
        let id = receiver.next().await.id().to_owned();
        if !arrived.contains(&id) {
            arrived.push(id);
        }
    }
    assert_eq!(arrived, accepted);
}

async fn a_deleted_subscription_gets_nothing_more_and_its_delivery_says_so(backend: Backend) {
    let app = Builder::new(backend).await.schedule("100ms").start().await;
    let mut receiver = Receiver::start([Script::Status(500)]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let id = app.ingest(subscription, json!({})).await;
    receiver.next().await;
    app.status_when(&id, "retrying").await;
    app.delete(&format!("/subscriptions/{subscription}")).await.expect(204);
    assert_eq!(app.status(&id).await["state"], "cancelled");
    app.post(&format!("/ingest/{subscription}"), json!({})).await.expect(404);
    app.get(&format!("/subscriptions/{subscription}")).await.expect(404);

    // Another subscription's retry, planned later, has come by the time that this one's would have.
    let mut other = Receiver::start([Script::Status(500)]).await;
    let witness = app.subscribe(&other.url()).await;
    app.ingest(witness, json!({})).await;
    other.next().await;
    other.next().await;
    assert_eq!(receiver.unread().len(), 0);
}

async fn a_receiver_that_never_answers_is_timed_out_and_retried(backend: Backend) {
    let builder = Builder::new(backend).await.schedule("10ms").attempt_timeout(Duration::from_millis(200));
    let app = builder.start().await;
    let mut receiver = Receiver::start([Script::Hang]).await;
    let subscription = app.subscribe(&receiver.url()).await;
    let id = app.ingest(subscription, json!({})).await;
    receiver.next().await;
    assert_eq!(receiver.next().await.id(), id);
    let status = app.status_when(&id, "delivered").await;
    assert_eq!(status["attempts"][0]["http_status"], Value::Null);
    let details = status["attempts"][0]["error_details"].as_str().expect("details");
    assert!(details.contains("200"), "says how long it waited: {details}");
}

async fn a_changed_target_gets_the_next_event(backend: Backend) {
    let app = App::start(backend).await;
    let (mut first, mut second) = (Receiver::start([]).await, Receiver::start([]).await);
    let id = app.subscribe(&first.url()).await;
    app.ingest(id, json!({ "n": 1 })).await;
    first.next().await;
    app.put(&format!("/subscriptions/{id}"), json!({ "target_url": second.url() })).await.expect(200);
    let delivery = app.ingest(id, json!({ "n": 2 })).await;
    assert_eq!(second.next().await.id(), delivery);
    assert_eq!(first.unread().len(), 0);
}
