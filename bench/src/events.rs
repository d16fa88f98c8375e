//! The events of a run: about 450 bytes of JSON each, numbered, and signed ahead of time so that the producer's own work is small.

use std::sync::Arc;

use bytes::Bytes;
use hookpost::outbound::signing::SigningKeys;

/// The secret of every subscription in a benchmark.
pub const SECRET: &str = "bench";
/// Where the number stands in the body, so that the receiver finds it without parsing.
const NUMBER: std::ops::Range<usize> = 7..15;
/// Distinct events; a longer run starts again from the first.
pub const DISTINCT: usize = 65_536;

/// Signed events, by number.
#[derive(Clone)]
pub struct Events(Arc<Vec<(Bytes, String)>>);

impl Events {
    pub fn new() -> Self {
        let keys = SigningKeys::of_secret(&SECRET.into());
        let signed = (0..DISTINCT).map(|number| {
            let body = body(number);
            let signature = keys.hub_signature(&body).unwrap_or_default();
            (body, signature)
        });
        Self(Arc::new(signed.collect()))
    }

    /// A whole ingest request for this event, ready to be written.
    pub fn request(&self, number: usize, subscription: usize, into: &mut Vec<u8>) {
        use std::io::Write;
        let (body, signature) = &self.0[number % DISTINCT];
        into.clear();
        let written = write!(
            into,
            "POST /ingest/{subscription} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             event_type: order.created\r\nx-hub-signature-256: {signature}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        written.expect("writing to memory");
        into.extend_from_slice(body);
    }
}

/// The number of the event that this body is, if it is one.
pub fn number(body: &[u8]) -> Option<usize> {
    std::str::from_utf8(body.get(NUMBER)?).ok()?.parse().ok()
}

fn body(number: usize) -> Bytes {
    let head = format!(
        "{{\"n\": \"{number:08}\", \"type\": \"order.created\", \"created_at\": \"2026-01-01T00:00:00Z\", \"data\": {{\"order_id\": \
         {number}, \"amount\": 49.99, \"currency\": \"EUR\", \"customer\": {{\"name\": \"A. Customer\", \"country\": \"DE\"}}, \"items\": ["
    );
    let item = "{\"sku\": \"A-1000\", \"quantity\": 1, \"price\": 12.5}";
    Bytes::from(format!("{head}{}]}}}}", [item; 4].join(", ")))
}
