//! API keys: each change takes the next revision first and holds it until its commit.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row};

use super::super::{JanitorCounts, Result, StoreError};
use super::PostgresStore;
use super::columns::text;
use super::rows::{corrupt, get, shared};
use super::subscriptions::limit_of;
use crate::access::{Actor, ApiKey, KeyHash, NewApiKey, Prefix};
use crate::audit::Action;
use crate::delivery::Timestamp;

const NEXT: &str = "next AS (UPDATE key_revision SET revision = revision + 1 RETURNING revision)";

const PRUNE: &str = "DELETE FROM api_keys WHERE prefix = ANY(ARRAY(
         SELECT prefix FROM api_keys WHERE coalesce(revoked_at, expires_at) < $1
         ORDER BY coalesce(revoked_at, expires_at) LIMIT $2))";

impl PostgresStore {
    pub(super) async fn insert_api_key(
        &self,
        new: NewApiKey,
        most: u64,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<ApiKey>> {
        let sql = format!(
            "WITH {NEXT}, made AS (
             INSERT INTO api_keys (prefix, revision, created_at, expires_at, role, tenant, name, secret_hash)
             SELECT $1::text, revision, $2::bigint, $3::bigint, $4::text, $5::text, $6::text, $7::bytea FROM next
             WHERE (SELECT count(*) FROM api_keys
                    WHERE revoked_at IS NULL AND coalesce(expires_at > $2, true)) < $8::bigint
             RETURNING *
             ), audited AS (
                 INSERT INTO audit (at, actor, action, object, tenant, detail)
                 SELECT $2, $9::text, $10::text, 'key/' || prefix, tenant, $11::text FROM made
             )
             SELECT * FROM made"
        );
        let act = new.created(by.clone());
        let NewApiKey { prefix, name, role, tenant, hash, expires_at } = &new;
        let (tenant, name) = (tenant.as_deref().map(text), text(name));
        let (expires_at, hash, most) = (expires_at.map(|at| at.0), &hash.as_bytes()[..], limit(most));
        let (by, action, detail) = (act.by.to_string(), act.action.as_str(), act.detail.as_deref().map(text));
        let (prefix, role) = (prefix.as_str(), role.as_str());
        let params: [&(dyn ToSql + Sync); 11] =
            [&prefix, &now.0, &expires_at, &role, &tenant, &name, &hash, &most, &by, &action, &detail];
        let found = self.change_key(&sql, &params).await?;
        found.first().map(api_key).transpose()
    }

    pub(super) async fn read_api_key(&self, prefix: Prefix) -> Result<Option<ApiKey>> {
        const SQL: &str = "SELECT * FROM api_keys WHERE prefix = $1";
        self.key_rows(SQL, &[&prefix.as_str()]).await?.first().map(api_key).transpose()
    }

    pub(super) async fn list_api_keys(&self, after: Option<Prefix>, limit: usize) -> Result<Vec<ApiKey>> {
        const SQL: &str = "SELECT * FROM api_keys WHERE prefix > $1 ORDER BY prefix LIMIT $2";
        let after = after.as_ref().map_or("", Prefix::as_str);
        self.rows(SQL, &[&after, &limit_of(limit)]).await?.iter().map(api_key).collect()
    }

    pub(super) async fn read_changed_api_keys(&self, revision: i64, limit: usize) -> Result<Vec<ApiKey>> {
        const SQL: &str = "SELECT * FROM api_keys WHERE revision > $1 ORDER BY revision LIMIT $2";
        self.key_rows(SQL, &[&revision, &limit_of(limit)]).await?.iter().map(api_key).collect()
    }

    pub(super) async fn read_key_revision(&self) -> Result<i64> {
        let found = self.key_rows("SELECT revision FROM key_revision", &[]).await?;
        get(found.first().ok_or_else(|| StoreError::Corrupt("key_revision is empty".to_owned()))?, "revision")
    }

    pub(super) async fn end_api_key(&self, prefix: Prefix, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>> {
        let sql = format!(
            "WITH {NEXT}, audited AS (
                 INSERT INTO audit (at, actor, action, object, tenant)
                 SELECT $2, $3::text, $4::text, 'key/' || prefix, tenant FROM api_keys
                 WHERE prefix = $1 AND revoked_at IS NULL
             )
             UPDATE api_keys k SET revoked_at = coalesce(k.revoked_at, $2), revision = next.revision FROM next
             WHERE k.prefix = $1 RETURNING k.*"
        );
        let (by, action) = (by.to_string(), Action::KeyRevoked.as_str());
        self.change_key(&sql, &[&prefix.as_str(), &now.0, &by, &action]).await?.first().map(api_key).transpose()
    }
}

/// Deletes up to `limit` that ended before `cutoff`, the oldest first.
pub(super) async fn prune(client: &Client, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts, Error> {
    let rows_deleted = client.execute(PRUNE, &[&cutoff.0, &limit_of(limit)]).await?;
    Ok(JanitorCounts { rows_deleted, more: rows_deleted >= limit as u64, ..JanitorCounts::default() })
}

/// A limit as SQL takes it.
pub(super) fn limit(most: u64) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

fn api_key(row: &Row) -> Result<ApiKey> {
    let hash: Vec<u8> = get(row, "secret_hash")?;
    Ok(ApiKey {
        prefix: get::<String>(row, "prefix")?.parse().map_err(StoreError::Corrupt)?,
        name: get(row, "name")?,
        role: get::<String>(row, "role")?.parse().map_err(StoreError::Corrupt)?,
        tenant: shared(get(row, "tenant")?),
        hash: KeyHash::from_bytes(hash.try_into().map_err(|_| corrupt("secret_hash", &"of another length"))?),
        created_at: Timestamp(get(row, "created_at")?),
        expires_at: get::<Option<i64>>(row, "expires_at")?.map(Timestamp),
        revoked_at: get::<Option<i64>>(row, "revoked_at")?.map(Timestamp),
        revision: get(row, "revision")?,
    })
}
