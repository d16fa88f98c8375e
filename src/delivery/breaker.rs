//! The breaker: when the receiver fails, attempts stop, so that what waits keeps its retries and others keep the sockets.
//!
//! A refusal (most of 4xx) is no failure, as the receiver lives, and it does not end a row of failures either: it may come
//! from something in front of a dead server. Of a probe it is an answer like any other.

use std::time::Duration;

use super::schedule::jitter;
use super::settings::BreakerLimits;
use super::snapshot::BreakerState;
use super::types::{DeliveryId, Timestamp};
use super::verdict::Verdict;

/// Attempts that the failure rate is taken over: as many as a word has bits.
const RECENT: u32 = u64::BITS;
/// Fewer than this are no rate: two of three may be bad luck.
const MIN_RECENT: u32 = 20;
/// Longest wait between two probes: a receiver that comes back is found within minutes.
pub(super) const MAX_OPEN: Duration = Duration::from_secs(300);
/// Answers after which a breaker that recovers is closed.
const RECOVERED_AFTER: u32 = 10;

#[derive(Debug)]
enum Position {
    Closed,
    Open { until: Timestamp },
    HalfOpen { probe: Option<DeliveryId> },
    Recovering { answers: u32 },
}

/// What the machine has to do about a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing may start any more.
    Opened,
    /// The probe came through.
    Recovered,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Breaker {
    position: Position,
    consecutive_failures: u32,
    /// A bit an attempt, newest last: 1 is a failure.
    recent: u64,
    recent_len: u32,
    failed_probes: u32,
    /// Raised whenever it opens. What started earlier is no probe and says nothing of the receiver as it is now.
    epoch: u32,
}

impl Breaker {
    pub fn closed() -> Self {
        Self {
            position: Position::Closed,
            consecutive_failures: 0,
            recent: 0,
            recent_len: 0,
            failed_probes: 0,
            epoch: 0,
        }
    }

    /// As after a probe that came through, and nothing counts of what was before.
    pub fn start_over(&mut self) {
        let epoch = self.epoch.wrapping_add(1);
        *self = Self { position: Position::Recovering { answers: 0 }, epoch, ..Self::closed() };
    }

    /// The next attempt is a probe.
    pub fn start_half_open(&mut self) {
        self.position = Position::HalfOpen { probe: None };
    }

    /// What an attempt that starts now remembers.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When the next attempt may start; `None` while the probe is under way.
    pub fn admits_at(&self) -> Option<Timestamp> {
        match self.position {
            Position::Open { until } => Some(until),
            Position::HalfOpen { probe: Some(_) } => None,
            _ => Some(Timestamp::default()),
        }
    }

    /// An attempt starts.
    pub fn started(&mut self, id: DeliveryId) {
        if self.is_holding() {
            self.position = Position::HalfOpen { probe: Some(id) };
        }
    }

    /// An attempt says nothing: it was not made, or with a configuration that was replaced. If it was the probe, the next
    /// one is.
    pub fn void(&mut self, id: DeliveryId) {
        if let Position::HalfOpen { probe } = &mut self.position {
            probe.take_if(|probe| *probe == id);
        }
    }

    /// The subscription was changed, perhaps because of this: the next probe need not wait.
    pub fn probe_now(&mut self, now: Timestamp) {
        if let Position::Open { until } = &mut self.position {
            *until = now.min(*until);
        }
    }

    /// An attempt ended that had started in `epoch`.
    pub fn ended(
        &mut self,
        now: Timestamp,
        id: DeliveryId,
        epoch: u32,
        verdict: Verdict,
        limits: &BreakerLimits,
    ) -> Option<Turn> {
        if epoch != self.epoch {
            return None;
        }
        let failed = verdict == Verdict::Struggling;
        match verdict {
            Verdict::Received => self.consecutive_failures = 0,
            Verdict::Struggling => self.consecutive_failures = self.consecutive_failures.saturating_add(1),
            Verdict::Refused => {}
        }
        match &mut self.position {
            Position::Closed if verdict == Verdict::Refused => None,
            Position::Closed => {
                self.recent = self.recent << 1 | u64::from(failed);
                self.recent_len = (self.recent_len + 1).min(RECENT);
                (failed && self.has_enough(limits)).then(|| self.open(now, id, limits))
            }
            Position::HalfOpen { .. } if failed => {
                self.failed_probes = self.failed_probes.saturating_add(1);
                Some(self.open(now, id, limits))
            }
            Position::HalfOpen { .. } => {
                self.position = Position::Recovering { answers: 0 };
                self.consecutive_failures = 0;
                Some(Turn::Recovered)
            }
            Position::Recovering { .. } if failed => Some(self.open(now, id, limits)),
            Position::Recovering { answers } => {
                *answers += 1;
                if *answers >= RECOVERED_AFTER {
                    self.position = Position::Closed;
                    self.failed_probes = 0;
                }
                None
            }
            // Nothing starts while it is open, and what started before is of another epoch.
            Position::Open { .. } => None,
        }
    }

    /// Whether nothing but a probe may start.
    pub fn is_holding(&self) -> bool {
        matches!(self.position, Position::Open { .. } | Position::HalfOpen { .. })
    }

    pub fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// Its position, and when it lets the next probe through if it is open.
    pub fn state(&self) -> (BreakerState, Option<Timestamp>) {
        match self.position {
            Position::Closed => (BreakerState::Closed, None),
            Position::Open { until } => (BreakerState::Open, Some(until)),
            Position::HalfOpen { .. } => (BreakerState::HalfOpen, None),
            Position::Recovering { .. } => (BreakerState::Recovering, None),
        }
    }

