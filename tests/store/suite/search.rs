//! Finding deliveries: by what they are, by where they stand, in pages, with a bounded amount of work.

use std::sync::Arc;

use hookpost::access::Actor;
use hookpost::delivery::{Delivery, DeliveryId, DeliveryState, Outcome, SubscriptionId};
use hookpost::store::search::find;
use hookpost::store::{Batch, MAX_RESENDS, NewSubscription, Search, Store};

use crate::backend::Backend;
use crate::fixtures::*;

/// What is found, page by page, as milliseconds after [`T0`].
async fn found(store: &Arc<dyn Store>, mut search: Search, limit: usize) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let page = find(&**store, &search, limit).await.unwrap();
        assert!(page.deliveries.len() <= limit);
        all.extend(page.deliveries.iter().map(|found| found.id.accepted_at().0 - T0.0));
        let Some(reached) = page.reached else { return all };
        if search.oldest_first {
            search.first = reached.successor();
        } else {
            search.last = reached.predecessor();
        }
    }
}

fn in_state(state: DeliveryState) -> Search {
    Search { states: vec![state], ..Search::all() }
}

fn of(id: SubscriptionId) -> Search {
    Search { subscription_id: Some(id), ..Search::all() }
}

/// Accepted, and failed for good at the first attempt.
fn failed(deliveries: impl IntoIterator<Item = Delivery>) -> Batch {
    let mut batch = delivered(deliveries);
    batch.logs.iter_mut().for_each(|log| log.outcome = Outcome::Failure);
    batch
}

pub async fn deliveries_are_found_newest_or_oldest_first_in_pages(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, other) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, delivered([10, 20, 30].map(|ms| delivery(sub, ms)))).await;
    commit(&store, accepted([delivery(other, 40), delivery(sub, 50)])).await;
    for limit in [1, 2, 3, 100] {
        assert_eq!(found(&store, Search::all(), limit).await, [50, 40, 30, 20, 10]);
        assert_eq!(found(&store, of(sub), limit).await, [50, 30, 20, 10]);
        let upward = Search { oldest_first: true, ..of(sub) };
        assert_eq!(found(&store, upward, limit).await, [10, 20, 30, 50]);
        assert_eq!(found(&store, Search { oldest_first: true, ..Search::all() }, limit).await, [10, 20, 30, 40, 50]);
    }
    assert!(found(&store, of(SubscriptionId(404)), 10).await.is_empty());
}

pub async fn each_state_is_found_and_nothing_else(backend: &Backend) {
    let store = backend.owned().await;
    let (sub, gone) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, delivered([10, 15].map(|ms| delivery(sub, ms)))).await;
    commit(&store, failed([20, 25].map(|ms| delivery(sub, ms)))).await;
    commit(&store, retried([30, 35].map(|ms| delivery(sub, ms)), 90_000)).await;
    commit(&store, accepted([40, 45].map(|ms| delivery(gone, ms)))).await;
    commit(&store, failed([delivery(gone, 50)])).await;
    store.delete_subscription(gone, &Actor::Hookpost, T0).await.unwrap();
    commit(&store, accepted([60, 65].map(|ms| delivery(sub, ms)))).await;
    for (state, all, of_sub) in [
        (DeliveryState::Delivered, vec![15, 10], vec![15, 10]),
        (DeliveryState::Failed, vec![50, 25, 20], vec![25, 20]),
        (DeliveryState::Retrying, vec![35, 30], vec![35, 30]),
        (DeliveryState::Cancelled, vec![45, 40], vec![]),
        (DeliveryState::Pending, vec![65, 60], vec![65, 60]),
    ] {
        for limit in [1, 10] {
            assert_eq!(found(&store, in_state(state), limit).await, all, "{state:?}");
            let search = Search { subscription_id: Some(sub), ..in_state(state) };
            assert_eq!(found(&store, search, limit).await, of_sub, "{state:?} of one");
            let upward = Search { oldest_first: true, ..in_state(state) };
            let back: Vec<_> = all.iter().rev().copied().collect();
            assert_eq!(found(&store, upward, limit).await, back, "{state:?} oldest first");
        }
    }
    let ended = Search { states: vec![DeliveryState::Failed, DeliveryState::Delivered], ..of(sub) };
    assert_eq!(found(&store, ended, 3).await, [25, 20, 15, 10]);
}

