//! Signatures: `X-Hub-Signature-256` and Standard Webhooks `v1`.

use secrecy::SecretString;

use crate::delivery::{DeliveryId, Timestamp};

/// A secret's keys, derived once.
#[derive(Debug)]
pub struct SigningKeys {}

impl SigningKeys {
    /// The keys of a subscription's secret.
    pub fn new(_secret: &SecretString) -> Self {
        todo!()
    }

    /// `sha256=<hex>` over the body, keyed with the secret's text.
    pub fn hub_signature(&self, _body: &[u8]) -> String {
        todo!()
    }

    /// Whether this `X-Hub-Signature-256` is right, compared in constant time.
    pub fn verify_hub_signature(&self, _body: &[u8], _signature: &str) -> bool {
        todo!()
    }

    /// The value of `webhook-signature`: `v1,<base64>` over id, timestamp (in seconds) and body.
    pub fn webhook_signature(&self, _id: DeliveryId, _sent_at: Timestamp, _body: &[u8]) -> String {
        todo!()
    }
}
