//! Puts the parts together, starts and stops them.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::access::{Actor, KeyRing};
use crate::actors::{Engine, Parts, Running};
use crate::audit::{Act, Action, Thing};
use crate::cache::{Cache, NoCache, RedisCache};
use crate::clock::Clock;
use crate::config::{Auth, Config};
use crate::delivery::Defaults;
use crate::http::{self, Api};
use crate::metrics::Metrics;
use crate::outbound::client::AttemptClient;
use crate::outbound::guard::TargetPolicy;
use crate::store::{PostgresStore, Recovery, SqliteStore, Store, StoreError};
use crate::traces::{Exporting, Tracer};
use crate::vault::{self, Resealed, Vault};

/// How long requests that are being answered may take at a stop.
const HTTP_DRAIN: Duration = Duration::from_secs(5);
/// On top of an attempt's own deadline: the time for its log to be written.
const DRAIN_MARGIN: Duration = Duration::from_millis(500);
/// How often a standby asks whether the store is free.
const STANDBY_PERIOD: Duration = Duration::from_millis(500);

/// The three ways out.
const NO_ADMIN_KEY: &str = "there is no admin's API key in this store: make one with `hookpost keys create --admin`, or start \
                            with --dev to try things out, or with HOOKPOST_AUTH=off if something in front keeps strangers out";

/// A running service.
pub struct Service {
    addr: SocketAddr,
    engine: Engine,
    /// The engine once it delivers; until then the wait for it.
    delivering: JoinHandle<anyhow::Result<Running>>,
    /// Keeps the keys fresh, if callers are asked for them.
    keys: Option<JoinHandle<()>>,
    http: JoinHandle<()>,
    stop_http: oneshot::Sender<()>,
    store: Arc<dyn Store>,
    attempt_timeout: Duration,
    exporting: Option<Exporting>,
}

/// Applies the migrations and says what store they were applied to.
pub async fn migrate(config: &Config) -> anyhow::Result<&'static str> {
    let store = open_store(config)?;
    store.migrate(Clock::start().wall()).await.context("the migrations could not be applied")?;
    let name = store.name();
    store.close().await;
    Ok(name)
}

