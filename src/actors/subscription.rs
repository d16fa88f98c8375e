//! One subscription's actor: a thin shell over the delivery machine. It feeds the machine messages and the time,
//! performs its actions in spawned tasks, and keeps one timer. No handler waits for a receiver or for the store.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::announce;
use super::attempts::Permit;
use super::config::Config;
use super::disabling;
use super::entry::{Entry, PASSIVATE_AFTER};
use super::node::{Node, STORE_RETRY};
use super::shares::{Claimant, Standing};
use super::supervisor;
use crate::delivery::{
    Action, AttemptLog, AttemptResult, BreakerState, Delivery, DeliveryId, DisabledReason, Input, MAX_RETRIES_HELD,
    Machine, Outcome, Retry, RetryChange, Snapshot, SubscriptionId, Timestamp, Waits,
};
use crate::outbound::client::AttemptRequest;
use crate::store::writer::Record;
use crate::store::{BacklogPage, Pending, StoreError};
use crate::traces::{self, Attempt};

/// An actor is not passivated when it has something to do within this time.
const PASSIVATION_HORIZON: std::time::Duration = std::time::Duration::from_secs(60);

/// What the actor is told.
pub(super) enum Message {
    /// What it starts from was read.
    Loaded(Result<Pending, StoreError>),
    Accepted(Delivery),
    FellBehind,
    Page(Result<BacklogPage, StoreError>),
    Retries(Result<Vec<Retry>, StoreError>),
    Payloads(Vec<DeliveryId>, Result<Vec<Delivery>, StoreError>),
    Attempted(Box<Attempted>),
    /// An attempt was not made: it is deleted or disabled, or the process is stopping.
    NotSent(DeliveryId),
    Recorded(DeliveryId),
    Wake,
    /// Its entry has a newer configuration.
    Reconfigured,
    Deleted,
    Drain,
    /// Saves its position if it trails, and leaves if it is idle.
    Review,
    /// A task of its own panicked.
    TaskLost,
    /// How it is.
    Snapshot(oneshot::Sender<Snapshot>),
    /// What a delivery waits for.
    Why(DeliveryId, oneshot::Sender<Waits>),
}

/// An attempt that ended.
pub(super) struct Attempted {
    id: DeliveryId,
    number: u32,
    result: AttemptResult,
    /// What it was made with; the subscription may have been changed since.
    config: Arc<Config>,
    permit: Permit,
}

pub(super) struct SubscriptionActor;

pub(super) struct Arguments {
    pub entry: Arc<Entry>,
    pub node: Arc<Node>,
    pub supervisor: ActorRef<supervisor::Message>,
}

pub(super) struct State {
    entry: Arc<Entry>,
    node: Arc<Node>,
    supervisor: ActorRef<supervisor::Message>,
    machine: Machine,
    /// Attempts and reads. They end with the actor.
    tasks: JoinSet<()>,
    wakeup: Option<(Timestamp, AbortHandle)>,
    /// As its last attempt went.
    standing: Standing,
    /// Of the attempt that ended in this message, until its record takes them.
    ended: Option<(Arc<Config>, Permit)>,
    /// What the subscription was when that attempt was held against it.
    judged: Option<Arc<Config>>,
    /// Whether the log says that the breaker is open.
    open_said: bool,
}

impl Actor for SubscriptionActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { entry, node, supervisor } = arguments;
        // By the actor, not by whoever spawned it: on another thread that would come after the actor has started, and undo it.
        entry.attach(myself);
        let subscription = entry.config().subscription.clone();
        let limits = subscription.settings.limits(&node.parts.defaults, subscription.drop_through);
        let machine = Machine::new(entry.id, limits, subscription.disabled.is_none());
        let standing = if subscription.failing_since.is_some() { Standing::Suspect } else { Standing::New };
        Ok(State {
            entry,
            node,
            supervisor,
            machine,
            tasks: JoinSet::new(),
            wakeup: None,
            standing,
            ended: None,
            judged: None,
            open_said: false,
        })
    }

    async fn post_start(&self, myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.load(&myself);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(feature = "negative-controls")]
        if let Message::Accepted(delivery) = &message {
            crate::negative_controls::panics_on(delivery.event_type.as_deref());
        }
        while state.tasks.try_join_next().is_some() {}
        let read = match &message {
            Message::Accepted(delivery) => Some(delivery.payload.len()),
            _ => None,
        };
        if let Some(input) = state.input(&myself, message)? {
            let now = state.node.parts.clock.steady();
            state.machine.handle(now, input);
            while let Some(action) = state.machine.poll_action() {
                state.perform(action, &myself);
            }
            (state.ended, state.judged) = (None, None);
            state.arm(&myself);
        }
        let glance = state.machine.glance();
        state.tell_breaker(glance.breaker);
        state.entry.sync(read, &state.machine, glance, state.wakeup.as_ref().map(|(at, _)| *at));
        if state.machine.is_deleted() && !state.machine.is_busy() {
            myself.stop(Some("deleted".to_owned()));
        }
        Ok(())
    }
}

