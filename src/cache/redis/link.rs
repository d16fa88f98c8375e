//! The link to Redis: keeps the connection, notices when Redis hangs and when it answers again, sends what did not get
//! through, and passes on what other processes say.
//!
//! Callers look at one flag. They clear it when a call fails; only the link sets it, after Redis has answered a ping. So
//! a Redis that hangs costs the calls that are under way a timeout each, and the ones after them nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::prelude::{Error, FredResult, Server};
use fred::types::{ConnectHandle, Message};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use crate::cache::Change;
use crate::delivery::SubscriptionId;

/// How often Redis is asked whether it is there: the longest that it is left aside after a failed call.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// Checks that an open connection may fail in a row before it is given up: the other end may be gone without a word.
const MAX_FAILED_CHECKS: u32 = 5;

pub(super) struct Link {
    shared: Arc<Shared>,
    connection: ConnectHandle,
    reconnects: Receiver<Server>,
    errors: Receiver<(Error, Option<Server>)>,
    messages: Receiver<Message>,
    /// Whether the present connection was asked for messages.
    subscribed: bool,
    failed_checks: u32,
    /// Whether the log says that Redis is out of reach: once, however long it lasts.
    reported: bool,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let client = shared.client();
        let (reconnects, errors, messages) = (client.reconnect_rx(), client.error_rx(), client.message_rx());
        let connection = client.connect();
        Self { shared, connection, reconnects, errors, messages, subscribed: false, failed_checks: 0, reported: false }
    }

    pub(super) async fn run(mut self) {
        let mut checks = interval(CHECK_PERIOD);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first comes at once, before there can be a connection.
        checks.tick().await;
        loop {
            // In this order: the loss of a connection is heard before the next one; a flood of messages hides neither.
            tokio::select! {
                biased;
                Ok((error, _)) = self.errors.recv() => self.lost(&error),
                // The server, or word that several reconnections were missed.
                _ = self.reconnects.recv() => self.connected().await,
                _ = checks.tick() => self.check().await,
                message = self.messages.recv() => self.pass_on(message),
            }
        }
    }

    /// Another connection, maybe to another server: messages were missed, and writes may be gone.
    async fn connected(&mut self) {
        self.subscribed = false;
        self.failed_checks = 0;
        self.shared.up.store(false, Ordering::Relaxed);
        self.shared.recent.send_again();
        self.check().await;
    }

    async fn check(&mut self) {
        self.shared.recent.forget_old();
        match self.answers().await {
            Ok(()) => self.alive(),
            Err(error) => {
                self.lost(&error);
                self.give_up_dead_client();
            }
        }
    }

    /// In this order: who is told that Redis is back must find there what this process has changed.
    async fn answers(&mut self) -> FredResult<()> {
        let client = self.shared.client();
        if !self.subscribed {
            client.subscribe(self.shared.channel.as_str()).await?;
            self.subscribed = true;
        }
        // One connection answers in order: the subscription is in force when the ping is answered.
        client.ping::<()>(None).await?;
        self.send_unsent().await
    }

    /// A Redis that takes no writes (a replica now, or full) is as good as gone: another connection may find the right
    /// one.
    async fn send_unsent(&self) -> FredResult<()> {
        for (id, version) in self.shared.recent.unsent() {
            self.shared.write(id, version, String::new(), true).await?;
            self.shared.recent.sent(id, version);
        }
        Ok(())
    }

    fn alive(&mut self) {
        self.failed_checks = 0;
        if self.shared.up.swap(true, Ordering::Relaxed) {
            return;
        }
        self.reported = false;
        tracing::info!("Redis is connected");
        let _ = self.shared.changes.send(Change::Everything);
    }

    fn lost(&mut self, error: &Error) {
        self.shared.up.store(false, Ordering::Relaxed);
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(%error, "Redis is unreachable; subscriptions are read from the store until it is back");
        }
    }

    /// While the client is connecting, it goes on by itself. One that holds on to a dead connection, or has ended, is
    /// replaced as a whole: fred's counters, by which it decides when to flush, do not survive an abort.
    fn give_up_dead_client(&mut self) {
        let client = self.shared.client();
        self.failed_checks = if client.is_connected() { self.failed_checks + 1 } else { 0 };
        if self.failed_checks < MAX_FAILED_CHECKS && !self.connection.is_finished() {
            return;
        }
        self.shared.client.store(Arc::new(client.clone_new()));
        // Dropping the old link ends the old connection.
        let reported = self.reported;
        *self = Self::new(self.shared.clone());
        self.reported = reported;
    }

    fn pass_on(&self, message: Result<Message, RecvError>) {
        let change = match message {
            Ok(message) => message.value.as_str().and_then(|text| decode_change(&text)),
            Err(RecvError::Lagged(_)) => Some(Change::Everything),
            Err(RecvError::Closed) => None,
        };
        if let Some(change) = change {
            let _ = self.shared.changes.send(change);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// As it is published: `7 3`.
pub(super) fn encode_change(id: SubscriptionId, version: i64) -> String {
    format!("{id} {version}")
}

fn decode_change(message: &str) -> Option<Change> {
    let (id, version) = message.split_once(' ')?;
    Some(Change::Subscription { id: SubscriptionId(id.parse().ok()?), version: version.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written_and_anything_else_is_ignored() {
        let (id, version) = (SubscriptionId(7), i64::MAX);
        assert_eq!(decode_change(&encode_change(id, version)), Some(Change::Subscription { id, version }));
        for message in ["", "7", "7 x", "x 3", "7 3 4", "7 9223372036854775808"] {
            assert_eq!(decode_change(message), None, "{message:?}");
        }
    }
}
