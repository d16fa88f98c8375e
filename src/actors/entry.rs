//! A subscription's entry in the directory: its configuration as of now, and the bounded door to its actor's mailbox.
//!
//! The mailbox itself has no bound, so everything that could fill it is admitted here first. Deliveries that find no
//! place are not lost: they are in the store, and the actor, told once, reads them from there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ractor::ActorRef;

use super::backlog::Backlog;
use super::budget::Account;
use super::config::Config;
use super::node::Node;
use super::row::Row;
use super::subscription::Message;
use crate::delivery::{
    BreakerState, Delivery, DeliveryId, Glance, MAX_HELD_BYTES, MAX_READY, Machine, Outcome, SubscriptionId, Timestamp,
};
use crate::store::writer::{DeliverySink, RecordSink};

/// How far a subscription may trail before it gets a row of its own in `positions`, so that it does not hold the
/// watermark of all back.
pub(super) const BEHIND_AFTER: Duration = Duration::from_secs(10);
/// A subscription gives its row up when it trails by less than this. Well below the distance that the watermark keeps
/// from now (`WATERMARK_TRAIL`), so that the watermark cannot have passed what is still untried here.
pub(super) const REJOIN_BELOW: Duration = Duration::from_secs(15);

pub(super) struct Entry {
    pub id: SubscriptionId,
    /// What it holds of the node's budget.
    pub account: Arc<Account>,
    config: ArcSwap<Config>,
    node: Arc<Node>,
    intake: Mutex<Intake>,
    /// Deliveries whose attempts wait for a place among the node's. At most a window of them.
    placeless: Mutex<BTreeSet<DeliveryId>>,
}

/// A delivery waits for a place until this is dropped.
pub(super) struct Placeless<'a>(&'a Entry, DeliveryId);

impl Drop for Placeless<'_> {
    fn drop(&mut self) {
        self.0.placeless().remove(&self.1);
    }
}

struct Intake {
    /// `None` before the first start and while a crashed actor waits for its restart.
    actor: Option<ActorRef<Message>>,
    /// Whether the actor has read where it starts. Before that nothing here is news, and nothing may be written or closed
    /// on its account.
    started: bool,
    /// Passivated or deleted: whoever still holds the entry looks the subscription up again.
    closed: bool,
    /// Deliveries are left to the store until the actor has caught up.
    behind: bool,
    /// What is committed while the actor reads what may be its last page; `None` when nobody reads, or it overflowed.
    tail: Option<Vec<Delivery>>,
    /// Deliveries in the mailbox, and what the machine holds as of its last message.
    unread: usize,
    unread_bytes: usize,
    ready: usize,
    held_bytes: usize,
    /// Submissions that are with the writer.
    submitted: usize,
    /// Attempts whose log rows are with the writer.
    recording: usize,
    last_committed: DeliveryId,
    /// Everything up to here has been tried and logged.
    tried_through: DeliveryId,
    row: Row,
    /// Whether the store may hold untried deliveries although nothing was committed since the entry was made.
    must_look: bool,
    /// An actor that had started crashed: what it had tried is known here, and later than in its row.
    restarted: bool,
    last_used: Timestamp,
    backlog: Backlog,
    /// When the machine does something next, as of its last message.
    next_wakeup: Option<Timestamp>,
    /// The machine, as of its last message.
    glance: Glance,
    /// Whether the log says that the backlog is full.
    full_said: bool,
}

/// What is counted of a subscription.
pub(super) struct Figures {
    pub breaker: BreakerState,
    pub window: usize,
    pub backlog: u64,
    pub full: bool,
    pub oldest_due: Option<Timestamp>,
}

/// Why an entry takes no submission.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unclaimed {
    /// Whoever still holds it looks the subscription up again.
    Closed,
    /// The subscription, its tenant or the node has too many under way.
    Busy,
    /// The subscription has as many unfinished deliveries as it may.
    Full(Full),
}

/// A backlog at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub backlog: u64,
    pub limit: u64,
    /// Until there is room.
    pub retry_after_s: u64,
}

