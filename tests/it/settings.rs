//! What a subscription's owner may decide and ask: settings, disabling and enabling, the actor at work, and why a
//! delivery waits.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, Backend, on_both_stores, send};
use crate::receiver::{Receiver, Script};

on_both_stores!(
    a_delivery_explains_itself_before_and_after_its_end,
    hookposts_own_event_types_are_nobodys_to_send,
    settings_are_shown_as_they_were_sent,
    a_patch_changes_what_it_names_and_nothing_else,
    patches_at_the_same_time_all_count,
    a_put_sets_back_what_it_does_not_name_and_enables,
    headers_and_the_method_are_sent_and_no_value_is_shown,
    being_disabled_and_enabled_is_kept_with_its_reason_and_done_once,
    a_disabled_subscription_keeps_what_waits_and_delivers_it_when_enabled,
    a_backlog_that_is_dropped_ends_as_failed,
    a_subscription_shows_its_actor_at_work,
    a_full_backlog_is_a_429_with_its_numbers,
    a_full_subscription_refuses_nothing_for_the_others,
);

/// A subscription with these fields besides its target; its path.
async fn subscribe(app: &App, receiver: &Receiver, mut fields: Value) -> (i64, String) {
    fields["target_url"] = json!(receiver.url());
    let id = app.post("/subscriptions", fields).await.expect(201)["id"].as_i64().expect("an id");
    (id, format!("/subscriptions/{id}"))
}

async fn explained(app: &App, delivery: &str) -> Value {
    app.get(&format!("/deliveries/{delivery}/explain")).await.expect(200)
}

fn sentence(explained: &Value) -> &str {
    explained["explanation"].as_str().expect("a sentence")
}

async fn a_delivery_explains_itself_before_and_after_its_end(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([Script::Status(500), Script::Status(410)]).await;
    let (id, _) = subscribe(&app, &receiver, json!({})).await;
    let retried = app.ingest(id, json!({})).await;
    let status = app.status_when(&retried, "retrying").await;
    assert_eq!(status["waits_for"], "retry");
    let why = explained(&app, &retried).await;
    assert_eq!((&why["state"], &why["waits_for"]["reason"]), (&json!("retrying"), &json!("retry")));
    assert_eq!(why["next_attempt_at"], status["next_attempt_at"]);
    assert!(sentence(&why).starts_with("Not delivered yet: attempt 2 is due at"), "{why}");

    let failed = app.ingest(id, json!({})).await;
    assert_eq!(app.status_when(&failed, "failed").await["waits_for"], Value::Null);
    let why = explained(&app, &failed).await;
    assert!(sentence(&why).starts_with("Failed at") && why["last_http_status"] == 410, "{why}");

    let (healthy, path) = subscribe(&app, &receiver, json!({})).await;
    let delivered = app.ingest(healthy, json!({})).await;
    app.status_when(&delivered, "delivered").await;
    let why = explained(&app, &delivered).await;
    assert!(sentence(&why).ends_with("with attempt 1: 200."), "{why}");
    assert_eq!((&why["waits_for"], &why["actor"]), (&Value::Null, &Value::Null));

    app.delete(&path).await.expect(204);
    app.delete(&format!("/subscriptions/{id}")).await.expect(204);
    assert!(sentence(&explained(&app, &retried).await).starts_with("Cancelled: its subscription was deleted"));
}

async fn hookposts_own_event_types_are_nobodys_to_send(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let (id, _) = subscribe(&app, &receiver, json!({ "event_type": ["hookpost.*", "*"] })).await;
    let ingested = app.request(Method::POST, &format!("/ingest/{id}")).header("event_type", "hookpost.x").body("{}");
    let published = json!({ "event_type": "hookpost.subscription.disabled", "payload": {} });
    for refused in [send(ingested).await, app.post("/events", published).await] {
        let problem = refused.expect(400);
        assert!(problem["errors"][0]["expected"].as_str().is_some_and(|text| text.contains("reserved")), "{problem}");
    }
    assert_eq!(receiver.unread().len(), 0);
}

