//! Events that go with a log row: in its commit, and never lost.

use super::super::*;
use super::scripted::{Outcome, Told, Under};
use super::{OTHER, SUB};

const NAME: &str = "hookpost.delivery.exhausted";

/// The announcement's delivery, as it was stored.
fn announced(under: &Under) -> Vec<Delivery> {
    under.store.stored_rows().into_iter().filter(|row| row.event_type.as_deref() == Some(NAME)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_announcement_is_made_durable_in_the_commit_of_its_log_and_handed_over() {
    let under = Under::start([]);
    under.record_announced(under.nth_id(1), NAME);
    under.quiet().await;
    let batches = under.store.stored_batches();
    assert_eq!((batches.len(), batches[0].logs.len(), batches[0].events.len()), (1, 1, 1));
    let [delivery] = &announced(&under)[..] else { panic!("one delivery") };
    assert_eq!(delivery.subscription_id, OTHER);
    assert_eq!(
        under.told(),
        [Told::Committed(delivery.id), Told::Released, Told::Recorded(under.nth_id(1))],
        "and nobody waits for it"
    );
    assert_eq!(under.writer.last_id(), delivery.id);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_outlives_any_outage() {
    for lost in [Outcome::Failed, Outcome::Unheard] {
        let under = Under::start([lost]);
        under.store.go_away();
        under.record_announced(under.nth_id(1), NAME);
        under.store.commits(1).await;
        under.pass_an_hour().await;
        under.store.come_back();
        under.pass_an_hour().await;
        let stored = announced(&under);
        assert_eq!(stored.len(), 1, "{lost:?}");
        assert!(under.told().contains(&Told::Committed(stored[0].id)), "{lost:?}");
        assert!(under.told().contains(&Told::Recorded(under.nth_id(1))), "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_outlives_a_store_that_reads_and_does_not_write() {
    let under = Under::start([Outcome::Failed; 10]);
    under.record_announced(under.nth_id(1), NAME);
    under.pass_an_hour().await;
    assert_eq!(announced(&under).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_that_is_refused_does_not_take_its_log_with_it() {
    let under = Under::start([]);
    under.store.refuse(|batch| !batch.events.is_empty());
    under.record_announced(under.nth_id(1), NAME);
    under.submit(SUB, "1").await.unwrap().unwrap();
    under.quiet().await;
    assert!(announced(&under).is_empty());
    assert!(under.told().contains(&Told::Recorded(under.nth_id(1))));
}
