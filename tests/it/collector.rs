//! A stand-in for a collector: takes OTLP over HTTP and decodes it with the messages that OpenTelemetry publishes.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::receiver::PATIENCE;

/// Stops with the test's runtime.
pub struct Collector {
    pub endpoint: String,
    bodies: mpsc::UnboundedReceiver<Bytes>,
    /// All that has come, as it came.
    pub raw: Vec<u8>,
    pub spans: Vec<Span>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (came, bodies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let came = came.clone();
                let service = service_fn(move |request| take(request, came.clone()));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { endpoint, bodies, raw: Vec::new(), spans: Vec::new() }
    }

    /// Waits until so many spans of this name have come.
    pub async fn wait_for(&mut self, name: &str, count: usize) {
        let has = |spans: &[Span]| spans.iter().filter(|span| span.name == name).count() >= count;
        let enough = async {
            while !has(&self.spans) {
                let body = self.bodies.recv().await.expect("it runs");
                self.raw.extend(&body);
                let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
                for resource in request.resource_spans {
                    let named = resource.resource.expect("a resource").attributes;
                    assert!(named.iter().any(|attribute| attribute.key == "service.name"));
                    self.spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
            }
        };
        tokio::time::timeout(PATIENCE, enough).await.expect("the spans come");
    }

    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.name == name).collect()
    }
}

/// The text of an attribute, or its number as one.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

async fn take(
    request: Request<Incoming>,
    came: mpsc::UnboundedSender<Bytes>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let _ = came.send(body);
    Ok(Response::new(Full::default()))
}
