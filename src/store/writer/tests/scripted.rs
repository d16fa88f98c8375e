//! A store that does as it is told and keeps what it was asked, and sinks that write down what they hear.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::super::*;
use crate::access::{Actor, ApiKey, NewApiKey, Prefix};
use crate::audit::{Act, AuditFilter, AuditRecord, Thing};
use crate::delivery::{AttemptLog, Event, Outcome as Attempt, Retry, StateChange, Subscription, Timestamp};
use crate::store::{
    Asked, BacklogPage, Batch, DeliveryRecord, EventDelivery, IdempotencyKey, JanitorCounts, MasterKeyRecord,
    NewReplay, NewSubscription, Pending, Progress, Recovery, Replay, ReplayId, ReplayState, Reseal, Result,
    RetriesWaiting, Search, Step, SubscriptionChange, Update,
};

/// The newest id that the store holds at the start.
pub const NEWEST: Uuid = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057);

/// What a commit comes to.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It takes effect.
    Done,
    /// It takes effect, and its reply is lost.
    Unheard,
    /// It takes no effect, which is as hard to tell.
    Failed,
    NotOwner,
}

/// Whether the store refuses the batch for what is in it.
type Refuses = fn(&Batch) -> bool;

pub struct Scripted {
    state: Mutex<State>,
    /// One permit a commit.
    gate: Semaphore,
    /// Commits that were begun.
    begun: watch::Sender<usize>,
}

