//! What the first release has written, read by this one.

use hookpost::access::Actor;
use hookpost::delivery::{DEFAULT_TENANT, DeliveryId, DeliveryState, Settings, SubscriptionId};
use hookpost::store::search::find;
use hookpost::store::{NewSubscription, Search, StoreError};
use refinery::Target;
use tokio_postgres::NoTls;

use crate::backend::Backend;
use crate::fixtures::*;

mod sqlite {
    refinery::embed_migrations!("migrations/sqlite");
}
mod postgres {
    refinery::embed_migrations!("migrations/postgres");
}

/// Of subscription 1: 10 was received, 20 is untried and below its position, 30 waits for a retry, 40 is untried and came
/// from the event 35. Of subscription 2, which has no position: 15 was received, 60 is untried. The watermark is 50.
const ROWS: &str = "
    INSERT INTO subscriptions (tenant, target_url, event_types, secret, version, created_at, updated_at)
        VALUES ('default', 'https://receiver.example/hook', $none, NULL, 3, 7, 8),
               ('default', 'http://b.example/', $none, 'it''s \"a\" \\made-up\\ secret \u{e9}', 1, 7, 7);
    INSERT INTO subscription_patterns VALUES ('default', '', 1), ('default', '', 2) ON CONFLICT DO NOTHING;
    INSERT INTO events (id, tenant, event_type, ordering_key, deliveries, payload)
        VALUES ($35, 'default', 'order.created', 'order 7', 1, $json);
    INSERT INTO deliveries (id, subscription_id, event_type, payload)
        VALUES ($10, 1, 'a', $json), ($15, 2, 'a', $json), ($20, 1, 'a', $json), ($30, 1, 'a', $json);
    INSERT INTO deliveries (id, subscription_id, event_type, $event) VALUES ($40, 1, 'order.created', $of35);
    INSERT INTO deliveries (id, subscription_id, event_type, payload) VALUES ($60, 2, 'a', $json);
    INSERT INTO delivery_logs (id, delivery_id, subscription_id, timestamp, attempt_number, duration_ms, outcome, target_url)
        VALUES ($11, $10, 1, 1, 1, 1, 0, 'u'), ($16, $15, 2, 1, 1, 1, 0, 'u'), ($31, $30, 1, 1, 1, 1, 1, 'u');
    INSERT INTO retries (delivery_id, subscription_id, attempt_number, next_attempt_at) VALUES ($30, 1, 2, 9);
    INSERT INTO positions VALUES (1, $10);
    INSERT INTO watermark ($watermark_id) VALUES ($50);";

/// Leaves the store as the first release did.
async fn write_version_1(backend: &Backend) {
    let mut rows = ROWS.to_owned();
    let mut put = |name: &str, text: &str| rows = rows.replace(&format!("${name}"), text);
    match backend {
        Backend::Sqlite { dir } => {
            put("of35", "1");
            put("event", "event");
            put("none", "'[]'");
            put("json", "CAST('{}' AS BLOB)");
            put("watermark_id) VALUES (", "only, delivery_id) VALUES (1, ");
            let rows = with_ids(rows, |id| format!("x'{}'", id.simple()));
            let mut database = rusqlite::Connection::open(dir.path().join("hookpost.db")).unwrap();
            sqlite::migrations::runner().set_target(Target::Version(1)).run(&mut database).unwrap();
            database.execute_batch(&rows).unwrap();
        }
        Backend::Postgres { .. } => {
            put("of35", "$35");
            put("event", "event_id");
            put("none", "'{}'");
            put("json", "'{}'");
            put("watermark_id", "id");
            let rows = with_ids(rows, |id| format!("'{id}'"));
            let (mut client, connection) =
                tokio_postgres::connect(backend.database_url().as_str(), NoTls).await.unwrap();
            tokio::spawn(connection);
            postgres::migrations::runner().set_target(Target::Version(1)).run_async(&mut client).await.unwrap();
            for table in ["deliveries", "delivery_logs", "events"] {
                // The one that holds the tests' time.
                let (from, to) = (1_749_988_800_000, 1_750_010_400_000);
                let bounds = [from, to].map(|ms| DeliveryId::floor_at(hookpost::delivery::Timestamp(ms)));
                let [lower, upper] = bounds;
                let name = format!("{table}_{}", from / 1000);
                let make =
                    format!("CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ('{lower}') TO ('{upper}')");
                client.batch_execute(&make).await.unwrap();
            }
            client.batch_execute(&rows).await.unwrap();
        }
    }
}

/// `$35` becomes the id given 35 ms after the tests' time.
fn with_ids(rows: String, literal: impl Fn(uuid::Uuid) -> String) -> String {
    (10..=60).fold(rows, |rows, ms| rows.replace(&format!("${ms}"), &literal(id(ms))))
}

