//! Subscriptions: created, read, changed, deleted.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::reads::limit;
use super::rows::{self, SUBSCRIPTION, blob, patterns_text};
use super::{audit, replays, state_changes};
use crate::audit::{Act, Action, Thing};
use crate::delivery::{EventTypePattern, NO_PATTERNS, Subscription, SubscriptionId, Timestamp};
use crate::store::ids::last_by;
use crate::store::{NewSubscription, Result, SubscriptionChange, Update, secrets, settings};

pub(super) const DELETE_PATTERNS: &str = "DELETE FROM subscription_patterns WHERE subscription_id = ?1";

/// Counts one more of the tenant's, unless it has as many as it may.
const COUNT_ONE_MORE: &str = "INSERT INTO tenants (tenant, subscriptions) SELECT ?1, 1 WHERE ?2 > 0 \
     ON CONFLICT (tenant) DO UPDATE SET subscriptions = subscriptions + 1 WHERE subscriptions < ?2";
pub(super) const LIST_OF_TENANT: &str = "WHERE tenant = ?3 AND id > ?1 ORDER BY id LIMIT ?2";

pub(super) fn create(
    connection: &mut Connection,
    new: &NewSubscription,
    quota: u64,
    now: Timestamp,
) -> Result<Option<Subscription>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let quota = i64::try_from(quota).unwrap_or(i64::MAX);
    if transaction.prepare_cached(COUNT_ONE_MORE)?.execute(params![new.tenant, quota])? == 0 {
        return Ok(None);
    }
    let insert = format!(
        "INSERT INTO subscriptions (target_url, event_types, secrets, version, created_at, updated_at, tenant, settings, id) \
         VALUES (?1, ?2, ?3, 1, ?4, ?4, ?5, ?6, ?7) RETURNING {SUBSCRIPTION}"
    );
    let secrets = new.secrets.as_ref().map(secrets::to_text);
    let settings = settings::to_text(&new.settings);
    let event_types = patterns_text(&new.event_types);
    let row = params![new.target_url, event_types, secrets, now.0, new.tenant, settings, new.id.0];
    let created = transaction.prepare_cached(&insert)?.query_row(row, rows::subscription)?;
    write_patterns(&transaction, &created)?;
    let act = Act::new(new.by.clone(), Action::Created);
    audit::insert(&transaction, &act, &Thing::Subscription(new.id), Some(&new.tenant), now)?;
    transaction.commit()?;
    Ok(Some(created))
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
    let none = subscription.event_types.is_empty().then_some(NO_PATTERNS);
    for pattern in subscription.event_types.iter().map(EventTypePattern::as_str).chain(none) {
        insert.execute(params![&*subscription.tenant, pattern, subscription.id.0])?;
    }
    Ok(())
}

fn delete_patterns(transaction: &Transaction<'_>, id: SubscriptionId) -> rusqlite::Result<()> {
    transaction.prepare_cached(DELETE_PATTERNS)?.execute([id.0])?;
    Ok(())
}

