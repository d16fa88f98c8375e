//! Healthy traffic without and with receivers that misbehave, in turn and in the same run. Bad ones are new in each
//! repetition, so that each one meets a service that has not learnt to expect it, and are gone in between.

use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpSocket;

use super::{Bench, PATIENCE, SUBSCRIPTIONS, WARM_UP};
use crate::bad::{Bad, BadReceiver, TIMES_THE_POOL, absorbed, beyond_the_pool};
use crate::clock::now_ns;
use crate::dns;
use crate::pool::WORKERS;
use crate::process::Process;
use crate::producer::{self, Answers, Caller, Load, Spread};
use crate::receiver::Receivers;
use crate::report::{Row, median, percentile};
use crate::stores::{Home, Kind};

/// Receivers of a scenario, bad ones included.
const RECEIVERS: usize = 1_000;
/// Healthy events a second, all together.
const HEALTHY_PER_SECOND: usize = 500;
/// Of one measurement.
const SECONDS: usize = 3;
/// Repetitions of the control, each of which keeps its queue for half a minute.
const CONTROL_REPS: usize = 2;
/// Attempts that a subscription may have under way: half of the receivers, filled, would hold all that the node may have.
const WINDOW: usize = 32;
/// What comes back takes so much.
const LIMIT_PER_SECOND: usize = 2_000;
/// Longest wait for the probe of a breaker that has doubled its wait a few times.
const COMEBACK: Duration = Duration::from_secs(120);

/// What "unmoved" means: this share of the p99, or so much.
struct Tolerance {
    share: f64,
    ms: f64,
}

const ONE_BAD: Tolerance = Tolerance { share: 0.10, ms: 5.0 };
const HALF_BAD: Tolerance = Tolerance { share: 0.25, ms: 20.0 };
/// A millisecond is what the p99 of a busy machine with two cores moves by itself.
const UNMOVED: Tolerance = Tolerance { share: 0.10, ms: 1.0 };

/// Healthy traffic of one measurement.
struct Healthy {
    p99_ms: f64,
    /// Events received a second, of those offered a second.
    throughput: f64,
}

/// What bad receivers are sent.
struct Offered {
    /// So many, the receivers in turn.
    subscriptions: usize,
    /// Before anything is measured.
    at_once: usize,
    per_second: usize,
}

impl Offered {
    /// To one of this kind: at once what fills a shared pool, so that it is full from the start.
    fn to_one(kind: Bad) -> Self {
        Self { subscriptions: 1, at_once: WORKERS, per_second: kind.per_second() }
    }
}

/// Measurements in turn.
#[derive(Default)]
struct Turns {
    without: Vec<f64>,
    with: Vec<f64>,
}

impl Turns {
    fn differences(&self) -> Vec<f64> {
        self.with.iter().zip(&self.without).map(|(with, without)| with - without).collect()
    }

    fn allowed(&self, tolerance: &Tolerance) -> f64 {
        (median(&self.without) * tolerance.share).max(tolerance.ms)
    }

    fn rows(&self, scenario: &str, what: &str, tolerance: &Tolerance) -> [Row; 3] {
        let figure = |which: &str| format!("{what}healthy p99, {which}");
        [
            Row::plain(scenario, &figure("without"), "ms", self.without.clone()),
            Row::plain(scenario, &figure("with"), "ms", self.with.clone()),
            Row::plain(scenario, &figure("more"), "ms", self.differences()).at_most(self.allowed(tolerance)),
        ]
    }
}

impl Bench {
    fn shrunk(&self, size: usize) -> usize {
        (size / self.shrink).max(1)
    }

