//! The embedded store: SQLite.

/// The embedded store: SQLite.
pub struct SqliteStore {}
