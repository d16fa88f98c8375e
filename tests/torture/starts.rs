//! Started, stopped and started again in the middle of everything: a stop that was asked for costs nothing at all.

use std::time::Duration;

use serde_json::Value;

use crate::ledger::api::Api;
use crate::ledger::node::{ATTEMPT_TIMEOUT, START_PATIENCE, STOP_MARGIN};
use crate::ledger::producer::Plan;
use crate::ledger::receiver::Moods;
use crate::settings::{self, SHORT};
use crate::stage::{Backend, Stage, on_both_stores};

/// The latest instant of a stop, after the service listens.
const LONGEST_LIFE: Duration = Duration::from_millis(300);
/// What a stop adds to its attempts' deadline when the store does not take the last writes: the time for the logs of the
/// attempts, and the time for the last batch.
const FLUSH: Duration = Duration::from_millis(5500);
/// How long a service may take to give up a start without its store: no more than one try to connect.
const GIVES_UP: Duration = Duration::from_secs(10);
/// The latest instant of a stop after the process was started.
const LONGEST_START: Duration = Duration::from_millis(120);
/// How long a second signal may take.
const AT_ONCE: Duration = Duration::from_millis(500);
/// From the end of one owner to the next one that accepts: a standby asks twice a second.
const TAKE_OVER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);

on_both_stores!(
    stopped_and_started_under_load_it_loses_nothing_and_repeats_nothing,
    a_standby_takes_over_from_one_that_drains_and_nothing_is_lost_or_repeated,
    a_second_signal_stops_it_at_once_and_costs_no_more_than_a_kill,
);

async fn stopped_and_started_under_load_it_loses_nothing_and_repeats_nothing(backend: Backend) {
    let mut stage = Stage::new(backend, settings::seed(0)).await;
    let mut node = stage.open().await;
    let producer = stage.produce();
    let mut longest = Duration::ZERO;
    for _ in 0..settings::kills().div_ceil(2) {
        let lived = stage.up_to(LONGEST_LIFE);
        node.run_for(lived).await;
        let (code, took) = node.terminate().await;
        assert_eq!(code, Some(0));
        longest = longest.max(took);
        // Once more, before it is ready. A process that has not set up its signals yet is ended by this one.
        let mut young = stage.program.spawn();
        let lived = stage.up_to(LONGEST_START);
        young.run_for(lived).await;
        let (code, took) = young.terminate().await;
        assert!(matches!(code, Some(0) | None), "{code:?}");
        longest = longest.max(took);
        node = stage.start().await;
    }
    producer.stop().await;
    let verdict = stage.settle(&stage.api).await;
    println!("{backend:?}, stops: {verdict}; the longest took {longest:.1?}");
    assert_eq!(verdict.kills, 0);
    verdict.assert_clean();
    assert!(verdict.accepted > SHORT, "it worked in between: {verdict}");
}

/// Two on one store, both started at once; whichever delivers is stopped, under load, and started again as the standby.
async fn a_standby_takes_over_from_one_that_drains_and_nothing_is_lost_or_repeated(backend: Backend) {
    let mut stage = Stage::new(backend, settings::seed(0)).await;
    let programs = [stage.program.clone(), stage.program.beside()];
    let apis = programs.clone().map(|program| Api::at(program.addr()));
    let (first, second) = (programs[0].spawn(), programs[1].spawn());
    first.listens().await;
    second.listens().await;
    let mut owner = who_delivers(&apis).await;
    assert!(!apis[1 - owner].is_ready().await, "one of two delivers");
    let mut nodes = [Some(first), Some(second)];
    stage.subscribe(&apis[owner]).await;
    let addresses = programs.iter().map(|program| program.addr()).collect();
    let producer = stage.scene.produce(Plan { addresses, ..stage.plan() });
    for _ in 0..settings::kills().div_ceil(3) {
        let lived = stage.up_to(LONGEST_LIFE);
        let mut stopping = nodes[owner].take().expect("it delivers");
        stopping.run_for(lived).await;
        let (code, _) = stopping.terminate().await;
        assert_eq!(code, Some(0));
        let stopped = owner;
        // One that is started at once may be faster than the standby, which asks twice a second.
        let at_once = stage.chance.below(2) == 0;
        if at_once {
            nodes[stopped] = Some(programs[stopped].start().await);
        }
        owner = who_delivers(&apis).await;
        if !at_once {
            assert_eq!(owner, 1 - stopped);
            nodes[stopped] = Some(programs[stopped].start().await);
        }
        producer.more_ok(10, PATIENCE).await;
    }
    producer.stop().await;
    let verdict = stage.settle(&apis[owner]).await;
    println!("{backend:?}, standbys: {verdict}");
    verdict.assert_clean();
}

