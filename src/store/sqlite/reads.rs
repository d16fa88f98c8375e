//! What the engine reads: where to start from, the backlog, and what is to be retried.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, DELIVERY, SELECT_RETRY, blob};
use crate::delivery::{Delivery, DeliveryId, Retry, SubscriptionId, Timestamp};
use crate::store::{BacklogPage, Pending, Recovery, Result, RetriesWaiting};

/// The subscriptions that have something in `untried`: from one to the next, without reading what each of them has there.
/// Ends in a NULL.
macro_rules! waiting {
    () => {
        "WITH RECURSIVE waiting (id) AS (SELECT min(subscription_id) FROM untried UNION ALL \
         SELECT (SELECT min(subscription_id) FROM untried WHERE subscription_id > waiting.id) FROM waiting \
         WHERE waiting.id IS NOT NULL) "
    };
}
pub(super) use waiting;

// Disabled ones too: what they have holds the watermark back, or is forgotten.
pub(super) const UNTRIED: &str = concat!(
    waiting!(),
    "SELECT w.id FROM waiting w WHERE EXISTS (SELECT 1 FROM untried WHERE subscription_id = w.id AND delivery_id > ?1) \
     AND NOT EXISTS (SELECT 1 FROM positions WHERE subscription_id = w.id) \
     AND EXISTS (SELECT 1 FROM subscriptions WHERE id = w.id)"
);
// The newest rows may be pruned; ids must stay above the watermark all the same, or nobody would look for them.
const NEWEST_ID: &str = "SELECT max(id) FROM (SELECT max(id) AS id FROM deliveries \
     UNION ALL SELECT max(id) FROM delivery_logs UNION ALL SELECT max(id) FROM events UNION ALL SELECT delivery_id FROM watermark \
     UNION ALL SELECT max(delivery_id) FROM positions)";
// Every due row is looked at, those of disabled subscriptions included, but in the index alone.
pub(super) const DUE: &str = "SELECT s.id FROM (SELECT subscription_id, min(next_attempt_at) AS first_at FROM retries \
     INDEXED BY retries_by_time WHERE next_attempt_at < ?1 GROUP BY subscription_id) due \
     JOIN subscriptions s ON s.id = due.subscription_id AND s.disabled IS NULL ORDER BY first_at, s.id LIMIT ?2";

/// A limit as SQLite takes it.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

