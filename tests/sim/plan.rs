//! What happens in a world, and when: drawn before it begins, so that a crash changes none of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookpost::access::Actor;
use hookpost::delivery::{BreakerSettings, EventTypePattern, Order, RateLimit, SubscriptionId};
use hookpost::delivery::{Sealed, Secrets, Settings};
use hookpost::store::NewSubscription;

use crate::chance::Chance;
use crate::history::{Known, Offer, To};
use crate::network::address_of;
use crate::profile::Profile;

/// What somebody, or the world, does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends it, for the first time or again.
    Send(usize),
    /// Changes what does not bear on order, rate or window; or all of that.
    Settle(SubscriptionId),
    Disable(SubscriptionId),
    /// `true` drops what waits.
    Enable(SubscriptionId, bool),
    Delete(SubscriptionId),
    Create,
    /// A word of another process about it, which may be old, or of everything.
    Word(SubscriptionId),
    StoreAway(Duration),
    /// Another process takes the store.
    Fence,
    /// The wall clock is stepped, in milliseconds.
    Step(i64),
    /// A stop that lets what is under way end.
    Stop,
    /// The next start of its actor panics.
    PanicAtStart(SubscriptionId),
    /// The next time that it is read from the store, that panics.
    PanicAtActivation(SubscriptionId),
}

#[derive(Default)]
pub struct Plan {
    pub offers: Vec<Offer>,
    /// By time; the number keeps two at the same time apart.
    pub actions: BTreeMap<(Duration, usize), Action>,
    /// When the process is killed, and after how many turns of the runtime.
    pub kills: BTreeMap<Duration, u64>,
    /// All subscriptions are like this; drawn otherwise.
    pub settings: Option<Settings>,
}

const TYPES: [&str; 3] = ["order.created", "order.paid", "user.added"];
const PATTERNS: [&[&str]; 5] =
    [&[], &["order.*"], &["order.created", "user.added"], &["*"], &["order.*", "hookpost.*"]];
/// More than a subscription's actor holds in memory.
const BURST: u64 = 320;

impl Plan {
    pub fn draw(chance: &Chance, profile: &Profile) -> Self {
        let mut plan = Self::default();
        let any = || SubscriptionId(chance.between(1, profile.subscriptions).try_into().expect("small"));
        let span = u64::try_from(profile.faults.as_millis()).expect("not that long");
        let at = || Duration::from_millis(chance.below(span));
        for _ in 0..profile.offers {
            plan.offer(chance, at(), any());
        }
        if profile.bursts {
            let (at, to) = (at(), any());
            (0..BURST).for_each(|_| plan.offer(chance, at, to));
        }
        let some = |most| chance.below(most);
        for _ in 0..some(4) {
            plan.add(at(), Action::Settle(any()));
        }
        for _ in 0..some(4) {
            plan.add(at(), Action::Disable(any()));
            plan.add(at(), Action::Enable(any(), chance.percent(30)));
        }
        // What a receiver that was gone for a while would ask for.
        let mut again = Duration::from_millis(chance.below(20_000));
        while again < profile.faults {
            plan.add(again, Action::Enable(any(), chance.percent(3)));
            again += chance.ms(2_000, 20_000);
        }
        if chance.percent(25) {
            plan.add(at(), Action::Delete(any()));
        }
        if chance.percent(25) {
            plan.add(at(), Action::Create);
        }
        for _ in 0..some(10) {
            plan.add(at(), Action::Word(any()));
        }
        for _ in 0..profile.clock_steps {
            let most = if chance.percent(20) { 3_600_000 } else { 60_000 };
            let by = i64::try_from(chance.below(2 * most)).expect("small") - i64::try_from(most).expect("small");
            plan.add(at(), Action::Step(by));
        }
        if profile.store_fails_per_mille > 0 {
            for _ in 0..some(3) {
                plan.add(at(), Action::StoreAway(chance.skewed_ms(40_000)));
            }
        }
        for _ in 0..profile.crashes {
            match chance.below(10) {
                0..2 => plan.add(at(), Action::Stop),
                2 => plan.add(at(), Action::Fence),
                _ => plan.kill(chance, at()),
            }
        }
        plan
    }

