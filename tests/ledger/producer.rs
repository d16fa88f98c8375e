//! The producer: numbered events over several connections, signed, to single subscriptions and to all of them, through
//! whatever happens to the service. What became of each number goes into its file before the next one is sent.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::api::client;
use super::chance::Chance;
use super::notes::{Fate, Notes, Sent};
use super::signatures;

/// Longer than the service lets a producer wait for its commit.
const ANSWER_PATIENCE: Duration = Duration::from_secs(8);
/// Between two events of a connection that was not answered with 2xx: a service that is away is not hammered.
const PAUSE: Duration = Duration::from_millis(10);
/// How often an event with an idempotency key is sent, until it is taken.
const KEYED_TRIES: usize = 20;
/// One event in so many has an idempotency key; one in so many goes to all subscriptions.
const KEYED: u64 = 4;
const FANNED_OUT: u64 = 3;
/// Most of the padding of a payload.
const MAX_PADDING: u64 = 600;

/// Where one subscription's events go, and what they are signed with.
#[derive(Clone, Debug)]
pub struct Subscriber {
    pub id: i64,
    pub secret: String,
}

/// What to send.
#[derive(Clone)]
pub struct Plan {
    /// Tried in turn, one after a failure.
    pub addresses: Vec<SocketAddr>,
    pub subscribers: Vec<Subscriber>,
    pub connections: usize,
    /// Of all connections together; `None` is as fast as it can.
    pub per_second: Option<u32>,
    pub seed: u64,
}

/// See the module's docs. Ends with the test.
pub struct Producer {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    plan: Plan,
    notes: Notes,
    next: AtomicU64,
    stopping: AtomicBool,
    counts: watch::Sender<Counts>,
    /// How long each 2xx took.
    acks: Mutex<Vec<Duration>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub ok: usize,
    pub refused: usize,
    pub unknown: usize,
}

impl Producer {
    /// Goes on numbering where the file ends, so that several may write one file after another.
    pub fn start(plan: Plan, file: &Path) -> Self {
        let notes = Notes::at(file);
        let before = super::notes::sent(file).iter().map(|sent| sent.number).max().unwrap_or_default();
        let shared = Arc::new(Shared {
            plan,
            notes,
            next: AtomicU64::new(before + 1),
            stopping: AtomicBool::new(false),
            counts: watch::Sender::default(),
            acks: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for connection in 0..shared.plan.connections {
            tasks.spawn(Connection::new(shared.clone(), connection).send_all());
        }
        Self { shared, tasks }
    }

    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until so many more were answered with 2xx.
    pub async fn more_ok(&self, more: usize, patience: Duration) {
        let wanted = self.counts().ok + more;
        let mut counts = self.shared.counts.subscribe();
        let waited = timeout(patience, counts.wait_for(|counts| counts.ok >= wanted)).await;
        assert!(waited.is_ok(), "no {more} events were accepted within {patience:?}: {:?}", self.counts());
    }

    /// The longest but one in a hundred of all acks so far.
    pub fn ack_p99(&self) -> Duration {
        let mut acks = self.shared.acks.lock().expect("unpoisoned").clone();
        acks.sort_unstable();
        acks.get(acks.len() * 99 / 100).copied().unwrap_or_default()
    }

    /// Measures anew from here.
    pub fn forget_acks(&self) {
        self.shared.acks.lock().expect("unpoisoned").clear();
    }

    /// Finishes what is under way and stops.
    pub async fn stop(mut self) -> Counts {
        self.shared.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a connection does not panic");
        }
        self.counts()
    }
}

struct Connection {
    shared: Arc<Shared>,
    client: Client,
    chance: Chance,
    /// Which of the addresses.
    address: usize,
    pace: Option<Interval>,
    pause: Interval,
}

/// An answer, or the lack of one.
struct Answer {
    fate: Fate,
    deliveries: Vec<String>,
    why: String,
    /// Whether another address may do better.
    elsewhere: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>, number: usize) -> Self {
        let plan = &shared.plan;
        let every = |per_second: u32| Duration::from_secs(plan.connections as u64) / per_second;
        let pace = plan.per_second.map(|per_second| ticks(every(per_second)));
        let chance = Chance::new(plan.seed ^ number as u64);
        Self { client: client(ANSWER_PATIENCE), chance, address: 0, pace, pause: ticks(PAUSE), shared }
    }

