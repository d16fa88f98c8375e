//! Requests that come again under the same key.

use super::super::*;
use super::SUB;
use super::scripted::{Outcome, Told, Under, delivery};

#[tokio::test(start_paused = true)]
async fn the_same_request_under_a_key_that_is_held_is_answered_with_what_the_first_came_to() {
    let under = Under::start([]);
    let first = delivery(under.submit_keyed("k", 1).await.unwrap().unwrap());
    let again = under.submit_keyed("k", 1).await.unwrap().unwrap();
    assert!(matches!(again, Stored::Before(outcome) if outcome == first.0), "{again:?}");
    assert_eq!(under.store.stored_rows().len(), 1);
    let committed = under.told().iter().filter(|told| matches!(told, Told::Committed(_))).count();
    assert_eq!(committed, 1);
}

#[tokio::test(start_paused = true)]
async fn another_request_under_a_key_that_is_held_is_refused() {
    let under = Under::start([]);
    under.submit_keyed("k", 1).await.unwrap().unwrap();
    assert_eq!(under.submit_keyed("k", 2).await.unwrap().err(), Some(WriteError::KeyReused));
    assert_eq!(under.store.stored_rows().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_held_key_does_not_keep_its_neighbours_from_being_stored() {
    let under = Under::holding_commits();
    under.store.let_through(1);
    under.submit_keyed("k", 1).await.unwrap().unwrap();
    let busy = under.submit(SUB, "1");
    under.store.commits(2).await;
    let (other, again, event) = (under.submit(SUB, "2"), under.submit_keyed("k", 1), under.submit_event("e"));
    under.store.let_through(2);
    busy.await.unwrap().unwrap();
    assert!(matches!(again.await.unwrap(), Ok(Stored::Before(_))));
    let (id, event) = (delivery(other.await.unwrap().unwrap()), event.await.unwrap().unwrap());
    let Stored::Event { id: event, deliveries, .. } = event else { panic!("{event:?} is no event") };
    let batch = under.store.tried().pop().unwrap();
    let rows: Vec<_> = batch.deliveries.iter().map(|row| (row.id, row.event_id)).collect();
    assert_eq!(rows, [(id, None), (deliveries[0].1, Some(event)), (deliveries[1].1, Some(event))]);
    assert_eq!(batch.keys.iter().map(|key| key.outcome).collect::<Vec<_>>(), [event.0]);
}

#[tokio::test(start_paused = true)]
async fn of_two_requests_under_one_key_the_second_waits_for_the_first() {
    let under = Under::holding_commits();
    let busy = under.submit(SUB, "1");
    under.store.commits(1).await;
    let (first, second) = (under.submit_keyed("k", 1), under.submit_keyed("k", 1));
    let (other, after) = (under.submit_keyed("k", 2), under.submit(SUB, "2"));
    under.store.let_through(1000);
    busy.await.unwrap().unwrap();
    let id = delivery(first.await.unwrap().unwrap());
    assert!(matches!(second.await.unwrap(), Ok(Stored::Before(outcome)) if outcome == id.0));
    assert_eq!(other.await.unwrap().err(), Some(WriteError::KeyReused));
    after.await.unwrap().unwrap();
    assert_eq!(under.store.stored_rows().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn when_the_first_under_a_key_is_refused_the_second_is_tried_for_itself() {
    let under = Under::holding_commits();
    under.store.refuse(|batch| batch.keys.iter().any(|key| key.request_hash == [1; 32]));
    let busy = under.submit(SUB, "1");
    under.store.commits(1).await;
    let (first, second) = (under.submit_keyed("k", 1), under.submit_keyed("k", 2));
    under.store.let_through(1000);
    busy.await.unwrap().unwrap();
    assert!(matches!(first.await.unwrap(), Err(WriteError::Rejected(_))));
    delivery(second.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lost_commit_that_held_the_key_itself_is_not_taken_for_another_request() {
    for outcome in [Outcome::Unheard, Outcome::Failed] {
        let under = Under::start([outcome]);
        let first = under.submit_keyed("k", 1).await.unwrap().unwrap();
        let id = delivery(first);
        assert_eq!(under.store.stored_rows().iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
    }
}
