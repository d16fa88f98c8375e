//! Bad input: a clear problem that says which field, what was found and what is expected; nothing of it is stored.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::app::{Answer, App, Backend, on_both_stores, send};
use crate::receiver::Receiver;

on_both_stores!(
    a_bad_subscription_is_refused_by_field_and_not_stored,
    a_bad_update_changes_nothing,
    a_bad_event_is_refused_and_not_stored,
    an_unknown_id_or_path_is_a_404_problem,
    a_wrong_method_says_which_are_allowed,
    a_private_target_is_refused_at_creation_and_again_at_the_attempt,
);

/// Checks the shape that every error has.
#[track_caller]
fn problem(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    for field in ["type", "title", "detail"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {problem}");
    }
    problem
}

async fn a_bad_subscription_is_refused_by_field_and_not_stored(backend: Backend) {
    let app = App::start(backend).await;
    let ok = "http://127.0.0.1:9/hook";
    let cases = [
        (json!({ "target_url": "not a url" }), "target_url"),
        (json!({ "target_url": "ftp://example.com/" }), "target_url"),
        (json!({ "target_url": "https://user:word@example.com/" }), "target_url"),
        (json!({ "target_url": 7 }), "target_url"),
        (json!({}), "target_url"),
        (json!({ "target_url": ok, "event_type": ["order created"] }), "event_type"),
        (json!({ "target_url": ok, "event_type": "order.created" }), "event_type"),
        (json!({ "target_url": ok, "event_type": ["a*b"] }), "event_type"),
        (json!({ "target_url": ok, "secret": "" }), "secret"),
        (json!({ "target_url": ok, "secret": 5 }), "secret"),
        (json!({ "target_url": ok, "colour": "red" }), "colour"),
        (json!({ "target_url": ok, "max_concurrency": 0 }), "max_concurrency"),
        (json!({ "target_url": ok, "rate_limit": { "per_second": 0 } }), "rate_limit.per_second"),
        (json!({ "target_url": ok, "retry_schedule_s": [1, -1] }), "retry_schedule_s[1]"),
        (json!({ "target_url": ok, "order": "lifo" }), "order"),
        (json!({ "target_url": ok, "breaker": { "wait_ms": 1 } }), "breaker.wait_ms"),
        (json!({ "target_url": ok, "method": "GET" }), "method"),
        (json!({ "target_url": ok, "headers": { "Host": "example.com" } }), "headers"),
    ];
    for (body, field) in cases {
        let answer = app.post("/subscriptions", body.clone()).await;
        let problem = problem(&answer, 400);
        assert_eq!(
            problem["errors"][0]["field"].as_str().map(|f| f.starts_with(field)),
            Some(true),
            "{body}: {problem}"
        );
        assert!(problem["errors"][0]["expected"].is_string(), "{body}: {problem}");
    }
    for body in ["", "{", "[]", "\"text\"", "{\"target_url\": \"http://127.0.0.1/\"} trailing"] {
        problem(&send(app.request(Method::POST, "/subscriptions").body(body)).await, 400);
    }
    assert_eq!(app.get("/subscriptions").await.expect(200), json!([]));
}

async fn a_bad_update_changes_nothing(backend: Backend) {
    let app = App::start(backend).await;
    let id = app.subscribe("http://127.0.0.1:9/hook").await;
    let path = format!("/subscriptions/{id}");
    let before = app.get(&path).await.expect(200);
    problem(&app.put(&path, json!({ "target_url": "nowhere" })).await, 400);
    problem(&app.put(&path, json!({ "target_url": "http://127.0.0.1:9/", "colour": 1 })).await, 400);
    assert_eq!(app.get(&path).await.expect(200), before);
}

