//! The store: one trait, two backends. It is the truth; actors, mailboxes and Redis are caches of it.
//!
//! The rules that both backends keep, and that `tests/store` checks on both:
//! - [`Store::commit`] is one transaction and one statement a table, durable when it returns `Ok`.
//! - It is idempotent by the ids in the batch: a batch whose reply was lost may be committed again, unchanged.
//! - What somebody does to a subscription or a key, and the audit's record of it, are one transaction.
//! - Only the process that [`Store::acquire`]d the store may commit; it loses that right with the connection (or file
//!   lock) that every commit goes through, so a stale owner cannot write.

mod examination;
mod ids;
mod migration;
mod postgres;
mod replays;
pub mod search;
mod secrets;
mod settings;
mod sqlite;
pub mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::access::{Actor, ApiKey, NewApiKey, Prefix};
use crate::audit::{Act, AuditFilter, AuditRecord, Thing};
use crate::delivery::{
    AttemptLog, Delivery, DeliveryId, DisabledReason, Event, EventId, EventTypePattern, Outcome, Retry, Sealed,
    Secrets, Settings, StateChange, Subscription, SubscriptionId, Timestamp,
};

pub use examination::Examination;
pub use postgres::{InvalidDatabaseUrl, MAX_SKEW, PostgresStore, SESSIONS};
pub use replays::{Asked, Deed, NewReplay, Progress, Replay, ReplayId, ReplayState};
pub use search::{FoundDelivery, Search, Step};
pub use sqlite::{SqliteStore, examine as examine_sqlite};

/// What can go wrong at the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, out of space, or too slow. The same call may succeed later; a commit may have taken effect.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Another process delivers from this store. What this process holds in memory is stale.
    #[error("another process owns this store")]
    NotOwner,
    /// The store refused the data itself; the same call will fail again. A commit had no effect.
    #[error("the store refused the data: {0}")]
    Rejected(String),
    /// What is stored cannot be read back: a bug, or someone else's hand.
    #[error("the store holds what it should not: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What a new subscription is made of.
#[derive(Clone, Debug)]
pub struct NewSubscription {
    /// From [`Store::reserve_subscription_id`]: what is sealed for it is bound to its id.
    pub id: SubscriptionId,
    /// An absolute `http` or `https` URL, checked.
    pub target_url: String,
    /// Empty means every event.
    pub event_types: Vec<EventTypePattern>,
    /// What it signs and verifies with.
    pub secrets: Option<Secrets>,
    /// Whose it is. Never changes.
    pub tenant: String,
    /// Who creates it, for the audit.
    pub by: Actor,
    /// How it is delivered to; checked.
    pub settings: Settings,
}

/// What an update replaces. `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionChange {
    /// A new URL.
    pub target_url: Option<String>,
    /// New patterns.
    pub event_types: Option<Vec<EventTypePattern>>,
    /// All of them; `Some(None)` takes them away.
    pub secrets: Option<Option<Secrets>>,
    /// `Some(None)` enables it again. A change that makes a difference leaves a [`StateChange`].
    pub disabled: Option<Option<DisabledReason>>,
    /// Why, in words, for the [`StateChange`].
    pub detail: Option<String>,
    /// All of them, checked.
    pub settings: Option<Settings>,
    /// Gives up what has been accepted so far: `drop_through` becomes the highest id that can have been given by now, and
    /// all its retries become due, so that they end at once.
    pub drop_backlog: bool,
    /// Who makes the change, for the audit; `None` leaves no record there.
    pub act: Option<Act>,
    /// Only if it still has this version: what the change was made from has not changed meanwhile.
    pub only_version: Option<i64>,
}

/// The same secrets, sealed under another master key.
#[derive(Clone, Debug)]
pub struct Reseal {
    /// Whose.
    pub id: SubscriptionId,
    /// Only if it still has this version: what was resealed has not changed meanwhile.
    pub version: i64,
    /// In place of those that are there.
    pub secrets: Secrets,
}

/// A master key that something in the store may be sealed under.
#[derive(Clone, Debug)]
pub struct MasterKeyRecord {
    /// The key's name, or [`crate::vault::PLAIN`].
    pub id: String,
    /// Opens with that key only.
    pub proof: Sealed,
}

/// What became of an update.
#[derive(Clone, Debug)]
pub enum Update {
    /// It is now like this.
    Done(Subscription),
    /// There is no such subscription.
    Missing,
    /// It has another version than the one asked for; nothing was changed.
    Overtaken,
}

