//! The receiver's answer: what of it is read, what is kept, and what it means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};

use super::failure::Phase;
use crate::delivery::Timestamp;

/// Most of an answer's body that is read. Reading it to its end keeps the connection for the next delivery; a longer
/// one costs more than a new connection.
pub(super) const MAX_READ_BYTES: usize = 64 * 1024;
/// Most of it that is kept for the log: enough to see what the receiver complained about.
pub(super) const MAX_KEPT_BYTES: usize = 1024;

/// What has been received so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub status: Option<StatusCode>,
    pub retry_after: Option<Duration>,
    start: Vec<u8>,
    received: usize,
}

impl Answer {
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap, started_at: Timestamp) {
        self.status = Some(status);
        // Only with these does it ask us to come back later (RFC 9110, 10.2.3; RFC 6585, 4).
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            self.retry_after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, started_at));
        }
    }

    /// How far the attempt has come.
    pub fn phase(&self) -> Phase {
        if self.status.is_some() { Phase::Reading } else { Phase::Waiting }
    }

    /// Takes in a piece of the body; whether to go on reading.
    pub fn body(&mut self, piece: &[u8]) -> bool {
        let wanted = (MAX_KEPT_BYTES - self.start.len()).min(piece.len());
        self.start.extend_from_slice(&piece[..wanted]);
        self.received += piece.len();
        self.received <= MAX_READ_BYTES
    }

    /// The start of the body as text.
    pub fn text(&self) -> Option<String> {
        (!self.start.is_empty()).then(|| printable(&self.start))
    }

    /// What is wrong with the answer; `None` when the delivery was received.
    pub fn verdict(&self, method: &Method) -> Option<String> {
        let status = self.status.filter(|status| !status.is_success())?;
        let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
        let answered = format!("answered {code} {reason}").trim_end().to_owned();
        Some(match status {
            _ if status.is_redirection() => {
                format!("{answered}: redirects are not followed; set target_url to where it redirects to")
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                format!("{answered}: the receiver refused it; check that both sides have the same secret")
            }
            StatusCode::NOT_FOUND => format!("{answered}: nothing is at this URL; check target_url"),
            StatusCode::METHOD_NOT_ALLOWED => format!("{answered}: the receiver takes no {method} at this URL"),
            _ => answered,
        })
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3), which is taken relative to when the attempt began.
fn retry_after(value: &str, started_at: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean longer than anyone waits; the caller caps it.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let began: SystemTime = UNIX_EPOCH + Duration::from_millis(u64::try_from(started_at.0).ok()?);
    Some(date.duration_since(began).unwrap_or_default())
}

/// As text that every store and page can hold: characters cut in half at the end are left out, what is not UTF-8 or
/// is a control character is replaced, and the result is no longer than [`MAX_KEPT_BYTES`].
fn printable(bytes: &[u8]) -> String {
    let shown =
        |c: char| if c.is_control() && !matches!(c, '\n' | '\r' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
    let mut text: String = String::from_utf8_lossy(whole_characters(bytes)).chars().map(shown).collect();
    text.truncate(text.floor_char_boundary(MAX_KEPT_BYTES));
    text
}

fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-15 08:12:01 UTC.
    const STARTED_AT: Timestamp = Timestamp(784_887_121_000);

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("Tue, 15 Nov 1994 08:12:31 GMT", Some(30)),
            ("Tue, 15 Nov 1994 08:11:31 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(value, STARTED_AT), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn retry_after_counts_only_where_it_asks_us_to_wait() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        for (status, expected) in [(429, Some(7)), (503, Some(7)), (500, None), (301, None), (200, None)] {
            let mut answer = Answer::default();
            answer.head(StatusCode::from_u16(status).unwrap(), &headers, STARTED_AT);
            assert_eq!(answer.retry_after, expected.map(Duration::from_secs), "{status}");
        }
    }

    #[test]
    fn reading_stops_just_past_the_cap() {
        let mut answer = Answer::default();
        assert!(answer.body(&[b'a'; MAX_READ_BYTES]));
        assert!(!answer.body(b"a"));
        assert_eq!(answer.text().unwrap().len(), MAX_KEPT_BYTES);
    }

    #[test]
    fn the_kept_start_is_cut_between_characters() {
        let mut answer = Answer::default();
        answer.body("x".as_bytes());
        answer.body("é".repeat(MAX_KEPT_BYTES).as_bytes());
        let text = answer.text().unwrap();
        assert_eq!(text, format!("x{}", "é".repeat(511)));
    }

    #[test]
    fn what_no_store_holds_is_replaced() {
        assert_eq!(printable(b"a\0b\x1b[31m\xff\n"), "a\u{fffd}b\u{fffd}[31m\u{fffd}\n");
        assert!(printable(&[0xff; MAX_KEPT_BYTES]).len() <= MAX_KEPT_BYTES);
    }

    #[test]
    fn only_2xx_is_received() {
        for (status, expected) in [
            (200, None),
            (204, None),
            (299, None),
            (500, Some("answered 500 Internal Server Error")),
            (599, Some("answered 599")),
        ] {
            let answer = Answer { status: StatusCode::from_u16(status).ok(), ..Answer::default() };
            assert_eq!(answer.verdict(&Method::POST).as_deref(), expected);
        }
        for status in [301, 302, 303, 304, 307, 308] {
            let answer = Answer { status: StatusCode::from_u16(status).ok(), ..Answer::default() };
            assert!(answer.verdict(&Method::POST).unwrap().contains("redirects are not followed"), "{status}");
        }
    }
}
