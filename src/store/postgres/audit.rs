//! The audit: read newest first, pruned by age. Written with the change that it tells of, where that is.

use std::str::FromStr;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};

use super::super::{JanitorCounts, Result, StoreError};
use super::PostgresStore;
use super::columns::text;
use super::rows::get;
use super::subscriptions::limit_of;
use crate::audit::{Act, AuditFilter, AuditRecord, Thing};
use crate::delivery::Timestamp;

/// By id, and so by time: what a clock set back has written stays with what surrounds it.
const PRUNE: &str = "DELETE FROM audit WHERE id IN (SELECT id FROM audit ORDER BY id LIMIT $2) AND at < $1";

impl PostgresStore {
    /// A deed that changes nothing in the store.
    pub(super) async fn write_audit(
        &self,
        act: &Act,
        object: &Thing,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> Result<()> {
        const SQL: &str =
            "INSERT INTO audit (at, actor, action, object, tenant, detail) VALUES ($1, $2, $3, $4, $5, $6)";
        let (actor, action, object) = (act.by.to_string(), act.action.as_str(), object.to_string());
        let (tenant, detail) = (tenant.map(text), act.detail.as_deref().map(text));
        self.rows(SQL, &[&now.0, &actor, &action, &object, &tenant, &detail]).await.map(drop)
    }

    /// With a condition for each part of the filter, so that an index leads to the rows.
    pub(super) async fn read_audit(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>> {
        let conditions = filter.conditions();
        let wanted: String =
            conditions.iter().enumerate().map(|(i, (column, _))| format!(" AND {column} = ${}", i + 3)).collect();
        let sql = format!("SELECT * FROM audit WHERE id < $1{wanted} ORDER BY id DESC LIMIT $2");
        let (before, limit) = (before.unwrap_or(i64::MAX), limit_of(limit));
        let values: Vec<_> = conditions.iter().map(|(_, value)| text(value)).collect();
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&before, &limit];
        params.extend(values.iter().map(|value| value as &(dyn ToSql + Sync)));
        self.rows(&sql, &params).await?.iter().map(record).collect()
    }
}

/// Deletes up to `limit` that were made before `cutoff`, the oldest first.
pub(super) async fn prune(client: &Client, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts, Error> {
    let rows_deleted = client.execute(PRUNE, &[&cutoff.0, &limit_of(limit)]).await?;
    Ok(JanitorCounts { rows_deleted, more: rows_deleted >= limit as u64, ..JanitorCounts::default() })
}

fn record(row: &Row) -> Result<AuditRecord> {
    Ok(AuditRecord {
        id: get(row, "id")?,
        at: Timestamp(get(row, "at")?),
        act: Act { by: parsed(row, "actor")?, action: parsed(row, "action")?, detail: get(row, "detail")? },
        object: parsed(row, "object")?,
        tenant: get::<Option<String>>(row, "tenant")?.map(Into::into),
    })
}

fn parsed<T: FromStr<Err = String>>(row: &Row, column: &str) -> Result<T> {
    get::<String>(row, column)?.parse().map_err(StoreError::Corrupt)
}
