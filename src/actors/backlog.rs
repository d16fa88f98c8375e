//! How many deliveries of a subscription are unfinished, and how fast they end. Pure.

use std::time::Duration;

use crate::delivery::Timestamp;

/// Bounds of what a producer that finds a backlog full is told to wait.
const RETRY_AFTER_S: std::ops::RangeInclusive<u64> = 1..=300;
/// Room for one in so many of the limit is worth another try.
const ROOM_DIVISOR: u64 = 100;
/// How far back the drain rate looks, at least; at most twice as far.
const RATE_SPAN: Duration = Duration::from_secs(30);

/// Unfinished deliveries: what was counted once, and what was committed and ended since.
#[derive(Debug)]
pub(super) struct Backlog {
    counted: Counted,
    /// Committed less ended, since the count was begun. What is committed while the store counts may count twice, until
    /// the subscription is caught up.
    since: i64,
    rate: DrainRate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// There is work in the store, and nobody has asked how much.
    Not,
    Asked,
    /// There were so many, or more if it is the bound of the count.
    Known {
        count: u64,
        or_more: bool,
    },
}

impl Backlog {
    pub fn new(now: Timestamp) -> Self {
        Self { counted: Counted::Not, since: 0, rate: DrainRate { from: now, ended: 0, before: None } }
    }

    /// Unfinished deliveries, if they have been counted.
    pub fn count(&self) -> Option<u64> {
        match self.counted {
            Counted::Known { count, .. } => Some(count.saturating_add_signed(self.since)),
            Counted::Not | Counted::Asked => None,
        }
    }

    /// Whether the store should be asked.
    pub fn wants_count(&self) -> bool {
        self.counted == Counted::Not
    }

    /// The store is asked, as of now.
    pub fn begin_count(&mut self) {
        self.counted = Counted::Asked;
        self.since = 0;
    }

    /// The store has answered, and counted no further than `cap`; or could not answer.
    pub fn end_count(&mut self, count: Option<u64>, cap: u64) {
        if self.counted == Counted::Asked {
            self.counted = count.map_or(Counted::Not, |count| Counted::Known { count, or_more: count >= cap });
        }
    }

    /// Whoever asked the store is gone, and the answer with it.
    pub fn question_lost(&mut self) {
        if self.counted == Counted::Asked {
            self.counted = Counted::Not;
        }
    }

    /// So many were there before the first that was committed since.
    pub fn began_with(&mut self, count: u64) {
        self.counted = Counted::Known { count, or_more: false };
    }

    /// Some have ended elsewhere, nobody knows how many.
    pub fn count_again(&mut self) {
        if matches!(self.counted, Counted::Known { .. }) {
            self.counted = Counted::Not;
        }
    }

    /// They are all in memory, and these are all.
    pub fn is_exactly(&mut self, count: u64) {
        self.counted = Counted::Known { count, or_more: false };
        self.since = 0;
    }

    /// The limit has changed: a count that ended at the last one says nothing.
    pub fn limit_changed(&mut self) {
        if matches!(self.counted, Counted::Known { or_more: true, .. }) {
            self.counted = Counted::Not;
        }
    }

    /// A delivery was committed.
    pub fn committed(&mut self) {
        self.since += 1;
    }

    /// A delivery has ended.
    pub fn ended(&mut self, now: Timestamp) {
        self.since -= 1;
        self.rate.ended(now);
    }

    /// Deliveries that end in a second, of late.
    pub fn drain_rate_per_s(&self, now: Timestamp) -> f64 {
        self.rate.per_second(now)
    }

    /// When there will be some room, in seconds: at the rate of late, or when nothing ends, when something is done next.
    pub fn retry_after_s(&self, limit: u64, now: Timestamp, next_wakeup: Option<Timestamp>) -> u64 {
        let (least, most) = RETRY_AFTER_S.into_inner();
        let rate = self.rate.per_second(now);
        if rate > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "it is rounded to seconds")]
            let wait = ((limit / ROOM_DIVISOR).max(1) as f64 / rate).ceil().min(f64::from(u32::MAX));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and u32::MAX"
            )]
            return (wait as u64).clamp(least, most);
        }
        next_wakeup.map_or(most, |at| at.since(now).as_secs() + 1).clamp(least, most)
    }
}

