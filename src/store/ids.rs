//! Ids in commit order: `UUIDv7` whose order is the order in which they were given.

use uuid::{Builder, Uuid};

use crate::delivery::{DeliveryId, Timestamp};

/// Bits of the counter that orders ids within a millisecond: 67 million of them, far above what one node can accept.
const COUNTER_BITS: u32 = 26;

/// Gives `UUIDv7`s that only rise, even when the clock is set back, and even across a restart: it starts above the
/// newest id stored. Two nodes may give ids at the same time: the last 48 bits are random.
///
/// Layout, RFC 9562 section 6.2 method 1: 48 bits of milliseconds, then a 26-bit counter in `rand_a` and the top of
/// `rand_b`, then 48 random bits.
#[derive(Debug)]
pub struct IdSource {
    last_ms: u64,
    counter: u32,
    /// In place of chance, in a simulation.
    drawn: Option<u64>,
}

/// The highest id that can be given by `now`, as far as the clock says. Ids may be ahead of the clock (it was set back, or a
/// millisecond was full), but only by what is stored: so a higher id that is stored has to be taken into account as well,
/// and then nothing was accepted before `now` that is above both.
pub(super) fn last_by(now: Timestamp) -> DeliveryId {
    DeliveryId::ceiling_at(now)
}

impl IdSource {
    /// A source whose ids are all above `newest`.
    pub fn above(newest: Option<Uuid>) -> Self {
        let last_ms = newest.map_or(0, |id| u64::try_from(id.as_u128() >> 80).unwrap_or(0));
        // The counter starts at its end, so that the first id takes the next millisecond.
        Self { last_ms, counter: (1 << COUNTER_BITS) - 1, drawn: None }
    }

    /// Gives only ids above this one from now on.
    pub fn rise_above(&mut self, id: Uuid) {
        let risen = Self::above(Some(id));
        if risen.last_ms >= self.last_ms {
            (self.last_ms, self.counter) = (risen.last_ms, risen.counter);
        }
    }

    /// The same, with ids that can be given again: a simulation that is repeated gives the same ones.
    pub fn drawing_from(self, seed: Option<u64>) -> Self {
        Self { drawn: seed, ..self }
    }

    /// The next id.
    pub fn next(&mut self, wall: Timestamp) -> Uuid {
        let now_ms = u64::try_from(wall.0).unwrap_or(0);
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            self.counter = 0;
        } else if self.counter + 1 < 1 << COUNTER_BITS {
            self.counter += 1;
        } else {
            self.last_ms += 1;
            self.counter = 0;
        }
        // `rand_a` takes 12 bits (the version bits before it are the builder's), the top of `rand_b` 14 below its variant.
        let low = self.low() & 0xffff_ffff_ffff;
        let counter = u64::from(self.counter);
        let tail = (u128::from(counter >> 14) << 64) | (u128::from(counter & 0x3fff) << 48) | u128::from(low);
        let bytes = tail.to_be_bytes();
        let random: [u8; 10] = std::array::from_fn(|i| bytes[i + 6]);
        Builder::from_unix_timestamp_millis(self.last_ms, &random).into_uuid()
    }

    fn low(&mut self) -> u64 {
        let Some(drawn) = &mut self.drawn else { return rand::random() };
        // Steps of the golden ratio: spread, and never the same twice.
        *drawn = drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        *drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_within_a_millisecond_across_the_counters_fields_and_when_the_clock_is_set_back() {
        let mut ids = IdSource::above(None);
        let mut last = ids.next(Timestamp(1_700_000_000_000));
        for step in 0..40_000_i64 {
            let next = ids.next(Timestamp(1_700_000_000_000 - step));
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        assert_eq!(last.get_version_num(), 7);
    }

    #[test]
    fn ids_are_above_the_newest_stored_even_if_the_clock_is_an_hour_behind_it() {
        let newest = IdSource::above(None).next(Timestamp(1_700_000_000_000));
        let next = IdSource::above(Some(newest)).next(Timestamp(1_700_000_000_000 - 3_600_000));
        assert!(next > newest);
    }

    #[test]
    fn no_id_that_is_given_by_now_is_above_the_last_and_every_later_one_is() {
        let now = Timestamp(1_700_000_000_000);
        let mut ids = IdSource::above(None);
        let last = last_by(now).0;
        assert!((0..1000).all(|_| ids.next(now) <= last));
        assert!(ids.next(Timestamp(now.0 + 1)) > last);
    }

    #[test]
    fn a_full_counter_borrows_the_next_millisecond() {
        let mut ids = IdSource { last_ms: 5, ..IdSource::above(None) };
        assert_eq!(ids.next(Timestamp(5)).as_u128() >> 80, 6);
    }

    #[test]
    fn a_simulation_that_is_repeated_gives_the_same_ids() {
        let ids = |seed| {
            let mut ids = IdSource::above(None).drawing_from(Some(seed));
            [(); 3].map(|()| ids.next(Timestamp(7)))
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
    }

    #[test]
    fn two_sources_at_the_same_time_give_different_ids() {
        assert_ne!(IdSource::above(None).next(Timestamp(7)), IdSource::above(None).next(Timestamp(7)));
    }
}