/// The one of two that takes events, now or soon.
async fn who_delivers(apis: &[Api; 2]) -> usize {
    tokio::select! {
        _ = apis[0].ready_within(TAKE_OVER) => 0,
        _ = apis[1].ready_within(TAKE_OVER) => 1,
    }
}

async fn a_second_signal_stops_it_at_once_and_costs_no_more_than_a_kill(backend: Backend) {
    let mut stage = Stage::new(backend, settings::seed(0)).await;
    let mut node = stage.open().await;
    // Attempts that do not end, so that the first signal waits for them.
    stage.scene.receiver.set_moods(Moods::DEAF);
    let producer = stage.produce();
    stage.scene.receiver.more(10, PATIENCE).await;
    node.signal("TERM").await;
    node.log().first("stopping", |line| line.contains("once more to stop at once")).await;
    let killed = stage.scene.receiver.now_ms();
    node.signal("TERM").await;
    assert_eq!(node.exit(AT_ONCE).await.code(), Some(128 + 15));
    stage.scene.died_since(killed).await;
    assert!(AT_ONCE < ATTEMPT_TIMEOUT + STOP_MARGIN, "or the first signal would have done it");
    let node = stage.start().await;
    producer.more_ok(10, START_PATIENCE).await;
    producer.stop().await;
    let verdict = stage.settle(&stage.api).await;
    println!("{backend:?}, two signals: {verdict}");
    verdict.assert_clean();
    drop(node);
}

/// Nothing can be written then, so such a stop is a crash: what was answered and could not be logged is made again. It
/// takes no longer for that than it must, and says how many attempts it concerns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_while_postgres_is_away_it_ends_in_time_and_says_what_will_be_made_again() {
    let mut stage = Stage::new(Backend::Postgres, settings::seed(0)).await;
    let node = stage.open().await;
    let producer = stage.produce();
    stage.scene.receiver.more(100, PATIENCE).await;
    stage.cluster().kill().await;
    let log = node.log().clone();
    log.first("the store is away", |line| line.contains("trying until the store is back")).await;
    let asked = stage.scene.receiver.now_ms();
    let (code, took) = node.terminate_within(ATTEMPT_TIMEOUT + FLUSH + STOP_MARGIN).await;
    assert_eq!(code, Some(0), "{:#?}", log.lines());
    stage.scene.died_since(asked).await;
    let said = log.first("what it gave up", |line| line.contains("not logged and will be made again")).await;
    let left = serde_json::from_str::<Value>(&said).expect("a line of JSON")["left"].as_u64();
    assert!(left.is_some_and(|left| left > 0), "how many: {said}");

    // Without its store it does not start, and says why in one line.
    let mut young = stage.program.spawn();
    let status = young.exit(GIVES_UP).await;
    assert_eq!(status.code(), Some(1), "{:#?}", young.log().lines());
    young.log().first("why", |line| line.contains("the store could not be prepared: ")).await;
    assert_eq!(young.log().lines().len(), 1, "{:#?}", young.log().lines());

    stage.cluster().start().await;
    let node = stage.start().await;
    producer.more_ok(10, START_PATIENCE).await;
    producer.stop().await;
    let verdict = stage.settle(&stage.api).await;
    println!("stopped without PostgreSQL after {took:.1?}, {left:?} to be made again; {verdict}");
    verdict.assert_clean();
    drop(node);
}
