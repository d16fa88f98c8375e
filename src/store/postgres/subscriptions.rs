//! Subscriptions: single statements on the pool. A trigger keeps their patterns in the same transaction, for look-ups.

use secrecy::ExposeSecret;

use super::super::{NewSubscription, Result, SubscriptionChange};
use super::PostgresStore;
use super::columns::text;
use super::rows::{self, SUBSCRIPTION};
use crate::delivery::{EventTypePattern, Subscription, SubscriptionId, Timestamp, matching_patterns};

/// What `subscription_patterns` holds of a subscription that wants everything.
const NO_PATTERNS: &str = "";

impl PostgresStore {
    pub(super) async fn insert_subscription(&self, new: NewSubscription, now: Timestamp) -> Result<Subscription> {
        let sql = format!(
            "INSERT INTO subscriptions (tenant, target_url, event_types, secret, version, created_at, updated_at)
             VALUES ($1, $2, $3, $4, 1, $5, $5) RETURNING {SUBSCRIPTION}"
        );
        let secret = new.secret.as_ref().map(|secret| text(secret.expose_secret()));
        let (tenant, target_url, event_types) = (text(&new.tenant), text(&new.target_url), patterns(&new.event_types));
        let row = self.rows(&sql, &[&tenant, &target_url, &event_types, &secret, &now.0]).await?;
        // An insert that succeeded returns its row.
        rows::subscription(&row[0])
    }

    pub(super) async fn read_subscription(&self, id: SubscriptionId) -> Result<Option<Subscription>> {
        let sql = format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE id = $1");
        self.rows(&sql, &[&id.0]).await?.first().map(rows::subscription).transpose()
    }

    pub(super) async fn list_subscriptions(&self, after: Option<i64>, limit: usize) -> Result<Vec<Subscription>> {
        let sql = format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE id > $1 ORDER BY id LIMIT $2");
        let found = self.rows(&sql, &[&after.unwrap_or(i64::MIN), &limit_of(limit)]).await?;
        found.iter().map(rows::subscription).collect()
    }

    pub(super) async fn change_subscription(
        &self,
        id: SubscriptionId,
        change: SubscriptionChange,
        now: Timestamp,
    ) -> Result<Option<Subscription>> {
        let sql = format!(
            "UPDATE subscriptions SET target_url = coalesce($2, target_url), event_types = coalesce($3, event_types),
                 secret = CASE WHEN $4 THEN $5 ELSE secret END, disabled = CASE WHEN $6 THEN $7 ELSE disabled END,
                 version = version + 1, updated_at = $8
             WHERE id = $1 RETURNING {SUBSCRIPTION}"
        );
        let target_url = change.target_url.as_deref().map(text);
        let event_types = change.event_types.as_deref().map(patterns);
        let (set_secret, set_disabled) = (change.secret.is_some(), change.disabled.is_some());
        let secret = change.secret.flatten();
        let secret = secret.as_ref().map(|secret| text(secret.expose_secret()));
        let disabled = change.disabled.flatten().map(|reason| reason.as_str());
        let found = self
            .rows(&sql, &[&id.0, &target_url, &event_types, &set_secret, &secret, &set_disabled, &disabled, &now.0])
            .await?;
        found.first().map(rows::subscription).transpose()
    }

    /// One statement, so one transaction.
    pub(super) async fn remove_subscription(&self, id: SubscriptionId) -> Result<bool> {
        const SQL: &str = "WITH r AS (DELETE FROM retries WHERE subscription_id = $1),
             p AS (DELETE FROM positions WHERE subscription_id = $1)
             DELETE FROM subscriptions WHERE id = $1 RETURNING id";
        Ok(!self.rows(SQL, &[&id.0]).await?.is_empty())
    }

    /// A scan of the patterns that match: their table holds the enabled subscriptions and no others. Sorted here, because
    /// the server would read everybody's patterns, in the order of subscriptions, to be spared the sort.
    pub(super) async fn read_matching(&self, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>> {
        const SQL: &str = "SELECT subscription_id FROM subscription_patterns WHERE tenant = $1 AND pattern = ANY($2)";
        let mut patterns = matching_patterns(&text(event_type));
        patterns.push(NO_PATTERNS.to_owned());
        let found = self.rows(SQL, &[&text(tenant), &patterns]).await?;
        let mut ids: Vec<_> =
            found.iter().map(|row| rows::get(row, "subscription_id").map(SubscriptionId)).collect::<Result<_>>()?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    pub(super) async fn versions(&self, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let found = self.rows("SELECT id, version FROM subscriptions WHERE id = ANY($1)", &[&ids]).await?;
        found.iter().map(|row| Ok((SubscriptionId(rows::get(row, "id")?), rows::get(row, "version")?))).collect()
    }
}

fn patterns(patterns: &[EventTypePattern]) -> Vec<&str> {
    patterns.iter().map(EventTypePattern::as_str).collect()
}

/// A limit as SQL takes it.
pub(super) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
