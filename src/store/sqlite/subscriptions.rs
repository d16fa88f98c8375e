//! Subscriptions: created, read, changed, deleted.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use secrecy::ExposeSecret;

use super::events::EVERY_EVENT;
use super::reads::limit;
use super::rows::{self, SUBSCRIPTION, patterns_text};
use crate::delivery::{EventTypePattern, Subscription, SubscriptionId, Timestamp};
use crate::store::{NewSubscription, Result, SubscriptionChange};

pub(super) const DELETE_PATTERNS: &str = "DELETE FROM subscription_patterns WHERE subscription_id = ?1";

pub(super) fn create(connection: &mut Connection, new: &NewSubscription, now: Timestamp) -> Result<Subscription> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let insert = format!(
        "INSERT INTO subscriptions (target_url, event_types, secret, version, created_at, updated_at, tenant) \
         VALUES (?1, ?2, ?3, 1, ?4, ?4, ?5) RETURNING {SUBSCRIPTION}"
    );
    let secret = new.secret.as_ref().map(|secret| secret.expose_secret());
    let row = params![new.target_url, patterns_text(&new.event_types), secret, now.0, new.tenant];
    let created = transaction.prepare_cached(&insert)?.query_row(row, rows::subscription)?;
    write_patterns(&transaction, &created)?;
    transaction.commit()?;
    Ok(created)
}

/// What the subscription wants, as an event looks for it: nothing while it is disabled.
fn write_patterns(transaction: &Transaction<'_>, subscription: &Subscription) -> rusqlite::Result<()> {
    delete_patterns(transaction, subscription.id)?;
    if subscription.disabled.is_some() {
        return Ok(());
    }
    // A pattern may be named twice.
    let mut insert = transaction.prepare_cached(
        "INSERT INTO subscription_patterns (tenant, pattern, subscription_id) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO NOTHING",
    )?;
    let every_event = subscription.event_types.is_empty().then_some(EVERY_EVENT);
    for pattern in subscription.event_types.iter().map(EventTypePattern::as_str).chain(every_event) {
        insert.execute(params![&*subscription.tenant, pattern, subscription.id.0])?;
    }
    Ok(())
}

fn delete_patterns(transaction: &Transaction<'_>, id: SubscriptionId) -> rusqlite::Result<()> {
    transaction.prepare_cached(DELETE_PATTERNS)?.execute([id.0])?;
    Ok(())
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

/// One statement, so that two changes at the same time both happen, and the patterns with it. `?n IS NULL` cannot tell "leave it" from "take it
/// away", so what can be taken away comes with a flag.
pub(super) fn update(
    connection: &mut Connection,
    id: SubscriptionId,
    change: &SubscriptionChange,
    now: Timestamp,
) -> Result<Option<Subscription>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let update = format!(
        "UPDATE subscriptions SET target_url = coalesce(?2, target_url), event_types = coalesce(?3, event_types), \
         secret = CASE WHEN ?4 THEN ?5 ELSE secret END, disabled = CASE WHEN ?6 THEN ?7 ELSE disabled END, \
         version = version + 1, updated_at = ?8 WHERE id = ?1 RETURNING {SUBSCRIPTION}"
    );
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
    let updated = transaction.prepare_cached(&update)?.query_row(row, rows::subscription).optional()?;
    if let Some(subscription) = &updated {
        write_patterns(&transaction, subscription)?;
    }
    transaction.commit()?;
    Ok(updated)
}

pub(super) fn delete(connection: &mut Connection, id: SubscriptionId) -> Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let deleted = transaction.execute("DELETE FROM subscriptions WHERE id = ?1", [id.0])? > 0;
    delete_patterns(&transaction, id)?;
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
