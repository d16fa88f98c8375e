//! The field's nouns: subscription, delivery, attempt, and their ids and times.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::secrets::Secrets;
use super::settings::Settings;
use super::trace::TraceContext;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later than any time that occurs.
    pub const MAX: Self = Self(i64::MAX);

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// The end of the year 9999, where RFC 3339 ends.
const LAST_PRINTABLE_MS: i64 = 253_402_300_799_999;

/// RFC 3339 in UTC, to the millisecond. What is before 1970 or after 9999 is shown as the nearest time between.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Duration::from_millis(self.0.clamp(0, LAST_PRINTABLE_MS).unsigned_abs());
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + shown).fmt(f)
    }
}

/// RFC 3339, with any offset; digits of the second may be left out, or more than three.
impl FromStr for Timestamp {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        // The parser takes any character between date and time.
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
            return Err(());
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(drop)?;
        let ms = i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).map_err(drop)?;
        if ms <= LAST_PRINTABLE_MS { Ok(Self(ms)) } else { Err(()) }
    }
}

/// A subscription's id: a small integer, as in `/subscriptions/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubscriptionId(pub i64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A delivery's id: a `UUIDv7` given in commit order, so that order, time partition and recovery come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeliveryId(pub Uuid);

impl DeliveryId {
    /// Before every delivery.
    pub const MIN: Self = Self(Uuid::nil());
    /// After every delivery.
    pub const MAX: Self = Self(Uuid::max());

    /// The lowest id that a delivery accepted at `at` can have.
    pub fn floor_at(at: Timestamp) -> Self {
        Self(Uuid::from_u128((u128::from(at.0.max(0).unsigned_abs()) & 0xffff_ffff_ffff) << 80))
    }

    /// When it was accepted, by the clock of the node that accepted it.
    pub fn accepted_at(self) -> Timestamp {
        Timestamp(i64::try_from(self.0.as_u128() >> 80).unwrap_or(i64::MAX))
    }

    /// The id just before this one.
    pub fn predecessor(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().saturating_sub(1)))
    }

    /// The id just after this one.
    pub fn successor(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128().saturating_add(1)))
    }

    /// The highest id that a delivery accepted at `at` can have.
    pub fn ceiling_at(at: Timestamp) -> Self {
        Self::floor_at(at + Duration::from_millis(1)).predecessor()
    }

    /// Its place among the others, without what it could be guessed from: no other is between the two.
    pub fn blurred(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() | 0xffff_ffff_ffff))
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DeliveryId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::from_str(text).map(Self)
    }
}

/// The id of an event that was fanned out: a `UUIDv7`, below those of its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// When it was accepted, by the clock of the node that accepted it.
    pub fn accepted_at(self) -> Timestamp {
        DeliveryId(self.0).accepted_at()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::from_str(text).map(Self)
    }
}

/// The tenant of whatever names none.
pub const DEFAULT_TENANT: &str = "default";

/// One event for every subscription of its tenant that wants it. Its payload is stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Given by the writer.
    pub id: EventId,
    /// Whose subscriptions are asked.
    pub tenant: Arc<str>,
    /// As the producer named it.
    pub event_type: Arc<str>,
    /// Kept for subscriptions that want order by key.
    pub ordering_key: Option<Arc<str>>,
    /// The body of every delivery, byte for byte as it was received.
    pub payload: Bytes,
    /// How many deliveries it was fanned out to; zero when nobody wanted it.
    pub deliveries: u32,
    /// The trace that its deliveries belong to, if they do.
    pub trace: Option<Arc<TraceContext>>,
}

