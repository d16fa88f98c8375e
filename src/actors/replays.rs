//! Replays at work: each goes on in steps, a step at a time, and all of them take turns.
//!
//! A step finds what matches from where the replay is, and submits copies of it in one commit with how far it has come. So a
//! stop or a crash at any point skips nothing and repeats nothing; a step whose answer was lost is made again from where the
//! store says that the replay is, and is refused if it had taken effect. A replay whose subscription has no room, or is
//! disabled, waits and holds nothing meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::AcceptError;
use super::engine::{start_actor, write};
use super::entry::Entry;
use super::node::Node;
use super::supervisor;
use crate::delivery::{Delivery, DeliveryId};
use crate::store::search::{Found, find};
use crate::store::writer::{Claim, Resend, What};
use crate::store::{Progress, Replay, ReplayId, ReplayState, Search, StoreError};

/// Most steps under way at once: few, so that they take little of what accepting and delivering need.
const MAX_STEPS: usize = 4;
/// Most deliveries of one step, and most payload: a commit that nobody else's waits long for.
const MAX_BATCH: usize = 100;
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// How often replays are looked for that nobody has told of: asked for at another process, or before a crash.
const PERIOD: Duration = Duration::from_secs(1);
/// Replays that are read at once.
const PAGE: usize = 1_000;
/// Bounds between tries of a replay that cannot go on.
const WAIT: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(2);

/// A replay whose steps the store has refused so often in a row has failed: the next would be refused as well.
const MAX_REFUSALS: u32 = 10;

/// What comes after a step.
enum Next {
    Now,
    /// It cannot go on yet.
    Later,
    /// The store has refused what the step made. That may be because an earlier one took effect unheard.
    Refused,
    Ended,
}

/// A replay that runs.
struct Job {
    next_at: Instant,
    wait: Duration,
    refusals: u32,
    under_way: bool,
}

impl Job {
    fn new() -> Self {
        Self { next_at: Instant::now(), wait: WAIT.start, refusals: 0, under_way: false }
    }

    fn after(&mut self, next: &Next) {
        let wait = if matches!(next, Next::Now) { Duration::ZERO } else { self.wait };
        self.wait = if wait.is_zero() { WAIT.start } else { (wait * 2).min(WAIT.end) };
        match next {
            Next::Now => self.refusals = 0,
            Next::Refused => self.refusals += 1,
            Next::Later | Next::Ended => {}
        }
        (self.next_at, self.under_way) = (Instant::now() + wait, false);
    }
}

/// Takes replays on until it is aborted.
pub(super) async fn run(node: Arc<Node>, supervisor: ActorRef<supervisor::Message>) {
    let mut jobs: BTreeMap<ReplayId, Job> = BTreeMap::new();
    let mut steps = JoinSet::new();
    let mut names: HashMap<Id, ReplayId> = HashMap::new();
    let mut look_at = Instant::now();
    loop {
        if look_at <= Instant::now() {
            if let Err(error) = learn(&node, &mut jobs).await {
                tracing::debug!(%error, "replays could not be looked for; trying again");
            }
            look_at = Instant::now() + PERIOD;
        }
        let may_start = |steps: &JoinSet<_>| steps.len() < MAX_STEPS && !node.is_draining();
        while let Some(id) = next_due(&jobs).filter(|_| may_start(&steps)) {
            let (node, supervisor) = (node.clone(), supervisor.clone());
            let Some(job) = jobs.get_mut(&id) else { continue };
            job.under_way = true;
            let refusals = job.refusals;
            let handle = steps.spawn(async move { step_logged(&node, &supervisor, id, refusals).await });
            names.insert(handle.id(), id);
        }
        // What is due and may not start must not wake this again and again.
        let may_start = may_start(&steps);
        let waiting = jobs.values().filter(|job| !job.under_way && may_start);
        let wake_at = waiting.map(|job| job.next_at).chain([look_at]).min().unwrap_or(look_at);
        tokio::select! {
            Some(ended) = steps.join_next_with_id() => {
                let (task, next) = match ended {
                    Ok(done) => done,
                    // A panic is in the log already; it must not end the others.
                    Err(error) => (error.id(), Next::Later),
                };
                let Some(id) = names.remove(&task) else { continue };
                match next {
                    Next::Ended => drop(jobs.remove(&id)),
                    next => drop(jobs.entry(id).and_modify(|job| job.after(&next))),
                }
            }
            () = sleep_until(wake_at) => {}
            () = node.replay_asked.notified() => look_at = Instant::now(),
        }
    }
}

/// Takes up those that run and are not known.
async fn learn(node: &Node, jobs: &mut BTreeMap<ReplayId, Job>) -> Result<(), StoreError> {
    let mut after = ReplayId(0);
    loop {
        let page = node.parts.store.running_replays(after, PAGE).await?;
        for id in &page {
            jobs.entry(*id).or_insert_with(Job::new);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = *last,
            _ => return Ok(()),
        }
    }
}

/// The one that has waited longest for its turn.
fn next_due(jobs: &BTreeMap<ReplayId, Job>) -> Option<ReplayId> {
    let now = Instant::now();
    let due = jobs.iter().filter(|(_, job)| !job.under_way && job.next_at <= now);
    due.min_by_key(|(_, job)| job.next_at).map(|(id, _)| *id)
}

async fn step_logged(
    node: &Arc<Node>,
    supervisor: &ActorRef<supervisor::Message>,
    id: ReplayId,
    refusals: u32,
) -> Next {
    let done = if refusals < MAX_REFUSALS {
        step(node, supervisor, id).await
    } else {
        end(node, id, ReplayState::Failed, Some("the store refuses its deliveries; the service's log says why")).await
    };
    done.unwrap_or_else(|error| {
        tracing::debug!(replay_id = %id, %error, "a replay could not go on; trying again");
        if matches!(error, AcceptError::Rejected(_)) { Next::Refused } else { Next::Later }
    })
}