/// A retry's last attempt says that it failed for good, or that it came through: it is found as what it is by now.
pub async fn what_has_changed_its_state_is_found_in_the_last_one(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let [fails, late] = [10, 20].map(|ms| delivery(sub, ms));
    commit(&store, retried([fails.clone(), late.clone()], 500)).await;
    let logs = vec![log(&fails, 600, 2, Outcome::Failure), log(&late, 601, 2, Outcome::Failure)];
    commit(&store, Batch { logs, settled: vec![fails.id, late.id], ..Batch::default() }).await;
    // As when the janitor ended it while an attempt was under way.
    commit(&store, Batch { logs: vec![log(&late, 700, 3, Outcome::Success)], ..Batch::default() }).await;
    assert_eq!(found(&store, in_state(DeliveryState::Failed), 10).await, [10]);
    assert_eq!(found(&store, in_state(DeliveryState::Delivered), 10).await, [20]);
    assert!(found(&store, in_state(DeliveryState::Retrying), 10).await.is_empty());
    // And one that has failed twice is found once.
    commit(&store, Batch { logs: vec![log(&fails, 800, 3, Outcome::Failure)], ..Batch::default() }).await;
    assert_eq!(found(&store, in_state(DeliveryState::Failed), 10).await, [10]);
}

pub async fn what_is_pending_below_the_watermark_is_found_behind_its_subscriptions_position(backend: &Backend) {
    let store = backend.owned().await;
    let (behind, other) = (subscribe(&store).await, subscribe(&store).await);
    commit(&store, delivered([delivery(behind, 10)])).await;
    let positions = vec![(behind, Some(DeliveryId(id(10))))];
    let watermark = Some(DeliveryId(id(30)));
    commit(&store, Batch { positions, watermark, ..accepted([delivery(behind, 20)]) }).await;
    commit(&store, accepted([delivery(other, 40)])).await;
    assert_eq!(found(&store, in_state(DeliveryState::Pending), 10).await, [40, 20]);
    for (sub, pending) in [(behind, [20]), (other, [40])] {
        let search = Search { subscription_id: Some(sub), ..in_state(DeliveryState::Pending) };
        assert_eq!(found(&store, search, 10).await, pending);
    }
}

pub async fn what_is_found_has_everything_that_is_named(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let acme = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        target_url: "http://b.example/".to_owned(),
        event_types: vec![],
        secrets: None,
        tenant: "acme".to_owned(),
        settings: hookpost::delivery::Settings::default(),
    };
    let acme = store.create_subscription(acme, 1, T0).await.unwrap().unwrap().id;
    let typed = |sub, ms, name: &str| Delivery { event_type: Some(name.into()), ..delivery(sub, ms) };
    commit(&store, delivered([typed(sub, 10, "a"), typed(acme, 20, "a"), typed(sub, 30, "b")])).await;
    let resend = Delivery { resend_of: Some(DeliveryId(id(10))), ..typed(sub, 40, "a") };
    commit(&store, failed([resend, typed(acme, 50, "b")])).await;
    let event_type = |name: &str| Search { event_type: Some(name.into()), ..Search::all() };
    let tenant = |name: &str| Search { tenant: Some(name.into()), ..Search::all() };
    assert_eq!(found(&store, event_type("a"), 10).await, [40, 20, 10]);
    assert_eq!(found(&store, tenant("acme"), 10).await, [50, 20]);
    assert_eq!(found(&store, Search { firsts_only: true, ..event_type("a") }, 10).await, [20, 10]);
    let failed = Search { tenant: Some("acme".into()), ..in_state(DeliveryState::Failed) };
    assert_eq!(found(&store, failed, 10).await, [50]);
    let (first, last) = (DeliveryId(id(20)), DeliveryId(id(40)));
    assert_eq!(found(&store, Search { first, last, ..Search::all() }, 10).await, [40, 30, 20]);
    assert_eq!(found(&store, Search { first, last, ..of(sub) }, 10).await, [40, 30]);
    // A tenant keeps what a deleted subscription of its own has left.
    store.delete_subscription(acme, &Actor::Hookpost, T0).await.unwrap();
    assert_eq!(found(&store, Search { subscription_id: Some(acme), ..tenant("acme") }, 10).await, [50, 20]);
    assert_eq!(found(&store, tenant("acme"), 10).await, [50, 20]);
    let foreign = store.search_step(&Search { subscription_id: Some(acme), ..tenant("bolt") }, 1).await.unwrap();
    assert_eq!((foreign.examined, foreign.reached), (0, None), "it is not even looked for");
}