pub async fn what_a_later_version_has_migrated_is_refused_with_what_to_run(backend: &Backend) {
    const LATER: &str = "INSERT INTO refinery_schema_history VALUES (99, 'later', '2026-01-01T00:00:00Z', '1')";
    backend.owned().await.close().await;
    match backend {
        Backend::Sqlite { dir } => {
            let database = rusqlite::Connection::open(dir.path().join("hookpost.db")).unwrap();
            database.execute_batch(LATER).unwrap();
        }
        Backend::Postgres { .. } => {
            let (client, connection) = tokio_postgres::connect(backend.database_url().as_str(), NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(LATER).await.unwrap();
        }
    }
    let refused = backend.open().migrate(T0).await.expect_err("a store that this version does not know");
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused:?}");
    let refused = refused.to_string();
    let place = if matches!(backend, Backend::Sqlite { .. }) { "hookpost.db" } else { "the database" };
    assert!(refused.contains(place), "{refused}");
    assert!(refused.contains("V99__later") && refused.contains("run that version, or a newer one"), "{refused}");
}

pub async fn what_the_first_version_has_written_is_read_and_goes_on(backend: &Backend) {
    write_version_1(backend).await;
    let store = backend.owned().await;
    let [sub, other] = [1, 2].map(SubscriptionId);
    let [of_retry, of_event] = [30, 40].map(|ms| DeliveryId(id(ms)));

    let subscription = store.subscription(sub).await.unwrap().unwrap();
    assert_eq!((subscription.version, &*subscription.settings), (3, &Settings::default()));
    assert_eq!((subscription.drop_through, subscription.failing_since), (None, None));
    assert!(subscription.secrets.is_none());
    let with_secret = store.subscription(other).await.unwrap().unwrap();
    assert_eq!(current(&with_secret), Some("plain:it's \"a\" \\made-up\\ secret \u{e9}"));
    let known = store.master_keys().await.unwrap();
    assert_eq!((known.len(), known[0].id.as_str(), known[0].proof.as_str()), (1, "plain", "plain:hookpost"));
    assert_eq!(store.matching(DEFAULT_TENANT, "x").await.unwrap(), [sub, other]);
    assert!(store.state_changes(sub, None, 10).await.unwrap().is_empty());
    let tenants = store.subscriptions(Some(DEFAULT_TENANT), None, 10).await.unwrap();
    assert_eq!(tenants.iter().map(|subscription| subscription.id).collect::<Vec<_>>(), [sub, other]);
    let new = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        target_url: "https://receiver.example/hook".to_owned(),
        event_types: vec![],
        secrets: None,
        tenant: DEFAULT_TENANT.to_owned(),
        settings: Settings::default(),
    };
    assert!(store.create_subscription(new.clone(), 2, T0).await.unwrap().is_none(), "those of before are counted");
    assert!(store.create_subscription(new, 3, T0).await.unwrap().is_some());

    let recovery = recover(&store).await;
    assert_eq!(recovery.watermark, Some(DeliveryId(id(50))));
    assert_eq!((recovery.positions, recovery.untried), (vec![(sub, DeliveryId(id(10)))], vec![other]));
    assert_eq!(backlog(&store, sub).await, [DeliveryId(id(20)), of_event]);
    assert_eq!(backlog(&store, other).await, [DeliveryId(id(60))]);
    assert_eq!(store.backlog(sub, DeliveryId::MIN, 10).await.unwrap(), 3);
    let retries = store.retries(sub, 10).await.unwrap();
    assert_eq!((retries[0].delivery_id, retries[0].ordering_key.clone()), (of_retry, None));
    let unfinished = store.unfinished(&[DeliveryId(id(10)), of_retry, of_event]).await.unwrap();
    let keyed = unfinished.iter().find(|delivery| delivery.id == of_event).unwrap();
    assert_eq!((unfinished.len(), keyed.ordering_key.as_deref()), (2, Some("order 7")));
    assert!(unfinished.iter().all(|delivery| delivery.trace.is_none()), "they belong to no trace");
    assert_eq!(log_ids(&store, sub).await, [id(31), id(11)]);

    let failed = Search { states: vec![DeliveryState::Failed], ..Search::all() };
    assert!(find(&*store, &failed, 10).await.unwrap().deliveries.is_empty());
    let found = find(&*store, &Search { subscription_id: Some(sub), ..Search::all() }, 10).await.unwrap();
    assert_eq!(
        found.deliveries.iter().map(|found| found.id).collect::<Vec<_>>(),
        [40, 30, 20, 10].map(|ms| DeliveryId(id(ms)))
    );
    let pending = Search { states: vec![DeliveryState::Pending], ..Search::all() };
    assert_eq!(find(&*store, &pending, 10).await.unwrap().deliveries.len(), 3);
    assert!(store.deliveries(&[of_event], 0).await.unwrap()[0].resend_of.is_none());

    let new = delivery(sub, 1000);
    commit(&store, delivered([new.clone()])).await;
    assert_eq!(store.delivery(new.id).await.unwrap().unwrap().attempts.len(), 1);
    let tried = log(&delivery(sub, 20), 2000, 1, hookpost::delivery::Outcome::Success);
    commit(&store, hookpost::store::Batch { logs: vec![tried], ..Default::default() }).await;
    assert_eq!(backlog(&store, sub).await, [of_event]);
}
