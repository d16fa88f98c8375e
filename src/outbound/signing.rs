//! Signatures: `X-Hub-Signature-256`, Standard Webhooks `v1` and `v1a`. Owns what is signed and how it is spelled; who
//! holds which secret, and how it is kept, is not its business.

mod ed25519;
mod verifier;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::delivery::{DeliveryId, Timestamp};

pub use ed25519::{Ed25519Key, InvalidPublicKey, PublicKey};
pub use verifier::{BadSignature, Verifier};

/// How a secret begins whose key is written in base64 (Standard Webhooks).
const ENCODED_SECRET_PREFIX: &str = "whsec_";
/// Of a secret that is made here: what a key of HMAC-SHA256 should at least have.
const GENERATED_BYTES: usize = 32;
/// How the value of `X-Hub-Signature-256` begins.
const HUB_PREFIX: &str = "sha256=";
/// How a symmetric Standard Webhooks signature begins.
const V1_PREFIX: &str = "v1,";
/// How an asymmetric one begins.
const V1A_PREFIX: &str = "v1a,";
/// Room for `v1,` and 32 bytes in base64.
const V1_CHARS: usize = 47;

/// What a subscription signs and verifies with, derived once. An idle subscription keeps it, so what few have stands apart.
pub struct SigningKeys {
    current: Option<SecretKeys>,
    rest: Option<Box<Rest>>,
}

struct Rest {
    /// The newest first.
    previous: Vec<(SecretKeys, Timestamp)>,
    ed25519: Option<Ed25519Key>,
}

/// Shows no key.
impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys(..)")
    }
}

impl SigningKeys {
    /// With the secrets that it has replaced, the newest first, and until when each counts, and the key of `v1a`.
    pub fn new(
        current: Option<&SecretString>,
        previous: &[(SecretString, Timestamp)],
        ed25519: Option<Ed25519Key>,
    ) -> Self {
        let previous: Vec<_> = previous.iter().map(|(secret, until)| (SecretKeys::new(secret), *until)).collect();
        let rest = (!previous.is_empty() || ed25519.is_some()).then(|| Box::new(Rest { previous, ed25519 }));
        Self { current: current.map(SecretKeys::new), rest }
    }

    /// Of one secret.
    pub fn of_secret(secret: &SecretString) -> Self {
        Self::new(Some(secret), &[], None)
    }

    /// Whether what is ingested has to be signed.
    pub fn has_secret(&self) -> bool {
        self.current.is_some()
    }

    /// The secrets that were replaced and still count, the newest first: asked at every attempt, so that an overlap ends by
    /// itself.
    fn previous(&self, now: Timestamp) -> impl Iterator<Item = &SecretKeys> {
        let all = self.rest.iter().flat_map(|rest| &rest.previous);
        all.filter(move |(_, until)| now < *until).map(|(keys, _)| keys)
    }

    /// `sha256=<hex>` over the body, keyed with the secret's text; `None` without a secret.
    pub fn hub_signature(&self, body: &[u8]) -> Option<String> {
        self.current.as_ref().map(|keys| keys.hub_signature(body))
    }

    /// The same, keyed with the oldest secret that was replaced and still counts: the one of a receiver that has not heard of
    /// any rotation yet. The header has room for one, and who has a newer one has it from somebody who can give it the current.
    pub fn previous_hub_signature(&self, body: &[u8], now: Timestamp) -> Option<String> {
        self.previous(now).last().map(|keys| keys.hub_signature(body))
    }

    /// Whether this `X-Hub-Signature-256` is right for any secret that counts now, compared in constant time.
    pub fn verify_hub_signature(&self, body: &[u8], signature: &str, now: Timestamp) -> bool {
        let mut valid = self.current.iter().chain(self.previous(now));
        valid.any(|keys| keys.verify_hub_signature(body, signature))
    }

    /// The value of `webhook-signature` over id, timestamp (in seconds) and body: `v1,<base64>` of each secret that counts,
    /// `v1a,<base64>` of the ed25519 key.
    pub fn webhook_signature(&self, id: DeliveryId, sent_at: Timestamp, body: &[u8]) -> String {
        let mut id_text = uuid::Uuid::encode_buffer();
        let id = id.0.as_hyphenated().encode_lower(&mut id_text);
        self.sign(&Message { id, timestamp: &seconds(sent_at).to_string(), body }, sent_at)
    }