/// Who wants which events, and where they go.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Given by the store.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Where deliveries are sent: an absolute `http` or `https` URL.
    pub target_url: Arc<str>,
    /// Patterns of event types (`order.created`, `order.*`); empty means every event.
    pub event_types: Vec<EventTypePattern>,
    /// What it signs and verifies with, sealed. Shared, so that copies of it cost a pointer.
    pub secrets: Option<Arc<Secrets>>,
    /// Why deliveries are held back; `None` while the subscription is enabled.
    pub disabled: Option<DisabledReason>,
    /// How it is delivered to.
    pub settings: Arc<Settings>,
    /// Deliveries up to this one were given up by hand, when it was last enabled.
    pub drop_through: Option<DeliveryId>,
    /// Since when every attempt has failed, by the wall clock. Saved lazily.
    pub failing_since: Option<Timestamp>,
    /// Raised by every change: the newer of two copies is the one with the higher version.
    pub version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

pub use super::event_type::EventTypePattern;

/// Why a subscription is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// The receiver answered 410 Gone.
    Gone,
    /// Every attempt had failed for as long as the subscription allows.
    Failing,
    /// Somebody disabled it.
    ByHand,
}

impl DisabledReason {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
            Self::ByHand => "by_hand",
        }
    }
}

impl FromStr for DisabledReason {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "gone" => Ok(Self::Gone),
            "failing" => Ok(Self::Failing),
            "by_hand" => Ok(Self::ByHand),
            other => Err(format!("unknown reason for a disabled subscription: {other:?}")),
        }
    }
}

/// One event on its way to one subscription, with the bytes to send.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Stable across retries.
    pub id: DeliveryId,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// As the producer named it, if it did.
    pub event_type: Option<Arc<str>>,
    /// The body, byte for byte as it was received.
    pub payload: Bytes,
    /// The event that it came from by fan-out, if it did. The payload and the ordering key are then stored with the event
    /// and not here.
    pub event_id: Option<EventId>,
    /// What it must keep its order with, for subscriptions that ask for that.
    pub ordering_key: Option<Arc<str>>,
    /// The trace that it belongs to, if it does. Stored with the event, likewise.
    pub trace: Option<Arc<TraceContext>>,
    /// The first delivery of the same, if this one was made to send it again.
    pub resend_of: Option<DeliveryId>,
}

impl Delivery {
    /// Sent as `webhook-id`. A resend has that of the first: a receiver that remembers it has processed it once.
    pub fn webhook_id(&self) -> DeliveryId {
        self.resend_of.unwrap_or(self.id)
    }
}

/// How one attempt ended, in the words of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The receiver answered 2xx.
    Success,
    /// It failed and will be retried.
    #[serde(rename = "Failed Attempt")]
    FailedAttempt,
    /// It failed for good: the schedule is spent, the receiver is gone, or the delivery outlived its retention.
    Failure,
}

impl Outcome {
    /// The words stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::FailedAttempt => "Failed Attempt",
            Self::Failure => "Failure",
        }
    }

    /// The number stored by the embedded store and in PostgreSQL's `smallint` column.
    pub fn code(self) -> i16 {
        match self {
            Self::Success => 0,
            Self::FailedAttempt => 1,
            Self::Failure => 2,
        }
    }

    /// The outcome of a stored [`Outcome::code`].
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Success, Self::FailedAttempt, Self::Failure].into_iter().find(|o| o.code() == code)
    }
}

/// How an attempt ended, as far as who decides what follows needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptClass {
    /// The receiver answered; the status says what.
    Answered,
    /// The target is not allowed, or its URL is no good: nothing was sent.
    Refused,
    /// The host name led to no address.
    Resolve,
    /// There was no connection: refused, no route, or not in time.
    Connect,
    /// The two sides did not agree on TLS.
    Tls,
    /// Connected, and then too slow.
    Timeout,
    /// The connection was closed or reset before the answer had ended.
    Reset,
    /// The answer was not HTTP.
    NotHttp,
    /// The delivery outlived its retention before its turn: nothing was sent.
    Expired,
    /// This node lacked something, such as a file descriptor: it says nothing of the receiver.
    Local,
}

