//! The whole engine over a store in memory and a network of pipes, in paused time, with faults that are drawn from a seed and
//! then stop. `make sim` runs more worlds than `make test` does; `make sim SEED=17` runs one, and shows all of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod act;
mod backend;
mod cache;
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

use std::sync::atomic::{AtomicU64, Ordering};

use world::Outcome;

/// Worlds of `make test`.
const SEEDS: u64 = 300;
/// Worlds between two lines of progress.
const PROGRESS: u64 = 1000;

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
    println!("{count} worlds, {} requests", requests.load(Ordering::Relaxed));
}
