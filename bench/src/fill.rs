//! Fills a PostgreSQL store with what would take hours to make over HTTP.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hookpost::delivery::Timestamp;
use hookpost::store::{PostgresStore, Store};
use secrecy::SecretString;
use tokio_postgres::Client;

use crate::events::SECRET;
use crate::scenarios::SUBSCRIPTIONS;
use crate::stores::Home;

/// Of the rows of log, how many a subscription has.
const LOGS_A_SUBSCRIPTION: usize = 1_000;

/// How much time a partition holds.
pub const PARTITION_MS: i64 = 6 * 3_600_000;

/// Milliseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "the benchmark makes ids of its own")]
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(0))
}

/// Brings the schema up, with partitions for `at`.
pub async fn prepare(home: &Home, at: i64) -> anyhow::Result<Client> {
    let store = PostgresStore::connect(&SecretString::from(home.url()))?;
    store.migrate(Timestamp(wall_ms())).await?;
    store.prepare(Timestamp(at)).await?;
    store.close().await;
    home.database().await
}

/// `count` subscriptions to every event, with ids from 1.
pub async fn subscriptions(database: &Client, count: usize, receiver: &str) -> anyhow::Result<()> {
    let fill = format!(
        "ALTER TABLE subscriptions DISABLE TRIGGER USER;
         INSERT INTO subscriptions (tenant, target_url, event_types, secrets, version, created_at, updated_at)
         SELECT 'default', '{receiver}/' || n, '{{}}', '{{\"current\":\"plain:{SECRET}\"}}', 1, 0, 0 FROM generate_series(1, {count}) n;
         INSERT INTO subscription_patterns (tenant, pattern, subscription_id) SELECT tenant, '', id FROM subscriptions;
         ALTER TABLE subscriptions ENABLE TRIGGER USER;
         ANALYZE subscriptions, subscription_patterns"
    );
    database.batch_execute(&fill).await.context("subscriptions could not be filled in")
}

/// How many subscriptions share so many filled rows. Their ids follow those that the benchmark sends to.
pub fn logged_subscriptions(rows: usize) -> usize {
    (rows / LOGS_A_SUBSCRIPTION).max(1)
}

/// Of so many deliveries one has failed, and one is to be retried, where there is trouble.
const TROUBLED: usize = 10_000;

/// `count` deliveries with a log row each, spread over the hour that ends at `until` (milliseconds), for
/// subscriptions beside those that the benchmark sends to. All delivered, but for [`TROUBLED`] if there is `trouble`.
pub async fn delivered(database: &Client, count: usize, until: i64, trouble: bool) -> anyhow::Result<()> {
    let id = |kind: char| {
        format!(
            "(lpad(to_hex({until}::bigint - 3600000 + n * 3600000 / {count}), 12, '0') || '7' || lpad(to_hex(n & 4095), 3, \
             '0') || '{kind}' || lpad(to_hex(n), 15, '0'))::uuid"
        )
    };
    let (delivery, log) = (id('8'), id('9'));
    let subscription = format!("{} + n % {}", SUBSCRIPTIONS + 1, logged_subscriptions(count));
    let outcome =
        if trouble { format!("CASE n % {TROUBLED} WHEN 0 THEN 2 WHEN 1 THEN 1 ELSE 0 END") } else { "0".to_owned() };
    let fill = format!(
        "INSERT INTO deliveries (id, subscription_id, event_type, payload)
         SELECT {delivery}, {subscription}, 'order.created', '{{}}' FROM generate_series(1::bigint, {count}) n;
         INSERT INTO delivery_logs (id, delivery_id, subscription_id, \"timestamp\", attempt_number, duration_ms, outcome,
                                    http_status, target_url)
         SELECT {log}, {delivery}, {subscription}, {until}, 1, 5, {outcome}, 200, 'http://127.0.0.1:9/'
         FROM generate_series(1::bigint, {count}) n;
         INSERT INTO retries (delivery_id, subscription_id, next_attempt_at, attempt_number)
         SELECT {delivery}, {subscription}, {until} + 86400000, 2 FROM generate_series(1::bigint, {count}) n
         WHERE {trouble} AND n % {TROUBLED} = 1;
         INSERT INTO watermark (id) VALUES ((lpad(to_hex({until}::bigint), 12, '0') || '70008000000000000000')::uuid)"
    );
    database.batch_execute(&fill).await.context("deliveries could not be filled in")?;
    // What a server that took its time over so many rows has behind it: otherwise autovacuum sets about it within a
    // minute, and the write-back of gigabytes is measured instead of the service.
    database.batch_execute("VACUUM (ANALYZE, FREEZE) deliveries, delivery_logs, retries").await?;
    database.batch_execute("CHECKPOINT").await.context("the filled database could not be settled")
}

/// The ids of some deliveries, spread over all of them.
pub async fn some_deliveries(database: &Client, count: i64) -> anyhow::Result<Vec<String>> {
    let rows = database
        .query(
            "SELECT id::text FROM deliveries TABLESAMPLE SYSTEM (0.5) WHERE subscription_id > $2 LIMIT $1",
            &[&count, &i64::try_from(SUBSCRIPTIONS)?],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Partitions of the two big tables that end before some time.
pub struct Partitions {
    /// Those that nobody has begun to drop.
    pub attached: i64,
    pub all: i64,
}

/// Those that end before this time.
pub async fn partitions_before(database: &Client, cutoff_ms: i64) -> anyhow::Result<Partitions> {
    let row = database
        .query_one(
            "SELECT count(*) FILTER (WHERE NOT coalesce(inhdetachpending, true)), count(*)
             FROM pg_class LEFT JOIN pg_inherits ON inhrelid = oid
             WHERE relkind = 'r' AND relname ~ '^(deliveries|delivery_logs)_[0-9]+$'
             AND (substring(relname FROM '[0-9]+$')::bigint * 1000 + $2) <= $1",
            &[&cutoff_ms, &PARTITION_MS],
        )
        .await?;
    Ok(Partitions { attached: row.get(0), all: row.get(1) })
}
