//! `GET /deliveries`: finds deliveries by what they are and where they stand. `POST /deliveries/{id}/resend`: sends one again,
//! as a delivery of its own.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::idempotency::{self, Key};
use super::problem::{FieldError, Kind, Problem, quoted};
use super::query::{self, Filters, PageRules};
use super::reply::{self, Answer};
use super::{Http, get_or_head, visible, with};
use crate::access::Permission;
use crate::audit::{Act, Action};
use crate::delivery::{DeliveryId, DeliveryState, EventId, SubscriptionId, Timestamp, check_event_type};
use crate::store::search::{Found, find};
use crate::store::{DeliveryRecord, FoundDelivery, Search};

const PAGES: PageRules = PageRules {
    cursor: "cursor",
    cursor_expected: "the cursor in the next of an answer, a UUID",
    default_limit: 50,
    max_limit: 500,
};
const FILTERS: [&str; 5] = ["subscription_id", "event_type", "state", "from", "to"];
const STATE_EXPECTED: &str = "pending, retrying, delivered, failed or cancelled";
pub(super) const TIME_EXPECTED: &str = "an RFC 3339 time, such as 2026-01-05T09:30:00Z";

/// Most pages that are looked for at the same time: what else is read from the store goes in between.
const MAX_SEARCHES: usize = 4;
/// How long one more waits for its turn.
const SEARCH_WAIT: Duration = Duration::from_secs(2);
/// What a caller is told to wait when its turn has not come.
const SEARCH_RETRY_AFTER_S: u64 = 1;

/// Shares out the places of those who look for deliveries, or read one to send it again.
pub(super) struct Searches(Semaphore);

impl Default for Searches {
    fn default() -> Self {
        Self(Semaphore::new(MAX_SEARCHES))
    }
}

impl Searches {
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match timeout(SEARCH_WAIT, self.0.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // It is never closed: the turn has not come.
            _ => Err(Problem::new(
                Kind::Busy,
                format!("{MAX_SEARCHES} searches or resends are under way, which is as many as may be"),
            )
            .retry_after(SEARCH_RETRY_AFTER_S)),
        }
    }
}

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let list = warp::path!("deliveries").and(get_or_head());
    let list = list.and(with(http)).and(access(http)).and(query::raw()).then(list_deliveries);
    let resend = warp::path!("deliveries" / String / "resend").and(warp::post());
    let resend = resend.and(with(http)).and(access(http)).and(idempotency::key()).then(resend_delivery);
    list.or(resend).unify().map(reply::render).boxed()
}

async fn list_deliveries(http: Arc<Http>, access: Access, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let (page, filters) = PAGES.parse_filtered::<DeliveryId>(&query, &FILTERS)?;
    let mut search = search(&filters)?;
    let confined = caller.tenant.is_some();
    search.tenant = caller.tenant;
    if let Some(cursor) = page.cursor {
        search.last = search.last.min(cursor.predecessor());
    }
    let mut found = Found::default();
    if search.first <= search.last {
        let _turn = http.searches.turn().await?;
        found = find(&*http.api.store, &search, page.limit).await?;
    }
    if confined {
        // What was looked at last may be another tenant's, whose ids are nobody else's to know.
        let shown = found.deliveries.last().map(|last| last.id);
        found.reached = found.reached.map(|reached| if Some(reached) == shown { reached } else { reached.blurred() });
    }
    let path = filters.on("/deliveries");
    let next = found.reached.map(|reached| PAGES.next(&path, page.limit, reached));
    let response = reply::json(StatusCode::OK, &Shown::new(&found, next))?;
    Ok(PAGES.link_next(response, &path, page.limit, found.reached))
}

/// In a query `+` stands for a space, and an offset that is pasted into one has a `+` all the same. No time has a space.
fn time_in_query(text: &str) -> Option<Timestamp> {
    text.replace(' ', "+").parse().ok()
}

fn search(filters: &Filters) -> Result<Search, Problem> {
    let mut search = Search::all();
    let subscription: Option<i64> = filters.get("subscription_id", "a subscription's id, a number")?;
    search.subscription_id = subscription.map(SubscriptionId);
    if let Some(name) = filters.get::<String>("event_type", "an event type")? {
        check_event_type(&name).map_err(|invalid| {
            Problem::parameter(FieldError::new("query parameter event_type", quoted(&name), invalid.expected))
        })?;
        search.event_type = Some(name.into());
    }
    search.states.extend(filters.get::<DeliveryState>("state", STATE_EXPECTED)?);
    let time = |field| filters.get_with(field, TIME_EXPECTED, time_in_query);
    let (from, to) = (time("from")?, time("to")?);
    search.first = from.map_or(search.first, DeliveryId::floor_at);
    search.last = to.map_or(search.last, |to| DeliveryId::floor_at(to).predecessor());
    Ok(search)
}