/// How long an actor stays that does nothing: long enough to spare a chatty subscription the reload.
pub(super) const PASSIVATE_AFTER: Duration = Duration::from_secs(60);
/// A backlog that was full has room again when one in so many has ended.
const ROOM_DIVISOR: u64 = 10;
/// Most unfinished deliveries to which a replay adds more, and never above half of the subscription's limit: new events
/// wait behind few, are not refused because of it, and it can be stopped before much of it is on its way.
const MAX_REPLAYED_AHEAD: u64 = 1_000;
/// Most deliveries that are kept beside a page that is being read.
const MAX_TAIL: usize = MAX_READY;

impl Entry {
    /// An entry whose deliveries up to `tried_through` have all been tried; with `must_look` there may be others in the
    /// store already.
    pub fn new(config: Arc<Config>, node: Arc<Node>, tried_through: DeliveryId, must_look: bool) -> Arc<Self> {
        let last_used = node.parts.clock.steady();
        let tenant = node.budget.tenant(&config.subscription.tenant);
        Arc::new(Self {
            id: config.subscription.id,
            account: Account::of_subscription(tenant),
            config: ArcSwap::new(config),
            intake: Mutex::new(Intake {
                actor: None,
                started: false,
                closed: false,
                behind: true,
                tail: None,
                unread: 0,
                unread_bytes: 0,
                ready: 0,
                held_bytes: 0,
                submitted: 0,
                recording: 0,
                last_committed: DeliveryId::MIN,
                tried_through,
                row: Row::default(),
                must_look,
                restarted: false,
                last_used,
                backlog: Backlog::new(last_used),
                next_wakeup: None,
                glance: Glance::default(),
                full_said: false,
            }),
            placeless: Mutex::default(),
            node,
        })
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Takes a newer configuration and tells the actor; `false` when the entry is closed, and the change is nobody's yet.
    pub fn reconfigure(&self, config: Arc<Config>) -> bool {
        // Under the lock, so that no actor leaves between the change and the word of it.
        let mut intake = self.lock();
        let known = self.config();
        if !intake.closed && known.subscription.version < config.subscription.version {
            // The actor knows since when all has failed, and what was read may be from before it said so. An enabling begins that
            // anew; it may be among several changes that are heard of at once, and then what was read says nothing of before.
            let is_next = known.subscription.version + 1 == config.subscription.version;
            let enables = known.subscription.disabled.is_some() && config.subscription.disabled.is_none();
            let (read, said) = (config.subscription.failing_since, known.subscription.failing_since);
            let since = match (enables, is_next) {
                (true, _) => read,
                (false, true) => said,
                (false, false) => read.and(said),
            };
            let config = config.failing_since(since);
            self.config.store(config);
            intake.backlog.limit_changed();
            intake.cast(Message::Reconfigured);
        }
        !intake.closed
    }

    /// Tells the actor; whether it runs. A failed cast is healed by the restart, which reads everything again.
    pub fn cast(&self, message: Message) -> bool {
        self.lock().cast(message)
    }

    /// Keeps since when every attempt has failed, for an actor that starts again. It is not a new version of the
    /// configuration.
    pub fn set_failing_since(&self, since: Option<Timestamp>) -> Arc<Config> {
        // Under the lock, so that it does not replace a newer one.
        let _intake = self.lock();
        let config = self.config().failing_since(since);
        self.config.store(config.clone());
        config
    }

    /// Claims a place for a submission.
    pub fn claim(&self) -> Result<(), Unclaimed> {
        let mut intake = self.lock();
        if intake.closed {
            return Err(Unclaimed::Closed);
        }
        if let Some(full) = self.full_in(&intake) {
            let first = !std::mem::replace(&mut intake.full_said, true);
            drop(intake);
            self.say_full(&full, first);
            return Err(Unclaimed::Full(full));
        }
        if !self.account.submit() {
            return Err(Unclaimed::Busy);
        }
        intake.submitted += 1;
        Ok(())
    }

    /// Whether its backlog is at its limit. While nobody knows how long it is, it is not.
    pub fn full(&self) -> Option<Full> {
        let mut intake = self.lock();
        let full = self.full_in(&intake)?;
        let first = !std::mem::replace(&mut intake.full_said, true);
        drop(intake);
        self.say_full(&full, first);
        Some(full)
    }

    /// Once, until there is room again.
    fn say_full(&self, full: &Full, first: bool) {
        if first {
            let Full { backlog, limit, .. } = full;
            tracing::warn!(subscription_id = self.id.0, backlog, limit, "the backlog is full; new events are refused");
        }
    }

    /// What is counted of it at this moment.
    pub fn figures(&self, now: Timestamp) -> Figures {
        let intake = self.lock();
        Figures {
            breaker: intake.glance.breaker,
            window: intake.glance.window,
            backlog: intake.backlog.count().unwrap_or((intake.unread + intake.ready) as u64),
            full: self.full_in(&intake).is_some(),
            oldest_due: intake.glance.oldest_due(now),
        }
    }

    /// Well below the limit, so that one that hovers there is not told of again and again.
    fn has_room(&self, intake: &Intake) -> bool {
        let limit = self.config.load().subscription.settings.max_backlog();
        intake.backlog.count().is_some_and(|count| count <= limit - limit.div_ceil(ROOM_DIVISOR))
    }

    fn full_in(&self, intake: &Intake) -> Option<Full> {
        let limit = self.config.load().subscription.settings.max_backlog();
        let backlog = intake.backlog.count()?;
        // What is with the writer has its place already.
        if backlog.saturating_add(intake.submitted as u64) < limit {
            return None;
        }
        let now = self.node.parts.clock.steady();
        Some(Full { backlog, limit, retry_after_s: intake.backlog.retry_after_s(limit, now, intake.next_wakeup) })
    }

    /// How many deliveries a replay may add now: none while nobody knows how long the backlog is.
    pub fn room_for_replay(&self) -> usize {
        let intake = self.lock();
        let limit = self.config.load().subscription.settings.max_backlog();
        let Some(backlog) = intake.backlog.count() else { return 0 };
        let most = (limit / 2).clamp(1, MAX_REPLAYED_AHEAD);
        usize::try_from(most.saturating_sub(backlog + intake.submitted as u64)).unwrap_or(usize::MAX)
    }

    /// Unfinished deliveries, if they have been counted, and how many end in a second.
    pub fn backlog(&self) -> (Option<u64>, f64) {
        let intake = self.lock();
        (intake.backlog.count(), intake.backlog.drain_rate_per_s(self.node.parts.clock.steady()))
    }

    /// The janitor has ended deliveries, perhaps of this subscription.
    pub fn count_again(&self) {
        self.lock().backlog.count_again();
    }

    /// Begins to count the backlog in the store, if nobody knows it: above which delivery, and how far.
    pub fn begin_count(&self) -> Option<(DeliveryId, u64)> {
        let mut intake = self.lock();
        if !intake.started || !intake.backlog.wants_count() {
            return None;
        }
        intake.backlog.begin_count();
        Some((intake.tried_through, self.config.load().subscription.settings.max_backlog().saturating_add(1)))
    }

    pub fn end_count(&self, count: Option<u64>, cap: u64) {
        self.lock().backlog.end_count(count, cap);
    }

    /// The machine holds all unfinished deliveries, so many, and none of them is under way.
    pub fn holds_all(&self, count: usize) {
        let mut intake = self.lock();
        if !intake.behind && intake.unread == 0 && intake.recording == 0 {
            intake.backlog.is_exactly(count as u64);
        }
    }

    /// The attempt of this delivery waits for a place.
    pub fn waits_for_place(&self, id: DeliveryId) -> Placeless<'_> {
        self.placeless().insert(id);
        Placeless(self, id)
    }

