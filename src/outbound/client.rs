//! The one HTTP client: one attempt at one receiver, from the connection to the last byte of the answer that is kept.
//!
//! It does nothing on its own that the log would not show: no redirects, no retries, no proxies, no cookies, no
//! decompression. When to attempt again is the delivery machine's business.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request};
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use super::failure::{self, Phase};
use super::guard::TargetPolicy;
use super::resolver::{Dns, GuardedResolver, Lookup};
use super::signing::{SigningKeys, seconds};
use super::target::Endpoint;
use super::tls;
use crate::delivery::{AttemptResult, Delivery, Timestamp};

pub use super::target::Target;

/// Deadline of a connection, TLS included: a receiver that cannot be reached in this time is down, and the attempt's
/// place is wanted.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most idle connections kept to one host. Many subscriptions may share a host, and a connection that is closed and
/// opened again for each attempt costs more than the attempt.
const MAX_IDLE_PER_HOST: usize = 256;
/// Idle connections are closed before most servers and middleboxes close them: a delivery sent into a connection that
/// is being closed fails for no fault of the receiver.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const HUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");
const EVENT_TYPE: HeaderName = HeaderName::from_static("x-event-type");
const ATTEMPT: HeaderName = HeaderName::from_static("x-hookpost-attempt");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("Hookpost/", env!("CARGO_PKG_VERSION")));
/// Room for all of the above and those that the client adds, so that the map never grows.
const HEADERS: usize = 12;

/// One attempt to be made.
#[derive(Debug)]
pub struct AttemptRequest<'a> {
    /// Where it goes.
    pub target: &'a Target,
    /// Signs it, when the subscription has a secret.
    pub keys: Option<&'a SigningKeys>,
    /// What is sent.
    pub delivery: Delivery,
    /// 1 for the first.
    pub number: u32,
    /// When it begins, by the wall clock.
    pub started_at: Timestamp,
    /// The deadline of the whole attempt, answer included.
    pub timeout: Duration,
}

/// Sends attempts. Cheap to clone.
#[derive(Clone)]
pub struct AttemptClient {
    client: Client,
    policy: Arc<TargetPolicy>,
    connect_timeout: Duration,
}

/// The HTTP client's own goes on for pages.
impl fmt::Debug for AttemptClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptClient").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl AttemptClient {
    /// A client that connects only where the policy allows.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up; nothing of the network is touched yet.
    pub fn new(policy: Arc<TargetPolicy>, timeout: Duration) -> Result<Self, reqwest::Error> {
        Self::with_lookup(policy, timeout, Dns::default())
    }

    /// The same, with these name servers for the system's; none means the system's.
    ///
    /// # Errors
    /// As for [`AttemptClient::new`].
    pub fn asking(
        policy: Arc<TargetPolicy>,
        timeout: Duration,
        name_servers: &[SocketAddr],
    ) -> Result<Self, reqwest::Error> {
        Self::with_lookup(policy, timeout, Dns::asking(name_servers))
    }

    pub(super) fn with_lookup(
        policy: Arc<TargetPolicy>,
        timeout: Duration,
        lookup: impl Lookup,
    ) -> Result<Self, reqwest::Error> {
        let connect_timeout = timeout.min(MAX_CONNECT_TIMEOUT);
        let client = Client::builder()
            .dns_resolver(Arc::new(GuardedResolver::new(policy.clone(), lookup)))
            .tls_backend_preconfigured(tls::config())
            // Each of these would go where the guard has not looked, or send what the log does not show.
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()?;
        Ok(Self { client, policy, connect_timeout })
    }

    /// Makes one attempt. Whatever happens is a result; it ends by the request's timeout.
    pub async fn attempt(&self, request: AttemptRequest<'_>) -> AttemptResult {
        let began = Instant::now();
        let (started_at, timeout) = (request.started_at, request.timeout);
        let mut answer = Answer::default();
        let error_details = match timeout_at(began + timeout, self.exchange(request, &mut answer)).await {
            Ok(Ok(())) => answer.verdict(),
            // A status that says no is told, however its body ended.
            Ok(Err(failure)) => Some(answer.verdict().unwrap_or(failure)),
            Err(_) => Some(answer.verdict().unwrap_or_else(|| failure::timed_out(timeout, phase(&answer)))),
        };
        AttemptResult {
            started_at,
            duration: began.elapsed(),
            http_status: answer.status.map(|status| status.as_u16()),
            retry_after: answer.retry_after,
            error_details,
            response_body: answer.text(),
        }
    }

    /// Sends the request and reads the answer into `answer`, which holds what has come when this fails or is cut off.
    async fn exchange(&self, request: AttemptRequest<'_>, answer: &mut Answer) -> Result<(), String> {
        let endpoint = request.target.0.as_ref().map_err(|refused| format!("refused: {refused}"))?;
        self.policy.check_literal(endpoint).map_err(|refused| format!("refused: {refused}"))?;
        let started_at = request.started_at;
        let sent = self.client.execute(to_http(request, endpoint)).await;
        let received = match sent {
            Ok(response) => {
                answer.head(response.status(), response.headers(), started_at);
                read_body(response, answer).await
            }
            Err(error) => Err(error),
        };
        received.map_err(|error| failure::describe(&error, endpoint, self.connect_timeout, phase(answer)))
    }
}

/// Reads up to the cap. Dropping a response that has not ended closes its connection.
async fn read_body(mut response: reqwest::Response, answer: &mut Answer) -> Result<(), reqwest::Error> {
    while let Some(piece) = response.chunk().await? {
        if !answer.body(&piece) {
            break;
        }
    }
    Ok(())
}

fn phase(answer: &Answer) -> Phase {
    if answer.status.is_some() { Phase::Reading } else { Phase::Waiting }
}

fn to_http(attempt: AttemptRequest<'_>, endpoint: &Endpoint) -> Request {
    let mut request = Request::new(Method::POST, endpoint.url.clone());
    *request.headers_mut() = headers(&attempt);
    *request.body_mut() = Some(attempt.delivery.payload.into());
    request
}

fn headers(attempt: &AttemptRequest<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(ATTEMPT, attempt.number.into());
    if let Some(event_type) = attempt.delivery.event_type.as_deref() {
        // Event types are checked when they are accepted; one that no header can hold cannot get here.
        headers.extend(HeaderValue::from_str(event_type).ok().map(|value| (EVENT_TYPE, value)));
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let id: &str = attempt.delivery.id.0.as_hyphenated().encode_lower(&mut buffer);
    let timestamp = seconds(attempt.started_at).to_string();
    if let Some(keys) = attempt.keys {
        let body = &attempt.delivery.payload;
        headers.insert(WEBHOOK_SIGNATURE, text(keys.sign(id, &timestamp, body)));
        headers.insert(HUB_SIGNATURE, text(keys.hub_signature(body)));
    }
    headers.insert(WEBHOOK_ID, HeaderValue::from_str(id).expect("a UUID is ASCII"));
    headers.insert(WEBHOOK_TIMESTAMP, text(timestamp));
    headers
}

/// Takes the text over without copying it.
fn text(ours: String) -> HeaderValue {
    HeaderValue::try_from(ours).expect("hex, base64 and digits are ASCII")
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
