//! A delivery as `hookpost listen` shows it: for people, or as a line of JSON.

use std::fmt::Write as _;
use std::iter;
use std::time::Duration;

use http::HeaderMap;
use serde::Serialize;

use crate::delivery::Timestamp;
use crate::outbound::signing::{BadSignature, Message, Verifier};

/// Most of a body that is shown to people; `--json` shows all of it.
const MAX_SHOWN_CHARS: usize = 4000;
/// How far `webhook-timestamp` may be from now: what Standard Webhooks libraries allow.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// What came, and what it was answered.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    received_at: String,
    pub webhook_id: Option<String>,
    event_type: Option<String>,
    attempt: Option<u32>,
    /// `webhook-signature`.
    standard_webhooks: Check,
    /// `X-Hub-Signature-256`.
    x_hub_signature_256: Check,
    pub answered: u16,
    /// As JSON when it is, as text when not: for programs. A number may be rounded, and of a name that is there twice the last counts.
    body: serde_json::Value,
    /// As it came, if it is UTF-8, which is what the signatures are over.
    body_text: String,
}

/// What can be said of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Check {
    /// Made with the secret or the key, over these bytes, just now.
    Verified,
    /// There is one, and nothing to check it with.
    Unverified,
    /// There is none.
    Absent,
    /// Not made with them over these bytes.
    Bad,
    /// Right, and too old or too new to be believed.
    Stale,
}

impl Report {
    pub fn new(headers: &HeaderMap, body: &[u8], verifier: &Verifier, now: Timestamp) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let [id, timestamp] = ["webhook-id", "webhook-timestamp"].map(|name| header(name).unwrap_or_default());
        Self {
            received_at: now.to_string(),
            webhook_id: header("webhook-id").map(str::to_owned),
            event_type: header("x-event-type").map(str::to_owned),
            attempt: header("x-hookpost-attempt").and_then(|number| number.parse().ok()),
            standard_webhooks: match header("webhook-signature") {
                None => Check::Absent,
                Some(signatures) if !verifier.can_check(signatures) => Check::Unverified,
                Some(signatures) => {
                    verifier.verify(&Message { id, timestamp, body }, signatures, now, TOLERANCE).into()
                }
            },
            x_hub_signature_256: match header("x-hub-signature-256") {
                None => Check::Absent,
                Some(_) if !verifier.has_secret() => Check::Unverified,
                // A receiver that has the secret that was replaced looks at the second, too.
                Some(signature) => {
                    let mut signatures = iter::once(signature).chain(header("x-hub-signature-256-previous"));
                    let verified = signatures.any(|signature| verifier.verify_hub_signature(body, signature));
                    if verified { Check::Verified } else { Check::Bad }
                }
            },
            answered: 200,
            body: serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into()),
            body_text: String::from_utf8_lossy(body).into_owned(),
        }
    }

    /// One line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).map(|line| line + "\n").unwrap_or_default()
    }

    pub fn text(&self) -> String {
        let (at, answered) = (&self.received_at, self.answered);
        let event_type = self.event_type.as_deref().unwrap_or("(no event type)");
        let mut text = format!("{at}  {event_type}");
        if let Some(attempt) = self.attempt {
            let _ = write!(text, "  attempt {attempt}");
        }
        let _ = writeln!(text, "  answered {answered}");
        let _ = writeln!(text, "  webhook-id           {}", self.webhook_id.as_deref().unwrap_or("(none)"));
        let _ = writeln!(text, "  webhook-signature    {}", self.standard_webhooks.words());
        let _ = writeln!(text, "  X-Hub-Signature-256  {}", self.x_hub_signature_256.words());
        for line in self.shown_body().lines() {
            let _ = writeln!(text, "  {line}");
        }
        text + "\n"
    }

    fn shown_body(&self) -> String {
        let whole = self.body_text.replace("\r\n", "\n");
        // A body must not be able to drive the terminal: a carriage return alone would go over what is said of signatures.
        let inert = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
        let mut shown: String = whole.chars().take(MAX_SHOWN_CHARS).map(inert).collect();
        let cut = whole.chars().count().saturating_sub(MAX_SHOWN_CHARS);
        if cut > 0 {
            let _ = write!(shown, "\n… and {cut} more characters (--json shows all)");
        }
        shown
    }
}

impl Check {
    fn words(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unverified => {
                "unverified (give the subscription's secret with --secret, its public key with --public-key)"
            }
            Self::Absent => "none (the subscription has no secret and no key)",
            Self::Bad => "BAD: not made with this secret or key over this body",
            Self::Stale => "STALE: right, but its webhook-timestamp is more than 5 minutes from now",
        }
    }
}

impl From<Result<(), BadSignature>> for Check {
    fn from(verified: Result<(), BadSignature>) -> Self {
        match verified {
            Ok(()) => Self::Verified,
            Err(BadSignature::Mismatch) => Self::Bad,
            Err(BadSignature::OutsideTolerance) => Self::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: &[u8]) -> String {
        Report::new(&HeaderMap::new(), body, &Verifier::default(), Timestamp(0)).text()
    }

    #[test]
    fn a_body_is_shown_as_it_came() {
        assert!(shown(b"{\r\n\t\"a\": 1\r\n}").contains("\n  {\n  \t\"a\": 1\n  }\n"));
        for body in [r#"{"z":1.10,"a":12345678901234567890123,"a":2}"#, "plain text"] {
            assert!(shown(body.as_bytes()).contains(&format!("\n  {body}\n")), "{body}");
            let report = Report::new(&HeaderMap::new(), body.as_bytes(), &Verifier::default(), Timestamp(0));
            let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
            assert_eq!(json["body_text"], body);
        }
    }

    #[test]
    fn a_body_cannot_drive_the_terminal() {
        assert!(!shown(b"\x1b[2J\x07").contains(['\x1b', '\x07']));
        assert!(!shown(br#""\u001b[2J""#).contains('\x1b'));
        assert!(!shown(b"{}\r  webhook-signature    verified").contains('\r'));
    }

    #[test]
    fn a_long_body_is_cut_and_says_so() {
        assert!(shown(&[b'a'; MAX_SHOWN_CHARS]).ends_with("a\n\n"));
        assert!(shown(&[b'a'; MAX_SHOWN_CHARS + 7]).contains("and 7 more characters"));
    }
}
