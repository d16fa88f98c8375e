//! Crash loops: while a producer goes on, the service, PostgreSQL and Redis are killed at instants drawn from a seed.

use std::time::{Duration, Instant};

use crate::ledger::node::Node;
use crate::ledger::producer::Producer;
use crate::ledger::verdict::Verdict;
use crate::settings::{self, ROUND, SHORT};
use crate::stage::{Backend, Stage, on_both_stores};

/// The latest instant of a kill, after the service listens.
const LONGEST_LIFE: Duration = Duration::from_millis(400);
/// One life in a dozen is longer than the service waits until it writes down how far it is.
const LONG_LIFE: Duration = Duration::from_secs(5);
/// The latest instant of a kill after the process was started: it migrates, takes over, recovers, or has just listened.
const LONGEST_START: Duration = Duration::from_millis(120);
/// How long a server stays away, at most.
const LONGEST_OUTAGE: Duration = Duration::from_millis(300);
/// From PostgreSQL being up again to the next event that is accepted.
const ACCEPTING_AGAIN: Duration = Duration::from_secs(5);

/// Faults among which some must have hit an attempt between its sending and its commit, or these are not the instants that
/// are meant.
const MANY: usize = 100;

on_both_stores!(killed_again_and_again_it_loses_nothing_and_repeats_no_more_than_was_under_way);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the service while it works.
    Kill,
    /// SIGKILL, and once more while it starts again.
    KillInStart,
    /// SIGKILL to the postmaster.
    KillPostgres,
    /// PostgreSQL stopped without a checkpoint.
    StopPostgres,
    /// One of the service's sessions ended, whichever.
    EndSession,
    /// The session ended that holds the right to commit.
    EndOwner,
    /// SIGKILL to the postmaster and to the service.
    KillBoth,
    /// Redis killed, and back empty.
    KillRedis,
}

use Fault::{EndOwner, EndSession, Kill, KillBoth, KillInStart, KillPostgres, KillRedis, StopPostgres};

/// Of each dozen, in an order that is drawn.
const ON_SQLITE: [Fault; SHORT] =
    [Kill, Kill, Kill, Kill, Kill, Kill, Kill, Kill, KillInStart, KillInStart, KillInStart, KillInStart];
const ON_POSTGRES: [Fault; SHORT] = [
    Kill,
    Kill,
    Kill,
    Kill,
    KillInStart,
    KillInStart,
    KillPostgres,
    StopPostgres,
    EndSession,
    EndOwner,
    KillBoth,
    KillRedis,
];
/// What leaves the service alone.
const OF_THE_STORE: [Fault; 6] = [KillPostgres, StopPostgres, EndSession, EndOwner, KillRedis, KillPostgres];

async fn killed_again_and_again_it_loses_nothing_and_repeats_no_more_than_was_under_way(backend: Backend) {
    let all = settings::kills();
    let mut duplicates = 0;
    for round in 0..all.div_ceil(ROUND) {
        let kills = ROUND.min(all - round * ROUND);
        let mut stage = Stage::new(backend, settings::seed(round)).await;
        // Every other round as fast as the producer can: commits are full, and all three fall behind.
        stage.floods = stage.seed % 2 == 1;
        let began = Instant::now();
        let verdict = crash_loop(&mut stage, kills).await;
        println!("{backend:?}, round {round}, {kills} faults in {:.0?}: {verdict}", began.elapsed());
        verdict.assert_clean();
        duplicates += verdict.duplicates;
        assert!(verdict.accepted > kills && verdict.kills > 0, "it worked in between: {verdict}");
    }
    assert!(all < MANY || duplicates > 0, "{all} faults, and none hit an attempt between its sending and its commit");
}

