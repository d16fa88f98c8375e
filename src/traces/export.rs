//! Sends spans to a collector: OTLP over HTTP, as protobuf. A collector that is away, slow or in a bad mood costs spans, which
//! are counted, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::{Scheme, Uri};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Queue, Span, protocol};
use crate::outbound::tls;

/// Most spans in a request, as OpenTelemetry's own exporters have it.
const MAX_BATCH: usize = 512;
/// How long the first of them waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// Deadline of a request, connection included.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stop waits for the last of them.
pub(super) const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Most of an answer that is read, so that the connection can be used again.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Where traces go below the endpoint, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it.
const PATH: &str = "v1/traces";

/// Where a collector listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    uri: Uri,
    authority: String,
}

/// It is not where a collector can be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEndpoint(&'static str);

impl Endpoint {
    /// Its host and port.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// An `http` or `https` URL without credentials: what is behind it is known by its address alone.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let mut url = Url::parse(text).map_err(|_| InvalidEndpoint("it is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidEndpoint("its scheme is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidEndpoint("it has a user or a password, which are not sent"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidEndpoint("it goes on behind its path"));
        }
        let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(InvalidEndpoint("it names no host"));
        };
        let uri: Uri = url.as_str().parse().map_err(|_| InvalidEndpoint("it is not a URL"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        Ok(Self { host, port, uri, authority })
    }
}

/// Sends until the tracer is closed, then what is left.
pub(super) async fn run(endpoint: Endpoint, mut waiting: mpsc::Receiver<Span>, queue: Arc<Queue>) {
    let mut exporter = Exporter { tls: None, connection: None, endpoint, queue, failing: false };
    let mut closing = false;
    while !closing || !waiting.is_empty() {
        let mut spans = Vec::new();
        if !closing {
            closing = exporter.gather(&mut waiting, &mut spans).await;
        }
        while spans.len() < MAX_BATCH
            && let Ok(span) = waiting.try_recv()
        {
            spans.push(span);
        }
        if !spans.is_empty() {
            exporter.export(spans).await;
        }
    }
}

struct Exporter {
    /// Made when it is first needed: the certificate authorities are read then.
    tls: Option<TlsConnector>,
    connection: Option<SendRequest<Full<Bytes>>>,
    endpoint: Endpoint,
    queue: Arc<Queue>,
    /// Whether the log says so: once, however long it lasts.
    failing: bool,
}

impl Exporter {
    /// Waits for a first span, and a moment for others; whether it is time to end.
    async fn gather(&self, waiting: &mut mpsc::Receiver<Span>, spans: &mut Vec<Span>) -> bool {
        let batch = async {
            spans.extend(waiting.recv().await);
            let more = async { while spans.len() < MAX_BATCH && waiting.recv_many(spans, MAX_BATCH).await > 0 {} };
            let _ = timeout(LINGER, more).await;
        };
        tokio::select! {
            () = self.queue.closing.notified() => true,
            () = batch => false,
        }
    }

    async fn export(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let body = Bytes::from(protocol::encode(spans));
        let sent = timeout(SEND_TIMEOUT, self.send(body)).await.unwrap_or_else(|_| Err("no answer in time".into()));
        match sent {
            Ok(()) => {
                self.queue.metrics.spans_exported(count);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                self.connection = None;
                self.queue.metrics.spans_dropped(count);
                if !std::mem::replace(&mut self.failing, true) {
                    let endpoint = &self.endpoint.authority;
                    tracing::warn!(error, endpoint, "the collector takes no spans; they are dropped until it does");
                }
            }
        }
    }

    async fn send(&mut self, body: Bytes) -> Result<(), String> {
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // The path alone, and not the whole URL: no proxy is spoken to.
        let request = Request::post(self.endpoint.uri.path())
            .header(HOST, &self.endpoint.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("Hookpost/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = connection.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let rest = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        self.connection = rest.is_ok().then_some(connection);
        if status == StatusCode::OK { Ok(()) } else { Err(format!("it answered {status}")) }
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, String> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
        if self.endpoint.uri.scheme() != Some(&Scheme::HTTPS) {
            return converse(stream).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let tls = self.tls.get_or_insert_with(|| TlsConnector::from(Arc::new(tls::config())));
        converse(tls.connect(name, stream).await.map_err(|error| error.to_string())?).await
    }
}

async fn converse<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with the sender, or with the connection.
    tokio::spawn(async move {
        let _ = driver.await;
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_below_the_endpoint() {
        let endpoint = |text: &str| Endpoint::parse(text).unwrap();
        assert_eq!(endpoint("http://localhost:4318").uri, "http://localhost:4318/v1/traces");
        assert_eq!(endpoint("https://otel.example/base/").uri, "https://otel.example/base/v1/traces");
        assert_eq!((endpoint("https://otel.example").port, endpoint("http://[::1]:4318").host.as_str()), (443, "::1"));
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_being_repeated() {
        for (text, said) in [
            ("localhost:4318", "scheme"),
            ("collector", "not a URL"),
            ("grpc://localhost:4317", "scheme"),
            ("http://user:hunter2@localhost", "password"),
            ("http://localhost/?token=hunter2", "behind its path"),
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
