//! What is this backend's own; the rules of every store are in `tests/store`.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use rusqlite::types::Value;
use uuid::Builder;

use super::*;
use crate::delivery::Outcome;
use crate::store::SqliteStore;
use crate::store::search::Source;

const T0: Timestamp = Timestamp(1_750_000_000_000);

fn batch(payload_bytes: usize) -> Batch {
    let delivery = |n: u8| Delivery {
        trace: None,
        ordering_key: None,
        resend_of: None,
        event_id: None,
        id: DeliveryId(Builder::from_unix_timestamp_millis(T0.0.unsigned_abs(), &[n; 10]).into_uuid()),
        subscription_id: SubscriptionId(1),
        event_type: None,
        payload: Bytes::from(vec![b'1'; payload_bytes]),
    };
    Batch { deliveries: (0..4).map(delivery).collect(), ..Batch::default() }
}

async fn owned(dir: &Path) -> SqliteStore {
    let store = SqliteStore::open(dir).unwrap();
    store.migrate(T0).await.unwrap();
    assert!(store.acquire().await.unwrap());
    store
}

fn ids(batch: &Batch) -> Vec<DeliveryId> {
    batch.deliveries.iter().map(|delivery| delivery.id).collect()
}

/// What may be read from end to end.
const SMALL: [&str; 9] = [
    "SCAN due",
    "SCAN p",
    "SCAN watermark",
    "SCAN json_each VIRTUAL TABLE INDEX 1:",
    "SCAN w",
    "SCAN waiting",
    "SCAN CONSTANT ROW",
    "SCAN (subquery-1)",
    "SCAN (subquery-3)",
];

/// Small tables look at every row whatever the plan; with millions of rows it is the plan that counts.
#[tokio::test]
async fn no_query_reads_a_large_table_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let (backlog, unfinished, retries) = (reads::backlog_sql(), reads::unfinished_sql(), reads::retries_sql());
    let logs = status::logs_sql();
    let audit = super::audit::select_sql(&AuditFilter { object: Some(Thing::MasterKey), ..AuditFilter::default() });
    let sources = [
        Source::All,
        Source::Of(SubscriptionId(1)),
        Source::Failed,
        Source::FailedOf(SubscriptionId(1)),
        Source::Retries,
    ];
    let searches = sources.map(|source| search::source_sql(source, false));
    let queries = [
        &*backlog,
        &*unfinished,
        &*retries,
        reads::BACKLOG_SIZE,
        subscriptions::BRING_FORWARD,
        state_changes::OF_SUBSCRIPTION,
        state_changes::UNANNOUNCED,
        events::DELIVERIES,
        events::MATCHING,
        keys::FIND,
        keys::PRUNE,
        subscriptions::DELETE_PATTERNS,
        janitor::PRUNE_EVENTS,
        reads::UNTRIED,
        reads::DUE,
        reads::OLDEST_DUE,
        janitor::OLD_RETRIES,
        janitor::OLD_UNTRIED,
        janitor::PRUNE_DELIVERIES,
        janitor::PRUNE_LOGS,
        janitor::PRUNE_DELETED,
        janitor::PRUNE_TENANTS,
        api_keys::CHANGED,
        api_keys::PRUNE,
        &*format!("SELECT id FROM subscriptions {}", subscriptions::LIST_OF_TENANT),
        &*logs,
        super::audit::PRUNE,
        search::EVER,
        super::replays::PROGRESS,
        super::replays::RUNNING,
        super::replays::PRUNE,
        super::replays::END_ALL_OF,
        &*super::replays::list_sql(),
        &*searches[0],
        &*searches[1],
        &*searches[2],
        &*searches[3],
        &*searches[4],
        &*audit,
    ];
    for query in queries {
        let sql = query.to_owned();
        let plan = store.read(move |connection| plan(connection, &sql)).await.unwrap();
        // `due` and those in brackets are the results of subqueries, `p` the positions, of which there is one for each that has fallen behind,
        // `json_each` the patterns that match one event type, `waiting` one row for each subscription with a backlog.
        let scans = plan.iter().filter(|step| step.starts_with("SCAN"));
        let large: Vec<_> = scans.filter(|step| !SMALL.contains(&&***step)).collect();
        assert!(large.is_empty(), "{query}\n{plan:#?}");
    }
}

fn plan(connection: &mut Connection, query: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}"))?;
    let nulls = vec![Value::Null; statement.parameter_count()];
    let steps = statement.query_map(rusqlite::params_from_iter(nulls), |row| row.get("detail"))?;
    Ok(steps.collect::<rusqlite::Result<_>>()?)
}

#[tokio::test]
async fn every_commit_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let pragma = |name: &'static str| {
        store.write(move |connection| Ok(connection.pragma_query_value(None, name, |row| row.get::<_, Value>(0))?))
    };
    assert_eq!(pragma("synchronous").await.unwrap(), Value::Integer(2), "FULL");
    assert_eq!(pragma("journal_mode").await.unwrap(), Value::Text("wal".to_owned()));
}

