//! Replays: how far each has come is written in the transaction of the deliveries that it has made.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::reads::limit;
use super::rows::{self, blob, unreadable};
use super::{audit, subscriptions};
use crate::audit::{Act, Action, Thing};
use crate::delivery::{DeliveryId, SubscriptionId, Timestamp};
use crate::store::ids::last_by;
use crate::store::replays::{states_from_text, states_text};
use crate::store::{Asked, JanitorCounts, NewReplay, Progress, Replay, ReplayId, ReplayState, Result};

const REPLAY: &str = "id, subscription_id, tenant, states, first, last, position, matched, resent, state, detail, \
     requested_at, ended_at";
const RUNNING_OF: &str = "SELECT id FROM replays WHERE subscription_id = ?1 AND state = 'running'";
const RUNNING_OF_TENANT: &str = "SELECT count(*) FROM replays WHERE tenant = ?1 AND state = 'running'";
const NEWEST: &str = "SELECT max(id) FROM deliveries";
// The position of one that is elsewhere, or has ended, becomes NULL, which refuses the whole commit.
pub(super) const PROGRESS: &str = "UPDATE replays SET \
     matched = matched + CASE WHEN position = ?2 AND state = 'running' THEN ?4 ELSE 0 END, \
     resent = resent + CASE WHEN position = ?2 AND state = 'running' THEN ?5 ELSE 0 END, \
     position = CASE WHEN position = ?2 AND state = 'running' THEN ?3 \
     WHEN position = ?3 AND EXISTS (SELECT 1 FROM deliveries WHERE id = ?6) THEN position END WHERE id = ?1";
pub(super) const RUNNING: &str = "SELECT id FROM replays WHERE state = 'running' AND id > ?1 ORDER BY id LIMIT ?2";
pub(super) const PRUNE: &str = "DELETE FROM replays WHERE id IN (SELECT id FROM replays \
     WHERE ended_at IS NOT NULL AND ended_at < ?1 ORDER BY ended_at LIMIT ?2)";
pub(super) const END_ALL_OF: &str = "UPDATE replays SET state = 'cancelled', detail = 'the subscription was deleted', \
     ended_at = ?2 WHERE subscription_id = ?1 AND state = 'running'";

pub(super) fn list_sql() -> String {
    format!("SELECT {REPLAY} FROM replays WHERE subscription_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3")
}

pub(super) fn create(connection: &mut Connection, new: &NewReplay, most: u64, now: Timestamp) -> Result<Asked> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(subscription) = subscriptions::get(&transaction, new.subscription_id)? else { return Ok(Asked::Missing) };
    let of = new.subscription_id.0;
    if let Some(id) = transaction.query_row(RUNNING_OF, [of], |row| row.get(0).map(ReplayId)).optional()? {
        return Ok(Asked::Running(id));
    }
    let running: i64 = transaction.query_row(RUNNING_OF_TENANT, [&*subscription.tenant], |row| row.get(0))?;
    if running.unsigned_abs() >= most {
        return Ok(Asked::TooMany);
    }
    let newest = transaction.query_row(NEWEST, [], |row| rows::some_delivery_id(row, 0))?;
    let last = new.last.min(last_by(now).max(newest.unwrap_or(DeliveryId::MIN)));
    let states = states_text(&new.states);
    transaction.execute(
        "INSERT INTO replays (subscription_id, tenant, states, first, last, position, requested_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?4, ?6)",
        params![of, &*subscription.tenant, states, blob(&new.first.0), blob(&last.0), now.0],
    )?;
    let id = ReplayId(transaction.last_insert_rowid());
    let detail = Some(new.detail(id));
    let act = Act { by: new.by.clone(), action: Action::Replayed, detail };
    let object = Thing::Subscription(new.subscription_id);
    audit::insert(&transaction, &act, &object, Some(&subscription.tenant), now)?;
    let made = get(&transaction, id)?;
    transaction.commit()?;
    Ok(made.map_or(Asked::Missing, Asked::Made))
}

