//! What is promised, as functions that have the promise for a name. Debug builds assert those that one process can see;
//! the simulation (`tests/sim`) asserts all of them over everything that happened.

use std::fmt::Display;
use std::time::Duration;

use super::{DeliveryId, Rate, SubscriptionId, Timestamp};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The name of the function that says so.
    pub invariant: &'static str,
    /// What was found in place of what is promised.
    pub found: String,
}

/// Whether a promise was kept.
pub type Held = Result<(), Broken>;

/// Where a delivery stands that somebody was told is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its log says so, and the receiver did answer 2xx.
    Received,
    /// A row of the log says that it ended, and why.
    FailedVisibly,
    /// Its subscription was deleted.
    Cancelled,
    /// It is unfinished.
    Open,
    /// Nothing says what became of it.
    Unknown,
}

fn held(holds: bool, invariant: &'static str, found: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(Broken { invariant, found: found() }) }
}

/// An event that was answered with 2xx is received, or ends in a failure that is visible, or its subscription was deleted.
pub fn nothing_accepted_is_lost(id: DeliveryId, fate: Fate) -> Held {
    let ended = matches!(fate, Fate::Received | Fate::FailedVisibly | Fate::Cancelled);
    held(ended, "nothing_accepted_is_lost", || format!("{id} was accepted, and is {fate:?}"))
}

/// Every request brings a body, byte for byte, that somebody offered to this very subscription.
pub fn nothing_is_delivered_that_was_not_offered(id: impl Display, to: SubscriptionId, offered: bool) -> Held {
    held(offered, "nothing_is_delivered_that_was_not_offered", || format!("{id} was sent to subscription {to}"))
}

/// An event that was refused, with an answer that says that it was not stored, is never delivered.
pub fn what_was_refused_is_not_delivered(id: impl Display, refused: bool) -> Held {
    held(!refused, "what_was_refused_is_not_delivered", || format!("{id} was sent after its event was refused"))
}

/// All answers to requests with one idempotency key name the same deliveries.
pub fn a_key_stands_for_one_outcome(key: &str, first: &[DeliveryId], now: &[DeliveryId]) -> Held {
    held(first == now, "a_key_stands_for_one_outcome", || format!("key {key} stood for {first:?}, then for {now:?}"))
}

/// All requests with one `webhook-id` bring the same body.
pub fn a_webhook_id_stands_for_one_body(id: impl Display, same: bool) -> Held {
    held(same, "a_webhook_id_stands_for_one_body", || format!("{id} came with two bodies"))
}

/// A subscription that has a secret gets no request without a signature that verifies.
pub fn every_request_is_signed(id: impl Display, signed: bool) -> Held {
    held(signed, "every_request_is_signed", || format!("the signature of {id} does not verify"))
}

/// A delivery is attempted once, and once more for each wait of its schedule. (The schedule may be changed while it waits:
/// then it is the longest that it had.)
pub fn attempts_stay_within_the_schedule(id: impl Display, number: u32, waits: usize) -> Held {
    let within = number >= 1 && number as usize <= waits + 1;
    held(within, "attempts_stay_within_the_schedule", || format!("attempt {number} at {id}, and {waits} waits"))
}

/// A delivery has at most one attempt under way.
pub fn one_attempt_at_a_time(id: DeliveryId, already_under_way: bool) -> Held {
    held(!already_under_way, "one_attempt_at_a_time", || format!("{id} was attempted while it was under way"))
}

/// An attempt whose log row is durable is not made again; so is none that ended in the same life of the process. What a crash
/// cuts before it is logged is made again, with the same number.
pub fn an_attempt_is_repeated_only_if_a_crash_cut_it(id: impl Display, number: u32, cut: bool) -> Held {
    held(cut, "an_attempt_is_repeated_only_if_a_crash_cut_it", || format!("attempt {number} at {id} was made again"))
}

/// A delivery of which the log says that it ended is sent no more.
pub fn what_has_ended_is_not_sent_again(id: impl Display, ended: bool) -> Held {
    held(!ended, "what_has_ended_is_not_sent_again", || format!("{id} was sent after it had ended"))
}

/// Of a subscription no more attempts are lost to a crash than it may have under way.
pub fn a_crash_cuts_no_more_than_the_window(of: SubscriptionId, cut: usize, window: usize) -> Held {
    held(cut <= window, "a_crash_cuts_no_more_than_the_window", || {
        format!("{cut} attempts of subscription {of} are not logged, and {window} may be under way")
    })
}

/// No more attempts of a subscription are under way than it allows.
pub fn the_window_is_kept(of: SubscriptionId, under_way: usize, most: usize) -> Held {
    held(under_way <= most, "the_window_is_kept", || {
        format!("{under_way} attempts of subscription {of} are under way, and {most} may be")
    })
}

/// Within any stretch of time no more attempts start than a burst, and what the rate allows in that time. `starts` are in
/// order.
pub fn the_rate_is_kept(of: SubscriptionId, starts: &[Timestamp], rate: Rate, within: Duration) -> Held {
    let allowed = u128::from(rate.burst) + (u128::from(rate.per_second) * within.as_millis()).div_ceil(1000);
    let in_stretch = |from: &Timestamp| starts.iter().filter(|at| **at >= *from && at.since(*from) < within).count();
    let most = starts.iter().map(in_stretch).max().unwrap_or_default();
    held(most as u128 <= allowed, "the_rate_is_kept", || {
        format!("{most} attempts of subscription {of} within {within:?}, and {allowed} may start")
    })
}

/// In a lane (all of a `fifo` subscription, or an ordering key) deliveries come for the first time, and succeed for the first
/// time, in the order in which they were accepted.
pub fn a_lane_keeps_its_order(before: Option<DeliveryId>, id: DeliveryId) -> Held {
    held(before.is_none_or(|before| before < id), "a_lane_keeps_its_order", || format!("{id} came after {before:?}"))
}

/// A row of the log that names a status is of a request that the receiver answered with that status: so many rows, at most as
/// many answers.
pub fn the_log_says_what_the_receiver_saw(id: impl Display, number: u32, rows: usize, answers: usize) -> Held {
    held(rows <= answers, "the_log_says_what_the_receiver_saw", || {
        format!("{rows} rows of attempt {number} at {id} with a status that the receiver gave {answers} times")
    })
}

/// Every request that reached a receiver has its row in the log, unless a crash cut the attempt.
pub fn what_the_receiver_saw_is_logged(id: impl Display, number: u32, logged: bool) -> Held {
    held(logged, "what_the_receiver_saw_is_logged", || format!("attempt {number} at {id} has no row in the log"))
}

/// Once faults stop, everything comes to its end in a bounded time.
pub fn everything_settles(left: &[String]) -> Held {
    held(left.is_empty(), "everything_settles", || format!("left: {}", left.join(", ")))
}
