//! What the store of a simulation holds, and the rules by which it changes: those of `src/store/mod.rs`, as plain functions
//! over maps. The suite of `tests/store` is run over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hookpost::delivery::{
    AttemptLog, Delivery, DeliveryId, Event, EventId, NO_PATTERNS, Outcome, Retry, StateChange, Subscription,
    SubscriptionId, Timestamp, matching_patterns,
};
use hookpost::store::{
    BacklogPage, Batch, DeliveryRecord, EventDelivery, IdempotencyKey, JanitorCounts, MAX_RESENDS, NewSubscription,
    Recovery, Result, RetriesWaiting, StoreError, SubscriptionChange, Update,
};
use uuid::Uuid;

type KeyName = (Arc<str>, Arc<str>);

#[derive(Clone, Default)]
pub struct Tables {
    pub subscriptions: BTreeMap<SubscriptionId, Subscription>,
    last_subscription: i64,
    deleted: BTreeMap<SubscriptionId, (Timestamp, Arc<str>)>,
    events: BTreeMap<EventId, Event>,
    /// With their payloads, also where these are the events'.
    deliveries: BTreeMap<DeliveryId, Delivery>,
    /// In the order in which they were written.
    pub logs: Vec<AttemptLog>,
    log_ids: BTreeSet<Uuid>,
    /// Deliveries that no log row mentions.
    pub untried: BTreeSet<(SubscriptionId, DeliveryId)>,
    pub retries: BTreeMap<DeliveryId, Retry>,
    pub positions: BTreeMap<SubscriptionId, DeliveryId>,
    pub watermark: Option<DeliveryId>,
    keys: BTreeMap<KeyName, IdempotencyKey>,
    changes: BTreeMap<i64, (StateChange, bool)>,
    last_change: i64,
}

/// The floor of an id given just after `now`.
fn last_by(now: Timestamp) -> DeliveryId {
    DeliveryId::floor_at(now + Duration::from_millis(1)).predecessor()
}

impl Tables {
    /// Whether the batch is one that can be committed.
    pub fn check(&self, batch: &Batch) -> Result<()> {
        self.check_keys(&batch.keys)
    }

    pub fn commit(&mut self, batch: &Batch) -> Result<()> {
        self.check(batch)?;
        for key in &batch.keys {
            self.keys.entry((key.scope.clone(), key.key.clone())).or_insert_with(|| key.clone());
        }
        for event in &batch.events {
            self.events.entry(event.id).or_insert_with(|| event.clone());
        }
        batch.deliveries.iter().for_each(|delivery| self.add_delivery(delivery));
        batch.logs.iter().for_each(|log| self.add_log(log));
        for retry in &batch.retries {
            if self.subscriptions.contains_key(&retry.subscription_id) {
                self.retries.insert(retry.delivery_id, retry.clone());
            }
        }
        batch.settled.iter().for_each(|id| drop(self.retries.remove(id)));
        for (id, position) in &batch.positions {
            match position {
                Some(at) if self.subscriptions.contains_key(id) => drop(self.positions.insert(*id, *at)),
                Some(_) => {}
                None => drop(self.positions.remove(id)),
            }
        }
        self.watermark = batch.watermark.or(self.watermark);
        Ok(())
    }

    fn check_keys(&self, keys: &[IdempotencyKey]) -> Result<()> {
        let mut own: BTreeMap<KeyName, Uuid> = BTreeMap::new();
        for key in keys {
            let name = (key.scope.clone(), key.key.clone());
            let held = self.keys.get(&name).map(|held| held.outcome);
            let held = held.or_else(|| own.get(&name).copied());
            if held.is_some_and(|outcome| outcome != key.outcome) {
                return Err(StoreError::Rejected("an idempotency key stands for another request already".to_owned()));
            }
            own.insert(name, key.outcome);
        }
        Ok(())
    }

    fn add_delivery(&mut self, delivery: &Delivery) {
        if self.deliveries.contains_key(&delivery.id) {
            return;
        }
        let mut stored = delivery.clone();
        if let Some(event) = delivery.event_id.and_then(|id| self.events.get(&id)) {
            stored.payload = event.payload.clone();
            stored.ordering_key = event.ordering_key.clone();
        }
        self.deliveries.insert(delivery.id, stored);
        self.untried.insert((delivery.subscription_id, delivery.id));
    }

    fn add_log(&mut self, log: &AttemptLog) {
        if self.log_ids.insert(log.id) {
            self.logs.push(log.clone());
            self.untried.remove(&(log.subscription_id, log.delivery_id));
        }
    }