    /// Whether it does.
    pub fn is_placeless(&self, id: DeliveryId) -> bool {
        self.placeless().contains(&id)
    }

    fn placeless(&self) -> MutexGuard<'_, BTreeSet<DeliveryId>> {
        self.placeless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The actor is about to run (again). Everything that the last one had in memory is read from the store.
    pub fn attach(&self, actor: ActorRef<Message>) {
        let mut intake = self.lock();
        intake.actor = Some(actor);
        intake.started = false;
        intake.behind = true;
        intake.tail = None;
        (intake.unread, intake.unread_bytes, intake.ready, intake.held_bytes) = (0, 0, 0, 0);
    }

    /// The actor crashed.
    pub fn detach(&self) {
        let mut intake = self.lock();
        intake.actor = None;
        // One that crashed before it had read its row leaves it to the next: of a passive subscription with a backlog nothing
        // else says where that begins.
        intake.restarted |= intake.started;
        intake.must_look = true;
        intake.behind = true;
        intake.tail = None;
        intake.backlog.question_lost();
    }

    /// The actor has read its row in `positions` and starts: what has been tried, and whether it has to look in the
    /// store for what has not. `all_retries` says how many there are, if it has read all.
    pub fn start(&self, position: Option<DeliveryId>, all_retries: Option<usize>) -> (DeliveryId, bool) {
        let mut intake = self.lock();
        // After a crash the entry knows better than the row, which is written lazily.
        if let (Some(position), false) = (position, intake.restarted) {
            intake.tried_through = position;
            intake.row = Row::Kept(position);
            intake.must_look = true;
        }
        intake.started = true;
        intake.behind = intake.must_look || intake.last_committed > intake.tried_through;
        // With nothing to look for, what is untried was committed since the entry was made.
        if let (Some(retries), false) = (all_retries, intake.must_look) {
            intake.backlog.began_with(retries as u64);
        }
        (intake.tried_through, intake.behind)
    }

