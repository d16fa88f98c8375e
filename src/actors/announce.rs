//! Hookpost's own events: a subscription was enabled or disabled, a delivery was exhausted. They go the way of all events,
//! to the subscriptions of the same tenant that ask for them by name.
//!
//! A change of a subscription is announced from its record in the store, under an idempotency key, so that it is announced
//! once whatever happens in between. The end of a delivery is announced in the commit that ends it.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::AcceptError;
use super::engine::write;
use super::fan_out::{self, FanOut};
use super::node::{Node, STORE_RETRY};
use super::supervisor;
use crate::delivery::{AttemptLog, OWN_EVENTS, StateChange, SubscriptionId, Timestamp};
use crate::store::writer::{Announcement, Key, What};

const DISABLED: &str = "hookpost.subscription.disabled";
const ENABLED: &str = "hookpost.subscription.enabled";
const EXHAUSTED: &str = "hookpost.delivery.exhausted";

/// How often changes are looked for that nobody has told of: made by another process, or before a crash.
const PERIOD: Duration = Duration::from_secs(1);
/// Most subscriptions that hear of one announcement. It must not be refused, so it must fit into any commit.
const MAX_HEARERS: usize = 1000;
/// Most changes that are read at once.
const MAX_CHANGES: usize = 100;

/// Announces changes of subscriptions until it is aborted.
pub(super) async fn run(node: Arc<Node>, supervisor: ActorRef<supervisor::Message>) {
    loop {
        let _ = tokio::time::timeout(PERIOD, node.changed.notified()).await;
        while !node.is_draining() {
            match announce_changes(&node, &supervisor).await {
                Ok(MAX_CHANGES) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(%error, "changes of subscriptions could not be announced; trying again");
                    break;
                }
            }
        }
    }
}

/// How many were announced.
async fn announce_changes(node: &Arc<Node>, supervisor: &ActorRef<supervisor::Message>) -> Result<usize, AcceptError> {
    let store = &node.parts.store;
    let changes = store.unannounced(MAX_CHANGES).await.map_err(|_| AcceptError::unavailable("the store is away"))?;
    let mut announced = Vec::new();
    let mut result = Ok(changes.len());
    for change in &changes {
        match announce_change(node, supervisor, change).await {
            Ok(()) => {}
            Err(error @ (AcceptError::Busy { .. } | AcceptError::Unavailable { .. })) => {
                result = Err(error);
                break;
            }
            // The same again would end the same.
            Err(error) => tracing::error!(subscription_id = change.subscription_id.0, %error, "not announced"),
        }
        announced.push(change.id);
    }
    if !announced.is_empty() {
        store.announced(&announced).await?;
    }
    result
}

async fn announce_change(
    node: &Arc<Node>,
    supervisor: &ActorRef<supervisor::Message>,
    change: &StateChange,
) -> Result<(), AcceptError> {
    let name = if change.disabled.is_some() { DISABLED } else { ENABLED };
    let data = json!({
        "subscription_id": change.subscription_id,
        "reason": change.disabled,
        "detail": change.detail,
    });
    let payload = payload(name, change.at, data);
    let key = Key {
        scope: format!("changes/{}", change.tenant).into(),
        key: change.id.to_string().into(),
        request_hash: Sha256::digest(&payload).into(),
    };
    let (tenant, event_type) = (change.tenant.clone(), Arc::from(name));
    let wanted = node.matches.of(&*node.parts.store, &tenant, &event_type).await?;
    if wanted.is_empty() {
        return Ok(());
    }
    // Owed: a tenant that is at its budget must not keep the announcements of others waiting behind its own.
    let Announcement { claim, what } = announcement(node, supervisor, tenant, event_type, payload, wanted);
    write(node, claim, what, Some(key)).await.map(drop)
}

fn announcement(
    node: &Arc<Node>,
    supervisor: &ActorRef<supervisor::Message>,
    tenant: Arc<str>,
    event_type: Arc<str>,
    payload: Vec<u8>,
    wanted: Arc<[SubscriptionId]>,
) -> Announcement {
    let wanted = if wanted.len() > MAX_HEARERS {
        tracing::warn!(%tenant, %event_type, hearers = wanted.len(), "announced to the first {MAX_HEARERS} only");
        wanted[..MAX_HEARERS].into()
    } else {
        wanted
    };
    let account = node.budget.tenant(&tenant);
    let payload = account.count(payload.into());
    let (subscriptions, refused) = fan_out::split_full(node, wanted);
    let what = What::Event { tenant, event_type, ordering_key: None, payload, trace: None, subscriptions, refused };
    Announcement { claim: FanOut::owed(node.clone(), supervisor.clone(), account), what }
}

/// What goes with the log row of a delivery that has failed for good: `None` when nobody wants to hear of it, or when it was
/// itself an announcement. Waits for the store to say who does, since it has to take the log row as well.
pub(super) async fn exhausted(
    node: &Arc<Node>,
    supervisor: &ActorRef<supervisor::Message>,
    tenant: &Arc<str>,
    failed: Option<&str>,
    log: &AttemptLog,
) -> Option<Announcement> {
    if failed.is_some_and(|event_type| event_type.starts_with(OWN_EVENTS)) {
        return None;
    }
    let event_type: Arc<str> = EXHAUSTED.into();
    let wanted = loop {
        match node.matches.of(&*node.parts.store, tenant, &event_type).await {
            Ok(wanted) => break wanted,
            Err(error) => tracing::debug!(
                delivery_id = %log.delivery_id, subscription_id = log.subscription_id.0, event_type = failed,
                attempt = log.attempt_number, %error, "not known who wants to hear of it"
            ),
        }
        tokio::time::sleep(STORE_RETRY).await;
    };
    if wanted.is_empty() {
        return None;
    }
    let data = json!({
        "delivery_id": log.delivery_id,
        "subscription_id": log.subscription_id,
        "event_type": failed,
        "attempts": log.attempt_number,
        "last_error": log.error_details,
    });
    let payload = payload(EXHAUSTED, node.parts.clock.wall(), data);
    Some(announcement(node, supervisor, tenant.clone(), event_type, payload, wanted))
}

/// In the style of Standard Webhooks.
fn payload(name: &str, at: Timestamp, data: Value) -> Vec<u8> {
    json!({ "type": name, "timestamp": at.to_string(), "data": data }).to_string().into_bytes()
}
