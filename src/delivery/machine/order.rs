//! Who waits for whom. With `fifo` all deliveries are in one lane, with `ordering_key` those of a key are; a delivery without
//! a lane waits for nobody. Of a lane one is attempted at a time: the lowest id that is unfinished.
//!
//! Known of a lane is what is under way, what waits for a retry in memory, and what is parked: its turn comes later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::delivery::{Delivery, DeliveryId, MAX_HELD_BYTES, Order, Timestamp};

/// Most deliveries that are parked: deep enough that a busy key may fail for half an hour and not hold up the others. At 60
/// bytes each, 250 if every key is another, this is about the memory that a subscription may hold in payloads.
pub const MAX_PARKED: usize = 32_768;
/// Payload that parked deliveries may keep in memory, so that a busy key need not be read twice. The rest of what a
/// subscription may hold is for those that may start.
const MAX_PARKED_BYTES: usize = MAX_HELD_BYTES / 4;

/// A delivery whose turn in its lane has not come.
#[derive(Debug)]
pub(super) struct Parked {
    /// That its next attempt will have.
    pub number: u32,
    /// What to send, as long as there is memory for it.
    pub delivery: Option<Box<Delivery>>,
}

/// Retries go first: `false` sorts before `true`.
type Offer = (bool, DeliveryId);

#[derive(Debug, Default)]
struct Lane {
    /// In flight, being logged, or their payloads on the way. More than one only when the rule was changed meanwhile.
    under_way: Vec<DeliveryId>,
    /// In `retries`.
    waiting: BTreeSet<DeliveryId>,
    parked: BTreeMap<DeliveryId, Parked>,
    offer: Option<Offer>,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The lane of all, with `fifo`.
    single: Option<Arc<str>>,
    /// Those that are not empty.
    lanes: BTreeMap<Arc<str>, Lane>,
    /// Parked deliveries whose turn has come.
    offers: BTreeMap<Offer, Arc<str>>,
    parked_first: usize,
    parked_retries: usize,
    /// Payload of what is parked.
    bytes: usize,
    /// The store could not answer: parked deliveries are not asked for before this.
    pub not_before: Timestamp,
}

impl Lane {
    /// The one that has to end first.
    fn head(&self) -> Option<DeliveryId> {
        let waiting = self.waiting.first().copied().into_iter().chain(self.parked.keys().next().copied()).min();
        self.under_way.iter().copied().min().or(waiting)
    }
}

impl Lanes {
    /// `None` when nothing waits for anything.
    pub fn of(order: Order) -> Option<Box<Self>> {
        let single = match order {
            Order::Unordered => return None,
            Order::Fifo => Some(Arc::from("")),
            Order::OrderingKey => None,
        };
        Some(Box::new(Self {
            single,
            lanes: BTreeMap::new(),
            offers: BTreeMap::new(),
            parked_first: 0,
            parked_retries: 0,
            bytes: 0,
            not_before: Timestamp::default(),
        }))
    }

    /// Whether there is one lane for all.
    pub fn is_single(&self) -> bool {
        self.single.is_some()
    }

    /// Whether nothing is known that a delivery with this key would have to wait for.
    pub fn is_free(&self, key: Option<&Arc<str>>) -> bool {
        self.lane(key).is_none_or(|key| !self.lanes.contains_key(key))
    }

    /// Whether a delivery with this key has a lane at all.
    pub fn applies_to(&self, key: Option<&Arc<str>>) -> bool {
        self.lane(key).is_some()
    }

    /// Whether a retry that is due may go: it is the first of its lane, and nothing of it is under way.
    pub fn may_go(&self, key: Option<&Arc<str>>, id: DeliveryId) -> bool {
        let lane = self.lane(key).and_then(|key| self.lanes.get(key));
        lane.is_none_or(|lane| lane.under_way.is_empty() && lane.head().is_none_or(|head| head >= id))
    }

    /// It is under way from now on.
    pub fn begin(&mut self, key: Option<&Arc<str>>, id: DeliveryId) {
        self.change(key, id, |lane| lane.under_way.push(id));
    }

    /// It waits in `retries` from now on.
    pub fn wait(&mut self, key: Option<&Arc<str>>, id: DeliveryId) {
        self.change(key, id, |lane| {
            lane.waiting.insert(id);
        });
    }

    /// It waits for its turn from now on, without its payload.
    pub fn park(&mut self, key: Option<&Arc<str>>, id: DeliveryId, number: u32) {
        *self.parked_count(number) += 1;
        self.change(key, id, |lane| {
            lane.parked.insert(id, Parked { number, delivery: None });
        });
    }

    /// Likewise a first attempt, with its payload as long as there is memory for it; returns the bytes that were let go.
    pub fn park_first(&mut self, delivery: Delivery) -> usize {
        let (id, key, bytes) = (delivery.id, delivery.ordering_key.clone(), delivery.payload.len());
        self.park(key.as_ref(), id, 1);
        let kept = self.bytes + bytes <= MAX_PARKED_BYTES;
        let lane = self.lane(key.as_ref()).cloned().and_then(|key| self.lanes.get_mut(&key));
        match lane.and_then(|lane| lane.parked.get_mut(&id)).filter(|_| kept) {
            Some(parked) => {
                parked.delivery = Some(Box::new(delivery));
                self.bytes += bytes;
                0
            }
            None => bytes,
        }
    }

