//! Replays: how far each has come is written in the transaction of the deliveries that it has made.

use std::borrow::Cow;

use deadpool_postgres::Object;
use tokio::time::timeout;
use tokio_postgres::{Client, Error, Row, Transaction};
use uuid::Uuid;

use super::super::ids::last_by;
use super::super::replays::{states_from_text, states_text};
use super::super::{
    Asked, Deed, JanitorCounts, NewReplay, Progress, Replay, ReplayId, ReplayState, Result, StoreError,
};
use super::PostgresStore;
use super::columns::{Params, text};
use super::connection::READ_DEADLINE;
use super::error::{pool_error, store_error, too_slow};
use super::rows::get;
use super::subscriptions::limit_of;
use crate::audit::{Act, Action};
use crate::delivery::{DeliveryId, SubscriptionId, Timestamp};

const REPLAY: &str = "id, subscription_id, tenant, states, first, last, position, matched, resent, state, detail,
     requested_at, ended_at";
const PRUNE: &str = "DELETE FROM replays WHERE id IN (
         SELECT id FROM replays WHERE ended_at IS NOT NULL AND ended_at < $1 ORDER BY ended_at LIMIT $2
     )";

/// The progress in a batch, turned on its side as in `columns`.
#[derive(Default)]
pub(super) struct Steps {
    id: Vec<i64>,
    from: Vec<Uuid>,
    to: Vec<Uuid>,
    matched: Vec<i64>,
    resent: Vec<i64>,
    with: Vec<Option<Uuid>>,
}

impl Steps {
    /// Before the deliveries of the same commit are stored. The position of one that is elsewhere, or has ended, becomes
    /// null, which refuses the whole commit.
    pub const SQL: &'static str = "UPDATE replays r SET
             matched = r.matched + CASE WHEN r.position = s.f AND r.state = 'running' THEN s.matched ELSE 0 END,
             resent = r.resent + CASE WHEN r.position = s.f AND r.state = 'running' THEN s.resent ELSE 0 END,
             position = CASE WHEN r.position = s.f AND r.state = 'running' THEN s.t
                 WHEN r.position = s.t AND EXISTS (SELECT FROM deliveries d WHERE d.id = s.w) THEN r.position END
         FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::uuid[])
             AS s (id, f, t, matched, resent, w) WHERE r.id = s.id";

    pub fn new(rows: &[Progress]) -> Self {
        Self {
            id: rows.iter().map(|row| row.id.0).collect(),
            from: rows.iter().map(|row| row.from.0).collect(),
            to: rows.iter().map(|row| row.to.0).collect(),
            matched: rows.iter().map(|row| row.matched.cast_signed()).collect(),
            resent: rows.iter().map(|row| row.resent.cast_signed()).collect(),
            with: rows.iter().map(|row| row.with.map(|with| with.0)).collect(),
        }
    }

    pub fn params(&self) -> Params<'_, 6> {
        [&self.id, &self.from, &self.to, &self.matched, &self.resent, &self.with]
    }
}

/// The deeds in a batch, likewise.
#[derive(Default)]
pub(super) struct Deeds<'a> {
    at: Vec<i64>,
    actor: Vec<String>,
    action: Vec<&'static str>,
    object: Vec<String>,
    tenant: Vec<Option<Cow<'a, str>>>,
    detail: Vec<Option<Cow<'a, str>>>,
    with: Vec<Uuid>,
}

