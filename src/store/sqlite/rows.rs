//! Rows and the values that they hold.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::Type;
use uuid::Uuid;

use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, DisabledReason, EventId, EventTypePattern, Outcome, Retry, Secrets, Subscription,
    SubscriptionId, Timestamp, TraceContext,
};
use crate::store::{secrets, settings};

type Read<T> = rusqlite::Result<T>;

/// The columns that [`subscription`] reads.
pub(super) const SUBSCRIPTION: &str = "id, target_url, event_types, secrets, disabled, version, created_at, \
     updated_at, tenant, settings, drop_through, failing_since";
/// The columns that [`delivery`] reads, of `deliveries d LEFT JOIN events e ON e.seq = d.event`. A delivery of an event has
/// the event's payload, ordering key and trace.
pub(super) const DELIVERY: &str = "d.id, d.subscription_id, d.event_type, coalesce(d.payload, e.payload), e.id, \
     coalesce(d.ordering_key, e.ordering_key), coalesce(d.trace, e.trace), d.resend_of";
/// The columns that [`log`] reads.
pub(super) const LOG: &str = "id, delivery_id, subscription_id, target_url, timestamp, attempt_number, outcome, \
     http_status, error_details, duration_ms, response_body";
/// What [`retry`] reads, and where it comes from.
pub(super) const SELECT_RETRY: &str = "SELECT r.delivery_id, r.subscription_id, r.attempt_number, r.next_attempt_at, \
     coalesce(d.ordering_key, e.ordering_key) FROM retries r LEFT JOIN deliveries d ON d.id = r.delivery_id \
     LEFT JOIN events e ON e.seq = d.event";

/// An id as it is stored.
pub(super) fn blob(id: &Uuid) -> &[u8] {
    id.as_bytes()
}

pub(super) fn uuid(row: &Row<'_>, column: usize) -> Read<Uuid> {
    row.get(column).map(Uuid::from_bytes)
}

pub(super) fn delivery_id(row: &Row<'_>, column: usize) -> Read<DeliveryId> {
    uuid(row, column).map(DeliveryId)
}

/// A delivery's id that may be missing.
pub(super) fn some_delivery_id(row: &Row<'_>, column: usize) -> Read<Option<DeliveryId>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Uuid::from_bytes).map(DeliveryId))
}

pub(super) fn event_id(row: &Row<'_>, column: usize) -> Read<Option<EventId>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Uuid::from_bytes).map(EventId))
}

pub(super) fn subscription_id(row: &Row<'_>, column: usize) -> Read<SubscriptionId> {
    row.get(column).map(SubscriptionId)
}

pub(super) fn delivery(row: &Row<'_>) -> Read<Delivery> {
    Ok(Delivery {
        id: delivery_id(row, 0)?,
        subscription_id: subscription_id(row, 1)?,
        event_type: row.get(2)?,
        payload: Bytes::from(row.get::<_, Vec<u8>>(3)?),
        event_id: event_id(row, 4)?,
        ordering_key: row.get(5)?,
        trace: trace(row, 6)?,
        resend_of: some_delivery_id(row, 7)?,
    })
}

/// A trace that cannot be read is none: a delivery does not depend on it.
pub(super) fn trace(row: &Row<'_>, column: usize) -> Read<Option<Arc<TraceContext>>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| text.parse().ok()).map(Arc::new))
}

/// The outcome of a code found in `column`.
pub(super) fn outcome(column: usize, code: i16) -> Read<Outcome> {
    Outcome::from_code(code).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, code.into()))
}

pub(super) fn log(row: &Row<'_>) -> Read<AttemptLog> {
    Ok(AttemptLog {
        id: uuid(row, 0)?,
        delivery_id: delivery_id(row, 1)?,
        subscription_id: subscription_id(row, 2)?,
        target_url: row.get(3)?,
        timestamp: Timestamp(row.get(4)?),
        attempt_number: row.get(5)?,
        outcome: outcome(6, row.get(6)?)?,
        http_status: row.get(7)?,
        error_details: row.get(8)?,
        duration_ms: row.get(9)?,
        response_body: row.get(10)?,
    })
}

pub(super) fn retry(row: &Row<'_>) -> Read<Retry> {
    Ok(Retry {
        delivery_id: delivery_id(row, 0)?,
        subscription_id: subscription_id(row, 1)?,
        attempt_number: row.get(2)?,
        next_attempt_at: Timestamp(row.get(3)?),
        ordering_key: row.get(4)?,
    })
}

/// The reason in `column`, if there is one.
pub(super) fn disabled(row: &Row<'_>, column: usize) -> Read<Option<DisabledReason>> {
    let word: Option<String> = row.get(column)?;
    word.map(|word| word.parse().map_err(|error: String| unreadable(column, error))).transpose()
}

fn secrets(row: &Row<'_>, column: usize) -> Read<Option<Secrets>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| secrets::from_text(&text).map_err(|error| unreadable(column, error))).transpose()
}

pub(super) fn subscription(row: &Row<'_>) -> Read<Subscription> {
    Ok(Subscription {
        id: subscription_id(row, 0)?,
        tenant: row.get(8)?,
        target_url: row.get(1)?,
        event_types: patterns(&row.get::<_, Arc<str>>(2)?)?,
        secrets: secrets(row, 3)?.map(Arc::new),
        disabled: disabled(row, 4)?,
        settings: settings::from_text(&row.get::<_, Arc<str>>(9)?).map_err(|error| unreadable(9, error))?,
        drop_through: row.get::<_, Option<[u8; 16]>>(10)?.map(|id| DeliveryId(Uuid::from_bytes(id))),
        failing_since: row.get::<_, Option<i64>>(11)?.map(Timestamp),
        version: row.get(5)?,
        created_at: Timestamp(row.get(6)?),
        updated_at: Timestamp(row.get(7)?),
    })
}

/// Patterns as they are stored: a JSON array.
pub(super) fn patterns_text(patterns: &[EventTypePattern]) -> String {
    serde_json::Value::from(patterns.iter().map(EventTypePattern::as_str).collect::<Vec<_>>()).to_string()
}

fn patterns(text: &str) -> Read<Vec<EventTypePattern>> {
    let texts: Vec<String> = serde_json::from_str(text).map_err(|error| unreadable(2, error))?;
    texts.iter().map(|text| text.parse().map_err(|error| unreadable(2, error))).collect()
}

pub(super) fn unreadable(column: usize, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
