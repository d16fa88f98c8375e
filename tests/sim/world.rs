//! One seed, one world: lives of the engine, one after the other, over what is stored, until faults stop and everything has
//! come to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookpost::actors::{Engine, Parts, Running};
use hookpost::clock::{Clock, Simulation};
use hookpost::delivery::invariants::{Broken, everything_settles};
use hookpost::delivery::{Defaults, Timestamp};
use hookpost::metrics::Metrics;
use hookpost::outbound::client::AttemptClient;
use hookpost::outbound::guard::TargetPolicy;
use hookpost::store::{Store, StoreError};
use hookpost::vault::Vault;

use crate::act::Acting;
use crate::cache::SimCache;
use crate::check;
use crate::history::Ended;
use crate::network::Network;
use crate::panics;
use crate::plan::{self, Action, Plan};
use crate::sim::{Sabotage, Sim};
use crate::store::SimStore;
use crate::store::faults::Faults;

/// How long what is left may take once nothing goes wrong any more, steps of the clock aside: several times what the slowest
/// subscription needs for the largest backlog.
const SETTLE: Duration = Duration::from_secs(15 * 60);
/// More lives than any world has.
const MAX_LIVES: usize = 200;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a process waits before it asks its store again.
const START_RETRY: Duration = Duration::from_millis(500);

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Killed,
    /// It says itself that it can go on no more.
    Lost,
    Stopped,
    Settled,
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "the process is killed",
            Self::Lost => "the process has lost its store",
            Self::Stopped => "the process is stopped",
            Self::Settled => "the world settles",
        }
    }
}

/// What became of a world.
pub struct Outcome {
    pub broken: Option<Broken>,
    pub fingerprint: (u64, u64),
    pub end: String,
    pub requests: usize,
    pub lives: usize,
    /// What has happened, and how often.
    pub tally: BTreeMap<&'static str, u64>,
}

struct World {
    sim: Arc<Sim>,
    plan: Plan,
    /// By how much the wall clock differs from the world's time.
    stepped_ms: i64,
    /// By how much it was stepped in all, forth and back.
    steps: Duration,
    has_settled: bool,
}

pub fn run(seed: u64, sabotage: Option<Sabotage>, aloud: bool) -> Outcome {
    let sim = Sim::new(seed, sabotage, aloud);
    let plan = Plan::draw(&sim.chance, &sim.profile);
    sim.say(format_args!("seed {seed}: {:?}", sim.profile));
    run_planned(&sim, plan)
}

/// What is drawn in `run` is given here.
pub fn run_planned(sim: &Arc<Sim>, plan: Plan) -> Outcome {
    panics::forget();
    let mut world = World { sim: sim.clone(), plan, stepped_ms: 0, steps: Duration::ZERO, has_settled: false };
    world.populate();
    for _ in 0..MAX_LIVES {
        let ending = world.live();
        // What has settled is started once more: it has nothing to do.
        if sim.is_broken() || (ending == Ending::Settled && std::mem::replace(&mut world.has_settled, true)) {
            break;
        }
    }
    if !sim.is_broken() {
        check::all(sim);
    }
    if let Some(found) = panics::take() {
        sim.check(Err(Broken { invariant: "nothing_panics", found }));
    }
    let (history, trace) = (sim.history(), sim.trace());
    Outcome {
        broken: history.broken.clone(),
        fingerprint: trace.fingerprint(),
        end: trace.end(),
        requests: history.seen.len(),
        lives: history.ended.len(),
        tally: history.tally.clone(),
    }
}

impl World {
    fn populate(&self) {
        let (sim, profile) = (&self.sim, &self.sim.profile);
        sim.history().offers.clone_from(&self.plan.offers);
        for _ in 0..profile.subscriptions {
            let mut tables = sim.disk.tables();
            let id = tables.reserve_subscription_id();
            let (known, settings) = plan::known(&sim.chance, id, self.plan.settings.clone());
            sim.say(format_args!("subscription {id}: {known:?} {settings:?}"));
            let new = plan::new(id, &known, settings);
            tables.create_subscription(new, u64::MAX, sim.timestamp());
            sim.history().known.insert(id, known);
        }
    }

    /// One process, from its start to its end. A crash drops the runtime with everything in it, wherever it stands.
    fn live(&mut self) -> Ending {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let sim = self.sim.clone();
        let ending = runtime.block_on(async {
            sim.begin();
            self.contend();
            let kill = self.plan.kills.first_key_value().map(|(at, turns)| (*at, *turns));
            let ending = tokio::select! {
                biased;
                () = sim.crash.notified() => Ending::Killed,
                () = killed(&sim, kill) => Ending::Killed,
                ending = self.lead() => ending,
            };
            sim.say(format_args!("ends: {ending:?}"));
            sim.count(ending.name());
            // Here, where time is the runtime's.
            sim.end(sim.chance.skewed_ms(4000));
            ending
        });
        drop(runtime);
        let now = sim.now();
        self.plan.kills.retain(|at, _| *at > now);
        let clean = ending == Ending::Settled;
        let rows = sim.history().logged.len();
        check::life(&sim, Ended { rows, clean });
        self.sim.disk.end_process(|| sim.chance.percent(50), &Faults::of(sim.clone()));
        sim.go_on();
        ending
    }

