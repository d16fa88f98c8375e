//! How connections are made: the URL, TLS, the settings of a session, and the pool. Everything is bounded, so that a
//! server that hangs looks like one that is away.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{Result, StoreError};
use super::error::{store_error, too_slow};

/// Connections for reads and for changes of subscriptions. With two cores a server does not go faster with more.
const POOL_SIZE: usize = 8;
/// Connections for API keys: one for the poll, one for look-ups while it does not get through.
const KEY_POOL_SIZE: usize = 2;
/// From the first packet to a session that can be used.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How long a read waits for a free connection: longer means that the server is overrun.
const POOL_WAIT: Duration = Duration::from_secs(2);
/// For reading a page, a subscription, a delivery. Above the server's own limit, so that the server speaks first.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(5);
/// For recovery and for the janitor, which may have to look at a whole partition.
pub(super) const MAINTENANCE_DEADLINE: Duration = Duration::from_secs(60);

/// Says what is wrong with the database's URL, without repeating it: it holds a password.
#[derive(Debug, thiserror::Error)]
#[error("the PostgreSQL URL cannot be used: {0}; expected postgres://user:password@host:5432/database")]
pub struct InvalidDatabaseUrl(String);

/// What a connection is for; decides its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Holds the right to commit, and commits.
    Writer,
    /// One of the pool.
    Pool,
    /// Migrations, recovery, the janitor: few and long statements.
    Maintenance,
}

impl Purpose {
    /// Settings of the session. `synchronous_commit`: an answer means that it is on disk, whatever the server's default.
    /// `enable_seqscan`: a partition that is minutes old has no statistics, and every read here has its index.
    /// `enable_bitmapscan`: without statistics a page of a backlog of 100,000 was read by sorting all of it, 664 ms instead
    /// of 1.3. The reader's plans depend on the partition that an id falls into, the writer's on nothing. The keep-alives let
    /// the server notice within 11 s that an owner is gone, and with it its right to commit. Maintenance waits for locks
    /// that nobody queues behind, and longer than `deadlock_timeout`, after which an autovacuum in the way ends itself.
    fn options(self) -> &'static str {
        match self {
            Self::Writer => {
                "-c synchronous_commit=on -c jit=off -c statement_timeout=4s -c lock_timeout=3s \
                 -c idle_in_transaction_session_timeout=10s -c enable_seqscan=off -c plan_cache_mode=force_generic_plan \
                 -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
            }
            Self::Pool => {
                "-c synchronous_commit=on -c jit=off -c statement_timeout=4s -c lock_timeout=3s \
                 -c idle_in_transaction_session_timeout=10s -c enable_seqscan=off -c enable_bitmapscan=off \
                 -c plan_cache_mode=force_custom_plan"
            }
            Self::Maintenance => {
                "-c synchronous_commit=on -c jit=off -c statement_timeout=30s -c lock_timeout=2s \
                 -c idle_in_transaction_session_timeout=10s -c plan_cache_mode=force_custom_plan"
            }
        }
    }
}

/// A server and how to reach it. Opens nothing by itself.
pub(super) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Connector {
    pub fn parse(url: &SecretString) -> Result<Self, InvalidDatabaseUrl> {
        let text = url.expose_secret();
        // Certificates are always verified here, which is what these two ask for.
        let plain =
            text.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
        let mut config: Config = plain.parse().map_err(|error| InvalidDatabaseUrl(what_is_wrong(text, &error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(InvalidDatabaseUrl("it names no host".to_owned()));
        }
        if !text.contains("sslmode=") {
            config.ssl_mode(SslMode::Disable);
        }
        if config.get_application_name().is_none() {
            config.application_name("hookpost");
        }
        config.connect_timeout(CONNECT_DEADLINE).keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(10));
        let tls = tls(config.get_ssl_mode())?;
        Ok(Self { config, tls })
    }

    fn config(&self, purpose: Purpose) -> Config {
        let mut config = self.config.clone();
        // Ours come last and win: no URL may turn durability off.
        let options = [self.config.get_options().unwrap_or_default(), purpose.options()].join(" ");
        config.options(options.trim());
        config
    }

    /// A connection of its own, outside the pool.
    pub async fn open(&self, purpose: Purpose) -> Result<Session> {
        let config = self.config(purpose);
        let connected = timeout(CONNECT_DEADLINE, config.connect(self.tls.clone())).await;
        let (client, connection) = connected.map_err(|_| too_slow("connecting"))?.map_err(store_error)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, ?purpose, "a connection to the store ended");
            }
        });
        Ok(Session { client, driver })
    }

    /// The pool. Connects when it is first used.
    /// For API keys alone: whether a caller is one must not wait behind what callers read.
    pub fn key_pool(&self) -> Pool {
        self.pool_of(KEY_POOL_SIZE)
    }

    pub fn pool(&self) -> Pool {
        self.pool_of(POOL_SIZE)
    }

    fn pool_of(&self, size: usize) -> Pool {
        let recycle = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(self.config(Purpose::Pool), self.tls.clone(), recycle);
        Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(CONNECT_DEADLINE))
            .recycle_timeout(Some(POOL_WAIT))
            .build()
            .expect("a runtime is given, which is all that the builder checks")
    }
}

