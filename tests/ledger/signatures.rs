//! Signs and verifies as producers and receivers do: with `hmac` and the crate `standardwebhooks`, and nothing of ours.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use sha2::Sha256;

/// Obviously of a test: 32 times the same byte.
pub fn secret(byte: u8) -> String {
    format!("whsec_{}", BASE64.encode([byte; 32]))
}

/// `sha256=<hex>` over the body, keyed with the secret's text.
pub fn hub(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hex::encode(keyed(secret, body).finalize().into_bytes()))
}

/// Whether both signatures of a delivery are right.
pub fn are_right(secret: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let hub = headers.get("x-hub-signature-256").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let claimed = hub.strip_prefix("sha256=").and_then(|digits| hex::decode(digits).ok()).unwrap_or_default();
    let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
    keyed(secret, body).verify_slice(&claimed).is_ok() && webhook.verify(body, headers).is_ok()
}

fn keyed(secret: &str, body: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length").chain_update(body)
}
