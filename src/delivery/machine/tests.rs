use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::delivery::{AttemptClass, AttemptResult, Defaults, DisabledReason, Outcome, RetryChange, Settings};

pub(super) const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);
const WINDOW: usize = 4;
/// A failure that neither the window nor the breaker minds.
pub(super) const REFUSED: u16 = 404;

pub(super) fn id(n: u128) -> DeliveryId {
    DeliveryId(Uuid::from_u128(n << 64))
}

pub(super) fn delivery(n: u128) -> Delivery {
    Delivery {
        trace: None,
        ordering_key: None,
        resend_of: None,
        id: id(n),
        subscription_id: SUBSCRIPTION,
        event_type: None,
        payload: Bytes::from_static(b"{}"),
        event_id: None,
    }
}

pub(super) fn answer(status: u16) -> AttemptResult {
    AttemptResult {
        started_at: Timestamp(0),
        duration: Duration::ZERO,
        http_status: Some(status),
        retry_after: None,
        error_details: (!(200..300).contains(&status)).then(|| format!("answered {status}")),
        class: AttemptClass::Answered,
        response_body: None,
    }
}

/// A machine with its clock and what it asked for, in order.
pub(super) fn limits(schedule: &str) -> Limits {
    let defaults = Defaults {
        schedule: schedule.parse().expect("a schedule"),
        attempt_timeout: Duration::from_secs(10),
        retention: Duration::MAX,
    };
    Limits { max_concurrency: WINDOW, ..Settings::default().limits(&defaults, None) }
}

pub(super) fn configured(enabled: bool) -> Input {
    Input::Configured { enabled, limits: Box::new(limits("10s")) }
}

pub(super) struct Bench {
    pub machine: Machine,
    pub now: Timestamp,
    pub attempts: Vec<(DeliveryId, u32, Timestamp)>,
    pub records: Vec<(DeliveryId, u32, Outcome, RetryChange)>,
    pub others: Vec<Action>,
}

impl Bench {
    pub fn new(schedule: &str) -> Self {
        Self::not_started(limits(schedule))
    }

    fn not_started(limits: Limits) -> Self {
        Self {
            machine: Machine::new(SUBSCRIPTION, limits, true),
            now: Timestamp(1_000_000),
            attempts: Vec::new(),
            records: Vec::new(),
            others: Vec::new(),
        }
    }

    pub fn started(schedule: &str) -> Self {
        Self::over(limits(schedule))
    }

    /// Started with nothing in the store.
    pub fn over(limits: Limits) -> Self {
        let mut bench = Self::not_started(limits);
        bench.give(Input::Started {
            cursor: DeliveryId::MIN,
            behind: false,
            retries: vec![],
            all_retries: true,
            failing_since: None,
        });
        bench
    }

    pub fn give(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Attempt { delivery, number } => self.attempts.push((delivery.id, number, self.now)),
                Action::Record { id, number, outcome, retry, .. } => self.records.push((id, number, outcome, retry)),
                other => self.others.push(other),
            }
        }
    }

    /// The attempt under way ends with this status, and its record becomes durable.
    pub fn finish(&mut self, n: u128, status: u16) {
        self.give(Input::Attempted { id: id(n), result: answer(status), stale: false });
        self.give(Input::Recorded(id(n)));
    }

    /// Lets time pass to the machine's deadline and wakes it, payloads included.
    pub fn wake(&mut self) {
        self.now = self.machine.deadline().expect("something to wait for").max(self.now);
        self.give(Input::Woken);
        self.answer_loads();
    }

    pub fn answer_loads(&mut self) {
        for action in std::mem::take(&mut self.others) {
            match action {
                Action::LoadPayloads(asked) => {
                    let found = asked.iter().map(|id| Delivery { id: *id, ..delivery(0) }).collect();
                    self.give(Input::Payloads { asked, found });
                }
                other => self.others.push(other),
            }
        }
    }

    pub fn attempted(&self) -> Vec<DeliveryId> {
        self.attempts.iter().map(|(id, ..)| *id).collect()
    }
}

