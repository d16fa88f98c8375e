//! The embedded store: SQLite in WAL mode, synchronous=FULL.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    BacklogPage, Batch, DeliveryRecord, JanitorCounts, NewSubscription, Pending, Recovery, Result, Store,
    SubscriptionChange,
};
use crate::delivery::{AttemptLog, Delivery, DeliveryId, Retry, Subscription, SubscriptionId, Timestamp};

/// See the module's docs.
pub struct SqliteStore {}

impl SqliteStore {
    /// Opens it. Nothing is created or changed before `migrate`.
    pub fn open(_data_dir: &std::path::Path) -> Result<Self> {
        todo!()
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        todo!()
    }
    async fn migrate(&self, _now: Timestamp) -> Result<()> {
        todo!()
    }
    async fn ping(&self) -> Result<()> {
        todo!()
    }
    async fn acquire(&self) -> Result<bool> {
        todo!()
    }
    async fn commit(&self, _batch: &Batch) -> Result<()> {
        todo!()
    }
    async fn stored(&self, _ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
        todo!()
    }
    async fn create_subscription(&self, _new: NewSubscription, _now: Timestamp) -> Result<Subscription> {
        todo!()
    }
    async fn subscription(&self, _id: SubscriptionId) -> Result<Option<Subscription>> {
        todo!()
    }
    async fn subscriptions(&self, _after: Option<SubscriptionId>, _limit: usize) -> Result<Vec<Subscription>> {
        todo!()
    }
    async fn update_subscription(
        &self,
        _id: SubscriptionId,
        _change: SubscriptionChange,
        _now: Timestamp,
    ) -> Result<Option<Subscription>> {
        todo!()
    }
    async fn delete_subscription(&self, _id: SubscriptionId) -> Result<bool> {
        todo!()
    }
    async fn subscription_versions(&self, _ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
        todo!()
    }
    async fn recovery(&self) -> Result<Recovery> {
        todo!()
    }
    async fn pending(&self, _id: SubscriptionId, _retry_limit: usize) -> Result<Pending> {
        todo!()
    }
    async fn backlog_page(
        &self,
        _id: SubscriptionId,
        _after: DeliveryId,
        _limit: usize,
        _max_bytes: usize,
    ) -> Result<BacklogPage> {
        todo!()
    }
    async fn retries(&self, _id: SubscriptionId, _limit: usize) -> Result<Vec<Retry>> {
        todo!()
    }
    async fn retry_payloads(&self, _ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
        todo!()
    }
    async fn subscriptions_due(&self, _before: Timestamp, _limit: usize) -> Result<Vec<SubscriptionId>> {
        todo!()
    }
    async fn delivery(&self, _id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        todo!()
    }
    async fn logs(&self, _id: SubscriptionId, _before: Option<Uuid>, _limit: usize) -> Result<Vec<AttemptLog>> {
        todo!()
    }
    async fn prepare(&self, _now: Timestamp) -> Result<JanitorCounts> {
        todo!()
    }
    async fn expire(&self, _cutoff: Timestamp, _now: Timestamp, _limit: usize) -> Result<JanitorCounts> {
        todo!()
    }
    async fn prune(&self, _cutoff: Timestamp, _limit: usize) -> Result<JanitorCounts> {
        todo!()
    }
    async fn close(&self) {
        todo!()
    }
}
