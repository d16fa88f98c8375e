//! Signatures: `X-Hub-Signature-256` and Standard Webhooks `v1`. Owns what is signed and how it is spelled; who holds
//! which secret is not its business.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::delivery::{DeliveryId, Timestamp};

/// How a secret begins whose key is written in base64 (Standard Webhooks).
const ENCODED_SECRET_PREFIX: &str = "whsec_";
/// How the value of `X-Hub-Signature-256` begins.
const HUB_PREFIX: &str = "sha256=";
/// How a symmetric Standard Webhooks signature begins.
const V1_PREFIX: &str = "v1,";
/// Most signatures of one `webhook-signature` that are tried. A rotation sends two; a header of thousands is an attack.
const MAX_SIGNATURES: usize = 16;

/// A secret's keys, derived once: both states have taken in their key, and are cloned for every signature.
pub struct SigningKeys {
    hub: Hmac<Sha256>,
    webhook: Hmac<Sha256>,
}

/// Shows no key.
impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys(..)")
    }
}

/// Why a `webhook-signature` is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// No `v1,<base64>` in the header is right for this id, time and body.
    #[error("no v1 signature matches the id, the timestamp and the body")]
    Mismatch,
    /// The message is too old, or from the future: it may have been replayed.
    #[error("webhook-timestamp is further from now than the tolerance allows")]
    OutsideTolerance,
}

impl SigningKeys {
    /// The keys of a subscription's secret.
    pub fn new(secret: &SecretString) -> Self {
        let text = secret.expose_secret();
        let hub = keyed(text.as_bytes());
        let webhook = decoded(text).map_or_else(|| hub.clone(), |key| keyed(&key));
        Self { hub, webhook }
    }

    /// `sha256=<hex>` over the body, keyed with the secret's text.
    pub fn hub_signature(&self, body: &[u8]) -> String {
        let mut hex = [0; 64];
        let code = self.hub.clone().chain_update(body).finalize().into_bytes();
        hex::encode_to_slice(code, &mut hex).expect("32 bytes are 64 digits");
        let digits = std::str::from_utf8(&hex).expect("hex digits are ASCII");
        [HUB_PREFIX, digits].concat()
    }

    /// Whether this `X-Hub-Signature-256` is right, compared in constant time.
    pub fn verify_hub_signature(&self, body: &[u8], signature: &str) -> bool {
        let Some(digits) = signature.strip_prefix(HUB_PREFIX) else { return false };
        let mut claimed = [0; 32];
        hex::decode_to_slice(digits, &mut claimed).is_ok()
            && self.hub.clone().chain_update(body).verify_slice(&claimed).is_ok()
    }

    /// The value of `webhook-signature`: `v1,<base64>` over id, timestamp (in seconds) and body.
    pub fn webhook_signature(&self, id: DeliveryId, sent_at: Timestamp, body: &[u8]) -> String {
        let mut id_text = uuid::Uuid::encode_buffer();
        self.sign(id.0.as_hyphenated().encode_lower(&mut id_text), &seconds(sent_at).to_string(), body)
    }

    /// [`Self::webhook_signature`] of texts that are already at hand.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut signature = String::with_capacity(V1_PREFIX.len() + 44);
        signature.push_str(V1_PREFIX);
        BASE64.encode_string(self.message(id, timestamp, body).finalize().into_bytes(), &mut signature);
        signature
    }

    /// Checks a received `webhook-signature`, which may hold several separated by spaces, as during a rotation.
    ///
    /// # Errors
    /// When none is right, or when `timestamp` (the text of `webhook-timestamp`) is further from `now` than `tolerance`.
    pub fn verify_webhook_signature(
        &self,
        (id, timestamp): (&str, &str),
        body: &[u8],
        signatures: &str,
        now: Timestamp,
        tolerance: Duration,
    ) -> Result<(), BadSignature> {
        let message = self.message(id, timestamp, body);
        let is_right = |signature: &str| {
            let claimed = signature.strip_prefix(V1_PREFIX).and_then(|code| BASE64.decode(code).ok());
            claimed.is_some_and(|claimed| message.clone().verify_slice(&claimed).is_ok())
        };
        if !signatures.split(' ').take(MAX_SIGNATURES).any(is_right) {
            return Err(BadSignature::Mismatch);
        }
        // After the signature: a time that nobody signed says nothing.
        let sent: i64 = timestamp.parse().map_err(|_| BadSignature::OutsideTolerance)?;
        let apart = Duration::from_secs(seconds(now).abs_diff(sent));
        if apart <= tolerance { Ok(()) } else { Err(BadSignature::OutsideTolerance) }
    }

    /// The code over `{id}.{timestamp}.{body}`, taken in piece by piece: the body is never copied.
    fn message(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let pieces: [&[u8]; 5] = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        pieces.iter().fold(self.webhook.clone(), |code, piece| code.chain_update(piece))
    }
}

