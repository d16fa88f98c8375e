//! What goes into the delivery machine, and what comes out of it.

use std::sync::Arc;

use super::{AttemptResult, Delivery, DeliveryId, DisabledReason, Limits, Outcome, Retry, Timestamp};

/// What happens to the machine.
#[derive(Debug)]
pub enum Input {
    /// It starts: retries from the store, and whether there may be untried deliveries above `cursor`.
    Started {
        /// Everything up to here has been tried.
        cursor: DeliveryId,
        /// Whether the store may hold untried deliveries above the cursor.
        behind: bool,
        /// The first retries by due time.
        retries: Vec<Retry>,
        /// Whether these are all.
        all_retries: bool,
        /// Since when every attempt has failed, as it was last saved.
        failing_since: Option<Timestamp>,
    },
    /// A delivery was committed and comes in memory.
    Accepted(Delivery),
    /// Deliveries were committed that did not fit in memory.
    FellBehind,
    /// The answer to [`Action::LoadPage`].
    Page {
        /// In order of id.
        deliveries: Vec<Delivery>,
        /// Set when new deliveries come in memory from now on: the newest id that was committed.
        caught_up: Option<DeliveryId>,
    },
    /// The store could not answer [`Action::LoadPage`].
    PageUnavailable,
    /// The answer to [`Action::LoadRetries`].
    Retries {
        /// By due time.
        retries: Vec<Retry>,
        /// Whether these are all.
        all: bool,
    },
    /// The store could not answer [`Action::LoadRetries`].
    RetriesUnavailable,
    /// The answer to [`Action::LoadPayloads`]: what was asked for, and what is still to be retried of it.
    Payloads {
        /// As asked for.
        asked: Vec<DeliveryId>,
        /// Those that still wait for a retry.
        found: Vec<Delivery>,
    },
    /// The store could not answer [`Action::LoadPayloads`].
    PayloadsUnavailable(Vec<DeliveryId>),
    /// An attempt ended.
    Attempted {
        /// Of this delivery.
        id: DeliveryId,
        /// How.
        result: AttemptResult,
        /// It was sent with a configuration that was replaced since: it says nothing of the subscription.
        stale: bool,
    },
    /// An attempt was not made after all: the subscription is disabled or deleted, or the process is stopping.
    NotSent(DeliveryId),
    /// The log row of an attempt, and what it changed in `retries`, are durable.
    Recorded(DeliveryId),
    /// The deadline may have passed.
    Woken,
    /// The subscription was changed.
    Configured {
        /// Whether it is enabled.
        enabled: bool,
        /// What it may do from now on.
        limits: Box<Limits>,
    },
    /// The subscription was deleted.
    Deleted,
    /// The process is stopping: start nothing new.
    Draining,
}

/// What becomes of a delivery's row in `retries` when an attempt is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryChange {
    /// It never had one and needs none.
    None,
    /// It is written.
    Schedule(Retry),
    /// It is removed.
    Settle,
}

/// What the shell is asked to do.
#[derive(Debug)]
pub enum Action {
    /// Send it; answer with [`Input::Attempted`].
    Attempt {
        /// What to send.
        delivery: Delivery,
        /// 1 for the first.
        number: u32,
    },
    /// Log the attempt; answer with [`Input::Recorded`] once durable.
    Record {
        /// Of this delivery.
        id: DeliveryId,
        /// 1 for the first.
        number: u32,
        /// How it counts.
        outcome: Outcome,
        /// How it went.
        result: AttemptResult,
        /// What becomes of the retry.
        retry: RetryChange,
        /// As the producer named it: a failure may be announced.
        event_type: Option<Arc<str>>,
    },
    /// Read untried deliveries above `after`.
    LoadPage {
        /// Exclusive.
        after: DeliveryId,
        /// At most so many.
        limit: usize,
    },
    /// Read the first retries by due time.
    LoadRetries,
    /// Read what to send for these retries.
    LoadPayloads(Vec<DeliveryId>),
    /// Leave new deliveries to the store: those in memory were given back to it.
    FallBehind,
    /// Save since when every attempt has failed, or that this is over.
    SaveFailing(Option<Timestamp>),
    /// Disable the subscription.
    Disable(DisabledReason),
}