fn settings() -> Value {
    json!({
        "max_concurrency": 4,
        "latency_target_ms": 250,
        "rate_limit": { "per_second": 100 },
        "retry_schedule_s": [0, 10],
        "attempt_timeout_ms": 2000,
        "order": "fifo",
        "max_backlog": 5000,
        "disable_after_s": 3600,
        "breaker": { "consecutive_failures": 5 },
        "method": "PUT",
    })
}

/// The settings of a subscription as it is shown.
async fn shown(app: &App, path: &str) -> Value {
    let mut shown = app.get(path).await.expect(200);
    let others = ["id", "tenant", "target_url", "event_type", "signed", "ed25519", "disabled", "failing_since"];
    for other in others.into_iter().chain(["created_at", "updated_at"]) {
        assert!(shown.as_object_mut().expect("an object").remove(other).is_some(), "{other}");
    }
    shown
}

async fn settings_are_shown_as_they_were_sent(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (_, path) = subscribe(&app, &receiver, settings()).await;
    assert_eq!(shown(&app, &path).await, settings());
    let app = app.stop().await.start().await;
    assert_eq!(shown(&app, &path).await, settings());
    let (_, plain) = subscribe(&app, &receiver, json!({})).await;
    assert_eq!(shown(&app, &plain).await, json!({}), "what is not set is at its default");
}

async fn a_patch_changes_what_it_names_and_nothing_else(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let mut fields = settings();
    fields["secret"] = json!("mysecret");
    let (_, path) = subscribe(&app, &receiver, fields).await;
    app.post(&format!("{path}/disable"), json!({})).await.expect(200);
    let patched = app.patch(&path, json!({ "max_concurrency": 9, "order": null, "event_type": ["a.*"] })).await;
    let patched = patched.expect(200);
    let mut expected = settings();
    expected["max_concurrency"] = json!(9);
    expected.as_object_mut().expect("an object").remove("order");
    assert_eq!(shown(&app, &path).await, expected);
    assert_eq!((&patched["event_type"], &patched["signed"]), (&json!(["a.*"]), &json!(true)));
    assert_eq!((&patched["disabled"], &patched["target_url"]), (&json!("by_hand"), &json!(receiver.url())));

    let before = app.get(&path).await.expect(200);
    app.patch(&path, json!({ "max_concurrency": 3, "max_backlog": 0 })).await.expect(400);
    assert_eq!(app.get(&path).await.expect(200), before);
}

async fn patches_at_the_same_time_all_count(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (_, path) = subscribe(&app, &receiver, json!({})).await;
    let patches = [
        json!({ "max_concurrency": 4 }),
        json!({ "latency_target_ms": 250 }),
        json!({ "attempt_timeout_ms": 2000 }),
        json!({ "max_backlog": 5000 }),
    ];
    let answers = patches.iter().map(|patch| app.patch(&path, patch.clone()));
    for answer in futures_util::future::join_all(answers).await {
        answer.expect(200);
    }
    let all =
        json!({ "max_concurrency": 4, "latency_target_ms": 250, "attempt_timeout_ms": 2000, "max_backlog": 5000 });
    assert_eq!(shown(&app, &path).await, all);
}

async fn a_put_sets_back_what_it_does_not_name_and_enables(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (_, path) = subscribe(&app, &receiver, settings()).await;
    app.post(&format!("{path}/disable"), json!({})).await.expect(200);
    let put = app.put(&path, json!({ "max_backlog": 10 })).await.expect(200);
    assert_eq!((&put["disabled"], &put["target_url"]), (&Value::Null, &json!(receiver.url())));
    assert_eq!(shown(&app, &path).await, json!({ "max_backlog": 10 }));
}

