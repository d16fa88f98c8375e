//! A batch turned on its side: an array a column, as `unnest` takes them.
//!
//! What is appended to has a second statement, [`again`], which passes over rows that are there already. It is for
//! batches whose first commit had an unknown end, and costs a third more: so it is not for the others.

use std::borrow::Cow;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::Batch;
use crate::delivery::{AttemptLog, Delivery, DeliveryId, Retry, SubscriptionId};

/// What a statement takes.
pub(super) type Params<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// The statement that passes over rows that are there already.
pub(super) fn again(insert: &str) -> String {
    format!("{insert} ON CONFLICT DO NOTHING")
}

/// PostgreSQL's `text` holds every character but NUL, which a receiver's answer may well contain.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A counter that PostgreSQL's `integer` cannot hold is shown as its largest.
pub(super) fn integer(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[derive(Default)]
pub(super) struct Deliveries<'a> {
    id: Vec<Uuid>,
    subscription_id: Vec<i64>,
    event_type: Vec<Option<Cow<'a, str>>>,
    /// `None` if it is stored with the event.
    payload: Vec<Option<&'a [u8]>>,
    event_id: Vec<Option<Uuid>>,
    /// `None` if it is stored with the event.
    ordering_key: Vec<Option<Cow<'a, str>>>,
    /// `None` if it is stored with the event.
    trace: Vec<Option<String>>,
    resend_of: Vec<Option<Uuid>>,
    /// Whether any row has one of the last four.
    is_wide: bool,
}

impl<'a> Deliveries<'a> {
    pub const SQL: &'static str = "INSERT INTO deliveries (id, subscription_id, event_type, payload)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[])";
    /// For a batch that has deliveries of events, resends, with ordering keys or of traces: the others do not pay for the columns.
    pub const SQL_WIDE: &'static str =
        "INSERT INTO deliveries (id, subscription_id, event_type, payload, event_id, ordering_key, trace, resend_of)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::uuid[], $6::text[], $7::text[], $8::uuid[])";

    pub fn new(rows: &'a [Delivery]) -> Self {
        let own_key = |row: &'a Delivery| row.ordering_key.as_deref().filter(|_| row.event_id.is_none()).map(text);
        let own_trace = |row: &Delivery| row.trace.as_ref().filter(|_| row.event_id.is_none()).map(ToString::to_string);
        let wants_all = |row: &Delivery| {
            row.event_id.is_some() || row.ordering_key.is_some() || row.trace.is_some() || row.resend_of.is_some()
        };
        let is_wide = rows.iter().any(wants_all);
        let wide = if is_wide { rows } else { &[] };
        Self {
            id: rows.iter().map(|row| row.id.0).collect(),
            subscription_id: rows.iter().map(|row| row.subscription_id.0).collect(),
            event_type: rows.iter().map(|row| row.event_type.as_deref().map(text)).collect(),
            payload: rows.iter().map(|row| row.event_id.is_none().then_some(row.payload.as_ref())).collect(),
            event_id: wide.iter().map(|row| row.event_id.map(|id| id.0)).collect(),
            ordering_key: wide.iter().map(own_key).collect(),
            trace: wide.iter().map(own_trace).collect(),
            resend_of: wide.iter().map(|row| row.resend_of.map(|first| first.0)).collect(),
            is_wide,
        }
    }

    /// Which of the two statements it takes.
    pub fn are_wide(&self) -> bool {
        self.is_wide
    }

    pub fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut params: Vec<&(dyn ToSql + Sync)> =
            vec![&self.id, &self.subscription_id, &self.event_type, &self.payload];
        if self.is_wide {
            params.extend([&self.event_id as &(dyn ToSql + Sync), &self.ordering_key, &self.trace, &self.resend_of]);
        }
        params
    }
}

#[derive(Default)]
pub(super) struct Logs<'a> {
    id: Vec<Uuid>,
    delivery_id: Vec<Uuid>,
    subscription_id: Vec<i64>,
    timestamp: Vec<i64>,
    attempt_number: Vec<i32>,
    duration_ms: Vec<i32>,
    outcome: Vec<i16>,
    http_status: Vec<Option<i16>>,
    target_url: Vec<Cow<'a, str>>,
    error_details: Vec<Option<Cow<'a, str>>>,
    response_body: Vec<Option<Cow<'a, str>>>,
    last: Option<Uuid>,
}

