//! When a subscription was enabled or disabled: written with the change, shown, and announced once.

use rusqlite::{Connection, Row, Transaction, params};

use super::reads::limit;
use super::rows;
use crate::delivery::{StateChange, Subscription, SubscriptionId, Timestamp};
use crate::store::Result;

pub(super) const OF_SUBSCRIPTION: &str = "SELECT id, subscription_id, tenant, at, disabled, detail FROM state_changes \
     WHERE subscription_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
pub(super) const UNANNOUNCED: &str = "SELECT id, subscription_id, tenant, at, disabled, detail FROM state_changes \
     INDEXED BY state_changes_unannounced WHERE announced = 0 AND id > 0 ORDER BY id LIMIT ?1";

/// Records what the subscription has become.
pub(super) fn insert(transaction: &Transaction<'_>, now: &Subscription, detail: Option<&str>) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO state_changes (subscription_id, tenant, at, disabled, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let disabled = now.disabled.map(|reason| reason.as_str());
    insert.execute(params![now.id.0, &*now.tenant, now.updated_at.0, disabled, detail])?;
    Ok(())
}

pub(super) fn of_subscription(
    connection: &Connection,
    id: SubscriptionId,
    before: Option<i64>,
    max_rows: usize,
) -> Result<Vec<StateChange>> {
    let mut select = connection.prepare_cached(OF_SUBSCRIPTION)?;
    let found = select.query_map(params![id.0, before.unwrap_or(i64::MAX), limit(max_rows)], state_change)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn unannounced(connection: &Connection, max_rows: usize) -> Result<Vec<StateChange>> {
    let mut select = connection.prepare_cached(UNANNOUNCED)?;
    let found = select.query_map([limit(max_rows)], state_change)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn announced(connection: &mut Connection, ids: &[i64]) -> Result<()> {
    let transaction = connection.transaction()?;
    for id in ids {
        transaction.prepare_cached("UPDATE state_changes SET announced = 1 WHERE id = ?1")?.execute([id])?;
    }
    Ok(transaction.commit()?)
}

fn state_change(row: &Row<'_>) -> rusqlite::Result<StateChange> {
    Ok(StateChange {
        id: row.get(0)?,
        subscription_id: rows::subscription_id(row, 1)?,
        tenant: row.get(2)?,
        at: Timestamp(row.get(3)?),
        disabled: rows::disabled(row, 4)?,
        detail: row.get(5)?,
    })
}
