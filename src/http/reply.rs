//! Answers that are not problems, with the headers that each kind of answer carries.

use serde::Serialize;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::problem::{Kind, Problem};

/// What a handler comes to.
pub(super) type Answer = Result<Response, Problem>;

/// Renders what a handler came to.
pub(super) fn render(answer: Answer) -> Response {
    answer.unwrap_or_else(Problem::into_response)
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer could not be written as JSON");
        Problem::new(Kind::Internal, "the answer could not be written")
    })?;
    Ok(json_text(status, body))
}

/// An answer that is JSON already.
pub(super) fn json_text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response {
    typed(status, "application/json", body)
}

/// An answer of a fixed content type.
pub(super) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Adds a header whose value we wrote ourselves; one that is not a header value is left out.
pub(super) fn with_header(mut response: Response, name: header::HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}
