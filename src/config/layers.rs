//! Puts the layers on top of each other and judges what comes out. Pure: everything is handed in.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::ExposeSecret;
use serde::Serialize;
use toml::{Table, Value};

use super::error::{self, Found};
use super::keys::{self, Key};
use super::{Auth, Config, ConfigError, Flags, mask, nearest, parse};
use crate::delivery::RetrySchedule;

const DEFAULTS: &str = include_str!("../../config/default.toml");
/// What `--dev` logs: enough for somebody who watches one delivery at a time.
const DEV_LOG: &str = "info,hookpost=debug";
/// What `--dev` allows as targets besides: a receiver on the same machine.
const DEV_TARGETS: &str = "127.0.0.0/8,::1/128";

/// A configuration file that has been read.
#[derive(Clone)]
pub struct ConfigFile {
    /// Where it was.
    pub path: PathBuf,
    /// What was in it.
    pub text: String,
}

/// Shows where it was; what was in it may be secret.
impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigFile({})", self.path.display())
    }
}

/// The configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What is in effect.
    pub config: Config,
    /// The same as texts without secrets, for people.
    pub settings: Vec<Setting>,
}

/// One setting as `hookpost config` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As in the file.
    pub name: &'static str,
    /// Passwords are masked; empty when it is not set.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// `config/default.toml`.
    #[default]
    Default,
    /// What `--dev` stands for.
    Dev,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Env(&'static str),
    /// This flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Dev => f.write_str("flag --dev"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The effective configuration of these layers, the later over the earlier: the defaults, `--dev`, the file, the
/// environment, the flags.
///
/// # Errors
/// The first wrong value or unknown name, in one line.
pub fn resolve(
    file: Option<&ConfigFile>,
    env: &BTreeMap<String, String>,
    flags: &Flags,
) -> Result<Resolved, ConfigError> {
    let mut layers = Layers::default();
    layers.add_toml(Path::new("config/default.toml"), DEFAULTS, &Source::Default)?;
    if flags.dev {
        layers.set(keys::LOG.name, DEV_LOG, Source::Dev);
    }
    if let Some(ConfigFile { path, text }) = file {
        layers.add_toml(path, text, &Source::File(path.clone()))?;
    }
    layers.add_environment(env)?;
    layers.add_flags(flags);
    let config = layers.judge(flags.dev)?;
    let settings = layers.settings(&config);
    Ok(Resolved { config, settings })
}

/// The topmost text of each setting.
#[derive(Default)]
struct Layers(BTreeMap<&'static str, (String, Source)>);

impl Layers {
    fn set(&mut self, name: &'static str, text: &str, source: Source) {
        let text = text.trim().to_owned();
        if let Some(other) = stands_for(name).filter(|_| !text.is_empty()) {
            self.0.retain(|name, (_, earlier)| *name != other || discriminant(earlier) == discriminant(&source));
        }
        self.0.insert(name, (text, source));
    }

    fn add_toml(&mut self, path: &Path, text: &str, source: &Source) -> Result<(), ConfigError> {
        let table: Table = text.parse().map_err(|error| syntax(path, text, &error))?;
        for (name, value) in table {
            let Some(key) = keys::ALL.iter().find(|key| key.name == name) else {
                let known: Vec<_> = keys::ALL.iter().map(|key| key.name).collect();
                let suggestion = nearest::suggestion(&name, &known);
                return Err(ConfigError::UnknownKey { key: Found::new(&name), path: path.to_owned(), suggestion });
            };
            let text = text_of(&value).ok_or_else(|| invalid_type(key, source, &value))?;
            self.set(key.name, &text, source.clone());
        }
        Ok(())
    }

    fn add_environment(&mut self, env: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        // An empty variable is an unset one: that is what `${NAME:-}` in a compose file hands over.
        for (name, value) in env.iter().filter(|(_, value)| !value.trim().is_empty()) {
            match keys::ALL.iter().find(|key| key.env == name) {
                Some(key) => self.set(key.name, value, Source::Env(key.env)),
                None if name == keys::CONFIG_VARIABLE || !keys::concerns_us(name) => {}
                None if keys::is_service_link(name, value) => {}
                None => {
                    let known: Vec<_> = keys::environment_names().collect();
                    let suggestion = nearest::suggestion(name, &known);
                    return Err(ConfigError::UnknownVariable { name: error::variable(name), suggestion });
                }
            }
        }
        Ok(())
    }

    fn add_flags(&mut self, flags: &Flags) {
        let exposed = |secret: &Option<secrecy::SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
        for (key, flag, text) in [
            (&keys::LISTEN, "--listen", flags.listen.clone()),
            (&keys::DATA_DIR, "--data-dir", flags.data_dir.clone()),
            (&keys::DATABASE_URL, "--database-url", exposed(&flags.database_url)),
            (&keys::REDIS_URL, "--redis-url", exposed(&flags.redis_url)),
        ] {
            if let Some(text) = text {
                self.set(key.name, &text, Source::Flag(flag));
            }
        }
    }

    fn judge(&self, dev: bool) -> Result<Config, ConfigError> {
        let config = Config {
            listen: self.read(&keys::LISTEN, parse::listen)?,
            auth: self.read(&keys::AUTH, parse::auth)?.unwrap_or(if dev { Auth::Off } else { Auth::Keys }),
            data_dir: self.read(&keys::DATA_DIR, parse::data_dir)?,
            database_url: self.read(&keys::DATABASE_URL, parse::database_url)?,
            redis_url: self.read(&keys::REDIS_URL, parse::redis_url)?,
            retry_schedule: self.read(&keys::RETRY_SCHEDULE, parse::retry_schedule)?,
            attempt_timeout: self.read(&keys::ATTEMPT_TIMEOUT, parse::attempt_timeout)?,
            retention: self.read(&keys::RETENTION, parse::retention)?,
            max_subscriptions: self.read(&keys::MAX_SUBSCRIPTIONS, parse::max_subscriptions)?,
            allow_targets: with_dev(self.read(&keys::ALLOW_TARGETS, parse::allow_targets)?, dev),
            require_https: self.read(&keys::REQUIRE_HTTPS, parse::require_https)?,
            refused_ports: self.read(&keys::REFUSED_PORTS, parse::refused_ports)?,
            dns_servers: self.read(&keys::DNS_SERVERS, parse::dns_servers)?,
            master_keys: self.read(&keys::MASTER_KEY, parse::master_keys)?,
            master_key_file: self.read(&keys::MASTER_KEY_FILE, parse::master_key_file)?,
            dev,
            otlp_endpoint: self.read(&keys::OTLP_ENDPOINT, parse::otlp_endpoint)?,
            log: self.read(&keys::LOG, parse::log)?,
            log_format: self.read(&keys::LOG_FORMAT, parse::log_format)?,
        };
        // A delivery that outlives its retention ends as a failure: the last waits would never be reached.
        let waits = total(&config.retry_schedule);
        if waits >= config.retention {
            let problem = format!("its waits add up to {}", humantime::format_duration(waits));
            return Err(self.invalid(&keys::RETRY_SCHEDULE, problem, "a schedule that is over before the retention"));
        }
        self.refuse_two_of_master_keys()?;
        Ok(config)
    }

    /// From one layer, that is: a later layer's ends that of an earlier one.
    fn refuse_two_of_master_keys(&self) -> Result<(), ConfigError> {
        let source = |key: &Key| self.0.get(key.name).filter(|(text, _)| !text.is_empty()).map(|(_, source)| source);
        let (Some(one), Some(_)) = (source(&keys::MASTER_KEY), source(&keys::MASTER_KEY_FILE)) else { return Ok(()) };
        let problem = format!("master_key is set by the {one}, too");
        Err(self.invalid(&keys::MASTER_KEY_FILE, problem, "only one of the two"))
    }

    fn read<T>(&self, key: &Key, parse: fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let text = self.0.get(key.name).map_or("", |(text, _)| text);
        parse(text).map_err(|problem| self.invalid(key, problem, key.expected))
    }

    fn invalid(&self, key: &Key, problem: String, expected: &'static str) -> ConfigError {
        let (_, origin) = self.0.get(key.name).cloned().unwrap_or_default();
        ConfigError::Invalid { name: key.name, origin, found: Found::new(&self.shown(key)), problem, expected }
    }

    /// The text of a setting, without its secrets.
    fn shown(&self, key: &Key) -> String {
        let text = self.0.get(key.name).map_or("", |(text, _)| text);
        match key.name {
            name if name == keys::MASTER_KEY.name => mask::mask_all(text),
            name if name.ends_with("_url") || name == keys::OTLP_ENDPOINT.name => mask::mask_url(text),
            _ => text.to_owned(),
        }
    }

    fn settings(&self, config: &Config) -> Vec<Setting> {
        let source = |key: &Key| self.0.get(key.name).map(|(_, source)| source.clone()).unwrap_or_default();
        let mut settings: Vec<_> = keys::ALL
            .iter()
            .map(|key| Setting { name: key.name, value: self.shown(key), source: source(key) })
            .collect();
        for setting in settings.iter_mut().filter(|setting| setting.name == keys::AUTH.name && setting.value.is_empty())
        {
            setting.value = config.auth.as_str().to_owned();
            setting.source = if config.dev { Source::Dev } else { Source::Default };
        }
        if config.dev {
            let ranges: Vec<_> = config.allow_targets.iter().map(IpNet::to_string).collect();
            for setting in settings.iter_mut().filter(|setting| setting.name == keys::ALLOW_TARGETS.name) {
                setting.value = ranges.join(",");
                setting.source = if setting.source == Source::Default { Source::Dev } else { setting.source.clone() };
            }
        }
        let source = if config.dev { Source::Dev } else { Source::Default };
        settings.push(Setting { name: "dev", value: config.dev.to_string(), source });
        settings
    }
}

/// The setting that says the same in another way: that of a later layer ends that of an earlier one.
fn stands_for(name: &str) -> Option<&'static str> {
    let (key, file) = (keys::MASTER_KEY.name, keys::MASTER_KEY_FILE.name);
    [(key, file), (file, key)].into_iter().find(|(one, _)| *one == name).map(|(_, other)| other)
}

fn with_dev(mut ranges: Vec<IpNet>, dev: bool) -> Vec<IpNet> {
    if dev {
        ranges.extend(parse::allow_targets(DEV_TARGETS).unwrap_or_default());
        ranges.sort();
        ranges.dedup();
    }
    ranges
}

fn total(schedule: &RetrySchedule) -> Duration {
    (1..).map_while(|attempt| schedule.wait_after(attempt)).sum()
}

/// A value of the file as it would be written in the environment; `None` for what no setting is.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(text_of_scalar).collect();
            items.map(|items| items.join(","))
        }
        scalar => text_of_scalar(scalar),
    }
}

fn text_of_scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(answer) => Some(answer.to_string()),
        _ => None,
    }
}

fn invalid_type(key: &Key, source: &Source, value: &Value) -> ConfigError {
    let kind = Found::new(value.type_str());
    let (origin, problem) = (source.clone(), "it has to be a string".to_owned());
    ConfigError::Invalid { name: key.name, origin, found: kind, problem, expected: key.expected }
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
    let problem = error.message().replace('\n', "; ");
    ConfigError::Syntax { path: path.to_owned(), line: before.matches('\n').count() + 1, problem }
}