impl State {
    /// What the message means to the machine, if it is the machine's business.
    fn input(&mut self, myself: &ActorRef<Message>, message: Message) -> Result<Option<Input>, ActorProcessingErr> {
        Ok(Some(match message {
            Message::Accepted(delivery) => Input::Accepted(delivery),
            Message::Attempted(attempted) => {
                let Attempted { id, number, result, config, permit } = *attempted;
                let waited = self.node.parts.clock.wall().since(id.accepted_at());
                self.node.parts.metrics.attempted(&result, number, waited);
                // Read once: it may change at any time, and what replaces it is not to be judged by this attempt.
                let judged = self.entry.config();
                let stale = config.subscription.version != judged.subscription.version;
                self.standing = if result.succeeded() { Standing::Proven } else { Standing::Suspect };
                self.judged = Some(judged);
                self.ended = Some((config, permit));
                Input::Attempted { id, result, stale }
            }
            Message::NotSent(id) => Input::NotSent(id),
            Message::Recorded(id) => Input::Recorded(id),
            Message::Loaded(Ok(pending)) => {
                let started = self.started(pending);
                self.count_backlog(myself);
                started
            }
            Message::Loaded(Err(error)) => {
                // An outage is logged once, and not again each second for each that waits for its end.
                let subscription_id = self.entry.id.0;
                if error.is_retryable() {
                    tracing::debug!(subscription_id, %error, "could not read what is pending; trying again");
                } else {
                    tracing::warn!(subscription_id, %error, "could not read what is pending; trying again");
                }
                self.load_after(myself, STORE_RETRY);
                return Ok(None);
            }
            Message::FellBehind => Input::FellBehind,
            Message::Page(page) => self.page(page),
            Message::Retries(Ok(retries)) => Input::Retries { all: retries.len() < MAX_RETRIES_HELD, retries },
            Message::Retries(Err(_)) => Input::RetriesUnavailable,
            Message::Payloads(asked, Ok(found)) => {
                Input::Payloads { asked, found: found.into_iter().map(|delivery| self.counted(delivery)).collect() }
            }
            Message::Payloads(asked, Err(_)) => Input::PayloadsUnavailable(asked),
            Message::Wake => {
                self.wakeup = None;
                Input::Woken
            }
            Message::Reconfigured => {
                let subscription = &self.entry.config().subscription;
                let limits = subscription.settings.limits(&self.node.parts.defaults, subscription.drop_through);
                Input::Configured { enabled: subscription.disabled.is_none(), limits: Box::new(limits) }
            }
            Message::Deleted => Input::Deleted,
            Message::Drain => Input::Draining,
            Message::Review => {
                self.review(myself);
                return Ok(None);
            }
            Message::TaskLost => return Err("a task of this actor panicked".into()),
            // Whoever asked may have gone.
            Message::Snapshot(answer) => {
                let _ = answer.send(self.machine.snapshot(self.node.parts.clock.steady()));
                return Ok(None);
            }
            Message::Why(id, answer) => {
                let waits = match self.machine.why(self.node.parts.clock.steady(), id) {
                    Waits::InFlight { .. } if self.entry.is_placeless(id) => Waits::Node,
                    waits => waits,
                };
                let _ = answer.send(waits);
                return Ok(None);
            }
        }))
    }

