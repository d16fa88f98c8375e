//! Rows 18 to 21 and 24: name servers, clocks, networks, file descriptors and actors that fail around the service.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use crate::PATIENCE;
use crate::clock::WallClock;
use crate::figures::{long, scenario};
use crate::ledger::api::Api;
use crate::ledger::postgres::poll;
use crate::load::{Load, loaded, settle};
use crate::netns::Network;
use crate::peer::{CLOSE, Does, Peer};
use crate::site::Site;
use crate::times::{ms, p99};
use crate::tools::run;

/// Events that a latency is measured with.
fn measured() -> usize {
    if long() { 2000 } else { 250 }
}

/// A name server that knows `well.example`, and of all other names says nothing, or that it failed.
async fn name_server(hangs: bool) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let addr = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let question = &question[..length];
            if let Some(answer) = answer(question, hangs) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    addr
}

/// The question again, and 127.0.0.1 for an hour (RFC 1035, 4).
fn answer(question: &[u8], hangs: bool) -> Option<Vec<u8>> {
    let name = question[12..].iter().position(|byte| *byte == 0)?;
    let (end, wants_v4) = (12 + name + 5, question[12 + name + 1..][..2] == [0, 1]);
    let knows = question[12..].starts_with(b"\x04well");
    if !knows && hangs {
        return None;
    }
    let (code, count) = if knows { (0, u8::from(wants_v4)) } else { (2, 0) };
    let mut answer = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], &question[12..end]].concat();
    if count > 0 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

