//! A receiver that misbehaves holds up nobody but itself. The scenarios of the benchmark, scaled down: what they measure
//! in milliseconds is here whether it happens at all, while the bad ones still do what they do.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, Backend, Builder, send};
use crate::receiver::{PATIENCE, PIECE_BYTES, Receiver, Script};

/// Longer than any test: what hangs, hangs until the end.
const AGES: Duration = Duration::from_secs(300);
/// The service's bound of attempts under way, all subscriptions together.
const MAX_ATTEMPTS: usize = 2048;
/// The service's window of a subscription that says nothing.
const WINDOW: usize = 32;

async fn app() -> App {
    Builder::new(Backend::Sqlite).await.attempt_timeout(AGES).start().await
}

/// An event for this subscription arrives at its receiver, which gets no others.
async fn arrives(app: &App, subscription: i64, receiver: &mut Receiver) {
    let request = app.request(Method::POST, &format!("/ingest/{subscription}")).header("event_type", "well");
    let accepted = send(request.body("{}")).await.expect(202);
    assert_eq!(receiver.next().await.id(), accepted["delivery_id"]);
}

/// The subscription's live state, once it is so.
async fn state_when(app: &App, subscription: i64, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let state = app.get(&format!("/subscriptions/{subscription}/state")).await.expect(200);
        if is_so(&state) {
            return state;
        }
        assert!(tokio::time::Instant::now() < deadline, "not yet: {state}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_hang_hold_up_nobody_and_the_node_keeps_its_bound() {
    /// With a first window of eight each they want more than the half that is for all: some of theirs wait for a place.
    const HANGING: usize = 150;
    /// More than a subscription may have under way; all together, twice what the node may.
    const EVENTS: usize = WINDOW + 8;
    /// So many events have come through in a row without a new attempt at the hanging: there are no more.
    const QUIET: usize = 20;
    let app = app().await;
    let mut hanging = Receiver::always(Script::Hang).await;
    for n in 0..HANGING {
        app.subscribe_to(&format!("{}/{n}", hanging.url()), "hang").await;
    }
    let mut well = Receiver::start([]).await;
    let healthy = app.subscribe_to(&well.url(), "well").await;
    let mut events = Vec::new();
    for n in 0..EVENTS {
        let event = app.post("/events", json!({ "event_type": "hang", "payload": { "n": n } })).await.expect(202);
        events.push(event);
    }
    let (mut attempts, mut quiet) = (0, 0);
    while quiet < QUIET {
        arrives(&app, healthy, &mut well).await;
        let more = hanging.unread().len();
        attempts += more;
        quiet = if more == 0 { quiet + 1 } else { 0 };
    }
    assert!(attempts >= HANGING, "each has been tried: {attempts}");
    assert!(attempts < MAX_ATTEMPTS, "{attempts} attempts hang, and one place was needed by others");

    // And those that wait for a place say so, instead of being under way.
    for delivery in events.iter().flat_map(|event| event["deliveries"].as_array().expect("a list")) {
        let id = delivery["delivery_id"].as_str().expect("an id");
        if app.get(&format!("/status/{id}")).await.expect(200)["waits_for"] == "node" {
            let why = app.get(&format!("/deliveries/{id}/explain")).await.expect(200);
            assert!(why["explanation"].as_str().is_some_and(|said| said.contains("waits for a place")), "{why}");
            return;
        }
    }
    panic!("no delivery waits for a place, with {attempts} attempts under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_costs_no_attempts_and_no_retries() {
    const OPENS_AFTER: usize = 3;
    let app = app().await;
    let mut failing = Receiver::always(Script::Status(500)).await;
    let breaker = json!({ "consecutive_failures": OPENS_AFTER, "wait_ms": 300_000 });
    let settings = json!({ "max_concurrency": 1, "retry_schedule_s": [3600], "breaker": breaker });
    let subscription = app.subscribe_with(&failing.url(), settings).await;
    for n in 0..OPENS_AFTER {
        app.ingest(subscription, json!({ "n": n })).await;
    }
    state_when(&app, subscription, |state| state["breaker"] == "open").await;
    let mut waiting = Vec::new();
    for n in 0..20 {
        waiting.push(app.ingest(subscription, json!({ "n": n })).await);
    }
    let state = state_when(&app, subscription, |state| state["backlog"] == OPENS_AFTER + 20).await;
    assert_eq!((&state["breaker"], &state["in_flight"]), (&json!("open"), &json!(0)));
    assert_eq!(failing.unread().len(), OPENS_AFTER);
    for id in waiting {
        assert_eq!(app.status(&id).await["attempts"], json!([]), "what the receiver never saw uses up nothing");
        let explained = app.get(&format!("/deliveries/{id}/explain")).await.expect(200);
        assert!(explained.to_string().contains("breaker"), "{explained}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_comes_through_brings_the_backlog_after_it() {
    const EVENTS: usize = 60;
    let app = app().await;
    let mut back = Receiver::start([Script::Status(503), Script::Status(503)]).await;
    let breaker = json!({ "consecutive_failures": 1, "wait_ms": 100 });
    let settings = json!({ "max_concurrency": 1, "retry_schedule_s": [0, 0, 0], "breaker": breaker });
    let subscription = app.subscribe_with(&back.url(), settings).await;
    let mut accepted = Vec::new();
    for n in 0..EVENTS {
        accepted.push(app.ingest(subscription, json!({ "n": n })).await);
    }
    let mut received = Vec::new();
    while received.len() < EVENTS {
        let receipt = back.next().await;
        if matches!(receipt.script, Script::Status(200)) {
            received.push(receipt.id().to_owned());
        }
    }
    received.sort();
    assert_eq!(received, accepted, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backlog_answers_429_with_a_retry_after_and_the_others_are_accepted() {
    const LIMIT: usize = 5;
    /// The bound is exact once what waits has been counted; until then a little more may come in.
    const SLACK: usize = 100;
    let app = app().await;
    let hanging = Receiver::always(Script::Hang).await;
    let full = app.subscribe_with(&hanging.url(), json!({ "max_backlog": LIMIT })).await;
    let mut accepted = 0;
    let refused = loop {
        let answer = app.post(&format!("/ingest/{full}"), json!({})).await;
        if answer.status != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted <= LIMIT + SLACK, "{accepted} accepted");
    };
    assert!(accepted >= LIMIT, "{accepted} accepted");
    let retry_after = refused.headers.get("retry-after").and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(retry_after.parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{refused:?}");
    let problem = refused.expect(429);
    assert_eq!(problem["limit"], LIMIT, "{problem}");
    assert!(problem["backlog"].as_u64().is_some_and(|backlog| backlog >= LIMIT as u64), "{problem}");

    let mut well = Receiver::start([]).await;
    let healthy = app.subscribe(&well.url()).await;
    arrives(&app, healthy, &mut well).await;
    // Of an event for both, the healthy one gets its delivery, and the answer names the other.
    let published = app.post("/events", json!({ "event_type": "order.created", "payload": {} })).await.expect(202);
    assert_eq!((&published["matched"], &published["refused_count"]), (&json!(2), &json!(1)));
    well.next().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_drips_and_one_without_end_hold_up_nobody() {
    /// 64 MiB: many times what the kernel's own buffers take.
    const PIECES: u32 = 1024;
    let app = app().await;
    let mut dripping = Receiver::always(Script::Drip).await;
    let mut large = Receiver::start([Script::Large(PIECES)]).await;
    let (drips, pours) = (app.subscribe(&dripping.url()).await, app.subscribe(&large.url()).await);
    for n in 0..WINDOW + 8 {
        app.ingest(drips, json!({ "n": n })).await;
    }
    let held = dripping.next().await.id().to_owned();
    let poured = app.ingest(pours, json!({})).await;
    assert_eq!(large.next().await.id(), poured);
    let status = app.status_when(&poured, "delivered").await;
    let kept = status["attempts"][0]["response_body"].as_str().map_or(0, str::len);
    assert!((1..PIECE_BYTES).contains(&kept), "its start is kept: {kept} bytes");
    assert!(large.pieces_taken() < PIECES as usize / 2, "{} pieces were taken", large.pieces_taken());

    let mut well = Receiver::start([]).await;
    let healthy = app.subscribe(&well.url()).await;
    arrives(&app, healthy, &mut well).await;
    assert_eq!(app.status(&held).await["attempts"], json!([]), "it still drips");
}
