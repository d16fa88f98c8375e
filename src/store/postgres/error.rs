//! What an error of the server or the connection means to the store's callers.

use std::error::Error as _;

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::super::StoreError;

/// The server's classes of errors that blame the data: the same call would fail again. 21 cardinality violation,
/// 22 data exception, 23 integrity constraint violation, 54 program limit exceeded.
const DATA_CLASSES: [&str; 4] = ["21", "22", "23", "54"];

const HELD_KEY: &str = "an idempotency key is held already, by another request";

/// Whatever is not about the data may pass: a lost connection, a full disk, a server that starts or shuts down, a
/// standby that took over and cannot be written yet, a schema that is not migrated yet.
pub(super) fn store_error(error: Error) -> StoreError {
    match error.as_db_error() {
        Some(db) => {
            let message = if is_held_key(&error) { HELD_KEY } else { db.message() };
            let text = format!("{message} (SQLSTATE {})", db.code().code());
            match db.code().code().get(..2) {
                Some(class) if DATA_CLASSES.contains(&class) => StoreError::Rejected(text),
                _ => StoreError::Unavailable(text),
            }
        }
        None => StoreError::Unavailable(with_cause(&error)),
    }
}

/// A connection could not be had from the pool.
pub(super) fn pool_error(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => store_error(error),
        PoolError::Timeout(_) => StoreError::Unavailable("no connection within its deadline".to_owned()),
        other => StoreError::Unavailable(other.to_string()),
    }
}

/// No answer in time. The connection must not be used again: what was asked may still be going on.
pub(super) fn too_slow(what: &str) -> StoreError {
    StoreError::Unavailable(format!("{what} had no answer within its deadline"))
}

/// The batch has a key that stands for something else already: see `Keys::sql_again`.
fn is_held_key(error: &Error) -> bool {
    error
        .as_db_error()
        .is_some_and(|db| *db.code() == SqlState::NOT_NULL_VIOLATION && db.table() == Some("idempotency_keys"))
}

/// A row that has no partition to go to. The tables that are partitioned have no check constraint of their own.
pub(super) fn is_missing_partition(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        *db.code() == SqlState::CHECK_VIOLATION
            && db.constraint().is_none()
            && matches!(db.table(), Some("events" | "deliveries" | "delivery_logs"))
    })
}

/// A lock was not to be had in time, or a statement took too long: worth another try in the janitor's next run.
pub(super) fn gave_way(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
    })
}

fn with_cause(error: &Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
