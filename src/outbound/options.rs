//! What a subscription may choose about its requests, and what it may not: the headers that frame a request, and those
//! that a receiver believes because Hookpost sets them.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Most custom headers of a subscription: servers take about a hundred, and ours are a dozen.
pub const MAX_HEADERS: usize = 20;
/// Most bytes of their names and values together: servers take heads of 8 KiB, and the URL may have 2.
pub const MAX_HEADER_BYTES: usize = 4096;

/// Of a name that is wrong, no more than this is repeated.
const SHOWN_CHARS: usize = 64;

/// What a request may be sent with.
const METHODS: [Method; 3] = [Method::POST, Method::PUT, Method::PATCH];
/// They frame the request, or speak to the next hop alone (RFC 9110, 7.6.1), which is not the receiver.
const REFUSED: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// The same, and what says who sent a delivery and whether it is genuine.
const REFUSED_PREFIXES: [&str; 4] = ["proxy-", "webhook-", "x-hub-signature", "x-hookpost-"];
/// Sent as the producer named it.
const EVENT_TYPE: &str = "x-event-type";

/// How a subscription's requests differ from the plain ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    /// POST, PUT or PATCH.
    pub method: Method,
    /// Sent with every attempt. Hookpost's own win, except for `content-type`, `user-agent` and `accept`.
    pub headers: HeaderMap,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self { method: Method::POST, headers: HeaderMap::new() }
    }
}

/// Which field is wrong, what was found there, and what is expected. Values of headers are often secret, and not found here.
pub type OptionRefused = (String, String, String);

impl RequestOptions {
    /// Checks what a user asks for; no method means POST.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn new(method: Option<&str>, headers: &BTreeMap<String, String>) -> Result<Self, Vec<OptionRefused>> {
        let mut errors = Vec::new();
        let method = check_method(method).map_err(|refused| errors.push(refused));
        let headers = check_headers(headers, &mut errors);
        match method {
            Ok(method) if errors.is_empty() => Ok(Self { method, headers }),
            _ => Err(errors),
        }
    }
}

fn check_method(method: Option<&str>) -> Result<Method, OptionRefused> {
    let Some(found) = method else { return Ok(Method::POST) };
    let known = METHODS.into_iter().find(|known| known.as_str() == found);
    known.ok_or_else(|| refuse("method", format!("{found:?}"), "POST, PUT or PATCH"))
}

fn check_headers(headers: &BTreeMap<String, String>, errors: &mut Vec<OptionRefused>) -> HeaderMap {
    if headers.len() > MAX_HEADERS {
        errors.push(refuse("headers", format!("{} headers", headers.len()), format!("at most {MAX_HEADERS}")));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        let expected = format!("at most {MAX_HEADER_BYTES} bytes of names and values together");
        errors.push(refuse("headers", format!("{bytes} bytes"), expected));
    }
    let mut checked = HeaderMap::with_capacity(headers.len().min(MAX_HEADERS));
    for (name, value) in headers.iter().take(MAX_HEADERS) {
        match check_header(name, value) {
            Ok((name, value)) if !checked.contains_key(&name) => drop(checked.insert(name, value)),
            Ok((name, _)) => {
                errors.push(refuse("headers", format!("{name} twice"), "each name once, whatever its case"));
            }
            Err(refused) => errors.push(refused),
        }
    }
    checked
}

fn check_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), OptionRefused> {
    let field = format!("headers.{}", name.chars().take(SHOWN_CHARS).collect::<String>());
    let valid = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        refuse(&field, "a name that no header can have", "letters, digits and hyphens, as in X-Api-Key")
    })?;
    if is_refused(valid.as_str()) {
        return Err(refuse(&field, "a header that Hookpost sets itself", "another one; leave it out"));
    }
    if value.trim_matches([' ', '\t']).len() != value.len() {
        return Err(refuse(&field, "a value with space at its ends", "a value without, as it would not arrive"));
    }
    // HeaderValue would take more: bytes beyond ASCII, which receivers read in different ways.
    let found = value.chars().find(|c| !matches!(c, ' '..='~' | '\t'));
    match (found, HeaderValue::from_str(value)) {
        (None, Ok(mut value)) => {
            // It may be a credential: no debug output shows it.
            value.set_sensitive(true);
            Ok((valid, value))
        }
        (found, _) => {
            let found = found.map_or_else(|| "an invalid value".to_owned(), |c| format!("a value with {c:?}"));
            Err(refuse(&field, found, "printable ASCII"))
        }
    }
}

