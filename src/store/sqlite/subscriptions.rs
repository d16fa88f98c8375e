//! Subscriptions: created, read, changed, deleted.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use secrecy::ExposeSecret;

use super::reads::limit;
use super::rows::{self, SUBSCRIPTION, patterns_text};
use crate::delivery::{Subscription, SubscriptionId, Timestamp};
use crate::store::{NewSubscription, Result, SubscriptionChange};

pub(super) fn create(connection: &mut Connection, new: &NewSubscription, now: Timestamp) -> Result<Subscription> {
    let mut insert = connection.prepare_cached(&format!(
        "INSERT INTO subscriptions (target_url, event_types, secret, version, created_at, updated_at) \
         VALUES (?1, ?2, ?3, 1, ?4, ?4) RETURNING {SUBSCRIPTION}"
    ))?;
    let secret = new.secret.as_ref().map(|secret| secret.expose_secret());
    let row = params![new.target_url, patterns_text(&new.event_types), secret, now.0];
    Ok(insert.query_row(row, rows::subscription)?)
}

pub(super) fn get(connection: &mut Connection, id: SubscriptionId) -> Result<Option<Subscription>> {
    let mut select = connection.prepare_cached(&format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE id = ?1"))?;
    Ok(select.query_row([id.0], rows::subscription).optional()?)
}

pub(super) fn list(
    connection: &mut Connection,
    after: Option<SubscriptionId>,
    max_rows: usize,
) -> Result<Vec<Subscription>> {
    let mut select = connection
        .prepare_cached(&format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE id > ?1 ORDER BY id LIMIT ?2"))?;
    let after = after.map_or(i64::MIN, |id| id.0);
    let found = select.query_map(params![after, limit(max_rows)], rows::subscription)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// One statement, so that two changes at the same time both happen. `?n IS NULL` cannot tell "leave it" from "take it
/// away", so what can be taken away comes with a flag.
pub(super) fn update(
    connection: &mut Connection,
    id: SubscriptionId,
    change: &SubscriptionChange,
    now: Timestamp,
) -> Result<Option<Subscription>> {
    let mut update = connection.prepare_cached(&format!(
        "UPDATE subscriptions SET target_url = coalesce(?2, target_url), event_types = coalesce(?3, event_types), \
         secret = CASE WHEN ?4 THEN ?5 ELSE secret END, disabled = CASE WHEN ?6 THEN ?7 ELSE disabled END, \
         version = version + 1, updated_at = ?8 WHERE id = ?1 RETURNING {SUBSCRIPTION}"
    ))?;
    let secret = change.secret.as_ref().map(|secret| secret.as_ref().map(|secret| secret.expose_secret()));
    let row = params![
        id.0,
        change.target_url,
        change.event_types.as_deref().map(patterns_text),
        secret.is_some(),
        secret.flatten(),
        change.disabled.is_some(),
        change.disabled.flatten().map(|reason| reason.as_str()),
        now.0
    ];
    Ok(update.query_row(row, rows::subscription).optional()?)
}

pub(super) fn delete(connection: &mut Connection, id: SubscriptionId) -> Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let deleted = transaction.execute("DELETE FROM subscriptions WHERE id = ?1", [id.0])? > 0;
    transaction.execute("DELETE FROM retries WHERE subscription_id = ?1", [id.0])?;
    transaction.execute("DELETE FROM positions WHERE subscription_id = ?1", [id.0])?;
    transaction.commit()?;
    Ok(deleted)
}

pub(super) fn versions(connection: &mut Connection, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
    let mut select = connection.prepare_cached("SELECT version FROM subscriptions WHERE id = ?1")?;
    let mut found = Vec::new();
    for id in ids {
        found.extend(select.query_row([id.0], |row| row.get(0)).optional()?.map(|version| (*id, version)));
    }
    Ok(found)
}
