//! What the simulation has found, each as the shortest world that shows it.

use std::time::Duration;

use bytes::Bytes;
use hookpost::delivery::{RateLimit, Settings, SubscriptionId};

use crate::chance::Chance;
use crate::history::{Offer, To};
use crate::plan::{Action, Plan};
use crate::profile::Profile;
use crate::sim::Sim;
use crate::world;

const ONE: SubscriptionId = SubscriptionId(1);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One subscription with one attempt a second, to which `count` events come at once after a second.
fn plan(count: usize, actions: impl IntoIterator<Item = (Duration, Action)>) -> Plan {
    let rate_limit = Some(RateLimit { per_second: 1, burst: Some(1) });
    let settings = Settings { max_concurrency: Some(1), rate_limit, ..Settings::default() };
    let mut plan = Plan { settings: Some(settings), ..Plan::default() };
    for nth in 0..count {
        let body = Bytes::from(format!("{{\"offer\":{nth}}}"));
        plan.offers.push(Offer { to: To::One(ONE), event_type: "order.paid", ordering_key: None, key: None, body });
        plan.add(s(1), Action::Send(nth));
    }
    actions.into_iter().for_each(|(at, action)| plan.add(at, action));
    plan
}

fn assert_keeps_every_promise(lasts: Duration, plan: Plan) {
    let sim = Sim::of(Chance::of(1), Profile::calm(lasts), None, false);
    let outcome = world::run_planned(&sim, plan);
    assert!(outcome.broken.is_none(), "{}{:?}", outcome.end, outcome.broken);
    assert!(outcome.requests > 1, "nothing happened:\n{}", outcome.end);
}

/// The actor of a disabled subscription had left its backlog to the store, below its position. The next one crashed before it
/// had read that position, and the one after it took the subscription for one without a backlog: nobody looked for it again.
#[test]
fn a_backlog_survives_an_actor_that_crashes_before_it_has_read_where_it_begins() {
    let actions = [
        (Duration::from_millis(1500), Action::Disable(ONE)),
        // It has left by now. An event that is refused starts another.
        (s(100), Action::PanicAtStart(ONE)),
        (s(101), Action::Send(0)),
        (s(110), Action::Enable(ONE, false)),
    ];
    assert_keeps_every_promise(s(115), plan(5, actions));
}

/// The actor that took over what a crash had left held it in memory, and did not hold the watermark back with it. A second
/// crash, half a minute later, and nobody looked for what was still untried.
#[test]
fn what_was_recovered_holds_the_watermark_back_until_it_was_tried() {
    // One goes in a second, so that most of them still wait at the second crash.
    let mut plan = plan(80, []);
    plan.kills.insert(s(3), 0);
    plan.kills.insert(s(60), 0);
    assert_keeps_every_promise(s(65), plan);
}

/// Whoever asked for it waited until their time was up, and so did everybody after them, until a restart.
#[test]
fn a_subscription_whose_reading_panics_is_read_again_for_the_next_event() {
    let actions = [(s(0), Action::PanicAtActivation(ONE)), (s(3), Action::Send(0)), (s(3), Action::Send(1))];
    assert_keeps_every_promise(s(10), plan(5, actions));
}
