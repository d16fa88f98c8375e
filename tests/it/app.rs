//! Starts the whole service on either store, and speaks to it as a producer or an operator would.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hookpost::access::{Actor, KeyRequest, MAX_KEYS, NewApiKey, Role};
use hookpost::clock::Clock;
use hookpost::config::{Auth, Config, LogFormat};
use hookpost::delivery::Timestamp;
use hookpost::service::Service;
use hookpost::vault::MasterKey;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::receiver::PATIENCE;

/// Which store a test runs on.
#[derive(Clone, Copy, Debug)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// Stamps out each test for both stores.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::app::Backend::Sqlite).await })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::app::Backend::Postgres).await })*
        }
    };
}
pub(crate) use on_both_stores;

/// Where a service keeps its data; it outlives the service, and is removed with the test.
pub struct Home {
    dir: TempDir,
    database: Option<Database>,
}

struct Database {
    admin_url: String,
    name: String,
}

impl Home {
    pub async fn new(backend: Backend) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let database = match backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(Database::create().await),
        };
        Arc::new(Self { dir, database })
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn database_url(&self) -> Option<String> {
        self.database.as_ref().map(Database::url)
    }
}

impl Home {
    /// Everything that the store holds: SQLite's files, byte for byte, or PostgreSQL's rows as text.
    pub async fn dump(&self) -> Vec<u8> {
        let Some(url) = self.database_url() else {
            let files = std::fs::read_dir(self.data_dir()).expect("a directory");
            return files.flat_map(|file| std::fs::read(file.expect("a file").path()).expect("readable")).collect();
        };
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it answers");
        let driver = tokio::spawn(connection);
        let tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'";
        let mut dump = String::new();
        for table in client.query(tables, &[]).await.expect("tables") {
            let table: &str = table.get(0);
            for row in client.query(&format!("SELECT t::text FROM {table} t"), &[]).await.expect("rows") {
                dump.push_str(row.get(0));
                dump.push('\n');
            }
        }
        driver.abort();
        dump.into_bytes()
    }
}

impl Database {
    async fn create() -> Self {
        let admin_url = test_url("TEST_DATABASE_URL");
        let name = format!("it_{}", uuid::Uuid::from_u128(rand::random()).simple());
        execute(&admin_url, &format!("CREATE DATABASE {name}")).await;
        Self { admin_url, name }
    }

    fn url(&self) -> String {
        let mut url = url::Url::parse(&self.admin_url).expect("TEST_DATABASE_URL is a URL");
        url.set_path(&self.name);
        url.to_string()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (url, name) = (self.admin_url.clone(), self.name.clone());
        // A runtime of its own: the test's may be gone.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(execute(&url, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")));
        });
        let _ = dropped.join();
    }
}

async fn execute(url: &str, statement: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("PostgreSQL answers");
    let driver = tokio::spawn(connection);
    client.batch_execute(statement).await.expect("the statement is valid");
    driver.abort();
}

/// A service that the tests need, from the environment that `make test` sets.
#[expect(clippy::disallowed_methods, reason = "the test's own environment, not the service's")]
pub fn test_url(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}, or run `make test`, which starts what is needed"))
}

/// 32 times the same byte: a key that is obviously of a test.
pub fn test_key(byte: u8) -> MasterKey {
    MasterKey::parse(&BASE64.encode([byte; 32])).expect("a key")
}

/// A running service, and a client for it.
pub struct App {
    pub home: Arc<Home>,
    pub config: Config,
    service: Service,
    client: reqwest::Client,
    /// An admin's, if callers are asked for one. It is shown with every request that names no other.
    admin: Option<String>,
}

/// What a test wants to be different.
pub struct Builder {
    home: Arc<Home>,
    config: Config,
    admin: Option<String>,
}

impl Builder {
    pub async fn new(backend: Backend) -> Self {
        Self::at(Home::new(backend).await)
    }

