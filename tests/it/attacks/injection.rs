//! Words that want to be more than words: header lines, log lines, markup.

use reqwest::Method;
use serde_json::{Value, json};

use super::raw::Raw;
use crate::app::{Answer, App, Backend, Builder, Home, client, on_both_stores, send};
use crate::process::Process;
use crate::receiver::Receiver;

on_both_stores!(
    headers_that_frame_vouch_or_inject_are_refused_at_creation,
    stored_markup_is_inert_wherever_it_is_shown,
    the_log_has_one_json_object_a_line_whatever_is_put_into_it,
);

const MARKUP: &str = "<script>alert('hunter2')</script><img src=x onerror=\"alert(1)\">";

async fn headers_that_frame_vouch_or_inject_are_refused_at_creation(backend: Backend) {
    let app = App::start(backend).await;
    let mut receiver = Receiver::start([]).await;
    for (name, value) in [
        ("Host", "inside.example"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive"),
        ("Keep-Alive", "timeout=9"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Expect", "100-continue"),
        ("Content-Encoding", "gzip"),
        ("Proxy-Authorization", "Basic x"),
        ("webhook-id", "1"),
        ("Webhook-Timestamp", "1"),
        ("WEBHOOK-SIGNATURE", "v1,x"),
        ("webhook-anything", "1"),
        ("X-Hub-Signature", "sha1=0"),
        ("X-Hub-Signature-256", "sha256=0"),
        ("X-Hub-Signature-256-Previous", "sha256=0"),
        ("X-Hookpost-Attempt", "1"),
        ("X-Event-Type", "a"),
        ("x-a", "1\r\nHost: inside.example"),
        ("x-a", "1\nx-b: 2"),
        ("x-a", "1\r\n\r\n{}"),
        ("x-a", "\0"),
        ("x-a", "\u{10a}x-b: 2"),
        ("x-a\r\nx-b", "1"),
        ("x-a: 1\r\nx-b", "1"),
        ("x a", "1"),
        ("", "1"),
    ] {
        let body = json!({ "target_url": receiver.url(), "headers": { name: value } });
        let problem = app.post("/subscriptions", body).await.expect(400);
        let field = problem["errors"][0]["field"].as_str().expect("a field");
        assert!(field.starts_with("headers."), "{name:?}: {problem}");
    }
    assert_eq!(app.get("/subscriptions").await.expect(200), json!([]));

    // What is accepted arrives as one line, and Hookpost's own are its own.
    let accepted = json!({ "X-Api-Key": "Host: inside.example" });
    let id = app.subscribe_with(&receiver.url(), json!({ "headers": accepted })).await;
    let delivery = app.ingest(id, json!({})).await;
    let receipt = receiver.next().await;
    assert_eq!((receipt.id(), receipt.header("x-api-key")), (delivery.as_str(), "Host: inside.example"));
    assert_eq!(receipt.header("host"), receiver.addr.to_string());
    assert_eq!(receipt.headers.get_all("host").iter().count(), 1);
}

/// A browser would not run anything in it.
#[track_caller]
fn assert_inert(path: &str, answer: &Answer) {
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!(header("x-content-type-options"), "nosniff", "{path}: {answer:?}");
    let content_type = header("content-type");
    if content_type.starts_with("text/html") {
        let policy = header("content-security-policy");
        let own_pages = policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'");
        assert!(own_pages && !policy.contains("script-src 'unsafe"), "{path}: {policy}");
        assert!(!answer.text.contains("alert("), "{path}: {}", answer.text);
    } else {
        let plain = ["application/json", "application/problem+json", "text/plain", "application/openmetrics-text"];
        assert!(plain.iter().any(|kind| content_type.starts_with(kind)), "{path}: {content_type}");
    }
}

async fn stored_markup_is_inert_wherever_it_is_shown(backend: Backend) {
    let app = Builder::new(backend).await.schedule("").start().await;
    let answer = format!("HTTP/1.1 500 {MARKUP}\r\nx: {MARKUP}\r\ncontent-length: {}\r\n\r\n{MARKUP}", MARKUP.len());
    let receiver = Raw::flooding(answer, Vec::new()).await;
    let target = format!("{}?x=<script>alert(1)</script>", receiver.url());
    let body = json!({ "target_url": target, "secret": MARKUP, "tenant": "a", "headers": { "x-a": MARKUP } });
    let created = app.post("/subscriptions", body).await.expect(201);
    let id = created["id"].as_i64().expect("an id");
    let event = json!({ "event_type": "a", "tenant": "a", "payload": { MARKUP: MARKUP } });
    let event = app.post("/events", event).await.expect(202);
    let (event, delivery) =
        (event["event_id"].as_str().expect("an id"), event["deliveries"][0]["delivery_id"].as_str());
    let delivery = delivery.expect("an id");
    let status = app.status_when(delivery, "failed").await;
    assert_eq!(status["attempts"][0]["response_body"], MARKUP, "it is kept as it came");
    for path in [
        "/".to_owned(),
        "/docs/".to_owned(),
        "/docs/%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        "/problems/busy".to_owned(),
        "/problems/%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned(),
        "/%3Cscript%3Ealert(1)%3C/script%3E?x=<script>alert(1)</script>".to_owned(),
        "/openapi.json".to_owned(),
        "/metrics".to_owned(),
        "/livez".to_owned(),
        "/readyz".to_owned(),
        "/subscriptions".to_owned(),
        format!("/subscriptions/{id}"),
        format!("/subscriptions/{id}/state"),
        format!("/subscriptions/{id}/changes"),
        format!("/subscriptions/{id}/logs"),
        format!("/events/{event}"),
        format!("/status/{delivery}"),
        format!("/deliveries/{delivery}/explain"),
    ] {
        assert_inert(&path, &app.get(&path).await);
    }
}

async fn the_log_has_one_json_object_a_line_whatever_is_put_into_it(backend: Backend) {
    const FORGED: &str = "\r\n{\"level\":\"ERROR\",\"message\":\"forged\"}\n\u{1b}[2Jforged\u{2028}";
    let variables = [("HOOKPOST_LOG", "hookpost=trace,info"), ("HOOKPOST_RETRY_SCHEDULE", "none")];
    let process = Process::start_with(&Home::new(backend).await, &variables).await;
    let receiver = Raw::flooding(format!("HTTP/1.1 500 Oops\r\nx: y\r\n\r\n{FORGED}"), Vec::new()).await;
    let garbage = Raw::flooding(FORGED.repeat(9), Vec::new()).await;
    for url in [receiver.url(), garbage.url()] {
        process.post("/subscriptions", json!({ "target_url": url })).await;
    }
    for id in [1, 2] {
        process.post(&format!("/ingest/{id}"), json!({ FORGED: FORGED })).await;
        process
            .logged(|line| line.contains("failed for good") && line.contains(&format!("\"subscription_id\":{id},")))
            .await;
    }
    // What is refused may be logged too.
    let send_hostile = async |method: Method, path: &str, body: Value| {
        let request = client().request(method, format!("{}{path}", process.base));
        send(request.header("event_type", "a%0d%0aforged").body(body.to_string())).await
    };
    for field in ["tenant", "secret", "target_url", "method", FORGED] {
        send_hostile(Method::POST, "/subscriptions", json!({ "target_url": receiver.url(), field: FORGED })).await;
    }
    send_hostile(Method::POST, "/events", json!({ "event_type": FORGED, "tenant": FORGED, "payload": FORGED })).await;
    send_hostile(Method::POST, "/ingest/1", json!(FORGED)).await;
    send_hostile(Method::GET, "/docs/%0d%0aforged%1b[2J", json!(FORGED)).await;
    for line in process.log() {
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(object["level"].is_string() && object["message"] != "forged", "{line}");
        assert!(!line.contains('\u{1b}') && !line.contains("\"message\":\"forged\""), "{line}");
    }
    process.terminate().await;
}
