//! Fresh stores for the service under test, and what the benchmark reads from them behind its back.

use std::time::{Duration, Instant};

use anyhow::Context;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Sqlite,
}

/// Where one service keeps its data.
pub enum Home {
    Postgres { admin_url: String, name: String },
    Sqlite(TempDir),
}

/// How long the last log rows may take to be durable after the last receipt.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

impl Home {
    pub async fn create(kind: Kind, database_url: Option<&str>) -> anyhow::Result<Self> {
        if kind == Kind::Sqlite {
            // Beside the build, on a real disk: the system's temporary directory may be memory.
            return Ok(Self::Sqlite(tempfile::tempdir_in(std::env::current_exe()?.parent().context("a directory")?)?));
        }
        let admin_url =
            database_url.context("needs a PostgreSQL: run `make bench`, or give --database-url")?.to_owned();
        let name = format!("bench_{}_{}", std::process::id(), crate::clock::now_ns());
        connect(&admin_url).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        Ok(Self::Postgres { admin_url, name })
    }

    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Postgres { .. } => vec![("DATABASE_URL", self.url())],
            Self::Sqlite(dir) => vec![("HOOKPOST_DATA_DIR", dir.path().display().to_string())],
        }
    }

    /// The database's own URL.
    pub fn url(&self) -> String {
        let Self::Postgres { admin_url, name } = self else { return String::new() };
        let (base, query) = admin_url.split_once('?').map_or((admin_url.as_str(), ""), |(base, query)| (base, query));
        let server = base.rsplit_once('/').map_or(base, |(server, _)| server);
        if query.is_empty() { format!("{server}/{name}") } else { format!("{server}/{name}?{query}") }
    }

    /// A connection to the database, past the service.
    pub async fn database(&self) -> anyhow::Result<Client> {
        connect(&self.url()).await
    }

    /// How many attempts are logged, once it is so many or [`LOG_PATIENCE`] has passed.
    pub async fn wait_for_logs(&self, expected: usize) -> anyhow::Result<usize> {
        let deadline = Instant::now() + LOG_PATIENCE;
        loop {
            let logged = self.logs().await?;
            if logged >= expected || Instant::now() > deadline {
                return Ok(logged);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn logs(&self) -> anyhow::Result<usize> {
        const COUNT: &str = "SELECT count(*) FROM delivery_logs";
        let count: i64 = match self {
            Self::Postgres { .. } => self.database().await?.query_one(COUNT, &[]).await?.get(0),
            Self::Sqlite(dir) => {
                let file = std::fs::read_dir(dir.path())?
                    .filter_map(Result::ok)
                    .map(|entry| entry.path())
                    .find(|path| path.extension().is_some_and(|extension| extension == "db"))
                    .context("the embedded store's file")?;
                rusqlite::Connection::open(file)?.query_row(COUNT, [], |row| row.get(0))?
            }
        };
        Ok(usize::try_from(count)?)
    }

    pub async fn remove(self) -> anyhow::Result<()> {
        if let Self::Postgres { admin_url, name } = &self {
            let admin = connect(admin_url).await?;
            admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        }
        Ok(())
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("PostgreSQL does not answer")?;
    tokio::spawn(connection);
    Ok(client)
}
