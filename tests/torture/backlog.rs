//! A start with a long backlog: the first delivery does not wait for all of it to be read.

use std::time::Duration;

use bytes::Bytes;
use hookpost::clock::Clock;
use hookpost::delivery::{Delivery, DeliveryId, SubscriptionId};
use hookpost::store::{Batch, PostgresStore, SqliteStore, Store};
use tokio::time::Instant;
use uuid::Builder;

use crate::ledger::postgres::poll;
use crate::ledger::receiver::Moods;
use crate::settings;
use crate::stage::{Backend, Stage, on_both_stores};

const PENDING: u32 = 100_000;
/// Deliveries in a commit: as many as the service itself takes.
const ROWS: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_DELIVERY: Duration = Duration::from_secs(2);

on_both_stores!(killed_with_100_000_pending_it_delivers_within_two_seconds_of_its_start);

async fn killed_with_100_000_pending_it_delivers_within_two_seconds_of_its_start(backend: Backend) {
    let mut stage = Stage::new(backend, settings::seed(0)).await;
    stage.scene.receiver.set_moods(Moods::GOOD);
    let node = stage.open().await;
    stage.kill(node).await;
    fill(&stage).await;
    let mut took = Vec::new();
    // The second start is one after a kill in the middle of the work.
    for _ in 0..2 {
        let started = Instant::now();
        let node = stage.program.spawn();
        stage.scene.receiver.more(1, FIRST_DELIVERY).await;
        took.push(started.elapsed());
        node.listens().await;
        stage.kill(node).await;
    }
    println!("{backend:?}: first delivery with {PENDING} pending after {took:.0?}");
}

/// Through the store itself, as if a service had accepted them.
async fn fill(stage: &Stage) {
    let now = Clock::start().wall();
    let store: Box<dyn Store> = match &stage.postgres {
        Some(cluster) => Box::new(PostgresStore::connect(&cluster.url().into()).expect("a URL")),
        None => Box::new(SqliteStore::open(&stage.scene.dir().join("data")).expect("a directory")),
    };
    // PostgreSQL takes a moment to notice that the owner is gone.
    let (begun, mut look) = (Instant::now(), poll());
    while !store.acquire().await.expect("it can be reached") {
        assert!(begun.elapsed() < PATIENCE, "its owner was killed");
        look.tick().await;
    }
    let subscribers = stage.scene.receiver.subscribers();
    let millis = u64::try_from(now.0).expect("after 1970");
    let delivery = |n: u32| {
        let mut counter = [0; 10];
        counter[6..].copy_from_slice(&n.to_be_bytes());
        Delivery {
            id: DeliveryId(Builder::from_unix_timestamp_millis(millis, &counter).into_uuid()),
            subscription_id: SubscriptionId(subscribers[n as usize % subscribers.len()].id),
            event_type: None,
            payload: Bytes::from(format!("{{\"n\":{n}}}")),
            event_id: None,
            ordering_key: None,
            trace: None,
            resend_of: None,
        }
    };
    let all: Vec<_> = (1..=PENDING).map(delivery).collect();
    for rows in all.chunks(ROWS) {
        store.commit(&Batch { deliveries: rows.to_vec(), ..Batch::default() }).await.expect("it is stored");
    }
    store.close().await;
}