/// The p99 of a receiver whose name is known, without and with many whose names are not.
async fn dns(name: &str, hangs: bool) {
    const BAD: usize = 50;
    let Some(figures) = scenario(name) else { return };
    let _turn = figures.alone().await;
    let server = name_server(hangs).await;
    let site = Site::new().with("HOOKPOST_DNS_SERVERS", &server.to_string());
    let _node = site.start().await;
    let peer = Peer::always(Does::Answer(200, "")).await;
    let healthy = json!({ "event_type": ["order.created"] });
    let id = site.subscribe(&format!("http://well.example:{}/", peer.addr.port()), healthy).await;
    for n in 0..BAD {
        site.subscribe(&format!("http://bad-{n}.example/"), json!({ "event_type": ["bad"] })).await;
    }
    let before = p99(&site, id, &peer, measured()).await;
    for _ in 0..4 {
        site.post("/events", json!({ "event_type": "bad", "payload": {} })).await;
    }
    let during = p99(&site, id, &peer, measured()).await;
    figures.record(format!("p99 {} → {} with {BAD} such names", ms(before), ms(during)));
    assert!(during <= before + Duration::from_millis(figures.bound()), "{before:?} → {during:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_hangs() {
    dns("dns_hangs", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_fails() {
    dns("dns_fails", false).await;
}

const HOUR_S: i64 = 3600;
/// Between the first attempt and the second, in the scenarios of the clock: the clock is stepped before it is over, on a slow machine, too.
const WAIT: Duration = Duration::from_secs(15);
const LATE: Duration = Duration::from_secs(2);

/// How far the clock that an attempt was stamped with is ahead of the real one.
#[expect(clippy::disallowed_methods, reason = "the real clock, which the service does not see")]
fn ahead_s(arrived: &crate::peer::Arrived) -> i64 {
    let stamp = arrived.headers["webhook-timestamp"].to_str().expect("text").parse::<i64>().expect("seconds");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    stamp - i64::try_from(now.as_secs()).expect("this era")
}

/// Deliveries that wait for their second attempt while the clock is stepped: none is early, none is late.
async fn clock(name: &str, step_s: i64) {
    const WAITING: usize = 30;
    let Some(figures) = scenario(name) else { return };
    let _turn = figures.beside_others().await;
    let clock = WallClock::new();
    let waits = vec![format!("{}s", WAIT.as_secs()); 3].join(",");
    let site =
        clock.environment().iter().fold(Site::new().schedule(&waits), |site, (name, value)| site.with(name, value));
    let _node = site.start().await;
    let peer = Peer::start(|nth| Does::Answer(if nth < WAITING { 500 } else { 200 }, "")).await;
    let mut subscriptions = Vec::new();
    for _ in 0..WAITING {
        subscriptions.push(site.subscribe(&peer.url(), json!({})).await);
    }
    // All at once: the first one's wait must not be over when the last one's begins.
    let ingested = subscriptions.iter().enumerate().map(|(n, id)| site.ingest(*id, n));
    let deliveries = futures_util::future::join_all(ingested).await;
    let first = peer.after(WAITING).await;
    // Their outcomes are in the store.
    for delivery in &deliveries {
        site.status_when(delivery, |status| status["attempts"].as_array().is_some_and(|tried| !tried.is_empty())).await;
    }
    clock.step(step_s);
    // Whoever comes now is not held up either.
    let well = Peer::always(Does::Answer(200, "")).await;
    let id = site.subscribe(&well.url(), json!({ "event_type": ["order.created"] })).await;
    let asked = Instant::now();
    site.ingest(id, 0).await;
    let new = well.after(1).await[0].at - asked;

    let arrived = peer.after(2 * WAITING).await;
    let waited = |second: &crate::peer::Arrived| {
        let first = first.iter().find(|first| first.id() == second.id()).expect("its first attempt");
        second.at - first.at
    };
    let astray = arrived[WAITING..].iter().map(|arrived| ahead_s(arrived) - step_s).max_by_key(|astray| astray.abs());
    assert!(astray.is_some_and(|astray| astray.abs() <= 60), "the service does not see the step: {astray:?} s from it");
    let waits: Vec<_> = arrived[WAITING..].iter().map(waited).collect();
    let (least, most) = (*waits.iter().min().expect("some"), *waits.iter().max().expect("some"));
    figures
        .record(format!("{WAITING} retries after {least:.2?} to {most:.2?} of {WAIT:?}, a new event after {new:.0?}"));
    assert!(least >= WAIT, "a storm: a retry after {least:?} of {WAIT:?}");
    assert!(most <= WAIT + WAIT / 10 + LATE, "a stall: a retry after {most:?} of {WAIT:?}");
    assert!(new <= LATE, "a new event waited for {new:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_goes_an_hour_ahead() {
    clock("clock_goes_an_hour_ahead", HOUR_S).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_goes_an_hour_back() {
    clock("clock_goes_an_hour_back", -HOUR_S).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partition_heals_with_a_backlog() {
    // Few enough that the sender reaches it on any machine.
    const PER_SECOND: usize = 100;
    const SECOND: Duration = Duration::from_secs(1);
    let Some(figures) = scenario("partition_heals_with_a_backlog") else { return };
    let _turn = figures.beside_others().await;
    let backlog = if long() { 10_000 } else { 1000 };
    let network = Network::new();
    let site = Site::new()
        .with("HOOKPOST_ALLOW_TARGETS", &network.outside().to_string())
        .schedule("200ms,200ms,500ms,1s,2s,5s,5s,5s,5s");
    let site = site.through(&network.prefix(), network.inside().into());
    let node = site.start().await;
    let peer = Peer::at((network.outside(), 0).into(), |_| Does::Answer(200, "")).await;
    let fields = json!({ "rate_limit": { "per_second": PER_SECOND, "burst": 1 }, "breaker": { "wait_ms": 200 } });
    let id = loaded(&site, &peer.url(), fields).await;
    let load = Load::start(&site.base(), id, 8, 200);
    peer.after(20).await;
    network.cut();
    let cut = Instant::now();
    load.when("accepted", cut, 20 * PATIENCE, |seen| seen.iter().filter(|a| a.is_ok()).count() >= backlog).await;
    let mut ledger = load.stop().await;
    ledger.network_was_cut = true;
    let before = peer.count();
    network.heal();
    let healed = Instant::now();
    let verdict = settle(&ledger, &site, &peer, PATIENCE, &[]).await;
    let after: Vec<_> = peer.arrived()[before..].iter().map(|arrived| arrived.at).collect();
    let (first, last) = (*after.first().expect("a backlog"), *after.last().expect("a backlog"));
    let mean = after.len() as f64 / (last - first).as_secs_f64();
    let within =
        |from: &Instant| after.partition_point(|at| *at < *from + SECOND) - after.partition_point(|at| at < from);
    let peak = after.iter().map(within).max().unwrap_or_default();
    figures.record(format!(
        "backlog {}, first after {:.1?}, {mean:.0}/s and at most {peak}/s at a limit of {PER_SECOND}/s, {} lost",
        after.len(),
        first - healed,
        verdict.lost.len()
    ));
    verdict.assert_clean();
    assert!(after.len() >= backlog, "there was no backlog to speak of: {}", after.len());
    assert!(mean >= 0.7 * PER_SECOND as f64, "{mean}/s: the limit was not reached");
    assert!(peak <= 2 * PER_SECOND, "{peak} in a second");
    node.kill().await;
}

/// How many file descriptors the process has open.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or_default()
}

/// So many more connections to this address.
async fn hold(held: &mut Vec<TcpStream>, addr: SocketAddr, count: usize) {
    for _ in 0..count {
        held.extend(tokio::time::timeout(LATE, TcpStream::connect(addr)).await.into_iter().flatten());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_descriptors_run_out() {
    const LIMIT: usize = 128;
    // EMFILE, as the attempt log says it.
    const NONE_LEFT: &str = "(error 24)";
    let Some(figures) = scenario("file_descriptors_run_out") else { return };
    let _turn = figures.beside_others().await;
    // It closes after each answer: every attempt needs a descriptor.
    let peer = Peer::always(Does::Answer(200, CLOSE)).await;
    let site = Site::new().schedule("200ms,500ms,1s,2s,5s,5s,5s,5s,5s,5s");
    let mut node = site.start().await;
    let id = loaded(&site, &peer.url(), json!({ "breaker": { "wait_ms": 200 } })).await;
    let pid = node.pid();
    run("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={LIMIT}:{LIMIT}")]);
    let load = Load::start(&site.base(), id, 8, 200);
    load.accepts(100, PATIENCE).await;

    // More than it can have; what it does not take waits in the kernel's queue.
    let (mut held, begun, mut look) = (Vec::new(), Instant::now(), poll());
    while open_files(pid) < LIMIT {
        assert!(begun.elapsed() < PATIENCE, "{} of {LIMIT} open", open_files(pid));
        hold(&mut held, site.program.addr(), 16).await;
        look.tick().await;
    }
    hold(&mut held, site.program.addr(), LIMIT / 2).await;
    // A while without any: what the attempts close, those who wait in the queue take.
    let out = Instant::now();
    load.when("answered", out, PATIENCE, |seen| seen.len() >= if long() { 20_000 } else { 1000 }).await;
    let meanwhile = load.since(out);
    let acked = meanwhile.iter().filter(|answered| answered.is_ok()).count();
    drop(held);
    let freed = Instant::now();
    // A connection of its own, made anew.
    let served = loop {
        let connected = crate::site::client(LATE).get(format!("{}/readyz", site.base())).send().await;
        if connected.is_ok_and(|answer| answer.status() == 200) {
            break freed.elapsed();
        }
        assert!(freed.elapsed() < PATIENCE, "it does not serve again");
    };
    load.accepts(50, PATIENCE).await;
    let ledger = load.stop().await;
    let verdict = settle(&ledger, &site, &peer, PATIENCE / 2, &[]).await;
    let logs = Api::at(site.program.addr()).logs(id).await.expect("it serves");
    let without = logs.iter().filter(|row| row.error.contains(NONE_LEFT)).count();
    figures.record(format!(
        "{acked} of {} accepted with all {LIMIT} taken, {without} attempts failed for want of one, serving {} after, {} lost of {}",
        meanwhile.len(),
        ms(served),
        verdict.lost.len(),
        verdict.accepted
    ));
    verdict.assert_clean();
    assert!(without > 0, "no attempt went without: nothing was exhausted");
    node.run_for(Duration::from_millis(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actor_panics() {
    const PANICS: usize = 5;
    let Some(figures) = scenario("actor_panics") else { return };
    let _turn = figures.alone().await;
    let site = Site::new().with("NEGATIVE_CONTROL", "panic-on-event").binary(&crate::tools::controls());
    let node = site.start().await;
    let (well, bad) = (Peer::always(Does::Answer(200, "")).await, Peer::always(Does::Answer(200, "")).await);
    let healthy = site.subscribe(&well.url(), json!({ "event_type": ["order.created"] })).await;
    let id = site.subscribe(&bad.url(), json!({ "event_type": ["panic", "order.created"] })).await;
    let before = p99(&site, healthy, &well, measured()).await;
    let panics = async {
        let mut restarted = Vec::new();
        for n in 1..=PANICS {
            let asked = Instant::now();
            site.post("/events", json!({ "event_type": "panic", "payload": { "n": n } })).await;
            // The actor that comes after it finds the event in the store.
            bad.after(2 * n - 1).await;
            restarted.push(asked.elapsed());
            site.ingest(id, n).await;
            bad.after(2 * n).await;
        }
        restarted
    };
    let (during, restarted) = tokio::join!(p99(&site, healthy, &well, measured()), panics);
    let panicked = node.log().lines().iter().filter(|line| line.contains("told to panic")).count();
    let slowest = restarted.iter().max().expect("some");
    figures.record(format!(
        "{panicked} panics, the event received {slowest:.1?} after at most, others' p99 {} → {}",
        ms(before),
        ms(during)
    ));
    assert!(panicked >= PANICS, "{panicked} panics");
    assert!(during <= before + Duration::from_millis(figures.bound()), "{before:?} → {during:?}");
    let received =
        bad.arrived().iter().map(|arrived| arrived.id().to_owned()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(received.len(), 2 * PANICS, "every event, those that it panicked on too");
}
