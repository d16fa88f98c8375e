//! Retention: what outlived it ends as a visible failure, then it is deleted, oldest first and in small chunks.

use std::sync::Arc;

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::commit::insert_logs;
use super::reads::limit;
use super::rows::{self, blob};
use crate::delivery::{AttemptLog, DeliveryId, Outcome, SubscriptionId, Timestamp};
use crate::store::ids::IdSource;
use crate::store::{JanitorCounts, Result};

const EXPIRED: &str = "not delivered within the retention time; no further attempt will be made";

pub(super) const OLD_RETRIES: &str = "SELECT r.delivery_id, r.subscription_id, r.attempt_number, s.target_url FROM retries r \
     JOIN subscriptions s ON s.id = r.subscription_id WHERE r.delivery_id < ?1 ORDER BY r.delivery_id LIMIT ?2";
pub(super) const OLD_UNTRIED: &str = "SELECT d.id, d.subscription_id, 1, s.target_url FROM deliveries d \
     JOIN subscriptions s ON s.id = d.subscription_id WHERE d.id > coalesce((SELECT delivery_id FROM watermark), x'') AND d.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM delivery_logs WHERE delivery_id = d.id) \
     AND NOT EXISTS (SELECT 1 FROM positions p WHERE p.subscription_id = d.subscription_id) ORDER BY d.id LIMIT ?2";
// `CROSS JOIN` keeps the order of the tables: from the few positions to the rows behind them.
pub(super) const OLD_BACKLOG: &str = "SELECT d.id, d.subscription_id, 1, s.target_url FROM positions p \
     CROSS JOIN subscriptions s ON s.id = p.subscription_id CROSS JOIN deliveries d ON d.subscription_id = p.subscription_id \
     AND d.seq > coalesce((SELECT seq FROM deliveries WHERE id <= p.delivery_id ORDER BY id DESC LIMIT 1), 0) \
     AND d.seq <= coalesce((SELECT seq FROM deliveries WHERE id < ?1 ORDER BY id DESC LIMIT 1), 0) \
     WHERE NOT EXISTS (SELECT 1 FROM delivery_logs WHERE delivery_id = d.id) LIMIT ?2";

// A delivery is finished when it has been attempted and no retry is planned, or when nobody waits for it any more.
pub(super) const PRUNE_DELIVERIES: &str = "DELETE FROM deliveries WHERE seq IN (SELECT d.seq FROM deliveries d WHERE d.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM retries WHERE delivery_id = d.id) \
     AND (EXISTS (SELECT 1 FROM delivery_logs WHERE delivery_id = d.id) \
     OR NOT EXISTS (SELECT 1 FROM subscriptions WHERE id = d.subscription_id)) ORDER BY d.id LIMIT ?2)";
// Only after its delivery: a delivery without a log row counts as untried and would be sent again.
pub(super) const PRUNE_LOGS: &str = "DELETE FROM delivery_logs WHERE seq IN (SELECT l.seq FROM delivery_logs l WHERE l.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM deliveries WHERE id = l.delivery_id) ORDER BY l.id LIMIT ?2)";

// Only after all its deliveries, whose payload it has.
pub(super) const PRUNE_EVENTS: &str = "DELETE FROM events WHERE seq IN (SELECT e.seq FROM events e WHERE e.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = e.seq) ORDER BY e.id LIMIT ?2)";

/// A delivery that outlived its retention, unfinished.
pub(super) struct Overdue {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    /// The attempt that will not be made.
    attempt_number: u32,
    target_url: Arc<str>,
}

/// Finds up to `max_rows` unfinished deliveries accepted before `cutoff`. This can take longer than a write may: it is
/// for a reader's connection, and [`expire`] looks again.
pub(super) fn overdue(connection: &mut Connection, cutoff: Timestamp, max_rows: usize) -> Result<Vec<Overdue>> {
    let snapshot = connection.transaction()?;
    let floor = DeliveryId::floor_at(cutoff).0;
    let mut found = Vec::new();
    for query in [OLD_RETRIES, OLD_BACKLOG, OLD_UNTRIED] {
        let rest = limit(max_rows - found.len());
        let mut statement = snapshot.prepare_cached(query)?;
        for row in statement.query_map(params![blob(&floor), rest], overdue_row)? {
            found.push(row?);
        }
    }
    Ok(found)
}

fn overdue_row(row: &Row<'_>) -> rusqlite::Result<Overdue> {
    Ok(Overdue {
        delivery_id: rows::delivery_id(row, 0)?,
        subscription_id: rows::subscription_id(row, 1)?,
        attempt_number: row.get(2)?,
        target_url: row.get(3)?,
    })
}

/// Ends those of `overdue` that are still as they were found; how many that is.
pub(super) fn expire(connection: &mut Connection, overdue: &[Overdue], now: Timestamp) -> Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut ids = IdSource::above(None);
    let mut logs = Vec::new();
    for delivery in overdue {
        if still_unfinished(&transaction, delivery)? {
            logs.push(failure(ids.next(now), delivery, now));
        }
    }
    insert_logs(&transaction, &logs)?;
    transaction.commit()?;
    Ok(logs.len() as u64)
}

/// Takes the retry away, if that is what the delivery waits for.
fn still_unfinished(transaction: &Transaction<'_>, delivery: &Overdue) -> rusqlite::Result<bool> {
    let id = blob(&delivery.delivery_id.0);
    if delivery.attempt_number > 1 {
        let sql = "DELETE FROM retries WHERE delivery_id = ?1 AND attempt_number = ?2";
        return Ok(transaction.prepare_cached(sql)?.execute(params![id, delivery.attempt_number])? > 0);
    }
    Ok(!transaction.prepare_cached("SELECT 1 FROM delivery_logs WHERE delivery_id = ?1")?.exists([id])?)
}

fn failure(id: Uuid, delivery: &Overdue, now: Timestamp) -> AttemptLog {
    AttemptLog {
        id,
        delivery_id: delivery.delivery_id,
        subscription_id: delivery.subscription_id,
        target_url: delivery.target_url.clone(),
        timestamp: now,
        attempt_number: delivery.attempt_number,
        outcome: Outcome::Failure,
        http_status: None,
        error_details: Some(EXPIRED.to_owned()),
        duration_ms: 0,
        response_body: None,
    }
}

/// Deletes up to `max_rows` rows that are older than `cutoff` and finished.
pub(super) fn prune(connection: &mut Connection, cutoff: Timestamp, max_rows: usize) -> Result<JanitorCounts> {
    let floor = DeliveryId::floor_at(cutoff).0;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut deleted = 0;
    for delete in [PRUNE_DELIVERIES, PRUNE_LOGS, PRUNE_EVENTS] {
        deleted += transaction.prepare_cached(delete)?.execute(params![blob(&floor), limit(max_rows - deleted)])?;
    }
    transaction.commit()?;
    Ok(JanitorCounts { rows_deleted: deleted as u64, more: deleted == max_rows, ..JanitorCounts::default() })
}
