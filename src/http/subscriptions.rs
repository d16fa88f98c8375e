//! `/subscriptions`: who wants which events, and where they go. A secret goes in and never comes out.

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::problem::{Kind, Problem};
use super::query::{self, PageRules};
use super::reply::{self, Answer, with_header};
use super::subscription_body::{change, new_subscription};
use super::{Http, IdSegment, content_length, get_or_head, with};
use crate::delivery::{DisabledReason, EventTypePattern, Subscription, SubscriptionId};

const PAGES: PageRules =
    PageRules { cursor: "after", cursor_expected: "a subscription's id", default_limit: 100, max_limit: 1000 };

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let all = || warp::path("subscriptions").and(warp::path::end());
    let one = || warp::path!("subscriptions" / IdSegment);
    let body = || content_length().and(warp::body::stream());
    let create = all().and(warp::post()).and(with(http)).and(body()).then(create);
    let list = all().and(get_or_head()).and(with(http)).and(query::raw()).then(list);
    let show = one().and(get_or_head()).and(with(http)).then(show);
    let replace = one().and(warp::put()).and(with(http)).and(body()).then(replace);
    let delete = one().and(warp::delete()).and(with(http)).then(delete);
    create.or(list).unify().or(show).unify().or(replace).unify().or(delete).unify().map(reply::render).boxed()
}

/// A subscription as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: SubscriptionId,
    tenant: &'a str,
    target_url: &'a str,
    event_type: Vec<&'a str>,
    signed: bool,
    disabled: Option<DisabledReason>,
    created_at: String,
    updated_at: String,
}

impl<'a> From<&'a Subscription> for Shown<'a> {
    fn from(subscription: &'a Subscription) -> Self {
        Self {
            id: subscription.id,
            tenant: &subscription.tenant,
            target_url: &subscription.target_url,
            event_type: subscription.event_types.iter().map(EventTypePattern::as_str).collect(),
            signed: subscription.secret.is_some(),
            disabled: subscription.disabled,
            created_at: subscription.created_at.to_string(),
            updated_at: subscription.updated_at.to_string(),
        }
    }
}

async fn create<B: Buf>(
    http: Arc<Http>,
    length: Option<u64>,
    mut body: impl Stream<Item = Result<B, warp::Error>> + Unpin,
) -> Answer {
    let body = http.bodies.read_or_discard(length, &mut body).await?;
    let new = new_subscription(&body, &|url| http.api.policy.check_url(url))?;
    let created = to_the_end(async move {
        let created = http.api.store.create_subscription(new, http.api.clock.wall()).await?;
        // The cache has it from the start, so that its first event does not wait for the store.
        http.api.engine.subscription_created(&created).await;
        Ok(created)
    })
    .await?;
    let location = format!("/subscriptions/{}", created.id);
    let response = reply::json(StatusCode::CREATED, &Shown::from(&created))?;
    Ok(with_header(response, header::LOCATION, &location))
}

async fn list(http: Arc<Http>, query: String) -> Answer {
    let page = PAGES.parse(&query)?;
    // One more than asked for says whether there is another page.
    let mut found = http.api.store.subscriptions(page.cursor.map(SubscriptionId), page.limit + 1).await?;
    let more = found.len() > page.limit;
    found.truncate(page.limit);
    let response = reply::json(StatusCode::OK, &found.iter().map(Shown::from).collect::<Vec<_>>())?;
    Ok(match found.last() {
        Some(last) if more => PAGES.link_next(response, "/subscriptions", page.limit, last.id),
        _ => response,
    })
}

async fn show(segment: IdSegment, http: Arc<Http>) -> Answer {
    let id = segment.id()?;
    let found = http.api.store.subscription(id).await?.ok_or_else(|| not_found(id))?;
    reply::json(StatusCode::OK, &Shown::from(&found))
}

async fn replace<B: Buf>(
    segment: IdSegment,
    http: Arc<Http>,
    length: Option<u64>,
    mut body: impl Stream<Item = Result<B, warp::Error>> + Unpin,
) -> Answer {
    let body = http.bodies.read_or_discard(length, &mut body).await?;
    let id = segment.id()?;
    let change = change(&body, &|url| http.api.policy.check_url(url))?;
    let changed = to_the_end(async move {
        let changed = http.api.store.update_subscription(id, change, http.api.clock.wall()).await?;
        let changed = changed.done().ok_or_else(|| not_found(id))?;
        // Before the answer: what is ingested after it must see the change.
        http.api.engine.subscription_changed(changed.clone()).await;
        Ok(changed)
    })
    .await?;
    reply::json(StatusCode::OK, &Shown::from(&changed))
}

async fn delete(segment: IdSegment, http: Arc<Http>) -> Answer {
    let id = segment.id()?;
    to_the_end(async move {
        if !http.api.store.delete_subscription(id).await? {
            return Err(not_found(id));
        }
        // Before the answer: what is ingested after it must be refused.
        http.api.engine.subscription_deleted(id).await;
        Ok(())
    })
    .await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Runs a change and the word of it to their end, also when the caller goes away in between, which drops the handler:
/// a change that the store has and nobody was told of would be served from caches for up to a minute.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// The problem of a subscription that does not exist (any more).
pub(super) fn not_found(id: SubscriptionId) -> Problem {
    Problem::new(Kind::SubscriptionNotFound, format!("there is no subscription {id}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::Timestamp;
    use crate::http::openapi::tests::assert_matches;

    fn subscription() -> Subscription {
        Subscription {
            tenant: crate::delivery::DEFAULT_TENANT.into(),
            id: SubscriptionId(1),
            target_url: "https://a.example/".into(),
            event_types: vec!["order.*".parse().unwrap()],
            secret: Some("hunter2".to_owned().into()),
            disabled: None,
            settings: std::sync::Arc::default(),
            drop_through: None,
            failing_since: None,
            version: 3,
            created_at: Timestamp(1_700_000_000_000),
            updated_at: Timestamp(1_700_000_000_001),
        }
    }

    #[test]
    fn a_subscription_is_shown_without_its_secret() {
        let shown = json!(Shown::from(&subscription()));
        assert_matches("Subscription", &shown);
        assert!(!shown.to_string().contains("hunter2"));
        assert_eq!((&shown["signed"], &shown["tenant"]), (&json!(true), &json!("default")));
        assert_eq!(shown["event_type"], json!(["order.*"]));
        assert_eq!(shown["updated_at"], "2023-11-14T22:13:20.001Z");
    }

    #[test]
    fn a_disabled_subscription_says_why() {
        let disabled = Subscription { disabled: Some(DisabledReason::Gone), ..subscription() };
        let shown = json!(Shown::from(&disabled));
        assert_matches("Subscription", &shown);
        assert_eq!(shown["disabled"], "gone");
    }
}
