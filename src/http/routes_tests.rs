//! The routes as a whole, over an engine on standby and a store that is away or holds one subscription: who answers, how
//! refusals look, and what is written.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::Service;
use serde_json::Value;
use uuid::Uuid;
use warp::http::{Request, header};

use super::openapi::tests::assert_matches;
use super::subscription_shown::tests::subscription;
use super::*;
use crate::access::{Actor, ApiKey, NewApiKey, Prefix};
use crate::audit::{Act, AuditFilter, AuditRecord, Thing};
use crate::cache::NoCache;
use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, DisabledReason, Event, EventId, Retry, StateChange, Subscription, Timestamp,
};
use crate::store::{
    Asked, BacklogPage, Batch, DeliveryRecord, EventDelivery, IdempotencyKey, JanitorCounts, MasterKeyRecord,
    NewReplay, NewSubscription, Pending, Progress, Recovery, Replay, ReplayId, ReplayState, Reseal, Result,
    RetriesWaiting, Search, Step, StoreError, SubscriptionChange, Update,
};

/// A store out of reach, but for the one subscription that it may hold.
#[derive(Default)]
struct Away {
    held: Option<Subscription>,
    /// How many updates come too late.
    overtaken: u32,
    updates: Mutex<Vec<SubscriptionChange>>,
}

fn away<T>() -> Result<T> {
    Err(StoreError::Unavailable("it is away".to_owned()))
}