impl<'a> Deeds<'a> {
    /// Before the deliveries of the same commit are stored: what came of it tells whether it was recorded.
    pub const SQL: &'static str = "INSERT INTO audit (at, actor, action, object, tenant, detail)
         SELECT at, actor, action, object, tenant, detail
         FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[])
             AS deed (at, actor, action, object, tenant, detail, w)
         WHERE NOT EXISTS (SELECT FROM deliveries d WHERE d.id = deed.w)";

    pub fn new(rows: &'a [Deed]) -> Self {
        Self {
            at: rows.iter().map(|row| row.at.0).collect(),
            actor: rows.iter().map(|row| row.act.by.to_string()).collect(),
            action: rows.iter().map(|row| row.act.action.as_str()).collect(),
            object: rows.iter().map(|row| row.object.to_string()).collect(),
            tenant: rows.iter().map(|row| row.tenant.as_deref().map(text)).collect(),
            detail: rows.iter().map(|row| row.act.detail.as_deref().map(text)).collect(),
            with: rows.iter().map(|row| row.with.0).collect(),
        }
    }

    pub fn params(&self) -> Params<'_, 7> {
        [&self.at, &self.actor, &self.action, &self.object, &self.tenant, &self.detail, &self.with]
    }
}

impl PostgresStore {
    /// Whoever asks for another of the same tenant waits, so that what is counted is what there is.
    pub(super) async fn insert_replay(&self, new: &NewReplay, most: u64, now: Timestamp) -> Result<Asked> {
        let mut client = self.pool.get().await.map_err(pool_error)?;
        let change = async {
            let transaction = client.transaction().await?;
            let asked = insert(&transaction, new, most, now).await?;
            transaction.commit().await?;
            Ok::<_, Error>(asked)
        };
        match timeout(READ_DEADLINE, change).await {
            Ok(Ok(Inserted::Made(row))) => replay(&row).map(Asked::Made),
            Ok(Ok(Inserted::Not(asked))) => Ok(asked),
            Ok(Err(error)) => Err(store_error(error)),
            Err(_) => {
                drop(Object::take(client));
                Err(too_slow("asking for a replay"))
            }
        }
    }

    pub(super) async fn read_replay(&self, id: ReplayId) -> Result<Option<Replay>> {
        let sql = format!("SELECT {REPLAY} FROM replays WHERE id = $1");
        self.rows(&sql, &[&id.0]).await?.first().map(replay).transpose()
    }

