//! Judges the value of each setting. An error says what is wrong with the value, without repeating it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

use super::{Auth, LogFormat};
use crate::delivery::RetrySchedule;
use crate::traces::Endpoint;
use crate::vault::MasterKey;

/// Shortest attempt: less does not fit a TLS handshake with a receiver on another continent.
pub(super) const MIN_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest attempt: it holds one of the subscription's slots, and a stop waits for it.
pub(super) const MAX_ATTEMPT_TIMEOUT: Duration = Duration::from_mins(5);
/// Shortest retention: room for the default retry schedule, and for a person to look at what failed.
pub(super) const MIN_RETENTION: Duration = Duration::from_hours(1);
/// Longest retention: PostgreSQL holds four partitions a day and table, and plans slow down in the thousands.
pub(super) const MAX_RETENTION: Duration = Duration::from_hours(366 * 24);
/// One subscription to as many as a store was ever tried with.
pub(super) const MAX_SUBSCRIPTIONS: RangeInclusive<u64> = 1..=10_000_000;
/// Most ranges: each is compared at every connect.
pub(super) const MAX_ALLOWED_TARGETS: usize = 64;
/// Most name servers, as in `resolv.conf`: a lookup has no time to ask more.
pub(super) const MAX_DNS_SERVERS: usize = 3;
/// Most master keys: a replacement leaves two, and more than a few are a mistake.
pub(super) const MAX_MASTER_KEYS: usize = 16;
const DNS_PORT: u16 = 53;
/// Most refused ports: each is compared at every attempt.
pub(super) const MAX_REFUSED_PORTS: usize = 256;

type Parsed<T> = Result<T, String>;

pub(super) fn listen(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(_) => "the port is missing".to_owned(),
        Err(_) => "it is not an IP address with a port".to_owned(),
    })
}

pub(super) fn auth(text: &str) -> Parsed<Option<Auth>> {
    match text {
        "" => Ok(None),
        "keys" => Ok(Some(Auth::Keys)),
        "off" => Ok(Some(Auth::Off)),
        _ => Err("there is no such way to authenticate".to_owned()),
    }
}

/// Only the scheme: the store's driver judges the rest, and says more about it.
pub(super) fn database_url(text: &str) -> Parsed<Option<SecretString>> {
    match text.split_once("://") {
        _ if text.is_empty() => Ok(None),
        Some(("postgres" | "postgresql", _)) => Ok(Some(text.into())),
        Some(_) => Err("it is not the URL of a PostgreSQL database".to_owned()),
        None => Err("it is not a URL".to_owned()),
    }
}

pub(super) fn redis_url(text: &str) -> Parsed<Option<SecretString>> {
    if text.is_empty() {
        return Ok(None);
    }
    let scheme = text.split_once("://").ok_or("it is not a URL")?.0;
    if !scheme.starts_with("redis") {
        return Err("it is not the URL of a Redis".to_owned());
    }
    // The error would repeat parts of the URL, of the password perhaps.
    match fred::types::config::Config::from_url(text) {
        Ok(_) => Ok(Some(text.into())),
        Err(_) => Err("it cannot be read (are all special characters of the password percent-encoded?)".to_owned()),
    }
}

pub(super) fn data_dir(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.into()) }
}

pub(super) fn retry_schedule(text: &str) -> Parsed<RetrySchedule> {
    if text == "none" { "".parse() } else { text.parse() }
}

pub(super) fn attempt_timeout(text: &str) -> Parsed<Duration> {
    duration(text, MIN_ATTEMPT_TIMEOUT, MAX_ATTEMPT_TIMEOUT)
}

pub(super) fn retention(text: &str) -> Parsed<Duration> {
    duration(text, MIN_RETENTION, MAX_RETENTION)
}

fn duration(text: &str, least: Duration, most: Duration) -> Parsed<Duration> {
    let found = humantime::parse_duration(text).map_err(|error| format!("it is not a duration ({error})"))?;
    let show = humantime::format_duration;
    match found {
        _ if found < least => Err(format!("it is below the least, {}", show(least))),
        _ if found > most => Err(format!("it is above the most, {}", show(most))),
        _ => Ok(found),
    }
}