    pub fn stored(&self, ids: &[DeliveryId]) -> Vec<DeliveryId> {
        ids.iter().copied().filter(|id| self.deliveries.contains_key(id)).collect()
    }

    pub fn stored_events(&self, ids: &[EventId]) -> Vec<EventId> {
        ids.iter().copied().filter(|id| self.events.contains_key(id)).collect()
    }

    pub fn idempotency_keys(&self, names: &[KeyName]) -> Vec<IdempotencyKey> {
        names.iter().filter_map(|name| self.keys.get(name).cloned()).collect()
    }

    pub fn matching(&self, tenant: &str, event_type: &str) -> Vec<SubscriptionId> {
        let patterns = matching_patterns(event_type);
        let wants = |subscription: &&Subscription| {
            let named = subscription.event_types.iter().any(|pattern| patterns.iter().any(|p| p == pattern.as_str()));
            let all = subscription.event_types.is_empty() && patterns.iter().any(|pattern| pattern == NO_PATTERNS);
            &*subscription.tenant == tenant && subscription.disabled.is_none() && (named || all)
        };
        self.subscriptions.values().filter(wants).map(|subscription| subscription.id).collect()
    }

    pub fn event(&self, id: EventId) -> Option<Event> {
        self.events.get(&id).cloned()
    }

    pub fn event_deliveries(&self, id: EventId, after: DeliveryId, limit: usize) -> Vec<EventDelivery> {
        let of_event = self.deliveries.values().filter(|d| d.event_id == Some(id) && d.id > after).take(limit);
        let shown = of_event.map(|delivery| EventDelivery {
            id: delivery.id,
            subscription_id: delivery.subscription_id,
            last_outcome: self.logs_of(delivery.id).last().map(|log| log.outcome),
            retry: self.retry(delivery.id),
            subscription_exists: self.subscriptions.contains_key(&delivery.subscription_id),
        });
        shown.collect()
    }

    /// By id, as it is shown.
    fn logs_of(&self, id: DeliveryId) -> Vec<AttemptLog> {
        let mut logs: Vec<_> = self.logs.iter().filter(|log| log.delivery_id == id).cloned().collect();
        logs.sort_by_key(|log| log.id);
        logs
    }

    /// With the delivery's ordering key, which is not stored with it.
    fn retry(&self, id: DeliveryId) -> Option<Retry> {
        let ordering_key = self.deliveries.get(&id).and_then(|delivery| delivery.ordering_key.clone());
        self.retries.get(&id).map(|retry| Retry { ordering_key, ..retry.clone() })
    }

    pub fn reserve_subscription_id(&mut self) -> SubscriptionId {
        self.last_subscription += 1;
        SubscriptionId(self.last_subscription)
    }

    pub fn create_subscription(&mut self, new: NewSubscription, quota: u64, now: Timestamp) -> Option<Subscription> {
        let own = self.subscriptions.values().filter(|other| *other.tenant == *new.tenant).count();
        if own as u64 >= quota {
            return None;
        }
        let created = Subscription {
            id: new.id,
            tenant: new.tenant.into(),
            target_url: new.target_url.into(),
            event_types: new.event_types,
            secrets: new.secrets.map(Arc::new),
            disabled: None,
            settings: Arc::new(new.settings),
            drop_through: None,
            failing_since: None,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        self.subscriptions.insert(created.id, created.clone());
        Some(created)
    }

    pub fn update_subscription(&mut self, id: SubscriptionId, change: SubscriptionChange, now: Timestamp) -> Update {
        let newest = self.deliveries.keys().last().copied();
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Update::Missing };
        if change.only_version.is_some_and(|version| version != subscription.version) {
            return Update::Overtaken;
        }
        let was = subscription.disabled;
        subscription.target_url = change.target_url.map_or_else(|| subscription.target_url.clone(), Into::into);
        subscription.event_types = change.event_types.unwrap_or_else(|| subscription.event_types.clone());
        if let Some(secrets) = change.secrets {
            subscription.secrets = secrets.map(Arc::new);
        }
        if let Some(disabled) = change.disabled {
            subscription.disabled = disabled;
            if disabled.is_none() && was.is_some() {
                subscription.failing_since = None;
            }
        }
        if let Some(settings) = change.settings {
            subscription.settings = Arc::new(settings);
        }
        if change.drop_backlog {
            subscription.drop_through = Some(last_by(now).max(newest.unwrap_or(DeliveryId::MIN)));
        }
        subscription.version += 1;
        subscription.updated_at = now;
        let after = subscription.clone();
        if change.drop_backlog {
            for retry in self.retries.values_mut().filter(|retry| retry.subscription_id == id) {
                retry.next_attempt_at = retry.next_attempt_at.min(now);
            }
        }
        if after.disabled != was {
            self.add_change(&after, change.detail);
        }
        Update::Done(after)
    }

