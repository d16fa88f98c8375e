//! What can be set, and what each setting is called in each layer.

/// A setting.
#[derive(Debug)]
pub(super) struct Key {
    /// In the file and in messages.
    pub name: &'static str,
    /// In the environment.
    pub env: &'static str,
    /// For people, after "expected".
    pub expected: &'static str,
}

const fn key(name: &'static str, env: &'static str, expected: &'static str) -> Key {
    Key { name, env, expected }
}

/// Names the configuration file. Not a setting itself: it says where settings are.
pub(super) const CONFIG_VARIABLE: &str = "HOOKPOST_CONFIG";
/// What our own variables begin with.
const PREFIX: &str = "HOOKPOST_";

pub(super) static LISTEN: Key =
    key("listen", "HOOKPOST_LISTEN", "an IP address and a port, such as 127.0.0.1:8000 or [::1]:8000");
pub(super) static AUTH: Key = key("auth", "HOOKPOST_AUTH", "keys, off, or nothing (keys; with --dev, off)");
pub(super) static DATABASE_URL: Key =
    key("database_url", "DATABASE_URL", "a URL such as postgres://user:password@host:5432/database");
pub(super) static DATA_DIR: Key = key("data_dir", "HOOKPOST_DATA_DIR", "a directory, such as ./data");
pub(super) static REDIS_URL: Key =
    key("redis_url", "REDIS_URL", "a URL such as redis://user:password@host:6379, or rediss:// for TLS");
pub(super) static RETRY_SCHEDULE: Key =
    key("retry_schedule", "HOOKPOST_RETRY_SCHEDULE", "waits such as 10s,30s,1m,5m,15m, or none");
pub(super) static ATTEMPT_TIMEOUT: Key =
    key("attempt_timeout", "HOOKPOST_ATTEMPT_TIMEOUT", "a duration from 100ms to 5m, such as 10s");
pub(super) static RETENTION: Key = key("retention", "HOOKPOST_RETENTION", "a duration from 1h to 366days, such as 72h");
pub(super) static MAX_SUBSCRIPTIONS: Key =
    key("max_subscriptions", "HOOKPOST_MAX_SUBSCRIPTIONS", "a whole number from 1 to 10000000");
pub(super) static ALLOW_TARGETS: Key = key(
    "allow_targets",
    "HOOKPOST_ALLOW_TARGETS",
    "at most 64 ranges or addresses separated by commas, such as 10.1.0.0/16,192.168.7.7",
);
pub(super) static REQUIRE_HTTPS: Key = key("require_https", "HOOKPOST_REQUIRE_HTTPS", "true or false");
pub(super) static REFUSED_PORTS: Key =
    key("refused_ports", "HOOKPOST_REFUSED_PORTS", "at most 256 ports separated by commas, such as 25,6379, or none");
pub(super) static DNS_SERVERS: Key = key(
    "dns_servers",
    "HOOKPOST_DNS_SERVERS",
    "at most 3 addresses of name servers separated by commas, such as 10.0.0.53,10.0.1.53:5353, or nothing",
);
pub(super) static MASTER_KEY: Key = key(
    "master_key",
    "HOOKPOST_MASTER_KEY",
    "at most 16 keys separated by commas, each base64 of 32 bytes as `hookpost keys new-master` makes them, or nothing",
);
pub(super) static MASTER_KEY_FILE: Key = key(
    "master_key_file",
    "HOOKPOST_MASTER_KEY_FILE",
    "a file with one master key a line, in place of HOOKPOST_MASTER_KEY, or nothing",
);
pub(super) static OTLP_ENDPOINT: Key = key(
    "otlp_endpoint",
    "HOOKPOST_OTLP_ENDPOINT",
    "the http or https URL of a collector's OTLP/HTTP receiver without credentials, such as http://localhost:4318, or nothing",
);
pub(super) static LOG: Key =
    key("log", "HOOKPOST_LOG", "a level (error, warn, info, debug, trace) or directives such as info,hookpost=debug");
pub(super) static LOG_FORMAT: Key = key("log_format", "HOOKPOST_LOG_FORMAT", "pretty or json");

/// All of them, in the order in which they are shown.
pub(super) static ALL: [&Key; 18] = [
    &LISTEN,
    &AUTH,
    &DATABASE_URL,
    &DATA_DIR,
    &REDIS_URL,
    &RETRY_SCHEDULE,
    &ATTEMPT_TIMEOUT,
    &RETENTION,
    &MAX_SUBSCRIPTIONS,
    &ALLOW_TARGETS,
    &REQUIRE_HTTPS,
    &REFUSED_PORTS,
    &DNS_SERVERS,
    &MASTER_KEY,
    &MASTER_KEY_FILE,
    &OTLP_ENDPOINT,
    &LOG,
    &LOG_FORMAT,
];

/// The names of all variables that are read.
pub fn environment_names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|key| key.env).chain([CONFIG_VARIABLE])
}

/// Whether a variable is read, or is one of ours by its name.
pub(super) fn concerns_us(name: &str) -> bool {
    name.starts_with(PREFIX) || ALL.iter().any(|key| key.env == name)
}

/// Whether a variable is one of those that Kubernetes puts into every pod for a Service that happens to be called
/// `hookpost`, such as `HOOKPOST_SERVICE_HOST` or `HOOKPOST_PORT=tcp://10.0.0.1:80`. Nobody set them; they are ignored.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let (_, last) = name.rsplit_once("_PORT").unwrap_or((name, "?"));
    let port = last.is_empty() && (value.starts_with("tcp://") || value.starts_with("udp://"));
    let numbered = name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || port || numbered
}
