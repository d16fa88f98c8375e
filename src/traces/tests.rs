//! Nothing of a trace waits for a collector.

use std::time::Duration;

use super::*;
use crate::delivery::Timestamp;

fn tracer(endpoint: &str) -> (Tracer, Exporting, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let (tracer, exporting) = Tracer::start(Endpoint::parse(endpoint).unwrap(), Clock::start(), metrics.clone());
    (tracer, exporting, metrics)
}

fn count(metrics: &Metrics, series: &str) -> u64 {
    let page = metrics.render(&crate::metrics::Live::default());
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.expect("it is there").parse().expect("a number")
}

fn attempt_once(tracer: &Tracer, context: &Arc<TraceContext>) {
    let result = AttemptResult {
        started_at: Timestamp(0),
        duration: Duration::from_millis(1),
        http_status: Some(200),
        retry_after: None,
        error_details: None,
        class: AttemptClass::Answered,
        response_body: None,
    };
    let (delivery, subscription) = (DeliveryId::MIN, SubscriptionId(1));
    tracer.attempted(
        context,
        span_id(),
        &Attempt { delivery, subscription, event_type: None, number: 1, result: &result },
    );
}

#[test]
fn without_export_a_trace_is_passed_on_as_it_came_and_none_is_invented() {
    let tracer = Tracer::off();
    assert_eq!(tracer.enter(None), None);
    let came = Arc::new(TraceContext::new(trace_id(), span_id()));
    assert!(Arc::ptr_eq(&tracer.enter(Some(&came)).unwrap(), &came));
}

#[tokio::test]
async fn with_export_what_comes_goes_on_below_a_span_of_ours() {
    let (tracer, exporting, _) = tracer("http://127.0.0.1:9");
    let came = Arc::new(TraceContext::new(trace_id(), span_id()));
    let entered = tracer.enter(Some(&came)).unwrap();
    assert!(entered.trace == came.trace && entered.parent != came.parent);
    assert!(tracer.enter(None).unwrap().is_sampled());
    exporting.stop().await;
}

#[tokio::test]
async fn spans_that_find_the_queue_full_are_dropped_and_counted() {
    let (tracer, exporting, metrics) = tracer("http://127.0.0.1:9");
    let context = tracer.enter(None).unwrap();
    // The exporter has no turn before this has ended.
    (0..MAX_QUEUED + 3).for_each(|_| attempt_once(&tracer, &context));
    assert_eq!(count(&metrics, "hookpost_spans_dropped_total"), 3);
    exporting.task.abort();
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_a_stop_waits_for_none() {
    let (tracer, exporting, metrics) = tracer("http://127.0.0.1:9");
    let context = tracer.enter(None).unwrap();
    (0..3).for_each(|_| attempt_once(&tracer, &context));
    let began = Instant::now();
    exporting.stop().await;
    assert!(began.elapsed() <= export::FLUSH_TIMEOUT + Duration::from_millis(500));
    assert_eq!(
        (count(&metrics, "hookpost_spans_dropped_total"), count(&metrics, "hookpost_spans_exported_total")),
        (3, 0)
    );
}

#[tokio::test]
async fn what_its_sender_does_not_record_is_not_recorded() {
    let (tracer, mut exporting, metrics) = tracer("http://127.0.0.1:9");
    let came = TraceContext::of_headers("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", None).unwrap();
    attempt_once(&tracer, &tracer.enter(Some(&Arc::new(came))).unwrap());
    exporting.queue.closing.notify_one();
    (&mut exporting.task).await.unwrap();
    assert_eq!(count(&metrics, "hookpost_spans_dropped_total"), 0);
}
