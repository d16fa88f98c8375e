//! A histogram of atomics: observed on every delivery, by every thread, without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Counts whole numbers by size: microseconds, rows. Shown in the unit of the metric's name.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Each with its upper bound, inclusive; the last is without one.
    buckets: Vec<(u64, AtomicU64)>,
    sum: AtomicU64,
    /// How many of what is counted make one of what is shown.
    per_unit: f64,
}

impl Histogram {
    /// Buckets up to these bounds, in order, and one for the rest.
    pub fn new(bounds: &[u64], per_unit: f64) -> Self {
        let buckets = bounds.iter().chain([&u64::MAX]).map(|bound| (*bound, AtomicU64::new(0))).collect();
        Self(Arc::new(Inner { buckets, sum: AtomicU64::new(0), per_unit }))
    }

    pub fn observe(&self, value: u64) {
        let bucket = self.0.buckets.iter().find(|(bound, _)| value <= *bound);
        if let Some((_, count)) = bucket {
            count.fetch_add(1, Relaxed);
        }
        self.0.sum.fetch_add(value, Relaxed);
    }
}

impl EncodeMetric for Histogram {
    /// The count is the sum of the buckets as they were read, so that it always agrees with them.
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Inner { buckets, sum, per_unit } = &*self.0;
        let shown = |bound: u64| if bound == u64::MAX { f64::INFINITY } else { as_f64(bound) / per_unit };
        let buckets: Vec<_> = buckets.iter().map(|(bound, count)| (shown(*bound), count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(as_f64(sum.load(Relaxed)) / per_unit, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Exact below 2^53; beyond it a figure for people loses digits that nobody reads.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn as_f64(value: u64) -> f64 {
    value as f64
}