#[test]
fn a_delivery_received_at_once_costs_one_attempt_and_one_record_and_no_retry() {
    let mut bench = Bench::started("10s");
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 204);
    assert_eq!(bench.attempts.len(), 1);
    assert_eq!(bench.records, [(id(1), 1, Outcome::Success, RetryChange::None)]);
    assert!(bench.machine.is_idle(Timestamp::MAX));
    assert_eq!(bench.machine.tried_through(), id(1));
}

#[test]
fn an_idle_machine_keeps_no_queues() {
    let mut bench = Bench::started("10s");
    (1..=100).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    (1..=100).for_each(|n| bench.finish(n, 200));
    let machine = &bench.machine;
    assert_eq!((machine.ready.capacity(), machine.due.capacity(), machine.actions.capacity()), (0, 0, 0));
}

#[test]
fn three_failures_and_a_success_are_four_attempts_at_the_scheduled_times() {
    let mut bench = Bench::started("10s,30s,60s,300s");
    bench.give(Input::Accepted(delivery(1)));
    for status in [500, 500, 500] {
        bench.finish(1, status);
        bench.wake();
    }
    bench.finish(1, 200);
    let times: Vec<_> = bench.attempts.iter().map(|(.., at)| *at).collect();
    for (pair, wait) in times.windows(2).zip([10, 30, 60]) {
        let wait = Duration::from_secs(wait);
        let waited = pair[1].since(pair[0]);
        assert!(waited >= wait && waited <= wait + wait / 10, "waited {waited:?} for {wait:?}");
    }
    assert_eq!(bench.attempts.iter().map(|(_, number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(bench.records.last(), Some(&(id(1), 4, Outcome::Success, RetryChange::Settle)));
}

#[test]
fn a_spent_schedule_ends_in_a_visible_failure() {
    let mut bench = Bench::started("1s");
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 500);
    bench.wake();
    bench.finish(1, 500);
    assert_eq!(bench.records.last(), Some(&(id(1), 2, Outcome::Failure, RetryChange::Settle)));
    assert!(bench.machine.is_idle(Timestamp::MAX));
}

#[test]
fn without_a_schedule_the_first_failure_is_final() {
    let mut bench = Bench::started("");
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 503);
    assert_eq!(bench.records, [(id(1), 1, Outcome::Failure, RetryChange::None)]);
}

#[test]
fn retry_after_is_honoured_and_capped() {
    let mut bench = Bench::started("10s,10s");
    bench.give(Input::Accepted(delivery(1)));
    for (asked, expected) in [(60, 60), (1_000_000, 3600)] {
        let result = AttemptResult { retry_after: Some(Duration::from_secs(asked)), ..answer(429) };
        bench.give(Input::Attempted { id: id(1), result, stale: false });
        bench.give(Input::Recorded(id(1)));
        let before = bench.now;
        bench.wake();
        let waited = bench.now.since(before).as_secs();
        assert!((expected..=expected * 11 / 10).contains(&waited), "waited {waited}s, asked for {asked}s");
    }
}

#[test]
fn the_window_bounds_what_is_under_way_or_not_yet_logged() {
    let mut bench = Bench::started("10s");
    (1..=10).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    assert_eq!(bench.attempts.len(), WINDOW);
    bench.give(Input::Attempted { id: id(1), result: answer(200), stale: false });
    assert_eq!(bench.attempts.len(), WINDOW, "an attempt that is not logged holds its place");
    bench.give(Input::Recorded(id(1)));
    assert_eq!(bench.attempts.len(), WINDOW + 1);
}

#[test]
fn first_attempts_are_made_in_the_order_of_acceptance_across_memory_and_pages() {
    let mut bench = Bench::started("10s");
    (1..=6).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.give(Input::FellBehind);
    bench.give(Input::Accepted(delivery(9)));
    let Some(Action::LoadPage { after, .. }) = bench.others.pop() else { panic!("no page asked for") };
    assert_eq!(after, id(6), "what came early is read in its turn");
    bench.give(Input::Page { deliveries: (7..=10).map(delivery).collect(), caught_up: Some(id(10)) });
    (1..=10).for_each(|n| bench.finish(n, 200));
    assert_eq!(bench.attempted(), (1..=10).map(id).collect::<Vec<_>>());
    assert_eq!(bench.machine.tried_through(), id(10));
}

#[test]
fn nothing_counts_as_tried_before_it_is_logged() {
    let mut bench = Bench::started("10s");
    (1..=3).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.finish(2, 200);
    bench.finish(3, 200);
    bench.give(Input::Attempted { id: id(1), result: answer(200), stale: false });
    assert_eq!(bench.machine.tried_through(), id(1).predecessor());
    bench.give(Input::Recorded(id(1)));
    assert_eq!(bench.machine.tried_through(), id(3));
}

#[test]
fn gone_disables_the_subscription_and_leaves_its_backlog_in_the_store() {
    let mut bench = Bench::started("10s");
    (1..=6).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.finish(1, 410);
    assert_eq!(bench.records, [(id(1), 1, Outcome::Failure, RetryChange::None)]);
    assert!(matches!(bench.others[..], [Action::FallBehind, Action::Disable(DisabledReason::Gone)]));
    (2..=4).for_each(|n| bench.finish(n, 200));
    assert_eq!(bench.attempts.len(), WINDOW, "nothing new is started");
    assert_eq!(bench.machine.tried_through(), id(5).predecessor());
    assert!(bench.machine.is_behind());

    bench.others.clear();
    bench.give(configured(true));
    assert!(matches!(bench.others[..], [Action::LoadPage { after, .. }] if after == id(5).predecessor()));
}

#[test]
fn a_page_that_was_asked_for_before_deliveries_were_given_back_does_not_skip_them() {
    let mut bench = Bench::started("10s");
    (1..=6).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.give(Input::FellBehind);
    bench.others.clear();
    bench.give(configured(false));
    bench.give(configured(true));
    assert!(!bench.machine.wants_page(), "5 and 6 were given back");
    bench.give(Input::Page { deliveries: vec![delivery(7)], caught_up: None });
    let asked: Vec<_> = bench.others.iter().filter(|a| matches!(a, Action::LoadPage { .. })).collect();
    assert!(matches!(asked[..], [Action::LoadPage { after, .. }] if *after == id(5).predecessor()), "{asked:?}");
}

#[test]
fn a_deleted_subscription_finishes_what_is_under_way_and_starts_nothing() {
    let mut bench = Bench::started("10s");
    (1..=6).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.give(Input::Deleted);
    (1..=4).for_each(|n| bench.finish(n, 500));
    assert_eq!(bench.attempts.len(), WINDOW);
    assert!(
        bench.records.iter().all(|(.., outcome, retry)| (*outcome, retry) == (Outcome::Failure, &RetryChange::None))
    );
    assert!(!bench.machine.is_busy());
    assert_eq!(bench.machine.deadline(), None);
}

#[test]
fn draining_lets_attempts_end_and_starts_none() {
    let mut bench = Bench::started("10s");
    (1..=6).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.give(Input::Draining);
    (1..=4).for_each(|n| bench.finish(n, 200));
    assert_eq!(bench.attempts.len(), WINDOW);
    assert!(!bench.machine.is_busy());
}

#[test]
fn retries_beyond_what_is_held_are_read_again_and_none_is_lost() {
    let total = u128::try_from(MAX_RETRIES_HELD).expect("small") + 8;
    let mut bench = Bench::started("10s");
    for n in 1..=total {
        bench.give(Input::Accepted(delivery(n)));
        bench.finish(n, REFUSED);
    }
    bench.now = bench.now + Duration::from_secs(60);
    bench.give(Input::Woken);
    bench.answer_loads();
    while let Some(next) = bench
        .attempts
        .iter()
        .skip(usize::try_from(total).expect("small"))
        .map(|a| a.0)
        .find(|id| !bench.records.iter().any(|(done, number, ..)| done == id && *number == 2))
    {
        bench.give(Input::Attempted { id: next, result: answer(200), stale: false });
        bench.give(Input::Recorded(next));
        bench.answer_loads();
    }
    assert!(bench.others.iter().any(|action| matches!(action, Action::LoadRetries)), "8 wait in the store");
    let done: Vec<_> = bench.records.iter().filter(|r| r.1 == 2).map(|r| r.0).collect();
    assert_eq!(done.len(), MAX_RETRIES_HELD);
    let left = (1..=total).map(id).filter(|id| !done.contains(id)).map(|delivery_id| Retry {
        delivery_id,
        subscription_id: SUBSCRIPTION,
        attempt_number: 2,
        next_attempt_at: bench.now,
        ordering_key: None,
    });
    let left: Vec<_> = left.collect();
    assert_eq!(left.len(), 8);
    bench.others.clear();
    bench.give(Input::Retries { retries: left, all: true });
    assert!(matches!(&bench.others[..], [Action::LoadPayloads(ids)] if ids.len() == WINDOW));
}

#[test]
fn a_retry_that_ended_elsewhere_is_dropped() {
    let mut bench = Bench::started("10s");
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 500);
    bench.now = bench.now + Duration::from_secs(20);
    bench.give(Input::Woken);
    bench.give(Input::Payloads { asked: vec![id(1)], found: vec![] });
    assert_eq!(bench.attempts.len(), 1);
    assert!(bench.machine.is_idle(Timestamp::MAX));
}

