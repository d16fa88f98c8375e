//! A receiver's side: what came, against the secret and the public key that it was given. For `hookpost listen`.

use std::time::Duration;

use secrecy::SecretString;

use super::{Message, PublicKey, SecretKeys, V1_PREFIX, V1A_PREFIX, seconds};
use crate::delivery::Timestamp;

/// Most signatures of one `webhook-signature` that are tried. Rotations send at most five; a header of thousands is an attack.
const MAX_SIGNATURES: usize = 16;

/// What a receiver verifies with: a secret, a public key, or both.
#[derive(Default)]
pub struct Verifier {
    secret: Option<SecretKeys>,
    public_key: Option<PublicKey>,
}

/// Why a `webhook-signature` is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// None in the header that could be checked is right for this id, time and body.
    #[error("no signature matches the id, the timestamp and the body")]
    Mismatch,
    /// The message is too old, or from the future: it may have been replayed.
    #[error("webhook-timestamp is further from now than the tolerance allows")]
    OutsideTolerance,
}

impl Verifier {
    /// Of what was given.
    pub fn new(secret: Option<&SecretString>, public_key: Option<PublicKey>) -> Self {
        Self { secret: secret.map(SecretKeys::new), public_key }
    }

    /// Whether it can check an `X-Hub-Signature-256`.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// Whether it can check any of these signatures.
    pub fn can_check(&self, signatures: &str) -> bool {
        let any = |prefix: &str| signatures.split(' ').any(|signature| signature.starts_with(prefix));
        self.secret.is_some() && any(V1_PREFIX) || self.public_key.is_some() && any(V1A_PREFIX)
    }

    /// Whether this `X-Hub-Signature-256` (or the one of the secret that was replaced) is right, compared in constant time.
    pub fn verify_hub_signature(&self, body: &[u8], signature: &str) -> bool {
        self.secret.as_ref().is_some_and(|keys| keys.verify_hub_signature(body, signature))
    }

    /// Checks a received `webhook-signature`, which may hold several separated by spaces, as during a rotation. When both
    /// a secret and a public key were given, and both kinds of signatures came, both have to be right.
    ///
    /// # Errors
    /// When none is right, or when the message's timestamp is further from `now` than `tolerance`.
    pub fn verify(
        &self,
        message: &Message<'_>,
        signatures: &str,
        now: Timestamp,
        tolerance: Duration,
    ) -> Result<(), BadSignature> {
        let all = || signatures.split(' ').take(MAX_SIGNATURES);
        let symmetric = self.secret.as_ref().filter(|_| all().any(|one| one.starts_with(V1_PREFIX)));
        let asymmetric = self.public_key.as_ref().filter(|_| all().any(|one| one.starts_with(V1A_PREFIX)));
        let right = symmetric.is_none_or(|keys| all().any(|one| keys.verify(message, one)))
            && asymmetric.is_none_or(|key| all().any(|one| key.verify(message, one)));
        if !right || (symmetric.is_none() && asymmetric.is_none()) {
            return Err(BadSignature::Mismatch);
        }
        // After the signature: a time that nobody signed says nothing.
        let sent: i64 = message.timestamp.parse().map_err(|_| BadSignature::OutsideTolerance)?;
        let apart = Duration::from_secs(seconds(now).abs_diff(sent));
        if apart <= tolerance { Ok(()) } else { Err(BadSignature::OutsideTolerance) }
    }
}
