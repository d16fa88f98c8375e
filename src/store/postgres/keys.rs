//! Idempotency keys: how a commit appends them, how they are looked up, and their end.

use std::borrow::Cow;
use std::sync::Arc;

use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use super::super::{IdempotencyKey, JanitorCounts, Result};
use super::PostgresStore;
use super::columns::{Params, text};
use super::rows::{corrupt, get};
use super::subscriptions::limit_of;
use crate::delivery::Timestamp;

/// By `ctid`, so that what the index found is not looked up a second time.
const PRUNE: &str = "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
         SELECT ctid FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2))";

/// The keys of a batch, turned on their side as in `columns`.
#[derive(Default)]
pub(super) struct Keys<'a> {
    scope: Vec<Cow<'a, str>>,
    key: Vec<Cow<'a, str>>,
    request_hash: Vec<&'a [u8]>,
    outcome: Vec<Uuid>,
    created_at: Vec<i64>,
}

impl<'a> Keys<'a> {
    pub const SQL: &'static str = "INSERT INTO idempotency_keys AS held (scope, key, request_hash, outcome, created_at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bigint[])";

    /// Passes over keys that this very batch holds, because a commit of it took effect. One that stands for something
    /// else must refuse the batch, within the pipelined transaction: it is made to break the column's `NOT NULL`.
    pub fn sql_again() -> String {
        format!(
            "{} ON CONFLICT (scope, key) DO UPDATE SET outcome = NULL WHERE held.outcome <> excluded.outcome",
            Self::SQL
        )
    }

    pub fn new(rows: &'a [IdempotencyKey]) -> Self {
        Self {
            scope: rows.iter().map(|row| text(&row.scope)).collect(),
            key: rows.iter().map(|row| text(&row.key)).collect(),
            request_hash: rows.iter().map(|row| row.request_hash.as_slice()).collect(),
            outcome: rows.iter().map(|row| row.outcome).collect(),
            created_at: rows.iter().map(|row| row.created_at.0).collect(),
        }
    }

    pub fn params(&self) -> Params<'_, 5> {
        [&self.scope, &self.key, &self.request_hash, &self.outcome, &self.created_at]
    }
}

impl PostgresStore {
    /// A look-up in the index for each that is asked for, however many the table holds and whatever its statistics say.
    pub(super) async fn read_keys(&self, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>> {
        const SQL: &str = "SELECT held.* FROM unnest($1::text[], $2::text[]) AS asked (scope, key) CROSS JOIN LATERAL (
                 SELECT * FROM idempotency_keys k WHERE k.scope = asked.scope AND k.key = asked.key LIMIT 1
             ) held";
        let scopes: Vec<_> = keys.iter().map(|(scope, _)| text(scope)).collect();
        let names: Vec<_> = keys.iter().map(|(_, key)| text(key)).collect();
        self.rows(SQL, &[&scopes, &names]).await?.iter().map(key).collect()
    }
}

/// Deletes up to `limit` that were accepted before `cutoff`, the oldest first.
pub(super) async fn prune(client: &Client, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts, Error> {
    let rows_deleted = client.execute(PRUNE, &[&cutoff.0, &limit_of(limit)]).await?;
    Ok(JanitorCounts { rows_deleted, more: rows_deleted >= limit as u64, ..JanitorCounts::default() })
}

fn key(row: &Row) -> Result<IdempotencyKey> {
    let hash: Vec<u8> = get(row, "request_hash")?;
    Ok(IdempotencyKey {
        scope: get::<String>(row, "scope")?.into(),
        key: get::<String>(row, "key")?.into(),
        request_hash: hash.try_into().map_err(|hash| corrupt("request_hash", &hash))?,
        outcome: get(row, "outcome")?,
        created_at: Timestamp(get(row, "created_at")?),
    })
}
