//! Rows 5 and 8: a PostgreSQL that stands still, and a disk that is full.

use std::pin::pin;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::PATIENCE;
use crate::figures::{Figures, long, scenario};
use crate::image::Disk;
use crate::ledger::node::Node;
use crate::ledger::postgres::{Cluster, poll};
use crate::load::{Answered, Load, loaded, settle};
use crate::peer::{Does, Peer};
use crate::site::Site;
use crate::tools::memory;

const PRODUCERS: usize = 8;
/// Those who give up and come back while a store stands still.
const IMPATIENT: usize = 128;
const QUIET: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_stopped() {
    let Some(figures) = scenario("postgres_is_stopped") else { return };
    let _turn = figures.alone().await;
    let stopped_for = Duration::from_secs(if long() { 60 } else { 8 });
    let mut cluster = Cluster::new();
    cluster.start().await;
    let (site, peer) = (Site::on(&cluster), Peer::always(Does::Answer(200, "")).await);
    let node = site.start().await;
    let id = loaded(&site, &peer.url(), json!({})).await;
    let mut load = Load::start(&site.base(), id, 4 * PRODUCERS, 200);
    // A queue without a bound would grow by what these ask for and do not wait for.
    load.joined_by_impatient(IMPATIENT);
    // Every pool and buffer has grown to what the load needs. The highest counts: it goes up and down by some megabytes.
    let before = highest_memory(node.pid(), load.accepts(3000, PATIENCE)).await;

    cluster.freeze().await;
    let stopped = Instant::now();
    let peak = highest_memory(node.pid(), sleep_until(stopped + stopped_for)).await;
    let meanwhile = load.since(stopped);
    cluster.thaw().await;
    let thawed = Instant::now();
    load.accepts(1, PATIENCE).await;
    let again = thawed.elapsed();
    let ledger = load.stop().await;
    let verdict = settle(&ledger, &site, &peer, QUIET, &[]).await;

    let growth = 100.0 * (peak as f64 / before as f64 - 1.0);
    let refused = meanwhile.iter().filter(|answered| answered.status == Some(503)).count();
    let given_up = meanwhile.iter().filter(|answered| answered.status.is_none()).count();
    let acked = meanwhile.iter().filter(|answered| answered.is_ok()).count();
    figures.record(format!(
        "{refused} × 503 in {} s, {given_up} given up, slowest answer {:.2} s, memory {growth:+.1} %, accepting {:.1} s after, {} lost",
        stopped_for.as_secs(),
        ledger.slowest().as_secs_f64(),
        again.as_secs_f64(),
        verdict.lost.len()
    ));
    verdict.assert_clean();
    assert_eq!(acked, 0);
    assert!(given_up >= 10 * IMPATIENT, "only {given_up} came and went: no queue could have grown");
    let within = Duration::from_secs(figures.bound());
    assert!(refused > 0 && ledger.slowest() < within, "{refused} refused, {:?}", ledger.slowest());
    assert!(growth <= 10.0, "memory {before} → {peak}");
}

/// The most memory that a process is seen to have until this is done.
async fn highest_memory(pid: u32, until: impl Future<Output = ()>) -> u64 {
    let (mut highest, mut look, mut until) = (memory(pid), poll(), pin!(until));
    loop {
        tokio::select! {
            () = &mut until => return highest,
            _ = look.tick() => highest = highest.max(memory(pid)),
        }
    }
}

/// Fills the disk under load until events are refused, and frees it again.
async fn fill_and_free(figures: &Figures, disk: &Disk, site: &Site, node: Node) {
    let peer = Peer::always(Does::Answer(200, "")).await;
    let id = loaded(site, &peer.url(), json!({})).await;
    // Large, so that what is left is used up soon.
    let load = Load::start(&site.base(), id, PRODUCERS, 16 * 1024);
    load.accepts(50, PATIENCE).await;
    disk.fill();
    let full = Instant::now();
    let refused = |seen: &[Answered]| seen.iter().filter(|answered| answered.status == Some(503)).count();
    let seen = load.when("refused", full, PATIENCE, |seen| refused(seen) >= 20).await;
    disk.free();
    let freed = Instant::now();
    load.accepts(1, PATIENCE).await;
    let healed = freed.elapsed();
    load.accepts(50, PATIENCE).await;
    let ledger = load.stop().await;
    let verdict = settle(&ledger, site, &peer, QUIET, &[]).await;
    figures.record(format!(
        "{} × 503, accepting {:.1} s after there is room, {} lost of {}",
        refused(&seen),
        healed.as_secs_f64(),
        verdict.lost.len(),
        verdict.accepted
    ));
    verdict.assert_clean();
    assert!(healed <= Duration::from_secs(figures.bound()), "{healed:?}");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_full_on_sqlite() {
    let Some(figures) = scenario("disk_full_on_sqlite") else { return };
    let _turn = figures.alone_if_strict().await;
    let disk = Disk::new(if long() { 1024 } else { 96 });
    let site = Site::new().in_dir(&disk.path());
    let node = site.start().await;
    fill_and_free(&figures, &disk, &site, node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_full_on_postgres() {
    let Some(figures) = scenario("disk_full_on_postgres") else { return };
    let _turn = figures.alone_if_strict().await;
    let disk = Disk::new(if long() { 2048 } else { 384 });
    let mut cluster = Cluster::at(&disk.path());
    cluster.start().await;
    let site = Site::on(&cluster);
    let node = site.start().await;
    fill_and_free(&figures, &disk, &site, node).await;
    cluster.kill().await;
}
