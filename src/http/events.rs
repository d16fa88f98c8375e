//! `POST /events`: one event for every subscription that wants it. The payload is stored once, and the answer names what
//! was made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::event_body::new_event;
use super::idempotency::{self, Key};
use super::reply::{self, Answer};
use super::{Http, with};
use crate::access::Permission;
use crate::actors::{Arrival, NewEvent, Published};
use crate::delivery::{DeliveryId, DeliveryState, EventId, SubscriptionId};

/// Deliveries in one answer: about 200 KiB of them. The rest is behind `next`.
const MAX_LISTED: usize = 1000;

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let all = warp::path("events").and(warp::path::end());
    all.and(warp::post())
        .and(with(http))
        .and(access(http))
        .and(idempotency::key())
        .and(warp::ext::optional())
        .and(sent())
        .then(answer)
        .boxed()
}

async fn answer(
    http: Arc<Http>,
    access: Access,
    key: Option<Key>,
    arrival: Option<Arrival>,
    sent: Sent<impl Frames>,
) -> Response {
    let arrival = arrival.unwrap_or_else(Arrival::now);
    publish(&http, access, key, arrival, sent).await.unwrap_or_else(|problem| {
        http.api.metrics.refused(problem.kind().name());
        problem.into_response()
    })
}

async fn publish(http: &Http, access: Access, key: Option<Key>, arrival: Arrival, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Ingest, &http.bodies, sent).await?;
    let event = new_event(&body, &caller)?;
    // What waits for the commit holds the payload, and not the body that it was copied from.
    drop(body);
    let key = key.map(|key| key.of_request(&parts(&event))).transpose()?;
    let (tenant, event_type) = (event.tenant.clone(), event.event_type.clone());
    let accepted = http.api.engine.publish(event, key, arrival).await?;
    let response = reply::json(StatusCode::ACCEPTED, &Shown::new(&tenant, &event_type, &accepted.outcome))?;
    Ok(idempotency::mark(response, accepted.replayed))
}

/// What makes the request: the spaces around the payload do not.
fn parts(event: &NewEvent) -> [Option<&[u8]>; 4] {
    [
        Some(event.event_type.as_bytes()),
        Some(event.tenant.as_bytes()),
        event.ordering_key.as_deref().map(str::as_bytes),
        Some(&event.payload),
    ]
}

/// What was made of an event. Says nothing that the first answer to the same request did not say.
#[derive(Serialize)]
struct Shown<'a> {
    event_id: EventId,
    event_type: &'a str,
    tenant: &'a str,
    status_url: String,
    matched: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_count: Option<usize>,
    deliveries: Vec<Delivery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize)]
struct Delivery {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    status_url: String,
    #[serde(flatten)]
    refused: Option<Refused>,
}

/// That the subscription took no more: the delivery is recorded, and has failed.
#[derive(Serialize)]
struct Refused {
    state: DeliveryState,
    refused: &'static str,
}

const BACKLOG_FULL: Refused = Refused { state: DeliveryState::Failed, refused: "backlog_full" };

impl<'a> Shown<'a> {
    fn new(tenant: &'a str, event_type: &'a str, event: &Published) -> Self {
        // By id, as `next` goes on; a refused one is listed once, wherever the engine has named it.
        let refused: BTreeSet<_> = event.refused.iter().map(|(_, delivery)| delivery).collect();
        let all = event.deliveries.iter().chain(&event.refused).map(|(subscription, id)| (id, subscription));
        let all: BTreeMap<_, _> = all.collect();
        let listed = all.iter().take(MAX_LISTED).map(|(id, subscription)| Delivery {
            delivery_id: **id,
            subscription_id: **subscription,
            status_url: format!("/status/{id}"),
            refused: refused.contains(id).then_some(BACKLOG_FULL),
        });
        let listed: Vec<_> = listed.collect();
        let more = listed.len() < all.len();
        let status_url = format!("/events/{}", event.id);
        Self {
            next: listed.last().filter(|_| more).map(|last| format!("{status_url}?after={}", last.delivery_id)),
            note: all.is_empty().then(|| if event.gone { GONE.to_owned() } else { unwanted(tenant, event_type) }),
            event_id: event.id,
            event_type,
            tenant,
            status_url,
            matched: all.len(),
            refused_count: Some(refused.len()).filter(|count| *count > 0),
            deliveries: listed,
        }
    }
}

const GONE: &str = "this request was accepted before; its event has outlived its retention, and its deliveries with it";

