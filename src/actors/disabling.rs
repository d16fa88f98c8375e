//! Disables a subscription whose receiver is gone or has failed for too long.

use ractor::ActorRef;

use super::entry::Entry;
use super::node::{Node, STORE_RETRY};
use super::supervisor;
use crate::access::Actor;
use crate::audit::{Act, Action};
use crate::delivery::{DisabledReason, Subscription, SubscriptionId};
use crate::store::{StoreError, SubscriptionChange, Update};

/// Goes on until the store has it, unless the subscription is another by then than the one that was judged: meanwhile its
/// actor makes no attempt, and the producers do not know why.
pub(super) async fn disable(
    node: &Node,
    supervisor: &ActorRef<supervisor::Message>,
    entry: &Entry,
    judged: &Subscription,
    reason: DisabledReason,
) {
    let (store, id) = (&node.parts.store, judged.id);
    let mut version = judged.version;
    while is_as_judged(judged, &entry.config().subscription) {
        let change = SubscriptionChange { only_version: Some(version), ..change(judged, reason) };
        match store.update_subscription(id, change, node.parts.clock.wall()).await {
            Ok(Update::Done(subscription)) => {
                let changed = Box::new(subscription.clone());
                let _ = supervisor.cast(supervisor::Message::Changed(changed, None));
                node.parts.cache.changed(&subscription).await;
                return;
            }
            Ok(Update::Missing) => return,
            // By a change that this process has not heard of; it need not be one of what was judged.
            Ok(Update::Overtaken) => match store.subscription(id).await {
                Ok(Some(newer)) if is_as_judged(judged, &newer) => {
                    version = newer.version;
                    continue;
                }
                Ok(_) => return,
                Err(error) => not_disabled(id, &error),
            },
            Err(error) => not_disabled(id, &error),
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

fn change(judged: &Subscription, reason: DisabledReason) -> SubscriptionChange {
    let detail = match (reason, judged.failing_since) {
        (DisabledReason::Gone, _) => "the receiver answered 410 Gone".to_owned(),
        (_, Some(since)) => format!("every attempt has failed since {since}"),
        (_, None) => "every attempt has failed for as long as the subscription allows".to_owned(),
    };
    let act = Act { detail: Some(detail.clone()), ..Act::new(Actor::Hookpost, Action::Disabled) };
    SubscriptionChange {
        disabled: Some(Some(reason)),
        detail: Some(detail),
        act: Some(act),
        ..SubscriptionChange::default()
    }
}

/// Whether the receiver is still the one that was judged, and nobody has disabled the subscription meanwhile.
fn is_as_judged(judged: &Subscription, now: &Subscription) -> bool {
    now.target_url == judged.target_url && now.disabled == judged.disabled
}

fn not_disabled(id: SubscriptionId, error: &StoreError) {
    tracing::error!(subscription_id = id.0, %error, "could not disable the subscription");
}
