//! Rows 11 to 17, 22 and 23: receivers that refuse, hang, drip, reset, pour, put off or go, and what happens to their
//! subscriptions meanwhile.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::PATIENCE;
use crate::figures::{long, scenario};
use crate::ledger::fixed_port;
use crate::ledger::postgres::poll;
use crate::peer::{Arrived, Does, Peer, black_hole};
use crate::site::Site;
use crate::syns::Syns;
use crate::tools::memory;

/// A time of the schedule is kept in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);
/// Where nobody else is called: what comes there is the scenario's.
const REFUSING: Ipv4Addr = Ipv4Addr::new(127, 0, 11, 1);
const SWALLOWING: Ipv4Addr = Ipv4Addr::new(127, 0, 12, 1);

fn is_failed(status: &Value) -> bool {
    status["state"] == "failed"
}

/// When each attempt began, and how long it took, in milliseconds.
fn attempts(status: &Value) -> Vec<(i64, i64)> {
    let times = |attempt: &Value| {
        let text = attempt["timestamp"].as_str().expect("a timestamp");
        let at = humantime::parse_rfc3339_weak(text).expect("RFC 3339").duration_since(SystemTime::UNIX_EPOCH);
        let at = i64::try_from(at.expect("after 1970").as_millis()).expect("this era");
        (at, attempt["duration_ms"].as_i64().expect("a duration"))
    };
    status["attempts"].as_array().expect("attempts").iter().map(times).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_refuses() {
    const WAITS_MS: [u32; 4] = [200, 400, 800, 1600];
    const DELIVERIES: u16 = 10;
    let Some(figures) = scenario("receiver_refuses") else { return };
    let _turn = figures.alone_if_strict().await;
    let site = Site::new().schedule("200ms,400ms,800ms,1600ms");
    let _node = site.start().await;
    let (syns, port) = (Syns::to(REFUSING).await, fixed_port());
    let mut deliveries = Vec::new();
    // A subscription each: no breaker comes between them.
    for n in 0..DELIVERIES {
        let id = site.subscribe(&format!("http://{REFUSING}:{}/", port + n), json!({})).await;
        deliveries.push(site.ingest(id, n.into()).await);
    }
    let connections = syns.connections(usize::from(DELIVERIES) * (WAITS_MS.len() + 1)).await;
    // Milliseconds beyond each wait, and beyond the longest that its jitter makes it.
    let (mut least, mut most) = (f64::MAX, f64::MIN);
    for begun in connections.values() {
        assert_eq!(begun.len(), WAITS_MS.len() + 1);
        for (pair, wait) in begun.windows(2).zip(WAITS_MS.map(f64::from)) {
            let beyond = 1000.0 * (pair[1] - pair[0]).as_secs_f64() - wait;
            least = least.min(beyond);
            most = most.max(beyond - wait / 10.0);
        }
    }
    let waits = connections.len() * WAITS_MS.len();
    figures.record(format!("{waits} waits: at least {least:+.1} ms, at most {most:+.1} ms beyond the jitter of 10 %"));
    assert!(least >= -1000.0 * ROUNDING.as_secs_f64(), "{least} ms: before its wait was over");
    assert!(most <= figures.bound() as f64, "{most} ms beyond the jitter");
    for delivery in &deliveries {
        site.status_when(delivery, is_failed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_is_a_black_hole() {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    const WAIT: Duration = Duration::from_millis(100);
    let Some(figures) = scenario("receiver_is_a_black_hole") else { return };
    let _turn = figures.alone_if_strict().await;
    let site = Site::new().schedule("100ms").with("HOOKPOST_ATTEMPT_TIMEOUT", "10s");
    let _node = site.start().await;
    let (addr, _hole) = black_hole(SWALLOWING).await;
    let syns = Syns::to(SWALLOWING).await;
    let id = site.subscribe(&format!("http://{addr}/"), json!({})).await;
    let delivery = site.ingest(id, 1).await;
    // Nobody sees it give up: but when it tries again, it has.
    let begun = &syns.connections(2).await[&addr.port()];
    let took = 1000.0 * (begun[1] - begun[0] - WAIT).as_secs_f64();
    figures.record(format!("given up after {took:.0} ms, jitter of the next attempt included"));
    let beyond = took - CONNECT_TIMEOUT.as_millis() as f64;
    assert!(beyond >= 0.0 && beyond <= figures.bound() as f64, "{took} ms");
    let status = site.status_when(&delivery, is_failed).await;
    assert!(
        status["attempts"][0]["error_details"].as_str().is_some_and(|why| why.contains("could not connect")),
        "{status}"
    );
}

/// How far from its deadline the attempt at this receiver ended.
async fn deadline(name: &str, does: Does) {
    const EVENTS: usize = 5;
    let Some(figures) = scenario(name) else { return };
    let _turn = figures.beside_others().await;
    let deadline_ms: i64 = if long() { 10_000 } else { 3000 };
    let site = Site::new().schedule("none").with("HOOKPOST_ATTEMPT_TIMEOUT", &format!("{deadline_ms}ms"));
    let _node = site.start().await;
    let peer = Peer::always(does).await;
    let id = site.subscribe(&peer.url(), json!({})).await;
    for n in 0..EVENTS {
        site.ingest(id, n).await;
    }
    let beyond = |held: &Duration| i64::try_from(held.as_millis()).expect("it is short") - deadline_ms;
    let held = peer.held(EVENTS).await;
    let worst = held.iter().map(beyond).max_by_key(|beyond| beyond.abs()).expect("some");
    figures.record(format!("closed {worst:+} ms from {deadline_ms} ms, the worst of {EVENTS}"));
    assert!(worst.abs() <= 1000, "{worst} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_hangs() {
    deadline("receiver_hangs", Does::Hang).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_drips() {
    deadline("receiver_drips", Does::Drip).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_resets() {
    const EVENTS: usize = 5;
    const RESETS: usize = 3;
    let Some(figures) = scenario("receiver_resets") else { return };
    let _turn = figures.beside_others().await;
    let site = Site::new().schedule("50ms,50ms,50ms,50ms,50ms");
    let _node = site.start().await;
    let mut same = 0;
    for n in 0..EVENTS {
        let peer = Peer::start(|nth| if nth < RESETS { Does::Reset } else { Does::Answer(200, "") }).await;
        let id = site.subscribe(&peer.url(), json!({})).await;
        let delivery = site.ingest(id, n).await;
        site.status_when(&delivery, |status| status["state"] == "delivered").await;
        same += peer.arrived().iter().filter(|arrived| arrived.id() == delivery && !arrived.body.is_empty()).count();
    }
    let expected = EVENTS * (RESETS + 1);
    figures.record(format!("{same} of {expected} attempts with the delivery's id"));
    assert_eq!(same, expected);
}

/// Memory that answers without end cost, with as many at once as there are subscriptions.
async fn pour(name: &str, head: &'static str, piece: Vec<u8>) {
    const AT_ONCE: usize = 40;
    const EACH_BYTES: u64 = 1024 * 1024;
    let Some(figures) = scenario(name) else { return };
    let _turn = figures.alone().await;
    let site = Site::new().schedule("none");
    let node = site.start().await;
    let well = Peer::always(Does::Answer(200, "")).await;
    let pouring = Peer::always(Does::Pour(head, piece.into())).await;
    let mut subscriptions = Vec::new();
    for event_type in ["well", "pour"] {
        for _ in 0..AT_ONCE {
            let peer = if event_type == "well" { &well } else { &pouring };
            subscriptions.push(site.subscribe(&peer.url(), json!({ "event_type": [event_type] })).await);
        }
    }
    let fan_out = |event_type: &'static str| site.post("/events", json!({ "event_type": event_type, "payload": {} }));
    for n in 1..=3 {
        fan_out("well").await;
        well.after(n * AT_ONCE).await;
    }
    let before = memory(node.pid());
    let event = fan_out("pour").await;
    pouring.after(AT_ONCE).await;
    let path = format!("/events/{}", event["event_id"].as_str().expect("an id"));
    let (begun, mut look, mut peak) = (Instant::now(), poll(), before);
    loop {
        peak = peak.max(memory(node.pid()));
        let event = site.get(&path).await;
        let ended = |delivery: &Value| delivery["state"] == "delivered" || delivery["state"] == "failed";
        if event["deliveries"].as_array().expect("deliveries").iter().all(ended) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "attempts that are poured at do not end: {event}");
        look.tick().await;
    }
    let each = (peak - before) / AT_ONCE as u64;
    figures.record(format!(
        "memory + {} KiB each, {AT_ONCE} at once; {} KiB each left the receiver",
        each / 1024,
        pouring.poured() / 1024 / AT_ONCE as u64
    ));
    assert!(each <= EACH_BYTES, "{each} bytes each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_pours_10_gb() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n";
    pour("receiver_pours_10_gb", head, vec![b'.'; 65536]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_pours_chunks_without_end() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = [&b"10000\r\n"[..], &[b'.'; 0x10000], b"\r\n"].concat();
    pour("receiver_pours_chunks_without_end", head, chunk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_answers_with_a_gzip_bomb() {
    // 50 MB of zeros in 50 kB; one after another they are one stream.
    let bomb = std::process::Command::new("sh").args(["-c", "head -c 50000000 /dev/zero | gzip -9"]).output();
    let bomb = bomb.expect("gzip").stdout;
    assert!(bomb.starts_with(&[0x1f, 0x8b]) && bomb.len() < 100_000);
    let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 10000000000\r\n\r\n";
    pour("receiver_answers_with_a_gzip_bomb", head, bomb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_says_retry_after() {
    const ASKED: Duration = Duration::from_secs(3);
    const EVENTS: usize = 20;
    let Some(figures) = scenario("receiver_says_retry_after") else { return };
    let _turn = figures.beside_others().await;
    let site = Site::new();
    let _node = site.start().await;
    let script = |nth| if nth == 0 { Does::Answer(429, "retry-after: 3\r\n") } else { Does::Answer(200, "") };
    let peer = Peer::start(script).await;
    let id = site.subscribe(&peer.url(), json!({})).await;
    let refused = site.ingest(id, 0).await;
    let first = peer.after(1).await[0].at;
    // Its outcome is in the store, and the subscription knows it.
    site.status_when(&refused, |status| status["state"] == "retrying").await;
    for n in 1..EVENTS {
        site.ingest(id, n).await;
    }
    let arrived = peer.after(EVENTS + 1).await;
    let waits: Vec<_> = arrived[1..].iter().map(|arrived| arrived.at - first).collect();
    let early = waits.iter().filter(|wait| **wait < ASKED).count();
    let (least, most) = (waits.iter().min().expect("some"), waits.iter().max().expect("some"));
    figures.record(format!(
        "{early} early sends of {EVENTS}; {least:.2?} to {most:.2?} after a 429 that asked for {ASKED:?}"
    ));
    assert_eq!(early, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_says_retry_after_a_year() {
    let Some(figures) = scenario("receiver_says_retry_after_a_year") else { return };
    let _turn = figures.beside_others().await;
    let site = Site::new();
    let _node = site.start().await;
    let peer = Peer::always(Does::Answer(503, "retry-after: 31536000\r\n")).await;
    let id = site.subscribe(&peer.url(), json!({})).await;
    let delivery = site.ingest(id, 0).await;
    let status = site.status_when(&delivery, |status| status["state"] == "retrying").await;
    let text = status["next_attempt_at"].as_str().expect("it is planned");
    let at = humantime::parse_rfc3339_weak(text).expect("RFC 3339").duration_since(SystemTime::UNIX_EPOCH);
    let at = i64::try_from(at.expect("after 1970").as_millis()).expect("this era");
    let (began, took) = attempts(&status)[0];
    let wait_s = (at - began - took) / 1000;
    figures.record(format!("next attempt after {wait_s} s, jitter of up to 10 % included"));
    assert!((3600..=3960).contains(&wait_s), "{wait_s} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_is_gone() {
    const WAITING: usize = 6;
    const OTHERS: usize = 30;
    let Some(figures) = scenario("receiver_is_gone") else { return };
    let _turn = figures.beside_others().await;
    let site = Site::new().schedule("500ms,500ms");
    let node = site.start().await;
    let gone = Peer::start(|nth| Does::Answer(if nth < WAITING { 500 } else { 410 }, "")).await;
    let (watcher, well) = (Peer::always(Does::Answer(200, "")).await, Peer::always(Does::Answer(200, "")).await);
    let disabled = json!({ "event_type": ["hookpost.subscription.disabled"] });
    site.subscribe(&watcher.url(), disabled).await;
    let healthy = site.subscribe(&well.url(), json!({ "event_type": ["order.created"] })).await;
    let id = site.subscribe(&gone.url(), json!({})).await;
    // These wait for their retry when the receiver says that it is gone.
    for n in 0..WAITING {
        site.ingest(id, n).await;
    }
    gone.after(WAITING).await;
    site.ingest(id, WAITING).await;
    let answered = gone.after(WAITING + 1).await[WAITING].at;
    let told = watcher.after(1).await[0].clone();
    let event: Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!(event["type"], "hookpost.subscription.disabled", "{event}");
    let (refused, _) = site.call(reqwest::Method::POST, &format!("/ingest/{id}"), json!({})).await;
    assert_eq!(refused, 409, "a disabled subscription takes no events");
    // What is sent to others all along passes it by, beyond the time of the retries, before a restart and after it.
    let retries_due = answered + Duration::from_millis(1200);
    pass_by(&site, healthy, &well, OTHERS, retries_due).await;
    node.kill().await;
    let _node = site.start().await;
    pass_by(&site, healthy, &well, OTHERS, retries_due).await;
    // Those that were on their way when the answer came are no further ones.
    let further = gone.arrived().iter().filter(|arrived| arrived.at > told.at).count();
    figures
        .record(format!("notified after {:.0?}, {further} further attempts, a restart included", told.at - answered));
    assert_eq!(further, 0);
}

/// At least so many events to somebody else, one after the other, until then.
async fn pass_by(site: &Site, healthy: i64, well: &Peer, count: usize, until: Instant) {
    let mut n = 0;
    while n < count || Instant::now() < until {
        n += 1;
        let before = well.count();
        site.ingest(healthy, n).await;
        well.after(before + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_is_rotated_during_retries() {
    const SUBSCRIPTIONS: usize = 10;
    const ATTEMPTS: usize = 4;
    let Some(figures) = scenario("secret_is_rotated_during_retries") else { return };
    let _turn = figures.beside_others().await;
    let site = Site::new().schedule("2s,200ms,200ms");
    let _node = site.start().await;
    let peer = Peer::always(Does::Answer(500, "")).await;
    let (mut olds, mut news) = (BTreeMap::new(), BTreeMap::new());
    for n in 0..SUBSCRIPTIONS {
        let fields = json!({ "target_url": peer.url(), "generate_secret": true });
        let created = site.post("/subscriptions", fields).await;
        let secret = created["secret"].as_str().expect("it is shown once").to_owned();
        let id = created["id"].as_i64().expect("an id");
        olds.insert(site.ingest_signed(id, &secret, n).await, (id, secret));
    }
    peer.after(SUBSCRIPTIONS).await;
    for (delivery, (id, _)) in &olds {
        let rotated = site.post(&format!("/subscriptions/{id}/secret/rotate"), json!({})).await;
        let secret = rotated["secret"].as_str().expect("it is shown once").to_owned();
        news.insert(delivery.clone(), (Instant::now(), secret));
    }
    let arrived = peer.after(SUBSCRIPTIONS * ATTEMPTS).await;
    let after: Vec<_> = arrived.iter().filter(|arrived| arrived.at > news[arrived.id()].0).collect();
    let verifies = |arrived: &Arrived, secret: &str| {
        standardwebhooks::Webhook::new(secret).expect("a secret").verify(&arrived.body, &arrived.headers).is_ok()
    };
    let with_both =
        |arrived: &&&Arrived| verifies(arrived, &olds[arrived.id()].1) && verifies(arrived, &news[arrived.id()].1);
    let both = after.iter().filter(with_both).count();
    figures.record(format!("{both} of {} attempts after the rotation verify with both", after.len()));
    assert!(both == after.len() && both >= SUBSCRIPTIONS * 2, "{both} of {}", after.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscription_is_deleted_in_flight() {
    // Few enough that no breaker opens, and that all are under way at once.
    const EVENTS: usize = 6;
    const TRIES: usize = 5;
    let Some(figures) = scenario("subscription_is_deleted_in_flight") else { return };
    let _turn = figures.beside_others().await;
    let site = Site::new().schedule("100ms,100ms,100ms,100ms,100ms,100ms");
    let _node = site.start().await;
    let (peer, control) = (Peer::always(Does::Hang).await, Peer::always(Does::Hang).await);
    let id = site.subscribe(&peer.url(), json!({})).await;
    let kept = site.subscribe(&control.url(), json!({})).await;
    for n in 0..EVENTS {
        site.ingest(id, n).await;
    }
    peer.after(EVENTS).await;
    site.delete(&format!("/subscriptions/{id}")).await;
    // One like it that is kept makes several attempts after that, and it none.
    let watched = site.ingest(kept, 0).await;
    let other = control.after(TRIES).await;
    assert!(other.iter().all(|arrived| arrived.id() == watched));
    let further = peer.count() - EVENTS;
    figures.record(format!("{further} further attempts, {EVENTS} were in flight"));
    assert!(further <= 1, "{further} further attempts");
}
