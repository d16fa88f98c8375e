//! Query parameters of lists: a bounded `limit`, a cursor, and the `Link` to the next page.

use std::str::FromStr;

use url::form_urlencoded;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::header;
use warp::reply::Response;

use super::problem::{FieldError, Problem, quoted};
use super::reply::with_header;

/// The raw query string; empty when there is none.
pub(super) fn raw() -> BoxedFilter<(String,)> {
    warp::query::raw().or(warp::any().map(String::new)).unify().boxed()
}

/// What a list takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageRules {
    pub cursor: &'static str,
    pub cursor_expected: &'static str,
    pub default_limit: usize,
    pub max_limit: usize,
}

/// A page that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page<C> {
    pub limit: usize,
    pub cursor: Option<C>,
}

impl PageRules {
    pub fn parse<C: FromStr>(&self, query: &str) -> Result<Page<C>, Problem> {
        let mut page = Page { limit: self.default_limit, cursor: None };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "limit" => page.limit = self.limit(&value)?,
                name if name == self.cursor => page.cursor = Some(self.cursor(&value)?),
                other => {
                    let expected = format!("only limit and {}", self.cursor);
                    return Err(Problem::parameter(FieldError::new("query", quoted(other), expected)));
                }
            }
        }
        Ok(page)
    }

    fn limit(&self, value: &str) -> Result<usize, Problem> {
        let limit = value.parse().ok().filter(|limit| (1..=self.max_limit).contains(limit));
        limit.ok_or_else(|| {
            let expected = format!("a number from 1 to {}", self.max_limit);
            Problem::parameter(FieldError::new("query parameter limit", quoted(value), expected))
        })
    }

    fn cursor<C: FromStr>(&self, value: &str) -> Result<C, Problem> {
        value.parse().map_err(|_| {
            let field = format!("query parameter {}", self.cursor);
            Problem::parameter(FieldError::new(field, quoted(value), self.cursor_expected))
        })
    }

    /// Adds the link to the page behind `last`.
    pub fn link_next(&self, response: Response, path: &str, limit: usize, last: impl std::fmt::Display) -> Response {
        let link = format!("<{path}?limit={limit}&{}={last}>; rel=\"next\"", self.cursor);
        with_header(response, header::LINK, &link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Kind;

    const RULES: PageRules =
        PageRules { cursor: "after", cursor_expected: "a number", default_limit: 10, max_limit: 20 };

    #[test]
    fn a_page_has_defaults_and_a_limit_with_edges() {
        assert_eq!(RULES.parse::<i64>("").unwrap(), Page { limit: 10, cursor: None });
        assert_eq!(RULES.parse::<i64>("limit=20&after=7").unwrap(), Page { limit: 20, cursor: Some(7) });
        for query in ["limit=0", "limit=21", "limit=-1", "limit=x", "limit=", "after=x", "before=7"] {
            assert_eq!(RULES.parse::<i64>(query).unwrap_err().kind(), Kind::InvalidParameter, "{query}");
        }
    }

    #[test]
    fn the_next_page_begins_behind_the_last_row() {
        let response = RULES.link_next(Response::default(), "/subscriptions", 5, 42);
        assert_eq!(response.headers()[header::LINK], "</subscriptions?limit=5&after=42>; rel=\"next\"");
    }
}