/// Seals every secret in the store under the first master key, once those are taken away that are sealed under a lost one
/// that is to be given up. `progress` hears how many subscriptions are done.
pub async fn rotate_master(
    config: &Config,
    give_up: Option<&str>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> anyhow::Result<Resealed> {
    let store = open_store(config)?;
    store.migrate(Clock::start().wall()).await.context("the store could not be prepared")?;
    let vault = Vault::new(config.master_keys.clone(), false);
    let cache = open_cache(config, &*store).await?;
    let record = async |detail: String| {
        let act = Act { detail: Some(detail), ..Act::new(Actor::CommandLine, Action::MasterKeyRotated) };
        store
            .record(&act, &Thing::MasterKey, None, Clock::start().wall())
            .await
            .context("the audit takes no record of it")
    };
    // Before the work: what it has done stays done, also if it is interrupted.
    record("begun".to_owned()).await?;
    let resealed = async {
        let given_up = match give_up {
            Some(lost) => vault::give_up(&vault, &*store, &*cache, lost, Clock::start().wall()).await?,
            None => 0,
        };
        let done = vault::rotate_master(&vault, &*store, &*cache, progress).await?;
        Ok::<_, vault::ResealError>(Resealed { given_up, ..done })
    };
    let resealed = resealed.await;
    if let Ok(done) = &resealed {
        let mut detail = format!("secrets of {} subscriptions sealed anew", done.count);
        if let Some(lost) = give_up {
            let _ = write!(detail, "; {lost} given up, and {} subscriptions disabled with it", done.given_up);
        }
        record(detail).await?;
    }
    store.close().await;
    Ok(resealed?)
}

impl Service {
    /// Opens the store, takes it over, recovers, and listens. It accepts events when it returns, unless another process
    /// delivers from the store: then it is on standby until that one stops.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let store = open_store(&config)?;
        store.migrate(clock.wall()).await.context("the store could not be prepared")?;
        let vault = Arc::new(Vault::new(config.master_keys.clone(), config.dev));
        // Before anything is sealed: the store has to know under which key.
        vault::admit(&vault, &*store).await?;
        let keys = open_keys(&config, &store, clock).await?;
        let cache = open_cache(&config, &*store).await?;
        let policy = TargetPolicy::new(config.allow_targets.clone())
            .requiring_https(config.require_https)
            .refusing_ports(config.refused_ports.clone());
        let policy = Arc::new(policy);
        let metrics = Arc::new(Metrics::default());
        let (tracer, exporting) = match config.otlp_endpoint.clone() {
            Some(endpoint) => {
                let (tracer, exporting) = Tracer::start(endpoint, clock, metrics.clone());
                (tracer, Some(exporting))
            }
            None => (Tracer::off(), None),
        };
        let parts = Parts {
            tracer,
            store: store.clone(),
            cache: cache.clone(),
            client: AttemptClient::asking(policy.clone(), config.attempt_timeout, &config.dns_servers),
            clock,
            vault: vault.clone(),
            metrics: metrics.clone(),
            defaults: Defaults {
                schedule: config.retry_schedule.clone(),
                attempt_timeout: config.attempt_timeout,
                retention: config.retention,
            },
        };
        let engine = Engine::standby(store.clone(), cache);
        let delivering = if store.acquire().await.context("the store could not be taken over")? {
            let running = take_over(&engine, parts).await?;
            tokio::spawn(async { Ok(running) })
        } else {
            tracing::warn!("another process delivers from this store; on standby until it stops");
            let engine = engine.clone();
            tokio::spawn(async move { wait_and_take_over(&engine, parts).await })
        };

        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}; choose another with --listen", config.listen))?;
        let addr = listener.local_addr()?;
        let api = Arc::new(Api {
            engine: engine.clone(),
            store: store.clone(),
            vault,
            metrics,
            policy,
            keys: keys.clone(),
            max_subscriptions: config.max_subscriptions,
            dev: config.dev,
            clock,
        });
        let keys = keys.map(|keys| tokio::spawn(keys.run()));
        let (stop_http, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let http = tokio::spawn(http::serve(listener, api, stopped, HTTP_DRAIN));
        let attempt_timeout = config.attempt_timeout;
        Ok(Self { addr, engine, delivering, keys, http, stop_http, store, attempt_timeout, exporting })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resolves, with the reason, when the process can deliver no more: end it at once, everything in memory is stale.
    pub async fn lost(&self) -> String {
        self.engine.lost().await
    }

    /// Stops accepting, finishes what is in flight, writes its log, closes the store.
    pub async fn stop(self) {
        let Self { engine, delivering, keys, http, stop_http, store, attempt_timeout, exporting, .. } = self;
        let _ = stop_http.send(());
        let drain = async {
            if !delivering.is_finished() {
                delivering.abort();
            }
            if let Ok(Ok(running)) = delivering.await {
                engine.drain(running, attempt_timeout + DRAIN_MARGIN).await;
            }
        };
        let _ = tokio::join!(drain, http);
        if let Some(keys) = keys {
            keys.abort();
        }
        if let Some(exporting) = exporting {
            exporting.stop().await;
        }
        store.close().await;
    }
}

/// The keys that callers are asked for. Without an admin's nobody could make any while it runs: it is not started then.
async fn open_keys(config: &Config, store: &Arc<dyn Store>, clock: Clock) -> anyhow::Result<Option<Arc<KeyRing>>> {
    match config.auth {
        Auth::Off => Ok(None),
        Auth::Keys => {
            let keys = KeyRing::load(store.clone(), clock).await.context("the API keys could not be read")?;
            anyhow::ensure!(keys.has_admin(), NO_ADMIN_KEY);
            Ok(Some(keys))
        }
    }
}

/// Where the last owner left off.
async fn recovery(store: &dyn Store) -> Result<Recovery, StoreError> {
    let recovery = store.recovery().await?;
    #[cfg(feature = "negative-controls")]
    let recovery = crate::negative_controls::recovered(recovery);
    Ok(recovery)
}

async fn take_over(engine: &Engine, parts: Parts) -> anyhow::Result<Running> {
    let recovery = recovery(&*parts.store).await.context("the store could not be read")?;
    Ok(engine.take_over(parts, recovery).await?)
}

async fn wait_and_take_over(engine: &Engine, parts: Parts) -> anyhow::Result<Running> {
    let mut failing = false;
    loop {
        tokio::time::sleep(STANDBY_PERIOD).await;
        match parts.store.acquire().await {
            Ok(true) => {
                tracing::info!("the other process stopped; delivering from now on");
                match recovery(&*parts.store).await {
                    Ok(recovery) => return Ok(engine.take_over(parts, recovery).await?),
                    Err(error) => tracing::error!(%error, "the store could not be read; trying again"),
                }
            }
            Ok(false) => failing = false,
            // Once: it is asked twice a second.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "on standby, and the store cannot be reached");
            }
            Err(_) => {}
        }
    }
}

async fn open_cache(config: &Config, store: &dyn Store) -> anyhow::Result<Arc<dyn Cache>> {
    Ok(match &config.redis_url {
        Some(url) => {
            let store = store.identity().await.context("the store could not be read")?;
            Arc::new(RedisCache::connect(url, &format!("hookpost:{store}"))?)
        }
        None => Arc::new(NoCache::default()),
    })
}

/// The configured store. Nothing is connected to or changed by that.
pub fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match &config.database_url {
        Some(url) => Arc::new(PostgresStore::connect(url)?),
        None => Arc::new(
            SqliteStore::open(&config.data_dir)
                .with_context(|| format!("the embedded store in {} could not be opened", config.data_dir.display()))?,
        ),
    })
}