    fn kill(&mut self, chance: &Chance, at: Duration) {
        self.kills.insert(at, chance.below(200));
        // The next one while it is still starting.
        if chance.percent(20) {
            self.kills.insert(at + chance.ms(1, 3000), chance.below(200));
        }
    }

    pub fn add(&mut self, at: Duration, action: Action) {
        self.actions.insert((at, self.actions.len()), action);
    }

    fn offer(&mut self, chance: &Chance, at: Duration, to: SubscriptionId) {
        let nth = self.offers.len();
        let padding = if chance.percent(5) { chance.below(60_000) } else { chance.below(40) };
        let padding = " ".repeat(usize::try_from(padding).expect("small"));
        let key = chance.percent(30).then(|| Arc::from(format!("key-{nth}")));
        let ordering_keys = [None, Some("a"), Some("b"), Some("c")];
        self.offers.push(Offer {
            to: if chance.percent(70) { To::One(to) } else { To::WhoeverWants },
            event_type: chance.pick::<&str>(&TYPES),
            ordering_key: chance.pick(&ordering_keys).map(Arc::from),
            body: Bytes::from(format!("{{\"offer\":{nth},\"is\":\"{padding}\"}}")),
            key: key.clone(),
        });
        self.add(at, Action::Send(nth));
        if key.is_some() {
            for _ in 0..chance.below(3) {
                self.add(at + chance.skewed_ms(20_000), Action::Send(nth));
            }
        }
    }
}

/// What a subscription is made of.
pub fn known(chance: &Chance, id: SubscriptionId, settings: Option<Settings>) -> (Known, Settings) {
    let settings = settings.unwrap_or_else(|| self::settings(chance));
    let known = Known {
        patterns: chance.pick(&PATTERNS).to_vec(),
        secrets: chance.percent(50).then(|| format!("made up for {id}")).into_iter().collect(),
        order: settings.order.unwrap_or_default(),
        rate: settings.rate_limit.map(RateLimit::rate),
        waits: settings.retry_schedule_s.as_ref().map_or(0, Vec::len),
        max_concurrency: settings.max_concurrency.unwrap_or(1) as usize,
    };
    (known, settings)
}

/// As it is created.
pub fn new(id: SubscriptionId, known: &Known, settings: Settings) -> NewSubscription {
    NewSubscription {
        id,
        target_url: address_of(id),
        event_types: known.event_types(),
        secrets: known.secrets(),
        tenant: "default".to_owned(),
        by: Actor::Hookpost,
        settings,
    }
}

impl Known {
    pub fn event_types(&self) -> Vec<EventTypePattern> {
        self.patterns.iter().map(|pattern| pattern.parse().expect("a pattern")).collect()
    }

    /// Not sealed: that is not what is simulated.
    pub fn secrets(&self) -> Option<Secrets> {
        let current = Some(Sealed::of(format!("plain:{}", self.secrets.last()?)));
        Some(Secrets { current, ..Secrets::default() })
    }
}

pub fn settings(chance: &Chance) -> Settings {
    let small = |most| u32::try_from(chance.between(1, most)).expect("small");
    let waits = (0..chance.between(1, 4)).map(|_| chance.between(0, 8)).collect();
    Settings {
        max_concurrency: Some(small(8)),
        latency_target_ms: None,
        rate_limit: chance
            .percent(30)
            .then(|| RateLimit { per_second: small(20) + 1, burst: chance.percent(50).then(|| small(5)) }),
        retry_schedule_s: Some(waits),
        attempt_timeout_ms: Some(chance.between(500, 3000)),
        order: Some(*chance.pick(&[Order::Unordered, Order::Unordered, Order::Fifo, Order::OrderingKey])),
        max_backlog: chance.percent(10).then(|| chance.between(3, 30)),
        disable_after_s: chance.percent(10).then(|| chance.between(10, 60)),
        breaker: Some(BreakerSettings { wait_ms: Some(chance.between(100, 3000)), ..BreakerSettings::default() }),
        ..Settings::default()
    }
}
