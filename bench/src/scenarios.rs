//! The scenarios, each with its goal. Every figure is the median of several runs; ratios are of runs made in turn.

mod isolation;
mod search;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::bail;

use crate::clock::now_ns;
use crate::events::Events;
use crate::fill;
use crate::process::{Process, Usage};
use crate::producer::{self, Spread, Timeline};
use crate::receiver::Receivers;
use crate::report::{self, Row, median, percentile};
use crate::stores::{Home, Kind};

/// Subscriptions, unless a scenario says otherwise.
pub const SUBSCRIPTIONS: usize = 100;
/// Events of one throughput run.
const THROUGHPUT_EVENTS: usize = 100_000;
/// Sent before anything is measured: connections, caches, prepared statements.
const WARM_UP: usize = 4_000;
/// How long nothing may arrive while something is still to come.
const PATIENCE: Duration = Duration::from_secs(60);

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
    Active,
    Registered,
    Log,
    Search,
    Retention,
    Isolation,
    HalfDead,
    FiveHanging,
    Burst,
    ComesBack,
    DnsHangs,
    SharedPool,
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
    Scenario { name: "active", about: "100 k subscriptions, 10 k of them active, against 100", kind: What::Active },
    Scenario { name: "registered", about: "1 M subscriptions: start to ready", kind: What::Registered },
    Scenario { name: "log", about: "10 M rows of log against an empty one, and reads from it", kind: What::Log },
    Scenario { name: "search", about: "10 M rows of log: GET /deliveries by each kind of filter", kind: What::Search },
    Scenario { name: "retention", about: "10 M rows outlive their retention under load", kind: What::Retention },
    Scenario { name: "isolation", about: "1 of 1,000 receivers bad, in each of eight ways", kind: What::Isolation },
    Scenario { name: "half-dead", about: "half of 1,000 receivers bad, in all eight ways", kind: What::HalfDead },
    Scenario { name: "five-hanging", about: "5 receivers hang, 20 are healthy, 60 s", kind: What::FiveHanging },
    Scenario { name: "burst", about: "one subscription at 100 times its usual rate", kind: What::Burst },
    Scenario { name: "comes-back", about: "a receiver comes back to a backlog of 100 k", kind: What::ComesBack },
    Scenario { name: "dns-hangs", about: "the name server does not answer for one target", kind: What::DnsHangs },
    Scenario { name: "shared-pool", about: "one pool for all, which has to miss the goal", kind: What::SharedPool },
];

/// How much is measured.
pub struct Sizes {
    /// Of each measurement.
    pub runs: usize,
    /// Of each measurement without and with bad receivers.
    pub reps: usize,
    /// Divides the size of everything.
    pub shrink: usize,
}

pub struct Bench {
    runs: usize,
    reps: usize,
    shrink: usize,
    database_url: Option<String>,
    events: Events,
    receivers: Receivers,
    pub rows: Vec<Row>,
    /// Whether the control kept a goal that it has to miss.
    pub control_passed: bool,
}

/// One run at full speed.
struct Speed {
    per_second: f64,
    cpu_us: f64,
    peak_mib: f64,
}

impl Bench {
    pub async fn new(sizes: Sizes, database_url: Option<String>) -> anyhow::Result<Self> {
        let Sizes { runs, reps, shrink } = sizes;
        let (events, receivers) = (Events::new(), Receivers::start().await?);
        Ok(Self { runs, reps, shrink, database_url, events, receivers, rows: Vec::new(), control_passed: false })
    }

