//! What people are shown: a delivery with its attempts, a subscription's log.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::reads::limit;
use super::rows::{self, LOG, SELECT_RETRY, blob};
use crate::delivery::{AttemptLog, DeliveryId, SubscriptionId};
use crate::store::{DeliveryRecord, MAX_RESENDS, Result};

pub(super) fn delivery(connection: &mut Connection, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
    let snapshot = connection.transaction()?;
    let found = snapshot
        .prepare_cached(
            "SELECT subscription_id, event_type, (SELECT e.id FROM events e WHERE e.seq = event), \
             (SELECT s.tenant FROM subscriptions s WHERE s.id = subscription_id), \
             (SELECT g.tenant FROM deleted_subscriptions g WHERE g.id = subscription_id), resend_of FROM deliveries WHERE id = ?1",
        )?
        .query_row([blob(&id.0)], |row| {
            let tenants: (Option<Arc<str>>, Option<Arc<str>>) = (row.get(3)?, row.get(4)?);
            Ok((rows::subscription_id(row, 0)?, row.get(1)?, rows::event_id(row, 2)?, tenants, rows::some_delivery_id(row, 5)?))
        })
        .optional()?;
    let Some((subscription_id, event_type, event_id, (of_subscription, of_deleted), resend_of)) = found else {
        return Ok(None);
    };
    let (subscription_exists, tenant) = (of_subscription.is_some(), of_subscription.or(of_deleted));
    let retry = snapshot
        .prepare_cached(&format!("{SELECT_RETRY} WHERE r.delivery_id = ?1"))?
        .query_row([blob(&id.0)], rows::retry)
        .optional()?;
    let resends = snapshot
        .prepare_cached("SELECT id FROM deliveries WHERE resend_of = ?1 ORDER BY id DESC LIMIT ?2")?
        .query_map(params![blob(&id.0), limit(MAX_RESENDS)], |row| rows::delivery_id(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let attempts = snapshot
        .prepare_cached(&format!("SELECT {LOG} FROM delivery_logs WHERE delivery_id = ?1 ORDER BY id"))?
        .query_map([blob(&id.0)], rows::log)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(DeliveryRecord {
        id,
        subscription_id,
        tenant,
        event_type,
        event_id,
        resend_of,
        resends,
        retry,
        subscription_exists,
        attempts,
    }))
}

/// The index of logs by subscription has so many rows of `seq` (2 to this power) after each other, sorted within: a commit
/// adds to the last of these stretches only, and a reader goes from one to the one before.
pub(super) const STRETCH_BITS: u32 = 11;
// The janitor's rows can have ids a little out of order with the writer's, so the order is that of `seq`. `?1` may have
// been pruned meanwhile: then the page goes on from the newest that is older.
const BEFORE: &str = "SELECT coalesce((SELECT seq FROM delivery_logs WHERE id = ?1), \
     (SELECT seq + 1 FROM delivery_logs WHERE id < ?1 ORDER BY id DESC LIMIT 1), 0)";
const ENDS: &str = "SELECT (SELECT min(seq) FROM delivery_logs), (SELECT max(seq) + 1 FROM delivery_logs)";

/// The rows of one stretch, as the index has them.
pub(super) fn logs_sql() -> String {
    format!(
        "SELECT {LOG} FROM delivery_logs WHERE seq >> {STRETCH_BITS} = ?1 AND subscription_id = ?2 AND seq < ?3 \
         ORDER BY seq DESC LIMIT ?4"
    )
}

/// Stretches that one read goes through: about 10 ms of a snapshot, which keeps the write-ahead log from being reused.
pub(super) const STRETCHES_OF_A_READ: i64 = 256;

/// Where a read of the log begins, newest first.
#[derive(Clone, Copy, Debug)]
pub(super) enum LogsFrom {
    Newest,
    /// Older than this row.
    Before(Uuid),
    /// Below this `seq`, where another read has stopped.
    Below(i64),
}

/// What one read has found.
pub(super) struct LogsRead {
    pub rows: Vec<AttemptLog>,
    /// Where the next one goes on, unless the page is full or nothing older is left.
    pub next: Option<LogsFrom>,
}

/// One snapshot's worth. What comes meanwhile is newer than where the next read goes on.
pub(super) fn logs(
    connection: &mut Connection,
    id: SubscriptionId,
    from: LogsFrom,
    max_rows: usize,
) -> Result<LogsRead> {
    let snapshot = connection.transaction()?;
    let mut read = LogsRead { rows: Vec::new(), next: None };
    let ends: (Option<i64>, Option<i64>) =
        snapshot.prepare_cached(ENDS)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(oldest), Some(end)) = ends else { return Ok(read) };
    let end = match from {
        LogsFrom::Before(before) => snapshot.prepare_cached(BEFORE)?.query_row([blob(&before)], |row| row.get(0))?,
        LogsFrom::Below(seq) => seq,
        LogsFrom::Newest => end,
    };
    let (first, last) = (oldest >> STRETCH_BITS, (end - 1) >> STRETCH_BITS);
    let until = first.max(last - STRETCHES_OF_A_READ + 1);
    let mut statement = snapshot.prepare_cached(&logs_sql())?;
    for stretch in (until..=last).rev() {
        let wanted = max_rows - read.rows.len();
        if wanted == 0 {
            return Ok(read);
        }
        for log in statement.query_map(params![stretch, id.0, end, limit(wanted)], rows::log)? {
            read.rows.push(log?);
        }
    }
    read.next = (until > first && read.rows.len() < max_rows).then_some(LogsFrom::Below(until << STRETCH_BITS));
    Ok(read)
}
