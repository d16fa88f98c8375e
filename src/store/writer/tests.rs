//! The writer over a store that does as it is told, in paused time: who is told what, and when.

mod announced;
mod keys;
mod linger;
mod outage;
mod refusals;
mod resends;
mod scripted;

use scripted::{Outcome, Told, Under, read_all};

use super::*;
use crate::store::writer::task::MAX_BATCH_ROWS;

const SUB: SubscriptionId = SubscriptionId(1);
const OTHER: SubscriptionId = SubscriptionId(2);

#[tokio::test(start_paused = true)]
async fn nobody_is_told_before_the_commit_returns() {
    let under = Under::holding_commits();
    let mut reply = under.submit(SUB, "1");
    under.record(under.nth_id(7));
    under.store.commits(1).await;
    under.quiet().await;
    assert!(reply.try_recv().is_err(), "the commit has not returned");
    assert_eq!(under.told(), []);

    under.store.let_through(1);
    let Ok(Ok(Stored::Delivery(id))) = reply.await else { panic!("it is stored") };
    assert_eq!(under.told(), [Told::Committed(id), Told::Released, Told::Recorded(under.nth_id(7))]);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_commit_shares_the_next_one() {
    let under = Under::holding_commits();
    let first = under.submit(SUB, "1");
    under.store.commits(1).await;
    let others = [under.submit(SUB, "2"), under.submit(OTHER, "3")];
    under.record(under.nth_id(7));
    under.writer.watermark(under.nth_id(6));
    under.store.let_through(2);
    first.await.unwrap().unwrap();
    for reply in others {
        reply.await.unwrap().unwrap();
    }
    let tried = under.store.tried();
    let rows: Vec<_> = tried.iter().map(|batch| (batch.deliveries.len(), batch.logs.len())).collect();
    assert_eq!(rows, [(1, 0), (2, 1)]);
    assert_eq!(tried[1].watermark, Some(under.nth_id(6)));
}

#[tokio::test(start_paused = true)]
async fn the_order_of_ids_is_that_of_submission_and_of_commits_and_above_what_was_stored() {
    let under = Under::holding_commits();
    let mut replies = vec![under.submit(SUB, "0")];
    under.store.commits(1).await;
    replies.extend((1..40).map(|n| under.submit(SUB, &n.to_string())));
    under.store.let_through(2);
    let ids: Vec<_> = read_all(replies).await.into_iter().map(|stored| scripted::delivery(stored.unwrap())).collect();
    assert!(ids.is_sorted() && ids[0].0 > scripted::NEWEST);
    let payloads: Vec<_> = under.store.stored_rows().into_iter().map(|delivery| delivery.payload).collect();
    assert_eq!(payloads, (0..40).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_and_the_rest_is_the_next() {
    let under = Under::holding_commits();
    let mut replies = vec![under.submit(SUB, "0")];
    under.store.commits(1).await;
    replies.extend((0..=MAX_BATCH_ROWS).map(|_| under.submit(SUB, "1")));
    under.store.let_through(3);
    assert!(read_all(replies).await.iter().all(Result::is_ok));
    let rows: Vec<_> = under.store.tried().iter().map(|batch| batch.deliveries.len()).collect();
    assert_eq!(rows, [1, MAX_BATCH_ROWS, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_one_more_at_once() {
    let under = Under::holding_commits();
    let _first = under.submit(SUB, "0");
    under.store.commits(1).await;
    let _waiting: Vec<_> = (0..MAX_QUEUED).map(|_| under.submit(SUB, "1")).collect();
    assert_eq!(under.try_submit(SUB, "1").err(), Some(WriteError::Full));
}

#[tokio::test(start_paused = true)]
async fn a_submission_whose_producer_went_away_before_the_commit_is_dropped() {
    let under = Under::holding_commits();
    let first = under.submit(SUB, "1");
    under.store.commits(1).await;
    drop(under.submit(SUB, "gone"));
    let last = under.submit(SUB, "3");
    under.store.let_through(2);
    first.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    let payloads: Vec<_> = under.store.stored_rows().into_iter().map(|delivery| delivery.payload).collect();
    assert_eq!(payloads, ["1", "3"]);
    let released = under.told().iter().filter(|told| **told == Told::Released).count();
    assert_eq!(released, 3, "a claim ends with its submission, whatever became of it");
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_ends_below_every_delivery_whose_fate_is_open() {
    let under = Under::holding_commits();
    let before = under.writer.settled_through();
    assert_eq!(before, DeliveryId(scripted::NEWEST));
    let first = under.submit(SUB, "1");
    let second = under.submit(SUB, "2");
    under.store.commits(1).await;
    let open = under.store.tried()[0].deliveries[0].id;
    assert!(under.writer.settled_through() < open && under.writer.last_id() > open);

    under.store.let_through(1);
    first.await.unwrap().unwrap();
    let last = scripted::delivery(second.await.unwrap().unwrap());
    under.quiet().await;
    assert_eq!(under.writer.settled_through(), last);
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_waits_for_a_commit_that_an_outage_holds_up() {
    let under = Under::start([Outcome::Unheard]);
    under.store.go_away();
    let reply = under.submit(SUB, "1");
    under.store.commits(1).await;
    let open = under.store.tried()[0].deliveries[0].id;
    under.pass_an_hour().await;
    assert!(under.writer.settled_through() < open, "stored, and no actor knows of it");
    assert!(!under.told().contains(&Told::Committed(open)));

    under.store.come_back();
    under.pass_an_hour().await;
    assert!(under.told().contains(&Told::Committed(open)));
    assert_eq!(under.writer.settled_through(), open);
    assert_eq!(reply.await.unwrap().err(), Some(WriteError::Unavailable { ambiguous: true }));
}

#[tokio::test(start_paused = true)]
async fn the_last_position_of_a_subscription_wins() {
    let under = Under::holding_commits();
    let first = under.submit(SUB, "1");
    under.store.commits(1).await;
    for position in [Some(under.nth_id(1)), None, Some(under.nth_id(2))] {
        under.writer.position(under.sink.clone(), SUB, position);
    }
    under.writer.position(under.sink.clone(), OTHER, None);
    under.store.let_through(2);
    first.await.unwrap().unwrap();
    under.quiet().await;
    assert_eq!(under.store.tried()[1].positions, [(SUB, Some(under.nth_id(2))), (OTHER, None)]);
    assert!(under.told().ends_with(&[Told::Positioned(Some(under.nth_id(2))), Told::Positioned(None)]));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_holds_its_place_until_its_row_is_durable() {
    let under = Under::holding_commits();
    let places = Arc::new(tokio::sync::Semaphore::new(1));
    let place = places.clone().try_acquire_owned().unwrap();
    under.record_with(under.nth_id(1), RetryChange::None, Some(Box::new(place)));
    under.store.commits(1).await;
    under.quiet().await;
    assert_eq!(places.available_permits(), 0);
    under.store.let_through(1);
    drop(places.acquire().await.unwrap());
    assert_eq!(under.told(), [Told::Recorded(under.nth_id(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_writer_refuses_and_ends_once_the_rest_is_written() {
    let mut under = Under::holding_commits();
    let first = under.submit(SUB, "1");
    under.store.commits(1).await;
    let second = under.submit(SUB, "2");
    under.record(under.nth_id(1));
    under.writer.close();
    assert_eq!(under.try_submit(SUB, "3").err(), Some(WriteError::Unavailable { ambiguous: false }));
    under.store.let_through(2);
    under.end().await;
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
    assert!(under.told().contains(&Told::Recorded(under.nth_id(1))));
}
