//! `POST /ingest/{id}`: the hot path. An event is checked in the order in which refusing is cheapest and says least to
//! strangers: key, subscription, signature, event type, JSON.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::idempotency::{self, Key};
use super::problem::{FieldError, Kind, Problem, quoted};
use super::server::Peer;
use super::visible::no_subscription;
use super::{Http, IdSegment, event_type, json, reply, visible, with};
use crate::access::Permission;
use crate::actors::{Accepted, Active, Arrival};
use crate::delivery::{DeliveryId, SubscriptionId, Timestamp};
use crate::outbound::signing::SigningKeys;

const SIGNATURE: &str = "x-hub-signature-256";
const ORDERING_KEY: &str = "x-ordering-key";
/// Room for any id, short enough to be kept with every delivery that waits.
const MAX_ORDERING_KEY_CHARS: usize = 200;

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    warp::path!("ingest" / IdSegment)
        .and(warp::post())
        .and(with(http))
        .and(access(http))
        .and(headers())
        .and(sent())
        .then(answer)
        .boxed()
}

/// What the headers say about the event.
struct Headers {
    event_type: Option<Text>,
    x_event_type: Option<Text>,
    signature: Option<Text>,
    ordering_key: Option<Text>,
    key: Option<Key>,
    peer: Option<Peer>,
    arrival: Option<Arrival>,
}

/// A header's value, in the form in which an event type is kept.
#[derive(Clone, PartialEq, Eq)]
struct Text(Arc<str>);

impl FromStr for Text {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

fn headers() -> impl Filter<Extract = (Headers,), Error = warp::Rejection> + Clone {
    warp::header::optional("event_type")
        .and(warp::header::optional("x-event-type"))
        .and(warp::header::optional(SIGNATURE))
        .and(warp::header::optional(ORDERING_KEY))
        .and(idempotency::key())
        .and(warp::ext::optional())
        .and(warp::ext::optional())
        .map(|event_type, x_event_type, signature, ordering_key, key, peer, arrival| Headers {
            event_type,
            x_event_type,
            signature,
            ordering_key,
            key,
            peer,
            arrival,
        })
}

async fn answer(
    segment: IdSegment,
    http: Arc<Http>,
    access: Access,
    headers: Headers,
    mut sent: Sent<impl Frames>,
) -> Response {
    match ingest(&segment, &http, access, headers, &mut sent).await {
        Ok((subscription, accepted)) => answer_accepted(subscription, accepted),
        Err(problem) => {
            http.api.metrics.refused(problem.kind().name());
            http.bodies.discard(sent, problem).await.into_response()
        }
    }
}

async fn ingest(
    segment: &IdSegment,
    http: &Http,
    access: Access,
    headers: Headers,
    sent: &mut Sent<impl Frames>,
) -> Result<(SubscriptionId, Accepted<DeliveryId>), Problem> {
    let arrival = headers.arrival.unwrap_or_else(Arrival::now);
    let caller = access.to(Permission::Ingest)?;
    let id = segment.id()?;
    if caller.tenant.is_some() && !http.api.engine.is_active(id) {
        // What is another's must not be started by whoever names its id.
        visible::subscription(http, &caller, id).await?;
    }
    let active = http.api.engine.activate(id).await?;
    if !caller.sees(&active.subscription().tenant) {
        return Err(no_subscription(id));
    }
    let keys = active.signing_keys()?.filter(|keys| keys.has_secret());
    let body = match (keys, &headers.signature) {
        // Before the body is read: nobody without a signature makes us hold one.
        (Some(_), None) => return Err(signature_missing(id)),
        (Some(keys), Some(signature)) => {
            let body = http.bodies.read(sent.announced, &mut sent.frames).await?;
            verify(keys, &body, signature, http.api.clock.wall(), headers.peer)?;
            body
        }
        (None, _) => http.bodies.read(sent.announced, &mut sent.frames).await?,
    };
    let event_type = event_type(headers.event_type, headers.x_event_type)?;
    let ordering_key = ordering_key(headers.ordering_key)?;
    let parts = parts(event_type.as_deref(), &body, ordering_key.as_deref());
    let key = headers.key.map(|key| key.of_request(&parts)).transpose()?;
    if let Err(refusal) = wanted(&active, event_type.as_deref()) {
        // It may have been taken before, when the subscription wanted it: then the producer has missed the answer.
        return match http.api.engine.accepted_before(&active, key).await? {
            Some(accepted) => Ok((id, accepted)),
            None => Err(refusal),
        };
    }
    json::check(&body).map_err(|why| Problem::new(Kind::InvalidJson, why))?;
    Ok((id, http.api.engine.accept(&active, event_type, ordering_key, body, key, arrival).await?))
}

/// What makes the request. One without an ordering key has no part for it: keys from before there were any still count.
fn parts<'a>(event_type: Option<&'a str>, body: &'a [u8], ordering_key: Option<&'a str>) -> Vec<Option<&'a [u8]>> {
    let mut parts = vec![event_type.map(str::as_bytes), Some(body)];
    parts.extend(ordering_key.map(|key| Some(key.as_bytes())));
    parts
}

fn verify(
    keys: &SigningKeys,
    body: &Bytes,
    signature: &Text,
    now: Timestamp,
    peer: Option<Peer>,
) -> Result<(), Problem> {
    if keys.verify_hub_signature(body, &signature.0, now) {
        return Ok(());
    }
    tracing::debug!(peer = ?peer.map(|peer| peer.0), "a signature does not match");
    let detail = "X-Hub-Signature-256 is not sha256= and the hex HMAC-SHA256 of exactly this body, keyed with the \
                  subscription's secret";
    Err(unauthorised(Kind::SignatureWrong, detail.to_owned()))
}