/// `name` is in lower case.
fn is_refused(name: &str) -> bool {
    REFUSED.contains(&name) || name == EVENT_TYPE || REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn refuse(field: &str, found: impl Into<String>, expected: impl Into<String>) -> OptionRefused {
    (field.to_owned(), found.into(), expected.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&str, &str)]) -> Result<RequestOptions, OptionRefused> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        RequestOptions::new(None, &headers).map_err(|errors| errors[0].clone())
    }

    fn many(count: usize) -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("x-{n}"), String::new())).collect()
    }

    #[test]
    fn nothing_asked_for_is_a_plain_post() {
        assert_eq!(with(&[]), Ok(RequestOptions::default()));
        assert_eq!(RequestOptions::default().method, Method::POST);
    }

    #[test]
    fn methods_are_post_put_and_patch_in_capitals() {
        for method in ["POST", "PUT", "PATCH"] {
            let options = RequestOptions::new(Some(method), &BTreeMap::new()).unwrap();
            assert_eq!(options.method.as_str(), method);
        }
        for method in ["GET", "DELETE", "CONNECT", "post", "", "POST "] {
            let (field, found, _) = &RequestOptions::new(Some(method), &BTreeMap::new()).unwrap_err()[0];
            assert_eq!((field.as_str(), found), ("method", &format!("{method:?}")));
        }
    }

    #[test]
    fn ordinary_headers_are_taken_as_they_are() {
        let options = with(&[
            ("Authorization", "Bearer a b"),
            ("Content-Type", "application/cloudevents+json"),
            ("User-Agent", "us"),
            ("X-Empty", ""),
            ("te-st", "\"{}\"\tx"),
            ("x-hook", "1"),
        ])
        .unwrap();
        assert_eq!(options.headers.len(), 6);
        assert_eq!(options.headers["content-type"], "application/cloudevents+json");
    }

    #[test]
    fn headers_that_frame_or_vouch_are_refused_in_any_case() {
        for name in [
            "Connection",
            "content-length",
            "Transfer-Encoding",
            "HOST",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Keep-Alive",
            "Proxy-Authorization",
            "proxy-connection",
            "Webhook-Id",
            "webhook-signature",
            "X-Hub-Signature",
            "X-Hub-Signature-256",
            "X-Hookpost-Attempt",
            "x-hookpost-anything",
            "X-Event-Type",
        ] {
            let (field, found, _) = with(&[(name, "x")]).unwrap_err();
            assert!(field == format!("headers.{name}") && found.contains("sets itself"), "{name}: {field}, {found}");
        }
    }

    #[test]
    fn names_and_values_that_would_break_the_head_are_refused() {
        for name in ["", "a b", "a:b", "a\r\nb", "é", "a\0"] {
            assert_eq!(with(&[(name, "x")]).unwrap_err().0, format!("headers.{name}"), "{name:?}");
        }
        for value in ["a\r\nhost: x", "a\n", "\0", "é", "\u{7f}", " a", "a ", "\ta"] {
            assert_eq!(with(&[("x-a", value)]).unwrap_err().0, "headers.x-a", "{value:?}");
        }
    }

    #[test]
    fn a_refusal_never_repeats_a_value() {
        let (field, found, expected) = with(&[("x-token", "hunter2\n")]).unwrap_err();
        assert!(![field, found, expected].concat().contains("hunter2"));
    }

    #[test]
    fn debug_shows_no_value() {
        let shown = format!("{:?}", with(&[("authorization", "hunter2")]).unwrap());
        assert!(shown.contains("authorization") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_name_may_stand_only_once() {
        assert!(with(&[("X-A", "1"), ("x-a", "2")]).unwrap_err().1.contains("twice"));
    }

    #[test]
    fn the_number_of_headers_is_capped() {
        assert_eq!(RequestOptions::new(None, &many(MAX_HEADERS)).unwrap().headers.len(), MAX_HEADERS);
        let (field, found, _) = &RequestOptions::new(None, &many(MAX_HEADERS + 1)).unwrap_err()[0];
        assert_eq!((field.as_str(), found.as_str()), ("headers", "21 headers"));
    }

    #[test]
    fn their_bytes_are_capped_together() {
        let fill = |bytes: usize| "a".repeat(bytes - "x-a".len() - "x-b".len());
        assert!(with(&[("x-a", &fill(MAX_HEADER_BYTES)), ("x-b", "")]).is_ok());
        let (_, found, _) = with(&[("x-a", &fill(MAX_HEADER_BYTES)), ("x-b", "1")]).unwrap_err();
        assert_eq!(found, "4097 bytes");
    }
}
