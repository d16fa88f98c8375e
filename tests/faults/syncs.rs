//! Row 7: fsync answers with an I/O error. Nothing is acknowledged that a sync should have made durable.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::figures::{Figures, long, scenario};
use crate::ledger::node::Node;
use crate::ledger::postgres::Cluster;
use crate::load::{Load, loaded, settle};
use crate::peer::{Does, Peer};
use crate::site::Site;
use crate::strace::{Strace, Syncs};
use crate::tools::family;

const PRODUCERS: usize = 8;
const QUIET: Duration = Duration::from_secs(15);

/// How many answers are looked at while every sync fails.
fn answers() -> usize {
    if long() { 2000 } else { 60 }
}

/// How many syncs must have failed by then: the writer waits after each.
const FAILED: usize = 5;

/// Under load, with every sync of these processes failing for a while: how many were acknowledged meanwhile, of how
/// many, and how many syncs failed.
async fn fail(load: &Load, pids: &[u32]) -> (usize, usize, usize) {
    load.accepts(50, PATIENCE).await;
    let strace = Strace::attach(Syncs::Fail, pids).await;
    let failing = Instant::now();
    load.when("answered", failing, PATIENCE, |seen| seen.len() >= answers() && strace.injected() >= FAILED).await;
    let seen = load.since(failing);
    let acked = seen.iter().filter(|answered| answered.is_ok()).count();
    (acked, seen.len(), strace.detach().await)
}

/// What was acknowledged is delivered also after a kill and a start; nothing else is known of memory then.
async fn restart_and_judge(figures: &Figures, site: &Site, node: Node, load: Load, peer: &Peer, said: String) {
    load.accepts(20, PATIENCE).await;
    let killed = Instant::now();
    node.kill().await;
    let ledger = load.stop().await;
    let node = site.start().await;
    let verdict = settle(&ledger, site, peer, QUIET, &[killed]).await;
    figures.record(format!("{said}; {} lost of {} acknowledged", verdict.lost.len(), verdict.accepted));
    verdict.assert_clean();
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsync_fails_on_sqlite() {
    let Some(figures) = scenario("fsync_fails_on_sqlite") else { return };
    let _turn = figures.beside_others().await;
    let (site, peer) = (Site::new(), Peer::always(Does::Answer(200, "")).await);
    let node = site.start().await;
    let id = loaded(&site, &peer.url(), json!({})).await;
    let load = Load::start(&site.base(), id, PRODUCERS, 200);
    let (acked, asked, failed) = fail(&load, &[node.pid()]).await;
    let healed = Instant::now();
    load.accepts(1, PATIENCE).await;
    let said = format!(
        "{acked} acks of {asked} asked while {failed} syncs failed, accepting {:.1} s after",
        healed.elapsed().as_secs_f64()
    );
    figures.record(&said);
    assert!(acked == 0 && failed >= FAILED, "{said}");
    restart_and_judge(&figures, &site, node, load, &peer, said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fsync_fails_on_postgres() {
    let Some(figures) = scenario("fsync_fails_on_postgres") else { return };
    let _turn = figures.beside_others().await;
    let mut cluster = Cluster::new();
    cluster.start().await;
    let (site, peer) = (Site::on(&cluster), Peer::always(Does::Answer(200, "")).await);
    let node = site.start().await;
    let id = loaded(&site, &peer.url(), json!({})).await;
    let load = Load::start(&site.base(), id, PRODUCERS, 200);
    let (acked, asked, failed) = fail(&load, &family(cluster.pids()[0])).await;
    // A server that cannot sync its log ends; that it is started again is an operator's work.
    cluster.revive().await;
    let healed = Instant::now();
    load.accepts(1, PATIENCE).await;
    let said = format!(
        "{acked} acks of {asked} asked while {failed} syncs failed, accepting {:.1} s after",
        healed.elapsed().as_secs_f64()
    );
    figures.record(&said);
    assert!(acked == 0 && failed >= FAILED, "{said}");
    restart_and_judge(&figures, &site, node, load, &peer, said).await;
}