    pub(super) async fn list_replays(
        &self,
        id: SubscriptionId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Replay>> {
        let sql =
            format!("SELECT {REPLAY} FROM replays WHERE subscription_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
        let found = self.rows(&sql, &[&id.0, &before.unwrap_or(i64::MAX), &limit_of(limit)]).await?;
        found.iter().map(replay).collect()
    }

    pub(super) async fn list_running(&self, after: ReplayId, limit: usize) -> Result<Vec<ReplayId>> {
        const SQL: &str = "SELECT id FROM replays WHERE state = 'running' AND id > $1 ORDER BY id LIMIT $2";
        let found = self.rows(SQL, &[&after.0, &limit_of(limit)]).await?;
        found.iter().map(|row| get(row, "id").map(ReplayId)).collect()
    }

    pub(super) async fn write_progress(&self, progress: &Progress) -> Result<()> {
        self.rows(Steps::SQL, &Steps::new(std::slice::from_ref(progress)).params()).await.map(drop)
    }

    pub(super) async fn finish_replay(
        &self,
        id: ReplayId,
        state: ReplayState,
        detail: Option<&str>,
        act: Option<&Act>,
        now: Timestamp,
    ) -> Result<Option<Replay>> {
        let sql = format!(
            "WITH ended AS (
                 UPDATE replays SET state = $2, detail = $3, ended_at = $4 WHERE id = $1 AND state = 'running'
                 RETURNING {REPLAY}
             ), deed AS (
                 INSERT INTO audit (at, actor, action, object, tenant, detail)
                 SELECT $4, $5::text, $6::text, 'subscription/' || subscription_id, tenant, $7::text FROM ended
                 WHERE $5 IS NOT NULL
             )
             SELECT {REPLAY} FROM ended
             UNION ALL SELECT {REPLAY} FROM replays WHERE id = $1 AND NOT EXISTS (SELECT FROM ended)"
        );
        let (by, action) = (act.map(|act| act.by.to_string()), act.map(|act| act.action.as_str()));
        let of_act = act.and_then(|act| act.detail.as_deref()).map(text);
        let found =
            self.rows(&sql, &[&id.0, &state.as_str(), &detail.map(text), &now.0, &by, &action, &of_act]).await?;
        found.first().map(replay).transpose()
    }
}

enum Inserted {
    Made(Row),
    Not(Asked),
}

async fn insert(transaction: &Transaction<'_>, new: &NewReplay, most: u64, now: Timestamp) -> Result<Inserted, Error> {
    const SUBSCRIPTION: &str = "SELECT tenant FROM subscriptions WHERE id = $1 FOR SHARE";
    const TENANT: &str = "SELECT FROM tenants WHERE tenant = $1 FOR UPDATE";
    const RUNNING: &str = "SELECT id FROM replays WHERE subscription_id = $1 AND state = 'running'";
    const COUNT: &str = "SELECT count(*) FROM replays WHERE tenant = $1 AND state = 'running'";
    let of = new.subscription_id.0;
    let Some(row) = transaction.query_opt(SUBSCRIPTION, &[&of]).await? else {
        return Ok(Inserted::Not(Asked::Missing));
    };
    let tenant: String = row.get(0);
    transaction.query(TENANT, &[&tenant]).await?;
    if let Some(row) = transaction.query_opt(RUNNING, &[&of]).await? {
        return Ok(Inserted::Not(Asked::Running(ReplayId(row.get(0)))));
    }
    let running: i64 = transaction.query_one(COUNT, &[&tenant]).await?.get(0);
    if running.unsigned_abs() >= most {
        return Ok(Inserted::Not(Asked::TooMany));
    }
    let sql = format!(
        "INSERT INTO replays (subscription_id, tenant, states, first, last, position, requested_at)
         VALUES ($1, $2, $3, $4, least($5, greatest($6, (SELECT d.id FROM deliveries d ORDER BY d.id DESC LIMIT 1))), $4, $7)
         RETURNING {REPLAY}"
    );
    let states = states_text(&new.states);
    let params: Params<'_, 7> = [&of, &tenant, &states, &new.first.0, &new.last.0, &last_by(now).0, &now.0];
    let made = transaction.query_one(&sql, &params).await?;
    let (by, action) = (new.by.to_string(), Action::Replayed.as_str());
    let detail = new.detail(ReplayId(made.get("id")));
    transaction
        .execute(
            "INSERT INTO audit (at, actor, action, object, tenant, detail)
             VALUES ($1, $2, $3, 'subscription/' || $4::bigint, $5, $6)",
            &[&now.0, &by, &action, &of, &tenant, &detail],
        )
        .await?;
    Ok(Inserted::Made(made))
}

/// Deletes up to `limit` that ended before `cutoff`, the oldest first.
pub(super) async fn prune(client: &Client, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts, Error> {
    let rows_deleted = client.execute(PRUNE, &[&cutoff.0, &limit_of(limit)]).await?;
    Ok(JanitorCounts { rows_deleted, more: rows_deleted >= limit as u64, ..JanitorCounts::default() })
}

fn replay(row: &Row) -> Result<Replay> {
    let state: String = get(row, "state")?;
    Ok(Replay {
        id: ReplayId(get(row, "id")?),
        subscription_id: SubscriptionId(get(row, "subscription_id")?),
        tenant: get::<String>(row, "tenant")?.into(),
        states: states_from_text(&get::<String>(row, "states")?).map_err(StoreError::Corrupt)?,
        first: DeliveryId(get(row, "first")?),
        last: DeliveryId(get(row, "last")?),
        position: DeliveryId(get(row, "position")?),
        matched: get::<i64>(row, "matched")?.unsigned_abs(),
        resent: get::<i64>(row, "resent")?.unsigned_abs(),
        state: state.parse().map_err(StoreError::Corrupt)?,
        detail: get(row, "detail")?,
        requested_at: Timestamp(get(row, "requested_at")?),
        ended_at: get::<Option<i64>>(row, "ended_at")?.map(Timestamp),
    })
}