    /// From now on the actor reads from the store.
    pub fn fall_behind(&self) {
        let mut intake = self.lock();
        intake.behind = true;
        intake.tail = None;
    }

    pub fn begin_page(&self) {
        self.lock().tail = Some(Vec::new());
    }

    /// After a page up to `last` was read: when it was the last one, everything committed since its reading began, and the
    /// newest id there is. From then on deliveries come in memory again.
    pub fn end_page(&self, complete: bool, last: Option<DeliveryId>) -> Option<(Vec<Delivery>, DeliveryId)> {
        let mut intake = self.lock();
        let tail = intake.tail.take().filter(|_| complete)?;
        intake.behind = false;
        // What was committed before a crash is untried in memory from now on, and holds the watermark back like the rest.
        intake.last_committed = intake.last_committed.max(last.unwrap_or(DeliveryId::MIN));
        Some((tail, intake.last_committed))
    }

    /// The actor has handled a message, which brought in a delivery of `read` bytes or none.
    pub fn sync(&self, read: Option<usize>, machine: &Machine, glance: Glance, next_wakeup: Option<Timestamp>) {
        let mut intake = self.lock();
        intake.glance = glance;
        if let Some(bytes) = read {
            intake.unread = intake.unread.saturating_sub(1);
            intake.unread_bytes = intake.unread_bytes.saturating_sub(bytes);
        }
        if intake.started {
            intake.ready = machine.ready();
            intake.held_bytes = machine.held_bytes();
            // The machine knows nothing of what was committed and not read by it yet.
            intake.tried_through = machine.tried_through();
            intake.next_wakeup = next_wakeup;
        }
    }

    /// What the subscription's row in `positions` should become, if it should change. `must` asks for one however
    /// little it trails.
    pub fn wanted_position(&self, must: bool) -> Option<Option<DeliveryId>> {
        let now = self.node.parts.clock.wall();
        // Held until the row is given up in memory, so that the watermark does not pass what is untried here meanwhile.
        let watermark = self.node.watermark();
        let mut intake = self.lock();
        if !intake.started {
            return None;
        }
        let trails = |by: Duration| intake.trails() && intake.tried_through < DeliveryId::floor_at(now - by);
        let tried_through = intake.tried_through;
        match intake.row.kept() {
            None if !must && !trails(BEHIND_AFTER) => None,
            // With nothing untried there is nothing that the watermark might pass. By the clock alone it might: one that was set
            // back makes everything look recent.
            Some(_) if !must && (!intake.trails() || !trails(REJOIN_BELOW) && tried_through >= *watermark) => {
                // First the watermark waits for it again, then its row goes.
                intake.row.leave();
                Some(None)
            }
            Some(position) if position >= tried_through => None,
            _ => {
                intake.row.ask();
                Some(Some(tried_through))
            }
        }
    }

