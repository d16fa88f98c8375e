//! The rules that `src/store/mod.rs` documents, one function each.

pub mod api_keys;
pub mod audit;
pub mod backlog;
pub mod changes;
pub mod commit;
pub mod events;
pub mod janitor;
pub mod keys;
pub mod matching;
pub mod migration;
pub mod ownership;
pub mod recovery;
pub mod replays;
pub mod retries;
pub mod search;
pub mod secrets;
pub mod status;
pub mod subscriptions;
pub mod tenants;