#[test]
fn a_store_that_cannot_answer_is_asked_again_later() {
    let mut bench = Bench::new("10s");
    bench.give(Input::Started { cursor: id(1), behind: true, retries: vec![], all_retries: true, failing_since: None });
    assert!(matches!(bench.others.pop(), Some(Action::LoadPage { .. })));
    bench.give(Input::PageUnavailable);
    assert!(bench.others.is_empty(), "not at once");
    bench.wake();
    assert!(matches!(bench.others.pop(), Some(Action::LoadPage { .. })));
}

#[test]
fn a_clock_that_was_set_back_between_runs_does_not_stall_retries() {
    let mut bench = Bench::new("10s");
    let an_hour_ahead = Retry {
        delivery_id: id(1),
        subscription_id: SUBSCRIPTION,
        attempt_number: 2,
        next_attempt_at: bench.now + Duration::from_secs(7 * 24 * 3600),
        ordering_key: None,
    };
    bench.give(Input::Started {
        cursor: id(1),
        behind: false,
        retries: vec![an_hour_ahead],
        all_retries: true,
        failing_since: None,
    });
    let wait = bench.machine.deadline().expect("a retry").since(bench.now);
    assert!(wait <= Duration::from_secs(3600) * 11 / 10, "waits {wait:?}");
}

