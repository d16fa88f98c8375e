//! What the service counts, in Prometheus' words. One place names every figure.
//!
//! Every figure of the hot path is a handle that was looked up once: counting is an atomic addition. Labels take only
//! values that the code itself names, never a URL, an id or an event type, so that the number of series is fixed.

mod attempts;
mod histogram;
mod live;
mod reasons;

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use self::attempts::Attempts;
use self::histogram::Histogram;
use self::live::Gauges;
use self::reasons::Reasons;
use crate::delivery::{AttemptResult, Outcome};
use crate::store::JanitorCounts;

pub use self::live::{Live, WINDOW_BOUNDS};

/// From a commit on fast disks to the longest that a client waits, in microseconds.
const LATENCY_US: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];
/// From a receiver next door to the longest timeout of an attempt, in microseconds.
const ATTEMPT_US: [u64; 14] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    300_000_000,
];
/// From a delivery that finds its actor idle to one that waited out an outage of an hour, in microseconds.
const WAIT_US: [u64; 14] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];
/// Powers of two, as a queue grows.
const BATCH_ROWS: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048];
const MICROS_PER_SECOND: f64 = 1e6;

/// Label and value.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;

/// All figures of this process. Those that have to be looked for are handed in when they are shown: see [`Live`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    refused: Reasons,
    ack: Histogram,
    batch_rows: Histogram,
    commit: Histogram,
    commits_failed: Counter,
    attempts: Attempts,
    attempt: Histogram,
    first_attempt: Histogram,
    delivered: Counter,
    failed: Counter,
    retries: Counter,
    activated: Counter,
    passivated: Counter,
    restarted: Counter,
    spans_exported: Counter,
    spans_dropped: Counter,
    janitor: Janitor,
    live: Gauges,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hookpost");
        let r = &mut registry;
        r.register("build", "What runs, as the label version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let states = add(r, "deliveries", "Deliveries that have ended, by how", Counters::default());
        let state = |name| states.get_or_create_owned(&[("state", name)]);
        Self {
            accepted: add(r, "events_accepted", "Events that were committed and answered with 202", Counter::default()),
            refused: Reasons::new(add(
                r,
                "events_refused",
                "Events that were answered otherwise, by problem",
                Counters::default(),
            )),
            ack: add_time(r, "ack", "Time from reading the head of an event's request to its commit", &LATENCY_US),
            batch_rows: add(
                r,
                "commit_rows",
                "Deliveries and attempts that went into one commit",
                Histogram::new(&BATCH_ROWS, 1.0),
            ),
            commit: add_time(r, "commit", "Time that a commit took", &LATENCY_US),
            commits_failed: add(
                r,
                "commits_failed",
                "Commits that failed, each of which is tried again or taken apart",
                Counter::default(),
            ),
            attempts: Attempts::new(&add(r, "attempts", "Attempts that have ended, by how", Counters::default())),
            attempt: add_time(r, "attempt", "Time that an attempt took, its answer included", &ATTEMPT_US),
            first_attempt: add_time(
                r,
                "first_attempt_wait",
                "Time from accepting an event to its first attempt",
                &WAIT_US,
            ),
            delivered: state("delivered"),
            failed: state("failed"),
            retries: add(
                r,
                "retries_scheduled",
                "Attempts that failed and will be followed by another",
                Counter::default(),
            ),
            activated: add(r, "actors_activated", "Actors that were started for a subscription", Counter::default()),
            passivated: add(r, "actors_passivated", "Actors that left because they were idle", Counter::default()),
            restarted: add(r, "actors_restarted", "Actors that crashed and were started again", Counter::default()),
            spans_exported: add(r, "spans_exported", "Spans that a collector has taken", Counter::default()),
            spans_dropped: add(r, "spans_dropped", "Spans that no collector has taken in time", Counter::default()),
            janitor: Janitor::new(r),
            live: Gauges::new(r),
            registry,
        }
    }
}

