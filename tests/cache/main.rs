//! The cache against a real Redis: what it keeps and refuses, what it tells other processes, and what a Redis that is
//! killed, hangs or forgets costs.

#![expect(clippy::unwrap_used, reason = "what fails in a test ends it")]

mod app;
mod faults;
mod keeping;
mod server;
mod wire;