async fn a_bad_event_is_refused_and_not_stored(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let open = app.subscribe(&receiver.url()).await;
    let closed = json!({ "target_url": receiver.url(), "event_type": ["order.created"], "secret": "mysecret" });
    let closed = app.post("/subscriptions", closed).await.expect(201)["id"].as_i64().expect("an id");
    let to = |id: i64| app.request(Method::POST, &format!("/ingest/{id}"));
    let signed = |request: RequestBuilder| {
        let signature = "07f1da34b6ff57da613077d361ed7debaca285d7fed3c05254a2d82822b51d01";
        let request = request.body(r#"{"order_id":123,"amount":49.99}"#);
        request.header("X-Hub-Signature-256", format!("sha256={signature}"))
    };
    let over_the_limit = format!("\"{}\"", "x".repeat(1024 * 1024 - 1));
    let cases = [
        (to(open).body("{\"a\":"), 400),
        (to(open).body(""), 400),
        (to(open).body("[".repeat(100_000)), 400),
        (to(open).body("{}").header("event_type", "no spaces"), 400),
        (to(open).body("{}").header("event_type", "one").header("X-Event-Type", "two"), 400),
        (to(open).body("{}").header("event_type", "hookpost.subscription.disabled"), 400),
        (to(open).body("{}").header("X-Ordering-Key", ""), 400),
        (to(open).body("{}").header("X-Ordering-Key", "with a space"), 400),
        (to(open).body("{}").header("X-Ordering-Key", "x".repeat(201)), 400),
        (to(open).body(over_the_limit.clone()), 413),
        (to(closed).body("{}").header("event_type", "order.created"), 401),
        (signed(to(closed)).header("event_type", "order.deleted"), 403),
        (signed(to(closed)), 403),
        (to(open + 1000).body("{}"), 404),
    ];
    for (at, (request, status)) in cases.into_iter().enumerate() {
        let answer = send(request).await;
        assert_eq!(answer.status, status, "case {at}: {answer:?}");
        problem(&answer, status);
    }
    let wrong = to(closed).body("{}").header("event_type", "order.created");
    problem(&send(wrong.header("X-Hub-Signature-256", format!("sha256={}", "0".repeat(64)))).await, 401);

    // A body at the limit is accepted, and is the only thing that arrives.
    let at_the_limit = over_the_limit[1..].replacen('x', "\"", 1);
    assert_eq!(at_the_limit.len(), 1024 * 1024);
    send(to(open).body(at_the_limit)).await.expect(202);
    assert_eq!(receiver.next().await.body.len(), 1024 * 1024);
    assert_eq!(receiver.unread().len(), 0);
    assert_eq!(app.get(&format!("/subscriptions/{closed}/logs")).await.expect(200), json!([]));
}

async fn an_unknown_id_or_path_is_a_404_problem(backend: Backend) {
    let app = App::start(backend).await;
    let paths = [
        "/subscriptions/7",
        "/subscriptions/99999999999999999999",
        "/subscriptions/seven",
        "/subscriptions/7/logs",
        "/subscriptions/7/changes",
        "/subscriptions/7/state",
        "/deliveries/0198c0de-0000-7000-8000-000000000000/explain",
        "/status/0198c0de-0000-7000-8000-000000000000",
        "/status/not-an-id",
        "/nothing/here",
    ];
    for path in paths {
        problem(&app.get(path).await, 404);
    }
    problem(&app.put("/subscriptions/7", json!({ "target_url": "http://127.0.0.1:9/" })).await, 404);
    problem(&app.patch("/subscriptions/7", json!({ "max_concurrency": 4 })).await, 404);
    for path in ["/subscriptions/7/disable", "/subscriptions/7/enable"] {
        problem(&app.post(path, json!({})).await, 404);
    }
    problem(&app.delete("/subscriptions/7").await, 404);
}

async fn a_wrong_method_says_which_are_allowed(backend: Backend) {
    let app = App::start(backend).await;
    for (method, path, allowed) in [
        (Method::DELETE, "/subscriptions", "POST"),
        (Method::POST, "/subscriptions/1", "PATCH"),
        (Method::GET, "/ingest/1", "POST"),
        (Method::POST, "/livez", "GET"),
    ] {
        let answer = send(app.request(method, path)).await;
        problem(&answer, 405);
        let allow = answer.headers["allow"].to_str().expect("text");
        assert!(allow.contains(allowed), "{path} allows {allow}");
    }
}

async fn a_private_target_is_refused_at_creation_and_again_at_the_attempt(backend: Backend) {
    let app = App::start(backend).await;
    let mut canary = Receiver::start([]).await;
    let id = app.subscribe(&canary.url()).await;
    let strict = app.stop().await.deny_private_targets().schedule("").start().await;
    let created = strict.post("/subscriptions", json!({ "target_url": canary.url() })).await;
    let refused = problem(&created, 400);
    assert_eq!(refused["errors"][0]["field"], "target_url");

    let delivery = strict.ingest(id, json!({})).await;
    let status = strict.status_when(&delivery, "failed").await;
    assert_eq!(status["attempts"][0]["http_status"], Value::Null);
    assert_eq!(canary.unread().len(), 0);
}
