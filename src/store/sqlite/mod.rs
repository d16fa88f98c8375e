//! The embedded store: SQLite with a write-ahead log that is synced at every commit.
//!
//! It owns a data directory: the database, and a lock file that makes one process its owner. One connection writes, a few
//! read. Every statement is short, because a long read keeps the log from being copied into the database.

mod api_keys;
mod audit;
mod checkpoint;
mod commit;
mod connections;
mod events;
mod files;
mod janitor;
mod keys;
mod master_keys;
mod reads;
mod rows;
mod state_changes;
mod status;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::Connection;
use uuid::Uuid;

use super::{
    BacklogPage, Batch, DeliveryRecord, EventDelivery, IdempotencyKey, JanitorCounts, MasterKeyRecord, NewSubscription,
    Pending, Recovery, Reseal, Result, Store, StoreError, SubscriptionChange, Update,
};
use crate::access::{Actor, ApiKey, NewApiKey, Prefix};
use crate::audit::{Act, Action, AuditFilter, AuditRecord, Thing};
use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, Event, EventId, Retry, StateChange, Subscription, SubscriptionId, Timestamp,
};
use checkpoint::Checkpointer;
use connections::{Connections, Kind};
use files::DataDir;
use status::LogsFrom;

/// Reads at the same time. More would only wait for the same disk, and each has a cache.
const READERS: u32 = 2;

/// Most reads of a page of one subscription's log, each of a snapshot of its own: half a billion rows of others between its
/// own, some ten seconds.
const READS_OF_A_LOG: usize = 1024;

/// See the module's docs.
pub struct SqliteStore {
    dir: DataDir,
    /// Held by the owner, and by every write that is under way.
    owned: Mutex<Option<Arc<File>>>,
    writer: Arc<Connections>,
    readers: Connections,
    /// For API keys alone: whether a caller is one must not wait behind what callers read.
    key_reader: Connections,
    checkpointer: Arc<Checkpointer>,
}

