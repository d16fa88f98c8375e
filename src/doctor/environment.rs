//! What is around the service: Redis, a collector of traces, whom it may send to, where it listens, and who may reach it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Finding;
use crate::cache::{RedisExamination, examine_redis};
use crate::config::{Auth, Config};

/// A cache that is slower than this saves nothing.
const SLOW: Duration = Duration::from_millis(20);
/// Longest that a collector is waited for.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Where clouds hand out credentials to whoever asks from within.
const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

pub(super) async fn redis(config: &Config) -> Finding {
    match &config.redis_url {
        None => Finding::ok("redis", "not configured; with several processes it spreads changes sooner"),
        Some(url) => match examine_redis(url).await {
            Ok(found) => judge_redis(&found),
            Err(error) => Finding::fail(
                "redis",
                format!("it does not answer: {error}"),
                "check that it runs and that REDIS_URL is right; a service goes on without it, reading from the store",
            ),
        },
    }
}

pub(super) fn judge_redis(found: &RedisExamination) -> Finding {
    let RedisExamination { version, answered_in, role, memory: (most, policy) } = found;
    let text = format!("Redis {version} answers in {:.1} ms", answered_in.as_secs_f64() * 1e3);
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < 6) {
        return Finding::fail("redis", text, "Hookpost needs version 6 or newer");
    }
    if role == "slave" {
        return Finding::fail(
            "redis",
            format!("{text} and is a replica"),
            "name the primary: a replica takes no writes",
        );
    }
    if *most > 0 && policy == "noeviction" {
        let text = format!("{text}; at its {} MiB it refuses writes (maxmemory-policy noeviction)", most / 1024 / 1024);
        return Finding::warn("redis", text, "set maxmemory-policy to volatile-lru: all that is kept there has an end");
    }
    if *answered_in > SLOW {
        return Finding::warn("redis", text, "bring it closer, or leave it out: the store may be as fast");
    }
    Finding::ok("redis", text)
}

/// Whom the service may send to.
pub(super) fn targets(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "targets";
    let opened: Vec<_> = config.allow_targets.iter().map(ToString::to_string).collect();
    let opens = |address: &str| {
        let address: Option<IpAddr> = address.parse().ok();
        address.is_some_and(|address| config.allow_targets.iter().any(|range| range.contains(&address)))
    };
    let all = config.allow_targets.iter().any(|range| range.prefix_len() == 0);
    let mut findings = vec![if METADATA.into_iter().any(opens) || all {
        Finding::warn(
            CHECK,
            format!("{} opens what hands out a cloud's credentials", opened.join(",")),
            "name only the ranges that receivers are in (HOOKPOST_ALLOW_TARGETS)",
        )
    } else if opened.is_empty() {
        Finding::ok(CHECK, "public addresses only")
    } else {
        Finding::ok(CHECK, format!("public addresses, and {}", opened.join(", ")))
    }];
    findings.push(match config.require_https || config.dev {
        true => Finding::ok("https", if config.dev { "not demanded, with --dev" } else { "demanded outside of those" }),
        false => Finding::warn(
            "https",
            "not demanded: payloads may travel unencrypted",
            "set HOOKPOST_REQUIRE_HTTPS=true unless every receiver is in a network of yours",
        ),
    });
    findings.push(match config.refused_ports.len() {
        0 => Finding::warn(
            "refused ports",
            "none: a target may be a mail server or a Redis, which take lines of a body for commands",
            "leave HOOKPOST_REFUSED_PORTS out, which refuses those",
        ),
        count => Finding::ok("refused ports", format!("{count} are never a target")),
    });
    findings
}

/// The collector that spans are exported to, if one is configured.
pub(super) async fn collector(config: &Config) -> Option<Finding> {
    const CHECK: &str = "collector";
    let (host, port) = config.otlp_endpoint.as_ref()?.address();
    let connected = timeout(CONNECT_DEADLINE, TcpStream::connect((host, port))).await;
    Some(match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(_) => Finding::ok(CHECK, format!("{host}:{port} takes connections")),
        Err(error) => Finding::warn(
            CHECK,
            format!("{host}:{port} does not answer: {error}"),
            "check that it runs and that HOOKPOST_OTLP_ENDPOINT is right; a service goes on and drops its spans",
        ),
    })
}

/// Without listening, so that a service that starts meanwhile finds it free.
fn can_be_bound(addr: SocketAddr) -> io::Result<()> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)
}

/// Whether the address is free.
pub(super) fn listening(config: &Config) -> Finding {
    const CHECK: &str = "address";
    let listen = config.listen;
    match can_be_bound(listen) {
        Ok(()) => Finding::ok(CHECK, format!("{listen} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Finding::ok(CHECK, format!("{listen} is taken: if not by this service, choose another with --listen"))
        }
        Err(error) => Finding::fail(
            CHECK,
            format!("{listen}: {error}"),
            "choose an address of this machine and a port that its user may take (--listen)",
        ),
    }
}

/// Who may reach it, and what they are asked for.
pub(super) fn exposure(config: &Config) -> Finding {
    const CHECK: &str = "exposure";
    let listen = config.listen;
    match config.auth {
        Auth::Keys => Finding::ok(CHECK, format!("{listen}, and callers are asked for an API key")),
        Auth::Off if config.on_loopback() => Finding::ok(CHECK, format!("{listen}, on this machine only")),
        Auth::Off => Finding::warn(
            CHECK,
            format!("whoever reaches {listen} may do everything: nobody is asked for a key"),
            "set HOOKPOST_AUTH=keys, or make sure that something in front keeps strangers out",
        ),
    }
}
