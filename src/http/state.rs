//! `GET /subscriptions/{id}/state`: a subscription's actor as it is at this moment.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::reply::{self, Answer, with_header};
use super::{Http, IdSegment, get_or_head, visible, with};
use crate::access::Permission;
use crate::actors::LiveState;
use crate::delivery::{BreakerState, DeliveryId, DisabledReason, LastFailure, Subscription, SubscriptionId, Timestamp};

const PASSIVE: &str = "No actor runs for it: nothing is due, and it costs nothing but its row. Its next event, or a retry \
                       that becomes due, starts one.";

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let state = warp::path!("subscriptions" / IdSegment / "state").and(get_or_head());
    state.and(with(http)).and(access(http)).then(state_of).map(reply::render).boxed()
}

async fn state_of(segment: IdSegment, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Read)?;
    let id = segment.id()?;
    let subscription = visible::subscription(&http, &caller, id).await?;
    let live = http.api.engine.state(id).await?;
    let shown = Shown::new(&subscription, live.as_ref(), http.api.clock.steady());
    Ok(with_header(reply::json(StatusCode::OK, &shown)?, header::CACHE_CONTROL, "no-store"))
}

#[derive(Serialize)]
struct Shown<'a> {
    subscription_id: SubscriptionId,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    disabled: Option<DisabledReason>,
    failing_since: Option<String>,
    max_backlog: u64,
    #[serde(flatten)]
    live: Option<Live<'a>>,
}

impl<'a> Shown<'a> {
    fn new(subscription: &Subscription, live: Option<&'a LiveState>, now: Timestamp) -> Self {
        // What is saved of it comes later.
        let failing_since = live.map_or(subscription.failing_since, |live| live.snapshot.failing_since);
        Self {
            subscription_id: subscription.id,
            active: live.is_some(),
            detail: live.is_none().then_some(PASSIVE),
            disabled: subscription.disabled,
            failing_since: text(failing_since),
            max_backlog: live.map_or_else(|| subscription.settings.max_backlog(), |live| live.max_backlog),
            live: live.map(|live| Live::new(live, now)),
        }
    }
}

/// What only an actor knows.
#[derive(Serialize)]
struct Live<'a> {
    window: usize,
    max_concurrency: usize,
    in_flight: usize,
    breaker: BreakerState,
    breaker_until: Option<String>,
    consecutive_failures: u32,
    tokens: Option<u32>,
    held_until: Option<String>,
    backlog: u64,
    drain_rate_per_s: f64,
    ready: usize,
    retries: usize,
    more_in_store: bool,
    blocked_keys: usize,
    oldest_due_age_s: Option<f64>,
    next_wakeup: Option<String>,
    last_failure: Option<Failure<'a>>,
}

impl<'a> Live<'a> {
    fn new(live: &'a LiveState, now: Timestamp) -> Self {
        let snapshot = &live.snapshot;
        Self {
            window: snapshot.window,
            max_concurrency: snapshot.max_concurrency,
            in_flight: snapshot.in_flight,
            breaker: snapshot.breaker,
            breaker_until: text(snapshot.breaker_until),
            consecutive_failures: snapshot.consecutive_failures,
            tokens: snapshot.tokens,
            held_until: text(snapshot.held_until),
            backlog: live.backlog,
            drain_rate_per_s: (live.drain_rate_per_s * 1000.0).round() / 1000.0,
            ready: snapshot.ready,
            retries: snapshot.retries,
            more_in_store: snapshot.more_in_store,
            blocked_keys: snapshot.blocked_keys,
            oldest_due_age_s: snapshot.oldest_due.map(|due| now.since(due).as_secs_f64()),
            next_wakeup: text(snapshot.next_wakeup),
            last_failure: snapshot.last_failure.as_ref().map(Failure::from),
        }
    }
}

#[derive(Serialize)]
struct Failure<'a> {
    delivery_id: DeliveryId,
    at: String,
    error_details: &'a str,
}

impl<'a> From<&'a LastFailure> for Failure<'a> {
    fn from(failure: &'a LastFailure) -> Self {
        Self { delivery_id: failure.delivery_id, at: failure.at.to_string(), error_details: &failure.error_details }
    }
}

fn text(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::{Settings, Snapshot};
    use crate::http::openapi::tests::assert_matches;
    use crate::http::subscription_shown::tests::subscription;

    const NOW: Timestamp = Timestamp(1_700_000_060_000);

    /// A subscription whose breaker is open.
    pub(in crate::http) fn live() -> LiveState {
        let failed = LastFailure {
            delivery_id: DeliveryId::MIN,
            at: Timestamp(1_700_000_000_000),
            error_details: "the receiver answered 500".to_owned(),
        };
        let snapshot = Snapshot {
            window: 1,
            max_concurrency: 32,
            in_flight: 0,
            breaker: BreakerState::Open,
            breaker_until: Some(Timestamp(1_700_000_065_000)),
            consecutive_failures: 12,
            tokens: Some(3),
            held_until: None,
            ready: 5,
            retries: 7,
            more_in_store: true,
            blocked_keys: 2,
            oldest_due: Some(Timestamp(1_700_000_000_000)),
            next_wakeup: Some(Timestamp(1_700_000_065_000)),
            failing_since: Some(Timestamp(1_699_990_000_000)),
            last_failure: Some(failed),
        };
        LiveState { snapshot, backlog: 1200, max_backlog: 5000, drain_rate_per_s: 1.0 / 3.0 }
    }

    #[test]
    fn a_running_actor_is_shown_with_times_and_ages() {
        let shown = json!(Shown::new(&subscription(), Some(&live()), NOW));
        assert_matches("SubscriptionState", &shown);
        assert_eq!((&shown["active"], shown.get("detail")), (&json!(true), None));
        assert_eq!((&shown["breaker"], &shown["breaker_until"]), (&json!("open"), &json!("2023-11-14T22:14:25.000Z")));
        assert_eq!((&shown["backlog"], &shown["max_backlog"]), (&json!(1200), &json!(5000)));
        assert_eq!((&shown["oldest_due_age_s"], &shown["drain_rate_per_s"]), (&json!(60.0), &json!(0.333)));
        assert_eq!(shown["last_failure"]["at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(shown["failing_since"], "2023-11-14T19:26:40.000Z", "what the actor knows, not what is saved");
    }

    #[test]
    fn a_subscription_without_an_actor_says_so_and_what_its_row_says() {
        let settings = Settings { max_backlog: Some(10), ..Settings::default() };
        let idle = Subscription { settings: settings.into(), failing_since: Some(NOW), ..subscription() };
        let shown = json!(Shown::new(&idle, None, NOW));
        assert_matches("SubscriptionState", &shown);
        assert_eq!((&shown["active"], &shown["max_backlog"]), (&json!(false), &json!(10)));
        assert_eq!(shown["failing_since"], "2023-11-14T22:14:20.000Z");
        assert!(shown["detail"].as_str().unwrap().starts_with("No actor runs"), "{shown}");
        assert!(shown.get("window").is_none());
    }
}