impl Update {
    /// The subscription, if it was changed.
    pub fn done(self) -> Option<Subscription> {
        match self {
            Self::Done(subscription) => Some(subscription),
            Self::Missing | Self::Overtaken => None,
        }
    }
}

/// One commit. Appends in the common case; the other tables change only for deliveries that failed.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Appended to `events`.
    pub events: Vec<Event>,
    /// Appended to `idempotency_keys`. One that is held already, unless by this very batch, refuses the batch.
    pub keys: Vec<IdempotencyKey>,
    /// Appended to `deliveries`, in order of id. One that names an event is stored without its payload.
    pub deliveries: Vec<Delivery>,
    /// Appended to `delivery_logs`.
    pub logs: Vec<AttemptLog>,
    /// Written to `retries`, replacing the delivery's row.
    pub retries: Vec<Retry>,
    /// Removed from `retries`: these deliveries have ended.
    pub settled: Vec<DeliveryId>,
    /// Appended to the audit.
    pub deeds: Vec<Deed>,
    /// Written to `replays`.
    pub progress: Vec<Progress>,
    /// Written to (`Some`) or removed from (`None`) `positions`.
    pub positions: Vec<(SubscriptionId, Option<DeliveryId>)>,
    /// The new watermark, if it moved.
    pub watermark: Option<DeliveryId>,
}

impl Batch {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.keys.is_empty()
            && self.deliveries.is_empty()
            && self.logs.is_empty()
            && self.retries.is_empty()
            && self.settled.is_empty()
            && self.deeds.is_empty()
            && self.progress.is_empty()
            && self.positions.is_empty()
            && self.watermark.is_none()
    }
}

/// A key under which a producer may send the same request again, and what the first one came to. It counts for as long
/// as its row exists, which is at least a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What the key is unique in: `ingest/7`, `events/default`.
    pub scope: Arc<str>,
    /// As the producer chose it.
    pub key: Arc<str>,
    /// SHA-256 of what was sent.
    pub request_hash: [u8; 32],
    /// The delivery (`ingest/…`) or the event (`events/…`) that it stands for.
    pub outcome: Uuid,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// One delivery of an event, as `/events/{id}` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventDelivery {
    /// The delivery.
    pub id: DeliveryId,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// How its last attempt ended, if there was one.
    pub last_outcome: Option<Outcome>,
    /// Its next attempt, if one is planned.
    pub retry: Option<Retry>,
    /// Whether its subscription still exists.
    pub subscription_exists: bool,
}

/// What a starting owner needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Everything up to this id has been tried at least once, the subscriptions in `positions` excepted. `MIN` in a
    /// new store.
    pub watermark: Option<DeliveryId>,
    /// Subscriptions that had fallen behind: everything of theirs up to this id has been tried at least once.
    pub positions: Vec<(SubscriptionId, DeliveryId)>,
    /// Other subscriptions that have deliveries after the watermark which no log row mentions.
    pub untried: Vec<SubscriptionId>,
    /// The newest delivery, event and log ids ever stored, and the newest that is said to have been tried, whether it was stored or
    /// not; new ids must be higher, even if the clock was set back.
    pub newest_id: Option<Uuid>,
}

/// What an activated actor starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The subscription's own row in `positions`.
    pub position: Option<DeliveryId>,
    /// Its first retries by due time, at most the limit asked for.
    pub retries: Vec<Retry>,
}

/// What waits for another attempt, of all subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetriesWaiting {
    /// How many.
    pub count: u64,
    /// When the first of an enabled subscription has become due.
    pub oldest_due: Option<Timestamp>,
}

/// Most resends that are read with a delivery: enough to see what was done, and no list.
pub const MAX_RESENDS: usize = 20;

/// A delivery as `/status` shows it.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    /// The delivery itself, without its payload.
    pub id: DeliveryId,
    /// Whose it is.
    pub subscription_id: SubscriptionId,
    /// That of its subscription; `None` if that was deleted before this was kept, or so long ago that nobody remembers.
    pub tenant: Option<Arc<str>>,
    /// As the producer named it.
    pub event_type: Option<Arc<str>>,
    /// The event that it came from by fan-out, if it did.
    pub event_id: Option<EventId>,
    /// The first delivery, if this is a resend.
    pub resend_of: Option<DeliveryId>,
    /// Of a first delivery, what was made to send it again, newest first; [`MAX_RESENDS`] at most.
    pub resends: Vec<DeliveryId>,
    /// Its next attempt, if one is planned.
    pub retry: Option<Retry>,
    /// Whether its subscription still exists.
    pub subscription_exists: bool,
    /// All attempts, oldest first.
    pub attempts: Vec<AttemptLog>,
}

