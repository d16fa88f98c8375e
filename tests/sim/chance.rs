//! Chance that repeats itself: everything that a world draws comes from its seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Shared by everything in a world. It runs on one thread, so the order of the draws is that of the run.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<u64>>);

impl Chance {
    pub fn of(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    }

    /// SplitMix64.
    pub fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Both included.
    pub fn between(&self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn per_mille(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    /// Most often short, seldom long.
    pub fn skewed_ms(&self, most: u64) -> Duration {
        let most = if self.percent(80) { most / 20 } else { most };
        Duration::from_millis(1 + self.below(most.max(1)))
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(from.len() as u64)).expect("an index");
        &from[at]
    }
}
