//! What `hookpost doctor` asks a PostgreSQL. One connection, read only but for a row that is taken back.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::super::{Examination, Result};
use super::connection::{Purpose, READ_DEADLINE};
use super::error::{store_error, too_slow};
use super::{PostgresStore, schema};
use crate::clock::Clock;
use crate::delivery::{DeliveryId, Timestamp};

/// More than any subscription has.
const NOBODY: i64 = -1;
/// Who holds the lock that `owner.rs` takes.
const OWNER: &str = "SELECT coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the same machine'), l.pid,
         to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
     FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1215261800 AND l.objsubid = 2
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.objid = to_regclass('deliveries')::oid";

impl PostgresStore {
    /// Looks at the server and at what is in the database.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn examine(&self, clock: &Clock) -> Result<Examination> {
        let session = self.connector.open(Purpose::Maintenance).await?;
        let examined = timeout(READ_DEADLINE, examine(&session.client, clock)).await;
        examined.map_err(|_| too_slow("examining the server"))?.map_err(store_error)
    }
}

async fn examine(client: &Client, clock: &Clock) -> Result<Examination, Error> {
    let began = Instant::now();
    let server_ms: i64 =
        client.query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]).await?.get(0);
    let answered_in = began.elapsed();
    // Its answer is half of the way back.
    let ours = clock.wall() - answered_in / 2;
    let version: String = client.query_one("SELECT current_setting('server_version')", &[]).await?.get(0);
    let applied = applied(client).await?;
    let known = schema::migrations::runner().get_migrations().iter().map(|migration| migration.version()).max();
    let migrated = applied > 0;
    let watermark = if migrated { super::recovery::read_watermark(client).await? } else { None };
    Ok(Examination {
        product: format!("PostgreSQL {version}"),
        answered_in,
        schema: (applied, u32::try_from(known.unwrap_or_default()).unwrap_or_default()),
        owner: if migrated { owner(client).await? } else { None },
        watermark: watermark.map(DeliveryId::accepted_at),
        clocks: Some((Timestamp(server_ms), ours)),
        undurable: undurable(client).await?,
        connections: Some(connections(client).await?),
        writable: if migrated { Some(write(client).await) } else { None },
    })
}

async fn applied(client: &Client) -> Result<u32, Error> {
    let known: bool = client.query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[]).await?.get(0);
    if !known {
        return Ok(0);
    }
    let last: Option<i32> = client.query_one("SELECT max(version) FROM refinery_schema_history", &[]).await?.get(0);
    Ok(last.and_then(|version| u32::try_from(version).ok()).unwrap_or_default())
}

async fn owner(client: &Client) -> Result<Option<String>, Error> {
    let found = client.query_opt(OWNER, &[]).await?;
    Ok(found.map(|row| {
        let (name, host, pid): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
        let since: Option<String> = row.get(3);
        format!("{name} at {host} (backend {pid}, since {} UTC)", since.as_deref().unwrap_or("an unknown time"))
    }))
}

/// A session asks for `synchronous_commit` itself; these are the server's alone.
async fn undurable(client: &Client) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for (setting, lost) in [
        ("fsync", "a crash of the server's machine can lose or destroy what was committed"),
        ("full_page_writes", "a crash of the server's machine can destroy pages"),
    ] {
        let off: bool = client.query_one("SELECT NOT current_setting($1)::boolean", &[&setting]).await?.get(0);
        if off {
            found.push(format!("{setting} is off: {lost}"));
        }
    }
    let commit: String = client.query_one("SELECT current_setting('synchronous_commit')", &[]).await?.get(0);
    if commit == "off" || commit == "local" {
        found.push(format!("synchronous_commit is {commit} although the session asked for on"));
    }
    Ok(found)
}

async fn connections(client: &Client) -> Result<(i64, i64), Error> {
    const SQL: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
         current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint";
    let row = client.query_one(SQL, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// A row that is taken back.
async fn write(client: &Client) -> Result<(), String> {
    let attempt = async {
        client.batch_execute("BEGIN").await?;
        let sql = "INSERT INTO positions (subscription_id, position) VALUES ($1, $2)";
        let written = client.execute(sql, &[&NOBODY, &Uuid::nil()]).await;
        client.batch_execute("ROLLBACK").await?;
        written
    };
    attempt.await.map(drop).map_err(|error| store_error(error).to_string())
}

/// Sessions that a running service opens at most: the writer's, the pools', and one each for maintenance and a standby's
/// question.
pub const SESSIONS: i64 = 14;

/// How long a clock may differ before it matters: below it retries and keys are a little early or late.
pub const MAX_SKEW: Duration = Duration::from_secs(2);
