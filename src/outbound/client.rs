//! The one HTTP client: one attempt at one receiver, from the connection to the last byte of the answer that is kept.
//!
//! It does nothing on its own that the log would not show: no redirects, no retries, no proxies, no cookies, no
//! decompression. When to attempt again is the delivery machine's business.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use super::connect::{Connector, Dial};
use super::connection::Connection;
use super::failure::{Failure, Phase};
use super::guard::TargetPolicy;
use super::options::RequestOptions;
use super::pool::Pool;
use super::resolver::{Dns, Lookup};
use super::signing::{Message, SigningKeys, seconds};
use super::target::Endpoint;
use super::tls;
use crate::delivery::{AttemptClass, AttemptResult, Delivery, SpanId, Timestamp};
use crate::vault::Unopened;

pub use super::target::Target;

/// Deadline of a connection, TLS included: a receiver that cannot be reached in this time is down, and the attempt's
/// place is wanted.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const HUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");
const PREVIOUS_HUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256-previous");
const EVENT_TYPE: HeaderName = HeaderName::from_static("x-event-type");
const ATTEMPT: HeaderName = HeaderName::from_static("x-hookpost-attempt");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("Hookpost/", env!("CARGO_PKG_VERSION")));
/// Room for all of these, `host` and the length, so that the map never grows.
const HEADERS: usize = 12;

/// One attempt to be made.
#[derive(Debug)]
pub struct AttemptRequest<'a> {
    /// Where it goes.
    pub target: &'a Target,
    /// Signs it, when the subscription has a secret. When that does not open, nothing is sent.
    pub keys: Result<Option<&'a SigningKeys>, &'a Unopened>,
    /// How it is sent.
    pub options: &'a RequestOptions,
    /// What is sent.
    pub delivery: Delivery,
    /// 1 for the first.
    pub number: u32,
    /// The attempt's own in the trace of the delivery, if it belongs to one.
    pub span: Option<SpanId>,
    /// When it begins, by the wall clock.
    pub started_at: Timestamp,
    /// The deadline of the whole attempt, answer included.
    pub timeout: Duration,
}

/// Sends attempts. Cheap to clone.
#[derive(Clone)]
pub struct AttemptClient(Arc<Client>);

struct Client {
    policy: Arc<TargetPolicy>,
    connector: Connector,
    idle: Pool<Box<Connection>>,
}

impl fmt::Debug for AttemptClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptClient").field("policy", &self.0.policy).finish_non_exhaustive()
    }
}

impl AttemptClient {
    /// A client that connects only where the policy allows. Nothing of the network is touched yet.
    pub fn new(policy: Arc<TargetPolicy>, timeout: Duration) -> Self {
        Self::asking(policy, timeout, &[])
    }

    /// The same, with these name servers for the system's; none means the system's.
    pub fn asking(policy: Arc<TargetPolicy>, timeout: Duration, name_servers: &[SocketAddr]) -> Self {
        Self::with(policy, timeout, Dns::asking(name_servers), tls::config())
    }

    fn with(policy: Arc<TargetPolicy>, timeout: Duration, lookup: impl Lookup, tls: ClientConfig) -> Self {
        let connector = Connector::new(policy.clone(), lookup, tls, timeout.min(MAX_CONNECT_TIMEOUT));
        Self(Arc::new(Client { policy, connector, idle: Pool::default() }))
    }

    /// A client over the network of a simulation, where nothing is looked up and nothing encrypted.
    pub fn simulated(policy: Arc<TargetPolicy>, timeout: Duration, network: Arc<dyn Dial>) -> Self {
        let tls = tls::trusting(rustls::RootCertStore::empty());
        let connector = Connector::new(policy.clone(), Dns::default(), tls, timeout.min(MAX_CONNECT_TIMEOUT));
        Self(Arc::new(Client { policy, connector: connector.over(network), idle: Pool::default() }))
    }

    /// Makes one attempt. Whatever happens is a result; it ends by the request's timeout.
    pub async fn attempt(&self, request: AttemptRequest<'_>) -> AttemptResult {
        let began = Instant::now();
        let (started_at, timeout, target, options) =
            (request.started_at, request.timeout, request.target, request.options);
        let mut answer = Answer::default();
        let ended = timeout_at(began + timeout, self.0.exchange(request, began, &mut answer)).await;
        let failure = ended.unwrap_or_else(|_| Err(Failure::Timeout(timeout, answer.phase()))).err();
        // A status that says no is told, however its body ended.
        let (class, error_details) = match (answer.verdict(&options.method), failure) {
            (None, Some(failure)) => (failure.class(), Some(failure.describe(target.authority()))),
            (verdict, _) => (AttemptClass::Answered, verdict),
        };
        AttemptResult {
            started_at,
            duration: began.elapsed(),
            http_status: answer.status.map(|status| status.as_u16()),
            retry_after: answer.retry_after,
            error_details,
            class,
            response_body: answer.text(),
        }
    }
}

