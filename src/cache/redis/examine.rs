//! What `hookpost doctor` asks a Redis.

use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::prelude::{Builder, FredResult};
use fred::types::InfoKind;
use secrecy::SecretString;
use tokio::time::{Instant, timeout};

use super::{CONNECT_TIMEOUT, address};

/// Redis as it was found.
#[derive(Clone, Debug)]
pub struct Examination {
    /// `7.2.4`.
    pub version: String,
    /// How long a ping took.
    pub answered_in: Duration,
    /// `master` or `slave`.
    pub role: String,
    /// Most memory, in bytes, 0 for no bound, and what becomes of keys there.
    pub memory: (u64, String),
}

/// Connects, asks and leaves.
///
/// # Errors
/// In words, without the URL.
pub async fn examine(url: &SecretString) -> Result<Examination, String> {
    let mut config = address::parse(url).map_err(|error| error.to_string())?;
    config.fail_fast = true;
    let mut builder = Builder::from_config(config);
    builder.with_connection_config(|connection| connection.connection_timeout = CONNECT_TIMEOUT);
    builder.with_performance_config(|performance| performance.default_command_timeout = CONNECT_TIMEOUT);
    let client = builder.build().map_err(|error| error.to_string())?;
    let asked = timeout(CONNECT_TIMEOUT * 2, ask(&client)).await;
    let _ = timeout(CONNECT_TIMEOUT, client.quit()).await;
    match asked {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it did not answer within {:?}", CONNECT_TIMEOUT * 2)),
    }
}

async fn ask(client: &fred::prelude::Client) -> FredResult<Examination> {
    client.init().await?;
    let began = Instant::now();
    client.ping::<()>(None).await?;
    let answered_in = began.elapsed();
    let info: String = client.info(Some(InfoKind::All)).await?;
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    Ok(Examination {
        version: value("redis_version"),
        answered_in,
        role: value("role"),
        memory: (value("maxmemory").parse().unwrap_or_default(), value("maxmemory_policy")),
    })
}
