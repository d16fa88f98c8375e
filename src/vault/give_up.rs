//! `hookpost keys rotate-master --give-up`: goes on without a master key that is lost. What is sealed under it is taken
//! away, and the subscriptions concerned are disabled, so that nothing is sent unsigned that was signed before.

use super::reseal::go_through;
use super::{NoMasterKey, ResealError, Vault};
use crate::access::Actor;
use crate::audit::{Act, Action};
use crate::cache::Cache;
use crate::delivery::{DisabledReason, Subscription, Timestamp};
use crate::store::{Store, SubscriptionChange, Update};

/// Why a subscription is disabled, and how it is brought back.
const DETAIL: &str = "its secret was sealed under a master key that was given up; give it a new one and enable it";

/// Why a master key is not given up.
#[derive(Debug, thiserror::Error)]
pub enum NotGivenUp {
    /// Nothing is lost.
    #[error("the master key {0} is among those in HOOKPOST_MASTER_KEY: it is not lost, and need not be given up")]
    Present(String),
    /// Misspelt, or given up already.
    #[error("this store knows no master key {0}; it knows {1}")]
    Unknown(String, String),
}

/// Takes away whatever is sealed under the lost key and disables its subscriptions; how many there were. May be interrupted
/// at any point and started again.
///
/// # Errors
/// When the key is not lost or not known, there is none to go on with, or the store does not answer.
pub async fn give_up(
    vault: &Vault,
    store: &dyn Store,
    cache: &dyn Cache,
    lost: &str,
    now: Timestamp,
) -> Result<u64, ResealError> {
    vault.first().ok_or(NoMasterKey)?;
    if vault.key(lost).is_some() {
        return Err(NotGivenUp::Present(lost.to_owned()).into());
    }
    let known: Vec<_> = store.master_keys().await?.into_iter().map(|record| record.id).collect();
    if lost == super::PLAIN || !known.iter().any(|id| id == lost) {
        return Err(NotGivenUp::Unknown(lost.to_owned(), known.join(", ")).into());
    }
    let mut count = 0;
    go_through(store, async |page| {
        let mut undisturbed = true;
        for subscription in page {
            let Some(change) = without(subscription, lost) else { continue };
            match store.update_subscription(subscription.id, change, now).await? {
                Update::Done(changed) => {
                    cache.changed(&changed).await;
                    count += 1;
                }
                Update::Missing => {}
                Update::Overtaken => undisturbed = false,
            }
        }
        Ok(undisturbed)
    })
    .await?;
    Ok(count)
}

/// The change of a subscription that has something sealed under the lost key.
fn without(subscription: &Subscription, lost: &str) -> Option<SubscriptionChange> {
    let secrets = subscription.secrets.as_deref()?;
    let is_lost = |sealed: &_| super::is_sealed_under(sealed, lost);
    secrets.sealed().any(is_lost).then(|| {
        let detail = Some(DETAIL.to_owned());
        SubscriptionChange {
            secrets: Some(secrets.clone().without(is_lost).unless_empty()),
            disabled: Some(Some(DisabledReason::ByHand)),
            detail: detail.clone(),
            act: Some(Act { detail, ..Act::new(Actor::CommandLine, Action::Disabled) }),
            only_version: Some(subscription.version),
            ..SubscriptionChange::default()
        }
    })
}
