//! What waits in memory by its id alone: retries for their time, parked deliveries for their turn. When it comes, their
//! payloads are read.

use super::*;
use crate::delivery::schedule::JITTER_DIVISOR;

/// Most payloads that are read at once; their sizes are not known before.
const MAX_LOADING: usize = 8;

/// What is known of a delivery whose payload is not in memory.
#[derive(Debug)]
pub(super) struct Held {
    /// That its next attempt will have.
    pub number: u32,
    pub ordering_key: Option<Arc<str>>,
}

impl Machine {
    pub(super) fn take_retries(&mut self, now: Timestamp, retries: Vec<Retry>, all: bool) {
        self.retries_beyond |= !all;
        // A wall clock that was set back, or a schedule that became shorter, must not leave a delivery waiting for
        // longer than any wait that could have been meant.
        let latest = now + self.longest_wait();
        let last = retries.last().map(|retry| (retry.next_attempt_at.min(latest), retry.delivery_id));
        for retry in retries {
            let (id, number, ordering_key) = (retry.delivery_id, retry.attempt_number, retry.ordering_key);
            if !self.is_known(id, ordering_key.as_ref()) {
                self.hold_retry((retry.next_attempt_at.min(latest), id), Held { number, ordering_key });
            }
        }
        // What is held beyond the last one read would make those between wait for it: it has its row, and is read in its turn.
        while let (false, Some(last)) = (all, last) {
            let Some(held) = self.retries.last_entry().filter(|held| *held.key() > last) else { break };
            let ((_, id), held) = held.remove_entry();
            self.leave_lane(held.ordering_key.as_ref(), id);
        }
    }

    /// They could not be read, and what is held may be due later than what is not: all of them are read again.
    pub(super) fn leave_retries_to_the_store(&mut self) {
        self.retries_beyond = true;
        for ((_, id), held) in std::mem::take(&mut self.retries) {
            self.leave_lane(held.ordering_key.as_ref(), id);
        }
    }

    /// Whether a parked delivery that was never attempted may go: its lane is known, or nothing else is left that could
    /// move.
    fn may_offer_firsts(&self, lanes: &Lanes) -> bool {
        let stuck = self.retries.is_empty() && !self.retries_loading && lanes.parked_retries() > 0;
        stuck || self.knows_its_lanes(lanes)
    }

    fn is_known(&self, id: DeliveryId, key: Option<&Arc<str>>) -> bool {
        self.in_flight.contains_key(&id)
            || self.loading.contains_key(&id)
            || self.due.iter().any(|(delivery, _)| delivery.id == id)
            || self.retries.keys().any(|(_, held)| *held == id)
            || self.lanes.as_ref().is_some_and(|lanes| lanes.is_parked(key, id))
    }

    fn longest_wait(&self) -> Duration {
        let longest = self.limits.schedule.longest().max(self.limits.max_retry_after);
        longest + longest / JITTER_DIVISOR
    }

    pub(super) fn hold_retry(&mut self, (at, id): (Timestamp, DeliveryId), held: Held) {
        // What is to be dropped waits for nothing.
        let at = if self.is_dropped(id) { Timestamp::default() } else { at };
        if let Some(lanes) = &mut self.lanes {
            lanes.wait(held.ordering_key.as_ref(), id);
        }
        self.retries.insert((at, id), held);
        if self.retries.len() > MAX_RETRIES_HELD {
            if let Some(((_, id), held)) = self.retries.pop_last() {
                self.leave_lane(held.ordering_key.as_ref(), id);
            }
            self.retries_beyond = true;
        }
    }

    /// It has ended, or is in the store only.
    pub(super) fn leave_lane(&mut self, key: Option<&Arc<str>>, id: DeliveryId) {
        if let Some(lanes) = &mut self.lanes {
            lanes.leave(key, id);
        }
    }

    /// Its turn has not come, or has passed: nothing but its id stays in memory.
    fn put_back(&mut self, at: Timestamp, id: DeliveryId, held: Held) {
        match &mut self.lanes {
            Some(lanes) if held.number == 1 => lanes.park(held.ordering_key.as_ref(), id, 1),
            _ => self.hold_retry((at, id), held),
        }
    }

    pub(super) fn give_due_back(&mut self, now: Timestamp) {
        for (delivery, number) in std::mem::take(&mut self.due) {
            self.held_bytes -= delivery.payload.len();
            self.put_back(now, delivery.id, Held { number, ordering_key: delivery.ordering_key });
        }
    }

