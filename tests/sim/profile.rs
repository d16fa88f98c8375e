//! What kind of a world a seed makes: how much goes wrong, and how.

use std::time::Duration;

use crate::chance::Chance;

#[derive(Clone, Debug)]
pub struct Profile {
    pub subscriptions: u64,
    pub offers: u64,
    /// Faults stop after this.
    pub faults: Duration,
    pub crashes: u64,
    /// Settings that bear on order, rate and window are changed while it runs.
    pub changes_rules: bool,
    pub has_cache: bool,
    pub retention: Duration,
    pub store_fails_per_mille: u64,
    pub reply_lost_per_mille: u64,
    pub crash_points_per_mille: u64,
    pub store_slow_ms: u64,
    pub store_stalls_per_mille: u64,
    /// Of what actors read.
    pub panics_per_mille: u64,
    /// Producers that do not wait for their answers.
    pub impatient_percent: u64,
    /// Changes that another process makes, whose word comes late or never.
    pub others_change_percent: u64,
    pub receivers_fail_percent: u64,
    pub clock_steps: u64,
    /// A burst that is more than what is held in memory.
    pub bursts: bool,
}

impl Profile {
    /// One subscription, and nothing goes wrong.
    pub fn calm(lasts: Duration) -> Self {
        Self {
            subscriptions: 1,
            offers: 0,
            faults: lasts,
            crashes: 0,
            changes_rules: false,
            has_cache: false,
            retention: Duration::from_secs(7 * 24 * 3600),
            store_fails_per_mille: 0,
            reply_lost_per_mille: 0,
            crash_points_per_mille: 0,
            store_slow_ms: 2,
            store_stalls_per_mille: 0,
            panics_per_mille: 0,
            impatient_percent: 0,
            others_change_percent: 0,
            receivers_fail_percent: 0,
            clock_steps: 0,
            bursts: false,
        }
    }

    pub fn draw(chance: &Chance) -> Self {
        let calm = chance.percent(15);
        let some = |most| if calm { 0 } else { chance.below(most) };
        Self {
            subscriptions: chance.between(1, 5),
            offers: chance.between(5, 80),
            // The watermark trails by half a minute, and actors leave after a minute.
            faults: if chance.percent(40) { chance.ms(60_000, 400_000) } else { chance.ms(5_000, 40_000) },
            crashes: some(5),
            changes_rules: chance.percent(40),
            has_cache: chance.percent(50),
            retention: if chance.percent(10) { chance.ms(20_000, 300_000) } else { Duration::from_secs(7 * 24 * 3600) },
            store_fails_per_mille: some(60),
            reply_lost_per_mille: some(60),
            crash_points_per_mille: some(8),
            store_stalls_per_mille: some(8),
            panics_per_mille: if chance.percent(30) { some(60) } else { 0 },
            impatient_percent: some(20),
            others_change_percent: 20,
            store_slow_ms: *chance.pick(&[2, 20, 20, 200, 2000]),
            receivers_fail_percent: some(80),
            clock_steps: some(4),
            bursts: chance.percent(4),
        }
    }
}
