//! What a world remembers from its beginning to its end, whatever crashes: what was offered and answered, what receivers saw,
//! what was logged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hookpost::delivery::invariants::Broken;
use hookpost::delivery::{AttemptLog, DeliveryId, Order, Rate, SubscriptionId, Timestamp};

/// What the world knows of a subscription that it made.
#[derive(Clone, Debug)]
pub struct Known {
    pub patterns: Vec<&'static str>,
    /// All that it ever had, if it has any.
    pub secrets: Vec<String>,
    pub order: Order,
    pub rate: Option<Rate>,
    /// The most that it ever had.
    pub waits: usize,
    pub max_concurrency: usize,
}

/// A request that somebody sends once or, under a key, again.
#[derive(Clone, Debug)]
pub struct Offer {
    pub to: To,
    pub event_type: &'static str,
    pub ordering_key: Option<Arc<str>>,
    pub key: Option<Arc<str>>,
    pub body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    One(SubscriptionId),
    WhoeverWants,
}

/// What came of an offer, over all its requests.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// The deliveries that the first acceptance named.
    pub accepted: Option<Vec<DeliveryId>>,
    /// A request that may have been stored: it was cut, or its answer says so.
    pub perhaps: bool,
    pub refused: bool,
    /// Requests that are not answered yet, or never will be.
    pub under_way: usize,
}

/// A request as a receiver saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub life: usize,
    /// Of its subscription's actor, in this life.
    pub start: usize,
    pub at: Timestamp,
    pub by: SubscriptionId,
    pub id: DeliveryId,
    pub number: u32,
    /// What was answered, as soon as any of the answer was.
    pub status: Option<u16>,
    /// The whole answer was.
    pub answered: bool,
    /// Neither answered nor closed.
    pub open: bool,
}

/// How a life ended, and what was in the log by then.
pub struct Ended {
    pub rows: usize,
    /// By a stop that had the time to write everything.
    pub clean: bool,
}

#[derive(Default)]
pub struct History {
    pub known: BTreeMap<SubscriptionId, Known>,
    pub offers: Vec<Offer>,
    pub answers: BTreeMap<usize, Answers>,
    /// Deliveries that a producer was told are accepted, and of which offer.
    pub accepted: BTreeMap<DeliveryId, usize>,
    pub seen: Vec<Seen>,
    pub bodies: BTreeMap<DeliveryId, Bytes>,
    /// Every log row that was ever committed.
    pub logged: Vec<AttemptLog>,
    pub log_ids: BTreeSet<uuid::Uuid>,
    pub ended: Vec<Ended>,
    /// How often an actor was started again because it crashed.
    pub restarts: BTreeMap<SubscriptionId, usize>,
    /// It has crashed, or is about to.
    pub crashing: BTreeSet<SubscriptionId>,
    pub panics_at_start: BTreeSet<SubscriptionId>,
    pub panics_at_activation: BTreeSet<SubscriptionId>,
    /// Whose actors have started in this life.
    pub started: BTreeSet<SubscriptionId>,
    /// What has happened, and how often.
    pub tally: BTreeMap<&'static str, u64>,
    /// The first promise that was broken.
    pub broken: Option<Broken>,
}

impl History {
    pub fn check(&mut self, held: Result<(), Broken>) {
        if let Err(broken) = held {
            self.broken.get_or_insert(broken);
        }
    }

    pub fn start_of(&self, id: SubscriptionId) -> usize {
        self.restarts.get(&id).copied().unwrap_or_default()
    }

    /// A subscription's actor reads what it starts from.
    pub fn actor_starts(&mut self, id: SubscriptionId) {
        if self.crashing.remove(&id) {
            *self.restarts.entry(id).or_default() += 1;
        } else if !self.started.insert(id) {
            *self.tally.entry("an actor starts again").or_default() += 1;
        }
    }

    pub fn log(&mut self, rows: &[AttemptLog]) {
        for row in rows {
            if self.log_ids.insert(row.id) {
                self.logged.push(row.clone());
            }
        }
    }
}