#[test]
fn a_stale_wake_up_is_harmless() {
    let mut bench = Bench::started("10s");
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 500);
    bench.give(Input::Woken);
    bench.give(Input::Recorded(id(1)));
    bench.give(Input::Attempted { id: id(9), result: answer(200), stale: false });
    assert_eq!((bench.attempts.len(), bench.records.len()), (1, 1));
}

#[test]
fn a_retry_that_is_recorded_while_the_rest_is_being_read_is_not_lost() {
    let total = u128::try_from(MAX_RETRIES_HELD).expect("small") + 1;
    let mut bench = Bench::started("10s,10s");
    for n in 1..=total {
        bench.give(Input::Accepted(delivery(n)));
        bench.finish(n, REFUSED);
    }
    bench.give(Input::Accepted(delivery(total + 1)));
    bench.now = bench.now + Duration::from_secs(60);
    bench.give(Input::Woken);
    while !bench.others.iter().any(|action| matches!(action, Action::LoadRetries)) {
        bench.answer_loads();
        let under_way: Vec<_> = bench.attempts.split_off(0).into_iter().filter(|(_, number, _)| *number == 2).collect();
        for (id, ..) in under_way {
            bench.give(Input::Attempted { id, result: answer(200), stale: false });
            bench.give(Input::Recorded(id));
        }
    }
    // Its row is younger than the answer that is on its way.
    bench.finish(total + 1, REFUSED);
    bench.give(Input::Retries { retries: vec![], all: true });
    let waits = bench.machine.deadline().expect("it waits for its retry").since(bench.now);
    assert!(waits >= Duration::from_secs(10), "waits {waits:?}");
}