    /// What the watermark may not pass because of this subscription.
    pub fn watermark_bound(&self) -> Option<DeliveryId> {
        let intake = self.lock();
        (intake.row.kept().is_none() && intake.trails()).then_some(intake.tried_through)
    }

    /// Whether nothing was accepted for this long.
    pub fn is_unused(&self, long: Duration) -> bool {
        self.node.parts.clock.steady().since(self.lock().last_used) >= long
    }

    /// Whether its actor has something to consider: a position to save, or its leave.
    pub fn wants_review(&self) -> bool {
        let intake = self.lock();
        intake.started
            && (intake.trails() || intake.row.kept().is_some() || intake.backlog.wants_count() || {
                self.node.parts.clock.steady().since(intake.last_used) >= PASSIVATE_AFTER
            })
    }

    /// A log row is handed to the writer.
    pub fn begin_record(&self) {
        self.lock().recording += 1;
    }

    /// Whether log rows are with the writer.
    pub fn is_recording(&self) -> bool {
        self.lock().recording > 0
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Closes the entry if nothing is on its way to the actor and nothing would be forgotten. `enabled` is what the actor
    /// knows: when it is not so any more, word of it is in the mailbox.
    pub fn try_close(&self, enabled: bool) -> bool {
        let mut intake = self.lock();
        let heard = enabled == self.config.load().subscription.disabled.is_none();
        let quiet = intake.started && heard && intake.submitted == 0 && intake.unread == 0;
        let safe = (!intake.trails() || intake.row.kept().is_some()) && intake.row != Row::Leaving;
        intake.closed |= quiet && safe;
        intake.closed
    }

    /// Closes it whatever is on its way: the subscription was deleted.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, Intake> {
        // Nothing in here panics half-way through a change.
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intake {
    fn trails(&self) -> bool {
        self.behind || self.last_committed > self.tried_through
    }

    fn cast(&self, message: Message) -> bool {
        self.actor.as_ref().is_some_and(|actor| actor.cast(message).is_ok())
    }
}

impl DeliverySink for Entry {
    fn committed(&self, delivery: Delivery) {
        // Closed with a claim on it, it was deleted: nobody waits for the delivery.
        let _ = self.take(delivery);
    }

    fn released(&self) {
        self.account.submitted();
        self.lock().submitted -= 1;
    }
}

impl Entry {
    /// Takes a durable delivery over; `Err` when the entry is closed, and the delivery is nobody's yet.
    pub fn take(&self, delivery: Delivery) -> Result<(), DeliveryId> {
        let mut intake = self.lock();
        if intake.closed {
            return Err(delivery.id);
        }
        intake.last_committed = delivery.id;
        intake.last_used = self.node.parts.clock.steady();
        intake.backlog.committed();
        if intake.behind {
            if let Some(tail) = intake.tail.as_mut() {
                if tail.len() < MAX_TAIL && !self.node.must_spill() {
                    tail.push(delivery);
                } else {
                    intake.tail = None;
                }
            }
            return Ok(());
        }
        let bytes = intake.unread_bytes + intake.held_bytes;
        let fits = bytes == 0 || bytes + delivery.payload.len() <= MAX_HELD_BYTES;
        if fits && intake.unread + intake.ready < MAX_READY && !self.node.must_spill() {
            intake.unread += 1;
            intake.unread_bytes += delivery.payload.len();
            if intake.cast(Message::Accepted(delivery)) {
                return Ok(());
            }
        }
        // From here on the store has them, in order; the actor is told once.
        intake.behind = true;
        intake.cast(Message::FellBehind);
        Ok(())
    }
}

impl RecordSink for Entry {
    fn recorded(&self, id: DeliveryId, outcome: Outcome) {
        let mut intake = self.lock();
        intake.recording -= 1;
        if outcome != Outcome::FailedAttempt {
            intake.backlog.ended(self.node.parts.clock.steady());
        }
        intake.cast(Message::Recorded(id));
        let room = intake.full_said && self.has_room(&intake);
        intake.full_said &= !room;
        drop(intake);
        if room {
            tracing::info!(subscription_id = self.id.0, "the backlog has room again");
        }
    }

    fn positioned(&self, position: Option<DeliveryId>) {
        self.lock().row.written(position);
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