macro_rules! away {
    ($($call:ident($($argument:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Away {
            fn name(&self) -> &'static str {
                "sqlite"
            }
            async fn close(&self) {}
            async fn subscription(&self, _: SubscriptionId) -> Result<Option<Subscription>> {
                self.held.clone().map_or_else(away, |held| Ok(Some(held)))
            }
            async fn update_subscription(
                &self,
                _: SubscriptionId,
                change: SubscriptionChange,
                _: Timestamp,
            ) -> Result<Update> {
                let Some(held) = self.held.clone() else { return away() };
                let mut updates = self.updates.lock().unwrap();
                updates.push(change);
                let late = updates.len() <= self.overtaken as usize;
                Ok(if late { Update::Overtaken } else { Update::Done(held) })
            }
            $(async fn $call(&self, $(_: $argument),*) -> Result<$answer> {
                away()
            })*
        }
    };
}

away! {
    migrate(Timestamp) -> ();
    identity() -> Uuid;
    ping() -> ();
    acquire() -> bool;
    commit(&Batch) -> ();
    stored(&[DeliveryId]) -> Vec<DeliveryId>;
    stored_events(&[EventId]) -> Vec<EventId>;
    idempotency_keys(&[(Arc<str>, Arc<str>)]) -> Vec<IdempotencyKey>;
    matching(&str, &str) -> Vec<SubscriptionId>;
    event(EventId) -> Option<Event>;
    event_deliveries(EventId, DeliveryId, usize) -> Vec<EventDelivery>;
    prune_keys(Timestamp, usize) -> JanitorCounts;
    reserve_subscription_id() -> SubscriptionId;
    subscriptions_with_secrets(Option<SubscriptionId>, usize) -> Vec<Subscription>;
    reseal(&[Reseal]) -> Vec<Subscription>;
    master_keys() -> Vec<MasterKeyRecord>;
    add_master_key(&MasterKeyRecord) -> ();
    is_sealed_under(&str) -> bool;
    forget_master_keys(&str) -> Vec<String>;
    create_subscription(NewSubscription, u64, Timestamp) -> Option<Subscription>;
    subscriptions(Option<&str>, Option<SubscriptionId>, usize) -> Vec<Subscription>;
    delete_subscription(SubscriptionId, &Actor, Timestamp) -> bool;
    subscription_versions(&[SubscriptionId]) -> Vec<(SubscriptionId, i64)>;
    recovery() -> Recovery;
    pending(SubscriptionId, usize) -> Pending;
    backlog_page(SubscriptionId, DeliveryId, usize, usize) -> BacklogPage;
    retries(SubscriptionId, usize) -> Vec<Retry>;
    unfinished(&[DeliveryId]) -> Vec<Delivery>;
    subscriptions_due(Timestamp, usize) -> Vec<SubscriptionId>;
    retries_waiting(Timestamp, u64) -> RetriesWaiting;
    subscriptions_behind(usize) -> Vec<SubscriptionId>;
    bring_retries_forward(Timestamp) -> u64;
    delivery(DeliveryId) -> Option<DeliveryRecord>;
    logs(SubscriptionId, Option<Uuid>, usize) -> Vec<AttemptLog>;
    search_step(&Search, usize) -> Step;
    subscriptions_ever(&str, usize) -> Option<Vec<SubscriptionId>>;
    deliveries(&[DeliveryId], usize) -> Vec<Delivery>;
    create_replay(&NewReplay, u64, Timestamp) -> Asked;
    replay(ReplayId) -> Option<Replay>;
    replays(SubscriptionId, Option<i64>, usize) -> Vec<Replay>;
    running_replays(ReplayId, usize) -> Vec<ReplayId>;
    advance_replay(&Progress) -> ();
    end_replay(ReplayId, ReplayState, Option<&str>, Option<&Act>, Timestamp) -> Option<Replay>;
    prune_replays(Timestamp, usize) -> JanitorCounts;
    prepare(Timestamp) -> JanitorCounts;
    expire(Timestamp, Timestamp, usize) -> JanitorCounts;
    prune(Timestamp, usize) -> JanitorCounts;
    save_failing(SubscriptionId, Option<Timestamp>) -> ();
    backlog(SubscriptionId, DeliveryId, u64) -> u64;
    record(&Act, &Thing, Option<&str>, Timestamp) -> ();
    audit(&AuditFilter, Option<i64>, usize) -> Vec<AuditRecord>;
    prune_audit(Timestamp, usize) -> JanitorCounts;
    state_changes(SubscriptionId, Option<i64>, usize) -> Vec<StateChange>;
    unannounced(usize) -> Vec<StateChange>;
    announced(&[i64]) -> ();
    create_api_key(NewApiKey, u64, &Actor, Timestamp) -> Option<ApiKey>;
    api_key(Prefix) -> Option<ApiKey>;
    api_keys(Option<Prefix>, usize) -> Vec<ApiKey>;
    api_keys_changed_since(i64, usize) -> Vec<ApiKey>;
    api_key_revision() -> i64;
    revoke_api_key(Prefix, &Actor, Timestamp) -> Option<ApiKey>;
    prune_api_keys(Timestamp, usize) -> JanitorCounts;
}

struct Answered {
    status: u16,
    headers: warp::http::HeaderMap,
    body: Bytes,
}

impl Answered {
    /// The last word of the problem's type; checks that it is as documented.
    fn problem(&self) -> String {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_matches("Problem", &problem);
        assert_eq!(problem["status"], self.status);
        problem["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }
}

async fn send(request: Request<Full<Bytes>>) -> Answered {
    send_to(Arc::new(Away::default()), request).await
}

async fn send_to(store: Arc<Away>, request: Request<Full<Bytes>>) -> Answered {
    let store: Arc<dyn Store> = store;
    let api = Api {
        engine: Engine::standby(store.clone(), Arc::new(NoCache::default())),
        store,
        vault: Arc::new(Vault::new(Vec::new(), true)),
        metrics: Arc::default(),
        policy: Arc::default(),
        keys: None,
        max_subscriptions: 1,
        dev: false,
        clock: Clock::start(),
    };
    let service = TowerToHyperService::new(warp::service(routes(Arc::new(api), BodyLimits::default())));
    let (head, body) = service.call(request).await.unwrap_or_else(|never| match never {}).into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answered { status: head.status.as_u16(), headers: head.headers, body }
}

async fn call(method: &str, path: &str) -> Answered {
    send(Request::builder().method(method).uri(path).body(Full::default()).unwrap()).await
}

/// A path of the route, with something in place of each name.
fn example(route: &routes::Route) -> String {
    let segments = route.path.split('/').map(|segment| match segment {
        "{delivery_id}" | "{event_id}" => "00000000-0000-0000-0000-000000000000",
        "{file}" => "index.html",
        "{name}" => "busy",
        "{id}" | "{replay_id}" => "1",
        "{prefix}" => "0123456789",
        other => other,
    });
    segments.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_is_served_and_takes_its_methods_only() {
    for route in ROUTES {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"] {
            let answered = call(method, &example(route)).await;
            let listed = route.allow().split(", ").any(|allowed| allowed == method);
            assert_eq!(answered.status != 405, listed, "{method} {}", route.path);
            assert_ne!(answered.status, 404, "{method} {}", route.path);
            if !listed {
                assert_eq!(answered.headers[header::ALLOW], route.allow());
                assert_eq!(answered.problem(), "method-not-allowed");
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_problem() {
    for path in ["/x", "/subscriptions/1/x", "/docs/x.js", "/problems/x", "/ingest", "/livez/x", "/events/1/2"] {
        assert_eq!(call("GET", path).await.problem(), "page-not-found", "{path}");
    }
}

#[tokio::test]
async fn what_is_no_id_is_a_missing_subscription_delivery_or_event() {
    for id in ["x", "-1", "+1", "1.0", "%31", "99999999999999999999"] {
        assert_eq!(call("GET", &format!("/subscriptions/{id}")).await.problem(), "subscription-not-found", "{id}");
        assert_eq!(call("POST", &format!("/ingest/{id}")).await.problem(), "subscription-not-found", "{id}");
    }
    assert_eq!(call("GET", "/status/1").await.problem(), "delivery-not-found");
    assert_eq!(call("GET", "/deliveries/1/explain").await.problem(), "delivery-not-found");
    assert_eq!(call("GET", "/events/1").await.problem(), "event-not-found");
}

#[tokio::test]
async fn a_store_that_is_away_is_a_503_that_says_when_to_come_back() {
    let calls = [
        ("POST", "/ingest/1"),
        ("GET", "/subscriptions"),
        ("DELETE", "/subscriptions/1"),
        ("GET", "/subscriptions/1/logs"),
        ("GET", "/subscriptions/1/changes"),
        ("GET", "/subscriptions/1/state"),
        ("POST", "/subscriptions/1/enable"),
        ("POST", "/subscriptions/1/disable"),
        ("GET", "/deliveries/00000000-0000-0000-0000-000000000000/explain"),
        ("GET", "/status/00000000-0000-0000-0000-000000000000"),
        ("GET", "/events/00000000-0000-0000-0000-000000000000?limit=1000"),
    ];
    for (method, path) in calls {
        let answered = call(method, path).await;
        assert_eq!(answered.problem(), "store-unavailable", "{method} {path}");
        assert!(answered.headers.contains_key(header::RETRY_AFTER));
    }
}

#[tokio::test]
async fn a_node_on_standby_is_alive_and_not_ready() {
    assert_eq!(call("GET", "/livez").await.status, 200);
    let ready = call("GET", "/readyz").await;
    assert_eq!((ready.status, ready.problem().as_str()), (503, "not-ready"));
    let home = call("GET", "/").await;
    assert!(String::from_utf8_lossy(&home.body).contains("standby"));
}

#[tokio::test]
async fn an_unreadable_header_is_named() {
    let request = Request::builder().method("POST").uri("/ingest/1").header("event_type", &b"\xff"[..]);
    let answered = send(request.body(Full::default()).unwrap()).await;
    assert_eq!(answered.problem(), "invalid-parameter");
    assert!(String::from_utf8_lossy(&answered.body).contains("event_type"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_the_limit() {
    let over = Full::from(vec![b' '; BodyLimits::default().max_bytes + 1]);
    let answered = send(Request::builder().method("POST").uri("/subscriptions").body(over).unwrap()).await;
    assert_eq!((answered.status, answered.problem().as_str()), (413, "payload-too-large"));
    assert!(String::from_utf8_lossy(&answered.body).contains("1048576"));
}

#[tokio::test]
async fn a_body_that_is_no_subscription_is_refused() {
    for (body, kind) in [("", "invalid-json"), ("{", "invalid-json"), ("[]", "invalid-field"), ("{}", "invalid-field")]
    {
        let request = Request::builder().method("POST").uri("/subscriptions").body(Full::from(body)).unwrap();
        assert_eq!(send(request).await.problem(), kind, "{body}");
    }
}

/// An event that can be published, under this key.
async fn publish(key: &[u8]) -> Answered {
    let request = Request::builder().method("POST").uri("/events").header("idempotency-key", key);
    send(request.body(Full::from(r#"{"event_type":"order.created","payload":{}}"#)).unwrap()).await
}

#[tokio::test]
async fn an_event_reaches_the_engine_which_is_on_standby() {
    let answered = publish(b"order-123-created").await;
    assert_eq!((answered.status, answered.problem().as_str()), (503, "store-unavailable"));
}

#[tokio::test]
async fn an_idempotency_key_that_cannot_be_used_is_named() {
    for key in [&b""[..], b"a\tb", b"\xff", &[b'x'; 256]] {
        let answered = publish(key).await;
        assert_eq!((answered.status, answered.problem().as_str()), (400, "invalid-parameter"), "{key:?}");
        let said = String::from_utf8_lossy(&answered.body).to_lowercase();
        assert!(said.contains("header idempotency-key"), "{said}");
    }
}

#[tokio::test]
async fn a_page_of_deliveries_has_a_limit_and_a_cursor() {
    for query in ["limit=0", "limit=1001", "after=7", "before=7"] {
        let answered = call("GET", &format!("/events/00000000-0000-0000-0000-000000000000?{query}")).await;
        assert_eq!(answered.problem(), "invalid-parameter", "{query}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused() {
    for (body, kind) in [("", "invalid-json"), ("{", "invalid-json"), ("[]", "invalid-field"), ("{}", "invalid-field")]
    {
        let request = Request::builder().method("POST").uri("/events").body(Full::from(body)).unwrap();
        assert_eq!(send(request).await.problem(), kind, "{body}");
    }
}

/// The answer, and what was written for it.
async fn change(store: Away, method: &str, path: &str, body: &'static str) -> (Answered, Vec<SubscriptionChange>) {
    let store = Arc::new(store);
    let request = Request::builder().method(method).uri(path).body(Full::from(body)).unwrap();
    let answered = send_to(store.clone(), request).await;
    let updates = store.updates.lock().unwrap().clone();
    (answered, updates)
}

#[tokio::test]
async fn a_patch_that_is_overtaken_looks_again_a_bounded_number_of_times() {
    for (overtaken, status) in [(0, 200), (9, 200), (10, 409), (100, 409)] {
        let store = Away { held: Some(subscription()), overtaken, ..Away::default() };
        let (answered, updates) = change(store, "PATCH", "/subscriptions/1", r#"{"max_concurrency":4}"#).await;
        assert_eq!(answered.status, status, "overtaken {overtaken} times");
        assert!(updates.len() <= 10 && updates.iter().all(|update| update.only_version == Some(3)), "{updates:?}");
        if status == 409 {
            assert_eq!(answered.problem(), "changed-meanwhile");
        }
    }
}

#[tokio::test]
async fn disabling_and_enabling_write_only_what_makes_a_difference() {
    let enabled = || Some(subscription());
    let disabled = || Some(Subscription { disabled: Some(DisabledReason::Gone), ..subscription() });
    for (held, call, body, written) in [
        (enabled(), "disable", r#"{"reason":"moving"}"#, Some((Some(DisabledReason::ByHand), false))),
        (disabled(), "disable", "", None),
        (disabled(), "enable", "", Some((None, false))),
        (disabled(), "enable", r#"{"backlog":"drop"}"#, Some((None, true))),
        (enabled(), "enable", r#"{"backlog":"deliver"}"#, None),
        (enabled(), "enable", r#"{"backlog":"drop"}"#, Some((None, true))),
    ] {
        let path = format!("/subscriptions/1/{call}");
        let (answered, updates) = change(Away { held, ..Away::default() }, "POST", &path, body).await;
        assert_eq!(answered.status, 200, "{call} {body}");
        assert_matches("Subscription", &serde_json::from_slice(&answered.body).unwrap());
        let made = updates.first().map(|update| (update.disabled.unwrap(), update.drop_backlog));
        assert_eq!((made, updates.len()), (written, usize::from(written.is_some())), "{call} {body}");
        if call == "disable" && written.is_some() {
            assert_eq!(updates[0].detail.as_deref(), Some("moving"));
        }
    }
}

#[tokio::test]
async fn a_node_on_standby_does_not_know_how_an_actor_is() {
    let store = Away { held: Some(subscription()), ..Away::default() };
    let (answered, _) = change(store, "GET", "/subscriptions/1/state", "").await;
    assert_eq!((answered.status, answered.problem().as_str()), (503, "store-unavailable"));
}
