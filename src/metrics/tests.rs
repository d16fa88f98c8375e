//! What is counted is what is read back.

use super::*;
use crate::delivery::BreakerState::{Closed, HalfOpen, Open};
use crate::delivery::{AttemptClass, Timestamp};

fn result(status: Option<u16>, class: AttemptClass, duration: Duration) -> AttemptResult {
    let succeeded = class == AttemptClass::Answered && status.is_some_and(|status| status < 300);
    AttemptResult {
        started_at: Timestamp(0),
        duration,
        http_status: status,
        retry_after: None,
        error_details: (!succeeded).then(|| format!("{class:?}")),
        class,
        response_body: None,
    }
}

/// The value of the series of this exact name and these labels.
fn value(metrics: &Metrics, series: &str) -> f64 {
    value_with(metrics, &Live::default(), series)
}

fn value_with(metrics: &Metrics, live: &Live, series: &str) -> f64 {
    let page = metrics.render(live);
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no series {series} in\n{page}")).parse().expect("a number")
}

#[test]
fn the_page_is_openmetrics_with_every_figure_there_from_the_start() {
    let page = Metrics::default().render(&Live::default());
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert!(page.contains(&format!("hookpost_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))), "{page}");
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("hookpost_"), "{line}");
    }
    for name in ["ack_seconds", "commit_seconds", "commit_rows", "attempt_seconds", "first_attempt_wait_seconds"] {
        assert!(page.contains(&format!("# TYPE hookpost_{name} histogram\n")), "{name} is missing in {page}");
    }
}

#[test]
fn accepting_and_committing_fill_their_histograms() {
    let metrics = Metrics::default();
    metrics.accepted(Duration::from_millis(3));
    metrics.accepted(Duration::from_secs(100));
    metrics.committed(300, Duration::from_micros(500));
    assert_eq!(value(&metrics, "hookpost_events_accepted_total"), 2.0);
    assert_eq!(value(&metrics, "hookpost_ack_seconds_bucket{le=\"0.0025\"}"), 0.0);
    assert_eq!(value(&metrics, "hookpost_ack_seconds_bucket{le=\"0.005\"}"), 1.0);
    assert_eq!(value(&metrics, "hookpost_ack_seconds_bucket{le=\"+Inf\"}"), 2.0);
    assert_eq!(value(&metrics, "hookpost_ack_seconds_count"), 2.0);
    assert_eq!(value(&metrics, "hookpost_ack_seconds_sum"), 100.003);
    assert_eq!(value(&metrics, "hookpost_commit_rows_bucket{le=\"512.0\"}"), 1.0);
    // A bound is part of its own bucket.
    assert_eq!(value(&metrics, "hookpost_commit_seconds_bucket{le=\"0.0005\"}"), 1.0);
    assert_eq!(value(&metrics, "hookpost_commit_seconds_bucket{le=\"0.00025\"}"), 0.0);
}

#[test]
fn an_attempt_is_counted_by_how_it_ended() {
    let metrics = Metrics::default();
    let after = |status, class| metrics.attempted(&result(status, class, Duration::ZERO), 2, Duration::ZERO);
    for status in [204, 404, 503, 302] {
        after(Some(status), AttemptClass::Answered);
    }
    after(Some(200), AttemptClass::Timeout);
    for class in [AttemptClass::Connect, AttemptClass::Resolve, AttemptClass::Tls] {
        after(None, class);
    }
    for class in [AttemptClass::Refused, AttemptClass::Reset, AttemptClass::NotHttp, AttemptClass::Local] {
        after(None, class);
    }
    let expected = [("success", 1.0), ("http_4xx", 1.0), ("http_5xx", 1.0), ("timeout", 1.0), ("connect", 3.0)];
    for (class, count) in expected.into_iter().chain([("other", 5.0)]) {
        assert_eq!(value(&metrics, &format!("hookpost_attempts_total{{class=\"{class}\"}}")), count, "{class}");
    }
    assert_eq!(value(&metrics, "hookpost_first_attempt_wait_seconds_count"), 0.0, "these were no first attempts");
}

#[test]
fn the_wait_for_the_first_attempt_ends_when_the_attempt_begins() {
    let metrics = Metrics::default();
    metrics.attempted(
        &result(Some(200), AttemptClass::Answered, Duration::from_secs(2)),
        1,
        Duration::from_millis(2_004),
    );
    assert_eq!(value(&metrics, "hookpost_first_attempt_wait_seconds_bucket{le=\"0.005\"}"), 1.0);
    assert_eq!(value(&metrics, "hookpost_attempt_seconds_sum"), 2.0);
}

#[test]
fn outcomes_and_actors_are_read_back() {
    let metrics = Metrics::default();
    for outcome in [Outcome::Success, Outcome::FailedAttempt, Outcome::FailedAttempt, Outcome::Failure] {
        metrics.outcome(outcome);
    }
    metrics.refused_deliveries(3);
    assert_eq!(value(&metrics, "hookpost_retries_scheduled_total"), 2.0);
    assert_eq!(value(&metrics, "hookpost_deliveries_total{state=\"delivered\"}"), 1.0);
    assert_eq!(value(&metrics, "hookpost_deliveries_total{state=\"failed\"}"), 4.0);
    metrics.commit_failed();
    assert_eq!(value(&metrics, "hookpost_commits_failed_total"), 1.0);
    metrics.activated();
    metrics.passivated();
    metrics.restarted();
    for name in ["activated", "passivated", "restarted"] {
        assert_eq!(value(&metrics, &format!("hookpost_actors_{name}_total")), 1.0);
    }
}

#[test]
fn what_is_so_at_the_scrape_is_shown() {
    let mut live = Live {
        store_up: true,
        active: 7,
        backlog: 12,
        oldest_due: Duration::from_millis(1500),
        census_age: Duration::from_secs(9),
        attempts: (3, 2048),
        payload_bytes: (10, 64),
        ..Live::default()
    };
    for (breaker, window) in [(Closed, 1), (Open, 1), (Closed, 8), (HalfOpen, 9), (Closed, 33)] {
        live.count(breaker, window);
    }
    let metrics = Metrics::default();
    for (series, expected) in [
        ("hookpost_store_up", 1.0),
        ("hookpost_owner", 0.0),
        ("hookpost_actors_active", 7.0),
        ("hookpost_backlog", 12.0),
        ("hookpost_oldest_due_age_seconds", 1.5),
        ("hookpost_census_age_seconds", 9.0),
        ("hookpost_attempts_in_flight", 3.0),
        ("hookpost_attempts_limit", 2048.0),
        ("hookpost_payload_bytes", 10.0),
        ("hookpost_payload_limit_bytes", 64.0),
        ("hookpost_breakers{state=\"closed\"}", 3.0),
        ("hookpost_breakers{state=\"half_open\"}", 1.0),
        ("hookpost_windows{size=\"1\"}", 2.0),
        ("hookpost_windows{size=\"8\"}", 1.0),
        ("hookpost_windows{size=\"16\"}", 1.0),
        ("hookpost_windows{size=\"more\"}", 1.0),
    ] {
        assert_eq!(value_with(&metrics, &live, series), expected, "{series}");
    }
    assert_eq!(value(&metrics, "hookpost_windows{size=\"1\"}"), 0.0, "it is no count of all scrapes");
}

#[test]
fn every_figure_is_explained_in_a_sentence_and_named_as_prometheus_has_it() {
    let page = Metrics::default().render(&Live::default());
    for line in page.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').expect("a name and a help");
        let words = help.split(' ').count();
        assert!(words >= 2 && help.starts_with(char::is_uppercase) && help.ends_with('.'), "{line}");
        assert!(name.starts_with("hookpost_") && !name.ends_with("_ms") && !name.ends_with("_us"), "{name}");
    }
}

