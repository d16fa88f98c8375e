//! `v1a`: signatures that a receiver verifies with a public key, and could not have made.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::ed25519::signature::{MultipartSigner, MultipartVerifier};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Message, V1A_PREFIX};

/// How a public key begins, as Standard Webhooks writes it.
const PUBLIC_KEY_PREFIX: &str = "whpk_";

/// Signs. Its memory is wiped when it is dropped.
pub struct Ed25519Key(SigningKey);

impl Ed25519Key {
    /// A fresh one, from the system's randomness.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut *seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads what [`Self::seed`] has written; `None` for anything else.
    pub fn of_seed(seed: &SecretString) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(seed.expose_secret()).ok()?);
        let seed: &[u8; 32] = bytes.as_slice().try_into().ok()?;
        Some(Self(SigningKey::from_bytes(seed)))
    }

    /// What it is made from, in base64.
    pub fn seed(&self) -> SecretString {
        BASE64.encode(Zeroizing::new(self.0.to_bytes())).into()
    }

    /// As receivers get it.
    pub fn public_key(&self) -> String {
        PUBLIC_KEY_PREFIX.to_owned() + &BASE64.encode(self.0.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, message: &Message<'_>, signatures: &mut String) {
        let signature: Signature = self.0.multipart_sign(&message.pieces());
        signatures.push_str(V1A_PREFIX);
        BASE64.encode_string(signature.to_bytes(), signatures);
    }
}

/// Verifies: `whpk_` and base64 of 32 bytes.
#[derive(Clone, Debug)]
pub struct PublicKey(VerifyingKey);

/// It is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected whpk_ and base64 of 32 bytes, as GET /subscriptions/{{id}}/public-key shows it")]
pub struct InvalidPublicKey;

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;
    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let bytes = text.strip_prefix(PUBLIC_KEY_PREFIX).and_then(|key| BASE64.decode(key).ok());
        let bytes: [u8; 32] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(InvalidPublicKey)?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| InvalidPublicKey)
    }
}

impl PublicKey {
    /// Whether this `v1a,<base64>` is right.
    pub(super) fn verify(&self, message: &Message<'_>, signature: &str) -> bool {
        let bytes = signature.strip_prefix(V1A_PREFIX).and_then(|code| BASE64.decode(code).ok());
        let Some(Ok(signature)) = bytes.map(|bytes| Signature::from_slice(&bytes)) else { return false };
        self.0.multipart_verify(&message.pieces(), &signature).is_ok()
    }
}

/// Shows no key.
impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by another implementation: seed, public key, signature of [`MESSAGE`].
    const SEED: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const PUBLIC_KEY: &str = "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
    const SIGNATURE: &str =
        "v1a,yoUrgEkc12aGqm0n4Sydmdz55xJfTz4AsAgieHFjmkR7LJtqVCZOQYzvvHjI5kAey+r4iaBGxTFRrl2iBQxtDQ==";
    const MESSAGE: Message<'_> =
        Message { id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp: "1614265330", body: b"{\"test\": 2432232314}" };

    fn key() -> Ed25519Key {
        Ed25519Key::of_seed(&SEED.into()).unwrap()
    }

    #[test]
    fn a_signature_and_a_public_key_are_those_of_another_implementation() {
        let mut signature = String::new();
        key().sign(&MESSAGE, &mut signature);
        assert_eq!((signature.as_str(), key().public_key().as_str()), (SIGNATURE, PUBLIC_KEY));
        assert!(PUBLIC_KEY.parse::<PublicKey>().unwrap().verify(&MESSAGE, SIGNATURE));
    }

    #[test]
    fn another_message_key_or_scheme_is_not_verified() {
        let public: PublicKey = PUBLIC_KEY.parse().unwrap();
        assert!(!public.verify(&Message { timestamp: "1614265331", ..MESSAGE }, SIGNATURE));
        assert!(!public.verify(&MESSAGE, &SIGNATURE.replace("v1a,", "v1,")));
        assert!(!public.verify(&MESSAGE, "v1a,AAAA") && !public.verify(&MESSAGE, "v1a,hunter2!"));
        let other: PublicKey = Ed25519Key::generate().public_key().parse().unwrap();
        assert!(!other.verify(&MESSAGE, SIGNATURE));
    }

    #[test]
    fn a_seed_reads_back_and_what_is_none_is_refused() {
        let fresh = Ed25519Key::generate();
        let read = Ed25519Key::of_seed(&fresh.seed()).unwrap();
        assert_eq!(read.public_key(), fresh.public_key());
        for text in ["", "hunter2", "AAAA"] {
            assert!(Ed25519Key::of_seed(&text.into()).is_none(), "{text}");
        }
        for text in ["", "whpk_", "whpk_AAAA", SEED, "whsec_AAECAwQFBgcICQoLDA0ODw=="] {
            assert_eq!(text.parse::<PublicKey>().map(drop), Err(InvalidPublicKey), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", key()), "Ed25519Key(..)");
    }
}
