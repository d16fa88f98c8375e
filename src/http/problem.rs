//! Errors as people and programs read them: RFC 9457 problem details with a stable `type`. Nothing here may carry a
//! secret: what was found is shown only where the field is not one, and cut to a printable length.

use std::borrow::Cow;
use std::convert::Infallible;

use serde::Serialize;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reject::{InvalidHeader, Reject, Rejection};
use warp::reply::Response;

use super::ROUTES;
use crate::actors::AcceptError;
use crate::store::StoreError;

/// What a refused caller is told to wait when the store is away and nobody knows for how long.
const RETRY_AFTER_S: u64 = 2;
/// Longest value that is quoted back: enough to recognise it, too short to be a payload.
const MAX_FOUND_CHARS: usize = 80;

/// The stable kinds of problems. The name is the last word of `type`, and the label in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    InvalidJson,
    InvalidField,
    InvalidParameter,
    BodyNotRead,
    SignatureMissing,
    SignatureWrong,
    ForeignOrigin,
    NotSubscribed,
    SubscriptionNotFound,
    DeliveryNotFound,
    PageNotFound,
    MethodNotAllowed,
    BodyTimeout,
    SubscriptionDisabled,
    PayloadTooLarge,
    Internal,
    Busy,
    StoreUnavailable,
    NotReady,
}

impl Kind {
    /// All of them, for the documentation.
    pub const ALL: [Self; 19] = [
        Self::InvalidJson,
        Self::InvalidField,
        Self::InvalidParameter,
        Self::BodyNotRead,
        Self::SignatureMissing,
        Self::SignatureWrong,
        Self::ForeignOrigin,
        Self::NotSubscribed,
        Self::SubscriptionNotFound,
        Self::DeliveryNotFound,
        Self::PageNotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::SubscriptionDisabled,
        Self::PayloadTooLarge,
        Self::Internal,
        Self::Busy,
        Self::StoreUnavailable,
        Self::NotReady,
    ];

