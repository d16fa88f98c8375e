//! Seals secrets before they reach a store or a cache, and opens them where keys are derived from them:
//! XChaCha20-Poly1305 under a master key. What is sealed is bound to its purpose, its tenant and its subscription, so that
//! moved elsewhere it does not open.
//!
//! A sealed text is `sealed:<id of the master key>:<base64 of nonce and ciphertext>`. `plain:<text>` is a secret that no
//! master key protects: in development without one, and from before there were any.

mod give_up;
mod keyring;
mod master_key;
mod reseal;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::delivery::{Sealed, Subscription, SubscriptionId};

pub use give_up::{NotGivenUp, give_up};
pub use keyring::{KeyringError, PLAIN, admit, check_keys};
pub use master_key::MasterKey;
pub use reseal::{ResealError, Resealed, rotate_master};

const SEALED_PREFIX: &str = "sealed:";
const PLAIN_PREFIX: &str = "plain:";
const NONCE_BYTES: usize = 24;

/// The master keys of this process. The first seals, all of them open.
pub struct Vault {
    keys: Vec<MasterKey>,
    /// Without a key, secrets are kept as they are instead of being refused.
    dev: bool,
}

/// What a sealed text is for. One that was made for one thing does not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A subscription's secret, current or previous.
    Secret,
    /// The seed of its ed25519 key.
    Ed25519Seed,
    /// Shows that a master key is the one of this name. Belongs to nobody.
    Proof,
}

/// Whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The subscription's tenant.
    pub tenant: &'a str,
    /// The subscription.
    pub subscription: SubscriptionId,
}

impl<'a> From<&'a Subscription> for Owner<'a> {
    fn from(subscription: &'a Subscription) -> Self {
        Self { tenant: &subscription.tenant, subscription: subscription.id }
    }
}

/// There is nothing to seal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no master key to keep secrets under: set HOOKPOST_MASTER_KEY (`hookpost keys new-master` makes one)")]
pub struct NoMasterKey;

/// Why a sealed text does not open. Names keys, and shows none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Its master key is not there (any more).
    #[error("it is sealed under the master key {0}, which is not among those in HOOKPOST_MASTER_KEY")]
    NoSuchKey(String),
    /// It was changed, or moved here from another subscription.
    #[error("the master key {0} does not open it: it was damaged, or sealed for something else")]
    Refused(String),
    /// It is none.
    #[error("what is stored is no sealed secret")]
    Malformed,
}

impl Vault {
    /// With `dev` and no key, secrets are kept as they are.
    pub fn new(keys: Vec<MasterKey>, dev: bool) -> Self {
        Self { keys, dev }
    }

    /// The key that seals.
    pub fn first(&self) -> Option<&MasterKey> {
        self.keys.first()
    }

    fn key(&self, id: &str) -> Option<&MasterKey> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// Seals it under the first key.
    ///
    /// # Errors
    /// When there is no key, except in development.
    pub fn seal(&self, secret: &SecretString, purpose: Purpose, owner: Owner<'_>) -> Result<Sealed, NoMasterKey> {
        match self.first() {
            Some(key) => Ok(sealed_under(key, secret, purpose, owner)),
            None if self.dev => Ok(Sealed::of(format!("{PLAIN_PREFIX}{}", secret.expose_secret()))),
            None => Err(NoMasterKey),
        }
    }

    /// What was sealed for this purpose and owner.
    ///
    /// # Errors
    /// When its key is missing, or it is not what was sealed.
    pub fn open(&self, sealed: &Sealed, purpose: Purpose, owner: Owner<'_>) -> Result<SecretString, Unopened> {
        let (id, text) = match Form::of(sealed) {
            Some(Form::Plain(secret)) => return Ok(secret.into()),
            Some(Form::Sealed { id, text }) => (id, text),
            None => return Err(Unopened::Malformed),
        };
        let key = self.key(id).ok_or_else(|| Unopened::NoSuchKey(id.to_owned()))?;
        let bytes = BASE64.decode(text).map_err(|_| Unopened::Malformed)?;
        let (nonce, msg) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(Unopened::Malformed)?;
        let payload = Payload { msg, aad: &bound_to(purpose, owner) };
        let opened = cipher(key).decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new);
        let opened = opened.map_err(|_| Unopened::Refused(id.to_owned()))?;
        // A copy of the right size: one that has to be cut would leave its rest behind.
        std::str::from_utf8(&opened).map(SecretString::from).map_err(|_| Unopened::Malformed)
    }

    /// Whether it is as [`Self::seal`] would seal it now.
    fn is_sealed_under_first(&self, sealed: &Sealed) -> bool {
        self.first().is_some_and(|first| is_sealed_under(sealed, first.id()))
    }
}

/// Shows the names of the keys.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("keys", &self.keys).field("dev", &self.dev).finish()
    }
}

/// How a sealed text is made up.
enum Form<'a> {
    Plain(&'a str),
    Sealed { id: &'a str, text: &'a str },
}

impl<'a> Form<'a> {
    fn of(sealed: &'a Sealed) -> Option<Self> {
        let text = sealed.as_str();
        if let Some(secret) = text.strip_prefix(PLAIN_PREFIX) {
            return Some(Self::Plain(secret));
        }
        let (id, text) = text.strip_prefix(SEALED_PREFIX)?.split_once(':')?;
        Some(Self::Sealed { id, text })
    }
}

/// Whether no master key protects it.
pub fn is_plain(sealed: &Sealed) -> bool {
    matches!(Form::of(sealed), Some(Form::Plain(_)))
}

/// Whether it says that it is sealed under the key of this name.
fn is_sealed_under(sealed: &Sealed, key: &str) -> bool {
    matches!(Form::of(sealed), Some(Form::Sealed { id, .. }) if id == key)
}

fn sealed_under(key: &MasterKey, secret: &SecretString, purpose: Purpose, owner: Owner<'_>) -> Sealed {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: &bound_to(purpose, owner) };
    let ciphertext = cipher(key).encrypt(&XNonce::from(nonce), payload).expect("a secret is far below 256 GiB");
    Sealed::of(format!("{SEALED_PREFIX}{}:{}", key.id(), BASE64.encode([&nonce[..], &ciphertext].concat())))
}

fn cipher(key: &MasterKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.bytes().into())
}

/// The associated data. Every part has a fixed length or says its own, so that no two owners share one.
fn bound_to(purpose: Purpose, owner: Owner<'_>) -> Vec<u8> {
    let purpose = match purpose {
        Purpose::Secret => 1,
        Purpose::Ed25519Seed => 2,
        Purpose::Proof => 3,
    };
    let mut data = vec![purpose];
    data.extend(owner.subscription.0.to_be_bytes());
    data.extend((owner.tenant.len() as u64).to_be_bytes());
    data.extend(owner.tenant.as_bytes());
    data
}

#[cfg(test)]
#[path = "vault/tests.rs"]
mod tests;
