//! Spans of deliveries, for whoever collects them: optional, and never in the way. A span is put into a bounded queue or, when
//! that is full, dropped and counted; `export` sends what is in it to an OTLP collector. Spans hold ids, types, numbers and
//! statuses: no payload, no URL, no word of a receiver.
//!
//! ```text
//! the caller's span ─▶ ingest ─┬▶ commit
//!                              └▶ attempt 1, attempt 2, … of each delivery, also after a restart
//! ```
//! Without an endpoint only what a producer sends is passed on, and no trace is invented.

mod export;
mod protocol;

use std::fmt::Display;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::delivery::{AttemptClass, AttemptResult, DeliveryId, SpanId, SubscriptionId, TraceContext, TraceId};
use crate::metrics::Metrics;

pub use export::{Endpoint, InvalidEndpoint};

/// Spans that wait to be sent, at most: some seconds of a busy node, and about 4 MiB.
const MAX_QUEUED: usize = 8192;

/// What a span says of itself.
pub type Attribute = (&'static str, Value);

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number.
    Number(i64),
}

/// Words.
pub fn text(name: &'static str, value: impl Display) -> Attribute {
    (name, Value::Text(value.to_string()))
}

/// A number.
pub fn number(name: &'static str, value: impl Into<i64>) -> Attribute {
    (name, Value::Number(value.into()))
}

/// From where to where a span goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Inside.
    Internal,
    /// Somebody called.
    Server,
    /// Somebody is called.
    Client,
}

#[derive(Debug)]
struct Span {
    name: &'static str,
    kind: Kind,
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    state: Option<Arc<TraceContext>>,
    began_ns: u64,
    ended_ns: u64,
    attributes: Vec<Attribute>,
    /// What went wrong, as a word of ours.
    error: Option<&'static str>,
}

/// An event, from its arrival to its commit.
#[derive(Debug)]
pub struct Ingested {
    /// The span of whoever sent it.
    pub caller: Option<SpanId>,
    /// When its head had been read.
    pub came_at: Instant,
    /// When it was handed to the writer.
    pub submitted_at: Instant,
}

/// An attempt that has ended.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// Of this delivery.
    pub delivery: DeliveryId,
    /// Whose it is.
    pub subscription: SubscriptionId,
    /// As the producer named it.
    pub event_type: Option<&'a str>,
    /// 1 for the first.
    pub number: u32,
    /// How it went.
    pub result: &'a AttemptResult,
}

/// Takes spans. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<Span>,
    clock: Clock,
    metrics: Arc<Metrics>,
    closing: Notify,
}

/// The task that sends, for whoever stops it.
#[derive(Debug)]
pub struct Exporting {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Tracer {
    /// Takes none.
    pub fn off() -> Self {
        Self(None)
    }

    /// Takes spans and has them sent there. Needs a runtime; nothing is connected to before there is something to send.
    pub fn start(endpoint: Endpoint, clock: Clock, metrics: Arc<Metrics>) -> (Self, Exporting) {
        let (spans, waiting) = mpsc::channel(MAX_QUEUED);
        let queue = Arc::new(Queue { spans, clock, metrics, closing: Notify::new() });
        let task = tokio::spawn(export::run(endpoint, waiting, queue.clone()));
        (Self(Some(queue.clone())), Exporting { queue, task })
    }

    /// Where what an event causes belongs: to the trace that it came with, or to a new one. Without export, to the one that
    /// it came with or to none.
    pub fn enter(&self, from: Option<&Arc<TraceContext>>) -> Option<Arc<TraceContext>> {
        match (&self.0, from) {
            (None, from) => from.cloned(),
            (Some(_), Some(from)) => Some(Arc::new(from.below(span_id()))),
            (Some(_), None) => Some(Arc::new(TraceContext::new(trace_id(), span_id()))),
        }
    }

