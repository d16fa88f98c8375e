//! Resends: their deliveries, the deed and how far a replay has come are one, whatever becomes of the commit.

use super::super::*;
use super::scripted::{Outcome, Under, delivery, read_all};
use super::{OTHER, SUB};
use crate::access::Actor;
use crate::audit::Action;
use crate::store::ReplayId;

/// Two deliveries made again, with all that can go with them.
fn resends(under: &Under, replay: i64) -> What {
    let resend = |n| Resend {
        of: under.nth_id(n),
        event_type: None,
        ordering_key: Some("k".into()),
        payload: Bytes::from_static(b"1"),
        trace: None,
    };
    let progress = Progress {
        id: ReplayId(replay),
        from: under.nth_id(1),
        to: under.nth_id(3),
        matched: 2,
        resent: 2,
        with: None,
    };
    What::Resends {
        subscription_id: SUB,
        resends: vec![resend(1), resend(2)],
        deed: Some((Act::new(Actor::Anonymous, Action::Resent), Some("t".into()))),
        progress: Some(progress),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_is_one_commit_with_what_is_kept_of_it() {
    let under = Under::start([]);
    let first = delivery(under.submit_what(resends(&under, 7), None).unwrap().await.unwrap().unwrap());
    let batch = under.store.stored_batches().remove(0);
    assert_eq!(
        batch.deliveries.iter().map(|made| made.resend_of).collect::<Vec<_>>(),
        [1, 2].map(|n| Some(under.nth_id(n)))
    );
    assert_eq!(batch.deliveries[0].id, first);
    assert_eq!((batch.deeds[0].with, batch.progress[0].with), (first, Some(first)));
    assert_eq!((batch.deeds.len(), batch.progress.len(), batch.progress[0].id), (1, 1, ReplayId(7)));
}

#[tokio::test(start_paused = true)]
async fn what_took_effect_unheard_is_not_made_again() {
    let under = Under::start([Outcome::Unheard]);
    under.submit_what(resends(&under, 7), None).unwrap().await.unwrap().unwrap();
    under.submit(SUB, "1").await.unwrap().unwrap();
    let tried = under.store.tried();
    assert_eq!(tried.iter().map(|batch| batch.progress.len()).collect::<Vec<_>>(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_refused_takes_no_other_with_it_and_each_keeps_its_own() {
    let under = Under::holding_commits();
    let before = under.submit(OTHER, "1");
    under.store.commits(1).await;
    // All of these wait for one commit.
    let replies = [
        under.submit(OTHER, "2"),
        under.submit_what(resends(&under, 7), None).unwrap(),
        under.submit(OTHER, "3"),
        under.submit_what(resends(&under, 8), None).unwrap(),
    ];
    under.store.refuse(|batch| batch.progress.iter().any(|progress| progress.id == ReplayId(7)));
    under.store.let_through(100);
    before.await.unwrap().unwrap();
    let answers = read_all(replies).await;
    assert!(matches!(answers[1], Err(WriteError::Rejected(_))), "{answers:?}");
    assert!([0, 2, 3].iter().all(|at| answers[*at].is_ok()), "{answers:?}");
    let stored = under.store.stored_batches();
    let kept: Vec<_> = stored.iter().flat_map(|batch| &batch.progress).collect();
    assert_eq!((kept.len(), kept[0].id), (1, ReplayId(8)));
    let with = kept[0].with.expect("a delivery");
    let batch = stored.iter().find(|batch| !batch.progress.is_empty()).expect("its batch");
    assert!(batch.deliveries.iter().any(|made| made.id == with && made.resend_of.is_some()));
    assert!(batch.deeds.iter().any(|deed| deed.with == with));
    assert_eq!(under.store.stored_rows().len(), 1 + 2 + 2);
}
