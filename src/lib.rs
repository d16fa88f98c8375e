//! Hookpost delivers webhooks: a producer posts an event once, Hookpost makes it durable, answers, and delivers it
//! to the subscriber's URL until it is received or its retry schedule is spent.
//!
//! `ARCHITECTURE.md` walks one event through these modules.

pub mod access;
pub mod actors;
pub mod audit;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod listen;
pub mod metrics;
#[cfg(feature = "negative-controls")]
pub mod negative_controls;
#[cfg(all(feature = "negative-controls", not(debug_assertions)))]
compile_error!("negative-controls loses events on purpose: it is for the tests of debug builds alone");
pub mod outbound;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod vault;