/// As a process that is killed at once leaves them.
#[tokio::test]
async fn the_files_hold_a_commit_as_soon_as_it_is_acknowledged() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = owned(dir.path()).await;
    let batch = batch(100);
    store.commit(&batch).await.unwrap();
    for file in ["hookpost.db", "hookpost.db-wal"] {
        std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
    }
    let found = owned(copy.path()).await.stored(&ids(&batch)).await.unwrap();
    assert_eq!(found, ids(&batch));
}

/// What a commit whose sync failed has left in the log can be read back, and may not be on the disk.
#[tokio::test]
async fn what_is_said_to_be_stored_is_in_the_database_and_not_in_the_log_alone() {
    let [dir, crashed, alone] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let store = owned(dir.path()).await;
    let batch = batch(100);
    store.commit(&batch).await.unwrap();
    for file in ["hookpost.db", "hookpost.db-wal"] {
        std::fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
    }
    // Not by way of `migrate`, whose connection empties the log when it closes.
    let store = SqliteStore::open(crashed.path()).unwrap();
    assert_eq!(store.stored(&ids(&batch)).await.unwrap(), ids(&batch));
    std::fs::copy(crashed.path().join("hookpost.db"), alone.path().join("hookpost.db")).unwrap();
    assert_eq!(owned(alone.path()).await.stored(&ids(&batch)).await.unwrap(), ids(&batch));
}

/// Commits that follow would be lost with a page of the log before them that is not on the disk.
#[tokio::test]
async fn a_start_leaves_nothing_in_the_log_of_what_a_crash_left_there() {
    let [dir, crashed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let store = owned(dir.path()).await;
    store.commit(&batch(100)).await.unwrap();
    for file in ["hookpost.db", "hookpost.db-wal"] {
        std::fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
    }
    assert!(std::fs::metadata(crashed.path().join("hookpost.db-wal")).unwrap().len() > 0);
    owned(crashed.path()).await;
    assert!(!crashed.path().join("hookpost.db-wal").exists());
}

/// It holds on to pages of the database that the log would overwrite.
#[tokio::test]
async fn a_reader_of_somebody_elses_keeps_the_store_away_until_it_ends_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    store.commit(&batch(100)).await.unwrap();
    let reader = rusqlite::Connection::open(store.dir.database()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM deliveries").unwrap();
    store.write(|connection| Ok(connection.pragma_update(None, "user_version", 7)?)).await.unwrap();
    let alone = SqliteStore::open(dir.path()).unwrap();
    let error = alone.stored(&[]).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("another process reads"), "{error}");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(alone.stored(&[]).await.unwrap(), []);
}

/// There would be nothing to send.
#[tokio::test]
async fn a_delivery_of_an_event_that_is_not_stored_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let mut batch = batch(100);
    batch.deliveries[3].event_id = Some(EventId(Uuid::nil()));
    let error = store.commit(&batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error:?}");
    assert_eq!(store.stored(&ids(&batch)).await.unwrap(), []);
}

#[tokio::test]
async fn a_full_disk_refuses_a_commit_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let batch = batch(1 << 20);
    store.write(|connection| Ok(connection.pragma_update(None, "max_page_count", 100)?)).await.unwrap();
    let error = store.commit(&batch).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(store.stored(&ids(&batch)).await.unwrap().is_empty());
    // The limit went with the connection that failed, as the disk's would with what someone deleted.
    store.commit(&batch).await.unwrap();
    assert_eq!(store.stored(&ids(&batch)).await.unwrap(), ids(&batch));
}

#[tokio::test]
async fn a_checkpoint_empties_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    store.commit(&batch(1 << 20)).await.unwrap();
    let pages = || store.write(|connection| Ok(checkpoint::log_pages(connection)?));
    let long = pages().await.unwrap();
    assert!(long > 1024, "{long}");
    store.checkpointer.run(&store.writer).await.unwrap();
    store.commit(&Batch { watermark: Some(DeliveryId::MIN), ..Batch::default() }).await.unwrap();
    let short = pages().await.unwrap();
    assert!(short < 10, "{short}");
}

#[tokio::test]
async fn a_closed_store_leaves_nothing_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    store.commit(&batch(100)).await.unwrap();
    store.close().await;
    assert!(!dir.path().join("hookpost.db-wal").exists());
    assert!(store.ping().await.is_err());
}

#[tokio::test]
async fn only_its_user_can_read_the_data() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("some").join("data");
    let store = owned(&dir).await;
    store.commit(&batch(100)).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = SqliteStore::open(file.path()).unwrap();
    let path = file.path().display().to_string();
    for error in [store.migrate(T0).await.unwrap_err(), store.acquire().await.unwrap_err()] {
        assert!(error.to_string().contains(&path), "{error}");
    }
}

