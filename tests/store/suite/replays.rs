//! Replays: how far one has come is written with the deliveries that it has made, or not at all.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::audit::{Act, Action, AuditFilter, Thing};
use hookpost::delivery::{Delivery, DeliveryId, DeliveryState, SubscriptionId, Timestamp};
use hookpost::store::{Asked, Batch, Deed, NewReplay, Progress, Replay, ReplayId, ReplayState, Store, StoreError};

use crate::backend::Backend;
use crate::fixtures::*;

fn wanted(subscription_id: SubscriptionId) -> NewReplay {
    let states = vec![DeliveryState::Delivered, DeliveryState::Failed];
    let (first, last) = (DeliveryId(id(0)), DeliveryId(id(60_000)));
    NewReplay { subscription_id, states, first, last, by: Actor::Anonymous }
}

async fn ask(store: &Arc<dyn Store>, sub: SubscriptionId) -> Replay {
    match store.create_replay(&wanted(sub), 10, T0).await.unwrap() {
        Asked::Made(replay) => replay,
        other => panic!("{other:?}"),
    }
}

fn progress(id: ReplayId, from: DeliveryId, to: DeliveryId, resent: u64) -> Progress {
    Progress { id, from, to, matched: resent + 1, resent, with: None }
}

/// A resend, and what goes with it.
fn resent(sub: SubscriptionId, ms: i64, progress: Progress) -> Batch {
    let made = Delivery { resend_of: Some(DeliveryId(id(1))), ..delivery(sub, ms) };
    let act = Act { by: Actor::Anonymous, action: Action::Resent, detail: Some("delivery 1".to_owned()) };
    let deed = Deed { act, object: Thing::Subscription(sub), tenant: Some("default".into()), at: T0, with: made.id };
    let progress = vec![Progress { with: Some(made.id), ..progress }];
    Batch { deeds: vec![deed], progress, ..accepted([made]) }
}

async fn deeds(store: &Arc<dyn Store>, sub: SubscriptionId, action: Action) -> usize {
    let filter = AuditFilter { object: Some(Thing::Subscription(sub)), ..AuditFilter::default() };
    let records = store.audit(&filter, None, 100).await.unwrap();
    records.iter().filter(|record| record.act.action == action).count()
}

pub async fn a_replay_reads_back_and_ends_at_the_last_id_of_now(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let made = ask(&store, sub).await;
    assert_eq!(made.last, DeliveryId::ceiling_at(T0), "what is accepted later is left out");
    assert_eq!((made.first, made.position, made.state), (wanted(sub).first, wanted(sub).first, ReplayState::Running));
    assert_eq!((made.matched, made.resent, made.requested_at, made.ended_at), (0, 0, T0, None));
    assert_eq!((made.subscription_id, &*made.tenant, &made.states), (sub, "default", &wanted(sub).states));
    assert_eq!(store.replay(made.id).await.unwrap(), Some(made.clone()));
    assert_eq!(store.replay(ReplayId(404)).await.unwrap(), None);
    assert_eq!(deeds(&store, sub, Action::Replayed).await, 1);
    assert_eq!(store.create_replay(&wanted(SubscriptionId(404)), 10, T0).await.unwrap(), Asked::Missing);
    // Ids may be ahead of the clock, by what is stored.
    let other = subscribe(&store).await;
    commit(&store, accepted([delivery(other, 500)])).await;
    assert_eq!(ask(&store, other).await.last, DeliveryId(id(500)));
}

pub async fn one_of_a_subscription_runs_at_a_time_and_so_many_of_a_tenant(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    let first = ask(&store, sub).await;
    assert_eq!(store.create_replay(&wanted(sub), 10, T0).await.unwrap(), Asked::Running(first.id));
    assert_eq!(store.create_replay(&wanted(other), 1, T0).await.unwrap(), Asked::TooMany);
    let at_once = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.create_replay(&wanted(other), 10, T0).await.unwrap() })
    });
    let mut made = 0;
    for asked in at_once.collect::<Vec<_>>() {
        made += usize::from(matches!(asked.await.unwrap(), Asked::Made(_)));
    }
    assert_eq!(made, 1);
    let running = store.running_replays(ReplayId(0), 10).await.unwrap();
    assert_eq!((running[0], running.len()), (first.id, 2));
    assert_eq!(store.running_replays(first.id, 10).await.unwrap(), running[1..]);
    store.end_replay(first.id, ReplayState::Done, None, None, T0).await.unwrap();
    let second = ask(&store, sub).await;
    let listed = store.replays(sub, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|replay| replay.id).collect::<Vec<_>>(), [second.id, first.id], "newest first");
    assert_eq!(store.replays(sub, Some(second.id.0), 10).await.unwrap().len(), 1);
    assert_eq!(store.replays(sub, None, 1).await.unwrap().len(), 1);
}