pub(super) fn get(connection: &Connection, id: ReplayId) -> Result<Option<Replay>> {
    let mut select = connection.prepare_cached(&format!("SELECT {REPLAY} FROM replays WHERE id = ?1"))?;
    Ok(select.query_row([id.0], replay).optional()?)
}

pub(super) fn list(
    connection: &Connection,
    id: SubscriptionId,
    before: Option<i64>,
    max_rows: usize,
) -> Result<Vec<Replay>> {
    let mut select = connection.prepare_cached(&list_sql())?;
    let found = select.query_map(params![id.0, before.unwrap_or(i64::MAX), limit(max_rows)], replay)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn running(connection: &Connection, after: ReplayId, max_rows: usize) -> Result<Vec<ReplayId>> {
    let mut select = connection.prepare_cached(RUNNING)?;
    let found = select.query_map(params![after.0, limit(max_rows)], |row| row.get(0).map(ReplayId))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Before the deliveries of the same commit are stored.
pub(super) fn write_progress(transaction: &Transaction<'_>, progress: &[Progress]) -> rusqlite::Result<()> {
    for Progress { id, from, to, matched, resent, with } in progress {
        let with = with.as_ref().map(|with| blob(&with.0));
        let counts = (matched.cast_signed(), resent.cast_signed());
        let mut update = transaction.prepare_cached(PROGRESS)?;
        update.execute(params![id.0, blob(&from.0), blob(&to.0), counts.0, counts.1, with])?;
    }
    Ok(())
}

pub(super) fn advance(connection: &mut Connection, progress: Progress) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    write_progress(&transaction, &[progress])?;
    Ok(transaction.commit()?)
}

pub(super) fn end(
    connection: &mut Connection,
    id: ReplayId,
    state: ReplayState,
    detail: Option<&str>,
    act: Option<&Act>,
    now: Timestamp,
) -> Result<Option<Replay>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let ended = transaction.execute(
        "UPDATE replays SET state = ?2, detail = ?3, ended_at = ?4 WHERE id = ?1 AND state = 'running'",
        params![id.0, state.as_str(), detail, now.0],
    )?;
    let replay = get(&transaction, id)?;
    if let (Some(replay), Some(act), 1) = (&replay, act, ended) {
        let object = Thing::Subscription(replay.subscription_id);
        audit::insert(&transaction, act, &object, Some(&replay.tenant), now)?;
    }
    transaction.commit()?;
    Ok(replay)
}

/// In the transaction that deletes the subscription.
pub(super) fn end_all_of(transaction: &Transaction<'_>, id: SubscriptionId, now: Timestamp) -> rusqlite::Result<()> {
    transaction.execute(END_ALL_OF, params![id.0, now.0]).map(drop)
}

pub(super) fn prune(connection: &mut Connection, cutoff: Timestamp, max_rows: usize) -> Result<JanitorCounts> {
    let deleted = connection.prepare_cached(PRUNE)?.execute(params![cutoff.0, limit(max_rows)])?;
    Ok(JanitorCounts { rows_deleted: deleted as u64, more: deleted == max_rows, ..JanitorCounts::default() })
}

fn replay(row: &Row<'_>) -> rusqlite::Result<Replay> {
    let states: String = row.get(3)?;
    let state: String = row.get(9)?;
    Ok(Replay {
        id: ReplayId(row.get(0)?),
        subscription_id: rows::subscription_id(row, 1)?,
        tenant: row.get(2)?,
        states: states_from_text(&states).map_err(|error| unreadable(3, error))?,
        first: rows::delivery_id(row, 4)?,
        last: rows::delivery_id(row, 5)?,
        position: rows::delivery_id(row, 6)?,
        matched: row.get::<_, i64>(7)?.unsigned_abs(),
        resent: row.get::<_, i64>(8)?.unsigned_abs(),
        state: state.parse().map_err(|error: String| unreadable(9, error))?,
        detail: row.get(10)?,
        requested_at: Timestamp(row.get(11)?),
        ended_at: row.get::<_, Option<i64>>(12)?.map(Timestamp),
    })
}
