//! Idempotency keys: held with what they stand for, looked up, and deleted when they are old.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::reads::limit;
use super::rows::{self, blob};
use crate::delivery::Timestamp;
use crate::store::{IdempotencyKey, JanitorCounts, Result, StoreError};

// No row is changed where the key stands for something else.
const HOLD: &str = "INSERT INTO idempotency_keys (scope, key, request_hash, outcome, created_at) \
     VALUES (?1, ?2, ?3, ?4, ?5) \
     ON CONFLICT (scope, key) DO UPDATE SET outcome = outcome WHERE outcome = excluded.outcome";
pub(super) const FIND: &str =
    "SELECT request_hash, outcome, created_at FROM idempotency_keys WHERE scope = ?1 AND key = ?2";
pub(super) const PRUNE: &str = "DELETE FROM idempotency_keys WHERE seq IN (SELECT seq FROM idempotency_keys \
     WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)";

/// Refuses the batch if one of them is held already, unless by this very batch.
pub(super) fn hold(transaction: &Transaction<'_>, keys: &[IdempotencyKey]) -> Result<()> {
    let mut hold = transaction.prepare_cached(HOLD)?;
    for key in keys {
        let row = params![&*key.scope, &*key.key, &key.request_hash[..], blob(&key.outcome), key.created_at.0];
        if hold.execute(row)? == 0 {
            let why = format!("an idempotency key of {} stands for another request already", key.scope);
            return Err(StoreError::Rejected(why));
        }
    }
    Ok(())
}

/// Those of these keys that are held.
pub(super) fn find(connection: &mut Connection, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>> {
    let mut statement = connection.prepare_cached(FIND)?;
    let mut found = Vec::new();
    for (scope, key) in keys {
        let held = statement.query_row([&**scope, &**key], |row| {
            Ok(IdempotencyKey {
                scope: scope.clone(),
                key: key.clone(),
                request_hash: row.get(0)?,
                outcome: rows::uuid(row, 1)?,
                created_at: Timestamp(row.get(2)?),
            })
        });
        found.extend(held.optional()?);
    }
    Ok(found)
}

/// Deletes up to `max_rows` that were accepted before `cutoff`, the oldest first.
pub(super) fn prune(connection: &mut Connection, cutoff: Timestamp, max_rows: usize) -> Result<JanitorCounts> {
    let deleted = connection.prepare_cached(PRUNE)?.execute(params![cutoff.0, limit(max_rows)])?;
    Ok(JanitorCounts { rows_deleted: deleted as u64, more: deleted == max_rows, ..JanitorCounts::default() })
}
