//! The effective configuration: validated values, each with where it came from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use crate::delivery::RetrySchedule;

/// Everything that can be configured, validated. Built once, by `Config::load`, and passed by reference.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the HTTP API listens.
    pub listen: SocketAddr,
    /// Where the embedded store lives.
    pub data_dir: PathBuf,
    /// PostgreSQL; `None` means the embedded store.
    pub database_url: Option<SecretString>,
    /// Redis; `None` means no cache.
    pub redis_url: Option<SecretString>,
    /// Waits between attempts.
    pub retry_schedule: RetrySchedule,
    /// The deadline of a whole attempt, answer included.
    pub attempt_timeout: Duration,
    /// How long deliveries and logs are kept.
    pub retention: Duration,
    /// Private ranges that are allowed as targets all the same.
    pub allow_targets: Vec<IpNet>,
    /// Development mode: loopback targets allowed, no authentication asked for.
    pub dev: bool,
    /// Log filter, as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
    /// How logs are written.
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}
