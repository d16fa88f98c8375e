//! The delivery machine and the values it speaks in. Pure: it knows no runtime, actor, SQL, HTTP, clock or randomness.
//! Inputs and the present time go in; actions and the next deadline come out.

mod event_type;
mod machine;
mod schedule;
mod state;
mod types;

pub use event_type::{
    EventTypePattern, InvalidEventType, MAX_EVENT_TYPE_CHARS, check_event_type, matching_patterns, subscribed,
};
pub use machine::{Action, Input, Limits, MAX_HELD_BYTES, MAX_READY, MAX_RETRIES_HELD, Machine, RetryChange};
pub use schedule::RetrySchedule;
pub use types::*;
