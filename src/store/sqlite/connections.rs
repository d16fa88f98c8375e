//! Connections: how they are opened, who works on them, and what their errors mean.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;

use super::checkpoint;
use crate::store::{Result, StoreError};

/// Longest wait for the write lock, which only another process on standby can hold (it writes subscriptions), and for a
/// reader of somebody else's while the log is settled.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for every statement of this store, so that none is ever prepared twice.
const STATEMENTS: usize = 64;
/// Pages kept in memory by a connection, in KiB. The writer's hold the ends of all indexes that it appends to.
const WRITER_CACHE_KIB: i32 = 16 * 1024;
const READER_CACHE_KIB: i32 = 2 * 1024;
/// What is left of the write-ahead log's file after a burst has made it grow.
const WAL_KEPT_BYTES: i32 = 64 * 1024 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Reads and writes; checkpoints are left to `checkpoint.rs`.
    Writer,
    /// Reads only.
    Reader,
    /// Copies the write-ahead log into the database.
    Checkpointer,
}

/// Opens a database that exists. What is written through it comes behind nothing that is not on the disk: a process that was
/// killed, or a connection that was given up, may have left pages in the log whose sync had failed.
pub(super) fn open(path: &Path, kind: Kind) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // An acknowledged commit has to survive a power cut: FULL syncs the log at every commit.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    let cache = if matches!(kind, Kind::Writer) { WRITER_CACHE_KIB } else { READER_CACHE_KIB };
    connection.pragma_update(None, "cache_size", -cache)?;
    connection.pragma_update(None, "query_only", matches!(kind, Kind::Reader))?;
    if matches!(kind, Kind::Writer) {
        checkpoint::settle(&mut connection)?;
    }
    Ok(connection)
}

/// A few connections of a kind. Work runs on tokio's blocking threads, one connection each: there a wait for the disk
/// holds up no task, and a test's paused clock stands still until the work is done.
pub(super) struct Connections {
    path: PathBuf,
    kind: Kind,
    count: u32,
    /// In the order of the calls, so that writes happen in the order in which they were asked for.
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Connections {
    /// At most `count`, opened when needed.
    pub fn new(path: PathBuf, kind: Kind, count: u32) -> Self {
        let permits = Arc::new(Semaphore::new(count as usize));
        Self { path, kind, count, permits, idle: Arc::default() }
    }

    /// Runs `work` on a connection of its own, after what was asked for before. It runs to its end even if the caller
    /// stops waiting.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let (path, kind, idle) = (self.path.clone(), self.kind, self.idle.clone());
        let task = tokio::task::spawn_blocking(move || {
            let kept = lock(&idle).pop();
            let mut connection = kept.map_or_else(|| open(&path, kind), Ok)?;
            let result = work(&mut connection);
            // After an I/O error nobody knows what state a connection is in: the next call opens another.
            if !matches!(result, Err(StoreError::Unavailable(_))) {
                lock(&idle).push(connection);
            }
            drop(permit);
            result
        });
        task.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("a call to the store ended: {error}"))))
    }

    /// Waits for what is under way and closes.
    pub async fn close(&self) {
        let _all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        let connections = std::mem::take(&mut *lock(&self.idle));
        let _ = tokio::task::spawn_blocking(move || drop(connections)).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Held for a push or a pop only.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
        match &error {
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) => {
                Self::Corrupt(error.to_string())
            }
            _ => match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
                    Self::Rejected(error.to_string())
                }
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
                // Full, locked, unreadable, not migrated yet: all of it can heal.
                _ => Self::Unavailable(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_stands_still_while_the_store_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        std::fs::write(&path, "").unwrap();
        let connections = Connections::new(path, Kind::Writer, 1);
        let work = connections.run(|connection| Ok(connection.execute_batch("CREATE TABLE t (x)")?));
        let hour = Duration::from_secs(3600);
        tokio::time::timeout(hour, work).await.expect("no time passes meanwhile").unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_failed_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let connections = Connections::new(path.clone(), Kind::Reader, 1);
        let ping = || connections.run(|c| Ok(c.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?));
        let error = ping().await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("x.db"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert_eq!(ping().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        std::fs::write(&path, "not a database, and long enough to be taken for one".repeat(40)).unwrap();
        let connections = Connections::new(path, Kind::Reader, 1);
        let error = connections.run(|_| Ok(())).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_closed_store_refuses_work() {
        let connections = Connections::new(PathBuf::from("unused.db"), Kind::Reader, 2);
        connections.close().await;
        assert!(connections.run(|_| Ok(())).await.is_err());
    }
}
