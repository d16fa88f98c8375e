//! First attempts: what waits for one in memory, and what is read from the store or given back to it.

use super::*;

impl Machine {
    /// Every delivery up to this id has been tried and its attempt logged.
    pub fn tried_through(&self) -> DeliveryId {
        let ready = self.ready.front().map(|delivery| delivery.id);
        let untried = self.untried.first().copied().into_iter().chain(ready).min();
        // The cursor may be below an attempt under way, when one before it was not sent.
        untried.map_or(self.cursor, DeliveryId::predecessor).min(self.cursor)
    }

    /// Whether untried deliveries may exist in the store only.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Whether the page that is being read continues what is in memory. When deliveries were given back to the store
    /// meanwhile, taking it would skip them.
    pub fn wants_page(&self) -> bool {
        self.may_start() && self.page_loading && self.page_after == self.cursor
    }

    /// What is at or below the cursor is known already: in flight, parked, or tried.
    pub(super) fn take_ready(&mut self, delivery: Delivery) {
        if delivery.id > self.cursor {
            debug_assert!(!self.untried.contains(&delivery.id), "nothing above the cursor is in memory");
            self.cursor = delivery.id;
            self.held_bytes += delivery.payload.len();
            self.ready.push_back(delivery);
        }
    }

    pub(super) fn take_page(&mut self, deliveries: Vec<Delivery>, caught_up: Option<DeliveryId>) {
        let wanted = self.wants_page();
        self.page_loading = false;
        if wanted {
            deliveries.into_iter().for_each(|delivery| self.take_ready(delivery));
            self.behind = caught_up.is_none();
            // Above what was read there may be ids that ended elsewhere: they are tried, too.
            self.cursor = self.cursor.max(caught_up.unwrap_or(self.cursor));
        }
    }

    /// Gives back to the store what waits in memory. Nothing is lost: it is above the cursor again, or in `retries`, or
    /// parked with its id alone.
    pub(super) fn shed(&mut self, now: Timestamp) {
        self.give_ready_back(0);
        self.give_due_back(now);
        if let Some(lanes) = &mut self.lanes {
            self.held_bytes -= lanes.shed();
        }
        self.behind = true;
        self.actions.push_back(Action::FallBehind);
    }

    fn give_ready_back(&mut self, kept: usize) {
        let back = self.ready.split_off(kept);
        if let Some(first) = back.front() {
            self.cursor = first.id.predecessor();
        }
        self.held_bytes -= back.iter().map(|delivery| delivery.payload.len()).sum::<usize>();
    }

    /// Keeps no more in memory than has a use there: a thousand dead receivers must not fill it.
    pub(super) fn trim_ready(&mut self) {
        let limit = self.ready_limit();
        if self.ready.len() > limit {
            self.give_ready_back(limit);
            self.behind = true;
            self.actions.push_back(Action::FallBehind);
        }
    }

    pub(super) fn ready_limit(&self) -> usize {
        if self.is_dropped(self.cursor) {
            return MAX_READY;
        }
        match &self.lanes {
            // Nothing overtakes the one that waits, which may need all the memory there is.
            Some(lanes) if lanes.is_single() && lanes.blocked() > 0 => 0,
            Some(lanes) if lanes.parked_first() >= MAX_PARKED => 0,
            // The next probe.
            _ if self.breaker.is_holding() => 1,
            _ => MAX_READY,
        }
    }

    pub(super) fn must_load_page(&self) -> bool {
        let limit = self.ready_limit();
        // A page, and what was committed while it was read, may have to be parked to the last.
        let parkable = self.lanes.as_ref().is_none_or(|lanes| lanes.parked_first() + 3 * MAX_READY <= MAX_PARKED);
        let wants = limit > 0 && self.ready.len() <= limit / 2 && self.held_bytes <= MAX_HELD_BYTES / 2 && parkable;
        // Attempts above the cursor are under way when one before them was not sent: read now, they would be made twice.
        let untried_above = self.untried.last().is_some_and(|last| *last > self.cursor);
        self.behind && !self.page_loading && wants && !untried_above && self.giving_up < MAX_READY
    }

    /// Forgets everything that is not under way, so that it is read again, under the rules as they are now.
    pub(super) fn read_again(&mut self, now: Timestamp) {
        self.shed(now);
        self.forget_parked();
        self.retries.clear();
        self.retries_beyond = true;
        self.retries_outdated = self.retries_loading;
        for (id, flight) in &self.in_flight {
            if let (Some(lanes), false) = (&mut self.lanes, flight.given_up) {
                lanes.begin(flight.ordering_key.as_ref(), *id);
            }
        }
    }

    /// What was parked or on the way from there is above the cursor again. The lanes are empty afterwards. Only what has
    /// been shed can be forgotten.
    pub(super) fn forget_parked(&mut self) {
        self.loading.clear();
        self.untried.retain(|id| {
            let kept = self.in_flight.contains_key(id);
            if !kept {
                self.cursor = self.cursor.min(id.predecessor());
            }
            kept
        });
        self.lanes = Lanes::of(self.limits.order);
    }

    /// A first attempt was not made: it is above the cursor again, and so is everything that was not started after it.
    pub(super) fn go_back_before(&mut self, now: Timestamp, id: DeliveryId) {
        self.shed(now);
        self.cursor = self.cursor.min(id.predecessor());
        let Some(lanes) = &mut self.lanes else { return };
        lanes.forget_first_above(self.cursor);
        let cursor = self.cursor;
        self.loading.retain(|id, held| {
            let kept = held.number > 1 || *id <= cursor;
            if !kept {
                lanes.leave(held.ordering_key.as_ref(), *id);
            }
            kept
        });
        self.untried.retain(|id| *id <= cursor || self.in_flight.contains_key(id));
    }
}
