//! Producers that go on whatever happens, and remember what they were answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::ledger::api::{Api, Logged};
use crate::ledger::notes::{Fate, Receipt, Sent};
use crate::ledger::postgres::poll;
use crate::ledger::signatures::{are_right, hub, secret};
use crate::ledger::verdict::{Books, Death, Verdict};
use crate::peer::{Arrived, Peer};
use crate::site::{ANSWER_PATIENCE, Site, client};

/// Between two requests of a producer: one that is refused at once must not keep the machine busy.
const PACE: Duration = Duration::from_millis(4);
/// How long a client without patience waits for its answer. Its next event comes then, whether or not there was one.
const IMPATIENCE: Duration = Duration::from_millis(250);
/// Between two looks at what has come.
const LOOK: Duration = Duration::from_millis(100);
/// Of the subscription that is loaded; see [`secret`].
const SECRET: u8 = 1;
/// A subscription's unless it says otherwise.
const MAX_CONCURRENCY: usize = 32;
/// What a killed process had sent is read a little later than it died.
const READ_LATE_MS: u64 = 2000;

/// One request.
#[derive(Clone, Debug)]
pub struct Answered {
    pub number: u64,
    pub asked: Instant,
    pub at: Instant,
    /// `None` when no answer came.
    pub status: Option<u16>,
    /// Which 2xx promised.
    delivery: Option<String>,
    fate: Fate,
}

impl Answered {
    pub fn is_ok(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Producers at work.
pub struct Load {
    url: String,
    subscription: i64,
    event_bytes: usize,
    begun: Instant,
    next: Arc<AtomicU64>,
    answers: Arc<Mutex<Vec<Answered>>>,
    stopping: Arc<AtomicBool>,
    producers: JoinSet<()>,
}

impl Load {
    /// So many producers, one connection each, for a subscription of [`loaded`]; each event is so large.
    pub fn start(base: &str, subscription: i64, producers: usize, event_bytes: usize) -> Self {
        let mut load = Self {
            url: format!("{base}/ingest/{subscription}"),
            subscription,
            event_bytes,
            begun: Instant::now(),
            next: Arc::new(AtomicU64::new(1)),
            answers: Arc::default(),
            stopping: Arc::default(),
            producers: JoinSet::new(),
        };
        load.join(producers, ANSWER_PATIENCE, PACE);
        load
    }

    /// So many more, who do not wait for long: while nothing is answered, events come in all the same.
    pub fn joined_by_impatient(&mut self, producers: usize) {
        self.join(producers, IMPATIENCE, IMPATIENCE);
    }

    fn join(&mut self, producers: usize, patience: Duration, pace: Duration) {
        for _ in 0..producers {
            let (url, next, answers) = (self.url.clone(), self.next.clone(), self.answers.clone());
            let (stopping, event_bytes) = (self.stopping.clone(), self.event_bytes);
            self.producers.spawn(async move {
                let client = client(patience);
                let mut pace = interval(pace);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stopping.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let answered = ask(&client, &url, number, event_bytes).await;
                    answers.lock().expect("unpoisoned").push(answered);
                }
            });
        }
    }

    /// All requests that have ended so far.
    pub fn answers(&self) -> Vec<Answered> {
        self.answers.lock().expect("unpoisoned").clone()
    }

    /// When the first of those that were accepted was sent.
    pub fn first_accepted(&self) -> Instant {
        let answers = self.answers();
        answers
            .iter()
            .filter(|answered| answered.is_ok())
            .map(|answered| answered.asked)
            .min()
            .expect("one is accepted")
    }

    /// Those that were sent after this moment.
    pub fn since(&self, moment: Instant) -> Vec<Answered> {
        let answers = self.answers.lock().expect("unpoisoned");
        answers.iter().filter(|answered| answered.asked > moment).cloned().collect()
    }

    /// Waits until `is_so` of what was sent after this moment; that.
    pub async fn when(
        &self,
        what: &str,
        moment: Instant,
        patience: Duration,
        is_so: impl Fn(&[Answered]) -> bool,
    ) -> Vec<Answered> {
        let (begun, mut look) = (Instant::now(), poll());
        loop {
            let answers = self.since(moment);
            if is_so(&answers) {
                return answers;
            }
            assert!(begun.elapsed() < patience, "not {what} after {patience:?}: {:?}", answers.last());
            look.tick().await;
        }
    }

    /// Waits until so many more have been accepted.
    pub async fn accepts(&self, more: usize, patience: Duration) {
        let now = Instant::now();
        self.when("accepted", now, patience, |answers| answers.iter().filter(|a| a.is_ok()).count() >= more).await;
    }

    /// Lets the requests that are under way end.
    pub async fn stop(self) -> Ledger {
        self.stopping.store(true, Ordering::Relaxed);
        self.producers.join_all().await;
        let answers = std::mem::take(&mut *self.answers.lock().expect("unpoisoned"));
        Ledger { answers, network_was_cut: false, subscription: self.subscription, begun: self.begun }
    }
}

/// A subscription for this URL, with the secret that the load signs with and these fields besides.
pub async fn loaded(site: &Site, target_url: &str, mut fields: Value) -> i64 {
    fields["secret"] = secret(SECRET).into();
    site.subscribe(target_url, fields).await
}

async fn ask(client: &Client, url: &str, number: u64, event_bytes: usize) -> Answered {
    let event = json!({ "n": number, "pad": ".".repeat(event_bytes) }).to_string();
    let signature = hub(&secret(SECRET), event.as_bytes());
    let asked = Instant::now();
    let answer = client.post(url).header("x-hub-signature-256", signature).body(event).send().await;
    let (status, fate, delivery) = match answer {
        Ok(answer) => {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            let id = || serde_json::from_str::<Value>(&text).ok()?["delivery_id"].as_str().map(str::to_owned);
            match status.is_success() {
                true => (Some(status.as_u16()), Fate::Ok, id()),
                // The one refusal that says it may be none.
                false if text.contains("may have been stored") => (Some(status.as_u16()), Fate::Unknown, None),
                false => (Some(status.as_u16()), Fate::Refused, None),
            }
        }
        // Nothing has been sent.
        Err(error) if error.is_connect() => (None, Fate::Refused, None),
        Err(_) => (None, Fate::Unknown, None),
    };
    Answered { number, asked, at: Instant::now(), status, delivery, fate }
}

/// What the producers know.
pub struct Ledger {
    pub answers: Vec<Answered>,
    pub network_was_cut: bool,
    subscription: i64,
    begun: Instant,
}

impl Ledger {
    /// How many were answered with 2xx.
    pub fn accepted(&self) -> usize {
        self.answers.iter().filter(|answered| answered.is_ok()).count()
    }

