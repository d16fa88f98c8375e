//! Keeps the write-ahead log short without holding the writer up for long.
//!
//! SQLite would copy the log into the database inside of whichever commit makes it too long, and that commit's producers
//! would wait for it. Here the bulk is copied beside the writer, and only what was committed meanwhile is left for a
//! moment in which nobody writes; then the log is empty and the next commit starts it again at its beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::connections::{Connections, Kind};
use crate::store::{Result, StoreError};

/// Length, in pages of 4 KiB, at which the log is copied: long enough that pages written again and again are copied
/// once, short enough to be read quickly after a crash.
const LONG_LOG_PAGES: i64 = 4096;

/// Passes beside the writer. Each is left with what was committed during the one before, so they get shorter.
const PASSES: usize = 2;

/// How often, and after what time each, a log is tried again that another process is copying.
const SETTLE_TRIES: usize = 50;
const SETTLE_RETRY: Duration = Duration::from_millis(10);

/// Copies the log when it is long, one run at a time.
pub(super) struct Checkpointer {
    beside: Connections,
    running: AtomicBool,
}

impl Checkpointer {
    pub fn new(database: std::path::PathBuf) -> Self {
        Self { beside: Connections::new(database, Kind::Checkpointer, 1), running: AtomicBool::new(false) }
    }

    /// Starts a run, unless one is under way, if the log has become `pages` long.
    pub fn committed(self: &Arc<Self>, pages: i64, writer: &Arc<Connections>) {
        if pages < LONG_LOG_PAGES || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (this, writer) = (self.clone(), writer.clone());
        tokio::spawn(async move {
            if let Err(error) = this.run(&writer).await {
                tracing::warn!(%error, "the write-ahead log could not be copied; it will be tried again");
            }
            this.running.store(false, Ordering::Release);
        });
    }

    /// First beside the writer, then what is left in its place.
    pub async fn run(&self, writer: &Connections) -> Result<()> {
        for _ in 0..PASSES {
            self.beside.run(|connection| checkpoint(connection, "PASSIVE")).await?;
        }
        writer.run(|connection| checkpoint(connection, "PASSIVE")).await
    }

    pub async fn close(&self) {
        self.beside.close().await;
    }
}

/// How many pages of the log are in use.
pub(super) fn log_pages(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?.query_row([], |row| row.get(1))
}

/// Copies the log into the database. A reader that still needs an old page is no error: the rest is copied next time.
pub(super) fn checkpoint(connection: &mut Connection, mode: &str) -> Result<()> {
    Ok(connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))?)
}

/// Copies all of the log into the database and syncs that. Pages of the log whose sync failed can be read back and yet never
/// reach the disk: the kernel reports an error once, and then takes them for clean. What is copied is written anew.
pub(super) fn settle(connection: &mut Connection) -> Result<()> {
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let mut tries = 0;
    let (busy, pages, copied) = loop {
        let settled = connection.query_row("PRAGMA wal_checkpoint(FULL)", [], row)?;
        // Other locks are waited for within SQLite, but not the one of another process that copies at this moment: then
        // nothing is known of the log.
        let unknown = settled.1 < 0;
        if !unknown || tries == SETTLE_TRIES {
            break settled;
        }
        tries += 1;
        std::thread::sleep(SETTLE_RETRY);
    };
    if pages < 0 {
        let why = "another process has been copying the log for too long; it is tried again";
        return Err(StoreError::Unavailable(why.to_owned()));
    }
    if busy || copied < pages {
        let why = "another process reads from it, a backup perhaps; it is tried again";
        return Err(StoreError::Unavailable(format!("{copied} of the log's {pages} pages could be copied: {why}")));
    }
    Ok(())
}
