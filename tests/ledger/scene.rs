//! A receiver with its subscriptions, a producer's file beside it, and the verdict over both once all is quiet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, interval};

use super::api::{Api, MAX_CONCURRENCY};
use super::notes;
use super::producer::{Plan, Producer, Subscriber};
use super::receiver::{Moods, Receiver};
use super::signatures::secret;
use super::verdict::{Books, Death, Verdict};

/// How long nothing at all may happen before what is missing counts as lost. Longer than every wait of the service: for a
/// connection to a store that is back, for a retry, for an actor.
pub const STALL: Duration = Duration::from_secs(15);
/// Between two looks at the books.
const LOOK: Duration = Duration::from_millis(500);

/// See the module's docs.
pub struct Scene {
    /// Holds the files, and a service's data. Kept if the test fails.
    dir: Option<TempDir>,
    pub receiver: Receiver,
    deaths: Vec<Death>,
}

impl Scene {
    pub async fn new(moods: Moods, seed: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("hookpost-ledger-").tempdir().expect("a directory");
        let receiver = Receiver::start(&dir.path().join("received"), moods, seed).await;
        Self { dir: Some(dir), receiver, deaths: Vec::new() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("until it is dropped").path()
    }

    pub fn sent_file(&self) -> PathBuf {
        self.dir().join("sent")
    }

    pub fn received_file(&self) -> PathBuf {
        self.dir().join("received")
    }

    /// Makes so many subscriptions, each with a secret of its own.
    pub async fn subscribe(&self, api: &Api, count: u8) {
        for _ in 0..count {
            self.subscribe_with(api, json!({})).await;
        }
    }

    /// Makes one with these fields besides.
    pub async fn subscribe_with(&self, api: &Api, more: Value) -> i64 {
        let place = self.receiver.subscribers().len();
        let secret = secret(u8::try_from(place + 1).expect("there are few"));
        let id = api.subscribe(&self.receiver.next_url(), &secret, more).await;
        self.receiver.expect(Subscriber { id, secret });
        id
    }

    /// Events for all subscriptions, from now on.
    pub fn produce(&self, plan: Plan) -> Producer {
        Producer::start(Plan { subscribers: self.receiver.subscribers(), ..plan }, &self.sent_file())
    }

    /// A process that delivers has died since then: what it had under way may be sent again. Waits until all that it had
    /// sent is read; nobody else may deliver meanwhile.
    pub async fn died_since(&mut self, from_ms: u64) {
        self.receiver.has_read_all().await;
        self.deaths.push(Death { from_ms, to_ms: self.receiver.now_ms() });
    }

    /// The same while others deliver.
    pub fn was_replaced_since(&mut self, from_ms: u64) {
        self.deaths.push(Death { from_ms, to_ms: self.receiver.now_ms() });
    }

    /// What the books say now; `None` if the service could not show its log.
    pub async fn judge(&self, api: &Api) -> Option<Verdict> {
        let mut books = Books {
            sent: notes::sent(&self.sent_file()),
            receipts: notes::receipts(&self.received_file()),
            deaths: self.deaths.clone(),
            max_concurrency: MAX_CONCURRENCY,
            ..Books::default()
        };
        for subscriber in self.receiver.subscribers() {
            books.logs.insert(subscriber.id, api.logs(subscriber.id).await?);
        }
        Some(books.judge())
    }

    /// The verdict, once nothing is missing any more or nothing has happened for [`STALL`]. The receiver is good from now on.
    pub async fn settle(&self, api: &Api) -> Verdict {
        self.settle_within(api, STALL).await
    }

    pub async fn settle_within(&self, api: &Api, stall: Duration) -> Verdict {
        self.receiver.set_moods(Moods::GOOD);
        let mut look = interval(LOOK);
        let (mut seen, mut since) = (self.receiver.count(), Instant::now());
        loop {
            look.tick().await;
            let verdict = self.judge(api).await;
            let stalled = since.elapsed() > stall;
            match verdict {
                Some(verdict) if !verdict.is_open() || stalled => return verdict,
                None if stalled => panic!("the service does not show its log"),
                _ => {}
            }
            if self.receiver.count() > seen {
                (seen, since) = (self.receiver.count(), Instant::now());
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.dir.take().map(TempDir::keep);
            eprintln!("the ledger is in {}", kept.unwrap_or_default().display());
        }
    }
}
