//! One step of a search: rows of the index that fits, newest or oldest first, and what is known of each.
//!
//! Which index that is must not be left to statistics, which a new partition does not have: each source is ordered by a row of
//! columns that one index alone gives, as in `reads`.

use std::collections::HashMap;

use tokio_postgres::Row;
use uuid::Uuid;

use super::super::search::Source;
use super::super::{FoundDelivery, Result, Search, Step};
use super::PostgresStore;
use super::columns::text;
use super::reads::log_floor;
use super::rows::{self, DELIVERY, ITS_EVENT, corrupt, get, shared};
use super::subscriptions::limit_of;
use crate::delivery::{Delivery, DeliveryId, DeliveryState, EventId, Outcome, SubscriptionId, Timestamp};

/// Up to `$3` rows between the ids `$1` and `$2`; of the subscription `$6`, where there is one.
fn source_sql(source: Source, order: &str) -> String {
    const COLUMNS: &str = "d.subscription_id, d.event_type, d.event_id, d.resend_of";
    // The partition is named by the id, and the row may be gone.
    let its_row = format!(
        "LEFT JOIN LATERAL (SELECT {COLUMNS} FROM deliveries d WHERE d.id = found.delivery_id LIMIT 1) d ON true"
    );
    match source {
        Source::All => format!(
            "SELECT d.id, {COLUMNS} FROM deliveries d WHERE d.id >= $1 AND d.id <= $2 ORDER BY d.id {order} LIMIT $3"
        ),
        Source::Of(_) => format!(
            "SELECT d.id, {COLUMNS} FROM deliveries d
             WHERE (d.subscription_id, d.id) >= ($6::bigint, $1) AND (d.subscription_id, d.id) <= ($6::bigint, $2)
                 AND d.id >= $1 AND d.id <= $2
             ORDER BY d.subscription_id {order}, d.id {order} LIMIT $3"
        ),
        Source::Failed => format!(
            "SELECT found.delivery_id AS id, {COLUMNS} FROM (
                 SELECT l.delivery_id FROM delivery_logs l
                 WHERE l.outcome >= 2 AND (l.outcome, l.delivery_id) >= (2::smallint, $1)
                     AND (l.outcome, l.delivery_id) <= (2::smallint, $2) AND l.id >= $8
                 ORDER BY l.outcome {order}, l.delivery_id {order} LIMIT $3
             ) found {its_row}"
        ),
        Source::FailedOf(_) => format!(
            "SELECT found.delivery_id AS id, {COLUMNS} FROM (
                 SELECT l.delivery_id FROM delivery_logs l
                 WHERE l.outcome >= 2 AND (-l.subscription_id, l.delivery_id) >= (-$6::bigint, $1)
                     AND (-l.subscription_id, l.delivery_id) <= (-$6::bigint, $2) AND l.id >= $8
                 ORDER BY -l.subscription_id {order}, l.delivery_id {order} LIMIT $3
             ) found {its_row}"
        ),
        Source::Retries => format!(
            "SELECT found.delivery_id AS id, {COLUMNS} FROM (
                 SELECT r.delivery_id FROM retries r WHERE r.delivery_id >= $1 AND r.delivery_id <= $2
                 ORDER BY r.delivery_id {order} LIMIT $3
             ) found {its_row}"
        ),
    }
}