    async fn send_all(mut self) {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            if let Some(pace) = &mut self.pace {
                pace.tick().await;
            }
            let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
            let sent = self.send(number).await;
            self.shared.notes.add(&sent.line());
            self.shared.counts.send_modify(|counts| match sent.fate {
                Fate::Ok => counts.ok += 1,
                Fate::Refused => counts.refused += 1,
                Fate::Unknown => counts.unknown += 1,
            });
            if sent.fate != Fate::Ok {
                self.wait().await;
            }
        }
    }

    async fn wait(&mut self) {
        self.pause.reset();
        self.pause.tick().await;
    }

    /// One event, sent again only if it has an idempotency key.
    async fn send(&mut self, number: u64) -> Sent {
        let all = self.shared.plan.subscribers.clone();
        let fans_out = self.chance.below(FANNED_OUT) == 0;
        let targets = if fans_out { all } else { vec![self.chance.of(&all).clone()] };
        let padding = ".".repeat(usize::try_from(self.chance.below(MAX_PADDING)).expect("it is small"));
        let body = format!("{{\"n\":{number},\"padding\":\"{padding}\"}}");
        let key = (self.chance.below(KEYED) == 0).then(|| format!("number {number}"));
        let tries = if key.is_some() { KEYED_TRIES } else { 1 };
        let (mut fate, mut why, mut deliveries) = (Fate::Refused, String::new(), Vec::new());
        for _ in 0..tries {
            let started = Instant::now();
            let answer = read(self.request(&targets, fans_out, &body, key.as_deref()), fans_out).await;
            if answer.elsewhere {
                self.address = (self.address + 1) % self.shared.plan.addresses.len();
            }
            if answer.fate == Fate::Ok {
                self.shared.acks.lock().expect("unpoisoned").push(started.elapsed());
                (fate, deliveries) = (Fate::Ok, answer.deliveries);
                break;
            }
            // What may have been taken stays so, whatever its repetitions are answered.
            if answer.fate == Fate::Unknown || fate == Fate::Refused {
                (fate, why) = (answer.fate, answer.why);
            }
            if key.is_some() {
                self.wait().await;
            }
        }
        let targets = targets.iter().map(|subscriber| subscriber.id).collect();
        Sent { fate, number, targets, deliveries, why }
    }

    fn request(&self, targets: &[Subscriber], fans_out: bool, body: &str, key: Option<&str>) -> RequestBuilder {
        let base = format!("http://{}", self.shared.plan.addresses[self.address]);
        let request = if fans_out {
            let event = format!("{{\"event_type\":\"ledger.shared\",\"payload\":{body}}}");
            self.client.post(format!("{base}/events")).body(event)
        } else {
            let Subscriber { id, secret } = &targets[0];
            let request = self.client.post(format!("{base}/ingest/{id}")).header("event_type", "ledger.own");
            request.header("x-hub-signature-256", signatures::hub(secret, body.as_bytes())).body(body.to_owned())
        };
        let request = request.header("content-type", "application/json");
        match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }
}

async fn read(request: RequestBuilder, fans_out: bool) -> Answer {
    let not_ok = |fate, why: &str, elsewhere| Answer { fate, deliveries: Vec::new(), why: why.to_owned(), elsewhere };
    let answer = match request.send().await {
        Ok(answer) => answer,
        // Nothing has been sent.
        Err(error) if error.is_connect() => return not_ok(Fate::Refused, "connect", true),
        Err(error) if error.is_timeout() => return not_ok(Fate::Unknown, "timeout", true),
        Err(_) => return not_ok(Fate::Unknown, "broken", true),
    };
    let status = answer.status();
    let Ok(text) = answer.text().await else {
        return not_ok(if status.is_success() { Fate::Unknown } else { Fate::Refused }, "cut", true);
    };
    if !status.is_success() {
        // The one refusal that says it may be none.
        let ambiguous = text.contains("may have been stored");
        let fate = if ambiguous { Fate::Unknown } else { Fate::Refused };
        return not_ok(fate, status.as_str(), status.as_u16() == 503);
    }
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let id = |of: &Value| of["delivery_id"].as_str().unwrap_or("none").to_owned();
    let deliveries = if fans_out {
        answer["deliveries"].as_array().expect("deliveries").iter().map(id).collect()
    } else {
        vec![id(&answer)]
    };
    Answer { fate: Fate::Ok, deliveries, why: String::new(), elsewhere: false }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
