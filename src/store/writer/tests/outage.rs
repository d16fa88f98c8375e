//! Commits whose reply was lost, and stores that are away, or can be read and not written.

use std::time::Duration;

use tokio::time::Instant;

use super::super::task::{ACK_DEADLINE, OWNERSHIP_PATIENCE, RECONNECT_BACKOFF};
use super::super::*;
use super::scripted::{Outcome, Told, Under, delivery, read_all};
use super::{OTHER, SUB};

const NOT_STORED: WriteError = WriteError::Unavailable { ambiguous: false };
const PERHAPS_STORED: WriteError = WriteError::Unavailable { ambiguous: true };

#[tokio::test(start_paused = true)]
async fn a_commit_that_took_effect_unheard_is_accepted_and_not_made_again() {
    let under = Under::start([Outcome::Unheard]);
    let replies = [under.submit(SUB, "1"), under.submit_event("order.created"), under.submit_keyed("k", 0)];
    assert!(read_all(replies).await.iter().all(Result::is_ok));
    assert_eq!(under.store.tried().len(), 1);
    let committed = under.told().iter().filter(|told| matches!(told, Told::Committed(_))).count();
    assert_eq!(committed, 4, "each delivery is handed over, and once");
    assert!(under.writer.is_up());
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_took_no_effect_is_made_again_with_the_same_ids() {
    let under = Under::start([Outcome::Failed]);
    let id = delivery(under.submit(SUB, "1").await.unwrap().unwrap());
    let tried = under.store.tried();
    assert_eq!(tried.iter().map(|batch| batch.deliveries[0].id).collect::<Vec<_>>(), [id, id]);
    assert_eq!(under.store.stored_rows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_commit_that_took_effect_unheard_are_written_again_with_the_same_ids() {
    let under = Under::start([Outcome::Unheard]);
    under.record(under.nth_id(1));
    under.store.commits(2).await;
    under.quiet().await;
    let tried = under.store.tried();
    assert_eq!(tried[0].logs, tried[1].logs, "the store keeps one of two rows with the same id");
    assert_eq!(under.told(), [Told::Recorded(under.nth_id(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_commit_is_decided_before_anything_else_is_written() {
    let under = Under::holding_commits();
    under.store.then(Outcome::Unheard);
    under.store.go_away();
    let first = under.submit(SUB, "1");
    under.store.commits(1).await;
    under.store.let_through(1);
    under.quiet().await;
    under.record(under.nth_id(1));
    under.quiet().await;
    assert_eq!(under.store.tried().len(), 1);

    under.store.come_back();
    under.store.then(Outcome::Done);
    under.store.let_through(1);
    first.await.unwrap().unwrap();
    under.store.commits(2).await;
    assert!(under.store.tried()[1].deliveries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_and_has_nobody_waiting_any_more_is_forgotten() {
    let under = Under::start([Outcome::Failed]);
    under.store.go_away();
    let gone = under.submit(SUB, "gone");
    under.store.commits(1).await;
    drop(gone);
    under.store.come_back();
    under.pass_an_hour().await;
    assert_eq!(under.store.tried().len(), 1);
    assert_eq!(under.told(), [Told::Released]);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_new_events_and_queued_ones_are_refused_at_once() {
    let under = Under::holding_commits();
    under.store.then(Outcome::Failed);
    under.store.go_away();
    let _first = under.submit(SUB, "1");
    under.store.commits(1).await;
    let queued = under.submit(OTHER, "2");
    let since = Instant::now();
    under.store.let_through(1);
    assert_eq!(queued.await.unwrap().err(), Some(NOT_STORED));
    assert_eq!(since.elapsed(), Duration::ZERO);
    assert_eq!(under.try_submit(SUB, "3").err(), Some(NOT_STORED));
    assert!(!under.writer.is_up());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_the_deadline_and_one_back_off() {
    let under = Under::start([Outcome::Failed]);
    under.store.go_away();
    let since = Instant::now();
    let answer = under.submit(SUB, "1").await.unwrap();
    assert_eq!(answer.err(), Some(PERHAPS_STORED));
    assert!(since.elapsed() > ACK_DEADLINE && since.elapsed() <= ACK_DEADLINE + RECONNECT_BACKOFF.end);
}

#[tokio::test(start_paused = true)]
async fn an_attempts_log_outlives_any_outage() {
    let under = Under::start([Outcome::Failed]);
    under.store.go_away();
    under.record(under.nth_id(1));
    under.pass_an_hour().await;
    assert_eq!(under.told(), []);
    under.store.come_back();
    under.store.commits(2).await;
    under.quiet().await;
    assert_eq!(under.told(), [Told::Recorded(under.nth_id(1))]);
    assert!(under.writer.is_up());
    under.submit(SUB, "1").await.unwrap().unwrap();
}

/// Producers that never give up, for a minute: how many commits that makes, and what they hear.
async fn a_minute_of_producers(under: &Under) -> usize {
    let start = Instant::now();
    let before = under.store.tried().len();
    while start.elapsed() < Duration::from_secs(60) {
        let since = Instant::now();
        if let Ok(reply) = under.try_submit(SUB, "1") {
            assert_eq!(reply.await.unwrap().err(), Some(NOT_STORED));
        }
        assert!(since.elapsed() <= RECONNECT_BACKOFF.end * 2, "a producer waited for {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    under.store.tried().len() - before
}

#[tokio::test(start_paused = true)]
async fn a_store_that_reads_and_does_not_write_is_not_hammered_and_producers_hear_not_stored() {
    let under = Under::start([]);
    under.store.then(Outcome::Failed);
    let commits = a_minute_of_producers(&under).await;
    assert!((10..=62).contains(&commits), "{commits} commits in a minute");
    assert_eq!(under.store.stored_rows().len(), 0);

    under.store.then(Outcome::Done);
    under.submit(SUB, "1").await.unwrap().unwrap();
    assert!(under.writer.is_up());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_waits_for_a_store_that_does_not_write_does_not_hammer_it_either() {
    let under = Under::start([]);
    under.store.then(Outcome::Failed);
    under.record(under.nth_id(1));
    let commits = a_minute_of_producers(&under).await;
    assert!((10..=62).contains(&commits), "{commits} commits in a minute");
    under.store.then(Outcome::Done);
    under.pass_an_hour().await;
    assert_eq!(under.store.stored_batches().len(), 1);
    assert!(under.told().contains(&Told::Recorded(under.nth_id(1))) && under.writer.is_up());
}

#[tokio::test(start_paused = true)]
async fn our_own_dead_connection_may_hold_the_store_for_a_while() {
    let under = Under::start([Outcome::Unheard]);
    under.store.is_owned_by_another(true);
    let reply = under.submit(SUB, "1");
    tokio::time::sleep(ACK_DEADLINE / 2).await;
    under.store.is_owned_by_another(false);
    reply.await.unwrap().unwrap();
    assert!(under.writer.lost().borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_another_holds_for_longer_is_lost() {
    let mut under = Under::start([Outcome::Unheard]);
    under.store.is_owned_by_another(true);
    let since = Instant::now();
    let reply = under.submit(SUB, "1");
    under.end().await;
    assert!(since.elapsed() >= OWNERSHIP_PATIENCE);
    assert_eq!(reply.await.unwrap().err(), Some(PERHAPS_STORED));
    assert!(matches!(*under.writer.lost().borrow(), Some(StoreError::NotOwner)));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_does_not_own_the_store_refuses_everyone_and_says_so() {
    let mut under = Under::holding_commits();
    under.store.then(Outcome::NotOwner);
    let mut lost = under.writer.lost();
    let committed = under.submit(SUB, "1");
    under.store.commits(1).await;
    let queued = under.submit(SUB, "2");
    under.store.let_through(1);
    assert!(matches!(*lost.wait_for(Option::is_some).await.unwrap(), Some(StoreError::NotOwner)));
    under.end().await;
    for reply in [committed, queued] {
        assert_eq!(reply.await.unwrap().err(), Some(NOT_STORED));
    }
    assert_eq!(under.try_submit(SUB, "3").err(), Some(NOT_STORED));
    assert!(!under.told().iter().any(|told| matches!(told, Told::Committed(_))));
}