impl SqliteStore {
    /// A store in `data_dir`. Nothing is created or changed before `migrate`.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let dir = DataDir::new(data_dir);
        Ok(Self {
            owned: Mutex::default(),
            writer: Arc::new(Connections::new(dir.database(), Kind::Writer, 1)),
            readers: Connections::new(dir.database(), Kind::Reader, READERS),
            key_reader: Connections::new(dir.database(), Kind::Reader, 1),
            checkpointer: Arc::new(Checkpointer::new(dir.database())),
            dir,
        })
    }

    fn owned(&self) -> std::sync::MutexGuard<'_, Option<Arc<File>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    {
        self.readers.run(work).await
    }

    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    {
        // What is written is written, also when the length of the log cannot be told.
        let work =
            |connection: &mut Connection| Ok((work(connection)?, checkpoint::log_pages(connection).unwrap_or(0)));
        let (result, log_pages) = self.writer.run(work).await?;
        self.checkpointer.committed(log_pages, &self.writer);
        Ok(result)
    }

    /// A write that is the owner's alone. The lock is kept until it is done, even if the store is dropped meanwhile.
    async fn write_as_owner<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    {
        let owned = self.owned().clone().ok_or(StoreError::NotOwner)?;
        self.write(move |connection| {
            let result = work(connection);
            drop(owned);
            result
        })
        .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self, _now: Timestamp) -> Result<()> {
        let dir = self.dir.clone();
        let task = tokio::task::spawn_blocking(move || dir.migrate());
        task.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the migration ended: {error}"))))
    }

    async fn identity(&self) -> Result<Uuid> {
        self.read(|connection| Ok(connection.query_row("SELECT id FROM identity", [], |row| rows::uuid(row, 0))?)).await
    }

    async fn ping(&self) -> Result<()> {
        self.read(|connection| reads::watermark(connection).map(drop).map_err(Into::into)).await
    }

    async fn acquire(&self) -> Result<bool> {
        // Nothing but the end of the process, or `close`, takes the lock from its owner.
        let mut owned = self.owned();
        if owned.is_none() {
            *owned = self.dir.try_own()?.map(Arc::new);
        }
        Ok(owned.is_some())
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        let batch = batch.clone();
        self.write_as_owner(move |connection| commit::commit(connection, &batch)).await
    }

    async fn stored(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
        let ids = ids.to_vec();
        // Behind the writes asked for before: a commit whose caller gave up has ended by then, either way. One that failed at its
        // sync has taken its connection with it, and the next one begins with what is on the disk.
        self.write(move |connection| commit::stored(connection, &ids)).await
    }

    async fn stored_events(&self, ids: &[EventId]) -> Result<Vec<EventId>> {
        let ids = ids.to_vec();
        // Likewise.
        self.write(move |connection| events::stored(connection, &ids)).await
    }

    async fn idempotency_keys(&self, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>> {
        let keys = keys.to_vec();
        self.read(move |connection| keys::find(connection, &keys)).await
    }

    async fn matching(&self, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>> {
        let (tenant, event_type) = (tenant.to_owned(), event_type.to_owned());
        self.read(move |connection| events::matching(connection, &tenant, &event_type)).await
    }

    async fn event(&self, id: EventId) -> Result<Option<Event>> {
        self.read(move |connection| events::event(connection, id)).await
    }

    async fn event_deliveries(&self, id: EventId, after: DeliveryId, limit: usize) -> Result<Vec<EventDelivery>> {
        self.read(move |connection| events::deliveries(connection, id, after, limit)).await
    }

    async fn reserve_subscription_id(&self) -> Result<SubscriptionId> {
        self.write(master_keys::reserve_subscription_id).await
    }

    async fn create_subscription(
        &self,
        new: NewSubscription,
        quota: u64,
        now: Timestamp,
    ) -> Result<Option<Subscription>> {
        self.write(move |connection| subscriptions::create(connection, &new, quota, now)).await
    }

    async fn subscription(&self, id: SubscriptionId) -> Result<Option<Subscription>> {
        self.read(move |connection| subscriptions::get(connection, id)).await
    }

    async fn subscriptions(
        &self,
        tenant: Option<&str>,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>> {
        let tenant = tenant.map(str::to_owned);
        self.read(move |connection| subscriptions::list(connection, tenant.as_deref(), after, limit)).await
    }

    async fn update_subscription(
        &self,
        id: SubscriptionId,
        change: SubscriptionChange,
        now: Timestamp,
    ) -> Result<Update> {
        self.write(move |connection| subscriptions::update(connection, id, &change, now)).await
    }

    async fn delete_subscription(&self, id: SubscriptionId, by: &Actor, now: Timestamp) -> Result<bool> {
        let act = Act::new(by.clone(), Action::Deleted);
        self.write(move |connection| subscriptions::delete(connection, id, &act, now)).await
    }

    async fn subscriptions_with_secrets(
        &self,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>> {
        self.read(move |connection| master_keys::subscriptions_with_secrets(connection, after, limit)).await
    }

    async fn reseal(&self, changes: &[Reseal]) -> Result<Vec<Subscription>> {
        let changes = changes.to_vec();
        self.write(move |connection| master_keys::reseal(connection, &changes)).await
    }

    async fn master_keys(&self) -> Result<Vec<MasterKeyRecord>> {
        self.read(master_keys::list).await
    }

    async fn add_master_key(&self, record: &MasterKeyRecord) -> Result<()> {
        let record = record.clone();
        self.write(move |connection| master_keys::add(connection, &record)).await
    }

    async fn is_sealed_under(&self, key: &str) -> Result<bool> {
        let key = key.to_owned();
        self.read(move |connection| master_keys::is_sealed_under(connection, &key)).await
    }

    async fn forget_master_keys(&self, keep: &str) -> Result<Vec<String>> {
        let keep = keep.to_owned();
        self.write(move |connection| master_keys::forget(connection, &keep)).await
    }

    async fn subscription_versions(&self, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
        let ids = ids.to_vec();
        self.read(move |connection| subscriptions::versions(connection, &ids)).await
    }

    async fn recovery(&self) -> Result<Recovery> {
        self.read(reads::recovery).await
    }

    async fn pending(&self, id: SubscriptionId, retry_limit: usize) -> Result<Pending> {
        self.read(move |connection| reads::pending(connection, id, retry_limit)).await
    }

    async fn backlog_page(
        &self,
        id: SubscriptionId,
        after: DeliveryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<BacklogPage> {
        self.read(move |connection| reads::backlog_page(connection, id, after, limit, max_bytes)).await
    }

    async fn retries(&self, id: SubscriptionId, limit: usize) -> Result<Vec<Retry>> {
        self.read(move |connection| reads::retries(connection, id, limit)).await
    }

    async fn unfinished(&self, ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
        let ids = ids.to_vec();
        self.read(move |connection| reads::unfinished(connection, &ids)).await
    }

    async fn subscriptions_due(&self, before: Timestamp, limit: usize) -> Result<Vec<SubscriptionId>> {
        self.read(move |connection| reads::subscriptions_due(connection, before, limit)).await
    }

    async fn subscriptions_behind(&self, limit: usize) -> Result<Vec<SubscriptionId>> {
        self.read(move |connection| reads::subscriptions_behind(connection, limit)).await
    }

    async fn bring_retries_forward(&self, latest: Timestamp) -> Result<u64> {
        const SQL: &str = "UPDATE retries SET next_attempt_at = ?1 WHERE next_attempt_at > ?1";
        self.write_as_owner(move |connection| Ok(connection.execute(SQL, [latest.0])? as u64)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        self.read(move |connection| status::delivery(connection, id)).await
    }

    async fn logs(&self, id: SubscriptionId, before: Option<Uuid>, limit: usize) -> Result<Vec<AttemptLog>> {
        let mut page = Vec::new();
        let mut from = before.map_or(LogsFrom::Newest, LogsFrom::Before);
        for _ in 0..READS_OF_A_LOG {
            let wanted = limit - page.len();
            let read = self.read(move |connection| status::logs(connection, id, from, wanted)).await?;
            page.extend(read.rows);
            let Some(next) = read.next else { return Ok(page) };
            from = next;
        }
        // A page that ends early would say that there is nothing older.
        Err(StoreError::Unavailable(format!(
            "the log of subscription {id} is too sparse among those of others to be read"
        )))
    }

    /// Nothing to do: the file grows by itself.
    async fn prepare(&self, _now: Timestamp) -> Result<JanitorCounts> {
        Ok(JanitorCounts::default())
    }

    async fn expire(&self, cutoff: Timestamp, now: Timestamp, limit: usize) -> Result<JanitorCounts> {
        let overdue = self.read(move |connection| janitor::overdue(connection, cutoff, limit)).await?;
        if overdue.is_empty() {
            return Ok(JanitorCounts::default());
        }
        let more = overdue.len() == limit;
        let expired = self.write_as_owner(move |connection| janitor::expire(connection, &overdue, now)).await?;
        Ok(JanitorCounts { expired, more, ..JanitorCounts::default() })
    }

    async fn prune(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner(move |connection| janitor::prune(connection, cutoff, limit)).await
    }

    async fn prune_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner(move |connection| keys::prune(connection, cutoff, limit)).await
    }

    async fn record(&self, act: &Act, object: &Thing, tenant: Option<&str>, now: Timestamp) -> Result<()> {
        let (act, object, tenant) = (act.clone(), object.clone(), tenant.map(str::to_owned));
        self.write(move |connection| audit::append(connection, &act, &object, tenant.as_deref(), now)).await
    }

    async fn audit(&self, filter: &AuditFilter, before: Option<i64>, limit: usize) -> Result<Vec<AuditRecord>> {
        let filter = filter.clone();
        self.read(move |connection| audit::list(connection, &filter, before, limit)).await
    }

    async fn prune_audit(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner(move |connection| audit::prune(connection, cutoff, limit)).await
    }

    async fn save_failing(&self, id: SubscriptionId, since: Option<Timestamp>) -> Result<()> {
        self.write(move |connection| subscriptions::save_failing(connection, id, since)).await
    }

    async fn backlog(&self, id: SubscriptionId, after: DeliveryId, cap: u64) -> Result<u64> {
        self.read(move |connection| reads::backlog(connection, id, after, cap)).await
    }

    async fn state_changes(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Result<Vec<StateChange>> {
        self.read(move |connection| state_changes::of_subscription(connection, id, before, limit)).await
    }

    async fn unannounced(&self, limit: usize) -> Result<Vec<StateChange>> {
        self.read(move |connection| state_changes::unannounced(connection, limit)).await
    }

    async fn announced(&self, ids: &[i64]) -> Result<()> {
        let ids = ids.to_vec();
        self.write(move |connection| state_changes::announced(connection, &ids)).await
    }

    async fn create_api_key(&self, new: NewApiKey, most: u64, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>> {
        let act = new.created(by.clone());
        self.write(move |connection| api_keys::create(connection, &new, most, &act, now)).await
    }

    async fn api_key(&self, prefix: Prefix) -> Result<Option<ApiKey>> {
        self.key_reader.run(move |connection| api_keys::get(connection, prefix)).await
    }

    async fn api_keys(&self, after: Option<Prefix>, limit: usize) -> Result<Vec<ApiKey>> {
        self.read(move |connection| api_keys::list(connection, after, limit)).await
    }

    async fn api_keys_changed_since(&self, revision: i64, limit: usize) -> Result<Vec<ApiKey>> {
        self.key_reader.run(move |connection| api_keys::changed_since(connection, revision, limit)).await
    }

    async fn api_key_revision(&self) -> Result<i64> {
        self.key_reader.run(|connection| api_keys::revision(connection)).await
    }

    async fn revoke_api_key(&self, prefix: Prefix, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>> {
        let act = Act::new(by.clone(), Action::KeyRevoked);
        self.write(move |connection| api_keys::revoke(connection, prefix, &act, now)).await
    }

    async fn prune_api_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner(move |connection| api_keys::prune(connection, cutoff, limit)).await
    }

    async fn close(&self) {
        self.readers.close().await;
        self.key_reader.close().await;
        self.checkpointer.close().await;
        if self.owned().is_some()
            && let Err(error) = self.writer.run(|connection| checkpoint::checkpoint(connection, "TRUNCATE")).await
        {
            tracing::warn!(%error, "the write-ahead log could not be copied; the next start will do it");
        }
        self.writer.close().await;
        *self.owned() = None;
    }
}