    pub async fn run(&mut self, scenario: &Scenario) -> anyhow::Result<()> {
        let before = self.rows.len();
        if !matches!(scenario.kind, What::Throughput(_)) {
            self.relay_beside(scenario.name).await?;
        }
        match scenario.kind {
            What::Throughput(kind) => self.throughput(scenario.name, kind).await?,
            What::OpenLoop => self.open_loop(scenario.name).await?,
            What::Backlog => self.backlog(scenario.name).await?,
            What::Restart => self.restart(scenario.name).await?,
            What::Active => self.active(scenario.name).await?,
            What::Registered => self.registered(scenario.name).await?,
            What::Log => self.log(scenario.name).await?,
            What::Search => self.search(scenario.name).await?,
            What::Retention => self.retention(scenario.name).await?,
            What::Isolation => self.isolation(scenario.name).await?,
            What::HalfDead => self.half_dead(scenario.name).await?,
            What::FiveHanging => self.five_hanging(scenario.name).await?,
            What::Burst => self.burst(scenario.name).await?,
            What::ComesBack => self.comes_back(scenario.name).await?,
            What::DnsHangs => self.dns_hangs(scenario.name).await?,
            What::SharedPool => self.shared_pool(scenario.name).await?,
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
        producer::subscribe(service.addr, (1..=count).map(|id| self.receivers.url(id))).await.map(drop)
    }

    /// Sends `total` events in a closed loop and waits until all have arrived.
    async fn full_speed(&self, process: &Process, spread: &Spread, total: usize) -> anyhow::Result<Speed> {
        let before = self.receivers.seen.count();
        let usage = process.usage()?;
        let start = now_ns();
        producer::closed_loop(process.addr, &self.events, spread, total).await?;
        self.arrived(before + total as u64).await?;
        let took = self.receivers.seen.last_ns() - start;
        let Usage { cpu_us, peak_kib, .. } = process.usage()?;
        Ok(Speed {
            per_second: total as f64 * 1e9 / took as f64,
            cpu_us: (cpu_us - usage.cpu_us) as f64 / total as f64,
            peak_mib: peak_kib as f64 / 1024.0,
        })
    }

    async fn arrived(&self, count: u64) -> anyhow::Result<()> {
        let seen = &self.receivers.seen;
        loop {
            let before = seen.count();
            if tokio::time::timeout(PATIENCE, seen.reach(count)).await.is_ok() {
                return Ok(());
            }
            if seen.count() == before {
                bail!("{before} of {count} deliveries arrived, and none for {PATIENCE:?}");
            }
        }
    }

    /// How fast the bare relay is at the time of a scenario: what tells two machines, or two minutes of one, apart.
    async fn relay_beside(&mut self, name: &str) -> anyhow::Result<()> {
        let spread = Spread { first: 1, count: SUBSCRIPTIONS };
        let relay = Process::relay(&format!("http://{}/r", self.receivers.addr)).await?;
        self.full_speed(&relay, &spread, WARM_UP).await?;
        let speed = self.full_speed(&relay, &spread, THROUGHPUT_EVENTS / 2 / self.shrink).await?;
        relay.kill().await?;
        self.rows.push(Row::plain(name, "bare relay, in the same run", "/s", vec![speed.per_second]));
        Ok(())
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
        let (mut growths, mut speeds, mut shares, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let drained = self.drain_a_backlog(1_000_000 / self.shrink).await?;
            growths.push(drained.growth_mib);
            speeds.push(drained.per_second);
            shares.push(drained.per_second / drained.reference_per_second);
            places.push(drained.furthest_out_of_order);
        }
        self.rows.push(Row::plain(name, "memory, above full throughput", "MiB", growths).at_most(64.0));
        self.rows.push(Row::plain(name, "drained", "/s", speeds));
        self.rows.push(Row::plain(name, "drained, of the throughput", "×", shares).at_least(0.75));
        self.rows.push(Row::plain(name, "furthest out of order", "places", places));
        Ok(())
    }

    async fn drain_a_backlog(&self, total: usize) -> anyhow::Result<Drained> {
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
        seen.keep_arrivals(true);
        let before = seen.count();
        self.receivers.hold(true);
        let one = Spread { first: 1, count: 1 };
        producer::closed_loop(service.addr, &self.events, &one, total).await?;
        let held = service.usage()?;
        let (start, already) = (now_ns(), seen.count());
        self.receivers.hold(false);
        self.arrived(before + total as u64).await?;
        let per_second = (before + total as u64 - already) as f64 * 1e9 / (seen.last_ns() - start) as f64;
        let after = service.usage()?;
        let order: Vec<_> = seen.arrivals().into_iter().map(|(number, _)| number).collect();
        seen.keep_arrivals(false);
        service.kill().await?;
        home.remove().await?;

        let peak = |usage: Usage| usage.peak_kib as f64 / 1024.0;
        Ok(Drained {
            per_second,
            reference_per_second: reference.per_second,
            growth_mib: peak(after).max(peak(held)) - reference.peak_mib,
            furthest_out_of_order: furthest_out_of_order(&order),
        })
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

impl Bench {
    /// A store with so many subscriptions, made behind the service's back.
    async fn registered_home(&self, count: usize) -> anyhow::Result<Home> {
        let home = self.home(Kind::Postgres).await?;
        let database = fill::prepare(&home, fill::wall_ms()).await?;
        fill::subscriptions(&database, count, &format!("http://{}/r", self.receivers.addr)).await?;
        Ok(home)
    }

    async fn active(&mut self, name: &str) -> anyhow::Result<()> {
        let (total, active) = (THROUGHPUT_EVENTS / self.shrink, 10_000 / self.shrink);
        let (mut ratios, mut each) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let home = self.registered_home(100_000 / self.shrink).await?;
            let service = self.service(&home).await?;
            let few = Spread { first: 1, count: SUBSCRIPTIONS };
            let many = Spread { first: 1, count: active };
            self.full_speed(&service, &few, WARM_UP).await?;
            let before = self.full_speed(&service, &few, total).await?;
            let resident = service.usage()?.resident_kib;
            // One event each starts the actors.
            self.full_speed(&service, &many, active).await?;
            let after = self.full_speed(&service, &many, total).await?;
            let grown = service.usage()?.resident_kib.saturating_sub(resident);
            ratios.push(after.per_second / before.per_second);
            each.push(grown as f64 / (active - SUBSCRIPTIONS) as f64);
            service.kill().await?;
            home.remove().await?;
        }
        self.rows.push(Row::plain(name, "throughput, of that with 100", "×", ratios).at_least(0.9));
        self.rows.push(Row::plain(name, "resident, each active one", "KiB", each).at_most(8.0));
        Ok(())
    }

    async fn registered(&mut self, name: &str) -> anyhow::Result<()> {
        let home = self.registered_home(1_000_000 / self.shrink).await?;
        let (mut readies, mut residents) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let start = now_ns();
            let service = self.service(&home).await?;
            producer::get_each(service.addr, &["/readyz".to_owned()]).await?;
            readies.push((now_ns() - start) as f64 / 1e9);
            residents.push(service.usage()?.resident_kib as f64 / 1024.0);
            service.kill().await?;
        }
        self.rows.push(Row::plain(name, "start to ready", "s", readies).at_most(2.0));
        self.rows.push(Row::plain(name, "memory when ready, resident", "MiB", residents));
        home.remove().await
    }

    async fn log(&mut self, name: &str) -> anyhow::Result<()> {
        let (total, rows) = (THROUGHPUT_EVENTS / self.shrink, 10_000_000 / self.shrink);
        let everyone = Spread { first: 1, count: SUBSCRIPTIONS };
        let full = self.registered_home(SUBSCRIPTIONS + fill::logged_subscriptions(rows)).await?;
        let database = full.database().await?;
        fill::delivered(&database, rows, fill::wall_ms(), false).await?;
        let mut ratios = Vec::new();
        for _ in 0..self.runs {
            let empty = self.registered_home(SUBSCRIPTIONS).await?;
            // Twice, in both orders: a machine that gets slower in the middle favours neither.
            let mut speeds = [0.0; 2];
            for full_one in [0, 1, 1, 0] {
                let service = self.service([&empty, &full][full_one]).await?;
                self.full_speed(&service, &everyone, WARM_UP).await?;
                speeds[full_one] += self.full_speed(&service, &everyone, total).await?.per_second;
                service.kill().await?;
            }
            ratios.push(speeds[1] / speeds[0]);
            empty.remove().await?;
        }
        self.rows.push(Row::plain(name, "throughput, of that on an empty log", "×", ratios).at_least(0.95));
        let service = self.service(&full).await?;
        let deliveries = fill::some_deliveries(&database, 1_000).await?;
        let statuses: Vec<_> = deliveries.iter().map(|id| format!("/status/{id}")).collect();
        let logs: Vec<_> = (0..1_000)
            .map(|n| format!("/subscriptions/{}/logs", SUBSCRIPTIONS + 1 + n % fill::logged_subscriptions(rows)))
            .collect();
        for (figure, paths) in [("/status/{id}, p99", statuses), ("first page of /logs, p99", logs)] {
            producer::get_each(service.addr, &paths[..paths.len() / 10]).await?;
            let took = producer::get_each(service.addr, &paths).await?;
            self.rows.push(Row::plain(name, figure, "ms", vec![percentile(&took, 0.99)]).at_most(10.0));
        }
        service.kill().await?;
        full.remove().await
    }

    /// The janitor drops in the middle of the load: what is filled in outlives its retention before the janitor's second
    /// look, a minute after its first.
    async fn retention(&mut self, name: &str) -> anyhow::Result<()> {
        /// The janitor's period, and some.
        const SECONDS: usize = 80;
        let everyone = Spread { first: 1, count: SUBSCRIPTIONS };
        let (mut drops, mut without, mut with) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let home = self.registered_home(SUBSCRIPTIONS).await?;
            // The end of a partition, long enough ago for a retention that is allowed.
            let end = (fill::wall_ms() - 2 * 3_600_000) / fill::PARTITION_MS * fill::PARTITION_MS;
            let database = fill::prepare(&home, end - 1).await?;
            fill::delivered(&database, 10_000_000 / self.shrink, end - 1, false).await?;
            let mut environment = home.environment();
            environment.push(("HOOKPOST_RETENTION", format!("{}ms", fill::wall_ms() - end + 30_000)));
            let service = Process::service(&environment).await?;
            self.full_speed(&service, &everyone, WARM_UP).await?;
            let dropping = tokio::spawn(watch_the_drop(database, end));
            let mut seconds = Vec::new();
            while seconds.len() < SECONDS {
                seconds.extend(self.seconds_of_load(&service, &everyone).await?);
            }
            if !dropping.is_finished() {
                bail!("nothing was dropped in {SECONDS} s");
            }
            let (from, until) = dropping.await??;
            // What a drop leaves behind is still being written back in the second after it.
            let during =
                |second: &&Second| second.start_ns < until + 1_000_000_000 && second.start_ns + 1_000_000_000 > from;
            let (during, before): (Vec<_>, Vec<_>) = seconds.iter().partition(during);
            drops.push((until - from) as f64 / 1e9);
            without.push(median(&before.iter().map(|second| second.p99_ms).collect::<Vec<_>>()));
            with.push(during.iter().map(|second| second.p99_ms).fold(0.0, f64::max));
            service.kill().await?;
            home.remove().await?;
        }
        self.rows.push(Row::plain(name, "dropping the partitions", "s", drops).at_most(1.0));
        self.rows.push(Row::plain(name, "due to ack, p99 of a second without, median", "ms", without));
        self.rows.push(Row::plain(name, "due to ack, p99 of the worst second around it", "ms", with));
        Ok(())
    }