/// The rows of the source that have what can be asked for without a look into the log; and, in each row of the answer, of
/// which there is one at least, how many were looked at and where that ended.
fn step_sql(search: &Search) -> String {
    let (order, back) = if search.oldest_first { ("ASC", "DESC") } else { ("DESC", "ASC") };
    let source = source_sql(search.source(), order);
    let gone = if search.states == [DeliveryState::Cancelled] { "AND tenant IS NULL" } else { "" };
    format!(
        "WITH examined AS MATERIALIZED ({source})
         SELECT (SELECT count(*) FROM examined) AS examined,
             (SELECT e.id FROM examined e ORDER BY e.id {back} LIMIT 1) AS reached, wanted.*,
             (SELECT r.next_attempt_at FROM retries r WHERE r.delivery_id = wanted.id LIMIT 1) AS next_attempt_at
         FROM (SELECT 1) one LEFT JOIN (
             SELECT * FROM (
                 SELECT e.*, (SELECT s.tenant FROM subscriptions s WHERE s.id = e.subscription_id) AS tenant,
                     (SELECT g.tenant FROM deleted_subscriptions g WHERE g.id = e.subscription_id) AS tenant_before
                 FROM examined e
                 WHERE e.subscription_id IS NOT NULL AND ($5::text IS NULL OR e.event_type = $5)
                     AND ($6::bigint IS NULL OR e.subscription_id = $6) AND NOT ($7 AND e.resend_of IS NOT NULL)
                     AND $8::uuid IS NOT NULL
             ) whose WHERE ($4::text IS NULL OR coalesce(tenant, tenant_before) = $4) {gone}
         ) wanted ON true ORDER BY wanted.id {order}"
    )
}

impl PostgresStore {
    pub(super) async fn take_search_step(&self, search: &Search, most: usize) -> Result<Step> {
        let mut search = search.clone();
        if search.is_of_untried() {
            search.first = search.first.max(self.untried_floor(search.subscription_id).await?.successor());
        }
        // How far it would have to look for what is another tenant's says something of that one.
        if let (Some(tenant), Some(id)) = (&search.tenant, search.subscription_id)
            && !self.was_of_tenant(id, tenant).await?
        {
            return Ok(Step::default());
        }
        let found = self
            .rows(
                &step_sql(&search),
                &[
                    &search.first.0,
                    &search.last.0,
                    &limit_of(most),
                    &search.tenant.as_deref().map(text),
                    &search.event_type.as_deref().map(text),
                    &search.subscription_id.map(|id| id.0),
                    &search.firsts_only,
                    &log_floor(search.first),
                ],
            )
            .await?;
        let Some(row) = found.first() else { return Ok(Step::default()) };
        let examined = usize::try_from(get::<i64>(row, "examined")?).unwrap_or(most);
        let reached: Option<Uuid> = get(row, "reached")?;
        let mut step =
            Step { examined, reached: reached.filter(|_| examined >= most).map(DeliveryId), found: Vec::new() };
        // The one row of an answer that has no delivery.
        if get::<Option<Uuid>>(row, "id")?.is_some() {
            step.found = found.iter().map(found_delivery).collect::<Result<_>>()?;
            self.add_outcomes(&mut step.found).await?;
            step.found.dedup_by_key(|found| found.id);
            step.found.retain(|found| search.wants(found));
        }
        Ok(step)
    }

