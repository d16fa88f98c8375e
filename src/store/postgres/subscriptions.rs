//! Subscriptions: single statements on the pool. A trigger keeps their patterns in the same transaction, for look-ups.

use tokio_postgres::types::ToSql;

use super::super::ids::last_by;
use super::super::{NewSubscription, Result, SubscriptionChange, Update, secrets, settings};
use super::PostgresStore;
use super::columns::text;
use super::rows::{self, SUBSCRIPTION};
use crate::access::Actor;
use crate::audit::Action;
use crate::delivery::{EventTypePattern, Subscription, SubscriptionId, Timestamp, matching_patterns};

impl PostgresStore {
    /// Counts it first: the tenant's row is locked until the commit, so that no two take the last place.
    pub(super) async fn insert_subscription(
        &self,
        new: NewSubscription,
        quota: u64,
        now: Timestamp,
    ) -> Result<Option<Subscription>> {
        let sql = format!(
            "WITH counted AS (
                 INSERT INTO tenants AS t (tenant, subscriptions) SELECT $1::text, 1 WHERE $8::bigint > 0
                 ON CONFLICT (tenant) DO UPDATE SET subscriptions = t.subscriptions + 1 WHERE t.subscriptions < $8
                 RETURNING tenant
             ), audited AS (
                 INSERT INTO audit (at, actor, action, object, tenant)
                 SELECT $5::bigint, $9::text, $10::text, 'subscription/' || $7::bigint, tenant FROM counted
             )
             INSERT INTO subscriptions (id, tenant, target_url, event_types, secrets, version, created_at, updated_at,
                 settings) OVERRIDING SYSTEM VALUE
             SELECT $7::bigint, tenant, $2::text, $3::text[], $4::text, 1, $5::bigint, $5, $6::text FROM counted
             RETURNING {SUBSCRIPTION}"
        );
        let secrets = new.secrets.as_ref().map(secrets::to_text);
        let (tenant, target_url, event_types) = (text(&new.tenant), text(&new.target_url), patterns(&new.event_types));
        let settings = settings::to_text(&new.settings);
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        let (by, action) = (new.by.to_string(), Action::Created.as_str());
        let params: [&(dyn ToSql + Sync); 10] =
            [&tenant, &target_url, &event_types, &secrets, &now.0, &settings, &new.id.0, &quota, &by, &action];
        self.rows(&sql, &params).await?.first().map(rows::subscription).transpose()
    }

    pub(super) async fn read_subscription(&self, id: SubscriptionId) -> Result<Option<Subscription>> {
        let sql = format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE id = $1");
        self.rows(&sql, &[&id.0]).await?.first().map(rows::subscription).transpose()
    }

    pub(super) async fn list_subscriptions(
        &self,
        tenant: Option<&str>,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Subscription>> {
        let (after, limit, tenant) = (after.unwrap_or(i64::MIN), limit_of(limit), tenant.map(text));
        let page = |which| format!("SELECT {SUBSCRIPTION} FROM subscriptions WHERE {which} ORDER BY id LIMIT $2");
        let found = match &tenant {
            None => self.rows(&page("id > $1"), &[&after, &limit]).await?,
            Some(tenant) => self.rows(&page("id > $1 AND tenant = $3"), &[&after, &limit, tenant]).await?,
        };
        found.iter().map(rows::subscription).collect()
    }

    /// One statement, so one transaction: what was there is read under the lock that the change takes.
    ///
    /// Whoever is enabled starts afresh: failures of before say nothing, and would disable it again at the next one.
    ///
    /// The retries that a commit has in its hands are left to it, for it may wait for one that was locked here: what it
    /// writes is later than what could be changed here, and a retry that is left as it is ends at its own time.
    pub(super) async fn change_subscription(
        &self,
        id: SubscriptionId,
        change: SubscriptionChange,
        now: Timestamp,
    ) -> Result<Update> {
        let sql = format!(
            "WITH before AS (
                 SELECT id, version, disabled AS was FROM subscriptions WHERE id = $1 FOR UPDATE
             ), changed AS (
                 UPDATE subscriptions s SET target_url = coalesce($2, s.target_url),
                     event_types = coalesce($3, s.event_types), secrets = CASE WHEN $4 THEN $5 ELSE s.secrets END,
                     disabled = CASE WHEN $6 THEN $7 ELSE s.disabled END, version = s.version + 1, updated_at = $8,
                     settings = coalesce($9, s.settings), drop_through = CASE WHEN $10 THEN
                         greatest($11::uuid, (SELECT id FROM deliveries ORDER BY id DESC LIMIT 1)) ELSE s.drop_through END,
                     failing_since = CASE WHEN $6 AND $7 IS NULL AND s.disabled IS NOT NULL THEN NULL
                         ELSE s.failing_since END
                 FROM before WHERE s.id = before.id AND before.version = coalesce($12::bigint, before.version)
                 RETURNING s.*, before.was
             ), recorded AS (
                 INSERT INTO state_changes (subscription_id, at, tenant, disabled, detail)
                 SELECT id, $8, tenant, disabled, $13::text FROM changed WHERE disabled IS DISTINCT FROM was
             ), audited AS (
                 INSERT INTO audit (at, actor, action, object, tenant, detail)
                 SELECT $8, $14::text, $15::text, 'subscription/' || id, tenant, $16::text FROM changed
                 WHERE $14 IS NOT NULL
             ), waiting AS (
                 SELECT delivery_id FROM retries WHERE $10 AND subscription_id = $1 AND next_attempt_at > $8
                     AND EXISTS (SELECT FROM changed)
                 FOR UPDATE SKIP LOCKED
             ), due AS (
                 UPDATE retries r SET next_attempt_at = $8 FROM waiting WHERE r.delivery_id = waiting.delivery_id
             )
             SELECT EXISTS (SELECT FROM changed) AS done, {SUBSCRIPTION}
             FROM (SELECT true FROM before) found LEFT JOIN changed ON true"
        );
        let target_url = change.target_url.as_deref().map(text);
        let event_types = change.event_types.as_deref().map(patterns);
        let (set_secrets, set_disabled) = (change.secrets.is_some(), change.disabled.is_some());
        let secrets = change.secrets.flatten().as_ref().map(secrets::to_text);
        let disabled = change.disabled.flatten().map(|reason| reason.as_str());
        let settings = change.settings.as_ref().map(settings::to_text);
        let detail = change.detail.as_deref().map(text);
        let act = change.act.as_ref();
        let (by, action) = (act.map(|act| act.by.to_string()), act.map(|act| act.action.as_str()));
        let of_act = act.and_then(|act| act.detail.as_deref()).map(text);
        let params: [&(dyn ToSql + Sync); 16] = [
            &id.0,
            &target_url,
            &event_types,
            &set_secrets,
            &secrets,
            &set_disabled,
            &disabled,
            &now.0,
            &settings,
            &change.drop_backlog,
            &last_by(now).0,
            &change.only_version,
            &detail,
            &by,
            &action,
            &of_act,
        ];
        let found = self.rows(&sql, &params).await?;
        let Some(row) = found.first() else { return Ok(Update::Missing) };
        if rows::get(row, "done")? { rows::subscription(row).map(Update::Done) } else { Ok(Update::Overtaken) }
    }

    /// No new version: what is saved is advice.
    pub(super) async fn write_failing(&self, id: SubscriptionId, since: Option<Timestamp>) -> Result<()> {
        const SQL: &str = "UPDATE subscriptions SET failing_since = $2 WHERE id = $1";
        self.rows(SQL, &[&id.0, &since.map(|at| at.0)]).await.map(drop)
    }

    /// One statement, so one transaction. Leaves its tenant behind, for its deliveries.
    pub(super) async fn remove_subscription(&self, id: SubscriptionId, by: &Actor, now: Timestamp) -> Result<bool> {
        const SQL: &str = "WITH gone AS (DELETE FROM subscriptions WHERE id = $1 RETURNING id, tenant),
             r AS (DELETE FROM retries WHERE subscription_id = $1),
             p AS (DELETE FROM positions WHERE subscription_id = $1),
             c AS (DELETE FROM state_changes WHERE subscription_id = $1),
             j AS (UPDATE replays SET state = 'cancelled', detail = 'the subscription was deleted', ended_at = $2
                 WHERE subscription_id = $1 AND state = 'running'),
             t AS (UPDATE tenants SET subscriptions = greatest(0, subscriptions - 1) FROM gone WHERE tenants.tenant = gone.tenant),
             d AS (INSERT INTO deleted_subscriptions (id, tenant, deleted_at) SELECT id, tenant, $2 FROM gone),
             a AS (INSERT INTO audit (at, actor, action, object, tenant)
                 SELECT $2, $3::text, $4::text, 'subscription/' || id, tenant FROM gone)
             SELECT id FROM gone";
        let (by, action) = (by.to_string(), Action::Deleted.as_str());
        Ok(!self.rows(SQL, &[&id.0, &now.0, &by, &action]).await?.is_empty())
    }

    /// A scan of the patterns that match: their table holds the enabled subscriptions and no others. Sorted here, because
    /// the server would read everybody's patterns, in the order of subscriptions, to be spared the sort.
    pub(super) async fn read_matching(&self, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>> {
        const SQL: &str = "SELECT subscription_id FROM subscription_patterns WHERE tenant = $1 AND pattern = ANY($2)";
        let patterns = matching_patterns(&text(event_type));
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
