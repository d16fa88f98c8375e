//! The store of a simulation: one process's handle on the tables. What is committed outlives the process.

pub mod faults;
pub mod tables;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hookpost::access::{Actor, ApiKey, NewApiKey, Prefix};
use hookpost::audit::{Act, AuditFilter, AuditRecord, Thing};
use hookpost::delivery::{
    AttemptLog, Delivery, DeliveryId, Event, EventId, Retry, StateChange, Subscription, SubscriptionId, Timestamp,
};
use hookpost::store::{
    Asked, BacklogPage, Batch, DeliveryRecord, EventDelivery, IdempotencyKey, JanitorCounts, MasterKeyRecord,
    NewReplay, NewSubscription, Pending, Progress, Recovery, Replay, ReplayId, ReplayState, Reseal, Result,
    RetriesWaiting, Search, Step, Store, StoreError, SubscriptionChange, Update,
};
use uuid::Uuid;

use faults::Faults;
use tables::Tables;

/// What all processes share.
#[derive(Default)]
pub struct Disk {
    tables: Mutex<Tables>,
    /// The process that may commit.
    owner: Mutex<Option<u64>>,
    processes: AtomicU64,
    /// A commit that has failed for its process, and takes effect all the same once the connection is found to be dead.
    late: Mutex<Option<Batch>>,
}

impl Disk {
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owner(&self) -> MutexGuard<'_, Option<u64>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that is none of ours takes it, and is gone as soon as ours is.
    pub fn take_by_another(&self) {
        *self.owner() = Some(u64::MAX);
    }

    /// Whoever had it has it no more.
    pub fn release(&self) {
        *self.owner() = None;
    }

    /// The process that owned it has ended; what it had sent may still take effect, and nothing after that.
    pub fn end_process(&self, takes_effect: impl FnOnce() -> bool, faults: &Faults) {
        if self.has_late() && takes_effect() {
            self.commit_late(faults);
        }
        *self.late() = None;
        self.release();
    }

    fn late(&self) -> MutexGuard<'_, Option<Batch>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_late(&self) -> bool {
        self.late().is_some()
    }

    fn commit_late(&self, faults: &Faults) {
        let Some(batch) = self.late().take() else { return };
        let mut tables = self.tables();
        if tables.check(&batch).is_ok() {
            tables.commit(&faults.commits(&batch)).expect("it was checked");
        }
    }
}

/// A process's store.
pub struct SimStore {
    disk: Arc<Disk>,
    process: u64,
    faults: Faults,
}

impl SimStore {
    pub fn open(disk: Arc<Disk>, faults: Faults) -> Self {
        let process = disk.processes.fetch_add(1, Ordering::Relaxed);
        Self { disk, process, faults }
    }

    async fn read<T>(&self, what: &'static str, work: impl FnOnce(&Tables) -> T + Send) -> Result<T> {
        self.faults.before(what).await?;
        let answer = work(&self.disk.tables());
        self.faults.after_read(what).await?;
        Ok(answer)
    }

    async fn write<T>(&self, what: &'static str, work: impl FnOnce(&mut Tables) -> Result<T> + Send) -> Result<T> {
        self.faults.before(what).await?;
        let answer = work(&mut self.disk.tables())?;
        self.faults.after_write(what).await?;
        Ok(answer)
    }

    async fn write_as_owner<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Tables) -> Result<T> + Send,
    ) -> Result<T> {
        self.write(what, |tables| {
            if *self.disk.owner() != Some(self.process) {
                return Err(StoreError::NotOwner);
            }
            work(tables)
        })
        .await
    }
}

fn outside<T>() -> Result<T> {
    Err(StoreError::Rejected("not part of the simulation".to_owned()))
}

