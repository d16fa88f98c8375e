//! What leaves the house: the target guard, signatures, and the one HTTP client.

mod answer;
pub mod client;
mod connect;
mod connection;
mod failure;
pub(crate) mod fuzz;
pub mod guard;
pub mod options;
mod pool;
mod ranges;
mod resolver;
pub mod signing;
mod target;
#[cfg(test)]
mod test_receiver;
mod tls;

pub use connect::Dial;
pub use target::MAX_TARGET_URL_BYTES;