pub(super) fn get(connection: &Connection, id: SubscriptionId) -> Result<Option<Subscription>> {
    let mut select = connection.prepare_cached(&format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE id = ?1"))?;
    Ok(select.query_row([id.0], rows::subscription).optional()?)
}

pub(super) fn list(
    connection: &mut Connection,
    tenant: Option<&str>,
    after: Option<SubscriptionId>,
    max_rows: usize,
) -> Result<Vec<Subscription>> {
    let after = after.map_or(i64::MIN, |id| id.0);
    let page = params![after, limit(max_rows), tenant];
    let which = if tenant.is_some() { LIST_OF_TENANT } else { "WHERE id > ?1 AND ?3 IS NULL ORDER BY id LIMIT ?2" };
    let mut select = connection.prepare_cached(&format!("SELECT {SUBSCRIPTION} FROM subscriptions {which}"))?;
    let found = select.query_map(page, rows::subscription)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// `?n IS NULL` cannot tell "leave it" from "take it away", so what can be taken away comes with a flag.
const UPDATE: &str = "UPDATE subscriptions SET target_url = coalesce(?2, target_url), \
     event_types = coalesce(?3, event_types), secrets = CASE WHEN ?4 THEN ?5 ELSE secrets END, \
     disabled = CASE WHEN ?6 THEN ?7 ELSE disabled END, version = version + 1, updated_at = ?8, \
     settings = coalesce(?9, settings), \
     drop_through = CASE WHEN ?10 THEN max(?11, coalesce((SELECT max(id) FROM deliveries), x'')) ELSE drop_through END, \
     failing_since = CASE WHEN ?6 AND ?7 IS NULL AND disabled IS NOT NULL THEN NULL ELSE failing_since END WHERE id = ?1";
pub(super) const BRING_FORWARD: &str =
    "UPDATE retries SET next_attempt_at = ?2 WHERE subscription_id = ?1 AND next_attempt_at > ?2";

/// One transaction that is alone from its start: two changes at the same time both happen, and what one of them says that
/// it was made from is what it is made from.
///
/// Whoever is enabled starts afresh: failures of before say nothing, and would disable it again at the next one.
pub(super) fn update(
    connection: &mut Connection,
    id: SubscriptionId,
    change: &SubscriptionChange,
    now: Timestamp,
) -> Result<Update> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(before) = get(&transaction, id)? else { return Ok(Update::Missing) };
    if change.only_version.is_some_and(|version| version != before.version) {
        return Ok(Update::Overtaken);
    }
    let secrets = change.secrets.as_ref().map(|secrets| secrets.as_ref().map(secrets::to_text));
    transaction.prepare_cached(UPDATE)?.execute(params![
        id.0,
        change.target_url,
        change.event_types.as_deref().map(patterns_text),
        secrets.is_some(),
        secrets.flatten(),
        change.disabled.is_some(),
        change.disabled.flatten().map(|reason| reason.as_str()),
        now.0,
        change.settings.as_ref().map(settings::to_text),
        change.drop_backlog,
        blob(&last_by(now).0)
    ])?;
    if change.drop_backlog {
        transaction.prepare_cached(BRING_FORWARD)?.execute([id.0, now.0])?;
    }
    let Some(after) = get(&transaction, id)? else { return Ok(Update::Missing) };
    if after.disabled != before.disabled {
        state_changes::insert(&transaction, &after, change.detail.as_deref())?;
    }
    if let Some(act) = &change.act {
        audit::insert(&transaction, act, &Thing::Subscription(id), Some(&after.tenant), now)?;
    }
    write_patterns(&transaction, &after)?;
    transaction.commit()?;
    Ok(Update::Done(after))
}

/// No new version, and no owner is needed: what is saved is advice.
pub(super) fn save_failing(connection: &Connection, id: SubscriptionId, since: Option<Timestamp>) -> Result<()> {
    let mut save = connection.prepare_cached("UPDATE subscriptions SET failing_since = ?2 WHERE id = ?1")?;
    save.execute(params![id.0, since.map(|at| at.0)])?;
    Ok(())
}

/// Leaves its tenant behind, for its deliveries.
pub(super) fn delete(connection: &mut Connection, id: SubscriptionId, act: &Act, now: Timestamp) -> Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tenant: Option<String> = transaction
        .query_row("DELETE FROM subscriptions WHERE id = ?1 RETURNING tenant", [id.0], |row| row.get(0))
        .optional()?;
    let Some(tenant) = tenant else { return Ok(false) };
    transaction.execute("UPDATE tenants SET subscriptions = max(0, subscriptions - 1) WHERE tenant = ?1", [&tenant])?;
    let remember = "INSERT INTO deleted_subscriptions (id, deleted_at, tenant) VALUES (?1, ?2, ?3)";
    transaction.execute(remember, params![id.0, now.0, tenant])?;
    audit::insert(&transaction, act, &Thing::Subscription(id), Some(&tenant), now)?;
    delete_patterns(&transaction, id)?;
    transaction.execute("DELETE FROM retries WHERE subscription_id = ?1", [id.0])?;
    transaction.execute("DELETE FROM positions WHERE subscription_id = ?1", [id.0])?;
    replays::end_all_of(&transaction, id, now)?;
    transaction.execute("DELETE FROM state_changes WHERE subscription_id = ?1", [id.0])?;
    transaction.commit()?;
    Ok(true)
}

pub(super) fn versions(connection: &mut Connection, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
    let mut select = connection.prepare_cached("SELECT version FROM subscriptions WHERE id = ?1")?;
    let mut found = Vec::new();
    for id in ids {
        found.extend(select.query_row([id.0], |row| row.get(0)).optional()?.map(|version| (*id, version)));
    }
    Ok(found)
}
