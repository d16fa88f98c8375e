//! The store on PostgreSQL.

/// The store on PostgreSQL.
pub struct PostgresStore {}
