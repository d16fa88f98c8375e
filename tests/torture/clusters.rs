//! What the scenarios stand on cleans up after itself, whatever state a test that fails has left it in.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::postgres::{Cluster, poll};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_dropped_while_it_is_frozen_leaves_no_process() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let _session = cluster.client().await;
    let pids = cluster.pids();
    assert!(pids.len() > 1, "{pids:?}");
    cluster.freeze().await;
    drop(cluster);
    let (begun, mut look) = (Instant::now(), poll());
    while pids.iter().any(|pid| lives(*pid)) {
        assert!(begun.elapsed() < PATIENCE, "of {pids:?} some still live");
        look.tick().await;
    }
}

/// One that has ended and was not waited for yet, by whoever has to, does not.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
}
