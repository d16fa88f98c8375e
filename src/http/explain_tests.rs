use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::delivery::{Outcome, SubscriptionId};

const T: Timestamp = Timestamp(1_700_000_000_000);

/// An attempt of 250 ms, beginning at [`T`].
pub(in crate::http) fn attempt(number: u32, outcome: Outcome, http_status: Option<u16>) -> AttemptLog {
    let error_details = match http_status {
        Some(200) => None,
        Some(status) => Some(format!("the receiver answered {status}")),
        None => Some("no answer within 10s.".to_owned()),
    };
    AttemptLog {
        id: Uuid::nil(),
        delivery_id: DeliveryId::MIN,
        subscription_id: SubscriptionId(1),
        target_url: "https://a.example/".into(),
        timestamp: T,
        attempt_number: number,
        outcome,
        http_status,
        error_details,
        duration_ms: 250,
        response_body: None,
    }
}

fn said(state: DeliveryState, attempts: &[AttemptLog], waits: Option<Waits>) -> String {
    sentence(&Facts { state, attempts, disabled: None, waits })
}

#[test]
fn what_has_ended_says_when_and_how() {
    use DeliveryState::{Cancelled, Delivered, Failed};
    let failed = |number| attempt(number, Outcome::FailedAttempt, Some(500));
    let cases = [
        (
            Delivered,
            vec![failed(1), attempt(2, Outcome::Success, Some(200))],
            "Delivered at 2023-11-14T22:13:20.250Z with attempt 2: 200.",
        ),
        (
            Failed,
            vec![attempt(1, Outcome::Failure, Some(410))],
            "Failed at 2023-11-14T22:13:20.250Z: the receiver answered 410.",
        ),
        (
            Failed,
            vec![failed(1), failed(2), attempt(3, Outcome::Failure, None)],
            "Failed at 2023-11-14T22:13:20.250Z: all 3 attempts failed; the last one: no answer within 10s.",
        ),
        (Cancelled, vec![], "Cancelled: its subscription was deleted before the first attempt."),
        (
            Cancelled,
            vec![failed(1)],
            "Cancelled: its subscription was deleted before it was received; attempt 1 failed at \
             2023-11-14T22:13:20.250Z: the receiver answered 500.",
        ),
    ];
    for (state, attempts, sentence) in cases {
        assert_eq!(said(state, &attempts, None), sentence);
    }
}

/// Every reason, what it is called, what programs read, and a piece of the sentence.
fn reasons() -> Vec<(Waits, Option<&'static str>, serde_json::Value, &'static str)> {
    let at = "2023-11-14T22:13:20.000Z";
    let until = |reason: &str| json!({"reason": reason, "until": at});
    let behind = DeliveryId::MIN;
    vec![
        (Waits::InFlight { attempt: 3 }, None, json!(null), "attempt 3 is under way"),
        (Waits::Recording { attempt: 1 }, None, json!(null), "is being logged"),
        (Waits::Disabled, Some("disabled"), json!({"reason": "disabled"}), "its subscription is disabled, until"),
        (Waits::Draining, Some("stopping"), json!({"reason": "stopping"}), "this process is stopping"),
        (
            Waits::Retry { at: T, attempt: 2 },
            Some("retry"),
            json!({"reason": "retry", "until": at, "attempt": 2}),
            "attempt 2 is due at 2023-11-14T22:13:20.000Z",
        ),
        (
            Waits::Order { behind },
            Some("order"),
            json!({"reason": "order", "behind": behind}),
            "delivery 00000000-0000-0000-0000-000000000000 before it has not ended",
        ),
        (Waits::Breaker { until: T }, Some("breaker"), until("breaker"), "is at 2023-11-14T22:13:20.000Z"),
        (Waits::Probe, Some("breaker"), json!({"reason": "breaker"}), "is back is under way"),
        (
            Waits::Held { until: T },
            Some("retry_after"),
            until("retry_after"),
            "no more before 2023-11-14T22:13:20.000Z",
        ),
        (
            Waits::Rate { at: T },
            Some("rate_limit"),
            until("rate_limit"),
            "the next attempt at 2023-11-14T22:13:20.000Z",
        ),
        (Waits::Window { size: 1 }, Some("window"), json!({"reason": "window", "window": 1}), "the one attempt"),
        (Waits::Window { size: 8 }, Some("window"), json!({"reason": "window", "window": 8}), "all 8 attempts"),
        (Waits::Node, Some("node"), json!({"reason": "node"}), "waits for a place among them"),
        (Waits::Backlog, Some("backlog"), json!({"reason": "backlog"}), "its turn comes"),
    ]
}

#[test]
fn every_reason_to_wait_has_a_word_an_object_and_a_sentence() {
    for (waits, expected, object, piece) in reasons() {
        assert_eq!(word(&waits), expected, "{waits:?}");
        assert_eq!(json!(WaitsFor::of(&waits)), object, "{waits:?}");
        if !object.is_null() {
            crate::http::openapi::tests::assert_matches("WaitsFor", &object);
        }
        let sentence = said(DeliveryState::Pending, &[], Some(waits));
        assert!(sentence.starts_with("Not delivered yet: ") && sentence.ends_with('.'), "{sentence}");
        assert!(sentence.contains(piece), "{sentence}");
    }
}

#[test]
fn what_is_retried_says_how_the_last_attempt_failed() {
    let attempts = [attempt(1, Outcome::FailedAttempt, Some(500)), attempt(2, Outcome::FailedAttempt, None)];
    assert_eq!(
        said(DeliveryState::Retrying, &attempts, Some(Waits::Retry { at: T, attempt: 3 })),
        "Not delivered yet: attempt 3 is due at 2023-11-14T22:13:20.000Z; attempt 2 failed at \
         2023-11-14T22:13:20.250Z: no answer within 10s."
    );
}

#[test]
fn a_disabled_subscription_says_why_it_is_disabled() {
    for (reason, piece) in [
        (DisabledReason::Gone, "disabled because the receiver answered 410 Gone, until"),
        (DisabledReason::Failing, "disabled because every attempt had failed for too long, until"),
        (DisabledReason::ByHand, "disabled by hand, until"),
    ] {
        let (disabled, waits) = (Some(reason), Some(Waits::Disabled));
        let said = sentence(&Facts { state: DeliveryState::Pending, attempts: &[], disabled, waits });
        assert!(said.contains(piece), "{said}");
    }
}

#[test]
fn without_an_actor_the_rows_say_what_is_waited_for() {
    let retry = Retry {
        delivery_id: DeliveryId::MIN,
        subscription_id: SubscriptionId(1),
        attempt_number: 2,
        next_attempt_at: T,
        ordering_key: None,
    };
    assert_eq!(waits_at_rest(true, Some(&retry)), Waits::Disabled);
    assert_eq!(waits_at_rest(false, Some(&retry)), Waits::Retry { at: T, attempt: 2 });
    assert_eq!(waits_at_rest(false, None), Waits::Backlog);
}
