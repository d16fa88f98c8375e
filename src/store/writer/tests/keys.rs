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

/// They used to end the batch, so that one producer with a constant key left everyone a row or two a commit.
#[tokio::test(start_paused = true)]
async fn a_repeated_key_does_not_end_the_batch() {
    let under = Under::holding_commits();
    let busy = under.submit(SUB, "1");
    under.store.commits(1).await;
    let repeated: Vec<_> = (0..300).map(|_| under.submit_keyed("k", 1)).collect();
    let behind = under.submit(SUB, "2");
    under.store.let_through(2);
    busy.await.unwrap().unwrap();
    behind.await.unwrap().unwrap();
    assert_eq!(under.store.tried()[1].deliveries.len(), 2, "the first of the key, and what was behind the others");
    under.store.let_through(1000);
    for again in repeated {
        again.await.unwrap().unwrap();
    }
    assert_eq!(under.store.stored_rows().len(), 3);
}

/// It used to count as a failed commit, and refused everyone.
#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_looked_up_refuses_its_own_event_and_no_other() {
    let under = Under::holding_commits();
    let busy = under.submit(SUB, "1");
    under.store.commits(1).await;
    under.store.fail_key_reads();
    let (keyed, plain) = (under.submit_keyed("k", 1), under.submit(SUB, "2"));
    under.store.let_through(1000);
    busy.await.unwrap().unwrap();
    assert_eq!(keyed.await.unwrap().err(), Some(WriteError::Unavailable { ambiguous: false }));
    plain.await.unwrap().unwrap();
    assert!(under.writer.is_up());
    assert_eq!(under.store.stored_rows().len(), 2);
}

/// A sink that asks the writer something when it is released, as the supervisor does behind the lock that a fan-out's
/// sink takes.
struct Asks(Writer);

impl DeliverySink for Asks {
    fn committed(&self, _: Delivery) {}
    fn released(&self) {
        self.0.settled_through();
    }
}

/// The writer used to drop the claims of producers that had gone away while it held its queue: a deadlock.
#[tokio::test(start_paused = true)]
async fn claims_of_producers_that_went_away_are_released_outside_the_queue() {
    let under = Under::holding_commits();
    let busy = under.submit(SUB, "1");
    under.store.commits(1).await;
    let (reply, gone) = oneshot::channel();
    drop(gone);
    let what = What::Delivery {
        trace: None,
        subscription_id: SUB,
        event_type: None,
        ordering_key: None,
        payload: Bytes::from_static(b"1"),
    };
    let claim = Claim::on(Arc::new(Asks(under.writer.clone())));
    under.writer.submit(Submission { claim, what, key: None, reply }).unwrap();
    let behind = under.submit(SUB, "2");
    under.store.let_through(1000);
    busy.await.unwrap().unwrap();
    behind.await.unwrap().unwrap();
    assert_eq!(under.store.stored_rows().len(), 2);
}

/// It used to take a commit with others and, when it was too much for the store, them with it.
#[tokio::test(start_paused = true)]
async fn a_large_fan_out_has_a_commit_of_its_own_and_is_refused_alone_when_the_store_cannot_take_it() {
    let under = Under::holding_commits();
    let busy = under.submit(SUB, "1");
    under.store.commits(1).await;
    let before = under.submit(SUB, "2");
    let large = under.submit_large_event(1025);
    let after = under.submit(SUB, "3");
    under.store.let_through(2);
    before.await.unwrap().unwrap();
    under.store.commits(3).await;
    under.store.then(Outcome::Failed);
    under.store.let_through(1);
    assert_eq!(large.await.unwrap().err(), Some(WriteError::Unavailable { ambiguous: false }));
    under.store.then(Outcome::Done);
    under.store.let_through(1000);
    busy.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    let sizes: Vec<_> = under.store.tried().iter().map(|batch| batch.deliveries.len()).collect();
    assert_eq!(sizes, [1, 1, 1025, 1]);
}
