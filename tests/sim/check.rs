//! Everything that happened in a world, held against what is promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hookpost::delivery::invariants::{self as promise, Fate, Held};
use hookpost::delivery::{DeliveryId, Order, Outcome, SubscriptionId};

use crate::history::{Ended, History, Seen};
use crate::network::MAX_CONNECT;
use crate::sim::Sim;
use crate::store::faults::short;

type Attempt = (DeliveryId, u32);

/// At the end of a life.
pub fn life(sim: &Sim, ended: Ended) {
    let life = sim.life.load(Ordering::Relaxed);
    let held = cut(&sim.history(), life, &ended);
    sim.check(held);
    let mut history = sim.history();
    history.seen.iter_mut().for_each(|seen| seen.open = false);
    history.ended.push(ended);
    history.started.clear();
}

fn cut(history: &History, life: usize, ended: &Ended) -> Held {
    let logged = &history.logged[..ended.rows];
    let logged: BTreeSet<Attempt> = logged.iter().map(|row| (row.delivery_id, row.attempt_number)).collect();
    let mut cut: BTreeMap<SubscriptionId, BTreeSet<Attempt>> = BTreeMap::new();
    for seen in history.seen.iter().filter(|seen| seen.life == life) {
        if !logged.contains(&(seen.id, seen.number)) {
            let actor_crashed = seen.start < history.start_of(seen.by);
            promise::what_the_receiver_saw_is_logged(short(seen.id.0), seen.number, !ended.clean || actor_crashed)?;
            cut.entry(seen.by).or_default().insert((seen.id, seen.number));
        }
    }
    for (of, attempts) in cut {
        let window = history.known.get(&of).map_or(0, |known| known.max_concurrency);
        // Each crash of its actor may have cut as many.
        let crashes = history.start_of(of) + usize::from(history.crashing.contains(&of));
        let window = window * (1 + crashes);
        promise::a_crash_cuts_no_more_than_the_window(of, attempts.len(), window)?;
    }
    Ok(())
}

/// What still has to come to an end.
pub fn unfinished(sim: &Sim) -> Vec<String> {
    let tables = sim.disk.tables();
    let exists = |id: &SubscriptionId| tables.subscriptions.contains_key(id);
    let untried = tables.untried.iter().filter(|(id, _)| exists(id)).map(|(_, delivery)| *delivery);
    let retries = tables.retries.values().filter(|retry| exists(&retry.subscription_id));
    untried.chain(retries.map(|retry| retry.delivery_id)).map(|id| short(id.0)).collect()
}

/// At the end of the world.
pub fn all(sim: &Arc<Sim>) {
    let held = fates(sim).and_then(|()| {
        let history = sim.history();
        log_and_receivers(&history)?;
        if sim.profile.changes_rules { Ok(()) } else { lanes(&history).and_then(|()| rates(&history)) }
    });
    sim.check(held);
}

fn fates(sim: &Sim) -> Held {
    let (history, tables) = (sim.history(), sim.disk.tables());
    let received: BTreeSet<_> = history.seen.iter().filter(|seen| succeeded(seen)).map(|seen| seen.id).collect();
    let mut outcomes: BTreeMap<DeliveryId, BTreeSet<&str>> = BTreeMap::new();
    for row in &history.logged {
        outcomes.entry(row.delivery_id).or_default().insert(row.outcome.as_str());
    }
    let mut deleted: BTreeMap<DeliveryId, bool> = BTreeMap::new();
    for id in history.accepted.keys() {
        let record = tables.delivery(*id);
        deleted.insert(*id, record.is_some_and(|record| !record.subscription_exists));
    }
    for id in history.accepted.keys() {
        let has = |outcome: Outcome| outcomes.get(id).is_some_and(|found| found.contains(outcome.as_str()));
        let fate = if has(Outcome::Success) && received.contains(id) {
            Fate::Received
        } else if has(Outcome::Failure) {
            Fate::FailedVisibly
        } else if deleted[id] {
            Fate::Cancelled
        } else if tables.is_open(*id) {
            Fate::Open
        } else if sim.forgets_deliveries() && tables.delivery(*id).is_none() {
            // Of a deleted subscription, and pruned.
            Fate::Cancelled
        } else {
            Fate::Unknown
        };
        promise::nothing_accepted_is_lost(*id, fate)?;
    }
    Ok(())
}

fn succeeded(seen: &Seen) -> bool {
    seen.answered && seen.status.is_some_and(|status| (200..300).contains(&status))
}

fn log_and_receivers(history: &History) -> Held {
    let mut rows: BTreeMap<(Attempt, u16), usize> = BTreeMap::new();
    for row in &history.logged {
        if let Some(status) = row.http_status {
            *rows.entry(((row.delivery_id, row.attempt_number), status)).or_default() += 1;
        }
    }
    let mut answers: BTreeMap<(Attempt, u16), usize> = BTreeMap::new();
    for seen in &history.seen {
        if let Some(status) = seen.status {
            *answers.entry(((seen.id, seen.number), status)).or_default() += 1;
        }
    }
    for ((attempt, status), rows) in rows {
        let answers = answers.get(&(attempt, status)).copied().unwrap_or_default();
        promise::the_log_says_what_the_receiver_saw(short(attempt.0.0), attempt.1, rows, answers)?;
    }
    Ok(())
}

/// Both by what came and by what succeeded.
fn lanes(history: &History) -> Held {
    for only_successes in [false, true] {
        let mut last: BTreeMap<(SubscriptionId, Option<Arc<str>>), DeliveryId> = BTreeMap::new();
        let mut first_time = BTreeSet::new();
        for seen in history.seen.iter().filter(|seen| !only_successes || succeeded(seen)) {
            let Some(lane) = lane_of(history, seen) else { continue };
            if first_time.insert(seen.id) {
                let before = last.insert(lane, seen.id);
                promise::a_lane_keeps_its_order(before, seen.id)?;
            }
        }
    }
    Ok(())
}

fn lane_of(history: &History, seen: &Seen) -> Option<(SubscriptionId, Option<Arc<str>>)> {
    let key = match history.known.get(&seen.by)?.order {
        Order::Unordered => return None,
        Order::Fifo => None,
        Order::OrderingKey => {
            let body = history.bodies.get(&seen.id)?;
            Some(crate::receipt::offer(history, body)?.ordering_key.clone()?)
        }
    };
    Some((seen.by, key))
}

/// By life of the process and of the actor, because each begins with a token of its own.
fn rates(history: &History) -> Held {
    let second = Duration::from_secs(1);
    for (id, known) in &history.known {
        let Some(rate) = known.rate else { continue };
        let mut by_life: BTreeMap<(usize, usize), Vec<_>> = BTreeMap::new();
        for seen in history.seen.iter().filter(|seen| seen.by == *id) {
            by_life.entry((seen.life, seen.start)).or_default().push(seen.at);
        }
        for starts in by_life.into_values() {
            // What came within a second may have started within a little more.
            let allowed = hookpost::delivery::Rate { burst: rate.burst + extra(rate.per_second), ..rate };
            promise::the_rate_is_kept(*id, &starts, allowed, second)?;
        }
    }
    Ok(())
}

fn extra(per_second: u32) -> u32 {
    let connect_ms = u32::try_from(MAX_CONNECT.as_millis()).unwrap_or(u32::MAX);
    (per_second * connect_ms).div_ceil(1000)
}