/// Registers a figure. The registry puts the full stop behind the help.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn add_time(registry: &mut Registry, name: &str, help: &str, bounds_us: &[u64]) -> Histogram {
    let histogram = Histogram::new(bounds_us, MICROS_PER_SECOND);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

impl Metrics {
    /// An event was accepted, so long after its request was read.
    pub fn accepted(&self, ack: Duration) {
        self.accepted.inc();
        self.ack.observe(micros(ack));
    }

    /// An event was refused, for this reason (the last word of the problem's type).
    pub fn refused(&self, reason: &'static str) {
        self.refused.count(reason);
    }

    /// A commit of so many rows took so long.
    pub fn committed(&self, rows: usize, took: Duration) {
        self.batch_rows.observe(rows as u64);
        self.commit.observe(micros(took));
    }

    /// A commit failed.
    pub fn commit_failed(&self) {
        self.commits_failed.inc();
    }

    /// An attempt ended, so long after its delivery was accepted.
    pub fn attempted(&self, result: &AttemptResult, number: u32, since_accepted: Duration) {
        self.attempts.of(result).inc();
        self.attempt.observe(micros(result.duration));
        if number == 1 {
            self.first_attempt.observe(micros(since_accepted.saturating_sub(result.duration)));
        }
    }

    /// What an attempt came to for its delivery.
    pub fn outcome(&self, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.delivered.inc(),
            Outcome::FailedAttempt => self.retries.inc(),
            Outcome::Failure => self.failed.inc(),
        };
    }

    /// So many deliveries ended without an attempt, because their subscriptions' backlogs are full.
    pub fn refused_deliveries(&self, count: usize) {
        self.failed.inc_by(count as u64);
    }

    /// An actor was started.
    pub fn activated(&self) {
        self.activated.inc();
    }

    /// An idle actor left.
    pub fn passivated(&self) {
        self.passivated.inc();
    }

    /// A crashed actor is started again.
    pub fn restarted(&self) {
        self.restarted.inc();
    }

    /// A collector took so many spans.
    pub fn spans_exported(&self, count: u64) {
        self.spans_exported.inc_by(count);
    }

    /// So many spans were given up.
    pub fn spans_dropped(&self, count: u64) {
        self.spans_dropped.inc_by(count);
    }

    /// What the janitor did in one run.
    pub fn janitor(&self, counts: &JanitorCounts) {
        self.failed.inc_by(counts.expired);
        self.janitor.count(counts);
    }

    /// The `OpenMetrics` text format, which Prometheus reads, with what is so at this moment.
    pub fn render(&self, live: &Live) -> String {
        self.live.set(live);
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What the janitor has done since the start.
#[derive(Debug)]
struct Janitor {
    runs: Counter,
    expired: Counter,
    rows_deleted: Counter,
    partitions_created: Counter,
    partitions_dropped: Counter,
    behind: Gauge,
}

impl Janitor {
    fn new(registry: &mut Registry) -> Self {
        let r = registry.sub_registry_with_prefix("janitor");
        Self {
            runs: add(r, "runs", "Runs of the janitor that came to their end", Counter::default()),
            expired: add(
                r,
                "expired",
                "Deliveries that outlived the retention and ended as failures",
                Counter::default(),
            ),
            rows_deleted: add(r, "rows_deleted", "Rows deleted from the embedded store", Counter::default()),
            partitions_created: add(r, "partitions_created", "Partitions created in PostgreSQL", Counter::default()),
            partitions_dropped: add(r, "partitions_dropped", "Partitions dropped in PostgreSQL", Counter::default()),
            behind: add(r, "behind", "Whether the last run stopped at its bound, with more to do", Gauge::default()),
        }
    }

    fn count(&self, counts: &JanitorCounts) {
        self.runs.inc();
        self.expired.inc_by(counts.expired);
        self.rows_deleted.inc_by(counts.rows_deleted);
        self.partitions_created.inc_by(counts.partitions_created);
        self.partitions_dropped.inc_by(counts.partitions_dropped);
        self.behind.set(counts.more.into());
    }
}

#[cfg(test)]
mod tests;
