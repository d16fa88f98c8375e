//! Rows to store. Times and ids are fixed, so that every run sees the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookpost::access::Actor;
use hookpost::delivery::{
    AttemptLog, DEFAULT_TENANT, Delivery, DeliveryId, Event, EventId, Outcome, Retry, Sealed, Secrets, Subscription,
    SubscriptionId, Timestamp,
};
use hookpost::store::{Batch, NewSubscription, Recovery, Store};
use uuid::{Builder, Uuid};

/// When the tests take place.
pub const T0: Timestamp = Timestamp(1_750_000_000_000);
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The id given `ms` milliseconds after [`T0`].
pub fn id(ms: i64) -> Uuid {
    Builder::from_unix_timestamp_millis((T0.0 + ms).unsigned_abs(), &[7; 10]).into_uuid()
}

/// `days` in the milliseconds that ids are given in.
pub fn days(days: u32) -> i64 {
    i64::try_from((DAY * days).as_millis()).unwrap()
}

/// A delivery accepted `ms` after [`T0`].
pub fn delivery(subscription_id: SubscriptionId, ms: i64) -> Delivery {
    Delivery {
        trace: None,
        event_id: None,
        ordering_key: None,
        resend_of: None,
        id: DeliveryId(id(ms)),
        subscription_id,
        event_type: Some(Arc::from("order.created")),
        payload: Bytes::from(format!("{{\"n\":{ms}}}")),
    }
}

/// An event accepted `ms` after [`T0`]; nobody has wanted it so far.
pub fn event(ms: i64) -> Event {
    Event {
        id: EventId(id(ms)),
        tenant: Arc::from(DEFAULT_TENANT),
        event_type: Arc::from("order.created"),
        ordering_key: None,
        payload: Bytes::from(format!("{{\"event\":{ms}}}")),
        deliveries: 0,
        trace: None,
    }
}

/// A delivery of the event, accepted `ms` after [`T0`].
pub fn delivery_of(event: &Event, subscription_id: SubscriptionId, ms: i64) -> Delivery {
    Delivery {
        event_id: Some(event.id),
        event_type: Some(event.event_type.clone()),
        payload: event.payload.clone(),
        ordering_key: event.ordering_key.clone(),
        trace: event.trace.clone(),
        ..delivery(subscription_id, ms)
    }
}

/// The event, and a delivery of it to each subscription, a tenth of a second apart from the event's time on.
pub fn fanned_out(event: &Event, subscriptions: &[SubscriptionId]) -> Batch {
    let accepted_at = DeliveryId(event.id.0).accepted_at().0 - T0.0;
    let times = (1..).map(|n| accepted_at + n * 100);
    let deliveries: Vec<_> = subscriptions.iter().zip(times).map(|(id, ms)| delivery_of(event, *id, ms)).collect();
    let event = Event { deliveries: u32::try_from(deliveries.len()).unwrap(), ..event.clone() };
    Batch { events: vec![event], ..accepted(deliveries) }
}

/// The log of an attempt at the delivery, `ms` after [`T0`].
pub fn log(delivery: &Delivery, ms: i64, attempt_number: u32, outcome: Outcome) -> AttemptLog {
    let failed = outcome != Outcome::Success;
    AttemptLog {
        id: id(ms),
        delivery_id: delivery.id,
        subscription_id: delivery.subscription_id,
        target_url: Arc::from("https://receiver.example/hook"),
        timestamp: Timestamp(T0.0 + ms),
        attempt_number,
        outcome,
        http_status: Some(if failed { 500 } else { 204 }),
        error_details: failed.then(|| "the receiver answered 500".to_owned()),
        duration_ms: 12,
        response_body: failed.then(|| "try later".to_owned()),
    }
}

/// A retry of the delivery, due `due_ms` after [`T0`].
pub fn retry(delivery: &Delivery, attempt_number: u32, due_ms: i64) -> Retry {
    Retry {
        delivery_id: delivery.id,
        subscription_id: delivery.subscription_id,
        attempt_number,
        next_attempt_at: Timestamp(T0.0 + due_ms),
        ordering_key: delivery.ordering_key.clone(),
    }
}

/// Accepted, not attempted.
pub fn accepted(deliveries: impl IntoIterator<Item = Delivery>) -> Batch {
    Batch { deliveries: deliveries.into_iter().collect(), ..Batch::default() }
}

/// Accepted, and received at the first attempt a millisecond later.
pub fn delivered(deliveries: impl IntoIterator<Item = Delivery>) -> Batch {
    let mut batch = accepted(deliveries);
    let first = |d: &Delivery| log(d, d.id.accepted_at().0 - T0.0 + 1, 1, Outcome::Success);
    batch.logs = batch.deliveries.iter().map(first).collect();
    batch
}

/// Accepted, failed at the first attempt a millisecond later, and due again `due_ms` after [`T0`].
pub fn retried(deliveries: impl IntoIterator<Item = Delivery>, due_ms: i64) -> Batch {
    let mut batch = delivered(deliveries);
    batch.logs.iter_mut().for_each(|log| log.outcome = Outcome::FailedAttempt);
    batch.retries = batch.deliveries.iter().map(|d| retry(d, 2, due_ms)).collect();
    batch
}

pub async fn commit(store: &Arc<dyn Store>, batch: Batch) {
    store.commit(&batch).await.unwrap();
}

/// A subscription to everything, without a secret.
pub async fn subscribe(store: &Arc<dyn Store>) -> SubscriptionId {
    create(store, "https://receiver.example/hook").await.id
}

pub async fn create(store: &Arc<dyn Store>, target_url: &str) -> Subscription {
    let new = NewSubscription {
        by: Actor::Hookpost,
        id: store.reserve_subscription_id().await.unwrap(),
        target_url: target_url.to_owned(),
        event_types: vec![],
        secrets: None,
        tenant: DEFAULT_TENANT.to_owned(),
        settings: hookpost::delivery::Settings::default(),
    };
    store.create_subscription(new, u64::MAX, T0).await.unwrap().unwrap()
}

/// Secrets with this as the current one: a store does not look into it.
pub fn sealed(text: &str) -> Secrets {
    Secrets { current: Some(Sealed::of(text.to_owned())), ..Secrets::default() }
}

/// What [`sealed`] was made of.
pub fn current(subscription: &Subscription) -> Option<&str> {
    subscription.secrets.as_ref()?.current.as_ref().map(Sealed::as_str)
}

/// What a starting owner is told, in a fixed order.
pub async fn recover(store: &Arc<dyn Store>) -> Recovery {
    let mut recovery = store.recovery().await.unwrap();
    recovery.positions.sort_unstable();
    recovery.untried.sort_unstable();
    recovery
}

/// The ids of the log rows of a subscription, newest first.
pub async fn log_ids(store: &Arc<dyn Store>, id: SubscriptionId) -> Vec<Uuid> {
    store.logs(id, None, 100).await.unwrap().into_iter().map(|log| log.id).collect()
}

/// The ids of a backlog page that is as large as it needs to be.
pub async fn backlog(store: &Arc<dyn Store>, id: SubscriptionId) -> Vec<DeliveryId> {
    let page = store.backlog_page(id, DeliveryId::MIN, 1000, usize::MAX).await.unwrap();
    assert!(page.complete);
    page.deliveries.into_iter().map(|delivery| delivery.id).collect()
}
