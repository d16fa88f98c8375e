//! Events that were fanned out: how a commit appends them, and what pages read of them and of their deliveries.

use std::borrow::Cow;

use bytes::Bytes;
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::{EventDelivery, Result};
use super::PostgresStore;
use super::columns::{Params, integer, text};
use super::reads::log_floor;
use super::rows::{self, corrupt, get, shared};
use super::subscriptions::limit_of;
use crate::delivery::{DeliveryId, Event, EventId, Outcome, SubscriptionId};

/// The events of a batch, turned on their side as in `columns`.
#[derive(Default)]
pub(super) struct Events<'a> {
    id: Vec<Uuid>,
    tenant: Vec<Cow<'a, str>>,
    event_type: Vec<Cow<'a, str>>,
    ordering_key: Vec<Option<Cow<'a, str>>>,
    payload: Vec<&'a [u8]>,
    deliveries: Vec<i32>,
    trace: Vec<Option<String>>,
}

impl<'a> Events<'a> {
    pub const SQL: &'static str =
        "INSERT INTO events (id, tenant, event_type, ordering_key, payload, deliveries, trace)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[], $7::text[])";

    pub fn new(rows: &'a [Event]) -> Self {
        Self {
            id: rows.iter().map(|row| row.id.0).collect(),
            tenant: rows.iter().map(|row| text(&row.tenant)).collect(),
            event_type: rows.iter().map(|row| text(&row.event_type)).collect(),
            ordering_key: rows.iter().map(|row| row.ordering_key.as_deref().map(text)).collect(),
            payload: rows.iter().map(|row| row.payload.as_ref()).collect(),
            deliveries: rows.iter().map(|row| integer(row.deliveries)).collect(),
            trace: rows.iter().map(|row| row.trace.as_ref().map(ToString::to_string)).collect(),
        }
    }

    pub fn params(&self) -> Params<'_, 7> {
        [&self.id, &self.tenant, &self.event_type, &self.ordering_key, &self.payload, &self.deliveries, &self.trace]
    }
}

impl PostgresStore {
    pub(super) async fn which_events_are_stored(&self, ids: &[EventId]) -> Result<Vec<EventId>> {
        const SQL: &str = "SELECT id FROM events WHERE id = ANY($1)";
        let found = self.ids_in(SQL, ids.iter().map(|id| id.0).collect()).await?;
        Ok(ids.iter().copied().filter(|id| found.contains(&id.0)).collect())
    }

    pub(super) async fn read_event(&self, id: EventId) -> Result<Option<Event>> {
        const SQL: &str = "SELECT id, tenant, event_type, ordering_key, payload, deliveries, trace
             FROM events WHERE id = $1";
        self.rows(SQL, &[&id.0]).await?.first().map(event).transpose()
    }

    /// The page first, by the index on both ids; then for each of its rows what became of it, also by index. Everything
    /// that concerns an event has a higher id than it, which leaves out the partitions before.
    pub(super) async fn read_event_deliveries(
        &self,
        id: EventId,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<EventDelivery>> {
        const SQL: &str = "SELECT page.id, page.subscription_id, r.*,
                 (SELECT e.ordering_key FROM events e WHERE e.id = $1) AS ordering_key,
                 (SELECT l.outcome FROM delivery_logs l WHERE l.delivery_id = page.id AND l.id >= $5
                  ORDER BY l.id DESC LIMIT 1) AS last_outcome,
                 EXISTS (SELECT FROM subscriptions s WHERE s.id = page.subscription_id) AS subscribed
             FROM (
                 SELECT d.id, d.subscription_id FROM deliveries d
                 WHERE (d.event_id, d.id) > ($1, $2) AND (d.event_id, d.id) <= ($1, $4)
                     AND d.event_id IS NOT NULL AND d.id > $2
                 ORDER BY d.event_id, d.id LIMIT $3
             ) page LEFT JOIN LATERAL (
                 SELECT r.delivery_id, r.attempt_number, r.next_attempt_at FROM retries r
                 WHERE r.delivery_id = page.id LIMIT 1
             ) r ON true ORDER BY page.id";
        let after = after.max(DeliveryId(id.0));
        let (floor, last) = (log_floor(after), Uuid::max());
        let found = self.rows(SQL, &[&id.0, &after.0, &limit_of(limit), &last, &floor]).await?;
        found.iter().map(event_delivery).collect()
    }
}

fn event(row: &Row) -> Result<Event> {
    Ok(Event {
        id: EventId(get(row, "id")?),
        tenant: get::<String>(row, "tenant")?.into(),
        event_type: get::<String>(row, "event_type")?.into(),
        ordering_key: shared(get(row, "ordering_key")?),
        payload: Bytes::from(get::<Vec<u8>>(row, "payload")?),
        deliveries: rows::count(row, "deliveries")?,
        trace: rows::trace(row)?,
    })
}

fn event_delivery(row: &Row) -> Result<EventDelivery> {
    let outcome: Option<i16> = get(row, "last_outcome")?;
    let known = |code| Outcome::from_code(code).ok_or_else(|| corrupt("outcome", &code));
    let retrying = get::<Option<Uuid>>(row, "delivery_id")?.is_some();
    Ok(EventDelivery {
        id: DeliveryId(get(row, "id")?),
        subscription_id: SubscriptionId(get(row, "subscription_id")?),
        last_outcome: outcome.map(known).transpose()?,
        retry: retrying.then(|| rows::retry(row)).transpose()?,
        subscription_exists: get(row, "subscribed")?,
    })
}
