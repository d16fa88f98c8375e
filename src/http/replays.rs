//! `POST /subscriptions/{id}/replay`, `GET /subscriptions/{id}/replays`, `GET /replays/{id}` and `POST /replays/{id}/cancel`:
//! sends again what a subscription had in a range of time, as a job that can be watched and stopped.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::deliveries::TIME_EXPECTED;
use super::problem::{FieldError, Kind, Problem, quoted, shortened};
use super::query::{self, PageRules};
use super::reply::{self, Answer, with_header};
use super::subscription_body::{kind_of, object, refuse_if_any};
use super::subscriptions::to_the_end;
use super::{Http, IdSegment, get_or_head, visible, with};
use crate::access::Permission;
use crate::actors::AcceptError;
use crate::audit::{Act, Action};
use crate::delivery::{DeliveryId, DeliveryState, SubscriptionId, Timestamp};
use crate::store::{Asked, NewReplay, Replay, ReplayId, ReplayState};

const BODY_EXPECTED: &str = "an object like {\"from\": \"2026-01-05T09:30:00Z\", \"to\": \"2026-01-05T10:00:00Z\"}";
const FIELDS: &str = "from, to, states";
const STATES_EXPECTED: &str =
    "one or both of \"failed\" and \"delivered\"; what is not one of these is still on its way";

/// Most replays of a tenant's subscriptions that run at once: they take turns, and their turns are short.
const MAX_RUNNING: u64 = 100;

const PAGES: PageRules =
    PageRules { cursor: "before", cursor_expected: "the id of a replay, a number", default_limit: 50, max_limit: 500 };

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let ask = warp::path!("subscriptions" / IdSegment / "replay").and(warp::post());
    let ask = ask.and(with(http)).and(access(http)).and(sent()).then(ask_for);
    let list = warp::path!("subscriptions" / IdSegment / "replays").and(get_or_head());
    let list = list.and(with(http)).and(access(http)).and(query::raw()).then(replays_of);
    let show = warp::path!("replays" / String).and(get_or_head()).and(with(http)).and(access(http)).then(show);
    let cancel = warp::path!("replays" / String / "cancel").and(warp::post());
    let cancel = cancel.and(with(http)).and(access(http)).then(cancel_replay);
    ask.or(list).unify().or(show).unify().or(cancel).unify().map(reply::render).boxed()
}

async fn ask_for(segment: IdSegment, http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let id = segment.id()?;
    let now = http.api.clock.wall();
    let range = Range::read(&body, now)?;
    let subscription = visible::subscription(&http, &caller, id).await?;
    if subscription.disabled.is_some() {
        return Err(AcceptError::Disabled(id).into());
    }
    let new = NewReplay {
        subscription_id: id,
        states: range.states,
        first: DeliveryId::floor_at(range.from),
        last: DeliveryId::floor_at(range.to).predecessor(),
        by: caller.actor,
    };
    let made = to_the_end(async move {
        let asked = http.api.store.create_replay(&new, MAX_RUNNING, now).await?;
        http.api.engine.replay_asked();
        Ok(asked)
    })
    .await?;
    match made {
        Asked::Made(replay) => {
            let response = reply::json(StatusCode::ACCEPTED, &Shown::from(&replay))?;
            Ok(with_header(response, header::LOCATION, &format!("/replays/{}", replay.id)))
        }
        Asked::Running(running) => Err(already_running(id, running)),
        Asked::TooMany => Err(too_many()),
        Asked::Missing => Err(visible::no_subscription(id)),
    }
}

fn already_running(id: SubscriptionId, running: ReplayId) -> Problem {
    let detail = format!(
        "replay {running} of subscription {id} still runs: wait until GET /replays/{running} says that it has ended, or \
         POST /replays/{running}/cancel"
    );
    Problem::new(Kind::ReplayRunning, detail)
}

fn too_many() -> Problem {
    let detail =
        format!("{MAX_RUNNING} replays of the tenant run, the most that may; wait for one to end, or cancel one");
    Problem::new(Kind::QuotaExceeded, detail).member("limit", MAX_RUNNING)
}

/// What a body asks for.
#[derive(Debug, PartialEq)]
struct Range {
    from: Timestamp,
    to: Timestamp,
    states: Vec<DeliveryState>,
}