#[derive(Serialize)]
struct Shown<'a> {
    deliveries: Vec<Row<'a>>,
    /// Nobody has looked at what was accepted before; `None` if that is nothing.
    searched_to: Option<String>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Row<'a> {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    event_type: Option<&'a str>,
    event_id: Option<EventId>,
    resend_of: Option<DeliveryId>,
    state: DeliveryState,
    accepted_at: String,
    next_attempt_at: Option<String>,
    status_url: String,
}

impl<'a> Shown<'a> {
    fn new(found: &'a Found, next: Option<String>) -> Self {
        Self {
            deliveries: found.deliveries.iter().map(Row::from).collect(),
            searched_to: found.reached.map(|reached| reached.accepted_at().to_string()),
            next,
        }
    }
}

impl<'a> From<&'a FoundDelivery> for Row<'a> {
    fn from(found: &'a FoundDelivery) -> Self {
        let state = found.state();
        let next = found.next_attempt_at.filter(|_| state == DeliveryState::Retrying);
        Self {
            delivery_id: found.id,
            subscription_id: found.subscription_id,
            event_type: found.event_type.as_deref(),
            event_id: found.event_id,
            resend_of: found.resend_of,
            state,
            accepted_at: found.id.accepted_at().to_string(),
            next_attempt_at: next.map(|at| at.to_string()),
            status_url: format!("/status/{}", found.id),
        }
    }
}

async fn resend_delivery(segment: String, http: Arc<Http>, access: Access, key: Option<Key>) -> Answer {
    let caller = access.to(Permission::Manage)?;
    let record = visible::delivery(&http, &caller, &segment).await?;
    let key = key.map(|key| key.of_request(&[])).transpose()?;
    if !record.subscription_exists {
        return Err(subscription_deleted(&record));
    }
    // Holds a payload that the node's budget does not count yet.
    let _turn = http.searches.turn().await?;
    let original = visible::with_payload(&http, &record).await?.ok_or_else(|| payload_gone(record.id))?;
    let active = http.api.engine.activate(record.subscription_id).await?;
    let detail = Some(format!("delivery {}", record.id));
    let act = Act { by: caller.actor, action: Action::Resent, detail };
    let accepted = http.api.engine.resend(&active, original, act, key).await?;
    let response = reply::json(
        StatusCode::ACCEPTED,
        &Resent {
            delivery_id: accepted.outcome,
            subscription_id: record.subscription_id,
            resend_of: record.resend_of.unwrap_or(record.id),
            status_url: format!("/status/{}", accepted.outcome),
        },
    )?;
    Ok(idempotency::mark(response, accepted.replayed))
}

#[derive(Serialize)]
struct Resent {
    delivery_id: DeliveryId,
    subscription_id: SubscriptionId,
    resend_of: DeliveryId,
    status_url: String,
}

fn subscription_deleted(record: &DeliveryRecord) -> Problem {
    let (id, subscription) = (record.id, record.subscription_id);
    let detail =
        format!("delivery {id} was of subscription {subscription}, which was deleted: there is nowhere to send it");
    Problem::new(Kind::SubscriptionDeleted, detail)
}

