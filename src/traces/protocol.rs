//! What is said to a collector: the part of OTLP's `trace.proto` (1.x) that is needed, field by field, with its numbers. The
//! tests decode it with the messages that OpenTelemetry publishes.

use prost::Message;

use super::{Attribute, Kind, Span, Value};

#[derive(Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    /// Empty for none.
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(oneof = "AnyKind", tags = "1, 3")]
    value: Option<AnyKind>,
}

#[derive(prost::Oneof)]
enum AnyKind {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

const STATUS_ERROR: i32 = 2;

/// The body of a request with these spans.
pub(super) fn encode(spans: Vec<Span>) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [super::text("service.name", "hookpost"), super::text("service.version", version)];
    let scope = Scope { name: "hookpost".to_owned(), version: version.to_owned() };
    let scope_spans = ScopeSpans { scope: Some(scope), spans: spans.into_iter().map(message).collect() };
    let resource = Resource { attributes: resource.into_iter().map(key_value).collect() };
    let spans = ResourceSpans { resource: Some(resource), scope_spans: vec![scope_spans] };
    Request { resource_spans: vec![spans] }.encode_to_vec()
}

fn message(span: Span) -> SpanMessage {
    let error = span.error.map(|word| super::text("error.type", word));
    let state = span.state.as_ref().and_then(|context| context.state()).unwrap_or_default();
    SpanMessage {
        trace_id: span.trace.0.get().to_be_bytes().to_vec(),
        span_id: span.id.0.get().to_be_bytes().to_vec(),
        trace_state: state.to_owned(),
        parent_span_id: span.parent.map(|parent| parent.0.get().to_be_bytes().to_vec()).unwrap_or_default(),
        name: span.name.to_owned(),
        kind: match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: span.began_ns,
        end_time_unix_nano: span.ended_ns,
        attributes: span.attributes.into_iter().chain(error).map(key_value).collect(),
        status: span.error.map(|word| Status { message: word.to_owned(), code: STATUS_ERROR }),
    }
}

fn key_value((key, value): Attribute) -> KeyValue {
    let value = match value {
        Value::Text(text) => AnyKind::Text(text),
        Value::Number(number) => AnyKind::Number(number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
