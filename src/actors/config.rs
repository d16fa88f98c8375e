//! What an actor works with, derived from the subscription once and not for every delivery: its target, its keys, what its
//! requests look like.

use std::sync::{Arc, LazyLock};

use crate::delivery::{Subscription, Timestamp};
use crate::outbound::client::Target;
use crate::outbound::options::RequestOptions;
use crate::outbound::signing::{Ed25519Key, SigningKeys};
use crate::vault::{Owner, Purpose, Unopened, Vault};

/// A subscription with what is derived from it once, and not for every delivery.
pub(super) struct Config {
    pub subscription: Arc<Subscription>,
    pub target: Arc<Target>,
    /// Of secrets that do not open, why: nothing may be sent unsigned instead.
    pub keys: Result<Option<Arc<SigningKeys>>, Arc<Unopened>>,
    pub options: Arc<RequestOptions>,
}

impl Config {
    pub fn new(subscription: Subscription, vault: &Vault, now: Timestamp) -> Arc<Self> {
        let target = Arc::new(Target::new(&subscription.target_url));
        let keys = signing_keys(&subscription, vault, now);
        let options = request_options(&subscription);
        let options = if options == **PLAIN { PLAIN.clone() } else { Arc::new(options) };
        Arc::new(Self { subscription: Arc::new(subscription), target, keys, options })
    }

    pub fn failing_since(&self, since: Option<Timestamp>) -> Arc<Self> {
        let subscription = Subscription { failing_since: since, ..(*self.subscription).clone() };
        let (target, keys, options) = (self.target.clone(), self.keys.clone(), self.options.clone());
        Arc::new(Self { subscription: Arc::new(subscription), target, keys, options })
    }
}

/// Most subscriptions send plain requests: they share one.
static PLAIN: LazyLock<Arc<RequestOptions>> = LazyLock::new(Arc::default);

/// Opens the subscription's secrets. One that was replaced and does not count any more is left alone.
fn signing_keys(
    subscription: &Subscription,
    vault: &Vault,
    now: Timestamp,
) -> Result<Option<Arc<SigningKeys>>, Arc<Unopened>> {
    let Some(secrets) = &subscription.secrets else { return Ok(None) };
    let open = |sealed, purpose| vault.open(sealed, purpose, Owner::from(subscription));
    let derive = || {
        let current = secrets.current.as_ref().map(|sealed| open(sealed, Purpose::Secret)).transpose()?;
        let previous = secrets.previous.iter().filter(|previous| previous.counts(now));
        let previous = previous.map(|previous| Ok((open(&previous.secret, Purpose::Secret)?, previous.until)));
        let previous = previous.collect::<Result<Vec<_>, Unopened>>()?;
        let ed25519 = secrets
            .ed25519
            .as_ref()
            .map(|pair| Ed25519Key::of_seed(&open(&pair.seed, Purpose::Ed25519Seed)?).ok_or(Unopened::Malformed));
        Ok(Some(Arc::new(SigningKeys::new(current.as_ref(), &previous, ed25519.transpose()?))))
    };
    derive().map_err(|error: Unopened| {
        tracing::error!(subscription_id = subscription.id.0, %error, "its secrets do not open; nothing is sent to it");
        Arc::new(error)
    })
}

/// They were checked when they were stored; what another version stored and this one refuses is not sent.
fn request_options(subscription: &Subscription) -> RequestOptions {
    let settings = &subscription.settings;
    RequestOptions::new(settings.method.as_deref(), &settings.headers).unwrap_or_else(|errors| {
        let fields: Vec<_> = errors.iter().map(|(field, ..)| field).collect();
        tracing::warn!(subscription_id = subscription.id.0, ?fields, "stored request options are not usable; left out");
        RequestOptions::default()
    })
}
