//! An event from its arrival to its commit, as it is counted, logged and traced.

use std::sync::Arc;

use tokio::time::Instant;

use super::accept::Arrival;
use super::node::Parts;
use crate::delivery::{DeliveryId, EventId, SubscriptionId, TraceContext};
use crate::traces::{Ingested, number, text};

pub(super) struct Ingest<'a> {
    parts: &'a Parts,
    arrival: Arrival,
    /// Where its deliveries belong.
    context: Option<Arc<TraceContext>>,
    submitted: Instant,
}

impl<'a> Ingest<'a> {
    /// Of an event that is about to be handed to the writer.
    pub fn begin(parts: &'a Parts, arrival: Arrival) -> Self {
        let context = parts.tracer.enter(arrival.trace.as_ref());
        Self { parts, arrival, context, submitted: Instant::now() }
    }

    pub fn context(&self) -> Option<Arc<TraceContext>> {
        self.context.clone()
    }

    /// It came to this delivery.
    pub fn delivery(&self, id: DeliveryId, subscription_id: SubscriptionId, event_type: Option<&str>) {
        self.again();
        let trace_id = self.context.as_ref().map(|context| tracing::field::display(context.trace));
        tracing::debug!(delivery_id = %id, subscription_id = subscription_id.0, event_type, attempt = 0, trace_id, "accepted");
        self.trace(|| {
            let mut attributes =
                vec![text("hookpost.delivery_id", id), number("hookpost.subscription_id", subscription_id.0)];
            attributes.extend(event_type.map(|name| text("hookpost.event_type", name)));
            attributes
        });
    }

    /// It was fanned out to so many deliveries.
    pub fn event(&self, id: EventId, event_type: &str, deliveries: usize, refused: usize) {
        self.again();
        self.parts.metrics.refused_deliveries(refused);
        let trace_id = self.context.as_ref().map(|context| tracing::field::display(context.trace));
        tracing::debug!(event_id = %id, event_type, deliveries, refused, trace_id, "an event was fanned out");
        self.trace(|| {
            let count = i64::try_from(deliveries + refused).unwrap_or(i64::MAX);
            vec![
                text("hookpost.event_id", id),
                text("hookpost.event_type", event_type),
                number("hookpost.deliveries", count),
            ]
        });
    }

    /// The same request was accepted before: nothing was made of it.
    pub fn again(&self) {
        self.parts.metrics.accepted(self.arrival.at.elapsed());
    }

    fn trace(&self, attributes: impl FnOnce() -> Vec<crate::traces::Attribute>) {
        if let Some(context) = &self.context {
            let caller = self.arrival.trace.as_ref().map(|trace| trace.parent);
            let ingested = Ingested { caller, came_at: self.arrival.at, submitted_at: self.submitted };
            self.parts.tracer.ingested(context, &ingested, attributes);
        }
    }
}