fn log(n: u64, subscription_id: SubscriptionId) -> AttemptLog {
    AttemptLog {
        id: Uuid::from_u128(u128::from(n) << 64),
        delivery_id: DeliveryId(Uuid::from_u128(u128::from(n) << 64)),
        subscription_id,
        target_url: "http://receiver.test/".into(),
        timestamp: T0,
        attempt_number: 1,
        outcome: Outcome::Success,
        http_status: Some(200),
        error_details: None,
        duration_ms: 1,
        response_body: None,
    }
}

#[tokio::test]
async fn a_log_is_read_across_stretches_that_hold_none_or_many_of_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let (busy, rare) = (SubscriptionId(1), SubscriptionId(2));
    // In three stretches: the rare one has its rows in the first and in the last.
    let of = |n: u64| if n % 5_000 == 1 { rare } else { busy };
    let logs: Vec<_> = (1..=5_001).map(|n| log(n, of(n))).collect();
    store.commit(&Batch { logs: logs.clone(), ..Batch::default() }).await.unwrap();
    for (subscription, page) in [(busy, 700), (busy, 10_000), (rare, 1), (rare, 50)] {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let read = store.logs(subscription, before, page).await.unwrap();
            let Some(last) = read.last() else { break };
            before = Some(last.id);
            found.extend(read);
        }
        let expected: Vec<_> = logs.iter().rev().filter(|log| log.subscription_id == subscription).cloned().collect();
        assert!(found == expected, "{subscription} by {page}: {} rows of {}", found.len(), expected.len());
    }
    assert_eq!(store.logs(SubscriptionId(3), None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_page_of_a_log_is_complete_across_more_stretches_than_one_read_takes() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let logs: Vec<_> = (1..=4).map(|n| log(n, SubscriptionId(1))).collect();
    store.commit(&Batch { logs: logs.clone(), ..Batch::default() }).await.unwrap();
    // As if others had written a million rows between each two of them.
    store.write(|connection| Ok(connection.execute_batch("UPDATE delivery_logs SET seq = seq << 20")?)).await.unwrap();
    let newest_first: Vec<_> = logs.iter().rev().cloned().collect();
    assert_eq!(store.logs(SubscriptionId(1), None, 3).await.unwrap(), newest_first[..3]);
    assert_eq!(store.logs(SubscriptionId(1), None, 10).await.unwrap(), newest_first);
    assert_eq!(store.logs(SubscriptionId(1), Some(logs[2].id), 10).await.unwrap(), newest_first[2..]);
    let first =
        store.read(|connection| status::logs(connection, SubscriptionId(1), LogsFrom::Newest, 10)).await.unwrap();
    assert!(first.rows == newest_first[..1] && first.next.is_some(), "one read goes through so many stretches only");
}

mod schema {
    refinery::embed_migrations!("migrations/sqlite");
}

/// Rows of before the indexes by stretch.
#[tokio::test]
async fn what_was_written_before_its_index_changed_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = Connection::open(dir.path().join("hookpost.db")).unwrap();
    schema::migrations::runner().set_target(refinery::Target::Version(5)).run(&mut before).unwrap();
    let one = log(1, SubscriptionId(1));
    let id = format!("x'{}'", one.id.simple());
    let rows = format!(
        "INSERT INTO deliveries (id, subscription_id, payload) VALUES ({id}, 1, x'31');
         INSERT INTO delivery_logs (id, subscription_id, delivery_id, target_url, timestamp, attempt_number, outcome, http_status,
             duration_ms) VALUES ({id}, 1, {id}, 'http://receiver.test/', {}, 1, 0, 200, 1)",
        T0.0
    );
    before.execute_batch(&rows).unwrap();
    drop(before);
    let store = owned(dir.path()).await;
    assert_eq!(store.logs(SubscriptionId(1), None, 10).await.unwrap(), std::slice::from_ref(&one));
    let of_one = Search { subscription_id: Some(SubscriptionId(1)), ..Search::all() };
    let step = store.search_step(&of_one, 10).await.unwrap();
    assert_eq!(step.found.iter().map(|found| found.id).collect::<Vec<_>>(), [one.delivery_id]);
}

/// Callers' reads take all readers; who a caller is must be known all the same, or nobody could send an event.
#[tokio::test]
async fn keys_are_read_while_every_reader_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = owned(dir.path()).await;
    let taken = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = Arc::new(std::sync::Barrier::new(READERS as usize + 1));
    let released = wait.clone();
    let hold = || {
        let (taken, wait) = (taken.clone(), wait.clone());
        store.read(move |_| {
            taken.add_permits(1);
            wait.wait();
            Ok(())
        })
    };
    let keys = async {
        let _ = taken.acquire_many(READERS).await.unwrap();
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), store.api_keys_changed_since(0, 1)).await;
        tokio::task::spawn_blocking(move || released.wait()).await.unwrap();
        read
    };
    let (first, second, read) = tokio::join!(hold(), hold(), keys);
    assert!(first.is_ok() && second.is_ok());
    assert!(read.expect("it does not wait for them").unwrap().is_empty());
}