    fn has_enough(&self, limits: &BreakerLimits) -> bool {
        let failures = u64::from(self.recent.count_ones());
        let enough = u64::from(limits.failure_rate_percent) * u64::from(self.recent_len);
        let too_often = self.recent_len >= MIN_RECENT && failures * 100 >= enough;
        too_often || self.consecutive_failures >= limits.consecutive_failures
    }

    fn open(&mut self, now: Timestamp, id: DeliveryId, limits: &BreakerLimits) -> Turn {
        let doubled = limits.wait.saturating_mul(2_u32.saturating_pow(self.failed_probes));
        let wait = doubled.min(MAX_OPEN.max(limits.wait));
        self.position = Position::Open { until: now + wait + jitter(id, self.failed_probes, wait) };
        (self.recent, self.recent_len) = (0, 0);
        self.epoch = self.epoch.wrapping_add(1);
        Turn::Opened
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const LIMITS: BreakerLimits =
        BreakerLimits { consecutive_failures: 10, failure_rate_percent: 50, wait: Duration::from_secs(5) };
    const ID: DeliveryId = DeliveryId(Uuid::from_u128(7 << 64));

    fn end(breaker: &mut Breaker, now: Timestamp, verdict: Verdict) -> Option<Turn> {
        breaker.ended(now, ID, breaker.epoch(), verdict, &LIMITS)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::closed();
        (0..10).for_each(|_| {
            end(&mut breaker, Timestamp(0), Verdict::Struggling);
        });
        breaker
    }

    fn wait(breaker: &Breaker, now: Timestamp) -> Duration {
        breaker.state().1.expect("open").since(now)
    }

    /// The next probe starts as soon as it may, and ends at once.
    fn probe(breaker: &mut Breaker, verdict: Verdict) -> Timestamp {
        let now = breaker.admits_at().expect("a time");
        breaker.started(ID);
        end(breaker, now, verdict);
        now
    }

    #[test]
    fn ten_failures_in_a_row_open_it_and_nine_do_not() {
        let mut breaker = Breaker::closed();
        for _ in 0..9 {
            assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Struggling), None);
        }
        assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Struggling), Some(Turn::Opened));
        let wait = wait(&breaker, Timestamp(0));
        assert!(wait >= LIMITS.wait && wait <= LIMITS.wait * 11 / 10, "{wait:?}");
    }

    #[test]
    fn half_of_at_least_twenty_open_it() {
        let mut breaker = Breaker::closed();
        for n in 0..19 {
            let verdict = if n % 2 == 0 { Verdict::Struggling } else { Verdict::Received };
            assert_eq!(end(&mut breaker, Timestamp(0), verdict), None, "attempt {n}");
        }
        assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Struggling), Some(Turn::Opened));
    }

    #[test]
    fn failures_that_are_more_than_sixty_four_attempts_ago_are_forgotten() {
        let mut breaker = Breaker::closed();
        (0..9).for_each(|_| assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Struggling), None));
        (0..64).for_each(|_| assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Received), None));
        assert_eq!((breaker.recent, breaker.recent_len), (0, 64));
    }

    #[test]
    fn refusals_neither_open_it_nor_end_a_row_of_failures() {
        let mut breaker = Breaker::closed();
        (0..1000).for_each(|_| assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Refused), None));
        (0..9).for_each(|_| assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Struggling), None));
        assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Refused), None);
        assert_eq!(end(&mut breaker, Timestamp(0), Verdict::Struggling), Some(Turn::Opened));
    }

    #[test]
    fn one_probe_is_admitted_and_no_other_until_it_ends() {
        let mut breaker = opened();
        breaker.started(ID);
        assert_eq!(breaker.state().0, BreakerState::HalfOpen);
        assert_eq!(breaker.admits_at(), None);
        breaker.void(ID);
        assert_eq!(breaker.admits_at(), Some(Timestamp::default()), "it said nothing: the next one is the probe");
    }

    #[test]
    fn the_wait_doubles_with_every_failed_probe_up_to_five_minutes() {
        let mut breaker = opened();
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            let now = probe(&mut breaker, Verdict::Struggling);
            let waited = wait(&breaker, now).as_secs();
            assert!((expected..=expected * 11 / 10).contains(&waited), "waits {waited} s, not {expected} s");
        }
    }

    #[test]
    fn while_it_recovers_one_failure_opens_it_with_the_last_wait() {
        let mut breaker = opened();
        probe(&mut breaker, Verdict::Struggling);
        let now = probe(&mut breaker, Verdict::Received);
        assert_eq!(breaker.state().0, BreakerState::Recovering);
        (0..9).for_each(|_| assert_eq!(end(&mut breaker, now, Verdict::Received), None));
        assert_eq!(end(&mut breaker, now, Verdict::Struggling), Some(Turn::Opened));
        assert_eq!(wait(&breaker, now).as_secs() / 10, 1, "as long as the last time");
    }

    #[test]
    fn ten_answers_after_the_probe_close_it() {
        let mut breaker = opened();
        let now = probe(&mut breaker, Verdict::Refused);
        (0..10).for_each(|_| assert_eq!(end(&mut breaker, now, Verdict::Received), None));
        assert_eq!(breaker.state().0, BreakerState::Closed);
        assert_eq!(end(&mut breaker, now, Verdict::Struggling), None, "the row of failures starts anew");
    }

    #[test]
    fn what_was_under_way_when_it_opened_is_no_probe() {
        let mut breaker = opened();
        breaker.started(ID);
        let before = breaker.epoch().wrapping_sub(1);
        for verdict in [Verdict::Received, Verdict::Struggling] {
            assert_eq!(breaker.ended(Timestamp(0), ID, before, verdict, &LIMITS), None);
        }
        assert_eq!(breaker.state().0, BreakerState::HalfOpen);
    }
}
