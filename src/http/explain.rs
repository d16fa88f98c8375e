//! Why a delivery has not been received yet, or what became of it, in one sentence. From facts alone: nothing is asked
//! for here, and the same facts make the same sentence.

use serde::Serialize;

use crate::delivery::{AttemptLog, DeliveryId, DeliveryState, DisabledReason, Retry, Timestamp, Waits};

/// What is known of a delivery.
pub(super) struct Facts<'a> {
    pub state: DeliveryState,
    /// Oldest first.
    pub attempts: &'a [AttemptLog],
    /// Why its subscription is disabled, if it is.
    pub disabled: Option<DisabledReason>,
    /// `None` once it has ended.
    pub waits: Option<Waits>,
}

/// What an unfinished delivery waits for when no actor says so: its rows do.
pub(super) fn waits_at_rest(disabled: bool, retry: Option<&Retry>) -> Waits {
    match retry {
        _ if disabled => Waits::Disabled,
        Some(retry) => Waits::Retry { at: retry.next_attempt_at, attempt: retry.attempt_number },
        None => Waits::Backlog,
    }
}

/// The one word for it; `None` when it waits for nothing because an attempt is under way.
pub(super) fn word(waits: &Waits) -> Option<&'static str> {
    Some(match waits {
        Waits::InFlight { .. } | Waits::Recording { .. } => return None,
        Waits::Disabled => "disabled",
        Waits::Draining => "stopping",
        Waits::Retry { .. } => "retry",
        Waits::Order { .. } => "order",
        Waits::Breaker { .. } | Waits::Probe => "breaker",
        Waits::Held { .. } => "retry_after",
        Waits::Rate { .. } => "rate_limit",
        Waits::Window { .. } => "window",
        Waits::Node => "node",
        Waits::Backlog => "backlog",
    })
}

/// The same for programs, with what belongs to it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct WaitsFor {
    reason: &'static str,
    /// Not before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    /// The number of the attempt that will be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// The delivery that has to end first.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<DeliveryId>,
    /// How many attempts may be under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<usize>,
}

impl WaitsFor {
    pub fn of(waits: &Waits) -> Option<Self> {
        let bare = Self { reason: word(waits)?, ..Self::default() };
        Some(match *waits {
            Waits::Retry { at, attempt } => Self { until: Some(at.to_string()), attempt: Some(attempt), ..bare },
            Waits::Breaker { until } | Waits::Held { until } | Waits::Rate { at: until } => {
                Self { until: Some(until.to_string()), ..bare }
            }
            Waits::Order { behind } => Self { behind: Some(behind), ..bare },
            Waits::Window { size } => Self { window: Some(size), ..bare },
            _ => bare,
        })
    }
}

/// See the module's docs.
pub(super) fn sentence(facts: &Facts<'_>) -> String {
    let Facts { state, attempts, disabled, waits } = facts;
    match (state, attempts) {
        (DeliveryState::Delivered, [.., last]) => delivered(last),
        (DeliveryState::Failed, [only]) => format!("Failed at {}: {}.", ended(only), error(only)),
        (DeliveryState::Failed, [.., last]) => {
            format!("Failed at {}: all {} attempts failed; the last one: {}.", ended(last), attempts.len(), error(last))
        }
        (DeliveryState::Cancelled, []) => {
            "Cancelled: its subscription was deleted before the first attempt.".to_owned()
        }
        (DeliveryState::Cancelled, [.., last]) => {
            format!("Cancelled: its subscription was deleted before it was received; {}.", failed(last))
        }
        (_, attempts) => {
            let waits = waits.as_ref().unwrap_or(&Waits::Backlog);
            let history = attempts.last().map(|last| format!("; {}", failed(last)));
            format!("Not delivered yet: {}{}.", waiting(waits, *disabled), history.unwrap_or_default())
        }
    }
}

fn delivered(last: &AttemptLog) -> String {
    let status = last.http_status.map_or_else(|| "2xx".to_owned(), |status| status.to_string());
    format!("Delivered at {} with attempt {}: {status}.", ended(last), last.attempt_number)
}

fn failed(log: &AttemptLog) -> String {
    format!("attempt {} failed at {}: {}", log.attempt_number, ended(log), error(log))
}

fn ended(log: &AttemptLog) -> Timestamp {
    log.timestamp + std::time::Duration::from_millis(log.duration_ms.into())
}

fn error(log: &AttemptLog) -> &str {
    log.error_details.as_deref().map_or("nobody said why", |details| details.trim_end_matches('.'))
}

fn waiting(waits: &Waits, disabled: Option<DisabledReason>) -> String {
    match waits {
        Waits::InFlight { attempt } => format!("attempt {attempt} is under way"),
        Waits::Recording { .. } => "its last attempt has ended and is being logged".to_owned(),
        Waits::Disabled => format!("its subscription is disabled{}, until somebody enables it", why(disabled)),
        Waits::Draining => "this process is stopping, and it goes on when one has started again".to_owned(),
        Waits::Retry { at, attempt } => format!("attempt {attempt} is due at {at}"),
        Waits::Order { behind } => format!("it has to keep its order, and delivery {behind} before it has not ended"),
        Waits::Breaker { until } => {
            format!("the breaker is open, and the next attempt to find out whether the receiver is back is at {until}")
        }
        Waits::Probe => {
            "the breaker is open, and an attempt to find out whether the receiver is back is under way".to_owned()
        }
        Waits::Held { until } => format!("the receiver asked with Retry-After for no more before {until}"),
        Waits::Rate { at } => format!("the rate limit of its subscription allows the next attempt at {at}"),
        Waits::Window { size: 1 } => "the one attempt that may be under way now is another's".to_owned(),
        Waits::Window { size } => format!("all {size} attempts that may be under way now are others'"),
        Waits::Node => "this node is busy with attempts of others, and its own waits for a place among them".to_owned(),
        Waits::Backlog => "its turn comes after what was accepted before it".to_owned(),
    }
}

fn why(disabled: Option<DisabledReason>) -> &'static str {
    match disabled {
        Some(DisabledReason::Gone) => " because the receiver answered 410 Gone",
        Some(DisabledReason::Failing) => " because every attempt had failed for too long",
        Some(DisabledReason::ByHand) => " by hand",
        None => "",
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
pub(super) mod tests;