    /// Once, until the receiver is well again.
    fn tell_breaker(&mut self, breaker: BreakerState) {
        let subscription_id = self.entry.id.0;
        match breaker {
            BreakerState::Open if !self.open_said => {
                let snapshot = self.machine.snapshot(self.node.parts.clock.steady());
                let error = snapshot.last_failure.map(|failure| failure.error_details);
                tracing::warn!(subscription_id, error, "the breaker opened: the receiver gets nothing but probes");
                self.open_said = true;
            }
            BreakerState::Closed if self.open_said => {
                tracing::info!(subscription_id, "the breaker closed: the receiver is well again");
                self.open_said = false;
            }
            _ => {}
        }
    }

    fn started(&self, pending: Pending) -> Input {
        let all_retries = pending.retries.len() < MAX_RETRIES_HELD;
        let (cursor, behind) = self.entry.start(pending.position, all_retries.then_some(pending.retries.len()));
        let failing_since = self.entry.config().subscription.failing_since;
        Input::Started { cursor, behind, retries: pending.retries, all_retries, failing_since }
    }

    fn page(&self, page: Result<BacklogPage, StoreError>) -> Input {
        let Ok(BacklogPage { deliveries, complete }) = page else { return Input::PageUnavailable };
        let mut deliveries: Vec<_> = deliveries.into_iter().map(|delivery| self.counted(delivery)).collect();
        // A page that is not wanted any more leaves the subscription behind.
        let last = deliveries.last().map(|delivery| delivery.id);
        let caught_up = if self.machine.wants_page() { self.entry.end_page(complete, last) } else { None };
        let through = caught_up.map(|(tail, through)| {
            deliveries.extend(tail);
            through
        });
        Input::Page { deliveries, caught_up: through }
    }

    fn counted(&self, mut delivery: Delivery) -> Delivery {
        delivery.payload = self.entry.account.count(delivery.payload);
        delivery
    }

    fn perform(&mut self, action: Action, myself: &ActorRef<Message>) {
        match action {
            Action::Attempt { delivery, number } => self.attempt(delivery, number, myself),
            Action::Record { id, number, outcome, result, retry, event_type } => {
                self.record(id, number, outcome, result, retry, event_type);
            }
            // The node holds as much as it may: no more comes in, except what keeps this subscription going.
            Action::LoadPage { .. } if self.node.must_spill() && self.machine.held_bytes() > 0 => {
                let _ = myself.cast(Message::Page(Err(StoreError::Unavailable("no memory is left for it".to_owned()))));
            }
            Action::LoadPage { after, limit } => {
                self.entry.begin_page();
                let (id, max_bytes) = (self.entry.id, self.node.page_bytes());
                self.read(myself, move |node| async move {
                    Message::Page(node.parts.store.backlog_page(id, after, limit, max_bytes).await)
                });
            }
            Action::LoadRetries => {
                let id = self.entry.id;
                self.read(myself, move |node| async move {
                    Message::Retries(node.parts.store.retries(id, MAX_RETRIES_HELD).await)
                });
            }
            Action::LoadPayloads(ids) => self.read(myself, move |node| async move {
                let found = node.parts.store.unfinished(&ids).await;
                Message::Payloads(ids, found)
            }),
            Action::FallBehind => self.entry.fall_behind(),
            Action::SaveFailing(since) => self.save_failing(since, myself),
            Action::Disable(reason) => self.disable(reason, myself),
        }
    }

    fn attempt(&mut self, delivery: Delivery, number: u32, myself: &ActorRef<Message>) {
        let entry = self.entry.clone();
        let tenant = entry.config().subscription.tenant.clone();
        let claimant = Claimant { subscription: entry.id, tenant, standing: self.standing };
        self.spawn(myself, move |node, myself| async move {
            let id = delivery.id;
            let permit = match node.attempts.try_take(&claimant) {
                Some(permit) => permit,
                None => {
                    let _waits = entry.waits_for_place(id);
                    node.attempts.wait(claimant).await
                }
            };
            // After the wait for a place, which may have been long: what was changed meanwhile counts.
            let config = entry.config();
            if node.is_draining() || entry.is_closed() || config.subscription.disabled.is_some() {
                let _ = myself.cast(Message::NotSent(id));
                return;
            }
            let (trace, event_type) = (delivery.trace.clone(), delivery.event_type.clone());
            let span = trace.as_ref().map(|_| traces::span_id());
            let request = AttemptRequest {
                target: &config.target,
                keys: config.keys.as_ref().map(Option::as_deref).map_err(|unopened| &**unopened),
                options: &config.options,
                delivery,
                number,
                span,
                started_at: node.parts.clock.wall(),
                timeout: config.subscription.settings.attempt_timeout(&node.parts.defaults),
            };
            let result = node.parts.client.attempt(request).await;
            if let (Some(trace), Some(span)) = (&trace, span) {
                let (subscription, event_type) = (entry.id, event_type.as_deref());
                let attempt = Attempt { delivery: id, subscription, event_type, number, result: &result };
                node.parts.tracer.attempted(trace, span, &attempt);
            }
            let _ = myself.cast(Message::Attempted(Box::new(Attempted { id, number, result, config, permit })));
        });
    }

