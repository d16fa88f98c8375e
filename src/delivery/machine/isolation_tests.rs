use super::tests::{Bench, SUBSCRIPTION, answer, configured, delivery, id, limits};
use super::*;
use crate::delivery::{
    AttemptClass, AttemptResult, BreakerState, DisabledReason, Order, Outcome, Rate, RetryChange, Waits,
};

fn with(change: impl FnOnce(&mut Limits)) -> Bench {
    let mut changed = limits("10s,10s");
    change(&mut changed);
    Bench::over(changed)
}

fn keyed(n: u128, key: &str) -> Delivery {
    Delivery { ordering_key: Some(Arc::from(key)), ..delivery(n) }
}

/// Ten failures, one after the other, and a backlog behind them.
fn opened() -> Bench {
    let mut bench = with(|_| {});
    (1..=40).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    for _ in 0..10 {
        let next = bench.machine.in_flight.keys().next().copied().expect("an attempt");
        bench.give(Input::Attempted { id: next, result: answer(500), stale: false });
        bench.give(Input::Recorded(next));
    }
    bench
}

#[test]
fn an_open_breaker_starts_nothing_and_leaves_the_backlog_in_the_store() {
    let mut bench = opened();
    let snapshot = bench.machine.snapshot(bench.now);
    assert_eq!((snapshot.breaker, snapshot.window, snapshot.in_flight), (BreakerState::Open, 1, 0));
    assert_eq!(bench.machine.ready(), 1, "the next probe is all that stays");
    assert!(bench.machine.is_behind());
    let until = snapshot.breaker_until.expect("a time");
    assert_eq!(bench.machine.deadline(), Some(until));
    assert_eq!(bench.machine.why(bench.now, id(30)), Waits::Breaker { until });
    let before = bench.attempts.len();
    bench.wake();
    assert_eq!(bench.attempts.len(), before + 1, "one probe");
    assert_eq!(bench.machine.why(bench.now, id(30)), Waits::Probe);
    assert!(bench.records.iter().all(|(_, number, ..)| *number == 1), "waiting used up no retries");
}

#[test]
fn a_probe_that_was_not_sent_gives_its_place_to_the_next() {
    let mut bench = opened();
    bench.wake();
    let probe = *bench.attempted().last().expect("a probe");
    bench.give(Input::NotSent(probe));
    assert!(!matches!(bench.machine.why(bench.now, id(40)), Waits::Probe));
}

#[test]
fn retry_after_holds_the_whole_subscription_for_a_minute_at_most() {
    let mut bench = with(|_| {});
    bench.give(Input::Accepted(delivery(1)));
    let result = AttemptResult { retry_after: Some(Duration::from_secs(600)), ..answer(429) };
    bench.give(Input::Attempted { id: id(1), result, stale: false });
    bench.give(Input::Recorded(id(1)));
    bench.give(Input::Accepted(delivery(2)));
    assert_eq!(bench.attempts.len(), 1);
    let until = bench.now + outcome::MAX_HOLD;
    assert_eq!(bench.machine.snapshot(bench.now).held_until, Some(until));
    assert_eq!(bench.machine.why(bench.now, id(2)), Waits::Held { until });
    bench.wake();
    assert_eq!((bench.now, bench.attempts.len()), (until, 2));
}

#[test]
fn the_rate_limit_spreads_a_backlog() {
    let mut bench = with(|limits| limits.rate = Some(Rate { per_second: 10, burst: 1 }));
    (1..=3).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    let start = bench.now;
    assert_eq!(bench.machine.why(start, id(3)), Waits::Rate { at: start + Duration::from_millis(100) });
    bench.wake();
    bench.wake();
    let times: Vec<_> = bench.attempts.iter().map(|(.., at)| at.since(start).as_millis()).collect();
    assert_eq!(times, [0, 100, 200]);
}

#[test]
fn with_fifo_a_failing_head_blocks_all_until_it_is_exhausted() {
    let mut bench = with(|limits| limits.order = Order::Fifo);
    (1..=3).for_each(|n| bench.give(Input::Accepted(delivery(n))));
    for _ in 0..2 {
        bench.finish(1, 404);
        assert_eq!(bench.machine.why(bench.now, id(2)), Waits::Order { behind: id(1) });
        bench.wake();
    }
    assert_eq!(bench.attempted(), [1, 1, 1].map(id));
    bench.finish(1, 404);
    let pages = bench.others.iter().filter(|action| matches!(action, Action::LoadPage { .. })).count();
    assert_eq!(pages, 1, "what was given back is read again, while nothing waits");
    bench.give(Input::Page { deliveries: vec![delivery(2), delivery(3)], caught_up: Some(id(3)) });
    assert_eq!(bench.attempted().last(), Some(&id(2)));
}

