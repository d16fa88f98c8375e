//! `/subscriptions`: who wants which events, and where they go. A secret goes in and does not come out, unless it was made
//! here: then once.

use std::sync::Arc;

use secrecy::ExposeSecret;
use serde::Serialize;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{StatusCode, header};
use warp::reply::Response;

use super::access::{Access, access};
use super::body::{Frames, Sent, sent};
use super::problem::{Kind, Problem};
use super::query::{self, PageRules};
use super::reply::{self, Answer, with_header};
use super::subscription_body::{Change, ChangeBody, differences, new_subscription};
use super::subscription_shown::Shown;
use super::visible::no_subscription;
use super::{Http, IdSegment, get_or_head, visible, with};
use crate::access::{Caller, Permission};
use crate::audit::{Act, Action};
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
    let create = all().and(warp::post()).and(with(http)).and(access(http)).and(sent()).then(create);
    let list = all().and(get_or_head()).and(with(http)).and(access(http)).and(query::raw()).then(list);
    let show = one().and(get_or_head()).and(with(http)).and(access(http)).then(show);
    let patch = one().and(warp::patch()).and(with(http)).and(access(http)).and(sent()).then(patch);
    let replace = one().and(warp::put()).and(with(http)).and(access(http)).and(sent()).then(replace);
    let delete = one().and(warp::delete()).and(with(http)).and(access(http)).then(delete);
    let changes = replace.or(patch).unify().or(delete).unify();
    create.or(list).unify().or(show).unify().or(changes).unify().map(reply::render).boxed()
}

async fn create(http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let new = new_subscription(&body, &caller, &|url| http.api.policy.check_url(url))?;
    let (created, new) = to_the_end(async move {
        let (quota, now) = (http.api.max_subscriptions, http.api.clock.wall());
        // What is sealed is bound to the subscription's id.
        let id = http.api.store.reserve_subscription_id().await?;
        let sealed = new.sealed(id, &caller, &http.api.vault)?;
        let created = http.api.store.create_subscription(sealed, quota, now).await?.ok_or_else(|| too_many(quota))?;
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

fn too_many(quota: u64) -> Problem {
    let detail = format!(
        "the tenant has {quota} subscriptions, the most that it may; delete some, or have HOOKPOST_MAX_SUBSCRIPTIONS raised"
    );
    Problem::new(Kind::QuotaExceeded, detail).member("limit", quota)
}

async fn list(http: Arc<Http>, access: Access, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let page = PAGES.parse(&query)?;
    let after = page.cursor.map(SubscriptionId);
    let mut found = http.api.store.subscriptions(caller.tenant.as_deref(), after, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.id);
    let response = reply::json(StatusCode::OK, &found.iter().map(Shown::from).collect::<Vec<_>>())?;
    Ok(PAGES.link_next(response, "/subscriptions", page.limit, next))
}

async fn show(segment: IdSegment, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Read)?;
    let found = visible::subscription(&http, &caller, segment.id()?).await?;
    reply::json(StatusCode::OK, &Shown::from(&found))
}

async fn replace(segment: IdSegment, http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let id = segment.id()?;
    let change = Change::Replace(ChangeBody::read(&body, &|url| http.api.policy.check_url(url))?);
    change_as_asked(http, caller, id, change).await
}

async fn patch(segment: IdSegment, http: Arc<Http>, access: Access, sent: Sent<impl Frames>) -> Answer {
    let (caller, body) = access.with_body(Permission::Manage, &http.bodies, sent).await?;
    let id = segment.id()?;
    let change = Change::Patch(ChangeBody::read(&body, &|url| http.api.policy.check_url(url))?);
    change_as_asked(http, caller, id, change).await
}

async fn change_as_asked(http: Arc<Http>, caller: Caller, id: SubscriptionId, change: Change) -> Answer {
    let changed = to_the_end(async move {
        merge(&http, &caller, id, |current| {
            let change = change.of(current, &http.api.vault)?;
            let names = differences(current, &change);
            Ok((!names.is_empty()).then(|| (Deed { action: Action::Changed, detail: Some(names.join(", ")) }, change)))
        })
        .await
    })
    .await?;
    reply::json(StatusCode::OK, &Shown::from(&changed))
}

/// Writes what follows from what is stored. Whoever is overtaken looks again, so that two changes at the same time both
/// count. What follows may be nothing. The one way in which a caller changes a subscription.
pub(super) async fn merge(
    http: &Http,
    caller: &Caller,
    id: SubscriptionId,
    change: impl Fn(&Subscription) -> Result<Option<(Deed, SubscriptionChange)>, Problem>,
) -> Result<Subscription, Problem> {
    for _ in 0..MAX_MERGES {
        let current = visible::subscription(http, caller, id).await?;
        let Some((Deed { action, detail }, change)) = change(&current)? else { return Ok(current) };
        // Only over this one, or the record would name what differs from another.
        let act = Some(Act { by: caller.actor.clone(), action, detail });
        let change = SubscriptionChange { act, only_version: Some(current.version), ..change };
        match http.api.store.update_subscription(id, change, http.api.clock.wall()).await? {
            Update::Done(changed) => {
                // Before the answer: what is ingested after it must see the change.
                http.api.engine.subscription_changed(changed.clone()).await;
                return Ok(changed);
            }
            Update::Missing => return Err(no_subscription(id)),
            Update::Overtaken => {}
        }
    }
    let detail =
        format!("subscription {id} was changed by others at the same time, again and again; nothing was changed");
    Err(Problem::new(Kind::ChangedMeanwhile, detail))
}

/// What the audit says of a change.
pub(super) struct Deed {
    pub action: Action,
    /// In words, without a value that may be secret.
    pub detail: Option<String>,
}

async fn delete(segment: IdSegment, http: Arc<Http>, access: Access) -> Answer {
    let caller = access.to(Permission::Manage)?;
    let id = segment.id()?;
    visible::subscription(&http, &caller, id).await?;
    to_the_end(async move {
        if !http.api.store.delete_subscription(id, &caller.actor, http.api.clock.wall()).await? {
            return Err(no_subscription(id));
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
