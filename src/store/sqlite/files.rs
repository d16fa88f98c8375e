//! The data directory: who may read it, who owns it, and the schema in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connections::{Kind, open};
use crate::store::{Result, StoreError, migration};

pub(super) mod schema {
    refinery::embed_migrations!("migrations/sqlite");
}
use schema::migrations;

/// Longest wait for another process that applies migrations.
const MIGRATE_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it has finished.
const MIGRATE_POLL: Duration = Duration::from_millis(50);

/// Paths in a data directory.
#[derive(Clone, Debug)]
pub(super) struct DataDir(PathBuf);

impl DataDir {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("hookpost.db")
    }

    /// Creates the directory and an empty database, readable by this user alone: there are secrets in it.
    fn create(&self) -> Result<()> {
        create_private_dir(&self.0)
            .map_err(|error| unavailable("cannot create the data directory", &self.0, &error))?;
        let database = self.database();
        // Only a file that is not there yet is opened here: closing a second handle of a database in use would drop
        // SQLite's own locks on it. SQLite gives the WAL the database's permissions.
        match private_file().create_new(true).open(&database) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(unavailable("cannot create the database", &database, &error))
            }
            _ => Ok(()),
        }
    }

    /// The right to commit, for as long as the returned file is open; the kernel takes it back from a killed process.
    pub fn try_own(&self) -> Result<Option<File>> {
        create_private_dir(&self.0)
            .map_err(|error| unavailable("cannot create the data directory", &self.0, &error))?;
        try_lock(&self.0.join("owner.lock"))
    }

    /// Brings the schema up to date. Waits while another process does so; with nothing to apply it writes nothing, so
    /// that it does not get in the way of the owner.
    pub fn migrate(&self) -> Result<()> {
        self.create()?;
        let lock = self.0.join("migrate.lock");
        let mut waited = Duration::ZERO;
        let _migrating = loop {
            match try_lock(&lock)? {
                Some(held) => break held,
                None if waited < MIGRATE_PATIENCE => std::thread::sleep(MIGRATE_POLL),
                None => {
                    let why = format!("another process has held {} for {MIGRATE_PATIENCE:?}", lock.display());
                    return Err(StoreError::Unavailable(why));
                }
            }
            waited += MIGRATE_POLL;
        };
        let mut connection = open(&self.database(), Kind::Writer)?;
        // A migration may take a column of secrets away: what it leaves is overwritten.
        connection.pragma_update(None, "secure_delete", true)?;
        let (runner, database) = (migrations::runner(), self.database().display().to_string());
        // A new one has no table of them yet.
        let applied = runner.get_last_applied_migration(&mut connection).ok().flatten();
        migration::announce(&database, &runner, applied.as_ref());
        runner.run(&mut connection).map(drop).map_err(|error| migration::failed(&database, &error))
    }
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn try_lock(path: &Path) -> Result<Option<File>> {
    let failed = |error: io::Error| unavailable("cannot lock", path, &error);
    let file = private_file().create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn unavailable(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{what} {}: {error}", path.display()))
}