    pub(super) fn take_payloads(&mut self, now: Timestamp, asked: &[DeliveryId], found: Vec<Delivery>) {
        for mut delivery in found {
            match self.loading.remove(&delivery.id) {
                // It was disabled while they were being read, or the breaker opened: they wait in the store.
                Some(held) if !self.may_start() || self.must_wait(now, delivery.id) => {
                    self.put_back(now, delivery.id, held);
                }
                Some(held) => {
                    self.held_bytes += delivery.payload.len();
                    // Under the key that its lane knows it by.
                    delivery.ordering_key = delivery.ordering_key.or(held.ordering_key);
                    self.due.push_back((delivery, held.number));
                }
                None => {}
            }
        }
        // What was not found has ended elsewhere: expired, or its subscription's retries were deleted.
        for id in asked {
            if let Some(held) = self.loading.remove(id) {
                self.untried.remove(id);
                self.leave_lane(held.ordering_key.as_ref(), *id);
            }
        }
    }

    fn must_wait(&self, now: Timestamp, id: DeliveryId) -> bool {
        self.breaker.admits_at().is_none_or(|at| at > now) && !self.is_dropped(id)
    }

    pub(super) fn postpone(&mut self, now: Timestamp, asked: &[DeliveryId]) {
        if let Some(lanes) = &mut self.lanes {
            lanes.not_before = now + STORE_RETRY;
        }
        for id in asked {
            if let Some(held) = self.loading.remove(id) {
                self.put_back(now + STORE_RETRY, *id, held);
            }
        }
    }

    /// Asks for the payloads of what is due and whose turn has come, as long as they can be attempted.
    pub(super) fn load_due(&mut self, now: Timestamp) {
        let mut ids = Vec::new();
        while let Some((&(at, id), held)) = self.retries.first_key_value() {
            let key = held.ordering_key.as_ref();
            let dropped = self.is_dropped(id);
            if at > now || !(dropped && self.has_loading_room() || self.may_load(now)) {
                break;
            }
            let may_go = dropped || self.lanes.as_ref().is_none_or(|lanes| lanes.may_go(key, id));
            let Some((_, held)) = self.retries.pop_first() else { break };
            match &mut self.lanes {
                Some(lanes) if !may_go => {
                    lanes.park(held.ordering_key.as_ref(), id, held.number);
                    continue;
                }
                Some(lanes) => lanes.begin(held.ordering_key.as_ref(), id),
                None => {}
            }
            self.loading.insert(id, held);
            ids.push(id);
        }
        while self.may_load(now) {
            let first = self.lanes.as_ref().is_some_and(|lanes| self.may_offer_firsts(lanes));
            let Some(lanes) = self.lanes.as_mut().filter(|lanes| lanes.not_before <= now) else { break };
            let Some((id, key, parked)) = lanes.take_offer(first) else { break };
            if let Some(delivery) = parked.delivery {
                self.due.push_back((*delivery, 1));
            } else {
                self.loading.insert(id, Held { number: parked.number, ordering_key: Some(key) });
                ids.push(id);
            }
        }
        if !ids.is_empty() {
            self.actions.push_back(Action::LoadPayloads(ids));
        }
    }

    /// When the next payload is asked for.
    pub(super) fn next_load(&self) -> Option<Timestamp> {
        if self.room() == 0 || !self.has_loading_room() {
            return None;
        }
        let calm = self.calm_until()?;
        let retry = self.retries.keys().next().map(|(at, _)| calm.max(*at));
        let lanes = self.lanes.as_ref().filter(|lanes| lanes.has_offer(self.may_offer_firsts(lanes)));
        retry.into_iter().chain(lanes.map(|lanes| calm.max(lanes.not_before))).min()
    }

    fn may_load(&self, now: Timestamp) -> bool {
        self.room() > 0 && self.has_loading_room() && self.calm_until().is_some_and(|at| at <= now)
    }

    fn has_loading_room(&self) -> bool {
        let empty = self.held_bytes == 0 && self.loading.is_empty();
        self.loading.len() < MAX_LOADING && (empty || self.held_bytes < MAX_HELD_BYTES)
    }

    pub(super) fn must_load_retries(&self) -> bool {
        let parked = self.lanes.as_ref().map_or(0, |lanes| lanes.parked_retries());
        self.retries_beyond && self.retries.is_empty() && parked == 0 && !self.retries_loading
    }
}