pub(super) fn recovery(connection: &mut Connection) -> Result<Recovery> {
    // One transaction: all of it as of one moment.
    let snapshot = connection.transaction()?;
    let watermark = watermark(&snapshot)?;
    let positions = snapshot
        .prepare_cached("SELECT subscription_id, delivery_id FROM positions")?
        .query_map([], |row| Ok((rows::subscription_id(row, 0)?, rows::delivery_id(row, 1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let untried = snapshot
        .prepare_cached(UNTRIED)?
        .query_map([blob(&watermark.unwrap_or(DeliveryId::MIN).0)], |row| rows::subscription_id(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let newest: Option<[u8; 16]> = snapshot.query_row(NEWEST_ID, [], |row| row.get(0))?;
    Ok(Recovery { watermark, positions, untried, newest_id: newest.map(uuid::Uuid::from_bytes) })
}

pub(super) fn watermark(connection: &Connection) -> rusqlite::Result<Option<DeliveryId>> {
    connection
        .prepare_cached("SELECT delivery_id FROM watermark")?
        .query_row([], |row| rows::delivery_id(row, 0))
        .optional()
}

pub(super) fn pending(connection: &mut Connection, id: SubscriptionId, retry_limit: usize) -> Result<Pending> {
    let snapshot = connection.transaction()?;
    let position = snapshot
        .prepare_cached("SELECT delivery_id FROM positions WHERE subscription_id = ?1")?
        .query_row([id.0], |row| rows::delivery_id(row, 0))
        .optional()?;
    Ok(Pending { position, retries: retries(&snapshot, id, retry_limit)? })
}

pub(super) fn backlog_sql() -> String {
    format!(
        "SELECT {DELIVERY} FROM untried u CROSS JOIN deliveries d ON d.id = u.delivery_id \
         LEFT JOIN events e ON e.seq = d.event \
         WHERE u.subscription_id = ?1 AND u.delivery_id > ?2 ORDER BY u.delivery_id LIMIT ?3"
    )
}

/// One row more than asked for tells whether there is more.
pub(super) fn backlog_page(
    connection: &mut Connection,
    id: SubscriptionId,
    after: DeliveryId,
    max_rows: usize,
    max_bytes: usize,
) -> Result<BacklogPage> {
    let mut statement = connection.prepare_cached(&backlog_sql())?;
    let mut rows = statement.query(params![id.0, blob(&after.0), limit(max_rows.saturating_add(1))])?;
    let mut page = BacklogPage { deliveries: Vec::new(), complete: true };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        bytes += row.get_ref(3)?.as_blob().map_or(0, <[u8]>::len);
        let full = page.deliveries.len() == max_rows || bytes > max_bytes;
        if full && (max_rows == 0 || !page.deliveries.is_empty()) {
            page.complete = false;
            break;
        }
        page.deliveries.push(rows::delivery(row)?);
    }
    Ok(page)
}

pub(super) fn retries_sql() -> String {
    format!("{SELECT_RETRY} WHERE r.subscription_id = ?1 ORDER BY r.next_attempt_at, r.delivery_id LIMIT ?2")
}

pub(super) fn retries(connection: &Connection, id: SubscriptionId, max_rows: usize) -> Result<Vec<Retry>> {
    let mut statement = connection.prepare_cached(&retries_sql())?;
    let found = statement.query_map(params![id.0, limit(max_rows)], rows::retry)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn unfinished_sql() -> String {
    format!(
        "SELECT {DELIVERY} FROM deliveries d LEFT JOIN events e ON e.seq = d.event WHERE d.id = ?1 \
         AND (EXISTS (SELECT 1 FROM retries WHERE delivery_id = ?1) \
         OR EXISTS (SELECT 1 FROM untried WHERE subscription_id = d.subscription_id AND delivery_id = ?1))"
    )
}

pub(super) fn unfinished(connection: &mut Connection, ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
    let mut statement = connection.prepare_cached(&unfinished_sql())?;
    let mut found = Vec::new();
    for id in ids {
        found.extend(statement.query_row([blob(&id.0)], rows::delivery).optional()?);
    }
    Ok(found)
}

pub(super) const BACKLOG_SIZE: &str = "SELECT \
     (SELECT count(*) FROM (SELECT 1 FROM untried WHERE subscription_id = ?1 AND delivery_id > ?2 LIMIT ?3)) + \
     (SELECT count(*) FROM (SELECT 1 FROM retries WHERE subscription_id = ?1 LIMIT ?3))";

pub(super) fn backlog(connection: &Connection, id: SubscriptionId, after: DeliveryId, cap: u64) -> Result<u64> {
    let most = i64::try_from(cap).unwrap_or(i64::MAX);
    let mut count = connection.prepare_cached(BACKLOG_SIZE)?;
    let found: i64 = count.query_row(params![id.0, blob(&after.0), most], |row| row.get(0))?;
    Ok(found.unsigned_abs().min(cap))
}

// As for `DUE`.
pub(super) const OLDEST_DUE: &str = "SELECT min(first_at) FROM (SELECT subscription_id, min(next_attempt_at) AS first_at \
     FROM (SELECT subscription_id, next_attempt_at FROM retries INDEXED BY retries_by_time WHERE next_attempt_at <= ?1 \
     ORDER BY next_attempt_at LIMIT ?2) GROUP BY subscription_id) due \
     JOIN subscriptions s ON s.id = due.subscription_id AND s.disabled IS NULL";
// Reads as many as it counts, which is why it has a bound.
const COUNT_RETRIES: &str = "SELECT count(*) FROM (SELECT 1 FROM retries LIMIT ?1)";

pub(super) fn retries_waiting(connection: &mut Connection, now: Timestamp, cap: u64) -> Result<RetriesWaiting> {
    let cap = i64::try_from(cap).unwrap_or(i64::MAX);
    let count: i64 = connection.prepare_cached(COUNT_RETRIES)?.query_row([cap], |row| row.get(0))?;
    let oldest: Option<i64> = connection.prepare_cached(OLDEST_DUE)?.query_row([now.0, cap], |row| row.get(0))?;
    Ok(RetriesWaiting { count: count.unsigned_abs(), oldest_due: oldest.map(Timestamp) })
}

pub(super) fn subscriptions_behind(connection: &mut Connection, max_rows: usize) -> Result<Vec<SubscriptionId>> {
    const BEHIND: &str = "SELECT p.subscription_id FROM positions p \
         JOIN subscriptions s ON s.id = p.subscription_id AND s.disabled IS NULL ORDER BY p.subscription_id LIMIT ?1";
    let mut statement = connection.prepare_cached(BEHIND)?;
    let found = statement.query_map([limit(max_rows)], |row| rows::subscription_id(row, 0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn subscriptions_due(
    connection: &mut Connection,
    before: Timestamp,
    max_rows: usize,
) -> Result<Vec<SubscriptionId>> {
    let mut statement = connection.prepare_cached(DUE)?;
    let found = statement.query_map(params![before.0, limit(max_rows)], |row| rows::subscription_id(row, 0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}
