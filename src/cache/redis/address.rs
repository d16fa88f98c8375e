//! `REDIS_URL`, checked. No error repeats the URL: it may hold a password.

use anyhow::{Context, bail, ensure};
use fred::prelude::Config;
use fred::types::RespVersion;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

const EXPECTED: &str = "expected redis://[user:password@]host[:port][/database], or rediss:// for TLS";

pub(super) fn parse(url: &SecretString) -> anyhow::Result<Config> {
    let url = Url::parse(url.expose_secret()).with_context(|| format!("REDIS_URL is not a URL; {EXPECTED}"))?;
    check(&url)?;
    if url.scheme() == "rediss" {
        // Named here once more because fred asks rustls for the process's default. It is there already after the
        // first call, which is the only way for this to fail.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut config = Config::from_url_centralized(url.as_str())
        .map_err(|error| anyhow::anyhow!("REDIS_URL cannot be used ({}); {EXPECTED}", error.details()))?;
    // One connection for commands and messages, which version 2 of the protocol does not allow.
    config.version = RespVersion::RESP3;
    // A first connection that fails is tried again like a later one.
    config.fail_fast = false;
    Ok(config)
}

fn check(url: &Url) -> anyhow::Result<()> {
    if !matches!(url.scheme(), "redis" | "rediss") {
        bail!("REDIS_URL begins with {}://; {EXPECTED}", url.scheme());
    }
    ensure!(url.host_str().is_some_and(|host| !host.is_empty()), "REDIS_URL names no host; {EXPECTED}");
    let database = url.path().trim_start_matches('/');
    ensure!(
        database.is_empty() || database.parse::<u8>().is_ok(),
        "REDIS_URL ends in {:?}, which is not the number of a database; {EXPECTED}",
        url.path(),
    );
    ensure!(url.query().is_none(), "REDIS_URL has parameters (?...), of which none is known; {EXPECTED}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        format!("{:#}", parse(&SecretString::from(url)).unwrap_err())
    }

    #[test]
    fn a_wrong_url_is_named_without_its_password() {
        for (url, found) in [
            ("localhost", "not a URL"),
            ("http://u:hunter2@localhost", "http://"),
            ("redis://", "no host"),
            ("redis://u:hunter2@localhost/prod", "\"/prod\""),
            ("redis://u:hunter2@localhost/256", "\"/256\""),
            ("redis://u:hunter2@localhost/0?ssl=1", "parameters"),
            ("redis://u:hunter2@localhost:99999", "not a URL"),
        ] {
            let error = error(url);
            assert!(error.contains(found) && error.contains("expected redis://"), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn host_port_database_and_login_are_read() {
        let config = parse(&SecretString::from("redis://user:p%40ss@cache.example:7000/3")).unwrap();
        assert_eq!(config.server.hosts(), vec![fred::prelude::Server::new("cache.example", 7000)]);
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("user"), Some("p@ss")));
        assert_eq!(config.database, Some(3));
        assert!(!config.uses_tls());
    }

    #[test]
    fn rediss_means_tls() {
        assert!(parse(&SecretString::from("rediss://cache.example")).unwrap().uses_tls());
    }
}
