//! The delivery engine: the supervisor, one actor per active subscription, the janitor. HTTP speaks to it through
//! [`Engine`]; nothing else is public.

mod engine;

pub use engine::{AcceptError, Active, Engine, EngineStatus};
