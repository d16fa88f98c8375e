//! `GET /status/{delivery_id}`: where a delivery stands, with all its attempts.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::explained::waiting;
use super::reply::{self, Answer};
use super::{Http, explain, get_or_head, visible, with};
use crate::access::Permission;
use crate::delivery::{AttemptLog, DeliveryId, DeliveryState, EventId, Outcome, SubscriptionId};
use crate::store::DeliveryRecord;

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    warp::path!("status" / String)
        .and(get_or_head())
        .and(with(http))
        .and(access(http))
        .then(status)
        .map(reply::render)
        .boxed()
}

async fn status(segment: String, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Read)?;
    let record = visible::delivery(&http, &caller, &segment).await?;
    let waits = waiting(&http, &record).await?.waits;
    reply::json(StatusCode::OK, &Shown::new(&record, waits.as_ref().and_then(explain::word)))
}

/// Where it stands.
pub(super) fn state(record: &DeliveryRecord) -> DeliveryState {
    let last = record.attempts.last().map(|attempt| attempt.outcome);
    DeliveryState::of(last, record.subscription_exists)
}

/// When its next attempt is due, if one is planned.
pub(super) fn next_attempt_at(record: &DeliveryRecord) -> Option<String> {
    let retry = record.retry.as_ref().filter(|_| state(record) == DeliveryState::Retrying);
    retry.map(|retry| retry.next_attempt_at.to_string())
}

#[derive(Serialize)]
struct Shown<'a> {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    event_type: Option<&'a str>,
    event_id: Option<EventId>,
    resend_of: Option<DeliveryId>,
    resends: &'a [DeliveryId],
    state: DeliveryState,
    accepted_at: String,
    next_attempt_at: Option<String>,
    waits_for: Option<&'static str>,
    attempts: Vec<Attempt<'a>>,
}

impl<'a> Shown<'a> {
    fn new(record: &'a DeliveryRecord, waits_for: Option<&'static str>) -> Self {
        Self {
            delivery_id: record.id,
            subscription_id: record.subscription_id,
            event_type: record.event_type.as_deref(),
            event_id: record.event_id,
            resend_of: record.resend_of,
            resends: &record.resends,
            state: state(record),
            accepted_at: record.id.accepted_at().to_string(),
            next_attempt_at: next_attempt_at(record),
            waits_for,
            attempts: record.attempts.iter().map(Attempt::from).collect(),
        }
    }
}

/// An attempt as `/status` shows it; the log adds its ids.
#[derive(Serialize)]
pub(super) struct Attempt<'a> {
    attempt_number: u32,
    timestamp: String,
    target_url: &'a str,
    outcome: Outcome,
    http_status: Option<u16>,
    error_details: Option<&'a str>,
    duration_ms: u32,
    response_body: Option<&'a str>,
}

impl<'a> From<&'a AttemptLog> for Attempt<'a> {
    fn from(log: &'a AttemptLog) -> Self {
        Self {
            attempt_number: log.attempt_number,
            timestamp: log.timestamp.to_string(),
            target_url: &log.target_url,
            outcome: log.outcome,
            http_status: log.http_status,
            error_details: log.error_details.as_deref(),
            duration_ms: log.duration_ms,
            response_body: log.response_body.as_deref(),
        }
    }
}

/// An attempt as the log shows it.
#[derive(Serialize)]
pub(super) struct LogRow<'a> {
    id: Uuid,
    delivery_id: DeliveryId,
    #[serde(flatten)]
    attempt: Attempt<'a>,
}

impl<'a> From<&'a AttemptLog> for LogRow<'a> {
    fn from(log: &'a AttemptLog) -> Self {
        Self { id: log.id, delivery_id: log.delivery_id, attempt: Attempt::from(log) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::{Retry, Timestamp};
    use crate::http::openapi::tests::assert_matches;

    fn record() -> DeliveryRecord {
        let id = DeliveryId::floor_at(Timestamp(1_700_000_000_000));
        let subscription_id = SubscriptionId(1);
        let failed = AttemptLog {
            id: Uuid::nil(),
            delivery_id: id,
            subscription_id,
            target_url: "https://a.example/".into(),
            timestamp: Timestamp(1_700_000_000_100),
            attempt_number: 1,
            outcome: Outcome::FailedAttempt,
            http_status: Some(500),
            error_details: Some("the receiver answered 500".into()),
            duration_ms: 12,
            response_body: None,
        };
        let next_attempt_at = Timestamp(1_700_000_010_000);
        let retry = Retry { delivery_id: id, subscription_id, attempt_number: 2, next_attempt_at, ordering_key: None };
        DeliveryRecord {
            resend_of: None,
            resends: Vec::new(),
            event_id: None,
            id,
            subscription_id,
            tenant: Some("default".into()),
            event_type: None,
            retry: Some(retry),
            subscription_exists: true,
            attempts: vec![failed],
        }
    }

    #[test]
    fn a_delivery_that_is_retried_shows_its_attempts_and_the_next() {
        let shown = json!(Shown::new(&record(), Some("retry")));
        assert_matches("DeliveryStatus", &shown);
        assert_eq!(shown["state"], "retrying");
        assert_eq!(shown["accepted_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(shown["next_attempt_at"], "2023-11-14T22:13:30.000Z");
        assert_eq!((&shown["event_type"], &shown["waits_for"]), (&json!(null), &json!("retry")));
        assert_eq!(shown["attempts"][0]["outcome"], "Failed Attempt");
        assert_eq!(shown["attempts"][0]["response_body"], json!(null));
    }

    #[test]
    fn a_delivery_names_the_event_that_it_came_from() {
        assert_eq!(json!(Shown::new(&record(), Some("retry")))["event_id"], json!(null));
        let shown = json!(Shown::new(&DeliveryRecord { event_id: Some(EventId(Uuid::nil())), ..record() }, None));
        assert_matches("DeliveryStatus", &shown);
        assert_eq!(shown["event_id"], "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn a_cancelled_delivery_shows_no_next_attempt() {
        let shown = json!(Shown::new(&DeliveryRecord { subscription_exists: false, ..record() }, None));
        assert_eq!(shown["state"], "cancelled");
        assert_eq!(shown["next_attempt_at"], json!(null));
    }

    #[test]
    fn a_log_row_adds_its_ids_to_the_attempt() {
        let row = json!(LogRow::from(&record().attempts[0]));
        assert_matches("LogRow", &row);
        assert_eq!(row["id"], "00000000-0000-0000-0000-000000000000");
        assert_eq!((&row["attempt_number"], &row["http_status"]), (&json!(1), &json!(500)));
    }
}
