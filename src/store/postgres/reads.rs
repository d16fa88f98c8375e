//! What actors and pages read. Every query is on an index and bounded.
//!
//! Two habits here make plans independent of statistics, which a partition that is an hour old does not have: ordering
//! by `(subscription_id, id)` as a row, which only the index on both can give; and "has no log" as a scalar
//! subquery, which is answered by the index row by row and never by reading a whole partition of logs. The payload
//! of a delivery's event is looked up in the same way.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::super::{BacklogPage, DeliveryRecord, MAX_RESENDS, Pending, Result, RetriesWaiting};
use super::PostgresStore;
use super::rows::{self, ATTEMPT, DELIVERY, ITS_EVENT, RETRY, get};
use super::subscriptions::limit_of;
use crate::delivery::{AttemptLog, Delivery, DeliveryId, EventId, Retry, SubscriptionId, Timestamp};

/// How far a log's id may be behind the id of its delivery: the clocks of two nodes may differ. Attempts come after the
/// acceptance, so that logs are only looked for from here on.
const CLOCK_SKEW: Duration = Duration::from_hours(1);

/// The lowest id that a log of a delivery with an id above this one can have.
pub(super) fn log_floor(id: DeliveryId) -> Uuid {
    DeliveryId::floor_at(id.accepted_at() - CLOCK_SKEW).0
}

impl PostgresStore {
    pub(super) async fn which_are_stored(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
        const SQL: &str = "SELECT id FROM deliveries WHERE id = ANY($1)";
        let found = self.ids_in(SQL, ids.iter().map(|id| id.0).collect()).await?;
        Ok(ids.iter().copied().filter(|id| found.contains(&id.0)).collect())
    }

    pub(super) async fn ids_in(&self, sql: &str, asked: Vec<Uuid>) -> Result<HashSet<Uuid>> {
        self.rows(sql, &[&asked]).await?.iter().map(|row| get(row, "id")).collect()
    }

    pub(super) async fn read_pending(&self, id: SubscriptionId, retry_limit: usize) -> Result<Pending> {
        let found = self.rows("SELECT position FROM positions WHERE subscription_id = $1", &[&id.0]).await?;
        let position = found.first().map(|row| get(row, "position").map(DeliveryId)).transpose()?;
        Ok(Pending { position, retries: self.read_retries(id, retry_limit).await? })
    }

    /// One row more than asked for tells whether there is more. Payloads are read only of the rows that are returned, and
    /// counted before they are read.
    pub(super) async fn read_backlog(
        &self,
        id: SubscriptionId,
        after: DeliveryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<BacklogPage> {
        let sql = format!(
            "SELECT id, event_type, payload, event_id, ordering_key, trace, resend_of, found FROM (
                 SELECT *, row_number() OVER page AS place, sum(octet_length(payload)) OVER page AS bytes,
                     count(*) OVER () AS found
                 FROM (
                     SELECT {DELIVERY} FROM deliveries d {ITS_EVENT}
                     WHERE (d.subscription_id, d.id) > ($1, $2) AND (d.subscription_id, d.id) <= ($1, $6)
                         AND d.id > $2
                         AND (SELECT true FROM delivery_logs l WHERE l.delivery_id = d.id AND l.id >= $5 LIMIT 1) IS NULL
                     ORDER BY d.subscription_id, d.id LIMIT $3::bigint + 1
                 ) untried WINDOW page AS (ORDER BY id)
             ) sized WHERE place <= $3 AND (place = 1 OR bytes <= $4::bigint) ORDER BY id"
        );
        let (floor, last) = (log_floor(after), Uuid::max());
        let found =
            self.rows(&sql, &[&id.0, &after.0, &limit_of(limit.max(1)), &limit_of(max_bytes), &floor, &last]).await?;
        let untried: i64 = found.first().map_or(Ok(0), |row| get(row, "found"))?;
        let deliveries = found.iter().map(|row| rows::delivery(row, id)).collect::<Result<Vec<_>>>()?;
        Ok(BacklogPage { complete: limit_of(deliveries.len()) == untried, deliveries })
    }

    pub(super) async fn read_retries(&self, id: SubscriptionId, limit: usize) -> Result<Vec<Retry>> {
        let sql = format!(
            "SELECT {RETRY} FROM retries r WHERE r.subscription_id = $1
             ORDER BY r.subscription_id, r.next_attempt_at, r.delivery_id LIMIT $2"
        );
        self.rows(&sql, &[&id.0, &limit_of(limit)]).await?.iter().map(rows::retry).collect()
    }

