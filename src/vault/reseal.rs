//! `hookpost keys rotate-master`: seals everything under the first master key. Works beside a running service, may be
//! interrupted at any point and started again: what is sealed already is passed over.

use super::{KeyringError, NoMasterKey, NotGivenUp, Owner, PLAIN, Purpose, Unopened, Vault, admit};
use crate::cache::Cache;
use crate::delivery::{KeyPair, Previous, Sealed, Secrets, Subscription, SubscriptionId};
use crate::store::{Reseal, Store, StoreError};

/// Subscriptions of one transaction: short enough for nobody to wait for it.
const PAGE: usize = 200;
/// How often the whole store is gone through, if others keep changing what is being sealed.
const MAX_PASSES: usize = 10;
/// Most subscriptions that are named: who has more than these lacks a key.
const MAX_NAMED: usize = 20;

/// What was done.
#[derive(Debug, Default)]
pub struct Resealed {
    /// Subscriptions whose secrets were sealed anew.
    pub count: u64,
    /// Subscriptions that were disabled, because their secrets were sealed under a key that was given up.
    pub given_up: u64,
    /// Keys under which nothing is sealed any more.
    pub retired: Vec<String>,
    /// Some of those whose secrets do not open, and why. They are left as they are.
    pub unopened: Vec<(SubscriptionId, Unopened)>,
}

/// Why it could not be finished. What was done stays done.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// There is no key to seal with.
    #[error(transparent)]
    NoMasterKey(#[from] NoMasterKey),
    /// A key that the store is sealed under is not there.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The key that is to be given up must not be.
    #[error(transparent)]
    NotGivenUp(#[from] NotGivenUp),
    /// It could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Every pass found secrets that were changed while it sealed them.
    #[error("others kept changing secrets meanwhile; run it again")]
    Overtaken,
}

/// Seals everything under the first key, then forgets the keys under which nothing is sealed any more. `progress` hears
/// how many are done.
///
/// # Errors
/// See [`ResealError`].
pub async fn rotate_master(
    vault: &Vault,
    store: &dyn Store,
    cache: &dyn Cache,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Resealed, ResealError> {
    let first = vault.first().ok_or(NoMasterKey)?;
    admit(vault, store).await?;
    let mut done = Resealed::default();
    go_through(store, async |page| {
        let mut changes = Vec::new();
        for subscription in page {
            match resealed(vault, subscription) {
                Ok(secrets) => changes.extend(secrets.map(|secrets| change_of(subscription, secrets))),
                Err(error) => done.does_not_open(subscription.id, error),
            }
        }
        let changed = if changes.is_empty() { Vec::new() } else { store.reseal(&changes).await? };
        for subscription in &changed {
            // A copy that is sealed under a key that is about to go must not be served.
            cache.changed(subscription).await;
        }
        done.count += changed.len() as u64;
        progress(done.count);
        Ok(changed.len() == changes.len())
    })
    .await?;
    done.retired = store.forget_master_keys(first.id()).await?;
    Ok(done)
}

/// Shows `work` all subscriptions that have secrets, in pages, again and again until it was disturbed on none of them: until
/// nobody had changed what it was changing.
pub(super) async fn go_through(
    store: &dyn Store,
    mut work: impl AsyncFnMut(&[Subscription]) -> Result<bool, StoreError>,
) -> Result<(), ResealError> {
    for _ in 0..MAX_PASSES {
        let (mut after, mut undisturbed) = (None, true);
        loop {
            let page = store.subscriptions_with_secrets(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            undisturbed &= work(&page).await?;
        }
        if undisturbed {
            return Ok(());
        }
    }
    Err(ResealError::Overtaken)
}

impl Resealed {
    /// Once each, however often it is come by.
    fn does_not_open(&mut self, id: SubscriptionId, error: Unopened) {
        if self.unopened.len() < MAX_NAMED && self.unopened.iter().all(|(known, _)| *known != id) {
            self.unopened.push((id, error));
        }
    }
}

fn change_of(subscription: &Subscription, secrets: Secrets) -> Reseal {
    Reseal { id: subscription.id, version: subscription.version, secrets }
}

/// The same secrets under the first key; `None` when they are.
fn resealed(vault: &Vault, subscription: &Subscription) -> Result<Option<Secrets>, Unopened> {
    let Some(secrets) = &subscription.secrets else { return Ok(None) };
    if secrets.sealed().all(|sealed| vault.is_sealed_under_first(sealed)) {
        return Ok(None);
    }
    let again = |sealed: &Sealed, purpose: Purpose| {
        let owner = Owner::from(subscription);
        let opened = vault.open(sealed, purpose, owner)?;
        // There is a first key: without one nothing gets here.
        vault.seal(&opened, purpose, owner).map_err(|_| Unopened::NoSuchKey(PLAIN.to_owned()))
    };
    let current = secrets.current.as_ref().map(|sealed| again(sealed, Purpose::Secret)).transpose()?;
    let previous = secrets.previous.iter().map(|previous| {
        again(&previous.secret, Purpose::Secret).map(|secret| Previous { secret, until: previous.until })
    });
    let ed25519 = secrets.ed25519.as_ref().map(|pair| {
        again(&pair.seed, Purpose::Ed25519Seed).map(|seed| KeyPair { seed, public_key: pair.public_key.clone() })
    });
    Ok(Some(Secrets { current, previous: previous.collect::<Result<_, _>>()?, ed25519: ed25519.transpose()? }))
}
