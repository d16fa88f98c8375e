//! The audit: written with the change that it tells of, read newest first, pruned by age.

use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, ToSql, Transaction, params};

use super::reads::limit;
use super::rows::blob;
use crate::audit::{Act, AuditFilter, AuditRecord, Thing};
use crate::delivery::Timestamp;
use crate::store::{Deed, JanitorCounts, Result};

/// By id, and so by time: what a clock set back has written stays with what surrounds it.
pub(super) const PRUNE: &str =
    "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id > 0 ORDER BY id LIMIT ?2) AND at < ?1";

/// Records a deed in the transaction that does it.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    act: &Act,
    object: &Thing,
    tenant: Option<&str>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO audit (at, actor, action, object, tenant, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let (actor, action) = (act.by.to_string(), act.action.as_str());
    insert.execute(params![now.0, actor, action, object.to_string(), tenant, act.detail])?;
    Ok(())
}

/// Records what was done in a commit, unless the commit is stored already.
pub(super) fn insert_deeds(transaction: &Transaction<'_>, deeds: &[Deed]) -> rusqlite::Result<()> {
    for Deed { act, object, tenant, at, with } in deeds {
        if !transaction.prepare_cached("SELECT 1 FROM deliveries WHERE id = ?1")?.exists([blob(&with.0)])? {
            insert(transaction, act, object, tenant.as_deref(), *at)?;
        }
    }
    Ok(())
}

/// A deed that changes nothing in the store.
pub(super) fn append(
    connection: &mut Connection,
    act: &Act,
    object: &Thing,
    tenant: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    let transaction = connection.transaction()?;
    insert(&transaction, act, object, tenant, now)?;
    Ok(transaction.commit()?)
}

/// With a condition for each part of the filter: `object = ?` and so on.
pub(super) fn select_sql(filter: &AuditFilter) -> String {
    let conditions: String = filter.conditions().iter().map(|(column, _)| format!(" AND {column} = ?")).collect();
    format!(
        "SELECT id, at, actor, action, detail, object, tenant FROM audit WHERE id < ?{conditions} ORDER BY id DESC LIMIT ?"
    )
}

pub(super) fn list(
    connection: &Connection,
    filter: &AuditFilter,
    before: Option<i64>,
    max_rows: usize,
) -> Result<Vec<AuditRecord>> {
    let mut select = connection.prepare_cached(&select_sql(filter))?;
    let (before, conditions, max_rows) = (before.unwrap_or(i64::MAX), filter.conditions(), limit(max_rows));
    let mut params: Vec<&dyn ToSql> = vec![&before];
    params.extend(conditions.iter().map(|(_, value)| value as &dyn ToSql));
    params.push(&max_rows);
    let found = select.query_map(&*params, record)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn prune(connection: &mut Connection, cutoff: Timestamp, max_rows: usize) -> Result<JanitorCounts> {
    let deleted = connection.prepare_cached(PRUNE)?.execute(params![cutoff.0, limit(max_rows)])?;
    Ok(JanitorCounts { rows_deleted: deleted as u64, more: deleted == max_rows, ..JanitorCounts::default() })
}

fn record(row: &Row<'_>) -> rusqlite::Result<AuditRecord> {
    Ok(AuditRecord {
        id: row.get(0)?,
        at: Timestamp(row.get(1)?),
        act: Act { by: parsed(row, 2)?, action: parsed(row, 3)?, detail: row.get(4)? },
        object: parsed(row, 5)?,
        tenant: row.get(6)?,
    })
}

fn parsed<T: FromStr<Err = String>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error: String| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}