    fn add_change(&mut self, now: &Subscription, detail: Option<String>) {
        self.last_change += 1;
        let change = StateChange {
            id: self.last_change,
            subscription_id: now.id,
            tenant: now.tenant.clone(),
            at: now.updated_at,
            disabled: now.disabled,
            detail,
        };
        self.changes.insert(change.id, (change, false));
    }

    pub fn delete_subscription(&mut self, id: SubscriptionId, now: Timestamp) -> bool {
        let Some(subscription) = self.subscriptions.remove(&id) else { return false };
        self.deleted.insert(id, (now, subscription.tenant));
        self.retries.retain(|_, retry| retry.subscription_id != id);
        self.positions.remove(&id);
        self.changes.retain(|_, (change, _)| change.subscription_id != id);
        true
    }

    pub fn versions(&self, ids: &[SubscriptionId]) -> Vec<(SubscriptionId, i64)> {
        ids.iter().filter_map(|id| Some((*id, self.subscriptions.get(id)?.version))).collect()
    }

    pub fn recovery(&self) -> Recovery {
        let watermark = self.watermark.unwrap_or(DeliveryId::MIN);
        let behind = |id: &SubscriptionId| self.positions.contains_key(id) || !self.subscriptions.contains_key(id);
        let untried = self.untried.iter().filter(|(id, delivery)| *delivery > watermark && !behind(id));
        let mut untried: Vec<_> = untried.map(|(id, _)| *id).collect();
        untried.dedup();
        let newest = [
            self.deliveries.keys().last().map(|id| id.0),
            self.log_ids.last().copied(),
            self.events.keys().last().map(|id| id.0),
            self.watermark.map(|id| id.0),
            self.positions.values().max().map(|id| id.0),
        ];
        Recovery {
            watermark: self.watermark,
            positions: self.positions.iter().map(|(id, at)| (*id, *at)).collect(),
            untried,
            newest_id: newest.into_iter().flatten().max(),
        }
    }

    /// By (time, delivery).
    pub fn retries(&self, id: SubscriptionId, limit: usize) -> Vec<Retry> {
        let own = self.retries.values().filter(|retry| retry.subscription_id == id);
        let mut own: Vec<_> = own.filter_map(|retry| self.retry(retry.delivery_id)).collect();
        own.sort_by_key(|retry| (retry.next_attempt_at, retry.delivery_id));
        own.truncate(limit);
        own
    }

    fn untried_of(&self, id: SubscriptionId, after: DeliveryId) -> impl Iterator<Item = &Delivery> {
        let own = self.untried.range((id, after)..).take_while(move |(of, _)| *of == id);
        own.filter(move |(_, delivery)| *delivery > after).filter_map(|(_, delivery)| self.deliveries.get(delivery))
    }

    pub fn backlog_page(&self, id: SubscriptionId, after: DeliveryId, limit: usize, max_bytes: usize) -> BacklogPage {
        let mut page = BacklogPage { deliveries: Vec::new(), complete: true };
        let mut bytes = 0;
        for delivery in self.untried_of(id, after) {
            bytes += delivery.payload.len();
            let full = page.deliveries.len() == limit || bytes > max_bytes;
            if full && (limit == 0 || !page.deliveries.is_empty()) {
                page.complete = false;
                break;
            }
            page.deliveries.push(delivery.clone());
        }
        page
    }

    pub fn backlog(&self, id: SubscriptionId, after: DeliveryId, cap: u64) -> u64 {
        let retries = self.retries.values().filter(|retry| retry.subscription_id == id).count();
        ((self.untried_of(id, after).count() + retries) as u64).min(cap)
    }

    pub fn unfinished(&self, ids: &[DeliveryId]) -> Vec<Delivery> {
        let found = ids.iter().filter_map(|id| self.deliveries.get(id));
        found.filter(|delivery| self.is_unfinished(delivery)).cloned().collect()
    }

    fn is_unfinished(&self, delivery: &Delivery) -> bool {
        self.retries.contains_key(&delivery.id) || self.untried.contains(&(delivery.subscription_id, delivery.id))
    }

