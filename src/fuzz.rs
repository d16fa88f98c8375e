//! What must hold whatever comes in from outside, one function a parser: the fuzzers (`make fuzz`) and `tests/fuzz.rs`
//! call them with any bytes, and they panic where a promise is broken. Not an interface of the library.

pub use crate::config::fuzz::config;
pub use crate::http::fuzz::{framing, ingest_body};
pub use crate::outbound::fuzz::{request_headers, signature, target_url};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("config", config),
    ("framing", framing),
    ("ingest_body", ingest_body),
    ("request_headers", request_headers),
    ("signature", signature),
    ("target_url", target_url),
];