/// A connection outside the pool. Its socket closes when it is dropped, even if the server still owes it answers.
pub(super) struct Session {
    pub client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    /// Closes the socket at once.
    pub fn abandon(&self) {
        self.driver.abort();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Certificates are verified against the platform's roots (or those that `SSL_CERT_FILE` names), also where `sslmode`
/// would not ask for it. The roots are read only if TLS can be spoken at all.
fn tls(mode: SslMode) -> Result<MakeRustlsConnect, InvalidDatabaseUrl> {
    // The process has one provider; whoever comes second changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if mode == SslMode::Disable {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        return Ok(MakeRustlsConnect::new(config));
    }
    match MakeRustlsConnect::with_native_certs() {
        Ok((tls, _)) => Ok(tls),
        Err(_) => Err(InvalidDatabaseUrl(
            "its sslmode asks for TLS, and this machine has no root certificates; install them, or name a file of them \
             in SSL_CERT_FILE"
                .to_owned(),
        )),
    }
}

/// The parser's own words repeat the name of an option, which may be a piece of a password that was not encoded.
fn what_is_wrong(url: &str, error: &tokio_postgres::Error) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "it has no scheme".to_owned();
    };
    if !matches!(scheme, "postgres" | "postgresql") {
        return "its scheme is not postgres".to_owned();
    }
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    if user.contains(['/', '?', '#', '[', ']', '@', ' ']) {
        return "a character of the user or the password must be percent-encoded (/ ? # [ ] @ or a space)".to_owned();
    }
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.unwrap_or_else(|| error.to_string())
}

impl From<InvalidDatabaseUrl> for StoreError {
    fn from(error: InvalidDatabaseUrl) -> Self {
        Self::Rejected(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match Connector::parse(&url.into()) {
            Ok(_) => panic!("{url} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_the_reason() {
        assert!(refusal("mysql://u@h/db").contains("scheme is not postgres"));
        assert!(refusal("just words").contains("no scheme"));
        assert!(refusal("postgres:///db").contains("names no host"));
        assert!(refusal("postgres://h:port/db").contains("`port`"));
        assert!(refusal("postgres://h/db?colour=blue").contains("`colour`"));
    }

    #[test]
    fn a_refusal_never_repeats_the_password() {
        for url in ["postgres://me:hidden@h:x/db", "postgres://me:a@hidden:x@h:5432/db", "mysql://me:hidden@h/db"] {
            let text = refusal(url);
            assert!(!text.contains("hidden"), "{text}");
        }
    }

    #[test]
    fn tls_is_spoken_only_if_the_url_asks_for_it() {
        let mode = |url: &str| Connector::parse(&url.into()).expect("a good URL").config.get_ssl_mode();
        assert_eq!(mode("postgres://h/db"), SslMode::Disable);
        assert_eq!(mode("postgres://h/db?sslmode=disable"), SslMode::Disable);
        for url in ["postgres://h/db?sslmode=require", "postgres://h/db?sslmode=verify-full"] {
            match Connector::parse(&url.into()) {
                Ok(connector) => assert_eq!(connector.config.get_ssl_mode(), SslMode::Require),
                Err(error) => assert!(error.to_string().contains("no root certificates"), "{error}"),
            }
        }
    }

    #[test]
    fn no_url_can_turn_durability_off() {
        let url = "postgres://h/db?options=-c%20synchronous_commit%3Doff";
        let connector = Connector::parse(&url.into()).expect("a good URL");
        for purpose in [Purpose::Writer, Purpose::Pool, Purpose::Maintenance] {
            let config = connector.config(purpose);
            let options = config.get_options().expect("options are set");
            assert!(options.rfind("synchronous_commit=on") > options.rfind("synchronous_commit=off"), "{options}");
        }
    }
}
