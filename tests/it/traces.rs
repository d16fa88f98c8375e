//! The trace of an event goes on to its receivers, also after a restart; with a collector, one delivery is one trace.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;

use crate::app::{App, Backend, Builder, on_both_stores, send};
use crate::collector::{Collector, attribute};
use crate::receiver::{PATIENCE, Receipt, Receiver, Script};

on_both_stores!(
    each_attempt_continues_the_trace_under_a_span_of_its_own,
    every_delivery_of_an_event_continues_its_trace,
    one_delivery_is_one_trace_from_its_ingest_to_its_last_attempt,
);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const STATE: &str = "vendor=t61rcWkgMzE,other=1";

fn traceparent() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

/// Sends an event with these headers.
async fn post(app: &App, path: &str, headers: &[(&str, &str)], body: serde_json::Value) {
    let request = app.request(Method::POST, path).header("event_type", "order.created").body(body.to_string());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    send(request).await.expect(202);
}

/// The span of an attempt that belongs to the trace.
fn span_of(receipt: &Receipt) -> String {
    let parts: Vec<_> = receipt.header("traceparent").split('-').collect();
    assert_eq!((parts.len(), parts[0], parts[1], parts[3]), (4, "00", TRACE, "01"), "{receipt:?}");
    assert_eq!(receipt.header("tracestate"), STATE);
    parts[2].to_owned()
}

