//! `GET /subscriptions/{id}/logs`: a subscription's attempts, newest first.

use std::sync::Arc;

use uuid::Uuid;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::query::{self, PageRules};
use super::reply::{self, Answer};
use super::status::LogRow;
use super::{Http, IdSegment, get_or_head, visible, with};
use crate::access::Permission;

/// A row can carry the start of an answer, so the largest page is smaller than that of subscriptions.
const PAGES: PageRules =
    PageRules { cursor: "before", cursor_expected: "the id of a log row, a UUID", default_limit: 50, max_limit: 500 };

/// The route of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    warp::path!("subscriptions" / IdSegment / "logs")
        .and(get_or_head())
        .and(with(http))
        .and(access(http))
        .and(query::raw())
        .then(logs)
        .map(reply::render)
        .boxed()
}

async fn logs(segment: IdSegment, http: Arc<Http>, access: Access, query: String) -> Answer {
    let caller = access.to(Permission::Read)?;
    let id = segment.id()?;
    let page = PAGES.parse::<Uuid>(&query)?;
    visible::subscription(&http, &caller, id).await?;
    let mut found = http.api.store.logs(id, page.cursor, page.asked()).await?;
    let next = page.cut(&mut found, |last| last.id);
    let response = reply::json(StatusCode::OK, &found.iter().map(LogRow::from).collect::<Vec<_>>())?;
    Ok(PAGES.link_next(response, &format!("/subscriptions/{id}/logs"), page.limit, next))
}
