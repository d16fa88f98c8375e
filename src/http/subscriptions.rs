//! `/subscriptions`: who wants which events, and where they go. A secret goes in and does not come out, unless it was made
//! here: then once.

use std::sync::Arc;

use bytes::Buf;
use futures_util::Stream;
use secrecy::ExposeSecret;
use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::problem::{Kind, Problem};
use super::query::{self, PageRules};
use super::reply::{self, Answer, with_header};
use super::subscription_body::{Change, ChangeBody, new_subscription};
use super::subscription_shown::Shown;
use super::{Http, IdSegment, content_length, get_or_head, with};
use crate::delivery::{Subscription, SubscriptionId};
use crate::store::{SubscriptionChange, Update};

const PAGES: PageRules =
    PageRules { cursor: "after", cursor_expected: "a subscription's id", default_limit: 100, max_limit: 1000 };

/// How often a change that is overtaken is tried: each time somebody else's change came through.
const MAX_MERGES: usize = 10;

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let all = || warp::path("subscriptions").and(warp::path::end());
    let one = || warp::path!("subscriptions" / IdSegment);
    let body = || content_length().and(warp::body::stream());
    let create = all().and(warp::post()).and(with(http)).and(body()).then(create);
    let list = all().and(get_or_head()).and(with(http)).and(query::raw()).then(list);
    let show = one().and(get_or_head()).and(with(http)).then(show);
    let patch = one().and(warp::patch()).and(with(http)).and(body()).then(patch);
    let replace = one().and(warp::put()).and(with(http)).and(body()).then(replace);
    let delete = one().and(warp::delete()).and(with(http)).then(delete);
    let changes = replace.or(patch).unify().or(delete).unify();
    create.or(list).unify().or(show).unify().or(changes).unify().map(reply::render).boxed()
}

async fn create<B: Buf>(
    http: Arc<Http>,
    length: Option<u64>,
    mut body: impl Stream<Item = Result<B, warp::Error>> + Unpin,
) -> Answer {
    let body = http.bodies.read_or_discard(length, &mut body).await?;
    let new = new_subscription(&body, &|url| http.api.policy.check_url(url))?;
    let (created, new) = to_the_end(async move {
        // What is sealed is bound to the subscription's id.
        let id = http.api.store.reserve_subscription_id().await?;
        let sealed = new.sealed(id, &http.api.vault)?;
        let created = http.api.store.create_subscription(sealed, http.api.clock.wall()).await?;
        // The cache has it from the start, so that its first event does not wait for the store.
        http.api.engine.subscription_created(&created).await;
        Ok((created, new))
    })
    .await?;
    let location = format!("/subscriptions/{}", created.id);
    let secret = new.secrets.shown_once().map(ExposeSecret::expose_secret);
    let response = reply::json(StatusCode::CREATED, &Created { shown: Shown::from(&created), secret })?;
    let response = with_header(response, header::LOCATION, &location);
    Ok(if secret.is_some() { with_header(response, header::CACHE_CONTROL, "no-store") } else { response })
}

/// A new subscription, and the secret that was made for it.
#[derive(Serialize)]
struct Created<'a> {
    #[serde(flatten)]
    shown: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
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
    let change = Change::Replace(ChangeBody::read(&body, &|url| http.api.policy.check_url(url))?);
    change_as_asked(http, id, change).await
}

async fn patch<B: Buf>(
    segment: IdSegment,
    http: Arc<Http>,
    length: Option<u64>,
    mut body: impl Stream<Item = Result<B, warp::Error>> + Unpin,
) -> Answer {
    let body = http.bodies.read_or_discard(length, &mut body).await?;
    let id = segment.id()?;
    let change = Change::Patch(ChangeBody::read(&body, &|url| http.api.policy.check_url(url))?);
    change_as_asked(http, id, change).await
}

async fn change_as_asked(http: Arc<Http>, id: SubscriptionId, change: Change) -> Answer {
    let changed = to_the_end(async move {
        let vault = http.api.vault.clone();
        merge(&http, id, |current| Ok(change.of(current, &vault)?)).await
    })
    .await?;
    reply::json(StatusCode::OK, &Shown::from(&changed))
}

/// Writes what follows from what is stored. Whoever is overtaken looks again, so that two changes at the same time both
/// count.
pub(super) async fn merge(
    http: &Http,
    id: SubscriptionId,
    change: impl Fn(&Subscription) -> Result<SubscriptionChange, Problem>,
) -> Result<Subscription, Problem> {
    for _ in 0..MAX_MERGES {
        let current = http.api.store.subscription(id).await?.ok_or_else(|| not_found(id))?;
        match update(http, id, change(&current)?).await {
            Err(problem) if problem.kind() == Kind::ChangedMeanwhile => {}
            done => return done,
        }
    }
    Err(overtaken(id))
}

/// Changes it in the store, and tells everyone.
pub(super) async fn update(
    http: &Http,
    id: SubscriptionId,
    change: SubscriptionChange,
) -> Result<Subscription, Problem> {
    match http.api.store.update_subscription(id, change, http.api.clock.wall()).await? {
        Update::Done(changed) => {
            // Before the answer: what is ingested after it must see the change.
            http.api.engine.subscription_changed(changed.clone()).await;
            Ok(changed)
        }
        Update::Missing => Err(not_found(id)),
        Update::Overtaken => Err(overtaken(id)),
    }
}

fn overtaken(id: SubscriptionId) -> Problem {
    let detail =
        format!("subscription {id} was changed by others at the same time, again and again; nothing was changed");
    Problem::new(Kind::ChangedMeanwhile, detail)
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
pub(super) async fn to_the_end<T: Send + 'static>(
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
