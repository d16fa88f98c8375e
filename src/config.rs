//! The effective configuration: validated values, each with where it came from.
//!
//! The process is asked once, in [`Config::load`]; [`resolve`] works on what it was handed and is what tests call.
//! Nothing else in the crate reads the environment.

mod error;
mod flags;
pub(crate) mod fuzz;
mod keys;
mod layers;
mod mask;
mod nearest;
mod parse;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::delivery::RetrySchedule;
use crate::traces::Endpoint;
use crate::vault::MasterKey;

pub use error::ConfigError;
pub use flags::Flags;
pub use keys::environment_names;
pub use layers::{ConfigFile, Resolved, Setting, Source, resolve};

/// Largest configuration file read: a hundred times the longest sensible one, so that a wrong path (a device, a dump)
/// fails instead of filling memory.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Everything that can be configured, validated. Built once, by [`Config::load`], and passed by reference.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the HTTP API listens.
    pub listen: SocketAddr,
    /// How callers are authenticated.
    pub auth: Auth,
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
    /// Most subscriptions of a tenant.
    pub max_subscriptions: u64,
    /// Private ranges that are allowed as targets all the same.
    pub allow_targets: Vec<IpNet>,
    /// Whether targets outside of those ranges must be `https`.
    pub require_https: bool,
    /// Ports that are never a target.
    pub refused_ports: Vec<u16>,
    /// Name servers that are asked for targets; none means the system's.
    pub dns_servers: Vec<SocketAddr>,
    /// What secrets are sealed under: the first seals, all of them open. [`Config::load`] fills in those of the file.
    pub master_keys: Vec<MasterKey>,
    /// Where they are, if not in a variable.
    pub master_key_file: Option<PathBuf>,
    /// Development mode: loopback targets allowed, nobody asked who they are unless `auth` says so, secrets kept as they are
    /// without a master key.
    pub dev: bool,
    /// Where spans are sent; none means nowhere.
    pub otlp_endpoint: Option<Endpoint>,
    /// Log filter, as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
    /// How logs are written.
    pub log_format: LogFormat,
}

/// How callers are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// By API keys.
    Keys,
    /// Not at all: whoever reaches the listener may do everything.
    Off,
}

impl Auth {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Off => "off",
        }
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads the file and the environment of this process, and puts the flags on top.
    ///
    /// # Errors
    /// One line that names the setting, where it was set, what was found and what is expected.
    pub fn load(flags: &Flags) -> Result<Resolved, ConfigError> {
        let env = environment()?;
        let path = flags.config.clone().or_else(|| {
            env.get(keys::CONFIG_VARIABLE).filter(|path| !path.trim().is_empty()).map(|path| PathBuf::from(path.trim()))
        });
        let file = path.map(read_file).transpose()?;
        let mut resolved = resolve(file.as_ref(), &env, flags)?;
        if let Some(path) = &resolved.config.master_key_file {
            resolved.config.master_keys = read_master_keys(path)?;
        }
        Ok(resolved)
    }

    /// Whether only this machine can reach the listener.
    pub fn on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// The store in words, for people.
    pub fn store(&self) -> String {
        match &self.database_url {
            Some(_) => "PostgreSQL".to_owned(),
            None => format!("embedded store in {}", self.data_dir.display()),
        }
    }
}

/// The variables of this process that concern Hookpost. Others are none of its business, whatever bytes they hold.
#[expect(clippy::disallowed_methods, reason = "this is the edge that the ban points to")]
fn environment() -> Result<BTreeMap<String, String>, ConfigError> {
    std::env::vars_os()
        .filter_map(|(name, value)| name.into_string().ok().filter(|name| keys::concerns_us(name)).map(|n| (n, value)))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::NotText { name: error::variable(&name) }),
        })
        .collect()
}

fn read_file(path: PathBuf) -> Result<ConfigFile, ConfigError> {
    match read_capped(&path) {
        Ok(text) => Ok(ConfigFile { path, text }),
        Err(error) => Err(ConfigError::Unreadable { path, error: error.to_string() }),
    }
}

fn read_master_keys(path: &Path) -> Result<Vec<MasterKey>, ConfigError> {
    let text = read_capped(path).map(Zeroizing::new).map_err(|error| error.to_string());
    let keys = text.and_then(|text| parse::master_keys(&text)).and_then(|keys| match keys.is_empty() {
        true => Err("there is no key in it".to_owned()),
        false => Ok(keys),
    });
    keys.map_err(|problem| ConfigError::MasterKeyFile { path: path.to_owned(), problem })
}

fn read_capped(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
