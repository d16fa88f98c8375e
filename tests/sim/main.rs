//! The whole engine over a store in memory and a network of pipes, in paused time, with faults that are drawn from a seed and
//! then stop. `make sim` runs more worlds than `make test` does; `make sim SEED=17` runs one, and shows all of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod act;
mod backend;
mod cache;
mod cases;
mod chance;
mod check;
mod conformance;
#[path = "../store/fixtures.rs"]
mod fixtures;
mod history;
mod network;
mod panics;
mod plan;
mod profile;
mod receipt;
mod replay;
mod sabotage;
mod sim;
mod store;
mod suite;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::Outcome;

/// Worlds of `make test`.
const SEEDS: u64 = 300;
/// Worlds between two lines of progress.
const PROGRESS: u64 = 1000;

/// What has to happen somewhere: worlds in which nothing goes wrong prove nothing.
const HAPPENS: [&str; 19] = [
    "the process is killed",
    "the process has lost its store",
    "the process is stopped",
    "the process waits on standby",
    "after the store took effect",
    "after a receiver saw a request",
    "after a receiver answered",
    "a call of the store fails",
    "the reply to a commit is lost",
    "an actor crashes",
    "an answer is ambiguous",
    "an offer is refused",
    "a subscription is disabled by its receiver",
    "a delivery outlives its retention",
    "a commit takes effect late",
    "a position is saved",
    "a position is given up",
    "the watermark moves",
    "an actor starts again",
];

#[expect(clippy::disallowed_methods, reason = "`make sim` says here how many worlds, or which")]
fn asked(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, and is {value:?}")))
}

fn report(seed: u64, outcome: &Outcome) -> Option<String> {
    let broken = outcome.broken.as_ref()?;
    Some(format!(
        "{}\nseed {seed}: {} is broken: {}\nmake sim SEED={seed} runs it again, and shows all of it",
        outcome.end, broken.invariant, broken.found
    ))
}

#[test]
fn every_world_keeps_every_promise() {
    if let Some(seed) = asked("SEED") {
        let outcome = world::run(seed, None, true);
        assert!(outcome.broken.is_none(), "{}", report(seed, &outcome).unwrap());
        return;
    }
    let (first, count) = (asked("FROM").unwrap_or(1), asked("SEEDS").unwrap_or(SEEDS));
    let (next, requests) = (AtomicU64::new(first), AtomicU64::new(0));
    let tally = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = std::thread::scope(|scope| {
        let run = || -> Option<String> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return None;
                }
                let outcome = world::run(seed, None, false);
                requests.fetch_add(outcome.requests as u64, Ordering::Relaxed);
                for (what, count) in &outcome.tally {
                    *tally.lock().unwrap().entry(*what).or_insert(0) += count;
                }
                if let Some(report) = report(seed, &outcome) {
                    next.store(first + count, Ordering::Relaxed);
                    return Some(report);
                }
                if (seed + 1 - first).is_multiple_of(PROGRESS) {
                    println!("{} worlds, {} requests", seed + 1 - first, requests.load(Ordering::Relaxed));
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let tally = tally.into_inner().unwrap();
    println!("{count} worlds, {} requests, {tally:#?}", requests.load(Ordering::Relaxed));
    if count >= SEEDS {
        let missing: Vec<_> = HAPPENS.iter().filter(|what| !tally.contains_key(*what)).collect();
        assert!(missing.is_empty(), "{count} worlds, and these never happen: {missing:?}");
    }
}
