//! The data path: one transaction, one cached statement a table, executed once a row (which in SQLite is a function
//! call, and cheaper than to prepare a statement of many rows).

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::rows::blob;
use super::{audit, events, keys, replays};
use crate::delivery::{AttemptLog, Delivery, DeliveryId, Retry, SubscriptionId};
use crate::store::{Batch, Result, StoreError};

// Whatever is stored already is left as it is: a batch may come twice. `OR FAIL`, because a row that is refused ends the whole
// transaction: to be able to undo a statement with triggers alone, SQLite would copy every page before it changes it.
const INSERT_DELIVERY: &str = "INSERT OR FAIL INTO deliveries (id, subscription_id, event_type, payload, ordering_key, trace, resend_of) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING";
const INSERT_DELIVERY_OF_EVENT: &str = "INSERT OR FAIL INTO deliveries (id, subscription_id, event_type, event) \
     VALUES (?1, ?2, ?3, (SELECT seq FROM events WHERE id = ?4)) ON CONFLICT (id) DO NOTHING";
const INSERT_LOG: &str = "INSERT OR FAIL INTO delivery_logs (id, subscription_id, delivery_id, target_url, timestamp, \
     attempt_number, outcome, http_status, error_details, duration_ms, response_body) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (id) DO NOTHING";
// An attempt can end after its subscription was deleted: nothing may be planned for it any more.
const UPSERT_RETRY: &str = "INSERT INTO retries (delivery_id, subscription_id, attempt_number, next_attempt_at) \
     SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM subscriptions WHERE id = ?2) \
     ON CONFLICT (delivery_id) DO UPDATE SET \
     attempt_number = excluded.attempt_number, next_attempt_at = excluded.next_attempt_at";
const UPSERT_POSITION: &str = "INSERT INTO positions (subscription_id, delivery_id) \
     SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM subscriptions WHERE id = ?1) \
     ON CONFLICT (subscription_id) DO UPDATE SET delivery_id = excluded.delivery_id";
const UPSERT_WATERMARK: &str = "INSERT INTO watermark (only, delivery_id) VALUES (1, ?1) \
     ON CONFLICT (only) DO UPDATE SET delivery_id = excluded.delivery_id";

/// Commits the batch. Durable when it returns `Ok`.
pub(super) fn commit(connection: &mut Connection, batch: &Batch) -> Result<()> {
    write(connection, batch).map_err(|error| match error {
        // A damaged file is not the batch's fault: it is kept, and tried again, until someone repairs the file.
        StoreError::Corrupt(why) => StoreError::Unavailable(why),
        error => error,
    })
}

fn write(connection: &mut Connection, batch: &Batch) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // First, because they can refuse the batch.
    keys::hold(&transaction, &batch.keys)?;
    // Before the deliveries whose presence tells that they are stored.
    audit::insert_deeds(&transaction, &batch.deeds)?;
    replays::write_progress(&transaction, &batch.progress)?;
    // Before the deliveries that refer to them.
    events::insert(&transaction, &batch.events)?;
    insert_deliveries(&transaction, &batch.deliveries)?;
    insert_logs(&transaction, &batch.logs)?;
    upsert_retries(&transaction, &batch.retries)?;
    // After the upserts: two attempts at a delivery can share a batch, and the last has the last word.
    settle(&transaction, &batch.settled)?;
    write_positions(&transaction, &batch.positions)?;
    if let Some(watermark) = &batch.watermark {
        transaction.prepare_cached(UPSERT_WATERMARK)?.execute([blob(&watermark.0)])?;
    }
    Ok(transaction.commit()?)
}

fn insert_deliveries(transaction: &Transaction<'_>, deliveries: &[Delivery]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT_DELIVERY)?;
    let mut insert_of_event = transaction.prepare_cached(INSERT_DELIVERY_OF_EVENT)?;
    for delivery in deliveries {
        let (id, event_type) = (blob(&delivery.id.0), delivery.event_type.as_deref());
        match &delivery.event_id {
            Some(event) => {
                insert_of_event.execute(params![id, delivery.subscription_id.0, event_type, blob(&event.0)])?
            }
            None => insert.execute(params![
                id,
                delivery.subscription_id.0,
                event_type,
                &delivery.payload[..],
                delivery.ordering_key.as_deref(),
                delivery.trace.as_ref().map(ToString::to_string),
                delivery.resend_of.as_ref().map(|first| blob(&first.0))
            ])?,
        };
    }
    Ok(())
}

pub(super) fn insert_logs(transaction: &Transaction<'_>, logs: &[AttemptLog]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT_LOG)?;
    for log in logs {
        insert.execute(params![
            blob(&log.id),
            log.subscription_id.0,
            blob(&log.delivery_id.0),
            &*log.target_url,
            log.timestamp.0,
            log.attempt_number,
            log.outcome.code(),
            log.http_status,
            log.error_details,
            log.duration_ms,
            log.response_body
        ])?;
    }
    Ok(())
}

fn upsert_retries(transaction: &Transaction<'_>, retries: &[Retry]) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(UPSERT_RETRY)?;
    for retry in retries {
        upsert.execute(params![
            blob(&retry.delivery_id.0),
            retry.subscription_id.0,
            retry.attempt_number,
            retry.next_attempt_at.0
        ])?;
    }
    Ok(())
}

fn settle(transaction: &Transaction<'_>, settled: &[DeliveryId]) -> rusqlite::Result<()> {
    let mut delete = transaction.prepare_cached("DELETE FROM retries WHERE delivery_id = ?1")?;
    for id in settled {
        delete.execute([blob(&id.0)])?;
    }
    Ok(())
}

fn write_positions(
    transaction: &Transaction<'_>,
    positions: &[(SubscriptionId, Option<DeliveryId>)],
) -> rusqlite::Result<()> {
    for (id, position) in positions {
        match position {
            Some(at) => transaction.prepare_cached(UPSERT_POSITION)?.execute(params![id.0, blob(&at.0)])?,
            None => transaction.prepare_cached("DELETE FROM positions WHERE subscription_id = ?1")?.execute([id.0])?,
        };
    }
    Ok(())
}

/// Which of these deliveries are stored, in the order asked for.
pub(super) fn stored(connection: &mut Connection, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
    let mut exists = connection.prepare_cached("SELECT 1 FROM deliveries WHERE id = ?1")?;
    let mut found = Vec::new();
    for id in ids {
        if exists.exists([blob(&id.0)])? {
            found.push(*id);
        }
    }
    Ok(found)
}
