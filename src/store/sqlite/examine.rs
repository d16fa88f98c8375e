//! What `hookpost doctor` finds in a data directory. Nothing is created, and the row that is written is taken back.

use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tokio::time::Instant;

use super::connections::{Kind, open};
use super::files::DataDir;
use super::files::schema::migrations;
use super::reads;
use crate::delivery::DeliveryId;
use crate::store::{Examination, Result};

/// The store in `data_dir`; `None` when there is none yet.
///
/// # Errors
/// When it cannot be opened or read.
pub fn examine(data_dir: &Path) -> Result<Option<Examination>> {
    let dir = DataDir::new(data_dir);
    if !dir.database().exists() {
        return Ok(None);
    }
    let began = Instant::now();
    let mut connection = open(&dir.database(), Kind::Writer)?;
    let applied = applied(&connection)?;
    let known = migrations::runner().get_migrations().iter().map(|migration| migration.version()).max();
    let migrated = applied > 0;
    let watermark = if migrated { reads::watermark(&connection)? } else { None };
    let answered_in = began.elapsed();
    Ok(Some(Examination {
        product: format!("SQLite {}", rusqlite::version()),
        answered_in,
        schema: (applied, u32::try_from(known.unwrap_or_default()).unwrap_or_default()),
        writable: migrated.then(|| write(&mut connection).map_err(|error| error.to_string())),
        owner: is_owned(data_dir).then(|| "a process of this machine".to_owned()),
        watermark: watermark.map(DeliveryId::accepted_at),
        clocks: None,
        undurable: Vec::new(),
        connections: None,
    }))
}

fn applied(connection: &Connection) -> rusqlite::Result<u32> {
    let table = "SELECT 1 FROM sqlite_master WHERE name = 'refinery_schema_history'";
    if connection.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    let last = "SELECT max(version) FROM refinery_schema_history";
    Ok(connection.query_row(last, [], |row| row.get::<_, Option<u32>>(0))?.unwrap_or_default())
}

fn write(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT INTO positions (subscription_id, delivery_id) VALUES (-1, zeroblob(16))", [])?;
    transaction.rollback()
}

/// A shared lock, and only for this moment: the owner's is exclusive.
fn is_owned(data_dir: &Path) -> bool {
    let file = OpenOptions::new().read(true).open(data_dir.join("owner.lock"));
    file.is_ok_and(|file| file.try_lock_shared().is_err())
}
