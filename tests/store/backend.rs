//! Stores to test: each test has one of its own, made fresh and removed at the end, also when the test fails.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use hookpost::store::{PostgresStore, SqliteStore, Store};
use rusqlite::types::ValueRef;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio_postgres::NoTls;
use url::Url;

use crate::fixtures::T0;

/// A place for a store. Every [`Backend::open`] is a process of its own, as far as the store can tell.
pub enum Backend {
    Sqlite { dir: TempDir },
    Postgres { server: Url, database: String },
}

impl Backend {
    pub fn sqlite() -> Self {
        Self::Sqlite { dir: TempDir::new().unwrap() }
    }

    pub async fn postgres() -> Self {
        let server = server_url();
        let database = format!("hookpost_test_{}", uuid::Uuid::new_v4().simple());
        execute(&server, &format!("CREATE DATABASE {database}")).await;
        Self::Postgres { server, database }
    }

    /// A store as a process finds it: neither migrated nor acquired.
    pub fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite { dir } => Arc::new(SqliteStore::open(dir.path()).unwrap()),
            Self::Postgres { .. } => {
                Arc::new(PostgresStore::connect(&SecretString::from(self.database_url().to_string())).unwrap())
            }
        }
    }

    /// A store that is migrated at [`T0`] and acquired.
    pub async fn owned(&self) -> Arc<dyn Store> {
        let store = self.open();
        store.migrate(T0).await.unwrap();
        assert!(store.acquire().await.unwrap(), "a fresh store has no other owner");
        store
    }

    /// Changes the schema behind the store's back, so that it refuses every row of `retries`.
    pub async fn refuse_retries(&self) {
        match self {
            Self::Sqlite { dir } => rusqlite::Connection::open(dir.path().join("hookpost.db"))
                .unwrap()
                .execute_batch(
                    "CREATE TRIGGER refuse BEFORE INSERT ON retries BEGIN SELECT RAISE(ABORT, 'refused'); END",
                )
                .unwrap(),
            Self::Postgres { .. } => {
                execute(&self.database_url(), "ALTER TABLE retries ADD CHECK (attempt_number < 0)").await;
            }
        }
    }

    /// All rows of a small table, as text; bytes in hexadecimal and, where they are text, as that.
    pub async fn dump(&self, table: &str) -> String {
        match self {
            Self::Sqlite { dir } => {
                let database = rusqlite::Connection::open(dir.path().join("hookpost.db")).unwrap();
                let mut select = database.prepare(&format!("SELECT * FROM {table}")).unwrap();
                let mut rows = select.query([]).unwrap();
                let mut dump = String::new();
                while let Some(row) = rows.next().unwrap() {
                    for value in (0..).map_while(|column| row.get_ref(column).ok()) {
                        dump += &match value {
                            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => {
                                format!("{} {} ", hex::encode(bytes), String::from_utf8_lossy(bytes))
                            }
                            other => format!("{other:?} "),
                        };
                    }
                }
                dump
            }
            Self::Postgres { .. } => {
                let (client, connection) = tokio_postgres::connect(self.database_url().as_str(), NoTls).await.unwrap();
                tokio::spawn(connection);
                let rows = client.query(&format!("SELECT t::text FROM {table} t"), &[]).await.unwrap();
                rows.iter().map(|row| row.get::<_, String>(0)).collect()
            }
        }
    }

    /// How large the database is, in bytes.
    pub async fn size(&self) -> i64 {
        match self {
            Self::Sqlite { dir } => {
                let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
                let database = rusqlite::Connection::open(dir.path().join("hookpost.db")).unwrap();
                database.query_row(sql, [], |row| row.get(0)).unwrap()
            }
            Self::Postgres { .. } => {
                let (client, connection) = tokio_postgres::connect(self.database_url().as_str(), NoTls).await.unwrap();
                tokio::spawn(connection);
                client.query_one("SELECT pg_database_size(current_database())", &[]).await.unwrap().get(0)
            }
        }
    }

    /// Runs the test, then removes the store whatever came of it.
    pub async fn check(&self, test: impl Future<Output = ()>) {
        let outcome = AssertUnwindSafe(test).catch_unwind().await;
        if let Self::Postgres { server, database } = self {
            execute(server, &format!("DROP DATABASE {database} WITH (FORCE)")).await;
        }
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    pub fn database_url(&self) -> Url {
        let Self::Postgres { server, database } = self else { panic!("only PostgreSQL has a URL") };
        let mut url = server.clone();
        url.set_path(database);
        url
    }
}

#[expect(clippy::disallowed_methods, reason = "where the test server is can only come from outside")]
fn server_url() -> Url {
    let url = std::env::var("TEST_DATABASE_URL").expect("set TEST_DATABASE_URL, or run make test");
    Url::parse(&url).expect("TEST_DATABASE_URL must look like postgres://user@127.0.0.1:5432/postgres")
}

async fn execute(url: &Url, statement: &str) {
    let (client, connection) = tokio_postgres::connect(url.as_str(), NoTls).await.expect("TEST_DATABASE_URL answers");
    let connection = tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}