#[test]
fn a_key_that_fails_blocks_itself_and_no_other() {
    let mut bench = with(|limits| limits.order = Order::OrderingKey);
    for (n, key) in [(1, "a"), (2, "a"), (3, "b")] {
        bench.give(Input::Accepted(keyed(n, key)));
    }
    bench.give(Input::Accepted(delivery(4)));
    assert_eq!(bench.attempted(), [1, 3, 4].map(id));
    bench.finish(1, 404);
    assert_eq!(bench.machine.why(bench.now, id(2)), Waits::Order { behind: id(1) });
    assert_eq!(bench.machine.tried_through(), id(2).predecessor(), "what is parked is untried");
    bench.wake();
    bench.finish(1, 200);
    assert_eq!(bench.attempted(), [1, 3, 4, 1, 2].map(id));
}

#[test]
fn a_dropped_backlog_ends_visibly_and_without_an_attempt() {
    let mut bench = with(|_| {});
    bench.give(configured(false));
    bench.others.clear();
    let dropping = Limits { drop_through: Some(id(2)), ..limits("10s") };
    bench.give(Input::Configured { enabled: true, limits: Box::new(dropping) });
    bench.give(Input::Page { deliveries: (1..=3).map(delivery).collect(), caught_up: Some(id(3)) });
    bench.give(Input::Retries { retries: vec![], all: true });
    assert_eq!(bench.attempted(), [id(3)]);
    assert_eq!(bench.records, [1, 2].map(|n| (id(n), 1, Outcome::Failure, RetryChange::None)));
}

#[test]
fn failing_is_saved_after_ten_minutes_and_disables_after_the_limit() {
    let mut bench = with(|limits| limits.disable_after = Duration::from_secs(1200));
    let since = bench.now;
    let fail = |bench: &mut Bench, n| {
        bench.give(Input::Accepted(delivery(n)));
        bench.finish(n, 404);
    };
    fail(&mut bench, 1);
    bench.now = since + outcome::SAVE_FAILING_AFTER - Duration::from_millis(1);
    fail(&mut bench, 2);
    assert!(!bench.others.iter().any(|action| matches!(action, Action::SaveFailing(_))));
    bench.now = since + outcome::SAVE_FAILING_AFTER;
    fail(&mut bench, 3);
    assert!(bench.others.iter().any(|action| matches!(action, Action::SaveFailing(Some(at)) if *at == since)));
    bench.now = since + Duration::from_secs(1200);
    fail(&mut bench, 4);
    assert!(matches!(bench.others.last(), Some(Action::Disable(DisabledReason::Failing))));
    assert!(!bench.machine.is_enabled());
    bench.give(configured(true));
    assert_eq!(bench.machine.snapshot(bench.now).failing_since, None);
    assert!(bench.others.iter().any(|action| matches!(action, Action::SaveFailing(None))));
}

/// Such as a secret whose master key is missing: the receiver was not even asked.
#[test]
fn what_this_node_lacks_disables_nobody_however_long_it_lacks_it() {
    let mut bench = with(|limits| limits.disable_after = Duration::from_secs(1200));
    let since = bench.now;
    for n in 1..=3 {
        bench.now = since + Duration::from_secs(1200) * u32::try_from(n).unwrap();
        fail_ourselves(&mut bench, n);
    }
    assert!(bench.machine.is_enabled() && bench.machine.snapshot(bench.now).failing_since.is_none());
}

#[test]
fn time_in_which_this_node_lacked_something_does_not_count_as_failing() {
    let mut bench = with(|limits| {
        limits.disable_after = Duration::from_secs(1200);
        // No retries, which would go before what is new.
        limits.schedule = "".parse().unwrap();
    });
    let since = bench.now;
    bench.give(Input::Accepted(delivery(1)));
    bench.finish(1, 404);
    bench.now = since + Duration::from_secs(600);
    bench.give(Input::Accepted(delivery(2)));
    bench.finish(2, 404);
    fail_ourselves(&mut bench, 3);
    assert!(matches!(bench.others.last(), Some(Action::SaveFailing(None))), "nor does a restart count it");
    bench.now = since + Duration::from_secs(2400);
    bench.give(Input::Accepted(delivery(4)));
    bench.finish(4, 404);
    assert!(bench.machine.is_enabled());
    assert_eq!(bench.machine.snapshot(bench.now).failing_since, Some(bench.now));
    bench.now = since + Duration::from_secs(3600);
    bench.give(Input::Accepted(delivery(5)));
    bench.finish(5, 404);
    assert!(!bench.machine.is_enabled());
}