    /// It has ended, or is in the store only.
    pub fn leave(&mut self, key: Option<&Arc<str>>, id: DeliveryId) {
        self.change(key, id, |_| {});
    }

    /// Whether the turn of a parked delivery has come. `first`: whether it may be one that was never attempted.
    pub fn has_offer(&self, first: bool) -> bool {
        self.offers.keys().next().is_some_and(|offer| first || !offer.0)
    }

    /// Takes the parked delivery whose turn has come; it is under way from now on. Also its lane.
    pub fn take_offer(&mut self, first: bool) -> Option<(DeliveryId, Arc<str>, Parked)> {
        if !self.has_offer(first) {
            return None;
        }
        let ((_, id), key) = self.offers.pop_first()?;
        let lane = self.lanes.get_mut(&key)?;
        lane.offer = None;
        let parked = lane.parked.remove(&id)?;
        lane.under_way.push(id);
        *self.parked_count(parked.number) -= 1;
        self.bytes -= bytes(&parked);
        Some((id, key, parked))
    }

    /// Whether it is parked.
    pub fn is_parked(&self, key: Option<&Arc<str>>, id: DeliveryId) -> bool {
        self.lane(key).and_then(|key| self.lanes.get(key)).is_some_and(|lane| lane.parked.contains_key(&id))
    }

    /// Forgets what is parked above `id` and was never attempted, after its payloads were let go.
    pub fn forget_first_above(&mut self, id: DeliveryId) {
        debug_assert!(self.bytes == 0, "the payloads were let go");
        for key in self.lanes.keys().cloned().collect::<Vec<_>>() {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let before = lane.parked.len();
            lane.parked.retain(|parked_id, parked| *parked_id <= id || parked.number > 1);
            self.parked_first -= before - lane.parked.len();
            self.settle(&key);
        }
    }

    /// Lets go of all payloads; returns their bytes.
    pub fn shed(&mut self) -> usize {
        if self.bytes > 0 {
            self.lanes.values_mut().flat_map(|lane| lane.parked.values_mut()).for_each(|parked| parked.delivery = None);
        }
        std::mem::take(&mut self.bytes)
    }

    /// Deliveries that are parked and were never attempted.
    pub fn parked_first(&self) -> usize {
        self.parked_first
    }

    /// Retries that are due and parked.
    pub fn parked_retries(&self) -> usize {
        self.parked_retries
    }

    /// Lanes in which a delivery has started and not ended.
    pub fn taken(&self) -> usize {
        self.lanes.len() - self.offers.len()
    }

    /// Lanes that wait for a delivery that failed.
    pub fn blocked(&self) -> usize {
        self.lanes.values().filter(|lane| !lane.waiting.is_empty()).count()
    }

    /// What a delivery has to wait for, if there is something; `key` may be unknown.
    pub fn ahead_of(&self, key: Option<&Arc<str>>, id: DeliveryId) -> Option<DeliveryId> {
        let lane = match self.lane(key) {
            Some(key) => self.lanes.get(key),
            None => self.lanes.values().find(|lane| lane.parked.contains_key(&id)),
        };
        lane.and_then(Lane::head).filter(|head| *head < id)
    }

    fn lane<'a>(&'a self, key: Option<&'a Arc<str>>) -> Option<&'a Arc<str>> {
        self.single.as_ref().or(key)
    }

    fn parked_count(&mut self, number: u32) -> &mut usize {
        if number == 1 { &mut self.parked_first } else { &mut self.parked_retries }
    }

    /// Takes `id` from where it is in its lane, and puts it where `put` does.
    fn change(&mut self, key: Option<&Arc<str>>, id: DeliveryId, put: impl FnOnce(&mut Lane)) {
        let Some(key) = self.lane(key).cloned() else { return };
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.under_way.retain(|under_way| *under_way != id);
        lane.waiting.remove(&id);
        debug_assert!(!lane.parked.contains_key(&id), "what is parked is taken by its offer");
        put(lane);
        self.settle(&key);
    }

    /// Offers the first of the lane if it is parked and nothing is under way. An empty lane goes.
    fn settle(&mut self, key: &Arc<str>) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let head = if lane.under_way.is_empty() { lane.head() } else { None };
        let offer = head.and_then(|id| lane.parked.get(&id).map(|parked| (parked.number == 1, id)));
        if offer != lane.offer {
            if let Some(old) = lane.offer.take() {
                self.offers.remove(&old);
            }
            if let Some(new) = offer {
                self.offers.insert(new, key.clone());
            }
            lane.offer = offer;
        }
        if lane.under_way.is_empty() && head.is_none() {
            self.lanes.remove(key);
        }
    }
}

fn bytes(parked: &Parked) -> usize {
    parked.delivery.as_ref().map_or(0, |delivery| delivery.payload.len())
}
