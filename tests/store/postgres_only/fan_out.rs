//! What only PostgreSQL can do wrong with events, patterns and keys: its partitions, its statements, its locks.

use hookpost::delivery::{DEFAULT_TENANT, SubscriptionId};
use hookpost::store::{IdempotencyKey, SubscriptionChange};

use super::*;

/// A key that stands for this.
fn key(outcome: uuid::Uuid) -> IdempotencyKey {
    IdempotencyKey {
        scope: "events/default".into(),
        key: "once".into(),
        request_hash: [7; 32],
        outcome,
        created_at: T0,
    }
}

/// Until a statement in the test's database waits for another's lock. The server has a limit of its own for that.
async fn until_somebody_waits(session: &Client) {
    const SQL: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !session.query_one(SQL, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::task::yield_now().await;
    }
}

on_postgres! {
    async fn a_fan_out_is_one_insert_a_table_and_no_update(backend: &Backend) {
        let store = backend.owned().await;
        let session = session(backend).await;
        spy_on(&session).await;
        let subs: Vec<_> = (1..=100).map(SubscriptionId).collect();
        let sent = event(0);
        commit(&store, Batch { keys: vec![key(sent.id.0)], ..fanned_out(&sent, &subs) }).await;
        assert_eq!(seen(&session).await, ["INSERT idempotency_keys", "INSERT events", "INSERT deliveries"]);
        let rows = session.query_one(
            "SELECT (SELECT count(*) FROM events),
                 (SELECT count(*) FROM deliveries WHERE payload IS NULL AND event_id IS NOT NULL)", &[]);
        let rows = rows.await.unwrap();
        assert_eq!((rows.get(0), rows.get(1)), (1_i64, 100_i64));
    }

    async fn a_hundred_thousand_deliveries_of_an_event_are_one_batch(backend: &Backend) {
        let store = backend.owned().await;
        let sent = event(0);
        let rows: Vec<_> = (1..=100_000).map(|n| delivery_of(&sent, SubscriptionId(n), n)).collect();
        let (first, last) = (rows[0].id, rows[rows.len() - 1].id);
        let batch = Batch { events: vec![sent.clone()], ..accepted(rows) };
        commit(&store, batch).await;
        assert_eq!(store.stored(&[first, last]).await.unwrap(), [first, last]);
        let page = store.event_deliveries(sent.id, DeliveryId(id(99_990)), 100).await.unwrap();
        assert_eq!(page.len(), 10);
        let page = store.backlog_page(SubscriptionId(500), DeliveryId::MIN, 10, usize::MAX).await.unwrap();
        assert_eq!(page.deliveries[0].payload, sent.payload);
    }

    async fn a_fan_out_far_from_what_is_prepared_is_stored_all_the_same(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let sent = event(days(400));
        commit(&store, fanned_out(&sent, &[sub])).await;
        assert_eq!(store.stored_events(&[sent.id]).await.unwrap(), [sent.id]);
        assert_eq!(store.event_deliveries(sent.id, DeliveryId::MIN, 10).await.unwrap().len(), 1);
    }

    async fn an_event_outlasts_an_unfinished_delivery_that_fell_into_the_next_partition(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        // The first of a partition, ten milliseconds after its event.
        let six_hours = 6 * 60 * 60 * 1000;
        let boundary = (T0.0 / six_hours + 1) * six_hours - T0.0;
        let sent = event(boundary - 10);
        let late = delivery_of(&sent, sub, boundary);
        commit(&store, Batch { events: vec![sent.clone()], ..accepted([late]) }).await;
        let before = partitions(&session(backend).await).await;
        let counts = store.prune(T0 + DAY * 5, 1).await.unwrap();
        assert!(counts.partitions_dropped > 0, "{before:?}");
        let page = store.backlog_page(sub, DeliveryId::MIN, 10, usize::MAX).await.unwrap();
        assert_eq!(page.deliveries[0].payload, sent.payload);
    }

    async fn changes_of_a_subscription_at_the_same_time_leave_no_pattern_behind(backend: &Backend) {
        let (store, other) = (backend.owned().await, session(backend).await);
        let sub = subscribe(&store).await;
        let named = |text: &str| SubscriptionChange { event_types: Some(vec![text.parse().unwrap()]), ..Default::default() };
        other.batch_execute("BEGIN; UPDATE subscriptions SET event_types = '{a.*}'").await.unwrap();
        let second = tokio::spawn({
            let store = store.clone();
            let change = named("b.*");
            async move { store.update_subscription(sub, change, T0).await }
        });
        until_somebody_waits(&session(backend).await).await;
        other.batch_execute("COMMIT").await.unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(store.matching(DEFAULT_TENANT, "a.x").await.unwrap(), []);
        assert_eq!(store.matching(DEFAULT_TENANT, "b.x").await.unwrap(), [sub]);
    }

    async fn a_key_that_is_held_is_refused_in_words(backend: &Backend) {
        let store = backend.owned().await;
        commit(&store, Batch { keys: vec![key(id(1))], ..Batch::default() }).await;
        let error = store.commit(&Batch { keys: vec![key(id(2))], ..Batch::default() }).await.unwrap_err();
        assert!(error.to_string().contains("idempotency key is held already"), "{error}");
    }
}