/// What `webhook-timestamp` says: whole seconds since the Unix epoch.
pub(super) fn seconds(at: Timestamp) -> i64 {
    at.0.div_euclid(1000)
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The key of a `whsec_…` secret; `None` for any other text, which is then the key itself.
fn decoded(secret: &str) -> Option<Vec<u8>> {
    let key = BASE64.decode(secret.strip_prefix(ENCODED_SECRET_PREFIX)?).ok()?;
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    fn keys(secret: &str) -> SigningKeys {
        SigningKeys::new(&SecretString::from(secret))
    }

    /// Made by other implementations: secret, id, timestamp, body, signature.
    const STANDARD_WEBHOOKS: [(&str, &str, &str, &str, &str); 3] = [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
        (
            "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "msg_unicode",
            "1700000000",
            r#"{"name":"héllo — ✓","n":1e400}"#,
            "v1,0zx1UPYqT6WmlUEMwXB7hLP4LqSVN/Ku1UgxqJ/W5uc=",
        ),
    ];

    /// Made by other implementations: secret, body, signature.
    const HUB: [(&str, &str, &str); 2] = [
        (
            "It's a Secret to Everybody",
            "Hello, World!",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        (
            "mysecret",
            r#"{"order_id":123,"amount":49.99}"#,
            "sha256=07f1da34b6ff57da613077d361ed7debaca285d7fed3c05254a2d82822b51d01",
        ),
    ];

    #[test]
    fn hub_signatures_are_those_of_other_implementations() {
        for (secret, body, signature) in HUB {
            assert_eq!(keys(secret).hub_signature(body.as_bytes()), signature);
            assert!(keys(secret).verify_hub_signature(body.as_bytes(), signature));
        }
    }

    #[test]
    fn standard_webhooks_signatures_are_those_of_other_implementations() {
        for (secret, id, timestamp, body, signature) in STANDARD_WEBHOOKS {
            assert_eq!(keys(secret).sign(id, timestamp, body.as_bytes()), signature);
            let now = Timestamp(timestamp.parse::<i64>().unwrap() * 1000);
            let verified =
                keys(secret).verify_webhook_signature((id, timestamp), body.as_bytes(), signature, now, FIVE_MINUTES);
            assert_eq!(verified, Ok(()));
        }
    }

    #[test]
    fn a_delivery_is_signed_with_its_id_and_whole_seconds() {
        let id: DeliveryId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let signed = keys("any text").webhook_signature(id, Timestamp(1_700_000_000_999), b"{}");
        assert_eq!(signed, keys("any text").sign("01890a5d-ac96-774b-bcce-b302099a8057", "1700000000", b"{}"));
    }

    #[test]
    fn an_encoded_secret_keys_the_hub_signature_with_its_text() {
        let (encoded, text) = (keys("whsec_AAECAwQFBgcICQoLDA0ODw=="), "whsec_AAECAwQFBgcICQoLDA0ODw==");
        assert_eq!(encoded.hub_signature(b"{}"), format!("sha256={}", hex::encode(code(text.as_bytes(), b"{}"))));
    }

    #[test]
    fn a_secret_that_does_not_decode_is_its_own_key() {
        for secret in ["whsec_", "whsec_not base64!", "plain", ""] {
            let expected = BASE64.encode(code(secret.as_bytes(), b"a.1.{}"));
            assert_eq!(keys(secret).sign("a", "1", b"{}"), format!("v1,{expected}"), "{secret:?}");
        }
    }

    fn code(key: &[u8], message: &[u8]) -> Vec<u8> {
        keyed(key).chain_update(message).finalize().into_bytes().to_vec()
    }

    #[test]
    fn a_changed_body_or_another_key_is_not_verified() {
        let (secret, body, signature) = HUB[1];
        assert!(!keys(secret).verify_hub_signature(b"{\"order_id\":124,\"amount\":49.99}", signature));
        assert!(!keys("mysecret2").verify_hub_signature(body.as_bytes(), signature));
    }

    #[test]
    fn only_sha256_and_64_hex_digits_are_a_hub_signature() {
        let (secret, body, signature) = HUB[1];
        let verify = |signature: &str| keys(secret).verify_hub_signature(body.as_bytes(), signature);
        let digits = &signature["sha256=".len()..];
        assert!(verify(&format!("sha256={}", digits.to_uppercase())));
        let bad = [digits.into(), format!("sha1={digits}"), format!("SHA256={digits}"), format!("{signature} ")];
        assert!(!bad.iter().any(|signature| verify(signature)));
        let cut = ["", "sha256=", &signature[..signature.len() - 1], &signature[..signature.len() - 2]];
        assert!(!cut.iter().any(|signature| verify(signature)));
        assert!(!verify(&format!("{signature}00")) && !verify(&format!("sha256={}", "zz".repeat(32))));
    }

    fn verify(header: &str, timestamp: &str, body: &str, now: i64) -> Result<(), BadSignature> {
        let (secret, id, ..) = STANDARD_WEBHOOKS[0];
        let now = Timestamp(now * 1000);
        keys(secret).verify_webhook_signature((id, timestamp), body.as_bytes(), header, now, FIVE_MINUTES)
    }

    #[test]
    fn one_right_signature_among_several_is_enough() {
        let (.., timestamp, body, signature) = STANDARD_WEBHOOKS[0];
        let header = format!("v1a,AAAA v1,AAAA nonsense {signature}");
        assert_eq!(verify(&header, timestamp, body, 1_614_265_330), Ok(()));
    }

    #[test]
    fn a_signature_is_bound_to_its_time_and_body() {
        let (.., timestamp, body, signature) = STANDARD_WEBHOOKS[0];
        assert_eq!(verify(signature, "1614265331", body, 1_614_265_330), Err(BadSignature::Mismatch));
        assert_eq!(verify(signature, timestamp, "{}", 1_614_265_330), Err(BadSignature::Mismatch));
        assert_eq!(verify("", timestamp, body, 1_614_265_330), Err(BadSignature::Mismatch));
    }

    #[test]
    fn the_tolerance_holds_on_both_sides_and_at_its_edge() {
        let (.., timestamp, body, signature) = STANDARD_WEBHOOKS[0];
        for (now, expected) in [
            (1_614_265_330 + 300, Ok(())),
            (1_614_265_330 - 300, Ok(())),
            (1_614_265_330 + 301, Err(BadSignature::OutsideTolerance)),
            (1_614_265_330 - 301, Err(BadSignature::OutsideTolerance)),
        ] {
            assert_eq!(verify(signature, timestamp, body, now), expected, "{now}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", keys("hunter2")), "SigningKeys(..)");
    }
}
