//! PostgreSQL, 14 or newer.
//!
//! One connection commits and thereby owns the store (`owner`, `commit`); a small pool reads and changes subscriptions
//! (`reads`, `subscriptions`); what is long and rare, migrations, recovery and the janitor, opens a connection of its
//! own (`recovery`, `partitions`, `janitor`). Every call ends within a deadline, whatever the server does.

mod api_keys;
mod audit;
mod columns;
mod commit;
mod connection;
mod error;
mod events;
mod examine;
mod janitor;
mod keys;
mod master_keys;
mod owner;
mod partitions;
mod reads;
mod recovery;
mod replays;
mod rows;
mod search;
mod state_changes;
mod subscriptions;

use std::time::Duration;

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool};
use secrecy::SecretString;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use self::connection::{Connector, MAINTENANCE_DEADLINE, Purpose, READ_DEADLINE, Session};
use self::error::{is_missing_partition, pool_error, store_error, too_slow};
use self::owner::{COMMIT_DEADLINE, Owner};
use self::partitions::Cell;
use super::migration;
use super::{
    Asked, BacklogPage, Batch, DeliveryRecord, EventDelivery, IdempotencyKey, JanitorCounts, MasterKeyRecord,
    NewReplay, NewSubscription, Pending, Progress, Recovery, Replay, ReplayId, ReplayState, Reseal, Result,
    RetriesWaiting, Search, Step, Store, StoreError, SubscriptionChange, Update,
};
use crate::access::{Actor, ApiKey, NewApiKey, Prefix};
use crate::audit::{Act, AuditFilter, AuditRecord, Thing};
use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, Event, EventId, Retry, StateChange, Subscription, SubscriptionId, Timestamp,
};

pub use self::connection::InvalidDatabaseUrl;
pub use self::examine::{MAX_SKEW, SESSIONS};

mod schema {
    refinery::embed_migrations!("migrations/postgres");
}

/// An index of what a large database holds takes its time. One that is given up goes on at the server, and holds the lock.
const MIGRATION_DEADLINE: Duration = Duration::from_hours(12);

/// Held while the schema is migrated: refinery takes no lock itself. Waits for another process's migration, and the
/// session's end gives it back.
const MIGRATION_LOCK: &str = "SET lock_timeout = '30s'; SELECT pg_advisory_lock(1215261800, 0);
     SET lock_timeout = '5s'; SET statement_timeout = 0";

/// See the module's docs.
pub struct PostgresStore {
    connector: Connector,
    pool: Pool,
    key_pool: Pool,
    owner: Owner,
}

impl PostgresStore {
    /// Reads the URL. Nothing is connected to before it is needed, and nothing is changed before `migrate`.
    pub fn connect(url: &SecretString) -> Result<Self, InvalidDatabaseUrl> {
        let connector = Connector::parse(url)?;
        Ok(Self { pool: connector.pool(), key_pool: connector.key_pool(), connector, owner: Owner::new() })
    }

    /// A statement on a connection of the pool. A connection that did not answer is not given back.
    async fn rows(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        rows_of(&self.pool, sql, params).await
    }

    /// The same, for API keys.
    async fn key_rows(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        rows_of(&self.key_pool, sql, params).await
    }