/// Of few subscriptions each is searched; of many, what all tenants have is looked through.
pub async fn a_tenants_deliveries_come_in_order_however_many_subscriptions_it_has(backend: &Backend) {
    let store = backend.owned().await;
    let other = subscribe(&store).await;
    let mut of_acme = Vec::new();
    for count in [1_i64, 3, 20] {
        while of_acme.len() < usize::try_from(count).unwrap() {
            let acme = NewSubscription {
                by: Actor::Hookpost,
                id: store.reserve_subscription_id().await.unwrap(),
                target_url: "http://b.example/".to_owned(),
                event_types: vec![],
                secrets: None,
                tenant: "acme".to_owned(),
                settings: hookpost::delivery::Settings::default(),
            };
            of_acme.push(store.create_subscription(acme, 100, T0).await.unwrap().unwrap().id);
        }
        let begin = count * 10_000;
        let whose = |n: i64| if n % 3 == 0 { other } else { of_acme[usize::try_from(n).unwrap() % of_acme.len()] };
        commit(&store, delivered((0..60).map(|n| delivery(whose(n), begin + n * 10)))).await;
        let (first, last) = (DeliveryId(id(begin)), DeliveryId(id(begin + 600)));
        let of_tenant = Search { tenant: Some("acme".into()), first, last, ..Search::all() };
        let mut expected: Vec<_> = (0..60).filter(|n| n % 3 != 0).map(|n| begin + n * 10).collect();
        for oldest_first in [true, false] {
            for limit in [1, 7, 100] {
                let search = Search { oldest_first, ..of_tenant.clone() };
                assert_eq!(found(&store, search, limit).await, expected, "{count} {oldest_first} {limit}");
            }
            expected.reverse();
        }
    }
    assert_eq!(store.subscriptions_ever("acme", 19).await.unwrap(), None);
    store.delete_subscription(of_acme[0], &Actor::Hookpost, T0).await.unwrap();
    assert_eq!(store.subscriptions_ever("acme", 20).await.unwrap().unwrap().len(), 20, "it is remembered");
    assert_eq!(store.subscriptions_ever("bolt", 20).await.unwrap(), Some(vec![]));
}

pub async fn a_delivery_that_is_found_says_what_it_is(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let event = event(10);
    commit(&store, fanned_out(&event, &[sub])).await;
    commit(&store, retried([delivery(sub, 200)], 90_000)).await;
    let page = find(&*store, &Search::all(), 10).await.unwrap().deliveries;
    let [retried, of_event] = page.as_slice() else { panic!("{page:?}") };
    assert_eq!((of_event.event_id, of_event.event_type.as_deref()), (Some(event.id), Some("order.created")));
    assert_eq!((of_event.tenant.as_deref(), of_event.subscription_exists), (Some("default"), true));
    assert_eq!(retried.next_attempt_at.map(|at| at.0 - T0.0), Some(90_000));
    assert_eq!((retried.event_id, retried.resend_of, retried.last_outcome), (None, None, Some(Outcome::FailedAttempt)));
}

