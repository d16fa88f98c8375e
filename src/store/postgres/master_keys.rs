//! Which master keys secrets are sealed under, and their replacement by others.

use super::super::{MasterKeyRecord, Reseal, Result, StoreError, secrets};
use super::connection::MAINTENANCE_DEADLINE;
use super::rows::{self, SUBSCRIPTION};
use super::subscriptions::limit_of;
use super::{PostgresStore, within};
use crate::delivery::{Sealed, Subscription, SubscriptionId};

/// Whether anything is sealed under the master key that goes by the expression.
macro_rules! sealed_under {
    ($id:literal) => {
        concat!(
            "EXISTS (SELECT FROM subscriptions WHERE strpos(secrets, CASE ",
            $id,
            " WHEN 'plain' THEN '\"plain:' ELSE '\"sealed:' || ",
            $id,
            " || ':' END) > 0)"
        )
    };
}

impl PostgresStore {
    pub(super) async fn next_subscription_id(&self) -> Result<SubscriptionId> {
        let found = self.rows("SELECT nextval(pg_get_serial_sequence('subscriptions', 'id')) AS id", &[]).await?;
        let row = found.first().ok_or_else(|| StoreError::Corrupt("subscriptions has no sequence".to_owned()))?;
        rows::get(row, "id").map(SubscriptionId)
    }

    pub(super) async fn list_with_secrets(&self, after: Option<i64>, limit: usize) -> Result<Vec<Subscription>> {
        let sql = format!(
            "SELECT {SUBSCRIPTION} FROM subscriptions WHERE id > $1 AND secrets IS NOT NULL ORDER BY id LIMIT $2"
        );
        let found = self.rows(&sql, &[&after.unwrap_or(i64::MIN), &limit_of(limit)]).await?;
        found.iter().map(rows::subscription).collect()
    }

    /// One statement, so one transaction.
    pub(super) async fn replace_secrets(&self, changes: &[Reseal]) -> Result<Vec<Subscription>> {
        let sql = format!(
            "WITH changed AS (
                 UPDATE subscriptions s SET secrets = new.secrets, version = s.version + 1
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS new (id, version, secrets)
                 WHERE s.id = new.id AND s.version = new.version RETURNING s.*
             ) SELECT {SUBSCRIPTION} FROM changed"
        );
        let ids: Vec<_> = changes.iter().map(|change| change.id.0).collect();
        let versions: Vec<_> = changes.iter().map(|change| change.version).collect();
        let texts: Vec<_> = changes.iter().map(|change| secrets::to_text(&change.secrets)).collect();
        self.rows(&sql, &[&ids, &versions, &texts]).await?.iter().map(rows::subscription).collect()
    }

    pub(super) async fn read_master_keys(&self) -> Result<Vec<MasterKeyRecord>> {
        let found = self.rows("SELECT id, proof FROM master_keys ORDER BY id", &[]).await?;
        let record =
            |row| Ok(MasterKeyRecord { id: rows::get(row, "id")?, proof: Sealed::of(rows::get(row, "proof")?) });
        found.iter().map(record).collect()
    }

    pub(super) async fn insert_master_key(&self, record: &MasterKeyRecord) -> Result<()> {
        const SQL: &str = "INSERT INTO master_keys (id, proof) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.rows(SQL, &[&record.id, &record.proof.as_str()]).await.map(drop)
    }

    pub(super) async fn find_sealed_under(&self, key: &str) -> Result<bool> {
        const SQL: &str = concat!("SELECT ", sealed_under!("$1::text"), " AS found");
        // Looks at every subscription, as below.
        let session = self.maintenance().await?;
        let query = async { session.client.query_one(SQL, &[&key]).await };
        rows::get(&within(MAINTENANCE_DEADLINE, "looking for what is sealed", query).await?, "found")
    }

    pub(super) async fn delete_master_keys(&self, keep: &str) -> Result<Vec<String>> {
        const SQL: &str =
            concat!("DELETE FROM master_keys k WHERE id <> $1 AND NOT ", sealed_under!("k.id"), " RETURNING id");
        // Looks at every subscription, which may take longer than a query of the pool may.
        let session = self.maintenance().await?;
        let deletion = async { session.client.query(SQL, &[&keep]).await };
        let deleted = within(MAINTENANCE_DEADLINE, "forgetting master keys", deletion).await?;
        deleted.iter().map(|row| rows::get(row, "id")).collect()
    }
}