async fn step(node: &Arc<Node>, supervisor: &ActorRef<supervisor::Message>, id: ReplayId) -> Result<Next, AcceptError> {
    let store = &node.parts.store;
    let running = store.replay(id).await?.filter(|replay| replay.state == ReplayState::Running);
    let Some(replay) = running else { return Ok(Next::Ended) };
    if replay.position > replay.last {
        return end(node, id, ReplayState::Done, None).await;
    }
    let entry = match node.entry(replay.subscription_id) {
        Some(entry) => entry,
        None => match start_actor(supervisor, replay.subscription_id).await {
            Ok(entry) => entry,
            Err(AcceptError::NotFound(_)) => {
                return end(node, id, ReplayState::Cancelled, Some("the subscription was deleted")).await;
            }
            Err(error) => return Err(error),
        },
    };
    let room = entry.room_for_replay().min(MAX_BATCH);
    if room == 0 || entry.config().subscription.disabled.is_some() {
        return Ok(Next::Later);
    }
    let found = find(&**store, &search(&replay), room).await?;
    if !found.deliveries.is_empty() {
        return repeat(node, &entry, &replay, found).await;
    }
    let to = found.reached.map_or(replay.last.successor(), DeliveryId::successor);
    store.advance_replay(&progress(&replay, to, 0, 0)).await?;
    Ok(Next::Now)
}

fn search(replay: &Replay) -> Search {
    Search {
        tenant: None,
        subscription_id: Some(replay.subscription_id),
        event_type: None,
        states: replay.states.clone(),
        // What was sent again already is sent again with its first, if that is in the range.
        firsts_only: true,
        first: replay.position,
        last: replay.last,
        oldest_first: true,
    }
}

fn progress(replay: &Replay, to: DeliveryId, matched: usize, resent: usize) -> Progress {
    let (matched, resent) = (matched as u64, resent as u64);
    Progress { id: replay.id, from: replay.position, to, matched, resent, with: None }
}

/// Submits copies of what was found, as many as fit into one commit.
async fn repeat(node: &Arc<Node>, entry: &Arc<Entry>, replay: &Replay, found: Found) -> Result<Next, AcceptError> {
    let ids: Vec<_> = found.deliveries.iter().map(|delivery| delivery.id).collect();
    let stored = node.parts.store.deliveries(&ids, MAX_BATCH_BYTES).await?;
    let whole = stored.last().map(|delivery| delivery.id) == ids.last().copied();
    let to = match (stored.last(), found.reached) {
        // Those behind the last may have been left out for their size.
        (Some(last), _) if !whole => last.id.successor(),
        (_, Some(reached)) => reached.successor(),
        (_, None) => replay.last.successor(),
    };
    let matched = ids.iter().filter(|id| **id < to).count();
    if stored.is_empty() {
        node.parts.store.advance_replay(&progress(replay, to, matched, 0)).await?;
        return Ok(Next::Now);
    }
    let progress = Some(progress(replay, to, matched, stored.len()));
    let resend = |delivery: Delivery| {
        let Delivery { id, event_type, ordering_key, payload, trace, .. } = delivery;
        Some(Resend { of: id, event_type, ordering_key, payload: entry.account.admit(payload)?, trace })
    };
    let Some(resends) = stored.into_iter().map(resend).collect() else { return Ok(Next::Later) };
    if entry.claim().is_err() {
        return Ok(Next::Later);
    }
    let what = What::Resends { subscription_id: replay.subscription_id, resends, deed: None, progress };
    write(node, Claim::on(entry.clone()), what, None).await?;
    Ok(Next::Now)
}

async fn end(node: &Node, id: ReplayId, state: ReplayState, detail: Option<&str>) -> Result<Next, AcceptError> {
    node.parts.store.end_replay(id, state, detail, None, node.parts.clock.wall()).await?;
    tracing::info!(replay_id = %id, state = state.as_str(), "a replay has ended");
    Ok(Next::Ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_go_on_lets_the_others_have_their_turns_and_asks_ever_less_often() {
        let mut jobs = BTreeMap::from([1, 2].map(|id| (ReplayId(id), Job::new())));
        let blocked = jobs.get_mut(&ReplayId(1)).unwrap();
        let mut waits = Vec::new();
        for _ in 0..10 {
            blocked.after(&Next::Later);
            waits.push(blocked.next_at - Instant::now());
        }
        assert_eq!((waits[0], waits[1], waits[9]), (WAIT.start, WAIT.start * 2, WAIT.end));
        assert_eq!(next_due(&jobs), Some(ReplayId(2)));
        jobs.get_mut(&ReplayId(2)).unwrap().under_way = true;
        assert_eq!(next_due(&jobs), None, "a step at a time");
        tokio::time::advance(WAIT.end).await;
        assert_eq!(next_due(&jobs), Some(ReplayId(1)));
        let blocked = jobs.get_mut(&ReplayId(1)).unwrap();
        blocked.after(&Next::Now);
        blocked.after(&Next::Later);
        assert_eq!(blocked.next_at - Instant::now(), WAIT.start, "what went on waits as little as at first");
        for refusals in 1..=3 {
            blocked.after(&Next::Refused);
            blocked.after(&Next::Later);
            assert_eq!(blocked.refusals, refusals, "a wait in between does not make it good");
        }
        blocked.after(&Next::Now);
        assert_eq!(blocked.refusals, 0);
    }
}
