//! Rules of `tests/store` that the store of the simulation keeps, too.

#![expect(dead_code, reason = "shared with tests/store, which runs all of them")]

#[path = "../store/suite/backlog.rs"]
pub mod backlog;
#[path = "../store/suite/changes.rs"]
pub mod changes;
#[path = "../store/suite/commit.rs"]
pub mod commit;
#[path = "../store/suite/janitor.rs"]
pub mod janitor;
#[path = "../store/suite/keys.rs"]
pub mod keys;
#[path = "../store/suite/matching.rs"]
pub mod matching;
#[path = "../store/suite/recovery.rs"]
pub mod recovery;
#[path = "../store/suite/retries.rs"]
pub mod retries;
#[path = "../store/suite/status.rs"]
pub mod status;
#[path = "../store/suite/subscriptions.rs"]
pub mod subscriptions;