#[async_trait]
impl Store for SimStore {
    fn name(&self) -> &'static str {
        "simulated"
    }
    async fn migrate(&self, _: Timestamp) -> Result<()> {
        Ok(())
    }
    async fn identity(&self) -> Result<Uuid> {
        Ok(Uuid::nil())
    }
    async fn ping(&self) -> Result<()> {
        self.read("ping", |_| ()).await
    }
    async fn acquire(&self) -> Result<bool> {
        self.faults.before("acquire").await?;
        if *self.disk.owner() == Some(self.process) {
            self.disk.commit_late(&self.faults);
        }
        let mut owner = self.disk.owner();
        Ok(*owner.get_or_insert(self.process) == self.process)
    }
    async fn commit(&self, batch: &Batch) -> Result<()> {
        if *self.disk.owner() == Some(self.process) && self.faults.delays_commit() {
            *self.disk.late() = Some(batch.clone());
            return Err(StoreError::Unavailable("the connection broke during the commit".to_owned()));
        }
        self.write_as_owner("commit", |tables| {
            tables.check(batch)?;
            tables.commit(&self.faults.commits(batch))
        })
        .await
    }
    async fn stored(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
        self.read("stored", |tables| tables.stored(ids)).await
    }
    async fn stored_events(&self, ids: &[EventId]) -> Result<Vec<EventId>> {
        self.read("stored_events", |tables| tables.stored_events(ids)).await
    }
    async fn idempotency_keys(&self, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>> {
        self.read("idempotency_keys", |tables| tables.idempotency_keys(keys)).await
    }
    async fn matching(&self, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>> {
        self.read("matching", |tables| tables.matching(tenant, event_type)).await
    }
    async fn event(&self, id: EventId) -> Result<Option<Event>> {
        self.read("event", |tables| tables.event(id)).await
    }
    async fn event_deliveries(&self, id: EventId, after: DeliveryId, limit: usize) -> Result<Vec<EventDelivery>> {
        self.read("event_deliveries", |tables| tables.event_deliveries(id, after, limit)).await
    }
    async fn reserve_subscription_id(&self) -> Result<SubscriptionId> {
        self.write("reserve_subscription_id", |tables| Ok(tables.reserve_subscription_id())).await
    }
    async fn create_subscription(
        &self,
        new: NewSubscription,
        quota: u64,
        now: Timestamp,
    ) -> Result<Option<Subscription>> {
        self.write("create_subscription", |tables| Ok(tables.create_subscription(new, quota, now))).await
    }
    async fn subscription(&self, id: SubscriptionId) -> Result<Option<Subscription>> {
        self.faults.subscription_is_read(id);
        self.read("subscription", |tables| tables.subscriptions.get(&id).cloned()).await
    }
    async fn subscriptions(
        &self,
        tenant: Option<&str>,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>> {
        self.read("subscriptions", |tables| {
            let all = tables.subscriptions.values().filter(|s| tenant.is_none_or(|tenant| *s.tenant == *tenant));
            all.filter(|s| after.is_none_or(|after| s.id > after)).take(limit).cloned().collect()
        })
        .await
    }
    async fn update_subscription(
        &self,
        id: SubscriptionId,
        change: SubscriptionChange,
        now: Timestamp,
    ) -> Result<Update> {
        self.faults.changing(&change);
        self.write("update_subscription", |tables| Ok(tables.update_subscription(id, change, now))).await
    }
    async fn delete_subscription(&self, id: SubscriptionId, _: &Actor, now: Timestamp) -> Result<bool> {
        self.write("delete_subscription", |tables| Ok(tables.delete_subscription(id, now))).await
    }
    async fn subscriptions_with_secrets(&self, _: Option<SubscriptionId>, _: usize) -> Result<Vec<Subscription>> {
        outside()
    }
    async fn reseal(&self, _: &[Reseal]) -> Result<Vec<Subscription>> {
        outside()
    }
    async fn master_keys(&self) -> Result<Vec<MasterKeyRecord>> {
        outside()
    }
    async fn add_master_key(&self, _: &MasterKeyRecord) -> Result<()> {
        outside()
    }
    async fn is_sealed_under(&self, _: &str) -> Result<bool> {
        outside()
    }
    async fn forget_master_keys(&self, _: &str) -> Result<Vec<String>> {
        outside()
    }
    async fn subscription_versions(&self, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
        self.read("subscription_versions", |tables| tables.versions(ids)).await
    }
    async fn recovery(&self) -> Result<Recovery> {
        let recovery = self.read("recovery", Tables::recovery).await?;
        Ok(if self.faults.forgets_recovery() {
            Recovery { newest_id: recovery.newest_id, ..Recovery::default() }
        } else {
            recovery
        })
    }
    async fn pending(&self, id: SubscriptionId, retry_limit: usize) -> Result<Pending> {
        self.faults.actor_starts(id);
        self.read("pending", |tables| Pending {
            position: tables.positions.get(&id).copied(),
            retries: tables.retries(id, retry_limit),
        })
        .await
    }
    async fn backlog_page(
        &self,
        id: SubscriptionId,
        after: DeliveryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<BacklogPage> {
        self.faults.actor_reads(id, "a page");
        self.read("backlog_page", |tables| tables.backlog_page(id, after, limit, max_bytes)).await
    }
    async fn retries(&self, id: SubscriptionId, limit: usize) -> Result<Vec<Retry>> {
        self.faults.actor_reads(id, "retries");
        self.read("retries", |tables| tables.retries(id, limit)).await
    }
    async fn unfinished(&self, ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
        if let Some(of) = ids.first().and_then(|id| self.disk.tables().delivery(*id)) {
            self.faults.actor_reads(of.subscription_id, "payloads");
        }
        self.read("unfinished", |tables| tables.unfinished(ids)).await
    }
    async fn subscriptions_due(&self, before: Timestamp, limit: usize) -> Result<Vec<SubscriptionId>> {
        self.read("subscriptions_due", |tables| tables.subscriptions_due(before, limit)).await
    }
    /// Nothing but figures follows from it: no fault is drawn for it, so that seeds mean what they meant.
    async fn retries_waiting(&self, now: Timestamp, cap: u64) -> Result<RetriesWaiting> {
        Ok(self.disk.tables().retries_waiting(now, cap))
    }
    async fn subscriptions_behind(&self, limit: usize) -> Result<Vec<SubscriptionId>> {
        self.read("subscriptions_behind", |tables| tables.subscriptions_behind(limit)).await
    }
    async fn bring_retries_forward(&self, latest: Timestamp) -> Result<u64> {
        self.write_as_owner("bring_retries_forward", |tables| Ok(tables.bring_retries_forward(latest))).await
    }
    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        self.read("delivery", |tables| tables.delivery(id)).await
    }
    async fn logs(&self, id: SubscriptionId, before: Option<Uuid>, limit: usize) -> Result<Vec<AttemptLog>> {
        self.read("logs", |tables| tables.logs(id, before, limit)).await
    }
    async fn search_step(&self, _: &Search, _: usize) -> Result<Step> {
        outside()
    }
    async fn subscriptions_ever(&self, _: &str, _: usize) -> Result<Option<Vec<SubscriptionId>>> {
        outside()
    }
    async fn deliveries(&self, _: &[DeliveryId], _: usize) -> Result<Vec<Delivery>> {
        outside()
    }
    async fn create_replay(&self, _: &NewReplay, _: u64, _: Timestamp) -> Result<Asked> {
        outside()
    }
    async fn replay(&self, _: ReplayId) -> Result<Option<Replay>> {
        outside()
    }
    async fn replays(&self, _: SubscriptionId, _: Option<i64>, _: usize) -> Result<Vec<Replay>> {
        outside()
    }
    /// Nobody asks for one; and no fault, so that those of a seed stay where they were.
    async fn running_replays(&self, _: ReplayId, _: usize) -> Result<Vec<ReplayId>> {
        Ok(Vec::new())
    }
    async fn advance_replay(&self, _: &Progress) -> Result<()> {
        outside()
    }
    async fn end_replay(
        &self,
        _: ReplayId,
        _: ReplayState,
        _: Option<&str>,
        _: Option<&Act>,
        _: Timestamp,
    ) -> Result<Option<Replay>> {
        outside()
    }
    async fn prune_replays(&self, _: Timestamp, _: usize) -> Result<JanitorCounts> {
        Ok(JanitorCounts::default())
    }
    async fn prepare(&self, _: Timestamp) -> Result<JanitorCounts> {
        self.read("prepare", |_| JanitorCounts::default()).await
    }
    async fn expire(&self, cutoff: Timestamp, now: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner("expire", |tables| {
            let before = tables.logs.len();
            let counts = tables.expire(cutoff, now, limit);
            self.faults.expired(&tables.logs[before..]);
            Ok(counts)
        })
        .await
    }
    async fn prune(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner("prune", |tables| Ok(tables.prune(cutoff, limit))).await
    }
    async fn prune_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts> {
        self.write_as_owner("prune_keys", |tables| Ok(tables.prune_keys(cutoff, limit))).await
    }
    async fn record(&self, _: &Act, _: &Thing, _: Option<&str>, _: Timestamp) -> Result<()> {
        outside()
    }
    async fn audit(&self, _: &AuditFilter, _: Option<i64>, _: usize) -> Result<Vec<AuditRecord>> {
        outside()
    }
    async fn prune_audit(&self, _: Timestamp, _: usize) -> Result<JanitorCounts> {
        self.write_as_owner("prune_audit", |_| Ok(JanitorCounts::default())).await
    }
    async fn save_failing(&self, id: SubscriptionId, since: Option<Timestamp>) -> Result<()> {
        self.write("save_failing", |tables| {
            tables.save_failing(id, since);
            Ok(())
        })
        .await
    }
    async fn backlog(&self, id: SubscriptionId, after: DeliveryId, cap: u64) -> Result<u64> {
        self.read("backlog", |tables| tables.backlog(id, after, cap)).await
    }
    async fn state_changes(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Result<Vec<StateChange>> {
        self.read("state_changes", |tables| tables.state_changes(id, before, limit)).await
    }
    async fn unannounced(&self, limit: usize) -> Result<Vec<StateChange>> {
        self.read("unannounced", |tables| tables.unannounced(limit)).await
    }
    async fn announced(&self, ids: &[i64]) -> Result<()> {
        self.write("announced", |tables| {
            tables.announced(ids);
            Ok(())
        })
        .await
    }
    async fn create_api_key(&self, _: NewApiKey, _: u64, _: &Actor, _: Timestamp) -> Result<Option<ApiKey>> {
        outside()
    }
    async fn api_key(&self, _: Prefix) -> Result<Option<ApiKey>> {
        outside()
    }
    async fn api_keys(&self, _: Option<Prefix>, _: usize) -> Result<Vec<ApiKey>> {
        outside()
    }
    async fn api_keys_changed_since(&self, _: i64, _: usize) -> Result<Vec<ApiKey>> {
        outside()
    }
    async fn api_key_revision(&self) -> Result<i64> {
        outside()
    }
    async fn revoke_api_key(&self, _: Prefix, _: &Actor, _: Timestamp) -> Result<Option<ApiKey>> {
        outside()
    }
    async fn prune_api_keys(&self, _: Timestamp, _: usize) -> Result<JanitorCounts> {
        self.write_as_owner("prune_api_keys", |_| Ok(JanitorCounts::default())).await
    }
    async fn close(&self) {
        let mut owner = self.disk.owner();
        if *owner == Some(self.process) {
            *owner = None;
        }
    }
}
