//! Row 6: the power is cut under load. Everything is stopped and the disk copied; what was acknowledged is in the copy.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::figures::{Figures, long, scenario};
use crate::image::Disk;
use crate::ledger::node::Node;
use crate::ledger::postgres::Cluster;
use crate::ledger::verdict::Verdict;
use crate::load::{Ledger, Load, loaded, settle};
use crate::peer::{Does, Peer};
use crate::site::Site;
use crate::strace::{Strace, Syncs};

const PRODUCERS: usize = 8;
/// Enough for some seconds of load; the file is sparse.
const SQLITE_DISK_MB: u64 = 256;
const POSTGRES_DISK_MB: u64 = 768;
/// Nothing has come for so long: what is not there by then is lost.
const QUIET: Duration = Duration::from_secs(8);

/// Cuts, and events accepted before each.
fn extent() -> (usize, usize) {
    if long() { (20, 1000) } else { (2, 300) }
}

/// The embedded store or a PostgreSQL on a disk, with the service, and nobody at the address of its subscription: nothing is
/// delivered before the cut. All of it is new, directories too, and nothing syncs it but the store itself.
struct Scene {
    disk: Disk,
    site: Site,
    cluster: Option<Cluster>,
    node: Node,
    receiver: std::net::SocketAddr,
    subscription: i64,
}

impl Scene {
    async fn on_sqlite() -> Self {
        let disk = Disk::new(SQLITE_DISK_MB);
        let site = Site::new().in_dir(&disk.path());
        Self::begin(disk, site, None).await
    }

    async fn on_postgres(settings: &[(&str, &str)]) -> Self {
        let disk = Disk::new(POSTGRES_DISK_MB);
        let mut cluster = Cluster::at(&disk.path());
        for (name, value) in settings {
            cluster.set(name, value);
        }
        cluster.start().await;
        let site = Site::on(&cluster);
        Self::begin(disk, site, Some(cluster)).await
    }

    async fn begin(disk: Disk, site: Site, cluster: Option<Cluster>) -> Self {
        let node = site.start().await;
        let receiver = nobody().await;
        let subscription = loaded(&site, &format!("http://{receiver}/"), json!({})).await;
        Self { disk, site, cluster, node, receiver, subscription }
    }

    fn load(&self) -> Load {
        Load::start(&self.site.base(), self.subscription, PRODUCERS, 200)
    }

    /// Stops everything at once, copies the disk, and goes on from the copy.
    async fn cut(self, load: Load) -> Verdict {
        let Self { disk, site, cluster, node, receiver, .. } = self;
        let cut = Instant::now();
        node.signal("STOP").await;
        if let Some(cluster) = &cluster {
            cluster.freeze().await;
        }
        let after = disk.after_a_power_cut(load.first_accepted());
        node.kill().await;
        let moved = match cluster {
            Some(cluster) => Some(cluster.on_the_copy_in(&after.path()).await),
            None => None,
        };
        drop(disk);
        let ledger = load.stop().await;
        recover(&after, site, moved, receiver, &ledger, cut).await
    }
}

/// Starts the service on what is left, and counts what it does not deliver.
async fn recover(
    disk: &Disk,
    site: Site,
    cluster: Option<Cluster>,
    receiver: std::net::SocketAddr,
    ledger: &Ledger,
    cut: Instant,
) -> Verdict {
    let site = match cluster {
        Some(_) => site,
        None => site.in_dir(&disk.path()),
    };
    let mut cluster = cluster;
    if let Some(cluster) = &mut cluster {
        cluster.start().await;
    }
    let peer = Peer::at(receiver, |_| Does::Answer(200, "")).await;
    let node = site.start().await;
    let verdict = settle(ledger, &site, &peer, QUIET, &[cut]).await;
    node.kill().await;
    if let Some(mut cluster) = cluster {
        cluster.stop_immediate().await;
    }
    verdict
}

/// An address where nobody listens, yet.
async fn nobody() -> std::net::SocketAddr {
    ([127, 0, 0, 1], crate::ledger::fixed_port()).into()
}