    pub(super) async fn read_unfinished(&self, ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
        let Some(first) = ids.iter().min() else { return Ok(vec![]) };
        let sql = format!(
            "SELECT d.subscription_id, {DELIVERY} FROM deliveries d {ITS_EVENT} WHERE d.id = ANY($1)
                 AND ((SELECT true FROM retries r WHERE r.delivery_id = d.id LIMIT 1)
                     OR (SELECT true FROM delivery_logs l WHERE l.delivery_id = d.id AND l.id >= $2 LIMIT 1) IS NULL)"
        );
        let asked: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let found = self.rows(&sql, &[&asked, &log_floor(*first)]).await?;
        found.iter().map(|row| rows::delivery(row, SubscriptionId(get(row, "subscription_id")?))).collect()
    }

    /// Counts what is above the cursor and takes off what of it was tried, instead of asking for each whether it was: a
    /// million are counted in their index alone. Logs are looked for above the first delivery that is counted. Later ids are
    /// given after it, unless by a node whose clock is slow; the count is then a little too high, which does no harm to what
    /// is a limit.
    pub(super) async fn count_backlog(&self, id: SubscriptionId, after: DeliveryId, cap: u64) -> Result<u64> {
        const SQL: &str = "WITH first AS MATERIALIZED (
                 SELECT d.id FROM deliveries d
                 WHERE (d.subscription_id, d.id) > ($1, $2) AND (d.subscription_id, d.id) <= ($1, $3) AND d.id > $2
                 ORDER BY d.subscription_id, d.id LIMIT 1
             ), tried AS MATERIALIZED (
                 SELECT count(DISTINCT l.delivery_id) AS n FROM delivery_logs l
                 WHERE (l.subscription_id, l.id) > ($1, (SELECT id FROM first))
                     AND (l.subscription_id, l.id) <= ($1, $3) AND l.id > (SELECT id FROM first)
                     AND l.delivery_id >= (SELECT id FROM first)
             ), above AS MATERIALIZED (
                 SELECT count(*) AS n FROM (
                     SELECT FROM deliveries d
                     WHERE (d.subscription_id, d.id) > ($1, $2) AND (d.subscription_id, d.id) <= ($1, $3) AND d.id > $2
                     LIMIT $4::bigint + (SELECT n FROM tried)
                 ) counted
             )
             SELECT (SELECT n FROM above) - (SELECT n FROM tried) + (
                 SELECT count(*) FROM (SELECT FROM retries r WHERE r.subscription_id = $1 LIMIT $4) counted
             ) AS n";
        // Far from the end of what a bigint holds, so that two of them can be added.
        let most = i64::try_from(cap).unwrap_or(i64::MAX).min(i64::MAX / 4);
        let found = self.rows(SQL, &[&id.0, &after.0, &Uuid::max(), &most]).await?;
        let count: i64 = found.first().map_or(Ok(0), |row| get(row, "n"))?;
        Ok(count.max(0).unsigned_abs().min(cap))
    }

    /// Subscriptions are looked up in the order of their retries, until there are enough that are enabled.
    pub(super) async fn read_due(&self, before: Timestamp, limit: usize) -> Result<Vec<SubscriptionId>> {
        const SQL: &str = "SELECT subscription_id FROM (
                 SELECT subscription_id, min(next_attempt_at) AS first FROM retries WHERE next_attempt_at < $1
                 GROUP BY subscription_id ORDER BY first, subscription_id OFFSET 0
             ) due WHERE (SELECT true FROM subscriptions s WHERE s.id = due.subscription_id AND s.disabled IS NULL)
             ORDER BY first, subscription_id LIMIT $2";
        let found = self.rows(SQL, &[&before.0, &limit_of(limit)]).await?;
        found.iter().map(|row| get(row, "subscription_id").map(SubscriptionId)).collect()
    }

    pub(super) async fn read_retries_waiting(&self, now: Timestamp, cap: u64) -> Result<RetriesWaiting> {
        const SQL: &str = "SELECT (SELECT count(*) FROM (SELECT FROM retries LIMIT $2) counted) AS n, (
                 SELECT first FROM (
                     SELECT subscription_id, min(next_attempt_at) AS first FROM (
                         SELECT subscription_id, next_attempt_at FROM retries WHERE next_attempt_at <= $1
                         ORDER BY next_attempt_at LIMIT $2
                     ) waiting GROUP BY subscription_id ORDER BY first OFFSET 0
                 ) due WHERE (SELECT true FROM subscriptions s WHERE s.id = due.subscription_id AND s.disabled IS NULL)
                 ORDER BY first LIMIT 1
             ) AS oldest";
        let most = i64::try_from(cap).unwrap_or(i64::MAX);
        let found = self.rows(SQL, &[&now.0, &most]).await?;
        let Some(row) = found.first() else { return Ok(RetriesWaiting::default()) };
        let count: i64 = get(row, "n")?;
        let oldest_due = get::<Option<i64>>(row, "oldest")?.map(Timestamp);
        Ok(RetriesWaiting { count: count.unsigned_abs(), oldest_due })
    }

    pub(super) async fn read_behind(&self, limit: usize) -> Result<Vec<SubscriptionId>> {
        const SQL: &str = "SELECT p.subscription_id FROM positions p
             JOIN subscriptions s ON s.id = p.subscription_id AND s.disabled IS NULL
             ORDER BY p.subscription_id LIMIT $1";
        let found = self.rows(SQL, &[&limit_of(limit)]).await?;
        found.iter().map(|row| get(row, "subscription_id").map(SubscriptionId)).collect()
    }

    pub(super) async fn read_delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        const SQL: &str = "SELECT d.id, d.subscription_id, d.event_type, d.event_id, d.resend_of, r.delivery_id, r.attempt_number,
                 r.next_attempt_at, coalesce(d.ordering_key, (SELECT e.ordering_key FROM events e WHERE e.id = d.event_id))
                     AS ordering_key, (SELECT s.tenant FROM subscriptions s WHERE s.id = d.subscription_id) AS tenant,
                 (SELECT g.tenant FROM deleted_subscriptions g WHERE g.id = d.subscription_id) AS tenant_before
             FROM deliveries d LEFT JOIN retries r ON r.delivery_id = d.id WHERE d.id = $1";
        // The attempts first: what one of them has planned is then found beside it, since both are one commit.
        let attempts = self.read_attempts(id).await?;
        let found = self.rows(SQL, &[&id.0]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let resend_of = get::<Option<Uuid>>(row, "resend_of")?.map(DeliveryId);
        let resends = if resend_of.is_some() { Vec::new() } else { self.read_resends(id).await? };
        let retrying = get::<Option<Uuid>>(row, "delivery_id")?.is_some();
        let retry = retrying.then(|| rows::retry(row)).transpose()?;
        let ahead = |retry: &Retry| attempts.iter().all(|attempt| attempt.attempt_number < retry.attempt_number);
        let tenant = rows::shared(get(row, "tenant")?);
        Ok(Some(DeliveryRecord {
            event_id: get::<Option<Uuid>>(row, "event_id")?.map(EventId),
            resend_of,
            resends,
            id,
            subscription_id: SubscriptionId(get(row, "subscription_id")?),
            event_type: get::<Option<String>>(row, "event_type")?.map(Into::into),
            retry: retry.filter(ahead),
            subscription_exists: tenant.is_some(),
            tenant: tenant.or(rows::shared(get(row, "tenant_before")?)),
            attempts,
        }))
    }

    async fn read_resends(&self, id: DeliveryId) -> Result<Vec<DeliveryId>> {
        // Sorted apart from the look-up, or the planner may go through all deliveries in their order instead.
        const SQL: &str = "SELECT id FROM (SELECT id FROM deliveries WHERE resend_of = $1 AND id > $2 OFFSET 0) r
             ORDER BY id DESC LIMIT $3";
        let found = self.rows(SQL, &[&id.0, &log_floor(id), &limit_of(MAX_RESENDS)]).await?;
        found.iter().map(|row| get(row, "id").map(DeliveryId)).collect()
    }

    async fn read_attempts(&self, id: DeliveryId) -> Result<Vec<AttemptLog>> {
        let sql = format!("SELECT {ATTEMPT} FROM delivery_logs WHERE delivery_id = $1 AND id >= $2 ORDER BY id");
        self.rows(&sql, &[&id.0, &log_floor(id)]).await?.iter().map(rows::attempt).collect()
    }

    pub(super) async fn read_logs(
        &self,
        id: SubscriptionId,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<AttemptLog>> {
        let sql = format!(
            "SELECT {ATTEMPT} FROM delivery_logs
             WHERE (subscription_id, id) < ($1, $2) AND (subscription_id, id) >= ($1, $4) AND id < $2
             ORDER BY subscription_id DESC, id DESC LIMIT $3"
        );
        let before = before.unwrap_or(Uuid::max());
        self.rows(&sql, &[&id.0, &before, &limit_of(limit), &Uuid::nil()]).await?.iter().map(rows::attempt).collect()
    }
}