/// Ends counted in spans: the one that runs, and the one before it.
#[derive(Clone, Copy, Debug)]
struct DrainRate {
    /// When the running span began.
    from: Timestamp,
    ended: u32,
    /// Ends in the span before; `None` when there was none.
    before: Option<u32>,
}

impl DrainRate {
    fn ended(&mut self, now: Timestamp) {
        *self = self.at(now);
        self.ended = self.ended.saturating_add(1);
    }

    /// With the spans that are over by `now` left behind.
    fn at(self, now: Timestamp) -> Self {
        match now.since(self.from) {
            age if age < RATE_SPAN => self,
            age if age < RATE_SPAN * 2 => Self { from: self.from + RATE_SPAN, ended: 0, before: Some(self.ended) },
            _ => Self { from: now, ended: 0, before: Some(0) },
        }
    }

    fn per_second(self, now: Timestamp) -> f64 {
        let Self { from, ended, before } = self.at(now);
        let span = now.since(from) + before.map_or(Duration::ZERO, |_| RATE_SPAN);
        (f64::from(ended) + f64::from(before.unwrap_or(0))) / span.as_secs_f64().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_before_the_actor_had_started_counts() {
        let mut backlog = Backlog::new(Timestamp(0));
        backlog.committed();
        assert_eq!(backlog.count(), None);
        backlog.began_with(2);
        backlog.committed();
        assert_eq!(backlog.count(), Some(4));
    }

    const NOW: Timestamp = Timestamp(1_750_000_000_000);

    fn after_s(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    /// One that ends so many each second, for so long.
    fn draining(per_second: usize, seconds: u64) -> Backlog {
        let mut backlog = Backlog::new(NOW);
        for second in 0..seconds {
            (0..per_second).for_each(|_| backlog.ended(after_s(second)));
        }
        backlog
    }

    #[test]
    fn what_is_committed_and_ended_while_the_store_counts_is_counted() {
        let mut backlog = Backlog::new(NOW);
        backlog.committed();
        assert_eq!(backlog.count(), None);
        backlog.begin_count();
        assert!(!backlog.wants_count());
        (0..3).for_each(|_| backlog.committed());
        backlog.ended(NOW);
        backlog.end_count(Some(10), 100);
        assert_eq!(backlog.count(), Some(12));
    }

    #[test]
    fn a_store_that_could_not_count_is_asked_again() {
        let mut backlog = Backlog::new(NOW);
        backlog.begin_count();
        backlog.end_count(None, 100);
        assert!(backlog.wants_count());
    }

    #[test]
    fn a_count_that_ended_at_its_bound_is_made_again_when_the_limit_changes() {
        let mut backlog = Backlog::new(NOW);
        for (count, again) in [(99, false), (100, true)] {
            backlog.begin_count();
            backlog.end_count(Some(count), 100);
            backlog.limit_changed();
            assert_eq!(backlog.wants_count(), again, "{count}");
        }
    }

    #[test]
    fn memory_knows_better_than_an_old_count() {
        let mut backlog = Backlog::new(NOW);
        backlog.begin_count();
        backlog.is_exactly(3);
        backlog.end_count(Some(1000), 2000);
        assert_eq!(backlog.count(), Some(3));
    }

    #[test]
    fn the_drain_rate_is_that_of_the_last_minute() {
        let backlog = draining(10, 100);
        assert!((backlog.drain_rate_per_s(after_s(100)) - 10.0).abs() < 0.5);
        assert_eq!(backlog.drain_rate_per_s(after_s(200)), 0.0);
    }

    #[test]
    fn a_full_backlog_asks_for_the_time_until_a_hundredth_has_drained() {
        assert_eq!(draining(10, 100).retry_after_s(10_000, after_s(100), None), 10);
        assert_eq!(draining(1000, 100).retry_after_s(1000, after_s(100), None), 1);
        assert_eq!(draining(1, 100).retry_after_s(1_000_000, after_s(100), None), 300);
    }

    #[test]
    fn when_nothing_drains_the_next_wakeup_counts() {
        let backlog = Backlog::new(NOW);
        assert_eq!(backlog.retry_after_s(1000, NOW, Some(after_s(41))), 42);
        assert_eq!(backlog.retry_after_s(1000, NOW, Some(after_s(4000))), 300);
        assert_eq!(backlog.retry_after_s(1000, NOW, None), 300);
    }
}
