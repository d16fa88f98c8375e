//! Errors as people and programs read them: RFC 9457 problem details with a stable `type`. Nothing here may carry a
//! secret: what was found is shown only where the field is not one, and cut to a printable length.

use std::borrow::Cow;
use std::convert::Infallible;

use serde::Serialize;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reject::{InvalidHeader, Reject, Rejection};
use warp::reply::Response;

use super::ROUTES;
pub(super) use super::problem_kind::Kind;
use crate::actors::AcceptError;
use crate::store::StoreError;
use crate::vault::{NoMasterKey, Unopened};

/// What a refused caller is told to wait when the store is away and nobody knows for how long.
const RETRY_AFTER_S: u64 = 2;
/// The same when a master key is missing: somebody has to do something.
const SECRET_LOCKED_RETRY_AFTER_S: u64 = 60;
/// Longest value that is quoted back: enough to recognise it, too short to be a payload.
const MAX_FOUND_CHARS: usize = 80;

/// Most errors that are listed: more than a person corrects at once. A body of nothing but wrong fields would come to an
/// answer many times its size.
const MAX_ERRORS: usize = 200;

/// One field, header or parameter that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FieldError {
    pub field: Cow<'static, str>,
    pub found: String,
    pub expected: Cow<'static, str>,
}

impl FieldError {
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        found: impl Into<String>,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), found: found.into(), expected: expected.into() }
    }
}

/// A value as it is quoted back: printable, in quotes, and short.
pub(super) fn quoted(value: &str) -> String {
    let shown: String = value.chars().take(MAX_FOUND_CHARS).collect();
    let cut = if shown.len() < value.len() { "…" } else { "" };
    format!("{shown:?}{cut}")
}

/// A name that a caller made up, cut likewise; JSON escapes it.
pub(super) fn shortened(name: &str) -> String {
    name.chars().take(MAX_FOUND_CHARS).collect()
}

/// An answer that is not 2xx. Boxed, so that a result with it stays small.
#[derive(Debug)]
pub(super) struct Problem(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    /// Beside those that every problem has.
    members: Vec<(&'static str, serde_json::Value)>,
    header: Option<(header::HeaderName, HeaderValue)>,
    close: bool,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Details {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            members: Vec::new(),
            header: None,
            close: false,
        }))
    }

    /// `detail` says the first; those beyond [`MAX_ERRORS`] are left out.
    pub fn with_errors(kind: Kind, mut errors: Vec<FieldError>) -> Self {
        errors.truncate(MAX_ERRORS);
        let first = errors.first().map_or_else(String::new, |e| format!("{}: expected {}", e.field, e.expected));
        let mut problem = Self::new(kind, first);
        problem.0.errors = errors;
        problem
    }

    pub fn parameter(error: FieldError) -> Self {
        Self::with_errors(Kind::InvalidParameter, vec![error])
    }

    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// What programs may want to read.
    pub fn member(mut self, name: &'static str, value: impl Serialize) -> Self {
        self.0.members.push((name, serde_json::json!(value)));
        self
    }

    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// The connection ends with the answer: the rest of the request is not wanted.
    pub fn close_connection(mut self) -> Self {
        self.0.close = true;
        self
    }

    #[cfg(test)]
    pub fn closes_connection(&self) -> bool {
        self.0.close
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn into_response(self) -> Response {
        let body = self.json().to_string();
        let Details { kind, header, close, .. } = *self.0;
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = header {
            headers.insert(name, value);
        }
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn json(&self) -> serde_json::Value {
        let Details { kind, detail, errors, members, .. } = &*self.0;
        let mut json = serde_json::json!({
            "type": format!("/problems/{}", kind.name()),
            "title": kind.title(),
            "status": kind.status(),
            "detail": detail,
        });
        if !errors.is_empty() {
            json["errors"] = serde_json::json!(errors);
        }
        for (name, value) in members {
            json[*name] = value.clone();
        }
        json
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::NotFound(_) => Self::new(Kind::SubscriptionNotFound, error.to_string()),
            AcceptError::Disabled(id) => Self::new(
                Kind::SubscriptionDisabled,
                format!(
                    "subscription {id} is disabled: GET /subscriptions/{id}/changes says why, and \
                     POST /subscriptions/{id}/enable enables it again"
                ),
            ),
            AcceptError::BacklogFull { backlog, limit, retry_after_s, .. } => {
                Self::new(Kind::BacklogFull, format!("{error}; nothing was stored"))
                    .member("backlog", backlog)
                    .member("limit", limit)
                    .retry_after(retry_after_s)
            }
            AcceptError::Busy { retry_after_s } => Self::new(Kind::Busy, error.to_string()).retry_after(retry_after_s),
            AcceptError::Unavailable { ref reason, retry_after_s } => {
                Self::new(Kind::StoreUnavailable, reason.clone()).retry_after(retry_after_s)
            }
            AcceptError::KeyReused => Self::new(
                Kind::KeyReused,
                "this Idempotency-Key came with another request before; send that one again, or this one with a new key",
            ),
            AcceptError::TooManyDeliveries { matched, limit } => Self::new(
                Kind::TooManyDeliveries,
                format!("{matched} subscriptions want this event, and one goes to at most {limit}; nothing was stored"),
            ),
            AcceptError::Rejected(_) => {
                tracing::error!(%error, "an event was refused");
                Self::new(Kind::Internal, "the store refused the event; nothing was stored")
            }
        }
    }
}