struct State {
    script: VecDeque<Outcome>,
    /// When the script is through.
    then: Outcome,
    away: bool,
    /// Only reads of keys fail.
    keys_unread: bool,
    owned_by_another: bool,
    refuses: Refuses,
    tried: Vec<Batch>,
    stored: Vec<Batch>,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Outcome>, permits: usize) -> Arc<Self> {
        let state = State {
            script: script.into_iter().collect(),
            then: Outcome::Done,
            away: false,
            keys_unread: false,
            owned_by_another: false,
            refuses: |_| false,
            tried: Vec::new(),
            stored: Vec::new(),
        };
        Arc::new(Self { state: Mutex::new(state), gate: Semaphore::new(permits), begun: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Everything but a commit that is under way fails from now on.
    pub fn go_away(&self) {
        self.state().away = true;
    }

    /// Keys cannot be looked up from now on.
    pub fn fail_key_reads(&self) {
        self.state().keys_unread = true;
    }

    pub fn come_back(&self) {
        self.state().away = false;
    }

    pub fn is_owned_by_another(&self, owned: bool) {
        self.state().owned_by_another = owned;
    }

    pub fn refuse(&self, refuses: Refuses) {
        self.state().refuses = refuses;
    }

    /// What commits come to when the script is through.
    pub fn then(&self, outcome: Outcome) {
        self.state().then = outcome;
    }

    /// Lets so many commits that were held return.
    pub fn let_through(&self, commits: usize) {
        self.gate.add_permits(commits);
    }

    /// Waits until so many commits were begun.
    pub async fn commits(&self, count: usize) {
        self.begun.subscribe().wait_for(|begun| *begun >= count).await.unwrap();
    }

    /// Every batch that came, whatever became of it.
    pub fn tried(&self) -> Vec<Batch> {
        self.state().tried.clone()
    }

    /// Every batch that took effect.
    pub fn stored_batches(&self) -> Vec<Batch> {
        self.state().stored.clone()
    }

    pub fn stored_rows(&self) -> Vec<Delivery> {
        self.stored_batches().into_iter().flat_map(|batch| batch.deliveries).collect()
    }

    fn ask<T>(&self, answer: impl FnOnce(&State) -> T) -> Result<T> {
        let state = self.state();
        if state.away { Err(StoreError::Unavailable("it is away".to_owned())) } else { Ok(answer(&state)) }
    }
}

macro_rules! scripted {
    ({ $($scripted:tt)* } $($unused:ident($($argument:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Scripted {
            fn name(&self) -> &'static str {
                "scripted"
            }
            async fn close(&self) {}
            $($scripted)*
            $(async fn $unused(&self, $(_: $argument),*) -> Result<$answer> {
                panic!("the writer does not ask for this")
            })*
        }
    };
}

scripted! {
    {
        async fn commit(&self, batch: &Batch) -> Result<()> {
            self.state().tried.push(batch.clone());
            self.begun.send_modify(|begun| *begun += 1);
            self.gate.acquire().await.unwrap().forget();
            let mut state = self.state();
            if (state.refuses)(batch) {
                return Err(StoreError::Rejected("it cannot be stored".to_owned()));
            }
            let outcome = state.script.pop_front().unwrap_or(state.then);
            if matches!(outcome, Outcome::Done | Outcome::Unheard) {
                state.stored.push(batch.clone());
            }
            match outcome {
                Outcome::Done => Ok(()),
                Outcome::Unheard | Outcome::Failed => Err(StoreError::Unavailable("the reply was lost".to_owned())),
                Outcome::NotOwner => Err(StoreError::NotOwner),
            }
        }
        async fn acquire(&self) -> Result<bool> {
            self.ask(|state| !state.owned_by_another)
        }
        async fn stored(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>> {
            let stored = self.ask(|state| rows(state, |batch| batch.deliveries.iter().map(|row| row.id).collect()))?;
            Ok(ids.iter().copied().filter(|id| stored.contains(id)).collect())
        }
        async fn stored_events(&self, ids: &[EventId]) -> Result<Vec<EventId>> {
            let stored = self.ask(|state| rows(state, |batch| batch.events.iter().map(|row| row.id).collect()))?;
            Ok(ids.iter().copied().filter(|id| stored.contains(id)).collect())
        }
        async fn idempotency_keys(&self, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>> {
            if self.state().keys_unread {
                return Err(StoreError::Unavailable("no connection within its deadline".to_owned()));
            }
            let held = self.ask(|state| rows(state, |batch| batch.keys.clone()))?;
            Ok(held.into_iter().filter(|row| keys.contains(&(row.scope.clone(), row.key.clone()))).collect())
        }
    }
    migrate(Timestamp) -> ();
    save_failing(SubscriptionId, Option<Timestamp>) -> ();
    backlog(SubscriptionId, DeliveryId, u64) -> u64;
    record(&Act, &Thing, Option<&str>, Timestamp) -> ();
    audit(&AuditFilter, Option<i64>, usize) -> Vec<AuditRecord>;
    prune_audit(Timestamp, usize) -> JanitorCounts;
    state_changes(SubscriptionId, Option<i64>, usize) -> Vec<StateChange>;
    unannounced(usize) -> Vec<StateChange>;
    announced(&[i64]) -> ();
    create_api_key(NewApiKey, u64, &Actor, Timestamp) -> Option<ApiKey>;
    api_key(Prefix) -> Option<ApiKey>;
    api_keys(Option<Prefix>, usize) -> Vec<ApiKey>;
    api_keys_changed_since(i64, usize) -> Vec<ApiKey>;
    api_key_revision() -> i64;
    revoke_api_key(Prefix, &Actor, Timestamp) -> Option<ApiKey>;
    prune_api_keys(Timestamp, usize) -> JanitorCounts;
    identity() -> Uuid;
    ping() -> ();
    matching(&str, &str) -> Vec<SubscriptionId>;
    event(EventId) -> Option<Event>;
    event_deliveries(EventId, DeliveryId, usize) -> Vec<EventDelivery>;
    prune_keys(Timestamp, usize) -> JanitorCounts;
    reserve_subscription_id() -> SubscriptionId;
    subscriptions_with_secrets(Option<SubscriptionId>, usize) -> Vec<Subscription>;
    reseal(&[Reseal]) -> Vec<Subscription>;
    master_keys() -> Vec<MasterKeyRecord>;
    add_master_key(&MasterKeyRecord) -> ();
    is_sealed_under(&str) -> bool;
    forget_master_keys(&str) -> Vec<String>;
    create_subscription(NewSubscription, u64, Timestamp) -> Option<Subscription>;
    subscription(SubscriptionId) -> Option<Subscription>;
    subscriptions(Option<&str>, Option<SubscriptionId>, usize) -> Vec<Subscription>;
    update_subscription(SubscriptionId, SubscriptionChange, Timestamp) -> Update;
    delete_subscription(SubscriptionId, &Actor, Timestamp) -> bool;
    subscription_versions(&[SubscriptionId]) -> Vec<(SubscriptionId, i64)>;
    recovery() -> Recovery;
    pending(SubscriptionId, usize) -> Pending;
    backlog_page(SubscriptionId, DeliveryId, usize, usize) -> BacklogPage;
    retries(SubscriptionId, usize) -> Vec<Retry>;
    unfinished(&[DeliveryId]) -> Vec<Delivery>;
    subscriptions_due(Timestamp, usize) -> Vec<SubscriptionId>;
    retries_waiting(Timestamp, u64) -> RetriesWaiting;
    subscriptions_behind(usize) -> Vec<SubscriptionId>;
    bring_retries_forward(Timestamp) -> u64;
    delivery(DeliveryId) -> Option<DeliveryRecord>;
    logs(SubscriptionId, Option<Uuid>, usize) -> Vec<AttemptLog>;
    search_step(&Search, usize) -> Step;
    subscriptions_ever(&str, usize) -> Option<Vec<SubscriptionId>>;
    deliveries(&[DeliveryId], usize) -> Vec<Delivery>;
    create_replay(&NewReplay, u64, Timestamp) -> Asked;
    replay(ReplayId) -> Option<Replay>;
    replays(SubscriptionId, Option<i64>, usize) -> Vec<Replay>;
    running_replays(ReplayId, usize) -> Vec<ReplayId>;
    advance_replay(&Progress) -> ();
    end_replay(ReplayId, ReplayState, Option<&str>, Option<&Act>, Timestamp) -> Option<Replay>;
    prune_replays(Timestamp, usize) -> JanitorCounts;
    prepare(Timestamp) -> JanitorCounts;
    expire(Timestamp, Timestamp, usize) -> JanitorCounts;
    prune(Timestamp, usize) -> JanitorCounts;
}

fn rows<T>(state: &State, of: impl Fn(&Batch) -> Vec<T>) -> Vec<T> {
    state.stored.iter().flat_map(of).collect()
}

/// What a sink was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Committed(DeliveryId),
    Released,
    Recorded(DeliveryId),
    Positioned(Option<DeliveryId>),
}

#[derive(Default)]
pub struct Journal(Mutex<Vec<Told>>);

impl Journal {
    fn write(&self, told: Told) {
        self.0.lock().unwrap().push(told);
    }
}

impl DeliverySink for Journal {
    fn committed(&self, delivery: Delivery) {
        self.write(Told::Committed(delivery.id));
    }
    fn released(&self) {
        self.write(Told::Released);
    }
}

impl RecordSink for Journal {
    fn recorded(&self, id: DeliveryId, _: Attempt) {
        self.write(Told::Recorded(id));
    }
    fn positioned(&self, position: Option<DeliveryId>) {
        self.write(Told::Positioned(position));
    }
}

pub type Reply = oneshot::Receiver<Result<Stored, WriteError>>;

/// A writer under test.
pub struct Under {
    pub store: Arc<Scripted>,
    pub writer: Writer,
    pub sink: Arc<Journal>,
    task: JoinHandle<()>,
}

impl Under {
    /// Over a store whose first commits come to this, and the others succeed.
    pub fn start(script: impl IntoIterator<Item = Outcome>) -> Self {
        Self::over(Scripted::new(script, Semaphore::MAX_PERMITS))
    }

    /// Over a store whose commits return when they are let through.
    pub fn holding_commits() -> Self {
        Self::over(Scripted::new([], 0))
    }

    pub fn over(store: Arc<Scripted>) -> Self {
        let (writer, task) = Writer::start(store.clone(), Clock::start(), Some(NEWEST), Arc::default());
        Self { store, writer, sink: Arc::default(), task }
    }

    /// Some id below all that the writer gives.
    pub fn nth_id(&self, n: u128) -> DeliveryId {
        DeliveryId(Uuid::from_u128(n))
    }

    pub fn try_submit(&self, subscription_id: SubscriptionId, payload: &str) -> Result<Reply, WriteError> {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.submit_what(
            What::Delivery { subscription_id, event_type: None, ordering_key: None, payload, trace: None },
            None,
        )
    }

    pub fn submit(&self, subscription_id: SubscriptionId, payload: &str) -> Reply {
        self.try_submit(subscription_id, payload).expect("the queue takes it")
    }

    pub fn submit_keyed(&self, key: &str, request: u8) -> Reply {
        let what = What::Delivery {
            trace: None,
            subscription_id: super::SUB,
            event_type: None,
            ordering_key: None,
            payload: Bytes::from_static(b"1"),
        };
        self.submit_what(what, Some(keyed(key, request))).expect("the queue takes it")
    }

    /// An event of this type for two subscriptions, under a key of its own.
    pub fn submit_event(&self, event_type: &str) -> Reply {
        let what = What::Event {
            trace: None,
            tenant: "t".into(),
            event_type: event_type.into(),
            ordering_key: None,
            payload: Bytes::from_static(b"1"),
            subscriptions: [super::SUB, super::OTHER].into(),
            refused: [].into(),
        };
        self.submit_what(what, Some(keyed(event_type, 0))).expect("the queue takes it")
    }

    /// An event for so many subscriptions.
    pub fn submit_large_event(&self, count: i64) -> Reply {
        let what = What::Event {
            trace: None,
            tenant: "t".into(),
            event_type: "large".into(),
            ordering_key: None,
            payload: Bytes::from_static(b"1"),
            subscriptions: (1..=count).map(SubscriptionId).collect(),
            refused: [].into(),
        };
        self.submit_what(what, None).expect("the queue takes it")
    }

    /// An event that one subscription takes, and another has no room for.
    pub fn submit_event_with_refusal(&self, event_type: &str) -> Reply {
        let what = What::Event {
            trace: None,
            tenant: "t".into(),
            event_type: event_type.into(),
            ordering_key: None,
            payload: Bytes::from_static(b"1"),
            subscriptions: [super::OTHER].into(),
            refused: [Refused {
                subscription_id: super::SUB,
                target_url: "http://127.0.0.1:9/".into(),
                max_backlog: 7,
            }]
            .into(),
        };
        self.submit_what(what, None).expect("the queue takes it")
    }

    pub fn submit_what(&self, what: What, key: Option<Key>) -> Result<Reply, WriteError> {
        let (reply, answer) = oneshot::channel();
        let claim = Claim::on(self.sink.clone());
        self.writer.submit(Submission { claim, what, key, reply }).map(|()| answer)
    }

    pub fn record(&self, id: DeliveryId) {
        self.record_with(id, RetryChange::None, None);
    }

    /// A log row that waits for others.
    pub fn record_lingering(&self, id: DeliveryId) {
        self.writer.record(Record { urgent: false, ..self.record_of(id, RetryChange::None, None) });
    }

    pub fn record_with(&self, id: DeliveryId, retry: RetryChange, permit: Option<Permit>) {
        self.writer.record(self.record_of(id, retry, permit));
    }

    /// A log row, and an event that goes with it.
    pub fn record_announced(&self, id: DeliveryId, event_type: &str) {
        let what = What::Event {
            trace: None,
            tenant: "t".into(),
            event_type: event_type.into(),
            ordering_key: None,
            payload: Bytes::from_static(b"1"),
            subscriptions: [super::OTHER].into(),
            refused: [].into(),
        };
        let announcement = Some(Box::new(Announcement { claim: Claim::on(self.sink.clone()), what }));
        self.writer.record(Record { announcement, ..self.record_of(id, RetryChange::None, None) });
    }

    fn record_of(&self, delivery_id: DeliveryId, retry: RetryChange, permit: Option<Permit>) -> Record {
        let log = AttemptLog {
            id: Uuid::nil(),
            delivery_id,
            subscription_id: super::SUB,
            target_url: "http://127.0.0.1:9/".into(),
            timestamp: Timestamp(1_750_000_000_000),
            attempt_number: 1,
            outcome: Attempt::Failure,
            http_status: None,
            error_details: Some("no answer".to_owned()),
            duration_ms: 1,
            response_body: Some("text".to_owned()),
        };
        Record { sink: self.sink.clone(), log, retry, permit, announcement: None, urgent: true }
    }

    /// What the sinks were told so far, in order.
    pub fn told(&self) -> Vec<Told> {
        self.sink.0.lock().unwrap().clone()
    }

    /// Returns when nothing can happen any more without time passing: paused time moves only then.
    pub async fn quiet(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pub async fn pass_an_hour(&self) {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }

    /// Waits for the writer's task to end.
    pub async fn end(&mut self) {
        (&mut self.task).await.unwrap();
    }
}

fn keyed(key: &str, request: u8) -> Key {
    Key { scope: "ingest/1".into(), key: key.into(), request_hash: [request; 32] }
}

pub async fn read_all(replies: impl IntoIterator<Item = Reply>) -> Vec<Result<Stored, WriteError>> {
    let mut answers = Vec::new();
    for reply in replies {
        answers.push(reply.await.expect("an answer"));
    }
    answers
}

pub fn delivery(stored: Stored) -> DeliveryId {
    match stored {
        Stored::Delivery(id) => id,
        other => panic!("{other:?} is no delivery"),
    }
}