    /// The longest that a producer waited for its answer.
    pub fn slowest(&self) -> Duration {
        self.answers.iter().map(|answered| answered.at - answered.asked).max().unwrap_or_default()
    }

    fn books(&self, peer: &Peer, logs: Vec<Logged>, killed: &[Instant]) -> Books {
        let ms = |at: &Instant| at.saturating_duration_since(self.begun).as_millis() as u64;
        Books {
            sent: self.answers.iter().map(|answered| answered.sent(self.subscription)).collect(),
            receipts: peer.arrived().iter().map(|came| receipt(came, self.subscription, ms(&came.at))).collect(),
            logs: [(self.subscription, logs)].into(),
            deaths: killed.iter().map(ms).map(|at| Death { from_ms: at, to_ms: at + READ_LATE_MS }).collect(),
            max_concurrency: MAX_CONCURRENCY,
            network_was_cut: self.network_was_cut,
        }
    }
}

impl Answered {
    fn sent(&self, subscription: i64) -> Sent {
        Sent {
            fate: self.fate,
            number: self.number,
            targets: vec![subscription],
            deliveries: self.delivery.iter().cloned().collect(),
            why: self.status.map_or("connect".to_owned(), |status| status.to_string()),
        }
    }
}

fn receipt(came: &Arrived, subscription: i64, at_ms: u64) -> Receipt {
    let number = serde_json::from_slice::<Value>(&came.body).ok().and_then(|body| body["n"].as_u64());
    let attempt = came.headers.get("x-hookpost-attempt").and_then(|attempt| attempt.to_str().ok()?.parse().ok());
    Receipt {
        // 0 is no event's: a body that nobody sent.
        number: number.unwrap_or_default(),
        subscription,
        webhook_id: came.id().to_owned(),
        attempt: attempt.unwrap_or_default(),
        serial: came.nth as u64,
        answer: came.status.map_or("none".to_owned(), |status| status.to_string()),
        at_ms,
        genuine: are_right(&secret(SECRET), &came.headers, &came.body),
    }
}

/// The verdict, once nothing is missing any more or nothing has come for `quiet`. What the service's process had under way
/// when it was killed may have come twice.
pub async fn settle(ledger: &Ledger, site: &Site, peer: &Peer, quiet: Duration, killed: &[Instant]) -> Verdict {
    let (accepted, api) = (ledger.accepted(), Api::at(site.program.addr()));
    let (mut came, mut last, mut look) = (0, Instant::now(), interval(LOOK));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let (count, is_quiet) = (peer.count(), last.elapsed() > quiet);
        // Judging takes a while when there are many: not before there is something to find.
        if count >= accepted || is_quiet {
            match api.logs(ledger.subscription).await {
                Some(logs) => {
                    let verdict = ledger.books(peer, logs, killed).judge();
                    if !verdict.is_open() || is_quiet {
                        return verdict;
                    }
                }
                None => assert!(!is_quiet, "the service does not show its log"),
            }
        }
        if count > came {
            (came, last) = (count, Instant::now());
        }
    }
}