    fn enabled(&self, id: SubscriptionId) -> bool {
        self.subscriptions.get(&id).is_some_and(|subscription| subscription.disabled.is_none())
    }

    pub fn subscriptions_due(&self, before: Timestamp, limit: usize) -> Vec<SubscriptionId> {
        let mut first: BTreeMap<SubscriptionId, Timestamp> = BTreeMap::new();
        for retry in self.retries.values().filter(|retry| retry.next_attempt_at < before) {
            let at = first.entry(retry.subscription_id).or_insert(retry.next_attempt_at);
            *at = (*at).min(retry.next_attempt_at);
        }
        let mut due: Vec<_> = first.into_iter().filter(|(id, _)| self.enabled(*id)).map(|(id, at)| (at, id)).collect();
        due.sort_unstable();
        due.into_iter().take(limit).map(|(_, id)| id).collect()
    }

    pub fn retries_waiting(&self, now: Timestamp, cap: u64) -> RetriesWaiting {
        let mut due: Vec<_> = self.retries.values().filter(|retry| retry.next_attempt_at <= now).collect();
        due.sort_unstable_by_key(|retry| retry.next_attempt_at);
        let mut looked_at = due.into_iter().take(usize::try_from(cap).unwrap_or(usize::MAX));
        let oldest_due = looked_at.find(|retry| self.enabled(retry.subscription_id)).map(|retry| retry.next_attempt_at);
        RetriesWaiting { count: (self.retries.len() as u64).min(cap), oldest_due }
    }

    pub fn subscriptions_behind(&self, limit: usize) -> Vec<SubscriptionId> {
        self.positions.keys().copied().filter(|id| self.enabled(*id)).take(limit).collect()
    }

    pub fn bring_retries_forward(&mut self, latest: Timestamp) -> u64 {
        let late = self.retries.values_mut().filter(|retry| retry.next_attempt_at > latest);
        late.map(|retry| retry.next_attempt_at = latest).count() as u64
    }

    pub fn delivery(&self, id: DeliveryId) -> Option<DeliveryRecord> {
        let delivery = self.deliveries.get(&id)?;
        let of_subscription = self.subscriptions.get(&delivery.subscription_id).map(|s| s.tenant.clone());
        Some(DeliveryRecord {
            resend_of: delivery.resend_of,
            resends: self
                .deliveries
                .values()
                .rev()
                .filter(|d| d.resend_of == Some(id))
                .map(|d| d.id)
                .take(MAX_RESENDS)
                .collect(),
            id,
            subscription_id: delivery.subscription_id,
            subscription_exists: of_subscription.is_some(),
            tenant: of_subscription.or_else(|| Some(self.deleted.get(&delivery.subscription_id)?.1.clone())),
            event_type: delivery.event_type.clone(),
            event_id: delivery.event_id,
            retry: self.retry(id),
            attempts: self.logs_of(id),
        })
    }

    pub fn logs(&self, id: SubscriptionId, before: Option<Uuid>, limit: usize) -> Vec<AttemptLog> {
        let end = match before {
            Some(before) => self.logs.iter().position(|log| log.id == before).unwrap_or(0),
            None => self.logs.len(),
        };
        let own = self.logs[..end].iter().rev().filter(|log| log.subscription_id == id);
        own.take(limit).cloned().collect()
    }

    pub fn expire(&mut self, cutoff: Timestamp, now: Timestamp, limit: usize) -> JanitorCounts {
        let floor = DeliveryId::floor_at(cutoff);
        let exists = |id: &SubscriptionId| self.subscriptions.contains_key(id);
        let retried = self.retries.values().filter(|retry| exists(&retry.subscription_id));
        let retried = retried.map(|retry| (retry.delivery_id, retry.subscription_id, retry.attempt_number));
        let untried = self.untried.iter().filter(|(id, _)| exists(id)).map(|(id, delivery)| (*delivery, *id, 1));
        let overdue = retried.chain(untried).filter(|(delivery, ..)| *delivery < floor);
        let overdue: Vec<_> = overdue.take(limit).collect();
        for (delivery_id, subscription_id, attempt_number) in &overdue {
            self.retries.remove(delivery_id);
            let (id, target_url) = (self.own_log_id(now), self.subscriptions[subscription_id].target_url.clone());
            self.add_log(&AttemptLog {
                id,
                delivery_id: *delivery_id,
                subscription_id: *subscription_id,
                target_url,
                timestamp: now,
                attempt_number: *attempt_number,
                outcome: Outcome::Failure,
                http_status: None,
                error_details: Some("not delivered within the retention time; it is given up".to_owned()),
                duration_ms: 0,
                response_body: None,
            });
        }
        JanitorCounts { expired: overdue.len() as u64, more: overdue.len() == limit, ..JanitorCounts::default() }
    }

