//! The flags that configure. Their values are texts still: they are judged with those of the other layers.

use std::path::PathBuf;

use secrecy::SecretString;

/// Flags go over the environment, which goes over the file, which goes over the defaults.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file in TOML, with the keys that `hookpost config` prints [env: HOOKPOST_CONFIG]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Development: loopback targets are allowed, nobody is asked for an API key, secrets need no master key, and the
    /// log tells of every delivery
    #[arg(long)]
    pub dev: bool,
    /// IP address and port of the HTTP API [env: HOOKPOST_LISTEN] [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// Where the embedded store lives [env: HOOKPOST_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// PostgreSQL, instead of the embedded store [env: DATABASE_URL, where other users cannot read its password]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// Redis, as a cache in front of the store [env: REDIS_URL]
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<SecretString>,
}