#[test]
fn the_janitor_adds_up_and_says_when_it_is_behind() {
    let metrics = Metrics::default();
    let counts =
        JanitorCounts { expired: 2, rows_deleted: 10, partitions_created: 1, partitions_dropped: 3, more: true };
    metrics.janitor(&counts);
    metrics.janitor(&JanitorCounts { more: false, ..counts });
    assert_eq!(value(&metrics, "hookpost_janitor_runs_total"), 2.0);
    assert_eq!(value(&metrics, "hookpost_janitor_rows_deleted_total"), 20.0);
    assert_eq!(value(&metrics, "hookpost_janitor_partitions_dropped_total"), 6.0);
    assert_eq!(value(&metrics, "hookpost_janitor_behind"), 0.0);
    assert_eq!(value(&metrics, "hookpost_deliveries_total{state=\"failed\"}"), 4.0, "they have expired");
}

#[test]
fn reasons_are_counted_apart_up_to_the_limit_and_together_beyond_it() {
    let metrics = Metrics::default();
    metrics.refused("busy");
    metrics.refused("busy");
    let many: Vec<&'static str> = (0..reasons::MAX_REASONS).map(|i| &*format!("reason-{i}").leak()).collect();
    many.iter().for_each(|reason| metrics.refused(reason));
    metrics.refused("busy");
    assert_eq!(value(&metrics, "hookpost_events_refused_total{reason=\"busy\"}"), 3.0);
    assert_eq!(value(&metrics, "hookpost_events_refused_total{reason=\"reason-0\"}"), 1.0);
    assert_eq!(value(&metrics, "hookpost_events_refused_total{reason=\"other\"}"), 1.0, "one too many");
}

#[test]
fn threads_that_count_at_the_same_time_lose_nothing() {
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    metrics.accepted(Duration::from_micros(300));
                    metrics.refused("busy");
                }
            });
        }
    });
    assert_eq!(value(&metrics, "hookpost_ack_seconds_count"), 4_000.0);
    assert_eq!(value(&metrics, "hookpost_events_refused_total{reason=\"busy\"}"), 4_000.0);
}
