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

impl<C> Page<C> {
    /// How many rows to ask for: one more than are shown says whether there is another page.
    pub fn asked(&self) -> usize {
        self.limit + 1
    }

    /// Leaves those that are shown; the cursor of the next page, if there is one.
    pub fn cut<T, D>(&self, found: &mut Vec<T>, cursor: impl Fn(&T) -> D) -> Option<D> {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        found.last().filter(|_| more).map(cursor)
    }
}

impl PageRules {
    pub fn parse<C: FromStr>(&self, query: &str) -> Result<Page<C>, Problem> {
        self.parse_filtered(query, &[]).map(|(page, _)| page)
    }

    /// A page of what has certain values in these fields: those that the query names, each once.
    pub fn parse_filtered<C: FromStr>(
        &self,
        query: &str,
        fields: &[&'static str],
    ) -> Result<(Page<C>, Filters), Problem> {
        let mut page = Page { limit: self.default_limit, cursor: None };
        let mut filters = Filters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match fields.iter().copied().find(|field| *field == name) {
                Some(field) => filters.add(field, value.into_owned())?,
                None if name == "limit" => page.limit = self.limit(&value)?,
                None if name == self.cursor => page.cursor = Some(self.cursor(&value)?),
                None => return Err(self.unknown(&name, fields)),
            }
        }
        Ok((page, filters))
    }

    fn unknown(&self, name: &str, fields: &[&str]) -> Problem {
        let others: String = fields.iter().map(|field| format!("{field}, ")).collect();
        let expected = format!("only {others}limit and {}", self.cursor);
        Problem::parameter(FieldError::new("query", quoted(name), expected))
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

    /// Adds the link to the next page, if there is one. The path may have a query already.
    pub fn link_next(
        &self,
        response: Response,
        path: &str,
        limit: usize,
        next: Option<impl std::fmt::Display>,
    ) -> Response {
        let Some(last) = next else { return response };
        with_header(response, header::LINK, &format!("<{}>; rel=\"next\"", self.next(path, limit, last)))
    }

    /// Where the next page is.
    pub fn next(&self, path: &str, limit: usize, last: impl std::fmt::Display) -> String {
        let begins = if path.contains('?') { '&' } else { '?' };
        format!("{path}{begins}limit={limit}&{}={last}", self.cursor)
    }
}

/// What a list is narrowed down to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filters(Vec<(&'static str, String)>);

impl Filters {
    fn add(&mut self, field: &'static str, value: String) -> Result<(), Problem> {
        if self.0.iter().any(|(named, _)| *named == field) {
            let name = format!("query parameter {field}");
            return Err(Problem::parameter(FieldError::new(name, "more than one of them", "one, or none")));
        }
        self.0.push((field, value));
        Ok(())
    }

    /// The value that a field must have, if the query says so.
    pub fn get<T: FromStr>(&self, field: &'static str, expected: &'static str) -> Result<Option<T>, Problem> {
        self.get_with(field, expected, |value| value.parse().ok())
    }

    /// The same, read in another way.
    pub fn get_with<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some((_, value)) = self.0.iter().find(|(named, _)| *named == field) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            Problem::parameter(FieldError::new(format!("query parameter {field}"), quoted(value), expected))
        })
    }

    /// A path with these in its query.
    pub fn on(&self, path: &str) -> String {
        if self.0.is_empty() {
            return path.to_owned();
        }
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish();
        format!("{path}?{query}")
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
    fn a_filter_is_named_once_kept_on_the_next_page_and_nothing_else_is_taken() {
        let parse = |query: &str| RULES.parse_filtered::<i64>(query, &["of", "by"]);
        let (page, filters) = parse("of=7&limit=3&by=a%2Fb").unwrap();
        assert_eq!((page.limit, filters.get("of", "a number").unwrap()), (3, Some(7)));
        let response = RULES.link_next(Response::default(), &filters.on("/x"), 3, Some(42));
        assert_eq!(response.headers()[header::LINK], "</x?of=7&by=a%2Fb&limit=3&after=42>; rel=\"next\"");
        assert_eq!(parse("").unwrap().1.get::<i64>("of", "a number").unwrap(), None);
        assert!(parse("of=x").unwrap().1.get::<i64>("of", "a number").is_err());
        assert!(format!("{:?}", parse("of=1&of=2").unwrap_err()).contains("query parameter of"));
        assert!(format!("{:?}", parse("off=1").unwrap_err()).contains("only of, by, limit and after"));
    }

    #[test]
    fn a_page_is_cut_to_its_limit_and_says_where_the_next_one_begins() {
        let page = RULES.parse::<i64>("limit=2").unwrap();
        for (mut found, shown, next) in
            [(vec![1, 2, 3], vec![1, 2], Some(2)), (vec![1, 2], vec![1, 2], None), (vec![], vec![], None)]
        {
            assert!(found.len() <= page.asked());
            assert_eq!((page.cut(&mut found, |last| *last), found), (next, shown));
        }
    }

    #[test]
    fn the_next_page_begins_behind_the_last_row() {
        let response = RULES.link_next(Response::default(), "/subscriptions", 5, Some(42));
        assert_eq!(response.headers()[header::LINK], "</subscriptions?limit=5&after=42>; rel=\"next\"");
    }
}