    /// How each one's last attempt ended.
    async fn add_outcomes(&self, deliveries: &mut [FoundDelivery]) -> Result<()> {
        // One by one: of many at once the planner without statistics thinks that they are half of the table, and reads all of it.
        const SQL: &str = "SELECT asked.id AS delivery_id, l.outcome FROM unnest($1::uuid[]) asked (id), LATERAL (
                 SELECT l.outcome FROM delivery_logs l WHERE l.delivery_id = asked.id AND l.id >= $2
                 ORDER BY l.id DESC LIMIT 1
             ) l";
        let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.id.0).collect();
        let Some(oldest) = ids.iter().min() else { return Ok(()) };
        let known = self.rows(SQL, &[&ids, &log_floor(DeliveryId(*oldest))]).await?;
        let outcome = |row: &Row| {
            let code: i16 = get(row, "outcome")?;
            let outcome = Outcome::from_code(code).ok_or_else(|| corrupt("outcome", &code))?;
            Ok((DeliveryId(get(row, "delivery_id")?), outcome))
        };
        let outcomes = known.iter().map(outcome).collect::<Result<HashMap<_, _>>>()?;
        for delivery in deliveries {
            delivery.last_outcome = outcomes.get(&delivery.id).copied();
        }
        Ok(())
    }

    /// Nothing with a lower id is untried.
    async fn untried_floor(&self, id: Option<SubscriptionId>) -> Result<DeliveryId> {
        const SQL: &str = "SELECT w.id AS watermark, CASE WHEN $1::bigint IS NULL
                 THEN (SELECT p.position FROM positions p ORDER BY p.position LIMIT 1)
                 ELSE (SELECT p.position FROM positions p WHERE p.subscription_id = $1) END AS position
             FROM watermark w";
        let found = self.rows(SQL, &[&id.map(|id| id.0)]).await?;
        let Some(row) = found.first() else { return Ok(DeliveryId::MIN) };
        let (watermark, position): (Uuid, Option<Uuid>) = (get(row, "watermark")?, get(row, "position")?);
        let floor = match (id, position) {
            (_, None) => watermark,
            (Some(_), Some(position)) => position,
            (None, Some(lowest)) => lowest.min(watermark),
        };
        Ok(DeliveryId(floor))
    }

    /// Whether the subscription is the tenant's, or was before it was deleted.
    async fn was_of_tenant(&self, id: SubscriptionId, tenant: &str) -> Result<bool> {
        const SQL: &str = "SELECT 1 FROM subscriptions WHERE id = $1 AND tenant = $2
             UNION ALL SELECT 1 FROM deleted_subscriptions WHERE id = $1 AND tenant = $2";
        Ok(!self.rows(SQL, &[&id.0, &text(tenant)]).await?.is_empty())
    }

    pub(super) async fn read_subscriptions_ever(
        &self,
        tenant: &str,
        most: usize,
    ) -> Result<Option<Vec<SubscriptionId>>> {
        const SQL: &str = "SELECT id FROM subscriptions WHERE tenant = $1
             UNION ALL SELECT id FROM deleted_subscriptions WHERE tenant = $1 LIMIT $2";
        let found = self.rows(SQL, &[&text(tenant), &limit_of(most + 1)]).await?;
        let ids = found.iter().map(|row| get(row, "id").map(SubscriptionId)).collect::<Result<Vec<_>>>()?;
        Ok(Some(ids).filter(|ids| ids.len() <= most))
    }

    /// Payloads are counted before they are read.
    pub(super) async fn read_deliveries(&self, ids: &[DeliveryId], max_bytes: usize) -> Result<Vec<Delivery>> {
        let sql = format!(
            "SELECT * FROM (
                 SELECT *, row_number() OVER page AS place, sum(octet_length(payload)) OVER page AS bytes
                 FROM (SELECT d.subscription_id, {DELIVERY} FROM deliveries d {ITS_EVENT} WHERE d.id = ANY($1)) stored
                 WHERE payload IS NOT NULL WINDOW page AS (ORDER BY id)
             ) sized WHERE place = 1 OR bytes <= $2::bigint ORDER BY id"
        );
        let asked: Vec<_> = ids.iter().map(|id| id.0).collect();
        let found = self.rows(&sql, &[&asked, &limit_of(max_bytes)]).await?;
        found.iter().map(|row| rows::delivery(row, SubscriptionId(get(row, "subscription_id")?))).collect()
    }
}

fn found_delivery(row: &Row) -> Result<FoundDelivery> {
    let tenant = shared(get(row, "tenant")?);
    Ok(FoundDelivery {
        id: DeliveryId(get(row, "id")?),
        subscription_id: SubscriptionId(get(row, "subscription_id")?),
        subscription_exists: tenant.is_some(),
        tenant: tenant.or(shared(get(row, "tenant_before")?)),
        event_type: shared(get(row, "event_type")?),
        event_id: get::<Option<Uuid>>(row, "event_id")?.map(EventId),
        resend_of: get::<Option<Uuid>>(row, "resend_of")?.map(DeliveryId),
        last_outcome: None,
        next_attempt_at: get::<Option<i64>>(row, "next_attempt_at")?.map(Timestamp),
    })
}