/// What one attempt at a receiver came to, before the schedule is asked what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptResult {
    /// When it began, by the wall clock.
    pub started_at: Timestamp,
    /// How long it took, answer included.
    pub duration: Duration,
    /// The receiver's answer, if one came.
    pub http_status: Option<u16>,
    /// The receiver's `Retry-After`, if it sent one that can be read.
    pub retry_after: Option<Duration>,
    /// What went wrong, for people; `None` on success.
    pub error_details: Option<String>,
    /// The same as a class. Not `Answered` beside a status means that the answer broke off.
    pub class: AttemptClass,
    /// The start of the answer's body.
    pub response_body: Option<String>,
}

impl AttemptResult {
    /// Success is 2xx, and nothing else is.
    pub fn succeeded(&self) -> bool {
        self.error_details.is_none() && self.http_status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// A row of the attempt log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptLog {
    /// `UUIDv7`, given by the writer in commit order.
    pub id: Uuid,
    /// The delivery that was attempted.
    pub delivery_id: DeliveryId,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// Where it was sent; the subscription's URL may have changed since.
    pub target_url: Arc<str>,
    /// When the attempt began, by the wall clock.
    pub timestamp: Timestamp,
    /// 1 for the first.
    pub attempt_number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The receiver's answer, if one came.
    pub http_status: Option<u16>,
    /// What went wrong, for people.
    pub error_details: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u32,
    /// The start of the answer's body.
    pub response_body: Option<String>,
}

/// A delivery that failed and waits for its next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The delivery to attempt again.
    pub delivery_id: DeliveryId,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// The number that the next attempt will have: 2 after the first has failed.
    pub attempt_number: u32,
    /// Not before this.
    pub next_attempt_at: Timestamp,
    /// The delivery's ordering key. Not stored with the retry, but read with it.
    pub ordering_key: Option<Arc<str>>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Accepted; no attempt has been logged yet.
    Pending,
    /// Failed at least once; another attempt will follow.
    Retrying,
    /// Received: the receiver answered 2xx.
    Delivered,
    /// Ended without being received.
    Failed,
    /// Its subscription was deleted before it was received.
    Cancelled,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Retrying, Self::Delivered, Self::Failed, Self::Cancelled];

    /// The word shown and asked for.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for DeliveryState {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| format!("unknown state of a delivery: {word:?}"))
    }
}

/// A subscription was enabled or disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Given by the store, rising.
    pub id: i64,
    /// Whose.
    pub subscription_id: SubscriptionId,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// Why it is disabled from then on; `None` when it was enabled.
    pub disabled: Option<DisabledReason>,
    /// In words, for people.
    pub detail: Option<String>,
}

/// Event types that start with this are Hookpost's own: no producer may send them, and only a subscription that names them
/// gets them.
pub const OWN_EVENTS: &str = "hookpost.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_any_offset_and_as_it_is_shown() {
        let time = Timestamp(1_767_605_400_250);
        assert_eq!(time.to_string(), "2026-01-05T09:30:00.250Z");
        for text in ["2026-01-05T09:30:00.250Z", "2026-01-05T10:30:00.25+01:00", "2026-01-04T23:30:00.2509-10:00"] {
            assert_eq!(text.parse(), Ok(time), "{text}");
        }
        for text in [
            "",
            "2026-01-05",
            "2026-01-05T09:30:00",
            "2026-01-05 09:30:00Z",
            "2026-01-05x09:30:00Z",
            "2026-02-30T09:30:00Z",
            "yesterday",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(()), "{text}");
        }
    }

    #[test]
    fn times_are_read_from_long_before_1970_to_the_end_of_9999() {
        assert_eq!("1969-12-31T23:59:59.999Z".parse(), Ok(Timestamp(-1)));
        assert!("0340-01-23T01:14:38.4+20:25".parse::<Timestamp>().expect("a time") < Timestamp(0));
        assert_eq!("9999-12-31T23:59:59.999Z".parse(), Ok(Timestamp(LAST_PRINTABLE_MS)));
        assert_eq!("9999-12-31T23:59:59-01:00".parse::<Timestamp>(), Err(()));
    }
}