    fn record(
        &mut self,
        id: DeliveryId,
        number: u32,
        outcome: Outcome,
        result: AttemptResult,
        retry: RetryChange,
        event_type: Option<Arc<str>>,
    ) {
        let (config, permit) = match self.ended.take() {
            Some((config, permit)) => (config, Some(Box::new(permit) as _)),
            None => (self.entry.config(), None),
        };
        log_outcome(id, self.entry.id, event_type.as_deref(), number, outcome, &result);
        self.node.parts.metrics.outcome(outcome);
        let log = AttemptLog {
            id: uuid::Uuid::nil(),
            delivery_id: id,
            subscription_id: self.entry.id,
            target_url: config.subscription.target_url.clone(),
            timestamp: result.started_at,
            attempt_number: number,
            outcome,
            http_status: result.http_status,
            error_details: result.error_details,
            duration_ms: u32::try_from(result.duration.as_millis()).unwrap_or(u32::MAX),
            response_body: result.response_body,
        };
        self.entry.begin_record();
        let place_wanted = !self.machine.has_room() || self.machine.ready() > 0;
        let urgent = outcome != Outcome::Success || place_wanted || self.node.is_draining();
        let record = Record { sink: self.entry.clone(), log, retry, permit, announcement: None, urgent };
        if outcome == Outcome::Failure {
            let (node, supervisor) = (self.node.clone(), self.supervisor.clone());
            // Not a task of the actor's, with which it would end: the row must be written, whatever becomes of the actor.
            tokio::spawn(record_announced(node, supervisor, config.subscription.tenant.clone(), event_type, record));
        } else {
            self.node.writer.record(record);
        }
    }

    /// Saves it until the store has it, or it is not so any more.
    fn save_failing(&mut self, since: Option<Timestamp>, myself: &ActorRef<Message>) {
        let entry = self.entry.clone();
        entry.set_failing_since(since);
        // What the same message disables it for names this.
        self.judged = self.judged.take().map(|judged| judged.failing_since(since));
        self.spawn(myself, move |node, _| async move {
            while entry.config().subscription.failing_since == since {
                match node.parts.store.save_failing(entry.id, since).await {
                    Ok(()) => return node.parts.cache.put(&entry.config().subscription).await,
                    Err(error) if error.is_retryable() => tokio::time::sleep(STORE_RETRY).await,
                    Err(error) => {
                        let id = entry.id;
                        return tracing::warn!(subscription_id = id.0, %error, "could not save since when it has failed");
                    }
                }
            }
        });
    }

    fn disable(&mut self, reason: DisabledReason, myself: &ActorRef<Message>) {
        tracing::warn!(subscription_id = self.entry.id.0, reason = reason.as_str(), "disabling the subscription");
        let (supervisor, entry) = (self.supervisor.clone(), self.entry.clone());
        let judged = self.judged.take().unwrap_or_else(|| entry.config()).subscription.clone();
        self.spawn(myself, move |node, _| async move {
            disabling::disable(&node, &supervisor, &entry, &judged, reason).await
        });
    }

    /// Asks for a position of its own when it trails, and to be passivated when it has nothing to do.
    fn review(&mut self, myself: &ActorRef<Message>) {
        let parked = !self.machine.is_enabled() && self.machine.is_behind();
        if let Some(position) = self.entry.wanted_position(parked) {
            self.node.writer.position(self.entry.clone(), self.entry.id, position);
        }
        self.count_backlog(myself);
        let idle = self.machine.is_idle(self.node.parts.clock.steady() + PASSIVATION_HORIZON);
        if idle && self.entry.is_unused(PASSIVATE_AFTER) && self.entry.try_close(self.machine.is_enabled()) {
            self.node.remove(&self.entry);
            self.node.parts.metrics.passivated();
            myself.stop(Some("idle".to_owned()));
        }
    }