pub(super) fn max_subscriptions(text: &str) -> Parsed<u64> {
    match text.parse() {
        Ok(number) if MAX_SUBSCRIPTIONS.contains(&number) => Ok(number),
        Ok(_) => Err("it is out of range".to_owned()),
        Err(_) => Err("it is not a whole number".to_owned()),
    }
}

pub(super) fn allow_targets(text: &str) -> Parsed<Vec<IpNet>> {
    let ranges: Vec<_> = text.split(',').map(str::trim).filter(|range| !range.is_empty()).collect();
    if ranges.len() > MAX_ALLOWED_TARGETS {
        return Err(format!("there are {} of them", ranges.len()));
    }
    ranges.into_iter().map(network).collect()
}

fn network(text: &str) -> Parsed<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or(address).map_err(|_| format!("{text:?} is not a range"))?;
    if let Some(embedded) = embedded_v4(network) {
        return Err(format!(
            "{text:?} is a range of IPv4 addresses inside IPv6 ones, which are judged as IPv4; write {embedded}"
        ));
    }
    // `10.1.2.3/8` opens all of 10/8, which its author may not have meant.
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(format!("{text:?} names one address of a range; write {whole} or {}", network.addr())),
    }
}

pub(super) fn require_https(text: &str) -> Parsed<bool> {
    text.parse().map_err(|_| "it is neither".to_owned())
}

pub(super) fn refused_ports(text: &str) -> Parsed<Vec<u16>> {
    let ports: Vec<_> = text.split(',').map(str::trim).filter(|port| !port.is_empty()).collect();
    match ports.as_slice() {
        ["none"] => Ok(Vec::new()),
        ports if ports.len() > MAX_REFUSED_PORTS => Err(format!("there are {} of them", ports.len())),
        ports => ports.iter().map(|text| port(text)).collect(),
    }
}

fn port(text: &str) -> Parsed<u16> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
}

/// The IPv4 range that a mapped one (`::ffff:10.0.0.0/104`) or one behind NAT64 (`64:ff9b::`) stands for.
fn embedded_v4(network: IpNet) -> Option<Ipv4Net> {
    let IpNet::V6(network) = network else { return None };
    let inside = |prefix: Ipv6Net| prefix.contains(&network);
    let embeds = inside(Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96))
        || inside(Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96));
    let [.., a, b, c, d] = network.addr().octets();
    let range = Ipv4Net::new(Ipv4Addr::new(a, b, c, d), network.prefix_len().checked_sub(96)?).ok()?;
    embeds.then_some(range)
}

pub(super) fn dns_servers(text: &str) -> Parsed<Vec<SocketAddr>> {
    let servers: Vec<_> = text.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
    if servers.len() > MAX_DNS_SERVERS {
        return Err(format!("there are {} of them", servers.len()));
    }
    let server = |text: &str| {
        let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
        text.parse().or(address).map_err(|_| format!("{text:?} is not an IP address"))
    };
    servers.into_iter().map(server).collect()
}

/// A line or a comma ends a key, and `#` begins a comment: a file is read like the variable.
pub(super) fn master_keys(text: &str) -> Parsed<Vec<MasterKey>> {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(key, _)| key));
    let texts: Vec<_> = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.len() > MAX_MASTER_KEYS {
        return Err(format!("there are {} of them", texts.len()));
    }
    let mut keys: Vec<MasterKey> = Vec::new();
    for (position, text) in (1..).zip(texts) {
        let key = MasterKey::parse(text).map_err(|wrong| format!("key {position} is not a key: {wrong}"))?;
        if keys.iter().any(|known| known.id() == key.id()) {
            return Err(format!("key {position} is there twice"));
        }
        keys.push(key);
    }
    Ok(keys)
}

pub(super) fn master_key_file(text: &str) -> Parsed<Option<PathBuf>> {
    Ok((!text.is_empty()).then(|| text.into()))
}

pub(super) fn otlp_endpoint(text: &str) -> Parsed<Option<Endpoint>> {
    if text.is_empty() { Ok(None) } else { Endpoint::parse(text).map(Some).map_err(|error| error.to_string()) }
}

pub(super) fn log(text: &str) -> Parsed<String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        Ok(_) => Err("it is empty".to_owned()),
        Err(error) => Err(format!("it is not a filter ({error})")),
    }
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err("there is no such format".to_owned()),
    }
}