fn payload_gone(id: DeliveryId) -> Problem {
    let detail = format!("delivery {id} is remembered, and its payload is not: its retention has passed");
    Problem::new(Kind::PayloadGone, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::Outcome;
    use crate::http::openapi::tests::assert_matches;

    fn asked(query: &str) -> Result<Search, Problem> {
        PAGES.parse_filtered::<DeliveryId>(query, &FILTERS).and_then(|(_, filters)| search(&filters))
    }

    /// A confined caller's search may have ended at another tenant's delivery.
    #[test]
    fn a_cursor_that_is_blurred_keeps_its_place_and_names_no_delivery() {
        let id = |random: u128| DeliveryId(uuid::Uuid::from_u128((0x0189_0a5d_ac96_774b_bcce << 48) | random));
        assert_eq!(id(1).blurred(), id(0xb302_099a_8057).blurred(), "nothing of what is random is left");
        assert_eq!((id(1).blurred(), id(1).blurred().accepted_at()), (id(0xffff_ffff_ffff), id(1).accepted_at()));
    }

    #[test]
    fn a_range_of_time_takes_its_first_instant_and_not_its_last() {
        let search = asked("from=2023-11-14T22:13:20Z&to=2023-11-14T22:13:21Z").unwrap();
        assert_eq!(search.first, DeliveryId::floor_at(Timestamp(1_700_000_000_000)));
        assert_eq!(search.last.accepted_at(), Timestamp(1_700_000_000_999));
    }

    #[test]
    fn an_offset_may_be_pasted_into_a_query_as_it_is() {
        for from in ["2023-11-14T23:13:20+01:00", "2023-11-14T23:13:20%2B01:00", "2023-11-14T21:13:20-01:00"] {
            let search = asked(&format!("from={from}")).unwrap();
            assert_eq!(search.first, DeliveryId::floor_at(Timestamp(1_700_000_000_000)), "{from}");
        }
        assert!(asked("from=2023-11-14%2022:13:20Z").is_err(), "no T");
    }

    #[test]
    fn what_is_no_filter_is_refused_by_name() {
        let search = asked("subscription_id=7&event_type=order.created&state=failed").unwrap();
        assert_eq!((search.subscription_id, search.states), (Some(SubscriptionId(7)), vec![DeliveryState::Failed]));
        for (query, name) in [
            ("state=done", "state"),
            ("subscription_id=x", "subscription_id"),
            ("event_type=a%20b", "event_type"),
            ("from=yesterday", "from"),
            ("to=2023-11-14", "to"),
            ("cursor=7", "cursor"),
        ] {
            let problem = format!("{:?}", asked(query).unwrap_err());
            assert!(problem.contains(&format!("query parameter {name}")), "{problem}");
        }
    }

    #[test]
    fn a_page_says_how_far_was_looked_and_where_the_next_one_is() {
        let id = DeliveryId::floor_at(Timestamp(1_700_000_000_000));
        let found = FoundDelivery {
            id,
            subscription_id: SubscriptionId(1),
            tenant: None,
            event_type: Some("order.created".into()),
            event_id: None,
            resend_of: Some(id),
            last_outcome: Some(Outcome::FailedAttempt),
            next_attempt_at: Some(Timestamp(1_700_000_010_000)),
            subscription_exists: true,
        };
        let page = Found { deliveries: vec![found.clone()], reached: Some(id) };
        let shown = json!(Shown::new(&page, Some(PAGES.next("/deliveries?state=retrying", 1, id))));
        assert_matches("DeliveryPage", &shown);
        assert_eq!(shown["next"], format!("/deliveries?state=retrying&limit=1&cursor={id}"));
        assert_eq!(shown["searched_to"], "2023-11-14T22:13:20.000Z");
        let row = &shown["deliveries"][0];
        assert_eq!((&row["state"], &row["next_attempt_at"]), (&json!("retrying"), &json!("2023-11-14T22:13:30.000Z")));
        let gone = FoundDelivery { subscription_exists: false, ..found };
        let shown = json!(Shown::new(&Found { deliveries: vec![gone], reached: None }, None));
        assert_matches("DeliveryPage", &shown);
        assert_eq!((&shown["searched_to"], &shown["deliveries"][0]["next_attempt_at"]), (&json!(null), &json!(null)));
        assert_eq!(shown["deliveries"][0]["state"], "cancelled");
    }

    #[tokio::test(start_paused = true)]
    async fn a_search_too_many_waits_for_its_turn_and_is_sent_away_when_it_does_not_come() {
        let searches = Searches::default();
        let mut turns = Vec::new();
        for _ in 0..MAX_SEARCHES {
            turns.push(searches.turn().await.unwrap());
        }
        let started = tokio::time::Instant::now();
        assert_eq!(searches.turn().await.unwrap_err().kind(), Kind::Busy);
        assert_eq!(started.elapsed(), SEARCH_WAIT);
        let (next, ()) = tokio::join!(searches.turn(), async { drop(turns.pop()) });
        assert!(next.is_ok());
        assert_eq!(started.elapsed(), SEARCH_WAIT, "at once");
    }
}
