//! `GET /deliveries/{id}/explain`: why a delivery has not been received yet, in one sentence, and the facts behind it.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::explain::{Facts, WaitsFor, sentence, waits_at_rest};
use super::problem::Problem;
use super::reply::{self, Answer, with_header};
use super::status;
use super::{Http, get_or_head, visible, with};
use crate::access::Permission;
use crate::actors::LiveState;
use crate::delivery::{BreakerState, DeliveryId, DeliveryState, DisabledReason, SubscriptionId, Waits};
use crate::store::DeliveryRecord;

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let explain = warp::path!("deliveries" / String / "explain").and(get_or_head());
    explain.and(with(http)).and(access(http)).then(explain_delivery).map(reply::render).boxed()
}

async fn explain_delivery(segment: String, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Read)?;
    let record = visible::delivery(&http, &caller, &segment).await?;
    let waiting = waiting(&http, &record).await?;
    let live = match waiting.waits {
        // Without an engine the rows still say something.
        Some(_) => http.api.engine.state(record.subscription_id).await.ok().flatten(),
        None => None,
    };
    let shown = Shown::new(&record, waiting, live.as_ref());
    Ok(with_header(reply::json(StatusCode::OK, &shown)?, header::CACHE_CONTROL, "no-store"))
}

/// Why a delivery is not attempted now.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    /// Why its subscription is disabled, if it is.
    pub disabled: Option<DisabledReason>,
    /// `None` once it has ended.
    pub waits: Option<Waits>,
}

/// Its actor knows best; where none runs, or none is here to be asked, its rows say what it waits for.
pub(super) async fn waiting(http: &Http, record: &DeliveryRecord) -> Result<Waiting, Problem> {
    if !matches!(status::state(record), DeliveryState::Pending | DeliveryState::Retrying) {
        return Ok(Waiting::default());
    }
    let subscription = visible::subscription_of(http, record).await?;
    let disabled = subscription.and_then(|subscription| subscription.disabled);
    let live = http.api.engine.why(record.subscription_id, record.id).await.ok().flatten();
    // The actor may not have heard yet of what is logged already.
    let logged = record.attempts.last().map_or(0, |attempt| attempt.attempt_number);
    let live = live.filter(|waits| !matches!(waits, Waits::Recording { attempt } if *attempt <= logged));
    let waits = live.unwrap_or_else(|| waits_at_rest(disabled.is_some(), record.retry.as_ref()));
    Ok(Waiting { disabled, waits: Some(waits) })
}

#[derive(Serialize)]
struct Shown<'a> {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    explanation: String,
    state: DeliveryState,
    accepted_at: String,
    attempts: usize,
    attempt_under_way: Option<u32>,
    last_http_status: Option<u16>,
    last_error: Option<&'a str>,
    waits_for: Option<WaitsFor>,
    next_attempt_at: Option<String>,
    disabled: Option<DisabledReason>,
    actor: Option<Actor>,
}

/// What of the subscription's actor bears on it.
#[derive(Serialize)]
struct Actor {
    window: usize,
    in_flight: usize,
    breaker: BreakerState,
    breaker_until: Option<String>,
    backlog: u64,
}

impl<'a> Shown<'a> {
    fn new(record: &'a DeliveryRecord, waiting: Waiting, live: Option<&LiveState>) -> Self {
        let Waiting { disabled, waits } = waiting;
        let facts = Facts { state: status::state(record), attempts: &record.attempts, disabled, waits };
        let last = record.attempts.last();
        Self {
            delivery_id: record.id,
            subscription_id: record.subscription_id,
            explanation: with_resends(sentence(&facts), record),
            state: facts.state,
            accepted_at: record.id.accepted_at().to_string(),
            attempts: record.attempts.len(),
            attempt_under_way: match facts.waits {
                Some(Waits::InFlight { attempt }) => Some(attempt),
                _ => None,
            },
            last_http_status: last.and_then(|last| last.http_status),
            last_error: last.and_then(|last| last.error_details.as_deref()),
            waits_for: facts.waits.as_ref().and_then(WaitsFor::of),
            next_attempt_at: status::next_attempt_at(record),
            disabled,
            actor: live.map(Actor::from),
        }
    }
}

impl From<&LiveState> for Actor {
    fn from(live: &LiveState) -> Self {
        Self {
            window: live.snapshot.window,
            in_flight: live.snapshot.in_flight,
            breaker: live.snapshot.breaker,
            breaker_until: live.snapshot.breaker_until.map(|until| until.to_string()),
            backlog: live.backlog,
        }
    }
}

/// Whoever has the `webhook-id` asks for the first, and what they look for may be in a later one.
fn with_resends(sentence: String, record: &DeliveryRecord) -> String {
    match record.resends.first() {
        Some(last) => format!("{sentence} It was sent again, last as {last}."),
        None => sentence,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::{Outcome, Timestamp};
    use crate::http::explain::tests::attempt;
    use crate::http::openapi::tests::assert_matches;
    use crate::http::state::tests::live;

    fn record() -> DeliveryRecord {
        DeliveryRecord {
            resend_of: None,
            resends: Vec::new(),
            id: DeliveryId::floor_at(Timestamp(1_700_000_000_000)),
            subscription_id: SubscriptionId(1),
            tenant: Some("default".into()),
            event_type: None,
            event_id: None,
            retry: None,
            subscription_exists: true,
            attempts: vec![attempt(1, Outcome::FailedAttempt, Some(500))],
        }
    }

    #[test]
    fn an_unfinished_delivery_is_explained_with_its_actor() {
        let until = Timestamp(1_700_000_065_000);
        let waiting = Waiting { disabled: None, waits: Some(Waits::Breaker { until }) };
        let shown = json!(Shown::new(&record(), waiting, Some(&live())));
        assert_matches("Explanation", &shown);
        assert!(shown["explanation"].as_str().unwrap().contains("the breaker is open"), "{shown}");
        assert_eq!(shown["waits_for"], json!({"reason": "breaker", "until": "2023-11-14T22:14:25.000Z"}));
        assert_eq!((&shown["attempts"], &shown["last_http_status"]), (&json!(1), &json!(500)));
        assert_eq!((&shown["actor"]["breaker"], &shown["actor"]["window"]), (&json!("open"), &json!(1)));
    }

    #[test]
    fn an_attempt_under_way_is_named_and_waits_for_nothing() {
        let waiting = Waiting { disabled: None, waits: Some(Waits::InFlight { attempt: 2 }) };
        let shown = json!(Shown::new(&record(), waiting, None));
        assert_matches("Explanation", &shown);
        assert_eq!((&shown["attempt_under_way"], &shown["waits_for"]), (&json!(2), &json!(null)));
        assert_eq!(shown["actor"], json!(null));
    }

    #[test]
    fn a_finished_delivery_says_how_it_ended_and_waits_for_nothing() {
        let attempts = vec![attempt(1, Outcome::Success, Some(200))];
        let shown = json!(Shown::new(&DeliveryRecord { attempts, ..record() }, Waiting::default(), None));
        assert_matches("Explanation", &shown);
        assert!(shown["explanation"].as_str().unwrap().starts_with("Delivered at"), "{shown}");
        assert_eq!((&shown["actor"], &shown["waits_for"]), (&json!(null), &json!(null)));
    }
}
