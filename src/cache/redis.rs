//! The cache on Redis, version 6 or newer: copies of subscriptions, and word of their changes to other processes.
//!
//! Redis is never the truth, and may be away, hang, forget everything or come back with yesterday's data:
//! - A copy lives for a minute, and only a read of the store starts that minute.
//! - A key holds a version and, mostly, a copy. An older version never replaces a newer one; a deletion leaves the highest
//!   version without a copy, for longer than any write of an older copy can be under way.
//! - This process takes no copy that is older than what it was itself told, whatever Redis says: see [`recent`].
//! - After the first call that found Redis hanging, calls miss at once until it answers the link again: see [`link`].
//!
//! Keys and channel begin with the store's identity: several installations may share one Redis.

mod address;
mod cached;
mod examine;
mod link;
mod recent;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use fred::prelude::{Builder, Client, Error, ErrorKind, FredResult, HashesInterface, LuaInterface, ReconnectPolicy};
use secrecy::SecretString;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::{Cache, Change};
use crate::delivery::{Subscription, SubscriptionId};
use link::Link;

pub use examine::{Examination, examine};
use recent::Recent;

/// Most that a call costs while Redis hangs. A look-up in the store takes a few milliseconds; beyond this a cache is of
/// no use.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);
/// Deadline of a connection, TLS and login included, before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bounds of the wait before a lost connection is tried again, in milliseconds.
const RECONNECT_MS: std::ops::Range<u32> = 100..2_000;
/// Most commands that wait to be written. More than this is a backlog that the timeout will cut off anyway.
const MAX_QUEUED_COMMANDS: usize = 4_096;
/// Messages kept for a reader that is slow; one that is slower is told to look at everything.
const MAX_UNREAD_CHANGES: usize = 1_024;
/// How long a copy is served: the backstop for a change that nobody heard of.
const COPY_TTL: Duration = Duration::from_secs(60);
/// How long a version without a copy refuses older ones. Nobody takes this long from reading the store to writing here.
const MARK_TTL: Duration = Duration::from_secs(600);
/// The version of what was deleted.
const DELETED: i64 = i64::MAX;

/// Writes a version and its copy unless something newer is there, and tells the other processes if a channel is given:
/// one round trip, and nothing can come between. A copy that is there already is left alone, so that its time runs out.
const WRITE: &str = "\
local kept = redis.call('HMGET', KEYS[1], 'version', 'copy')
local version, kept_version = tonumber(ARGV[1]), tonumber(kept[1] or '-1')
if version > kept_version or (version == kept_version and kept[2] == '') then
  redis.call('HSET', KEYS[1], 'version', ARGV[1], 'copy', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return 1";

/// The cache on Redis.
pub struct RedisCache {
    shared: Arc<Shared>,
    link: JoinHandle<()>,
}

/// What the callers and the link have in common.
struct Shared {
    /// Replaced when it has hung for too long.
    client: ArcSwap<Client>,
    prefix: String,
    channel: String,
    /// Whether Redis answered when it was last asked.
    up: AtomicBool,
    recent: Recent,
    changes: broadcast::Sender<Change>,
}

impl RedisCache {
    /// Connects in the background: a Redis that is away only makes things slower. Needs a runtime. Fails when the URL is
    /// not one of Redis; the error does not repeat it.
    ///
    /// Keys and channel begin with `prefix`: processes that use the same one share a cache.
    pub fn connect(url: &SecretString, prefix: &str) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            client: ArcSwap::from_pointee(build_client(address::parse(url)?)?),
            prefix: prefix.to_owned(),
            channel: format!("{prefix}:changes"),
            up: AtomicBool::new(false),
            recent: Recent::default(),
            changes: broadcast::Sender::new(MAX_UNREAD_CHANGES),
        });
        let link = tokio::spawn(Link::new(shared.clone()).run());
        Ok(Self { shared, link })
    }
}

impl Drop for RedisCache {
    fn drop(&mut self) {
        self.link.abort();
    }
}

fn build_client(config: fred::prelude::Config) -> FredResult<Client> {
    let mut builder = Builder::from_config(config);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
            performance.broadcast_channel_capacity = MAX_UNREAD_CHANGES;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = CONNECT_TIMEOUT;
            connection.internal_command_timeout = CONNECT_TIMEOUT;
            connection.max_command_buffer_len = MAX_QUEUED_COMMANDS;
            // What was under way when the connection broke has failed: a caller does not wait for the next one.
            connection.max_command_attempts = 1;
        })
        // 0 attempts means: for ever.
        .set_policy(ReconnectPolicy::new_exponential(0, RECONNECT_MS.start, RECONNECT_MS.end, 2));
    builder.build()
}

impl Shared {
    fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    fn client(&self) -> Client {
        Client::clone(&self.client.load())
    }

    fn key(&self, id: SubscriptionId) -> String {
        format!("{}:subscription:{id}", self.prefix)
    }

    async fn read(&self, id: SubscriptionId) -> Option<String> {
        let answer: FredResult<Option<String>> = self.client().hget(self.key(id), "copy").await;
        self.heed(answer).flatten().filter(|copy| !copy.is_empty())
    }

    /// An empty copy marks the version: older copies are refused, this one can still be added.
    async fn write(&self, id: SubscriptionId, version: i64, copy: String, tell: bool) -> FredResult<()> {
        let ttl = if copy.is_empty() { MARK_TTL } else { COPY_TTL };
        let channel = if tell { self.channel.clone() } else { String::new() };
        let ttl_ms = ttl.as_millis().to_string();
        let arguments = vec![version.to_string(), copy, ttl_ms, channel, link::encode_change(id, version)];
        self.client().eval(WRITE, self.key(id), arguments).await
    }

    /// Writes a change of this process and tells the others. What does not get through now is sent by the link.
    async fn announce(&self, id: SubscriptionId, version: i64, copy: String) {
        self.recent.note(id, version);
        if self.is_up() && self.heed(self.write(id, version, copy, true).await).is_some() {
            self.recent.sent(id, version);
        }
    }

    /// A failure is a miss; one of the connection, or a timeout, spares the next callers the wait.
    fn heed<T>(&self, answer: FredResult<T>) -> Option<T> {
        answer
            .inspect_err(|error| {
                tracing::debug!(%error, "a call to Redis failed");
                if breaks_link(error) {
                    self.up.store(false, Ordering::Relaxed);
                }
            })
            .ok()
    }
}

fn breaks_link(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Backpressure)
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, id: SubscriptionId) -> Option<Subscription> {
        if !self.shared.is_up() {
            return None;
        }
        let copy = self.shared.read(id).await?;
        cached::decode(id, &copy).filter(|kept| !self.shared.recent.outdates(id, kept.version))
    }

    async fn put(&self, subscription: &Subscription) {
        let Subscription { id, version, .. } = *subscription;
        if self.shared.is_up() && !self.shared.recent.outdates(id, version) {
            self.shared.heed(self.shared.write(id, version, cached::encode(subscription), false).await);
        }
    }

    async fn changed(&self, subscription: &Subscription) {
        self.shared.announce(subscription.id, subscription.version, cached::encode(subscription)).await;
    }

    async fn deleted(&self, id: SubscriptionId) {
        self.shared.announce(id, DELETED, String::new()).await;
    }

    fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    fn status(&self) -> String {
        if self.shared.is_up() { "redis: connected" } else { "redis: unreachable" }.to_owned()
    }

    fn is_up(&self) -> bool {
        self.shared.is_up()
    }
}