    /// An event was made durable just now.
    pub fn ingested(
        &self,
        context: &Arc<TraceContext>,
        ingested: &Ingested,
        attributes: impl FnOnce() -> Vec<Attribute>,
    ) {
        let Some(queue) = self.recording(context) else { return };
        let attributes = attributes();
        let (now, now_ns) = (Instant::now(), queue.clock.wall_ns());
        let ns_at = |at: Instant| before(now_ns, now.saturating_duration_since(at));
        let span = |name, kind, id, parent, from, attributes| Span {
            name,
            kind,
            trace: context.trace,
            id,
            parent,
            state: context.state().map(|_| context.clone()),
            began_ns: ns_at(from),
            ended_ns: now_ns,
            attributes,
            error: None,
        };
        let own = context.parent;
        queue.put(span("ingest", Kind::Server, own, ingested.caller, ingested.came_at, attributes));
        queue.put(span("commit", Kind::Internal, span_id(), Some(own), ingested.submitted_at, Vec::new()));
    }

    /// An attempt has ended just now.
    pub fn attempted(&self, context: &Arc<TraceContext>, id: SpanId, attempt: &Attempt<'_>) {
        let Some(queue) = self.recording(context) else { return };
        let now_ns = queue.clock.wall_ns();
        queue.put(Span {
            name: "attempt",
            kind: Kind::Client,
            trace: context.trace,
            id,
            parent: Some(context.parent),
            state: context.state().map(|_| context.clone()),
            began_ns: before(now_ns, attempt.result.duration),
            ended_ns: now_ns,
            attributes: attempt.attributes(),
            error: (!attempt.result.succeeded()).then(|| what_failed(attempt.result)),
        });
    }

    /// A trace that its sender does not record is not recorded here either.
    fn recording(&self, context: &TraceContext) -> Option<&Queue> {
        self.0.as_deref().filter(|_| context.is_sampled())
    }
}

impl Attempt<'_> {
    fn attributes(&self) -> Vec<Attribute> {
        let mut attributes = vec![
            text("hookpost.delivery_id", self.delivery),
            number("hookpost.subscription_id", self.subscription.0),
            number("hookpost.attempt", self.number),
        ];
        attributes.extend(self.event_type.map(|name| text("hookpost.event_type", name)));
        attributes.extend(self.result.http_status.map(|status| number("http.response.status_code", status)));
        attributes
    }
}

impl Queue {
    fn put(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans_dropped(1);
        }
    }
}

impl Exporting {
    /// Sends what waits, for as long as that takes a collector that answers, and ends.
    pub async fn stop(mut self) {
        self.queue.closing.notify_one();
        if tokio::time::timeout(export::FLUSH_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn before(ns: u64, by: std::time::Duration) -> u64 {
    ns.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

/// A word for `error.type`: a status, or what came instead of one.
fn what_failed(result: &AttemptResult) -> &'static str {
    match (result.class, result.http_status) {
        (_, Some(300..=399)) => "redirect",
        (_, Some(400..=499)) => "client_error",
        (_, Some(500..)) => "server_error",
        (AttemptClass::Refused, _) => "refused_target",
        (AttemptClass::Resolve, _) => "resolve",
        (AttemptClass::Connect, _) => "connect",
        (AttemptClass::Tls, _) => "tls",
        (AttemptClass::Timeout, _) => "timeout",
        (AttemptClass::Reset, _) => "reset",
        (AttemptClass::NotHttp, _) => "not_http",
        (AttemptClass::Expired, _) => "expired",
        (AttemptClass::Local | AttemptClass::Answered, _) => "other",
    }
}

/// A span's id.
pub fn span_id() -> SpanId {
    loop {
        // Zero comes once in the age of the universe, and is no id.
        if let Some(id) = NonZeroU64::new(rand::random()) {
            return SpanId(id);
        }
    }
}

fn trace_id() -> TraceId {
    loop {
        if let Some(id) = NonZeroU128::new(rand::random()) {
            return TraceId(id);
        }
    }
}

#[cfg(test)]
mod tests;