impl Range {
    /// Without `to` it ends now, whenever now is.
    fn read(body: &[u8], now: Timestamp) -> Result<Self, Problem> {
        let (mut from, mut to, mut states) = (None, None, vec![DeliveryState::Failed]);
        let mut errors = Vec::new();
        for (name, value) in object(body, BODY_EXPECTED)? {
            match &*name {
                "from" => from = time("from", &value, &mut errors),
                "to" if value.is_null() => {}
                "to" => to = time("to", &value, &mut errors),
                "states" => states = read_states(&value, &mut errors),
                name => errors.push(FieldError::new(shortened(name), "a field that does not exist", FIELDS)),
            }
        }
        if from.is_none() && errors.iter().all(|error| error.field != "from") {
            errors.push(FieldError::new("from", "nothing", TIME_EXPECTED));
        }
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            errors.push(FieldError::new("to", "a time that is not after from", "a later time, or none for now"));
        }
        refuse_if_any(errors)?;
        // What is accepted in this very millisecond is before its end.
        let now = now + std::time::Duration::from_millis(1);
        Ok(Self { from: from.unwrap_or_default(), to: to.unwrap_or(now), states })
    }
}

fn time(field: &'static str, value: &Value, errors: &mut Vec<FieldError>) -> Option<Timestamp> {
    let found = match value {
        Value::String(text) => match text.parse() {
            Ok(time) => return Some(time),
            Err(()) => quoted(text),
        },
        other => kind_of(other),
    };
    errors.push(FieldError::new(field, found, TIME_EXPECTED));
    None
}

fn read_states(value: &Value, errors: &mut Vec<FieldError>) -> Vec<DeliveryState> {
    let ended = |word: &Value| match word.as_str()?.parse().ok()? {
        state @ (DeliveryState::Failed | DeliveryState::Delivered) => Some(state),
        _ => None,
    };
    let words = value.as_array().filter(|words| !words.is_empty());
    let states: Option<Vec<_>> = words.and_then(|words| words.iter().map(ended).collect());
    let Some(mut states) = states else {
        let found = if value.is_array() { quoted(&value.to_string()) } else { kind_of(value) };
        errors.push(FieldError::new("states", found, STATES_EXPECTED));
        return Vec::new();
    };
    states.sort_by_key(|state| state.as_str());
    states.dedup();
    states
}

async fn replays_of(segment: IdSegment, http: Arc<Http>, access: Access, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let id = segment.id()?;
    let page = PAGES.parse(&query)?;
    visible::subscription(&http, &caller, id).await?;
    let mut found = http.api.store.replays(id, page.cursor, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.id);
    let response = reply::json(StatusCode::OK, &found.iter().map(Shown::from).collect::<Vec<_>>())?;
    Ok(PAGES.link_next(response, &format!("/subscriptions/{id}/replays"), page.limit, next))
}

async fn show(segment: String, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Read)?;
    let replay = visible::replay(&http, &caller, &segment).await?;
    reply::json(StatusCode::OK, &Shown::from(&replay))
}

/// Done once, however often it is asked for. What is on its way already is delivered.
async fn cancel_replay(segment: String, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Manage)?;
    let id = visible::replay(&http, &caller, &segment).await?.id;
    let act = Act { by: caller.actor, action: Action::ReplayCancelled, detail: Some(format!("replay {id}")) };
    let (state, now) = (ReplayState::Cancelled, http.api.clock.wall());
    let ended = http.api.store.end_replay(id, state, Some("cancelled by hand"), Some(&act), now).await?;
    let ended = ended.ok_or_else(|| visible::no_replay(id))?;
    reply::json(StatusCode::OK, &Shown::from(&ended))
}

#[derive(Serialize)]
struct Shown<'a> {
    replay_id: ReplayId,
    subscription_id: SubscriptionId,
    states: &'a [DeliveryState],
    from: String,
    to: String,
    state: ReplayState,
    progress: f64,
    searched_to: String,
    matched: u64,
    resent: u64,
    detail: Option<&'a str>,
    requested_at: String,
    ended_at: Option<String>,
    status_url: String,
}