    /// Sees to it that the entry knows how long the backlog is: from memory, if all of it is there, or else from the store.
    fn count_backlog(&mut self, myself: &ActorRef<Message>) {
        let now = self.machine.snapshot(self.node.parts.clock.steady());
        if !now.more_in_store && now.in_flight == 0 {
            self.entry.holds_all(now.ready + now.retries);
        }
        let Some((after, cap)) = self.entry.begin_count() else { return };
        let entry = self.entry.clone();
        self.spawn(myself, move |node, _| async move {
            let count = node.parts.store.backlog(entry.id, after, cap).await;
            if let Err(error) = &count {
                tracing::debug!(subscription_id = entry.id.0, %error, "could not count the backlog; asking again later");
            }
            entry.end_count(count.ok(), cap);
        });
    }

    fn load(&mut self, myself: &ActorRef<Message>) {
        self.load_after(myself, std::time::Duration::ZERO);
    }

    fn load_after(&mut self, myself: &ActorRef<Message>, wait: std::time::Duration) {
        let id = self.entry.id;
        self.read(myself, move |node| async move {
            tokio::time::sleep(wait).await;
            Message::Loaded(node.parts.store.pending(id, MAX_RETRIES_HELD).await)
        });
    }

    fn read<F>(&mut self, myself: &ActorRef<Message>, work: impl FnOnce(Arc<Node>) -> F + Send + 'static)
    where
        F: Future<Output = Message> + Send + 'static,
    {
        self.spawn(myself, |node, myself| async move {
            let message = work(node).await;
            let _ = myself.cast(message);
        });
    }

    fn spawn<F>(
        &mut self,
        myself: &ActorRef<Message>,
        work: impl FnOnce(Arc<Node>, ActorRef<Message>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (node, myself) = (self.node.clone(), myself.clone());
        self.tasks.spawn(async move {
            let _alarm = Alarm(myself.clone());
            work(node, myself).await;
        });
    }

    /// Sets the one timer to the machine's next deadline.
    fn arm(&mut self, myself: &ActorRef<Message>) {
        let deadline = self.machine.deadline();
        if deadline == self.wakeup.as_ref().map(|(at, _)| *at) {
            return;
        }
        if let Some((_, timer)) = self.wakeup.take() {
            timer.abort();
        }
        let Some(at) = deadline else { return };
        let (myself, instant) = (myself.clone(), self.node.parts.clock.instant(at));
        let timer = self.tasks.spawn(async move {
            tokio::time::sleep_until(instant).await;
            let _ = myself.cast(Message::Wake);
        });
        self.wakeup = Some((at, timer));
    }
}

/// Logs the end of a delivery, and tells those who want to hear of it.
async fn record_announced(
    node: Arc<Node>,
    supervisor: ActorRef<supervisor::Message>,
    tenant: Arc<str>,
    event_type: Option<Arc<str>>,
    mut record: Record,
) {
    let announcement = announce::exhausted(&node, &supervisor, &tenant, event_type.as_deref(), &record.log).await;
    record.announcement = announcement.map(Box::new);
    node.writer.record(record);
}

/// Tells the actor when a task of its own ends by a panic: whatever waits for its answer would wait for ever.
struct Alarm(ActorRef<Message>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.cast(Message::TaskLost);
        }
    }
}

fn log_outcome(
    id: DeliveryId,
    SubscriptionId(subscription_id): SubscriptionId,
    event_type: Option<&str>,
    attempt: u32,
    outcome: Outcome,
    result: &AttemptResult,
) {
    let error = result.error_details.as_deref().unwrap_or_default();
    match outcome {
        Outcome::Success => {
            tracing::debug!(delivery_id = %id, subscription_id, event_type, attempt, "delivered")
        }
        Outcome::FailedAttempt => {
            tracing::debug!(
                delivery_id = %id, subscription_id, event_type, attempt, error, "attempt failed; it will be retried"
            );
        }
        Outcome::Failure => {
            tracing::warn!(delivery_id = %id, subscription_id, event_type, attempt, error, "delivery failed for good");
        }
    }
}

#[cfg(test)]
#[path = "subscription_tests.rs"]
mod tests;