async fn headers_and_the_method_are_sent_and_no_value_is_shown(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    let headers = json!({ "headers": { "Authorization": "Bearer hunter2", "X-Team": "billing" }, "method": "PUT" });
    let (id, path) = subscribe(&app, &receiver, headers).await;
    app.ingest(id, json!({})).await;
    let receipt = receiver.next().await;
    assert_eq!((receipt.header("authorization"), receipt.header("x-team")), ("Bearer hunter2", "billing"));
    let answer = app.get(&path).await;
    assert!(!answer.text.contains("hunter2") && !answer.text.contains("billing"), "{answer:?}");
    assert_eq!(answer.json()["header_names"], json!(["authorization", "x-team"]));
    let refused = app.put(&path, json!({ "header_names": ["authorization"] })).await.expect(400);
    assert_eq!(refused["errors"][0]["field"], "header_names");
    app.patch(&path, json!({ "headers": null })).await.expect(200);
    app.ingest(id, json!({})).await;
    assert_eq!(receiver.next().await.header("authorization"), "");
}

async fn being_disabled_and_enabled_is_kept_with_its_reason_and_done_once(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([]).await;
    let (_, path) = subscribe(&app, &receiver, json!({})).await;
    assert_eq!(app.get(&format!("{path}/changes")).await.expect(200), json!([]));
    for reason in ["moving", "again"] {
        let disabled = app.post(&format!("{path}/disable"), json!({ "reason": reason })).await.expect(200);
        assert_eq!(disabled["disabled"], "by_hand");
    }
    for _ in 0..2 {
        let enabled = send(app.request(Method::POST, &format!("{path}/enable"))).await.expect(200);
        assert_eq!(enabled["disabled"], Value::Null);
    }
    let first = app.get(&format!("{path}/changes?limit=1")).await;
    let next = first.headers["link"].to_str().expect("text");
    let next = next.trim_start_matches('<').split('>').next().expect("a link").to_owned();
    let (enabled, disabled) = (first.expect(200), app.get(&next).await.expect(200));
    assert_eq!((&enabled[0]["state"], &enabled[0]["reason"]), (&json!("enabled"), &Value::Null));
    assert_eq!((&disabled[0]["state"], &disabled[0]["reason"]), (&json!("disabled"), &json!("by_hand")));
    assert_eq!((&disabled[0]["detail"], disabled.as_array().map(Vec::len)), (&json!("moving"), Some(1)));
}

/// A subscription that is disabled while one event is at its receiver and another waits.
async fn disabled_with_a_backlog(app: &App, receiver: &mut Receiver) -> (String, String) {
    let (id, path) = subscribe(app, receiver, json!({ "max_concurrency": 1 })).await;
    let (first, second) = (app.ingest(id, json!(1)).await, app.ingest(id, json!(2)).await);
    assert_eq!(receiver.next().await.id(), first);
    app.post(&format!("{path}/disable"), json!({ "reason": "moving" })).await.expect(200);
    let refused = app.post(&format!("/ingest/{id}"), json!(3)).await.expect(409);
    assert_eq!(refused["type"], "/problems/subscription-disabled");
    receiver.tell();
    app.status_when(&first, "delivered").await;
    (path, second)
}

async fn a_disabled_subscription_keeps_what_waits_and_delivers_it_when_enabled(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([Script::OnceTold]).await;
    let (path, waiting) = disabled_with_a_backlog(&app, &mut receiver).await;
    assert_eq!(app.status(&waiting).await["waits_for"], "disabled");
    let why = explained(&app, &waiting).await;
    assert!(sentence(&why).contains("disabled by hand") && why["disabled"] == "by_hand", "{why}");
    assert_eq!(receiver.unread().len(), 0);
    app.post(&format!("{path}/enable"), json!({ "backlog": "deliver" })).await.expect(200);
    assert_eq!(receiver.next().await.id(), waiting);
}

async fn a_backlog_that_is_dropped_ends_as_failed(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([Script::OnceTold]).await;
    let (path, waiting) = disabled_with_a_backlog(&app, &mut receiver).await;
    app.post(&format!("{path}/enable"), json!({ "backlog": "drop" })).await.expect(200);
    app.status_when(&waiting, "failed").await;
    assert_eq!(receiver.unread().len(), 0, "it was given up without an attempt");
    let id = path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an id");
    let later = app.ingest(id, json!(4)).await;
    assert_eq!(receiver.next().await.id(), later, "what comes after it is delivered");
}