impl<'a> From<&'a Replay> for Shown<'a> {
    fn from(replay: &'a Replay) -> Self {
        let [first, last, position] = [replay.first, replay.last, replay.position].map(DeliveryId::accepted_at);
        let searched_to = position.min(last);
        Self {
            replay_id: replay.id,
            subscription_id: replay.subscription_id,
            states: &replay.states,
            from: first.to_string(),
            to: last.to_string(),
            state: replay.state,
            progress: if replay.position > replay.last { 1.0 } else { share(first, searched_to, last) },
            searched_to: searched_to.to_string(),
            matched: replay.matched,
            resent: replay.resent,
            detail: replay.detail.as_deref(),
            requested_at: replay.requested_at.to_string(),
            ended_at: replay.ended_at.map(|at| at.to_string()),
            status_url: format!("/replays/{}", replay.id),
        }
    }
}

/// How much of the time has been gone through, to the thousandth.
fn share(first: Timestamp, at: Timestamp, last: Timestamp) -> f64 {
    let all = last.since(first).as_secs_f64();
    let share = if all > 0.0 { at.since(first).as_secs_f64() / all } else { 0.0 };
    (share.min(1.0) * 1000.0).floor() / 1000.0
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::openapi::tests::assert_matches;

    const NOW: Timestamp = Timestamp(1_700_000_060_000);

    fn read(body: &Value) -> Result<Range, Problem> {
        Range::read(body.to_string().as_bytes(), NOW)
    }

    #[test]
    fn a_replay_begins_somewhere_and_ends_now_with_what_has_failed_unless_it_says_otherwise() {
        let range = read(&json!({ "from": "2023-11-14T22:13:20Z" })).unwrap();
        let from = Timestamp(1_700_000_000_000);
        let states = vec![DeliveryState::Failed];
        assert_eq!(range, Range { from, to: Timestamp(NOW.0 + 1), states });
        let all = json!({ "from": "2023-11-14T22:13:20Z", "to": "2023-11-14T22:13:21Z", "states": ["failed", "delivered", "failed"] });
        let range = read(&all).unwrap();
        assert_eq!(range.to, Timestamp(1_700_000_001_000));
        assert_eq!(range.states, [DeliveryState::Delivered, DeliveryState::Failed]);
    }

    #[test]
    fn a_range_that_is_none_and_states_that_have_not_ended_are_refused_by_name() {
        let from = "2023-11-14T22:13:20Z";
        for (body, field) in [
            (json!({}), "from"),
            (json!({ "from": null }), "from"),
            (json!({ "from": "yesterday" }), "from"),
            (json!({ "from": from, "to": from }), "to"),
            (json!({ "from": from, "to": 7 }), "to"),
            (json!({ "from": from, "states": [] }), "states"),
            (json!({ "from": from, "states": ["pending"] }), "states"),
            (json!({ "from": from, "states": "failed" }), "states"),
            (json!({ "from": from, "until": from }), "until"),
        ] {
            let problem = read(&body).unwrap_err();
            assert_eq!(problem.kind(), Kind::InvalidField, "{body}");
            assert!(format!("{problem:?}").contains(&format!("field: \"{field}\"")), "{problem:?}");
        }
    }

    #[test]
    fn a_replay_shows_how_far_it_has_come() {
        let at = |ms: i64| DeliveryId::floor_at(Timestamp(1_700_000_000_000 + ms));
        let replay = Replay {
            id: ReplayId(3),
            subscription_id: SubscriptionId(1),
            tenant: "default".into(),
            states: vec![DeliveryState::Failed],
            first: at(0),
            last: at(4000),
            position: at(1000),
            matched: 7,
            resent: 6,
            state: ReplayState::Running,
            detail: None,
            requested_at: NOW,
            ended_at: None,
        };
        let shown = json!(Shown::from(&replay));
        assert_matches("Replay", &shown);
        assert_eq!((&shown["progress"], &shown["searched_to"]), (&json!(0.25), &json!("2023-11-14T22:13:21.000Z")));
        let (position, state, ended_at) = (replay.last.successor(), ReplayState::Done, Some(NOW));
        let shown = json!(Shown::from(&Replay { position, state, ended_at, ..replay }));
        assert_matches("Replay", &shown);
        assert_eq!((&shown["progress"], &shown["state"]), (&json!(1.0), &json!("done")));
    }
}