    /// One that nothing else gives: what the writer gives has other last bits.
    fn own_log_id(&self, now: Timestamp) -> Uuid {
        let n = u128::try_from(self.logs.len()).unwrap_or_default();
        Uuid::from_u128(DeliveryId::floor_at(now).0.as_u128() | (0x7 << 76) | (0x2 << 62) | n)
    }

    /// Finished deliveries first, then what only they had.
    pub fn prune(&mut self, cutoff: Timestamp, limit: usize) -> JanitorCounts {
        let floor = DeliveryId::floor_at(cutoff);
        let over = |delivery: &&Delivery| {
            delivery.id < floor
                && !self.retries.contains_key(&delivery.id)
                && !(self.untried.contains(&(delivery.subscription_id, delivery.id))
                    && self.subscriptions.contains_key(&delivery.subscription_id))
        };
        let gone: Vec<_> = self.deliveries.values().filter(over).take(limit).cloned().collect();
        for delivery in &gone {
            self.deliveries.remove(&delivery.id);
            self.untried.remove(&(delivery.subscription_id, delivery.id));
        }
        let mut deleted = gone.len();
        let old = |log: &AttemptLog| log.id < floor.0 && !self.deliveries.contains_key(&log.delivery_id);
        let logs: BTreeSet<_> = self.logs.iter().filter(|log| old(log)).map(|log| log.id).collect();
        let logs: BTreeSet<_> = logs.into_iter().take(limit - deleted).collect();
        self.logs.retain(|log| !logs.contains(&log.id));
        self.log_ids.retain(|id| !logs.contains(id));
        deleted += logs.len();
        let used: BTreeSet<_> = self.deliveries.values().filter_map(|delivery| delivery.event_id).collect();
        let events = self.events.keys().filter(|id| id.0 < floor.0 && !used.contains(id));
        let events: Vec<_> = events.copied().take(limit - deleted).collect();
        events.iter().for_each(|id| drop(self.events.remove(id)));
        deleted += events.len();
        let forgotten = self.deleted.iter().filter(|(_, (at, _))| *at < cutoff).map(|(id, _)| *id);
        let forgotten: Vec<_> = forgotten.take(limit - deleted).collect();
        forgotten.iter().for_each(|id| drop(self.deleted.remove(id)));
        deleted += forgotten.len();
        JanitorCounts { rows_deleted: deleted as u64, more: deleted == limit, ..JanitorCounts::default() }
    }

    pub fn prune_keys(&mut self, cutoff: Timestamp, limit: usize) -> JanitorCounts {
        let old = self.keys.iter().filter(|(_, key)| key.created_at < cutoff);
        let mut old: Vec<_> = old.map(|(name, key)| (key.created_at, name.clone())).collect();
        old.sort();
        old.truncate(limit);
        old.iter().for_each(|(_, name)| drop(self.keys.remove(name)));
        JanitorCounts { rows_deleted: old.len() as u64, more: old.len() == limit, ..JanitorCounts::default() }
    }

    pub fn save_failing(&mut self, id: SubscriptionId, since: Option<Timestamp>) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.failing_since = since;
        }
    }

    pub fn state_changes(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Vec<StateChange> {
        let older = self.changes.range(..before.unwrap_or(i64::MAX)).rev();
        older
            .map(|(_, (change, _))| change)
            .filter(|change| change.subscription_id == id)
            .take(limit)
            .cloned()
            .collect()
    }

    pub fn unannounced(&self, limit: usize) -> Vec<StateChange> {
        self.changes
            .values()
            .filter(|(_, announced)| !announced)
            .map(|(change, _)| change.clone())
            .take(limit)
            .collect()
    }

    pub fn announced(&mut self, ids: &[i64]) {
        for id in ids {
            if let Some((_, announced)) = self.changes.get_mut(id) {
                *announced = true;
            }
        }
    }

    /// A delivery that is stored, for the world's own checks.
    pub fn is_open(&self, id: DeliveryId) -> bool {
        self.deliveries.get(&id).is_some_and(|delivery| self.is_unfinished(delivery))
    }
}
