//! The delivery machine and the values it speaks in. Pure: it knows no runtime, actor, SQL, HTTP, clock or randomness.
//! Inputs and the present time go in; actions and the next deadline come out.

mod breaker;
mod event_type;
mod interface;
pub mod invariants;
mod machine;
mod rate;
mod schedule;
mod secrets;
mod settings;
mod snapshot;
mod state;
mod types;
mod verdict;
mod window;

#[cfg(test)]
mod order_tests;

pub use event_type::{
    EventTypePattern, InvalidEventType, MAX_EVENT_TYPE_CHARS, NO_PATTERNS, check_event_type, matching_patterns,
    subscribed,
};
pub use interface::{Action, Input, RetryChange};
pub use machine::{MAX_HELD_BYTES, MAX_PARKED, MAX_READY, MAX_RETRIES_HELD, Machine};
pub use schedule::{MAX_WAIT, RetrySchedule};
pub use secrets::{KeyPair, MAX_PREVIOUS, Previous, Sealed, Secrets};
pub use settings::*;
pub use snapshot::{BreakerState, LastFailure, Snapshot, Waits};
pub use types::*;
