//! The rate limit: a token bucket, kept as the one time at which it would be full (GCRA). In any second at most
//! `per_second + burst` attempts start.

use super::settings::Rate;
use super::types::Timestamp;

const US_PER_S: u32 = 1_000_000;
const US_PER_MS: i64 = 1000;

/// See the module's docs. The default is full.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    full_at_us: i64,
}

impl Bucket {
    /// When the next attempt may start.
    pub fn next(&self, rate: Rate) -> Timestamp {
        let at_us = self.full_at_us - (i64::from(rate.burst) - 1) * interval_us(rate);
        // Rounded up: a wake-up that comes early would come in vain.
        Timestamp(at_us.div_euclid(US_PER_MS) + i64::from(at_us.rem_euclid(US_PER_MS) > 0))
    }

    /// An attempt starts.
    pub fn take(&mut self, now: Timestamp, rate: Rate) {
        self.full_at_us = self.full_at_us.max(us(now)) + interval_us(rate);
    }

    /// One token and no more, from now on: what waited for long does not come as a burst.
    pub fn start_over(&mut self, now: Timestamp, rate: Rate) {
        self.full_at_us = self.full_at_us.max(us(now) + (i64::from(rate.burst) - 1) * interval_us(rate));
    }

    /// Attempts that may start now.
    pub fn tokens(&self, now: Timestamp, rate: Rate) -> u32 {
        let missing = (self.full_at_us - us(now)).max(0);
        let missing = (missing + interval_us(rate) - 1) / interval_us(rate);
        rate.burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }
}

/// Between two attempts. Rounded up: the limit is never exceeded.
fn interval_us(rate: Rate) -> i64 {
    i64::from(US_PER_S.div_ceil(rate.per_second.max(1)))
}

fn us(at: Timestamp) -> i64 {
    at.0.saturating_mul(US_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 3, burst: 2 };
    const NOW: Timestamp = Timestamp(1_000_000);

    /// The times of the first attempts of an endless backlog, in ms from `NOW`.
    fn starts(bucket: &mut Bucket, rate: Rate, count: usize) -> Vec<i64> {
        let mut now = NOW;
        let next = |_| {
            now = bucket.next(rate).max(now);
            bucket.take(now, rate);
            now.0 - NOW.0
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn after_an_idle_time_a_burst_goes_at_once_and_the_rest_evenly() {
        assert_eq!(starts(&mut Bucket::default(), RATE, 5), [0, 0, 334, 667, 1001]);
    }

    #[test]
    fn started_over_there_is_one_token_and_no_burst() {
        let mut bucket = Bucket::default();
        bucket.start_over(NOW, RATE);
        assert_eq!(bucket.tokens(NOW, RATE), 1);
        assert_eq!(starts(&mut bucket, RATE, 3), [0, 334, 667]);
    }

    #[test]
    fn no_second_sees_more_than_the_rate_and_a_burst() {
        for rate in [RATE, Rate { per_second: 1, burst: 1 }, Rate { per_second: 700, burst: 70 }] {
            let starts = starts(&mut Bucket::default(), rate, 2000);
            let most = starts.iter().map(|from| starts.iter().filter(|at| (*from..from + 1000).contains(*at)).count());
            assert!(most.max() <= Some((rate.per_second + rate.burst) as usize), "{rate:?}");
        }
    }

    #[test]
    fn tokens_are_those_that_could_be_taken_now() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.tokens(NOW, RATE), 2);
        bucket.take(NOW, RATE);
        assert_eq!(bucket.tokens(NOW, RATE), 1);
        bucket.take(NOW, RATE);
        assert_eq!((bucket.tokens(NOW, RATE), bucket.next(RATE)), (0, Timestamp(NOW.0 + 334)));
    }
}
