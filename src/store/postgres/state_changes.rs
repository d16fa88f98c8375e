//! When a subscription was enabled or disabled: shown, and announced once. Written with the change, in `subscriptions`.

use tokio_postgres::Row;

use super::super::Result;
use super::PostgresStore;
use super::rows::{self, get};
use super::subscriptions::limit_of;
use crate::delivery::{StateChange, SubscriptionId, Timestamp};

impl PostgresStore {
    pub(super) async fn read_state_changes(
        &self,
        id: SubscriptionId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StateChange>> {
        const SQL: &str = "SELECT * FROM state_changes WHERE subscription_id = $1 AND id < $2
             ORDER BY subscription_id DESC, id DESC LIMIT $3";
        let found = self.rows(SQL, &[&id.0, &before.unwrap_or(i64::MAX), &limit_of(limit)]).await?;
        found.iter().map(state_change).collect()
    }

    pub(super) async fn read_unannounced(&self, limit: usize) -> Result<Vec<StateChange>> {
        const SQL: &str = "SELECT * FROM state_changes WHERE NOT announced ORDER BY id LIMIT $1";
        self.rows(SQL, &[&limit_of(limit)]).await?.iter().map(state_change).collect()
    }

    pub(super) async fn write_announced(&self, ids: &[i64]) -> Result<()> {
        const SQL: &str = "UPDATE state_changes SET announced = true WHERE id = ANY($1)";
        self.rows(SQL, &[&ids]).await.map(drop)
    }
}

fn state_change(row: &Row) -> Result<StateChange> {
    Ok(StateChange {
        id: get(row, "id")?,
        subscription_id: SubscriptionId(get(row, "subscription_id")?),
        tenant: get::<String>(row, "tenant")?.into(),
        at: Timestamp(get(row, "at")?),
        disabled: rows::disabled(row)?,
        detail: get(row, "detail")?,
    })
}
