//! Producers that go on whatever happens, and remember what they were answered.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::ledger::postgres::poll;
use crate::peer::{Arrived, Peer};
use crate::site::{ANSWER_PATIENCE, client};

/// Between two requests of a producer: one that is refused at once must not keep the machine busy.
const PACE: Duration = Duration::from_millis(4);

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    pub number: u64,
    pub asked: Instant,
    pub at: Instant,
    /// `None` when no answer came.
    pub status: Option<u16>,
}

impl Answered {
    pub fn is_ok(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }
}

/// Producers at work.
pub struct Load {
    answers: Arc<Mutex<Vec<Answered>>>,
    stopping: Arc<AtomicBool>,
    producers: JoinSet<()>,
}

impl Load {
    /// So many producers, one connection each, for this subscription; each event is so large.
    pub fn start(base: &str, subscription: i64, producers: usize, event_bytes: usize) -> Self {
        let (answers, stopping) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let next = Arc::new(AtomicU64::new(0));
        let url = format!("{base}/ingest/{subscription}");
        let mut running = JoinSet::new();
        for _ in 0..producers {
            let (url, next, answers, stopping) = (url.clone(), next.clone(), answers.clone(), stopping.clone());
            running.spawn(async move {
                let client = client(ANSWER_PATIENCE);
                let mut pace = interval(PACE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stopping.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let event = json!({ "n": number, "pad": ".".repeat(event_bytes) });
                    let asked = Instant::now();
                    let answer = client.post(&url).body(event.to_string()).send().await;
                    let status = answer.ok().map(|answer| answer.status().as_u16());
                    let answered = Answered { number, asked, at: Instant::now(), status };
                    answers.lock().expect("unpoisoned").push(answered);
                }
            });
        }
        Self { answers, stopping, producers: running }
    }

    /// All requests that have ended so far.
    pub fn answers(&self) -> Vec<Answered> {
        self.answers.lock().expect("unpoisoned").clone()
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
        Ledger { answers }
    }
}

/// What the producers know.
pub struct Ledger {
    pub answers: Vec<Answered>,
}

impl Ledger {
    /// The numbers that were answered with 2xx.
    pub fn ok(&self) -> BTreeSet<u64> {
        self.answers.iter().filter(|answered| answered.is_ok()).map(|answered| answered.number).collect()
    }

    /// Accepted, and not among these.
    pub fn lost(&self, arrived: &[Arrived]) -> BTreeSet<u64> {
        let numbers = numbers(arrived);
        self.ok().difference(&numbers).copied().collect()
    }

    /// Among these, and never sent.
    pub fn phantoms(&self, arrived: &[Arrived]) -> BTreeSet<u64> {
        let sent: BTreeSet<_> = self.answers.iter().map(|answered| answered.number).collect();
        numbers(arrived).difference(&sent).copied().collect()
    }

    /// The longest that a producer waited for its answer.
    pub fn slowest(&self) -> Duration {
        self.answers.iter().map(|answered| answered.at - answered.asked).max().unwrap_or_default()
    }
}

pub fn numbers(arrived: &[Arrived]) -> BTreeSet<u64> {
    let number = |arrived: &Arrived| serde_json::from_slice::<Value>(&arrived.body).ok()?["n"].as_u64();
    arrived.iter().filter_map(number).collect()
}

/// Waits until the receiver has all that was accepted, or until nothing has come for `quiet`; what is lost by then.
pub async fn settle(ledger: &Ledger, peer: &Peer, quiet: Duration) -> BTreeSet<u64> {
    let accepted = ledger.ok().len();
    let (mut came, mut last, mut look) = (0, Instant::now(), poll());
    loop {
        let count = peer.count();
        // Comparing takes a while when there are many: not before there is something to find.
        if count >= accepted && count > came || last.elapsed() > quiet {
            let lost = ledger.lost(&peer.arrived());
            if lost.is_empty() || last.elapsed() > quiet {
                return lost;
            }
        }
        if count > came {
            (came, last) = (count, Instant::now());
        }
        look.tick().await;
    }
}
