//! API keys: each change takes the next revision in its own transaction.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::audit;
use super::reads::limit;
use super::rows::unreadable;
use crate::access::{ApiKey, KeyHash, NewApiKey, Prefix};
use crate::audit::{Act, Thing};
use crate::delivery::Timestamp;
use crate::store::{JanitorCounts, Result};

/// The columns that [`api_key`] reads.
const API_KEY: &str = "prefix, name, role, tenant, secret_hash, created_at, expires_at, revoked_at, revision";
pub(super) const CHANGED: &str = "SELECT prefix, name, role, tenant, secret_hash, created_at, expires_at, revoked_at, \
     revision FROM api_keys WHERE revision > ?1 ORDER BY revision LIMIT ?2";
pub(super) const PRUNE: &str = "DELETE FROM api_keys WHERE prefix IN (SELECT prefix FROM api_keys \
     WHERE coalesce(revoked_at, expires_at) < ?1 ORDER BY coalesce(revoked_at, expires_at) LIMIT ?2)";

pub(super) fn create(
    connection: &mut Connection,
    new: &NewApiKey,
    most: u64,
    act: &Act,
    now: Timestamp,
) -> Result<Option<ApiKey>> {
    const LIVE: &str = "SELECT count(*) FROM api_keys WHERE revoked_at IS NULL AND coalesce(expires_at > ?1, 1)";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let live: i64 = transaction.query_row(LIVE, [now.0], |row| row.get(0))?;
    if live.unsigned_abs() >= most {
        return Ok(None);
    }
    let insert = format!(
        "INSERT INTO api_keys (prefix, name, role, tenant, secret_hash, created_at, expires_at, revision) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING {API_KEY}"
    );
    let NewApiKey { prefix, name, role, tenant, hash, expires_at } = new;
    let (expires_at, revision) = (expires_at.map(|at| at.0), next(&transaction)?);
    let row = params![prefix.as_str(), name, role.as_str(), tenant, &hash.as_bytes()[..], now.0, expires_at, revision];
    let created = transaction.query_row(&insert, row, api_key)?;
    audit::insert(&transaction, act, &Thing::Key(prefix.as_str().into()), tenant.as_deref(), now)?;
    transaction.commit()?;
    Ok(Some(created))
}

/// The revision of this change.
fn next(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    transaction.query_row("UPDATE key_revision SET revision = revision + 1 RETURNING revision", [], |row| row.get(0))
}

pub(super) fn get(connection: &Connection, prefix: Prefix) -> Result<Option<ApiKey>> {
    let mut select = connection.prepare_cached(&format!("SELECT {API_KEY} FROM api_keys WHERE prefix = ?1"))?;
    Ok(select.query_row([prefix.as_str()], api_key).optional()?)
}

pub(super) fn list(connection: &Connection, after: Option<Prefix>, max_rows: usize) -> Result<Vec<ApiKey>> {
    let sql = format!("SELECT {API_KEY} FROM api_keys WHERE prefix > ?1 ORDER BY prefix LIMIT ?2");
    let mut select = connection.prepare_cached(&sql)?;
    let after = after.as_ref().map_or("", Prefix::as_str);
    let found = select.query_map(params![after, limit(max_rows)], api_key)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn changed_since(connection: &Connection, revision: i64, max_rows: usize) -> Result<Vec<ApiKey>> {
    let mut select = connection.prepare_cached(CHANGED)?;
    let found = select.query_map(params![revision, limit(max_rows)], api_key)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Of the last change of any key.
pub(super) fn revision(connection: &Connection) -> Result<i64> {
    Ok(connection.query_row("SELECT revision FROM key_revision", [], |row| row.get(0))?)
}

pub(super) fn revoke(connection: &mut Connection, prefix: Prefix, act: &Act, now: Timestamp) -> Result<Option<ApiKey>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = get(&transaction, prefix)?;
    let update = format!(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?2), revision = ?3 WHERE prefix = ?1 RETURNING {API_KEY}"
    );
    let row = params![prefix.as_str(), now.0, next(&transaction)?];
    let revoked = transaction.query_row(&update, row, api_key).optional()?;
    if let Some(before) = before.filter(|before| before.revoked_at.is_none()) {
        audit::insert(&transaction, act, &Thing::Key(prefix.as_str().into()), before.tenant.as_deref(), now)?;
    }
    transaction.commit()?;
    Ok(revoked)
}

/// Deletes up to `max_rows` that ended before `cutoff`, the oldest first.
pub(super) fn prune(connection: &mut Connection, cutoff: Timestamp, max_rows: usize) -> Result<JanitorCounts> {
    let deleted = connection.prepare_cached(PRUNE)?.execute(params![cutoff.0, limit(max_rows)])?;
    Ok(JanitorCounts { rows_deleted: deleted as u64, more: deleted == max_rows, ..JanitorCounts::default() })
}

fn api_key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        prefix: row.get::<_, String>(0)?.parse().map_err(|error: String| unreadable(0, error))?,
        name: row.get(1)?,
        role: row.get::<_, String>(2)?.parse().map_err(|error: String| unreadable(2, error))?,
        tenant: row.get(3)?,
        hash: KeyHash::from_bytes(row.get(4)?),
        created_at: Timestamp(row.get(5)?),
        expires_at: row.get::<_, Option<i64>>(6)?.map(Timestamp),
        revoked_at: row.get::<_, Option<i64>>(7)?.map(Timestamp),
        revision: row.get(8)?,
    })
}