impl Client {
    /// Sends the request and reads the answer into `answer`, which holds what has come when this fails or is cut off.
    async fn exchange(&self, request: AttemptRequest<'_>, now: Instant, answer: &mut Answer) -> Result<(), Failure> {
        let keys = request.keys.map_err(|unopened| Failure::Unsigned(unopened.clone()))?;
        let endpoint = request.target.0.as_ref().map_err(Clone::clone)?;
        self.policy.check_endpoint(endpoint)?;
        let mut connection = match self.reuse(endpoint, now) {
            Some(connection) => connection,
            None => self.connector.connect(endpoint).await?,
        };
        let started_at = request.started_at;
        let response = match connection.send(to_http(request, keys, endpoint)).await {
            Some(Ok(response)) => response,
            Some(Err(error)) => return Err(Failure::of_hyper(&error, Phase::Waiting)),
            None => return Err(Failure::Closed(Phase::Waiting)),
        };
        answer.head(response.status(), response.headers(), started_at);
        read_body(&mut connection, response.into_body(), answer).await?;
        // One whose answer has not ended is closed here.
        if connection.is_reusable() {
            self.idle.put(&endpoint.origin, connection, Instant::now());
        }
        Ok(())
    }

    /// A connection that is still open: the receiver may have closed it while it was idle.
    fn reuse(&self, endpoint: &Endpoint, now: Instant) -> Option<Box<Connection>> {
        loop {
            let mut connection = self.idle.take(&endpoint.origin, now)?;
            if connection.is_reusable() {
                return Some(connection);
            }
        }
    }
}

/// Reads up to the cap.
async fn read_body(connection: &mut Connection, mut body: Incoming, answer: &mut Answer) -> Result<(), Failure> {
    while let Some(piece) = connection.next_piece(&mut body).await {
        let piece = piece.map_err(|error| Failure::of_hyper(&error, Phase::Reading))?;
        if !answer.body(&piece) {
            break;
        }
    }
    Ok(())
}

fn to_http(attempt: AttemptRequest<'_>, keys: Option<&SigningKeys>, endpoint: &Endpoint) -> Request<Full<Bytes>> {
    let headers = headers(&attempt, keys, endpoint);
    let mut request = Request::new(Full::new(attempt.delivery.payload));
    *request.method_mut() = attempt.options.method.clone();
    *request.uri_mut() = endpoint.uri.clone();
    *request.headers_mut() = headers;
    request
}

fn headers(attempt: &AttemptRequest<'_>, keys: Option<&SigningKeys>, endpoint: &Endpoint) -> HeaderMap {
    let custom = &attempt.options.headers;
    let mut headers = HeaderMap::with_capacity(HEADERS + custom.len());
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(ACCEPT, ANYTHING);
    // Those above may be replaced, those below not.
    headers.extend(custom.clone());
    headers.insert(HOST, endpoint.host_header.clone());
    headers.insert(ATTEMPT, attempt.number.into());
    // Event types are checked when they are accepted; one that no header can hold cannot get here.
    if let Some(Ok(event_type)) = attempt.delivery.event_type.as_deref().map(HeaderValue::from_str) {
        headers.insert(EVENT_TYPE, event_type);
    }
    if let (Some(trace), Some(span)) = (&attempt.delivery.trace, attempt.span) {
        headers.insert(TRACEPARENT, text(trace.header(span)));
        // One of the subscription's own would be of another trace.
        headers.remove(TRACESTATE);
        headers
            .extend(trace.state().and_then(|state| HeaderValue::from_str(state).ok()).map(|state| (TRACESTATE, state)));
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let id: &str = attempt.delivery.webhook_id().0.as_hyphenated().encode_lower(&mut buffer);
    let timestamp = seconds(attempt.started_at).to_string();
    if let Some(keys) = keys {
        let (body, now) = (&attempt.delivery.payload, attempt.started_at);
        headers.insert(WEBHOOK_SIGNATURE, text(keys.sign(&Message { id, timestamp: &timestamp, body }, now)));
        let signature = keys.hub_signature(body).map(|signature| (HUB_SIGNATURE, text(signature)));
        let previous = keys.previous_hub_signature(body, now);
        headers.extend(signature);
        headers.extend(previous.map(|signature| (PREVIOUS_HUB_SIGNATURE, text(signature))));
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

#[cfg(test)]
#[path = "wire_tests.rs"]
mod wire_tests;
