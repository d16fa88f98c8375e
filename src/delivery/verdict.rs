//! What an attempt says of its receiver. The one place that judges.

use super::{AttemptClass, AttemptResult};

/// What an attempt says of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was received.
    Received,
    /// The receiver cannot be reached or cannot keep up: less at once, or a pause, would help.
    Struggling,
    /// The receiver lives and does not want this delivery: neither less nor a pause would help.
    Refused,
}

/// Timeouts, failed connections and answers that are not HTTP come without a status. A success that was cut off has one.
/// What this node did not send, for want of a descriptor, say, tells nothing bad of the receiver.
pub(super) fn judge(result: &AttemptResult) -> Verdict {
    match result.http_status {
        _ if result.succeeded() => Verdict::Received,
        _ if matches!(result.class, AttemptClass::Refused | AttemptClass::Expired | AttemptClass::Local) => {
            Verdict::Refused
        }
        None | Some(200..=299 | 408 | 429 | 500..) => Verdict::Struggling,
        Some(_) => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::Timestamp;

    fn judged(http_status: Option<u16>, error: Option<&str>) -> Verdict {
        judge(&AttemptResult {
            started_at: Timestamp(0),
            duration: Duration::ZERO,
            http_status,
            retry_after: None,
            error_details: error.map(str::to_owned),
            class: if http_status.is_some() { AttemptClass::Answered } else { AttemptClass::Timeout },
            response_body: None,
        })
    }

    #[test]
    fn only_what_a_pause_would_help_is_struggling() {
        assert_eq!(judged(Some(204), None), Verdict::Received);
        for status in [None, Some(408), Some(429), Some(500), Some(503), Some(599), Some(777)] {
            assert_eq!(judged(status, Some("failed")), Verdict::Struggling, "{status:?}");
        }
        for status in [301, 400, 401, 404, 410, 422] {
            assert_eq!(judged(Some(status), Some("failed")), Verdict::Refused, "{status}");
        }
    }

    #[test]
    fn a_success_that_was_cut_off_is_none() {
        assert_eq!(judged(Some(200), Some("the answer did not end in time")), Verdict::Struggling);
    }
}
