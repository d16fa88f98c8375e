//! Log rows that nobody waits for wait for each other, for a bounded time.

use tokio::time::Instant;

use super::super::records::{LOG_LINGER, MAX_LINGERING};
use super::SUB;
use super::scripted::{Told, Under};

/// How many deliveries and logs each commit had.
fn rows(under: &Under) -> Vec<(usize, usize)> {
    under.store.tried().iter().map(|batch| (batch.deliveries.len(), batch.logs.len())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_log_that_nobody_waits_for_is_written_when_its_time_is_up() {
    let under = Under::start([]);
    under.quiet().await;
    let before = Instant::now();
    under.record_lingering(under.nth_id(1));
    under.store.commits(1).await;
    let waited = before.elapsed();
    assert!(waited >= LOG_LINGER && waited < LOG_LINGER * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn logs_wait_for_each_other_and_keep_their_order() {
    let under = Under::start([]);
    (1..=3).for_each(|n| under.record_lingering(under.nth_id(n)));
    under.quiet().await;
    assert_eq!(rows(&under), []);
    under.record_lingering(under.nth_id(4));
    under.pass_an_hour().await;
    assert_eq!(rows(&under), [(0, 4)]);
    assert_eq!(under.told(), [1, 2, 3, 4].map(|n| Told::Recorded(under.nth_id(n))));
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_deliveries_leaves_logs_that_are_not_due() {
    let under = Under::start([]);
    under.record_lingering(under.nth_id(1));
    under.submit(SUB, "1").await.unwrap().unwrap();
    assert_eq!(rows(&under), [(1, 0)]);
    under.pass_an_hour().await;
    assert_eq!(rows(&under), [(1, 0), (0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_log_takes_those_before_it_along_at_once() {
    let under = Under::start([]);
    under.record_lingering(under.nth_id(1));
    under.quiet().await;
    let before = Instant::now();
    under.record(under.nth_id(2));
    under.store.commits(1).await;
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    assert_eq!(rows(&under), [(0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn enough_logs_wait_for_nothing() {
    let under = Under::start([]);
    under.quiet().await;
    let before = Instant::now();
    (1..MAX_LINGERING).for_each(|_| under.record_lingering(under.nth_id(1)));
    tokio::task::yield_now().await;
    assert_eq!(rows(&under), []);
    under.record_lingering(under.nth_id(1));
    under.store.commits(1).await;
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    assert_eq!(rows(&under), [(0, MAX_LINGERING)]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_writer_writes_logs_that_are_not_due() {
    let mut under = Under::start([]);
    under.record_lingering(under.nth_id(1));
    under.quiet().await;
    let before = Instant::now();
    under.writer.close();
    under.end().await;
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    assert_eq!(under.told(), [Told::Recorded(under.nth_id(1))]);
}
