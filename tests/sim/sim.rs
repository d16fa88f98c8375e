//! What everything in a world shares: its chance, its time, its disk, its memory, and whether faults happen.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookpost::delivery::Timestamp;
use hookpost::delivery::invariants::Held;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::history::History;
use crate::profile::Profile;
use crate::store::Disk;
use crate::trace::Trace;

/// When worlds begin.
pub const T0: Timestamp = Timestamp(1_750_000_000_000);

/// A promise that a world breaks on purpose, to show that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Now and then the store says that it has committed deliveries, and has not.
    ForgetDeliveries,
    /// A start is told that there is nothing to recover.
    ForgetRecovery,
    /// A request comes out of nowhere.
    Phantom,
    /// The store forgets log rows, and says that it has them.
    ForgetLogs,
    /// Requests come twice.
    Duplicate,
    /// The watermark passes what is untried.
    JumpWatermark,
    /// The store loses what of a commit is to be tried again.
    ForgetRetries,
    /// Log rows tell of answers that were others.
    InventStatus,
    /// Bodies change on their way.
    ChangeBodies,
}

pub struct Sim {
    pub chance: Chance,
    pub profile: Profile,
    pub disk: Arc<Disk>,
    pub sabotage: Option<Sabotage>,
    history: Mutex<History>,
    trace: Mutex<Trace>,
    /// The world's time when this life began, and the runtime's.
    life_began: Mutex<(Duration, Option<Instant>)>,
    pub life: AtomicUsize,
    faulty: AtomicBool,
    store_away_until_ms: AtomicU64,
    /// A process dies at one of its crash points.
    pub crash: Notify,
}

impl Sim {
    pub fn new(seed: u64, sabotage: Option<Sabotage>, aloud: bool) -> Arc<Self> {
        let chance = Chance::of(seed);
        let profile = Profile::draw(&chance);
        Self::of(chance, profile, sabotage, aloud)
    }

    pub fn of(chance: Chance, profile: Profile, sabotage: Option<Sabotage>, aloud: bool) -> Arc<Self> {
        Arc::new(Self {
            profile,
            chance,
            disk: Arc::default(),
            sabotage,
            history: Mutex::default(),
            trace: Mutex::new(Trace::new(aloud)),
            life_began: Mutex::default(),
            life: AtomicUsize::new(0),
            faulty: AtomicBool::new(true),
            store_away_until_ms: AtomicU64::new(0),
            crash: Notify::new(),
        })
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn say(&self, line: impl std::fmt::Display) {
        let at = self.now();
        let life = self.life.load(Ordering::Relaxed);
        self.trace().add(format!("{:>9.3} [{life}] {line}", at.as_secs_f64()));
    }

    /// It happened once more.
    pub fn count(&self, what: &'static str) {
        *self.history().tally.entry(what).or_default() += 1;
    }

    pub fn check(&self, held: Held) {
        if let Err(broken) = &held {
            self.say(format_args!("BROKEN {}: {}", broken.invariant, broken.found));
            self.history().check(held);
            self.crash.notify_one();
        }
    }

    pub fn is_broken(&self) -> bool {
        self.history().broken.is_some()
    }

    /// Since the world began.
    pub fn now(&self) -> Duration {
        match *self.life_began() {
            (base, Some(began)) => base + began.elapsed(),
            (base, None) => base,
        }
    }

    pub fn timestamp(&self) -> Timestamp {
        T0 + self.now()
    }

    fn life_began(&self) -> MutexGuard<'_, (Duration, Option<Instant>)> {
        self.life_began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A runtime, with a time of its own, begins.
    pub fn begin(&self) {
        self.life_began().1 = Some(Instant::now());
    }

    /// It ends; the next one begins `down` later.
    pub fn end(&self, down: Duration) {
        let now = self.now() + down;
        *self.life_began() = (now, None);
    }

    /// Everything of the last life is judged.
    pub fn go_on(&self) {
        self.life.fetch_add(1, Ordering::Relaxed);
    }

    pub fn faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    pub fn stop_faults(&self) {
        self.faulty.store(false, Ordering::Relaxed);
        self.store_away_until_ms.store(0, Ordering::Relaxed);
    }

    pub fn take_store_away(&self, by: Duration) {
        let until = u64::try_from((self.now() + by).as_millis()).expect("not that long");
        self.store_away_until_ms.store(until, Ordering::Relaxed);
    }

    pub fn store_is_away(&self) -> bool {
        self.now().as_millis() < u128::from(self.store_away_until_ms.load(Ordering::Relaxed))
    }

    /// Whether retention may take deliveries while the world lasts.
    pub fn forgets_deliveries(&self) -> bool {
        self.profile.retention < Duration::from_secs(24 * 3600)
    }

    /// Time passes, and nothing but time.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep_until(Instant::now() + time).await;
    }

    /// The process may die right here; nothing after this happens then.
    pub async fn crash_point(&self, place: &'static str) {
        if self.faulty() && self.chance.per_mille(self.profile.crash_points_per_mille) {
            self.say(format_args!("dies {place}"));
            self.count(place);
            self.crash.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
