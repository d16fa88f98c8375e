//! What only PostgreSQL can do wrong: lose connections and servers, miss partitions, be shared by strangers.

use std::sync::Arc;
use std::time::Duration;

use hookpost::delivery::{DeliveryId, Outcome};
use hookpost::store::{Batch, PostgresStore, Store, StoreError};
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls};
use url::Url;

use crate::backend::Backend;
use crate::fixtures::*;

/// Someone else's session in the test's database.
async fn session(backend: &Backend) -> Client {
    let (client, connection) = tokio_postgres::connect(backend.database_url().as_str(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Ends every session of the service, as an administrator or a failing server would.
async fn end_sessions(session: &Client) {
    const SQL: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'hookpost'";
    session.query(SQL, &[]).await.unwrap();
}

fn store_at(url: &Url) -> Arc<dyn Store> {
    Arc::new(PostgresStore::connect(&url.to_string().into()).unwrap())
}

fn is_unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

fn is_not_owner<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotOwner))
}

/// The partitions of all tables, attached or not.
async fn partitions(session: &Client) -> Vec<String> {
    const SQL: &str = "SELECT relname::text FROM pg_class
         WHERE relkind = 'r' AND relname ~ '^(deliveries|delivery_logs|events)_[0-9]+$' ORDER BY 1";
    session.query(SQL, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Notes every statement that changes a table, in `seen`.
async fn spy_on(session: &Client) {
    const SPY: &str = "CREATE TABLE seen (n integer GENERATED ALWAYS AS IDENTITY, what text);
         CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO seen (what) VALUES (TG_OP || ' ' || TG_TABLE_NAME); RETURN NULL; END $$;";
    session.batch_execute(SPY).await.unwrap();
    let tables = [
        "events",
        "idempotency_keys",
        "deliveries",
        "delivery_logs",
        "retries",
        "positions",
        "watermark",
        "subscriptions",
        "subscription_patterns",
    ];
    for table in tables {
        let trigger = format!("CREATE TRIGGER spy AFTER INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION spy()");
        session.batch_execute(&trigger).await.unwrap();
    }
}

async fn seen(session: &Client) -> Vec<String> {
    let seen = session.query("SELECT what FROM seen ORDER BY n", &[]).await.unwrap();
    seen.iter().map(|row| row.get(0)).collect()
}

macro_rules! on_postgres {
    ($(async fn $name:ident($backend:ident: &Backend) $body:block)+) => {
        $(#[tokio::test]
        async fn $name() {
            let backend = Backend::postgres().await;
            let $backend = &backend;
            backend.check(async $body).await;
        })+
    };
}

mod fan_out;
mod plans;

on_postgres! {
    async fn after_its_connections_were_killed_the_owner_takes_the_store_again(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        end_sessions(&session(backend).await).await;
        let (lost, kept) = (delivery(sub, 1), delivery(sub, 2));
        assert!(is_unavailable(store.commit(&accepted([lost.clone()])).await));
        assert!(is_unavailable(store.ping().await), "the owner cannot write");
        assert!(store.acquire().await.unwrap());
        store.ping().await.unwrap();
        commit(&store, accepted([kept.clone()])).await;
        assert_eq!(store.stored(&[lost.id, kept.id]).await.unwrap(), [kept.id]);
    }

    async fn an_owner_that_lost_its_connection_to_another_owner_writes_nothing(backend: &Backend) {
        let (stale, next) = (backend.owned().await, backend.open());
        let sub = subscribe(&stale).await;
        end_sessions(&session(backend).await).await;
        assert!(next.acquire().await.unwrap());
        assert!(is_unavailable(stale.commit(&accepted([delivery(sub, 1)])).await));
        assert!(is_not_owner(stale.acquire().await));
        for _ in 0..2 {
            let error = stale.commit(&accepted([delivery(sub, 1)])).await.unwrap_err();
            assert!(matches!(error, StoreError::NotOwner), "{error:?}");
        }
        assert!(backlog(&next, sub).await.is_empty());
        commit(&next, accepted([delivery(sub, 1)])).await;
    }

    async fn an_owner_whose_lock_nobody_has_signed_for_has_not_been_replaced(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let administrator = session(backend).await;
        end_sessions(&administrator).await;
        // A connection of its own that it gave up on half-way, and that the server still believes in.
        const LOCK: &str = "SELECT pg_advisory_lock(1215261800, 'deliveries'::regclass::oid::integer)";
        let orphan = session(backend).await;
        orphan.batch_execute(LOCK).await.unwrap();
        assert!(is_unavailable(store.commit(&accepted([delivery(sub, 1)])).await));
        assert!(!store.acquire().await.unwrap());
        orphan.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
        assert!(store.acquire().await.unwrap());
        commit(&store, accepted([delivery(sub, 2)])).await;
    }

    async fn an_owner_that_was_replaced_while_it_was_away_does_not_go_on_with_stale_memory(backend: &Backend) {
        let (stale, next) = (backend.owned().await, backend.open());
        let sub = subscribe(&stale).await;
        end_sessions(&session(backend).await).await;
        assert!(next.acquire().await.unwrap());
        end_sessions(&session(backend).await).await;
        // The store is free, but it is not what it was.
        assert!(is_not_owner(stale.acquire().await));
        assert!(is_not_owner(stale.acquire().await), "for good");
        let error = stale.commit(&accepted([delivery(sub, 1)])).await.unwrap_err();
        assert!(matches!(error, StoreError::NotOwner), "{error:?}");
        assert!(backend.open().acquire().await.unwrap(), "a new process may have it");
    }

    async fn two_schemas_of_a_database_have_an_owner_each(backend: &Backend) {
        session(backend).await.batch_execute("CREATE SCHEMA other").await.unwrap();
        let mut url = backend.database_url();
        url.set_query(Some("options=-csearch_path%3Dother"));
        let (one, other) = (backend.owned().await, store_at(&url));
        other.migrate(T0).await.unwrap();
        assert!(other.acquire().await.unwrap());
        let sub = subscribe(&one).await;
        assert!(other.subscription(sub).await.unwrap().is_none());
        commit(&one, accepted([delivery(sub, 1)])).await;
        commit(&other, accepted([delivery(sub, 1)])).await;
    }

    async fn an_id_far_from_what_is_prepared_is_stored_all_the_same(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let rows = [delivery(sub, -days(400)), delivery(sub, 1), delivery(sub, days(400))];
        commit(&store, delivered(rows.clone())).await;
        let last = hookpost::delivery::Delivery { id: DeliveryId(uuid::Uuid::max()), ..delivery(sub, 1) };
        commit(&store, accepted([last.clone()])).await;
        let ids = [rows[0].id, rows[1].id, rows[2].id, last.id];
        assert_eq!(store.stored(&ids).await.unwrap(), ids);
        assert_eq!(store.delivery(rows[2].id).await.unwrap().unwrap().attempts.len(), 1);
        assert_eq!(store.prepare(T0).await.unwrap().partitions_created, 0, "what is there is left alone");
    }

    async fn a_delivery_and_its_log_are_one_insert_each_and_no_update(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let session = session(backend).await;
        spy_on(&session).await;
        commit(&store, delivered((0..100).map(|n| delivery(sub, n * 2)))).await;
        assert_eq!(seen(&session).await, ["INSERT deliveries", "INSERT delivery_logs"]);
    }

    async fn of_two_retries_of_a_delivery_in_a_batch_the_later_attempt_counts(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let failing = delivery(sub, 1);
        let retries = vec![retry(&failing, 2, 90), retry(&failing, 3, 50)];
        commit(&store, Batch { retries, ..accepted([failing.clone()]) }).await;
        assert_eq!(store.retries(sub, 10).await.unwrap(), [retry(&failing, 3, 50)]);
    }

    async fn what_is_stored_in_part_is_completed(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let rows = [1, 3, 5].map(|ms| delivery(sub, ms));
        let whole = delivered(rows.clone());
        commit(&store, Batch { logs: whole.logs[1..].to_vec(), ..accepted([rows[0].clone()]) }).await;
        commit(&store, whole).await;
        assert_eq!(log_ids(&store, sub).await, [id(6), id(4), id(2)]);
        assert_eq!(store.stored(&rows.each_ref().map(|row| row.id)).await.unwrap().len(), 3);
        assert_eq!(recover(&store).await.newest_id, Some(id(6)));
    }

    async fn retention_drops_whole_partitions(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let session = session(backend).await;
        let before = partitions(&session).await;
        store.prepare(T0 + DAY * 10).await.unwrap();
        commit(&store, delivered([delivery(sub, 1), delivery(sub, days(10))])).await;
        let counts = store.prune(T0 + DAY * 5, 1).await.unwrap();
        assert_eq!((counts.partitions_dropped, counts.more), (before.len() as u64, false));
        let after = partitions(&session).await;
        assert!(!after.is_empty() && before.iter().all(|name| !after.contains(name)), "{after:?}");
        assert_eq!(log_ids(&store, sub).await, [id(days(10) + 1)]);
        assert_eq!(store.prune(T0 + DAY * 5, 1).await.unwrap().partitions_dropped, 0);
    }

    async fn a_partition_is_kept_for_one_unfinished_delivery_and_so_are_the_logs_of_its_neighbours(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let mut batch = delivered([delivery(sub, 1)]);
        batch.deliveries.push(delivery(sub, 3));
        commit(&store, batch).await;
        commit(&store, delivered([delivery(sub, days(2))])).await;
        store.prune(T0 + DAY * 5, 1).await.unwrap();
        assert_eq!(backlog(&store, sub).await, [DeliveryId(id(3))], "its neighbours do not look untried");
        assert_eq!(log_ids(&store, sub).await, [id(days(2) + 1), id(2)], "nor does what is newer");
    }

    async fn traffic_goes_on_while_pruning_waits_for_a_long_read(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        commit(&store, delivered([delivery(sub, 1)])).await;
        let mut reader = session(backend).await;
        let before = partitions(&reader).await.len();
        let read = reader.transaction().await.unwrap();
        read.query("SELECT count(*) FROM deliveries", &[]).await.unwrap();
        let traffic = async {
            for n in 0..20 {
                commit(&store, delivered([delivery(sub, days(10) + n * 2)])).await;
                backlog(&store, sub).await;
            }
        };
        let (counts, ()) = tokio::join!(store.prune(T0 + DAY * 5, 1), traffic);
        assert_eq!(counts.unwrap().partitions_dropped, 0, "it gives way");
        read.commit().await.unwrap();
        let counts = store.prune(T0 + DAY * 5, 1).await.unwrap();
        assert_eq!(counts.partitions_dropped, before as u64, "and takes up where it stopped");
    }

    async fn a_drop_that_a_crash_interrupted_is_finished(backend: &Backend) {
        let store = backend.owned().await;
        let session = session(backend).await;
        let all = partitions(&session).await;
        let detach = format!("ALTER TABLE deliveries DETACH PARTITION {}", all[0]);
        session.batch_execute(&detach).await.unwrap();
        assert_eq!(store.prune(T0 + DAY * 5, 1).await.unwrap().partitions_dropped, all.len() as u64);
        assert!(partitions(&session).await.is_empty());
    }

    async fn an_owner_that_was_replaced_cannot_end_deliveries(backend: &Backend) {
        let (stale, next) = (backend.owned().await, backend.open());
        let sub = subscribe(&stale).await;
        commit(&stale, accepted([delivery(sub, 1)])).await;
        end_sessions(&session(backend).await).await;
        assert!(next.acquire().await.unwrap());
        assert!(stale.expire(T0 + DAY, T0 + DAY, 10).await.is_err());
        assert!(log_ids(&next, sub).await.is_empty());
    }

    async fn a_retry_that_is_over_is_not_shown_beside_its_attempt(backend: &Backend) {
        let store = backend.owned().await;
        let sub = subscribe(&store).await;
        let shown = delivery(sub, 1);
        commit(&store, retried([shown.clone()], 50)).await;
        let logs = vec![log(&shown, 60, 2, Outcome::Success)];
        commit(&store, Batch { logs, ..Batch::default() }).await;
        assert_eq!(store.delivery(shown.id).await.unwrap().unwrap().retry, None);
    }

    // Callers wait for a lock with the whole pool; who a caller is must be known all the same.
    async fn keys_are_read_while_the_pool_is_taken(backend: &Backend) {
        const MORE_THAN_THE_POOL_HAS: usize = 20;
        let store = backend.owned().await;
        let locked = session(backend).await;
        locked.batch_execute("BEGIN; LOCK TABLE subscriptions").await.unwrap();
        let reads: Vec<_> = (0..MORE_THAN_THE_POOL_HAS)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.subscriptions(None, None, 1).await })
            })
            .collect();
        const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'subscriptions'::regclass";
        while locked.query_one(WAITING, &[]).await.unwrap().get::<_, i64>(0) < 8 {}
        assert!(store.api_keys_changed_since(0, 1).await.unwrap().is_empty());
        assert_eq!(store.api_key_revision().await.unwrap(), 0);
        locked.batch_execute("ROLLBACK").await.unwrap();
        let mut answered = 0;
        for read in reads {
            answered += usize::from(read.await.unwrap().is_ok());
        }
        assert!(answered >= 8, "{answered}");
    }
}

/// Time is paused, so that a deadline passes as soon as nothing else can happen.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_unavailable_within_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://someone@{}/db", silent.local_addr().unwrap());
    let store = store_at(&Url::parse(&url).unwrap());
    let started = tokio::time::Instant::now();
    assert!(is_unavailable(store.migrate(T0).await));
    assert!(is_unavailable(store.acquire().await));
    assert!(is_unavailable(store.ping().await));
    assert!(is_unavailable(store.recovery().await));
    assert!(is_unavailable(store.prepare(T0).await));
    assert!(is_unavailable(store.subscriptions(None, None, 10).await));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://someone@{}/db", listener.local_addr().unwrap());
    drop(listener);
    let store = store_at(&Url::parse(&url).unwrap());
    assert!(is_unavailable(store.migrate(T0).await));
    assert!(is_unavailable(store.ping().await));
}
