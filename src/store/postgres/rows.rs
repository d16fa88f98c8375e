//! Rows turned into the field's nouns.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;
use uuid::Uuid;

use super::super::{Result, StoreError, secrets, settings};
use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, DisabledReason, EventId, Outcome, Retry, Subscription, SubscriptionId, Timestamp,
    TraceContext,
};

/// What [`subscription`] reads.
pub(super) const SUBSCRIPTION: &str = "id, tenant, target_url, event_types, secrets, disabled, version, created_at,
     updated_at, settings, drop_through, failing_since";
/// What [`delivery`] reads, of `deliveries d` and [`ITS_EVENT`]. A delivery of an event has the event's payload,
/// ordering key and trace.
pub(super) const DELIVERY: &str = "d.id, d.event_type, d.event_id, coalesce(d.payload, e.payload) AS payload,
     coalesce(d.ordering_key, e.ordering_key) AS ordering_key, coalesce(d.trace, e.trace) AS trace, d.resend_of";
/// The event of a delivery `d`, looked up for each: in the partition that its id names.
pub(super) const ITS_EVENT: &str = "LEFT JOIN LATERAL (
         SELECT e.payload, e.ordering_key, e.trace FROM events e WHERE e.id = d.event_id LIMIT 1
     ) e ON true";
/// What [`retry`] reads, of `retries r`.
pub(super) const RETRY: &str = "r.delivery_id, r.subscription_id, r.attempt_number, r.next_attempt_at,
     (SELECT coalesce(d.ordering_key, (SELECT e.ordering_key FROM events e WHERE e.id = d.event_id))
      FROM deliveries d WHERE d.id = r.delivery_id) AS ordering_key";
/// What [`attempt`] reads.
pub(super) const ATTEMPT: &str = "id, delivery_id, subscription_id, target_url, timestamp, attempt_number, outcome,
     http_status, error_details, duration_ms, response_body";

/// A column's value, or what is wrong with it.
pub(super) fn get<T: FromSqlOwned>(row: &Row, column: &str) -> Result<T> {
    row.try_get(column).map_err(|error| StoreError::Corrupt(format!("{column}: {error}")))
}

pub(super) fn corrupt(column: &str, found: &impl std::fmt::Debug) -> StoreError {
    StoreError::Corrupt(format!("{column} is {found:?}"))
}

pub(super) fn count<T: TryFrom<i32>>(row: &Row, column: &str) -> Result<T> {
    let found = get(row, column)?;
    T::try_from(found).map_err(|_| corrupt(column, &found))
}

pub(super) fn shared(text: Option<String>) -> Option<Arc<str>> {
    text.map(Arc::from)
}

/// The reason, if there is one.
pub(super) fn disabled(row: &Row) -> Result<Option<DisabledReason>> {
    let word: Option<String> = get(row, "disabled")?;
    word.map(|word| word.parse().map_err(StoreError::Corrupt)).transpose()
}

pub(super) fn subscription(row: &Row) -> Result<Subscription> {
    let event_types: Vec<String> = get(row, "event_types")?;
    let parse = |pattern: &String| pattern.parse().map_err(|_| corrupt("event_types", pattern));
    let settings = settings::from_text(&get::<String>(row, "settings")?).map_err(StoreError::Corrupt)?;
    let secrets: Option<String> = get(row, "secrets")?;
    let secrets = secrets.map(|text| secrets::from_text(&text)).transpose().map_err(StoreError::Corrupt)?;
    Ok(Subscription {
        id: SubscriptionId(get(row, "id")?),
        tenant: get::<String>(row, "tenant")?.into(),
        target_url: get::<String>(row, "target_url")?.into(),
        event_types: event_types.iter().map(parse).collect::<Result<_>>()?,
        secrets: secrets.map(Arc::new),
        disabled: disabled(row)?,
        settings,
        drop_through: get::<Option<Uuid>>(row, "drop_through")?.map(DeliveryId),
        failing_since: get::<Option<i64>>(row, "failing_since")?.map(Timestamp),
        version: get(row, "version")?,
        created_at: Timestamp(get(row, "created_at")?),
        updated_at: Timestamp(get(row, "updated_at")?),
    })
}

pub(super) fn delivery(row: &Row, subscription_id: SubscriptionId) -> Result<Delivery> {
    Ok(Delivery {
        id: DeliveryId(get(row, "id")?),
        subscription_id,
        event_type: shared(get(row, "event_type")?),
        payload: Bytes::from(get::<Vec<u8>>(row, "payload")?),
        event_id: get::<Option<Uuid>>(row, "event_id")?.map(EventId),
        ordering_key: shared(get(row, "ordering_key")?),
        trace: trace(row)?,
        resend_of: get::<Option<Uuid>>(row, "resend_of")?.map(DeliveryId),
    })
}

/// One that cannot be read is none: a delivery does not depend on it.
pub(super) fn trace(row: &Row) -> Result<Option<Arc<TraceContext>>> {
    Ok(get::<Option<String>>(row, "trace")?.and_then(|text| text.parse().ok()).map(Arc::new))
}

pub(super) fn retry(row: &Row) -> Result<Retry> {
    Ok(Retry {
        delivery_id: DeliveryId(get(row, "delivery_id")?),
        subscription_id: SubscriptionId(get(row, "subscription_id")?),
        attempt_number: count(row, "attempt_number")?,
        next_attempt_at: Timestamp(get(row, "next_attempt_at")?),
        ordering_key: shared(get(row, "ordering_key")?),
    })
}

pub(super) fn attempt(row: &Row) -> Result<AttemptLog> {
    let outcome = get(row, "outcome")?;
    let status: Option<i16> = get(row, "http_status")?;
    Ok(AttemptLog {
        id: get::<Uuid>(row, "id")?,
        delivery_id: DeliveryId(get(row, "delivery_id")?),
        subscription_id: SubscriptionId(get(row, "subscription_id")?),
        target_url: get::<String>(row, "target_url")?.into(),
        timestamp: Timestamp(get(row, "timestamp")?),
        attempt_number: count(row, "attempt_number")?,
        outcome: Outcome::from_code(outcome).ok_or_else(|| corrupt("outcome", &outcome))?,
        http_status: status.map(|s| u16::try_from(s).map_err(|_| corrupt("http_status", &s))).transpose()?,
        error_details: get(row, "error_details")?,
        duration_ms: count(row, "duration_ms")?,
        response_body: get(row, "response_body")?,
    })
}
