//! The real program with a place for its data, and a client that speaks to it as producers and operators do.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::ledger::node::{Node, Program};
use crate::ledger::postgres::{Cluster, poll};
use crate::ledger::signatures::hub;

/// Beyond the service's own deadline for an answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

pub struct Site {
    pub program: Program,
    /// Removed with it.
    _dir: TempDir,
}

impl Site {
    /// On the embedded store, in a directory of its own.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { program: Program::new(dir.path()), _dir: dir }
    }

    /// On a PostgreSQL.
    pub fn on(cluster: &Cluster) -> Self {
        Self::new().with("DATABASE_URL", &cluster.url())
    }

    /// With the embedded store in this directory.
    pub fn in_dir(self, dir: &Path) -> Self {
        self.with("HOOKPOST_DATA_DIR", dir.join("data").to_str().expect("text"))
    }

    pub fn with(self, name: &str, value: &str) -> Self {
        Self { program: self.program.with(name, value), _dir: self._dir }
    }

    /// With these waits between attempts.
    pub fn schedule(self, waits: &str) -> Self {
        self.with("HOOKPOST_RETRY_SCHEDULE", waits)
    }

    pub fn binary(self, path: &Path) -> Self {
        Self { program: self.program.binary(path), _dir: self._dir }
    }

    /// Started by another program, and listening at this address.
    pub fn through(self, prefix: &[String], ip: IpAddr) -> Self {
        Self { program: self.program.through(prefix).listening(ip), _dir: self._dir }
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.program.addr())
    }

    pub async fn start(&self) -> Node {
        self.program.start().await
    }

    /// Status and body.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = client(ANSWER_PATIENCE).request(method, format!("{}{path}", self.base())).body(body.to_string());
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The body of an answer that must be good.
    async fn good(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, body) = self.call(method, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {body}");
        body
    }

    pub async fn get(&self, path: &str) -> Value {
        self.good(Method::GET, path, Value::Null).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.good(Method::POST, path, body).await
    }

    pub async fn delete(&self, path: &str) {
        self.good(Method::DELETE, path, Value::Null).await;
    }

    /// A subscription to this URL with these fields besides; its id.
    pub async fn subscribe(&self, target_url: &str, mut fields: Value) -> i64 {
        fields["target_url"] = target_url.into();
        self.post("/subscriptions", fields).await["id"].as_i64().expect("an id")
    }

    /// An event of the type `order.created` that must be accepted; the delivery's id.
    pub async fn ingest(&self, subscription: i64, n: usize) -> String {
        self.ingest_signed(subscription, "", n).await
    }

    /// The same with a signature that counts.
    pub async fn ingest_signed(&self, subscription: i64, secret: &str, n: usize) -> String {
        let (url, body) = (format!("{}/ingest/{subscription}", self.base()), json!({ "n": n }).to_string());
        let request = client(ANSWER_PATIENCE).post(url).header("event_type", "order.created");
        let request = request.header("x-hub-signature-256", hub(secret, body.as_bytes())).body(body);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 202);
        let accepted: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        accepted["delivery_id"].as_str().expect("an id").to_owned()
    }

    /// The delivery's status once it is like this.
    pub async fn status_when(&self, delivery: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let (begun, mut look) = (Instant::now(), poll());
        loop {
            let status = self.get(&format!("/status/{delivery}")).await;
            if is_so(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "not yet: {status}");
            look.tick().await;
        }
    }
}

pub fn client(patience: Duration) -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(patience).build().expect("a client")
}