    /// [`Self::webhook_signature`] of texts that are already at hand.
    pub(super) fn sign(&self, message: &Message<'_>, now: Timestamp) -> String {
        let mut signatures = String::with_capacity(V1_CHARS);
        for keys in self.current.iter().chain(self.previous(now)) {
            keys.sign(message, next(&mut signatures));
        }
        if let Some(key) = self.rest.as_ref().and_then(|rest| rest.ed25519.as_ref()) {
            key.sign(message, next(&mut signatures));
        }
        signatures
    }
}

/// Where the next of several signatures goes.
fn next(signatures: &mut String) -> &mut String {
    if !signatures.is_empty() {
        signatures.push(' ');
    }
    signatures
}

/// What a Standard Webhooks signature is over: `{id}.{timestamp}.{body}`.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`.
    pub timestamp: &'a str,
    /// Byte for byte.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// It is taken in piece by piece: the body is never copied.
    fn pieces(&self) -> [&'a [u8]; 5] {
        [self.id.as_bytes(), b".", self.timestamp.as_bytes(), b".", self.body]
    }
}

/// One secret's keys: the states have taken in their key, and are cloned for every signature.
struct SecretKeys {
    hub: Hmac<Sha256>,
    /// `None` if it is the same: only a `whsec_` secret is one thing as text and another as a key.
    webhook: Option<Box<Hmac<Sha256>>>,
}

impl SecretKeys {
    fn new(secret: &SecretString) -> Self {
        let text = secret.expose_secret();
        Self { hub: keyed(text.as_bytes()), webhook: decoded(text).map(|key| Box::new(keyed(&key))) }
    }

    fn hub_signature(&self, body: &[u8]) -> String {
        let mut hex = [0; 64];
        let code = self.hub.clone().chain_update(body).finalize().into_bytes();
        hex::encode_to_slice(code, &mut hex).expect("32 bytes are 64 digits");
        let digits = std::str::from_utf8(&hex).expect("hex digits are ASCII");
        [HUB_PREFIX, digits].concat()
    }

    fn verify_hub_signature(&self, body: &[u8], signature: &str) -> bool {
        let Some(digits) = signature.strip_prefix(HUB_PREFIX) else { return false };
        let mut claimed = [0; 32];
        hex::decode_to_slice(digits, &mut claimed).is_ok()
            && self.hub.clone().chain_update(body).verify_slice(&claimed).is_ok()
    }

    fn sign(&self, message: &Message<'_>, signatures: &mut String) {
        signatures.push_str(V1_PREFIX);
        BASE64.encode_string(self.code(message).finalize().into_bytes(), signatures);
    }

    /// Whether this `v1,<base64>` is right, compared in constant time.
    fn verify(&self, message: &Message<'_>, signature: &str) -> bool {
        let claimed = signature.strip_prefix(V1_PREFIX).and_then(|code| BASE64.decode(code).ok());
        claimed.is_some_and(|claimed| self.code(message).verify_slice(&claimed).is_ok())
    }

    fn code(&self, message: &Message<'_>) -> Hmac<Sha256> {
        let webhook = self.webhook.as_deref().unwrap_or(&self.hub);
        message.pieces().iter().fold(webhook.clone(), |code, piece| code.chain_update(piece))
    }
}

/// A secret made here: `whsec_` and 32 random bytes in base64.
pub fn generate_secret() -> SecretString {
    let mut key = Zeroizing::new([0; GENERATED_BYTES]);
    rand::fill(&mut *key);
    let mut text = Zeroizing::new(String::with_capacity(ENCODED_SECRET_PREFIX.len() + 44));
    text.push_str(ENCODED_SECRET_PREFIX);
    BASE64.encode_string(*key, &mut text);
    text.as_str().into()
}

/// Whether its key is written in base64, by what it begins with.
pub fn looks_encoded(secret: &str) -> bool {
    secret.starts_with(ENCODED_SECRET_PREFIX)
}

/// Whether its key is written in base64 indeed. One that only looks so is its own key, here and nowhere else.
pub fn is_encoded(secret: &str) -> bool {
    decoded(secret).is_some()
}

/// What `webhook-timestamp` says: whole seconds since the Unix epoch.
pub(super) fn seconds(at: Timestamp) -> i64 {
    at.0.div_euclid(1000)
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The key of a `whsec_…` secret; `None` for any other text, which is then the key itself.
fn decoded(secret: &str) -> Option<Zeroizing<Vec<u8>>> {
    let key = BASE64.decode(secret.strip_prefix(ENCODED_SECRET_PREFIX)?).ok()?;
    (!key.is_empty()).then(|| Zeroizing::new(key))
}

#[cfg(test)]
#[path = "signing/tests.rs"]
mod tests;
