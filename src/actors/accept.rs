//! What the engine is asked to accept, what it answers, and why it refuses.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::entry::{Full, Unclaimed};
use crate::delivery::{DeliveryId, EventId, SubscriptionId, TraceContext};
use crate::store::StoreError;
use crate::store::writer::{Key, WriteError};

/// What a refused producer is told to wait.
const RETRY_AFTER_S: u64 = 2;

/// When a request came, and which trace it belongs to.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its head had been read.
    pub at: Instant,
    /// Where its sender says that it belongs.
    pub trace: Option<Arc<TraceContext>>,
}

impl Arrival {
    /// Of a request that says nothing, as of now.
    pub fn now() -> Self {
        Self { at: Instant::now(), trace: None }
    }
}

/// An event for every subscription of its tenant that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Whose subscriptions are asked.
    pub tenant: Arc<str>,
    /// As the producer named it.
    pub event_type: Arc<str>,
    /// Kept for subscriptions that want order by key.
    pub ordering_key: Option<Arc<str>>,
    /// The body of every delivery, byte for byte.
    pub payload: Bytes,
}

/// Under which key a producer may send the same request again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// As the producer chose it.
    pub key: Arc<str>,
    /// SHA-256 of what makes the request; another request under the same key has another.
    pub request_hash: [u8; 32],
}

impl RequestKey {
    pub(super) fn in_scope(self, scope: String) -> Key {
        Key { scope: scope.into(), key: self.key, request_hash: self.request_hash }
    }
}

/// What became of an accepted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted<T> {
    /// What was made of the first request with this key, which may be this one.
    pub outcome: T,
    /// Whether the first request with this key was answered already.
    pub replayed: bool,
}

/// An event that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The event.
    pub id: EventId,
    /// All its deliveries, by id.
    pub deliveries: Vec<(SubscriptionId, DeliveryId)>,
    /// Those recorded as failed because the backlog of their subscription is full.
    pub refused: Vec<(SubscriptionId, DeliveryId)>,
    /// Accepted before, and removed by retention since: its deliveries are not known any more.
    pub gone: bool,
}

/// Why an event was not accepted. Nothing of it is stored, unless the doc says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no such subscription.
    #[error("there is no subscription {0}")]
    NotFound(SubscriptionId),
    /// It is disabled and takes no events.
    #[error("subscription {0} is disabled")]
    Disabled(SubscriptionId),
    /// The subscription, its tenant or the node holds as many uncommitted bytes or events as it may. Try again after `retry_after_s`.
    #[error("this node is at its budget of uncommitted events")]
    Busy {
        /// Seconds until another try makes sense.
        retry_after_s: u64,
    },
    /// The store is down, too slow, or owned by another process. The event may have been stored: see the docs on
    /// ambiguous answers.
    #[error("{reason}")]
    Unavailable {
        /// In words, for the answer.
        reason: String,
        /// Seconds until another try makes sense.
        retry_after_s: u64,
    },
    /// The subscription has as many unfinished deliveries as it may.
    #[error("subscription {id} has {backlog} unfinished deliveries, and may have {limit}")]
    BacklogFull {
        /// Whose.
        id: SubscriptionId,
        /// Unfinished deliveries.
        backlog: u64,
        /// Most of them.
        limit: u64,
        /// Seconds until there is room, at the rate at which they end.
        retry_after_s: u64,
    },
    /// The key was used with another request.
    #[error("the idempotency key was used with another request")]
    KeyReused,
    /// The event would be fanned out further than one commit can take.
    #[error("{matched} subscriptions want the event, and at most {limit} can take one")]
    TooManyDeliveries {
        /// Enabled subscriptions that want it.
        matched: usize,
        /// Most that one event goes to.
        limit: usize,
    },
    /// The store refused the event: a bug, or a limit of the store that is not checked before.
    #[error("the store refused the event: {0}")]
    Rejected(String),
}

impl AcceptError {
    pub(super) const BUSY: Self = Self::Busy { retry_after_s: RETRY_AFTER_S };

    pub(super) fn of(id: SubscriptionId, unclaimed: &Unclaimed) -> Self {
        match *unclaimed {
            Unclaimed::Closed | Unclaimed::Busy => Self::BUSY,
            Unclaimed::Full(Full { backlog, limit, retry_after_s }) => {
                Self::BacklogFull { id, backlog, limit, retry_after_s }
            }
        }
    }

    pub(super) fn unavailable(reason: &str) -> Self {
        Self::Unavailable { reason: reason.to_owned(), retry_after_s: RETRY_AFTER_S }
    }
}

impl From<StoreError> for AcceptError {
    fn from(error: StoreError) -> Self {
        // The error may name hosts: it is for the log, not for the caller.
        match error {
            // An outage is logged once, by the supervisor and the writer, and not again for each event.
            StoreError::Unavailable(_) | StoreError::NotOwner => {
                tracing::debug!(%error, "an event was refused");
                Self::unavailable("the store is unavailable")
            }
            StoreError::Rejected(_) | StoreError::Corrupt(_) => {
                tracing::warn!(%error, "an event was refused");
                Self::Rejected("see the service's log".to_owned())
            }
        }
    }
}

impl From<WriteError> for AcceptError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Full => Self::BUSY,
            WriteError::Unavailable { ambiguous: false } => {
                Self::unavailable("the store is unavailable; the event was not stored")
            }
            WriteError::Unavailable { ambiguous: true } => {
                Self::unavailable("the store went away during the commit; the event may have been stored")
            }
            WriteError::Rejected(reason) => Self::Rejected(reason),
            WriteError::KeyReused => Self::KeyReused,
        }
    }
}