    /// The last word of `type`, the status, the title.
    fn spec(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidJson => ("invalid-json", 400, "The body is not JSON"),
            Self::InvalidField => ("invalid-field", 400, "A field of the body is not as expected"),
            Self::InvalidParameter => ("invalid-parameter", 400, "A header or query parameter is not as expected"),
            Self::BodyNotRead => ("body-not-read", 400, "The body ended before its announced end"),
            Self::SignatureMissing => ("signature-missing", 401, "The signature is missing"),
            Self::SignatureWrong => ("signature-wrong", 401, "The signature does not match"),
            Self::ForeignOrigin => ("foreign-origin", 403, "Pages of other origins may not change anything here"),
            Self::NotSubscribed => ("event-type-not-subscribed", 403, "The subscription does not take this event type"),
            Self::SubscriptionNotFound => ("subscription-not-found", 404, "There is no such subscription"),
            Self::DeliveryNotFound => ("delivery-not-found", 404, "There is no such delivery"),
            Self::PageNotFound => ("page-not-found", 404, "There is nothing at this path"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "This path does not take this method"),
            Self::BodyTimeout => ("body-timeout", 408, "The body did not arrive in time"),
            Self::SubscriptionDisabled => ("subscription-disabled", 409, "The subscription is disabled"),
            Self::PayloadTooLarge => ("payload-too-large", 413, "The body is larger than is accepted"),
            Self::Internal => ("internal", 500, "Something went wrong on our side"),
            Self::Busy => ("busy", 503, "This node is at its limit"),
            Self::StoreUnavailable => ("store-unavailable", 503, "The store is unavailable"),
            Self::NotReady => ("not-ready", 503, "This node is not ready"),
        }
    }

    /// What to do about it: `GET /problems/{name}` shows this.
    pub fn advice(self) -> &'static str {
        match self {
            Self::InvalidJson => {
                "Send one JSON value in UTF-8, nested at most 128 deep. The answer says where it stops."
            }
            Self::InvalidField => "Correct the fields listed under `errors`; each says what was found and expected.",
            Self::InvalidParameter => "Correct the headers or query parameters listed under `errors`.",
            Self::BodyNotRead => "Send as many bytes as Content-Length says, or end the last chunk. Then try again.",
            Self::SignatureMissing => {
                "The subscription has a secret. Send X-Hub-Signature-256: sha256=<hex of HMAC-SHA256 over the body, \
                 keyed with the secret>."
            }
            Self::SignatureWrong => "Sign the exact bytes that are sent, with the subscription's current secret.",
            Self::ForeignOrigin => "Call the API from a program, or from a page that this server itself serves.",
            Self::NotSubscribed => "Send a type that the subscription names, or add this one to its event_type.",
            Self::SubscriptionNotFound => "Look the id up with GET /subscriptions. It may have been deleted.",
            Self::DeliveryNotFound => {
                "Use the delivery_id of the answer to POST /ingest/{id}. Deliveries are forgotten after the retention."
            }
            Self::PageNotFound => "See /docs for all paths.",
            Self::MethodNotAllowed => "Use one of the methods in the Allow header.",
            Self::BodyTimeout => "Send the whole body without pauses; nothing of it was kept. Then try again.",
            Self::SubscriptionDisabled => "Its receiver answered 410 Gone. PUT /subscriptions/{id} enables it again.",
            Self::PayloadTooLarge => "Send a smaller body, for example one with a reference to the data.",
            Self::Internal => "The log of the service says more. Trying again may not help.",
            Self::Busy => "Nothing was stored. Try again after Retry-After, with less at the same time.",
            Self::StoreUnavailable => "Try again after Retry-After. Sending an event twice is safe for the service.",
            Self::NotReady => "Wait; send events to another node meanwhile.",
        }
    }

    pub fn name(self) -> &'static str {
        self.spec().0
    }

    pub fn status(self) -> u16 {
        self.spec().1
    }

    pub fn title(self) -> &'static str {
        self.spec().2
    }
}

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

/// An answer that is not 2xx. Boxed, so that a result with it stays small.
#[derive(Debug)]
pub(super) struct Problem(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    header: Option<(header::HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Details { kind, detail: detail.into(), errors: Vec::new(), header: None }))
    }

    pub fn with_errors(kind: Kind, errors: Vec<FieldError>) -> Self {
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

    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn into_response(self) -> Response {
        let body = self.json().to_string();
        let Details { kind, header, .. } = *self.0;
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = header {
            headers.insert(name, value);
        }
        response
    }

    fn json(&self) -> serde_json::Value {
        let Details { kind, detail, errors, .. } = &*self.0;
        let mut json = serde_json::json!({
            "type": format!("/problems/{}", kind.name()),
            "title": kind.title(),
            "status": kind.status(),
            "detail": detail,
        });
        if !errors.is_empty() {
            json["errors"] = serde_json::json!(errors);
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
                format!("subscription {id} is disabled: its receiver answered 410 Gone; a PUT enables it again"),
            ),
            AcceptError::Busy { retry_after_s } => Self::new(Kind::Busy, error.to_string()).retry_after(retry_after_s),
            AcceptError::Unavailable { ref reason, retry_after_s } => {
                Self::new(Kind::StoreUnavailable, reason.clone()).retry_after(retry_after_s)
            }
            AcceptError::Rejected(_) => {
                tracing::error!(%error, "an event was refused");
                Self::new(Kind::Internal, "the store refused the event; nothing was stored")
            }
        }
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
    fn what_the_store_says_is_not_shown_to_callers() {
        let problem = Problem::from(StoreError::Unavailable("connection to db-7.internal refused".into()));
        assert!(!problem.json().to_string().contains("db-7"));
    }

    #[test]
    fn names_of_kinds_are_unique() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
