//! `/livez`, `/readyz`, `/metrics`: what machines ask.

use std::sync::Arc;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::access::{Access, access};
use super::problem::{Kind, Problem};
use super::reply::{self, Answer};
use super::{Http, get_or_head, with};
use crate::access::Permission;

/// The content type of what `Metrics::render` writes.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What a prober is told to wait; draining and taking over are short.
const RETRY_AFTER_S: u64 = 2;

/// The routes of this file.
pub(super) fn routes(http: &Arc<Http>) -> BoxedFilter<(Response,)> {
    let live = warp::path!("livez").and(get_or_head()).map(|| Ok(live()));
    let ready = warp::path!("readyz").and(get_or_head()).and(with(http)).map(|http: Arc<Http>| ready(&http));
    let metrics = warp::path!("metrics").and(get_or_head()).and(with(http)).and(access(http));
    let metrics = metrics.map(|http: Arc<Http>, access: Access| {
        access.across_tenants(Permission::Read)?;
        Ok(metrics_of(&http))
    });
    live.or(ready).unify().or(metrics).unify().map(reply::render).boxed()
}

/// The process answers; nothing else is asked, or a store that is down would get every node restarted.
fn live() -> Response {
    reply::json_text(StatusCode::OK, r#"{"status":"alive"}"#)
}

fn ready(http: &Http) -> Answer {
    let status = http.api.engine.status();
    match &status.not_ready {
        // Figures are not for strangers.
        None if http.api.keys.is_some() => {
            reply::json(StatusCode::OK, &serde_json::json!({ "status": "ready", "checks": status.checks }))
        }
        None => reply::json(
            StatusCode::OK,
            &serde_json::json!({
                "status": "ready",
                "checks": status.checks,
                "store": status.store,
                "cache": status.cache,
                "active_subscriptions": status.active_subscriptions,
                "attempts_in_flight": status.attempts_in_flight,
            }),
        ),
        Some(reason) => {
            let problem = Problem::new(Kind::NotReady, reason.clone()).member("checks", &status.checks);
            Err(problem.retry_after(RETRY_AFTER_S))
        }
    }
}

fn metrics_of(http: &Http) -> Response {
    reply::typed(StatusCode::OK, METRICS_TYPE, http.api.metrics.render(&http.api.engine.live()))
}