    /// Deliveries fail here by the thousand, and are meant to: no line each.
    async fn quiet_service(&self, home: &Home, more: Option<(&'static str, String)>) -> anyhow::Result<Process> {
        let mut environment = home.environment();
        environment.push(("HOOKPOST_LOG", "info,hookpost::actors=error".to_owned()));
        environment.extend(more);
        Process::service(&environment).await
    }

    /// Ack to receipt of healthy events.
    async fn healthy(&self, service: &Process, spread: &Spread) -> anyhow::Result<Healthy> {
        let (acks, receipts) = self.latencies(service, spread, HEALTHY_PER_SECOND, SECONDS).await?;
        let gap_ms = 1e3 / HEALTHY_PER_SECOND as f64;
        let received_ms = acks.iter().zip(&receipts).enumerate().map(|(n, (ack, more))| n as f64 * gap_ms + ack + more);
        let took_ms = received_ms.fold(0.0, f64::max) + gap_ms;
        Ok(Healthy { p99_ms: percentile(&receipts, 0.99), throughput: receipts.len() as f64 * gap_ms / took_ms })
    }

    /// One repetition: without the targets, then with them under this load, then they are gone.
    async fn turn(
        &self,
        service: &Process,
        spread: &Spread,
        bad: &[BadReceiver],
        offered: Offered,
        turns: &mut Turns,
    ) -> anyhow::Result<(Healthy, Answers)> {
        turns.without.push(self.healthy(service, spread).await?.p99_ms);
        let urls = (0..offered.subscriptions).map(|n| format!("{}/{n}", bad[n % bad.len()].url));
        let ids = producer::subscribe(service.addr, urls).await?;
        let mut load = Load::start(service.addr, &self.events, ids.clone(), offered.at_once, offered.per_second);
        load.answered(offered.at_once).await?;
        let healthy = self.healthy(service, spread).await?;
        turns.with.push(healthy.p99_ms);
        let answers = load.stop().await?;
        producer::unsubscribe(service.addr, &ids).await?;
        Ok((healthy, answers))
    }

    pub(super) async fn isolation(&mut self, name: &str) -> anyhow::Result<()> {
        let home = self.home(Kind::Postgres).await?;
        let service = self.quiet_service(&home, None).await?;
        let spread = Spread { first: 1, count: self.shrunk(RECEIVERS - 1) };
        self.subscribe(&service, spread.count).await?;
        self.full_speed(&service, &spread, WARM_UP).await?;
        for kind in Bad::ALL {
            let mut turns = Turns::default();
            let (mut loads, mut refused) = (Vec::new(), Vec::new());
            for _ in 0..self.reps {
                let bad = [BadReceiver::start(kind).await?];
                let (_, answers) = self.turn(&service, &spread, &bad, Offered::to_one(kind), &mut turns).await?;
                loads.push(answers.per_second);
                refused.push(100.0 * answers.refused);
            }
            self.rows.extend(turns.rows(name, &format!("{}: ", kind.name()), &ONE_BAD));
            self.rows.push(load_row(name, &format!("{}: load", kind.name()), kind.holds_s(), loads));
            self.rows.push(Row::plain(name, &format!("{}: of it, refused", kind.name()), "%", refused));
        }
        service.kill().await?;
        home.remove().await
    }

    pub(super) async fn half_dead(&mut self, name: &str) -> anyhow::Result<()> {
        let home = self.home(Kind::Postgres).await?;
        let service = self.quiet_service(&home, None).await?;
        let half = self.shrunk(RECEIVERS / 2);
        let spread = Spread { first: 1, count: half };
        self.subscribe(&service, half).await?;
        self.full_speed(&service, &spread, WARM_UP).await?;
        let holds_s = Bad::ALL.iter().filter_map(|kind| kind.holds_s()).sum::<f64>() / Bad::ALL.len() as f64;
        let (mut turns, mut throughputs, mut loads) = (Turns::default(), Vec::new(), Vec::new());
        for _ in 0..self.reps {
            let mut bad = Vec::new();
            for kind in Bad::ALL {
                bad.push(BadReceiver::start(kind).await?);
            }
            let offered = Offered { subscriptions: half, at_once: half * WINDOW, per_second: beyond_the_pool(holds_s) };
            let (healthy, answers) = self.turn(&service, &spread, &bad, offered, &mut turns).await?;
            throughputs.push(healthy.throughput);
            loads.push(answers.per_second);
        }
        self.rows.extend(turns.rows(name, "", &HALF_BAD));
        self.rows.push(Row::plain(name, "healthy received, of those offered", "×", throughputs).at_least(0.95));
        self.rows.push(load_row(name, "load on the bad", Some(holds_s), loads));
        service.kill().await?;
        home.remove().await
    }

    /// As it was measured with the best of the others.
    pub(super) async fn five_hanging(&mut self, name: &str) -> anyhow::Result<()> {
        const HANGING: usize = 5;
        const HANGING_PER_SECOND: usize = 50;
        let home = self.home(Kind::Postgres).await?;
        let service = self.quiet_service(&home, None).await?;
        let spread = Spread { first: 1, count: 20 };
        self.subscribe(&service, spread.count).await?;
        self.full_speed(&service, &spread, WARM_UP).await?;
        let mut bad = Vec::new();
        for _ in 0..HANGING {
            bad.push(BadReceiver::start(Bad::Hangs).await?);
        }
        let ids = producer::subscribe(service.addr, bad.iter().map(|bad| bad.url.clone())).await?;
        let load = Load::start(service.addr, &self.events, ids, 0, HANGING * HANGING_PER_SECOND);
        let before = self.receivers.seen.count();
        let (rate, seconds) = (100, self.shrunk(60));
        let (_, receipts) = self.latencies(&service, &spread, rate, seconds).await?;
        let answers = load.stop().await?;
        let received = (self.receivers.seen.count() - before) as f64 / (rate * seconds) as f64;
        self.rows.push(Row::plain(name, "healthy p50", "ms", vec![median(&receipts)]));
        self.rows.push(Row::plain(name, "healthy p99", "ms", vec![percentile(&receipts, 0.99)]).at_most(10.0));
        self.rows.push(Row::plain(name, "healthy received, of those accepted", "×", vec![received]).at_least(1.0));
        self.rows.push(load_row(name, "load on the hanging", Bad::Hangs.holds_s(), vec![answers.per_second]));
        service.kill().await?;
        home.remove().await
    }

    /// Everyone has the same usual rate, and one of them, whose receiver is well, a hundred times that.
    pub(super) async fn burst(&mut self, name: &str) -> anyhow::Result<()> {
        let home = self.home(Kind::Postgres).await?;
        let service = self.quiet_service(&home, None).await?;
        let spread = Spread { first: 1, count: SUBSCRIPTIONS };
        self.subscribe(&service, spread.count).await?;
        self.full_speed(&service, &spread, WARM_UP).await?;
        // Apart from the others, whose receipts are measured.
        let receivers = Receivers::start().await?;
        let per_second = 100 * HEALTHY_PER_SECOND / SUBSCRIPTIONS;
        let mut turns = Turns::default();
        for _ in 0..self.reps {
            turns.without.push(self.healthy(&service, &spread).await?.p99_ms);
            let ids = producer::subscribe(service.addr, std::iter::once(receivers.url(0))).await?;
            let mut load = Load::start(service.addr, &self.events, ids.clone(), 0, per_second);
            load.answered(1).await?;
            turns.with.push(self.healthy(&service, &spread).await?.p99_ms);
            load.stop().await?;
            producer::unsubscribe(service.addr, &ids).await?;
        }
        self.rows.extend(turns.rows(name, "", &UNMOVED));
        service.kill().await?;
        home.remove().await
    }

    /// A backlog cannot be put away and brought back: without it is measured before it is there and after it is gone.
    pub(super) async fn comes_back(&mut self, name: &str) -> anyhow::Result<()> {
        let total = self.shrunk(100_000);
        let home = self.home(Kind::Postgres).await?;
        let service = self.quiet_service(&home, None).await?;
        let spread = Spread { first: 1, count: SUBSCRIPTIONS };
        self.subscribe(&service, spread.count).await?;
        self.full_speed(&service, &spread, WARM_UP).await?;
        let mut turns = Turns::default();
        for _ in 0..self.reps.div_ceil(2) {
            turns.without.push(self.healthy(&service, &spread).await?.p99_ms);
        }

        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let url = format!("http://{}/back", socket.local_addr()?);
        let id = producer::subscribe(service.addr, std::iter::once(url)).await?[0];
        let limit = format!("{{\"rate_limit\":{{\"per_second\":{LIMIT_PER_SECOND}}}}}");
        Caller::connect(service.addr).await?.call("PATCH", &format!("/subscriptions/{id}"), &limit).await?;
        producer::closed_loop(service.addr, &self.events, &Spread { first: id, count: 1 }, total).await?;

        let back_at = now_ns();
        let back = Receivers::listen_at(socket)?;
        back.seen.keep_arrivals(true);
        tokio::time::timeout(COMEBACK, back.seen.reach(1)).await.context("nothing is sent to who came back")?;
        let waited = (back.seen.last_ns() - back_at) as f64 / 1e9;
        for _ in 0..self.reps {
            let healthy = self.healthy(&service, &spread).await?;
            if back.seen.count() >= total as u64 {
                break;
            }
            turns.with.push(healthy.p99_ms);
        }
        let needed = PATIENCE + Duration::from_secs((total / LIMIT_PER_SECOND) as u64);
        tokio::time::timeout(needed, back.seen.reach(total as u64))
            .await
            .with_context(|| format!("{} of {total} arrived", back.seen.count()))?;
        for _ in 0..self.reps / 2 {
            turns.without.push(self.healthy(&service, &spread).await?.p99_ms);
        }

        let arrivals: Vec<_> = back.seen.arrivals().into_iter().map(|(_, at)| at).collect();
        let drained = total as f64 * 1e9 / (arrivals[arrivals.len() - 1] - arrivals[0]).max(1) as f64;
        let most = most_in_a_second(&arrivals) as f64;
        let figure = format!("most received in a second (limit {LIMIT_PER_SECOND})");
        self.rows.push(Row::plain(name, &figure, "/s", vec![most]).at_most(2.0 * LIMIT_PER_SECOND as f64));
        self.rows.push(Row::plain(name, "drained", "/s", vec![drained]));
        self.rows.push(Row::plain(name, "back to first receipt", "s", vec![waited]));
        self.rows.extend(turns.rows(name, "", &UNMOVED));
        service.kill().await?;
        home.remove().await
    }

    /// All targets are names, and every attempt asks for its own: the receivers close each connection.
    pub(super) async fn dns_hangs(&mut self, name: &str) -> anyhow::Result<()> {
        /// The service's own deadline of a lookup.
        const LOOKUP_S: f64 = 4.0;
        let home = self.home(Kind::Postgres).await?;
        let dns = ("HOOKPOST_DNS_SERVERS", dns::start().await?.to_string());
        let service = self.quiet_service(&home, Some(dns)).await?;
        let shared = std::mem::replace(&mut self.receivers, Receivers::start_closing().await?);
        let port = self.receivers.addr.port();
        let urls = (1..=SUBSCRIPTIONS).map(|id| format!("http://receiver-{id}.bench.test:{port}/r/{id}"));
        producer::subscribe(service.addr, urls).await?;
        let spread = Spread { first: 1, count: SUBSCRIPTIONS };
        self.full_speed(&service, &spread, WARM_UP).await?;
        let (mut turns, mut loads) = (Turns::default(), Vec::new());
        for _ in 0..self.reps {
            turns.without.push(self.healthy(&service, &spread).await?.p99_ms);
            let url = format!("http://hang-{}.bench.test:{port}/never", now_ns());
            let ids = producer::subscribe(service.addr, std::iter::once(url)).await?;
            let mut load = Load::start(service.addr, &self.events, ids.clone(), WORKERS, beyond_the_pool(LOOKUP_S));
            load.answered(WORKERS).await?;
            turns.with.push(self.healthy(&service, &spread).await?.p99_ms);
            let answers = load.stop().await?;
            loads.push(answers.per_second);
            producer::unsubscribe(service.addr, &ids).await?;
        }
        self.rows.extend(turns.rows(name, "", &ONE_BAD));
        self.rows.push(load_row(name, "load on the bad", Some(LOOKUP_S), loads));
        service.kill().await?;
        self.receivers = shared;
        home.remove().await
    }

    /// The positive control.
    pub(super) async fn shared_pool(&mut self, name: &str) -> anyhow::Result<()> {
        let service = Process::shared_pool().await?;
        let spread = Spread { first: 1, count: self.shrunk(RECEIVERS - 1) };
        self.subscribe(&service, spread.count).await?;
        self.full_speed(&service, &spread, WARM_UP).await?;
        let mut turns = Turns::default();
        for _ in 0..CONTROL_REPS {
            let bad = [BadReceiver::start(Bad::Hangs).await?];
            self.turn(&service, &spread, &bad, Offered::to_one(Bad::Hangs), &mut turns).await?;
        }
        let [without, with, more] = turns.rows(name, "hangs: ", &ONE_BAD);
        let missed =
            Row::plain(name, "hangs: more, which has to be too much", "ms", more.runs).above(turns.allowed(&ONE_BAD));
        self.control_passed |= missed.met == Some(false);
        self.rows.extend([without, with, missed]);
        service.kill().await
    }
}

/// What holds a worker gets three times what a pool absorbs, what does not as much as this machine can bear.
fn load_row(scenario: &str, figure: &str, holds_s: Option<f64>, per_second: Vec<f64>) -> Row {
    let Some(absorbed) = holds_s.map(absorbed) else {
        return Row::plain(scenario, &format!("{figure} (what this machine bears)"), "/s", per_second);
    };
    let figure = format!("{figure} (a pool absorbs {absorbed:.0})");
    Row::plain(scenario, &figure, "/s", per_second).at_least(TIMES_THE_POOL * absorbed)
}

/// The most of these instants, which are in order, within any second.
fn most_in_a_second(at_ns: &[u64]) -> usize {
    let mut first = 0;
    let within = at_ns.iter().enumerate().map(|(last, at)| {
        while at - at_ns[first] >= 1_000_000_000 {
            first += 1;
        }
        last - first + 1
    });
    within.max().unwrap_or(0)
}