/// What the janitor did in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JanitorCounts {
    /// Deliveries that outlived their retention and were ended as failures.
    pub expired: u64,
    /// Rows deleted.
    pub rows_deleted: u64,
    /// Partitions created (PostgreSQL).
    pub partitions_created: u64,
    /// Partitions dropped (PostgreSQL).
    pub partitions_dropped: u64,
    /// Whether the run stopped at its bound with more left to do.
    pub more: bool,
}

impl JanitorCounts {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.expired += other.expired;
        self.rows_deleted += other.rows_deleted;
        self.partitions_created += other.partitions_created;
        self.partitions_dropped += other.partitions_dropped;
        self.more |= other.more;
    }
}

/// Everything the service keeps. See the module's docs for the rules.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// `sqlite` or `postgres`, for logs and pages.
    fn name(&self) -> &'static str;
    /// Brings the schema up to date, one process at a time, and makes sure that now can be written to.
    async fn migrate(&self, now: Timestamp) -> Result<()>;
    /// Which store this is: the same for every process that uses it, after a migration.
    async fn identity(&self) -> Result<Uuid>;
    /// Answers when the store can be read and, by its owner, written.
    async fn ping(&self) -> Result<()>;

    /// Takes, or takes again after a lost connection, the sole right to commit. `false` when another process has it;
    /// `NotOwner` when this one had it and another has had it since, which is for good.
    async fn acquire(&self) -> Result<bool>;
    /// One durable transaction. See the module's docs.
    async fn commit(&self, batch: &Batch) -> Result<()>;
    /// Which of these deliveries are stored: decides the fate of a commit whose reply was lost. Order is kept.
    async fn stored(&self, ids: &[DeliveryId]) -> Result<Vec<DeliveryId>>;

    /// Which of these events are stored, likewise. Order is kept.
    async fn stored_events(&self, ids: &[EventId]) -> Result<Vec<EventId>>;
    /// Those of these keys, given as (scope, key), that are held. Order is not kept.
    async fn idempotency_keys(&self, keys: &[(Arc<str>, Arc<str>)]) -> Result<Vec<IdempotencyKey>>;

    /// The enabled subscriptions of the tenant that want events of this type, by id. Reads these and no others.
    async fn matching(&self, tenant: &str, event_type: &str) -> Result<Vec<SubscriptionId>>;
    /// The event, if it is stored.
    async fn event(&self, id: EventId) -> Result<Option<Event>>;
    /// Up to `limit` deliveries of the event with ids above `after`, by id.
    async fn event_deliveries(&self, id: EventId, after: DeliveryId, limit: usize) -> Result<Vec<EventDelivery>>;

    /// An id that no subscription has had, and none will be given again. Small, and rising.
    async fn reserve_subscription_id(&self) -> Result<SubscriptionId>;
    /// Stores a subscription under the id that was reserved for it; `None` if its tenant has `quota` of them already.
    async fn create_subscription(
        &self,
        new: NewSubscription,
        quota: u64,
        now: Timestamp,
    ) -> Result<Option<Subscription>>;
    /// The subscription, if it exists.
    async fn subscription(&self, id: SubscriptionId) -> Result<Option<Subscription>>;
    /// Up to `limit` subscriptions with ids above `after`, by id; of one tenant, or of all.
    async fn subscriptions(
        &self,
        tenant: Option<&str>,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>>;
    /// Changes it and raises its version, and leaves a [`StateChange`] if that enables or disables it; one transaction.
    async fn update_subscription(
        &self,
        id: SubscriptionId,
        change: SubscriptionChange,
        now: Timestamp,
    ) -> Result<Update>;
    /// Deletes it with its retries and its position; deliveries and logs stay until retention takes them, and so does the
    /// memory of whose they are.
    async fn delete_subscription(&self, id: SubscriptionId, by: &Actor, now: Timestamp) -> Result<bool>;
    /// Up to `limit` subscriptions that have secrets, with ids above `after`, by id.
    async fn subscriptions_with_secrets(
        &self,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<Subscription>>;
    /// Replaces secrets and raises versions, in one transaction; those that have changed meanwhile are left alone. Returns
    /// the others as they are now. It is no change that anybody made: `updated_at` stays.
    async fn reseal(&self, changes: &[Reseal]) -> Result<Vec<Subscription>>;
    /// The master keys that something may be sealed under.
    async fn master_keys(&self) -> Result<Vec<MasterKeyRecord>>;
    /// Makes a master key known. One that is known already stays as it is.
    async fn add_master_key(&self, record: &MasterKeyRecord) -> Result<()>;
    /// Whether anything is sealed under the master key.
    async fn is_sealed_under(&self, key: &str) -> Result<bool>;
    /// Forgets those under which nothing is sealed, except `keep`; which they were.
    async fn forget_master_keys(&self, keep: &str) -> Result<Vec<String>>;
    /// The versions of those that exist, in no particular order.
    async fn subscription_versions(&self, ids: &[SubscriptionId]) -> Result<Vec<(SubscriptionId, i64)>>;

    /// What a starting owner needs to know.
    async fn recovery(&self) -> Result<Recovery>;
    /// What an activated actor starts from.
    async fn pending(&self, id: SubscriptionId, retry_limit: usize) -> Result<Pending>;
    /// Deliveries of the subscription with ids above `after` and no log row, by id: at most `limit`, and at most
    /// `max_bytes` of payload, but always one if there is one.
    async fn backlog_page(
        &self,
        id: SubscriptionId,
        after: DeliveryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<BacklogPage>;
    /// The subscription's first `limit` retries by (`next_attempt_at`, delivery).
    async fn retries(&self, id: SubscriptionId, limit: usize) -> Result<Vec<Retry>>;
    /// Those of these deliveries that are unfinished (untried, or to be retried), with their payloads. Order is not kept.
    async fn unfinished(&self, ids: &[DeliveryId]) -> Result<Vec<Delivery>>;
    /// Up to `limit` subscriptions that have a retry due before `before`, those with the earliest first.
    async fn subscriptions_due(&self, before: Timestamp, limit: usize) -> Result<Vec<SubscriptionId>>;

    /// How many retries there are, counted no further than `cap`, and since when the first of an enabled subscription is due,
    /// if it is among the `cap` that are due the longest.
    async fn retries_waiting(&self, now: Timestamp, cap: u64) -> Result<RetriesWaiting>;
    /// Up to `limit` enabled subscriptions with a row in `positions`: what they have waits for an actor.
    async fn subscriptions_behind(&self, limit: usize) -> Result<Vec<SubscriptionId>>;
    /// Sets retries that are due after `latest` to it: a clock that was set back must not make them wait for longer than
    /// any wait that could have been meant.
    async fn bring_retries_forward(&self, latest: Timestamp) -> Result<u64>;

    /// The delivery with all its attempts.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>>;
    /// Up to `limit` attempts of the subscription, newest first, older than the log row `before`.
    async fn logs(&self, id: SubscriptionId, before: Option<Uuid>, limit: usize) -> Result<Vec<AttemptLog>>;

    /// One step of a search: looks at no more than `most` rows, but always at one if there is one.
    async fn search_step(&self, search: &Search, most: usize) -> Result<Step>;
    /// The tenant's subscriptions, deleted ones that are remembered included, in no particular order; `None` if there are
    /// more than `most`.
    async fn subscriptions_ever(&self, tenant: &str, most: usize) -> Result<Option<Vec<SubscriptionId>>>;
    /// Those of these deliveries of which the payload is stored, with it, by id: at most `max_bytes` of payload, but always
    /// one if there is one.
    async fn deliveries(&self, ids: &[DeliveryId], max_bytes: usize) -> Result<Vec<Delivery>>;

    /// Stores a replay, and the deed, in one transaction. `most` may run for a tenant, and one for a subscription. It ends
    /// at the highest id that can have been given by now.
    async fn create_replay(&self, new: &NewReplay, most: u64, now: Timestamp) -> Result<Asked>;
    /// The replay.
    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>>;
    /// Up to `limit` replays of the subscription with ids below `before`, newest first.
    async fn replays(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Result<Vec<Replay>>;
    /// Up to `limit` replays that run, with ids above `after`, by id.
    async fn running_replays(&self, after: ReplayId, limit: usize) -> Result<Vec<ReplayId>>;
    /// Writes how far one has come that has found nothing to send again.
    async fn advance_replay(&self, progress: &Progress) -> Result<()>;
    /// Ends it, if it runs, and records the deed if it was somebody's; the replay as it is then. It is no error to end one
    /// that has ended.
    async fn end_replay(
        &self,
        id: ReplayId,
        state: ReplayState,
        detail: Option<&str>,
        act: Option<&Act>,
        now: Timestamp,
    ) -> Result<Option<Replay>>;
    /// Deletes up to `limit` replays that ended before `cutoff`.
    async fn prune_replays(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts>;

    /// Makes room for what is accepted from now on (PostgreSQL: partitions).
    async fn prepare(&self, now: Timestamp) -> Result<JanitorCounts>;
    /// Ends up to `limit` unfinished deliveries accepted before `cutoff` with a `Failure` row that says so.
    async fn expire(&self, cutoff: Timestamp, now: Timestamp, limit: usize) -> Result<JanitorCounts>;
    /// Drops or deletes what is older than `cutoff`, at most `limit` rows where rows are deleted.
    async fn prune(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts>;

    /// Deletes up to `limit` idempotency keys that were accepted before `cutoff`.
    async fn prune_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts>;

    /// Records a deed that changes nothing else in the store.
    async fn record(&self, act: &Act, object: &Thing, tenant: Option<&str>, now: Timestamp) -> Result<()>;
    /// Up to `limit` records of the audit with ids below `before`, newest first.
    async fn audit(&self, filter: &AuditFilter, before: Option<i64>, limit: usize) -> Result<Vec<AuditRecord>>;
    /// Deletes up to `limit` records of before `cutoff`, the oldest first.
    async fn prune_audit(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts>;

    /// Saves since when every attempt to the subscription has failed. Not a new version: nobody else has to know.
    async fn save_failing(&self, id: SubscriptionId, since: Option<Timestamp>) -> Result<()>;
    /// How many deliveries of the subscription are unfinished: those above `after` that no log row mentions, and its retries.
    /// Counts no further than `cap`.
    async fn backlog(&self, id: SubscriptionId, after: DeliveryId, cap: u64) -> Result<u64>;
    /// Up to `limit` records of the subscription's being enabled and disabled with ids below `before`, newest first. They
    /// stay as long as the subscription.
    async fn state_changes(&self, id: SubscriptionId, before: Option<i64>, limit: usize) -> Result<Vec<StateChange>>;
    /// Up to `limit` records that were not announced yet, oldest first.
    async fn unannounced(&self, limit: usize) -> Result<Vec<StateChange>>;
    /// These were announced.
    async fn announced(&self, ids: &[i64]) -> Result<()>;

    /// Stores a key; `None` if `most` live ones are stored already. It and every other change of a key takes the next
    /// revision, in one transaction, so that whoever sees a revision sees all before it.
    async fn create_api_key(&self, new: NewApiKey, most: u64, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>>;
    /// The key, dead or alive.
    async fn api_key(&self, prefix: Prefix) -> Result<Option<ApiKey>>;
    /// Up to `limit` keys with prefixes above `after`, by prefix.
    async fn api_keys(&self, after: Option<Prefix>, limit: usize) -> Result<Vec<ApiKey>>;
    /// Up to `limit` keys whose last change is after the revision, by revision.
    async fn api_keys_changed_since(&self, revision: i64, limit: usize) -> Result<Vec<ApiKey>>;
    /// The revision of the last change of any key. Lower than before only if the store was set back, as by a backup.
    async fn api_key_revision(&self) -> Result<i64>;
    /// Ends the key, if there is one. One that was revoked already keeps its time.
    async fn revoke_api_key(&self, prefix: Prefix, by: &Actor, now: Timestamp) -> Result<Option<ApiKey>>;
    /// Deletes up to `limit` keys that were revoked, or have expired, before `cutoff`.
    async fn prune_api_keys(&self, cutoff: Timestamp, limit: usize) -> Result<JanitorCounts>;

    /// Closes connections and files. Nothing may be called after it.
    async fn close(&self);
}

/// A page of a subscription's backlog.
#[derive(Clone, Debug, Default)]
pub struct BacklogPage {
    /// By id.
    pub deliveries: Vec<Delivery>,
    /// Whether there was nothing more at the time of reading.
    pub complete: bool,
}