async fn a_subscription_shows_its_actor_at_work(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([Script::OnceTold]).await;
    let (id, path) =
        subscribe(&app, &receiver, json!({ "max_concurrency": 1, "rate_limit": { "per_second": 1000 } })).await;
    let passive = app.get(&format!("{path}/state")).await.expect(200);
    assert_eq!(passive["active"], false);
    assert!(passive["detail"].is_string() && passive.get("window").is_none(), "{passive}");

    let (first, second) = (app.ingest(id, json!(1)).await, app.ingest(id, json!(2)).await);
    assert_eq!(receiver.next().await.id(), first);
    let state = app.get(&format!("{path}/state")).await.expect(200);
    assert_eq!((&state["active"], &state["breaker"]), (&json!(true), &json!("closed")));
    assert_eq!((&state["window"], &state["in_flight"], &state["ready"]), (&json!(1), &json!(1), &json!(1)));
    assert!(state["backlog"].as_u64() >= Some(1) && state["tokens"].is_u64(), "{state}");
    let why = explained(&app, &first).await;
    assert_eq!((&why["attempt_under_way"], &why["waits_for"]), (&json!(1), &Value::Null));
    let why = explained(&app, &second).await;
    assert_eq!(why["waits_for"], json!({ "reason": "window", "window": 1 }));
    assert_eq!(why["actor"]["in_flight"], 1);
    receiver.tell();
    app.status_when(&second, "delivered").await;
}

/// A subscription at its limit: events are accepted until then.
async fn full(app: &App, receiver: &Receiver) -> (i64, Value) {
    const LIMIT: usize = 3;
    /// Until its actor has started nobody knows how many there are.
    const MOST: usize = 100;
    let (id, _) = subscribe(app, receiver, json!({ "max_backlog": LIMIT, "max_concurrency": 1 })).await;
    for accepted in 0..MOST {
        let answer = app.post(&format!("/ingest/{id}"), json!({})).await;
        if answer.status != 202 {
            assert!(accepted >= LIMIT - 1, "refused after {accepted}");
            let wait = answer.headers["retry-after"].to_str().ok().and_then(|wait| wait.parse::<u64>().ok());
            assert!(wait >= Some(1), "{answer:?}");
            return (id, answer.expect(429));
        }
    }
    panic!("a backlog of {LIMIT} took {MOST} events");
}

async fn a_full_backlog_is_a_429_with_its_numbers(backend: Backend) {
    let app = App::start(backend).await;
    let receiver = Receiver::start([Script::OnceTold]).await;
    let (id, problem) = full(&app, &receiver).await;
    assert_eq!((&problem["type"], &problem["limit"]), (&json!("/problems/backlog-full"), &json!(3)));
    assert!(problem["backlog"].as_u64() >= Some(3), "{problem}");
    receiver.tell();
    // The limit is a setting like any other.
    app.patch(&format!("/subscriptions/{id}"), json!({ "max_backlog": 1000 })).await.expect(200);
    app.ingest(id, json!({})).await;
}

async fn a_full_subscription_refuses_nothing_for_the_others(backend: Backend) {
    let app = App::start(backend).await;
    let stuck = Receiver::start([Script::Hang]).await;
    let (full, _) = full(&app, &stuck).await;
    let mut healthy = Receiver::start([]).await;
    let (other, _) = subscribe(&app, &healthy, json!({})).await;
    let published = app.post("/events", json!({ "event_type": "a", "payload": 1 })).await.expect(202);
    assert_eq!((&published["matched"], &published["refused_count"]), (&json!(2), &json!(1)));
    let deliveries = published["deliveries"].as_array().expect("deliveries");
    let of = |id: i64| deliveries.iter().find(|delivery| delivery["subscription_id"] == id).expect("its delivery");
    assert_eq!((&of(full)["refused"], &of(full)["state"]), (&json!("backlog_full"), &json!("failed")));
    assert!(of(other).get("refused").is_none());
    assert_eq!(healthy.next().await.id(), of(other)["delivery_id"]);
    let refused = of(full)["delivery_id"].as_str().expect("an id");
    app.status_when(refused, "failed").await;
    assert!(sentence(&explained(&app, refused).await).starts_with("Failed at"));
}
