//! Events that are fanned out: stored once, found by their matching subscriptions, shown with their deliveries.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::reads::limit;
use super::rows::{self, blob};
use crate::delivery::{DeliveryId, Event, EventId, Retry, SubscriptionId, Timestamp, matching_patterns};
use crate::store::{EventDelivery, Result};

// Whatever is stored already is left as it is: a batch may come twice.
const INSERT_EVENT: &str = "INSERT INTO events (id, tenant, event_type, ordering_key, deliveries, payload, trace) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING";
// The index alone answers it: disabled subscriptions are not in it.
pub(super) const MATCHING: &str = "SELECT DISTINCT subscription_id FROM subscription_patterns \
     WHERE tenant = ?1 AND pattern IN (SELECT value FROM json_each(?2)) ORDER BY subscription_id";
pub(super) const DELIVERIES: &str = "SELECT d.id, d.subscription_id, \
     (SELECT outcome FROM delivery_logs WHERE delivery_id = d.id ORDER BY id DESC LIMIT 1), \
     EXISTS (SELECT 1 FROM subscriptions WHERE id = d.subscription_id), r.attempt_number, r.next_attempt_at, \
     (SELECT ordering_key FROM events WHERE id = ?1) \
     FROM deliveries d LEFT JOIN retries r ON r.delivery_id = d.id \
     WHERE d.event = (SELECT seq FROM events WHERE id = ?1) \
     AND d.seq > coalesce((SELECT seq FROM deliveries WHERE id <= ?2 ORDER BY id DESC LIMIT 1), 0) \
     ORDER BY d.seq LIMIT ?3";

pub(super) fn insert(transaction: &Transaction<'_>, events: &[Event]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT_EVENT)?;
    for event in events {
        insert.execute(params![
            blob(&event.id.0),
            &*event.tenant,
            &*event.event_type,
            event.ordering_key.as_deref(),
            event.deliveries,
            &event.payload[..],
            event.trace.as_ref().map(ToString::to_string)
        ])?;
    }
    Ok(())
}

/// Which of these events are stored, in the order asked for.
pub(super) fn stored(connection: &mut Connection, ids: &[EventId]) -> Result<Vec<EventId>> {
    let mut exists = connection.prepare_cached("SELECT 1 FROM events WHERE id = ?1")?;
    let mut found = Vec::new();
    for id in ids {
        if exists.exists([blob(&id.0)])? {
            found.push(*id);
        }
    }
    Ok(found)
}

pub(super) fn matching(connection: &mut Connection, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>> {
    let patterns = serde_json::Value::from(matching_patterns(event_type)).to_string();
    let mut statement = connection.prepare_cached(MATCHING)?;
    let found = statement.query_map(params![tenant, patterns], |row| rows::subscription_id(row, 0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn event(connection: &mut Connection, id: EventId) -> Result<Option<Event>> {
    let mut statement = connection.prepare_cached(
        "SELECT tenant, event_type, ordering_key, deliveries, payload, trace FROM events WHERE id = ?1",
    )?;
    let read = |row: &Row<'_>| {
        Ok(Event {
            id,
            tenant: row.get(0)?,
            event_type: row.get(1)?,
            ordering_key: row.get(2)?,
            deliveries: row.get(3)?,
            payload: Bytes::from(row.get::<_, Vec<u8>>(4)?),
            trace: rows::trace(row, 5)?,
        })
    };
    Ok(statement.query_row([blob(&id.0)], read).optional()?)
}

pub(super) fn deliveries(
    connection: &mut Connection,
    id: EventId,
    after: DeliveryId,
    max_rows: usize,
) -> Result<Vec<EventDelivery>> {
    let mut statement = connection.prepare_cached(DELIVERIES)?;
    let found = statement.query_map(params![blob(&id.0), blob(&after.0), limit(max_rows)], event_delivery)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn event_delivery(row: &Row<'_>) -> rusqlite::Result<EventDelivery> {
    let (delivery_id, subscription_id) = (rows::delivery_id(row, 0)?, rows::subscription_id(row, 1)?);
    let retry = |attempt_number| {
        let next_attempt_at = Timestamp(row.get(5)?);
        Ok::<_, rusqlite::Error>(Retry {
            delivery_id,
            subscription_id,
            attempt_number,
            next_attempt_at,
            ordering_key: row.get(6)?,
        })
    };
    Ok(EventDelivery {
        id: delivery_id,
        subscription_id,
        last_outcome: row.get::<_, Option<i16>>(2)?.map(|code| rows::outcome(2, code)).transpose()?,
        retry: row.get::<_, Option<u32>>(4)?.map(retry).transpose()?,
        subscription_exists: row.get(3)?,
    })
}
