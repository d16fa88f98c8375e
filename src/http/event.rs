//! `GET /events/{event_id}`: the event as it was published, and where each of its deliveries stands.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::problem::{Kind, Problem};
use super::query::{self, PageRules};
use super::reply::{self, Answer};
use super::{Http, get_or_head, visible, with};
use crate::access::Permission;
use crate::delivery::{DeliveryId, DeliveryState, Event, EventId, SubscriptionId};
use crate::store::EventDelivery;

/// As many as the answer to `POST /events` lists at most.
const PAGES: PageRules = PageRules {
    cursor: "after",
    cursor_expected: "the delivery_id of a delivery, a UUID",
    default_limit: 100,
    max_limit: 1000,
};

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    warp::path!("events" / String)
        .and(get_or_head())
        .and(with(http))
        .and(access(http))
        .and(query::raw())
        .then(event)
        .map(reply::render)
        .boxed()
}

async fn event(segment: String, http: Arc<Http>, access: Access, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let page = PAGES.parse::<Uuid>(&query)?;
    let event = visible::event(&http, &caller, &segment).await?;
    let id = event.id;
    let after = page.cursor.map_or(DeliveryId::MIN, DeliveryId);
    let mut found = http.api.store.event_deliveries(id, after, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.id);
    let response = reply::json(StatusCode::OK, &Shown::new(&event, &found)?)?;
    Ok(PAGES.link_next(response, &format!("/events/{id}"), page.limit, next))
}

#[derive(Serialize)]
struct Shown<'a> {
    event_id: EventId,
    tenant: &'a str,
    event_type: &'a str,
    ordering_key: Option<&'a str>,
    accepted_at: String,
    payload: &'a RawValue,
    matched: u32,
    deliveries: Vec<Delivery>,
}

impl<'a> Shown<'a> {
    fn new(event: &'a Event, deliveries: &[EventDelivery]) -> Result<Self, Problem> {
        let payload = serde_json::from_slice(&event.payload).map_err(|error| {
            tracing::error!(event_id = %event.id, %error, "an event's payload is not the JSON that was accepted");
            Problem::new(Kind::Internal, "what is stored cannot be read back")
        })?;
        Ok(Self {
            event_id: event.id,
            tenant: &event.tenant,
            event_type: &event.event_type,
            ordering_key: event.ordering_key.as_deref(),
            accepted_at: event.id.accepted_at().to_string(),
            payload,
            matched: event.deliveries,
            deliveries: deliveries.iter().map(Delivery::from).collect(),
        })
    }
}

#[derive(Serialize)]
struct Delivery {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    state: DeliveryState,
    next_attempt_at: Option<String>,
    status_url: String,
}

impl From<&EventDelivery> for Delivery {
    fn from(delivery: &EventDelivery) -> Self {
        let state = DeliveryState::of(delivery.last_outcome, delivery.subscription_exists);
        let next = delivery.retry.as_ref().filter(|_| state == DeliveryState::Retrying);
        Self {
            delivery_id: delivery.id,
            subscription_id: delivery.subscription_id,
            state,
            next_attempt_at: next.map(|retry| retry.next_attempt_at.to_string()),
            status_url: format!("/status/{}", delivery.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::delivery::{Outcome, Retry, Timestamp};
    use crate::http::openapi::tests::assert_matches;

    fn stored(payload: &'static str) -> Event {
        Event {
            trace: None,
            id: EventId(DeliveryId::floor_at(Timestamp(1_700_000_000_000)).0),
            tenant: "acme".into(),
            event_type: "order.created".into(),
            ordering_key: None,
            payload: payload.into(),
            deliveries: 3,
        }
    }

    fn delivery(last_outcome: Option<Outcome>, subscription_exists: bool) -> EventDelivery {
        let (id, subscription_id) = (DeliveryId::floor_at(Timestamp(1_700_000_000_000)), SubscriptionId(1));
        let next_attempt_at = Timestamp(1_700_000_010_000);
        let retry = Retry { delivery_id: id, subscription_id, attempt_number: 2, next_attempt_at, ordering_key: None };
        EventDelivery { id, subscription_id, last_outcome, retry: Some(retry), subscription_exists }
    }

    fn shown(event: &Event, deliveries: &[EventDelivery]) -> String {
        serde_json::to_string(&Shown::new(event, deliveries).unwrap()).unwrap()
    }

    #[test]
    fn an_event_shows_where_each_delivery_stands() {
        let deliveries = [delivery(None, true), delivery(Some(Outcome::FailedAttempt), true)];
        let shown: Value = serde_json::from_str(&shown(&stored("{\"a\":1}"), &deliveries)).unwrap();
        assert_matches("Event", &shown);
        assert_eq!(shown["accepted_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!((&shown["matched"], &shown["ordering_key"]), (&json!(3), &json!(null)));
        assert_eq!(shown["deliveries"][0]["state"], "pending");
        assert_eq!(shown["deliveries"][1]["state"], "retrying");
        assert_eq!(shown["deliveries"][1]["next_attempt_at"], "2023-11-14T22:13:30.000Z");
    }

    #[test]
    fn a_cancelled_delivery_shows_no_next_attempt() {
        let shown = json!(Delivery::from(&delivery(Some(Outcome::FailedAttempt), false)));
        assert_eq!((&shown["state"], &shown["next_attempt_at"]), (&json!("cancelled"), &json!(null)));
    }

    #[test]
    fn the_payload_is_shown_byte_for_byte() {
        for payload in ["{ \"a\" :\t1e400,\n\"a\": 1.0 }", r#""\ud800""#, "null", "12345678901234567890.10"] {
            let text = shown(&stored(payload), &[]);
            assert!(text.contains(&format!("\"payload\":{payload},\"matched\"")), "{text}");
        }
    }

    #[test]
    fn a_payload_that_is_no_json_any_more_is_our_fault() {
        assert_eq!(Shown::new(&stored("{"), &[]).err().unwrap().kind(), Kind::Internal);
    }
}