    /// Another process may still have the store for a while.
    fn contend(&self) {
        let sim = self.sim.clone();
        if sim.faulty() && sim.chance.percent(15) {
            sim.disk.take_by_another();
            sim.count("the process waits on standby");
            tokio::spawn(async move {
                sim.pass(sim.chance.skewed_ms(10_000)).await;
                sim.disk.release();
            });
        }
    }

    async fn lead(&mut self) -> Ending {
        let sim = self.sim.clone();
        let store: Arc<dyn Store> = Arc::new(SimStore::open(sim.disk.clone(), Faults::of(sim.clone())));
        let cache = Arc::new(SimCache::new(sim.clone()));
        let engine = Engine::standby(store.clone(), cache.clone());
        let simulation: &'static Simulation =
            Box::leak(Box::new(Simulation { seed: sim.chance.next(), ..Simulation::default() }));
        let clock = Clock::simulated(Timestamp(sim.timestamp().0 + self.stepped_ms), simulation);
        let running = self.take_over(&engine, &store, &cache, clock).await;
        sim.say("delivers");
        let acting =
            Acting { sim: sim.clone(), engine: engine.clone(), store: store.clone(), cache, clock, simulation };
        loop {
            let next =
                self.plan.actions.first_key_value().map(|((at, _), _)| *at).filter(|at| *at < sim.profile.faults);
            let at = next.unwrap_or(sim.profile.faults);
            tokio::select! {
                biased;
                why = engine.lost() => {
                    sim.say(format_args!("is lost: {why}"));
                    return Ending::Lost;
                }
                () = sim.pass(at.saturating_sub(sim.now())) => {}
            }
            if next.is_none() {
                break;
            }
            match self.plan.actions.pop_first() {
                Some((_, Action::Stop)) => {
                    sim.say("stops");
                    self.stop(&engine, running, &store).await;
                    return Ending::Stopped;
                }
                Some((_, Action::Step(by))) => {
                    self.stepped_ms += by;
                    self.steps += Duration::from_millis(by.unsigned_abs());
                    acting.step_clock(by);
                }
                Some((_, action)) => acting.act(action),
                None => {}
            }
        }
        sim.say("no more faults");
        sim.stop_faults();
        tokio::select! {
            biased;
            why = engine.lost() => {
                sim.say(format_args!("is lost: {why}"));
                return Ending::Lost;
            }
            () = self.settle(&acting) => {}
        }
        self.stop(&engine, running, &store).await;
        Ending::Settled
    }

    /// As `service.rs` does it; what ends the process there is another try here.
    async fn take_over(&self, engine: &Engine, store: &Arc<dyn Store>, cache: &Arc<SimCache>, clock: Clock) -> Running {
        let sim = &self.sim;
        loop {
            match self.recover(engine, store, cache, clock).await {
                Ok(Some(running)) => return running,
                Ok(None) => {}
                Err(error) => sim.say(format_args!("does not start: {error}")),
            }
            sim.pass(START_RETRY).await;
        }
    }

    async fn recover(
        &self,
        engine: &Engine,
        store: &Arc<dyn Store>,
        cache: &Arc<SimCache>,
        clock: Clock,
    ) -> Result<Option<Running>, StoreError> {
        if !store.acquire().await? {
            return Ok(None);
        }
        let recovery = store.recovery().await?;
        let policy = Arc::new(TargetPolicy::new(vec!["10.0.0.0/8".parse().expect("a range")]));
        let parts = Parts {
            store: store.clone(),
            cache: cache.clone(),
            client: AttemptClient::simulated(policy, ATTEMPT_TIMEOUT, Arc::new(Network(self.sim.clone()))),
            clock,
            vault: Arc::new(Vault::new(Vec::new(), true)),
            metrics: Arc::new(Metrics::default()),
            defaults: Defaults {
                schedule: "1s,2s".parse().expect("a schedule"),
                attempt_timeout: ATTEMPT_TIMEOUT,
                retention: self.sim.profile.retention,
            },
        };
        Ok(Some(engine.take_over(parts, recovery).await.expect("the supervisor starts")))
    }

    async fn stop(&self, engine: &Engine, running: Running, store: &Arc<dyn Store>) {
        engine.drain(running, ATTEMPT_TIMEOUT + Duration::from_millis(500)).await;
        store.close().await;
    }

    async fn settle(&self, acting: &Acting) {
        let sim = &self.sim;
        let until = sim.now() + SETTLE + self.steps;
        let mut quiet = 0;
        while quiet < 3 {
            acting.enable_all().await;
            sim.pass(Duration::from_secs(1)).await;
            let left = check::unfinished(sim);
            quiet = if left.is_empty() { quiet + 1 } else { 0 };
            if sim.now() > until {
                sim.check(everything_settles(&left));
                return;
            }
        }
    }
}

/// Resolves when the process is to be killed: between any two turns of its tasks.
async fn killed(sim: &Sim, kill: Option<(Duration, u64)>) {
    let Some((at, turns)) = kill else { return std::future::pending().await };
    sim.pass(at.saturating_sub(sim.now())).await;
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}
