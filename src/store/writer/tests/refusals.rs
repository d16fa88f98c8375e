//! Rows that the store refuses, and what must not go with them.

use super::super::*;
use super::scripted::{Outcome, Told, Under, read_all};
use super::{OTHER, SUB};
use crate::delivery::{Retry, Timestamp};
use crate::store::Batch;

/// Holds the first commit until `fill` has queued what is to be one batch.
async fn one_batch<T>(fill: impl FnOnce(&Under) -> T) -> (Under, T) {
    let under = Under::holding_commits();
    let first = under.submit(SUB, "first");
    under.store.commits(1).await;
    let filled = fill(&under);
    under.store.let_through(1000);
    first.await.unwrap().unwrap();
    (under, filled)
}

fn holds_bad_delivery(batch: &Batch) -> bool {
    batch.deliveries.iter().any(|delivery| delivery.payload == "bad")
}

fn is_bad(event_type: &str) -> bool {
    event_type == "bad"
}

fn retry_of(id: DeliveryId) -> RetryChange {
    let next_attempt_at = Timestamp(1_750_000_000_000);
    RetryChange::Schedule(Retry {
        delivery_id: id,
        subscription_id: SUB,
        attempt_number: 2,
        next_attempt_at,
        ordering_key: None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_refused_delivery_does_not_take_its_neighbours_with_it() {
    for bad in 0..5 {
        let (under, replies) = one_batch(|under| {
            under.store.refuse(holds_bad_delivery);
            (1..=3).for_each(|n| under.record(under.nth_id(n)));
            (0..5).map(|n| under.submit(SUB, if n == bad { "bad" } else { "good" })).collect::<Vec<_>>()
        })
        .await;
        let answers = read_all(replies).await;
        assert!(matches!(&answers[bad], Err(WriteError::Rejected(why)) if why.contains("cannot be stored")));
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 4);
        assert_eq!(under.store.stored_rows().len(), 1 + 4);
        under.quiet().await;
        let recorded = |n| under.told().contains(&Told::Recorded(under.nth_id(n)));
        assert!((1..=3).all(recorded));
        assert!(under.writer.is_up());
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_stays_with_its_deliveries_and_its_key() {
    let (under, replies) = one_batch(|under| {
        under.store.refuse(|batch| batch.events.iter().any(|event| is_bad(&event.event_type)));
        ["a", "b", "bad", "c"].map(|event_type| under.submit_event(event_type))
    })
    .await;
    let answers = read_all(replies).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    let mut stored = Vec::new();
    for batch in under.store.stored_batches().into_iter().skip(1) {
        for event in &batch.events {
            let deliveries: Vec<_> =
                batch.deliveries.iter().filter(|delivery| delivery.event_id == Some(event.id)).collect();
            assert_eq!(deliveries.iter().map(|delivery| delivery.subscription_id).collect::<Vec<_>>(), [SUB, OTHER]);
            let keys: Vec<_> = batch.keys.iter().filter(|key| key.outcome == event.id.0).collect();
            assert_eq!(keys.iter().map(|key| &*key.key).collect::<Vec<_>>(), [&*event.event_type]);
            stored.push(event.event_type.to_string());
        }
        assert_eq!((batch.deliveries.len(), batch.keys.len()), (batch.events.len() * 2, batch.events.len()));
    }
    assert_eq!(stored, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_and_the_end_of_one_stay_with_their_logs() {
    let (under, ()) = one_batch(|under| {
        under.store.refuse(|batch| batch.logs.len() > 1);
        under.record_with(under.nth_id(1), retry_of(under.nth_id(1)), None);
        under.record_with(under.nth_id(2), RetryChange::Settle, None);
        under.record_with(under.nth_id(3), retry_of(under.nth_id(3)), None);
        under.record_with(under.nth_id(4), RetryChange::None, None);
    })
    .await;
    under.quiet().await;
    let stored = under.store.stored_batches().split_off(1);
    let rows = stored.iter().map(|batch| {
        let retries = batch.retries.iter().map(|retry| retry.delivery_id).collect::<Vec<_>>();
        (batch.logs[0].delivery_id, retries, batch.settled.clone())
    });
    let [one, two, three, four] = [1, 2, 3, 4].map(|n| under.nth_id(n));
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [(one, vec![one], vec![]), (two, vec![], vec![two]), (three, vec![three], vec![]), (four, vec![], vec![])]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_log_loses_its_texts_and_not_its_place() {
    let (under, ()) = one_batch(|under| {
        under.store.refuse(|batch| batch.logs.iter().any(|log| log.error_details.is_some()));
        under.record_with(under.nth_id(1), retry_of(under.nth_id(1)), None);
    })
    .await;
    under.quiet().await;
    let batch = &under.store.stored_batches()[1];
    assert_eq!((&batch.logs[0].error_details, &batch.logs[0].response_body), (&None, &None));
    assert_eq!(batch.retries.len(), 1);
    assert!(under.told().ends_with(&[Told::Recorded(under.nth_id(1))]));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_refused_whatever_it_says_does_not_hold_its_delivery_up() {
    let (under, ()) = one_batch(|under| {
        under.store.refuse(|batch| !batch.logs.is_empty());
        under.record(under.nth_id(1));
    })
    .await;
    under.quiet().await;
    assert!(under.told().ends_with(&[Told::Recorded(under.nth_id(1))]));
    under.submit(SUB, "next").await.unwrap().unwrap();
}

/// The entry would take the position for durable, and the watermark would pass what is untried above it.
#[tokio::test(start_paused = true)]
async fn a_position_is_stored_although_the_only_row_beside_it_is_refused() {
    let (under, ()) = one_batch(|under| {
        under.store.refuse(|batch| !batch.logs.is_empty());
        under.record(under.nth_id(1));
        under.writer.position(under.sink.clone(), SUB, Some(under.nth_id(9)));
        under.writer.watermark(under.nth_id(8));
    })
    .await;
    under.quiet().await;
    let stored = under.store.stored_batches().split_off(1);
    assert_eq!(
        stored.iter().flat_map(|batch| batch.positions.clone()).collect::<Vec<_>>(),
        [(SUB, Some(under.nth_id(9)))]
    );
    assert_eq!(stored.iter().find_map(|batch| batch.watermark), Some(under.nth_id(8)));
    assert!(under.told().contains(&Told::Positioned(Some(under.nth_id(9)))));
    assert!(under.told().contains(&Told::Recorded(under.nth_id(1))));
}

#[tokio::test(start_paused = true)]
async fn a_position_is_stored_although_the_only_event_beside_it_is_refused() {
    let (under, reply) = one_batch(|under| {
        under.store.refuse(holds_bad_delivery);
        under.writer.position(under.sink.clone(), OTHER, None);
        under.submit(SUB, "bad")
    })
    .await;
    assert!(matches!(reply.await.unwrap(), Err(WriteError::Rejected(_))));
    under.quiet().await;
    assert_eq!(under.store.stored_batches()[1].positions, [(OTHER, None)]);
    assert!(under.told().contains(&Told::Positioned(None)));
}

/// A sink that is told of a position takes it for stored.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_of_a_position_that_is_refused() {
    let (under, ()) = one_batch(|under| {
        under.store.refuse(|batch| !batch.positions.is_empty());
        under.writer.position(under.sink.clone(), SUB, Some(under.nth_id(9)));
    })
    .await;
    under.quiet().await;
    assert!(!under.told().iter().any(|told| matches!(told, Told::Positioned(_))));
    under.submit(SUB, "next").await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_a_full_backlog_refused_ends_in_the_commit_of_its_event_and_is_not_handed_over() {
    let (under, reply) = one_batch(|under| {
        under.record(under.nth_id(1));
        under.submit_event_with_refusal("order.created")
    })
    .await;
    let Stored::Event { id, deliveries, refused } = reply.await.unwrap().unwrap() else { panic!("it is an event") };
    let ([(OTHER, taken)], [(SUB, ended)]) = (&deliveries[..], &refused[..]) else {
        panic!("{deliveries:?} {refused:?}")
    };
    under.quiet().await;
    let committed: Vec<_> =
        under.told().into_iter().filter(|told| matches!(told, Told::Committed(_))).skip(1).collect();
    assert_eq!(committed, [Told::Committed(*taken)]);
    assert!(under.told().contains(&Told::Recorded(under.nth_id(1))), "the log beside it is an attempt's");
    let stored = &under.store.stored_batches()[1];
    assert_eq!((stored.events[0].id, stored.events[0].deliveries), (id, 2));
    let log = stored.logs.iter().find(|log| log.delivery_id == *ended).expect("a row that says so");
    assert_eq!((log.subscription_id, log.attempt_number), (SUB, 0));
    assert!(log.error_details.as_ref().unwrap().contains("backlog of 7"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_refused_delivery_stays_with_its_event_when_a_batch_is_halved() {
    for position in 0..4 {
        let (under, replies) = one_batch(|under| {
            under.store.refuse(holds_bad_delivery);
            (1..=3).for_each(|n| under.record(under.nth_id(n)));
            let mut replies = Vec::new();
            for n in 0..4 {
                replies.push(under.submit(SUB, if n == position { "bad" } else { "good" }));
                replies.push(under.submit_event_with_refusal("order.created"));
            }
            replies
        })
        .await;
        assert_eq!(read_all(replies).await.iter().filter(|answer| answer.is_err()).count(), 1);
        under.quiet().await;
        for batch in under.store.stored_batches() {
            let refused = batch.deliveries.iter().filter(|row| row.event_id.is_some() && row.subscription_id == SUB);
            let refused: Vec<_> = refused.map(|row| row.id).collect();
            let ended: Vec<_> =
                batch.logs.iter().filter(|log| log.attempt_number == 0).map(|log| log.delivery_id).collect();
            assert_eq!(ended, refused);
        }
        assert!((1..=3).all(|n| under.told().contains(&Told::Recorded(under.nth_id(n)))));
    }
}

/// An outage ended with a row that is refused, and whoever came next was told that the store is away.
#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_a_row_after_an_outage_is_back() {
    let under = Under::holding_commits();
    under.store.then(Outcome::Failed);
    let answer = under.submit(SUB, "bad");
    under.store.let_through(1);
    under.store.commits(2).await;
    assert!(!under.writer.is_up());
    under.store.refuse(holds_bad_delivery);
    under.store.let_through(1);
    let refused = answer.await.unwrap();
    assert!(matches!(refused, Err(WriteError::Rejected(_))), "{refused:?}");
    assert!(under.writer.is_up());
}
