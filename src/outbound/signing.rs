//! Signatures: `X-Hub-Signature-256` and Standard Webhooks.