fn record(figures: &Figures, all: &[Verdict]) -> usize {
    let (accepted, lost): (usize, usize) =
        all.iter().fold((0, 0), |(accepted, lost), cut| (accepted + cut.accepted, lost + cut.lost.len()));
    figures.record(format!("{lost} lost of {accepted} acknowledged, cuts: {}", all.len()));
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_on_sqlite() {
    let Some(figures) = scenario("power_cut_on_sqlite") else { return };
    let _turn = figures.beside_others().await;
    let (cuts, events) = extent();
    let mut all = Vec::new();
    for _ in 0..cuts {
        let scene = Scene::on_sqlite().await;
        let load = scene.load();
        load.accepts(events, PATIENCE).await;
        all.push(scene.cut(load).await);
    }
    record(&figures, &all);
    all.iter().for_each(Verdict::assert_clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_on_postgres() {
    let Some(figures) = scenario("power_cut_on_postgres") else { return };
    let _turn = figures.beside_others().await;
    let (cuts, events) = extent();
    let mut all = Vec::new();
    for _ in 0..cuts.div_ceil(2) {
        let scene = Scene::on_postgres(&[]).await;
        let load = scene.load();
        load.accepts(events, PATIENCE).await;
        all.push(scene.cut(load).await);
    }
    record(&figures, &all);
    all.iter().for_each(Verdict::assert_clean);
}

/// Commits that return before they are on disk, which no setting of the server or of the URL can bring about: the sessions
/// of the service insist. So a trigger does, in the transaction itself.
const COMMIT_ASYNCHRONOUSLY: &str = "
    CREATE FUNCTION hurry() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END $$;
    CREATE TRIGGER hurry AFTER INSERT ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION hurry();
    CREATE TRIGGER hurry AFTER INSERT ON delivery_logs FOR EACH STATEMENT EXECUTE FUNCTION hurry();";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_with_synchronous_commit_off() {
    let Some(figures) = scenario("power_cut_with_synchronous_commit_off") else { return };
    let _turn = figures.beside_others().await;
    // Its log is written in the background, as rarely as it can be told to.
    let rarely = [("wal_writer_delay", "10s"), ("wal_writer_flush_after", "1GB")];
    let scene = Scene::on_postgres(&rarely).await;
    let cluster = scene.cluster.as_ref().expect("it is on PostgreSQL");
    cluster.client().await.batch_execute(COMMIT_ASYNCHRONOUSLY).await.expect("a superuser may");
    let load = scene.load();
    load.accepts(extent().1, PATIENCE).await;
    let lost = record(&figures, &[scene.cut(load).await]);
    assert!(lost > 0, "the power cut does not see that commits are not on disk: it proves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_of_a_disk_that_lies() {
    let Some(figures) = scenario("power_cut_of_a_disk_that_lies") else { return };
    let _turn = figures.beside_others().await;
    let scene = Scene::on_sqlite().await;
    let lie = Strace::attach(Syncs::Lie, &[scene.node.pid()]).await;
    let load = scene.load();
    load.accepts(extent().1, PATIENCE).await;
    // The cut comes while it still lies: one true sync would put all of it on the disk.
    let lost = record(&figures, &[scene.cut(load).await]);
    drop(lie);
    assert!(lost > 0, "the power cut does not see that nothing was synced: it proves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_fsyncs_fail_and_then_power() {
    let Some(figures) = scenario("some_fsyncs_fail_and_then_power") else { return };
    let _turn = figures.beside_others().await;
    let scene = Scene::on_sqlite().await;
    let load = scene.load();
    load.accepts(1, PATIENCE).await;
    let strace = Strace::attach(Syncs::FailNowAndThen, &[scene.node.pid()]).await;
    // The writer waits after a failure: few commits get through in a second.
    load.accepts(extent().1 / 6, PATIENCE).await;
    let failed = strace.detach().await;
    let after = scene.cut(load).await;
    figures.record(format!("{} lost of {} acknowledged, {failed} syncs failed", after.lost.len(), after.accepted));
    after.assert_clean();
    assert!(failed > 0, "no sync failed");
}