fn signature_missing(id: SubscriptionId) -> Problem {
    let detail =
        format!("subscription {id} has a secret; send X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the body>");
    unauthorised(Kind::SignatureMissing, detail)
}

/// RFC 9110 wants every 401 to name a scheme.
fn unauthorised(kind: Kind, detail: String) -> Problem {
    Problem::new(kind, detail).header(header::WWW_AUTHENTICATE, HeaderValue::from_static("X-Hub-Signature-256"))
}

fn event_type(plain: Option<Text>, prefixed: Option<Text>) -> Result<Option<Arc<str>>, Problem> {
    let named = match (plain, prefixed) {
        (Some(Text(one)), Some(Text(other))) if one != other => {
            let found = format!("{} and {}", quoted(&one), quoted(&other));
            let field = "headers event_type and X-Event-Type";
            return Err(Problem::parameter(FieldError::new(field, found, "the same event type, or only one of them")));
        }
        (one, other) => one.or(other).map(|text| text.0),
    };
    if let Some(name) = &named {
        event_type::check(name)
            .map_err(|expected| Problem::parameter(FieldError::new("header event_type", quoted(name), expected)))?;
    }
    Ok(named)
}

fn ordering_key(header: Option<Text>) -> Result<Option<Arc<str>>, Problem> {
    let Some(Text(key)) = header else { return Ok(None) };
    if (1..=MAX_ORDERING_KEY_CHARS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Some(key));
    }
    let expected = "1 to 200 visible ASCII characters";
    Err(Problem::parameter(FieldError::new("header X-Ordering-Key", quoted(&key), expected)))
}

fn wanted(active: &Active, event_type: Option<&str>) -> Result<(), Problem> {
    if active.wants(event_type) {
        return Ok(());
    }
    let id = active.subscription().id;
    Err(Problem::new(
        Kind::NotSubscribed,
        match event_type {
            Some(name) => format!("subscription {id} does not take events of type {}", quoted(name)),
            None => format!("subscription {id} takes certain event types only; name one in the header event_type"),
        },
    ))
}

/// Ids need no escaping, and this is the answer that is given most.
fn answer_accepted(subscription: SubscriptionId, accepted: Accepted<DeliveryId>) -> Response {
    let delivery = accepted.outcome;
    let body =
        format!(r#"{{"delivery_id":"{delivery}","subscription_id":{subscription},"status_url":"/status/{delivery}"}}"#);
    idempotency::mark(reply::json_text(StatusCode::ACCEPTED, body), accepted.replayed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Text> {
        Some(Text(text.into()))
    }

    #[test]
    fn either_header_names_the_event_type() {
        assert_eq!(event_type(None, None).unwrap(), None);
        for (plain, prefixed) in [(text("a.b"), None), (None, text("a.b")), (text("a.b"), text("a.b"))] {
            assert_eq!(event_type(plain, prefixed).unwrap().as_deref(), Some("a.b"));
        }
    }

    #[test]
    fn two_different_event_types_are_refused_with_both() {
        let problem = event_type(text("a"), text("b")).unwrap_err();
        assert_eq!(problem.kind(), Kind::InvalidParameter);
        assert!(format!("{problem:?}").contains(r#"\"a\" and \"b\""#), "{problem:?}");
    }

    #[test]
    fn an_illegal_or_reserved_event_type_is_refused() {
        for name in ["", "a b", "a.*", &"x".repeat(129), "hookpost.subscription.disabled"] {
            assert_eq!(event_type(text(name), None).unwrap_err().kind(), Kind::InvalidParameter);
        }
    }

    #[test]
    fn an_ordering_key_is_visible_ascii_up_to_its_limit() {
        assert_eq!(ordering_key(None).unwrap(), None);
        for key in ["a", "customer:17/eu", &"~".repeat(MAX_ORDERING_KEY_CHARS)] {
            assert_eq!(ordering_key(text(key)).unwrap().as_deref(), Some(key));
        }
        for key in ["", "a b", "a\tb", "é", &"x".repeat(MAX_ORDERING_KEY_CHARS + 1)] {
            let problem = ordering_key(text(key)).expect_err(key);
            assert!(format!("{problem:?}").contains("header X-Ordering-Key"), "{problem:?}");
        }
    }

    #[test]
    fn an_ordering_key_makes_another_request_and_its_absence_makes_the_one_from_before_there_were_any() {
        assert_eq!(parts(Some("a"), b"{}", None), [Some(&b"a"[..]), Some(b"{}")]);
        assert_eq!(parts(None, b"{}", Some("k")), [None, Some(&b"{}"[..]), Some(b"k")]);
    }

    #[tokio::test]
    async fn an_accepted_event_is_answered_with_its_ids_as_json() {
        use http_body_util::BodyExt;
        let accepted = Accepted { outcome: DeliveryId::MIN, replayed: false };
        let response = answer_accepted(SubscriptionId(7), accepted);
        assert_eq!(response.status(), 202);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        crate::http::openapi::tests::assert_matches("Accepted", &json);
        let id = "00000000-0000-0000-0000-000000000000";
        let expected =
            serde_json::json!({"delivery_id": id, "subscription_id": 7, "status_url": format!("/status/{id}")});
        assert_eq!(json, expected);
    }
}
