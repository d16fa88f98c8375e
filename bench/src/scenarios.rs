//! The scenarios, each with its goal. Every figure is the median of several runs; ratios are of runs made in turn.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::clock::now_ns;
use crate::events::Events;
use crate::process::{Process, Usage};
use crate::producer::{self, Spread, Timeline};
use crate::receiver::Receivers;
use crate::report::{self, Row, percentile};
use crate::stores::{Home, Kind};

/// Subscriptions, unless a scenario says otherwise.
pub const SUBSCRIPTIONS: usize = 100;
/// Events of one throughput run.
const THROUGHPUT_EVENTS: usize = 100_000;
/// Sent before anything is measured: connections, caches, prepared statements.
const WARM_UP: usize = 4_000;
/// How long deliveries may take to arrive after the last event was accepted.
const PATIENCE: Duration = Duration::from_secs(300);

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    kind: What,
}

enum What {
    Throughput(Kind),
    OpenLoop,
    Backlog,
    Restart,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "postgres",
        about: "throughput, CPU and memory on PostgreSQL against the bare relay",
        kind: What::Throughput(Kind::Postgres),
    },
    Scenario {
        name: "embedded",
        about: "throughput, CPU and memory on the embedded store against the bare relay",
        kind: What::Throughput(Kind::Sqlite),
    },
    Scenario { name: "open-loop", about: "1,000 events/s on PostgreSQL: latencies", kind: What::OpenLoop },
    Scenario { name: "backlog", about: "one subscription, 1 M events behind, its receiver back", kind: What::Backlog },
    Scenario { name: "restart", about: "killed with 100 k pending", kind: What::Restart },
];

pub struct Bench {
    runs: usize,
    shrink: usize,
    database_url: Option<String>,
    events: Events,
    receivers: Receivers,
    pub rows: Vec<Row>,
}

/// One run at full speed.
struct Speed {
    per_second: f64,
    cpu_us: f64,
    peak_mib: f64,
}

impl Bench {
    pub async fn new(runs: usize, shrink: usize, database_url: Option<String>) -> anyhow::Result<Self> {
        let receivers = Receivers::start().await?;
        Ok(Self { runs, shrink, database_url, events: Events::new(), receivers, rows: Vec::new() })
    }

    pub async fn run(&mut self, scenario: &Scenario) -> anyhow::Result<()> {
        let before = self.rows.len();
        match scenario.kind {
            What::Throughput(kind) => self.throughput(scenario.name, kind).await?,
            What::OpenLoop => self.open_loop(scenario.name).await?,
            What::Backlog => self.backlog(scenario.name).await?,
            What::Restart => self.restart(scenario.name).await?,
        }
        self.rows[before..].iter().for_each(report::print);
        Ok(())
    }

    async fn home(&self, kind: Kind) -> anyhow::Result<Home> {
        Home::create(kind, self.database_url.as_deref()).await
    }

    async fn service(&self, home: &Home) -> anyhow::Result<Process> {
        Process::service(&home.environment()).await
    }

    /// Subscriptions `1..=count`, made over HTTP.
    async fn subscribe(&self, service: &Process, count: usize) -> anyhow::Result<()> {
        producer::subscribe(service.addr, (1..=count).map(|id| self.receivers.url(id))).await
    }

    /// Sends `total` events in a closed loop and waits until all have arrived.
    async fn full_speed(&self, process: &Process, spread: &Spread, total: usize) -> anyhow::Result<Speed> {
        let before = self.receivers.seen.count();
        let usage = process.usage()?;
        let start = now_ns();
        producer::closed_loop(process.addr, &self.events, spread, total).await?;
        self.arrived(before + total as u64).await?;
        let took = self.receivers.seen.last_ns() - start;
        let Usage { cpu_us, peak_kib } = process.usage()?;
        Ok(Speed {
            per_second: total as f64 * 1e9 / took as f64,
            cpu_us: (cpu_us - usage.cpu_us) as f64 / total as f64,
            peak_mib: peak_kib as f64 / 1024.0,
        })
    }