fn unwanted(tenant: &str, event_type: &str) -> String {
    format!("no enabled subscription of tenant {tenant} wants events of type {event_type}; the event is kept")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::http::openapi::tests::assert_matches;

    fn made(n: usize) -> (SubscriptionId, DeliveryId) {
        (SubscriptionId(n as i64), DeliveryId(Uuid::from_u128(n as u128)))
    }

    fn shown(deliveries: usize) -> Value {
        let deliveries_made = (1..=deliveries).map(made).collect();
        let event =
            Published { id: EventId(Uuid::nil()), deliveries: deliveries_made, refused: Vec::new(), gone: false };
        let shown = json!(Shown::new("acme", "order.created", &event));
        assert_matches("Published", &shown);
        assert_eq!(shown["matched"], deliveries);
        shown
    }

    #[test]
    fn an_event_is_answered_with_its_deliveries_and_where_to_ask_for_each() {
        let shown = shown(2);
        let id = "00000000-0000-0000-0000-000000000000";
        let delivery = "00000000-0000-0000-0000-000000000002";
        assert_eq!(shown["status_url"], format!("/events/{id}"));
        assert_eq!((&shown["tenant"], &shown["event_type"]), (&json!("acme"), &json!("order.created")));
        let second =
            json!({"delivery_id": delivery, "subscription_id": 2, "status_url": format!("/status/{delivery}")});
        assert_eq!(shown["deliveries"][1], second);
        assert!(shown.get("note").is_none() && shown.get("next").is_none());
    }

    #[test]
    fn an_event_that_nobody_wants_says_so() {
        let shown = shown(0);
        assert_eq!(shown["deliveries"], json!([]));
        let note = "no enabled subscription of tenant acme wants events of type order.created; the event is kept";
        assert_eq!(shown["note"], note);
    }

    #[test]
    fn an_event_that_retention_took_is_not_called_unwanted() {
        let event = Published { id: EventId(Uuid::nil()), deliveries: vec![], refused: vec![], gone: true };
        let shown = json!(Shown::new("acme", "order.created", &event));
        assert!(shown["note"].as_str().is_some_and(|note| note.contains("outlived its retention")), "{shown}");
    }

    #[test]
    fn deliveries_beyond_the_limit_are_counted_and_behind_next() {
        let whole = shown(MAX_LISTED);
        assert_eq!(whole["deliveries"].as_array().unwrap().len(), MAX_LISTED);
        assert!(whole.get("next").is_none());
        let cut = shown(MAX_LISTED + 1);
        let listed = cut["deliveries"].as_array().unwrap();
        assert_eq!(listed.len(), MAX_LISTED);
        let last = listed[MAX_LISTED - 1]["delivery_id"].as_str().unwrap();
        assert_eq!(cut["next"], format!("/events/00000000-0000-0000-0000-000000000000?after={last}"));
    }

    #[test]
    fn a_delivery_that_a_full_backlog_refused_is_named_once_and_has_failed() {
        for named_twice in [false, true] {
            let mut deliveries = vec![made(1), made(3)];
            deliveries.extend(named_twice.then(|| made(2)));
            let event = Published { id: EventId(Uuid::nil()), deliveries, refused: vec![made(2)], gone: false };
            let shown = json!(Shown::new("acme", "order.created", &event));
            assert_matches("Published", &shown);
            assert_eq!((&shown["matched"], &shown["refused_count"]), (&json!(3), &json!(1)));
            let listed = shown["deliveries"].as_array().unwrap();
            let ids: Vec<_> = listed.iter().map(|delivery| &delivery["subscription_id"]).collect();
            assert_eq!(ids, [1, 2, 3]);
            assert_eq!((&listed[1]["state"], &listed[1]["refused"]), (&json!("failed"), &json!("backlog_full")));
            assert!(listed[0].get("refused").is_none() && listed[0].get("state").is_none());
        }
    }

    #[test]
    fn every_field_of_an_event_makes_the_request() {
        let hash = |event_type: &str, tenant: &str, ordering_key: Option<&str>, payload: &'static str| {
            let event = NewEvent {
                tenant: tenant.into(),
                event_type: event_type.into(),
                ordering_key: ordering_key.map(Arc::from),
                payload: payload.into(),
            };
            "k".parse::<Key>().unwrap().of_request(&parts(&event)).unwrap().request_hash
        };
        let first = hash("ab", "c", Some("d"), "1");
        assert_eq!(first, hash("ab", "c", Some("d"), "1"));
        let others = [("a", "bc", Some("d"), "1"), ("ab", "cd", None, "1"), ("ab", "c", Some("d1"), "1")];
        for (event_type, tenant, ordering_key, payload) in others {
            assert_ne!(first, hash(event_type, tenant, ordering_key, payload), "{event_type} {tenant}");
        }
        assert_ne!(first, hash("ab", "c", Some("d"), "1.0"));
    }
}
