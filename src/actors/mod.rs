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
mod config;
mod disabling;
mod engine;
mod entry;
mod fan_out;
mod janitor;
mod node;
mod replays;
mod shares;
mod subscription;
mod supervisor;

pub use accept::{AcceptError, Accepted, NewEvent, Published, RequestKey};
pub use engine::{Active, Engine, EngineStatus, LiveState, Running};
pub use node::Parts;