async fn each_attempt_continues_the_trace_under_a_span_of_its_own(backend: Backend) {
    let app = Builder::new(backend).await.schedule("1s,1s").start().await;
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(500)]).await;
    let id = app.subscribe(&receiver.url()).await;
    let headers = [("traceparent", traceparent()), ("tracestate", STATE.to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    post(&app, &format!("/ingest/{id}"), &headers, json!({})).await;
    let first = span_of(&receiver.next().await);

    // The others from what the store has kept.
    let app = app.stop().await.start().await;
    let spans = BTreeSet::from([first, span_of(&receiver.next().await), span_of(&receiver.next().await)]);
    assert_eq!(spans.len(), 3, "each has a span of its own");
    assert!(!spans.contains(CALLER));
    app.stop().await;
}

async fn every_delivery_of_an_event_continues_its_trace(backend: Backend) {
    let app = Builder::new(backend).await.schedule("1s").start().await;
    let mut receiver = Receiver::start([Script::Status(500), Script::Status(500)]).await;
    for _ in 0..2 {
        app.subscribe(&receiver.url()).await;
    }
    let headers = [("traceparent", traceparent()), ("tracestate", STATE.to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    post(&app, "/events", &headers, json!({ "event_type": "order.created", "payload": {} })).await;
    let mut spans = BTreeSet::from([span_of(&receiver.next().await), span_of(&receiver.next().await)]);
    let app = app.stop().await.start().await;
    spans.extend([span_of(&receiver.next().await), span_of(&receiver.next().await)]);
    assert_eq!(spans.len(), 4);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trace_is_invented_and_a_wrong_one_counts_as_none() {
    let app = App::start(Backend::Sqlite).await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let wrong = format!("00-{TRACE}-{CALLER}");
    for headers in [&[][..], &[("traceparent", wrong.as_str())], &[("tracestate", STATE)]] {
        post(&app, &format!("/ingest/{id}"), headers, json!({})).await;
        let receipt = receiver.next().await;
        assert!(
            receipt.headers.get("traceparent").is_none() && receipt.headers.get("tracestate").is_none(),
            "{receipt:?}"
        );
    }
}

async fn one_delivery_is_one_trace_from_its_ingest_to_its_last_attempt(backend: Backend) {
    const CANARY: &str = "a-canary-that-must-not-sing";
    let mut collector = Collector::start().await;
    let endpoint = collector.endpoint.parse::<url::Url>().expect("a URL").to_string();
    let exporting = hookpost::traces::Endpoint::parse(&endpoint).expect("an endpoint");
    let builder = Builder::new(backend).await.schedule("1s").configure(|config| config.otlp_endpoint = Some(exporting));
    let app = builder.start().await;
    let mut receiver = Receiver::start([Script::Status(500)]).await;
    let target = format!("{}?token={CANARY}", receiver.url());
    let id = app.subscribe(&target).await;
    app.patch(&format!("/subscriptions/{id}"), json!({ "headers": { "x-api-key": CANARY } })).await.expect(200);
    post(&app, &format!("/ingest/{id}"), &[], json!({ "payload": CANARY })).await;
    let delivery = receiver.next().await.id().to_owned();
    collector.wait_for("attempt", 1).await;
    let app = app.stop().await.start().await;
    let last = receiver.next().await;
    app.status_when(&delivery, "delivered").await;
    app.stop().await;
    collector.wait_for("attempt", 2).await;

    let (ingest, commit, attempts) = (collector.named("ingest"), collector.named("commit"), collector.named("attempt"));
    assert_eq!((ingest.len(), commit.len(), attempts.len()), (1, 1, 2));
    let (ingest, commit) = (ingest[0], commit[0]);
    assert!(ingest.parent_span_id.is_empty() && ingest.trace_id.len() == 16 && ingest.span_id.len() == 8);
    for below in [commit, attempts[0], attempts[1]] {
        assert_eq!((&below.trace_id, &below.parent_span_id), (&ingest.trace_id, &ingest.span_id), "{below:?}");
        assert!(below.start_time_unix_nano <= below.end_time_unix_nano, "{below:?}");
    }
    assert!(
        ingest.start_time_unix_nano <= commit.start_time_unix_nano
            && commit.end_time_unix_nano <= ingest.end_time_unix_nano
    );
    for (span, number, status) in [(attempts[0], "1", "500"), (attempts[1], "2", "200")] {
        assert_eq!(attribute(span, "hookpost.delivery_id"), Some(delivery.clone()));
        assert_eq!(attribute(span, "hookpost.subscription_id"), Some(id.to_string()));
        assert_eq!(attribute(span, "hookpost.event_type").as_deref(), Some("order.created"));
        assert_eq!(attribute(span, "hookpost.attempt").as_deref(), Some(number));
        assert_eq!(attribute(span, "http.response.status_code").as_deref(), Some(status));
    }
    assert_eq!(attribute(attempts[0], "error.type").as_deref(), Some("server_error"));
    assert!(attempts[0].status.as_ref().is_some_and(|status| status.code == 2) && attempts[1].status.is_none());
    let sent = format!("00-{}-{}-03", hex::encode(&attempts[1].trace_id), hex::encode(&attempts[1].span_id));
    assert_eq!(last.header("traceparent"), sent, "the receiver can go on from the span that the collector knows");
    let canary = collector.raw.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
    assert!(!canary, "a span holds no payload, URL or header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_span_is_the_parent_of_ours_and_what_it_does_not_record_we_do_not_export() {
    let mut collector = Collector::start().await;
    let endpoint = hookpost::traces::Endpoint::parse(&collector.endpoint).expect("an endpoint");
    let app =
        Builder::new(Backend::Sqlite).await.configure(|config| config.otlp_endpoint = Some(endpoint)).start().await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    let unsampled = traceparent().replace("-01", "-00");
    for parent in [&unsampled, &traceparent()] {
        post(&app, &format!("/ingest/{id}"), &[("traceparent", parent), ("tracestate", STATE)], json!({})).await;
        let receipt = receiver.next().await;
        assert!(receipt.header("traceparent").starts_with(&format!("00-{TRACE}-")), "{receipt:?}");
    }
    app.stop().await;
    collector.wait_for("attempt", 1).await;
    assert_eq!(collector.spans.len(), 3, "{:?}", collector.spans);
    let ingest = collector.named("ingest")[0];
    assert_eq!((hex::encode(&ingest.parent_span_id).as_str(), ingest.trace_state.as_str()), (CALLER, STATE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_no_delivery_up() {
    let gone = Receiver::reserve().await.local_addr().expect("an address");
    let endpoint = hookpost::traces::Endpoint::parse(&format!("http://{gone}")).expect("an endpoint");
    let app =
        Builder::new(Backend::Sqlite).await.configure(|config| config.otlp_endpoint = Some(endpoint)).start().await;
    let mut receiver = Receiver::start([]).await;
    let id = app.subscribe(&receiver.url()).await;
    for _ in 0..10 {
        post(&app, &format!("/ingest/{id}"), &[], json!({})).await;
        receiver.next().await;
    }
    let dropped =
        async { while app.get("/metrics").await.text.lines().any(|line| line == "hookpost_spans_dropped_total 0") {} };
    tokio::time::timeout(PATIENCE, dropped).await.expect("they are counted");
    app.stop().await;
}