#[test]
fn payloads_that_arrive_after_a_disable_are_not_kept_in_memory() {
    let mut bench = Bench::started("10s");
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 500);
    bench.now = bench.now + Duration::from_secs(20);
    bench.give(Input::Woken);
    bench.give(configured(false));
    bench.give(Input::Payloads { asked: vec![id(1)], found: vec![delivery(1)] });
    assert_eq!(bench.machine.held_bytes(), 0);
    assert!(bench.machine.is_idle(Timestamp::MAX));
    bench.give(configured(true));
    bench.answer_loads();
    assert_eq!(bench.attempts.last().map(|(id, number, _)| (*id, *number)), Some((id(1), 2)));
}

#[test]
fn attempts_that_were_not_made_are_given_back_and_made_in_order_later() {
    let mut bench = Bench::started("10s");
    (1..=3).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    bench.give(configured(false));
    bench.give(Input::NotSent(id(1)));
    bench.give(Input::NotSent(id(3)));
    assert_eq!(bench.machine.tried_through(), id(1).predecessor());
    bench.others.clear();
    bench.give(configured(true));
    assert!(bench.others.is_empty(), "2 is under way above the cursor: read now, it would be made twice");
    bench.finish(2, 200);
    assert!(matches!(bench.others[..], [Action::LoadPage { after, .. }] if after == id(1).predecessor()));
    bench.give(Input::Page { deliveries: vec![delivery(1), delivery(3)], caught_up: Some(id(3)) });
    [1, 3].into_iter().for_each(|n| bench.finish(n, 200));
    assert_eq!(bench.attempted(), [1, 2, 3, 1, 3].map(id));
    assert_eq!(bench.machine.tried_through(), id(3));
}

#[test]
fn a_410_to_a_configuration_that_was_replaced_is_a_failure_like_any_other() {
    let mut bench = Bench::started("10s");
    bench.give(Input::Accepted(delivery(1)));
    bench.give(Input::Attempted { id: id(1), result: answer(410), stale: true });
    assert!(bench.machine.is_enabled());
    assert!(matches!(bench.records[..], [(_, 1, Outcome::FailedAttempt, RetryChange::Schedule(_))]));
}

#[test]
fn what_outlived_its_retention_ends_visibly_and_is_not_sent() {
    let mut bench = Bench::new("10s");
    bench.machine.limits.retention = Duration::from_secs(1);
    bench.give(Input::Started {
        cursor: DeliveryId::MIN,
        behind: false,
        retries: vec![],
        all_retries: true,
        failing_since: None,
    });
    bench.give(Input::Accepted(delivery(1)));
    assert_eq!(bench.attempts.len(), 0);
    assert_eq!(bench.records, [(id(1), 1, Outcome::Failure, RetryChange::None)]);
    assert_eq!(bench.machine.tried_through(), id(1).predecessor(), "not before its row is durable");
    bench.give(Input::Recorded(id(1)));
    assert_eq!(bench.machine.tried_through(), id(1));
}

#[test]
fn a_receiver_of_large_bodies_holds_a_bounded_part_of_the_memory() {
    let large = |n| Delivery { payload: Bytes::from(vec![b' '; 1024 * 1024]), ..delivery(n) };
    let mut bench = Bench::new("10s");
    bench.give(Input::Started {
        cursor: DeliveryId::MIN,
        behind: true,
        retries: vec![],
        all_retries: true,
        failing_since: None,
    });
    let mut n = 0;
    while let Some(Action::LoadPage { .. }) = bench.others.pop() {
        n += 1;
        assert!(n < 100, "it goes on reading");
        bench.give(Input::Page { deliveries: vec![large(n)], caught_up: None });
    }
    assert!(bench.machine.held_bytes() <= MAX_HELD_BYTES, "holds {}", bench.machine.held_bytes());
    assert!(!bench.attempts.is_empty());
}

#[test]
fn a_record_of_a_crashed_predecessor_does_not_end_an_attempt_under_way() {
    let mut bench = Bench::started("10s");
    bench.give(Input::Accepted(delivery(1)));
    bench.give(Input::Recorded(id(1)));
    assert!(bench.machine.is_busy());
    bench.finish(1, 200);
    assert_eq!(bench.records.len(), 1);
}