fn fail_ourselves(bench: &mut Bench, n: u128) {
    bench.give(Input::Accepted(delivery(n)));
    let result = AttemptResult { class: AttemptClass::Local, http_status: None, ..answer(500) };
    bench.give(Input::Attempted { id: id(n), result, stale: false });
    bench.give(Input::Recorded(id(n)));
}

#[test]
fn an_idle_machine_is_small() {
    let queues = 4 * size_of::<Action>() + 8 * size_of::<Delivery>();
    let trees = 11 * (size_of::<InFlight>() + size_of::<Held>() * 2 + size_of::<DeliveryId>() * 6);
    let size = size_of::<Machine>() + queues + trees;
    assert!(size < 6 * 1024, "{size} bytes");
}

fn retry(n: u128, at: Timestamp) -> Retry {
    Retry {
        delivery_id: id(n),
        subscription_id: SUBSCRIPTION,
        attempt_number: 2,
        next_attempt_at: at,
        ordering_key: None,
    }
}

/// What was owed used to be kept as it was counted, in intervals of the old rate: raising it silenced the subscription.
#[test]
fn a_rate_that_is_raised_owes_nothing_in_the_old_rates_intervals() {
    let slow = Rate { per_second: 1, burst: 1000 };
    let fast = Rate { per_second: 1000, burst: 1 };
    let mut bench = with(|limits| limits.rate = Some(slow));
    bench.now = bench.now + Duration::from_secs(1000);
    for n in 1..=1000 {
        bench.give(Input::Accepted(delivery(n)));
        bench.finish(n, 200);
    }
    let changed = Limits { rate: Some(fast), ..limits("10s,10s") };
    bench.give(Input::Configured { enabled: true, limits: Box::new(changed) });
    bench.give(Input::Accepted(delivery(1001)));
    assert_eq!(bench.attempted().last(), Some(&id(1001)));
}

/// One that was recorded while the others were being read used to be held, and the rest of the store to wait for it.
#[test]
fn retries_in_the_store_do_not_wait_for_a_later_one_in_memory() {
    let mut bench = Bench::new("900s");
    let now = bench.now;
    let read = |from: u128| (from..from + 512).map(|n| retry(n, now)).collect::<Vec<_>>();
    bench.give(Input::Started {
        cursor: id(9999),
        behind: false,
        retries: read(1),
        all_retries: false,
        failing_since: None,
    });
    let mut done = 0;
    while !bench.others.iter().any(|action| matches!(action, Action::LoadRetries)) {
        bench.answer_loads();
        let (last, ..) = bench.attempts[done];
        done += 1;
        bench.give(Input::Attempted { id: last, result: answer(200), stale: false });
        bench.give(Input::Recorded(last));
    }
    // The last ones fail while the next are read.
    let under_way: Vec<_> = bench.machine.in_flight.keys().copied().collect();
    for left in under_way {
        bench.give(Input::Attempted { id: left, result: answer(404), stale: false });
        bench.give(Input::Recorded(left));
    }
    bench.others.clear();
    bench.give(Input::Retries { retries: read(1000), all: false });
    assert!(bench.machine.retries.keys().all(|(at, _)| *at <= now), "the one that is due later is left to the store");
}

/// A passive actor forgets its breaker: woken for its retries, it used to send a window full of them at once.
#[test]
fn a_receiver_that_failed_before_the_start_gets_one_attempt_at_a_time() {
    for (failing_since, breaker) in [(None, BreakerState::Closed), (Some(Timestamp(1)), BreakerState::HalfOpen)] {
        let mut bench = Bench::new("10s");
        let retries = (1..=8).map(|n| retry(n, bench.now)).collect();
        let (cursor, now) = (id(8), bench.now);
        bench.give(Input::Started { cursor, behind: false, retries, all_retries: true, failing_since });
        assert_eq!(bench.machine.snapshot(now).breaker, breaker);
        bench.answer_loads();
        assert_eq!(bench.attempts.len(), 1);
    }
}
