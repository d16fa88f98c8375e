//! The delivery engine: the supervisor, one actor per active subscription, the janitor. HTTP speaks to it through
//! [`Engine`]; nothing else is public.
//!
//! ```text
//! engine ── activate ──▶ supervisor ── spawns, links, restarts ──▶ subscription actor ── machine (src/delivery)
//!    └────── submit ───▶ writer ── committed, recorded ──▶ entry ── cast ──▶ ┘
//! ```

mod accept;
mod announce;
mod attempts;
mod backlog;
mod budget;
mod census;
mod config;
mod disabling;
mod engine;
mod entry;
mod fan_out;
mod ingest;
mod janitor;
mod node;
mod readiness;
mod replays;
mod row;
mod shares;
#[cfg(test)]
mod stage;
mod subscription;
mod supervisor;

pub use accept::{AcceptError, Accepted, Arrival, NewEvent, Published, RequestKey};
pub use engine::{Active, Engine, LiveState, Running};
pub use node::Parts;
pub use readiness::{Check, EngineStatus, Health};
