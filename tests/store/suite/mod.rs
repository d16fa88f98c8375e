//! The rules that `src/store/mod.rs` documents, one function each.

pub mod backlog;
pub mod commit;
pub mod janitor;
pub mod ownership;
pub mod recovery;
pub mod retries;
pub mod status;
pub mod subscriptions;
