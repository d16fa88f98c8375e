//! A store as `hookpost doctor` finds it.

use std::time::Duration;

use crate::delivery::Timestamp;

/// What was found. Nothing is changed by looking: what is written is undone.
#[derive(Clone, Debug)]
pub struct Examination {
    /// `PostgreSQL 16.4`, `SQLite 3.50.2`.
    pub product: String,
    /// How long it took to answer.
    pub answered_in: Duration,
    /// The version of its schema, 0 for none, and the one that this program brings.
    pub schema: (u32, u32),
    /// Whether a row could be written (and was taken back); of one that has no schema nobody knows.
    pub writable: Option<Result<(), String>>,
    /// Who has the sole right to deliver from it.
    pub owner: Option<String>,
    /// Up to when deliveries were tried; in the future if the clock was set back.
    pub watermark: Option<Timestamp>,
    /// Its clock, and ours at the same moment.
    pub clocks: Option<(Timestamp, Timestamp)>,
    /// What endangers durability, in words.
    pub undurable: Vec<String>,
    /// Connections that are open, and most of them.
    pub connections: Option<(i64, i64)>,
}