    /// A service over data that is there already.
    pub fn at(home: Arc<Home>) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            auth: Auth::Off,
            data_dir: home.data_dir(),
            database_url: home.database_url().map(Into::into),
            redis_url: None,
            retry_schedule: "10s".parse().expect("a schedule"),
            attempt_timeout: Duration::from_secs(5),
            retention: Duration::from_secs(72 * 3600),
            max_subscriptions: 100_000,
            allow_targets: vec!["127.0.0.0/8".parse().expect("a network")],
            require_https: false,
            refused_ports: Vec::new(),
            dns_servers: Vec::new(),
            master_keys: vec![test_key(1)],
            master_key_file: None,
            dev: true,
            otlp_endpoint: None,
            log: "hookpost=warn".to_owned(),
            log_format: LogFormat::Pretty,
        };
        Self { home, config, admin: None }
    }

    /// Callers are asked for a key. An admin's is made before the start, as an operator would.
    pub async fn with_keys(mut self) -> Self {
        self.config.auth = Auth::Keys;
        self.config.dev = false;
        self.admin = Some(self.make_key(Role::Admin, None, None).await);
        self
    }

    /// A key made in the store itself; `expires_at` may have passed.
    pub async fn make_key(&self, role: Role, tenant: Option<&str>, expires_at: Option<Timestamp>) -> String {
        let store = hookpost::service::open_store(&self.config).expect("a store");
        let now = Clock::start().wall();
        store.migrate(now).await.expect("a schema");
        let asked = KeyRequest { name: "test".to_owned(), role, tenant: tenant.map(str::to_owned), expires_in: None };
        let (text, new) = asked.issue(now);
        let new = NewApiKey { expires_at, ..new };
        store
            .create_api_key(new, MAX_KEYS, &Actor::CommandLine, now)
            .await
            .expect("the store answers")
            .expect("there is room");
        store.close().await;
        text.expose_secret().to_owned()
    }

    /// The key that was made before the start, at a second process.
    pub fn admin(mut self, key: &str) -> Self {
        self.config.auth = Auth::Keys;
        self.config.dev = false;
        self.admin = Some(key.to_owned());
        self
    }

    pub fn max_subscriptions(mut self, quota: u64) -> Self {
        self.config.max_subscriptions = quota;
        self
    }

    /// Why it does not start.
    pub async fn refusal(self) -> String {
        match Service::start(self.config).await {
            Ok(_) => panic!("it has started"),
            Err(error) => format!("{error:#}"),
        }
    }

    pub fn schedule(mut self, schedule: &str) -> Self {
        self.config.retry_schedule = schedule.parse().expect("a schedule");
        self
    }

    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    pub fn redis(mut self, url: &str) -> Self {
        self.config.redis_url = Some(url.to_owned().into());
        self
    }

    pub fn home(&self) -> Arc<Home> {
        self.home.clone()
    }

    /// What the service would be started with.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// What secrets are sealed under; none of them, and not in development, means that there are no secrets.
    pub fn master_keys(mut self, keys: Vec<MasterKey>) -> Self {
        self.config.master_keys = keys;
        self
    }

    /// As in production.
    pub fn not_in_development(mut self) -> Self {
        self.config.dev = false;
        self
    }

    pub fn deny_private_targets(self) -> Self {
        self.allow_targets(&[])
    }

    /// These ranges, and no other private ones.
    pub fn allow_targets(mut self, ranges: &[&str]) -> Self {
        self.config.allow_targets = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        self
    }

    /// Changes what has no method of its own.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub async fn start(self) -> App {
        let service = Service::start(self.config.clone()).await.expect("the service starts");
        App { home: self.home, config: self.config, service, client: client(), admin: self.admin }
    }
}

pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client")
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}

impl App {
    pub async fn start(backend: Backend) -> Self {
        Builder::new(backend).await.start().await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.service.local_addr())
    }

    /// Where it listens.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.service.local_addr()
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.stranger(method, path);
        match &self.admin {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// A request without a key.
    pub fn stranger(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// What whoever holds this key is answered.
    pub async fn ask(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let method = method.parse().expect("a method");
        send(self.stranger(method, path).bearer_auth(key).body(body.to_owned())).await
    }

    /// A key made by the admin.
    pub async fn key(&self, role: Role, tenant: Option<&str>) -> String {
        let mut body = json!({ "name": "test", "role": role.as_str() });
        if let Some(tenant) = tenant {
            body["tenant"] = tenant.into();
        }
        self.post("/keys", body).await.expect(201)["key"].as_str().expect("a key").to_owned()
    }

    pub fn admin_key(&self) -> &str {
        self.admin.as_deref().expect("a service that asks for keys")
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::POST, path).body(body.to_string())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PUT, path).body(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PATCH, path).body(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// A subscription without a secret that wants every event; its id.
    pub async fn subscribe(&self, target_url: &str) -> i64 {
        let created = self.post("/subscriptions", json!({ "target_url": target_url })).await.expect(201);
        created["id"].as_i64().expect("an id")
    }

    /// The same for events of this type.
    pub async fn subscribe_to(&self, target_url: &str, event_type: &str) -> i64 {
        let body = json!({ "target_url": target_url, "event_type": [event_type] });
        self.post("/subscriptions", body).await.expect(201)["id"].as_i64().expect("an id")
    }

    /// For all events, with settings.
    pub async fn subscribe_with(&self, target_url: &str, settings: Value) -> i64 {
        let id = self.subscribe(target_url).await;
        self.patch(&format!("/subscriptions/{id}"), settings).await.expect(200);
        id
    }

    /// Ingests an event that must be accepted; the delivery's id.
    pub async fn ingest(&self, subscription: i64, event: Value) -> String {
        let accepted = self.post(&format!("/ingest/{subscription}"), event).await.expect(202);
        accepted["delivery_id"].as_str().expect("an id").to_owned()
    }

    /// The same with an ordering key.
    pub async fn ingest_keyed(&self, subscription: i64, key: &str, event: Value) -> String {
        let request = self.request(Method::POST, &format!("/ingest/{subscription}")).header("x-ordering-key", key);
        let accepted = send(request.body(event.to_string())).await.expect(202);
        accepted["delivery_id"].as_str().expect("an id").to_owned()
    }

    pub async fn status(&self, delivery: &str) -> Value {
        self.get(&format!("/status/{delivery}")).await.expect(200)
    }

    /// The delivery's status once it is in this state. The log is written after the receiver has answered, so a test
    /// that has seen the receipt may be a moment early.
    pub async fn status_when(&self, delivery: &str, state: &str) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status(delivery).await;
            if status["state"] == state {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {state}: {status}");
            tokio::task::yield_now().await;
        }
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(self) -> Builder {
        self.service.stop().await;
        Builder { home: self.home, config: self.config, admin: self.admin }
    }
}
