//! The walks of docs/operations.md, as an operator takes them: a real process, something goes wrong, and `/metrics` and the log
//! alone tell what it is, whose it is, and when it is over.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Backend, Home, client, send, test_url};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::receiver::{PATIENCE, Receiver, Script};

/// The figures of a process by series.
type Figures = BTreeMap<String, f64>;

async fn figures(process: &Process) -> Figures {
    let page = send(client().get(format!("{}/metrics", process.base))).await.text;
    let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
}

/// The figures once they are like this.
async fn shown(process: &Process, what: &str, wanted: impl Fn(&Figures) -> bool) -> Figures {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let figures = figures(process).await;
        if wanted(&figures) {
            return figures;
        }
        assert!(tokio::time::Instant::now() < deadline, "not so: {what}: {figures:#?} {:#?}", process.log());
        tokio::task::yield_now().await;
    }
}

fn of(figures: &Figures, series: &str) -> f64 {
    figures.get(series).copied().unwrap_or_default()
}

/// The line of the log that begins with these words, now or later.
async fn said(process: &Process, words: &str) -> Value {
    let begins = |line: &str| message(line).is_some_and(|(_, message)| message.starts_with(words));
    serde_json::from_str(&process.logged(begins).await).expect("JSON")
}

/// How often.
fn said_so_far(process: &Process, words: &str) -> usize {
    let begins = |line: &&String| message(line).is_some_and(|(_, message)| message.starts_with(words));
    process.log().iter().filter(begins).count()
}

fn message(line: &str) -> Option<(Value, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let message = line["message"].as_str()?.to_owned();
    Some((line, message))
}

async fn subscribe(process: &Process, url: &str, settings: Value) -> i64 {
    let mut body = settings;
    body["target_url"] = url.into();
    process.post("/subscriptions", body).await["id"].as_i64().expect("an id")
}

