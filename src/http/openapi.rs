//! `GET /openapi.json`: the contract, written by hand in `openapi.json` and checked here against the routes, the problem
//! kinds, and its own examples.

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::{get_or_head, reply};

const DOCUMENT: &str = include_str!("openapi.json");

/// The route of this file.
pub(super) fn routes() -> BoxedFilter<(Response,)> {
    warp::path!("openapi.json").and(get_or_head()).map(|| reply::json_text(StatusCode::OK, DOCUMENT)).boxed()
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
pub(super) mod tests;