    /// Ten seconds of an open loop, each by itself.
    async fn seconds_of_load(&self, service: &Process, spread: &Spread) -> anyhow::Result<Vec<Second>> {
        const RATE: usize = 1_000;
        let start = now_ns();
        let (acks, _) = self.latencies(service, spread, RATE, 10).await?;
        let second = |(n, acks)| Second { start_ns: start + n as u64 * 1_000_000_000, p99_ms: percentile(acks, 0.99) };
        Ok(acks.chunks(RATE).enumerate().map(second).collect())
    }
}

/// How a backlog was drained.
struct Drained {
    per_second: f64,
    /// At full throughput, without a backlog.
    reference_per_second: f64,
    growth_mib: f64,
    /// In places.
    furthest_out_of_order: f64,
}

/// What one second of load saw.
struct Second {
    start_ns: u64,
    p99_ms: f64,
}

/// From when the first of the partitions that end by `end` is being detached until all are gone.
async fn watch_the_drop(database: tokio_postgres::Client, end: i64) -> anyhow::Result<(u64, u64)> {
    const LOOK: Duration = Duration::from_millis(5);
    let there = fill::partitions_before(&database, end).await?.all;
    let mut from = None;
    loop {
        let left = fill::partitions_before(&database, end).await?;
        if left.attached < there {
            from.get_or_insert_with(now_ns);
        }
        match from {
            Some(from) if left.all == 0 => return Ok((from, now_ns())),
            _ => tokio::time::sleep(LOOK).await,
        }
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