/// Ingests an event of a type; the status of the answer.
async fn ingest(process: &Process, subscription: i64) -> u16 {
    let request = client().request(Method::POST, format!("{}/ingest/{subscription}", process.base));
    send(request.header("event_type", "order.created").body("{}")).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_stopped() {
    let home = Home::new(Backend::Postgres).await;
    let (wire, url) = Proxy::before(&home.database_url().expect("a URL")).await;
    let process = Process::start_with(&home, &[("DATABASE_URL", &url)]).await;
    let mut receiver = Receiver::start([]).await;
    let id = subscribe(&process, &receiver.url(), json!({})).await;
    assert_eq!(ingest(&process, id).await, 202);
    receiver.next().await;
    shown(&process, "all is well", |f| of(f, "hookpost_store_up") == 1.0 && of(f, "hookpost_ready") == 1.0).await;

    wire.cut();
    shown(&process, "the store is down", |f| of(f, "hookpost_store_up") == 0.0 && of(f, "hookpost_ready") == 0.0).await;
    said(&process, "the store does not answer").await;
    assert_eq!(ingest(&process, id).await, 503);
    said(&process, "a commit failed").await;
    let refused = "hookpost_events_refused_total{reason=\"store-unavailable\"}";
    shown(&process, "events are refused", |f| of(f, refused) >= 1.0).await;
    let ready = send(client().get(format!("{}/readyz", process.base))).await;
    assert!(ready.status == 503 && ready.text.contains("the store is unavailable"), "{ready:?}");
    // It is asked every ten seconds, and answers nothing.
    shown(&process, "what waits there is not known", |f| of(f, "hookpost_census_age_seconds") > 12.0).await;

    wire.mend();
    shown(&process, "it is back", |f| of(f, "hookpost_store_up") == 1.0 && of(f, "hookpost_ready") == 1.0).await;
    said(&process, "the store answers again").await;
    said(&process, "the store is back").await;
    assert_eq!(ingest(&process, id).await, 202);
    receiver.next().await;
    assert_eq!(said_so_far(&process, "the store does not answer"), 1, "a failure is logged once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_stopped() {
    let (wire, url) = Proxy::before(&test_url("TEST_REDIS_URL")).await;
    let home = Home::new(Backend::Sqlite).await;
    let process = Process::start_with(&home, &[("REDIS_URL", &url)]).await;
    let mut receiver = Receiver::start([]).await;
    let id = subscribe(&process, &receiver.url(), json!({})).await;
    shown(&process, "Redis answers", |f| of(f, "hookpost_redis_up") == 1.0).await;

    wire.cut();
    shown(&process, "Redis is down", |f| of(f, "hookpost_redis_up") == 0.0 && of(f, "hookpost_ready") == 1.0).await;
    said(&process, "Redis is unreachable").await;
    assert_eq!(ingest(&process, id).await, 202);
    receiver.next().await;
    let ready = send(client().get(format!("{}/readyz", process.base))).await.expect(200);
    let cache = ready["checks"].as_array().and_then(|checks| checks.iter().find(|check| check["name"] == "cache"));
    assert_eq!(cache.expect("a check")["status"], "degraded", "{ready}");

    let connected = said_so_far(&process, "Redis is connected");
    wire.mend();
    shown(&process, "Redis is back", |f| of(f, "hookpost_redis_up") == 1.0).await;
    assert_eq!(said_so_far(&process, "Redis is connected"), connected + 1);
    assert_eq!(said_so_far(&process, "Redis is unreachable"), 1, "a failure is logged once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_is_dead() {
    const EVENTS: usize = 12;
    let home = Home::new(Backend::Sqlite).await;
    let process = Process::start(&home).await;
    let mut healthy = Receiver::start([]).await;
    let well = subscribe(&process, &healthy.url(), json!({})).await;
    let addr = Receiver::reserve().await.local_addr().expect("an address");
    let breaker = json!({ "breaker": { "wait_ms": 1000 } });
    let dead = subscribe(&process, &format!("http://{addr}/hook"), breaker).await;
    for _ in 0..EVENTS {
        assert_eq!((ingest(&process, dead).await, ingest(&process, well).await), (202, 202));
        healthy.next().await;
    }

    let open =
        |f: &Figures| of(f, "hookpost_breakers{state=\"open\"}") + of(f, "hookpost_breakers{state=\"half_open\"}");
    let failed = |f: &Figures| of(f, "hookpost_attempts_total{class=\"connect\"}");
    shown(&process, "a breaker is open", |f| open(f) == 1.0 && failed(f) >= 10.0).await;
    let opened = said(&process, "the breaker opened").await;
    assert_eq!(opened["subscription_id"], dead, "the log says whose receiver it is");
    assert!(opened["error"].as_str().is_some_and(|error| error.contains("connect")), "{opened}");
    shown(&process, "its events wait", |f| of(f, "hookpost_retries_waiting") >= 1.0).await;
    let figures = shown(&process, "the others are well", |f| {
        of(f, "hookpost_deliveries_total{state=\"delivered\"}") == EVENTS as f64
    })
    .await;
    assert!(of(&figures, "hookpost_oldest_due_age_seconds") >= 0.0 && of(&figures, "hookpost_store_up") == 1.0);

    let revived = Receiver::start_at(addr, []).await;
    said(&process, "the breaker closed").await;
    shown(&process, "no breaker is open", |f| open(f) == 0.0).await;
    drop(revived);
    every_line_about_a_delivery_names_it(&process);
}

/// In the log of a process at `debug`.
fn every_line_about_a_delivery_names_it(process: &Process) {
    let lines: Vec<_> = process.log().iter().filter_map(|line| message(line)).map(|(line, _)| line).collect();
    let about: Vec<_> = lines.iter().filter(|line| line.get("delivery_id").is_some()).collect();
    for line in &about {
        assert!(line["attempt"].is_u64() && line["subscription_id"].is_u64(), "{line}");
        assert_eq!(line["event_type"], "order.created", "{line}");
    }
    let messages: Vec<_> = about.iter().filter_map(|line| line["message"].as_str()).collect();
    for message in ["accepted", "delivered", "attempt failed; it will be retried"] {
        assert!(messages.contains(&message), "{message:?} is not among {messages:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_full() {
    const LIMIT: u64 = 3;
    let process = Process::start(&Home::new(Backend::Sqlite).await).await;
    let mut receiver = Receiver::always(Script::OnceTold).await;
    let id = subscribe(&process, &receiver.url(), json!({ "max_backlog": LIMIT })).await;
    let full = async { while ingest(&process, id).await != 429 {} };
    tokio::time::timeout(PATIENCE, full).await.expect("it fills up");

    let refused = "hookpost_events_refused_total{reason=\"backlog-full\"}";
    let is_full = |f: &Figures| of(f, "hookpost_backlogs_full") == 1.0 && of(f, refused) >= 1.0;
    let figures = shown(&process, "a backlog is full", is_full).await;
    assert_eq!(of(&figures, "hookpost_backlog"), LIMIT as f64);
    let line = said(&process, "the backlog is full").await;
    assert_eq!((&line["subscription_id"], &line["limit"]), (&json!(id), &json!(LIMIT)));
    assert_eq!(ingest(&process, id).await, 429);
    assert_eq!(said_so_far(&process, "the backlog is full"), 1, "a failure is logged once");

    for _ in 0..LIMIT {
        receiver.next().await;
        receiver.tell();
    }
    shown(&process, "there is room", |f| of(f, "hookpost_backlogs_full") == 0.0).await;
    said(&process, "the backlog has room again").await;
    assert_eq!(ingest(&process, id).await, 202);
}