impl From<NoMasterKey> for Problem {
    fn from(error: NoMasterKey) -> Self {
        Self::new(Kind::NoMasterKey, format!("{error}, or start the service with --dev"))
    }
}

impl From<&Unopened> for Problem {
    fn from(unopened: &Unopened) -> Self {
        Self::new(Kind::SecretLocked, format!("the subscription's secret does not open: {unopened}"))
            .retry_after(SECRET_LOCKED_RETRY_AFTER_S)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the store could not answer a request");
        match error {
            StoreError::Unavailable(_) | StoreError::NotOwner => {
                Self::new(Kind::StoreUnavailable, "the store cannot be reached or is too slow; try again")
                    .retry_after(RETRY_AFTER_S)
            }
            StoreError::Rejected(_) => Self::new(Kind::Internal, "the store refused the data; nothing was changed"),
            StoreError::Corrupt(_) => Self::new(Kind::Internal, "what is stored cannot be read back"),
        }
    }
}

/// No route took the request.
#[derive(Debug)]
pub(super) struct NoRoute {
    pub method: warp::http::Method,
    pub path: String,
}

impl Reject for NoRoute {}

/// Answers what no handler answered: an unreadable header, an unknown path, a wrong method.
pub(super) async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let problem = if let Some(invalid) = rejection.find::<InvalidHeader>() {
        let field = format!("header {}", invalid.name());
        Problem::parameter(FieldError::new(field, "a value that cannot be read", "visible ASCII"))
    } else if let Some(NoRoute { method, path }) = rejection.find::<NoRoute>() {
        no_route(method, path)
    } else {
        tracing::error!(?rejection, "a rejection that no one answers");
        Problem::new(Kind::Internal, "the request could not be routed")
    };
    Ok(problem.into_response())
}

fn no_route(method: &warp::http::Method, path: &str) -> Problem {
    let Some(route) = ROUTES.iter().find(|route| route.matches(path)) else {
        return Problem::new(Kind::PageNotFound, format!("nothing is at {}; see /docs", quoted(path)));
    };
    let allow = route.allow();
    let problem =
        Problem::new(Kind::MethodNotAllowed, format!("{} takes {allow}, not {}", route.path, quoted(method.as_str())));
    match HeaderValue::from_str(&allow) {
        Ok(value) => problem.header(header::ALLOW, value),
        Err(_) => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::SubscriptionId;

    #[test]
    fn a_quoted_value_is_short_and_printable() {
        let shown = quoted(&format!("a\n\u{1b}{}", "x".repeat(500)));
        assert!(shown.chars().count() < MAX_FOUND_CHARS + 20);
        assert!(shown.starts_with(r#""a\n\u{1b}"#) && shown.ends_with('…'), "{shown}");
    }

    #[test]
    fn a_problem_names_its_type_status_and_fields() {
        let error = FieldError::new("target_url", "a number", "a string");
        let json = Problem::with_errors(Kind::InvalidField, vec![error]).json();
        crate::http::openapi::tests::assert_matches("Problem", &json);
        assert_eq!(json["type"], "/problems/invalid-field");
        assert_eq!(json["status"], 400);
        assert_eq!(json["detail"], "target_url: expected a string");
        assert_eq!(json["errors"][0]["found"], "a number");
    }

    #[test]
    fn an_answer_lists_a_bounded_number_of_errors() {
        let errors = vec![FieldError::new("x", "a field that does not exist", "another"); MAX_ERRORS + 1];
        let json = Problem::with_errors(Kind::InvalidField, errors).json();
        assert_eq!(json["errors"].as_array().unwrap().len(), MAX_ERRORS);
    }

    #[test]
    fn a_busy_node_and_an_absent_store_answer_503_and_say_when_to_come_back() {
        let refused = [
            AcceptError::Busy { retry_after_s: 7 },
            AcceptError::Unavailable { reason: "the store is away".into(), retry_after_s: 7 },
        ];
        for error in refused {
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        }
    }

    #[test]
    fn a_full_backlog_answers_429_with_its_numbers_and_when_to_come_back() {
        let full = AcceptError::BacklogFull { id: SubscriptionId(7), backlog: 1003, limit: 1000, retry_after_s: 12 };
        let problem = Problem::from(full);
        let json = problem.json();
        crate::http::openapi::tests::assert_matches("Problem", &json);
        assert_eq!((&json["type"], &json["backlog"]), (&"/problems/backlog-full".into(), &1003.into()));
        assert_eq!((&json["status"], &json["limit"]), (&429.into(), &1000.into()));
        assert!(json["detail"].as_str().unwrap().contains("subscription 7"), "{json}");
        assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], "12");
    }

    #[test]
    fn a_key_that_was_used_is_a_conflict_and_too_many_deliveries_are_counted() {
        let reused = Problem::from(AcceptError::KeyReused).json();
        assert_eq!((&reused["type"], &reused["status"]), (&"/problems/idempotency-key-reused".into(), &409.into()));
        let refused = Problem::from(AcceptError::TooManyDeliveries { matched: 12, limit: 10 }).json();
        assert_eq!((&refused["type"], &refused["status"]), (&"/problems/too-many-deliveries".into(), &422.into()));
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("12 subscriptions") && detail.contains("at most 10"), "{detail}");
    }

    #[test]
    fn what_the_store_says_is_not_shown_to_callers() {
        let problem = Problem::from(StoreError::Unavailable("connection to db-7.internal refused".into()));
        assert!(!problem.json().to_string().contains("db-7"));
    }
}