impl<'a> Logs<'a> {
    pub const SQL: &'static str = "INSERT INTO delivery_logs (id, delivery_id, subscription_id, timestamp,
             attempt_number, duration_ms, outcome, http_status, target_url, error_details, response_body, last_of_commit)
         SELECT row.*, nullif(row.id = $12, false)
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::integer[], $6::integer[],
             $7::smallint[], $8::smallint[], $9::text[], $10::text[], $11::text[]) AS row (id)";

    pub fn new(rows: &'a [AttemptLog]) -> Self {
        Self {
            id: rows.iter().map(|row| row.id).collect(),
            delivery_id: rows.iter().map(|row| row.delivery_id.0).collect(),
            subscription_id: rows.iter().map(|row| row.subscription_id.0).collect(),
            timestamp: rows.iter().map(|row| row.timestamp.0).collect(),
            attempt_number: rows.iter().map(|row| integer(row.attempt_number)).collect(),
            duration_ms: rows.iter().map(|row| integer(row.duration_ms)).collect(),
            outcome: rows.iter().map(|row| row.outcome.code()).collect(),
            http_status: rows.iter().map(|row| row.http_status.and_then(|code| i16::try_from(code).ok())).collect(),
            target_url: rows.iter().map(|row| text(&row.target_url)).collect(),
            error_details: rows.iter().map(|row| row.error_details.as_deref().map(text)).collect(),
            response_body: rows.iter().map(|row| row.response_body.as_deref().map(text)).collect(),
            last: rows.iter().map(|row| row.id).max(),
        }
    }

    pub fn params(&self) -> Params<'_, 12> {
        [
            &self.id,
            &self.delivery_id,
            &self.subscription_id,
            &self.timestamp,
            &self.attempt_number,
            &self.duration_ms,
            &self.outcome,
            &self.http_status,
            &self.target_url,
            &self.error_details,
            &self.response_body,
            &self.last,
        ]
    }
}

#[derive(Default)]
pub(super) struct Retries {
    delivery_id: Vec<Uuid>,
    subscription_id: Vec<i64>,
    next_attempt_at: Vec<i64>,
    attempt_number: Vec<i32>,
}

impl Retries {
    /// A statement may write a row once: of two plans for a delivery the later attempt's counts.
    pub const SQL: &'static str =
        "INSERT INTO retries AS r (delivery_id, subscription_id, next_attempt_at, attempt_number)
         SELECT DISTINCT ON (d) d, s, at, n FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[])
             AS planned (d, s, at, n) ORDER BY d, n DESC
         ON CONFLICT (delivery_id) DO UPDATE
             SET next_attempt_at = excluded.next_attempt_at, attempt_number = excluded.attempt_number";

    pub fn new(rows: &[Retry]) -> Self {
        Self {
            delivery_id: rows.iter().map(|row| row.delivery_id.0).collect(),
            subscription_id: rows.iter().map(|row| row.subscription_id.0).collect(),
            next_attempt_at: rows.iter().map(|row| row.next_attempt_at.0).collect(),
            attempt_number: rows.iter().map(|row| integer(row.attempt_number)).collect(),
        }
    }

    pub fn params(&self) -> Params<'_, 4> {
        [&self.delivery_id, &self.subscription_id, &self.next_attempt_at, &self.attempt_number]
    }
}

/// The small tables' part of a batch.
#[derive(Default)]
pub(super) struct Marks {
    pub settled: Vec<Uuid>,
    pub behind: Vec<i64>,
    pub positions: Vec<Uuid>,
    pub caught_up: Vec<i64>,
    pub watermark: Option<Uuid>,
}

impl Marks {
    pub const SETTLE: &'static str = "DELETE FROM retries WHERE delivery_id = ANY($1::uuid[])";
    pub const POSITION: &'static str = "INSERT INTO positions (subscription_id, position)
         SELECT * FROM unnest($1::bigint[], $2::uuid[])
         ON CONFLICT (subscription_id) DO UPDATE SET position = excluded.position";
    pub const CATCH_UP: &'static str = "DELETE FROM positions WHERE subscription_id = ANY($1::bigint[])";
    pub const WATERMARK: &'static str =
        "INSERT INTO watermark (id) VALUES ($1) ON CONFLICT (only_row) DO UPDATE SET id = excluded.id";

    pub fn new(batch: &Batch) -> Self {
        let mut marks = Self { watermark: batch.watermark.map(|DeliveryId(id)| id), ..Self::default() };
        marks.settled.extend(batch.settled.iter().map(|DeliveryId(id)| *id));
        for (SubscriptionId(subscription), position) in &batch.positions {
            match position {
                Some(DeliveryId(position)) => {
                    marks.behind.push(*subscription);
                    marks.positions.push(*position);
                }
                None => marks.caught_up.push(*subscription),
            }
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_becomes_the_replacement_character_and_other_text_is_not_copied() {
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        assert!(matches!(text("é"), Cow::Borrowed("é")));
    }

    #[test]
    fn a_count_that_is_too_large_is_capped() {
        assert_eq!(integer(u32::MAX), i32::MAX);
        assert_eq!(integer(7), 7);
    }
}