/// PostgreSQL and Redis only: the service lives, remembers what was under way, and repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_servers_are_killed_a_living_service_loses_and_repeats_nothing() {
    let mut stage = Stage::new(Backend::Postgres, settings::seed(0)).await;
    let mut node = stage.open().await;
    let producer = stage.produce();
    let mut accepting = Vec::new();
    for fault in shuffled(&mut stage, &OF_THE_STORE) {
        let lived = stage.up_to(LONGEST_LIFE);
        node.run_for(lived).await;
        node = strike(&mut stage, fault, node, &producer, &mut accepting).await;
    }
    producer.stop().await;
    let verdict = stage.settle(&stage.api).await;
    println!("servers killed: {verdict}; accepting again after {accepting:.1?}");
    assert_eq!(verdict.kills, 0);
    verdict.assert_clean();
}

/// The scenario. Ends with a verdict, once the receiver is good and all is quiet.
pub async fn crash_loop(stage: &mut Stage, kills: usize) -> Verdict {
    let mut node = stage.open().await;
    let producer = stage.produce();
    let mut accepting = Vec::new();
    let mut faults = Vec::new();
    while faults.len() < kills {
        let dozen = if stage.backend == Backend::Sqlite { &ON_SQLITE } else { &ON_POSTGRES };
        faults.extend(shuffled(stage, dozen));
    }
    for (n, fault) in faults.into_iter().take(kills).enumerate() {
        let lived = stage.up_to(LONGEST_LIFE);
        node.run_for(if n % SHORT == SHORT / 2 { LONG_LIFE + lived } else { lived }).await;
        node = strike(stage, fault, node, &producer, &mut accepting).await;
    }
    producer.more_ok(1, ACCEPTING_AGAIN).await;
    producer.stop().await;
    let verdict = stage.settle(&stage.api).await;
    report(stage, &accepting);
    verdict
}

async fn strike(
    stage: &mut Stage,
    fault: Fault,
    node: Node,
    producer: &Producer,
    accepting: &mut Vec<Duration>,
) -> Node {
    let away = stage.up_to(LONGEST_OUTAGE);
    match fault {
        Kill => {
            stage.kill(node).await;
            stage.start().await
        }
        KillInStart => {
            stage.kill(node).await;
            let mut young = stage.program.spawn();
            let lived = stage.up_to(LONGEST_START);
            young.run_for(lived).await;
            stage.kill(young).await;
            stage.start().await
        }
        KillPostgres | StopPostgres => {
            if fault == KillPostgres {
                stage.cluster().kill().await
            } else {
                stage.cluster().stop_immediate().await
            }
            let mut node = node;
            node.run_for(away).await;
            stage.cluster().start().await;
            let up = Instant::now();
            producer.more_ok(1, ACCEPTING_AGAIN).await;
            accepting.push(up.elapsed());
            node
        }
        KillBoth => {
            stage.cluster().kill().await;
            stage.kill(node).await;
            stage.cluster().start().await;
            stage.start().await
        }
        EndSession => {
            stage.cluster().end_session().await;
            node
        }
        EndOwner => {
            assert!(stage.cluster().end_owner().await, "a running service has the right to commit");
            producer.more_ok(1, ACCEPTING_AGAIN).await;
            node
        }
        KillRedis => {
            stage.cache().kill();
            let mut node = node;
            node.run_for(away).await;
            stage.cache().restart();
            node
        }
    }
}

fn shuffled(stage: &mut Stage, faults: &[Fault]) -> Vec<Fault> {
    let mut faults = faults.to_vec();
    for at in (1..faults.len()).rev() {
        let other = usize::try_from(stage.chance.below(at as u64 + 1)).expect("an index");
        faults.swap(at, other);
    }
    faults
}

fn report(stage: &Stage, accepting: &[Duration]) {
    let mut first = stage.first_deliveries();
    first.sort_unstable();
    let (middle, last) = (first.get(first.len() / 2), first.last());
    println!("{:?}: first delivery after a start: median {middle:.0?}, longest {last:.0?}", stage.backend);
    if let Some(longest) = accepting.iter().max() {
        println!("{:?}: accepting again after PostgreSQL was up: longest {longest:.0?}", stage.backend);
    }
}