    /// A change of a key. Whoever changes another waits here first, so that the statement sees what they have done.
    async fn change_key(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let mut client = self.pool.get().await.map_err(pool_error)?;
        let change = async {
            let transaction = client.transaction().await?;
            transaction.execute("SELECT FROM key_revision FOR UPDATE", &[]).await?;
            let rows = transaction.query(sql, params).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        match timeout(READ_DEADLINE, change).await {
            Ok(rows) => rows.map_err(store_error),
            Err(_) => {
                drop(Object::take(client));
                Err(too_slow("a change of a key"))
            }
        }
    }

    async fn maintenance(&self) -> Result<Session> {
        self.connector.open(Purpose::Maintenance).await
    }

    /// One try at a commit. When it had no answer the connection is given up, so that it cannot take effect later
    /// than the next `acquire`.
    async fn try_commit(&self, batch: &Batch) -> Result<Result<(), Error>> {
        let writer = self.owner.writer().await?;
        let commit = writer.statements.commit(&writer.session.client, batch);
        let answer = timeout(COMMIT_DEADLINE, commit).await;
        if answer.is_err() || writer.session.client.is_closed() {
            self.owner.give_up(&writer).await;
        }
        answer.map_err(|_| too_slow("a commit"))
    }

    async fn make_partitions(&self, cells: impl Iterator<Item = Cell>) -> Result<u64> {
        let mut session = self.maintenance().await?;
        within(MAINTENANCE_DEADLINE, "making partitions", partitions::ensure(&mut session.client, cells)).await
    }
}

async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T> {
    timeout(deadline, work).await.map_err(|_| too_slow(what))?.map_err(store_error)
}

/// The cells of the rows that a batch appends.
fn cells(batch: &Batch) -> impl Iterator<Item = Cell> {
    let mut cells: Vec<_> = batch.deliveries.iter().map(|row| Cell::of(row.id.0)).collect();
    cells.extend(batch.events.iter().map(|row| Cell::of(row.id.0)));
    cells.extend(batch.logs.iter().map(|row| Cell::of(row.id)));
    cells.sort_unstable();
    cells.dedup();
    cells.into_iter()
}

async fn rows_of(pool: &Pool, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
    let client = pool.get().await.map_err(pool_error)?;
    let query = async { client.query(&client.prepare_cached(sql).await?, params).await };
    let answer = timeout(READ_DEADLINE, query).await;
    match answer {
        Ok(rows) => rows.map_err(store_error),
        Err(_) => {
            drop(Object::take(client));
            Err(too_slow("a query"))
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn migrate(&self, now: Timestamp) -> Result<()> {
        let mut session = self.maintenance().await?;
        let client = &mut session.client;
        let runner = schema::migrations::runner();
        let begin = async {
            client.batch_execute(MIGRATION_LOCK).await?;
            // A new database has no table of them yet.
            Ok(runner.get_last_applied_migration_async(client).await.ok().flatten())
        };
        let applied = within(MAINTENANCE_DEADLINE, "looking at the schema", begin).await?;
        let changes = migration::announce("PostgreSQL", &runner, applied.as_ref());
        // A server that hangs is to be noticed soon where there is nothing to do.
        let deadline = if changes { MIGRATION_DEADLINE } else { MAINTENANCE_DEADLINE };
        let migrated = timeout(deadline, runner.run_async(client)).await.map_err(|_| too_slow("migrating"))?;
        migrated.map_err(|error| migration::failed("the database", &error))?;
        within(MAINTENANCE_DEADLINE, "making partitions", partitions::ensure(client, Cell::needed_at(now))).await?;
        Ok(())
    }

    async fn identity(&self) -> Result<Uuid> {
        let found = self.rows("SELECT id FROM identity", &[]).await?;
        found.first().map(|row| row.get(0)).ok_or_else(|| StoreError::Corrupt("identity has no row".to_owned()))
    }

    async fn ping(&self) -> Result<()> {
        let both = async {
            let found = self.rows("SELECT current_setting('transaction_read_only') = 'on'", &[]).await?;
            if found.first().is_some_and(|row| row.get(0)) {
                return Err(StoreError::Unavailable("the server can only be read: a standby?".to_owned()));
            }
            self.owner.ping().await
        };
        timeout(READ_DEADLINE, both).await.map_err(|_| too_slow("a ping"))?
    }

    async fn acquire(&self) -> Result<bool> {
        self.owner.acquire(&self.connector).await
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        match self.try_commit(batch).await? {
            Err(error) if is_missing_partition(&error) => {
                self.make_partitions(cells(batch)).await?;
                self.try_commit(batch).await?.map_err(store_error)
            }
            done => done.map_err(store_error),
        }
    }

    async fn stored(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
        self.which_are_stored(ids).await
    }

    async fn stored_events(&self, ids: &[EventId]) -> Result<Vec<EventId>> {
        self.which_events_are_stored(ids).await
    }

    async fn idempotency_keys(&self, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>> {
        self.read_keys(keys).await
    }

    async fn matching(&self, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>> {
        self.read_matching(tenant, event_type).await
    }

    async fn event(&self, id: EventId) -> Result<Option<Event>> {
        self.read_event(id).await
    }

    async fn event_deliveries(&self, id: EventId, after: DeliveryId, limit: usize) -> Result<Vec<EventDelivery>> {
        self.read_event_deliveries(id, after, limit).await
    }

    async fn reserve_subscription_id(&self) -> Result<SubscriptionId> {
        self.next_subscription_id().await
    }

    async fn create_subscription(
        &self,
        new: NewSubscription,
        quota: u64,
        now: Timestamp,
    ) -> Result<Option<Subscription>> {
        self.insert_subscription(new, quota, now).await
    }

    async fn subscription(&self, id: SubscriptionId) -> Result<Option<Subscription>> {
        self.read_subscription(id).await
    }

    async fn subscriptions(
        &self,
        tenant: Option<&str>,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>> {
        self.list_subscriptions(tenant, after.map(|id| id.0), limit).await
    }

    async fn update_subscription(
        &self,
        id: SubscriptionId,
        change: SubscriptionChange,
        now: Timestamp,
    ) -> Result<Update> {
        self.change_subscription(id, change, now).await
    }

    async fn delete_subscription(&self, id: SubscriptionId, by: &Actor, now: Timestamp) -> Result<bool> {
        self.remove_subscription(id, by, now).await
    }

    async fn subscriptions_with_secrets(
        &self,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>> {
        self.list_with_secrets(after.map(|id| id.0), limit).await
    }

    async fn reseal(&self, changes: &[Reseal]) -> Result<Vec<Subscription>> {
        self.replace_secrets(changes).await
    }

    async fn master_keys(&self) -> Result<Vec<MasterKeyRecord>> {
        self.read_master_keys().await
    }

    async fn add_master_key(&self, record: &MasterKeyRecord) -> Result<()> {
        self.insert_master_key(record).await
    }

    async fn is_sealed_under(&self, key: &str) -> Result<bool> {
        self.find_sealed_under(key).await
    }

    async fn forget_master_keys(&self, keep: &str) -> Result<Vec<String>> {
        self.delete_master_keys(keep).await
    }

    async fn subscription_versions(&self, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
        self.versions(ids).await
    }

    async fn recovery(&self) -> Result<Recovery> {
        let session = self.maintenance().await?;
        within(MAINTENANCE_DEADLINE, "recovery", recovery::read(&session.client)).await
    }

    async fn pending(&self, id: SubscriptionId, retry_limit: usize) -> Result<Pending> {
        self.read_pending(id, retry_limit).await
    }

    async fn backlog_page(
        &self,
        id: SubscriptionId,
        after: DeliveryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<BacklogPage> {
        self.read_backlog(id, after, limit, max_bytes).await
    }

    async fn retries(&self, id: SubscriptionId, limit: usize) -> Result<Vec<Retry>> {
        self.read_retries(id, limit).await
    }

    async fn unfinished(&self, ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
        self.read_unfinished(ids).await
    }

    async fn subscriptions_due(&self, before: Timestamp, limit: usize) -> Result<Vec<SubscriptionId>> {
        self.read_due(before, limit).await
    }

    async fn retries_waiting(&self, now: Timestamp, cap: u64) -> Result<RetriesWaiting> {
        self.read_retries_waiting(now, cap).await
    }

    async fn subscriptions_behind(&self, limit: usize) -> Result<Vec<SubscriptionId>> {
        self.read_behind(limit).await
    }

    async fn bring_retries_forward(&self, latest: Timestamp) -> Result<u64> {
        const SQL: &str = "UPDATE retries SET next_attempt_at = $1 WHERE next_attempt_at > $1 RETURNING 1";
        Ok(self.rows(SQL, &[&latest.0]).await?.len() as u64)
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        self.read_delivery(id).await
    }

    async fn logs(&self, id: SubscriptionId, before: Option<Uuid>, limit: usize) -> Result<Vec<AttemptLog>> {
        self.read_logs(id, before, limit).await
    }

    async fn search_step(&self, search: &Search, most: usize) -> Result<Step> {
        self.take_search_step(search, most).await
    }

    async fn subscriptions_ever(&self, tenant: &str, most: usize) -> Result<Option<Vec<SubscriptionId>>> {
        self.read_subscriptions_ever(tenant, most).await
    }

    async fn deliveries(&self, ids: &[DeliveryId], max_bytes: usize) -> Result<Vec<Delivery>> {
        self.read_deliveries(ids, max_bytes).await
    }

    async fn create_replay(&self, new: &NewReplay, most: u64, now: Timestamp) -> Result<Asked> {
        self.insert_replay(new, most, now).await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>> {
        self.read_replay(id).await
    }

    async fn replays(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Result<Vec<Replay>> {
        self.list_replays(id, before, limit).await
    }

    async fn running_replays(&self, after: ReplayId, limit: usize) -> Result<Vec<ReplayId>> {
        self.list_running(after, limit).await
    }

    async fn advance_replay(&self, progress: &Progress) -> Result<()> {
        self.write_progress(progress).await
    }

    async fn end_replay(
        &self,
        id: ReplayId,
        state: ReplayState,
        detail: Option<&str>,
        act: Option<&Act>,
        now: Timestamp,
    ) -> Result<Option<Replay>> {
        self.finish_replay(id, state, detail, act, now).await
    }

    async fn prune_replays(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let session = self.maintenance().await?;
        within(MAINTENANCE_DEADLINE, "pruning replays", replays::prune(&session.client, cutoff, limit)).await
    }

    async fn prepare(&self, now: Timestamp) -> Result<JanitorCounts> {
        let partitions_created = self.make_partitions(Cell::needed_at(now)).await?;
        Ok(JanitorCounts { partitions_created, ..JanitorCounts::default() })
    }

    async fn expire(&self, cutoff: Timestamp, now: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let session = self.maintenance().await?;
        let search = janitor::unfinished(&session.client, cutoff, limit);
        let found = within(MAINTENANCE_DEADLINE, "looking for what expired", search).await?;
        if found.is_empty() {
            return Ok(JanitorCounts::default());
        }
        let writer = self.owner.writer().await?;
        let end = || timeout(COMMIT_DEADLINE, janitor::end(&writer, &found, now));
        let mut ended = end().await.map_err(|_| too_slow("ending what expired"))?;
        if ended.as_ref().is_err_and(is_missing_partition) {
            self.make_partitions(std::iter::once(Cell::at(now))).await?;
            ended = end().await.map_err(|_| too_slow("ending what expired"))?;
        }
        let expired = ended.map_err(store_error)?;
        Ok(JanitorCounts { expired, more: found.len() == limit, ..JanitorCounts::default() })
    }

    async fn prune(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let session = self.maintenance().await?;
        let pruned = timeout(MAINTENANCE_DEADLINE, janitor::prune(&session.client, cutoff, limit)).await;
        pruned.map_err(|_| too_slow("pruning"))?
    }

    async fn prune_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let session = self.maintenance().await?;
        within(MAINTENANCE_DEADLINE, "pruning idempotency keys", keys::prune(&session.client, cutoff, limit)).await
    }

    async fn record(&self, act: &Act, object: &Thing, tenant: Option<&str>, now: Timestamp) -> Result<()> {
        self.write_audit(act, object, tenant, now).await
    }

    async fn audit(&self, filter: &AuditFilter, before: Option<i64>, limit: usize) -> Result<Vec<AuditRecord>> {
        self.read_audit(filter, before, limit).await
    }

    async fn prune_audit(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let session = self.maintenance().await?;
        within(MAINTENANCE_DEADLINE, "pruning the audit", audit::prune(&session.client, cutoff, limit)).await
    }

    async fn save_failing(&self, id: SubscriptionId, since: Option<Timestamp>) -> Result<()> {
        self.write_failing(id, since).await
    }

    async fn backlog(&self, id: SubscriptionId, after: DeliveryId, cap: u64) -> Result<u64> {
        self.count_backlog(id, after, cap).await
    }

    async fn state_changes(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Result<Vec<StateChange>> {
        self.read_state_changes(id, before, limit).await
    }

    async fn unannounced(&self, limit: usize) -> Result<Vec<StateChange>> {
        self.read_unannounced(limit).await
    }

    async fn announced(&self, ids: &[i64]) -> Result<()> {
        self.write_announced(ids).await
    }

    async fn create_api_key(&self, new: NewApiKey, most: u64, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>> {
        self.insert_api_key(new, most, by, now).await
    }

    async fn api_key(&self, prefix: Prefix) -> Result<Option<ApiKey>> {
        self.read_api_key(prefix).await
    }

    async fn api_keys(&self, after: Option<Prefix>, limit: usize) -> Result<Vec<ApiKey>> {
        self.list_api_keys(after, limit).await
    }

    async fn api_keys_changed_since(&self, revision: i64, limit: usize) -> Result<Vec<ApiKey>> {
        self.read_changed_api_keys(revision, limit).await
    }

    async fn api_key_revision(&self) -> Result<i64> {
        self.read_key_revision().await
    }

    async fn revoke_api_key(&self, prefix: Prefix, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>> {
        self.end_api_key(prefix, by, now).await
    }

    async fn prune_api_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let session = self.maintenance().await?;
        within(MAINTENANCE_DEADLINE, "pruning API keys", api_keys::prune(&session.client, cutoff, limit)).await
    }

    async fn close(&self) {
        self.owner.close().await;
        self.pool.close();
        self.key_pool.close();
    }
}
