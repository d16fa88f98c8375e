//! What leaves the house: the target guard, signatures, and the one HTTP client.

pub mod client;
pub mod guard;
pub mod signing;