pub async fn a_step_looks_at_no_more_than_it_may_and_says_how_far_it_came(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    commit(&store, failed((1..=10).map(|n| delivery(sub, n * 10)))).await;
    let rare = |search: Search| Search { event_type: Some("rare".into()), ..search };
    for search in [Search::all(), of(sub), in_state(DeliveryState::Failed)] {
        let step = store.search_step(&rare(search.clone()), 3).await.unwrap();
        assert_eq!((step.found.len(), step.examined), (0, 3), "{search:?}");
        assert_eq!(step.reached, Some(DeliveryId(id(80))), "{search:?}");
        let upward = Search { oldest_first: true, ..rare(search) };
        assert_eq!(store.search_step(&upward, 3).await.unwrap().reached, Some(DeliveryId(id(30))));
        assert_eq!(store.search_step(&upward, 100).await.unwrap().reached, None);
    }
}

/// The embedded store finds a subscription's deliveries from one stretch of rows to the next.
pub async fn a_subscription_is_found_among_many_rows_of_others(backend: &Backend) {
    let store = backend.owned().await;
    let (busy, rare) = (subscribe(&store).await, subscribe(&store).await);
    let of_row = |n: i64| if n % 5_000 == 1 { rare } else { busy };
    for first in (1..=5_001).step_by(1_000) {
        commit(&store, accepted((first..(first + 1_000).min(5_002)).map(|n| delivery(of_row(n), n)))).await;
    }
    assert_eq!(found(&store, of(rare), 10).await, [5_001, 1]);
    assert_eq!(found(&store, Search { oldest_first: true, ..of(rare) }, 1).await, [1, 5_001]);
    assert_eq!(found(&store, of(busy), 500).await.len(), 4_999);
    assert_eq!(found(&store, Search { oldest_first: true, ..of(busy) }, 400).await.len(), 4_999);
    let within = Search { first: DeliveryId(id(2)), last: DeliveryId(id(5_000)), ..of(rare) };
    assert!(found(&store, within, 10).await.is_empty());
}

pub async fn payloads_come_by_id_up_to_so_many_bytes_and_one_however_large(backend: &Backend) {
    let store = backend.owned().await;
    let sub = subscribe(&store).await;
    let event = event(10);
    commit(&store, fanned_out(&event, &[sub])).await;
    let of_event = DeliveryId(id(110));
    let resend = Delivery { resend_of: Some(of_event), ordering_key: Some("k".into()), ..delivery(sub, 200) };
    commit(&store, delivered([resend.clone(), delivery(sub, 300)])).await;
    let ids = [DeliveryId(id(300)), resend.id, of_event, DeliveryId(id(404))];
    let read = async |bytes| store.deliveries(&ids, bytes).await.unwrap();
    let all = read(usize::MAX).await;
    assert_eq!(all.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [of_event, resend.id, ids[0]]);
    assert_eq!((&all[0].payload, all[0].resend_of), (&event.payload, None));
    assert_eq!((all[1].resend_of, all[1].ordering_key.as_deref()), (Some(of_event), Some("k")));
    assert_eq!(all[1].webhook_id(), of_event);
    assert_eq!(read(0).await.len(), 1);
    assert_eq!(read(all[0].payload.len() + all[1].payload.len()).await.len(), 2);
    let record = store.delivery(resend.id).await.unwrap().unwrap();
    assert_eq!((record.resend_of, record.resends.len()), (Some(of_event), 0));
    commit(&store, accepted([Delivery { resend_of: Some(of_event), ..delivery(sub, 400) }])).await;
    let page = store.backlog_page(sub, DeliveryId(id(350)), 10, 1000).await.unwrap();
    assert_eq!(page.deliveries[0].resend_of, Some(of_event), "what is read back keeps its webhook-id");
    assert_eq!(store.unfinished(&[DeliveryId(id(400))]).await.unwrap()[0].resend_of, Some(of_event));
    let first = store.delivery(of_event).await.unwrap().unwrap();
    assert_eq!(first.resends, [DeliveryId(id(400)), resend.id], "newest first");
    let more = (500..).take(MAX_RESENDS).map(|ms| Delivery { resend_of: Some(of_event), ..delivery(sub, ms) });
    commit(&store, accepted(more)).await;
    let first = store.delivery(of_event).await.unwrap().unwrap();
    assert_eq!((first.resends.len(), first.resends.last()), (MAX_RESENDS, Some(&DeliveryId(id(500)))));
}
