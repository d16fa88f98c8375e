//! What a test asks the service for: subscriptions, the attempt log, whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::postgres::poll;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rows of the log in one page: the largest allowed.
const PAGE: usize = 500;
/// Attempts of one subscription that may be under way or not yet logged: what one kill may cause to be sent again. Small,
/// so that the bound is one that can be passed.
pub const MAX_CONCURRENCY: usize = 8;

/// One service at one address.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
}

/// A row of the attempt log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub delivery_id: String,
    pub attempt: u32,
    /// `Success`, `Failed Attempt` or `Failure`.
    pub outcome: String,
    pub status: Option<u16>,
    /// Why there is no whole answer.
    pub error: String,
    /// The receipt that the answer's body named.
    pub serial: Option<u64>,
}

/// A client that goes straight there.
pub fn client(timeout: Duration) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(timeout).build().expect("a client")
}

impl Api {
    pub fn at(addr: SocketAddr) -> Self {
        Self { client: client(PATIENCE), base: format!("http://{addr}") }
    }

    /// A subscription with a small window and a breaker that hardly ever opens, so that the receiver's moods are not
    /// answered with long waits. `more` has further fields.
    pub async fn subscribe(&self, url: &str, secret: &str, more: Value) -> i64 {
        let breaker = json!({ "consecutive_failures": 1000, "failure_rate_percent": 100, "wait_ms": 100 });
        let mut body = json!({ "target_url": url, "secret": secret, "event_type": ["ledger.*"], "breaker": breaker,
            "max_concurrency": MAX_CONCURRENCY });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let request =
            self.client.post(format!("{}/subscriptions", self.base)).header("content-type", "application/json");
        let answer = ask(request.body(body.to_string())).await.expect("a subscription is created");
        answer["id"].as_i64().expect("its id")
    }

    /// Changes these fields of it.
    pub async fn change(&self, subscription: i64, fields: Value) {
        let request = self.client.patch(format!("{}/subscriptions/{subscription}", self.base));
        let request = request.header("content-type", "application/json").body(fields.to_string());
        ask(request).await.expect("it is changed");
    }

    /// All attempts of the subscription; `None` if the service could not say.
    pub async fn logs(&self, subscription: i64) -> Option<Vec<Logged>> {
        let mut rows: Vec<Logged> = Vec::new();
        let mut before = String::new();
        loop {
            let path = format!("/subscriptions/{subscription}/logs?limit={PAGE}{before}");
            let page = self.get(&path).await?;
            let page = page.as_array()?;
            rows.extend(page.iter().map(Logged::read));
            if page.len() < PAGE {
                return Some(rows);
            }
            before = format!("&before={}", page.last()?["id"].as_str()?);
        }
    }

    /// The answer, if it is 2xx.
    pub async fn get(&self, path: &str) -> Option<Value> {
        ask(self.client.get(format!("{}{path}", self.base))).await
    }

    /// Whether it takes events.
    pub async fn is_ready(&self) -> bool {
        let asked = self.client.get(format!("{}/readyz", self.base)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until it takes events, and says how long that took.
    pub async fn ready_within(&self, patience: Duration) -> Duration {
        let (begun, mut look) = (Instant::now(), poll());
        while !self.is_ready().await {
            assert!(begun.elapsed() < patience, "{} is not ready after {patience:?}", self.base);
            look.tick().await;
        }
        begun.elapsed()
    }
}

impl Logged {
    fn read(row: &Value) -> Self {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let number = |name: &str| row[name].as_u64();
        Self {
            delivery_id: text("delivery_id").to_owned(),
            attempt: number("attempt_number").and_then(|n| u32::try_from(n).ok()).expect("a number"),
            outcome: text("outcome").to_owned(),
            status: number("http_status").and_then(|status| u16::try_from(status).ok()),
            error: text("error_details").to_owned(),
            serial: text("response_body").strip_prefix("receipt ").and_then(|serial| serial.parse().ok()),
        }
    }
}

async fn ask(request: RequestBuilder) -> Option<Value> {
    let answer = request.send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    serde_json::from_str(&answer.text().await.ok()?).ok()
}
