//! What the HTTP side may ask of the delivery engine.

use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::{DeliveryId, Subscription, SubscriptionId};

/// A handle to the running engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {}

/// A subscription whose actor runs, as of the moment of asking.
#[derive(Clone)]
pub struct Active {
    subscription: Arc<Subscription>,
}

impl Active {
    /// Its configuration.
    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }
}

/// Why an event was not accepted. Nothing of it is stored, unless the doc says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no such subscription.
    #[error("there is no subscription {0}")]
    NotFound(SubscriptionId),
    /// It is disabled and takes no events.
    #[error("subscription {0} is disabled")]
    Disabled(SubscriptionId),
    /// The node holds as many uncommitted bytes or events as it may. Try again after `retry_after_s`.
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
}

/// What the home page and `/readyz` show.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EngineStatus {
    /// Whether events are accepted; when not, why.
    pub not_ready: Option<String>,
    /// `sqlite` or `postgres`.
    pub store: &'static str,
    /// `redis: connected`, `redis: unreachable`, `none`.
    pub cache: String,
    /// Subscription actors running.
    pub active_subscriptions: usize,
    /// HTTP attempts under way.
    pub attempts_in_flight: usize,
}

impl Engine {
    /// The subscription's actor, started if need be.
    pub async fn activate(&self, id: SubscriptionId) -> Result<Active, AcceptError> {
        Err(AcceptError::NotFound(id))
    }

    /// Makes the event durable and hands it to its actor. Returns after the commit.
    pub async fn accept(
        &self,
        active: &Active,
        event_type: Option<Arc<str>>,
        payload: Bytes,
    ) -> Result<DeliveryId, AcceptError> {
        let _ = (event_type, payload);
        Err(AcceptError::NotFound(active.subscription.id))
    }

    /// Tells everyone who caches it that this subscription has changed.
    pub async fn subscription_changed(&self, subscription: Subscription) {
        let _ = subscription;
    }

    /// Tells everyone who caches it that this subscription is gone.
    pub async fn subscription_deleted(&self, id: SubscriptionId) {
        let _ = id;
    }

    /// How the engine is.
    pub async fn status(&self) -> EngineStatus {
        EngineStatus {
            not_ready: None,
            store: "sqlite",
            cache: String::new(),
            active_subscriptions: 0,
            attempts_in_flight: 0,
        }
    }
}