pub async fn progress_is_written_with_the_deliveries_and_once(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let replay = ask(&store, sub).await;
    let (start, next, after) = (replay.position, DeliveryId(id(10)), DeliveryId(id(20)));
    let batch = resent(sub, 100, progress(replay.id, start, next, 1));
    for _ in 0..2 {
        commit(&store, batch.clone()).await;
    }
    let moved = store.replay(replay.id).await.unwrap().unwrap();
    assert_eq!((moved.position, moved.matched, moved.resent), (next, 2, 1), "the same batch twice counts once");
    assert_eq!(deeds(&store, sub, Action::Resent).await, 1);

    // A step from where it was before, made again with other ids, stores nothing.
    let again = resent(sub, 200, progress(replay.id, start, next, 1));
    let error = store.commit(&again).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");
    assert_eq!(store.stored(&[again.deliveries[0].id]).await.unwrap(), []);
    assert_eq!(store.replay(replay.id).await.unwrap().unwrap(), moved);
    assert_eq!(deeds(&store, sub, Action::Resent).await, 1);

    store.advance_replay(&Progress { matched: 0, ..progress(replay.id, next, after, 0) }).await.unwrap();
    let moved = store.replay(replay.id).await.unwrap().unwrap();
    assert_eq!((moved.position, moved.matched, moved.resent), (after, 2, 1));
    assert!(store.advance_replay(&progress(replay.id, next, after, 0)).await.is_err(), "from where it is not");

    // Whoever was told that it has ended may ask for the same range again.
    store.end_replay(replay.id, ReplayState::Cancelled, None, None, T0).await.unwrap();
    let late = resent(sub, 300, progress(replay.id, after, DeliveryId(id(30)), 1));
    assert!(matches!(store.commit(&late).await.unwrap_err(), StoreError::Rejected(_)));
    assert_eq!(store.stored(&[late.deliveries[0].id]).await.unwrap(), []);
}

pub async fn an_ended_replay_stays_as_it_ended_and_its_cancelling_is_on_record_once(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let id = ask(&store, sub).await.id;
    let act = Act::new(Actor::Anonymous, Action::ReplayCancelled);
    for at in [T0, T0 + DAY] {
        let ended = store.end_replay(id, ReplayState::Cancelled, Some("by \0 hand"), Some(&act), at).await.unwrap();
        let ended = ended.unwrap();
        assert_eq!((ended.state, ended.ended_at), (ReplayState::Cancelled, Some(T0)));
        assert!(ended.detail.unwrap().starts_with("by "));
    }
    let done = store.end_replay(id, ReplayState::Done, None, None, T0 + DAY).await.unwrap().unwrap();
    assert_eq!(done.state, ReplayState::Cancelled);
    assert_eq!(deeds(&store, sub, Action::ReplayCancelled).await, 1);
    assert!(store.running_replays(ReplayId(0), 10).await.unwrap().is_empty());
    assert_eq!(store.end_replay(ReplayId(404), ReplayState::Done, None, None, T0).await.unwrap(), None);
}

pub async fn deleting_a_subscription_ends_its_replay_and_keeps_whose_it_was(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let id = ask(&store, sub).await.id;
    store.delete_subscription(sub, &Actor::Hookpost, T0 + DAY).await.unwrap();
    let ended = store.replay(id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.ended_at, &*ended.tenant), (ReplayState::Cancelled, Some(T0 + DAY), "default"));
    assert_eq!(ended.detail.as_deref(), Some("the subscription was deleted"));
}

pub async fn old_replays_are_pruned_and_those_that_run_are_not(backend: &Backend) {
    let store = backend.owned().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let sub = subscribe(&store).await;
        ids.push(ask(&store, sub).await.id);
    }
    for (id, at) in ids.iter().zip([0, 1, 2]) {
        store.end_replay(*id, ReplayState::Done, None, None, Timestamp(T0.0 + at)).await.unwrap();
    }
    let cutoff = Timestamp(T0.0 + 2);
    let counts = store.prune_replays(cutoff, 1).await.unwrap();
    assert_eq!((counts.rows_deleted, counts.more), (1, true));
    assert_eq!(store.prune_replays(cutoff, 10).await.unwrap().rows_deleted, 1);
    for (id, kept) in ids.iter().zip([false, false, true, true]) {
        assert_eq!(store.replay(*id).await.unwrap().is_some(), kept);
    }
}
