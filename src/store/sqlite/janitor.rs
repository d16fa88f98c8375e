//! Retention: what outlived it ends as a visible failure, then it is deleted, oldest first and in small chunks.

use std::sync::Arc;

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::commit::insert_logs;
use super::reads::{limit, waiting};
use super::rows::{self, blob};
use crate::delivery::{AttemptLog, DeliveryId, Outcome, SubscriptionId, Timestamp};
use crate::store::ids::IdSource;
use crate::store::{JanitorCounts, Result};

const EXPIRED: &str = "not delivered within the retention time; no further attempt will be made";

pub(super) const OLD_RETRIES: &str = "SELECT r.delivery_id, r.subscription_id, r.attempt_number, s.target_url FROM retries r \
     JOIN subscriptions s ON s.id = r.subscription_id WHERE r.delivery_id < ?1 ORDER BY r.delivery_id LIMIT ?2";
// `CROSS JOIN` keeps the order of the tables: from a subscription to what it has that is old.
pub(super) const OLD_UNTRIED: &str = concat!(
    waiting!(),
    "SELECT u.delivery_id, u.subscription_id, 1, s.target_url FROM waiting w CROSS JOIN subscriptions s ON s.id = w.id \
     CROSS JOIN untried u ON u.subscription_id = w.id AND u.delivery_id < ?1 LIMIT ?2"
);

// A delivery is finished when it has been attempted and no retry is planned, or when nobody waits for it any more.
pub(super) const PRUNE_DELIVERIES: &str = "DELETE FROM deliveries WHERE seq IN (SELECT d.seq FROM deliveries d WHERE d.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM retries WHERE delivery_id = d.id) \
     AND (NOT EXISTS (SELECT 1 FROM untried WHERE subscription_id = d.subscription_id AND delivery_id = d.id) \
     OR NOT EXISTS (SELECT 1 FROM subscriptions WHERE id = d.subscription_id)) ORDER BY d.id LIMIT ?2)";
// Only after its delivery, which would be shown as one that nothing was tried with.
pub(super) const PRUNE_LOGS: &str = "DELETE FROM delivery_logs WHERE seq IN (SELECT l.seq FROM delivery_logs l WHERE l.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM deliveries WHERE id = l.delivery_id) ORDER BY l.id LIMIT ?2)";

// Only after all its deliveries, whose payload it has.
pub(super) const PRUNE_EVENTS: &str = "DELETE FROM events WHERE seq IN (SELECT e.seq FROM events e WHERE e.id < ?1 \
     AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = e.seq) ORDER BY e.id LIMIT ?2)";

// Only after all its deliveries.
pub(super) const PRUNE_DELETED: &str = "DELETE FROM deleted_subscriptions WHERE id IN (SELECT id \
     FROM deleted_subscriptions WHERE deleted_at < ?1 ORDER BY deleted_at LIMIT ?2)";
pub(super) const PRUNE_TENANTS: &str = "DELETE FROM tenants WHERE tenant IN (SELECT tenant FROM tenants \
     INDEXED BY tenants_empty WHERE subscriptions = 0 AND tenant > '' LIMIT ?1)";

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
    for query in [OLD_RETRIES, OLD_UNTRIED] {
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
    let sql = "SELECT 1 FROM untried WHERE subscription_id = ?2 AND delivery_id = ?1";
    transaction.prepare_cached(sql)?.exists(params![id, delivery.subscription_id.0])
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
    deleted += transaction.prepare_cached(PRUNE_DELETED)?.execute(params![cutoff.0, limit(max_rows - deleted)])?;
    deleted += transaction.prepare_cached(PRUNE_TENANTS)?.execute([limit(max_rows - deleted)])?;
    transaction.commit()?;
    Ok(JanitorCounts { rows_deleted: deleted as u64, more: deleted == max_rows, ..JanitorCounts::default() })
}