    async fn arrived(&self, count: u64) -> anyhow::Result<()> {
        let seen = &self.receivers.seen;
        tokio::time::timeout(PATIENCE, seen.reach(count))
            .await
            .with_context(|| format!("{} of {count} deliveries arrived", seen.count()))
    }

    async fn throughput(&mut self, name: &str, kind: Kind) -> anyhow::Result<()> {
        let total = THROUGHPUT_EVENTS / self.shrink;
        let spread = Spread { first: 1, count: SUBSCRIPTIONS };
        let (mut relays, mut services) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let relay = Process::relay(&format!("http://{}/r", self.receivers.addr)).await?;
            self.full_speed(&relay, &spread, WARM_UP).await?;
            relays.push(self.full_speed(&relay, &spread, total).await?);
            relay.kill().await?;

            let home = self.home(kind).await?;
            let service = self.service(&home).await?;
            self.subscribe(&service, SUBSCRIPTIONS).await?;
            self.full_speed(&service, &spread, WARM_UP).await?;
            services.push(self.full_speed(&service, &spread, total).await?);
            let logged = home.wait_for_logs(total + WARM_UP).await?;
            if logged != total + WARM_UP {
                bail!("{logged} attempts logged for {} deliveries", total + WARM_UP);
            }
            service.kill().await?;
            home.remove().await?;
        }
        let goal = if kind == Kind::Postgres { 0.75 } else { 0.80 };
        let column = |of: &[Speed], value: fn(&Speed) -> f64| -> Vec<f64> { of.iter().map(value).collect() };
        let ratio = |value: fn(&Speed) -> f64| -> Vec<f64> {
            services.iter().zip(&relays).map(|(service, relay)| value(service) / value(relay)).collect()
        };
        let rows = [
            Row::plain(name, "bare relay", "/s", column(&relays, |s| s.per_second)),
            Row::plain(name, "accepted, committed, delivered, logged", "/s", column(&services, |s| s.per_second)),
            Row::plain(name, "of the bare relay", "×", ratio(|s| s.per_second)).at_least(goal),
            Row::plain(name, "CPU of the relay, a delivery", "µs", column(&relays, |s| s.cpu_us)),
            Row::plain(name, "CPU of the service, a delivery", "µs", column(&services, |s| s.cpu_us)).at_most(60.0),
            Row::plain(name, "CPU of the service, of the relay's", "×", ratio(|s| s.cpu_us)).at_most(1.2),
            Row::plain(name, "memory, peak resident", "MiB", column(&services, |s| s.peak_mib)).at_most(150.0),
        ];
        self.rows.extend(rows);
        Ok(())
    }

    async fn open_loop(&mut self, name: &str) -> anyhow::Result<()> {
        let (rate, seconds) = (1_000, (30 / self.shrink).max(2));
        let home = self.home(Kind::Postgres).await?;
        let service = self.service(&home).await?;
        self.subscribe(&service, SUBSCRIPTIONS).await?;
        let spread = Spread { first: 1, count: SUBSCRIPTIONS };
        self.full_speed(&service, &spread, WARM_UP).await?;
        let (mut acks, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let (ack, receipt) = self.latencies(&service, &spread, rate, seconds).await?;
            acks.push(percentile(&ack, 0.99));
            receipts.push(percentile(&receipt, 0.99));
        }
        self.rows.push(Row::plain(name, "due to ack, p99", "ms", acks).at_most(5.0));
        self.rows.push(Row::plain(name, "ack to receipt, p99", "ms", receipts).at_most(5.0));
        service.kill().await?;
        home.remove().await
    }

    /// Milliseconds from the due instant to the ack, and from the ack to the receipt, of each event.
    async fn latencies(
        &self,
        service: &Process,
        spread: &Spread,
        rate: usize,
        seconds: usize,
    ) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        self.receivers.seen.forget();
        let before = self.receivers.seen.count();
        let timeline = producer::open_loop(service.addr, &self.events, spread, rate, seconds).await?;
        let Timeline { due_ns, acked_ns } = &*timeline;
        self.arrived(before + due_ns.len() as u64).await?;
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        let acked: Vec<_> = acked_ns.iter().map(|at| at.load(Relaxed)).collect();
        let ack = due_ns.iter().zip(&acked).map(|(due, acked)| ms(*due, *acked)).collect();
        let receipt = acked.iter().enumerate().map(|(n, acked)| ms(*acked, self.receivers.seen.received_ns(n)));
        Ok((ack, receipt.collect()))
    }

    /// The receiver of one subscription holds its answers while events come in, then answers.
    async fn backlog(&mut self, name: &str) -> anyhow::Result<()> {
        let total = 1_000_000 / self.shrink;
        let home = self.home(Kind::Postgres).await?;
        let mut environment = home.environment();
        environment.push(("HOOKPOST_ATTEMPT_TIMEOUT", "5m".to_owned()));
        let service = Process::service(&environment).await?;
        self.subscribe(&service, SUBSCRIPTIONS).await?;
        let everyone = Spread { first: 1, count: SUBSCRIPTIONS };
        self.full_speed(&service, &everyone, WARM_UP).await?;
        let reference = self.full_speed(&service, &everyone, THROUGHPUT_EVENTS / self.shrink).await?;

        let seen = &self.receivers.seen;
        seen.forget();
        seen.keep_order(true);
        let before = seen.count();
        self.receivers.hold(true);
        let one = Spread { first: 1, count: 1 };
        producer::closed_loop(service.addr, &self.events, &one, total).await?;
        let held = service.usage()?;
        let (start, already) = (now_ns(), seen.count());
        self.receivers.hold(false);
        self.arrived(before + total as u64).await?;
        let drained = (before + total as u64 - already) as f64 * 1e9 / (seen.last_ns() - start) as f64;
        let after = service.usage()?;
        let order = seen.order();
        seen.keep_order(false);

        let peak = |usage: Usage| usage.peak_kib as f64 / 1024.0;
        let growth = peak(after).max(peak(held)) - reference.peak_mib;
        self.rows.push(Row::plain(name, "memory, above full throughput", "MiB", vec![growth]).at_most(64.0));
        self.rows.push(Row::plain(name, "drained", "/s", vec![drained]));
        let share = drained / reference.per_second;
        self.rows.push(Row::plain(name, "drained, of the throughput", "×", vec![share]).at_least(0.75));
        self.rows.push(Row::plain(name, "furthest out of order", "places", vec![furthest_out_of_order(&order)]));
        service.kill().await?;
        home.remove().await
    }

    async fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let total = 100_000 / self.shrink;
        let mut firsts = Vec::new();
        for _ in 0..self.runs {
            let home = self.home(Kind::Postgres).await?;
            let service = self.service(&home).await?;
            self.subscribe(&service, SUBSCRIPTIONS).await?;
            self.receivers.hold(true);
            let everyone = Spread { first: 1, count: SUBSCRIPTIONS };
            producer::closed_loop(service.addr, &self.events, &everyone, total).await?;
            service.kill().await?;
            self.receivers.hold(false);
            let before = self.receivers.seen.count();
            let start = now_ns();
            let service = self.service(&home).await?;
            self.arrived(before + 1).await?;
            firsts.push((self.receivers.seen.last_ns() - start) as f64 / 1e9);
            self.arrived(before + total as u64).await?;
            service.kill().await?;
            home.remove().await?;
        }
        self.rows.push(Row::plain(name, "start to first delivery", "s", firsts).at_most(2.0));
        Ok(())
    }
}

/// How many places the furthest event arrived from its own; events are numbered in the order of acceptance.
fn furthest_out_of_order(order: &[u32]) -> f64 {
    let distinct = crate::events::DISTINCT;
    let off = order.iter().enumerate().map(|(at, number)| {
        let off = (*number as usize).abs_diff(at % distinct);
        off.min(distinct - off)
    });
    off.max().unwrap_or(0) as f64
}
