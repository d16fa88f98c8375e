//! What people are shown: a delivery with its attempts, a subscription's log.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::reads::limit;
use super::rows::{self, LOG, SELECT_RETRY, blob};
use crate::delivery::{AttemptLog, DeliveryId, SubscriptionId};
use crate::store::{DeliveryRecord, Result};

pub(super) fn delivery(connection: &mut Connection, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
    let snapshot = connection.transaction()?;
    let found = snapshot
        .prepare_cached(
            "SELECT subscription_id, event_type, (SELECT e.id FROM events e WHERE e.seq = event), \
             (SELECT s.tenant FROM subscriptions s WHERE s.id = subscription_id), \
             (SELECT g.tenant FROM deleted_subscriptions g WHERE g.id = subscription_id) FROM deliveries WHERE id = ?1",
        )?
        .query_row([blob(&id.0)], |row| {
            let tenants: (Option<Arc<str>>, Option<Arc<str>>) = (row.get(3)?, row.get(4)?);
            Ok((rows::subscription_id(row, 0)?, row.get(1)?, rows::event_id(row, 2)?, tenants))
        })
        .optional()?;
    let Some((subscription_id, event_type, event_id, (of_subscription, of_deleted))) = found else { return Ok(None) };
    let (subscription_exists, tenant) = (of_subscription.is_some(), of_subscription.or(of_deleted));
    let retry = snapshot
        .prepare_cached(&format!("{SELECT_RETRY} WHERE r.delivery_id = ?1"))?
        .query_row([blob(&id.0)], rows::retry)
        .optional()?;
    let attempts = snapshot
        .prepare_cached(&format!("SELECT {LOG} FROM delivery_logs WHERE delivery_id = ?1 ORDER BY id"))?
        .query_map([blob(&id.0)], rows::log)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(DeliveryRecord { id, subscription_id, tenant, event_type, event_id, retry, subscription_exists, attempts }))
}

// The janitor's rows can have ids a little out of order with the writer's, so the order is that of `seq`. `?2` may have
// been pruned meanwhile: then the page goes on from the newest that is older.
const BEFORE: &str = "coalesce((SELECT seq FROM delivery_logs WHERE id = ?2), \
     (SELECT seq + 1 FROM delivery_logs WHERE id < ?2 ORDER BY id DESC LIMIT 1), 0)";

pub(super) fn logs(
    connection: &mut Connection,
    id: SubscriptionId,
    before: Option<Uuid>,
    max_rows: usize,
) -> Result<Vec<AttemptLog>> {
    let older = before.map_or(String::new(), |_| format!("AND seq < {BEFORE}"));
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {LOG} FROM delivery_logs WHERE subscription_id = ?1 {older} ORDER BY seq DESC LIMIT ?3"
    ))?;
    let before = before.unwrap_or_default();
    let found = statement.query_map(params![id.0, blob(&before), limit(max_rows)], rows::log)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}
